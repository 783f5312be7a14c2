// What is drawn over time: a picture per quantity, by uPlot; of many domains a map, a row for each.
"use strict";

import {element, id, span} from "./tables.js";

const MIB = 256, HEIGHT = 210, ROW = 14, SLICES = 480, PITCH = 13;
const target = pages => pages === null || pages < 0 ? null : pages / MIB;
// Of each quantity: its curve and its target, out of the columns of a domain.
const DRAWN = {
  ram: [c => c.ram_frames.map(v => target(v)), c => c.ram_target_frames.map(v => target(v))],
  tmem: [c => c.tmem_pages.map(v => target(v)), c => c.tmem_target_pages.map(v => target(v))],
  waits: [c => c.waits.map(v => v === null ? null : 100 * v)],
  disk: [c => c.disk_reads],
  grants: [c => c.grants],
};
const GRANTS = {name: "grants", title: "grants", unit: "/s", top: null};

let pictures = new Map(), shape = "";

export function colours(about, columns) {
  const names = Object.keys(columns.domains);
  return name => about.colours[Math.max(names.indexOf(name), 0) % about.colours.length];
}

function granted(columns) {
  return Object.values(columns.domains).some(c => c.grants.some(v => v > 0));
}

function moved(columns) {
  const isMoving = values => values.some(v => v !== null && v !== values.find(w => w !== null));
  return Object.values(columns.domains)
    .some(c => isMoving(c.ram_frames) || isMoving(c.ram_target_frames));
}

// Draw all of it. `moment`: what is looked at, or null; `go` is called with a moment.
export function draw(about, columns, isWall, moment, go) {
  const names = Object.keys(columns.domains), costs = Object.keys(columns.costs);
  const panels = about.panels.filter(one => one.name !== "ram" || moved(columns));
  if (granted(columns)) panels.push(GRANTS);
  const now = JSON.stringify([names, costs, panels.map(one => one.name), isWall]);
  if (now !== shape) {
    shape = now;
    for (const picture of pictures.values()) picture.destroy?.();
    pictures = new Map();
    id("curves").replaceChildren();
    const isMap = names.length > about.curves_max;
    for (const panel of panels) {
      pictures.set(panel.name, isMap ? map(about, panel, names)
        : curves(about, panel, names, isWall, go));
    }
    if (costs.length) pictures.set("costs", latencies(about, costs, isWall, go));
  }
  for (const picture of pictures.values()) picture.show(columns, moment);
}

function figure(title, label) {
  const made = element("figure"), caption = element("figcaption", title), inside = element("div");
  inside.setAttribute("role", "img");
  inside.setAttribute("aria-label", `${label}; the numbers of a moment are in the tables above`);
  made.append(caption, inside);
  id("curves").append(made);
  return inside;
}

function axes(isWall, form) {
  const seconds = (_, values) => values.map(v => `${v.toLocaleString("en")} s`);
  const along = isWall ? {} : {values: seconds};
  return [along, {size: 64, values: (_, values) => values.map(form)}];
}

function plot(where, series, data, options) {
  const state = {moment: null};
  const hooks = {draw: [u => mark(u, state.moment), u => label(u)]};
  const {isWall, form, scale, go} = options;
  const u = new uPlot({
    width: Math.max(where.clientWidth, 300), height: HEIGHT, legend: {show: false}, hooks,
    padding: [8, 84, 0, 0], scales: {x: {time: isWall}, y: scale}, axes: axes(isWall, form),
    cursor: {sync: {key: "all"}, drag: {x: false, y: false}},
    series: [{}, ...series],
  }, data([[]]), where);
  u.over.addEventListener("click", () => {
    if (u.cursor.idx !== null && u.cursor.idx !== undefined) go(u.data[0][u.cursor.idx]);
  });
  const resized = new ResizeObserver(() => u.setSize({width: where.clientWidth, height: HEIGHT}));
  resized.observe(where);
  return {
    show(columns, moment) { state.moment = moment; u.setData(data([columns.times], columns)); },
    destroy() { resized.disconnect(); u.destroy(); },
  };
}

function mark(u, moment) { // the moment that the tables show
  if (moment === null) return;
  const x = u.valToPos(moment, "x", true);
  u.ctx.fillStyle = "#1b1b1b";
  u.ctx.fillRect(x, u.bbox.top, 2, u.bbox.height);
}

