"""Pairs of texts in files, and the symbols that texts are cut into.

A file has a pair in each line, source TAB target, in UTF-8. What is done with odd lines:
- Empty ones at the end are passed over. Any other that has not one tab, or nothing on one side of it, or more than
  `longest` symbols there, is an error.
- A pair that is there twice counts twice. All pairs of one source are in the same part: training, validation or test.
- A character that the training part has not is unknown where the model is scored, and an error at prediction. A word
  (or a token of a tokenizer) that it has less than `rare` times is unknown everywhere: there are always new ones. The
  model never says an unknown one.
"""

from __future__ import annotations

import codecs
import itertools
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..words import counted
from .config import Seq2SeqConfig, held_out
from .task import seeded

PAD, BEGIN, END, UNKNOWN = range(4)  # numbers of no text; symbols of text come after them, so that none can be forged
LINE = 2**20  # bytes that a line may have
TOKENIZER = 2**25  # bytes that a tokenizer's file may have


class Symbols:
    """Cuts a text into symbols, and joins them again.

    tokens: "characters", "words" (what stands between white space) or the text of a tokenizers JSON file.
    Errors: ValueError for a text that is no tokenizer, ImportError without the library `tokenizers`.

    >>> Symbols("words").split(" to be ")
    ['to', 'be']
    """

    def __init__(self, tokens: str) -> None:
        self.closed = tokens == "characters"  # are there few symbols, so that an unknown one is a mistake
        self.joint = " " if tokens == "words" else ""
        self.own = None if tokens in ("characters", "words") else _tokenizer(tokens)

    def split(self, text: str) -> list[str]:
        """The symbols of a text. Errors: ValueError where a tokenizer has no tokens for it."""
        if self.own is None:
            return list(text) if self.closed else text.split()
        try:
            found: list[str] = self.own.encode(text, add_special_tokens=False).tokens
        except Exception as error:  # the library has no other type
            raise ValueError(str(error)) from None
        return found

    def join(self, symbols: Sequence[str]) -> str:
        """The text of symbols."""
        if self.own is None:
            return self.joint.join(symbols)
        numbers = [self.own.token_to_id(symbol) for symbol in symbols]
        return str(self.own.decode([n for n in numbers if n is not None], skip_special_tokens=False))


def _tokenizer(text: str) -> Any:
    try:
        import tokenizers
    except ModuleNotFoundError:
        raise ImportError("A tokenizers JSON file needs the library: install it with pip install tokenizers") from None
    try:
        own = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library has no other type
        raise ValueError(f"this is not the JSON of a tokenizer ({str(error)[:200]})") from None
    own.no_truncation()
    own.no_padding()
    return own


def symbols_of(config: Seq2SeqConfig) -> str:
    """What a configuration names as tokens, with a file's text instead of its path. Errors: OSError, ValueError."""
    if not config.files:
        return config.tokens
    path = Path(config.tokens)
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no file '{path}': tokens is 'characters', 'words', or the path of a tokenizers JSON file"
        )
    if (size := path.stat().st_size) > TOKENIZER:
        raise ValueError(f"'{path}' has {size:,} bytes: expected a tokenizers JSON file of at most {TOKENIZER:,}")
    try:
        text = path.read_text(encoding="utf-8")
        Symbols(text)
    except (UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"'{path}' cannot be read as tokens: {error}; give a tokenizers JSON file") from None
    return text


