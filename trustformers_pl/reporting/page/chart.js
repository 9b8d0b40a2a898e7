// One chart: curves that share an x axis, drawn as SVG; values under the pointer, zoom by drag, curves by their legend.

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 232, LEFT = 54, RIGHT = 12, TOP = 10, BOTTOM = 26, NEAR_LINES = 24, DOTS = 40;

function element(name, attributes = {}, parent = null) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (parent) parent.append(made);
  return made;
}

function html(name, className, text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.textContent = text; // never markup: names are a run's own
  return made;
}

class Chart {
  // `view` is what all charts of metrics share: {axis, weight, log, zoom}; `onZoom([low, high] or null)` asks to change it.
  constructor(box, content, clocks, view, onZoom) {
    Object.assign(this, { box, content, clocks, view, onZoom });
    this.curves = content.series.map((series) => ({ ...series, shown: true }));
    const head = html("div", "chart-head");
    head.append(html("h3", "", content.title), this.legend());
    this.frame = html("div", "frame");
    this.svg = element("svg", { role: "img", tabindex: "0" }, this.frame);
    this.tip = html("div", "tip");
    this.tip.hidden = true;
    this.frame.append(this.tip);
    box.append(head, this.frame);
    this.listen();
    new ResizeObserver(() => this.draw()).observe(this.frame);
    this.draw();
  }

  legend() {
    const list = html("div", "legend");
    list.hidden = this.curves.length === 1 && this.curves[0].name === this.content.title;
    for (const curve of this.curves) {
      const button = html("button", "", curve.name);
      button.type = "button";
      button.setAttribute("aria-pressed", "true");
      button.title = "show or hide; with Shift, this one alone";
      const swatch = html("i", `swatch c${curve.colour % 8}${curve.dashed ? " dashed" : ""}`);
      button.prepend(swatch);
      button.addEventListener("click", (event) => this.toggle(curve, event.shiftKey));
      curve.button = button;
      list.append(button);
    }
    return list;
  }

  toggle(curve, alone) {
    if (alone) {
      const isAlone = this.curves.every((other) => other.shown === (other === curve));
      for (const other of this.curves) other.shown = isAlone || other === curve;
    } else {
      curve.shown = !curve.shown;
    }
    for (const other of this.curves) other.button.setAttribute("aria-pressed", String(other.shown));
    this.draw();
  }

  // The x values of a curve on the axis that is chosen, and its smoothed y values; kept until one of both changes.
  prepared(curve) {
    const timed = this.timed(), weight = this.content.metric ? this.view.weight : 0;
    if (curve.timed !== timed) curve.xs = timed ? secondsOf(this.clocks[curve.run], curve.x) : curve.x;
    if (curve.weight !== weight) curve.ys = smoothed(curve.x, curve.y, weight);
    return Object.assign(curve, { timed, weight });
  }

  timed() {
    return this.view.axis === "time" && this.content.metric && this.curves.every((c) => this.clocks[c.run] !== null);
  }

