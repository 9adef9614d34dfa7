"use strict";

const MARGIN = { l: 52, r: 12, t: 6, b: 34 }; // of the figures, fixed, so that steps stand below each other
const SHOWN = 20; // units in a list

/* One trace on the page: its input, figures, chosen steps and found units. */
class Side {
  constructor(data, buffer) {
    Object.assign(this, data);
    const values = (about) => new Values(buffer, about);
    const each = (named) => new Map(Object.entries(named).map(([name, about]) => [name, values(about)]));
    this.walks = new Map(
      data.walks.map((walk) => [
        walk.key,
        { ...walk, values: each(walk.values), initial: each(walk.initial), measures: each(walk.measures) },
      ]),
    );
    this.titles = new Map(Object.entries(data.titles));
    this.formulas = new Map(Object.entries(data.formulas));
    this.array = data.array && values(data.array);
    this.ranges = []; // chosen steps: [first, last] places
    this.drag = null;
    this.spacing = this.steps.length > 1 ? this.steps[1] - this.steps[0] : 1;
    this.build();
  }

  /* The chosen value in the chosen layer, if this trace has it. */
  values(name = state.name, walk = state.walk) {
    return this.walks.get(walk)?.values.get(name);
  }

  get row() {
    return this.values()?.row(state.unit);
  }

  get length() {
    return this.steps.length;
  }

  get span() {
    return state.range || whole();
  }

