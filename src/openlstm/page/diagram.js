"use strict";

/* The arithmetic of the equations' symbols, on numbers. */
const ARITHMETIC = {
  "+": (a, b) => a + b,
  "-": (a, b) => a - b,
  "*": (a, b) => a * b,
  "/": (a, b) => a / b,
  neg: (a) => -a,
  sigmoid: (a) => 1 / (1 + Math.exp(-a)),
  tanh: Math.tanh,
  relu: (a) => Math.max(a, 0),
  negative: (a) => Math.min(a, 0),
  exp: Math.exp,
  expm1: Math.expm1,
  log: Math.log,
  maximum: Math.max,
  minimum: Math.min,
  abs: Math.abs,
  softplus: (a) => Math.max(a, 0) + Math.log1p(Math.exp(-Math.abs(a))),
  step: (a) => +(a > 0),
  clip: clamp,
};

/* The block diagram of a trace's cell, with the numbers of the chosen unit at the step. */
class Diagram {
  constructor(side) {
    this.side = side;
    // Its style is for it alone, so it stands in a tree of its own.
    const tree = side.diagram.attachShadow({ mode: "open" });
    const svg = document.importNode(new DOMParser().parseFromString(side.svg, "image/svg+xml").documentElement, true);
    Object.assign(svg.style, { maxWidth: "max(100%, 900px)", height: "auto" }); // smaller could not be read
    tree.append(svg);
    this.boxes = [...svg.querySelectorAll(".node")].map((box) => box.querySelector(".value"));
    this.figures = Math.min(5, [...side.walks.values()][0].values.values().next().value.digits);
  }

  show(walk) {
    const there = walk && state.k < this.side.length;
    const numbers = []; // of the boxes, each of which follows its inputs
    this.side.nodes.forEach((node, j) => {
      let [number, text] = [NaN, ""];
      if (there) [number, text] = node.name ? this.named(walk, node.name) : [this.follows(node, numbers)];
      numbers.push(number);
      if (this.boxes[j]) this.boxes[j].textContent = text ?? digits(number, this.figures);
    });
  }

  /* The number of an operation between named values: `args` are places of boxes, and constants in brackets. */
  follows({ op, args }, numbers) {
    const given = args.map((arg) => (Array.isArray(arg) ? arg[0] : numbers[arg]));
    return op in ARITHMETIC ? ARITHMETIC[op](...given) : NaN;
  }

  /* A named value at this step: the chosen unit's number, and its text if it is another. */
  named(walk, name) {
    const k = state.k;
    if (name === "x") {
      if (walk.layer) return [NaN, ""];
      if (this.side.array) return this.summary(this.side.array, k);
      return [NaN, this.side.tokens ? this.side.token(k, 9) : ""];
    }
    if (!name.endsWith("_prev")) return this.own(walk.values.get(name), k);
    const before = k + (walk.reverse ? 1 : -1);
    const which = name.slice(0, -"_prev".length);
    if (before < 0 || before >= this.side.length) {
      const first = walk.reverse ? this.side.ends : this.side.steps[0] === 0;
      return first ? this.own(walk.initial.get(which), 0) : [NaN, ""];
    }
    const next = Math.abs(this.side.steps[before] - this.side.steps[k]) === 1;
    return next ? this.own(walk.values.get(which), before) : [NaN, ""];
  }

  own(values, k) {
    if (!values) return [NaN, ""];
    if (!values.own) return this.summary(values, k);
    const row = values.row(state.unit);
    const number = row === undefined ? NaN : values.at(row, k);
    return [number, digits(number, this.figures)];
  }

  /* What does not go by units: its numbers if they are few, else their range. */
  summary(values, k) {
    const numbers = Array.from({ length: values.rows }, (_, row) => values.at(row, k));
    const few = (value) => digits(value, 3);
    if (numbers.length === 1) return [NaN, digits(numbers[0], this.figures)];
    if (numbers.length <= 4) return [NaN, `[${numbers.map(few).join(", ")}]`];
    return [NaN, `${few(Math.min(...numbers))} \u2026 ${few(Math.max(...numbers))}`];
  }
}
