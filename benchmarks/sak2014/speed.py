"""How many frames a second the experiment trains on: python -m benchmarks.sak2014.speed [--threads 1]

Each row on our engine, and where torch.nn has that form on torch.nn, in the same loop with the same parameters: noise,
batches, output layer, loss, clipping and optimizer are the same. Each in a process of its own, in turn, three rounds;
medians. First the two must give the same loss and the same gradients.
"""

from __future__ import annotations

import argparse
import csv
import io
import multiprocessing
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from openlstm import file
from openlstm.models import convert
from openlstm.nn import of
from openlstm.spec import Spec
from openlstm.train import loop
from openlstm.train.frames import Batch

from .. import run
from . import corpus, experiment, models, training

SENTENCES, ROUNDS, PASSES = 280, 3, 4  # the first pass is not timed; noise has the share that it has in the experiment
RESULTS = Path("benchmarks/results/sak2014_speed.csv")
KINDS = ("as in the experiment", "as torch.nn has it", "torch.nn")


def has(spec: Spec) -> bool:
    """Does torch.nn have it, but for its peepholes."""
    mixed = spec.cell != "lstm" and spec.proj_size
    return not (spec.nonrecurrent_proj_size or mixed or dict(spec.options).get("coupled"))


def plain(spec: Spec) -> Spec:
    """The same cells without what torch.nn has not."""
    sizes = {"proj_size": spec.proj_size} if spec.proj_size else {}
    return Spec.of(spec.cell, spec.input_size, spec.hidden_size[0], spec.num_layers, **sizes)


class Theirs(nn.Module):
    """torch.nn's layers with our parameters. Steps past the end of a sentence count for nothing: it need not know."""

    def __init__(self, spec: Spec, ours: nn.Module) -> None:
        super().__init__()
        same = of(spec)  # without the forget bias that training begins with, which torch.nn cannot be told
        same.load_state_dict(ours.state_dict())
        self.layers = convert(same, undo=True)

    def forward(self, x: Tensor, state: Any = None, *, lengths: Tensor | None = None) -> tuple[Tensor, Any]:
        """As nn.LSTM."""
        found: tuple[Tensor, Any] = self.layers(x, state)
        return found


class Timed(training.SpeechJob):
    """Says when a pass was over, and on how many frames it trained, in the place of scores."""

    trained = 0

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.over: list[tuple[float, int]] = []

    def loss(self, batch: Batch) -> tuple[Tensor, float]:
        self.trained += len(batch.where)
        return super().loss(batch)

    def score(self) -> dict[str, tuple[float, float]]:
        self.over.append((time.perf_counter(), self.trained))
        return {"none": (0.0, 1.0)}


def made(folder: Path, row: str, layers: int, context: bool, kind: str, threads: int) -> Timed:
    """The training that is timed."""
    parts = corpus.load(folder)
    assert parts is not None
    part, table = parts["train"].head(SENTENCES), corpus.inventory(parts["train"], context)
    outputs = 1 + int(table.max())
    if row in models.WINDOWS:
        window = models.WINDOWS[row]
        model: Any = (window, window.fitted(models.target(outputs), outputs))
    else:
        spec = models.ROWS[row].fitted(models.target(outputs), outputs, layers)
        model = spec if kind == KINDS[0] else plain(spec)
    config = training.config(model, 1e-3, PASSES, 0, threads=threads)
    job = Timed(part, table, config, None, model[0] if row in models.WINDOWS else None)
    if kind == KINDS[2]:
        job.model.recurrent = Theirs(model, job.model.recurrent)  # type: ignore[assignment]
    return job


def measure(given: tuple[Any, ...]) -> float:
    """Frames a second in training."""
    torch.set_num_threads(given[-1])
    job = made(*given)
    loop.train(job)
    (first, before), *_, (last, after) = job.over
    return (after - before) / (last - first)


def differ(given: tuple[Any, ...]) -> float:
    """The greatest difference of gradients, by the greatest gradient, or of the losses, at the second batch."""
    folder, row, layers, context, threads = given
    torch.set_num_threads(threads)
    found = []
    for kind in KINDS[1:]:
        job = made(folder, row, layers, context, kind, threads)
        for batch, _ in [each for each, _ in zip(job.batches.walk(0), range(2), strict=False)]:
            job.model.zero_grad()
            total, count = job.loss(batch)
            (total / count).backward()
        own = {name.replace("recurrent.layers.", "recurrent."): p.grad for name, p in job.model.named_parameters()}
        found.append({"loss": total.detach() / count} | {name: grad for name, grad in own.items() if grad is not None})
    ours, theirs = found
    most = max(float(each.abs().max()) for name, each in theirs.items() if name != "loss")
    away = max(float((ours[name] - each).abs().max()) for name, each in theirs.items() if name != "loss") / most
    return max(away, float((ours["loss"] - theirs["loss"]).abs()))


def alone(function: Any, given: tuple[Any, ...]) -> Any:
    """In a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, (given,))


def main() -> int:
    """1 where torch.nn gives other gradients than ours."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sak2014.speed", description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="of each process (%(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("build/sak2014"), help="of the corpus (%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where figures go (%(default)s)")
    parser.add_argument("--states", choices=("126", "context", "both"), default="both", help="(%(default)s)")
    given = parser.parse_args()
    console = Console(highlight=False, width=120)
    experiment.prepared(given.folder, console)
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(["row", "layers", "context", "kind", "frames_per_second", "threads", "processor", "torch"])
    console.print(f"Frames a second in training, {given.threads} threads a process: {', '.join(KINDS)}")
    for context in {"126": (False,), "context": (True,), "both": (False, True)}[given.states]:
        for row in (*models.ROWS, experiment.WINDOW):
            for layers in experiment.DEEP.get(row, (1,)):
                one = (given.folder, row, layers, context)
                kinds = KINDS[:1]
                if row in models.ROWS and has(spec := models.ROWS[row].spec(40, layers)):
                    kinds = KINDS if spec != plain(spec) else KINDS[1:]
                    if (away := alone(differ, (*one, given.threads))) > 1e-4:
                        console.print(f"torch.nn gives other gradients for {row}: by {away:.1e}")
                        return 1
                speeds: dict[str, list[float]] = {kind: [] for kind in kinds}
                for _ in range(ROUNDS):
                    for kind in kinds:
                        speeds[kind].append(alone(measure, (*one, kind, given.threads)))
                middle = {kind: statistics.median(each) for kind, each in speeds.items()}
                for kind, value in middle.items():
                    rest = [given.threads, run.processor(), torch.__version__]
                    out.writerow([row, layers, context, kind, round(value), *rest])
                cells = [f"{middle[kind]:>9,.0f}" if kind in middle else " " * 9 for kind in KINDS]
                times = f"{middle[KINDS[1]] / middle[KINDS[2]]:.2f} times torch.nn" if KINDS[2] in middle else ""
                states = "in context" if context else "126 states"
                console.print(f"{row + f', {layers} deep':<28} {states} {' '.join(cells)}  {times}")
    file.replace(given.results, text.getvalue().encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
