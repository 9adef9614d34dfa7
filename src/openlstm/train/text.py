"""Learns to guess the next character of a text: the task, its model, and the file that holds it.

    e(t) = E[x(t)]                              numbers that stand for a character
    h(t) = recurrent(e(t))
    odds of x(t+1) = softmax(W h(t) + b)

It is measured in bits a character: the mean of -log2 of the odds that it gave to the character which came. To so many
bits a character could the text be compressed with it.

Training reads the text at many places at once, which are its lanes. A lane goes on where it stopped, with the state
from there, so the model may know what was long ago, while gradients go back through `window` characters.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from .. import models
from ..nn import of
from ..spec import Spec
from ..words import counted
from .config import TextConfig, held_out
from .ngram import ngram_bits
from .task import Batches, Job, Results, Share, Task, Trained, orthogonal, seeded
from .text_report import BYTES, Ids, Look, Scored, Text, decoded, report

if TYPE_CHECKING:
    import pandas as pd

    from ..tracing import Trace

PIECE = 4096  # characters of a file that are in memory at once
LANES = 32  # places at which a long text is scored at once
LANE = 4096  # characters that are worth a lane
BEFORE = 512  # characters that are read before a lane begins, so that the model knows where it is
STEPS = 256  # characters of each lane that are scored at once
SCORED = 100_000  # characters of the validation part that are read after each epoch: more would tell little more
SHOWN = 1500  # characters of a file that are looked into
TRACED, PROMPT, WRITTEN, TEMPERATURE = 80, 400, 600, 0.7  # what a report shows: read with gates, given, and written
REACH, PIECES = 512, 128  # characters that are read from nothing, and how many times, to see what the earlier ones tell
ORDERS, COUNTED = (1, 5, 10), 5_000_000  # of the n-gram models to beat, and the characters from which they know


def pieces(path: Path, unit: str = "character") -> Iterator[str]:
    """A text file in pieces, with line ends as \\n, or its bytes as they are, each as the character of its number.

    Errors: FileNotFoundError, ValueError.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file '{path}': give a text file")
    empty = True
    try:
        encoding, newline = ("latin-1", "") if unit == "byte" else ("utf-8-sig", None)
        with path.open(encoding=encoding, newline=newline) as file:
            while piece := file.read(PIECE):
                empty = False
                yield piece
    except UnicodeDecodeError:
        raise ValueError(f"'{path}' is no text in UTF-8, from line {_broken(path)} on: save it as UTF-8") from None
    if empty:
        raise ValueError(f"'{path}' is empty: expected text")


def _broken(path: Path) -> int:
    """The number of the first line that is not UTF-8."""
    number = 0
    with path.open("rb") as file:
        for line in file:
            number += 1
            try:
                line.decode()
            except UnicodeDecodeError:
                break
    return number


def read(files: Sequence[Path], config: TextConfig) -> Text:
    """The files, one after another, as one text, and all its characters. Errors: FileNotFoundError, ValueError."""
    parts = [_codes("".join(pieces(path, config.unit))) for path in files]
    there = np.zeros(0x110000, bool)
    there[: len(BYTES)] = config.unit == "byte"  # all of them, so that any file can be read
    for part in parts:
        there[part] = True
    alphabet = np.flatnonzero(there)
    ids: Ids = np.searchsorted(alphabet, np.concatenate(parts))
    ids = ids.astype(np.uint8 if len(alphabet) <= 256 else np.int32)
    begins = np.cumsum([0, *map(len, parts[:-1])])
    return Text(tuple(map(str, files)), begins, ids, "".join(map(chr, alphabet)))


