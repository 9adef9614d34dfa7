"""What is derived from the equations by running them on symbols: their LaTeX, plain formulas, and diagram.

Nothing here knows which cells exist, nor how a step is put together: `symbols` runs `step.Step`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from .spec import Spec, Walk
from .step import Step
from .symbols import Stack, Sym, Symbols, nodes

# How parameters are called in formulas: W and R are matrices, b biases, P dense peepholes.
_CALLED = {
    "weight_ih": "W",
    "weight_hh": "R",
    "bias_ih": "b_W",
    "bias_hh": "b_R",
    "weight_ch": "P",
    "norm_ih": "gain_W",
    "norm_hh": "gain_R",
    "weight_hr": "W_hr",
    "weight_hp": "W_hp",
    "bias_hr": "b_hr",
    "bias_hp": "b_hp",
}


def parameters(spec: Spec) -> dict[str, Any]:
    """The symbols of a walk's parameters by their names without the suffix: one, or a stack of one for each block."""
    found: dict[str, Any] = {}
    for name in spec.shapes(spec.walks[0]):
        if name in spec.own:
            found[name] = Stack(Sym("parameter", block, "") for block in spec.own[name])
        elif blocks := spec.blocks(name):
            found[name] = Stack(Sym("parameter", _CALLED[name], gate) for gate in blocks)
        elif name in _CALLED:
            found[name] = Sym("parameter", _CALLED[name], "")
    return found


def shown(spec: Spec) -> dict[str, str]:
    """The states by the names that a trace has for them: what recurs is r where h is projected."""
    return {name: "r" if name == "h" and spec.proj_size else name for name in spec.definition.states}


def symbols(spec: Spec, training: bool = False) -> dict[str, Sym]:
    """Every named value of one step as an expression, each after those that it is made of.

    Inputs are named x, and <state>_prev for the states of the step before: r_prev where h is projected. Zoneout's rate
    is zoneout_<state>. With `training` the random masks of dropouts are there too, as mask_<what they drop>.
    """
    walk = Walk(0, False, 1, 1)  # with one unit, row k of a parameter is gate k's
    p = parameters(spec)
    states = {name: Sym("name", title + "_prev") for name, title in shown(spec).items()}
    masks = {}
    for mask in spec.masks(1, 1):
        kind = mask.removesuffix(walk.suffix)
        if kind.startswith("zoneout_") or (training and kind in ("recurrent", "candidate")):
            dropped = shown(spec)["h"] if kind == "recurrent" else spec.definition.candidate
            masks[kind] = Sym("parameter", kind if kind.startswith("zoneout_") else "mask_" + dropped, "")
    drop = None
    if training and spec.weight_dropout:
        drop = Stack(Sym("parameter", "mask_R", gate) for gate in spec.recurrent)
    step = Step(spec, walk, p, Symbols, drop)
    values, new, output = step(step.inputs(Sym("name", "x")), states, masks)
    if output is not new["h"]:
        values["y"] = output
    return _ordered(values)


def _ordered(values: Mapping[str, Sym]) -> dict[str, Sym]:
    """The same, each after what it is made of: zoneout renames a value after the fact."""
    left, done = dict(values), dict[str, Sym]()
    while left:
        for name, value in left.items():
            inside = set(nodes([value])) - {value}
            if not any(other in inside for key, other in left.items() if key != name):
                break
        done[name] = left.pop(name)
    return done


@dataclass(frozen=True)
class Style:
    """How formulas are written."""

    name: Callable[[str, str, bool], str]  # of a name and its gate, and whether it changes from step to step
    forms: Mapping[str, str]  # of functions: {0} and so on are the arguments
    times: str  # element by element
    apply: str  # a matrix to a vector, a number to anything

    def formula(self, node: Sym, known: Mapping[Sym, str] | None = None) -> str:
        """The expression, with `known` ones inside it by their names."""
        return self._write({k: v for k, v in (known or {}).items() if k is not node}, node, 0, False)

    def _write(self, known: Mapping[Sym, str], node: Sym, above: int, whole: bool) -> str:
        """`above`: how tightly what is around binds, 1 a sum, 2 a product. `whole`: all gates of a stack, not one."""

        def write(part: Sym, around: int = 0) -> str:
            return self._write(known, part, around, whole)

        op, args = node.op, node.args
        binds = {"+": 1, "-": 1, "neg": 1, "*": 2}.get(op, 3)
        if node in known or op == "name":
            return self.name(known.get(node) or args[0], "", True)
        if op == "parameter":
            return self.name(args[0], "" if whole else args[1], False)
        if op == "number":
            text, binds = f"{args[0]:g}", 3 if args[0] >= 0 else 1
        elif op in "+-":
            negative = op == "+" and (args[1].op == "neg" or (args[1].op == "number" and args[1].args[0] < 0))
            op, right = ("-", -args[1]) if negative else (op, args[1])
            text = f"{write(args[0], 1)} {op} {write(right, 1 if op == '+' else 2)}"
        elif op == "*":
            between = self.apply if args[0].op == "number" else self.times
            text = between.join(write(arg, 2) for arg in args)
        elif op == "/" and op not in self.forms:
            text, binds = f"{write(args[0], 2)} / {write(args[1], 3)}", 2
        elif op == "neg":
            text = f"-{write(args[0], 2)}"
        elif op == "linear":
            text, binds = f"{write(args[1], 3)}{self.apply}{write(args[0], 3)}", 2
            if args[2] is not None:
                text, binds = f"{text} + {write(args[2])}", 1
        elif op == "layer_norm" and len(args) > 2:  # over all gates, and this is one gate's part
            gate = next(part.args[1] for part in nodes([args[1 + args[0]]]) if part.op == "parameter" and part.args[1])
            text = self.forms["part"].format(self._write(known, args[1], 0, True), gate)
        elif op == "join":  # vectors one above the other, or matrices side by side
            text = f"[{(', ' if node.constant else '; ').join(write(part) for part in _joined(node))}]"
        else:
            text = self.forms[op].format(*(write(part) for part in node.parts))
        return f"({text})" if binds < above else text


