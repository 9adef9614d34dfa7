"""Streams: a model from a file, run as its input comes, step by step. numpy and safetensors are all it needs, no torch.

    stream = Stream.load("model.safetensors")
    y = stream.step(x)            # (I,) to (O,), in microseconds

It runs what the file holds: the layers that `openlstm.save` wrote, or a model that `openlstm train` wrote, with what
stands before its layers and after them (`STAGES`). In float32 the layers give the bits that the module gives for the
whole sequence at once. Where the native core is not built, numpy computes the same from the same equations.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import file
from .cells import Numpy
from .scaling import TRANSFORMS, Scaling
from .spec import Spec
from .step import Step
from .weights import KINDS, SCALE, narrow
from .words import counted

try:
    from . import _core as _built
    from . import plans
except ImportError as missing:  # the package without its native part
    core: ModuleType | None = None
    why_no_core = str(missing)
else:
    core, why_no_core = _built, ""

Floats = NDArray[np.float32]
State = dict[str, Floats]

# What a model does at each step, in the metadata of its file under "stages": a list of these, each with the name of its
# array, or with its numbers. A file of layers alone has none, and is one "recurrent".
STAGES = {
    "series": "the first number of x is the value of a series, and what comes out forecasts it: see `_Series`",
    "lookup": "the row of a matrix that a whole number stands for",
    "shift": "less a vector, which is repeated where x is longer",
    "scale": "times a vector, which is repeated where x is longer",
    "recurrent": "the recurrent layers; its name is what their parameters' names begin with",
    "linear": "W x + b; its name is what comes before weight and bias",
    "log_softmax": "logarithms of probabilities",
}


class _Known(NamedTuple):
    """What a file says of the series that its model forecasts."""

    transform: str
    change: bool  # the layers read and give changes, not levels
    scaling: dict[str, tuple[float, float]]  # mean and size of each series that the model has seen, by name

    def of(self, name: str, series: Any) -> Scaling:
        """Of a series that has a name here, or of past values of another one. Errors: ValueError."""
        if isinstance(series, str) or series is None:
            if series is None and len(self.scaling) == 1:
                (series,) = self.scaling
            if series not in self.scaling:
                known = ", ".join(map(repr, [*self.scaling][:10])) + (", ..." if len(self.scaling) > 10 else "")
                told = "is not given" if series is None else f"is {series!r}"
                raise ValueError(
                    f"series {told}: '{name}' was trained on {known}; say which each stream is of, or give past values "
                    "of a new one"
                )
            return Scaling(self.transform, *self.scaling[series])
        past = np.asarray(series)
        if past.ndim != 1 or not len(past) or past.dtype.kind not in "fiu" or not np.isfinite(past).all():
            raise ValueError(f"series has {_told(past)}: expected a name, or past values, (n,), all finite")
        return Scaling.fit(past.astype(np.float64), self.transform, changes=self.change)


class _Series:
    """The value of a series as the layers read it, and what they say of it as values again, for each stream.

    Here is what `train.forecast` does to a whole series: z = (transform(y) - mean) / size, in float32; for changes the
    layers read z less the z of the step before, 0 at first, and give what is to be added to z.
    """

    def __init__(self, known: _Known, scalings: Sequence[Scaling]) -> None:
        self.known, self.scalings = known, list(scalings)
        self.mean, self.size = (np.array([getattr(one, name) for one in scalings]) for name in ("mean", "std"))
        self.last = np.full((len(scalings), 1), np.nan, np.float32)  # z of the step before; NaN: there was none
        self.z = np.zeros(0, np.float32)  # of the steps that are computed now

    def _scaling(self, rows: Any) -> Scaling:
        return Scaling(self.known.transform, self.mean[rows], self.size[rows])  # of all streams at once

    def read(self, x: Any, rows: Any, lead: tuple[int, ...]) -> Any:
        """x with its first number as the layers read it. Errors: ValueError for a value that has no transform."""
        x = np.array(x, np.float64)
        value = x[..., 0].reshape(-1, len(self.mean[rows]))  # (T, N)
        z = self._scaling(rows).apply(value).astype(np.float32)
        self.z = z.reshape(lead)
        if self.known.change:
            last = self.last[rows].T
            before = np.concatenate([np.where(np.isnan(last), z[:1], last), z[:-1]])
            x[..., 0] = (z - before).reshape(lead)
            self.last[rows] = z[-1:].T if len(z) else last.T
        else:
            x[..., 0] = self.z
        return x

    def said(self, y: Floats, rows: Any) -> Floats:
        """Forecasts as values, (..., O), of what the layers give."""
        whole = y.astype(np.float64).reshape(-1, len(self.mean[rows]), y.shape[-1])
        if self.known.change:
            whole = whole + self.z.reshape(*whole.shape[:2], 1)
        values = self._scaling(rows).undo(whole.transpose(0, 2, 1)).transpose(0, 2, 1)
        return values.reshape(y.shape).astype(np.float32)


@dataclass(frozen=True, eq=False)
class _Model:
    """What streams share: a file's numbers, and how the core has them."""

    name: str
    spec: Spec
    prefix: str  # of the layers' parameters
    arrays: dict[str, Floats]
    before: list[Callable[[Any], Any]]
    heads: list[str]  # linear stages that follow the layers
    after: list[Callable[[Any], Any]]
    vectors: list[tuple[str, Floats]]  # of `before`: the stage and its array, as wide as x
    kind: str  # of the weights, one of weights.KINDS
    lookup: int  # rows of the table that x is looked up in, 0: there is none
    inputs: int  # of one step, where it is not looked up
    outputs: int
    series: _Known | None
    layers: list[tuple[Any, ...]] | None = None  # as the core takes them; None: numpy runs

    def parameters(self, suffix: str) -> dict[str, Floats]:
        """Those of a layer, without prefix and suffix."""
        names = self.spec.parameters
        return {n.removesuffix(suffix): self.arrays[self.prefix + n] for n in names if n.endswith(suffix)}


