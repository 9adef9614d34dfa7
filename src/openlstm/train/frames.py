"""Labels for frames: sequences of feature vectors with a label for each frame, or one for each sequence.

The model reads the frames in order, at step s those from s * skip on, `stack` of them side by side; past its end a
sequence goes on with its last frame. With labels of frames the answer at step s + delay is the label of the frames
s * skip .. s * skip + skip - 1: with a delay it has read what comes after them (Sak, Senior and Beaufays 2014: 5). With
labels of sequences it is the label, by the top layer's output at the last step, and of its reversed half at the first.

    x(s) = (frame(s * skip), ..., frame(s * skip + stack - 1)), each feature less its mean, by its deviation
    log p(s) = log_softmax(W y(s) + b), y the output of the recurrent layers

A file holds sequences, in one of three forms:

    .npz      x: (frames, D), the sequences one after another, with lengths: (N,); without lengths it is one sequence.
              Or x: (N, T, D), padded, with lengths: (N,) where sequences are shorter than T.
              y: a label for each frame, of x's shape without D; or one for each sequence, (N,).
    .jsonl    A line for each sequence: {"features": "a.npy", "labels": ["a", "b", ...]}, or "label": "a" for all of it.
              a.npy: (frames, D), found from the folder of the .jsonl file. Empty lines are passed over.
    .parquet  A row for each sequence. x: a list of lists of D numbers; y: a list of labels, or one label.

The last two may have an id, a text or a whole number; without it a sequence has its number over all files, from 0.
Labels are whole numbers or texts; prediction does not read them. The classes are the labels of the training part.

Files are read piece by piece, and predicted so: a long sequence in parts, with the states carried from one to the next.
Bidirectional layers need a whole sequence at a time, and so does a row of a .parquet file.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .. import nn as layers
from ..models import trace
from ..plots import trace_figure
from ..spec import Spec
from .config import FramesConfig
from .task import Batches, Job, Picture, Results, Share, Shuffled, Table, Task, Trained, orthogonal, seeded

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from ..tracing import Trace

Floats = NDArray[np.float32]
Label = int | str

PIECE = 2**14  # frames that are read at once, or steps of all sequences together that are computed
NUMBERS = 2**22  # numbers in an array of them
LOOK, DRAWN = 1000, 300  # steps that are traced, and that are drawn
MOST = 100_000  # classes
FEW, WIDE = 20, 60  # classes of which all confusions are shown as numbers, and in a picture
WORST = 12  # cases shown
# What numpy, zipfile and pyarrow raise for files that are not theirs.
BROKEN = (ValueError, OSError, EOFError, KeyError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error)


# Reading


class Row(NamedTuple):
    """A sequence in a file."""

    name: Label  # its id or number
    place: str  # where it stands, for messages
    shape: tuple[int, ...]  # frames, D
    take: Callable[[int], Any]  # the next frames, (n, D)
    y: Any  # labels: an array or a list, or one label; None: there are none


class Part(NamedTuple):
    """A sequence, or where that is long a part of it."""

    name: Label
    place: str
    x: Floats  # (n, D)
    y: Any  # (n,) of int64 or texts, or one label for the whole sequence; None: not asked for
    more: bool  # does the sequence go on


def parts(files: Sequence[Path], labelled: bool, most: int | None = None) -> Iterator[Part]:
    """The sequences of files, in parts of at most so many frames. Errors: FileNotFoundError, ValueError, ImportError.

    most: PIECE, if not given; fewer where a frame has many features.
    """
    number, features = 0, 0
    for path in map(Path, files):
        if not path.is_file():
            raise FileNotFoundError(f"There is no file '{path}': give an .npz, .jsonl or .parquet file of sequences")
        if path.suffix not in READERS:
            raise ValueError(f"'{path}' ends with '{path.suffix}': expected an .npz, .jsonl or .parquet file")
        first = number
        for row in READERS[path.suffix](path, number, labelled):
            number += 1
            length, own = row.shape
            if length < 1 or own < 1:
                raise ValueError(f"{row.place} has {length} frames of {own} features: expected at least one of each")
            if own != (features := features or own):
                raise ValueError(
                    f"{row.place} has {own} features in a frame, those before have {features}: expected the same number"
                )
            y = _labels(row.y, length, row.place) if labelled else None
            size = max(1, min(most or PIECE, NUMBERS // features))
            for begin in range(0, length, size):
                end = min(begin + size, length)
                x = _numbers(row.take(end - begin), row.place, begin)
                yield Part(row.name, row.place, x, y[begin:end] if isinstance(y, np.ndarray) else y, end < length)
        if number == first:
            raise ValueError(f"'{path}' holds no sequences: expected at least one")


def _numbers(x: Any, place: str, begin: int) -> Floats:
    """Frames as float32. Errors: ValueError for what is no number."""
    with np.errstate(over="ignore"):
        found: Floats = np.asarray(x, np.float32)
    if not np.isfinite(found).all():
        frame, feature = (int(k) for k in np.argwhere(~np.isfinite(found))[0])
        raise ValueError(
            f"{place} has {found[frame, feature]} as feature {feature} of frame {begin + frame}: expected a number "
            "that float32 can hold; correct it, or leave that sequence out"
        )
    return found


def _labels(y: Any, length: int, place: str) -> Any:
    """Labels as an array of int64 or texts, (length,), or one label. Errors: ValueError."""
    if y is None:
        raise ValueError(f"{place} has no labels: expected one for each frame, or one for the sequence")
    if not isinstance(y, (list, np.ndarray)):
        return _labels([y], 1, place).item()
    if len(y) != length:
        raise ValueError(f"{place} has {len(y)} labels and {length} frames: expected a label for each frame")
    kinds = set(map(type, y)) if isinstance(y, list) else {int}  # numpy would make texts of [1, "a"]
    found = np.asarray(y) if kinds in ({int}, {str}) else np.empty(0, object)
    if found.dtype.kind == "u" and found.max() < 2**63:
        found = found.astype(np.int64)
    if found.dtype.kind not in "iU":
        some = np.asarray(y, object)[:9].tolist()
        raise ValueError(f"{place} has labels such as {some!r:.60}: expected whole numbers of 64 bits, or only texts")
    return found.astype(np.int64) if found.dtype.kind == "i" else found


@contextmanager
def _reading(path: Path, advice: str) -> Iterator[None]:
    """Makes one sentence of what a library says of a file."""
    try:
        yield
    except BROKEN as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"'{path}' cannot be read ({reason or type(error).__name__}): {advice}") from None


def _each(items: Iterator[Any], path: Path, advice: str) -> Iterator[Any]:
    """The same items, where reading one may fail."""
    while True:
        with _reading(path, advice):
            item = next(items, None)
        if item is None:
            return
        yield item


def _npz(path: Path, number: int, labelled: bool) -> Iterator[Row]:
    advice = "expected an .npz file with the arrays x, y and lengths, as numpy.savez writes it"
    with path.open("rb") as file:
        with _reading(path, advice):
            archive = np.load(file, allow_pickle=False)
            there = set(getattr(archive, "files", ()))
            lengths, y = (archive[name] if name in there else None for name in ("lengths", "y" if labelled else ""))
            stream = archive.zip.open("x.npy")
            version = np.lib.format.read_magic(stream)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, by_column, kind = header(stream)
        if kind.kind not in "fiu" or len(shape) not in (2, 3):
            raise ValueError(f"x of '{path}' is {kind} of shape {shape}: expected numbers, (frames, D) or (N, T, D)")
        if by_column:
            raise ValueError(f"x of '{path}' is stored column by column: save numpy.ascontiguousarray(x)")
        padded = len(shape) == 3
        if lengths is None:
            lengths = np.full(shape[0], shape[1]) if padded else np.array(shape[:1])
        elif lengths.dtype.kind not in "iu" or lengths.ndim != 1 or (lengths < 1).any():
            raise ValueError(f"lengths of '{path}' is not a whole number of at least 1 for each sequence, (N,)")
        if padded and (len(lengths) != shape[0] or (lengths > shape[1]).any()):
            raise ValueError(
                f"lengths of '{path}' has {len(lengths)} numbers up to {lengths.max(initial=0)}, but x is of shape "
                f"{shape}: expected {shape[0]} of at most {shape[1]}"
            )
        if not padded and lengths.sum() != shape[0]:
            raise ValueError(
                f"lengths of '{path}' add up to {lengths.sum()}, but x has {shape[0]} frames: expected the same number"
            )
        if y is not None and y.shape not in (shape[:-1], lengths.shape):
            raise ValueError(
                f"y of '{path}' is of shape {y.shape}: expected {shape[:-1]}, a label for each frame, or "
                f"{lengths.shape}, one for each sequence"
            )
        frames = y is not None and y.shape == shape[:-1]

        def take(count: int) -> Any:
            size = count * shape[-1] * kind.itemsize
            with _reading(path, advice):
                if len(data := stream.read(size)) < size:
                    raise EOFError("x ends too early")
            return np.frombuffer(data, kind).reshape(count, shape[-1])

        begin = 0
        for k, length in enumerate(lengths.tolist()):
            own = None
            if y is not None:
                own = y[k].item() if not frames else y[k, :length] if padded else y[begin : begin + length]
            yield Row(number + k, f"Sequence {k} of '{path}'", (length, shape[-1]), take, own)
            begin += length
            for left in range(shape[1] - length if padded else 0, 0, -PIECE):
                take(min(left, PIECE))  # padding


def _jsonl(path: Path, number: int, labelled: bool) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for line, text in _each(enumerate(file, 1), path, "expected text in UTF-8, a line of JSON for each sequence"):
            if text.strip():
                yield _line(path, f"Line {line} of '{path}'", text, number)
                number += 1


def _line(path: Path, place: str, text: str, number: int) -> Row:
    wanted = 'expected a line such as {"features": "a.npy", "labels": [0, 1]}'
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is not JSON ({error}): {wanted}") from None
    if not isinstance(given, dict) or not isinstance(given.get("features"), str):
        raise ValueError(f"{place} names no file of features: {wanted}")
    if ("labels" in given and "label" in given) or not isinstance(given.get("labels", []), list):
        raise ValueError(f"{place} has labels that are no list, or label too: {wanted}, or one label for the sequence")
    array = path.parent / given["features"]
    if not array.is_file():
        raise FileNotFoundError(f"{place} names the file {str(array)!r}, which is not there: expected an .npy file")
    with _reading(array, "expected an .npy file, as numpy.save writes it"):
        x = np.load(array, mmap_mode="r", allow_pickle=False)
        if x.ndim != 2 or x.dtype.kind not in "fiu":
            raise ValueError(f"{x.dtype} of shape {x.shape}, not numbers of shape (frames, D)")
    y = given["labels"] if "labels" in given else given.get("label")
    return Row(_name(given.get("id"), number, place), place, x.shape, _from(x), y)


def _parquet(path: Path, number: int, labelled: bool) -> Iterator[Row]:
    try:
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise ImportError("Parquet files need pyarrow: install it with pip install pyarrow") from None
    advice = "expected a .parquet file with the columns x and y"
    with _reading(path, advice):
        source = parquet.ParquetFile(path)
    with source:
        kinds = {field.name: field.type for field in source.schema_arrow}
        if "x" not in kinds or (labelled and "y" not in kinds):
            raise ValueError(f"'{path}' has the columns {', '.join(map(repr, list(kinds)[:12]))}: expected x and y")
        inner = getattr(getattr(kinds["x"], "value_type", None), "value_type", None)
        if not str(inner).startswith(("float", "double", "half", "int", "uint")):
            raise ValueError(
                f"x of '{path}' holds {kinds['x']}: expected lists of lists of numbers, one for each frame"
            )
        columns = [name for name in ("x", "y", "id") if name in kinds and (name != "y" or labelled)]
        k = 0
        for batch in _each(source.iter_batches(16, columns=columns), path, advice):
            for row in range(len(batch)):
                place = f"Row {k} of '{path}'"
                x = _matrix(batch["x"][row], place)
                name, y = (batch[c][row].as_py() if c in columns else None for c in ("id", "y"))
                yield Row(_name(name, number + k, place), place, x.shape, _from(x), y)
                k += 1


def _matrix(frames: Any, place: str) -> Any:
    """A list of lists of numbers as an array, (frames, D). Errors: ValueError."""
    lists = frames.values
    numbers = None if lists is None or lists.null_count else lists.flatten()
    if numbers is None or numbers.null_count:
        raise ValueError(f"{place} has gaps in x: expected a number in every place")
    widths = np.unique(lists.value_lengths().to_numpy())
    if len(widths) > 1:
        raise ValueError(f"{place} has frames of {widths[0]} to {widths[-1]} features: expected the same number")
    return numbers.to_numpy().reshape(len(lists), *widths) if len(widths) else np.empty((0, 1))


def _name(given: Any, number: int, place: str) -> Label:
    """A sequence's id, or its number. Errors: ValueError."""
    if given is None:
        return number
    if type(given) not in (int, str):
        raise ValueError(f"{place} has the id {given!r:.60}: expected a text or a whole number")
    own: Label = given
    return own


