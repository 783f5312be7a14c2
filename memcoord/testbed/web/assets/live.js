// The page's state, and what changes it: looks that the server sends, and what a person chooses.
"use strict";

import {colours, draw} from "./curves.js";
import * as tables from "./tables.js";

const {id} = tables;
// After so long without a word of the server it is gone, and what is shown is no news.
const SILENT_MS = 4000, AGAIN_MS = 2000;
const LIVE = -1;

let about, columns, look = null, detail = null, chosen = "", part = LIVE, moment = null;
let sort = {key: "state", down: false};
let source = null, heardMs = performance.now(), age = null, wanted = 0;

const isOver = () => about.ended !== "";
const isWall = () => part === LIVE;
const timeOf = at => isWall() ? new Date(at * 1000).toLocaleTimeString("en-GB")
  : `${at.toFixed(1)} s after the start`;

async function ask(what, query = {}) {
  const answer = await fetch(`${what}?${new URLSearchParams(query)}`);
  return answer.ok ? answer.json() : null;
}

function show() {
  tables.say(...status());
  if (look === null) return;
  id("run").textContent = `${look.run}  policy ${look.policy}  every ${look.interval_ms} ms`;
  const colourOf = colours(about, columns);
  tables.sentence(look);
  tables.host(look);
  tables.heads(sort, sortBy);
  tables.domains(tables.allOf(look), sort, chosen, colourOf, choose);
  tables.chosenDomain(look, detail, chosen);
  tables.costs(look);
  draw(about, columns, isWall(), moment, go);
  showSlider();
}

function status() { // words, what they are drawn as, and the numbers beside them
  const tick = look === null ? "" : `tick ${look.tick.toLocaleString("en")}`;
  if (moment !== null) return ["a look back", "past", `at ${timeOf(moment)}, ${tick}`];
  if (isOver()) return [`the run is over: ${about.ended}`, "past", tick];
  if (performance.now() - heardMs > SILENT_MS) {
    return ["the reader is gone; what you see is the last it knew", "bad", tick];
  }
  if (look === null) return ["waiting for the first tick", "past", ""];
  if (age?.is_stale) {
    return ["no data; what you see is the last there was", "bad", `for ${age.age_s.toFixed(0)} s`];
  }
  return ["live", "", tick];
}

function showSlider() {
  const slider = id("slider"), last = columns.times.length - 1;
  slider.max = Math.max(last, 0);
  let at = last;
  if (moment !== null) while (at > 0 && columns.times[at] > moment) at--;
  slider.value = Math.max(at, 0);
  const text = last < 0 ? "nothing yet" : timeOf(columns.times[slider.value]);
  slider.setAttribute("aria-valuetext", moment === null ? `the newest, ${text}` : text);
  id("live").disabled = moment === null;
}

function sortBy(key) {
  const isWord = key === "name" || key === "state";
  sort = {key, down: sort.key === key ? !sort.down : !isWord};
  show();
}

async function fetchLook() { // of many that were asked for, the last one counts
  const mine = ++wanted, query = {part, domain: chosen};
  if (moment !== null) query.at = moment;
  const found = await ask("look", query);
  if (mine !== wanted || found === null) return;
  ({look, detail} = found);
  show();
}

async function go(at) { // to a moment of the past, or with null to the newest
  moment = at;
  await fetchLook();
}

async function choose(name) {
  chosen = chosen === name ? "" : name;
  if (part === LIVE && !isOver()) listen();
  await fetchLook();
}

function take({look: now, detail: told}) {
  const before = columns.times.length;
  columns.times.push(now.at_s);
  for (const line of now.lines) {
    const own = columns.domains[line.name] ??= Object.fromEntries(
      about.fields.map(field => [field, Array(before).fill(null)]));
    for (const field of about.fields) own[field].push(line[field]);
  }
  for (const cost of now.costs) {
    for (const [name, ns] of [["p50", cost.p50_ns], ["p99", cost.p99_ns]]) {
      if (ns === null) continue;
      const key = `${cost.path} ${cost.word} ${name}`;
      (columns.costs[key] ??= Array(before).fill(null)).push(ns);
    }
  }
  const all = [...Object.values(columns.domains).flatMap(own => Object.values(own)),
    ...Object.values(columns.costs)];
  for (const values of all) if (values.length === before) values.push(null);
  if (columns.times.length > about.looks_max) {
    for (const values of [columns.times, ...all]) values.shift();
    for (const [name, own] of Object.entries(columns.domains)) {
      if (own.ram_frames.every(value => value === null)) delete columns.domains[name];
    }
  }
  if (moment === null) { look = now; detail = told; }
}

function listen() {
  source?.close();
  source = new EventSource(`stream?${new URLSearchParams({domain: chosen})}`);
  source.addEventListener("look", event => {
    heardMs = performance.now();
    age = null;
    if (part !== LIVE) return;
    take(JSON.parse(event.data));
    show();
  });
  source.addEventListener("age", async event => {
    heardMs = performance.now();
    age = JSON.parse(event.data);
    if (age.ended && !isOver()) await begin();
    show();
  });
  source.addEventListener("error", event => {
    const gone = event.target;
    if (gone.readyState === EventSource.CLOSED) {
      setTimeout(() => { if (gone === source) listen(); }, AGAIN_MS);
    }
  });
}

async function load() {
  columns = await ask("history", {part}) ?? {times: [], domains: {}, costs: {}};
  await fetchLook();
  show();
}

async function begin() { // also when the run has ended: then there is more to be read of it
  about = await ask("about");
  tables.listed("verdict", about.verdict);
  id("report").hidden = !about.has_report;
  id("parts").hidden = about.parts.length === 0;
  const options = about.parts.map((name, at) => new Option(name, at));
  if (columns?.times.length) options.push(new Option("as it was watched", LIVE));
  id("part").replaceChildren(...options);
  if (about.parts.length && !columns?.times.length) part = about.parts.length - 1;
  id("part").value = part;
  if (!columns) await load();
}

id("slider").addEventListener("input", event => {
  const at = Number(event.target.value);
  go(at < columns.times.length - 1 ? columns.times[at] : null);
});
id("live").addEventListener("click", () => go(null));
id("part").addEventListener("change", event => {
  part = Number(event.target.value);
  moment = null;
  load();
});
setInterval(() => { if (about) tables.say(...status()); }, 1000);
await begin();
listen();
