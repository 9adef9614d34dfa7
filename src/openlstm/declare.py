"""A cell of one's own: `@openlstm.cell` turns a function of equations into a module, and into all that follows.

The function is run once on symbols, so what cannot be a cell is refused where it is written, with its line. What tells
one set of equations from another, `digest`, stands in model files.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import linecache
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from keyword import iskeyword
from numbers import Real
from pathlib import Path
from types import FunctionType, TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

from . import symbols
from .cells import BUILT_IN, CELLS, OLDER, Cell, Option, Options
from .spec import Spec, checked_option
from .symbols import FUNCTIONS, Sym, Symbols, nodes
from .words import close

if TYPE_CHECKING:
    from .nn import Recurrent

Equations = Callable[[Any, Any, Any, Any, Any], Mapping[str, Any]]
Names = Sequence[str]
TAKES = ("z", "s", "w", "m", "o")  # what equations are given
USABLE = (*FUNCTIONS, "layer_norm", "linear")  # of an arithmetic, in equations
STANDARD = ("weight_ih", "weight_hh", "weight_hr", "weight_hp", "norm_ih", "norm_hh")  # parameters that all may have
# Names that a step and its derivative have beside the cell's own.
_MODULES = {"self", "cls", "device", "dtype", "training"}  # names that a module has beside its spec's
_TAKEN = ("x", "y", "y2", "p", "dx", "dy", "dy2", "kept", "sums", "slopes", "keep", "h_seen")


def cell(
    gates: Names | Callable[[Options], Names],
    states: Names = ("h",),
    *,
    initial: Mapping[str, float] | None = None,
    bias: Mapping[str, float] | Callable[[Options], Mapping[str, float | None]] | None = None,
    vectors: Mapping[str, Names] | Callable[[Options], Mapping[str, Names]] | None = None,
    matrices: Mapping[str, Names] | Callable[[Options], Mapping[str, Names]] | None = None,
    options: Mapping[str, Option] | None = None,
    titles: Mapping[str, str] | None = None,
    alone: Names | Callable[[Options], Names] = (),
    apart: Names | Callable[[Options], Names] = (),
    inside: Names | Callable[[Options], Names] = (),
    candidate: str = "",
    refuse: Callable[[Options], str | None] = lambda o: None,
) -> Callable[[Equations], type[Recurrent]]:
    """Makes a module of a function `cell(z, s, w, m, o)` that returns every value worth a name: see `cells.py`.

    The module has the function's name and the options that all modules have: layers, directions, lengths, resets,
    dropouts, zoneout, projections where the equations read h only through recurrent weights. What may depend on options
    is given as it is, or as a function of them.

    gates: those with rows in W, R and b; z["k"] is W x + R h + b of gate k, (B, H).
    states: s["h"] and the others are the values of the step before; h, the output, comes first. The function returns a
    new value for each.
    initial: states that do not begin at 0.
    bias: what the biases of gates begin with; others as torch.nn's.
    vectors, matrices: the cell's own parameters, such as {"weight_ch": ("p_i", "p_f")}: (H,) arrays, or (H, H) ones for
    `m.linear(value, w["R_i"], None)`, which the function finds as w["p_i"]. A parameter's name begins with weight_, or
    with norm_ where its numbers begin at 1; one that ends with _bias begins at 0.
    options: keyword options of the module, read as o.name.
    titles: what the field calls the values, for tables and diagrams.
    alone: gates without recurrent weights. apart: those whose R h + b is not added but comes as z["kh"]. inside: those
    that apply w["R_k"] and w["b_k"] themselves; they come last.
    candidate: the value that recurrent_dropout_on="candidate" drops; the function multiplies it by w["keep"] if that is
    there.
    refuse: why options do not go together.

    The arithmetic m: sigmoid, tanh, relu, softplus, exp, expm1, log, abs, negative, step (1 above 0, else 0) and
    layer_norm of a value; maximum and minimum of two; clip(value, low, high); linear(value, matrix, bias or None).

    Errors: ValueError for a declaration or equations that cannot be a cell, with the line.

    >>> @cell(gates=("f", "g"), states=("h", "c"), bias={"f": 1.0})
    ... def janet(z, s, w, m, o):
    ...     f, g = m.sigmoid(z["f"]), m.tanh(z["g"])
    ...     c = f * s["c"] + (1 - f) * g
    ...     return {"f": f, "g": g, "c": c, "h": c}
    >>> janet(3, 4, num_layers=2, bidirectional=True)
    janet(3, 4, 4; bidirectional)
    """

    if isinstance(gates, FunctionType) and gates.__code__.co_argcount > 1:
        raise ValueError(f"openlstm.cell is put before '{gates.__name__}' alone: expected @openlstm.cell(gates=(...))")

    def declare(equations: Equations) -> Any:
        name = getattr(equations, "__name__", "")
        if not isinstance(equations, FunctionType) or not name.isidentifier():
            raise ValueError(f"openlstm.cell is put before {equations!r}: expected a function with a name, by def")
        try:
            inspect.signature(equations).bind(*TAKES)
        except TypeError:
            found = ", ".join(inspect.signature(equations).parameters)
            raise ValueError(f"The cell '{name}' takes ({found}): expected ({', '.join(TAKES)})") from None
        for field, told in (("initial", initial), ("options", options), ("titles", titles)):
            if told is not None and not isinstance(told, Mapping):
                raise ValueError(f"The cell '{name}' has {field}={told!r}: expected a dict")
        own = Cell(
            equations=equations,
            gates=_of_options(gates, tuple),
            states=tuple(states),
            titles=dict(titles or {}),
            options=dict(options or {}),
            vectors=_of_options(vectors or {}, _stacked),
            matrices=_of_options(matrices or {}, _stacked),
            alone=_of_options(alone, tuple),
            apart=_of_options(apart, tuple),
            inside=_of_options(inside, tuple),
            candidate=candidate,
            initial=dict(initial or {}),
            initial_bias=_of_options(bias or {}, dict),
            refuse=refuse,
            digest=digest,
            check=check,
        )
        return _declared(name, own)

    return declare


def _of_options(given: Any, kind: Callable[[Any], Any]) -> Callable[[Options], Any]:
    return (lambda o: kind(given(o))) if callable(given) else (lambda o: kind(given))


def _stacked(given: Mapping[str, Names]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(blocks) for name, blocks in given.items()}


def _declared(name: str, own: Cell) -> Any:
    zoo = f"{__package__}.zoo"
    if name.lower() in BUILT_IN:
        raise ValueError(f"The cell '{name}' has the name of a built-in one: give the function another name")
    if own.equations.__module__ != zoo:
        import_module(zoo)  # first, so that it displaces no cell of that name
    _check_declaration(name, own)
    run = _Run(Spec.of(name, 1, 1, definition=own))
    run.check()
    for title in own.titles:
        if title not in run.values and not own.options:
            raise ValueError(f"The cell '{name}' has a title for '{title}', which it does not give")
    initial = {state: float(value) for state, value in own.initial.items()}
    own = replace(own, projects=not _reads(run.values, "h"), initial=initial)
    if name in CELLS:
        OLDER.setdefault(name, []).insert(0, CELLS[name])
    CELLS[name] = own
    about = {"__doc__": own.equations.__doc__, "definition": own, "title": name}
    about |= {key: getattr(own.equations, key) for key in ("__module__", "__qualname__")}
    try:
        from . import nn
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        return type(name, (_WithoutTorch,), about)  # streams need none
    nn.MODULES[name] = kind = type(name, (nn.Own,), about)
    return kind


class _WithoutTorch:
    """Stands for a module where there is no torch."""

    title: ClassVar[str]

    def __init__(self, *_: Any, **__: Any) -> None:
        raise ImportError(f"{self.title} needs torch: install it with pip install 'openlstm[torch]'")


def digest(spec: Spec) -> str:
    """16 digits that tell a cell's equations, gates, states and initial values, with these options, from others."""
    definition, graph = spec.definition, _Run(spec).values
    place = {node: k for k, node in enumerate(nodes(graph.values()))}
    lines = [
        f"{node.op} {' '.join(str(place[arg] if isinstance(arg, Sym) else arg) for arg in node.args)}" for node in place
    ]
    lines += [f"{name} = {place[node]}" for name, node in graph.items()]
    states = {state: definition.initial.get(state, 0.0) for state in definition.states}
    lines += [str(each) for each in (spec.gates, spec.recurrent, definition.apart(spec), spec.own, states)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def check(spec: Spec) -> None:
    """Can the equations be a cell with these options. Errors: ValueError, with their line."""
    run = _Run(spec)
    run.check()
    if spec.proj_size and (_reads(run.values, "h") or "r" in run.values):
        why = "it mixes h with the old one" if _reads(run.values, "h") else "it has a value 'r', as a projection has"
        raise ValueError(f"proj_size is not defined for {spec.cell} with these options: {why}. Expected 0")


def _reads(values: Mapping[str, Sym], state: str) -> bool:
    """Do the equations read a state other than through recurrent weights."""
    return any(node.op == "name" and node.args[0] == f"{state}_prev" for node in nodes(values.values()))


class _Run:
    """The equations, run once on symbols. `lines`: where each value was made. Errors: ValueError.

    `drops`: with the mask that recurrent dropout puts on the candidate.
    """

    def __init__(self, spec: Spec, drops: bool = False) -> None:
        cell = spec.definition
        self.spec, self.cell, self.lines = spec, cell, dict[Sym, int]()
        inside = cell.inside(spec)
        z = {gate: Sym("name", f"z_{gate}") for gate in spec.gates}
        z |= {f"{gate}h": Sym("name", f"z_{gate}h") for gate in cell.apart(spec)}
        s = {state: Sym("name", f"{state}_prev") for state in cell.states}
        w = {block: Sym("parameter", block, "") for blocks in spec.own.values() for block in blocks}
        for gate in inside:
            w |= {f"R_{gate}": Sym("parameter", f"R_{gate}", "")}
            w |= {f"b_{gate}": Sym("parameter", f"b_{gate}", "")} if spec.bias else {}
        self.z, self.w = dict(z), dict(w)
        w |= {"keep": Sym("name", "mask_candidate")} if drops else {}
        self.matrices = {block for blocks in cell.matrices(spec).values() for block in blocks}
        self.matrices |= {f"R_{gate}" for gate in inside}
        given = (
            _Named("z", z, "its gates"),
            _Named("s", s | {"h_seen": s["h"]}, "its states"),
            _Named("w", w, "its own parameters"),
        )
        with symbols.watched(self._made):
            try:
                found = cell.equations(*given, _Arithmetic(), spec)
            except Exception as error:
                foreign = isinstance(error, TypeError) and not str(error).startswith("m.")
                hint = "; use the functions of m" if foreign else ""
                told = error.args[0] if isinstance(error, KeyError) and error.args else error
                text = re.sub("'?Sym'?( object)?", "a value of the cell", str(told))
                raise ValueError(f"{self._said(_line(error.__traceback__, cell.equations))}{text}{hint}") from error
        if not isinstance(found, Mapping):
            what = "one value" if isinstance(found, Sym) else type(found).__name__
            raise ValueError(f"{self._said()}it gives {what}: expected a dict of every named value")
        for key, value in found.items():
            if not isinstance(value, Sym):
                raise ValueError(f"{self._said()}'{key}' is {value!r}: expected a value made of z, s and w")
            if value.constant:
                where = self._said(self.lines.get(value))
                raise ValueError(f"{where}'{key}' is the same at every step: expected a value made of z and s")
            taken = ("z_", "mask_", "carry_")
            if not isinstance(key, str) or not key.isidentifier() or key in _TAKEN or key.startswith(taken):
                raise ValueError(f"{self._said()}a value cannot be called {key!r}: give it another name")
            if key.endswith(("_prev", "_new")):
                raise ValueError(f"{self._said()}a value cannot be called '{key}': that is a state's at another time")
        for state in cell.states:
            if state not in found:
                raise ValueError(
                    f"{self._said()}it gives {', '.join(found) or 'nothing'}, and no new '{state}': expected each of "
                    f"the states {', '.join(cell.states)}"
                )
        self.values: dict[str, Sym] = dict(found)

    def check(self) -> None:
        """Does all that is learned get a gradient, and is each parameter used as what it is, and in one place."""
        if self.values != _Run(self.spec).values:
            raise ValueError(f"{self._said()}it gives other equations when it is run again: let it draw no numbers")
        if candidate := self.cell.candidate:
            dropped = _Run(self.spec, drops=True).values
            if candidate not in dropped or Sym("name", "mask_candidate") not in nodes([dropped[candidate]]):
                raise ValueError(
                    f"{self._said()}candidate='{candidate}', but it gives no value of this name that it multiplies by "
                    "w['keep'] where that is there"
                )
        order = nodes(self.values.values())
        used: dict[Sym, Sym] = {}  # parameters, and where their gradient is made
        for node in order:
            for part in node.parts:
                again = part.op == "parameter" and used.setdefault(part, node) is not node
                if again and "linear" in (node.op, used[part].op):
                    raise ValueError(
                        f"{self._said(self.lines.get(node))}w['{part.args[0]}'] is used in a product and once more: "
                        "give each place a parameter of its own"
                    )
            if node.op == "layer_norm" and node.args[1].constant:
                raise ValueError(f"{self._said(self.lines.get(node))}m.layer_norm takes a value made of z and s")
            plain = [part for part in node.parts if part.op == "parameter"]
            for k, part in enumerate(node.args):
                if part not in plain:
                    continue
                name, is_matrix = part.args[0], part.args[0] in self.matrices
                if node.op == "linear" and (k == 1) != is_matrix:
                    raise ValueError(
                        f"{self._said(self.lines.get(node))}m.linear(value, matrix, None) takes w['{name}'] as its "
                        f"{('value', 'matrix', 'bias')[k]}, but that is a {'matrix' if is_matrix else 'vector'}"
                    )
                if node.op != "linear" and is_matrix:
                    raise ValueError(
                        f"{self._said(self.lines.get(node))}w['{name}'] is a matrix, (H, H), which cannot meet a "
                        f"(B, H) value element by element: use m.linear(value, w['{name}'], None)"
                    )
            if node.op == "linear":
                value, matrix, bias = node.args
                given = [each for each in (matrix, bias) if each is not None]
                if value.constant or matrix is None or any(each.op != "parameter" for each in given):
                    raise ValueError(
                        f"{self._said(self.lines.get(node))}m.linear takes a value made of z and s, a matrix of w, and "
                        "a vector of w or None"
                    )
        new = [self.values[state] for state in self.cell.states]
        learned = set(_through(new, ("step",)))
        for node, called in [
            *((node, f"z['{name}']") for name, node in self.z.items()),
            *((node, f"w['{name}']") for name, node in self.w.items()),
        ]:
            if node in learned:
                continue
            if node not in order:
                raise ValueError(f"{self._said()}{called} is not used: leave it out of the declaration")
            step = next((each for each in order if each.op == "step" and node in nodes([each])), None)
            if step is not None and node in nodes(new):
                raise ValueError(
                    f"{self._said(self.lines.get(step))}m.step has no slope, and {called} gets a gradient through it "
                    "alone: it would never be learned. Use m.sigmoid, or m.clip"
                )
            raise ValueError(f"{self._said()}no state depends on {called}: it would never be learned")

    def _made(self, node: Sym) -> None:
        if node not in self.lines:
            frame: Any = sys._getframe(1)
            while frame is not None and frame.f_code.co_filename != self.cell.equations.__code__.co_filename:
                frame = frame.f_back
            if frame is not None:
                self.lines[node] = frame.f_lineno

    def _said(self, line: int | None = None) -> str:
        """Where an error is."""
        code = self.cell.equations.__code__
        text = linecache.getline(code.co_filename, line).strip() if line else ""
        place = f", line {line} of {Path(code.co_filename).name}" if line else ""
        return f"The cell '{self.spec.cell}'{place}{f', `{text}`' if text else ''}: "


def _line(traceback: TracebackType | None, function: Any) -> int | None:
    """The last line of the file in which the function is that led to an error."""
    found = None
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == function.__code__.co_filename:
            found = traceback.tb_lineno
        traceback = traceback.tb_next
    return found


def _through(roots: list[Sym], shut: tuple[str, ...]) -> list[Sym]:
    """What is under the roots, but not what is only under operations that are shut."""
    found: dict[Sym, None] = {}
    left = list(roots)
    while left:
        node = left.pop()
        if node not in found:
            found[node] = None
            left += [] if node.op in shut else list(node.parts)
    return list(found)


class _Named(dict[str, Sym]):
    """What equations are given under names."""

    def __init__(self, letter: str, values: Mapping[str, Sym], what: str) -> None:
        super().__init__(values)
        self.letter, self.what = letter, what

    def __missing__(self, name: str) -> Sym:
        known = ", ".join(key for key in self if key != "h_seen") or "none"
        raise KeyError(f"there is no {self.letter}[{name!r}]: {self.what} are {known}")

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{self.letter} has no '{name}': write {self.letter}['{name}']")


class _Arithmetic:
    """The arithmetic of symbols, which says what it has."""

    def __getattr__(self, name: str) -> Any:
        if name in USABLE:
            return functools.partial(_applied, name)
        word = close(name, USABLE)
        meant = f"did you mean m.{word}?" if word else f"it has {', '.join(USABLE)}"
        raise AttributeError(f"the arithmetic m has no '{name}': {meant}")


def _applied(name: str, *args: Any) -> Any:
    """A function of the arithmetic. Errors: TypeError for other arguments than all arithmetics take."""
    takes = {"linear": "a value, a matrix and a bias or None", "clip": "a value and two numbers"}
    takes |= dict.fromkeys(("maximum", "minimum"), "two values, or a value and a number")
    count = {"linear": 3, "clip": 3, "maximum": 2, "minimum": 2}.get(name, 1)
    bounds = name != "clip" or all(isinstance(bound, Real) for bound in args[1:])
    if len(args) != count or not any(isinstance(arg, Sym) for arg in args) or not bounds:
        given = ", ".join("a value" if isinstance(arg, Sym) else repr(arg) for arg in args) or "nothing"
        raise TypeError(f"m.{name} takes {takes.get(name, 'a value of the cell')}, and is given {given}")
    return getattr(Symbols, name)(*args)


def _check_declaration(name: str, own: Cell) -> None:
    """Does what is said of a cell make one. Errors: ValueError."""

    def refuse(text: str) -> None:
        raise ValueError(f"The cell '{name}' {text}")

    if not own.states or own.states[0] != "h":
        refuse(f"has the states {', '.join(own.states) or 'none'}: expected h, its output, as the first")
    for option, told in own.options.items():
        if not isinstance(told, Option):
            refuse(f"has {told!r} as its option '{option}': expected an openlstm.cells.Option")
        if option in _MODULES or hasattr(Spec, option) or not option.isidentifier() or iskeyword(option):
            refuse(f"has an option '{option}', which all modules have: give it another name")
        if told.choices and not all(re.fullmatch(r"[\w.+-]+", str(each)) for each in told.choices):
            refuse(f"has the choices {told.choices} of '{option}': expected words of letters, digits and . + -")
        try:
            checked_option(option, told.default, told)
        except ValueError as error:
            refuse(f"has an option whose default is not one of its values: {error}")
    try:
        spec = Spec.of(name, 1, 1, definition=own)
    except (TypeError, AttributeError) as error:
        refuse(f"has a declaration that cannot be read ({error}): see help(openlstm.cell)")
    blocks = [block for each in (own.vectors(spec), own.matrices(spec)) for names in each.values() for block in names]
    apart, inside, alone = own.apart(spec), own.inside(spec), own.alone(spec)
    blocks += [f"{letter}_{gate}" for letter in "Rb" for gate in inside]  # what else w has
    if both := set(own.vectors(spec)) & set(own.matrices(spec)):
        refuse(f"has a parameter {both.pop()} of vectors and of matrices: expected one or the other")
    for gate in apart:
        if gate in inside or gate in alone:
            refuse(f"has the gate '{gate}' as apart, and as inside or alone: expected one of these")
        if f"{gate}h" in spec.gates:
            refuse(f"has a gate called '{gate}h', which is what z has of '{gate}', for it is apart: rename one")
    for kind, names in (("gate", spec.gates), ("state", own.states), ("parameter", tuple(blocks))):
        for each in names:
            if not isinstance(each, str) or not each.isidentifier() or each in _TAKEN:
                why = ", as a step calls something else" if each in _TAKEN else ", which is no name"
                refuse(f"has a {kind} called {each!r}{why}: give it another name")
        if len(set(names)) < len(names):
            refuse(f"has a {kind} twice: {', '.join(names)}")
    if not spec.gates:
        refuse("has no gates: expected one at least")
    for parameter in spec.own:
        if parameter in STANDARD or not re.fullmatch(r"(weight|norm)_\w+", parameter):
            refuse(f"has a parameter '{parameter}': expected weight_... or norm_..., and none that all modules have")
    for field, names in (("alone", alone), ("apart", apart), ("inside", inside)):
        for each in names:
            if each not in spec.gates:
                refuse(f"has {field}={names!r}, but its gates are {', '.join(spec.gates)}")
    if inside != spec.recurrent[len(spec.recurrent) - len(inside) :]:
        refuse(f"has inside={inside!r}: those gates come last, in the order of gates")
    for field, named in (("initial", own.initial), ("bias", own.initial_bias(spec))):
        known = own.states if field == "initial" else spec.gates
        for each, value in named.items():
            if each not in known:
                refuse(f"has {field} of '{each}', which is none of {', '.join(known)}")
            nothing = value is None and field == "bias"
            if not nothing and not (isinstance(value, Real) and math.isfinite(value)):
                refuse(f"has {field} {value!r} of '{each}': expected a finite number")