def _codes(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


@dataclass(frozen=True)
class TextAbout:
    """What a model is beside its layers and weights."""

    alphabet: str  # all its characters, in order; BYTES for a model of bytes
    embedding: int
    unit: str = "character"  # or "byte"

    def __post_init__(self) -> None:
        given = self.alphabet
        if not isinstance(given, str) or not given or "".join(sorted(set(given))) != given:
            raise ValueError("its alphabet is not made of different characters in order")
        if self.unit not in ("character", "byte") or (self.unit == "byte") != (given == BYTES):
            raise ValueError(f"its unit is {self.unit!r}, which does not fit its alphabet")
        if type(self.embedding) is not int or self.embedding < 1:
            raise ValueError(f"its embedding is {self.embedding!r}, expected a whole number of at least 1")


class TextModel(Trained):
    """Reads characters and gives the odds of the next one."""

    kind = "text"
    About = TextAbout

    def __init__(self, spec: Spec, about: TextAbout, dropout: float = 0.0) -> None:
        super().__init__(spec, about, dropout)
        if spec.bidirectional or spec.batch_first or spec.input_size != about.embedding:
            raise ValueError(f"its layers are {spec}, expected {about.embedding} inputs, one direction and time first")
        self.embed = nn.Embedding(len(about.alphabet), about.embedding)
        self.recurrent = of(spec)
        self.head = nn.Linear(spec.output_size(), len(about.alphabet))

    @property
    def stages(self) -> list[tuple[str, Any]]:
        return [("lookup", "embed.weight"), ("recurrent", "recurrent."), ("linear", "head.")]

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Characters by their places in the alphabet, (T, B), to the logarithms of odds, (T, B, K), not normalised."""
        h, state = self.recurrent(self.embed(x), state)
        return self.head(functional.dropout(h, self.rate, self.training)), state

    # Reading files.

    @cached_property
    def _alphabet(self) -> NDArray[np.uint32]:
        return _codes(self.about.alphabet)

    def characters(self, files: Sequence[Path]) -> Iterator[tuple[int, int, Ids]]:
        """What is in the files, in pieces: the number of the file, where a piece begins in it, and the places of its
        characters in the alphabet. Errors: FileNotFoundError, ValueError."""
        for number, path in enumerate(files):
            position, line = 0, 1
            for piece in pieces(path, self.about.unit):
                codes = _codes(piece)
                ids = np.searchsorted(self._alphabet, codes).clip(max=len(self._alphabet) - 1)
                if len(unknown := np.flatnonzero(self._alphabet[ids] != codes)):
                    at = int(unknown[0])
                    raise ValueError(
                        f"'{path}' has {piece[at]!r} (U+{codes[at]:04X}) in line {line + piece[:at].count(chr(10))}, "
                        "which this model has never read: leave it out, or train on text that has it, or by bytes"
                    )
                yield number, position, ids
                position, line = position + len(piece), line + piece.count("\n")

    def read(self, files: Sequence[Path]) -> Text:
        """The files, one after another, as one text. Errors: FileNotFoundError, ValueError."""
        begins, parts, count = [], [], 0
        for _, position, ids in self.characters(files):
            begins += [count] if position == 0 else []
            parts.append(ids.astype(np.int32))
            count += len(ids)
        if count < 2:
            raise ValueError(f"'{files[0]}' has one character: expected at least 2, for the first is not guessed")
        return Text(tuple(map(str, files)), np.array(begins), np.concatenate(parts), self.about.alphabet)

    # How well it does.

    @torch.no_grad()
    def score(self, ids: Ids, begin: int = 1, share: Share | None = None) -> Scored:
        """How it guesses the characters ids[begin:], (N,), given those before: of this process's lanes, one by one.

        A short text is one lane. Where there are more, a character is given what its lane has read, which is at least
        the 512 before it.
        """
        count = len(ids) - begin
        lanes = min(LANES, max(1, count // LANE))
        length = -(-count // lanes)
        own = np.array((share or Share()).of(lanes), np.int64)
        if not len(own):
            return Scored(np.zeros(0, np.float32), np.zeros(0, bool))
        edges = [-BEFORE, *range(1, length, STEPS), length]  # of what is read at once; 0: the first that counts
        state, bits, right = None, [], []
        for first, last in itertools.pairwise(edges):
            at = begin - 1 + own * length + np.arange(first, last)[:, None]  # (T, B), what is read
            x, y = (self._on_device(ids[k.clip(0, len(ids) - 1)]) for k in (at, at + 1))
            # Nothing is before the text: there the state is new again, and what was read until then is forgotten.
            reset = torch.from_numpy(at == 0) if first < 0 and at.min() <= 0 else None
            h, state = self.recurrent(self.embed(x), state, reset=reset)
            told = slice(max(0, -first), None)
            odds, y = self.head(h[told]), y[told]
            bits.append(functional.cross_entropy(odds.flatten(0, 1), y.flatten(), reduction="none").view_as(y))
            right.append(odds.argmax(-1) == y)
        shorter = lanes * length - count if own[-1] == lanes - 1 else 0  # the last lane
        end = len(own) * length - shorter
        joined = [torch.cat(parts).T.flatten()[:end].cpu().numpy() for parts in (bits, right)]
        return Scored((joined[0] / math.log(2)).astype(np.float32), joined[1])

    def _on_device(self, ids: Ids) -> Tensor:
        return torch.from_numpy(ids.astype(np.int64)).to(self.head.weight.device)

    def evaluate(self, data: Text) -> Results:
        """How it guesses a text, from its second character on."""
        return self.report(data, 1, {})

    def report(self, data: Text, begin: int, baselines: dict[str, float]) -> Results:
        """How it guesses a text from some character on, beside the bits a character of others."""
        prompt, end = data.ids[max(0, begin - BEFORE) : begin + PROMPT], min(begin + TRACED, len(data.ids))
        look = Look(
            self.trace(data.ids[max(0, begin - BEFORE) : end], last=end - begin),
            data.decode(prompt),
            self.write(iter([prompt]), WRITTEN, TEMPERATURE, seed=0),
            self._reach(data.ids[begin - 1 :]),
        )
        return report(data, begin, self.score(data.ids, begin), baselines, look)

    @torch.no_grad()
    def _reach(self, ids: Ids) -> NDArray[np.floating]:
        """The mean bits of the k-th character where 1, 2, ... are known before it, for there begins the state."""
        length = min(REACH, len(ids) - 1)
        begins = length * np.arange(min(PIECES, (len(ids) - 1) // length))
        x = self._on_device(ids[begins + np.arange(length + 1)[:, None]])  # (T + 1, B)
        odds, _ = self(x[:-1])
        bits = functional.cross_entropy(odds.flatten(0, 1), x[1:].flatten(), reduction="none").view_as(x[1:])
        mean: NDArray[np.floating] = bits.mean(1).cpu().numpy() / math.log(2)
        return mean

    # What it says of files.

    def predict(self, files: Sequence[Path]) -> Iterator[pd.DataFrame]:
        """For each character the bits that it costs, and what the model would have guessed in its place.

        The files are read as one text, and its first character is not guessed. Errors: FileNotFoundError, ValueError.
        """
        for _ in self.characters(files):
            pass  # what is wrong is said before anything is given
        yield from self._table(files)

    def sample(self, prompt: str = "\n", length: int = 500, temperature: float = 1.0, seed: int = 0) -> str:
        """So many characters that go on after a prompt, drawn by the model's odds.

        temperature: below 1 what is likely is drawn more often still, and with 0 always. Errors: ValueError.
        """
        if length < 1:
            raise ValueError(f"length is {length}: expected at least 1")
        if not 0 <= temperature < math.inf:
            raise ValueError(f"temperature is {temperature}: expected a number of at least 0")
        if not prompt:
            raise ValueError("The prompt is empty: give at least one character, which may be a line end")
        text = prompt.encode().decode("latin-1") if self.about.unit == "byte" else prompt
        for at, character in enumerate(text):
            if character not in self.about.alphabet:
                raise ValueError(
                    f"The prompt has {character!r} (U+{ord(character):04X}), character {at + 1}, which this model has "
                    "never read: give another prompt"
                )
        ids = np.array([self.about.alphabet.index(character) for character in text])
        return self.write(iter([ids]), length, temperature, seed)

    @torch.no_grad()
    def _table(self, files: Sequence[Path]) -> Iterator[pd.DataFrame]:
        import pandas as pd

        alphabet = np.arange(256) if self.about.unit == "byte" else np.array(list(self.about.alphabet))
        state, next_ = None, torch.full((1, len(alphabet)), math.nan)
        for number, position, ids in self.characters(files):
            x = self._on_device(ids)
            odds, state = self(x[:, None], state)
            odds = torch.cat([next_, functional.log_softmax(odds[:, 0], -1)])
            odds, next_ = odds[:-1], odds[-1:]
            likeliest, guess = odds.max(-1)
            yield pd.DataFrame(
                {
                    "file": str(files[number]),
                    "position": np.arange(position, position + len(ids)),
                    self.about.unit: alphabet[ids],
                    "bits": -odds.gather(1, x[:, None])[:, 0].numpy() / np.float32(math.log(2)),
                    "guess": np.where(likeliest.isnan().numpy(), "", alphabet[guess].astype(str)),
                    "odds": likeliest.exp().numpy(),  # of the guess
                }
            )

    @torch.no_grad()
    def write(self, prompt: Iterator[Ids], count: int, temperature: float, seed: int) -> str:
        """So many characters that go on after what the pieces of `prompt` hold."""
        state: Any = None
        for ids in prompt:
            h, state = self.recurrent(self.embed(self._on_device(ids))[:, None], state)
        generator, written = seeded(seed), []
        while True:
            odds = self.head(h[-1, 0]).double()
            below = odds - odds.max()  # so that a small temperature does not overflow
            weights = (below / temperature).softmax(-1) if temperature else (below == 0).double()
            chosen = torch.multinomial(weights, 1, generator=generator)
            written.append(int(chosen))
            if len(written) == count:
                return decoded(self.about.alphabet, np.array(written))
            h, state = self.recurrent(self.embed(chosen)[:, None], state)

    def trace(self, ids: Ids, last: int | None = None) -> Trace:
        """What the layers compute while they read these characters, (T,): at all steps, or at the last ones."""
        steps = slice(max(0, len(ids) - (last or len(ids))), None)
        with models.trace(self, steps=steps) as run, torch.no_grad():
            self(self._on_device(ids)[:, None])
        found: Trace = run["recurrent"]
        return found

    def look(self, path: Path) -> tuple[Trace, str]:
        """The trace of the run on a file's first characters, and these."""
        first = next(self.characters([path]))[2][:SHOWN]
        return self.trace(first), Text((str(path),), np.zeros(1, np.int64), first, self.about.alphabet).signs(first)


class Lanes(Batches):
    """A text at many places at once: (T + 1, B), and is it where the lanes begin.

    In each pass they begin elsewhere, and the text goes round, so that none of it is always left over at their ends.
    """

    def __init__(self, ids: Ids, size: int, window: int, seed: int, share: Share) -> None:
        self.ids, self.window, self.seed = ids, window, seed
        count = size * share.world
        self.length = len(ids) // count
        self.begins = self.length * np.array(share.of(count))

    def __len__(self) -> int:
        return self.length // self.window

    def walk(self, number: int, begin: int = 0) -> Iterator[tuple[Any, bool]]:
        turn = int(torch.randint(len(self.ids), (), generator=seeded(self.seed, number)))
        for step in range(begin, len(self)):
            at = turn + self.begins + step * self.window + np.arange(self.window + 1)[:, None]
            yield (torch.from_numpy(self.ids[at % len(self.ids)].astype(np.int64)), step == 0), True


class TextJob(Job):
    """Trains on the beginning of a text, and holds out its end."""

    def __init__(self, data: Text, config: TextConfig, share: Share) -> None:
        self.data, self.config, self.share = data, config, share
        count = len(data.ids)
        self.test = count - held_out("test", config.test, count, "characters")
        self.validation = self.test - held_out("validation", config.validation, self.test, "characters")
        least = config.batch * share.world * config.window
        if self.validation < least:
            raise ValueError(
                f"{data.source} has {counted(count, 'character')}, which leaves {max(self.validation, 0)} to train on "
                f"after {self.test - self.validation} for validation and {count - self.test} for the test: expected at "
                f"least {least}, for {counted(config.batch * share.world, 'sequence')} of {config.window}; give a "
                "longer text, or make batch, window or test smaller"
            )
        self.batches = Lanes(data.ids[: self.validation], config.batch, config.window, config.seed, share)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            spec = config.spec(config.embedding)
            self.model: TextModel = TextModel(
                spec, TextAbout(data.alphabet, config.embedding, config.unit), config.dropout
            )
            orthogonal(self.model.recurrent, spec)
        self.state: Any = None  # of the lanes

    def loss(self, batch: Any) -> tuple[Tensor, float]:
        x, begins = batch
        odds, state = self.model(x[:-1], None if begins else self.state)
        self.state = tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()
        total = functional.cross_entropy(odds.flatten(0, 1), x[1:].flatten(), reduction="sum") / math.log(2)
        if self.model.spec.learned_state:
            # Only the beginning of lanes has to do with them, and every step has to reach all parameters.
            total = total + 0.0 * sum(p.sum() for n, p in self.model.named_parameters() if "initial_" in n)
        return total, float(x[1:].numel())

    def score(self) -> dict[str, tuple[float, float]]:
        end = min(self.test, self.validation + SCORED)
        found = self.model.score(self.data.ids[:end], self.validation, self.share)
        count = float(len(found.bits))
        return {
            f"bits a {self.data.unit}": (float(found.bits.sum(dtype=np.float64)), count),
            "guessed right": (float(found.right.sum()), count),
        }

    def results(self) -> Results:
        ids, symbols = self.data.ids, len(self.data.alphabet)
        known, test = ids[max(0, self.validation - COUNTED) : self.validation], ids[self.test :]
        baselines = {f"{n}-gram" if n > 1 else "frequencies": ngram_bits(known, test, symbols, n) for n in ORDERS}
        return self.model.report(self.data, self.test, baselines)

    def carried(self) -> dict[str, Tensor]:
        parts = self.state if isinstance(self.state, tuple) else () if self.state is None else (self.state,)
        return {str(k): part for k, part in enumerate(parts)}

    def carry(self, carried: dict[str, Tensor] | None) -> None:
        parts = tuple((carried or {}).values())
        self.state = parts if len(parts) > 1 else parts[0] if parts else None


TASK = Task(TextModel, read, TextJob)
