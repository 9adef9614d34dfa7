"""The experiment of Sak, Senior and Beaufays 2014 on synthetic speech: python -m benchmarks.sak2014 [--quick]

Models of one size learn the state of each frame of speech (corpus.py, models.py, training.py), with 126 states and with
those that depend on the phone before, about 1,180. Each form takes the learning rate that does best after a few epochs
with seed 0, of the same four; then each is trained with three seeds, on one thread each, two at a time.

What is measured stands in benchmarks/results/sak2014.csv, one line for each model, and is not measured again: a run
that was ended goes on, and --anew begins from the beginning. `make paper` takes hours; `make paper-quick` takes the
RNN, the LSTM and the feed-forward net with one seed for a few epochs. Needs espeakng-loader==0.2.4.
"""

from __future__ import annotations

import argparse
import csv
import io
import multiprocessing
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from openlstm import file

from . import corpus, models, training

RATES = (3e-4, 1e-3, 3e-3, 1e-2)
WINDOW = "feed-forward"  # the reference row
DEEP = {"LSTM, peepholes": (1, 2, 5), "LSTMP": (1, 2, 5)}
BATCH, GRID, EPOCHS, SEEDS = 8, 3, 12, 3
RESULTS = Path("benchmarks/results/sak2014.csv")


@dataclass(frozen=True)
class Asked:
    """One model to train."""

    row: str
    context: bool  # states with the phone before, or 126
    layers: int
    rate: float
    epochs: int
    seed: int


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
    spec: str
    weights: int
    curve: str  # percent of the development frames after each epoch
    seen: float  # percent of frames of seen words and voices
    new: float
    seconds: float
    frames: int

    @property
    def asked(self) -> Asked:
        """What was to be trained."""
        return Asked(self.row, self.context, self.layers, self.rate, self.epochs, self.seed)

    @property
    def best(self) -> float:
        """Percent of the development frames after the best epoch."""
        return max(map(float, self.curve.split()))


def window_weights(units: int, outputs: int) -> int:
    """Of the feed-forward net: 16 frames, three layers."""
    return units * (models.INPUTS * (training.LEFT + 1 + training.RIGHT) + 2 * units + outputs)


def window_units(target: int, outputs: int) -> int:
    """Of the net of that size."""
    return min(range(8, 1024), key=lambda units: abs(window_weights(units, outputs) - target))


def learn(given: tuple[Asked, Path]) -> Found:
    """Trains one model on one thread."""
    asked, folder = given
    torch.set_num_threads(1)
    parts = corpus.load(folder)
    assert parts is not None
    outputs = len(set(parts["train"].states(asked.context).tolist()))
    target = models.target(outputs)
    units = window_units(target, outputs) if asked.row == WINDOW else 0
    if units:
        spec, size = models.ROWS["RNN"].spec(8), window_weights(units, outputs)
    else:
        spec = models.ROWS[asked.row].fitted(target, outputs, asked.layers)
        size = models.weights(spec, outputs)
    told, _ = training.train(parts, asked.context, spec, asked.rate, asked.epochs, asked.seed, BATCH, units)
    curve = " ".join(f"{each:.2f}" for each in told.curve)
    name = f"3 layers of {units}" if units else str(spec)
    rest = (name, size, curve, round(told.seen, 2), round(told.new, 2), round(told.seconds, 1), told.frames)
    return Found(corpus.digest(parts)[:12], *asdict(asked).values(), *rest)


