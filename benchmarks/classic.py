"""Learns the three classic problems of long memory, with every kind of cell: `python -m benchmarks.classic`.

Adding: two of 400 numbers are marked, what is their sum? (Hochreiter and Schmidhuber 1997, experiment 4, with sequences
of one length and a mark in each half, as Arjovsky, Shah and Bengio 2016 have it.) Copy: what were the ten symbols, 200
steps ago? (Arjovsky, Shah and Bengio 2016.) Temporal order: X or Y came twice among noise, which came first, and then?
(Hochreiter and Schmidhuber 1997, experiment 6a.) Solved is a problem whose error on fresh sequences is below 0.01.

All cells have the same settings, in all problems. What each is for:

- Units begin with memories of 1 to ten times the sequence's length ("chrono", Tallec and Ollivier 2018, equation 16,
  who take 1.5 times), and with small input gates. Copy is left at an error of 0.36 with torch.nn's biases.
- Recurrent weights are orthogonal gate by gate. Input weights are up to 2: as one input is on at a time, those of
  torch.nn, which are for sums of many, hardly move a gate.
- The gradient is clipped at a norm that it always exceeds, so each step has the same weight. On the way to copy its
  norm jumps a hundredfold, and after each jump Adam's memory of it would make hundreds of steps too small.
- 128 units. With 64, copy is left at an error of 0.028 after about the same time.

These errors are of seed 0, and of copy after 5000 steps. After 6000 the LSTM leaves copy at 0.0007 with seed 0, below
0.0001 with seed 1 and at 0.003 with seed 2, which 5000 left at 0.0101, just not solved.

What did not help copy: gates or candidates with less recurrence, an open output gate, an input gate that is less shut,
memories of lengths that are even on a logarithmic scale, smaller batches, a slower beginning. No curriculum is used.

The simple RNN has no gates to begin with a long memory, and shows what the others need theirs for.
"""

from __future__ import annotations

import argparse
import csv
import io
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from openlstm import file
from openlstm import nn as layers
from openlstm.plots import LINES
from openlstm.spec import Spec
from openlstm.train import loop
from openlstm.train.config import Config
from openlstm.train.task import Batches, Job, Results, orthogonal

from .run import choice, count

SOLVED = 0.01  # an error below it
STEPS = 50  # of training from one point of a curve to the next
POINT, TEST = 512, 2048  # sequences for a point of a curve, and for the error in the end
TRAINING, VALIDATION, TESTING = range(3)  # whose sequences have nothing in common
SETTINGS: dict[str, Any] = {"hidden": 128, "batch": 32, "learning_rate": 1e-2, "schedule": "cosine", "clip": 0.01}
SETTINGS |= {"steps_per_epoch": STEPS, "threads": 1}
LEAST = 4e-5  # where the picture ends, and where an error of 0 stands

PALE = LINES[3]

Random = np.random.Generator
Measure = Callable[[Tensor, Tensor], Tensor]  # of outputs and targets


class Batch(NamedTuple):
    """Some sequences."""

    x: Tensor  # (T, B, I)
    target: Tensor  # (B, 1): numbers; (B,): a class for each sequence; (T, B): one for each step
    lengths: Tensor | None = None  # (B,); None: all are T steps long


