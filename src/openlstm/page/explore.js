"use strict";
/* The explorer's page. `state` is what is chosen; every control calls `change`, which draws again what depends on it.
   Words and names from data reach the page as text only: textContent here, `plain` for plotly, which reads markup. */

const state = { k: 0, name: "", walk: "", unit: 0, order: "number", reversed: false, range: null, tap: false };
const sides = [];
let player = null; // the timer while playing
let leader = null; // the side whose chosen steps order the units

const longest = () => sides.reduce((a, b) => (b.length > a.length ? b : a));

/* All steps of all sides, with room for the first and the last. */
function whole() {
  const ends = sides.map(({ steps, spacing }) => [steps[0] - spacing / 2, steps[steps.length - 1] + spacing / 2]);
  return [Math.min(...ends.map(([start]) => start)), Math.max(...ends.map(([, end]) => end))];
}

function drawMaps() {
  for (const side of sides) side.drawMap();
}

function change(next) {
  const before = { ...state };
  Object.assign(state, next);
  state.k = clamp(state.k, 0, longest().length - 1);
  const differs = (...keys) => keys.some((key) => before[key] !== state[key]);
  if (differs("walk")) fillNames();
  follow();
  if (differs("name")) for (const side of sides) side.search();
  if (differs("name", "walk", "order", "reversed")) drawMaps();
  else if (differs("unit")) for (const side of sides) side.drawFrame();
  if (differs("name", "walk", "unit")) for (const side of sides) side.drawUnit();
  if (differs("range")) for (const side of sides) side.zoom();
  if (differs("k", "walk", "unit")) for (const side of sides) side.drawStep();
  show();
}

/* Moves the part of time that is shown along with the step. */
function follow() {
  if (!state.range) return;
  const [first, last] = state.range;
  const step = longest().steps[state.k];
  if (state.range && (step < first || step > last)) {
    const move = step - (first + last) / 2;
    state.range = [first + move, last + move];
  }
}

function fillNames() {
  const walks = sides.map((side) => side.walks.get(state.walk)).filter(Boolean);
  const names = [...new Set(walks.flatMap((walk) => [...walk.values.keys()]))];
  if (!names.includes(state.name)) state.name = names[names.length - 1];
  const title = (name) => sides.map((side) => side.titles.get(name)).find(Boolean);
  byId("name").replaceChildren(
    ...names.map((name) =>
      make("option", { value: name, textContent: title(name) ? `${name}: ${title(name)}` : name }),
    ),
  );
  const measures = [...new Set(walks.flatMap((walk) => [...walk.measures.keys()]))];
  byId("order").replaceChildren(
    make("option", { value: "number", textContent: "number" }),
    ...measures.map((name) => make("option", { value: name, textContent: name })),
    make("option", { value: "match", textContent: "match with the chosen steps" }),
  );
}

/* The controls and the readout say what the state is. */
function show() {
  const side = longest();
  const step = side.steps[state.k];
  byId("time").value = state.k;
  byId("time").setAttribute("aria-valuetext", `step ${step}`);
  if (document.activeElement !== byId("step")) byId("step").value = step;
  if (document.activeElement !== byId("unit")) byId("unit").value = state.unit;
  for (const key of ["name", "walk", "order"]) byId(key).value = state[key];
  byId("reversed").checked = state.reversed;
  byId("tap").checked = state.tap;
  byId("play").textContent = player ? "Pause" : "Play";
  const readings = sides.map((one) => {
    const values = one.values();
    const row = one.row;
    const label = one.label ? `${one.label}: ` : "";
    if (state.k >= one.length) return `${label}ended`;
    const token = one.tokens ? ` at ${one.token(state.k, 40)}` : "";
    const number =
      row === undefined || !values ? "none" : digits(values.at(row, state.k), values.digits) + values.error;
    return `${label}${state.name} = ${number}${token}`;
  });
  byId("readout").setAttribute("aria-live", player ? "off" : "polite");
  byId("readout").textContent = `Step ${step}, unit ${state.unit}. ${readings.join("; ")}`;
}

function play(on) {
  clearInterval(player);
  player = null;
  if (on) {
    const end = longest().length - 1;
    if (state.k === end) change({ k: 0 });
    player = setInterval(
      () => {
        change({ k: state.k + 1 });
        if (state.k === end) play(false);
      },
      1000 / +byId("speed").value,
    );
  }
  show();
}

function zoomBy(factor) {
  const side = longest();
  const [first, last] = side.span;
  const [start, end] = whole();
  const size = Math.max((last - first) * factor, 4 * side.spacing);
  if (size >= end - start) return zoomOut();
  const middle = side.steps[state.k];
  const from = clamp(middle - size / 2, start, end - size);
  change({ range: [from, from + size] });
}