  nearest(step) {
    let [low, high] = [0, this.length - 1];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (this.steps[middle] <= step) low = middle;
      else high = middle;
    }
    return step - this.steps[low] <= this.steps[high] - step ? low : high;
  }

  build() {
    this.root = byId("side").content.cloneNode(true).firstElementChild;
    const find = (selector) => this.root.querySelector(selector);
    for (const part of [
      "text",
      "lines",
      "map",
      "missing",
      "result",
      "found",
      "from",
      "to",
      "clear",
      "what",
      "diagram",
      "about",
    ]) {
      this[part] = find("." + part);
    }
    this.scale = { low: find(".low"), ramp: find(".ramp"), high: find(".high") };
    this.overlays = [...this.root.querySelectorAll(".overlay")];
    this.panels = [...this.root.querySelectorAll(".panel, .legend")];
    this.root.setAttribute("aria-label", this.label || this.spec);
    const title = find("h2");
    title.append(...(this.label ? [this.label + " "] : []), make("small", { textContent: this.spec }));
    find(".find").setAttribute("aria-label", "Find units by chosen steps");
    this.about.setAttribute("aria-label", "The chosen unit");
    this.diagram.setAttribute("aria-label", "Block diagram of the cell with the chosen unit's values");
    this.map.setAttribute("aria-label", "Heat map");
    for (const box of [this.from, this.to]) {
      Object.assign(box, { min: this.steps[0], max: this.steps[this.length - 1], value: this.steps[0] });
    }
    find(".add").addEventListener("click", () =>
      this.choose(this.nearest(+this.from.value), this.nearest(+this.to.value)),
    );
    this.clear.addEventListener("click", () => this.free());
    this.found.addEventListener("click", (event) => this.go(event.target.closest("button")));
    byId("sides").append(this.root);
    if (this.tokens) this.buildText();
    this.lines.classList.toggle("tall", Boolean(this.array));
    this.draggable(this.lines, (event) => this.stepAt(event));
    this.cell = new Diagram(this);
  }

  buildText() {
    this.text.hidden = false;
    this.text.setAttribute("aria-label", "The input as text, coloured by the chosen unit");
    this.text.classList.toggle(
      "words",
      this.tokens.some((token) => [...token].length > 1),
    );
    this.spans = this.tokens.map((token, k) => {
      const shown = token === "\n" ? "\u23ce\n" : token === "" ? "\u00b7" : token;
      const span = make("span", { textContent: shown });
      span.dataset.k = k;
      return span;
    });
    this.text.append(...this.spans);
    this.draggable(this.text, (event) => {
      const span = document.elementFromPoint(event.clientX, event.clientY)?.closest("[data-k]");
      return span && this.text.contains(span) ? +span.dataset.k : null;
    });
  }

  /* Where in time a pointer is. */
  stepAt(event) {
    const box = this.lines.getBoundingClientRect();
    const [first, last] = this.span;
    const part = (event.clientX - box.left - MARGIN.l) / (box.width - MARGIN.l - MARGIN.r);
    return this.nearest(first + clamp(part, 0, 1) * (last - first));
  }

  /* The text of a step, in quotes, of so many characters at most. */
  token(k, most) {
    const signs = [...this.tokens[k]];
    return JSON.stringify(signs.length > most ? `${signs.slice(0, most - 1).join("")}\u2026` : this.tokens[k]);
  }

  /* A drag chooses steps; a tap goes to its step, or chooses it. */
  draggable(element, place) {
    element.addEventListener("pointerdown", (event) => {
      const k = event.button === 0 ? place(event) : null;
      if (k === null) return;
      this.drag = { first: k, last: k, x: event.clientX, moved: false };
    });
    element.addEventListener("pointermove", (event) => {
      if (!this.drag) return;
      const k = place(event);
      if (Math.abs(event.clientX - this.drag.x) > 4 || this.drag.moved) {
        if (!this.drag.moved) element.setPointerCapture(event.pointerId);
        this.drag.moved = true;
        if (k !== null) this.drag.last = k;
        this.mark();
      }
    });
    element.addEventListener("pointerup", () => {
      const drag = this.drag;
      this.drag = null;
      if (!drag) return;
      if (drag.moved) this.choose(drag.first, drag.last);
      else if (state.tap) this.toggle(drag.first);
      if (!drag.moved) change({ k: drag.first });
    });
    element.addEventListener("pointercancel", () => {
      this.drag = null;
      this.mark();
    });
  }

  choose(first, last) {
    const [low, high] = [Math.min(first, last), Math.max(first, last)];
    // Ranges that touch become one.
    const apart = this.ranges.filter(([a, b]) => b < low - 1 || a > high + 1);
    const joined = this.ranges.filter((range) => !apart.includes(range));
    this.ranges = [...apart, [Math.min(low, ...joined.map(([a]) => a)), Math.max(high, ...joined.map(([, b]) => b))]];
    this.ranges.sort(([a], [b]) => a - b);
    this.selected();
  }

  toggle(k) {
    const within = this.ranges.find(([a, b]) => a <= k && k <= b);
    if (!within) {
      this.choose(k, k);
      return;
    }
    const [a, b] = within;
    const rest = [
      [a, k - 1],
      [k + 1, b],
    ].filter(([first, last]) => first <= last);
    this.ranges = [...this.ranges.filter((range) => range !== within), ...rest].sort(
      ([first], [other]) => first - other,
    );
    this.selected();
  }

  free(range) {
    this.ranges = range ? this.ranges.filter((other) => other !== range) : [];
    this.selected();
  }

  selected() {
    leader = this;
    const on = new Uint8Array(this.length);
    for (const [a, b] of this.ranges) on.fill(1, a, b + 1);
    this.on = this.ranges.length ? on : null;
    this.mark();
    this.search();
    const chip = (range) => {
      const [a, b] = range.map((k) => this.steps[k]);
      const button = make("button", { type: "button", textContent: `${a === b ? a : `${a} \u2013 ${b}`} \u00d7` });
      button.setAttribute("aria-label", a === b ? `Free step ${a}` : `Free steps ${a} to ${b}`);
      button.addEventListener("click", () => this.free(range));
      return button;
    };

    this.root.querySelector(".ranges").replaceChildren(...this.ranges.map(chip));
    this.clear.disabled = !this.ranges.length;
    if (state.order === "match") drawMaps();
  }

  /* Shows the chosen steps, and those that a drag is over. */
  mark() {
    const dragged = this.drag?.moved ? [[this.drag.first, this.drag.last].sort((a, b) => a - b)] : [];
    const ranges = [...this.ranges, ...dragged];
    const [first, last] = this.span;
    const part = (step) => (100 * (step - first)) / (last - first);
    for (const overlay of this.overlays) {
      overlay.replaceChildren(
        ...ranges.map(([a, b]) => {
          const [left, right] = [part(this.steps[a] - this.spacing / 2), part(this.steps[b] + this.spacing / 2)];
          const box = make("div", { className: "range" });
          Object.assign(box.style, { left: `${left}%`, width: `${right - left}%` });
          return box;
        }),
        make("div", { className: "now" }),
      );
    }
    this.spans?.forEach((span, k) =>
      span.classList.toggle(
        "range",
        ranges.some(([a, b]) => a <= k && k <= b),
      ),
    );
    this.point();
  }

  /* Correlation with the chosen steps of every unit of one value. */
  matches(values) {
    return Float64Array.from({ length: values.rows }, (_, row) => correlation(values.line(row), this.on));
  }

  search() {
    if (!this.on) {
      this.found.replaceChildren();
      this.result.textContent = "Choose steps on the input first: drag over them, or type them here.";
      return;
    }
    const all = [];
    for (const walk of this.walks.values()) {
      const values = walk.values.get(state.name);
      if (!values) continue;
      this.matches(values).forEach((score, row) => {
        all.push({ walk, unit: values.unit(row), score });
      });
    }
    all.sort((a, b) => Math.abs(b.score) - Math.abs(a.score));
    const chosen = this.on.reduce((sum, one) => sum + one, 0);
    const what = `Correlation of ${state.name} with them, of ${counted(all.length, "unit")}:`;
    this.result.textContent = `${chosen} of ${counted(this.length, "step")} chosen. ${what}`;
    this.found.replaceChildren(
      ...all.slice(0, SHOWN).map(({ walk, unit, score }) => {
        const bar = make("span", { className: "bar" });
        bar.classList.toggle("off", score < 0);
        bar.style.setProperty("--part", `${100 * Math.abs(score)}%`);
        const button = make("button", { type: "button" }, `${walk.label}, unit ${unit}`, bar);
        button.append(make("span", { className: "score", textContent: score.toFixed(4) }));
        Object.assign(button.dataset, { walk: walk.key, unit });
        return make("li", {}, button);
      }),
    );
  }

  go(button) {
    if (button) change({ walk: button.dataset.walk, unit: +button.dataset.unit });
  }

  /* Rows from top to bottom. The first side leads, or the one whose steps were chosen, so that rows compare. */
  order() {
    const own = this.values();
    const lead = state.order === "match" ? leader || this : sides[0];
    const theirs = lead.values();
    const fits = theirs && theirs.rows === own.rows && String(theirs.units) === String(own.units);
    const [side, values] = fits ? [lead, theirs] : [this, own];
    const rows = Array.from({ length: own.rows }, (_, row) => row);
    let by = null;
    if (state.order === "match") by = side.on && side.matches(values);
    else if (state.order !== "number") by = side.walks.get(state.walk).measures.get(state.order)?.numbers;
    if (by && by.length === rows.length) {
      const key = (row) => (Number.isNaN(by[row]) ? -Infinity : by[row]);
      const sign = state.reversed ? -1 : 1;
      rows.sort(
        (a, b) => (Number.isNaN(by[a]) || Number.isNaN(by[b]) ? key(b) - key(a) : sign * (by[b] - by[a])) || a - b,
      );
    } else if (state.reversed) rows.reverse();
    return rows;
  }

  drawMap() {
    const values = this.values();
    for (const part of this.panels) part.hidden = !values;
    this.missing.hidden = Boolean(values);
    if (!values) {
      this.missing.textContent = `This one has no ${state.name} in this layer.`;
      return;
    }
    const scale = scaleOf(state.name);
    this.rows = this.order();
    const number = `%{z:.${values.digits}~g}${values.error}`;
    const data = {
      type: "heatmap",
      z: this.rows.map((row) => values.line(row)),
      x: this.steps,
      y: this.rows.map((row) => String(values.unit(row))),
      zmin: scale[0],
      zmax: scale[1],
      colorscale: colours(scale),
      showscale: false,
      hoverongaps: false,
      hovertemplate: `unit %{y}, step %{x}<br>${plain(state.name)} = ${number}<extra></extra>`,
    };
    const layout = this.layout({ dragmode: media("(pointer: coarse)") ? false : "zoom" });
    layout.yaxis = {
      ...this.axis(),
      type: "category",
      showgrid: false,
      autorange: "reversed",
      title: { text: counted(values.rows, "unit"), standoff: 4 },
      uirevision: `${state.walk} ${values.rows} ${state.order} ${state.reversed}`,
    };
    const fresh = !this.map.layout;
    this.map.style.height = `${clamp(50 + 18 * values.rows, 150, innerWidth < 600 ? 320 : 480)}px`;
    layout.shapes = this.frame();
    Plotly.react(this.map, [data], layout, this.config());
    if (fresh) {
      this.map.on("plotly_click", ({ points }) => change({ unit: +points[0].y, k: this.nearest(+points[0].x) }));
      this.map.on("plotly_doubleclick", () => this.reset());
      this.map.on("plotly_relayout", (moved) => {
        if ("xaxis.range[0]" in moved) change({ range: [moved["xaxis.range[0]"], moved["xaxis.range[1]"]] });
      });
    }
    this.scale.low.textContent = digits(scale[0], 3);
    this.scale.high.textContent = digits(scale[1], 3);
    this.scale.ramp.style.background = `linear-gradient(to right, ${rampOf(scale).join(", ")})`;
    this.what.textContent = this.formulas.get(state.name) || state.name;
    const shown = `${counted(values.rows, "unit")} by ${counted(this.length, "step")}`;
    this.map.setAttribute("aria-label", `Heat map of ${state.name}: ${shown}. Arrows up and down choose a unit`);
  }

  reset() {
    if (this.map.layout) Plotly.relayout(this.map, { "yaxis.autorange": "reversed" });
    change({ range: null });
  }

  /* A frame for the chosen unit's row on the map. */
  frame() {
    const at = this.rows ? this.rows.indexOf(this.row) : -1;
    const { chosen } = theme();
    return at < 0
      ? []
      : [{ type: "rect", xref: "paper", x0: 0, x1: 1, y0: at - 0.5, y1: at + 0.5, line: { color: chosen, width: 2 } }];
  }

  drawFrame() {
    if (this.values()) Plotly.relayout(this.map, { shapes: this.frame() });
  }

  /* What hangs on the unit: its lines, the colours of the text, its measures. */
  drawUnit() {
    const values = this.values();
    if (!values) return;
    const walk = this.walks.get(state.walk);
    const row = this.row;
    const whole = scaleOf(state.name);
    const scale = row === undefined ? whole : scaleWithin(values.line(row), whole);
    const data = [];
    const layout = this.layout({ dragmode: false, hovermode: "x" });
    const { accent, ink } = theme();
    const top = this.array ? 0.5 : 1;
    layout.yaxis = {
      ...this.axis(),
      domain: [0, top],
      fixedrange: true,
      title: { text: plain(state.name), standoff: 4 },
    };
    if (row !== undefined) {
      const hover = `%{y:.${values.digits}~g}${values.error}<extra></extra>`;
      data.push({
        type: "scatter",
        x: this.steps,
        y: values.line(row),
        mode: "lines",
        line: { color: accent, width: 1.5 },
        hovertemplate: hover,
      });
    }
    if (this.array) {
      layout.yaxis2 = { ...this.axis(), domain: [0.64, 1], fixedrange: true, title: { text: "input", standoff: 4 } };
      layout.yaxis3 = { domain: [0.54, 0.61], visible: false, fixedrange: true };
      const hover = `.${this.array.digits}~g}${this.array.error}<extra></extra>`;
      const input = { x: this.steps, yaxis: "y2" };
      if (this.array.rows === 1)
        data.push({
          ...input,
          type: "scatter",
          y: this.array.line(0),
          mode: "lines",
          line: { color: ink, width: 1.2 },
          hovertemplate: `%{y:${hover}`,
        });
      else {
        const all = Array.from({ length: this.array.rows }, (_, j) => j);
        const [low, high] = this.array.scale;
        data.push({
          ...input,
          type: "heatmap",
          z: all.map((j) => this.array.line(j)),
          y: all.map((j) => String(this.array.unit(j))),
          zmin: low,
          zmax: high,
          colorscale: colours(this.array.scale),
          showscale: false,
          hovertemplate: `input %{y}: %{z:${hover}`,
        });
        Object.assign(layout.yaxis2, { type: "category", autorange: "reversed", showgrid: false });
      }
      if (row !== undefined) {
        // Where the unit is active on the input: its values as a strip of colours below it.
        data.push({
          type: "heatmap",
          x: this.steps,
          y: [0],
          z: [values.line(row)],
          yaxis: "y3",
          zmin: scale[0],
          zmax: scale[1],
          colorscale: colours(scale),
          showscale: false,
          hoverinfo: "skip",
        });
      }
    }
    Plotly.react(this.lines, data, layout, this.config());
    this.lines.setAttribute(
      "aria-label",
      `${this.array ? "The input, and " : ""}${state.name} of unit ${state.unit} over time`,
    );
    if (this.spans) this.paint(row === undefined ? null : values.line(row), scale);
    const said = ({ truth, numbers }) => (truth ? (numbers[row] ? "yes" : "no") : digits(numbers[row], 4) || "none");
    const facts = values.own && row !== undefined ? [...walk.measures].map(([name, one]) => [name, said(one)]) : [];
    const shown = facts.flatMap(([name, value]) => [
      make("dt", { textContent: name }),
      make("dd", { textContent: value }),
    ]);
    this.about.querySelector("h3").textContent =
      `Unit ${state.unit} of ${walk.label}${row === undefined ? " is not on this page" : ""}`;
    this.about.querySelector("dl").replaceChildren(...shown);
  }

  paint(line, scale) {
    this.spans.forEach((span, k) => {
      const value = line ? line[k] : NaN;
      if (Number.isNaN(value)) {
        span.removeAttribute("style");
        return;
      }
      const [r, g, b] = colour(value, scale);
      span.style.background = `rgb(${r}, ${g}, ${b})`;
      span.style.color = 0.299 * r + 0.587 * g + 0.114 * b > 140 ? "#111418" : "#ffffff";
    });
  }

  axis() {
    const { line, soft } = theme();
    return {
      gridcolor: line,
      zerolinecolor: line,
      linecolor: line,
      tickfont: { size: 11, color: soft },
      ticks: "",
      automargin: false,
    };
  }

  layout(more) {
    const { ink, soft, panel } = theme();
    return {
      margin: MARGIN,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: 12, color: soft },
      hoverlabel: { bgcolor: panel, bordercolor: soft, font: { color: ink, size: 13 } },
      showlegend: false,
      xaxis: {
        ...this.axis(),
        range: [...this.span],
        showgrid: false,
        zeroline: false,
        title: { text: "step", standoff: 2 },
      },
      ...more,
    };
  }

  config() {
    return { displayModeBar: false, responsive: true, doubleClick: false, showTips: false };
  }

  zoom() {
    for (const figure of [this.lines, this.map])
      if (figure.layout) Plotly.relayout(figure, { "xaxis.range": [...this.span] });
    this.mark();
  }

  /* Where the step is: on figures and text. */
  point() {
    const k = state.k;
    const [first, last] = this.span;
    for (const overlay of this.overlays) {
      const now = overlay.lastElementChild;
      if (!now) continue;
      now.hidden = k >= this.length;
      now.style.left = `${(100 * (this.steps[Math.min(k, this.length - 1)] - first)) / (last - first)}%`;
    }
    if (this.spans) {
      this.current?.classList.remove("now");
      this.current = this.spans[k];
      this.current?.classList.add("now");
    }
  }

  /* What the step shows: its place, and its numbers in the diagram. */
  drawStep() {
    this.point();
    if (this.current && (player || this.text.scrollHeight > this.text.clientHeight)) {
      // Not scrollIntoView: that would move the page too.
      const [top, height] = [this.current.offsetTop - this.text.offsetTop, this.text.clientHeight];
      if (top < this.text.scrollTop || top > this.text.scrollTop + height - 30) this.text.scrollTop = top - height / 2;
    }
    this.cell.show(this.walks.get(state.walk));
  }
}
