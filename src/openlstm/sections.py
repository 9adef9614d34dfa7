"""The instructions of the native core, and how a graph of symbols is cut into sections of them.

A section is a product with a matrix, a norm over a row, or a run of operations element by element.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .derivative import Graph, operands
from .symbols import Sym

# The instructions of a pointwise section, in the core's order (csrc/core.h): what they do with a, b, c and s, t.
OPERATIONS = (
    "copy",  # a
    "add",  # a + b
    "sub",  # a - b
    "mul",  # a * b
    "div",  # a / b
    "fma",  # a * b + c
    "fnma",  # c - a * b
    "affine",  # s * a + t
    "over",  # s / a
    "sigmoid",
    "tanh",
    "relu",
    "negative",
    "expm1",
    "abs",
    "softplus",
    "step",
    "clip",  # a within s..t
    "inside",  # 1 where s <= a <= t, else 0
    "constant",  # s
    "accumulate",  # the target + a
    "exp",
    "log",
    "maximum",  # the larger of a and b
    "minimum",
)
# How an array is found at a step, in the core's order.
KINDS = (
    "time",  # its own place at every step
    "chunk",  # at every step of a chunk
    "pair",  # two places, in turn
    "before",  # what another array holds a step earlier in the walk; at first, a given one
    "carry",  # what a pair held at the step that ran before this one; at first, a given one
)


@dataclass(frozen=True)
class Array:
    """A value at every step: (B, width) each. The core makes chunks and pairs; the others are given to it."""

    name: str
    width: str  # I, H, P or Q: of x, of the memory, of the two projections
    kind: str = "time"
    of: int = -1  # the array that a `before` or a `carry` follows


@dataclass(frozen=True)
class Block:
    """The k-th of the blocks that are stacked along the first dimension of a parameter."""

    parameter: str
    k: int


@dataclass(frozen=True)
class Product:
    """targets = biases, or what is there, + the sum over sources of source times weight.

    `weights[source][target]` is a block (rows, columns); `transposed` sums over its rows.
    """

    sources: tuple[int, ...]
    targets: tuple[int, ...]
    accumulate: tuple[bool, ...]
    weights: tuple[tuple[Block, ...], ...]
    biases: tuple[tuple[Block, ...], ...]
    transposed: bool
    sync: bool = False


@dataclass(frozen=True)
class Norm:
    """targets = the layer norm of all parts together; with `adjoints`, its derivative times these."""

    parts: tuple[int, ...]
    adjoints: tuple[int, ...]
    targets: tuple[int, ...]
    sync: bool = False


@dataclass(frozen=True)
class Operation:
    """One of OPERATIONS. Arrays are numbered from 0; the temporary k is -1 - k."""

    code: str
    to: int
    a: int
    b: int
    c: int
    s: float = 0.0
    t: float = 0.0

    @classmethod
    def of(cls, code: str, to: int, a: int) -> Operation:
        """One that reads a alone. What an operation does not use is a too: the core looks how its operands lie."""
        return cls(code, to, a, a, a)


@dataclass(frozen=True)
class Pointwise:
    """Operations element by element on arrays of one width."""

    width: str
    operations: tuple[Operation, ...]
    sync: bool = False


Section = Product | Norm | Pointwise


@dataclass(frozen=True)
class Outer:
    """The gradient of a weight's block: the sum over steps and sequences of adjoint times source."""

    block: Block
    adjoint: int
    source: int


@dataclass
class Program:
    """Sections and the arrays that they work on."""

    arrays: list[Array] = field(default_factory=list)
    before: list[Section] = field(default_factory=list)
    loop: list[Section] = field(default_factory=list)
    after: list[Section] = field(default_factory=list)
    outer: list[Outer] = field(default_factory=list)
    sums: list[tuple[Block, int]] = field(default_factory=list)  # a bias is the sum of an array over steps and rows
    vectors: list[tuple[Block, int]] = field(default_factory=list)  # a vector's gradient is the sum of one over rows
    states: list[tuple[int, int]] = field(default_factory=list)  # what comes into a step, and what it gives
    kept: tuple[str, ...] = ()  # arrays that forward writes for backward and the trace

    @functools.cached_property
    def places(self) -> dict[str, int]:
        """The number of each array by its name."""
        return {array.name: k for k, array in enumerate(self.arrays)}

    @property
    def sections(self) -> list[Section]:
        """All of them."""
        return [*self.before, *self.loop, *self.after]


