"""The explorer: one HTML page on which a run is played, searched and compared, without a network or a server.

What the page does stands in `page/`; here its numbers are packed and all is put into one text.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from . import file, measures
from .draw import block_diagram
from .emit import Node, graph, shown, text
from .spec import Walk
from .symbols import Sym
from .words import counted

if TYPE_CHECKING:
    from .tracing import Trace

LIMIT = 10_000_000  # characters of a page
INNER = ("z_", "dL/dz_")  # names of pre-activations and their gradients: the first to be left out
WIDE = -1.2345e-05  # a number as wide as any to five digits, by which the diagram's boxes are sized
SCRIPTS = ("data.js", "diagram.js", "side.js", "explore.js")  # one script of the page, in this order
CODES = {8: "<u1", 16: "<u2", 32: "<f4"}

Array = npt.NDArray[Any]


@dataclass
class _Walk:
    """One layer in one direction: its values as (units, steps), and per unit what else there is."""

    walk: Walk
    values: dict[str, Array]
    initial: dict[str, Array]  # (units, 1)
    measures: dict[str, Array]  # (units, 1)
    units: int
    ranks: dict[int, tuple[str, Array]] = field(init=False)  # by width: rows in order of how much a value varies

    def __post_init__(self) -> None:
        last = {len(array): (name, array) for name, array in self.values.items()}
        self.ranks = {width: (name, _varying(array)) for width, (name, array) in last.items()}


@dataclass
class _Side:
    """One sequence of one trace."""

    trace: Trace
    label: str
    steps: Array
    ends: bool  # is the last step that of the sequence
    tokens: list[str] | None
    array: Array | None  # (inputs, steps)
    walks: list[_Walk]

    def arrays(self, form: _Form) -> list[Array]:
        """All that a page holds over time."""
        found = [array for walk in self.walks for array in _sent(walk, form).values()]
        return found if self.array is None else [*found, self.array]

    @cached_property
    def nodes(self) -> list[Node]:
        """What is in the diagram's boxes."""
        return graph(self.trace.spec)

    @cached_property
    def diagram(self) -> str:
        """The cell's, with a number to write over in every named box that has one."""
        return block_diagram(self.trace.spec, _places(self))


@dataclass(frozen=True)
class _Form:
    """How the numbers are sent: in how many bits, of how many units, and with the pre-activations or without."""

    bits: int
    most: int
    inner: bool = False


