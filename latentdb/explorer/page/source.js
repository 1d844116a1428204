// What the page shows, from the server.  `site.js` gives the same from files; a site has it in this place.

const API = "api/v1/";
let version = "";

async function ask(path, body) {
  const options = body && { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  let answer;
  try { answer = await fetch(API + path, options); } catch { throw new Error("the server does not answer: is `latentdb serve` still running?"); }
  if (answer.ok) return answer;
  throw new Error((await answer.json().catch(() => ({}))).error ?? `the server answered ${answer.status}`);
}
const askJson = async (path, body) => (await ask(path, body)).json();

async function imageAt(url) {
  const image = new Image();
  image.src = url;
  try { await image.decode(); } catch { throw new Error("this picture cannot be loaded"); }
  return image;
}
const whole = (image) => ({ image, x: 0, y: 0, width: image.width, height: image.height });

export const source = {
  can: { filter: true },
  async open() {
    const info = await askJson("info");
    version = info.version;
    return info;
  },
  async points() { return (await ask("points")).arrayBuffer(); },
  column: (name) => askJson("columns/" + encodeURIComponent(name)),
  filter: async (where) => (await askJson("filter?" + new URLSearchParams({ where }))).points,
  row: (row) => askJson(`rows/${row}`),
  neighbours: (row, k) => askJson(`neighbors/${row}?k=${k}`),
  near: (recipe, k) => askJson(`query?k=${k}`, recipe),
  // Pictures are {image, x, y, width, height}: a part of something that a canvas can draw.
  async decode(recipe) { return whole(await createImageBitmap(await (await ask("decode", recipe)).blob())); },
  picture: async (row) => whole(await imageAt(`${API}thumb/${row}?v=${version}`)),
  tile: (number) => imageAt(`${API}tiles/${number}?v=${version}`),
};
