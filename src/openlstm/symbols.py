"""The arithmetic of symbols: run in it, the equations give expressions instead of numbers.

Equal expressions are the same object, so a result is a graph in which shared parts are shared.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from typing import Any, ClassVar, NoReturn
from weakref import WeakValueDictionary

from . import cells

BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
_NEUTRAL = {"+": 0, "-": 0, "*": 1, "/": 1}  # on the right; those that commute, on the left too


class Sym:
    """An expression: an operation on expressions, a `number`, a `name` of an input or state, or a `parameter`.

    `args` of a parameter are its name and, where it stands for one gate's rows, the gate, else "". Equal expressions
    are one object.

    >>> a, b = Sym("name", "a"), Sym("name", "b")
    >>> a * 1 + 2 * b
    +(a, *(2.0, b))
    >>> (a + b) * (a - b) is (a + b) * (a - b)
    True
    """

    __array_ufunc__ = None  # numpy leaves operators to this class
    __slots__ = ("__weakref__", "args", "op")
    _known: ClassVar[WeakValueDictionary[tuple[Any, ...], Sym]] = WeakValueDictionary()
    op: str
    args: tuple[Any, ...]

    def __new__(cls, op: str, *args: Any) -> Sym:
        key = (op, *args)
        found = cls._known.get(key)
        if found is None:
            found = object.__new__(cls)
            found.op, found.args = op, args
            cls._known[key] = found
        return found

    @property
    def constant(self) -> bool:
        """Is it made of numbers and parameters only."""
        return all(node.op != "name" for node in nodes([self]))

    @property
    def parts(self) -> tuple[Sym, ...]:
        """The expressions that this one is an operation on."""
        return tuple(arg for arg in self.args if isinstance(arg, Sym))

    def __getitem__(self, rows: Any) -> Sym:
        if _watching:
            raise TypeError("a value of the cell has no parts, for equations are of one unit: m.linear mixes units")
        return self  # a lone block is all of its stack

    def __iter__(self) -> NoReturn:  # or sum() would go on for ever
        raise TypeError("a value of the cell is one number of each unit, and has no parts to go through")

    def __add__(self, other: Any) -> Any:
        return _lift("+", self, other)

    def __radd__(self, other: Any) -> Any:
        return _lift("+", other, self)

    def __sub__(self, other: Any) -> Any:
        return _lift("-", self, other)

    def __rsub__(self, other: Any) -> Any:
        return _lift("-", other, self)

    def __mul__(self, other: Any) -> Any:
        return _lift("*", self, other)

    def __rmul__(self, other: Any) -> Any:
        return _lift("*", other, self)

    def __truediv__(self, other: Any) -> Any:
        return _lift("/", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return _lift("/", other, self)

    def __bool__(self) -> bool:
        raise TypeError(
            "a value of the cell is neither true nor false, for it differs from unit to unit: m.maximum, m.minimum and "
            "m.step choose"
        )

    def __neg__(self) -> Any:
        return _lift("neg", self)

    def __repr__(self) -> str:
        if self.op in ("name", "parameter", "number"):
            return "_".join(str(arg) for arg in self.args if arg != "")
        return f"{self.op}({', '.join(map(repr, self.args))})"


class Stack(tuple[Sym, ...]):
    """What all gates have, one expression each: stands for arrays that are stacked along the last dimension."""

    def __getitem__(self, rows: Any) -> Any:
        rows = rows[-1] if isinstance(rows, tuple) else rows  # z[..., rows]
        found = tuple.__getitem__(self, rows)
        return found[0] if len(found) == 1 else Stack(found)

    def __add__(self, other: Any) -> Any:
        return _lift("+", self, other)

    def __mul__(self, other: Any) -> Any:
        return _lift("*", self, other)


def _lift(op: str, *args: Any) -> Any:
    """The operation on symbols and numbers, for each gate where an argument is a stack."""
    size = next((len(arg) for arg in args if isinstance(arg, Stack)), None)
    if size is None:
        return _node(op, *args)
    rows = ([tuple.__getitem__(arg, k) if isinstance(arg, Stack) else arg for arg in args] for k in range(size))
    return Stack(_node(op, *row) for row in rows)


_watching: list[Callable[[Sym], None]] = []


@contextmanager
def watched(by: Callable[[Sym], None]) -> Iterator[None]:
    """Inside, each operation that makes an expression is told."""
    _watching.append(by)
    try:
        yield
    finally:
        _watching.pop()


def _node(op: str, *given: Any) -> Sym:
    made = _made(op, *given)
    for by in _watching:
        by(made)
    return made


def _made(op: str, *given: Any) -> Sym:
    args = tuple(Sym("number", float(arg)) if isinstance(arg, Real) else arg for arg in given)
    for arg in args:
        if not isinstance(arg, Sym) and arg is not None:
            raise TypeError(f"'{op}' is given {type(arg).__name__}: it takes values of the cell, and numbers")
    if op in BINARY:
        left, right = args
        if op == "/" and right == Sym("number", 0.0):
            raise ZeroDivisionError("division by zero")
        if right == (neutral := Sym("number", float(_NEUTRAL[op]))):
            return left
        if left == neutral and op in "+*":
            return right
        if left.op == right.op == "number":
            return Sym("number", BINARY[op](left.args[0], right.args[0]))
    if args and all(arg is not None and arg.op == "number" for arg in args) and op != "neg":
        return Sym("number", float(getattr(cells.Numpy, op)(*(arg.args[0] for arg in args))))
    if op == "neg" and args[0].op in ("neg", "number"):
        inner = args[0].args[0]
        return inner if isinstance(inner, Sym) else Sym("number", -inner)
    return Sym(op, *args)


class Symbols:
    """The arithmetic of symbols: see `cells.Numpy` for what an arithmetic has."""

    @staticmethod
    def layer_norm(x: Sym | Stack) -> Any:
        """Over all gates at once: gate k's part of it is Sym("layer_norm", k, all of them)."""
        if isinstance(x, Stack):
            return Stack(Sym("layer_norm", k, *x) for k in range(len(x)))
        return Sym("layer_norm", 0, x)