class Lowering:
    """Cuts a graph into sections, and gives every value that outlives its section an array."""

    def __init__(self, graph: Graph, program: Program) -> None:
        self.graph, self.program = graph, program
        self.at: dict[Sym, int] = {}  # the arrays of values that are there
        self.dirty: set[int] = set()  # arrays of which other threads may still write their part

    def array(self, name: str, width: str, kind: str = "time", of: int = -1) -> int:
        self.program.arrays.append(Array(name, width, kind, of))
        return len(self.program.arrays) - 1

    def lower(
        self, stores: Sequence[tuple[Sym, int]], accumulates: Sequence[tuple[Sym, int]], kind: str
    ) -> list[Section]:
        """Sections that compute values and store them. `kind` is that of arrays that they need on the way."""
        wanted: dict[Sym, list[int]] = {}
        for value, to in stores:
            wanted.setdefault(value, []).append(to)
        order = self._under([*wanted, *(value for value, _ in accumulates)])
        uses = Counter(part for node in order for part in operands(node))
        uses.update(wanted.keys())
        uses.update(value for value, _ in accumulates)
        chains = self._chains(order, uses, wanted)
        swallowed = {inner for chain in chains.values() for inner in chain[2]}
        order = [node for node in order if node not in swallowed]
        for node, (base, _, _) in chains.items():
            if base is not None:
                self.at.setdefault(node, self.at[base])  # the sum is made in place
        available = {node for node in self.at if node not in chains}
        groups = self._groups(order, chains, available)

        # Values that another section reads need an array.
        home = {node: k for k, group in enumerate(groups) for node in group[1]}
        for k, (form, members) in enumerate(groups):
            for node in members:
                if node in wanted and node not in self.at:
                    self.at[node] = wanted[node][0]
                if form != "pointwise" and node not in self.at:
                    self.at[node] = self.array(f"{kind} {len(self.program.arrays)}", self.graph.width(node), kind)
                for part in operands(node) if node not in chains else [t.args[0] for t in chains[node][1]]:
                    if part in home and part not in self.at and (home[part] != k or form != "pointwise"):
                        self.at[part] = self.array(f"{kind} {len(self.program.arrays)}", self.graph.width(part), kind)
        sections: list[Section] = []
        for form, members in groups:
            if form == "pointwise":
                sections.append(self._pointwise(members, uses, wanted, accumulates))
            elif form == "norm":
                sections.append(self._norm(members))
            else:
                sections.extend(self._products(members, chains))
        leftover = [(node, to) for node, places in wanted.items() for to in places if self.at.get(node) != to]
        copied = {
            (operation.a, operation.to)
            for section in sections
            if isinstance(section, Pointwise)
            for operation in section.operations
            if operation.code == "copy"
        }
        copies = [(node, to) for node, to in leftover if (self.at.get(node), to) not in copied]
        for width in dict.fromkeys(self.program.arrays[to].width for _, to in copies):
            operations = tuple(
                Operation.of("copy", to, self.at[node])
                if node.op != "number"
                else Operation("constant", to, to, to, to, node.args[0])
                for node, to in copies
                if self.program.arrays[to].width == width
            )
            sections.append(Pointwise(width, operations))
            self.dirty |= {operation.to for operation in operations}
        inside = {node for form, members in groups if form == "pointwise" for node in members}
        for value, to in accumulates:
            if value not in inside:
                width = self.program.arrays[to].width
                sections.append(Pointwise(width, (Operation.of("accumulate", to, self.at[value]),)))
        return sections

    def _under(self, roots: Iterable[Sym]) -> list[Sym]:
        found: dict[Sym, None] = {}

        def visit(node: Sym) -> None:
            if node in found or node in self.at or node.op in ("number", "parameter"):
                return
            for part in operands(node):
                visit(part)
            found[node] = None

        for root in roots:
            visit(root)
        return list(found)

    def _chains(
        self, order: list[Sym], uses: Counter[Sym], wanted: dict[Sym, list[int]]
    ) -> dict[Sym, tuple[Sym | None, list[Sym], list[Sym]]]:
        """Sums of products, and at most one array to add them to: (that one, the products, what lies between)."""
        chains: dict[Sym, tuple[Sym | None, list[Sym], list[Sym]]] = {}
        for node in order:
            if node.op == "linear":
                chains[node] = (None, [node], [])
            if node.op != "+":
                continue
            left, right = node.args
            if right not in chains or uses[right] > 1 or right in wanted or chains[right][0] is not None:
                continue
            if left in chains and uses[left] == 1 and left not in wanted:
                base, terms, between = chains.pop(left)
            elif left in self.graph.later and left in self.at:  # what ran ahead
                base, terms, between = left, [], []
            else:
                continue
            _, more, inner = chains.pop(right)
            between = [*between, *inner, *(part for part in (left, right) if part is not base)]
            chains[node] = (base, [*terms, *more], between)
        return chains

    def _groups(self, order: list[Sym], chains: dict[Sym, Any], available: set[Sym]) -> list[tuple[str, list[Sym]]]:
        """Sections as lists of what they compute: as much element by element as is ready, then a product or a norm."""
        groups: list[tuple[str, list[Sym]]] = []
        done, left = set(available), list(order)

        def ready(node: Sym) -> bool:
            if node in chains:
                base, terms, _ = chains[node]
                return all(term.args[0] in done for term in terms) and (base is None or base in done)
            return all(part in done or part.op == "parameter" for part in operands(node))

        while left:
            members: list[Sym] = []
            width = ""
            for node in left:
                plain = node not in chains and node.op not in ("back", "layer_norm", "norm_back")
                if plain and ready(node) and width in ("", self.graph.width(node)):
                    width = self.graph.width(node)
                    members.append(node)
                    done.add(node)
            form = "pointwise"
            if not members:
                first = next((node for node in left if ready(node)), None)
                assert first is not None, f"nothing is ready: {left}"
                if first.op in ("layer_norm", "norm_back"):
                    form = "norm"
                    members = [n for n in left if n.op == first.op and n.args[1:] == first.args[1:]]
                else:
                    form = "product"
                    key = self._key(first, chains)
                    members = [n for n in left if n not in members and ready(n) and self._key(n, chains) == key]
            groups.append((form, members))
            done.update(members)
            left = [node for node in left if node not in done]
        return groups

    def _key(self, node: Sym, chains: dict[Sym, Any]) -> Any:
        """Products with the same key are one."""
        if node in chains:
            return [(term.args[0], term.args[1].args[0]) for term in chains[node][1]]
        return node if node.op == "back" else None

    def _sync(self, read: Iterable[int]) -> bool:
        """Must threads that share a row meet before these arrays are read whole."""
        needed = bool(self.dirty & {self.root(place) for place in read})
        if needed:
            self.dirty.clear()
        return needed

    def root(self, place: int) -> int:
        array = self.program.arrays[place]
        return array.of if array.of >= 0 else place

    def _products(self, members: list[Sym], chains: dict[Sym, Any]) -> list[Section]:
        found: list[Section] = []
        if members[0].op == "back":
            node = members[0]
            count = node.args[0]
            weights, values = node.args[1 : 1 + count], node.args[1 + count :]
            sources = tuple(self.at[value] for value in values)
            blocks = tuple((Block(*weight.args),) for weight in weights)
            target = self.at[node]
            found.append(Product(sources, (target,), (False,), blocks, ((),), True, self._sync(sources)))
            self.dirty.add(target)
            return found
        for k in range(len(chains[members[0]][1])):
            # Gates that begin an array and gates that add to one are one product; at most four gates each.
            for some in (members[j : j + 4] for j in range(0, len(members), 4)):
                terms = [chains[node][1][k] for node in some]
                targets = tuple(self.at[node] for node in some)
                accumulate = tuple(k > 0 or chains[node][0] is not None for node in some)
                biases = tuple(
                    () if term.args[2] is None or adds else self._biases(node, chains)
                    for node, term, adds in zip(some, terms, accumulate, strict=True)
                )
                sources = (self.at[terms[0].args[0]],)
                weights = (tuple(Block(*term.args[1].args) for term in terms),)
                found.append(Product(sources, targets, accumulate, weights, biases, False, self._sync(sources)))
                self.dirty |= set(targets)
        return found

    def _biases(self, node: Sym, chains: dict[Sym, Any]) -> tuple[Block, ...]:
        """Of all products that will be added up in this array: those of the loop, if it is one that runs ahead."""
        own = [term.args[2] for term in chains[node][1] if term.args[2] is not None]
        own += [term.args[2] for term in self.graph.later.get(node, ()) if term.args[2] is not None]
        return tuple(Block(*bias.args) for bias in own)

    def _norm(self, members: list[Sym]) -> Section:
        first = members[0]
        back = first.op == "norm_back"
        parts = first.args[1:]
        half = len(parts) // 2 if back else len(parts)
        by_gate = {node.args[0]: node for node in members}
        targets = tuple(self.at[by_gate[k]] if k in by_gate else -1 for k in range(half))
        x = tuple(self.at[part] for part in parts[:half])
        adjoints = tuple(self.at[part] for part in parts[half:])
        sync = self._sync((*x, *adjoints))
        self.dirty |= set(targets)
        return Norm(x, adjoints, targets, sync)

    def _pointwise(
        self,
        members: list[Sym],
        uses: Counter[Sym],
        wanted: dict[Sym, list[int]],
        accumulates: Sequence[tuple[Sym, int]],
    ) -> Section:
        inside = set(members)
        fused = {part for node in members if (part := self._fuses(node, inside, uses)) is not None}
        computed = [node for node in members if node not in fused]
        extra = [(value, to) for value, to in accumulates if value in inside]
        reads: dict[Sym, list[Sym]] = {}
        for node in computed:
            parts = [part for part in operands(node) if part not in fused]
            reads[node] = parts + [p for part in operands(node) if part in fused for p in operands(part)]
        last: dict[Sym, int] = {}
        for k, node in enumerate(computed):
            last |= dict.fromkeys((part for part in reads[node] if part in inside), k)
            last.setdefault(node, k)
        last |= {value: len(computed) for value, _ in extra}
        free: list[int] = []
        count = 0
        temporary: dict[Sym, int] = {}
        operations: list[Operation] = []

        def place(node: Sym) -> int:
            return temporary[node] if node in temporary else self.at[node] if node in self.at else self.vector(node)

        for k, node in enumerate(computed):
            code, parts, (s, t) = self._instruction(node, fused)
            read = [place(part) for part in parts]
            for part in [part for part in temporary if last[part] == k]:
                free.append(temporary.pop(part))
            if node in self.at:
                to = self.at[node]
            else:
                if free:
                    to = free.pop()
                else:
                    count += 1
                    to = -count
                temporary[node] = to
            a, b, c = (*read, *[read[0]] * (3 - len(read)))
            operations.append(Operation(code, to, a, b, c, s, t))
            operations += [Operation.of("copy", more, to) for more in wanted.get(node, ()) if more != to]
            if last[node] == k and node in temporary:  # nobody reads it: a value for the trace alone is in an array
                free.append(temporary.pop(node))
        for value, to in extra:
            operations.append(Operation.of("accumulate", to, place(value)))
        self.dirty |= {operation.to for operation in operations if operation.to >= 0}
        return Pointwise(self.graph.width(members[0]), tuple(operations))

    def vector(self, node: Sym) -> int:
        """The array of a parameter that is one row."""
        if node not in self.at:
            assert node.op == "parameter", node
            self.at[node] = self.array(f"{node.args[0]}[{node.args[1]}]", self.graph.width(node))
        return self.at[node]

    def _fuses(self, node: Sym, inside: set[Sym], uses: Counter[Sym]) -> Sym | None:
        """The product that an addition or subtraction takes in."""
        if node.op not in "+-":
            return None
        part: Sym
        for part in reversed(node.args) if node.op == "-" else node.args:
            single = part.op == "*" and part in inside and part not in self.at and uses[part] == 1
            numbers = any(arg.op == "number" for arg in (*part.args, *node.args) if isinstance(arg, Sym))
            if single and not numbers and (node.op == "+" or part is node.args[1]):
                return part
        return None

    def _instruction(self, node: Sym, fused: set[Sym]) -> tuple[str, list[Sym], tuple[float, float]]:
        op, args = node.op, node.args
        if op in "+-" and (part := next((arg for arg in args if arg in fused), None)) is not None:
            other = args[0] if args[1] is part else args[1]
            return ("fma" if op == "+" else "fnma"), [*part.args, other], (0.0, 0.0)
        numbers = [arg.args[0] for arg in args if arg.op == "number"]
        if op in ("+", "-", "*", "/") and numbers:
            (n,), (a,) = numbers, [arg for arg in args if arg.op != "number"]
            left = args[1] is a  # the number stands on the left
            if op == "/":
                return ("over", [a], (n, 0.0)) if left else ("affine", [a], (1.0 / n, 0.0))
            scale, shift = {"+": (1.0, n), "*": (n, 0.0), "-": (-1.0, n) if left else (1.0, -n)}[op]
            return "affine", [a], (scale, shift)
        if op == "neg":
            return "affine", [args[0]], (-1.0, 0.0)
        if op in ("maximum", "minimum") and numbers:
            low, high = (numbers[0], math.inf) if op == "maximum" else (-math.inf, numbers[0])
            return "clip", [arg for arg in args if arg.op != "number"], (low, high)
        code = {"+": "add", "-": "sub", "*": "mul", "/": "div"}.get(op, op)
        s, t = (*numbers, 0.0, 0.0)[:2]
        return code, [arg for arg in args if arg.op != "number"], (s, t)
