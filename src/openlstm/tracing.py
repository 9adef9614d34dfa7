"""Named arrays over time: every pre-activation, gate, memory and output of a run, and what can be asked of them."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from . import file, measures
from .draw import Picture, flow_diagram, trace_diagram, values_of
from .explore import Page, page
from .plots import trace_figure
from .spec import Spec, suffix
from .words import counted

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

WIDE = 8  # inputs; a table shows no more

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]
Some = int | slice | Iterable[int] | None  # of steps, sequences, units or layers; None: all


@dataclass(frozen=True, eq=False)
class Trace(Mapping[str, Floats]):
    """What a run computed, by name: z_i, i, f, g, o, c, h and so on, with the layer's suffix.

    `arrays`: (T, B, units) each, under names such as c_l0 or z_i_l1_reverse; NaN past the end of a sequence.
    `x`: the input (T, B, I). `output`: that of the last layer (T, B, O), 0 past the end of a sequence.
    `initial`: the states before the first step (B, units), under names such as h_l0.
    `gradients`: the loss's derivative by each of `arrays`, where they were asked for and backward has run.
    `steps`, `sequences`, `units`: the numbers of those that the trace holds; None of all units.
    `length`: the number of steps that the run had.

    `t["c_l0"]` gives one array, and `t["c"]` too where there is one layer in one direction.
    """

    spec: Spec
    x: Floats
    initial: Mapping[str, Floats]
    arrays: Mapping[str, Floats]
    output: Floats
    gradients: Mapping[str, Floats] = field(default_factory=dict)
    steps: Ints = None  # type: ignore[assignment]  # all, if left out
    sequences: Ints = None  # type: ignore[assignment]
    units: Ints | None = None
    length: int = -1  # that of x, if left out

    dims = ("time", "batch", "unit")  # of every array of `arrays`

    def __post_init__(self) -> None:
        for name, count in zip(("steps", "sequences"), self.x.shape[:2], strict=True):
            if getattr(self, name) is None:
                object.__setattr__(self, name, np.arange(count))
        if self.length < 0:
            object.__setattr__(self, "length", len(self.x))

    def __getitem__(self, name: str) -> Floats:
        if name in self.arrays:
            return self.arrays[name]
        if name + "_l0" in self.arrays and len(self.spec.walks) == 1:
            return self.arrays[name + "_l0"]
        raise KeyError(f"no '{name}' in this trace: it has {', '.join(self.arrays)}")

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    def __repr__(self) -> str:
        time, batch = self.x.shape[:2]
        return f"Trace of {self.spec}: {counted(time, 'step')}, {counted(batch, 'sequence')}; {', '.join(self.arrays)}"

    def names(self, layer: int = 0, reverse: bool = False) -> dict[str, Floats]:
        """The arrays of one layer in one direction, under their names without the suffix."""
        ending = suffix(layer, reverse)
        found = {name[: -len(ending)]: array for name, array in self.arrays.items() if name.endswith(ending)}
        if not found:
            raise KeyError(f"no layer {layer}{' reversed' if reverse else ''} in this trace of {self.spec}")
        return found

    def select(
        self,
        names: str | Iterable[str] | None = None,
        layers: Some = None,
        steps: Some = None,
        sequences: Some = None,
        units: Some = None,
    ) -> Trace:
        """A part of this trace, in memory of its own.

        names: of values, with the layer's suffix or without. The rest are numbers or a slice: of steps and sequences as
        they stand in this trace, of units and layers from 0. Errors: KeyError, IndexError.

        >>> import torch, openlstm
        >>> t = openlstm.trace(openlstm.LSTM(3, 8, 2), torch.zeros(7, 2, 3))
        >>> part = t.select("c", layers=1, steps=slice(2, 4), units=[0, 5])
        >>> list(part), part["c_l1"].shape, part.steps
        (['c_l1'], (2, 2, 2), array([2, 3]))
        """
        wanted = chosen(self.spec, self.arrays, names, layers)
        t, b = (_places(what, some, count) for what, some, count in (
            ("step", steps, len(self.steps)), ("sequence", sequences, len(self.sequences))
        ))  # fmt: skip
        most = max((array.shape[-1] for array in self.arrays.values()), default=0)
        u = None if units is None else np.unique(_places("unit", units, most))

        def part(array: Floats) -> Any:
            return array[np.ix_(t, b, _within(u, array.shape[-1]))]

        every = self.numbers(most)
        return replace(
            self,
            x=self.x[np.ix_(t, b)],
            initial={name: array[np.ix_(b, _within(u, array.shape[-1]))] for name, array in self.initial.items()},
            arrays={name: part(self.arrays[name]) for name in wanted},
            output=self.output[np.ix_(t, b)],
            gradients={name: part(self.gradients[name]) for name in wanted if name in self.gradients},
            steps=self.steps[t],
            sequences=self.sequences[b],
            units=self.units if u is None else every[u],
        )

    def numbers(self, width: int) -> Ints:
        """The numbers of the units of an array of this trace that has so many, (width,)."""
        return np.arange(width) if self.units is None else self.units[:width]

    def part(self, array: Floats) -> Any:
        """Of an array over all steps, sequences and units of the run, what this trace holds."""
        return array[np.ix_(self.steps, self.sequences, _within(self.units, array.shape[-1]))]

    def table(self, unit: int = 0, layer: int = 0, sequence: int = 0, reverse: bool = False, digits: int = 5) -> str:
        """One unit's numbers at every step as text: the network's inputs, if few, then each named value.

        Steps are numbered from 0. `digits` are significant ones. Past the end of the sequence nothing is printed.
        """
        width = self.x.shape[2]
        if sequence not in self.sequences:
            raise IndexError(f"sequence {sequence}: this trace has {_listed(self.sequences)}")
        b = int(np.flatnonzero(self.sequences == sequence)[0])
        named = self.names(layer, reverse)
        numbers = self.numbers(max(a.shape[-1] for a in named.values()))
        place = np.flatnonzero(numbers == unit)
        columns = {name: a[:, b, place[0]] for name, a in named.items() if len(place) and place[0] < a.shape[-1]}
        if not columns:
            raise IndexError(f"unit {unit}: layer {layer} of this trace has {_listed(numbers)}")
        steps = np.flatnonzero(~np.isnan(next(iter(columns.values()))))
        if width <= WIDE:
            columns = {f"x{k + 1}": self.x[:, b, k] for k in range(width)} | columns
        rows = [["step", *columns]]
        rows += [[str(self.steps[t]), *(f"{column[t]:.{digits}g}" for column in columns.values())] for t in steps]
        widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
        return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows)

    def summary(self) -> measures.Summary:
        """Which gates are open or shut, which units are dead, how long memory lasts. print() it."""
        return measures.summary(self)

    def find(self, on: Any, name: str = "") -> list[dict[str, Any]]:
        """All units, those first that are on most exactly where a pattern is: see `measures.find`."""
        return measures.find(self, on, name)

    def draw(
        self, step: int, unit: int, layer: int = 0, reverse: bool = False, sequence: int = 0, title: str = ""
    ) -> Picture:
        """The block diagram of a cell with the numbers of one unit at one step: see `draw.trace_diagram`."""
        return trace_diagram(self, step, unit, layer, reverse, sequence, title)

    def flow(self, step: int, layer: int = 0, reverse: bool = False, sequence: int = 0, title: str = "") -> Picture:
        """The data flow of a whole layer at one step of a sequence, with shapes, and the range of each array."""
        values = values_of(self, step, None, layer, reverse, sequence)
        return flow_diagram(self.spec, layer, 1, values, title)

    def plot(self, *names: str, **options: Any) -> Figure:
        """Heat maps over time of named values of one layer: see `plots.trace_figure` for the options."""
        return trace_figure(self, names, **options)

    def explore(self, input: Any = None, sequence: int | None = None, title: str = "") -> Page:
        """The explorer of this trace: a web page that a notebook shows, and that `.save("page.html")` writes.

        `input`: what to show above: text, one character a step, a series (T,) or frames (T, I): see `explore.page`.
        """
        return page(self, input, sequence, title=title)

    def to_dict(self) -> dict[str, Floats]:
        """The arrays by name, (T, B, units) each."""
        return dict(self.arrays)

    def to_pandas(self, layer: int = 0, reverse: bool = False) -> pd.DataFrame:
        """One layer in one direction as a table: a row for each step, sequence and unit, a column for each value.

        With a projection its values have fewer units than the rest: NaN. Gradients are columns `d_<name>`.
        """
        import pandas as pd

        named = self.names(layer, reverse)
        ending = suffix(layer, reverse)
        named |= {f"d_{k}": self.gradients[k + ending] for k in list(named) if k + ending in self.gradients}
        width = max(array.shape[-1] for array in named.values())
        index = pd.MultiIndex.from_product(
            [self.steps, self.sequences, self.numbers(width)], names=["step", "sequence", "unit"]
        )
        wide = {
            name: np.pad(array, ((0, 0), (0, 0), (0, width - array.shape[-1])), constant_values=np.nan).ravel()
            for name, array in named.items()
        }
        return pd.DataFrame(wide, index=index)

    def to_xarray(self) -> xr.Dataset:
        """All arrays under their names, and gradients as `d_<name>`, with the dimensions step, sequence and unit.

        Layers may differ in width, and so each width has a dimension of units of its own: unit_512.
        """
        import xarray as xr

        def wrap(array: Floats) -> Any:
            width = array.shape[-1]
            places = {"step": self.steps, "sequence": self.sequences, f"unit_{width}": self.numbers(width)}
            return xr.DataArray(array, places, tuple(places))

        found = {name: wrap(array) for name, array in self.arrays.items()}
        found |= {f"d_{name}": wrap(array) for name, array in self.gradients.items()}
        return xr.Dataset(found, attrs={"spec": str(self.spec)})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes all of it to one safetensors file, whole or not at all. `load` reads it."""
        groups = {"initial": self.initial, "arrays": self.arrays, "gradients": self.gradients}
        tensors: dict[str, Any] = {
            f"{g}.{name}": array for g, arrays in groups.items() for name, array in arrays.items()
        }
        own = {"x": self.x, "output": self.output, "steps": self.steps, "sequences": self.sequences}
        own |= {} if self.units is None else {"units": self.units}
        tensors = {name: np.ascontiguousarray(array) for name, array in {**own, **tensors}.items()}
        file.write(path, tensors, {"spec": self.spec.key, "kind": "trace", "length": str(self.length)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Trace:
        """The trace that `save` wrote. Errors: FileNotFoundError, ValueError."""
        tensors, metadata = file.read(path)
        if metadata.get("kind") != "trace":
            raise ValueError(f"'{path}' holds no trace: expected a file that Trace.save wrote")
        spec = file.read_spec(path, metadata)
        groups: dict[str, dict[str, Any]] = {"initial": {}, "arrays": {}, "gradients": {}}
        for name, array in tensors.items():
            group, _, rest = name.partition(".")
            if rest and group in groups:
                groups[group][rest] = array
        missing = [name for name in ("x", "output", "steps", "sequences") if name not in tensors]
        if missing:
            raise ValueError(f"'{path}' holds a trace without {', '.join(missing)}: it is broken, save the trace again")
        # safetensors sorts by name: the order of the equations is that of the spec.
        arrays, gradients = (
            {name: groups[group][name] for name in all_names(spec) if name in groups[group]}
            for group in ("arrays", "gradients")
        )
        x, output, steps, sequences = (tensors[name] for name in ("x", "output", "steps", "sequences"))
        length = metadata.get("length", "")
        if not length.isdecimal():
            raise ValueError(f"'{path}' says '{length}' of the length of its run: expected a number, save it again")
        return cls(
            spec, x, groups["initial"], arrays, output, gradients, steps, sequences, tensors.get("units"), int(length)
        )


@functools.lru_cache(maxsize=256)
def all_names(spec: Spec) -> tuple[str, ...]:
    """The names of all values of a variant, with the layers' suffixes, in the order of the equations.

    >>> all_names(Spec.of("rnn", 1, 1, 2))
    ('z_h_l0', 'h_l0', 'z_h_l1', 'h_l1')
    """
    return tuple(name + walk.suffix for walk in spec.walks for name in measures.roles(spec).values)


def chosen(
    spec: Spec, there: Iterable[str], names: str | Iterable[str] | None = None, layers: Some = None
) -> list[str]:
    """Those of the names `there` that are chosen: `names` with the layer's suffix or without, of these layers.

    Errors: KeyError for a name, or IndexError for a layer, that is not there.
    """
    there = list(there)
    some = set(range(spec.num_layers)) if layers is None else set(_places("layer", layers, spec.num_layers).tolist())
    every = [walk.suffix for walk in spec.walks]
    suffixes = {suffix for suffix, walk in zip(every, spec.walks, strict=True) if walk.layer in some}
    split = {name: next((suffix for suffix in every if name.endswith(suffix)), "") for name in there}
    found = [name for name in there if split[name] in suffixes]
    if names is None:
        return found
    wanted = [names] if isinstance(names, str) else list(names)
    for name in wanted:
        if name not in there and all(name != full.removesuffix(split[full]) for full in there):
            known = dict.fromkeys(full.removesuffix(split[full]) for full in there)
            raise KeyError(f"no value '{name}' in {spec}: expected some of {', '.join(known)}")
    return [full for full in found if full in wanted or full.removesuffix(split[full]) in wanted]


def _places(what: str, some: Some, count: int) -> Ints:
    """The places that a choice stands for, of `count`."""
    if some is None or isinstance(some, slice):
        return np.arange(count)[slice(None) if some is None else some]
    places = np.atleast_1d(np.asarray([some] if isinstance(some, int) else list(some), np.int64))
    wrong = places[(places < -count) | (places >= count)]
    if len(wrong):
        raise IndexError(f"{what} {wrong[0]}: there are {count}, numbered from 0")
    return places % count if count else places


def _within(units: Ints | None, width: int) -> Ints:
    return np.arange(width) if units is None else units[units < width]


def _listed(numbers: Ints) -> str:
    if len(numbers) and (np.diff(numbers) == 1).all():
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers[:12])) + (" and more" if len(numbers) > 12 else "")


