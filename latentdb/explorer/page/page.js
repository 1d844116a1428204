// The page: its state and address, the filter and the legend, and what is selected.

import { button, choice, count, element, get, metricChoice, newestWins, percent, picture, promiseOf } from "./dom.js";
import { PointMap, colourOf, inPolygon } from "./map.js";
import { one, openBlend } from "./blend.js";
import { CLUSTERS, openTools } from "./tools.js";
import { source } from "./source.js";

const state = { panel: "selected", thing: null, metric: "", exact: false, where: "", colour: "", category: -1, polygon: null, parts: [], method: "linear", shifts: {}, directions: {} };
let info, column = null, filtered = null;

const map = new PointMap(get("map"), {
  tileOf: source.tile,
  onPick: (picked) => (picked.open ? picked.open() : select(picked < 0 ? null : { row: map.rows[picked] })),
  onMove: () => { hideCard(); remember(); },
  onHover: (picked, x, y) => hover(picked, x, y),
  onLasso: (polygon) => { state.polygon = polygon; get("lasso").ariaPressed = "false"; show(); },
});

// What the other modules use.
const app = { state, source, map, remember, thumbOf, nameOf, rowButton, grid, metricFor, placeBlend: (blend) => placeBlend(blend), select: (thing) => select(thing), add: (thing) => tools.blend.add(thing), open: (panel) => openPanel(panel), get info() { return info; } };
const tools = {};

// --- things: a row, or a latent made otherwise -----------------------------------------

// What a part of a blend is, in a word or two.
function nameOf(thing) {
  if (thing.name) return thing.name;
  if (thing.row !== undefined) return `row ${thing.row}`;
  if (thing.cluster) return `cluster ${thing.cluster[1] + 1}`;
  if (thing.sample) return `sample ${thing.sample[1] + 1}`;
  return thing.image ? "your image" : "average";
}

function thumbOf(thing, label) {
  if (thing.row !== undefined) return picture(source.picture(thing.row), label);
  if (thing.image) return picture(source.uploaded(thing.image), label);
  return picture(source.decode([one(thing)]).then(([made]) => made), label);
}

// --- the state in the URL -----------------------------------------------------

let timer = 0;
function write() {
  clearTimeout(timer);
  timer = 0;
  const { x, y, scale } = map.view;
  const camera = [x, y, scale].map((value) => value.toPrecision(6)).join(",");
  history.replaceState(null, "", "#" + new URLSearchParams({ state: JSON.stringify(state), camera }));
}
function remember() {
  clearTimeout(timer);
  timer = setTimeout(write, 200);
}
addEventListener("pagehide", () => { if (timer) write(); });

function recall() {
  const given = new URLSearchParams(location.hash.slice(1));
  const known = (thing) => thing && typeof thing === "object" && (thing.row === undefined || spotOf(thing.row));
  try {
    const old = JSON.parse(given.get("state") ?? "{}");
    for (const key of Object.keys(state)) if (old[key] !== undefined && (typeof old[key] === typeof state[key] || old[key] === null)) state[key] = old[key];
    if (!Array.isArray(state.parts)) state.parts = [];
    state.parts = state.parts.filter((part) => known(part) && Number.isFinite(part.weight));
    if (!known(state.thing)) state.thing = null;
    if (!Array.isArray(state.polygon) || state.polygon.length < 3) state.polygon = null;
  } catch { /* a damaged link shows the start */ }
  if (!info.metrics.includes(state.metric)) state.metric = info.metric;
  const camera = (given.get("camera") ?? "").split(",").map(Number);
  if (camera.length === 3 && camera.every(Number.isFinite) && camera[2] > 0) map.view = { x: camera[0], y: camera[1], scale: camera[2] };
}

