"""One step of a variant as a graph of symbols, and its derivative in reverse mode."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .spec import Spec, Walk
from .step import Step
from .symbols import Stack, Sym, Symbols, nodes


class Graph:
    """One step of a variant on symbols. `masks` are the kinds of random masks that a run has."""

    def __init__(self, spec: Spec, masks: Iterable[str] = ()) -> None:
        definition, walk = spec.definition, Walk(0, False, 1, 1)  # with one unit, row k of a parameter is its block k
        if definition.digest and definition.digest(spec) != spec.digest:
            raise RuntimeError(
                f"The equations of {spec.cell} read something that has changed since the module was made: let them "
                "depend on their arguments alone, and declare what can be chosen as options"
            )
        masks = set(masks)
        p: dict[str, Any] = {}
        for name in spec.shapes(walk):
            count = len(spec.blocks(name))
            p[name] = Stack(Sym("parameter", name, k) for k in range(count)) if count else Sym("parameter", name, 0)
        self.x = Sym("name", "x")
        self.previous = {name: Sym("name", name + "_prev") for name in spec.definition.states}
        given: dict[str, Any] = {
            name: Sym("name", "mask_" + name) for name in ("recurrent", "candidate") if name in masks
        }
        for name in spec.definition.states:
            if rate := getattr(spec, f"zoneout_{name}", 0.0):
                kind = f"zoneout_{name}"
                given[kind] = Sym("name", "mask_" + kind) if kind in masks else rate
        step = Step(spec, walk, p, Symbols)
        values, new, output = step(step.inputs(self.x), self.previous, given)

        # An array that comes from the step before cannot be one that this step writes.
        def own(value: Sym) -> Sym:
            return Sym("copy", value) if value.op == "name" else value

        self.values, self.new = ({name: own(value) for name, value in found.items()} for found in (values, new))
        self.outputs = tuple(map(own, output.args if output.op == "join" else (output,)))
        self.spec = spec
        self.order = nodes([*self.new.values(), *self.outputs, *self.values.values()])
        self.linears = [node for node in self.order if node.op == "linear"]
        self.widths = self._widths()
        self.names: dict[Sym, str] = {}  # of everything that may be kept
        for name, value in self.values.items():
            self.names.setdefault(value, name)
        for node in self.linears:
            self.names.setdefault(node, f"{node.args[1].args[0]}[{node.args[1].args[1]}]")
            source = node.args[0]
            if source.op != "name":
                self.names.setdefault(source, f"source of {self.names[node]}")
        self._ahead: dict[Sym, bool] = {}
        self.later, self.sums = self._sums()

    def _sums(self) -> tuple[dict[Sym, list[Sym]], dict[Sym, Sym]]:
        """Products that the loop adds to one that runs ahead, and the whole sum."""
        later: dict[Sym, list[Sym]] = {}
        sums: dict[Sym, Sym] = {}
        uses = Counter(part for node in self.order for part in operands(node))
        named = set(self.values.values())
        first = {node: node for node in self.linears if self.ahead(node) and node not in named}
        for node in self.order:
            left, right = node.args if node.op == "+" else (node, node)
            if left in first and right.op == "linear" and not self.ahead(right) and uses[left] == uses[right] == 1:
                first[node] = first.pop(left)
                later.setdefault(first[node], []).append(right)
                sums[first[node]] = node
        return later, sums

    def _widths(self) -> dict[Sym, str]:
        state = {name: "P" if name == "h" and self.spec.proj_size else "H" for name in self.previous}
        of_rows = {"weight_hr": "P", "weight_hp": "Q"}
        masks = {"mask_recurrent": state["h"], "mask_candidate": "H"}
        widths: dict[Sym, str] = {}
        for node in self.order:
            if node.op == "name":
                name = node.args[0]
                known = {"x": "I", **masks} | {s + "_prev": w for s, w in state.items()}
                widths[node] = known.get(name) or state[name.removeprefix("mask_zoneout_")]
            elif node.op == "parameter":
                widths[node] = "H"
            elif node.op == "linear":
                widths[node] = of_rows.get(node.args[1].args[0], "H")
            elif node.op != "number":
                widths[node] = next(widths[part] for part in node.parts if part in widths)
        return widths

    def ahead(self, node: Sym) -> bool:
        """Does it depend on the input, and on no state or mask."""
        if node not in self._ahead:
            found = {part for part in nodes([node]) if part.op == "name"}
            self._ahead[node] = found == {self.x}
        return self._ahead[node]

    def width(self, node: Sym) -> str:
        """Of a value, or of an adjoint that is made of values."""
        if node not in self.widths:
            if node.op == "back":
                block = node.args[1]
                wide = {"weight_ih": "I", "weight_hh": self.widths.get(self.previous["h"], "H")}
                self.widths[node] = wide.get(block.args[0], "H")
            else:
                self.widths[node] = next(self.width(part) for part in node.parts if part.op != "number")
        return self.widths[node]

    def adjoints(self, seeds: dict[Sym, Sym]) -> dict[Sym, Sym]:
        """The derivative by every value, from those by some: reverse mode, once through the graph."""
        found = dict(seeds)
        linear: dict[Sym, dict[str, list[tuple[Sym, Sym]]]] = {}  # by source and parameter: weights and adjoints
        norms: dict[tuple[Sym, ...], dict[int, Sym]] = {}  # by parts: the adjoint of each gate's

        def add(node: Sym, value: Sym) -> None:
            if node.op != "number" and value is not Sym("number", 0.0):
                found[node] = found[node] + value if node in found else value

        for node in reversed(self.order):
            for blocks in linear.pop(node, {}).values():
                weights, values = zip(*reversed(blocks), strict=True)
                add(node, Sym("back", len(weights), *weights, *values))
            for parts in [parts for parts in norms if node in parts]:
                if len(norms[parts]) == len(parts):
                    values = tuple(norms[parts][k] for k in range(len(parts)))
                    add(node, Sym("norm_back", parts.index(node), *parts, *values))
            if node not in found:
                continue
            g, args, op = found[node], node.args, node.op
            if op == "linear":
                linear.setdefault(args[0], {}).setdefault(args[1].args[0], []).append((args[1], g))
            elif op == "layer_norm":
                norms.setdefault(tuple(args[1:]), {})[args[0]] = g
            elif op not in ("name", "parameter"):
                for part, value in _slopes(op, args, node, g):
                    add(part, value)
        return found


def _slopes(op: str, args: Sequence[Sym], y: Sym, g: Sym) -> list[tuple[Sym, Sym]]:
    """What each argument of y = op(args) gets of its derivative g. Numbers among the arguments are ignored later."""
    a, *rest = args
    b = rest[0] if rest else a
    one = Sym("number", 1.0)
    zero = Sym("number", 0.0)
    if op == "+":
        return [(a, g), (b, g)]
    if op == "-":
        return [(a, g), (b, zero - g)]
    if op == "*":
        return [(a, g * b), (b, g * a)]
    if op == "/":
        return [(a, g / b), (b, zero - g * y / b)]

    def step(x: Sym) -> Sym:
        return Sym("step", x)

    if op in ("maximum", "minimum") and "number" in (a.op, b.op):  # a bound: see `sections`
        value, bound = (a, b) if b.op == "number" else (b, a)
        far = Sym("number", math.inf if op == "maximum" else -math.inf)
        return [(value, g * Sym("inside", value, *((bound, far) if op == "maximum" else (far, bound))))]
    if op in ("maximum", "minimum"):  # where both are equal, each gets one half, as in torch
        more, less = (a, b) if op == "maximum" else (b, a)
        half = Sym("number", 0.5) * (step(more - less) - step(less - more))
        return [(a, g * (half + 0.5)), (b, g * (0.5 - half))]

    slope: dict[str, Callable[[], Sym]] = {
        "copy": lambda: g,
        "neg": lambda: zero - g,
        "sigmoid": lambda: g * (y - y * y),
        "tanh": lambda: g - g * y * y,
        "relu": lambda: g * step(a),
        "negative": lambda: g * (one - step(a)),
        "exp": lambda: g * y,
        "expm1": lambda: g * (y + one),
        "log": lambda: g / a,
        "abs": lambda: g * (step(a) - step(zero - a)),
        "softplus": lambda: g * Sym("sigmoid", a),
        "step": lambda: zero,
        "clip": lambda: g * Sym("inside", *args),
    }
    return [(a, slope[op]())]


def operands(node: Sym) -> list[Sym]:
    """The values that an operation reads: no matrices, no biases, no numbers."""
    if node.op == "linear":
        return [node.args[0]]
    if node.op == "back":
        return list(node.args[1 + node.args[0] :])
    return [part for part in node.parts if part.op != "number"]