def _joined(node: Sym) -> list[Sym]:
    return [part for arg in node.args for part in _joined(arg)] if node.op == "join" else [node]


_GREEK = {"gain": ("γ", r"\gamma"), "bias": ("β", r"\beta"), "zoneout": ("ζ", r"\zeta"), "mask": ("d", "d")}


def _text_name(name: str, gate: str, varies: bool) -> str:
    base, _, rest = name.partition("_")
    if rest == "prev":
        return f"{base}(t-1)"
    base = base if varies else _GREEK.get(base, (base,))[0]
    return base + (f"_{rest}{gate}" if rest + gate else "")


def _latex_name(name: str, gate: str, varies: bool) -> str:
    base, _, rest = name.partition("_")
    time = "" if not varies else "t-1" if rest == "prev" else "t"
    word = base if len(base) == 1 else rf"\mathrm{{{base}}}"
    body = word if varies else _GREEK.get(base, ("", word))[1]
    if rest == "new":
        body = rf"\tilde{{{body}}}"
    below = ("" if rest in ("prev", "new") else rest) + gate
    below = ",".join(part for part in (below, time) if part)
    return body + ("" if not below else f"_{below}" if len(below) == 1 else f"_{{{below}}}")


LATEX = Style(
    _latex_name,
    {
        "sigmoid": r"\sigma({0})",
        "tanh": r"\tanh({0})",
        "relu": r"\max(0, {0})",
        "negative": r"\min(0, {0})",
        "exp": r"e^{{{0}}}",
        "expm1": r"\left(e^{{{0}}} - 1\right)",
        "log": r"\ln\left({0}\right)",
        "maximum": r"\max({0}, {1})",
        "minimum": r"\min({0}, {1})",
        "abs": r"\left|{0}\right|",
        "softplus": r"\ln\left(1 + e^{{{0}}}\right)",
        "step": r"\left[{0} > 0\right]",
        "clip": r"\operatorname{{clip}}({0}, {1}, {2})",
        "layer_norm": r"\operatorname{{LN}}({0})",
        "part": r"\operatorname{{LN}}({0})_{{{1}}}",
        "/": r"\frac{{{0}}}{{{1}}}",
    },
    times=r" \odot ",
    apply=r" \, ",
)
TEXT = Style(
    _text_name,
    {
        "sigmoid": "σ({0})",
        "tanh": "tanh({0})",
        "relu": "max(0, {0})",
        "negative": "min(0, {0})",
        "exp": "exp({0})",
        "expm1": "expm1({0})",
        "log": "ln({0})",
        "maximum": "max({0}, {1})",
        "minimum": "min({0}, {1})",
        "abs": "|{0}|",
        "softplus": "softplus({0})",
        "step": "[{0} > 0]",
        "clip": "clip({0}, {1}, {2})",
        "layer_norm": "LN({0})",
        "part": "LN({0})_{1}",
    },
    times=" ⊙ ",
    apply=" ",
)


def _formulas(style: Style, spec: Spec, training: bool) -> dict[str, str]:
    known: dict[Sym, str] = {}
    lines = {}
    for name, value in symbols(spec, training).items():
        # A linear activation gives what it takes: then the later name stands for it from here on.
        right = style.name(known[value], "", True) if value in known else style.formula(value, known)
        lines[name] = f"{style.name(name, '', True)} = {right}"
        known[value] = name
    return lines


