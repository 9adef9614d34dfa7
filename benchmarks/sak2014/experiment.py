"""What the experiment measures, and how it goes on where it ended.

Models of one size learn the state of each frame of speech (corpus.py, models.py, training.py): one of 126, or one of
1,008 that depend on the phone before. Each form takes the learning rate that does best after a few epochs on half the
sentences, of the same four; then each is trained with three seeds, on one thread each, two at a time. A few more models
tell what the feed-forward net's place among them depends on.

What is measured stands in benchmarks/results/sak2014.csv, one line for each model, and is not measured again: a run
that was ended goes on.
"""

from __future__ import annotations

import csv
import io
import multiprocessing
from collections.abc import Iterable, Iterator
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path

import torch
from rich.console import Console

from openlstm import file
from openlstm.train.task import Share

from .. import run
from . import corpus, models, training

RATES = (3e-4, 1e-3, 3e-3, 1e-2)
LSTM, WINDOW, RECTIFIED = "LSTM, peepholes", "feed-forward", "feed-forward, ReLU"
DEEP = {LSTM: (1, 2, 5), "LSTMP": (1, 2, 5)}  # layers, with 126 states; in context all have one
EQUAL = 0.2  # points of the grid that tell nothing of a rate over a whole run: both are tried
EDGE = 3e-2  # beyond the grid: the net of sigmoids does best at its edge
GRID, HALF, EPOCHS, LONG, SEEDS = 3, 1200, 8, 24, 3  # HALF: sentences for the grid
FORMS = (*models.ROWS, *models.WINDOWS)
RESULTS = Path("benchmarks/results/sak2014.csv")


@dataclass(frozen=True)
class Asked:
    """One model to train."""

    row: str
    context: bool = False  # states with the phone before, or 126
    layers: int = 1
    rate: float = 0.0
    epochs: int = EPOCHS
    seed: int = 0
    sentences: int = 0  # the first ones alone; 0: all
    noise: bool = True


@dataclass(frozen=True)
class Found:
    """How it did: what a line of the results has."""

    corpus: str  # the first digits of its hash
    row: str
    context: bool
    layers: int
    rate: float
    epochs: int
    seed: int
    sentences: int
    noise: bool
    model: str
    weights: int
    curve: str  # percent of the development frames after each epoch
    seen: float  # percent of frames of seen words and voices
    new: float
    seconds: float
    frames: int
    processor: str

    @property
    def asked(self) -> Asked:
        """What was to be trained."""
        return Asked(*astuple(self)[1:9])

    @property
    def best(self) -> float:
        """Percent of the development frames after the best epoch."""
        return max(map(float, self.curve.split()))


def made(asked: Asked, parts: dict[str, corpus.Part], batch: int = training.BATCH) -> tuple[training.SpeechJob, int]:
    """The training of one model, and the model's size."""
    table = corpus.inventory(parts["train"], asked.context)
    part = parts["train"].head(asked.sentences) if asked.sentences else parts["train"]
    outputs = 1 + int(table.max())
    target = models.target(outputs)
    rest = (asked.rate, asked.epochs, asked.seed, batch)
    if asked.row in models.WINDOWS:
        window = models.WINDOWS[asked.row]
        units = window.fitted(target, outputs)
        config, size = training.config((window, units), *rest), window.weights(units, outputs)
    else:
        window = None
        spec = models.ROWS[asked.row].fitted(target, outputs, asked.layers)
        config, size = training.config(spec, *rest), models.weights(spec, outputs)
    return training.SpeechJob(part, table, config, Share.here(), window, asked.noise), size


def kept(asked: Asked, folder: Path) -> Path:
    """Where the trained model is."""
    states = "context" if asked.context else "126"
    return folder / "models" / f"{asked.row}, {asked.layers} deep, {states}.safetensors"


def learn(given: tuple[Asked, Path]) -> Found:
    """Trains one model on one thread. Those of the first seed are kept."""
    asked, folder = given
    torch.set_num_threads(1)
    parts = corpus.load(folder)
    assert parts is not None
    job, size = made(asked, parts)
    told = training.train(parts, job)
    if not (asked.seed or asked.sentences or job.window) and asked.noise and asked.epochs == EPOCHS:
        kept(asked, folder).parent.mkdir(exist_ok=True)
        job.model.save(kept(asked, folder))
    name = str(job.model.spec) if job.window is None else f"{job.window.layers} layers of {job.config.hidden}"
    curve = " ".join(f"{each:.2f}" for each in told.curve)
    rest = (name, size, curve, round(told.seen, 2), round(told.new, 2), round(told.seconds, 1), told.frames)
    return Found(corpus.digest(parts)[:12], *astuple(asked), *rest, run.processor())