class Page(str):
    """A web page as text. A notebook shows it in a frame."""

    def _repr_html_(self) -> str:
        # A page of its own: its script and style must not meet the notebook's.
        frame = 'style="width:100%;height:46rem;border:0" sandbox="allow-scripts"'
        return f'<iframe title="openlstm explorer" {frame} srcdoc="{escape(self, quote=True)}"></iframe>'

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes it to an .html file, whole or not at all. Errors: ValueError for another ending, OSError."""
        if Path(path).suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"The page's name is '{os.fspath(path)}': it should end with .html")
        file.replace(path, self.encode())


def page(
    traces: Trace | Mapping[str, Trace],
    input: Any = None,
    sequence: int | Mapping[str, int] | None = None,
    names: Sequence[str] | None = None,
    title: str = "",
) -> Page:
    """The explorer of a trace, or of two beside each other by their labels, as the text of one HTML page.

    `input`: what to show above: text (a string or strings, one for each step), a series (T,) or frames (T, I); if not
    given, the network's own input. `sequence`: the number of one in the batch; the first that the trace has, if not
    given. For two traces both may be a mapping by label.
    `names`: the values to show, without the layer's suffix, such as ("f", "c"), and "dL/dc" for gradients; all by
    default. The page has less than 10 MB and only ASCII characters. It has the numbers exactly as float32 where they
    fit; else pre-activations are left out, then numbers are rounded to 16 or 8 bits, then the units that vary least
    are left out: the page says so.
    Errors: ValueError, TypeError or IndexError for what does not fit; ImportError without plotly.
    """
    # A trace is itself a mapping, of arrays.
    labelled = dict(traces) if isinstance(traces, Mapping) and not hasattr(traces, "spec") else {"": traces}
    if not 1 <= len(labelled) <= 2:
        raise ValueError(f"The explorer shows one trace or two, got {len(labelled)}: choose which to compare")
    sides = [
        _side(trace, label, _of(label, labelled, input, "input"), _of(label, labelled, sequence, "sequence"), names)
        for label, trace in labelled.items()
    ]
    _check_names(sides, names)
    _plotly()  # what is lacking is said now
    widest = max(len(array) for side in sides for array in side.arrays(_Form(32, 0, True)))
    forms = [_Form(32, widest, True), _Form(32, widest), _Form(16, widest), _Form(8, widest)]
    for form in forms if names is None else [replace(form, inner=True) for form in forms]:
        # What is twice too large would take seconds to compress, and fit only if it were nearly constant.
        if _bytes(sides, form) <= 2 * LIMIT and len(made := _made(sides, form, title)[0]) <= LIMIT:
            return Page(made)
    most = min(widest, int(2 * LIMIT / max(1.0, _bytes(sides, form) / widest)))
    while most > 0:
        made, size = _made(sides, replace(form, most=most), title)
        if len(made) <= LIMIT:
            return Page(made)
        most = min(most - 1, int(0.98 * most * (LIMIT - len(made) + size) / size))
    raise ValueError(
        f"The explorer's page cannot hold {max(len(side.steps) for side in sides)} steps: it would have more than "
        f"{LIMIT / 1e6:g} MB. Trace fewer steps, or give the names of the values to show"
    )


def _of(label: str, labelled: Mapping[str, Any], given: Any, what: str) -> Any:
    """What was given for one trace: the same for all, or by label."""
    if not isinstance(given, Mapping):
        return given
    if given.keys() != labelled.keys():
        known = ", ".join(map(repr, labelled)) if set(labelled) != {""} else "no labels: there is one trace"
        raise ValueError(f"{what} has the labels {', '.join(map(repr, given))}: expected {known}")
    return given[label]


def _side(trace: Any, label: str, given: Any, sequence: int | None, names: Sequence[str] | None) -> _Side:
    if not hasattr(trace, "spec"):
        raise TypeError(f"The explorer takes a trace, or two by their labels, got {type(trace).__name__}")
    if not trace.arrays or not len(trace.sequences):
        raise ValueError("The trace holds nothing: expected at least one value of one sequence")
    if sequence is None:
        sequence = int(trace.sequences[0])
    if sequence not in trace.sequences:
        raise IndexError(f"sequence {sequence}: this trace has {', '.join(map(str, trace.sequences[:12]))}")
    place = int(np.flatnonzero(trace.sequences == sequence)[0])
    total = len(trace.steps)
    there = np.zeros(total, bool)
    for array in trace.arrays.values():
        there |= ~np.isnan(array[:, place]).all(-1)
    if not there.any():
        raise ValueError(f"sequence {sequence} of the trace is empty: choose one with at least one step")
    length = int(np.flatnonzero(there)[-1]) + 1
    tokens, array = _input(given, trace.x[:, place], length)
    records = measures.units(trace)
    walks = []
    for walk in trace.spec.walks:
        own = [one for one in records if (one["layer"], one["reverse"]) == (walk.layer, walk.reverse)]
        every = {**_named(trace.arrays, walk), **{f"dL/d{k}": a for k, a in _named(trace.gradients, walk).items()}}
        values = {k: a[:length, place].T for k, a in every.items() if names is None or k in names}
        states = {seen: trace.initial[state + walk.suffix] for state, seen in shown(trace.spec).items()}
        initial = {seen: np.asarray(array)[place][:, None] for seen, array in states.items()}
        columns = {name: np.array(column)[:, None] for name, column in _columns(own).items()}
        if values:
            walks.append(_Walk(walk, values, initial, columns, len(own)))
    after = trace.steps[length - 1] + 1
    ends = bool(after == trace.length or after in trace.steps)
    return _Side(trace, label, trace.steps[:length], ends, tokens, array, walks)


def _named(arrays: Mapping[str, Array], walk: Walk) -> dict[str, Array]:
    """The arrays of one walk under their names without the suffix."""
    return {name.removesuffix(walk.suffix): array for name, array in arrays.items() if name.endswith(walk.suffix)}


def _columns(records: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """What was measured, by its words, a number for each unit; one that goes by gates has a column for each."""
    columns: dict[str, list[float]] = {}
    for record in records:
        for key in (key for key in record if key not in ("layer", "reverse", "unit")):
            parts = record[key].items() if isinstance(record[key], Mapping) else [("", record[key])]
            for gate, value in parts:
                columns.setdefault(f"{key.replace('_', ' ')} {gate}".strip(), []).append(value)
    return columns


def _input(given: Any, x: Array, length: int) -> tuple[list[str] | None, Array | None]:
    """Text as strings, or numbers as (inputs, steps), of the steps that the sequence has."""
    if given is None:
        return None, x[:length].T
    texts = [isinstance(one, str) for one in given] if isinstance(given, Sequence) or np.ndim(given) else [False]
    if len(texts) not in (length, len(x)):
        raise ValueError(
            f"input has {counted(len(texts), 'step')}: expected {length}, one for each step of the sequence in the "
            "trace"
        )
    if all(texts):
        return [str(one) for one in given[:length]], None
    try:
        array = np.asarray(given)
    except ValueError:  # rows of different lengths
        array = np.asarray(None)
    if array.dtype.kind not in "biuf" or array.ndim not in (1, 2):
        raise ValueError(
            "input should be text (strings), a series (T,) or frames (T, I) of numbers, and is none of these"
        )
    return None, array.reshape(len(array), -1)[:length].T


def _check_names(sides: Sequence[_Side], names: Sequence[str] | None) -> None:
    if names is None:
        return
    if isinstance(names, str):
        raise TypeError(f"names='{names}': expected several, as in names=('{names}',)")
    kinds = [(side, kind) for side in sides for kind in ((side.trace.arrays, ""), (side.trace.gradients, "dL/d"))]
    every = [
        before + k for side, (arrays, before) in kinds for walk in side.trace.spec.walks for k in _named(arrays, walk)
    ]
    known = ", ".join(dict.fromkeys(every))
    if not names:
        raise ValueError(f"names is empty: expected some of {known}")
    for name in names:
        if name not in every:
            raise ValueError(f"no value '{name}' in the trace: it has {known}")
    for side in sides:
        if not side.walks:
            raise ValueError(f"The trace '{side.label}' has none of {', '.join(names)}: give a name that it has too")


def _varying(array: Array) -> Array:
    """The rows of (units, steps) in order of their standard deviation, the greatest first."""
    return np.argsort(-np.where(np.isfinite(array), array, 0).std(1, dtype=float), kind="stable")


@cache
def _plotly() -> tuple[str, str]:
    """plotly's script: its hash, and the script packed."""
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError:
        raise ImportError("The explorer needs plotly: install it with pip install 'openlstm[explore]'") from None
    code = str(get_plotlyjs()).encode()
    return _hash(code), _packed(code)


