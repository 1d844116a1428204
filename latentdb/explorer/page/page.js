import { PointMap, colourOf } from "./map.js";
import { source } from "./source.js";

const get = (id) => document.getElementById(id);
const state = { row: null, where: "", colour: "", category: -1, parts: [], method: "linear" };
let info, column = null, filtered = null;

function element(tag, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children);
  return made;
}

function paint(canvas, { image, x, y, width, height }) {
  Object.assign(canvas, { width, height });
  canvas.getContext("2d").drawImage(image, x, y, width, height, 0, 0, width, height);
  canvas.dataset.painted = Number(canvas.dataset.painted ?? 0) + 1;
}

// A canvas with a picture, empty until that is there.
function picture(promise, label) {
  const canvas = element("canvas", { className: "picture", width: 1, height: 1 });
  canvas.setAttribute("role", label ? "img" : "presentation");
  if (label) canvas.ariaLabel = label;
  promise.then((made) => paint(canvas, made), (error) => { canvas.title = error.message; canvas.classList.add("missing"); });
  return canvas;
}
const thumb = (row, label) => picture(source.picture(row), label);

// One request at a time; of the values that arrive meanwhile, the newest is asked for next.
function newestWins(run) {
  let waiting, busy = false;
  return async (value) => {
    waiting = [value];
    if (busy) return;
    busy = true;
    while (waiting) {
      const [next] = waiting;
      waiting = null;
      await run(next, () => !waiting);
    }
    busy = false;
  };
}

const map = new PointMap(get("map"), {
  tileOf: source.tile,
  onPick: (index) => select(index < 0 ? null : map.rows[index]),
  onMove: () => remember(),
});

// --- the state in the URL -----------------------------------------------------

let timer;
function remember() {
  clearTimeout(timer);
  timer = setTimeout(() => {
    const { x, y, scale } = map.view;
    const camera = [x, y, scale].map((value) => value.toPrecision(6)).join(",");
    history.replaceState(null, "", "#" + new URLSearchParams({ state: JSON.stringify(state), camera }));
  }, 200);
}

function recall() {
  const given = new URLSearchParams(location.hash.slice(1));
  try {
    const old = JSON.parse(given.get("state") ?? "{}");
    for (const key of Object.keys(state)) if (typeof old[key] === typeof state[key] || key === "row") state[key] = old[key] ?? state[key];
    if (!Array.isArray(state.parts)) state.parts = [];
    state.parts = state.parts.filter((part) => map.indexOfRow.has(part?.row) && Number.isFinite(part.weight));
  } catch { /* a damaged link shows the start */ }
  const camera = (given.get("camera") ?? "").split(",").map(Number);
  if (camera.length === 3 && camera.every(Number.isFinite) && camera[2] > 0) map.view = { x: camera[0], y: camera[1], scale: camera[2] };
}

// --- filter, colour, legend ------------------------------------------------------

function show() {
  const n = map.rows.length, shown = new Uint8Array(n);
  const isolated = column && state.category >= 0;
  for (let i = 0; i < n; i++) shown[i] = (!filtered || filtered.has(i)) && (!isolated || column.codes[i] === state.category);
  map.shown = filtered || isolated ? shown : null;
  map.draw();
  remember();
}

const filter = newestWins(async (where, newest) => {
  const note = get("filter-note");
  try {
    const found = where.trim() ? new Set(await source.filter(where)) : null;
    if (!newest()) return;
    filtered = found;
    note.className = "";
    note.textContent = found ? `${found.size.toLocaleString("en")} rows` : "";
    state.where = where;
    show();
  } catch (error) {
    note.className = "bad";
    note.textContent = error.message;
  }
});

async function colour(name) {
  const legend = get("legend");
  try {
    column = name ? await source.column(name) : null;
  } catch (error) { column = null; report(error); }
  state.colour = column ? name : "";
  get("colour").value = state.colour;
  map.codes = column?.codes ?? null;
  if (!column || state.category >= column.categories.length) state.category = -1;
  legend.hidden = !column;
  legend.replaceChildren(...(column?.categories ?? []).map((category, code) => {
    const swatch = element("canvas", { width: 1, height: 1, className: "swatch" });
    const pen = swatch.getContext("2d");
    pen.fillStyle = colourOf(code);
    pen.fillRect(0, 0, 1, 1);
    const button = element("button", { type: "button" }, swatch, category.name, element("i", { textContent: category.count.toLocaleString("en") }));
    button.ariaPressed = String(state.category === code);
    button.onclick = () => {
      state.category = state.category === code ? -1 : code;
      [...legend.children].forEach((other, place) => { other.ariaPressed = String(place === state.category); });
      show();
    };
    return button;
  }));
  show();
}

// --- neighbours ---------------------------------------------------------------------

const caption = (match) => `${match.distance.toPrecision(3)} ${match.metadata.label ?? match.id}`;

function grid(matches) {
  return matches.map((match) => {
    const button = element("button", { type: "button", title: `${match.id}, distance ${match.distance.toPrecision(6)}` });
    if (info.has_model) button.append(thumb(match.row, match.id));
    button.append(caption(match));
    button.onclick = () => select(match.row);
    return button;
  });
}