def _from(x: Any) -> Callable[[int], Any]:
    """Gives the rows of an array one after another."""
    place = 0

    def take(count: int) -> Any:
        nonlocal place
        place += count
        return x[place - count : place]

    return take


READERS: dict[str, Callable[[Path, int, bool], Iterator[Row]]] = {".npz": _npz, ".jsonl": _jsonl, ".parquet": _parquet}


@dataclass(frozen=True, eq=False)
class Frames:
    """Sequences in memory, one after another."""

    x: Tensor  # (F, D)
    lengths: Tensor  # (N,) frames of each
    codes: Tensor  # (F,) or (N,): the number of each label in `classes`
    classes: tuple[Label, ...]
    each: str  # has a label: "frame" or "sequence"
    names: list[Label]  # (N,)
    places: list[str]  # (N,)

    @property
    def starts(self) -> Tensor:
        """(N,) where each sequence begins."""
        return self.lengths.cumsum(0) - self.lengths

    @property
    def sequences(self) -> Tensor:
        """Which sequence each label is of: as `codes`."""
        numbers = torch.arange(len(self.lengths))
        return numbers if self.each == "sequence" else numbers.repeat_interleave(self.lengths)

    def place(self, item: int) -> str:
        """Where a label stands, for messages."""
        sequence = int(self.sequences[item])
        place = self.places[sequence]
        frame = item - int(self.starts[sequence])
        return place if self.each == "sequence" else f"Frame {frame} of {place[0].lower()}{place[1:]}"


