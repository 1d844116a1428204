// What the page shows, from the files of a site: nothing is asked of a server but these files.

import { unpacked } from "./unpack.js";

let info, rows, indexOfRow;
const tiles = new Map(), KEPT_TILES = 64;

async function load(name, kind) {
  let answer;
  try { answer = await fetch("data/" + name); } catch { throw new Error(`data/${name} cannot be loaded: is the web server still running?`); }
  if (!answer.ok) throw new Error(`data/${name} is missing from this site (${answer.status})`);
  return answer[kind]();
}

const loadJson = async (name) => JSON.parse(new TextDecoder().decode(await unpacked(await load(name, "arrayBuffer"))));
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
    engine.postMessage({ task: "open", decoder: info.decoder, rows });
  }
  return new Promise((resolve, reject) => {
    waiting.set(++asked, [resolve, reject]);
    engine.postMessage({ id: asked, task, ...rest });
  });
}

async function matches(found) {
  const { ids, metadata } = await facts();
  return {
    metric: "l2",
    matches: found.map(({ index, distance }) => ({
      row: rows[index], id: ids[index], distance,
      metadata: Object.fromEntries(info.columns.map((name) => [name, metadata[name][index]]).filter(([, value]) => value !== null)),
    })),
  };
}

export const source = {
  can: { filter: false },
  onProgress: () => {},
  async open() {
    info = JSON.parse(await load("site.json", "text"));
    if (info.format !== 1) throw new Error("this site is of another version of latentdb: export it anew");
    return info;
  },
  async points() {
    const data = await load("points.bin", "arrayBuffer");
    rows = new Uint32Array(data, 16, info.rows);
    indexOfRow = new Map(Array.from(rows, (row, index) => [row, index]));
    return data;
  },
  column: (name) => loadJson(`columns/${info.columns.indexOf(name)}.json.gz`),
  async row(row) {
    const index = indexOfRow.get(row), { ids, metadata, decoded } = await facts();
    return {
      row, id: ids[index], file_exists: !decoded.has(index),
      metadata: Object.fromEntries(info.columns.map((name) => [name, metadata[name][index]]).filter(([, value]) => value !== null)),
    };
  },
  neighbours: async (row, k) => matches(await compute("near", { recipe: { parts: [{ row, weight: 1 }] }, k, except: row })),
  near: async (recipe, k) => matches(await compute("near", { recipe, k })),
  async decode(recipe) {
    const { pixels, width, height } = await compute("decode", { recipe });
    const image = await createImageBitmap(new ImageData(pixels, width, height));
    return { image, x: 0, y: 0, width, height };
  },
  async picture(row) {
    const index = indexOfRow.get(row), { per_tile, columns, height, width, down, across } = info.tiles;
    const image = await source.tile(Math.floor(index / per_tile)), cell = index % per_tile;
    return { image, x: (cell % columns) * across, y: Math.floor(cell / columns) * down, width, height };
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
