"""Diagrams as SVG text: a cell, the arrays of one step, a network over time, and what goes in and out of a run.

All of them are derived from a spec and its equations.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import combinations, pairwise
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import file
from .emit import TEXT, Node, flow, graph, shown, symbols
from .layout import PORT, layered, turned
from .network import Network
from .spec import Spec, suffix
from .svg import PAD, SOURCES, Box, Line, few, framed, page, pixels, shape, wired
from .symbols import Sym, evaluate
from .words import counted

if TYPE_CHECKING:
    from .tracing import Trace

FORMULA = 30  # characters of a formula on a line


class Picture(str):
    """A diagram as SVG text. A notebook shows it."""

    def _repr_svg_(self) -> str:
        return self

    def save(self, path: str | os.PathLike[str], dark: bool = False, scale: float = 2.0) -> None:
        """Writes it to a .svg or .png file, whole or not at all.

        A .svg is light or dark as the page that it is on. A .png is light or `dark`, with `scale` pixels for a unit.
        Errors: ValueError for another ending, OSError, ImportError where there is nothing that makes pixels.
        """
        kind = Path(path).suffix[1:].lower()
        if kind not in ("png", "svg"):
            raise ValueError(f"The diagram's name is '{os.fspath(path)}': it should end with .png or .svg")
        file.replace(path, self.encode() if kind == "svg" else pixels(self, dark, scale))


def block_diagram(
    spec: Spec, values: Mapping[str, Any] | None = None, title: str = "", training: bool = False
) -> Picture:
    """One step of a cell as SVG text: every operation as it is wired, from the equations, for any spec.

    `values`: numbers or arrays by name, as in a trace, with x and <state>_prev for what the step begins with;
    `values_of` takes them from a trace. The number of an operation between named values follows from theirs where no
    parameter is needed.

    >>> block_diagram(Spec.of("gru", 3, 4)).startswith("<svg")
    True
    """
    return _step(spec, graph(spec, training), values or {}, [title, str(spec)])


def flow_diagram(
    spec: Spec,
    layer: int = 0,
    batch: int = 64,
    values: Mapping[str, Any] | None = None,
    title: str = "",
    training: bool = False,
) -> Picture:
    """One step of a layer on whole arrays as SVG text: every operation with its formula and shapes, for any spec.

    All gates come out of one product where the equations allow it, and are then cut apart. `values`: as for
    `block_diagram`, each (batch, n), (n,) or one unit's number. Errors: IndexError for a layer that there is not,
    ValueError for a value of another shape.

    >>> "[64, 1024] × [1024, 2048]" in flow_diagram(Spec.of("lstm", 512, 512))
    True
    """
    _check(batch=batch)
    nodes, values = flow(spec, layer, batch, training), values or {}
    for node in nodes:
        found = np.shape(values.get(node.name, 0.0))
        if found not in ((), node.shape[1:], node.shape):
            raise ValueError(
                f"'{node.name}' has the shape {found}: expected {node.shape}, {node.shape[1:]} or one number"
            )
    direction = "one direction of " if spec.bidirectional else ""
    note = "; · is what enters" if any(node.columns for node in nodes) else ""
    caption = [title, str(spec), f"one step of {direction}layer {layer}; shapes [batch, size]{note}"]
    return _step(spec, nodes, values, caption, down=True)


def trace_diagram(
    trace: Trace, step: int, unit: int, layer: int = 0, reverse: bool = False, sequence: int = 0, title: str = ""
) -> Picture:
    """The block diagram of a cell with the numbers of one unit at one step of a trace: see `values_of`."""
    values = values_of(trace, step, unit, layer, reverse, sequence)
    where = f"step {step}, unit {unit}, layer {layer}{' reversed' if reverse else ''}, sequence {sequence}, all from 0"
    return block_diagram(trace.spec, values, title or where)


def values_of(
    trace: Trace, step: int, unit: int | None = None, layer: int = 0, reverse: bool = False, sequence: int = 0
) -> dict[str, Any]:
    """The numbers of a layer at one step of a trace, of one unit or of all, by the names that diagrams have for them.

    Steps, units and sequences have their numbers in the run, from 0. x is the input of this layer, (I,). <state>_prev
    is what the step began with: that of the step before, in a reversed direction that of the step after, and the
    initial state where the sequence begins. What the trace does not tell has no number: the input of a layer above the
    first under dropout, and states of steps or units that were not kept. Sequences that begin by a reset are not known
    here. Errors: IndexError, and KeyError for a layer that there is not.
    """
    steps, named = [int(t) for t in trace.steps], trace.names(layer, reverse)
    t, b = _place(steps, step, "step"), _place(trace.sequences, sequence, "sequence")
    if all(np.isnan(array[t, b]).all() for array in named.values()):
        raise IndexError(f"step {step}: sequence {sequence} has ended before. Take an earlier step")
    place = unit if unit is None or trace.units is None else _place(trace.units, unit, "unit")
    found: dict[str, Any] = {}
    if (x := _input(trace, layer)) is not None:
        found["x"] = x[t, b]
    arrays = {name: array[t, b] for name, array in named.items()}
    before = step + 1 if reverse else step - 1
    for state, name in shown(trace.spec).items():
        first = trace.initial[state + suffix(layer, reverse)][b]
        if before in steps and name in named:
            old = named[name][steps.index(before), b]
            arrays[name + "_prev"] = first if reverse and np.isnan(old).all() else old
        elif before < 0 or (reverse and before == trace.length):
            arrays[name + "_prev"] = first
    if place is not None:
        arrays = {name: array[place] for name, array in arrays.items() if 0 <= place < len(array)}
        if not arrays:
            raise IndexError(f"unit {unit}: layer {layer} has {max(a.shape[-1] for a in named.values())}, from 0")
    return found | arrays


def _place(kept: Sequence[int] | Any, number: int, what: str) -> int:
    places = np.flatnonzero(np.asarray(kept) == number)
    if not len(places):
        some = ", ".join(map(str, kept[:5])) + (", ..." if len(kept) > 5 else "")
        raise IndexError(f"{what} {number} is not in this trace: it has {some or 'none'}")
    return int(places[0])


def _input(trace: Trace, layer: int) -> Any:
    """What a layer reads, (T, B, I), from what the layers below gave; None where that cannot be told."""
    spec, x = trace.spec, trace.x
    if layer and (spec.dropout or trace.units is not None):
        return None
    values = symbols(spec)
    output = values.get("y", values[shown(spec)["h"]])
    for below in range(layer):
        given = []
        for reverse in (False, True)[: spec.directions]:
            try:
                known = {values[name]: array for name, array in trace.names(below, reverse).items()}
                given.append(evaluate({"": output}, known)[""])
            except KeyError:  # a layer or a value that the trace has not kept
                return None
        y = np.concatenate(given, -1)
        x = x + y if spec.residual and below else y
    return x


def io_diagram(spec: Spec, time: int = 100, batch: int = 64, title: str = "") -> Picture:
    """What goes in and out of a whole run as SVG text: input, output, initial and final states, in torch.nn's layout.

    `time` steps of `batch` sequences. Errors: ValueError for sizes below 1.

    >>> "[100, 64, 40]" in io_diagram(Spec.of("lstm", 40, 512))
    True
    """
    _check(time=time, batch=batch)
    order, sizes = ("batch, time", (batch, time)) if spec.batch_first else ("time, batch", (time, batch))
    given, size = spec.walks[0].input_size, spec.output_size()
    features = f"2 × {counted(str(size // 2), 'feature')}" if spec.bidirectional else "features"

    def array(name: str, words: str, shapes: Sequence[str], dims: str, kind: str) -> Box:
        return Box([("ink name", name), ("soft", words), *(("ink", s) for s in shapes), ("soft", dims)], kind, name)

    def states(name: str, when: str) -> Box:
        words = f"{when} {spec.definition.titles.get(name, name)}"
        widths = [spec.state_sizes(walk)[name] for walk in spec.walks]
        stacked = "layers × directions" if spec.bidirectional else "layers"
        if len(set(widths)) == 1:
            shapes, dims = [shape(len(widths), batch, widths[0])], f"{stacked}, batch, units"
        else:  # one array for each layer
            each = [shape(spec.directions, batch, width) for width in widths[:: spec.directions]]
            shapes, dims = _elided(each, "layers"), "for each layer: directions, batch, units"
        return array(f"{name}_{'0' if when == 'initial' else 'n'}", words, shapes, dims, "state")

    names = list(shown(spec))
    boxes = [
        array("x", "input", [shape(*sizes, given)], f"{order}, features", "input"),
        *(states(name, "initial") for name in names),
        _core(spec),
        array("y", "output", [shape(*sizes, size)], f"{order}, {features}", "box"),
        *(states(name, "final") for name in names),
    ]
    core = 1 + len(names)
    inputs: list[list[int]] = [[] for _ in range(core)] + [list(range(core))] + [[core]] * core
    colours = {k: f"net{k}" for k in range(min(core, SOURCES))}
    return Picture(page([title, str(spec)], *_layered(boxes, inputs, range(core + 1, len(boxes)), colours)))


def _core(spec: Spec) -> Box:
    """What stands between the input and the output of a run."""
    layers = []
    for walk in spec.walks[:: spec.directions]:
        text = f"layer {walk.layer}: {walk.input_size} → {spec.output_size(walk.layer)}"
        layers.append(
            text + (f", {counted(str(walk.hidden_size), 'unit')}" if spec.proj_size or spec.bidirectional else "")
        )
    count = counted(spec.num_layers, "layer")
    notes = [name for name in ("residual", "learned_state") if getattr(spec, name)]
    lines = [count + (" × 2 directions" if spec.bidirectional else ""), *_elided(layers, "layers"), *notes]
    lines.append(f"{sum(map(prod, spec.parameters.values())):,} parameters")
    return Box([("ink name", spec.cell), *(("soft", line.replace("_", " ")) for line in lines)], "box", spec.cell)


def network_diagram(spec: Spec, steps: int = 4, batch: int = 64, title: str = "") -> Picture:
    """A network unrolled over time as SVG text: columns are steps, rows are layers, with the shapes of what is passed.

    Each layer's states go from step to step, backwards in a reversed direction; its output goes to the layer above.
    Of many steps or layers the first two and the last are drawn. Errors: ValueError for sizes below 1.

    >>> "96 more" in network_diagram(Spec.of("lstm", 40, 512, 3), steps=99)
    True
    """
    _check(steps=steps, batch=batch)
    states = shown(spec)
    network = Network(spec, steps, batch, states, "y" if "y" in symbols(spec) else states["h"])
    network.draw()
    caption = [title, str(spec), "shapes [batch, size]"]
    return Picture(page(caption, *network.size, network.drawn, base=network.size[1]))


def _elided(lines: Sequence[str], what: str) -> list[str]:
    kept = few(range(len(lines)))
    return [lines[some[0]] if len(some) == 1 else f"… {len(some)} more {what} …" for some in kept]


def _check(**sizes: int) -> None:
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} is {size!r}: expected a whole number of at least 1")


def _step(
    spec: Spec, nodes: Sequence[Node], values: Mapping[str, Any], caption: Sequence[str], down: bool = False
) -> Picture:
    """The picture of one step from its graph."""
    numbers = _numbers(nodes, values)
    ends = {node.name: k for k, node in enumerate(nodes) if node.name}
    states = shown(spec).values()
    kinds = {ends[name]: "state" for state in states for name in (state, state + "_prev") if name in ends}
    kinds = {k: "input" for k, node in enumerate(nodes) if not node.inputs} | kinds
    titles = spec.definition.titles
    boxes = []
    for k, (node, number) in enumerate(zip(nodes, numbers, strict=True)):
        lines = _lines(node, titles.get(node.name, ""), number)
        boxes.append(Box(lines, kinds.get(k, "box"), node.name, number, node.formula))
    inputs = [list(node.inputs) for node in nodes]
    goes = dict.fromkeys(states, "next step")
    output = "y" if "y" in ends else next(iter(goes))
    goes[output] = "output, next step" if output in goes else "output"
    for name, where in goes.items():  # what leaves the step
        boxes.append(Box([("soft", where)]))
        inputs.append([ends[name]])
    sources = ["x", *(state + "_prev" for state in states)]
    colours = {ends[name]: f"net{k}" for k, name in enumerate(sources[:SOURCES]) if name in ends}
    return Picture(page(caption, *_layered(boxes, inputs, range(len(nodes), len(boxes)), colours, down)))


def _layered(
    boxes: Sequence[Box],
    inputs: Sequence[Sequence[int]],
    last: Sequence[int],
    colours: Mapping[int, str],
    down: bool = False,
) -> tuple[float, float, list[str]]:
    """Width, height and elements of boxes in columns, each after its inputs; `down`: in rows, each below them."""
    sizes = []
    for (w, h), places in zip((box.size for box in boxes), inputs, strict=True):
        room = PAD + PORT * len(places)  # for the wires that enter
        sizes.append((max(w, room), h) if down else (w, max(h, room)))
    placed = turned(layered([(h, w) for w, h in sizes], inputs, last)) if down else layered(sizes, inputs, last)
    out = [part for k, net in enumerate(placed.nets) for part in wired(net, colours.get(k, "net"), down)]
    for box, (x, y), size in zip(boxes, placed.corners, sizes, strict=True):
        out += framed(box, x, y, size)
    return placed.width, placed.height, out


def _numbers(nodes: Sequence[Node], values: Mapping[str, Any]) -> list[str]:
    """Each node's number as text, "" where none was given and none follows from those of others."""
    known: dict[Sym, Any] = {}
    for k, node in enumerate(nodes):  # what is cut into parts that are given is these side by side
        users = [other for other in nodes if k in other.inputs]
        parts = [values.get(other.name, 0.0) for other in users if other.columns and len(other.inputs) == 1]
        if users and len(parts) == len(users) and all(map(np.ndim, parts)):
            known[node.value] = np.concatenate(parts, -1)
    for node in nodes:
        inputs = [nodes[k].value for k in node.inputs]
        if node.name in values:
            known[node.value] = np.asarray(values[node.name])
        elif node.inputs and node.value not in known and all(value in known for value in inputs):
            # What mixes units cannot follow from the number of one.
            alone = node.value.op in ("linear", "layer_norm", "join") and not all(np.ndim(known[k]) for k in inputs)
            with suppress(KeyError):  # a parameter
                known |= {} if alone else {node.value: evaluate({"": node.value}, known)[""]}
    found = [values.get(node.name, known.get(node.value)) for node in nodes]
    return ["" if value is None else _number(value) for value in found]


