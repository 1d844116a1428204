// The worker of a site: holds the latents, searches them, and decodes with ONNX Runtime.

import { blend } from "./latents.js";
import { parsed, unpacked } from "./unpack.js";

let decoder, centre, latents, session, statistics, clusters, directions;

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
  session.tensorOf = (vectors, dim) => new ort.Tensor("float32", vectors, [vectors.length / dim, dim]);
});

const json = async (path) => parsed(await load(path, path));
const openStatistics = once(async () => { statistics = await json("data/statistics.json.gz"); });
const openClusters = once(async () => { clusters = (await json("data/clusters.json.gz")).means; });
const openDirections = once(async () => { directions = (await json("data/directions.json.gz")).directions; });

const at = (index) => {
  if (!(index < latents.n)) throw new Error("this row is not in this site");
  return latents.values.subarray(index * latents.dim, (index + 1) * latents.dim);
};

// Normal numbers from a seed: mulberry32, then Box and Muller.
function normals(seed, size) {
  let a = seed >>> 0;
  const uniform = () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = a;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  return Float64Array.from({ length: size }, () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()));
}

async function sampled([seed, number], source) {
  const drawn = normals(seed * 1000 + number + 1, latents.dim);
  if (source !== "aggregate") return drawn;
  await openStatistics();
  const { mean, factor } = statistics; // factor times its transpose is the covariance
  return mean.map((middle, i) => factor[i].length ? factor[i].reduce((sum, value, j) => sum + value * drawn[j], middle) : middle + factor[i] * drawn[i]);
}

async function vectorOf(part) {
  if (part.point !== undefined) return at(part.point);
  if (part.points) {
    const sum = new Float64Array(latents.dim);
    for (const index of part.points) at(index).forEach((value, i) => { sum[i] += value; });
    return sum.map((value) => value / part.points.length);
  }
  if (part.sample) return sampled(part.sample, part.source);
  if (part.cluster) {
    await openClusters();
    return clusters[part.cluster[1]];
  }
  throw new Error("this part of the blend needs latentdb serve");
}

async function resolve({ parts, method, shifts = {}, directions: factors = {} }) {
  const vector = blend(await Promise.all(parts.map(vectorOf)), parts.map(({ weight }) => weight), method);
  for (const [dimension, by] of Object.entries(shifts)) {
    await openStatistics();
    vector[dimension] += by * statistics.sd[dimension];
  }
  for (const [name, factor] of Object.entries(factors)) {
    await openDirections();
    directions.find((one) => one.name === name)?.vector.forEach((value, i) => { vector[i] += factor * value; });
  }
  return vector;
}

const length = (vector) => Math.sqrt(vector.reduce((sum, value) => sum + value * value, 0));

// A function of where a latent begins among the values: its distance from one by a metric, as latentdb.ann.metrics has it.
function distanceFrom(wanted, metric) {
  const { dim, values } = latents;
  if (metric === "l2") return (from) => {
    let square = 0;
    for (let j = 0; j < dim; j++) { const gap = values[from + j] - wanted[j]; square += gap * gap; }
    return Math.sqrt(square);
  };
  const origin = metric === "centered_cosine" ? centre : new Float64Array(dim), to = Float64Array.from(wanted, (value, j) => value - origin[j]);
  const long = length(to), unit = to.map((value) => value / (long || 1));
  return (from) => {
    let product = 0, square = 0;
    for (let j = 0; j < dim; j++) { const value = values[from + j] - origin[j]; product += value * unit[j]; square += value * value; }
    return (Number(long > 0) + Number(square > 0)) / 2 - (square && product / Math.sqrt(square));
  };
}

async function near({ blend: wish, k, metric, except }) {
  const wanted = await resolve(wish), distanceOf = distanceFrom(wanted, metric), found = [];
  for (let i = 0; i < latents.n; i++) {
    const distance = distanceOf(i * latents.dim);
    if (found.length === k && distance >= found[k - 1].distance) continue;
    if (i === except) continue;
    let place = found.length;
    while (place && found[place - 1].distance > distance) place--;
    found.splice(place, 0, { index: i, distance });
    if (found.length > k) found.pop();
  }
  return { found, norm: length(wanted) };
}

async function decode({ blends }) {
  const { height, width, channels, scale, offset } = decoder, { dim } = latents, size = height * width * channels;
  const vectors = new Float32Array(blends.length * dim);
  for (const [number, wish] of blends.entries()) vectors.set(await resolve(wish), number * dim);
  const output = await session.run({ [session.inputNames[0]]: session.tensorOf(vectors, dim) });
  const values = output[session.outputNames[0]].data;
  if (values.length !== blends.length * size) throw new Error(`the decoder gives ${values.length} numbers: expected ${blends.length * size}`);
  return blends.map((_, number) => {
    const pixels = new Uint8ClampedArray(4 * height * width);
    for (let i = 0; i < height * width; i++) {
      for (let channel = 0; channel < 3; channel++) {
        const c = Math.min(channel, channels - 1);
        pixels[4 * i + channel] = values[number * size + i * channels + c] * (scale[c] ?? scale[0]) + (offset[c] ?? offset[0]);
      }
      pixels[4 * i + 3] = 255;
    }
    return { pixels, width, height };
  });
}

onmessage = async ({ data }) => {
  if (data.task === "open") {
    ({ decoder, centre } = data);
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