def read(files: Sequence[Path], config: FramesConfig | None = None) -> Frames:
    """All sequences of files, with their labels. Errors: FileNotFoundError, ValueError, ImportError."""
    x: list[Floats] = []
    blocks: list[Floats] = []  # large ones, whose memory is given back one by one
    codes: list[Any] = []
    lengths: list[int] = []
    names: list[Label] = []
    places: list[str] = []
    known: dict[Any, int] = {}
    each, kind, goes_on, size = "", "", False, 0
    for part in parts(files, labelled=True):
        one = not isinstance(part.y, np.ndarray)
        found = np.array([part.y]) if one else part.y
        own, own_kind = "sequence" if one else "frame", "texts" if found.dtype.kind == "U" else "numbers"
        if own != (each := each or own) or own_kind != (kind := kind or own_kind):
            raise ValueError(
                f"{part.place} has {own_kind} as labels, for each {own}, but those before are {kind} for each {each}: "
                "expected the same everywhere"
            )
        if not goes_on:
            lengths.append(0)
            names.append(part.name)
            places.append(part.place)
        if not goes_on or not one:
            values, which = np.unique(found, return_inverse=True)
            codes.append(np.array([known.setdefault(value, len(known)) for value in values.tolist()])[which])
        x.append(part.x)
        size += part.x.size
        if size >= NUMBERS:
            blocks.append(np.concatenate(x))
            x, size = [], 0
        lengths[-1] += len(part.x)
        goes_on = part.more
    if not lengths:
        raise ValueError("There is no file: give at least one .npz, .jsonl or .parquet file of sequences")
    classes = sorted(known)
    rank = np.empty(len(known), np.int64)
    rank[[known[label] for label in classes]] = np.arange(len(known))
    numbers = torch.from_numpy(rank[np.concatenate(codes)])
    blocks += x
    return Frames(_joined(blocks), torch.tensor(lengths), numbers, tuple(classes), each, names, places)


def _joined(pieces: list[Floats]) -> Tensor:
    """One array of many, (F, D). Each is let go of when it is copied, so that few frames are there twice."""
    out = torch.empty(sum(map(len, pieces)), pieces[0].shape[1])
    end = len(out)
    while pieces:
        piece = pieces.pop()
        out.numpy()[end - len(piece) : end] = piece
        end -= len(piece)
    return out


# The model