function openPanel(panel) {
  state.panel = document.querySelector(`[data-panel="${panel}"]:not([hidden])`) ? panel : "selected";
  for (const tab of get("tabs").children) {
    const open = tab.dataset.panel === state.panel;
    tab.ariaSelected = String(open);
    tab.tabIndex = open ? 0 : -1;
    get(tab.dataset.panel).hidden = !open;
  }
  tools[state.panel]?.open?.();
  remember();
}

// --- filter, colour, legend, lasso --------------------------------------------------

function show() {
  const n = map.rows.length, shown = new Uint8Array(n), { polygon } = state;
  const isolated = column && state.category >= 0;
  let kept = 0;
  for (let i = 0; i < n; i++) {
    if ((filtered && !filtered.has(i)) || (isolated && column.codes[i] !== state.category)) continue;
    if (polygon && !inPolygon(map.points[2 * i], map.points[2 * i + 1], polygon)) continue;
    shown[i] = 1;
    kept++;
  }
  const chosen = Boolean(filtered || isolated || polygon), note = get("filter-note");
  map.shown = chosen ? shown : null;
  map.polygon = polygon;
  get("chosen").hidden = !chosen && !note.classList.contains("bad");
  if (chosen) {
    note.className = "";
    note.textContent = count(kept, "row");
  }
  get("chosen").replaceChildren(note, ...(chosen && kept && info.has_decoder ? [button("average", () => select(average(kept)), { id: "average" })] : []), ...(chosen ? [button("show all", clearChoice)] : []));
  map.draw();
  remember();
}

function average(kept) {
  const names = [state.category >= 0 && column ? column.categories[state.category].name : "", filtered ? state.where : "", state.polygon ? "lasso" : ""].filter(Boolean);
  return {
    name: `average of ${names.join(", ")} (${kept.toLocaleString("en")})`,
    ...(filtered ? { where: state.where } : {}), ...(state.polygon ? { polygon: state.polygon } : {}),
    ...(state.category >= 0 && column ? { category: [state.colour, state.category] } : {}),
  };
}

function clearChoice() {
  Object.assign(state, { where: "", polygon: null, category: -1 });
  filtered = null;
  get("filter").value = "";
  for (const entry of get("legend").children) entry.ariaPressed = "false";
  show();
}

const filter = newestWins(async (where, newest) => {
  try {
    const found = where.trim() ? new Set(await source.filter(where)) : null;
    if (!newest()) return;
    filtered = found;
    state.where = where;
    get("filter-note").className = "";
    show();
  } catch (error) {
    get("filter-note").className = "bad";
    get("filter-note").textContent = error.message;
    get("chosen").hidden = false;
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
    const entry = button("", () => {
      state.category = state.category === code ? -1 : code;
      [...legend.children].forEach((other, place) => { other.ariaPressed = String(place === state.category); });
      show();
    }, { ariaPressed: String(state.category === code) });
    entry.append(swatch, element("span", { textContent: category.name }), element("i", { textContent: category.count.toLocaleString("en") }));
    return entry;
  }));
  show();
}

// --- the card of the point under the pointer ---------------------------------------------

let dwell, hovered = -1; // a point, or a mark
function hideCard() { clearTimeout(dwell); hovered = -1; get("card").hidden = true; }
function hover(picked, x, y) {
  if (picked === hovered) return;
  hideCard();
  hovered = picked;
  get("map").style.cursor = picked === -1 ? "" : "pointer";
  const row = picked.open ? picked.row : map.rows[picked];
  if (row === undefined) return;
  dwell = setTimeout(async () => {
    try {
      const [facts, image] = await Promise.all([source.row(row), info.has_model ? source.picture(row) : null]);
      if (hovered !== picked) return;
      const lines = Object.entries(facts.metadata).slice(0, 4).map(([key, value]) => element("div", { textContent: `${key}: ${value}` }));
      get("card").replaceChildren(...(image ? [picture(Promise.resolve(image), "")] : []), element("div", {}, element("b", { textContent: facts.id }), ...lines));
      get("card").hidden = false;
      // Beside the pointer, on the side with more room, and never below it.
      const { clientWidth: width, clientHeight: height } = get("map"), box = get("card").getBoundingClientRect();
      get("card").style.left = `${x > width / 2 ? Math.max(4, x - box.width - 18) : x + 18}px`;
      get("card").style.top = `${Math.max(4, Math.min(height - box.height - 4, y - box.height / 2))}px`;
    } catch { /* the point says so when it is selected */ }
  }, 120);
}

