"use strict";
// The timeline: one lane for each rank on a canvas as large as what is seen of it, so that a thousand lanes cost no more
// than those in view. It knows spans and marks; what is chosen, and what is said of it, is the page's (`on`).

const GUTTER = 64, AXIS = 40, MARK = 7, CLOSE = 6, LANE_MIN = 2, LANE_MAX = 32;
const THIN = new Set(["barrier", "rejoin", "spare", "spawn"]); // to wait is drawn as a thin line
const BAD = new Set(["failed", "ended", "fault", "evicted", "store lost", "garbage", "gone"]);
const ENDED = new Set(["failed", "ended"]);
const STEPS = [1, 2, 5];

const clamp = (value, least, most) => Math.max(least, Math.min(most, value));

/** Seconds for people. */
function seconds(value, step = value / 1000) {
  const size = Math.abs(step);
  if (value === 0) return "0 s";
  if (size >= 1e-2) return `${value.toFixed(size >= 1 ? 0 : size >= 0.1 ? 1 : 2)} s`;
  if (size >= 1e-3) return `${value.toFixed(3)} s`;
  return `${(value * 1e3).toFixed(size >= 1e-4 ? 1 : size >= 1e-5 ? 2 : 3)} ms`;
}

const lasted = (span) => seconds(span.end_s - span.begin_s, (span.end_s - span.begin_s) / 100);

/** What a span or a mark is, in words. */
function described(item) {
  if (item.text !== undefined) return `${item.name}${item.text ? `: ${item.text}` : ""}`;
  const round = item.round === null ? "" : item.name === "round" ? ` ${item.round}` : `, round ${item.round}`;
  return `${item.name}${round}, ${lasted(item)}`;
}

/** The first index for which a sorted list's item satisfies a test. */
function first(list, test) {
  let low = 0, high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (test(list[middle])) high = middle; else low = middle + 1;
  }
  return low;
}