def _hash(code: bytes) -> str:
    return f"'sha256-{_base64(hashlib.sha256(code).digest())}'"


def _sent(walk: _Walk, form: _Form) -> dict[str, Array]:
    outer = {name: array for name, array in walk.values.items() if not name.startswith(INNER)}
    return walk.values if form.inner else outer or walk.values


def _bytes(sides: Sequence[_Side], form: _Form) -> float:
    count = sum(min(len(array), form.most) * array.shape[1] for side in sides for array in side.arrays(form))
    return form.bits / 8 * float(count)


class _Store:
    """Arrays of numbers, one after another."""

    def __init__(self, form: _Form) -> None:
        self.form, self.data = form, bytearray()

    def add(self, array: Array, rows: Array | None = None, units: Array | None = None, bits: int = 0) -> dict[str, Any]:
        """Takes the `rows` of an array (units, steps), and says where they stand and what units they are of.

        Numbers in fewer than 32 bits are codes: 0 for NaN and infinities, 1 to 2^bits - 1 from `low` to `high`.
        """
        bits = bits or self.form.bits
        if rows is not None and len(rows) < len(array):
            units = rows if units is None else units[rows]
            array = array[rows]
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite there
            array = np.asarray(array, np.float32)
        finite = np.isfinite(array)
        low, high = (float(array[finite].min()), float(array[finite].max())) if finite.any() else (0.0, 0.0)
        codes = array
        if bits < 32:
            step = (high - low) / (2**bits - 2) or 1.0
            codes = np.where(finite, 1 + np.rint((np.where(finite, array, low).astype(float) - low) / step), 0)
        self.data += bytes(-len(self.data) % 4)
        offset = len(self.data)
        self.data += codes.astype(CODES[bits]).tobytes()
        about = {
            "offset": offset,
            "bits": bits,
            "rows": len(array),
            "columns": array.shape[1],
            "low": low,
            "high": high,
        }
        return {
            **about,
            "units": None if units is None else [int(unit) for unit in units],
            "scale": _scale(array[finite]),
        }