// --- what is selected ---------------------------------------------------------------------

const TAIL = 13; // characters that fit below a picture

// A button with the picture of a row, if there are pictures, and words below it.
function rowButton(row, words, label = `row ${row}`, title = label) {
  const made = button("", () => select({ row }), { title });
  if (info.has_model) made.append(thumbOf({ row }, label));
  made.append(element("span", { textContent: words }));
  return made;
}

// A label, or the end of an id, which differs from that of others.
const wordsOf = (id, { label }) => String(label ?? (id.length > TAIL ? "…" + id.slice(1 - TAIL) : id));

function grid(matches) {
  return matches.map(({ row, id, distance, metadata }) => rowButton(row, `${wordsOf(id, metadata)}\n${distance.toPrecision(3)}`, id, `${id}, distance ${distance.toPrecision(6)}`));
}

// Metrics that compare posteriors need a row's; other latents have none.
function metricsFor(thing) { return info.metrics.filter((name) => thing.row !== undefined || !["wasserstein", "kl"].includes(name)); }
function metricFor(thing) { return metricsFor(thing).includes(state.metric) ? state.metric : info.metric; }

// Where a row is on the map; undefined for one that was added and is not marked.
const spotOf = (row) => {
  const index = map.indexOfRow(row);
  return index === undefined ? marks.rows.get(row)?.spot : map.spot(index);
};

async function describe(thing, newest) {
  const blend = one(thing), isRow = thing.row !== undefined, metric = metricFor(thing);
  const [facts, found, [decoded], spot] = await Promise.all([
    isRow ? source.row(thing.row) : { id: nameOf(thing), metadata: {} },
    isRow ? source.neighbours(thing.row, 12, metric, state.exact) : source.near(blend, 12, metric, state.exact),
    info.has_decoder ? source.decode([blend]) : [null],
    isRow ? spotOf(thing.row) : source.place(blend),
  ]);
  if (thing.image) markImage(thing, spot);
  if (!newest()) return;
  map.focus = spot ?? null;
  map.near = found.matches.map((match) => spotOf(match.row)).filter(Boolean);
  map.draw();
  const pair = element("div", { className: "pair" });
  if ((isRow || thing.image) && info.has_model) {
    const words = thing.image ? "your image" : facts.file_exists ? "image" : "no image file: decoded";
    pair.append(element("figure", {}, thumbOf(thing, "image"), element("figcaption", { textContent: words })));
  }
  if (decoded) pair.append(element("figure", {}, picture(Promise.resolve(decoded), "reconstruction"), element("figcaption", { textContent: isRow || thing.image ? "reconstruction" : "decoded" })));
  const list = element("dl");
  for (const [key, value] of Object.entries(facts.metadata)) list.append(element("dt", { textContent: key }), element("dd", { textContent: String(value) }));
  const actions = element("p", { className: "bar" });
  if (decoded) actions.append(button("add to blend", () => app.add(isRow ? { row: thing.row, name: facts.id } : thing), { id: "add" }));
  if (spot) actions.append(button("show on map", () => map.centre(spot)));
  const again = (change) => { Object.assign(state, change); select(state.thing); };
  const title = element("h2", {}, "Nearest rows by ", metricChoice(metricsFor(thing), metric, (name) => again({ metric: name }), { id: "metric" }));
  if (info.index?.metric === metric) title.append(" ", choice({ index: `recall ${percent(info.index.recall)}`, exact: "exact" }, state.exact ? "exact" : "index", (name) => again({ exact: name === "exact" }), { id: "recall", ariaLabel: "recall", title: "The share of the true nearest rows that is found, on average: with the search index, or by comparing all rows" }));
  const promised = element("p", { id: "promise", className: "hint", textContent: found.matches.length ? promiseOf(found) : "There is no other row." });
  get("selected").replaceChildren(element("h2", { textContent: facts.id }), pair, list, actions, title, promised, element("div", { className: "grid" }, ...grid(found.matches)));
}