class Chart {
  constructor(element, run, on) {
    this.element = element;
    this.canvas = element.querySelector("canvas");
    this.brush = this.canvas.getContext("2d");
    this.on = on;
    this.lanes = run.ranks.map(() => ({spans: [], marks: []}));
    this.rounds = run.spans.filter((span) => span.rank === null);
    this.everywhere = run.marks.filter((mark) => mark.rank === null);
    for (const span of run.spans) if (span.rank !== null) this.lanes[span.rank].spans.push(span);
    for (const mark of run.marks) if (mark.rank !== null) this.lanes[mark.rank].marks.push(mark);
    this.passages = new Passages(run);
    let begin = run.duration_s, end = 1e-3;
    for (const {begin_s, at_s, end_s} of [...run.spans, ...run.marks]) {
      begin = Math.min(begin, begin_s ?? at_s);
      end = Math.max(end, end_s ?? at_s);
    }
    this.whole = {begin: begin - 0.01 * (end - begin), end: end + 0.01 * (end - begin)};
    this.view = {...this.whole};
    this.chosen = null;
    this.cursor = null; // a moment that is pointed at
    this.hovered = null; // a lane that is
    this.resize();
    this.lane = clamp(Math.floor((innerHeight * 0.62 - AXIS) / this.lanes.length), 3, 24);
    this.layout();
    new ResizeObserver(() => this.resize()).observe(element);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.recolour());
    element.addEventListener("scroll", () => this.draw());
    element.addEventListener("wheel", (event) => this.wheel(event), {passive: false});
    element.addEventListener("keydown", (event) => this.key(event));
    for (const [kind, act] of [["pointerdown", this.press], ["pointermove", this.move], ["pointerup", this.release],
      ["pointerleave", this.leave], ["dblclick", this.open]]) this.canvas.addEventListener(kind, act.bind(this));
    this.recolour();
  }

  // Where things are

  get width() { return this.canvas.clientWidth - GUTTER - 8; }
  x(at) { return GUTTER + (at - this.view.begin) / (this.view.end - this.view.begin) * this.width; }
  at(x) { return this.view.begin + (x - GUTTER) / this.width * (this.view.end - this.view.begin); }
  y(rank) { return AXIS + rank * this.lane - this.element.scrollTop; }
  rankAt(y) {
    const rank = Math.floor((y - AXIS + this.element.scrollTop) / this.lane);
    return y >= AXIS && rank < this.lanes.length ? rank : null;
  }

  layout() {
    const full = AXIS + this.lanes.length * this.lane + 6;
    const shown = Math.min(full, Math.max(300, innerHeight * 0.7));
    this.element.style.height = `${shown + 2}px`;
    document.getElementById("height").style.height = `${Math.max(0, full - shown)}px`;
    this.resize();
  }

  resize() {
    const [width, height] = [this.element.clientWidth, this.element.clientHeight];
    const ratio = devicePixelRatio || 1;
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.brush.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.draw();
  }

  recolour() {
    const style = getComputedStyle(document.documentElement);
    this.colour = (name) => style.getPropertyValue(`--${name}`) || style.getPropertyValue("--other");
    this.draw();
  }

  // Drawing

  draw() {
    this.due ??= requestAnimationFrame(() => { this.due = undefined; this.paint(); });
  }

  paint() {
    if (!this.colour) return;
    const {brush, canvas, lane} = this, height = canvas.clientHeight, right = GUTTER + this.width;
    brush.clearRect(0, 0, canvas.clientWidth, height);
    brush.font = "11px system-ui, sans-serif";
    brush.textBaseline = "middle";
    const from = Math.max(0, Math.floor(this.element.scrollTop / lane));
    const until = Math.min(this.lanes.length, Math.ceil((this.element.scrollTop + height - AXIS) / lane));
    this.paintRounds(height);
    for (const [rank, name] of [[this.hovered, "band"], [this.chosen, "chosen"]]) {
      if (rank === null) continue;
      brush.fillStyle = this.colour(name);
      brush.fillRect(0, this.y(rank), canvas.clientWidth, Math.max(lane, 3));
    }
    brush.save();
    brush.beginPath();
    brush.rect(GUTTER, AXIS, this.width + 8, height);
    brush.clip();
    for (let rank = from; rank < until; rank++) this.paintSpans(rank);
    for (let rank = from; rank < until; rank++) for (const mark of this.lanes[rank].marks) this.paintMark(mark, this.y(rank) + lane / 2);
    if (this.chosen !== null) {
      brush.strokeStyle = this.colour("ink");
      brush.lineWidth = 1;
      brush.strokeRect(GUTTER - 2, Math.round(this.y(this.chosen)) - 0.5, this.width + 20, Math.max(lane, 2) + 1);
    }
    this.passages.paint(this);
    brush.fillStyle = this.colour("bad");
    for (const mark of this.everywhere) brush.fillRect(this.x(mark.at_s), AXIS, 1.5, height);
    brush.restore();
    this.paintNames(from, until);
    this.paintAxis(right);
    if (this.cursor !== null && this.x(this.cursor) >= GUTTER) {
      brush.fillStyle = this.colour("quiet");
      brush.fillRect(Math.round(this.x(this.cursor)), 0, 1, height);
    }
  }

  paintRounds(height) {
    const {brush} = this;
    for (const span of this.rounds) {
      const [left, right] = [Math.max(GUTTER, this.x(span.begin_s)), Math.min(GUTTER + this.width + 8, this.x(span.end_s))];
      if (right <= left) continue;
      brush.fillStyle = this.colour("band");
      brush.fillRect(left, AXIS - 18, right - left, height);
      const name = right - left > 58 ? `round ${span.round}` : `${span.round}`;
      brush.fillStyle = this.colour("quiet");
      if (right - left > brush.measureText(name).width + 6) brush.fillText(name, left + 4, AXIS - 9);
    }
  }

  paintSpans(rank) {
    const {brush, lane, view} = this, {spans} = this.lanes[rank], top = this.y(rank), gap = lane >= 8 ? 1.5 : lane >= 4 ? 0.5 : 0;
    for (let i = first(spans, (span) => span.end_s >= view.begin); i < spans.length && spans[i].begin_s <= view.end; i++) {
      const span = spans[i];
      const left = Math.max(GUTTER - 2, this.x(span.begin_s)), right = Math.min(GUTTER + this.width + 10, this.x(span.end_s));
      const thick = THIN.has(span.name) ? Math.max(1, lane * 0.22) : lane - 2 * gap;
      brush.fillStyle = this.colours(span.name);
      brush.fillRect(left, top + (lane - thick) / 2, Math.max(0.6, right - left - (right - left > 4 ? 0.5 : 0)), thick);
      if (lane >= 15 && !THIN.has(span.name) && right - left > brush.measureText(span.name).width + 10) {
        brush.fillStyle = this.colour("on");
        brush.fillText(span.name, left + 5, top + lane / 2 + 0.5);
      }
    }
  }

  colours(name) { return this.colour(/^[a-z]+$/.test(name) ? name : "other"); }

  paintMark(mark, y) {
    const x = this.x(mark.at_s), {brush, lane} = this, size = MARK / 2;
    if (x < GUTTER - MARK || x > GUTTER + this.width + MARK) return;
    if (mark.name === "exit") {
      if (lane < 5) return;
      brush.fillStyle = this.colour("ink");
      brush.fillRect(x - 0.75, y - lane / 2 + 2, 1.5, lane - 4);
      return;
    }
    const bad = BAD.has(mark.name);
    brush.beginPath();
    if (mark.name === "fault" || mark.name === "heal") {
      const tip = mark.name === "fault" ? size : -size;
      brush.moveTo(x - size, y - tip); brush.lineTo(x + size, y - tip); brush.lineTo(x, y + tip);
    } else if (bad) {
      brush.moveTo(x - size, y - size); brush.lineTo(x + size, y + size);
      brush.moveTo(x + size, y - size); brush.lineTo(x - size, y + size);
      brush.lineWidth = 2.2;
      brush.strokeStyle = this.colour("bad");
      brush.stroke();
      return;
    } else {
      brush.moveTo(x, y - size); brush.lineTo(x + size, y); brush.lineTo(x, y + size); brush.lineTo(x - size, y);
    }
    brush.fillStyle = this.colour(bad ? "bad" : mark.name === "heal" ? "good" : "ink");
    brush.fill();
  }

  paintNames(from, until) {
    const {brush, lane} = this, every = [1, 2, 5, 10, 20, 50, 100, 200, 500].find((count) => count * lane >= 13) ?? 1000;
    brush.textAlign = "right";
    for (let rank = from; rank < until; rank++) {
      const close = (other) => other !== null && other !== rank && Math.abs(other - rank) * lane < 12;
      const pointed = rank === this.hovered || rank === this.chosen;
      if ((!pointed && rank % every) || close(this.hovered) || (rank !== this.hovered && close(this.chosen))) continue;
      const bad = this.lanes[rank].marks.some((mark) => ENDED.has(mark.name));
      brush.fillStyle = this.colour(bad ? "bad" : pointed ? "ink" : "quiet");
      brush.fillText(bad ? `✗ ${rank}` : rank, GUTTER - 8, Math.max(AXIS + 7, this.y(rank) + lane / 2 + 0.5));
    }
    brush.textAlign = "left";
  }

  paintAxis(right) {
    const {brush, view} = this, room = (view.end - view.begin) / (this.width / 90), power = 10 ** Math.floor(Math.log10(room));
    const step = power * (STEPS.find((factor) => factor * power >= room) ?? 10);
    brush.fillStyle = this.colour("panel");
    brush.fillRect(0, 0, this.canvas.clientWidth, AXIS - 18);
    for (let number = Math.ceil(view.begin / step); number * step <= view.end; number++) {
      const x = this.x(number * step);
      if (x < GUTTER || number < 0) continue;
      brush.fillStyle = this.colour("line");
      brush.fillRect(x, 16, 1, 6);
      brush.fillStyle = this.colour("quiet");
      if (x + 40 < right + 8) brush.fillText(seconds(number * step, step), x + 3, 11);
    }
    brush.fillStyle = this.colour("line");
    brush.fillRect(0, AXIS - 0.5, this.canvas.clientWidth, 1);
    brush.fillStyle = this.colour("quiet");
    brush.fillText("rank", 10, 11);
    if (this.passages.all.length) brush.fillText("store", 10, AXIS - 9);
  }

  // Moving

  look(begin, end) {
    const all = this.whole.end - this.whole.begin, size = clamp(end - begin, Math.min(2e-6, all), all);
    const left = clamp((begin + end - size) / 2, this.whole.begin, this.whole.end - size);
    this.view = {begin: left, end: left + size};
    this.draw();
  }

  zoom(factor, at = this.cursor ?? (this.view.begin + this.view.end) / 2) {
    const {begin, end} = this.view;
    this.look(at - (at - begin) * factor, at + (end - at) * factor);
  }

  pan(share) {
    const by = share * (this.view.end - this.view.begin);
    this.look(this.view.begin + by, this.view.end + by);
  }

  grow(factor) {
    const middle = this.chosen ?? this.element.scrollTop / this.lane;
    this.lane = clamp(factor > 1 ? Math.ceil(this.lane * factor) : Math.floor(this.lane * factor), LANE_MIN, LANE_MAX);
    this.layout();
    this.element.scrollTop = this.chosen === null ? middle * this.lane : this.element.scrollTop;
    this.reveal(this.chosen);
  }

  reveal(rank) {
    if (rank === null) return;
    const top = rank * this.lane, room = this.element.clientHeight - AXIS - this.lane;
    this.element.scrollTop = clamp(this.element.scrollTop, top - room, top);
    this.draw();
  }

  choose(rank) {
    this.chosen = rank;
    this.reveal(rank);
  }

  point(at) {
    this.cursor = at;
    if (at !== null && (at < this.view.begin || at > this.view.end)) {
      const half = (this.view.end - this.view.begin) / 2;
      this.look(at - half, at + half);
    }
    this.draw();
  }

  act(what) {
    ({in: () => this.zoom(0.6), out: () => this.zoom(1 / 0.6), all: () => this.look(this.whole.begin, this.whole.end),
      taller: () => this.grow(1.5), lower: () => this.grow(1 / 1.5)})[what]();
  }

  // What people do

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const last = this.lanes.length - 1, chosen = this.chosen;
    const keys = {
      "+": () => this.act("in"), "=": () => this.act("in"), "-": () => this.act("out"), "0": () => this.act("all"),
      "]": () => this.act("taller"), "[": () => this.act("lower"),
      ArrowLeft: () => this.pan(-0.15), ArrowRight: () => this.pan(0.15),
      ArrowUp: () => this.on.choose(Math.max(0, (chosen ?? 1) - 1)),
      ArrowDown: () => this.on.choose(Math.min(last, (chosen ?? -1) + 1)),
      Home: () => this.on.choose(0), End: () => this.on.choose(last), Escape: () => this.on.choose(null),
      n: () => this.step(1), p: () => this.step(-1),
    };
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  }

  /** Go to the next or the last thing that the chosen rank did, and say it. */
  step(by) {
    const rank = this.chosen ?? 0, {spans, marks} = this.lanes[rank];
    if (this.chosen === null) this.on.choose(rank);
    const all = [...spans, ...marks].sort((a, b) => (a.begin_s ?? a.at_s) - (b.begin_s ?? b.at_s));
    if (this.stepped?.rank !== rank) this.stepped = {rank, number: by > 0 ? -1 : all.length};
    this.stepped.number = clamp(this.stepped.number + by, 0, all.length - 1);
    const item = all[this.stepped.number];
    if (!item) return;
    this.point(item.begin_s ?? item.at_s);
    this.on.say(`rank ${rank}: ${described(item)}, at ${seconds(this.cursor)}`);
  }

  wheel(event) {
    const sideways = event.shiftKey ? event.deltaY || event.deltaX : event.deltaX;
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      this.zoom(Math.exp(clamp(event.deltaY, -120, 120) / 300), this.at(event.offsetX));
    } else if (Math.abs(sideways) > Math.abs(event.shiftKey ? 0 : event.deltaY)) {
      event.preventDefault();
      this.pan(sideways / this.width);
    }
  }

  press(event) {
    this.held = {x: event.offsetX, view: this.view, moved: false};
    this.canvas.setPointerCapture(event.pointerId);
  }

  move(event) {
    const {offsetX: x, offsetY: y} = event;
    if (this.held && (this.held.moved ||= Math.abs(x - this.held.x) > 3)) {
      const {begin, end} = this.held.view, by = (this.held.x - x) / this.width * (end - begin);
      this.look(begin + by, end + by);
    }
    this.cursor = x >= GUTTER ? this.at(x) : null;
    this.hovered = this.rankAt(y);
    this.on.hover(this.held?.moved ? "" : this.words(x), event);
    this.draw();
  }

  release(event) {
    const held = this.held;
    this.held = null;
    if (held && !held.moved) this.on.choose(this.rankAt(event.offsetY));
  }

  leave() {
    this.cursor = this.hovered = null;
    this.on.hover("");
    this.draw();
  }

  /** Zoom into the span, or the round, under the pointer. */
  open(event) {
    const rank = this.rankAt(event.offsetY), at = this.at(event.offsetX);
    const under = (rank === null ? this.rounds : this.lanes[rank].spans).find((span) => span.begin_s <= at && at <= span.end_s);
    if (!under) return;
    const margin = (under.end_s - under.begin_s) * 0.15;
    this.look(under.begin_s - margin, under.end_s + margin);
  }

  /** What there is to say of a place: the marks close to it, else the span under it. */
  words(x) {
    const at = this.at(x), near = (list) => list.filter((mark) => Math.abs(this.x(mark.at_s) - x) <= CLOSE).slice(0, 4).map(described);
    const found = near(this.everywhere);
    const under = (span) => span.begin_s <= at && at <= span.end_s;
    if (x < GUTTER) return this.hovered === null ? "" : `rank ${this.hovered}`;
    if (this.hovered === null) return [...this.rounds.filter(under).map(described), ...found].join("\n");
    const lane = this.lanes[this.hovered];
    const spans = lane.spans.filter(under).map((span) => `${described(span)}\n${seconds(span.begin_s)} to ${seconds(span.end_s)}`);
    return [`rank ${this.hovered} at ${seconds(at, (this.view.end - this.view.begin) / 1000)}`, ...found, ...near(lane.marks), ...this.passages.words(this, this.hovered, x), ...spans].join("\n");
  }
}
