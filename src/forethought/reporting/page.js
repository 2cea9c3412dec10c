"use strict";
// Draws what forethought wrote into this page, or, while a run is watched, what it answers. All text goes in as text.

const LIGHT = { 1: "#0b6fb8", 2: "#d1670a", 3: "#12805c", 4: "#8a4fb0", 5: "#c2314b", 6: "#7a6a1f",
  quiet: "#7d848e", text: "#1c2127", grid: "#e4e7eb" };
const DARK = { 1: "#5db4f0", 2: "#f2a654", 3: "#4fc99a", 4: "#c79ae8", 5: "#f07c8d", 6: "#d6c25a",
  quiet: "#98a0ab", text: "#e6e8eb", grid: "#2f353d" };
const dark = matchMedia("(prefers-color-scheme: dark)");
const coarse = matchMedia("(pointer: coarse)").matches;
const FONT = 'system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif';
const PAPER = 680; // pixels that a plot is wide on paper
const plots = new Map(); // element of a plot -> the function that draws it
const near = new IntersectionObserver((seen) => seen.filter((s) => s.isIntersecting).forEach((s) => draw(s.target)),
  { rootMargin: "600px" });
// What was chosen from the list above a plot, by its name, and what was opened: kept while a live page is renewed.
const picked = new Map(), opened = new Set();
let printing = false;

// ---- elements

function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") made.className = value; else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function picker(what, names, pick) {
  const select = el("select", {}, ...names.map((name, i) => el("option", { value: i }, name)));
  select.addEventListener("change", () => pick(Number(select.value)));
  return [el("label", {}, what, select), select];
}

// ---- plots

function palette() { return dark.matches && !printing ? DARK : LIGHT; }

// "@1/40" is the first colour of the theme, 40% opaque; names of a run may begin with "@" too.
function paint(value, key) {
  if (typeof value === "string" && value[0] === "@" && (key === "color" || key === "fillcolor")) {
    const [name, opacity] = value.slice(1).split("/");
    const alpha = opacity === undefined ? 255 : Math.round(2.55 * Number(opacity));
    return palette()[name] + alpha.toString(16).padStart(2, "0");
  }
  if (Array.isArray(value)) return value.length && typeof value[0] === "object" ? value.map((v) => paint(v)) : value;
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, paint(v, k)]));
  }
  return value;
}

function axis(given = {}) {
  const colors = palette();
  const title = given.title ? { ...given.title, standoff: 8, font: { size: 12 } } : undefined;
  return { gridcolor: colors.grid, linecolor: colors.grid, zeroline: false, automargin: true, nticks: 7,
    exponentformat: "power", minexponent: 4, ...given, title };
}

