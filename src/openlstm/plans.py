"""Programs made ready for the native core: fitted to a layer's sizes, with each array in its place. No torch."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from . import _core, compiled, program
from .derivative import Graph
from .sections import KINDS, OPERATIONS, Array, Block, Pointwise, Product, Program, Section
from .spec import Spec, Walk
from .weights import KINDS as WEIGHTS

FLOAT = 4  # bytes


@dataclass(frozen=True)
class Kind:
    """Which program of a walk: the masks that a run has, what is kept, and for backward which gradients are wanted."""

    masks: frozenset[str] = frozenset()
    ragged: bool = False
    keep: frozenset[str] = frozenset()
    backward: bool = False
    of_input: bool = True
    of_weights: bool = True
    slopes: frozenset[str] = frozenset()  # named values by which derivatives are wanted too


@functools.lru_cache(maxsize=1024)
def programs(spec: Spec, kind: Kind) -> Program:
    """The program of a kind."""
    if not kind.backward:
        return program.forward(spec, kind.masks, kind.keep, kind.ragged)
    return program.backward(spec, kind.masks, kind.ragged, kind.of_input, kind.of_weights, kind.slopes)


@functools.lru_cache(maxsize=1024)
def needed(spec: Spec, kind: Kind) -> frozenset[str]:
    """What forward keeps for backward."""
    return frozenset(programs(spec, replace(kind, keep=frozenset(), backward=True)).kept)


def values(spec: Spec, masks: frozenset[str]) -> dict[str, str]:
    """The named values of a step, and the names under which programs keep them."""
    graph = Graph(spec, masks)
    return {name: graph.names[value] for name, value in graph.values.items()}


@functools.lru_cache(maxsize=1024)
def named(spec: Spec, masks: frozenset[str]) -> tuple[str, ...]:
    """The names of all values of a run, with the layers' suffixes."""
    return tuple(name + walk.suffix for walk in spec.walks for name in values(spec, _own(spec, walk, masks)))


def _own(spec: Spec, walk: Walk, masks: frozenset[str]) -> frozenset[str]:
    """The masks that a walk has of a run's, without the suffix."""
    kinds = ("recurrent", "candidate", *(f"zoneout_{name}" for name in spec.definition.states))
    return frozenset(kind for kind in kinds if kind + walk.suffix in masks)


def _kind(spec: Spec, walk: Walk, masks: frozenset[str], ragged: bool, saves: bool, shows: frozenset[str]) -> Kind:
    """The kind of a walk forward. `saves`: it keeps what backward needs; `shows`: and these named values."""
    own = _own(spec, walk, masks)
    keep = needed(spec, Kind(own, ragged)) if saves else frozenset()
    return Kind(own, ragged, keep | {shown for name, shown in values(spec, own).items() if name + walk.suffix in shows})


def _layers(spec: Spec, found: list[Plan]) -> list[list[Plan]]:
    return [found[k : k + spec.directions] for k in range(0, len(found), spec.directions)]


@functools.lru_cache(maxsize=1024)
def forward(spec: Spec, masks: frozenset[str], ragged: bool, saves: bool, shows: frozenset[str]) -> list[list[Plan]]:
    """The plans of each layer's directions. `masks`: the names that a run has, as in `Spec.masks`."""
    return _layers(spec, [Plan(spec, walk, _kind(spec, walk, masks, ragged, saves, shows)) for walk in spec.walks])


@functools.lru_cache(maxsize=1024)
def backward(
    spec: Spec,
    masks: frozenset[str],
    ragged: bool,
    shows: frozenset[str],
    of_input: bool,
    of_weights: bool,
    slopes: bool,
) -> list[list[Plan]]:
    """The plans of each layer's directions, for what `forward` has saved. The first layer may need no `of_input`.

    `slopes`: with the derivatives by what `shows` names.
    """
    found = []
    for walk in spec.walks:
        kind = _kind(spec, walk, masks, ragged, True, shows)
        own = [name for name in values(spec, kind.masks) if slopes and name + walk.suffix in shows]
        through = of_input or walk.layer > 0
        kind = replace(kind, backward=True, of_input=through, of_weights=of_weights, slopes=frozenset(own))
        found.append(Plan(spec, walk, kind))
    return _layers(spec, found)