class Stream:
    """One or many streams through a model. Each has a state of its own.

    Stream.load makes one. With batch=None it is one stream, and arrays have no dimension for streams.
    """

    def __init__(
        self, model: _Model, batch: int | None, threads: int, scalings: Sequence[Scaling] | None = None
    ) -> None:
        self._model, self.batch, self._threads = model, batch, threads
        self._lead: tuple[int, ...] = () if batch is None else (batch,)
        count = 1 if batch is None else batch
        self._engine: Any = (
            _Steps(model, count) if model.layers is None else _built.Stream(model.layers, count, threads)
        )
        self._states: dict[str, Floats] = dict(zip(model.spec.state_names, self._engine.states(), strict=True))
        self._series = None if model.series is None or scalings is None else _Series(model.series, scalings)
        if self._series and self._series.known.change:
            self._states["last"] = self._series.last
        self._plain = not model.before and not model.after and self._series is None
        self._x_shape, self._y_shape = (*self._lead, model.inputs), (*self._lead, model.outputs)
        self.reset()

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        batch: int | None = None,
        *,
        weights: str | None = None,
        threads: int = 1,
        backend: str | None = None,
        series: Any = None,
    ) -> Stream:
        """The model in a file, at the beginning of its streams.

        batch: so many streams side by side. weights: how the core holds matrices, one of `weights.KINDS`; None: as the
        file has them. threads: at most, for one step. backend: "core" or "numpy"; None: the core where it is built.
        series: for a model that forecasts, which series the streams are of: the name of one that it was trained on, or
        past values of another, (n,), by which that is scaled; a list has one for each stream. None: the only one.
        Errors: FileNotFoundError; ValueError for a file or a model that cannot be streamed.
        """
        if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
            raise ValueError(f"batch is {batch!r}: expected a whole number of at least 1, or None for one stream")
        if backend not in (None, "core", "numpy"):
            raise ValueError(f"backend is {backend!r}: expected 'core' or 'numpy', or None for what is there")
        if backend == "core" and core is None:
            raise ValueError(f"The native core is not there ({why_no_core}): build it, or take backend='numpy'")
        arrays, metadata = file.read(path)
        kind = weights or metadata.get("weights", "float32")
        if kind not in KINDS:
            raise ValueError(f"weights is {kind!r}: expected one of {', '.join(KINDS)}")
        native = core is not None and backend != "numpy"
        if not native and kind != "float32" and weights:
            raise ValueError(f"numpy computes with float32 only, not with weights={weights!r}: leave it out")
        model = _model(os.fspath(path), arrays, metadata, kind if native else None)
        if model.series is None:
            if series is not None:
                raise ValueError(f"'{path}' forecasts no series: leave out the argument series")
            return cls(model, batch, threads)
        each = isinstance(series, list) and any(isinstance(one, str) or np.ndim(one) for one in series)
        given = series if each else [series] * (batch or 1)  # a list of numbers is one series
        if len(given) != (batch or 1):
            raise ValueError(
                f"series has {counted(len(given), 'entry', 'entries')}: expected {batch or 1}, one for each stream"
            )
        return cls(model, batch, threads, [model.series.of(model.name, one) for one in given])

    @property
    def spec(self) -> Spec:
        """The recurrent layers."""
        return self._model.spec

    @property
    def backend(self) -> str:
        """What computes: "core" or "numpy"."""
        return "numpy" if self._model.layers is None else "core"

    def step(self, x: Any, out: Floats | None = None, which: Sequence[int] | None = None) -> Floats:
        """One step: x (I,) or (N, I), or whole numbers () or (N,) where the model looks them up, to (O,) or (N, O).

        out: where to put the result, float32; nothing is then allocated. which: the streams that take the step, and the
        others stay where they are; x has one row for each. Errors: ValueError.
        """
        if self._plain and which is None:
            y: Floats = np.empty(self._y_shape, np.float32) if out is None else out
            if (
                type(x) is np.ndarray
                and x.dtype == np.float32
                and x.shape == self._x_shape
                and _holds(y, self._y_shape)
            ):
                self._engine.step(x, y)
                return y
        chosen = None if which is None else self._chosen(which)
        if chosen is not None and len(np.unique(chosen)) < len(chosen):
            raise ValueError(f"which is {which!r}: expected each stream once, for a step has one place to go on from")
        lead = self._lead if chosen is None else chosen.shape
        rows: Any = slice(None) if chosen is None else chosen
        shape = (*lead, self._model.outputs)
        if out is not None and not _holds(out, shape):
            raise ValueError(f"out is {_told(out)}: expected float32 of shape {shape}, contiguous")
        x = self._given(x, lead, rows)
        y = np.empty(shape, np.float32)
        if chosen is None:
            self._engine.step(x, y)
        else:
            self._engine.step_some(x, y, chosen)
        y = self._after(y, rows)
        if out is None:
            return y
        out[...] = y
        return out

    def run(self, chunk: Any) -> Floats:
        """Many steps: (T, I) or (T, N, I), whole numbers (T,) or (T, N), to (T, O) or (T, N, O). Errors: ValueError."""
        time = len(chunk) if np.ndim(chunk) else 0
        lead = (time, *self._lead)
        x = self._given(chunk, lead, slice(None), ("steps", *self._lead))
        y: Floats = np.empty((*lead, self._model.outputs), np.float32)
        self._engine.run(time, x, y)
        return self._after(y, slice(None))

    def reset(self, which: Sequence[int] | None = None) -> None:
        """Puts streams, or all, back to their beginning."""
        rows: Any = slice(None) if which is None else self._chosen(which)
        for name, state in self._states.items():
            learned = self._model.arrays.get(f"{self._model.prefix}initial_{name}")
            first = self.spec.begins.get(name, np.nan)  # `last` is no state of the layers
            state[rows] = first if learned is None else learned

    @property
    def state(self) -> State:
        """Where all streams are: a copy of each state, (n,) or (N, n), by its name (h_l0, c_l0, h_l1, ...).

        A forecast of changes has the scaled value of the step before too, `last`, which is NaN at the beginning.
        Set it, and they go on from there, with the same bits. Errors: ValueError.
        """
        return {name: (state if self._lead else state[0]).copy() for name, state in self._states.items()}

    @state.setter
    def state(self, given: Mapping[str, Any]) -> None:
        if given.keys() != self._states.keys():
            raise ValueError(f"state has {', '.join(given) or 'nothing'}: expected {', '.join(self._states)}")
        found = {name: np.asarray(array) for name, array in given.items()}
        for name, array in found.items():
            shape = (*self._lead, self._states[name].shape[1])
            if array.dtype != np.float32 or array.shape != shape:
                raise ValueError(f"state '{name}' is {_told(array)}: expected float32 of shape {shape}")
        for name, array in found.items():
            self._states[name][...] = array

    def export(self, path: str | os.PathLike[str]) -> None:
        """Writes the model for C and C++, whole or not at all: `openlstm_load` in csrc/openlstm.h reads it.

        It needs no Python there, and no equations: the file has the core's instructions too. Weights are as the file
        that was loaded, or the argument `weights`, has them. Errors: ValueError without the core; OSError.
        """
        if core is None:
            raise ValueError(
                f"export writes what the native core runs, and that is not there ({why_no_core}): build it"
            )
        scalings = [] if self._series is None else self._series.scalings
        if len({(one.mean, one.std) for one in scalings}) > 1:
            raise ValueError("export writes a model of one series: load a stream of the one that it shall be for")
        file.replace(path, _exported(self._model, scalings[0] if scalings else None))

    def fork(self, which: Sequence[int] | None = None) -> Stream:
        """New streams with the same weights that begin where these are; `which`: where each new one begins.

        So stream.fork([0, 0, 0]) follows three ways from one place.
        """
        if which is None:
            rows: Any = np.arange(self.batch or 1)
            batch = self.batch
        else:
            rows = self._chosen(which)
            batch = len(rows)
        scalings = None if self._series is None else [self._series.scalings[row] for row in rows]
        other = Stream(self._model, batch, self._threads, scalings)
        for name, state in self._states.items():
            other._states[name][...] = state[rows]
        return other

    def __copy__(self) -> Stream:
        return self.fork()

    def __repr__(self) -> str:
        streams = "one stream" if self.batch is None else counted(self.batch, "stream")
        return f"Stream({self._model.name}: {self.spec}, {streams}, {self.backend})"

    def _chosen(self, which: Sequence[int]) -> NDArray[np.int32]:
        count = self.batch or 1
        found = np.asarray(which)
        found = found if found.size else np.empty(0, np.int32)
        if (
            found.ndim != 1
            or found.dtype.kind not in "iu"
            or (len(found) and not 0 <= found.min() <= found.max() < count)
        ):
            raise ValueError(f"which is {which!r}: expected a list of numbers of streams, 0 to {count - 1}")
        return np.ascontiguousarray(found, np.int32)

    def _given(self, x: Any, lead: tuple[int, ...], rows: Any, told: tuple[Any, ...] | None = None) -> Any:
        """What the layers read, for these streams. told: what `lead` is called where it is not as expected."""
        model = self._model
        found = np.asarray(x)
        shape = lead if model.lookup else (*lead, model.inputs)
        kinds = "iu" if model.lookup else "fiu"
        if found.shape != shape or found.dtype.kind not in kinds:
            what = "whole numbers" if model.lookup else "numbers"
            wanted = str((*(told or lead), *shape[len(lead) :])).replace("'", "")
            raise ValueError(f"x is {_told(found)}: expected {what} of shape {wanted}")
        if model.lookup and found.size and not 0 <= found.min() <= found.max() < model.lookup:
            raise ValueError(f"x has numbers from {found.min()} to {found.max()}: expected 0 to {model.lookup - 1}")
        if self._series is not None:
            found = self._series.read(found, rows, lead)
        for stage in model.before:
            found = stage(found)
        return np.ascontiguousarray(found, np.float32)

    def _after(self, y: Floats, rows: Any) -> Floats:
        for stage in self._model.after:
            y = stage(y)
        return y if self._series is None else self._series.said(y, rows)