@dataclass(frozen=True)
class Answers:
    """What a model knows beside its weights, and how steps and frames belong together."""

    classes: tuple[Label, ...]
    counts: tuple[int, ...]  # labels of each class in the training part
    each: str  # has a label: "frame" or "sequence"
    features: int
    stack: int = 1
    skip: int = 1
    delay: int = 0

    def __post_init__(self) -> None:
        for name in ("classes", "counts"):
            if not isinstance(getattr(self, name), (list, tuple)):
                raise ValueError(f"{name} is no list")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not 2 <= len(self.classes) <= MOST or len(self.counts) != len(self.classes):
            raise ValueError(f"there are {len(self.classes)} classes, {len(self.counts)} counts: expected 2 to {MOST}")
        if set(map(type, self.classes)) not in ({int}, {str}) or len(set(self.classes)) != len(self.classes):
            raise ValueError("classes are not all whole numbers or all texts, or one is there twice")
        if any(type(label) is int and not -(2**63) <= label < 2**63 for label in self.classes):
            raise ValueError("classes are whole numbers of more than 64 bits")
        if not all(type(count) is int and 0 < count < 2**53 for count in self.counts):
            raise ValueError("counts are not whole numbers above 0")
        if self.each not in ("frame", "sequence") or (self.each == "sequence" and self.delay):
            raise ValueError(f"each is {self.each!r} with a delay of {self.delay!r}")
        for name, least, most in (("features", 1, 2**31), ("stack", 1, 1000), ("skip", 1, 1000), ("delay", 0, 1000)):
            if type(value := getattr(self, name)) is not int or not least <= value <= most:
                raise ValueError(f"{name} is {value!r}: expected a whole number from {least} to {most}")

    def steps(self, lengths: Tensor) -> Tensor:
        """How many steps the layers take for so many frames."""
        return (lengths + self.skip - 1).div(self.skip, rounding_mode="floor") + self.delay

    def inputs(self, x: Tensor, starts: Tensor, lengths: Tensor, begin: int, end: int) -> Tensor:
        """What the layers read at steps begin .. end of sequences in x, (F, D): (T, B, stack * D)."""
        frame = torch.arange(begin, end)[:, None] * self.skip + torch.arange(self.stack)  # (T, stack)
        frame = torch.minimum(frame[:, None], (lengths - 1)[:, None]) + starts[:, None]  # (T, B, stack)
        return x.index_select(0, frame.flatten()).view(end - begin, len(starts), -1)

    def asked(self, numbers: Tensor, starts: Tensor, lengths: Tensor, begin: int, end: int) -> tuple[Tensor, Tensor]:
        """Where in steps begin .. end there is an answer, (M,) of steps * sequences, and to what.

        numbers: of the sequences, (B,). The second is (M, skip), frames in x, -1 for those past an end; with labels of
        sequences (M, 1), numbers.
        """
        if self.each == "sequence":
            last = self.steps(lengths) - 1
            own = ((last >= begin) & (last < end)).nonzero()[:, 0]
            return (last[own] - begin) * len(lengths) + own, numbers[own, None]
        step = torch.arange(begin - self.delay, end - self.delay)[:, None, None]
        frame = step * self.skip + torch.arange(self.skip)  # (T, 1, skip)
        there = (step >= 0) & (frame < lengths[:, None])  # (T, B, skip)
        where = there[..., 0].flatten().nonzero()[:, 0]
        return where, torch.where(there, frame + starts[:, None], -1).flatten(0, 1)[where]