const choose = newestWins(async (thing, newest) => {
  state.thing = thing;
  map.selected = thing?.row === undefined ? -1 : map.indexOfRow(thing.row) ?? -1;
  map.focus = thing?.row === undefined ? null : spotOf(thing.row) ?? null;
  map.near = [];
  map.draw();
  remember();
  if (!thing) {
    get("selected").replaceChildren(element("p", { className: "hint", textContent: "Click a point: its image, its reconstruction and its nearest rows appear here. Drag to move, scroll to zoom; close up, points become pictures." }));
    return;
  }
  try { await describe(thing, newest); } catch (error) {
    get("selected").replaceChildren(element("h2", { textContent: nameOf(thing) }), element("p", { className: "bad", textContent: error.message }));
  }
});
function select(thing) {
  if (thing) openPanel("selected");
  return choose(thing);
}

// --- marks: what is on the map and no point of it -------------------------------------------

const marks = { rows: new Map(), images: new Map(), blend: null };
const WATCH = 3000, WATCH_AFTER_ERROR = 30000, LISTED = 24; // ms, ms, new rows
let version = null; // of the store, whose new rows are marked

const mark = ([x, y], open, rest) => ({ x, y, spot: [x, y], open, ...rest });

function showMarks() {
  map.marks = [...marks.rows.values(), ...marks.images.values(), ...(marks.blend ? [marks.blend] : [])];
  get("map").dataset.marks = map.marks.length;
  map.draw();
}

function markImage(thing, spot) {
  if (!marks.images.has(thing.image)) {
    const shown = thumbOf(thing, "");
    marks.images.set(thing.image, mark(spot, () => select(thing), { picture: shown, label: nameOf(thing) }));
    source.uploaded(thing.image).then(showMarks, () => {});
  }
  showMarks();
}

// Where the blend is, as its weights change.
const placeBlend = newestWins(async (blend, newest) => {
  const spot = blend && await source.place(blend).catch(() => null);
  if (!newest()) return;
  marks.blend = spot ? mark(spot, () => openPanel("tray"), { picture: get("blend"), label: "blend" }) : null;
  showMarks();
});

// Rows that are added to the store while the page is open.
async function watch() {
  let pause = WATCH;
  if (!document.hidden) {
    try {
      const found = await source.added(version);
      if (found.rows) {
        version = found.version;
        marks.rows = new Map(found.rows.map((row, place) => [row, mark(found.points[place], () => select({ row }), { row })]));
        get("news").hidden = !found.count;
        get("news").textContent = `${found.count.toLocaleString("en")} new row${found.count === 1 ? "" : "s"}`;
        get("news").onclick = () => listNews(found);
        showMarks();
      }
    } catch { pause = WATCH_AFTER_ERROR; } // what the visitor does next says so
  }
  setTimeout(watch, pause);
}

async function listNews({ rows, count: all }) {
  await select(null);
  openPanel("selected");
  const listed = await Promise.all(rows.slice(-LISTED).reverse().map((row) => source.row(row).then(({ id, metadata }) => rowButton(row, wordsOf(id, metadata), id), () => null)));
  const words = [`${count(all, "row")} added since the server started`, all > rows.length ? `; the first ${rows.length.toLocaleString("en")} are marked on the map: start latentdb serve anew to see all` : "", rows.length > LISTED ? `; the last ${LISTED} of those marked` : ""];
  get("selected").replaceChildren(element("h2", { textContent: "New rows" }), element("p", { className: "hint", textContent: words.join("") + "." }), element("div", { className: "grid" }, ...listed.filter(Boolean)));
}

