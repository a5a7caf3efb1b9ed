"use strict";
// Everything is drawn from the JSON block. Text goes into the page as text, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const several = new Set(data.lines.map((line) => line.run)).size > 1;
const label = (line) => (several ? `${line.run}: ` : "") + line.name;
const unique = (values) => [...new Set(values)];
const show = (number, digits = 2) => (number === null || number === undefined ? "-" : number.toFixed(digits));

function make(name, attributes = {}, ...children) {
  const svg = ["svg", "g", "path", "circle", "rect", "line", "text", "polygon", "title"].includes(name);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function fill(select, values, names = values) {
  select.replaceChildren(...values.map((value, i) => {
    const option = make("option", {}, String(names[i]));
    option.value = value;
    return option;
  }));
}

// --- what a pointer is over -------------------------------------------------------------------------------------
const tip = byId("tip");
function tell(element, words) {
  const put = (event) => {
    const text = words(event);
    tip.hidden = !text;
    tip.textContent = text || "";
    const x = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
    tip.style.left = `${Math.max(4, x)}px`;
    tip.style.top = `${Math.min(event.clientY + 16, innerHeight - tip.offsetHeight - 8)}px`;
  };
  element.addEventListener("pointermove", put);
  element.addEventListener("pointerleave", () => { tip.hidden = true; });
}

// --- tables -----------------------------------------------------------------------------------------------------
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows].map((row) => [row, row.cells[column].dataset.sort]);
    rows.sort(([, a], [, b]) => {
      if (a === undefined || b === undefined) return (a === undefined) - (b === undefined); // nothing comes last
      const order = isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
      return down ? -order : order;
    });
    table.tBodies[0].append(...rows.map(([row]) => row));
  }));
  // Wide tables scroll sideways; what names a line stays, unless it would take half of a narrow screen.
  const named = several ? 3 : 2;
  const lefts = heads.slice(0, named + 1).map((head) => head.offsetLeft);
  if (lefts[named] > table.parentElement.clientWidth / 2) continue;
  for (const row of table.rows) {
    [...row.cells].slice(0, named).forEach((cell, column) => {
      cell.classList.add("stays");
      cell.style.left = `${lefts[column] - lefts[0]}px`;
    });
  }
}

// --- quality against cost ---------------------------------------------------------------------------------------
const COLOURS = ["#2f7ec2", "#d1495b", "#2a9d6f", "#c98a12", "#8e5bc0", "#00808a", "#b0568f", "#6d7a1c", "#a0522d", "#5569d6"];
const names = unique(data.lines.map(label));
const hidden = new Set();
const look = (name) => [COLOURS[names.indexOf(name) % COLOURS.length], Math.floor(names.indexOf(name) / COLOURS.length) % 4];

function marker([colour, shape], x, y, size = 5) {
  const points = [
    null,
    [[-1, -1], [1, -1], [1, 1], [-1, 1]],
    [[0, -1.3], [1.3, 1], [-1.3, 1]],
    [[0, -1.4], [1.4, 0], [0, 1.4], [-1.4, 0]],
  ][shape];
  if (!points) return make("circle", { cx: x, cy: y, r: size, fill: colour });
  return make("polygon", { points: points.map(([a, b]) => `${x + a * size},${y + b * size}`).join(" "), fill: colour });
}

function ticks(low, high, count = 6) {
  const raw = (high - low || 1) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const out = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-6; at += step) out.push(at);
  return out;
}

function frontOf(lines, axis, time) { // the lines that no other beats in quality at their cost or less, the cheapest first
  const gain = lines[0].better === "up" ? (a, b) => a.value - b.value : (a, b) => b.value - a.value;
  const cost = time ? (line) => line[axis] : (line) => -line[axis];
  const front = [];
  for (const line of [...lines].sort((a, b) => cost(a) - cost(b) || gain(b, a))) { // of equal cost the best comes first
    if (!front.length || gain(line, front[front.length - 1]) > 0) front.push(line);
  }
  return front;
}

