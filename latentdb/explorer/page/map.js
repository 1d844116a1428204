// The map on a 2-D canvas: points, or pictures where there is room for them.

const PALETTE = ["#4e79a7", "#f28e2b", "#e15759", "#76b7b2", "#59a14f", "#edc948", "#b07aa1", "#ff9da7", "#9c755f", "#7f8c9b", "#1b9e77", "#d95f02", "#7570b3", "#e7298a", "#66a61e", "#e6ab02", "#a6761d", "#3b8bba", "#c44e52", "#8172b3"];
const PLAIN = "#5b8fc9", DIMMED = "#8888884d";
const MAX_PICTURES = 250, PICTURE = 36, CLICK = 4, MAX_TILES = 64, KEPT_TILES = 128, AT_ONCE = 4;

export const colourOf = (code) => (code < 0 ? "#888888" : PALETTE[code % PALETTE.length]);

export class PointMap {
  constructor(canvas, { tileOf, onPick, onMove }) {
    Object.assign(this, { canvas, tileOf, onPick, onMove });
    this.context = canvas.getContext("2d");
    this.rows = new Uint32Array(0);
    this.points = new Float32Array(0);
    this.codes = null;
    this.shown = null; // 1 for the points that a filter or the legend keeps
    this.selected = -1;
    this.near = [];
    this.view = { x: 0, y: 0, scale: 1 };
    this.tiles = null; // their form, where there are pictures
    this.images = new Map(); // of tiles: null while they load
    this.loading = 0;
    new ResizeObserver(() => this.draw()).observe(canvas);
    this.listen();
  }

  setPoints(rows, points) {
    Object.assign(this, { rows, points });
    this.indexOfRow = new Map(Array.from(rows, (row, index) => [row, index]));
  }

  fit() {
    let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
    for (let i = 0; i < this.points.length; i += 2) {
      left = Math.min(left, this.points[i]); right = Math.max(right, this.points[i]);
      top = Math.min(top, this.points[i + 1]); bottom = Math.max(bottom, this.points[i + 1]);
    }
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const scale = 0.92 * Math.min(width / (right - left || 1), height / (bottom - top || 1));
    this.view = { x: (left + right) / 2, y: (top + bottom) / 2, scale };
    this.moved();
  }

  moved() { this.draw(); this.onMove(); }

  draw() {
    this.frame ??= requestAnimationFrame(() => { this.frame = null; this.paint(); });
  }

  place(index) {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    return [
      (this.points[2 * index] - this.view.x) * this.view.scale + width / 2,
      height / 2 - (this.points[2 * index + 1] - this.view.y) * this.view.scale,
    ];
  }