class Ids(NamedTuple):
    """Many sequences of numbers in little memory: all in a row."""

    flat: Tensor  # of int32
    ends: Tensor  # (N + 1,): sequence k is from ends[k] to ends[k + 1]

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]]) -> Ids:
        """From lists."""
        ends = torch.tensor([0, *map(len, sequences)]).cumsum(0)
        return cls(torch.tensor([number for one in sequences for number in one], dtype=torch.int32), ends)

    @property
    def lengths(self) -> Tensor:
        """(N,)"""
        return self.ends.diff()

    def part(self, chosen: Tensor) -> Ids:
        """Those of these numbers."""
        lengths = self.lengths[chosen]
        ends = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        places = torch.arange(int(ends[-1])) + (self.ends[chosen] - ends[:-1]).repeat_interleave(lengths)
        return Ids(self.flat[places], ends)

    def take(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Those of these numbers, (T, B) with PAD past their ends, and their lengths, (B,)."""
        lengths = self.lengths[chosen]
        steps = torch.arange(int(lengths.max()))[:, None]
        inside = steps < lengths
        return self.flat[torch.where(inside, self.ends[chosen] + steps, 0)].long().masked_fill(~inside, PAD), lengths


class Column(NamedTuple):
    """One side of all pairs: which symbols there are, and each text as their places there."""

    symbols: list[str]
    ids: Ids

    def encode(self, known: Mapping[str, int]) -> Ids:
        """By the numbers that a model has for symbols."""
        table = torch.tensor([known.get(symbol, UNKNOWN) for symbol in self.symbols], dtype=torch.int32)
        return Ids(table[self.ids.flat], self.ids.ends)


@dataclass(frozen=True)
class Pairs:
    """Sources and their targets."""

    name: str  # of the files, for messages
    tokens: str  # as Symbols takes it
    texts: list[tuple[str, str]]
    source: Column
    target: Column

    def __len__(self) -> int:
        return len(self.texts)

    def part(self, chosen: Tensor) -> Pairs:
        """Those of these numbers."""
        sides = (column._replace(ids=column.ids.part(chosen)) for column in (self.source, self.target))
        return Pairs(self.name, self.tokens, [self.texts[k] for k in chosen.tolist()], *sides)


class _Reader:
    """Gathers a column."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}
        self.flat, self.ends = array("i"), array("q", [0])

    def add(self, symbols: Sequence[str]) -> None:
        self.flat.extend(self.places.setdefault(symbol, len(self.places)) for symbol in symbols)
        self.ends.append(len(self.flat))

    def column(self) -> Column:
        flat, ends = np.array(self.flat, np.int32), np.array(self.ends, np.int64)
        return Column(list(self.places), Ids(torch.from_numpy(flat), torch.from_numpy(ends)))


def read(files: Sequence[Path], config: Seq2SeqConfig) -> Pairs:
    """The pairs of TSV files. Errors: FileNotFoundError, ValueError, one sentence that names the line."""
    return read_pairs(files, symbols_of(config), config.longest)


def read_pairs(files: Sequence[Path], tokens: str, longest: int, known: Collection[str] | None = None) -> Pairs:
    """known: the symbols that a source may have."""
    symbols = Symbols(tokens)
    if not files:
        raise ValueError("There are no files: expected at least one, with a source, a tab and a target in each line")
    name = f"'{files[0]}'" + (f" with {len(files) - 1} more" if len(files) > 1 else "")
    texts, left, right = [], _Reader(), _Reader()
    for path in files:
        for number, text in lines(path, "a source, a tab and a target"):
            source, tab, target = text.partition("\t")
            if not tab:
                raise ValueError(f"'{path}' has no tab in line {number}: expected a source, a tab and a target")
            if more := target.count("\t"):
                raise ValueError(
                    f"'{path}' has {1 + more} tabs in line {number}: expected one, between source and target; leave "
                    "other columns out"
                )
            left.add(checked(path, number, "source", source, symbols, longest, known))
            right.add(checked(path, number, "target", target, symbols, longest))
            texts.append((source, target))
    return Pairs(name, tokens, texts, left.column(), right.column())


def lines(path: Path, what: str = "a source") -> Iterator[tuple[int, str]]:
    """The lines of a file with their numbers from 1, without empty ones at the end. One at a time is in memory."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file '{path}': give the path of a text file")
    with open(path, "rb") as file:
        number = empty = 0
        while line := file.readline(LINE + 1):
            number += 1
            if len(line) > LINE:
                raise ValueError(f"'{path}' has more than {LINE:,} bytes in line {number}: expected lines of text")
            line = line.removesuffix(b"\n").removesuffix(b"\r")
            line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if not line:
                empty = empty or number
                continue
            if empty:
                raise ValueError(f"'{path}' is empty in line {empty}: expected text; take the empty lines out")
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError:
                raise ValueError(f"'{path}' is not text in UTF-8 in line {number}: save it as UTF-8") from None
            yield number, text
        if number == 0 or empty == 1:
            raise ValueError(f"'{path}' is empty: expected {what} in each line")


def checked(
    path: Path, number: int, side: str, text: str, symbols: Symbols, longest: int, known: Collection[str] | None = None
) -> list[str]:
    """The symbols of a text of one side."""
    try:
        found = symbols.split(text)
    except ValueError as error:
        raise ValueError(
            f"'{path}' has a {side} in line {number} that the tokenizer cannot cut ({error}): take the line out, or "
            "give a tokenizer with an unknown token"
        ) from None
    if not found:
        raise ValueError(f"'{path}' has an empty {side} in line {number}: expected text; take the line out")
    if len(found) > longest:
        raise ValueError(
            f"'{path}' has a {side} of {len(found):,} symbols in line {number}: expected at most {longest:,}; cut "
            "it, or train with a greater longest"
        )
    if known is not None and symbols.closed:
        for symbol in found:
            if symbol not in known:
                raise ValueError(
                    f"'{path}' has {symbol!r} in line {number}, which no source had in training: take it out, or train "
                    "on text that has it"
                )
    return found


class Parts(NamedTuple):
    """Which pairs are for what, as numbers."""

    train: Tensor
    validation: Tensor
    test: Tensor


def split(pairs: Pairs, config: Seq2SeqConfig) -> Parts:
    """By chance, but all pairs of one source together: so nothing that is tested was seen in training.

    Shares and numbers are of distinct sources. Errors: ValueError where a part would be empty.
    """
    groups: dict[bytes, int] = {}
    flat, ends = (tensor.numpy() for tensor in pairs.source.ids)
    keys = (flat[begin:end].tobytes() for begin, end in itertools.pairwise(ends))
    group = torch.tensor([groups.setdefault(key, len(groups)) for key in keys])
    count = len(groups)
    test = held_out("test", config.test, count, "sources")
    validation = held_out("validation", config.validation, count - test, "sources")
    if (train := count - test - validation) < 1:
        raise ValueError(
            f"{pairs.name} has {counted(count, 'different source')}, which leaves {max(train, 0)} to train on after "
            f"{validation} for validation and {test} for the test: give more pairs, or make test or validation smaller"
        )
    place = torch.empty(count, dtype=torch.int64)
    place[torch.randperm(count, generator=seeded(config.seed))] = torch.arange(count)
    at = place[group]
    chosen = (at >= test + validation, (at >= test) & (at < test + validation), at < test)
    return Parts(*(mask.nonzero().flatten() for mask in chosen))


class Batch(NamedTuple):
    """Some pairs, padded with PAD."""

    source: Tensor  # (S, B)
    lengths: Tensor  # (B,) of the sources
    before: Tensor  # (T, B): BEGIN, then the target
    wanted: Tensor  # (T, B): the target, then END

    @classmethod
    def of(cls, source: Ids, target: Ids, chosen: Tensor) -> Batch:
        """The pairs of these numbers, (B,)."""
        ids, lengths = source.take(chosen)
        texts, ends = target.take(chosen)
        wanted = torch.cat([texts, texts.new_full((1, len(chosen)), PAD)])
        wanted[ends, torch.arange(len(chosen))] = END
        return cls(ids, lengths, torch.cat([texts.new_full((1, len(chosen)), BEGIN), texts]), wanted)

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return Batch(*(tensor.to(device) for tensor in self))