def latex(spec: Spec, training: bool = False) -> dict[str, str]:
    """The equations of one step in LaTeX, by the name of the value that each defines.

    >>> print(latex(Spec.of("lstm", 1, 1, coupled="f=1-i"))["c"])
    c_t = f_t \\odot c_{t-1} + i_t \\odot g_t
    """
    return _formulas(LATEX, spec, training)


def text(spec: Spec, training: bool = False) -> dict[str, str]:
    """The equations of one step in plain characters, by the name of the value that each defines.

    >>> print(text(Spec.of("gru", 1, 1))["n"])
    n = tanh(z_n + r ⊙ z_nh)
    """
    return _formulas(TEXT, spec, training)


@dataclass(frozen=True)
class Node:
    """A value or an operation in a diagram. `inputs` are places in the list of nodes that it stands in."""

    name: str  # "" for an operation on the way to a named value
    label: str  # what is done there
    formula: str
    value: Sym
    inputs: tuple[int, ...]
    # In a flow of whole arrays:
    shape: tuple[int, ...] = ()
    factors: tuple[tuple[int, int], ...] = ()  # the shapes of what is multiplied, where one is a matrix of weights
    columns: tuple[tuple[int, int], ...] = ()  # of each input, where it does not take all


def graph(spec: Spec, training: bool = False) -> list[Node]:
    """The diagram of one step: every operation once, after its inputs; pre-activations as one node each.

    >>> [(node.name, node.label, node.inputs) for node in graph(Spec.of("rnn", 1, 1, bias=False))]
    [('x', '', ()), ('h_prev', '', ()), ('z_h', 'W_h x + R_h h(t-1)', (0, 1)), ('h', 'tanh', (2,))]
    """
    found = _Graph()
    for name, value in symbols(spec, training).items():
        found.add(value, name)
    return found.nodes


def flow(spec: Spec, layer: int = 0, batch: int = 1, training: bool = False) -> list[Node]:
    """The diagram of one step as whole arrays flow through it: every operation once, after its inputs, with shapes.

    Weights of all gates are one matrix. Where all gates are the same sum of products, what they read stands side by
    side and one product makes it; else each product stands alone. The gates are then cut out. Errors: IndexError.

    >>> for node in flow(Spec.of("rnn", 2, 3, bias=False), batch=64):
    ...     print(node.name, node.label, node.factors, node.shape)
    x  () (64, 2)
    h_prev  () (64, 3)
     [x; h(t-1)] () (64, 5)
    z_h [W_h, R_h] [x; h(t-1)] ((64, 5), (5, 3)) (64, 3)
    h tanh(z_h) () (64, 3)
    """
    if not 0 <= layer < spec.num_layers:
        raise IndexError(f"layer {layer}: {spec} has {spec.num_layers}, numbered from 0")
    values, walk = symbols(spec, training), spec.walks[layer * spec.directions]
    found = _Graph(whole=True)
    gates = {name: value for name, value in values.items() if name.startswith("z_")}
    found.add_gates(gates, len(spec.gates), walk.hidden_size)
    for name, value in values.items():
        if name not in gates:
            found.add(value, name)
    width = _Widths(spec, walk)

    def shaped(node: Node) -> Node:
        rows, made = width.of(node.value), node.value.op == "linear" and not node.columns
        inner = width.of(node.value.args[0]) if made else 0
        return replace(node, shape=(batch, rows), factors=((batch, inner), (inner, rows)) if made else ())

    return [shaped(node) for node in found.nodes]


