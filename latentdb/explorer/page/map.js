// The map on a 2-D canvas: points as pixels of one image, and pictures where there is room for them.

const PALETTE = ["#4e79a7", "#f28e2b", "#e15759", "#76b7b2", "#59a14f", "#edc948", "#b07aa1", "#ff9da7", "#9c755f", "#7f8c9b", "#1b9e77", "#d95f02", "#7570b3", "#e7298a", "#66a61e", "#e6ab02", "#a6761d", "#3b8bba", "#c44e52", "#8172b3"];
const PLAIN = "#5b8fc9", OTHER = "#888888", DIMMED = 0x33888888;
const WHILE_MOVING = 100000, STILL_AFTER = 150; // points that are drawn while the map moves; ms after which all are
const PICTURES_UNDER = 6000; // points in view: below it, pictures stand for points
const SPACE = 40, MARGIN = 2, LANDMARK = 46, MAX_TILES = 64, KEPT_TILES = 160, AT_ONCE = 4;
const CLICK = 4, REACH = 24, MAX_CORNERS = 300;

export const colourOf = (code) => (code < 0 ? OTHER : PALETTE[code % PALETTE.length]);
const packed = (hex) => (0xff000000 | (parseInt(hex.slice(5, 7), 16) << 16) | (parseInt(hex.slice(3, 5), 16) << 8) | parseInt(hex.slice(1, 3), 16)) >>> 0;
const PACKED = PALETTE.map(packed), PACKED_OTHER = packed(OTHER), PACKED_PLAIN = packed(PLAIN);

// Whether a point is inside a polygon, by the even-odd rule.
export function inPolygon(x, y, polygon) {
  let inside = false;
  for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i++) {
    const [x1, y1] = polygon[i], [x2, y2] = polygon[j];
    if ((y1 > y) !== (y2 > y) && x < ((x2 - x1) * (y - y1)) / (y2 - y1) + x1) inside = !inside;
  }
  return inside;
}

// The tile that a point's picture is in, and where.
export function cellOf(index, { per_tile, columns, across, down, width, height }) {
  const cell = index % per_tile;
  return { tile: Math.floor(index / per_tile), x: (cell % columns) * across, y: Math.floor(cell / columns) * down, width, height };
}

