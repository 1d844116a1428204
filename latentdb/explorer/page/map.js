// The map on a 2-D canvas: points as pixels of one image, and pictures where there is room for them.

const PALETTE = ["#4e79a7", "#f28e2b", "#e15759", "#76b7b2", "#59a14f", "#edc948", "#b07aa1", "#ff9da7", "#9c755f", "#7f8c9b", "#1b9e77", "#d95f02", "#7570b3", "#e7298a", "#66a61e", "#e6ab02", "#a6761d", "#3b8bba", "#c44e52", "#8172b3"];
const PLAIN = "#5b8fc9", OTHER = "#888888", DIMMED = 0x33888888;
const WHILE_MOVING = 100000, STILL_AFTER = 150; // points that are drawn while the map moves; ms after which all are
const PICTURES_UNDER = 6000; // points in view: below it, pictures stand for points
const SPACE = 40, MARGIN = 2, LANDMARK = 46, MAX_TILES = 64, KEPT_TILES = 160, AT_ONCE = 4;
const MARK = 7; // half of a diamond
const CLICK = 4, REACH = 24, MAX_CORNERS = 300;

export const colourOf = (code) => (code < 0 ? OTHER : PALETTE[code % PALETTE.length]);
const packed = (hex) => (0xff000000 | (parseInt(hex.slice(5, 7), 16) << 16) | (parseInt(hex.slice(3, 5), 16) << 8) | parseInt(hex.slice(1, 3), 16)) >>> 0;
const PACKED = PALETTE.map(packed), PACKED_OTHER = packed(OTHER), PACKED_PLAIN = packed(PLAIN);

// A function of a row number: the point that it has, or undefined.  A Map of a million took over a second.
export function indexFor(rows) {
  const most = rows.reduce((most, row) => Math.max(most, row), 0);
  if (most > 8 * rows.length + 100000) {
    const known = new Map();
    rows.forEach((row, index) => known.set(row, index));
    return (row) => known.get(row);
  }
  const known = new Int32Array(most + 1);
  rows.forEach((row, index) => { known[row] = index + 1; });
  return (row) => (known[row] ? known[row] - 1 : undefined);
}

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
    this.selected = -1; // a point
    this.focus = null; // where what is selected is, a point or not, with lines to what is near to it
    this.near = [];
    this.marks = []; // {x, y, picture, label, ...} that are no points: new rows, images of the visitor, the blend
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
    this.indexOfRow = indexFor(rows);
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

  spot(index) { return [this.points[2 * index], this.points[2 * index + 1]]; }
  place(index) { return this.toScreen(...this.spot(index)); }

  paint() {
    const { canvas, context } = this, ratio = devicePixelRatio, began = performance.now();
    const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
    if (!width || !height) return;
    if (canvas.width !== width || canvas.height !== height || !this.pixels) {
      Object.assign(canvas, { width, height });
      this.image = context.createImageData(width, height);
      this.pixels = new Uint32Array(this.image.data.buffer);
    }
    // Marks, lines and pictures change more often than the points below them.
    const { view, codes, shown, points, moving } = this, now = [view.x, view.y, view.scale, width, height, codes, shown, points, moving];
    if (!now.every((value, place) => value === this.painted?.[place])) this.inView = this.paintPoints(width, height, ratio);
    this.painted = now;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.putImageData(this.image, 0, 0);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.wanted = new Set();
    if (this.tiles) this.paintPictures(this.inView);
    this.paintLasso();
    this.paintSelection();
    for (const mark of this.marks) this.paintMark(mark);
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

  paintLasso() {
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
  }

  paintSelection() {
    const { context, focus, near } = this;
    if (!focus) return;
    context.lineWidth = 1;
    context.globalAlpha = 0.5;
    context.beginPath();
    for (const spot of near) { context.moveTo(...this.toScreen(...focus)); context.lineTo(...this.toScreen(...spot)); }
    context.stroke();
    context.globalAlpha = 1;
    const ring = ([x, y], radius, width) => {
      context.beginPath();
      context.arc(x, y, radius, 0, 7);
      this.outline(width);
    };
    for (const spot of near) ring(this.toScreen(...spot), 5, 2);
    ring(this.toScreen(...focus), 10, 3);
  }

  // Seen on any picture: a line of the text's colour within one of the ground's.
  outline(width) {
    const { context } = this, { color, backgroundColor } = getComputedStyle(this.canvas);
    context.strokeStyle = backgroundColor;
    context.lineWidth = width + 3;
    context.stroke();
    context.strokeStyle = color;
    context.lineWidth = width;
    context.stroke();
  }

  // A diamond, or a framed picture with words below it.
  paintMark({ x, y, picture, label }) {
    const { context } = this, [left, top] = this.toScreen(x, y), { caretColor, backgroundColor } = getComputedStyle(this.canvas);
    context.fillStyle = caretColor;
    context.strokeStyle = backgroundColor;
    if (!picture || picture.width < 2) {
      context.beginPath();
      for (const [dx, dy] of [[0, -MARK], [MARK, 0], [0, MARK], [-MARK, 0]]) context.lineTo(left + dx, top + dy);
      context.closePath();
      context.lineWidth = 3;
      context.stroke();
      context.fill();
      return;
    }
    const scale = LANDMARK / Math.max(picture.width, picture.height), [w, h] = [picture.width * scale, picture.height * scale];
    context.fillRect(left - w / 2 - 3, top - h / 2 - 3, w + 6, h + 6);
    context.imageSmoothingEnabled = false;
    context.drawImage(picture, left - w / 2, top - h / 2, w, h);
    context.imageSmoothingEnabled = true;
    context.font = "600 12px system-ui, sans-serif";
    context.textAlign = "center";
    context.lineWidth = 4;
    context.lineJoin = "round";
    context.strokeText(label, left, top + h / 2 + 17);
    context.fillText(label, left, top + h / 2 + 17);
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

  // The mark at a place, the point near to it, or -1.
  pick(x, y, reach = REACH) {
    const mark = this.marks.findLast((one) => {
      const [left, top] = this.toScreen(one.x, one.y), size = one.picture ? LANDMARK / 2 + 3 : MARK + 3;
      return Math.max(Math.abs(left - x), Math.abs(top - y)) <= size;
    });
    if (mark) return mark;
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

  centre([x, y]) {
    Object.assign(this.view, { x, y });
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
