"use strict";
/* The page's numbers, how they are written, and their colours. */

const byId = (id) => document.getElementById(id);
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const DARK = "(prefers-color-scheme: dark)";
const media = (query) => matchMedia(query).matches;

function make(tag, properties, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties || {})) {
    if (key in element) element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

/* Text that plotly shows as it is: neither markup nor a template. */
function plain(text) {
  return String(text).replace(/[&<>%]/g, (sign) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", "%": "&#37;" })[sign]);
}

/* A count and its noun. */
function counted(count, one) {
  return `${count} ${one}${count === 1 ? "" : "s"}`;
}

/* A number to so many significant digits; "" for none. */
function digits(value, count) {
  if (Number.isNaN(value) || value === undefined) return "";
  if (!Number.isFinite(value)) return value > 0 ? "infinite" : "-infinite";
  const rounded = Number(value.toPrecision(count));
  return rounded && Math.abs(rounded) < 1e-4 ? rounded.toExponential() : String(rounded);
}

async function unpack(id) {
  const text = atob(byId(id).textContent);
  const bytes = new Uint8Array(text.length);
  for (let k = 0; k < text.length; k++) bytes[k] = text.charCodeAt(k);
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

/* One named value of every unit over time, unit after unit; NaN where there is none. */
class Values {
  constructor(buffer, about) {
    Object.assign(this, about);
    this.buffer = buffer;
    this.place = this.units ? new Map(this.units.map((unit, row) => [unit, row])) : null;
  }

  get numbers() {
    if (!this.decoded) {
      const kind = { 8: Uint8Array, 16: Uint16Array, 32: Float32Array }[this.bits];
      const raw = new kind(this.buffer, this.offset, this.rows * this.columns);
      const step = (this.high - this.low) / (2 ** this.bits - 2); // code 0 stands for NaN
      this.decoded =
        this.bits === 32 ? raw : Float32Array.from(raw, (code) => (code ? this.low + (code - 1) * step : NaN));
    }
    return this.decoded;
  }

  get digits() {
    return { 8: 3, 16: 5, 32: 7 }[this.bits];
  }

  /* Half a step between codes: what a number may be off by, as text. */
  get error() {
    return this.bits === 32 ? "" : ` \u00b1 ${digits((this.high - this.low) / (2 ** this.bits - 2) / 2, 2)}`;
  }

  unit(row) {
    return this.units ? this.units[row] : row;
  }

  row(unit) {
    if (this.units) return this.place.get(unit);
    return unit < this.rows ? unit : undefined;
  }

  line(row) {
    return this.numbers.subarray(row * this.columns, (row + 1) * this.columns);
  }

  at(row, k) {
    return this.numbers[row * this.columns + k];
  }
}

/* measures.match: the correlation of values with a 0/1 selection. NaN does not count; 0 where either is constant. */
function correlation(values, on) {
  let count = 0;
  let sum = 0;
  let chosen = 0;
  for (let k = 0; k < values.length; k++) {
    if (Number.isNaN(values[k])) continue;
    count += 1;
    sum += values[k];
    chosen += on[k];
  }
  const mean = sum / count;
  const share = chosen / count;
  let both = 0;
  let spread = 0;
  let squares = 0;
  for (let k = 0; k < values.length; k++) {
    if (Number.isNaN(values[k])) continue;
    both += (values[k] - mean) * (on[k] - share);
    spread += (values[k] - mean) ** 2;
    squares += values[k] ** 2;
  }
  const size = Math.sqrt(spread * count * share * (1 - share));
  // Rounding leaves something of a unit that never changes.
  return size > 0 && spread > 1e-14 * squares ? both / size : 0;
}

const BETWEEN = ["#00224e", "#35456c", "#666970", "#948e77", "#c8b866", "#fee838"]; // of 0 to 1
const signed = () =>
  media(DARK)
    ? ["#8ec5ff", "#2f6ea8", "#1d232b", "#b0532a", "#ffb98a"]
    : ["#0b4a86", "#7fb2dc", "#f7f7f7", "#e79a6c", "#8f2f08"];
const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

function rampOf([low]) {
  return low === 0 ? BETWEEN : signed();
}

/* As plotly takes them. */
function colours(scale) {
  const ramp = rampOf(scale);
  return ramp.map((hex, at) => [at / (ramp.length - 1), hex]);
}

function colour(value, scale) {
  const ramp = rampOf(scale);
  const at = clamp((value - scale[0]) / (scale[1] - scale[0]), 0, 1) * (ramp.length - 1);
  const below = Math.min(Math.floor(at), ramp.length - 2);
  const [a, b] = [rgb(ramp[below]), rgb(ramp[below + 1])];
  return a.map((part, j) => Math.round(part + (b[j] - part) * (at - below)));
}

/* Scale of a named value: one for both sides, or they could not be compared. */
function scaleOf(name) {
  const found = sides
    .map((side) => side.values(name))
    .filter(Boolean)
    .map((values) => values.scale);
  return [Math.min(...found.map(([low]) => low)), Math.max(...found.map(([, high]) => high))];
}

/* Scale of one unit's line: units that are far out must not leave it without colour. */
function scaleWithin(line, scale) {
  const most = line.reduce((found, value) => (Number.isFinite(value) ? Math.max(found, Math.abs(value)) : found), 0);
  return scale[0] === 0 || !most ? scale : [-most, most];
}

function theme() {
  const style = getComputedStyle(document.documentElement);
  const get = (name) => style.getPropertyValue(name).trim();
  return {
    ink: get("--ink"),
    soft: get("--soft"),
    line: get("--line"),
    panel: get("--panel"),
    accent: get("--accent"),
    chosen: get("--chosen"),
  };
}
