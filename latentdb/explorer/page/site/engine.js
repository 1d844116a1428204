// The worker of a site: holds the latents, searches them, and decodes with ONNX Runtime.

import { blend } from "./latents.js";
import { unpacked } from "./unpack.js";

let decoder, indexOfRow, latents, session;

async function load(path, what) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path} is missing from this site (${answer.status})`);
  const total = Number(answer.headers.get("content-length")), parts = [], reader = answer.body.getReader();
  for (let size = 0, last = 0; ;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    size += value.length;
    if (size - last > 1e6) { last = size; postMessage({ progress: `loading ${what}: ${(size / 1e6).toFixed(0)}${total ? ` of ${(total / 1e6).toFixed(0)}` : ""} MB` }); }
  }
  return new Blob(parts).arrayBuffer();
}

// What is needed twice at once is loaded once; what failed is tried again.
function once(make) {
  let made;
  return () => (made ??= make().catch((error) => { made = undefined; throw error; }).finally(() => postMessage({ progress: "" })));
}

const openLatents = once(async () => {
  const data = await load("data/latents.bin", "latents"), head = new DataView(data);
  if (head.getUint32(0) !== 0x4c44425a || head.getUint32(4, true) !== 1) throw new Error("data/latents.bin has an unknown format: export the site anew");
  const n = head.getUint32(8, true), dim = head.getUint32(12, true);
  const low = new Float32Array(data, 16, dim), step = new Float32Array(data, 16 + 4 * dim, dim);
  const steps = new Uint16Array(data, 16 + 8 * dim, n * dim), values = new Float32Array(n * dim);
  for (let i = 0, at = 0; i < n; i++) for (let j = 0; j < dim; j++, at++) values[at] = low[j] + steps[at] * step[j];
  latents = { n, dim, values };
});

const openDecoder = once(async () => {
  const ort = await import("./ort/ort.wasm.bundle.min.mjs");
  ort.env.wasm.numThreads = 1; // more need headers that few web servers send
  ort.env.wasm.wasmBinary = await unpacked(await load("ort/ort-wasm-simd-threaded.wasm.gz", "the decoder"));
  session = await ort.InferenceSession.create(await load("data/decoder.onnx", "the decoder"), { logSeverityLevel: 4 });
  session.tensorOf = (vector) => new ort.Tensor("float32", vector, [1, vector.length]);
});

const at = (row) => {
  const index = indexOfRow.get(row);
  if (index === undefined) throw new Error(`row ${row} is not in this site`);
  return latents.values.subarray(index * latents.dim, (index + 1) * latents.dim);
};
const resolve = ({ parts, method }) => blend(parts.map(({ row }) => at(row)), parts.map(({ weight }) => weight), method);

function near({ recipe, k, except }) {
  const { n, dim, values } = latents, wanted = resolve(recipe), found = [];
  for (let i = 0, from = 0; i < n; i++, from += dim) {
    let square = 0;
    for (let j = 0; j < dim; j++) { const gap = values[from + j] - wanted[j]; square += gap * gap; }
    if (found.length === k && square >= found[k - 1].square) continue;
    if (except !== undefined && i === indexOfRow.get(except)) continue;
    let place = found.length;
    while (place && found[place - 1].square > square) place--;
    found.splice(place, 0, { index: i, square });
    if (found.length > k) found.pop();
  }
  return found.map(({ index, square }) => ({ index, distance: Math.sqrt(square) }));
}

async function decode({ recipe }) {
  const { height, width, channels, scale, offset } = decoder;
  const output = await session.run({ [session.inputNames[0]]: session.tensorOf(resolve(recipe)) });
  const values = output[session.outputNames[0]].data, pixels = new Uint8ClampedArray(4 * height * width);
  if (values.length !== height * width * channels) throw new Error(`the decoder gives ${values.length} numbers: expected ${height * width * channels}`);
  for (let i = 0; i < height * width; i++) {
    for (let channel = 0; channel < 3; channel++) {
      const c = Math.min(channel, channels - 1);
      pixels[4 * i + channel] = values[i * channels + c] * (scale[c] ?? scale[0]) + (offset[c] ?? offset[0]);
    }
    pixels[4 * i + 3] = 255;
  }
  return { pixels, width, height };
}

onmessage = async ({ data }) => {
  if (data.task === "open") {
    decoder = data.decoder;
    indexOfRow = new Map(Array.from(data.rows, (row, index) => [row, index]));
    return;
  }
  try {
    await openLatents();
    if (data.task === "decode") await openDecoder();
    postMessage({ id: data.id, result: await (data.task === "decode" ? decode(data) : near(data)) });
  } catch (error) {
    postMessage({ id: data.id, error: error.message });
  }
};
