// The panels beside the selection and the blend: paths, samples, clusters, and lists to go through.

import { one } from "./blend.js";
import { button, choice, count, download, element, get, metricChoice, metricName, paint, picture, working } from "./dom.js";

export const CLUSTERS = 20;
const STEPS = 9, FRAMES = 24, SAMPLES = 16, SHOWN = 60;
const frameOf = (step) => Math.round((step * (FRAMES - 1)) / (STEPS - 1));

function openPath(app) {
  const { state, source } = app;
  let frames = [], key = "", playing = 0;

  function ends() { return state.parts.length > 1 ? [state.parts[0], state.parts.at(-1)] : null; }
  const between = ([from, to], t) => ({ parts: [{ ...one(from).parts[0], weight: 1 - t }, { ...one(to).parts[0], weight: t }], method: state.method });

  async function pngOf() {
    const { width, height } = frames[0], canvas = element("canvas", { width: width * STEPS, height }), pen = canvas.getContext("2d");
    for (let step = 0; step < STEPS; step++) {
      const { image, x, y } = frames[frameOf(step)];
      pen.drawImage(image, x, y, width, height, step * width, 0, width, height);
    }
    return new Promise((resolve) => canvas.toBlob(resolve));
  }

  function show(pair) {
    const view = picture(Promise.resolve(frames[0]), "a point of the path"), position = element("input", { id: "position", type: "range", min: 0, max: FRAMES - 1, value: 0, ariaLabel: "position on the path" });
    const strip = element("div", { className: "strip" });
    view.classList.add("large");
    const at = (frame) => paint(view, frames[frame]);
    position.oninput = () => at(Number(position.value));
    for (let step = 0; step < STEPS; step++) {
      const frame = frameOf(step);
      const open = button("", () => { position.value = frame; at(frame); }, { className: "plain", ariaLabel: `step ${step + 1} of ${STEPS}` });
      open.append(picture(Promise.resolve(frames[frame]), ""));
      strip.append(open);
    }
    const play = button("play", () => {
      if (playing) { clearInterval(playing); playing = 0; play.textContent = "play"; return; }
      let tick = Number(position.value);
      play.textContent = "stop";
      playing = setInterval(() => {
        if (!play.isConnected) { clearInterval(playing); playing = 0; return; }
        tick = (tick + 1) % (2 * FRAMES - 2);
        position.value = tick < FRAMES ? tick : 2 * FRAMES - 2 - tick;
        at(Number(position.value));
      }, 80);
    }, { id: "play" });
    const method = choice({ linear: "linear", slerp: "slerp" }, state.method, (name) => { state.method = get("method").value = name; open(); }, { id: "path-method", ariaLabel: "method" });
    const actions = element("p", { className: "bar" }, play, method, button("save PNG", async () => download(await pngOf(), "path.png"), { id: "save-png" }));
    if (source.can.gif) actions.append(button("save GIF", async (event) => {
      event.target.disabled = true;
      try { download(await source.gif(one(pair[0]), one(pair[1]), FRAMES, state.method), "path.gif"); } finally { event.target.disabled = false; }
    }, { id: "save-gif" }));
    return [element("p", { className: "hint", textContent: `From ${app.nameOf(pair[0])} to ${app.nameOf(pair[1])}: the first and the last of the blend.` }), view, position, strip, actions];
  }

  async function open() {
    const pair = ends(), now = JSON.stringify([pair, state.method]);
    if (!pair) {
      key = "";
      get("path").replaceChildren(element("p", { className: "hint", textContent: "Add two rows to the blend: the path between the first and the last of it appears here." }));
      return;
    }
    if (now === key) return;
    key = now;
    await working(get("path"), "decoding the path …", async () => {
      frames = await source.decode(Array.from({ length: FRAMES }, (_, frame) => between(pair, frame / (FRAMES - 1))));
      return show(pair);
    });
    if (!frames.length) key = "";
  }
  return { open };
}

function openSamples(app) {
  let seed = 0, from = "prior", drawn = "";
  async function open() {
    if (drawn === `${from} ${seed}`) return;
    drawn = `${from} ${seed}`;
    await working(get("samples"), "drawing …", async () => {
      const things = Array.from({ length: SAMPLES }, (_, number) => ({ sample: [seed, number], source: from }));
      const made = await app.source.decode(things.map(one));
      const sources = choice({ prior: "the prior, N(0, 1)", aggregate: "a Gaussian fitted to the rows" }, from, (name) => { from = name; open(); }, { id: "sample-source", ariaLabel: "source" });
      const cells = things.map((thing, number) => {
        const cell = button("", () => app.select(thing), { title: "select this sample" });
        cell.append(picture(Promise.resolve(made[number]), app.nameOf(thing)));
        return cell;
      });
      return [
        element("p", { className: "hint", textContent: "Latents that no row has. If those of the prior look worse than those of the Gaussian, the rows are not where the prior is." }),
        element("p", { className: "bar" }, sources, button("others", () => { seed++; open(); }, { id: "again" })),
        element("div", { className: "grid" }, ...cells),
      ];
    });
  }
  return { open };
}