def _holds(array: Any, shape: tuple[int, ...]) -> bool:
    """Can the engine write there."""
    if type(array) is not np.ndarray or array.dtype != np.float32 or array.shape != shape:
        return False
    return array.flags.c_contiguous and array.flags.writeable


def _told(array: Any) -> str:
    found = np.asarray(array)
    return f"{found.dtype} of shape {found.shape}"


def _model(name: str, arrays: dict[str, Any], metadata: Mapping[str, str], kind: str | None) -> _Model:
    """From what a file holds. kind: how the core holds weights; None: numpy runs. Errors: ValueError."""
    spec = file.read_spec(name, metadata)
    if spec.bidirectional:
        raise ValueError(f"'{name}' has layers that read from the end too: what comes step by step has no end yet")
    stages = _stages(name, metadata)
    at = [word for word, *_ in stages].index("recurrent")
    prefix = stages[at][1]
    own = {n: arrays.get(prefix + n) for n in spec.parameters}
    file.match(name, spec, {n: array for n, array in own.items() if array is not None})
    arrays = {n: np.ascontiguousarray(array, np.float32) for n, array in arrays.items()}
    before: list[Callable[[Any], Any]] = []
    vectors: list[tuple[str, Floats]] = []
    lookup, inputs = 0, spec.input_size
    series: _Known | None = None

    def array(of: Any, dimensions: int, last: int | None = None) -> Any:
        found = np.array(of, np.float32) if isinstance(of, list) else arrays.get(of)
        if found is None or found.ndim != dimensions or (last is not None and found.shape[-1] != last):
            raise ValueError(
                f"'{name}' does not fit its stages: {of} is {'missing' if found is None else _told(found)}"
            )
        return found

    for word, of in stages[:at]:
        if word == "lookup":
            table = array(of, 2, spec.input_size)
            lookup = len(table)
            before.append(table.__getitem__)
            vectors.append((word, table))
        elif word in ("shift", "scale"):
            vector = array(of, 1)
            if not len(vector) or inputs % len(vector):
                raise ValueError(
                    f"'{name}' does not fit its stages: {of} is {_told(vector)}, x has {counted(inputs, 'number')}"
                )
            whole = np.tile(vector, inputs // len(vector))
            vectors.append((word, whole))
            before.append(partial(np.add, -whole) if word == "shift" else partial(np.multiply, whole))
        elif word == "series" and not before:
            series = _known(name, of)
        else:
            raise ValueError(f"'{name}' has the stage {word!r} before its layers: expected it after them, or first")
    heads: list[str] = []
    after: list[Callable[[Any], Any]] = []
    outputs = spec.output_size()
    for word, of in stages[at + 1 :]:
        if word == "linear" and not after:
            outputs = len(array(of + "weight", 2, outputs))
            if len(array(of + "bias", 1)) != outputs:
                raise ValueError(f"'{name}' does not fit its stages: {of}bias is {_told(arrays[of + 'bias'])}")
            heads.append(of)
        elif word == "log_softmax":
            after.append(_log_softmax)
        else:
            raise ValueError(f"'{name}' has the stage {word!r} after its layers: expected linear, then log_softmax")
    model = _Model(
        name, spec, prefix, arrays, before, heads, after, vectors, kind or "float32", lookup, inputs, outputs, series
    )
    return model if kind is None else replace(model, layers=[layer.native(kind) for layer in _layers(model)])


def _known(name: str, given: Any) -> _Known:
    """Errors: ValueError for what `train.forecast` does not write."""
    try:
        scaling = {str(n): (float(mean), float(size)) for n, (mean, size) in given["scaling"].items()}
        found = _Known(given["transform"], {"level": False, "change": True}[given["output"]], scaling)
        if found.transform not in TRANSFORMS or not scaling:
            raise ValueError
        if not all(np.isfinite(mean) and 0 < size < np.inf for mean, size in scaling.values()):
            raise ValueError
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ValueError(f"'{name}' has a series that this openlstm cannot run: {str(given)[:200]}") from None
    return found


def _stages(name: str, metadata: Mapping[str, str]) -> list[tuple[str, Any]]:
    if "task" in metadata and "stages" not in metadata:
        raise ValueError(
            f"'{name}' is a trained model that does not run step by step: expected one of text, frames or forecast "
            "whose layers read in one direction, or layers alone"
        )
    try:
        given = json.loads(metadata.get("stages", '[["recurrent", ""]]'))
        found = [(str(word), more[0] if more else "") for word, *more in given]
    except (ValueError, TypeError):
        found = []
    words = [word for word, _ in found]
    if words.count("recurrent") != 1 or not set(words) <= STAGES.keys() or not all(_fits(*stage) for stage in found):
        raise ValueError(f"'{name}' has stages that this openlstm cannot run: expected one 'recurrent' among {words}")
    return found


def _fits(word: str, of: Any) -> bool:
    """Has a stage what such stages have: the name of an array, or numbers, or what is said of series."""
    if word == "series":
        return isinstance(of, dict)
    numbers = isinstance(of, list) and all(type(number) in (int, float) for number in of)
    return isinstance(of, str) or (numbers and word in ("shift", "scale"))


def _log_softmax(y: Floats) -> Floats:
    below = y - y.max(-1, keepdims=True)
    found: Floats = below - np.log(np.exp(below).sum(-1, keepdims=True))
    return found


class _Layer(NamedTuple):
    """What the core runs one after another: recurrent layers, then linear ones."""

    plan: Any  # of plans.Plan or plans.Linear
    arrays: list[Floats]  # its parameters
    inputs: int
    outputs: int
    sizes: list[int]  # of its states
    residual: bool

    def native(self, kind: str) -> tuple[Any, ...]:
        """As _core.Stream takes it. What it has the addresses of, a model's `arrays` keep."""
        addresses = [array.ctypes.data for array in self.arrays]
        packed = [
            _built.Packed(**told, panels=True, threads=1, kind=KINDS.index(kind))
            for told in self.plan.packing(addresses)
        ]
        return self.plan.core, packed, addresses, self.inputs, self.outputs, self.sizes, self.residual


def _layers(model: _Model) -> list[_Layer]:
    """All layers of a model, for the core."""
    spec, found = model.spec, []
    for walks in plans.forward(spec, frozenset(), False, False, frozenset()):
        for plan in walks:
            walk = plan.walk
            own = model.parameters(walk.suffix)
            sizes = list(spec.state_sizes(walk).values())
            residual = spec.residual and walk.layer > 0
            outputs = spec.output_size(walk.layer)
            found.append(_Layer(plan, [own[name] for name in plan.names], walk.input_size, outputs, sizes, residual))
    width = spec.output_size()
    for head in model.heads:
        weight, bias = model.arrays[head + "weight"], model.arrays[head + "bias"]
        linear = plans.Linear(width, len(weight))
        found.append(_Layer(linear, [weight, bias], width, len(weight), [], False))
        width = len(weight)
    return found


MAGIC, VERSION = b"openlstm stream\n", 2  # of an exported file: Reader in csrc/runtime.cpp


def _exported(model: _Model, scaling: Scaling | None) -> bytes:
    """All that csrc/runtime.cpp reads, in its order: whole numbers, floats, and small weights."""
    ints: list[int] = []
    floats: list[NDArray[Any]] = []
    small: list[NDArray[Any]] = []

    def several(items: Sequence[Any]) -> None:
        ints.append(len(items))
        for item in items:
            ints.extend(item if isinstance(item, tuple) else (item,))

    def array(given: Floats) -> None:
        rows, columns = (given.shape[0], given.shape[1]) if given.ndim == 2 else (1, len(given))
        kind = model.kind if given.ndim == 2 else "float32"
        stored = narrow({"": given}, kind)
        ints.extend((rows, columns, KINDS.index(kind)))
        (floats if kind == "float32" else small).append(stored[""])
        floats.extend([stored[SCALE]] if kind == "int8" else [])

    ints.append(int(scaling is not None))
    if scaling is not None and model.series is not None:
        ints.extend((list(TRANSFORMS).index(scaling.transform), int(model.series.change)))
        # Doubles, each as its bits.
        ints.extend(int(bits) for bits in np.array([scaling.mean, scaling.std], np.float64).view(np.int64))
    ints.append(len(model.vectors))
    for word, vector in model.vectors:
        ints.append(("lookup", "shift", "scale").index(word))
        array(vector)
    ints.append(int(bool(model.after)))
    layers = _layers(model)
    ints.append(len(layers))
    for k, layer in enumerate(layers):
        data = layer.plan.data
        ints.extend((layer.inputs, layer.outputs, int(layer.residual)))
        several(layer.sizes)
        for name in model.spec.definition.states if layer.sizes else ():
            initial = model.arrays.get(f"{model.prefix}initial_{name}{model.spec.walks[k].suffix}")
            size = layer.sizes[model.spec.definition.states.index(name)]
            begins = np.float32(model.spec.begins[name + model.spec.walks[k].suffix])
            floats.append(np.full(size, begins) if initial is None else initial)
        ints.append(len(layer.arrays))
        for parameter in layer.arrays:
            array(parameter)
        several(data["arrays"])
        for input_, offset, _, _ in data["places"]:
            ints.extend((input_, offset))
        ints.append(data["temporaries"])
        for part in data["sections"]:
            ints.append(len(part))
            for form, sync, width, codes, numbers, sources, targets, accumulate, _, matrix in part:
                ints.extend((form, int(sync), width))
                several(codes)
                floats.extend(np.array(pair, np.float32) for pair in numbers)
                several(sources)
                several(targets)
                several(accumulate)
                ints.append(matrix)
        ints.extend(place for pair in data["states"] for place in pair)
        # Addresses that say which parameter it is, and where in it.
        packings = layer.plan.packing([number << 48 for number in range(len(layer.arrays))])
        ints.append(len(packings))
        for told in packings:
            ints.append(told["width"])
            several(told["depths"])
            ints.extend((len(told["biases"]), KINDS.index(model.kind)))
            for address, unit, term in told["weights"]:
                ints.extend((address >> 48, (address & (1 << 48) - 1) // plans.FLOAT, unit, term))
            for biases in told["biases"]:
                several([(address >> 48, (address & (1 << 48) - 1) // plans.FLOAT) for address in biases])
    whole = np.array(ints, "<i8").tobytes(), np.concatenate(floats, axis=None).astype("<f4").tobytes()
    rest = b"".join(each.astype(each.dtype.newbyteorder("<")).tobytes() for each in small)
    head = np.array([VERSION, len(ints), len(whole[1]) // plans.FLOAT, len(rest)], "<i8").tobytes()
    return MAGIC + head + whole[0] + whole[1] + rest


class _Steps:
    """The same as _core.Stream, in numpy."""

    def __init__(self, model: _Model, batch: int) -> None:
        spec, self.model = model.spec, model
        self.walks = [(walk, Step(spec, walk, model.parameters(walk.suffix), Numpy)) for walk in spec.walks]
        self.kept = [
            {name: np.zeros((batch, size), np.float32) for name, size in spec.state_sizes(walk).items()}
            for walk in spec.walks
        ]
        rates = {name: getattr(spec, f"zoneout_{name}", 0.0) for name in spec.definition.states}
        self.masks = {f"zoneout_{name}": np.float32(rate) for name, rate in rates.items() if rate}

    def states(self) -> list[Floats]:
        return [state for states in self.kept for state in states.values()]

    def step(self, x: Floats, y: Floats) -> None:
        self._step(x, y, slice(None))

    def step_some(self, x: Floats, y: Floats, which: NDArray[np.int32]) -> None:
        self._step(x, y, which)

    def run(self, time: int, x: Floats, y: Floats) -> None:
        for t in range(time):
            self._step(x[t], y[t], slice(None))

    def _step(self, x: Floats, y: Floats, rows: Any) -> None:
        found: Any = x.reshape(-1, self.model.inputs)
        for (walk, step), states in zip(self.walks, self.kept, strict=True):
            _, new, out = step(step.inputs(found), {name: state[rows] for name, state in states.items()}, self.masks)
            for name, state in states.items():
                state[rows] = new[name]
            found = out + found if self.model.spec.residual and walk.layer else out
        for head in self.model.heads:
            found = Numpy.linear(found, self.model.arrays[head + "weight"], self.model.arrays[head + "bias"])
        y[...] = found.reshape(y.shape)
