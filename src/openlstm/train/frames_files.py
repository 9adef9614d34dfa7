"""Files of sequences of frames, with their labels. A file holds sequences, in one of three forms:

    .npz      x: (frames, D), the sequences one after another, with lengths: (N,); without lengths it is one sequence.
              Or x: (N, T, D), padded, with lengths: (N,) where sequences are shorter than T.
              y: a label for each frame, of x's shape without D; or one for each sequence, (N,).
    .jsonl    A line for each sequence: {"features": "a.npy", "labels": ["a", "b", ...]}, or "label": "a" for all of it.
              a.npy: (frames, D), found from the folder of the .jsonl file. Empty lines are passed over.
    .parquet  A row for each sequence. x: a list of lists of D numbers; y: a list of labels, or one label.

The last two may have an id, a text or a whole number; without it a sequence has its number over all files, from 0.
Labels are whole numbers or texts; prediction does not read them. The classes are the labels of the training part.

Files are read piece by piece; but a row of a .parquet file is one piece.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..words import counted
from .config import FramesConfig

Floats = NDArray[np.float32]
Label = int | str

PIECE = 2**14  # frames that are read at once, or steps of all sequences together that are computed
NUMBERS = 2**22  # numbers in an array of them
# What numpy, zipfile and pyarrow raise for files that are not theirs.
BROKEN = (ValueError, OSError, EOFError, KeyError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error)


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
                raise ValueError(
                    f"{row.place} has {counted(length, 'frame')} of {counted(own, 'feature')}: expected at least one "
                    "of each"
                )
            if own != (features := features or own):
                raise ValueError(
                    f"{row.place} has {counted(own, 'feature')} in a frame, those before have {features}: expected the "
                    "same number"
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
        raise ValueError(
            f"{place} has {counted(len(y), 'label')} and {counted(length, 'frame')}: expected a label for each frame"
        )
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
        if "pickle" in reason:  # numpy would advise to run what is in the file
            reason = "no array, or one of Python objects"
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
                f"lengths of '{path}' has {counted(len(lengths), 'number')} up to {lengths.max(initial=0)}, but x is "
                f"of shape {shape}: expected {shape[0]} of at most {shape[1]}"
            )
        if not padded and lengths.sum() != shape[0]:
            raise ValueError(
                f"lengths of '{path}' add up to {lengths.sum()}, but x has {counted(shape[0], 'frame')}: expected the "
                "same number"
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