def join(traces: Sequence[Trace]) -> Trace:
    """Traces of one layer that follow one another in time, such as the steps of a cell, as one.

    Errors: ValueError where they do not fit together.
    """
    if not traces:
        raise ValueError("There is nothing to join: expected at least one trace")
    first = traces[0]
    for other in traces[1:]:
        if other.spec != first.spec or list(other) != list(first) or other.x.shape[1:] != first.x.shape[1:]:
            raise ValueError(f"Traces of {first.spec} and {other.spec} do not fit: expected the same values, sequences")
    if first.spec.bidirectional:
        raise ValueError("Runs in both directions do not follow one another: each begins at its own end")
    starts = np.cumsum([0, *(t.length for t in traces[:-1])])

    def together(parts: Sequence[Mapping[str, Floats]]) -> dict[str, Floats]:
        return {
            name: np.concatenate([part[name] for part in parts]) for name in parts[0] if all(name in p for p in parts)
        }

    return replace(
        first,
        x=np.concatenate([t.x for t in traces]),
        arrays=together([t.arrays for t in traces]),
        output=np.concatenate([t.output for t in traces]),
        gradients=together([t.gradients for t in traces]),
        steps=np.concatenate([t.steps + start for t, start in zip(traces, starts, strict=True)]),
        length=sum(t.length for t in traces),
    )