# What an arithmetic has that works element by element.
FUNCTIONS = (
    *("sigmoid", "tanh", "relu", "negative", "exp", "expm1", "log", "abs", "softplus", "step", "clip"),
    *("maximum", "minimum"),
)
for _name in (*FUNCTIONS, "linear", "join"):
    setattr(Symbols, _name, staticmethod(functools.partial(_lift, _name)))


def nodes(roots: Iterable[Sym]) -> list[Sym]:
    """Every expression under the roots once, each after its parts."""
    found: dict[Sym, None] = {}

    def visit(node: Sym) -> None:
        if node not in found:
            for part in node.parts:
                visit(part)
            found[node] = None

    for root in roots:
        visit(root)
    return list(found)


def evaluate(values: Mapping[str, Sym], known: Mapping[Sym, Any], m: Any = cells.Numpy) -> dict[str, Any]:
    """The numbers of expressions in the arithmetic `m`, from those of some of the symbols.

    >>> a, b = Sym("name", "a"), Sym("name", "b")
    >>> evaluate({"y": Symbols.relu(a - b)}, {a: 5.0, b: 2.0})
    {'y': np.float64(3.0)}
    """
    done: dict[Sym, Any] = dict(known)

    def value(node: Any) -> Any:
        if not isinstance(node, Sym):
            return node
        if node not in done:
            if node.op in ("name", "parameter"):
                raise KeyError(f"no value for {node}")
            done[node] = node.args[0] if node.op == "number" else compute(node.op, [value(arg) for arg in node.args])
        return done[node]

    def compute(op: str, args: list[Any]) -> Any:
        if op == "layer_norm":
            k, *parts = args
            width = parts[0].shape[-1]
            return m.layer_norm(functools.reduce(m.join, parts))[..., k * width : (k + 1) * width]
        if op in BINARY:
            return BINARY[op](*args)
        return -args[0] if op == "neg" else getattr(m, op)(*args)

    return {name: value(node) for name, node in values.items()}