  visible() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const found = [];
    for (let i = 0; i < this.rows.length; i++) {
      const [x, y] = this.place(i);
      if (x > -PICTURE && y > -PICTURE && x < width + PICTURE && y < height + PICTURE) found.push(i);
    }
    return found;
  }

  paint() {
    const { canvas, context } = this, ratio = devicePixelRatio;
    const width = canvas.clientWidth, height = canvas.clientHeight;
    canvas.width = width * ratio; canvas.height = height * ratio;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const found = this.visible();
    const kept = found.filter((i) => !this.shown || this.shown[i]);
    const size = found.length > 20000 ? 2 : found.length > 2000 ? 3 : 5;
    context.fillStyle = DIMMED;
    for (const i of found) if (this.shown && !this.shown[i]) this.dot(i, size);
    for (const i of kept) {
      context.fillStyle = this.codes ? colourOf(this.codes[i]) : PLAIN;
      this.dot(i, size);
    }
    this.wanted = new Set();
    if (this.tiles && kept.length <= MAX_PICTURES && new Set(kept.map((i) => this.tileWith(i))).size <= MAX_TILES) for (const i of kept) this.picture(i);
    this.marks();
    this.load();
  }

  tileWith(index) { return Math.floor(index / this.tiles.per_tile); }

  dot(index, size) {
    const [x, y] = this.place(index);
    this.context.fillRect(x - size / 2, y - size / 2, size, size);
  }

  picture(index) {
    const { context, tiles } = this, [x, y] = this.place(index), tile = this.tileWith(index), cell = index % tiles.per_tile;
    const image = this.images.get(tile);
    if (!image) { this.wanted.add(tile); return; }
    const scale = PICTURE / Math.max(tiles.width, tiles.height), [w, h] = [tiles.width * scale, tiles.height * scale];
    if (this.codes) { context.fillStyle = colourOf(this.codes[index]); context.fillRect(x - w / 2 - 2, y - h / 2 - 2, w + 4, h + 4); }
    context.drawImage(image, (cell % tiles.columns) * tiles.across, Math.floor(cell / tiles.columns) * tiles.down, tiles.width, tiles.height, x - w / 2, y - h / 2, w, h);
  }

  marks() {
    if (this.selected < 0) return;
    const { context } = this, [x, y] = this.place(this.selected);
    context.strokeStyle = getComputedStyle(this.canvas).color;
    context.lineWidth = 1;
    context.beginPath();
    for (const i of this.near) { context.moveTo(x, y); context.lineTo(...this.place(i)); }
    context.stroke();
    context.lineWidth = 3;
    context.beginPath(); context.arc(x, y, 9, 0, 7); context.stroke();
  }

  load() {
    for (const tile of this.wanted) {
      if (this.loading >= AT_ONCE) return;
      if (this.images.has(tile)) continue;
      if (this.images.size >= KEPT_TILES) this.images.delete(this.images.keys().next().value);
      this.images.set(tile, null);
      this.loading++;
      this.tileOf(tile).then((image) => this.images.set(tile, image), () => {}).finally(() => { this.loading--; this.draw(); });
    }
  }

  pick(x, y, reach = 24) {
    let best = -1, least = reach ** 2;
    for (const i of this.visible()) {
      if (this.shown && !this.shown[i]) continue;
      const [px, py] = this.place(i), gap = (px - x) ** 2 + (py - y) ** 2;
      if (gap < least) { best = i; least = gap; }
    }
    return best;
  }

  zoom(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const dx = x - this.canvas.clientWidth / 2, dy = this.canvas.clientHeight / 2 - y, { view } = this;
    const scale = view.scale * factor;
    view.x += dx / view.scale - dx / scale;
    view.y += dy / view.scale - dy / scale;
    view.scale = scale;
    this.moved();
  }

  pan(dx, dy) {
    this.view.x -= dx / this.view.scale;
    this.view.y += dy / this.view.scale;
    this.moved();
  }

  listen() {
    const { canvas } = this;
    const held = new Map();
    let travelled = 0;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      if (!held.size) travelled = 0;
      held.set(event.pointerId, [event.offsetX, event.offsetY]);
    });
    canvas.addEventListener("pointermove", (event) => {
      const before = held.get(event.pointerId);
      if (!before) return;
      const now = [event.offsetX, event.offsetY], dx = now[0] - before[0], dy = now[1] - before[1];
      travelled += Math.hypot(dx, dy);
      if (held.size === 2) {
        const other = [...held].find(([id]) => id !== event.pointerId)[1];
        const gap = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1;
        this.zoom(gap(now) / gap(before), other[0], other[1]);
      } else if (travelled >= CLICK) this.pan(dx, dy);
      held.set(event.pointerId, now);
    });
    const release = (event) => {
      const was = held.delete(event.pointerId);
      if (was && event.type === "pointerup" && travelled < CLICK && !held.size) this.onPick(this.pick(event.offsetX, event.offsetY));
    };
    canvas.addEventListener("pointerup", release);
    canvas.addEventListener("pointercancel", release);
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const act = {
        ArrowLeft: () => this.pan(60, 0), ArrowRight: () => this.pan(-60, 0),
        ArrowUp: () => this.pan(0, 60), ArrowDown: () => this.pan(0, -60),
        "+": () => this.zoom(1.4), "=": () => this.zoom(1.4), "-": () => this.zoom(1 / 1.4),
        0: () => this.fit(),
        Enter: () => this.onPick(this.pick(canvas.clientWidth / 2, canvas.clientHeight / 2, Infinity)),
        Escape: () => this.onPick(-1),
      }[event.key];
      if (act && !event.ctrlKey && !event.metaKey && !event.altKey) { event.preventDefault(); act(); }
    });
  }
}
