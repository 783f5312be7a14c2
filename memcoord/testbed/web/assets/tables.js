// What a look says, as text: the host, the domains, one domain, what grants cost. Names of domains
// and words of policies reach the page as text and never as markup.
"use strict";

const MIB = 256;
const USES = [["ram", "RAM", "installed_frames"], ["tmem", "tmem", "tmem_frames"],
  ["ready", "ready", "ready_frames"], ["free", "free", "free_frames"]];
const BAD = ["killed", "failed", "BROKEN", "STARVED"];
const ORDER = [...BAD, "squeezed", "ok", "idle"];
const number = (value, places = 0) => value === null ? "-"
  : value.toLocaleString("en", {minimumFractionDigits: places, maximumFractionDigits: places});
const mib = pages => pages === null ? "-" : pages < 0 ? "no limit" : number(pages / MIB, 1);

// A column: its key for sorting, its heading, its text.
const COLUMNS = [
  ["name", "domain", line => line.name],
  ["state", "state", line => line.state],
  ["ram_frames", "RAM, MiB", line => mib(line.ram_frames)],
  ["ram_target_frames", "RAM target, MiB", line => mib(line.ram_target_frames)],
  ["tmem_pages", "tmem, MiB", line => mib(line.tmem_pages)],
  ["tmem_target_pages", "tmem target, MiB", line => mib(line.tmem_target_pages)],
  ["waits", "waits, % of time", line => number(line.waits === null ? null : 100 * line.waits)],
  ["disk_reads", "from disk, pages/s", line => number(line.disk_reads)],
  ["puts_refused", "refused, puts/s", line => number(line.puts_refused)],
  ["references", "references/s", line => number(line.references)],
  ["grants", "grants/s", line => number(line.grants, 1)],
];

export const id = name => document.getElementById(name);