export class PointMap {
  constructor(canvas, { tileOf, onPick, onMove, onHover, onLasso }) {
    Object.assign(this, { canvas, tileOf, onPick, onMove, onHover, onLasso });
    // The points are written by the processor, for which a canvas in the memory of the GPU is slow.
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    this.rows = new Uint32Array(0);
    this.points = new Float32Array(0);
    this.codes = null;
    this.shown = null; // 1 for the points that a filter, the legend or the lasso keeps
    this.selected = -1;
    this.near = [];
    this.landmarks = []; // points whose pictures are shown from afar
    this.polygon = null; // in the space of the points
    this.lassoing = false;
    this.view = { x: 0, y: 0, scale: 1 };
    this.tiles = null; // their form, where there are pictures
    this.images = new Map(); // of tiles: null while they load
    this.wanted = new Set();
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

  // A million points take tens of milliseconds: while the map moves, a part of them is drawn.
  moved() {
    clearTimeout(this.rest);
    this.moving = true;
    this.rest = setTimeout(() => { this.moving = false; this.draw(); }, STILL_AFTER);
    this.draw();
    this.onMove();
  }

  draw() {
    this.frame ??= requestAnimationFrame(() => { this.frame = null; this.paint(); });
  }

  toScreen(x, y) {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    return [(x - this.view.x) * this.view.scale + width / 2, height / 2 - (y - this.view.y) * this.view.scale];
  }

  toData(x, y) {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    return [(x - width / 2) / this.view.scale + this.view.x, (height / 2 - y) / this.view.scale + this.view.y];
  }

  place(index) { return this.toScreen(this.points[2 * index], this.points[2 * index + 1]); }

  paint() {
    const { canvas, context } = this, ratio = devicePixelRatio, began = performance.now();
    const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
    if (!width || !height) return;
    if (canvas.width !== width || canvas.height !== height || !this.pixels) {
      Object.assign(canvas, { width, height });
      this.image = context.createImageData(width, height);
      this.pixels = new Uint32Array(this.image.data.buffer);
    }
    const inView = this.paintPoints(width, height, ratio);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.putImageData(this.image, 0, 0);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.wanted = new Set();
    if (this.tiles) this.paintPictures(inView);
    this.paintMarks();
    this.load();
    canvas.dataset.paintMs = (performance.now() - began).toFixed(1);
  }

  // Points as squares of pixels, the dimmed ones below the others; gives those to show as pictures, if they are few.
  paintPoints(width, height, ratio) {
    const { points, codes, shown, pixels, view } = this, n = this.rows.length, scale = view.scale * ratio;
    const left = width / 2 - view.x * scale, top = height / 2 + view.y * scale;
    const look = (every) => {
      const inView = [];
      let seen = 0;
      for (let i = 0; i < n; i += every) {
        const x = points[2 * i] * scale + left, y = top - points[2 * i + 1] * scale;
        if (x < 0 || y < 0 || x >= width || y >= height || (shown && !shown[i])) continue;
        if (++seen <= PICTURES_UNDER) inView.push(i);
      }
      return [seen * every, inView];
    };
    // Points near on the map are near in their order, so that a part of them has all regions.
    let every = this.moving ? Math.ceil(n / WHILE_MOVING) : 1, [seen, inView] = look(every);
    if (every > 1 && seen < WHILE_MOVING) [seen, inView] = look(every = 1);
    pixels.fill(0);
    const drawn = seen / every, size = Math.max(1, Math.round(ratio * (drawn > 200000 ? 1 : drawn > 20000 ? 2 : drawn > 3000 ? 3 : 5))), half = size >> 1;
    for (let pass = shown ? 0 : 1; pass < 2; pass++) {
      for (let i = 0; i < n; i += every) {
        if (shown && shown[i] !== pass) continue;
        const x = (points[2 * i] * scale + left - half) | 0, y = (top - points[2 * i + 1] * scale - half) | 0;
        if (x < 0 || y < 0 || x + size > width || y + size > height) continue;
        const colour = !pass ? DIMMED : !codes ? PACKED_PLAIN : codes[i] < 0 ? PACKED_OTHER : PACKED[codes[i] % PACKED.length];
        for (let row = 0, at = y * width + x; row < size; row++, at += width) for (let column = 0; column < size; column++) pixels[at + column] = colour;
      }
    }
    return seen <= PICTURES_UNDER ? inView : [];
  }

  // One picture in each cell of a grid that moves with the points, so that none flickers while the map is dragged.
  paintPictures(inView) {
    const taken = new Set(), chosen = [], tiles = new Set(), cell = SPACE / this.view.scale;
    const claim = (i) => {
      const key = `${Math.floor(this.points[2 * i] / cell)},${Math.floor(this.points[2 * i + 1] / cell)}`;
      if (taken.has(key)) return;
      taken.add(key);
      chosen.push(i);
      tiles.add(cellOf(i, this.tiles).tile);
    };
    for (const i of inView) claim(i);
    if (chosen.length && tiles.size <= MAX_TILES) {
      for (const i of chosen) this.picture(i, SPACE - 2 * MARGIN - 2);
      if (this.selected >= 0) this.picture(this.selected, LANDMARK); // above all others
      return;
    }
    const placed = [];
    for (const i of this.landmarks) {
      const [x, y] = this.place(i);
      if ((this.shown && !this.shown[i]) || placed.some(([px, py]) => Math.abs(px - x) < LANDMARK + 6 && Math.abs(py - y) < LANDMARK + 6)) continue;
      placed.push([x, y]);
      this.picture(i, LANDMARK);
    }
  }

  picture(index, size) {
    const { context } = this, [x, y] = this.place(index), cell = cellOf(index, this.tiles), { width, height } = cell;
    const image = this.images.get(cell.tile);
    if (!image) { this.wanted.add(cell.tile); return; }
    const scale = size / Math.max(width, height), [w, h] = [width * scale, height * scale];
    context.fillStyle = this.codes ? colourOf(this.codes[index]) : PLAIN;
    context.fillRect(x - w / 2 - MARGIN, y - h / 2 - MARGIN, w + 2 * MARGIN, h + 2 * MARGIN);
    context.drawImage(image, cell.x, cell.y, width, height, x - w / 2, y - h / 2, w, h);
  }

  paintMarks() {
    const { context, polygon } = this;
    context.strokeStyle = getComputedStyle(this.canvas).color;
    if (polygon?.length > 1) {
      context.lineWidth = 2;
      context.setLineDash([6, 4]);
      context.beginPath();
      for (const [x, y] of polygon) context.lineTo(...this.toScreen(x, y));
      context.closePath();
      context.stroke();
      context.setLineDash([]);
    }
    if (this.selected < 0 && !this.near.length) return;
    context.lineWidth = 1;
    context.globalAlpha = 0.5;
    context.beginPath();
    if (this.selected >= 0) for (const i of this.near) { context.moveTo(...this.place(this.selected)); context.lineTo(...this.place(i)); }
    context.stroke();
    context.globalAlpha = 1;
    for (const i of this.near) this.ring(i, 5, 2);
    if (this.selected >= 0) this.ring(this.selected, 10, 3);
  }

  // Seen on any picture: a line of the text's colour within one of the ground's.
  ring(index, radius, width) {
    const { context } = this, ink = context.strokeStyle;
    context.beginPath();
    context.arc(...this.place(index), radius, 0, 7);
    context.strokeStyle = getComputedStyle(this.canvas).backgroundColor;
    context.lineWidth = width + 3;
    context.stroke();
    context.strokeStyle = ink;
    context.lineWidth = width;
    context.stroke();
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

  pick(x, y, reach = REACH) {
    const { points, shown, view } = this, [dataX, dataY] = this.toData(x, y);
    let best = -1, least = (reach / view.scale) ** 2;
    for (let i = 0; i < this.rows.length; i++) {
      const gap = (points[2 * i] - dataX) ** 2 + (points[2 * i + 1] - dataY) ** 2;
      if (gap < least && (!shown || shown[i])) { best = i; least = gap; }
    }
    return best;
  }

  zoom(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const [dataX, dataY] = this.toData(x, y), { view } = this;
    view.x = dataX - (dataX - view.x) / factor;
    view.y = dataY - (dataY - view.y) / factor;
    view.scale *= factor;
    this.moved();
  }

  pan(dx, dy) {
    this.view.x -= dx / this.view.scale;
    this.view.y += dy / this.view.scale;
    this.moved();
  }

  centre(index) {
    this.view.x = this.points[2 * index];
    this.view.y = this.points[2 * index + 1];
    this.moved();
  }

  endLasso() {
    const every = Math.ceil(this.polygon.length / MAX_CORNERS);
    const corners = this.polygon.filter((_, place) => place % every === 0).map((corner) => corner.map((value) => Number(value.toPrecision(6))));
    this.polygon = corners.length > 2 ? corners : null;
    this.lassoing = false;
    this.canvas.classList.remove("lassoing");
    this.draw();
    this.onLasso(this.polygon);
  }

  listen() {
    const { canvas } = this, held = new Map();
    let travelled = 0, drawing = false;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.onHover(-1);
      if (!held.size) travelled = 0;
      held.set(event.pointerId, [event.offsetX, event.offsetY]);
      drawing = held.size === 1 && (this.lassoing || event.shiftKey);
      if (drawing) this.polygon = [this.toData(event.offsetX, event.offsetY)];
    });
    canvas.addEventListener("pointermove", (event) => {
      const before = held.get(event.pointerId), now = [event.offsetX, event.offsetY];
      if (!before) { if (event.pointerType === "mouse") this.hover(now); return; }
      const dx = now[0] - before[0], dy = now[1] - before[1];
      travelled += Math.hypot(dx, dy);
      if (drawing) {
        // A busy browser reports several moves as one.
        const { left, top } = canvas.getBoundingClientRect(), moves = event.getCoalescedEvents?.() ?? [];
        for (const move of moves.length ? moves : [event]) this.polygon.push(this.toData(move.clientX - left, move.clientY - top));
        this.draw();
      }
      else if (held.size === 2) {
        const other = [...held].find(([id]) => id !== event.pointerId)[1];
        const gap = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1;
        this.zoom(gap(now) / gap(before), other[0], other[1]);
      } else if (travelled >= CLICK) this.pan(dx, dy);
      held.set(event.pointerId, now);
    });
    const release = (event) => {
      const was = held.delete(event.pointerId);
      if (drawing) { drawing = false; this.endLasso(); }
      else if (was && event.type === "pointerup" && travelled < CLICK && !held.size) this.onPick(this.pick(event.offsetX, event.offsetY));
    };
    canvas.addEventListener("pointerup", release);
    canvas.addEventListener("pointercancel", release);
    canvas.addEventListener("pointerleave", () => this.onHover(-1));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.onHover(-1);
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

  // At most once a frame, however often the pointer moves.
  hover(now) {
    this.pointer = now;
    this.hovering ??= requestAnimationFrame(() => { this.hovering = null; this.onHover(this.pick(...this.pointer, 12), ...this.pointer); });
  }
}
