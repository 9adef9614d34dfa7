"""The experiment of Sak, Senior and Beaufays 2014 on synthetic speech: python -m benchmarks.sak2014 [--quick]

`make paper` takes hours, and goes on where it ended; `make paper-quick` takes the RNN, the LSTM and the feed-forward
net with one seed for a few epochs. --only trains one form, also under torchrun:

    torchrun --nproc-per-node 2 -m benchmarks.sak2014 --only "LSTM, peepholes" --batch 4
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from rich.console import Console

from openlstm.train.task import Share

from . import corpus, report, training
from .experiment import EPOCHS, FORMS, LSTM, RESULTS, WINDOW, Asked, Experiment, made, prepared


def alone(given: argparse.Namespace, parts: dict[str, corpus.Part], console: Console) -> int:
    """Trains one model in one process, or in those of torchrun together, each on one thread."""
    if given.only not in FORMS:
        console.print(f"Error: there is no form '{given.only}': expected one of {', '.join(FORMS)}", soft_wrap=True)
        return 2
    torch.set_num_threads(1)
    job, _ = made(Asked(given.only, rate=given.rate, epochs=given.epochs, seed=given.seed), parts, given.batch)
    begin = time.perf_counter()
    told = training.train(parts, job)
    speed = told.frames / (time.perf_counter() - begin)
    console.print(
        f"{given.only}: {told.seen:.2f} % of seen words, {told.new:.2f} % of new, {speed:,.0f} frames a second"
    )
    return 0


def main() -> int:
    """0 if the LSTM is ahead of the RNN by 2.5 points on seen words with every seed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sak2014", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three models, one seed, a few epochs")
    parser.add_argument("--anew", action="store_true", help="forget what was measured")
    parser.add_argument("--folder", type=Path, default=Path("build/sak2014"), help="of the corpus (%(default)s)")
    parser.add_argument("--results", type=Path, help=f"what was measured ({RESULTS}; none with --quick)")
    parser.add_argument("--only", metavar="FORM", help="train this one alone, also under torchrun, and keep nothing")
    parser.add_argument("--batch", type=int, default=training.BATCH, help="sentences of each process (%(default)s)")
    parser.add_argument("--rate", type=float, default=3e-3, help="with --only: the learning rate (%(default)s)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="with --only (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="with --only (%(default)s)")
    given = parser.parse_args()
    console = Console(highlight=False, width=120, quiet=Share.here().rank > 0)
    parts = prepared(given.folder, console)
    if given.only:
        return alone(given, parts, console)
    digest = corpus.digest(parts)
    results = given.results or (given.folder / "quick.csv" if given.quick else RESULTS)
    if given.anew:
        results.unlink(missing_ok=True)
    try:
        experiment = Experiment(given.folder, results, digest, console)
    except ValueError as error:
        console.print(f"Error: {error}", soft_wrap=True)
        return 2
    if given.quick:
        asked = [Asked(row, rate=rate, epochs=5) for row, rate in ((LSTM, 3e-3), ("RNN", 1e-3), (WINDOW, 1e-2))]
        experiment.measure(asked)
        print(*report.table(report.groups(experiment.found)), sep="\n")
    else:
        asked = experiment.whole(False)
        experiment.why()
        experiment.whole(True)
        print(*report.everything(experiment.found), sep="\n")
    own = sorted((each for each in experiment.found if each.asked in asked), key=lambda each: each.best)
    seen = {(each.row, each.seed): each.seen for each in own if each.layers == 1}
    ahead = [seen[LSTM, seed] - seen["RNN", seed] for row, seed in sorted(seen) if row == "RNN"]
    points = ", ".join(f"{each:+.1f}" for each in ahead)
    console.print(f"LSTM above RNN on seen words, 126 states, for each seed: {points} points")
    return int(min(ahead) < 2.5)


if __name__ == "__main__":
    sys.exit(main())
