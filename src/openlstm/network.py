"""Where the parts of a network unrolled over time go: columns are steps, rows are layers, the input is below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from .layout import GAP, Point
from .spec import Spec, Walk
from .svg import LINE, PAD, SIZE, SOURCES, WIDE, Box, dotted, few, framed, route, shape, written

LINK = 2 * LINE  # between rows, where the shape of what is passed up stands
STUB = 22.0  # of a wire between boxes


class Network:
    """The picture's elements: rows are put one above the other, so what is higher has a smaller y.

    `states`: what recurs, by the names that are shown. `output`: the name of what a layer gives. The elements are in
    `drawn` after `draw`, from a y of -`height` to 0.
    """

    def __init__(self, spec: Spec, steps: int, batch: int, states: Mapping[str, str], output: str) -> None:
        self.spec, self.batch, self.states, self.output = spec, batch, states, output
        self.wires: list[str] = []
        self.boxes: list[str] = []
        columns, self.rows = few(range(1, steps + 1)), few(range(spec.num_layers))
        self.ends = {
            (when, walk, state): self._end(when, walk, state)
            for when in ("initial", "final")
            for walk in spec.walks
            for state in states
        }
        self.end = max(box.size[0] for box in self.ends.values())
        self.slot = max(box.size[1] for box in self.ends.values()) + GAP  # between the states of a cell
        cells = [self._cell(walk) for walk in spec.walks]
        self.height = max(len(states) * self.slot - GAP, *(box.size[1] for box in cells))
        boxes = [*cells, *(_more(row, "layers") for row in self.rows if len(row) > 1)]
        for width in (spec.input_size, *map(spec.output_size, range(spec.num_layers))):
            boxes.append(self._array("x", steps, width))
        boxes += [_operation(f"dropout {spec.dropout:g}")] if spec.dropout else []
        self.width = max(box.size[0] for box in boxes)
        self.shift = 2 * STUB if spec.bidirectional else 0.0  # of a reversed cell, to the right of the other
        self.lane = STUB if spec.residual and spec.num_layers > 1 else 0.0
        labels = [self._label(walk, state) for walk in spec.walks for state in states]
        gap = WIDE * max(map(len, labels)) + 2 * STUB
        self.columns: list[tuple[range, float, float]] = []  # steps, left, right
        x = self.end + 2 * STUB
        for column in columns:
            right = x + self.width + self.shift + self.lane if len(column) == 1 else x + _more(column, "steps").size[0]
            self.columns.append((column, x, right))
            x = right + gap
        self.right = x - gap + 2 * STUB  # where the states at the right end stand
        self.shown = {column[0]: left for column, left, _ in self.columns if len(column) == 1}
        self.below = {t: f"x({t})" for t in self.shown}  # the names of what is passed up, from `top` on
        self.passed, self.top = "", 0.0

    def draw(self) -> None:
        """Draws all rows."""
        for t, left in self.shown.items():
            self._put(self._array("x", t, self.spec.input_size), left, self.width, 0)
        self.top = -self._array("x", 1, 1).size[1]
        for row in self.rows:
            if len(row) > 1:
                self._skip(row)
            else:
                self._layer(row[0])
        bottom = self._link()
        for t, left in self.shown.items():
            self._up(t, f"y({t})", [(self._middle(left), bottom)])
            self._put(self._array("y", t, self.spec.output_size()), left, self.width, bottom)
        self.top = bottom - self._array("y", 1, 1).size[1]

    @property
    def size(self) -> Point:
        """Width and height."""
        return self.right + self.end, -self.top

    @property
    def drawn(self) -> list[str]:
        """The elements, boxes on top of wires."""
        return self.wires + self.boxes

    def _layer(self, layer: int) -> None:
        spec, walks = self.spec, [walk for walk in self.spec.walks if walk.layer == layer]
        bottom = self._link()
        below, top, bus = dict(self.below), self.top, bottom + STUB
        tops = []
        for walk in walks:
            for t, left in self.shown.items():
                name, middle = f"{spec.cell}{walk.suffix}({t})", self._middle(left)
                aside = left + self.width + self.shift / 2  # clear of the cell that is not reversed
                way = [(middle, bus), (aside, bus), (aside, bottom)] if walk.reverse else [(middle, bottom)]
                self._up(t, name, way)
                x = left + (self.shift if walk.reverse else 0)
                self._put(self._cell(walk), x, self.width, bottom, self.height, name)
            tops.append(bottom - self.height)
            self._recur(walk, tops[-1])
            bottom = tops[-1] - STUB
        self.below = {t: f"{spec.cell}{walks[0].suffix}({t})" for t in self.shown}
        self.top, self.passed = tops[-1], self.output
        if spec.bidirectional:
            self._join(walks, tops)
        if spec.dropout and layer + 1 < spec.num_layers:
            self._operate(f"dropout {spec.dropout:g}", f"dropout_l{layer}")
        adds = spec.residual and layer > 0
        if adds:
            self._operate("+", f"add_l{layer}")
            width, height = _operation("+").size
            y = self.top + height / 2
            for t, left in self.shown.items():
                middle, lane = self._middle(left), left + self.width + self.shift + self.lane
                way = [(middle, top), (middle, bus), (lane, bus), (lane, y), (middle + width / 2, y)]
                self.wires.append(route(way, "net0", below[t], f"add_l{layer}({t})"))
        for left in self.shown.values():
            branches = [(self._middle(left), bus)] if spec.bidirectional or adds else []
            branches += [(left + self.width + self.shift / 2, bus)] if spec.bidirectional and adds else []
            self.wires += dotted(branches, "net0")
        self.passed = f"{self.passed} {shape(self.batch, spec.output_size(layer))}".strip()

    def _join(self, walks: Sequence[Walk], tops: Sequence[float]) -> None:
        """Puts the outputs of both directions side by side."""
        box, bottom, layer = _operation("side by side"), self.top - STUB, walks[0].layer
        for t, left in self.shown.items():
            self.below[t] = f"join_l{layer}({t})"
            for walk, y, x in zip(walks, tops, (self.shift / 2, self.width + self.shift / 2), strict=True):
                way = [(left + x, y), (left + x, bottom)]
                self.wires.append(route(way, "net0", f"{self.spec.cell}{walk.suffix}({t})", self.below[t]))
            self._put(box, left, self.width + self.shift, bottom, name=self.below[t])
        self.top, self.passed = bottom - box.size[1], ""

    def _operate(self, text: str, name: str) -> None:
        """Puts an operation on what is passed up."""
        box, bottom = _operation(text), self.top - STUB
        for t, left in self.shown.items():
            self._up(t, f"{name}({t})", [(self._middle(left), bottom)])
            self._put(box, self._middle(left) - box.size[0] / 2, box.size[0], bottom, name=f"{name}({t})")
            self.below[t] = f"{name}({t})"
        self.top, self.passed = bottom - box.size[1], ""

    def _skip(self, row: range) -> None:
        """Layers that are not drawn."""
        box, bottom = _more(row, "layers"), self._link()
        for t, left in self.shown.items():
            name = f"{self.spec.cell}_l{row[0]}…l{row[-1]}({t})"
            self._up(t, name, [(self._middle(left), bottom)])
            self._put(box, left, self.width, bottom, name=name)
            self.below[t] = name
        self.top, self.passed = bottom - box.size[1], shape(self.batch, self.spec.output_size(row[-1]))

    def _recur(self, walk: Walk, top: float) -> None:
        """The states of one direction: what they begin with, from step to step, and what they end with."""
        cells: list[tuple[str, float, float]] = []  # name, left, right
        for column, left, right in self.columns:
            steps = f"{column[0]}…{column[-1]}" if len(column) > 1 else f"{column[0]}"
            name = f"{self.spec.cell}{walk.suffix}({steps})"
            if len(column) > 1:
                self._put(_more(column, "steps"), left, right - left, top + self.height, self.height, name)
            else:
                left += self.shift if walk.reverse else 0
                right = left + self.width
            cells.append((name, left, right))
        for k, state in enumerate(self.states):
            y = top + self.height / 2 + (k - (len(self.states) - 1) / 2) * self.slot
            ends = []
            first, last = (self.right, 0.0) if walk.reverse else (0.0, self.right)
            for when, x in (("initial", first), ("final", last)):
                box = self.ends[when, walk, state]
                self._put(box, x, self.end, y + box.size[1] / 2)
                ends.append((box.name, x, x + self.end))
            for one, other in pairwise([ends[0], *(cells[::-1] if walk.reverse else cells), ends[1]]):
                way = [(one[1], y), (other[2], y)] if walk.reverse else [(one[2], y), (other[1], y)]
                colour = f"net{k + 1}" if k + 1 < SOURCES else "net"
                self.wires.append(route(way, colour, one[0], other[0], state))
            for (_, _, right), (_, left, _) in pairwise(self.columns):
                self.boxes.append(written(self._label(walk, state), (right + left) / 2, y - 5, "soft mid"))

    def _link(self) -> float:
        """Says beside the wires what is passed up, and returns the bottom of the next row."""
        for left in self.shown.values() if self.passed else ():
            x, y = self._middle(left) + PAD, self.top - LINK / 2 + 0.35 * SIZE
            self.boxes.append(written(self.passed, x, y, "soft"))
        return self.top - LINK - STUB

    def _up(self, t: int, name: str, way: Sequence[Point]) -> None:
        start = (self._middle(self.shown[t]), self.top)
        self.wires.append(route([start, *way], "net0", self.below[t], name))

    def _put(self, box: Box, x: float, w: float, bottom: float, h: float = 0.0, name: str = "") -> None:
        h = h or box.size[1]
        self.boxes += framed(replace(box, name=name or box.name), x, bottom - h, (w, h))

    def _middle(self, left: float) -> float:
        return left + self.width / 2

    def _array(self, name: str, t: int, size: int) -> Box:
        kind = "input" if name == "x" else "box"
        return Box([("ink name", f"{name}({t})"), ("soft", shape(self.batch, size))], kind, f"{name}({t})")

    def _cell(self, walk: Walk) -> Box:
        words = [f"layer {walk.layer}", *(["reversed"] if walk.reverse else [])]
        return Box([("ink name", self.spec.cell), *(("soft", word) for word in words)], "box")

    def _end(self, when: str, walk: Walk, state: str) -> Box:
        words = [shape(self.batch, self.spec.state_sizes(walk)[state])]
        words += ["learned"] if self.spec.learned_state and when == "initial" else []
        lines = [("ink name", f"{when} {self.states[state]}"), *(("soft", word) for word in words)]
        return Box(lines, "state", f"{when} {state}{walk.suffix}")

    def _label(self, walk: Walk, state: str) -> str:
        return f"{self.states[state]} {shape(self.batch, self.spec.state_sizes(walk)[state])}"


def _more(numbers: range, what: str) -> Box:
    return Box([("soft", f"{len(numbers)} more"), ("soft", what)], "box dashed")


def _operation(text: str) -> Box:
    return Box([("ink", text)], "box")