function zoomOut() {
  for (const side of sides) side.reset();
}

/* The unit that stands so many rows further down. */
function moveUnit(by) {
  const side = sides.find((one) => one.values() && one.rows);
  if (!side) return;
  const at = side.rows.indexOf(side.row);
  const row = side.rows[at < 0 ? 0 : clamp(at + by, 0, side.rows.length - 1)];
  change({ unit: side.values().unit(row) });
}

/* The side that keys for choosing steps are about: the one with the focus, else the one last used. */
function active() {
  return sides.find((side) => side.root.contains(document.activeElement)) || leader || sides[0];
}

const KEYS = {
  ArrowLeft: (event) => walkTo(-1, event.shiftKey),
  ArrowRight: (event) => walkTo(1, event.shiftKey),
  Home: () => change({ k: 0 }),
  End: () => change({ k: longest().length - 1 }),
  " ": () => play(!player),
  n: () => moveUnit(1),
  p: () => moveUnit(-1),
  m: () => state.k < active().length && active().toggle(state.k),
  Escape: () => active().free(),
  "+": () => zoomBy(0.5),
  "=": () => zoomBy(0.5),
  "-": () => zoomBy(2),
  0: zoomOut,
  "?": () => byId("help").toggleAttribute("open"),
};

function walkTo(by, choosing) {
  const side = active();
  const from = Math.min(state.k, side.length - 1);
  change({ k: state.k + by });
  if (choosing) side.choose(from, Math.min(state.k, side.length - 1));
}

function onKey(event) {
  const target = event.target;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (target.matches("select, input[type=number]")) return;
  if (event.key === " " && target.matches("button, summary, input[type=checkbox]")) return;
  const onMap = target.classList.contains("map");
  if (onMap && (event.key === "ArrowDown" || event.key === "ArrowUp")) moveUnit(event.key === "ArrowDown" ? 1 : -1);
  else {
    const action = KEYS[event.key] || KEYS[event.key.toLowerCase()];
    if (!action) return;
    action(event);
  }
  event.preventDefault();
}

function connect() {
  const on = (id, event, action) => byId(id).addEventListener(event, action);
  on("first", "click", () => change({ k: 0 }));
  on("back", "click", () => change({ k: state.k - 1 }));
  on("play", "click", () => play(!player));
  on("forward", "click", () => change({ k: state.k + 1 }));
  on("last", "click", () => change({ k: longest().length - 1 }));
  on("time", "input", (event) => change({ k: +event.target.value }));
  on("step", "change", (event) => change({ k: longest().nearest(+event.target.value) }));
  on("speed", "change", () => player && play(true));
  for (const key of ["name", "walk", "order"]) on(key, "change", (event) => change({ [key]: event.target.value }));
  on("unit", "change", (event) => change({ unit: Math.max(0, Math.round(+event.target.value)) }));
  on("reversed", "change", (event) => change({ reversed: event.target.checked }));
  on("closer", "click", () => zoomBy(0.5));
  on("farther", "click", () => zoomBy(2));
  on("all", "click", zoomOut);
  on("tap", "change", (event) => change({ tap: event.target.checked }));
  document.addEventListener("keydown", onKey);
  // An object of its own: Chromium tells nothing of a change that was asked for before.
  matchMedia(DARK).addEventListener("change", () => {
    drawMaps();
    for (const side of sides) side.drawUnit();
  });
}

async function start() {
  const data = JSON.parse(byId("data").textContent);
  byId("notes").textContent = data.notes.join(" ");
  if (!("DecompressionStream" in window)) throw new Error("this browser is too old: one from 2023 or later is needed");
  const [library, buffer] = await Promise.all([unpack("plotly"), unpack("numbers")]);
  document.head.append(make("script", { textContent: new TextDecoder().decode(library) }));
  for (const trace of data.traces) sides.push(new Side(trace, buffer));
  byId("sides").classList.toggle("two", sides.length > 1);
  byId("bars").hidden = false;
  const walks = new Map(sides.flatMap((side) => [...side.walks.values()].map((walk) => [walk.key, walk.label])));
  byId("walk").replaceChildren(...[...walks].map(([value, textContent]) => make("option", { value, textContent })));
  byId("time").max = longest().length - 1;
  connect();
  state.name = data.first.name;
  for (const side of sides) side.selected();
  leader = null;
  change({ walk: data.first.walk, unit: data.first.unit });
  for (const side of sides) side.drawStep();
  document.documentElement.dataset.ready = "yes";
}

start().catch((error) => {
  byId("problem").textContent = `The page could not be shown: ${error.message}.`;
  byId("problem").hidden = false;
  throw error;
});
