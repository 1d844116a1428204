// What the page shows, from the files of a site: nothing is asked of a server but these files.

import { cellOf, indexFor, inPolygon } from "./map.js";
import { parsed } from "./unpack.js";

let info, rows, points, indexOfRow;
const columns = {};
const tiles = new Map(), KEPT_TILES = 64;

async function load(name, kind) {
  let answer;
  try { answer = await fetch("data/" + name); } catch { throw new Error(`data/${name} cannot be loaded: is the web server still running?`); }
  if (!answer.ok) throw new Error(`data/${name} is missing from this site (${answer.status})`);
  return answer[kind]();
}

const loadJson = async (name) => parsed(await load(name, "arrayBuffer"));
let table;
const facts = () => (table ??= loadJson("rows.json.gz").then((loaded) => ({ ...loaded, decoded: new Set(loaded.decoded) })));

// The worker that holds the latents and the decoder; it starts when it is first needed.
let engine, asked = 0;
const waiting = new Map();
function compute(task, rest) {
  if (!engine) {
    engine = new Worker("engine.js", { type: "module" });
    engine.onmessage = ({ data }) => {
      if (data.progress !== undefined) { source.onProgress(data.progress); return; }
      const [resolve, reject] = waiting.get(data.id);
      waiting.delete(data.id);
      if (data.error === undefined) resolve(data.result); else reject(new Error(data.error));
    };
    engine.onerror = (event) => {
      for (const [, reject] of waiting.values()) reject(new Error(event.message || "engine.js cannot be run"));
      waiting.clear();
    };
    engine.postMessage({ task: "open", decoder: info.decoder, centre: info.centre });
  }
  return new Promise((resolve, reject) => {
    waiting.set(++asked, [resolve, reject]);
    engine.postMessage({ id: asked, task, ...rest });
  });
}

const described = (index, { metadata }) => Object.fromEntries(info.columns.map((name) => [name, metadata[name][index]]).filter(([, value]) => value !== null));

// The points that a part selects: within a polygon, or of a category of a column.
async function selected({ polygon, category }) {
  const codes = category && (await source.column(category[0])).codes, found = [];
  for (let i = 0; i < info.rows; i++) {
    if (codes && codes[i] !== category[1]) continue;
    if (!polygon || inPolygon(points[2 * i], points[2 * i + 1], polygon)) found.push(i);
  }
  if (!found.length) throw new Error("no row is selected: there is nothing to average");
  return found;
}

// A blend as the worker takes it: rows as points, selections as lists of points.
async function translated({ parts, method, shifts, directions }) {
  const translate = async (part) => {
    if (part.row !== undefined) return { point: indexOfRow(part.row), weight: part.weight };
    if (part.polygon || part.category) return { points: await selected(part), weight: part.weight };
    return part;
  };
  return { parts: await Promise.all(parts.map(translate)), method, shifts, directions };
}

export const source = {
  can: {},
  onProgress: () => {},
  async open() {
    info = JSON.parse(await load("site.json", "text"));
    if (info.format !== 1) throw new Error("this site is of another version of latentdb: export it anew");
    return info;
  },
  async points() {
    const data = await load("points.bin", "arrayBuffer");
    rows = new Uint32Array(data, 16, info.rows);
    points = new Float32Array(data, 16 + 4 * info.rows, 2 * info.rows);
    indexOfRow = indexFor(rows);
    return data;
  },
  column(name) {
    columns[name] ??= loadJson(`columns/${info.columns.indexOf(name)}.json.gz`);
    return columns[name];
  },
  async row(row) {
    const index = indexOfRow(row), table = await facts();
    return { row, id: table.ids[index], file_exists: !table.decoded.has(index), metadata: described(index, table) };
  },
  neighbours: (row, k, metric) => source.near({ parts: [{ row, weight: 1 }] }, k, metric, true, indexOfRow(row)),
  async near(blend, k, metric, _, except) {
    const [{ found, norm }, table] = await Promise.all([translated(blend).then((made) => compute("near", { blend: made, k, metric, except })), facts()]);
    const matches = found.map(({ index, distance }) => ({ row: rows[index], id: table.ids[index], distance, metadata: described(index, table) }));
    return { metric, exact: true, recall: 1, scanned: info.rows, matches, norm };
  },
  // Between the five nearest rows, weighted by 1 / d², as latentdb.insight.layout.place does it with those that are laid out.
  async place(blend) {
    const { found } = await compute("near", { blend: await translated(blend), k: 5, metric: "l2" }), least = Math.max(found[0].distance, 1e-30);
    let x = 0, y = 0, total = 0;
    for (const { index, distance } of found) {
      const weight = (least / Math.max(distance, 1e-30)) ** 2;
      x += weight * points[2 * index];
      y += weight * points[2 * index + 1];
      total += weight;
    }
    return [x / total, y / total];
  },
  async decode(blends) {
    const made = await compute("decode", { blends: await Promise.all(blends.map(translated)) });
    return Promise.all(made.map(async ({ pixels, width, height }) => ({ image: await createImageBitmap(new ImageData(pixels, width, height)), x: 0, y: 0, width, height })));
  },
  dimensions: () => loadJson("dimensions.json.gz"),
  directions: async () => (await loadJson("directions.json.gz")).directions,
  clusters: async () => (await loadJson("clusters.json.gz")).clusters,
  async picture(row) {
    const { tile, ...cell } = cellOf(indexOfRow(row), info.tiles);
    return { image: await source.tile(tile), ...cell };
  },
  tile(number) {
    if (!tiles.has(number)) {
      if (tiles.size >= KEPT_TILES) tiles.delete(tiles.keys().next().value);
      const image = new Image();
      image.src = `data/tiles/${number}.jpg`;
      tiles.set(number, image.decode().then(() => image, () => { tiles.delete(number); throw new Error("this picture cannot be loaded"); }));
    }
    return tiles.get(number);
  },
};