def read(path: Path) -> list[Found]:
    """What was measured before. Errors: ValueError."""
    if not path.is_file():
        return []
    readers = {"str": str, "int": int, "float": float, "bool": "True".__eq__}
    kinds = {name: readers[kind] for name, kind in Found.__annotations__.items()}
    with path.open(newline="", encoding="utf-8") as lines:
        rows = csv.DictReader(lines)
        if rows.fieldnames != list(kinds):
            raise ValueError(f"'{path}' has other columns than {', '.join(kinds)}: take --anew, or another file")
        return [Found(**{name: kinds[name](value) for name, value in row.items()}) for row in rows]


def write(found: Iterable[Found], path: Path) -> None:
    """All that was measured, whole or not at all."""
    text = io.StringIO()
    rows = csv.DictWriter(text, list(Found.__dataclass_fields__), lineterminator="\n")
    rows.writeheader()
    rows.writerows(map(asdict, found))
    path.parent.mkdir(parents=True, exist_ok=True)
    file.replace(path, text.getvalue().encode())


class Experiment:
    """What is measured, and what is still to be."""

    def __init__(self, folder: Path, results: Path, digest: str, console: Console) -> None:
        self.folder, self.results, self.console = folder, results, console
        self.found = [each for each in read(results) if each.corpus == digest[:12]]

    def measure(self, asked: Iterable[Asked]) -> None:
        """Trains those that are not there, two at a time, and keeps each as soon as it is done."""
        left = [each for each in dict.fromkeys(asked) if each not in {one.asked for one in self.found}]
        if not left:
            return
        with multiprocessing.get_context("spawn").Pool(min(2, len(left)), maxtasksperchild=1) as pool:
            for each in pool.imap_unordered(learn, [(one, self.folder) for one in left], chunksize=1):
                self.found.append(each)
                write(sorted(self.found, key=str), self.results)
                states = "in context" if each.context else "126 states"
                self.console.print(
                    f"{each.row}, {each.layers} deep, {states}, rate {each.rate:g}, {each.epochs} epochs, seed "
                    f"{each.seed}: {each.seen:.1f} % of seen words, {each.new:.1f} % of new, {each.seconds:.0f} s"
                )

    def grid(self, forms: Iterable[Asked]) -> Iterator[Asked]:
        """Short runs of these forms with all rates."""
        for form in forms:
            for rate in RATES:
                yield replace(form, rate=rate, epochs=GRID, seed=0, sentences=HALF)

    def best(self, one: Asked) -> Asked:
        """The same with the rate that did best in the grid. Errors: ValueError where that was not measured."""
        tried = set(self.grid([one]))
        found = [each for each in self.found if each.asked in tried]
        if not found:
            raise ValueError(
                f"{self.results} has no rates for {one.row}, {one.layers} deep: `make paper` measures them"
            )
        return replace(one, rate=max(found, key=lambda each: each.best).rate)

    def rates(self, one: Asked) -> list[Asked]:
        """The same with that rate, and with those that did as well."""
        tried = set(self.grid([one]))
        scores = {each.rate: each.best for each in self.found if each.asked in tried}
        best = scores[self.best(one).rate]
        return [replace(one, rate=rate) for rate, score in sorted(scores.items()) if best - score < EQUAL]

    def whole(self, context: bool) -> list[Asked]:
        """All models for an inventory of states, each seed in turn."""
        rows = (*models.ROWS, WINDOW)
        forms = [Asked(row, context, k) for row in rows for k in ((1,) if context else DEEP.get(row, (1,)))]
        self.measure(self.grid(forms))
        asked = [replace(each, seed=seed) for seed in range(SEEDS) for form in forms for each in self.rates(form)]
        self.measure(asked)
        return asked

    def why(self) -> list[Asked]:
        """What the feed-forward net's place depends on: units, what it sees, in which order, how long, and noise."""
        windows = [Asked(row) for row in models.WINDOWS]
        edge = replace(next(self.grid([Asked(WINDOW)])), rate=EDGE)
        self.measure([*self.grid(windows), edge])
        own, sigmoids, rectified = (self.best(Asked(row)) for row in (LSTM, WINDOW, RECTIFIED))
        asked = [self.best(window) for window in windows]
        asked += [replace(each, noise=False) for each in (own, rectified)]
        asked += [replace(each, epochs=LONG) for each in (own, sigmoids, rectified)]
        self.measure(asked)
        return asked


def prepared(folder: Path, console: Console) -> dict[str, corpus.Part]:
    """The corpus, made where it is not there, and said if it is not the recorded one."""
    parts = corpus.load(folder)
    if parts is None:
        console.print("The corpus is read: a minute")
        parts = corpus.make(corpus.Sizes())
        corpus.save(parts, folder)
    digest = corpus.digest(parts)
    expected = Path(__file__).with_name("corpus.sha256").read_text(encoding="utf-8").strip()
    same = "as recorded" if digest == expected else f"not {expected[:12]}, which was recorded: figures may differ"
    console.print(f"{len(parts['train'].clean):,} frames to train on, corpus {digest[:12]}, {same}", soft_wrap=True)
    return parts