// --- images from outside ------------------------------------------------------------------

async function upload(file) {
  if (!file) return;
  openPanel("selected");
  get("selected").replaceChildren(element("p", { className: "hint busy", textContent: "encoding your image …" }));
  try { await select({ image: await source.upload(file), name: file.name || "your image" }); } catch (error) {
    get("selected").replaceChildren(element("p", { className: "bad", textContent: error.message }));
  }
}

function listenForImages() {
  get("upload").onclick = () => get("file").click();
  get("file").onchange = () => { upload(get("file").files[0]); get("file").value = ""; };
  addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dropping"); });
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    upload(event.dataTransfer.files[0]);
  });
  addEventListener("paste", (event) => upload([...event.clipboardData.files].find((file) => file.type.startsWith("image/"))));
}

// --- start ----------------------------------------------------------------------------

function report(error) {
  get("state").hidden = false;
  get("state").className = "bad";
  get("state").textContent = error.message;
}

function listen() {
  let typing;
  get("filter").oninput = () => { clearTimeout(typing); typing = setTimeout(() => filter(get("filter").value), 250); };
  get("filter-form").onsubmit = (event) => { event.preventDefault(); filter(get("filter").value); };
  get("colour").onchange = () => { state.category = -1; colour(get("colour").value); };
  get("lasso").onclick = () => {
    map.lassoing = !map.lassoing;
    get("lasso").ariaPressed = String(map.lassoing);
    get("map").classList.toggle("lassoing", map.lassoing);
  };
  for (const tab of get("tabs").children) tab.onclick = () => openPanel(tab.dataset.panel);
  get("tabs").onkeydown = (event) => {
    const tabs = [...get("tabs").children].filter((tab) => !tab.hidden), step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length];
    next.focus();
    openPanel(next.dataset.panel);
  };
}

// Pictures by which a map that is seen from afar can be read: the medoids of the clusters that the panel shows.
async function findLandmarks() {
  if (!info.tiles || info.rows < 200) return;
  const found = await source.clusters(CLUSTERS).catch(() => []);
  map.landmarks = found.map((cluster) => map.indexOfRow(cluster.medoid)).filter((index) => index !== undefined);
  map.draw();
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
  get("upload").hidden = !(source.can.upload && info.has_model);
  for (const name of ["tray", "path", "samples"]) document.querySelector(`[data-panel=${name}]`).hidden = !info.has_decoder;
  document.querySelector("[data-panel=review]").hidden = !source.can.review;
  get("facts").textContent = `${count(n, "row")}, ${count(info.dim, "dimension")}, neighbours kept: ${Math.round(100 * info.neighbours_kept)} %`;
  get("facts").title = "The share of each row's 10 nearest rows that are near on the map, too. Lines lead to the true ones.";
  get("colour").append(...info.columns.map((name) => element("option", { value: name, textContent: name })));
  get("colour").parentElement.hidden = !info.columns.length;
  map.fit();
  state.colour = info.columns.includes("label") ? "label" : "";
  if (source.can.watch) await watch();
  recall();
  get("state").hidden = true;
  get("filter").value = state.where;
  tools.blend = tools.tray = openBlend(app);
  Object.assign(tools, openTools(app));
  listen();
  if (source.can.upload && info.has_model) listenForImages();
  const panel = state.panel;
  for (const part of state.parts) if (part.image) source.place(one(part)).then((spot) => markImage(part, spot), () => {});
  await Promise.all([state.where && source.can.filter && filter(state.where), colour(state.colour), choose(state.thing)]);
  openPanel(panel);
  document.body.dataset.ready = "yes";
  findLandmarks();
}
start().catch((error) => { get("facts").textContent = ""; report(error); });