def _scale(values: Array) -> tuple[float, float]:
    """What colours stand for: 0 to 1 for a gate; else even around 0, with 98 % of the numbers within."""
    if not values.size or (values.min() >= 0 and values.max() <= 1):
        return 0.0, 1.0
    bound = float(np.percentile(np.abs(values), 98)) or float(np.abs(values).max())
    return -bound, bound


def _made(sides: Sequence[_Side], form: _Form, title: str) -> tuple[str, int]:
    """The page, and how many of its characters are numbers."""
    store = _Store(form)
    traces = [_described(side, store) for side in sides]
    data = {"notes": _notes(sides, form), "first": _first(sides, form), "traces": traces}
    numbers = _packed(bytes(store.data))
    script, (allowed, plotly) = "".join(map(_asset, SCRIPTS)), _plotly()
    # Nothing is loaded, and no script runs but these two. plotly adds a style sheet, and draws heat maps as images.
    policy = {
        "default-src": "'none'",
        "script-src": f"{_hash(script.encode())} {allowed}",
        "style-src": "'unsafe-inline'",
        "img-src": "data: blob:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    parts = {
        "policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "title": escape(title or "openlstm explorer").encode("ascii", "xmlcharrefreplace").decode(),
        "style": _asset("explore.css"),
        "script": script,
        "plotly": plotly,
        "numbers": numbers,
        "data": _json(data),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _asset("explore.html")), len(numbers)


def _asset(name: str) -> str:
    return (files("openlstm") / "page" / name).read_text("utf-8")


def _first(sides: Sequence[_Side], form: _Form) -> dict[str, Any]:
    """What the page begins with: the memory, if both traces have it, and the unit that varies most."""
    side, walk = sides[0], sides[0].walks[0]
    sent, others = list(_sent(walk, form)), {name for walk in sides[-1].walks for name in _sent(walk, form)}
    common = [name for name in sent if name in others] or sent
    memory = measures.roles(side.trace.spec).memory
    name = memory if memory in common else common[-1]
    array = walk.values[name]
    row, numbers = walk.ranks[len(array)][1][0], _numbers(side.trace, array)
    return {"walk": walk.walk.suffix, "name": name, "unit": int(row if numbers is None else numbers[row])}