  draw() {
    this.width = Math.max(200, this.frame.clientWidth);
    const shown = this.curves.filter((curve) => curve.shown).map((curve) => this.prepared(curve));
    this.svg.replaceChildren();
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${HEIGHT}`);
    this.svg.setAttribute("height", HEIGHT);
    const xs = shown.filter((curve) => curve.xs.length).flatMap((curve) => [curve.xs[0], curve.xs[curve.xs.length - 1]]);
    const whole = xs.length ? [Math.min(...xs), Math.max(...xs)] : [0, 1];
    this.domain = this.view.zoom && this.content.metric ? this.view.zoom : whole;
    if (this.domain[0] === this.domain[1]) this.domain = [this.domain[0] - 1, this.domain[1] + 1];
    this.toX = linearScale(this.domain, [LEFT, this.width - RIGHT]);
    this.toY = this.scaleY(shown);
    this.drawGrid();
    const clip = `clip-${this.box.dataset.chart}`;
    const plot = { x: LEFT, y: TOP - 4, width: this.width - LEFT - RIGHT, height: HEIGHT - BOTTOM - TOP + 4 };
    element("rect", plot, element("clipPath", { id: clip }, this.svg));
    const lines = element("g", { "clip-path": `url(#${clip})` }, this.svg);
    // What has many points first: a validation's few are not to lie under them.
    for (const curve of [...shown].sort((a, b) => b.x.length - a.x.length)) this.drawCurve(curve, lines);
    this.marks = element("g", { class: "marks" }, this.svg);
    const last = shown.map((curve) => `${curve.name} ${figure(curve.y[curve.y.length - 1])}`);
    this.svg.setAttribute("aria-label", `${this.content.title} over ${this.content.x}; last: ${last.join(", ")}`);
  }

  scaleY(shown) {
    this.log = this.view.log && this.content.metric;
    const counts = this.log ? (value) => value > 0 : () => true;
    const ranges = shown.flatMap((curve) => {
      const places = placesWithin(curve.xs, ...this.domain);
      const found = rangeOf(curve.ys, places, counts) ?? rangeOf(curve.y, places, counts);
      return found ?? [];
    });
    let [low, high] = ranges.length ? [Math.min(...ranges), Math.max(...ranges)] : this.log ? [0.1, 1] : [0, 1];
    const pad = this.log ? Math.max((high / low) ** 0.05, 1.02) : (high - low || Math.abs(high) || 1) * 0.06;
    [low, high] = this.log ? [low / pad, high * pad] : [low - pad, high + pad];
    this.rangeY = [low, high];
    return (this.log ? logScale : linearScale)(this.rangeY, [HEIGHT - BOTTOM, TOP]);
  }

  drawGrid() {
    const grid = element("g", { class: "grid" }, this.svg);
    const values = this.log ? logTicksOf(this.rangeY, 5) : ticksOf(this.rangeY, 5);
    for (const value of values) {
      const y = this.toY(value);
      element("line", { x1: LEFT, x2: this.width - RIGHT, y1: y, y2: y }, grid);
      const step = values.length > 1 ? Math.abs(values[1] - values[0]) : value;
      element("text", { x: LEFT - 8, y: y + 4, "text-anchor": "end" }, grid).textContent = tickText(value, step);
    }
    const timed = this.timed(), count = Math.max(2, Math.floor(this.width / 90));
    const marks = timed ? clockTicksOf(this.domain, count) : ticksOf(this.domain, count);
    const gap = marks.length > 1 ? marks[1] - marks[0] : 1;
    for (const value of marks) {
      const text = element("text", { x: this.toX(value), y: HEIGHT - 8, "text-anchor": "middle" }, grid);
      text.textContent = timed ? clockText(value) : tickText(value, gap);
    }
    element("line", { x1: LEFT, x2: this.width - RIGHT, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM, class: "axis" }, grid);
    if (!this.content.metric) element("text", { x: LEFT - 8, y: HEIGHT - 8, "text-anchor": "end" }, grid).textContent = this.content.x;
  }

  drawCurve(curve, parent) {
    const places = placesWithin(curve.xs, ...this.domain);
    const dense = places[1] - places[0] > this.width && curve.weight === 0 ? " dense" : "";
    const classes = `curve c${curve.colour % 8}${curve.dashed ? " dashed" : ""}${dense}`;
    if (curve.weight > 0) element("path", { d: this.path(curve.xs, curve.y, places), class: `${classes} raw` }, parent);
    element("path", { d: this.path(curve.xs, curve.ys, places), class: classes, "data-name": curve.name }, parent);
    if (places[1] - places[0] > DOTS) return;
    for (let i = places[0]; i < places[1]; i += 1) {
      const y = curve.ys[i];
      if (y === null || (this.log && y <= 0)) continue;
      element("circle", { cx: this.toX(curve.xs[i]), cy: this.toY(y), r: 2.4, class: `dot c${curve.colour % 8}` }, parent);
    }
  }

  path(xs, ys, places) {
    let pen = "M";
    return pointsPerPixel(xs, ys, places, this.toX).map((point) => {
      if (point === null || (this.log && point[1] <= 0)) {
        pen = "M";
        return "";
      }
      const drawn = `${pen}${this.toX(point[0]).toFixed(1)},${this.toY(point[1]).toFixed(1)}`;
      pen = "L";
      return drawn;
    }).join("");
  }

  listen() {
    const at = (event) => event.clientX - this.svg.getBoundingClientRect().left;
    this.svg.addEventListener("pointermove", (event) => this.dragged === undefined ? this.hover(at(event)) : this.drag(at(event)));
    this.svg.addEventListener("pointerleave", () => this.dragged === undefined && this.leave());
    this.svg.addEventListener("pointerdown", (event) => {
      if (event.pointerType === "touch" || event.button !== 0) { this.hover(at(event)); return; }
      this.dragged = at(event);
      this.svg.setPointerCapture(event.pointerId);
    });
    this.svg.addEventListener("pointerup", (event) => this.drop(at(event)));
    this.svg.addEventListener("pointercancel", () => { this.dragged = undefined; this.leave(); });
    this.svg.addEventListener("dblclick", () => this.content.metric && this.onZoom(null));
    this.svg.addEventListener("keydown", (event) => this.key(event));
    this.svg.addEventListener("blur", () => this.leave());
  }

  key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const pixel = this.pixel === undefined ? this.width - RIGHT : this.pixel + step * (this.width - LEFT - RIGHT) / 50;
    this.hover(Math.min(this.width - RIGHT, Math.max(LEFT, pixel)));
  }

