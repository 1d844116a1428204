// The tray: latents with weights, moved along dimensions and directions, decoded while they change.

import { button, element, get, metricName, newestWins, paint, promiseOf, working } from "./dom.js";

const DIMENSIONS = 8;

// A thing alone, as a blend.
export const one = ({ weight, name, ...part }) => ({ parts: [{ ...part, weight: 1 }] });

export function openBlend(app) {
  const { state, source } = app;
  let pause;

  const blendOf = () => {
    const used = (factors) => Object.fromEntries(Object.entries(factors).filter(([, value]) => value));
    return { parts: state.parts.map(({ name, ...part }) => part), method: state.method, shifts: used(state.shifts), directions: used(state.directions) };
  };

  const decode = newestWins(async (blend) => {
    const note = get("blend-note");
    try {
      const began = performance.now(), [made] = await source.decode([blend]);
      paint(get("blend"), made);
      note.className = "";
      note.textContent = `decoded in ${Math.round(performance.now() - began)} ms`;
      app.placeBlend(blend);
    } catch (error) {
      app.placeBlend(null);
      note.className = "bad";
      note.textContent = error.message;
    }
  });

  const search = newestWins(async (blend, newest) => {
    try {
      const found = await source.near(blend, 8, app.metricFor({}), state.exact);
      if (!newest()) return;
      get("near-promise").textContent = promiseOf(found);
      get("near-title").textContent = `Nearest to the blend by ${metricName(found.metric)}`;
      get("near").replaceChildren(...app.grid(found.matches));
      showLength(found.norm);
    } catch { // the blend says why
      get("near").replaceChildren();
      get("near-promise").textContent = "";
      get("shell").hidden = true;
    }
  });

  // How long the latent is beside those of the rows: the decoder never saw much longer or shorter ones.
  function showLength(norm) {
    const [low, , high] = app.info.shell, outside = norm < low || norm > high;
    get("shell").hidden = false;
    get("norm").textContent = `|z| ${norm.toFixed(2)}; nine of ten rows: ${low.toFixed(2)} to ${high.toFixed(2)}`;
    get("norm").className = outside ? "warn" : "";
    Object.assign(get("gauge"), { min: 0, max: Math.max(1.5 * high, norm), low, high, optimum: (low + high) / 2, value: norm });
  }

  function renew() {
    app.remember();
    if (!state.parts.length) { app.placeBlend(null); return; }
    const blend = blendOf();
    decode(blend);
    clearTimeout(pause);
    pause = setTimeout(() => search(blend), 250);
  }

  function slider(label, value, [min, max], set, ...rest) {
    const shown = element("output", { textContent: value.toFixed(2) });
    const input = element("input", { type: "range", min, max, step: 0.01, ariaLabel: label });
    input.value = value;
    input.oninput = () => { shown.textContent = Number(input.value).toFixed(2); set(Number(input.value)); renew(); };
    return [input, shown, ...rest];
  }

  function draw() {
    get("tray-empty").hidden = state.parts.length > 0;
    get("tray-full").hidden = !state.parts.length;
    get("method").value = state.method;
    document.querySelector("[data-panel=tray]").textContent = state.parts.length ? `Blend (${state.parts.length})` : "Blend";
    get("parts").replaceChildren(...state.parts.map((part) => {
      const name = app.nameOf(part);
      const remove = button("×", () => { state.parts.splice(state.parts.indexOf(part), 1); draw(); }, { ariaLabel: `remove ${name}` });
      const open = button("", () => { const { weight, ...thing } = part; app.select(thing); }, { className: "plain", title: name });
      open.append(app.thumbOf(part, name));
      return element("div", { className: "part" }, open, ...slider(`weight of ${name}`, part.weight, [-1, 2], (weight) => { part.weight = weight; }, remove));
    }));
    if (get("moves").open) drawMoves();
    renew();
  }

  let known;
  const drawMoves = () => working(get("sliders"), "measuring what each dimension changes …", async () => {
    const [{ dimensions }, directions] = known ??= await Promise.all([source.dimensions(), source.directions()]);
    const line = (name, title, factors, key, range) => element("div", { className: "part", title }, element("span", { className: "name", textContent: name }), ...slider(name, factors[key] ?? 0, range, (value) => { factors[key] = value; }));
    return [
      ...directions.map(({ name, text }) => line(`@${name}`, text, state.directions, name, [-2, 2])),
      ...dimensions.slice(0, DIMENSIONS).map(({ number, effect }) => line(`dim ${number}`, effect === null ? "" : `changes a pixel by ${(255 * effect).toFixed(1)} levels for each deviation`, state.shifts, number, [-4, 4])),
      button("set to 0", () => { state.shifts = {}; state.directions = {}; drawMoves(); renew(); }),
    ];
  });

  get("method").onchange = () => { state.method = get("method").value; renew(); };
  get("clear").onclick = () => { Object.assign(state, { parts: [], shifts: {}, directions: {} }); draw(); };
  get("moves").ontoggle = () => { if (get("moves").open) drawMoves(); };
  if (Object.keys(state.shifts).length || Object.keys(state.directions).length) get("moves").open = true;
  draw();
  return {
    blendOf,
    add(thing) {
      const same = JSON.stringify(thing);
      if (!state.parts.some(({ weight, ...part }) => JSON.stringify(part) === same)) state.parts.push({ ...thing, weight: 1 });
      draw();
      app.open("tray");
    },
  };
}