function openClusters(app) {
  let done = false;
  async function open() {
    if (done) return;
    done = true;
    await working(get("clusters"), "grouping all rows …", async () => {
      const n = Math.min(CLUSTERS, app.info.rows), found = await app.source.clusters(n).catch((error) => { done = false; throw error; });
      return [
        element("p", { className: "hint", textContent: app.info.has_decoder ? "k-means over all rows: the decoded mean of each cluster, then the row nearest to it and others." : "k-means over all rows: the row nearest to each mean, and others." }),
        ...found.map((cluster) => {
          const thing = { cluster: [n, cluster.number], name: `mean of cluster ${cluster.number + 1}` }, line = element("div", { className: "line" });
          const cell = (what, title, className = "plain") => { const made = button("", () => app.select(what), { className, title }); made.append(app.info.has_model ? app.thumbOf(what, title) : title); return made; };
          if (app.info.has_decoder) line.append(cell(thing, thing.name, "plain mean"));
          for (const row of [cluster.medoid, ...cluster.nearest].slice(0, 5)) line.append(cell({ row }, `row ${row}`));
          const label = cluster.label === null ? "" : `, ${Math.round(100 * cluster.purity)} % ${cluster.label}`;
          return element("div", {}, element("h3", { textContent: `${cluster.number + 1}: ${count(cluster.size, "row")}${label}` }), line);
        }),
      ];
    });
  }
  return { open };
}

function openReview(app) {
  const box = element("div", { id: "list" }), note = (text) => element("p", { className: "hint", textContent: text });
  const metrics = app.info.metrics.filter((name) => name !== "kl");
  let metric = "l2", last = null; // that of `latentdb duplicates` and `latentdb outliers`

  async function copies() {
    const found = await app.source.duplicates(metric), shown = found.groups.slice(0, SHOWN), within = `within ${found.threshold.toPrecision(3)} of each other by ${metricName(found.metric)}`;
    const words = found.count ? `${count(found.count, "group")} of rows ${within}, the farthest apart first${found.count > shown.length ? `; ${shown.length} shown` : ""}.` : `No two rows are ${within}.`;
    return [note(words), ...found.notes.map(note), ...shown.map((group) => element("div", {}, element("h3", { textContent: group.exact ? "equal files" : "near copies" }), element("div", { className: "grid" }, ...group.rows.map(({ row, distance }, place) => app.rowButton(row, place ? distance.toPrecision(3) : "keep")))))];
  }

  const outliers = (measure) => async () => {
    const found = await app.source.outliers(measure, metric);
    const words = { error: "Reconstruction error, beside how textured the image is.", kl: "Divergence of the posterior from the prior, in nats.", distance: `Mean distance of the 10 nearest rows by ${metricName(found.metric)}.` };
    return [note(words[found.by]), ...found.notes.map(note), element("div", { className: "grid" }, ...found.rows.slice(0, SHOWN).map(({ row, value }) => app.rowButton(row, value.toPrecision(3))))];
  };

  const lists = { copies, error: outliers("error"), kl: outliers("kl"), distance: outliers("distance") };
  const names = { copies: "copies", error: "outliers by error", kl: "by KL", distance: "by distance" };
  const buttons = Object.keys(lists).map((name) => button(names[name], () => open(name), { id: `by-${name}`, ariaPressed: "false" }));
  const metricsOf = metricChoice(metrics, metric, (name) => { metric = name; if (["copies", "distance"].includes(last)) open(last); }, { title: "metric of copies and distances" });

  function open(name) {
    last = name;
    for (const one of buttons) one.ariaPressed = String(one.id === `by-${name}`);
    return working(box, `looking at all rows, ${names[name]} …`, lists[name]);
  }

  get("review").replaceChildren(element("p", { className: "bar" }, ...buttons, metricsOf), box);
  box.append(note("Lists of rows to look at: copies of each other, and rows unlike the others. Each looks at all rows, which takes a while for many."));
  return {};
}

export function openTools(app) {
  return { path: openPath(app), samples: openSamples(app), clusters: openClusters(app), review: openReview(app) };
}