function drawCost() {
  const task = byId("cost-task").value, axis = byId("cost-x").value, bars = byId("cost-bars").checked;
  const all = data.lines.filter((line) => line.task === task && line.value !== null && line[axis] !== null);
  const lines = all.filter((line) => !hidden.has(label(line)));
  const room = byId("cost-plot").clientWidth || 900; // drawn at its own size, so that its text is readable on a phone
  const width = Math.max(320, Math.min(900, room));
  const [height, left, bottom, top, right] = [width < 600 ? 330 : 440, 62, 48, 14, 20];
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${task}: quality against cost` });
  const time = axis === "prefill" || axis === "whole";
  const spread = lines.flatMap((line) => [line.value, ...(bars && line.interval ? line.interval : [])]);
  const [low, high] = [Math.min(...spread), Math.max(...spread)];
  const pad = (high - low || 1) * 0.07;
  const most = Math.max(...lines.map((line) => line[axis]), time ? 0 : 0.05);
  const least = Math.min(0, ...lines.map((line) => line[axis])); // a net saving may be below 0
  const xEnd = most * 1.04;
  const [y0, y1] = [low - pad, high + pad];
  const X = (value) => left + ((value - least) / (xEnd - least)) * (width - left - right);
  const Y = (value) => height - bottom - ((value - y0) / (y1 - y0)) * (height - bottom - top);
  let front = [];
  if (lines.length) {
    for (const at of ticks(y0, y1)) {
      svg.append(make("line", { x1: left, x2: width - right, y1: Y(at), y2: Y(at), class: "grid" }));
      svg.append(make("text", { x: left - 8, y: Y(at) + 4, "text-anchor": "end" }, String(+at.toFixed(6))));
    }
    for (const at of ticks(least, xEnd, width < 600 ? 3 : 6)) {
      svg.append(make("text", { x: X(at), y: height - bottom + 18, "text-anchor": "middle" },
        time ? `${+at.toFixed(6)} s` : `${+(100 * at).toFixed(4)} %`));
    }
    const better = lines[0].better;
    const way = better ? ` (${better === "up" ? "higher" : "lower"} is better)` : "";
    svg.append(make("text", { x: left, y: height - 8 }, byId("cost-x").selectedOptions[0].textContent));
    svg.append(make("text", { transform: `translate(14 ${height / 2}) rotate(-90)`, "text-anchor": "middle" }, `${lines[0].metric}${way}`));
    if (better) {
      front = frontOf(lines, axis, time);
      if (front.length > 1) svg.append(make("path", { class: "front", d: front.map((line, i) => `${i ? "L" : "M"}${X(line[axis])} ${Y(line.value)}`).join(" ") }));
    }
  }
  for (const name of unique(lines.map(label))) {
    const own = lines.filter((line) => label(line) === name).sort((a, b) => a[axis] - b[axis]);
    const colour = look(name)[0];
    svg.append(make("path", { d: own.map((line, i) => `${i ? "L" : "M"}${X(line[axis])} ${Y(line.value)}`).join(" "), fill: "none", stroke: colour, "stroke-width": 1.6, opacity: 0.6 }));
    for (const line of own) {
      if (bars && line.interval) svg.append(make("line", { x1: X(line[axis]), x2: X(line[axis]), y1: Y(line.interval[0]), y2: Y(line.interval[1]), stroke: colour, opacity: 0.5 }));
      const point = marker(look(name), X(line[axis]), Y(line.value));
      tell(point, () => `${name}\nbudget ${line.budget}\n${line.metric} ${show(line.value)}${line.interval ? ` (${show(line.interval[0])} to ${show(line.interval[1])})` : ""}\n` +
        `FLOPs removed ${show(100 * line.flops, 1)} %, audio tokens ${show(100 * line.tokens, 1)} %\nprefill ${show(line.prefill, 3)} s`);
      svg.append(point);
    }
  }
  byId("cost-plot").replaceChildren(svg);
  byId("cost-front").hidden = front.length < 2; // what is not drawn is not promised
  byId("cost-legend").replaceChildren(...unique(all.map(label)).map((name) => {
    const picture = make("svg", { width: 14, height: 14, viewBox: "0 0 14 14", "aria-hidden": "true" }, marker(look(name), 7, 7, 4.5));
    const button = make("button", { type: "button", "aria-pressed": String(!hidden.has(name)) }, picture, name);
    button.addEventListener("click", () => {
      if (!hidden.delete(name)) hidden.add(name);
      drawCost();
    });
    return button;
  }));
}

// --- two axes ---------------------------------------------------------------------------------------------------
const value = (line, axis) => (axis in line.axes ? line.axes[axis] : ["strategy", "budget", "run"].includes(axis) ? line[axis] : undefined);
function heatAxes(task) {
  const lines = data.lines.filter((line) => line.task === task && line.budget !== "-");
  const axes = unique(["strategy", "budget", ...lines.flatMap((line) => Object.keys(line.axes)), "run"]);
  const varied = axes.filter((axis) => unique(lines.map((line) => value(line, axis))).length > 1);
  return varied.length > 1 ? varied : ["strategy", "budget"];
}

function drawHeat() {
  const [task, down, across] = ["heat-task", "heat-rows", "heat-columns"].map((id) => byId(id).value);
  const lines = data.lines.filter((line) => line.task === task && line.budget !== "-" && line.value !== null);
  const [rows, columns] = [down, across].map((axis) => unique(lines.map((line) => value(line, axis) ?? "-")));
  const mean = (row, column) => {
    const found = lines.filter((line) => (value(line, down) ?? "-") === row && (value(line, across) ?? "-") === column);
    return found.length ? found.reduce((sum, line) => sum + line.value, 0) / found.length : null;
  };
  const fields = rows.map((row) => columns.map((column) => mean(row, column)));
  const known = fields.flat().filter((field) => field !== null);
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const up = lines.length && lines[0].better === "up";
  const shade = (field) => {
    const good = high === low ? 0.5 : (field - low) / (high - low);
    const share = up ? good : 1 - good;
    return `hsl(${20 + 180 * share} 55% ${72 + 8 * share}%)`;
  };
  const head = make("tr", {}, make("th", {}, `${down} \u2193  ${across} \u2192`), ...columns.map((column) => make("th", { scope: "col" }, column)));
  const body = rows.map((row, r) => make("tr", {}, make("th", { scope: "row" }, row), ...fields[r].map((field) =>
    field === null ? make("td", { class: "none" }, "-") : make("td", { style: `background:${shade(field)}` }, show(field)))));
  byId("heat-map").replaceChildren(make("table", { class: "heat" }, make("thead", {}, head), make("tbody", {}, ...body)));
}

// --- clips ------------------------------------------------------------------------------------------------------
const words = (text) => text.split(/\s+/).filter(Boolean);
const bare = (word) => word.toLowerCase().replace(/[^\p{L}\p{N}']/gu, "");
function marked(text, reference) { // the words of `text` that a longest common subsequence with `reference` lacks
  const [a, b] = [words(text), words(reference)];
  const table = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      table[i][j] = bare(a[i]) === bare(b[j]) ? table[i + 1][j + 1] + 1 : Math.max(table[i + 1][j], table[i][j + 1]);
  const out = [];
  for (let i = 0, j = 0; i < a.length || j < b.length;) {
    if (i < a.length && j < b.length && bare(a[i]) === bare(b[j])) { out.push(a[i++] + " "); j++; }
    else if (j < b.length && (i >= a.length || table[i][j + 1] >= table[i + 1][j])) out.push(make("del", { title: "missing" }, b[j++]), " ");
    else out.push(make("mark", {}, a[i++]), " ");
  }
  return out;
}

function drawClips() {
  const [run, task] = JSON.parse(byId("clip-task").value);
  const full = fullOf(run, task);
  const chosen = unique([byId("clip-line").value, byId("clip-other").value].filter(Boolean).map(Number));
  const cards = data.clips.map((clip, number) => [clip, number]).filter(([clip]) => clip.run === run && clip.task === task);
  byId("clip-list").replaceChildren(...cards.map(([clip, number]) => {
    const card = make("article", { class: "clip" }, make("h3", {}, clip.id, " ", make("small", {}, `${clip.audio}${clip.seconds ? `, ${show(clip.seconds, 1)} s` : ""}${clip.differ === null ? "" : `; ${clip.differ} of ${Object.keys(clip.answers).filter((line) => !full.includes(+line)).length} answers differ from the full model's`}`)));
    if (clip.sound) card.append(make("audio", { controls: "", preload: "metadata", src: clip.sound }));
    else card.append(make("p", { class: "small" }, clip.missing));
    const list = make("dl");
    const add = (name, ...content) => list.append(make("dt", {}, name), make("dd", {}, ...content));
    if (clip.question) add("question", clip.question);
    const truth = clip.reference ?? clip.answers[full[0]] ?? "";
    if (clip.reference !== null) add("reference", clip.reference);
    for (const line of unique([...full, ...chosen])) {
      if (!(line in clip.answers)) continue;
      const about = data.lines[line];
      add(about.budget === "-" ? about.name : `${about.name}, ${about.budget}`, ...marked(clip.answers[line], truth));
    }
    card.append(list);
    const box = timelines(clip, number, chosen);
    if (box) card.append(box);
    return card;
  }));
  for (const canvas of document.querySelectorAll("canvas[data-row]")) paint(canvas);
}

const fullOf = (run, task) => data.lines.map((line, i) => [line, i]).filter(([line]) => line.run === run && line.task === task && line.budget === "-").map(([, i]) => i);

// --- the token timeline -----------------------------------------------------------------------------------------
const strips = new WeakMap();
function timelines(clip, number, chosen) {
  const own = data.timelines.filter(([of]) => of === number);
  if (!own.length || !clip.picture) return null;
  const wanted = chosen.map((line) => data.lines[line].name);
  const shown = own.filter(([, line]) => wanted.includes(data.lines[line].name));
  const box = make("div", { class: "timeline" }, make("img", { class: "sound", src: clip.picture, alt: "spectrogram, low to high" }));
  box.append(make("div", { class: "scale" }, ...[0, 0.25, 0.5, 0.75, 1].map((at) => make("span", {}, `${show(at * clip.seconds, 1)} s`))));
  for (const [, line, followed] of shown) {
    const about = data.lines[line];
    box.append(make("p", { class: "name" }, make("b", {}, `${about.name}, ${about.budget}`), followed.layers.length ? "" : ": no token leaves the sequence (keys may leave the cache)"));
    for (const [layer, clusters] of followed.layers) {
      const kept = new Set(clusters.filter((c) => c >= 0)).size;
      const canvas = make("canvas", { "data-row": "", role: "img", "aria-label": `layer ${layer}: ${kept} of ${followed.tokens} tokens left` });
      strips.set(canvas, { clusters, layer, seconds: clip.seconds });
      tell(canvas, (event) => over(canvas, event));
      box.append(make("div", { class: "name" }, `layer ${layer}: ${kept} of ${followed.tokens} tokens`), make("div", { class: "strip" }, canvas));
    }
  }
  const sizes = shown.flatMap(([, , followed]) => followed.layers.map(([, clusters]) => clusters));
  const merged = sizes.some((clusters) => new Set(clusters.filter((c) => c >= 0)).size < clusters.filter((c) => c >= 0).length);
  const gone = sizes.some((clusters) => clusters.some((c) => c < 0));
  const keys = [ // only what is drawn, as it is drawn
    ...(merged ? [["linear-gradient(90deg, var(--merge-a) 50%, var(--merge-b) 50%)", "tokens merged into one (two shades by turns)"]] : []),
    ["var(--single)", "a token alone"],
    ...(gone ? [["repeating-linear-gradient(-45deg, var(--bad) 0 1.4px, transparent 1.4px 4px)", "dropped"]] : []),
  ];
  box.append(make("p", { class: "small" }, ...keys.map(([colour, name]) => {
    const swatch = make("i");
    swatch.style.background = colour;
    return make("span", { class: "key" }, swatch, name);
  })));
  if (!shown.length) box.append(make("p", { class: "small" }, "Choose a recipe above to see what it did to the tokens."));
  return box;
}

function paint(canvas) {
  const { clusters } = strips.get(canvas);
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const scale = devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth * scale, 16 * scale];
  [canvas.width, canvas.height] = [width, height];
  const brush = canvas.getContext("2d");
  const sizes = new Map();
  for (const cluster of clusters) sizes.set(cluster, (sizes.get(cluster) || 0) + 1);
  const shades = new Map();
  for (const [cluster, size] of sizes) if (cluster >= 0 && size > 1) shades.set(cluster, shades.size % 2 ? "--merge-b" : "--merge-a");
  const X = (i) => Math.round((i / clusters.length) * width);
  for (let i = 0; i < clusters.length;) {
    let end = i + 1;
    while (end < clusters.length && clusters[end] === clusters[i]) end++;
    const cluster = clusters[i];
    if (cluster < 0) {
      brush.strokeStyle = colour("--bad");
      brush.save();
      brush.beginPath();
      brush.rect(X(i), 0, X(end) - X(i), height);
      brush.clip();
      brush.beginPath();
      for (let x = X(i) - height; x < X(end); x += 5 * scale) { brush.moveTo(x, height); brush.lineTo(x + height, 0); }
      brush.stroke();
      brush.restore();
    } else {
      brush.fillStyle = colour(shades.get(cluster) || "--single");
      brush.fillRect(X(i), 0, X(end) - X(i), height);
    }
    if (width / clusters.length > 2.5) {
      brush.fillStyle = colour("--paper");
      brush.fillRect(X(end) - Math.max(1, scale / 2), 0, Math.max(1, scale / 2), height);
    }
    i = end;
  }
}

function over(canvas, event) {
  const { clusters, layer, seconds } = strips.get(canvas);
  const box = canvas.getBoundingClientRect();
  const token = Math.min(clusters.length - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * clusters.length)));
  const cluster = clusters[token];
  const members = clusters.map((c, i) => (c === cluster ? i : -1)).filter((i) => i >= 0);
  const at = (i) => show((i / clusters.length) * seconds);
  if (cluster < 0) return `layer ${layer}\ntoken ${token}, ${at(token)} to ${at(token + 1)} s: dropped`;
  const span = `${at(members[0])} to ${at(members[members.length - 1] + 1)} s`;
  return `layer ${layer}\n${members.length === 1 ? `token ${token}, alone` : `${members.length} tokens in one (${members.join(", ").slice(0, 90)})`}\n${span}`;
}

// --- start ------------------------------------------------------------------------------------------------------
const tasks = unique(data.lines.map((line) => line.task));
if (byId("cost")) {
  for (const id of ["cost-task", "heat-task"]) fill(byId(id), tasks);
  for (const id of ["cost-task", "cost-x", "cost-bars"]) byId(id).addEventListener("change", drawCost);
  function newHeat() {
    const axes = heatAxes(byId("heat-task").value);
    fill(byId("heat-rows"), axes);
    fill(byId("heat-columns"), axes);
    byId("heat-columns").value = axes[1];
    drawHeat();
  }
  byId("heat-task").addEventListener("change", newHeat);
  for (const id of ["heat-rows", "heat-columns"]) byId(id).addEventListener("change", drawHeat);
  drawCost();
  newHeat();
  let drawn = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== drawn) { drawn = innerWidth; drawCost(); } });
}
if (data.clips.length) {
  const groups = unique(data.clips.map((clip) => JSON.stringify([clip.run, clip.task])));
  fill(byId("clip-task"), groups, groups.map((group) => JSON.parse(group).join(": ")));
  const newClips = () => {
    const [run, task] = JSON.parse(byId("clip-task").value);
    const lines = data.lines.map((line, i) => [line, i]).filter(([line]) => line.run === run && line.task === task && line.budget !== "-" && line.value !== null);
    const titles = lines.map(([line]) => `${line.name}, ${line.budget}`);
    fill(byId("clip-line"), lines.map(([, i]) => i), titles);
    fill(byId("clip-other"), ["", ...lines.map(([, i]) => i)], ["nothing else", ...titles]);
    const followed = lines.find(([, i]) => data.timelines.some(([, line, one]) => line === i && one.layers.length));
    const cards = data.clips.filter((clip) => clip.run === run && clip.task === task);
    const [full] = fullOf(run, task);
    const differs = (clip, i) => i in clip.answers && full in clip.answers && clip.answers[i] !== clip.answers[full];
    const apart = (i) => cards.length ? 1000 * differs(cards[0], i) + cards.filter((clip) => differs(clip, i)).length : 0;
    const best = [...lines].sort(([, a], [, b]) => apart(b) - apart(a))[0]; // it opens on answers that differ
    if (best && apart(best[1])) byId("clip-line").value = best[1];
    else if (followed) byId("clip-line").value = followed[1];
    drawClips();
  };
  byId("clip-task").addEventListener("change", newClips);
  for (const id of ["clip-line", "clip-other"]) byId(id).addEventListener("change", drawClips);
  addEventListener("resize", () => document.querySelectorAll("canvas[data-row]").forEach(paint));
  newClips();
}