class FrameClassifier(Trained):
    """Recurrent layers and a linear one, which give the log-probability of each class."""

    kind: ClassVar[str] = "frames"
    About: ClassVar[type] = Answers
    about: Answers
    mean: Tensor
    scale: Tensor

    def __init__(self, spec: Spec, about: Answers, dropout: float = 0.0) -> None:
        super().__init__(spec, about, dropout)
        if spec.input_size != about.features * about.stack:
            raise ValueError(f"the layers have {spec.input_size} inputs, expected {about.features} * {about.stack}")
        if spec.batch_first or (spec.bidirectional and about.delay):
            raise ValueError(f"{spec} does not go with a delay of {about.delay}, or has batch_first")
        self.recurrent = layers.of(spec)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(spec.output_size(), len(about.classes))
        self.register_buffer("mean", torch.zeros(about.features))
        self.register_buffer("scale", torch.ones(about.features))

    def forward(self, x: Tensor, lengths: Tensor | None = None, state: Any = None) -> tuple[Tensor, Any]:
        """The layers' output at steps x, (T, B, stack * D), and the states after them."""
        stack = self.about.stack
        x = (x - self.mean.repeat(stack)) * self.scale.repeat(stack)
        y, state = self.recurrent(x, state, lengths=lengths)
        return y, state

    def answer(self, y: Tensor, where: Tensor) -> Tensor:
        """Log-probabilities (M, K) at places (M,) in the output (T, B, O)."""
        found = y.flatten(0, 1).index_select(0, where)
        if self.spec.bidirectional and self.about.each == "sequence":
            half = y.shape[-1] // 2
            found = torch.cat([found[:, :half], y[0, where % y.shape[1], half:]], 1)
        odds: Tensor = self.head(self.dropout(found))
        return odds.log_softmax(-1)

    def _answers(self, y: Tensor, where: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """The answers at many places, piece by piece, on the CPU."""
        size = max(1, NUMBERS // len(self.about.classes))
        for begin in range(0, len(where), size):
            some = slice(begin, begin + size)
            yield some, self.answer(y, where[some].to(y.device)).float().cpu()

    @property
    def piece(self) -> int:
        """Steps of all sequences together that are computed at once, outside training."""
        return max(1, min(PIECE, NUMBERS // max(self.spec.input_size, self.spec.output_size())))

    @torch.no_grad()
    def walk(self, data: Frames, chosen: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """What the model says of some sequences, in pieces of bounded size: log-probabilities, and of what.

        Of what: (M, n) numbers of frames or sequences, as in `data.codes`; -1 is none. Log-probabilities: (M, K).
        """
        piece = self.piece
        chosen = chosen[torch.argsort(data.lengths[chosen], descending=True, stable=True)]
        starts, lengths = data.starts[chosen], data.lengths[chosen]
        steps = self.about.steps(lengths)
        at = 0
        while at < len(chosen):
            most = int(steps[at])
            group = slice(at, at + max(1, piece // most))
            numbers, own = chosen[group], (starts[group], lengths[group])
            size = most if self.spec.bidirectional else max(1, piece // len(numbers))
            state = None
            for begin in range(0, most, size):
                end = min(begin + size, most)
                x = self.about.inputs(data.x, *own, begin, end).to(self.mean.device)
                y, state = self(x, (steps[group] - begin).clamp(0, end - begin), state)
                where, items = self.about.asked(numbers, *own, begin, end)
                for some, log in self._answers(y, where):
                    yield items[some], log
            at = group.stop

    def said(self, data: Frames, chosen: Tensor, truth: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """For each label of `data.codes` that is of a chosen sequence, the class said, and a log-probability.

        It is that of the truth, as numbers of this model's classes; without one, that of the class said. The others
        have the class -1.
        """
        count = len(data.x) if self.about.each == "frame" else len(data.lengths)
        said, log = torch.full((count + 1,), -1), torch.zeros(count + 1)  # the last is for what is none
        for items, p in self.walk(data, chosen):
            best, first = p.max(-1, keepdim=True)
            said[items] = first.expand_as(items)
            log[items] = best.expand_as(items) if truth is None else p.gather(1, truth[items].clamp(0, p.shape[1] - 1))
        return said[:-1], log[:-1]

    def read(self, files: Sequence[Path]) -> Frames:
        """Sequences with labels. Errors: FileNotFoundError, ValueError, ImportError."""
        data = read(files)
        self.truth(data, torch.arange(len(data.lengths)))
        return data

    def truth(self, data: Frames, chosen: Tensor) -> Tensor:
        """The labels as numbers of this model's classes, as `data.codes`. Those of the chosen sequences must be known.

        Where others are not, -1. Errors: ValueError.
        """
        self._check(data.places[0], data.x.shape[1])
        if data.each != self.about.each:
            raise ValueError(
                f"{data.places[0]} has a label for each {data.each}, but the model was trained on one for each "
                f"{self.about.each}: give such labels"
            )
        known = {label: k for k, label in enumerate(self.about.classes)}
        truth = torch.tensor([known.get(label, -1) for label in data.classes])[data.codes]
        asked = torch.zeros(len(data.lengths), dtype=torch.bool)
        asked[chosen] = True
        for item in ((truth < 0) & asked[data.sequences]).nonzero()[:1, 0].tolist():
            raise ValueError(
                f"{data.place(item)} has the label {data.classes[int(data.codes[item])]!r:.60}, which the training "
                f"part has not: expected one of its {len(known)} classes; correct it, or leave such sequences out"
            )
        return truth

    def _check(self, place: str, features: int) -> None:
        if features != self.about.features:
            raise ValueError(
                f"{place} has {features} features in a frame, but the model was trained on {self.about.features}: give "
                "such frames"
            )

    def evaluate(self, data: Frames, chosen: Tensor | None = None) -> Results:
        """How the model does on sequences with labels: the chosen ones, or all.

        Errors: ValueError for a label that it does not know.
        """
        return judge(self, data, torch.arange(len(data.lengths)) if chosen is None else chosen)

    def predict(self, files: Sequence[Path]) -> Iterator[pd.DataFrame]:
        """The label of each frame and its probability, or those of each sequence. Labels in the files are not read.

        Columns: sequence (its id or number), frame, label, probability; or sequence, label, probability.
        Errors: FileNotFoundError, ValueError, ImportError.
        """
        held: list[Part] = []
        frames = 0
        source = self._parts(files)
        for part in source:
            if (long := part.more and not self.spec.bidirectional) or frames >= self.piece:
                if held:
                    yield self._whole(held)
                held, frames = [], 0
            if long:
                yield from self._long(part, source)
                continue
            own = [part]
            while own[-1].more:
                own.append(next(source))
            held.append(part._replace(x=np.concatenate([each.x for each in own])) if len(own) > 1 else part)
            frames += len(held[-1].x)
        if held:
            yield self._whole(held)

    def _parts(self, files: Sequence[Path]) -> Iterator[Part]:
        for part in parts(files, labelled=False, most=self.piece):
            self._check(part.place, part.x.shape[1])
            yield part

    def _whole(self, held: list[Part]) -> pd.DataFrame:
        """What the model says of whole sequences."""
        x, lengths = np.concatenate([part.x for part in held]), torch.tensor([len(part.x) for part in held])
        names = [part.name for part in held]
        data = Frames(torch.from_numpy(x), lengths, torch.empty(0), (), self.about.each, names, [])
        said, log = self.said(data, torch.arange(len(held)))
        frames = torch.arange(len(x)) - data.starts.repeat_interleave(lengths)
        return self._table(names, data.sequences, frames, said, log)

    @torch.no_grad()
    def _long(self, part: Part, source: Iterator[Part]) -> Iterator[pd.DataFrame]:
        """What the model says of a long sequence, part by part. `source` has the other ones."""
        about, state, steps, told, total = self.about, None, 0, 0, 0
        zero, x = torch.zeros(1, dtype=torch.long), torch.empty(0, about.features)
        while True:
            x = torch.cat([x, torch.from_numpy(np.array(part.x))])
            total += len(part.x)
            length = torch.tensor([len(x)])
            # The steps of which all frames are there; at the end all that are left.
            ready = max(0, (len(x) - max(about.stack, about.skip)) // about.skip + 1)
            count = ready if part.more else int(about.steps(length))
            if count:
                y, state = self(about.inputs(x, zero, length, 0, count), None, state)
                if about.each == "frame":
                    found = self._best(y, torch.arange(min(count, max(0, about.delay - steps)), count))
                    said, log = (each.repeat_interleave(about.skip)[: total - told] for each in found)
                    frames, told = told + torch.arange(len(said)), told + len(said)
                    if len(said):
                        yield self._table([part.name], torch.zeros_like(said), frames, said, log)
                elif not part.more:
                    yield self._table([part.name], zero, zero, *self._best(y, torch.tensor([count - 1])))
            if not part.more:
                return
            x, steps = x[count * about.skip :], steps + count
            part = next(source)

    def _best(self, y: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        """The most probable class at each place, (M,), and its log-probability."""
        found = [log.max(-1) for _, log in self._answers(y, where)]
        none = torch.empty(0)
        return torch.cat([none.long(), *(f.indices for f in found)]), torch.cat([none, *(f.values for f in found)])

    def _table(self, names: list[Label], sequences: Tensor, frames: Tensor, said: Tensor, log: Tensor) -> pd.DataFrame:
        import pandas as pd

        columns: dict[str, Any] = {"sequence": _column(names)[sequences.numpy()]}
        if self.about.each == "frame":
            columns["frame"] = frames.numpy()
        columns["label"] = _column(self.about.classes)[said.numpy()]
        return pd.DataFrame(columns | {"probability": log.exp().numpy()})

    def look(self, path: Path) -> tuple[Trace, Any]:
        """The trace of the first steps of a file's first sequence. Errors: FileNotFoundError, ValueError."""
        pieces: list[Floats] = []
        for part in self._parts([path]):
            pieces.append(part.x)
            if not part.more or sum(map(len, pieces)) >= LOOK * self.about.skip + self.about.stack:
                break
        return self.trace(torch.from_numpy(np.concatenate(pieces)), LOOK), None

    def trace(self, x: Tensor, most: int) -> Trace:
        """The trace of the first steps of a sequence (F, D)."""
        length = torch.tensor([len(x)])
        steps = min(int(self.about.steps(length)), most)
        with trace(self) as run, torch.no_grad():
            self(self.about.inputs(x, torch.zeros(1, dtype=torch.long), length, 0, steps))
        found: Trace = run["recurrent"]
        return found


def _column(labels: Sequence[Label]) -> Any:
    """Labels as an array: texts stay as long as they are."""
    return np.array(labels, np.int64) if set(map(type, labels)) == {int} else np.array(labels, np.object_)


# Training


class Batch(NamedTuple):
    """What a step of training reads."""

    x: Tensor  # (T, B, stack * D)
    lengths: Tensor  # (B,) steps
    where: Tensor  # (M,) places in the output (T, B) that are asked
    truth: Tensor  # (M, n) numbers of classes; as many as there are classes is none
    first: bool  # do the sequences begin here


class Chunks(Batches):
    """Batches of whole sequences, each cut into chunks of so many steps, which come one after another.

    Sequences of as many chunks come together, mixed anew in each pass, so that all passes have the same length. Each
    chunk is a run of its own: where dropout has one mask for a whole sequence, here it has one for each chunk.
    """

    def __init__(
        self, chunks: Tensor, size: int, make: Callable[[Tensor, int], Batch], seed: int, share: Share
    ) -> None:
        self.chunks, self.size, self.make, self.seed, self.share = chunks, size * share.world, make, seed, share
        # The longest of each batch: of ordered numbers the last one in each piece.
        ordered: list[int] = chunks.sort().values.tolist()
        self.count = sum(ordered[self.size - 1 :: self.size]) + (ordered[-1] if len(ordered) % self.size else 0)

    def __len__(self) -> int:
        return self.count

    def walk(self, number: int, begin: int = 0) -> Iterator[tuple[Batch, bool]]:
        generator = seeded(self.seed, number)
        order = torch.randperm(len(self.chunks), generator=generator)
        batches = torch.split(order[torch.argsort(self.chunks[order], stable=True)], self.size)
        for k in torch.randperm(len(batches), generator=generator).tolist():
            own = batches[k][self.share.rank :: self.share.world]
            for chunk in range(int(self.chunks[batches[k][-1]])):
                if begin:
                    begin -= 1
                else:
                    yield self.make(own if len(own) else batches[k][:1], chunk), len(own) > 0


class FramesJob(Job):
    """Trains a FrameClassifier. Whole sequences, by a seeded permutation, are kept for validation and test."""

    config: FramesConfig
    model: FrameClassifier

    def __init__(self, data: Frames, config: FramesConfig, share: Share | None = None) -> None:
        self.data, self.config, self.share = data, config, share or Share()
        self.train, self.validation, self.test = split(len(data.lengths), config)
        for name, value in (("delay", config.delay or None), ("truncate", config.truncate)):
            if data.each == "sequence" and value is not None:
                raise ValueError(
                    f"{name} is {value}, but {data.places[0]} has one label for the whole sequence, which is said at "
                    f"its end: leave {name} out"
                )
        part = torch.zeros(len(data.lengths), dtype=torch.bool)
        part[self.train] = True
        counts = torch.bincount(data.codes[part[data.sequences]], minlength=len(data.classes))
        there = counts.nonzero()[:, 0]
        if not 2 <= len(there) <= MOST:
            raise ValueError(f"The training part has labels of {len(there)} classes: expected 2 to {MOST}")
        about = Answers(
            classes=tuple(data.classes[k] for k in there.tolist()),
            counts=tuple(counts[there].tolist()),
            each=data.each,
            features=data.x.shape[1],
            stack=config.stack,
            skip=config.skip,
            delay=config.delay,
        )
        spec = config.spec(about.features * about.stack)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = FrameClassifier(spec, about, config.dropout)
            orthogonal(self.model.recurrent, spec)
        if config.normalise:
            self._normalise(part.repeat_interleave(data.lengths))
        classes = len(about.classes)
        balanced = counts.sum() / (classes * counts[there].float())
        weights = balanced if config.class_weights == "balanced" else torch.ones(classes)
        # One more, of what is none: it stands last, where -1 points to.
        self.weights = torch.cat([weights, torch.zeros(1)])
        self.truth = torch.cat([self.model.truth(data, torch.arange(len(data.lengths))), torch.tensor([classes])])
        self.starts = data.starts
        self.state: Any = None
        steps = about.steps(data.lengths[self.train])
        self.batches: Batches
        if config.truncate is None:
            self.batches = Shuffled(len(self.train), config.batch, self._batch, config.seed, self.share, steps)
        else:
            chunks = (steps + config.truncate - 1).div(config.truncate, rounding_mode="floor")
            self.batches = Chunks(chunks, config.batch, self._batch, config.seed, self.share)

    def _normalise(self, chosen: Tensor) -> None:
        """By mean and deviation of each feature over the chosen frames, (F,) of bool."""
        x, count = self.data.x, int(chosen.sum())
        blocks = [slice(begin, begin + PIECE) for begin in range(0, len(x), PIECE)]
        mean = sum((x[b][chosen[b]].double().sum(0) for b in blocks), torch.zeros(())) / count
        square = sum(((x[b][chosen[b]].double() - mean).square().sum(0) for b in blocks), torch.zeros(())) / count
        still = square.sqrt() <= 1e-6 * mean.abs()  # what float32's rounding leaves, or 0
        self.model.mean.copy_(mean)
        self.model.scale.copy_(torch.where(still, 1.0, square.rsqrt()))

    def _batch(self, chosen: Tensor, chunk: int = 0) -> Batch:
        """Of sequences of the training part, (B,), all steps or one chunk of them."""
        about, numbers, size = self.model.about, self.train[chosen], self.config.truncate
        own = self.starts[numbers], self.data.lengths[numbers]
        steps = about.steps(own[1])
        begin, end = 0, int(steps.max())
        if size is not None:  # another process's sequences may be longer: one step at least
            begin, end = chunk * size, max(min((chunk + 1) * size, end), chunk * size + 1)
        where, items = about.asked(numbers, *own, begin, end)
        x = about.inputs(self.data.x, *own, begin, end)
        return Batch(x, (steps - begin).clamp(0, end - begin), where, self.truth[items], chunk == 0)

    def loss(self, batch: Batch) -> tuple[Tensor, float]:
        """The sum of the cross-entropies, each times its class's weight, and the sum of the weights."""
        state = None
        if not batch.first and self.state is not None:
            state = _of_each(self.state, lambda s: s[:, : batch.x.shape[1]].to(batch.x.device))
        y, after = self.model(batch.x, batch.lengths, state)
        if self.config.truncate is not None:
            self.state = _of_each(after, Tensor.detach)
        log = self.model.answer(y, batch.where)
        weights = self.weights.to(log.device)[batch.truth]  # (M, n)
        total = -(weights * log.gather(1, batch.truth.clamp(max=log.shape[1] - 1))).sum()
        if state is not None:  # only first chunks read learned states, but every loss must reach them
            total = total + 0 * sum(p.sum() for name, p in self.model.recurrent.named_parameters() if "initial" in name)
        return total, float(weights.sum())

    def score(self) -> dict[str, tuple[float, float]]:
        """The cross-entropy with the weights of training, and the share of labels that are right, without weights."""
        own = self.validation[list(self.share.of(len(self.validation)))]
        said, log = self.model.said(self.data, own, self.truth)
        there = said >= 0
        truth, weights = self.truth[:-1][there], self.weights[self.truth[:-1][there]].double()
        return {
            "cross-entropy": (-float((weights * log[there]).sum()), float(weights.sum())),
            "accuracy": (float((said[there] == truth).sum()), float(there.sum())),
        }

    def results(self) -> Results:
        """How the model does on the test part."""
        return self.model.evaluate(self.data, self.test)

    def carried(self) -> dict[str, Tensor]:
        """With truncation the states after the last chunk, of as many sequences as a batch may have."""
        spec, found = self.model.spec, {}
        if self.config.truncate is not None:
            states = self.state if isinstance(self.state, tuple) else (self.state,) * len(spec.definition.states)
            for (name, size), state in zip(spec.state_sizes(spec.walks[0]).items(), states, strict=True):
                found[name] = torch.zeros(len(spec.walks), self.config.batch, size, device=self.model.mean.device)
                if state is not None:
                    found[name][:, : state.shape[1]] = state
        return found

    def carry(self, carried: dict[str, Tensor] | None) -> None:
        """Goes on with these states; None: with the initial ones."""
        states = tuple((carried or {}).values())
        self.state = None if not states else states[0] if len(states) == 1 else states


def _of_each(state: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """A function of each of the states."""
    return tuple(map(function, state)) if isinstance(state, tuple) else function(state)


def split(total: int, config: FramesConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers of the sequences to train on, to validate and to test, by a seeded permutation. Errors: ValueError."""
    held: list[int] = []
    for name, wanted in (("test", config.test), ("validation", config.validation)):
        if wanted >= 1 and wanted != int(wanted):
            raise ValueError(f"{name} is {wanted:g}: expected a share such as 0.2, or a number of sequences such as 60")
        held.append(int(wanted) if wanted >= 1 else max(1, round(wanted * (total - sum(held)))))
    if (left := total - sum(held)) < 1:
        raise ValueError(
            f"There are {total} sequences, which leaves {max(left, 0)} to train on after {held[1]} for validation and "
            f"{held[0]} for the test: expected at least 1; give more sequences, or make validation or test smaller"
        )
    order = torch.randperm(total, generator=seeded(config.seed))
    return order[sum(held) :], order[held[0] : sum(held)], order[: held[0]]


# Results


def judge(model: FrameClassifier, data: Frames, chosen: Tensor) -> Results:
    """Metrics, tables and pictures of what a model says of some sequences, beside the most frequent class."""
    about, classes = model.about, len(model.about.classes)
    truth_of = model.truth(data, chosen)
    said_of, log_of = model.said(data, chosen, truth_of)
    there = said_of >= 0
    truth, said = truth_of[there].numpy(), said_of[there].numpy()
    loss, sequences = -log_of[there].double().numpy(), data.sequences[there].numpy()
    right = truth == said
    counts, hits = np.bincount(truth, minlength=classes), np.bincount(truth[right], minlength=classes)
    shares = np.array(about.counts) / sum(about.counts)
    frequent = int(shares.argmax())
    seen = counts > 0
    own = [right.mean(), loss.mean(), (hits[seen] / counts[seen]).mean()]
    base = [(truth == frequent).mean(), -np.log(shares)[truth].mean(), seen[frequent] / seen.sum()]
    names = ("accuracy", "cross-entropy", "balanced accuracy")
    size = {"sequences": len(chosen)} | ({"frames": len(truth)} if about.each == "frame" else {})
    metrics: dict[str, Any] = dict(zip(names, map(float, own), strict=True)) | size
    metrics["baseline"] = dict(zip(names, map(float, base), strict=True))
    metrics["classes"] = {
        str(label): {"accuracy": float(hits[k] / counts[k]) if counts[k] else None, "count": int(counts[k])}
        for k, label in enumerate(about.classes)
    }
    lines = ((model.spec.cell.upper(), own), (f"always {word(about.classes[frequent])}", base))
    shown: list[Any] = [
        Table(
            "Scores on " + " with ".join(f"{count} {what}" for what, count in size.items()),
            ("", *names),
            [(name, f"{share:.2%}", f"{nats:.4f}", f"{balanced:.2%}") for name, (share, nats, balanced) in lines],
            "Cross-entropy is in nats; in the last row it is that of the classes' shares in the training part. "
            "Balanced accuracy is the mean over classes.",
        )
    ]
    pairs, often = np.unique(truth * classes + said, return_counts=True)
    true, false = np.divmod(pairs, classes)
    words = [word(label) for label in about.classes]
    if classes <= FEW:
        full = np.zeros((classes, classes), np.int64)
        full[true, false] = often
        rows = [(words[k], *map(str, full[k])) for k in range(classes)]
        shown.append(Table("What was said for what", ("true \\ said", *words), rows))
    more = f" The {WIDE} most frequent of {classes} classes." if classes > WIDE else ""
    note = f"Each row is a class, its colours say how its labels were answered: the diagonal is right.{more}"
    shown.append(Picture("What was said for what", confusion_figure(true, false, often, counts, words), note))
    wrong = np.flatnonzero(true != false)
    worst = wrong[np.argsort(-often[wrong], kind="stable")[:WORST]]
    confused = [(words[true[k]], words[false[k]], str(often[k]), f"{often[k] / counts[true[k]]:.1%}") for k in worst]
    shown.append(
        Table(
            "Worst confused",
            ("true", "said", "times", "of the class"),
            list(confused),
            "" if len(worst) else "All are right.",
        )
    )
    shown.append(_worst(data, sequences, truth, said, loss, words))
    first = int(chosen[0])
    x = data.x[int(data.starts[first]) :][: min(int(data.lengths[first]), DRAWN * about.skip + about.stack)]
    gates = trace_figure(model.trace(x, DRAWN), layer=model.spec.num_layers - 1)
    shown.append(Picture(f"Inside the top layer while it reads sequence {word(data.names[first])}", gates))
    return Results(metrics, shown)


def word(label: Label) -> str:
    """A label in a few printable characters."""
    text = "".join(c if c.isprintable() else "\ufffd" for c in str(label)[:25])
    return text if len(text) < 25 else text[:23] + "\u2026"


def _worst(data: Frames, sequences: Any, truth: Any, said: Any, loss: Any, words: list[str]) -> Table:
    """The sequences of the greatest cross-entropy."""
    number = np.maximum(np.bincount(sequences), 1)
    mean, right = (np.bincount(sequences, values) / number for values in (loss, truth == said))
    rows = []
    for s in np.argsort(-mean, kind="stable")[: min(WORST, len(np.unique(sequences)))].tolist():
        item = int(np.flatnonzero(sequences == s)[0])
        how = (f"{right[s]:.1%}",) if data.each == "frame" else (words[truth[item]], words[said[item]])
        rows.append((word(data.names[s]), str(int(data.lengths[s])), *how, f"{mean[s]:.3f}"))
    how = ("accuracy",) if data.each == "frame" else ("true", "said")
    return Table("Worst sequences", ("sequence", "frames", *how, "cross-entropy"), rows)


def confusion_figure(true: Any, said: Any, often: Any, counts: Any, words: Sequence[str]) -> Figure:
    """A heat map of how often a class was said for another: pairs, and how often they are there, (P,) each.

    counts: labels of each class, (K,). Of many classes the most frequent are drawn.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    kept = np.sort(np.argsort(-counts, kind="stable")[:WIDE])
    place = np.full(len(counts), -1)
    place[kept] = np.arange(len(kept))
    inside = (place[true] >= 0) & (place[said] >= 0)
    shares = np.zeros((len(kept), len(kept)))
    shares[place[true[inside]], place[said[inside]]] = often[inside] / counts[true[inside]]
    size = min(2.6 + 0.22 * max(len(kept), 8), 8.2)
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="cividis", norm=PowerNorm(0.5, 0, 1))  # so that one in a hundred can be seen
    names = [words[k] for k in kept]
    small = 9 if len(kept) <= FEW else 6
    axes.set_xticks(range(len(kept)), names, fontsize=small, parse_math=False)
    axes.set_yticks(range(len(kept)), names, fontsize=small, parse_math=False)
    if max(map(len, names)) > 2:
        axes.tick_params(axis="x", rotation=90)
    axes.tick_params(length=0)
    axes.set_xlabel("said")
    axes.set_ylabel("true")
    bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=30)
    bar.set_ticks([0, 0.01, 0.1, 0.5, 1], labels=["0", "1 %", "10 %", "50 %", "100 %"])
    bar.minorticks_off()
    for spine in (*axes.spines.values(), bar.outline):
        spine.set_visible(False)
    return figure


TASK = Task(FrameClassifier, read, FramesJob)
