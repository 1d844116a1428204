// Elements, pictures on canvases, and requests of which only the newest counts.

export const get = (id) => document.getElementById(id);

export function element(tag, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children);
  return made;
}

export function button(text, onclick, attributes = {}) {
  return element("button", { type: "button", onclick, ...attributes }, text);
}

export function paint(canvas, { image, x, y, width, height }) {
  Object.assign(canvas, { width, height });
  canvas.getContext("2d").drawImage(image, x, y, width, height, 0, 0, width, height);
  canvas.dataset.painted = Number(canvas.dataset.painted ?? 0) + 1;
}

// A canvas with a picture, empty until that is there.
export function picture(promise, label) {
  const canvas = element("canvas", { className: "picture", width: 1, height: 1 });
  canvas.setAttribute("role", label ? "img" : "presentation");
  if (label) canvas.ariaLabel = label;
  promise.then((made) => paint(canvas, made), (error) => { canvas.title = error.message; canvas.classList.add("missing"); });
  return canvas;
}

// One request at a time; of the values that arrive meanwhile, the newest is asked for next.
export function newestWins(run) {
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

// Show what is being done where it takes over half a second, then what was made or the error; of two runs, the later one's.
const runs = new WeakMap();
export async function working(box, text, run) {
  const mine = {}, put = (...children) => { if (runs.get(box) === mine) box.replaceChildren(...children); };
  runs.set(box, mine);
  const timer = setTimeout(() => put(element("p", { className: "hint busy", textContent: text })), 500);
  try {
    const children = await run();
    clearTimeout(timer);
    put(...children);
  } catch (error) {
    clearTimeout(timer);
    put(element("p", { className: "bad", textContent: error.message }));
  }
}

export const metricName = (name) => name.replace("_", " ");

// A select of options with their words.
export function choice(options, value, set, attributes = {}) {
  const made = element("select", attributes, ...Object.entries(options).map(([name, textContent]) => element("option", { value: name, textContent })));
  made.value = value;
  made.onchange = () => set(made.value);
  return made;
}

export const metricChoice = (names, value, set, attributes = {}) => choice(Object.fromEntries(names.map((name) => [name, metricName(name)])), value, set, { ariaLabel: "metric", ...attributes });

export const percent = (share) => `${Number((100 * share).toFixed(2))} %`;

// What the answer of a search promises.
export function promiseOf({ exact, recall, scanned }) {
  if (exact) return `Exact: ${count(scanned, "row")} compared.`;
  const compared = `${count(scanned, "vector")} compared`;
  return recall === null ? `No share of the true nearest is promised; ${compared}.` : `${percent(recall)} of the true nearest are promised, on average; ${compared}.`;
}

export function download(blob, name) {
  const url = URL.createObjectURL(blob);
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

export const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