function layout(given, height) {
  const axes = Object.entries(given).map(([k, v]) => [k, /^[xy]axis/.test(k) ? axis(v) : v]);
  return { autosize: !printing, width: printing ? PAPER : undefined, height, margin: { l: 52, r: 14, t: 8, b: 40 },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", separators: ".\u2009",
    font: { family: FONT, size: 12, color: palette().text }, hovermode: "closest", dragmode: coarse ? false : "zoom",
    legend: { orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom" }, ...Object.fromEntries(axes) };
}

function put(node, traces, given, height) {
  const config = { displayModeBar: false, responsive: true };
  // On a phone the names stand above each other, and would take their room from the plot.
  const names = traces.filter((t) => t.name && t.showlegend !== false).length;
  const more = node.clientWidth < 520 && names > 1 ? 18 * (names - 1) : 0;
  Plotly.react(node, paint(traces), layout(given, height + more), config);
}

function draw(node) {
  near.unobserve(node);
  const how = plots.get(node);
  if (how) { how(); node.dataset.drawn = "yes"; }
}

function later(node, how) {
  plots.set(node, how);
  if (node.dataset.drawn) how(); else near.observe(node);
}

function again() { plots.forEach((how, node) => { if (node.dataset.drawn) how(); }); }

function figure(spec) {
  const box = el("div", { class: "figure" });
  const node = el("div", { class: "plot", id: spec.where });
  const choices = spec.choices || [spec];
  const known = picked.get(spec.where) || { at: 0 }, same = (c) => c && c.name === known.name;
  let at = same(choices[known.at]) ? known.at : Math.max(choices.findIndex(same), 0);
  if (spec.label) box.append(el("h3", {}, spec.label));
  const redraw = () => put(node, choices[at].traces, choices[at].layout, choices[at].height);
  if (spec.choices && choices.length > 1) {
    const pick = (i) => { at = i; picked.set(spec.where, { at, name: choices[at].name }); draw(node); };
    const [label, select] = picker(spec.choose, choices.map((c) => c.name), pick);
    select.value = at;
    box.append(el("div", { class: "controls" }, label));
  }
  node.style.minHeight = `${choices[at].height}px`;
  box.append(node);
  later(node, redraw);
  return box;
}

// ---- the fan

const BANDS = [[0, 6, 16], [1, 5, 24], [2, 4, 40]];
const KEY = [["band", "bands of 95%, 80%, 50%"], ["median", "median"], ["real", "what happened"], ["here", "where it begins"]];

function upTo(values) { const gap = values.findIndex((row) => row.includes(null)); return gap < 0 ? values : values.slice(0, gap); }

// What happened: [steps, values] of the whole episode, with every step near the start that is looked at.
function happened(episode, c, k, horizon) {
  if (!episode.near) return [episode.steps, episode.real[c]];
  const start = episode.starts[k], first = Math.max(start - Math.floor(horizon / 2), 0), close = episode.near[k][c];
  const x = [], y = [];
  episode.steps.forEach((s, i) => { if (s < first) { x.push(s); y.push(episode.real[c][i]); } });
  close.forEach((v, i) => { x.push(first + i); y.push(v); });
  episode.steps.forEach((s, i) => { if (s >= first + close.length) { x.push(s); y.push(episode.real[c][i]); } });
  return [x, y];
}

function ofComponent(episode, c, k, horizon, suffix) {
  const start = episode.starts[k], [x, y] = happened(episode, c, k, horizon);
  const here = y[x.indexOf(start)], rows = upTo(episode.bands[k][c]);
  const steps = [start, ...rows.map((_, i) => start + 1 + i)];
  const on = { xaxis: `x${suffix}`, yaxis: `y${suffix}`, showlegend: false, type: "scatter" };
  const edge = (j) => [here, ...rows.map((row) => row[j])];
  const band = ([low, high, alpha]) => ({ ...on, name: "band", mode: "lines", fill: "toself", hoverinfo: "skip",
    fillcolor: `@1/${alpha}`, line: { width: 0, color: "@1" }, x: [...steps, ...[...steps].reverse()],
    y: [...edge(high), ...edge(low).reverse()] });
  const median = { ...on, name: "median", mode: "lines", x: steps, y: edge(3), line: { color: "@1", dash: "dot", width: 1.5 } };
  const real = { ...on, name: "what happened", mode: "lines", x, y, line: { color: "@text", width: 1.5 } };
  const dot = { ...on, name: "here", mode: "markers", x: [start], y: [here], marker: { color: "@2", size: 8 } };
  return [[...BANDS.map(band), median, real, dot], span(y, rows)];
}

// The axis follows what happened; a band may widen it threefold and is cut beyond.
function span(real, rows) {
  const known = real.filter((v) => v !== null), lows = rows.map((r) => r[0]), highs = rows.map((r) => r[6]);
  const low = Math.min(...known), high = Math.max(...known), size = high - low || 1;
  const least = Math.max(Math.min(low, ...lows), low - size), most = Math.min(Math.max(high, ...highs), high + size);
  const room = 0.06 * (most - least || 1);
  return [least - room, most + room];
}

function fanFigure(fan, where) {
  const box = el("div", {}), node = el("div", { class: "plot", id: where });
  const state = { episode: 0, start: 0, whole: false };
  const slider = el("input", { type: "range", min: 0, step: 1, "aria-label": "step at which the fan begins" });
  const said = el("output", {}), whole = el("input", { type: "checkbox" });
  const [label, select] = picker("episode", fan.episodes.map((e) => e.label), (i) => { state.episode = i; state.start = 0; renew(); });
  const redraw = () => {
    const episode = fan.episodes[state.episode], start = episode.starts[state.start];
    const columns = node.clientWidth > 760 && fan.components.length > 1 && !printing ? 2 : 1;
    const rows = Math.ceil(fan.components.length / columns), last = episode.steps[episode.steps.length - 1];
    const traces = [], given = { grid: { rows, columns, pattern: "independent", ygap: 0.18, xgap: 0.1 } };
    const range = state.whole ? [0, last] : [Math.max(0, start - fan.horizon), Math.min(last, start + 2 * fan.horizon)];
    fan.components.forEach((name, c) => {
      const suffix = c ? String(c + 1) : "", [own, y] = ofComponent(episode, c, state.start, fan.horizon, suffix);
      traces.push(...own);
      const bottom = c >= fan.components.length - columns;
      given[`xaxis${suffix}`] = { range, ...(bottom ? { title: { text: "step of the episode" } } : {}) };
      given[`yaxis${suffix}`] = { range: y, nticks: 4, title: { text: name } };
    });
    put(node, traces, given, 50 + 150 * rows);
    said.textContent = `step ${start} of ${last}`;
  };
  const renew = () => { slider.max = fan.episodes[state.episode].starts.length - 1; slider.value = state.start; draw(node); };
  slider.addEventListener("input", () => { state.start = Number(slider.value); draw(node); });
  whole.addEventListener("change", () => { state.whole = whole.checked; draw(node); });
  slider.max = fan.episodes[0].starts.length - 1;
  slider.value = 0;
  select.value = 0;
  const newest = fan.episodes.findIndex((e) => e.label.includes("newest"));
  if (newest > 0) { state.episode = newest; select.value = newest; slider.max = fan.episodes[newest].starts.length - 1; }
  const key = KEY.map(([kind, name]) => el("span", { class: `key ${kind}` }, name));
  box.append(el("div", { class: "controls" }, label, el("label", {}, slider, said), el("label", {}, whole, "whole episode")),
    el("div", { class: "controls keys" }, ...key), node);
  later(node, redraw);
  return box;
}

// ---- the rest of a panel

function table(given) {
  const head = given.head ? [el("thead", {}, el("tr", {}, ...given.head.map((h) => el("th", { scope: "col" }, h))))] : [];
  const cell = (text, i) => (given.head || i ? el("td", {}, text) : el("th", { scope: "row" }, text));
  const rows = given.rows.map((row) => el("tr", {}, ...row.map(cell)));
  return el("div", { class: "scroll" }, el("table", {}, ...head, el("tbody", {}, ...rows)));
}

// A moving picture can be stopped: its first frame takes its place.
function video(given) {
  const image = el("img", { src: given.data, alt: given.label, width: given.width, height: given.height });
  const still = el("canvas", { width: given.width, height: given.height, hidden: "" });
  const button = el("button", { type: "button" }, "Stop");
  const stop = (now) => {
    if (now) still.getContext("2d").drawImage(image, 0, 0, given.width, given.height);
    still.hidden = !now; image.hidden = now; button.textContent = now ? "Play" : "Stop";
  };
  button.addEventListener("click", () => stop(still.hidden));
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) image.addEventListener("load", () => stop(true), { once: true });
  return el("figure", {}, image, still, el("figcaption", {}, given.label, " ", button));
}

function missing(sentences) {
  if (!sentences.length) return [];
  return [el("div", { class: "missing" }, ...sentences.map((s) => el("p", {}, s)))];
}

function folded(where, given) {
  const made = el("details", {}, el("summary", {}, given.title), el("pre", {}, given.body));
  made.open = opened.has(where);
  made.addEventListener("toggle", () => { if (made.open) opened.add(where); else opened.delete(where); });
  return made;
}

function panel(given, prefix) {
  const made = el("section", { id: prefix + given.id, "data-panel": given.id }, el("h2", {}, given.title));
  if (given.caption) made.append(el("p", { class: "caption" }, given.caption));
  made.append(...missing(given.missing));
  if (given.list) made.append(el("p", {}, `${given.list.title}:`), el("ul", {}, ...given.list.items.map((s) => el("li", {}, s))));
  if (given.fan) made.append(fanFigure(given.fan, `${prefix}${given.id}-plot`));
  const figures = given.figures.map((f) => figure({ ...f, where: `${prefix}${given.id}-${f.id}` }));
  if (figures.length) made.append(el("div", { class: "figures" }, ...figures));
  if (given.videos) made.append(el("div", { class: "videos" }, ...given.videos.map(video)));
  if (given.table) made.append(table(given.table));
  if (given.text) made.append(folded(prefix + given.id, given.text));
  return made;
}

// ---- the page

function summary(run, prefix) {
  const kind = { "solved": "yes", "not solved": "no" }[run.verdict] || "";
  const links = run.panels.map((p) => el("a", { href: `#${prefix}${p.id}` }, p.title));
  const made = [el("h1", {}, run.title, el("span", { class: `verdict ${kind}` }, run.verdict)),
    el("p", {}, run.sentences.join(" "))];
  if (run.missing.length) {
    const items = run.missing.map((m) => el("li", {}, el("a", { href: `#${prefix}${m.panel}` }, titled(run, m.panel)), `: ${m.says}`));
    made.push(el("div", { class: "missing" }, el("p", {}, el("strong", {}, "What is missing")), el("ul", {}, ...items)));
  }
  return el("header", {}, ...made, el("nav", { "aria-label": "panels" }, ...links));
}

function titled(run, id) { return run.panels.find((p) => p.id === id).title; }

function clear() { plots.forEach((_, node) => { near.unobserve(node); Plotly.purge(node); }); plots.clear(); }

function show(data, at) {
  const root = document.getElementById("root"), run = data.runs[at], prefix = `run${at}-`;
  clear();
  root.replaceChildren();
  if (data.runs.length > 1) {
    root.append(el("h1", {}, `${data.runs.length} runs`), ...data.together.map((p) => panel(p, "")));
    const [label, select] = picker("Show run", data.runs.map((r) => r.label), (i) => show(data, i));
    select.value = at;
    select.id = "runs";
    root.append(el("div", { class: "controls" }, label));
    root.append(el("p", { class: "paper" }, `Of ${data.runs.length} runs only ${run.label} is printed below: choose another to print it.`));
  }
  root.append(summary(run, prefix), ...run.panels.map((p) => panel(p, prefix)));
  root.append(el("p", { class: "made" }, data.made));
  document.title = data.runs.length > 1 ? `${data.runs.length} runs` : run.title;
}

// plotly.js lies in the page compressed; the policy of the page names its hash.
async function unpack() {
  const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}

class Failed extends Error {} // the run could not be read; what was seen of it before stays

async function watch(status) {
  let version = null;
  const look = async () => {
    try {
      const answer = await fetch("data.json", { cache: "no-store" });
      if (!answer.ok) throw new Error(String(answer.status));
      const data = await answer.json();
      if (data.failed) throw new Failed(data.failed);
      if (data.version !== version) { const y = scrollY; version = data.version; show(data, 0); scrollTo(0, y); }
      status.textContent = `Live: looked at ${new Date().toLocaleTimeString()}.`;
    } catch (error) {
      const now = new Date().toLocaleTimeString();
      if (error instanceof Failed) status.textContent = `${error.message} (${now})`;
      else status.textContent = `No answer at ${now} (${error.message}): has 'forethought watch' ended?`;
    }
    if (!document.hidden || version === null) setTimeout(look, 3000);
    else document.addEventListener("visibilitychange", () => look(), { once: true });
  };
  await look();
}

function paper(now) {
  printing = now;
  if (now) plots.forEach((_, node) => draw(node)); else again();
}

async function main() {
  const status = document.getElementById("status");
  try {
    await unpack();
  } catch (error) {
    status.textContent = `The plots cannot be unpacked in this browser: ${error.message}`;
    return;
  }
  dark.addEventListener("change", again);
  addEventListener("beforeprint", () => paper(true));
  addEventListener("afterprint", () => paper(false));
  if (document.body.dataset.live) return watch(status);
  show(JSON.parse(document.getElementById("data").textContent), 0);
  status.remove();
}

main();
