// Run in the page: each action is done some times, and gives the milliseconds that each took.

const get = (selector) => document.querySelector(selector);
const frame = () => new Promise(requestAnimationFrame);
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const changed = (node, options) => new Promise((done, failed) => {
  setTimeout(() => failed(new Error(`#${node.id} did not change within 20 s`)), 20000);
  const seen = new MutationObserver(() => { seen.disconnect(); done(); });
  seen.observe(node, options);
});

async function timed(times, act) {
  const list = [];
  for (let i = 0; i < times; i++) {
    const began = performance.now();
    list.push((await act(i)) ?? performance.now() - began);
  }
  return list;
}

const actions = {
  neighbours: (times, rows, api) => timed(times, async () => {
    await (await fetch(`${api}/neighbors/${Math.floor(Math.random() * rows)}?k=12`)).json();
  }),

  walk: (times) => timed(times, async (i) => {
    const shown = changed(get("#selected"), { childList: true });
    document.querySelectorAll("#selected .grid button")[1 + (i % 11)].click();
    await shown;
  }),

  slide: (times) => timed(times, async (i) => {
    const input = get("#parts input");
    const painted = changed(get("#blend"), { attributes: true, attributeFilter: ["data-painted"] });
    input.value = 0.1 + (1.9 * i) / times;
    input.dispatchEvent(new Event("input", { bubbles: true }));
    await painted;
  }),

  // The map shows everything.
  async hover(times, api) {
    const data = await (await fetch(`${api}/points`)).arrayBuffer(), map = get("#map");
    const n = new DataView(data).getUint32(8, true), points = new Float32Array(data, 16 + 4 * n, 2 * n);
    let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
    for (let i = 0; i < points.length; i += 2) {
      left = Math.min(left, points[i]); right = Math.max(right, points[i]);
      top = Math.min(top, points[i + 1]); bottom = Math.max(bottom, points[i + 1]);
    }
    const { clientWidth: width, clientHeight: height } = map, box = map.getBoundingClientRect();
    const scale = 0.92 * Math.min(width / (right - left), height / (bottom - top));
    const move = (x, y) => map.dispatchEvent(new PointerEvent("pointermove", { clientX: box.x + x, clientY: box.y + y, pointerType: "mouse", bubbles: true }));
    return timed(times, async () => {
      move(1, 1);
      await pause(50);
      const at = Math.floor(Math.random() * n), began = performance.now();
      move((points[2 * at] - (left + right) / 2) * scale + width / 2, height / 2 - (points[2 * at + 1] - (top + bottom) / 2) * scale);
      while (map.style.cursor !== "pointer" && performance.now() - began < 2000) await frame();
      return performance.now() - began;
    });
  },

  // While the map moves, then when it stands.
  async drag(times) {
    const map = get("#map"), painted = () => changed(map, { attributes: true, attributeFilter: ["data-paint-ms"] });
    const press = async (i) => {
      const drawn = painted();
      map.dispatchEvent(new KeyboardEvent("keydown", { key: i % 2 ? "ArrowLeft" : "ArrowRight" }));
      await drawn;
      return Number(map.dataset.paintMs);
    };
    const moving = await timed(times, press);
    const still = await timed(5, async (i) => {
      await press(i);
      await painted();
      return Number(map.dataset.paintMs);
    });
    return [moving, still];
  },
};
