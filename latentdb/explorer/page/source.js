// What the page shows, from the server.  A site has `site/source.js` in this place, which reads files.

const API = "api/v1/";
let version = "";

async function ask(path, options) {
  let answer;
  try { answer = await fetch(API + path, options); } catch { throw new Error("the server does not answer: is `latentdb serve` still running?"); }
  if (answer.ok) return answer;
  throw new Error((await answer.json().catch(() => ({}))).error ?? `the server answered ${answer.status}`);
}
const post = (path, body) => ask(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
const json = async (answer) => (await answer).json();

async function imageAt(url) {
  const image = new Image();
  image.src = url;
  try { await image.decode(); } catch { throw new Error("this picture cannot be loaded"); }
  return image;
}
const whole = (image) => ({ image, x: 0, y: 0, width: image.width, height: image.height });
async function strip(answer, count) {
  const image = await createImageBitmap(await (await answer).blob()), width = image.width / count;
  return Array.from({ length: count }, (_, number) => ({ image, x: number * width, y: 0, width, height: image.height }));
}

// Pictures are {image, x, y, width, height}: a part of something that a canvas can draw.
export const source = {
  can: { filter: true, upload: true, review: true, gif: true, watch: true },
  async open() {
    const info = await json(ask("info"));
    version = info.version;
    return info;
  },
  points: async () => (await ask("points")).arrayBuffer(),
  column: (name) => json(ask("columns/" + encodeURIComponent(name))),
  filter: async (where) => (await json(ask("filter?" + new URLSearchParams({ where })))).points,
  row: (row) => json(ask(`rows/${row}`)),
  neighbours: (row, k, metric, exact) => json(ask(`neighbors/${row}?k=${k}&metric=${metric}&exact=${exact}`)),
  near: (blend, k, metric, exact) => json(post(`query?k=${k}&metric=${metric}&exact=${exact}`, blend)),
  place: async (blend) => (await json(post("place", blend))).points[0],
  added: (known) => json(ask("added" + (known === null ? "" : `?known=${known}`))),
  decode: (blends) => strip(post("decode", { blends }), blends.length),
  gif: async (from, to, steps, method) => (await post("interpolate", { from, to, steps, method, format: "gif" })).blob(),
  dimensions: () => json(ask("dimensions")),
  directions: async () => (await json(ask("directions"))).directions,
  clusters: async (n) => (await json(ask(`clusters?n=${n}`))).clusters,
  duplicates: (metric) => json(ask(`duplicates?metric=${metric}`)),
  outliers: (by, metric) => json(ask(`outliers?by=${by}&metric=${metric}`)),
  upload: async (file) => (await json(ask("images", { method: "POST", headers: { "content-type": file.type || "image/unknown" }, body: file }))).image,
  uploaded: async (token) => whole(await imageAt(`${API}images/${token}`)),
  picture: async (row) => whole(await imageAt(`${API}thumb/${row}?v=${version}`)),
  tile: (number) => imageAt(`${API}tiles/${number}?v=${version}`),
};