def read(path: Path) -> list[Found]:
    """What was measured before."""
    if not path.is_file():
        return []
    kinds = {"context": lambda text: text == "True", "row": str, "spec": str, "curve": str, "corpus": str}
    kinds |= dict.fromkeys(("layers", "epochs", "seed", "weights", "frames"), int)
    with path.open(newline="", encoding="utf-8") as lines:
        rows = csv.DictReader(lines)
        return [Found(**{name: kinds.get(name, float)(value) for name, value in row.items()}) for row in rows]


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

    def best(self, one: Asked) -> Asked:
        """The same with the rate that did best in the grid."""
        tried = {rate: replace(one, rate=rate, epochs=GRID, seed=0) for rate in RATES}
        scores = {rate: each.best for rate, asked in tried.items() for each in self.found if each.asked == asked}
        return replace(one, rate=max(scores, key=lambda rate: scores[rate]))

    def table(self, asked: Iterable[Asked]) -> Iterator[Table]:
        """Mean and deviation over the seeds, for each inventory of states."""
        wanted = set(asked)
        own = [each for each in self.found if each.asked in wanted]
        for context in (False, True):
            table = Table("form", "layers", "weights", "rate", "seen words", "new words", "frames a CPU second")
            table.title = "Percent of frames that are right, " + ("states in context" if context else "126 states")
            for row, layers in dict.fromkeys((each.row, each.layers) for each in own if each.context == context):
                those = [each for each in own if (each.row, each.layers, each.context) == (row, layers, context)]
                first, speed = those[0], statistics.median(each.frames / each.seconds for each in those)
                told = [_spread([getattr(each, kind) for each in those]) for kind in ("seen", "new")]
                table.add_row(row, str(layers), f"{first.weights:,}", f"{first.rate:g}", *told, f"{speed:,.0f}")
            if table.rows:
                yield table


def _spread(values: list[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def main() -> int:
    """0 if the LSTM is ahead of the RNN by 2.5 points on seen words with every seed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sak2014", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three models, one seed, a few epochs")
    parser.add_argument("--anew", action="store_true", help="forget what was measured")
    parser.add_argument("--folder", type=Path, default=Path("build/sak2014"), help="of the corpus (%(default)s)")
    parser.add_argument("--results", type=Path, help=f"what was measured ({RESULTS}; none with --quick)")
    given = parser.parse_args()
    console = Console(highlight=False, width=120)
    parts = corpus.load(given.folder)
    if parts is None:
        console.print("The corpus is read: a minute")
        parts = corpus.make(corpus.Sizes())
        corpus.save(parts, given.folder)
    digest = corpus.digest(parts)
    expected = Path(__file__).with_name("corpus.sha256").read_text(encoding="utf-8").strip()
    same = "as recorded" if digest == expected else f"not {expected[:12]}, which was recorded: figures may differ"
    console.print(f"{len(parts['train'].clean):,} frames to train on, corpus {digest[:12]}, {same}", soft_wrap=True)
    results = given.results or (given.folder / "quick.csv" if given.quick else RESULTS)
    if given.anew:
        results.unlink(missing_ok=True)
    experiment = Experiment(given.folder, results, digest, console)
    if given.quick:
        rates = {"LSTM, peepholes": 3e-3, "RNN": 1e-3, WINDOW: 3e-3}
        asked = [Asked(row, False, 1, rate, 5, 0) for row, rate in rates.items()]
        experiment.measure(asked)
    else:
        forms = [
            Asked(row, context, layers, 0.0, EPOCHS, 0)
            for context in (False, True)
            for row in (*models.ROWS, WINDOW)
            for layers in DEEP.get(row, (1,))
        ]
        experiment.measure(replace(form, rate=rate, epochs=GRID) for form in forms for rate in RATES)
        asked = [replace(experiment.best(form), seed=seed) for seed in range(SEEDS) for form in forms]
        experiment.measure(asked)
    for table in experiment.table(asked):
        console.print(table)
    wanted = {each for each in asked if not each.context and each.layers == 1}
    seen = {(each.row, each.seed): each.seen for each in experiment.found if each.asked in wanted}
    ahead = [seen["LSTM, peepholes", seed] - seen["RNN", seed] for row, seed in seen if row == "RNN"]
    points = ", ".join(f"{each:+.1f}" for each in ahead)
    console.print(f"LSTM above RNN on seen words, 126 states, for each seed: {points} points")
    return int(min(ahead) < 2.5)