def adding(random: Random, batch: int, time: int = 400) -> Batch:
    """Numbers within 0 and 1, and beside them marks, 1 at one of the first half and at one of the second, else 0."""
    numbers, marks, each = random.random((time, batch), np.float32), np.zeros((time, batch), np.float32), range(batch)
    first, second = random.integers(0, time // 2, batch), random.integers(time // 2, time, batch)
    marks[first, each] = marks[second, each] = 1
    total = numbers[first, each] + numbers[second, each]
    return Batch(torch.from_numpy(np.stack([numbers, marks], -1)), torch.from_numpy(total)[:, None])


def copy(random: Random, batch: int, wait: int = 200) -> Batch:
    """Ten symbols (0 to 7), then blanks (8); `wait` steps after the ten began to wait a sign (9) asks for them."""
    symbols = random.integers(0, 8, (10, batch))
    seen, wanted = np.full((2, wait + 20, batch), 8)
    seen[:10], seen[wait + 9], wanted[-10:] = symbols, 9, symbols
    return Batch(_one_hot(seen, 10), torch.from_numpy(wanted))


def order(random: Random, batch: int) -> Batch:
    """X or Y (0, 1) at 10 to 20 and at 50 to 60, around them noise (2 to 5), a beginning (6) and an end (7)."""
    symbols, lengths, each = random.integers(2, 6, (110, batch)), random.integers(100, 111, batch), range(batch)
    first, second = random.integers(0, 2, (2, batch))
    symbols[random.integers(10, 21, batch), each] = first
    symbols[random.integers(50, 61, batch), each] = second
    symbols[0], symbols[lengths - 1, each] = 6, 7
    return Batch(_one_hot(symbols, 8), torch.from_numpy(2 * first + second), torch.from_numpy(lengths))


def _one_hot(classes: NDArray[np.int64], count: int) -> Tensor:
    return torch.from_numpy(np.eye(count, dtype=np.float32)[classes])


def entropy(output: Tensor, target: Tensor) -> Tensor:
    """The mean cross-entropy, over all steps where there is a class for each."""
    return cross_entropy(output.flatten(0, -2), target.flatten())


def wrong(output: Tensor, target: Tensor) -> Tensor:
    """The share of wrong classes. Where there is one for each step, of those of the last ten: the rest is blank."""
    return (output.argmax(-1) != target)[-10 if target.dim() > 1 else 0 :].float().mean()


@dataclass(frozen=True)
class Problem:
    """What is to be learned, and for how long."""

    title: str
    draw: Callable[[Random, int], Batch]
    inputs: int
    outputs: int
    time: int  # steps of the longest sequence
    loss: Measure
    error: Measure
    measured: str  # the error in words
    chance: float  # the error of who remembers nothing
    epochs: int  # of STEPS steps


PROBLEMS = {
    "adding": Problem("adding, T = 400", adding, 2, 1, 400, mse_loss, mse_loss, "mean squared error", 1 / 6, 30),
    "copy": Problem("copy, T = 200", copy, 10, 9, 220, entropy, wrong, "share of symbols wrong", 7 / 8, 120),
    "order": Problem("temporal order", order, 8, 4, 110, entropy, wrong, "share of sequences wrong", 3 / 4, 20),
}


CELLS: dict[str, tuple[str, str, dict[str, Any]]] = {  # title, colour, options
    "rnn": ("RNN", LINES[4], {"cell": "rnn"}),
    "gru": ("GRU", LINES[2], {"cell": "gru"}),
    "lstm": ("LSTM", LINES[1], {}),
    "peephole": ("peephole LSTM", LINES[0], {"recurrent": {"peephole": "diagonal"}}),
}


class Network(nn.Module):
    """A recurrent layer, and what reads it at every step or after the last one."""

    def __init__(self, spec: Spec, outputs: int, memory: int) -> None:
        super().__init__()
        self.recurrent = layers.of(spec)
        self.head = nn.Linear(spec.output_size(), outputs)
        begin(self.recurrent, spec, memory)

    def forward(self, batch: Batch) -> Tensor:
        """(T, B, outputs) where a target is for each step, else (B, outputs)."""
        y, state = self.recurrent(batch.x, lengths=batch.lengths)
        last = state[0] if isinstance(state, tuple) else state
        output: Tensor = self.head(y if batch.target.shape == batch.x.shape[:2] else last[-1])
        return output


@torch.no_grad()
def begin(layer: layers.Recurrent, spec: Spec, memory: int) -> None:
    """The weights to begin with, for memories of up to so many steps: see above.

    A gate that keeps the share f of the old memory remembers for 1 / (1 - f) steps. So for n steps the bias of f is
    log(n - 1), and that of the input gate is the same below 0.
    """
    for name, parameter in layer.named_parameters():
        nn.init.uniform_(parameter, -2, 2) if name.startswith("weight_ih") else nn.init.zeros_(parameter)
    orthogonal(layer, spec)
    biases = dict(zip(spec.gates, layer.bias_ih_l0.chunk(len(spec.gates)), strict=True))
    keep = torch.empty(*spec.hidden_size).uniform_(1, memory - 1).log()
    for gate, bias in {"f": keep, "i": -keep, "u": keep}.items():  # the GRU's u is f, and its i is 1 - u
        if gate in biases:
            biases[gate].copy_(bias)


class Fresh(Batches):
    """Batches of sequences, of which none comes twice."""

    def __init__(self, problem: Problem, config: Config) -> None:
        self.problem, self.config = problem, config

    def __len__(self) -> int:
        return STEPS

    def walk(self, number: int, begin: int = 0) -> Iterator[tuple[Batch, bool]]:
        """As every task's batches: a function of the seed, the pass and the batch."""
        for k in range(begin, STEPS):
            random = np.random.default_rng([self.config.seed, TRAINING, number, k])
            yield self.problem.draw(random, self.config.batch), True


class ClassicJob(Job):
    """Trains a network on one problem. The first score is the loss, the second the error."""

    model: Network  # type: ignore[assignment] # it is never written to a file

    def __init__(self, problem: Problem, config: Config) -> None:
        self.problem, self.config, self.batches = problem, config, Fresh(problem, config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = Network(config.spec(problem.inputs), problem.outputs, 10 * problem.time)

    def loss(self, batch: Batch) -> tuple[Tensor, float]:
        return self.problem.loss(self.model(batch), batch.target), 1.0

    def score(self) -> dict[str, tuple[float, float]]:
        return {name: (value, 1.0) for name, value in self._measure(VALIDATION, POINT).items()}

    @torch.no_grad()
    def results(self) -> Results:
        return Results(self._measure(TESTING, TEST))

    def _measure(self, part: int, sequences: int) -> dict[str, float]:
        batch = self.problem.draw(np.random.default_rng([self.config.seed, part]), sequences)
        output = self.model(batch)
        return {name: float(getattr(self.problem, name)(output, batch.target)) for name in ("loss", "error")}


class Learned(NamedTuple):
    """How it went. `error`: of the best weights on test sequences; `seconds`: of one processor."""

    problem: str
    cell: str
    seed: int
    curve: list[float]  # errors after each STEPS steps
    error: float
    seconds: float


def learn(asked: tuple[str, str, int, int]) -> Learned:
    """Trains one network on one thread. Asked: the problem, the cell, the seed and the epochs."""
    name, cell, seed, epochs = asked
    torch.set_num_threads(1)
    config = Config(**SETTINGS, **CELLS[cell][2], seed=seed, epochs=epochs, patience=epochs)
    job, start = ClassicJob(PROBLEMS[name], config), time.process_time()
    curve = [point["error"] for point in loop.train(job).curve]
    seconds = time.process_time() - start
    return Learned(name, cell, seed, curve, job.results().metrics["error"], seconds)


def picture(found: list[Learned]) -> Figure:
    """A panel for each problem: the error over the steps of training, a line for each cell with its name at the end."""
    names = list(dict.fromkeys(each.problem for each in found))
    figure = Figure(figsize=(4.6 * len(names), 3.6), layout="constrained")
    for name, axes in zip(names, figure.subplots(1, len(names), squeeze=False)[0], strict=True):
        problem, place, pale = PROBLEMS[name], 0.0, {"color": PALE, "fontsize": 8}
        for height, words, side in ((problem.chance, "chance", "bottom"), (SOLVED, "solved", "top")):
            axes.axhline(height, color=PALE, lw=0.8, ls=":")
            axes.annotate(words, (0.99, height), xycoords=axes.get_yaxis_transform(), ha="right", va=side, **pale)
        for each in sorted((each for each in found if each.problem == name), key=lambda each: each.curve[-1]):
            errors, (title, colour, _) = np.maximum(each.curve, LEAST), CELLS[each.cell]
            steps = np.arange(1, len(errors) + 1) * STEPS
            axes.plot(steps, errors, color=colour, lw=1.4)
            place = max(errors[-1], place * 1.7)  # names of lines that end together stand one above the other
            to = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
            axes.annotate(title, (steps[-1], place), color=colour, fontsize=9, **to)
        axes.set(
            yscale="log",
            xlim=(0, steps[-1]),
            ylim=(LEAST / 1.2, 1.5),
            xlabel="steps of training",
            ylabel=problem.measured,
        )
        axes.set_title(problem.title, loc="left", fontsize=10, weight="bold")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def write(found: list[Learned], folder: Path) -> None:
    """Writes classic.csv and classic.svg, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    text, image = io.StringIO(), io.BytesIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("problem", "cell", "seed", "step", "error"))
    for each in found:
        rows.writerows((*each[:3], k * STEPS, f"{error:.4g}") for k, error in enumerate(each.curve, 1))
    file.replace(folder / "classic.csv", text.getvalue().encode())
    with matplotlib.rc_context({"svg.hashsalt": "openlstm"}):  # the same numbers give the same file
        picture(found).savefig(image, format="svg", metadata={"Date": None})
    file.replace(folder / "classic.svg", image.getvalue())


def main() -> int:
    """0 if the LSTM has solved each problem that it was given."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.classic", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add(
        "--problems", type=choice(PROBLEMS), default=list(PROBLEMS), metavar="A,B", help=f"some of {','.join(PROBLEMS)}"
    )
    add("--cells", type=choice(CELLS), default=list(CELLS), metavar="A,B", help=f"some of {','.join(CELLS)}")
    add("--seed", type=int, default=0, help="of the weights and the sequences (%(default)s)")
    add("--epochs", type=count, metavar="N", help=f"train for N times {STEPS} steps (each problem's own)")
    add("--out", type=Path, default=Path("benchmarks/results"), metavar="DIR", help="where files go (%(default)s)")
    given = parser.parse_args()
    asked = [(p, c, given.seed, given.epochs or PROBLEMS[p].epochs) for p in given.problems for c in given.cells]
    console, found = Console(highlight=False, width=110), []
    table = Table("problem", "cell", "error", "chance", "solved after", "of steps", "CPU s")
    with multiprocessing.get_context("spawn").Pool(min(2, len(asked)), maxtasksperchild=1) as pool:
        for each in pool.imap(learn, asked, chunksize=1):
            problem, title = PROBLEMS[each.problem], CELLS[each.cell][0]
            above = max((k for k, error in enumerate(each.curve, 1) if error >= SOLVED), default=0)
            said = f"{(above + 1) * STEPS}" if each.error < SOLVED else "not solved"
            numbers = (f"{each.error:.2g}", f"{problem.chance:.2g}", said, f"{len(each.curve) * STEPS}")
            table.add_row(problem.title, title, *numbers, f"{each.seconds:.0f}")
            console.print(f"{problem.title}, {title}: error {each.error:.2g}, {said}")
            found.append(each)
    write(found, given.out)
    console.print(table)
    return int(any(each.error >= SOLVED for each in found if each.cell == "lstm"))


if __name__ == "__main__":
    sys.exit(main())