  drag(pixel) {
    this.leave();
    if (!this.content.metric) return;
    const [a, b] = [this.dragged, pixel].map((p) => Math.min(this.width - RIGHT, Math.max(LEFT, p))).sort((x, y) => x - y);
    element("rect", { x: a, y: TOP, width: b - a, height: HEIGHT - TOP - BOTTOM, class: "selection" }, this.marks);
  }

  drop(pixel) {
    const from = this.dragged;
    this.dragged = undefined;
    if (from === undefined) return;
    if (!this.content.metric || Math.abs(pixel - from) < 6) { this.hover(pixel); return; }
    this.leave();
    const clamp = (x) => Math.min(this.domain[1], Math.max(this.domain[0], this.toX.invert(x)));
    const [low, high] = [clamp(from), clamp(pixel)].sort((a, b) => a - b);
    if (high > low) this.onZoom([low, high]);
  }

  leave() {
    this.tip.hidden = true;
    this.pixel = undefined;
    this.marks.replaceChildren();
  }

  // The value of each curve at its point nearest to the pointer, and a line there.
  hover(pixel) {
    this.leave();
    if (pixel < LEFT - 4 || pixel > this.width - RIGHT + 4) return;
    const wanted = this.toX.invert(pixel);
    const found = this.curves.filter((c) => c.shown && c.xs.length).map((curve) => ({ curve, place: this.nearest(curve.xs, wanted) }));
    if (!found.length) return;
    const distance = ({ curve, place }) => Math.abs(this.toX(curve.xs[place]) - pixel);
    const closest = found.reduce((a, b) => (distance(b) < distance(a) ? b : a));
    const x = closest.curve.xs[closest.place];
    this.pixel = this.toX(x);
    const near = found.filter(({ curve, place }) => Math.abs(this.toX(curve.xs[place]) - this.pixel) <= NEAR_LINES);
    element("line", { x1: this.pixel, x2: this.pixel, y1: TOP, y2: HEIGHT - BOTTOM, class: "cross" }, this.marks);
    for (const { curve, place } of near) {
      const y = curve.ys[place];
      if (y === null || (this.log && y <= 0)) continue;
      element("circle", { cx: this.toX(curve.xs[place]), cy: this.toY(y), r: 4, class: `dot c${curve.colour % 8}` }, this.marks);
    }
    this.tell(closest, near);
  }

  tell(closest, near) {
    const { curve, place } = closest;
    const when = curve.timed ? ` · ${clockText(curve.xs[place])}` : "";
    this.tip.replaceChildren(html("div", "when", `${this.content.x} ${figure(curve.x[place], 9)}${when}`));
    for (const { curve: other, place: at } of near) {
      const line = html("div", "");
      line.append(html("i", `swatch c${other.colour % 8}`), html("span", "", other.name), html("b", "", figure(other.y[at])));
      if (other.weight > 0) line.append(html("span", "soft", `~ ${figure(other.ys[at])}`));
      this.tip.append(line);
    }
    this.tip.hidden = false;
    const width = this.tip.offsetWidth;
    const right = this.pixel + 14 + width < this.width;
    this.tip.style.left = `${right ? this.pixel + 14 : Math.max(0, this.pixel - 14 - width)}px`;
  }

  nearest(xs, wanted) {
    const place = firstFrom(xs, wanted);
    if (place === 0) return 0;
    if (place === xs.length) return place - 1;
    return wanted - xs[place - 1] < xs[place] - wanted ? place - 1 : place;
  }
}