const choose = newestWins(async (row, newest) => {
  const panel = get("selected");
  state.row = row;
  map.selected = row === null ? -1 : map.indexOfRow.get(row) ?? -1;
  map.near = [];
  map.draw();
  remember();
  if (row === null) { panel.replaceChildren(element("p", { className: "hint", textContent: "Click a point to see its nearest rows." })); return; }
  try {
    const [facts, found] = await Promise.all([source.row(row), source.neighbours(row, 12)]);
    const decoded = info.has_decoder ? await source.decode({ parts: [{ row, weight: 1 }], method: "linear" }) : null;
    if (!newest()) return;
    map.near = found.matches.map((match) => map.indexOfRow.get(match.row)).filter((index) => index !== undefined);
    map.draw();
    const add = element("button", { type: "button", id: "add", textContent: "add to blend" });
    add.onclick = () => {
      if (!state.parts.some((part) => part.row === row)) state.parts.push({ row, weight: 1 });
      tray();
    };
    const pair = element("div", { className: "pair" });
    if (info.has_model) pair.append(element("figure", {}, thumb(row, "image"), element("figcaption", { textContent: facts.file_exists ? "image" : "no image file: decoded" })));
    if (decoded) pair.append(element("figure", {}, picture(Promise.resolve(decoded), "reconstruction"), element("figcaption", { textContent: "reconstruction" })));
    const list = element("dl");
    for (const [key, value] of Object.entries(facts.metadata)) list.append(element("dt", { textContent: key }), element("dd", { textContent: String(value) }));
    panel.replaceChildren(element("h2", { textContent: facts.id }), pair, list, ...(decoded ? [add] : []),
      element("h2", { textContent: "Nearest rows" }), element("div", { className: "grid" }, ...grid(found.matches)));
  } catch (error) {
    panel.replaceChildren(element("p", { className: "bad", textContent: error.message }));
  }
});
const select = (row) => choose(row);

// --- blend --------------------------------------------------------------------------

const blend = newestWins(async (recipe) => {
  const note = get("blend-note");
  try {
    const began = performance.now();
    paint(get("blend"), await source.decode(recipe));
    note.className = "";
    note.textContent = `decoded in ${Math.round(performance.now() - began)} ms`;
  } catch (error) {
    note.className = "bad";
    note.textContent = error.message;
  }
});
const nearBlend = newestWins(async (recipe, newest) => {
  try {
    const found = await source.near(recipe, 8);
    if (newest()) get("near").replaceChildren(...grid(found.matches));
  } catch { get("near").replaceChildren(); } // the blend says why
});

let pause;
function renew() {
  const recipe = { parts: state.parts.map((part) => ({ ...part })), method: state.method };
  remember();
  if (!recipe.parts.length) return;
  blend(recipe);
  clearTimeout(pause);
  pause = setTimeout(() => nearBlend(recipe), 250);
}

function tray() {
  get("tray").hidden = !state.parts.length;
  get("method").value = state.method;
  get("parts").replaceChildren(...state.parts.map((part) => {
    const value = element("output", { textContent: part.weight.toFixed(2) });
    const slider = element("input", { type: "range", min: -1, max: 2, step: 0.01, ariaLabel: `weight of row ${part.row}` });
    slider.value = part.weight;
    slider.oninput = () => { part.weight = Number(slider.value); value.textContent = part.weight.toFixed(2); renew(); };
    const remove = element("button", { type: "button", textContent: "×", ariaLabel: `remove row ${part.row}` });
    remove.onclick = () => { state.parts.splice(state.parts.indexOf(part), 1); tray(); };
    return element("div", { className: "part" }, thumb(part.row, ""), slider, value, remove);
  }));
  renew();
}

// --- start ----------------------------------------------------------------------------

function report(error) {
  get("state").hidden = false;
  get("state").className = "bad";
  get("state").textContent = error.message;
}

async function start() {
  source.onProgress = (text) => { get("progress").textContent = text; };
  info = await source.open();
  const data = await source.points(), head = new DataView(data);
  if (head.getUint32(0) !== 0x4c444250 || head.getUint32(4, true) !== 1) throw new Error("the map has an unknown format: reload the page");
  const n = head.getUint32(8, true);
  map.setPoints(new Uint32Array(data, 16, n), new Float32Array(data, 16 + 4 * n, 2 * n));
  map.tiles = info.tiles;
  get("filter-form").hidden = !source.can.filter;
  get("facts").textContent = `${n.toLocaleString("en")} rows, ${info.dim} dimensions, neighbours kept: ${Math.round(100 * info.neighbours_kept)} %`;
  get("colour").append(...info.columns.map((name) => element("option", { value: name, textContent: name })));
  map.fit();
  state.colour = info.columns.includes("label") ? "label" : "";
  recall();
  get("state").hidden = true;
  get("filter").value = state.where;
  let typing;
  get("filter").oninput = () => { clearTimeout(typing); typing = setTimeout(() => filter(get("filter").value), 250); };
  get("filter-form").onsubmit = (event) => { event.preventDefault(); filter(get("filter").value); };
  get("colour").onchange = () => { state.category = -1; colour(get("colour").value); };
  get("method").onchange = () => { state.method = get("method").value; renew(); };
  get("clear").onclick = () => { state.parts = []; tray(); };
  await Promise.all([state.where && filter(state.where), colour(state.colour), state.row !== null && select(state.row)]);
  if (state.parts.length) tray();
  document.body.dataset.ready = "yes";
}
start().catch(report);