def _described(side: _Side, store: _Store) -> dict[str, Any]:
    spec, form = side.trace.spec, store.form
    place = {node.value: k for k, node in enumerate(side.nodes)}
    walks = []
    for walk in side.walks:

        def add(array: Array, bits: int = 0, walk: _Walk = walk) -> dict[str, Any]:
            kept = np.sort(walk.ranks[len(array)][1][: form.most]) if len(array) in walk.ranks else None
            about = store.add(array, kept, _numbers(side.trace, array), bits)
            return {**about, "own": len(array) == walk.units, "truth": array.dtype == bool}

        walks.append(
            {
                "key": walk.walk.suffix,
                "label": f"layer {walk.walk.layer}{' backwards' if walk.walk.reverse else ''}",
                "layer": walk.walk.layer,
                "reverse": walk.walk.reverse,
                "values": {name: add(array) for name, array in _sent(walk, form).items()},
                "initial": {name: add(array, 32) for name, array in walk.initial.items()},
                "measures": {name: add(array, 32) for name, array in walk.measures.items()},
            }
        )
    array = None
    if side.array is not None:
        array = store.add(side.array, np.sort(_varying(side.array)[: form.most]))
    return {
        "label": side.label,
        "spec": str(spec),
        "steps": side.steps.tolist(),
        "ends": side.ends,
        "tokens": side.tokens,
        "array": array,
        "titles": dict(spec.definition.titles),
        "formulas": text(spec),
        "svg": side.diagram,
        "nodes": [_operation(node, place) for node in side.nodes],
        "walks": walks,
    }


def _numbers(trace: Trace, array: Array) -> Array | None:
    """The numbers of an array's units, where the trace does not hold all."""
    return None if trace.units is None else trace.units[: len(array)]


def _places(side: _Side) -> dict[str, Any]:
    """A number for every named box of the diagram that has one, as wide as any."""
    walk = side.walks[0]
    alone = np.array(WIDE)
    many = WIDE * np.arange(1, 6)  # what has no number of its own for a unit shows its range
    places: dict[str, Any] = {}
    for node in side.nodes:
        array = walk.values.get(node.name.removesuffix("_prev"))
        if node.name == "x":
            width = 1 if side.array is None else len(side.array)
            places["x"] = alone if width == 1 else np.full(width, WIDE) if width <= 4 else many
        elif node.name and array is not None:
            places[node.name] = alone if len(array) == walk.units else many
    return places


def _operation(node: Node, place: Mapping[Sym, int]) -> dict[str, Any]:
    """A box of the diagram for the page: its name, or how its number follows from those of boxes and constants.

    No operation with parameters or across units is among them.
    """
    if node.name:
        return {"name": node.name}
    args = [[arg.args[0]] if isinstance(arg, Sym) and arg.op == "number" else place.get(arg) for arg in node.value.args]
    alone = None not in args and node.value.op not in ("linear", "layer_norm", "join")
    return {"op": node.value.op, "args": args} if alone else {"op": "", "args": []}


def _notes(sides: Sequence[_Side], form: _Form) -> list[str]:
    """What the page says about its numbers."""
    notes = []
    left = {name for side in sides for walk in side.walks for name in walk.values.keys() - _sent(walk, form).keys()}
    if left:
        notes.append(f"Left out, for the page's size: {', '.join(sorted(left))}.")
    if form.bits < 32:
        notes.append(f"Numbers are rounded to {form.bits} bits, for the page's size: \u00b1 says by how much at most.")
    else:
        notes.append("Numbers are those of the trace as float32, shown to 7 digits.")
    ranks = [rank for side in sides for walk in side.walks for rank in walk.ranks.items() if rank[0] > form.most]
    if ranks:
        widths = " or ".join(str(width) for width in sorted({width for width, _ in ranks}))
        names = " or ".join(sorted({name for _, (name, _) in ranks}))
        notes.append(
            f"Of {widths} units of a layer the {form.most} whose {names} varies most are here, for the page's size. "
            "Trace fewer steps or units, or give names of values, to see more."
        )
    return notes


def _json(data: Any) -> str:
    """JSON that stands in a script element and cannot end it: ASCII, without <, > and &."""
    found = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return found.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _packed(data: bytes) -> str:
    return _base64(gzip.compress(data, 6, mtime=0))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