export function element(tag, text = "", kind = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function write(where, text) { // a live region is read aloud when it is written to
  if (where.textContent !== text) where.textContent = text;
}

export function say(text, kind, beside = "") {
  write(id("state"), text);
  id("state").className = kind;
  write(id("when"), beside);
}

export function listed(where, lines) {
  id(where).replaceChildren(...lines.map(line => element("li", line)));
}

export function host(look) {
  const total = Math.max(look.host.total_frames || 0, 1);
  const parts = USES.map(([kind, name, field]) => [kind, name, look.host[field] || 0]);
  id("host").replaceChildren(...parts.map(([kind,, frames]) => {
    const bar = element("div", "", kind);
    bar.style.width = `${100 * frames / total}%`;
    return bar;
  }));
  const texts = parts.flatMap(([kind, name, frames]) =>
    [element("span", "", `use ${kind}`), `${name} ${mib(frames)}   `]);
  id("uses").replaceChildren(...texts, `of ${mib(total)} MiB`);
}

// Domains that are here, and those that were, of which there is nothing but how they ended.
export function allOf(look) {
  const nothing = Object.fromEntries(COLUMNS.slice(2).map(([key]) => [key, null]));
  return [...look.lines, ...look.gone.map(one => ({...nothing, ...one}))];
}

export function sentence(look) {
  const bad = allOf(look).filter(line => BAD.includes(line.state));
  write(id("sentence"), look.sentence);
  id("sentence").className = bad.length ? "bad" : "";
  // The numbers of the sentence change all the time; who is starved does not.
  write(id("news"), bad.map(line => `${line.name} is ${line.state}`).join(", ")
    || "nobody is starved");
  listed("notices", look.notices);
}

export function heads(sort, sorted) {
  const row = element("tr");
  for (const [key, text] of COLUMNS) {
    const head = element("th"), button = element("button", text);
    head.scope = "col";
    if (sort.key === key) head.setAttribute("aria-sort", sort.down ? "descending" : "ascending");
    button.type = "button";
    button.dataset.key = key;
    button.addEventListener("click", () => sorted(key));
    head.append(button);
    row.append(head);
  }
  const had = document.activeElement?.dataset.key;
  document.querySelector("#domains thead").replaceChildren(row);
  if (had) row.querySelector(`[data-key="${had}"]`)?.focus();
}

function inOrder(lines, sort) {
  const place = state => ORDER.includes(state) ? ORDER.indexOf(state) : ORDER.length;
  const rank = line => sort.key === "state" ? place(line.state) : line[sort.key];
  const sign = sort.down ? -1 : 1;
  const compared = (a, b) => typeof a === "string" ? a.localeCompare(b) : (a ?? -1) - (b ?? -1);
  const waits = line => line.waits ?? 0;
  return [...lines].sort((a, b) => sign * compared(rank(a), rank(b)) || waits(b) - waits(a)
    || a.name.localeCompare(b.name));
}

// Rows are made once and written to: a row that is replaced loses the focus of who uses the keys.
export function domains(lines, sort, chosen, colourOf, choose) {
  const body = document.querySelector("#domains tbody");
  const had = new Map([...body.children].map(row => [row.dataset.name, row]));
  const rows = inOrder(lines, sort).map(line => {
    const row = had.get(line.name) ?? newRow(line.name, choose);
    row.className = line.name === chosen ? "chosen" : "";
    row.querySelector("button").setAttribute("aria-pressed", line.name === chosen);
    row.querySelector(".mark").style.background = colourOf(line.name);
    COLUMNS.slice(1).forEach(([,, text], at) => write(row.children[at + 1], text(line)));
    row.children[1].className = line.state;
    row.children[1].title = line.why;
    return row;
  });
  const focused = document.activeElement;
  const isMoved = rows.length !== body.children.length
    || rows.some((row, at) => row !== body.children[at]);
  if (isMoved) body.replaceChildren(...rows);
  if (isMoved && body.contains(focused)) focused.focus();
}

function newRow(name, choose) {
  const row = element("tr"), head = element("th"), button = element("button", name);
  row.dataset.name = name;
  head.scope = "row";
  button.type = "button";
  button.addEventListener("click", () => choose(name));
  head.append(element("span", "", "mark"), button);
  row.append(head, ...COLUMNS.slice(1).map(() => element("td")));
  return row;
}

export function chosenDomain(look, detail, chosen) {
  id("h-chosen").textContent = chosen ? `What the policy did with ${chosen}, last minute`
    : "What the policy did, last 2 s";
  const line = allOf(look).find(one => one.name === chosen);
  const told = [];
  if (chosen && line) told.push(`${chosen} is ${line.state}${line.why ? `: ${line.why}` : ""}`);
  if (chosen && !line) told.push(`${chosen} is not attached`);
  if (detail?.mechanism) told.push(`its memory moves by ${detail.mechanism}`);
  if (detail?.unreached) told.push(detail.unreached);
  if (!chosen) told.push("Choose a domain in the table to see why it has what it has.");
  write(id("why"), told.join("; "));
  const lines = chosen ? detail?.decided ?? []
    : look.folds.map(fold => `${fold.domain}: ${fold.line}`);
  listed("decided", lines.length ? lines : ["nothing"]);
}

export const span = ns => ns === null ? "too few" : ns < 1e3 ? `${number(ns)} ns`
  : ns < 1e6 ? `${Number((ns / 1e3).toPrecision(2))} µs`
  : ns < 1e9 ? `${Number((ns / 1e6).toPrecision(2))} ms` : `${Number((ns / 1e9).toPrecision(2))} s`;

export function costs(look) {
  write(id("credit"), `${number(look.credit, 1)} grants a second took memory that was granted `
    + "ahead: nobody waited for those.");
  id("asked").hidden = look.costs.length === 0;
  id("unasked").hidden = look.costs.length > 0;
  const rows = look.costs.map(cost => {
    const row = element("tr"), head = element("th", cost.path);
    head.scope = "row";
    const who = cost.word === "guest" ? "the guest's" : "the host's";
    row.append(head, ...[who, number(cost.count), span(cost.p50_ns), span(cost.p99_ns)]
      .map(text => element("td", text)));
    return row;
  });
  document.querySelector("#costs tbody").replaceChildren(...rows);
}