def forget() -> None:
    """Makes all plans anew when they are next asked for."""
    forward.cache_clear()
    backward.cache_clear()


compiled.changed.append(forget)


class Plan:
    """A program for one layer in one direction, and the order in which it takes its inputs.

    Forward: x, y, kept, states, masks, parameters. Backward: x, y, kept, dy, dx, sums, slopes, states, the
    gradients by the final states, masks, parameters, the gradients by these.
    """

    def __init__(self, spec: Spec, walk: Walk, kind: Kind) -> None:
        made = programs(spec, kind)
        self.walk = walk
        self._shapes = {n: shape for n, shape in spec.shapes(walk).items() if not n.startswith("initial_")}
        self.names = list(self._shapes)
        self._rows = {n: shape[0] // max(1, len(spec.blocks(n))) for n, shape in self._shapes.items()}  # of a block
        self.shown = values(spec, kind.masks)
        state = spec.state_sizes(walk)["h"]
        sizes = {"I": walk.input_size, "H": walk.hidden_size, "P": state, "Q": spec.nonrecurrent_proj_size}
        self._widths = [sizes[array.width] for array in made.arrays]
        forward = programs(spec, replace(kind, backward=False, slopes=frozenset())) if kind.backward else made
        self.kept = self._stack(forward, sizes, forward.kept)
        self.sums = self._stack(made, sizes, [made.arrays[place].name for _, place in made.vectors])
        self.slopes = self._stack(made, sizes, [f"slope {name}" for name in sorted(kind.slopes)])
        self.masks = sorted(kind.masks)  # without the suffix of the walk
        states = list(spec.definition.states)
        masks = ["mask_" + name for name in self.masks]
        first = [name + "_prev" for name in states]
        self._order = ["x", "y", "kept"]
        if kind.backward:
            carries = ["carry_" + name for name in states]
            self._order += ["dy", "dx", "sums", "slopes", *first, *carries, *masks, *self.names]
            self._order += ["d " + name for name in self.names]
        else:
            self._order += [*first, *masks, *self.names]
        column = (spec.output_size(walk.layer) // spec.directions) * walk.reverse
        self._products = [section for section in made.sections if isinstance(section, Product)]
        weights = [b for p in self._products for blocks in (*p.weights, *p.biases) for b in blocks]
        # Which of the names go into products.
        self.weights = [self.names.index(name) for name in dict.fromkeys(block.parameter for block in weights)]
        sources = sorted(made.outer, key=lambda outer: outer.source)
        biases = {place: block for block, place in reversed(made.sums)}
        outers = [(o.adjoint, o.source, *self._gradient(o.block)) for o in sources]
        outers += [(place, -1, *self._gradient(block)) for place, block in biases.items()]
        lowest = [o.to for s in made.sections if isinstance(s, Pointwise) for o in s.operations]
        self.data: dict[str, Any] = dict(
            arrays=[(KINDS.index(a.kind), a.of, w) for a, w in zip(made.arrays, self._widths, strict=True)],
            places=[self._place(array, column, spec.proj_size) for array in made.arrays],
            sections=[[self._section(s) for s in part] for part in (made.before, made.loop, made.after)],
            states=made.states,
            outers=outers,
            copies=[
                (*self._gradient(block)[:2], *self._gradient(biases[place])[:2], self._rows[block.parameter])
                for block, place in made.sums
                if block != biases[place]
            ],
            vectors=[(place, *self._gradient(block)[:2]) for block, place in made.vectors],
            temporaries=max(0, -min(lowest, default=0)),
            backward=kind.backward,
        )
        self.core = _core.Plan(**self.data, bodies=compiled.bodies(self.data["sections"]))

    @staticmethod
    def _stack(made: Program, sizes: dict[str, int], names: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Where arrays begin that share memory, and their widths; "" is all of it."""
        found, at = {}, 0
        for name in names:
            width = sizes[made.arrays[made.places[name]].width]
            found[name] = at, width
            at += width
        return found | {"": (0, at)}

    def _place(self, array: Array, column: int, second: int) -> tuple[int, int, int, bool]:
        at, name = self._order.index, array.name
        if name in ("y", "dy"):
            return at(name), column, 0, False
        if name in ("y2", "dy2"):
            return at(name[:-1]), column + second, 0, False
        if name in self.kept and array.kind == "time":
            return at("kept"), 0, self.kept[name][0], True
        if name in self.slopes:
            return at("slopes"), 0, self.slopes[name][0], True
        if name in self._order and array.kind in ("time", "before", "carry"):
            return at(name), 0, 0, False
        if name in self.sums:
            return at("sums"), self.sums[name][0], 0, False
        parameter, bracket, rest = name.partition("[")
        if bracket and parameter in self.names and array.kind == "time":
            return at(parameter), int(rest[:-1]) * self._rows[parameter], 0, False
        # The core's own, or found through another array.
        assert array.kind in ("chunk", "pair", "before") or name.startswith("d "), array
        return -1, 0, 0, False

    def _columns(self, parameter: str) -> int:
        return self._shapes[parameter][1] if len(self._shapes[parameter]) > 1 else 1

    def _gradient(self, block: Block) -> tuple[int, int, int]:
        columns = self._columns(block.parameter)
        place = block.k * self._rows[block.parameter] * columns
        return self._order.index("d " + block.parameter), place, columns

    def _section(self, s: Section) -> tuple[Any, ...]:
        if isinstance(s, Pointwise):
            codes = [(OPERATIONS.index(o.code), o.to, o.a, o.b, o.c) for o in s.operations]
            width = self._widths[next(o.to for o in s.operations if o.to >= 0)]
            return 0, s.sync, width, codes, [(o.s, o.t) for o in s.operations], [], [], [], [], 0
        if isinstance(s, Product):
            width = self._widths[s.targets[0]]
            adds = [int(a) for a in s.accumulate]
            return 1, s.sync, width, [], [], list(s.sources), list(s.targets), adds, [], self._products.index(s)
        width = self._widths[s.parts[0]]
        return 2, s.sync, width, [], [], list(s.parts), list(s.targets), [], list(s.adjoints), 0

    def pack(
        self, addresses: Sequence[int], threads: int, panels: bool = True, kind: str = "float32"
    ) -> list[_core.Packed]:
        """The weights in the core's order. `addresses`: of the parameters, as `names` has them, contiguous float32.

        Without `panels` nothing is copied: the addresses are read at every run. `kind`: how panels hold weights, one of
        `weights.KINDS`.
        """
        return [
            _core.Packed(**each, panels=panels, threads=threads, kind=WEIGHTS.index(kind))
            for each in self.packing(addresses)
        ]

    def packing(self, addresses: Sequence[int]) -> list[dict[str, Any]]:
        """What `_core.Packed` is told of each product."""
        return [self._packing(product, addresses) for product in self._products]

    def _packing(self, product: Product, addresses: Sequence[int]) -> dict[str, Any]:
        def address(block: Block) -> int:
            place = block.k * self._rows[block.parameter] * self._columns(block.parameter)
            return addresses[self.names.index(block.parameter)] + place * FLOAT

        def weight(block: Block) -> tuple[int, int, int]:
            columns = self._columns(block.parameter)
            return (address(block), 1, columns) if product.transposed else (address(block), columns, 1)

        return dict(
            width=self._widths[product.targets[0]],
            depths=[self._widths[source] for source in product.sources],
            weights=[weight(block) for blocks in product.weights for block in blocks],
            biases=[[address(block) for block in blocks] for blocks in product.biases],
        )


class Linear:
    """W x + b as the core runs it, for what reads recurrent layers: (O, I) and (O,)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        time, product = KINDS.index("time"), 1
        self.inputs, self.outputs = inputs, outputs
        self.data: dict[str, Any] = dict(
            arrays=[(time, -1, inputs), (time, -1, outputs)],
            places=[(0, 0, 0, False), (1, 0, 0, False)],
            sections=[[], [(product, 0, outputs, [], [], [0], [1], [0], [], 0)], []],
            states=[],
            outers=[],
            copies=[],
            vectors=[],
            temporaries=0,
            backward=False,
        )
        self.core = _core.Plan(**self.data)

    def packing(self, addresses: Sequence[int]) -> list[dict[str, Any]]:
        """What `_core.Packed` is told of the product, for the addresses of W and b."""
        weight, bias = addresses
        return [
            dict(width=self.outputs, depths=[self.inputs], weights=[(weight, self.inputs, 1)], biases=[[bias]]),
        ]