function label(u) { // the names of the curves beside their ends, none upon another
  const scale = devicePixelRatio, last = u.data[0].length - 1, found = [];
  for (let at = 1; at < u.series.length; at++) {
    let end = last;
    while (end >= 0 && u.data[at][end] === null) end--;
    if (u.series[at].dash || end < 0) continue;
    found.push([u.valToPos(u.data[at][end], "y", true), u.series[at]]);
  }
  found.sort((a, b) => a[0] - b[0]);
  let above = -Infinity;
  u.ctx.font = `${11 * scale}px system-ui, sans-serif`;
  u.ctx.textAlign = "left";
  u.ctx.textBaseline = "middle";
  for (const [y, series] of found) {
    above = Math.max(y, above + PITCH * scale);
    u.ctx.fillStyle = series.label_colour;
    u.ctx.fillText(series.label.slice(0, 14), u.bbox.left + u.bbox.width + 4 * scale, above);
  }
}

function line(name, colour, isTarget = false) {
  return {label: name, label_colour: colour, stroke: colour, width: isTarget ? 1 : 1.75,
    dash: isTarget ? [5, 4] : undefined, points: {show: false}, spanGaps: false};
}

function curves(about, panel, names, isWall, go) {
  const colourOf = name => about.colours[names.indexOf(name) % about.colours.length];
  const parts = DRAWN[panel.name];
  const series = names.flatMap(name => parts.map((_, at) => line(name, colourOf(name), at === 1)));
  const data = (made, columns) => [...made, ...names.flatMap(name =>
    parts.map(part => columns ? part(columns.domains[name]) : []))];
  const title = `${panel.title}, ${panel.unit}`;
  // From 0 on; a target that is far above all that is held does not squeeze what is held.
  const range = u => {
    const most = isTarget => Math.max(0, ...u.series.flatMap((one, at) =>
      at && Boolean(one.dash) === isTarget ? u.data[at].map(v => v ?? 0) : []));
    const held = most(false), aim = most(true);
    return [0, panel.top ?? (Math.max(held, aim <= 2 * held ? aim : 0) * 1.05 || 1)];
  };
  const form = value => value.toLocaleString("en");
  return plot(figure(title, `${title}, a curve per domain`), series, data,
    {isWall, form, scale: {range}, go});
}

function latencies(about, costs, isWall, go) {
  const series = costs.map((key, at) => line(key, about.colours[at % about.colours.length]));
  const data = (made, columns) => [...made, ...costs.map(key => columns?.costs[key] ?? [])];
  const title = "what a grant costs, by path";
  return plot(figure(title, `${title}, a curve per path and clock, logarithmic`), series, data,
    {isWall, form: value => value === null ? "" : span(value), scale: {distr: 3}, go});
}

function map(about, panel, names) {
  const title = `${panel.title}, ${panel.unit}: the darker the more`;
  const inside = figure(title, `${title}, a row per domain`);
  const rows = element("ol"), canvas = element("canvas");
  rows.append(...names.map(name => element("li", name)));
  inside.className = "map";
  inside.append(rows, canvas);
  canvas.height = names.length;
  canvas.style.height = `${ROW * names.length}px`;
  const part = (text, at) => parseInt(text.slice(at, at + 2), 16);
  const shades = about.shades.map(text => [1, 3, 5].map(at => part(text, at)));
  return {show(columns) {
    const all = names.map(name => DRAWN[panel.name][0](columns.domains[name]));
    const most = panel.top ?? Math.max(1e-9, ...all.map(row => Math.max(...row.map(v => v ?? 0))));
    const looks = columns.times.length, wide = Math.max(Math.min(SLICES, looks), 1);
    canvas.width = wide;
    const picture = new ImageData(wide, names.length);
    all.forEach((row, y) => {
      for (let x = 0; x < wide; x++) {
        const value = row[Math.floor(x * looks / wide)];
        if (value === null || value === undefined) continue;
        const last = shades.length - 1, shade = Math.min(Math.ceil(value / most * last), last);
        picture.data.set([...shades[shade], 255], 4 * (y * wide + x));
      }
    });
    canvas.getContext("2d").putImageData(picture, 0, 0);
  }};
}