def _number(value: Any) -> str:
    flat = np.ravel(value)
    if flat.size == 1:
        return f"{flat[0]:.5g}"
    if flat.size <= 4:
        return f"[{', '.join(f'{one:.3g}' for one in flat)}]"
    return f"{np.nanmin(flat):.3g} … {np.nanmax(flat):.3g}"


def _lines(node: Node, title: str, number: str) -> list[Line]:
    """A box's lines: its name, what the field calls it, what it does, its shape, its number."""
    lines = [("ink name", TEXT.name(node.name, "", True))] if node.name else []
    lines += [("soft", title)] if title else []
    style = "soft" if node.name else "ink"
    lines += [(style, line) for line in _broken(node.label)]
    if node.factors:
        lines += [("ink", " × ".join(shape(*factor) for factor in node.factors)), ("ink", f"→ {shape(*node.shape)}")]
    elif node.shape:
        lines.append(("ink", shape(*node.shape)))
    return lines + ([("ink value", number)] if number else [])


def _broken(label: str) -> list[str]:
    """A long sum on several lines, of lengths as equal as can be."""
    terms: list[str] = []
    for part in label.split(" + "):
        if terms and terms[-1].count("(") > terms[-1].count(")"):  # this plus is within parentheses
            terms[-1] += f" + {part}"
        else:
            terms.append(part)
    count = min(len(terms), -(-len(label) // FORMULA))
    ways = (
        [" + ".join(terms[i:j]) for i, j in pairwise((0, *cuts, len(terms)))]
        for cuts in combinations(range(1, len(terms)), max(0, count - 1))
    )
    lines = min(ways, key=lambda lines: max(map(len, lines)))
    return [line + " +" for line in lines[:-1]] + [line for line in lines[-1:] if line]