class _Graph:
    """Nodes as they are found. In a `whole` one they are arrays of all gates, and labels are full formulas."""

    def __init__(self, whole: bool = False) -> None:
        self.nodes: list[Node] = []
        self.known: dict[Sym, str] = {}  # the named ones
        self.place: dict[Sym, int] = {}
        self.whole = whole

    def add(self, value: Sym, name: str = "") -> int:
        """The place of a value, with what it is made of before it."""
        if value in self.place and not name:
            return self.place[value]
        formula, inside = TEXT.formula(value, self.known), [part for part in value.parts if not part.constant]
        title = name
        if value in self.known:  # a linear activation: two names for one value
            formula = TEXT.name(self.known[value], "", True)
            label, inputs = f"= {formula}" if self.whole else "=", [self.place[value]]
        elif value.op == "name":
            title, label, inputs = value.args[0], "", []
        elif name.startswith("z_") and not self.whole:
            label, inputs = formula, [self.add(part) for part in nodes([value]) if part.op == "name"]
        else:
            label, inputs = TEXT.formula(value, dict.fromkeys(inside, "·")), [self.add(part) for part in inside]
            label = label.removesuffix("(·)") if len(inside) == 1 else label.removeprefix("· ").removesuffix(" ·")
            label = formula if self.whole else label
        return self._put(Node(title, label, formula, value, tuple(inputs)), name)

    def _put(self, node: Node, name: str) -> int:
        self.nodes.append(node)
        self.place[node.value] = len(self.nodes) - 1
        if name:
            self.known[node.value] = name
        return self.place[node.value]

    def add_gates(self, gates: Mapping[str, Sym], count: int, size: int) -> None:
        """Pre-activations of `size` units each, cut out of what makes those of all `count` gates, or of some."""
        sums = {name: _terms(value) for name, value in gates.items()}
        if len({tuple(map(_all_rows, terms)) for terms in sums.values()}) == 1:
            sums = {name: [value] for name, value in gates.items()}  # all are the same sum: it is made at once
        rows: dict[Sym, list[str]] = {}  # the gates of which a term has rows
        for terms in sums.values():
            for term in terms:
                rows.setdefault(_all_rows(term), []).append(_gate(term))
        for name, terms in sums.items():
            others = [rows[_all_rows(term)] for term in terms]
            if len(terms) == len(others[0]) == 1:  # there is nothing to cut
                self._add_product(gates[name], name)
                continue
            lists = ["" if len(some) == count else ",".join(some) for some in others]
            inputs = [self._add_product(_all_rows(*pair)) for pair in zip(terms, lists, strict=True)]
            starts = [some.index(_gate(term)) * size for some, term in zip(others, terms, strict=True)]
            columns = tuple((start, start + size) for start in starts)
            label = " + ".join(f"·[:, {start}:{end}]" for start, end in columns)
            self._put(Node(name, label, TEXT.formula(gates[name]), gates[name], tuple(inputs), columns=columns), name)

    def _add_product(self, value: Sym, name: str = "") -> int:
        """A sum of products with matrices becomes one: what they multiply, and the matrices, stand side by side."""
        terms = _terms(value)
        if value in self.place or len(terms) == 1 or any(term.op != "linear" for term in terms):
            return self.add(value, name)
        vectors, matrices, biases = zip(*(term.args for term in terms), strict=True)
        inputs = tuple(self.add(vector) for vector in vectors)
        x, weights = (reduce(lambda a, b: Sym("join", a, b), parts) for parts in (vectors, matrices))
        bias = reduce(lambda a, b: b if a is None else a if b is None else a + b, biases)
        side = self._put(Node("", TEXT.formula(x, self.known), TEXT.formula(x, self.known), x, inputs), "")
        product = Sym("linear", x, weights, bias)
        self.place[value] = self._put(Node(name, TEXT.formula(product), TEXT.formula(value), product, (side,)), name)
        if name:
            self.known[value] = name
        return self.place[value]


def _terms(value: Sym) -> list[Sym]:
    """The parts of a sum, each with the parameters that are added to it."""
    if value.op != "+":
        return [value]
    left, right = value.args
    *before, last = _terms(left)
    return [*before, last + right] if right.constant else [*before, last, *_terms(right)]


def _gate(value: Sym) -> str:
    """The gate whose rows of the parameters an expression has, "" where they are not a gate's."""
    if value.op == "parameter":
        return str(value.args[1])
    parts = (value.args[1 + value.args[0]],) if value.op == "layer_norm" else value.parts
    return next((gate for part in parts if (gate := _gate(part))), "")


def _all_rows(value: Sym, gates: str = "") -> Sym:
    """The same for all gates at once instead of one, or for those of the list `gates`."""
    if value.op == "parameter":
        return Sym("parameter", value.args[0], gates) if value.args[1] else value
    if value.op == "layer_norm":
        return Sym("layer_norm", 0, _all_rows(value.args[1], gates))
    return Sym(value.op, *(_all_rows(arg, gates) if isinstance(arg, Sym) else arg for arg in value.args))


class _Widths:
    """How many numbers an expression has in its last dimension, in one walk."""

    def __init__(self, spec: Spec, walk: Walk) -> None:
        states = {shown(spec)[name] + "_prev": size for name, size in spec.state_sizes(walk).items()}
        self.names = {"x": walk.input_size, **states}
        self.rows = {_CALLED[name]: shape[0] for name, shape in spec.shapes(walk).items() if name in _CALLED}
        self.size = walk.hidden_size
        self.found: dict[Sym, int] = {}

    def of(self, value: Sym) -> int:
        """That number; of a matrix, how many rows it has. 1 fits everything."""
        if value not in self.found:
            self.found[value] = self._of(value)
        return self.found[value]

    def _of(self, value: Sym) -> int:
        op, args = value.op, value.args
        if op == "name":
            return self.names[args[0]]
        if op == "parameter":
            return self.size * len(args[1].split(",")) if args[1] else self.rows.get(args[0], 1)
        if op == "linear" or (op == "join" and value.constant):
            return self.of(args[1])
        if op == "join":
            return sum(map(self.of, args))
        if op == "layer_norm":
            return self.of(args[1 + args[0]])
        return max(map(self.of, value.parts), default=1)
