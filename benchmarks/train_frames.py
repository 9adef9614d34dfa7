"""Trains `frames` on examples/frames.py, whose labels need 50 steps of memory, with every kind of cell.

    python -m benchmarks.train_frames [--seeds 0 1 2]

3840 sequences of 80 to 90 frames to train on, 1200 that are only scored. It passes where LSTM, peephole LSTM and GRU
have more than 99 % of the frames right, and the simple RNN, with the same settings, no more than it would have without
memory: it can see whether the light is on, and then can only guess one of four symbols.
"""

from __future__ import annotations

import argparse
import runpy
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from openlstm.train import loop
from openlstm.train.config import FramesConfig
from openlstm.train.frames import TASK
from openlstm.train.task import Share

EXAMPLE = runpy.run_path(str(Path(__file__).resolve().parents[1] / "examples" / "frames.py"))
LEARNED, GUESSED = 99.0, 2.0  # in percent: what memory gives, and how far above guessing no memory may be
SECONDS = 240  # of the processor, for each model
CONFIG = FramesConfig(hidden=64, learning_rate=5e-3, schedule="cosine", epochs=60, patience=60, threads=1)
CELLS: dict[str, dict[str, Any]] = {
    "LSTM": {},
    "LSTM with peepholes": {"recurrent": {"peephole": "diagonal"}},
    "GRU": {"cell": "gru"},
    "RNN": {"cell": "rnn"},
}


def main() -> int:
    """0 if all is as it must be."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_frames", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one model of each cell (%(default)s)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(highlight=False)
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frames.npz"
        EXAMPLE["make"](path, 6000, seed=0)
        data = TASK.read([path], CONFIG)
        title = "Frames that are right, of sequences that were not trained on"
        table = Table("cell", "seed", "right %", "without memory %", "cross-entropy", "CPU s", title=title)
        for (name, options), seed in ((cell, seed) for cell in CELLS.items() for seed in given.seeds):
            job = TASK.job(data, replace(CONFIG, seed=seed, **options), Share())
            begin = time.process_time()
            loop.train(job)
            seconds = time.process_time() - begin
            metrics = job.results().metrics
            right, waits = 100 * metrics["accuracy"], 100 * metrics["baseline"]["accuracy"]
            guess = waits + (100 - waits) / len(EXAMPLE["SYMBOLS"])
            numbers = (f"{right:.2f}", f"{guess:.2f}", f"{metrics['cross-entropy']:.4f}", f"{seconds:.0f}")
            table.add_row(name, str(seed), *numbers)
            console.print(f"{name}, seed {seed}: {right:.2f} % right", soft_wrap=True)
            as_expected = right < guess + GUESSED if name == "RNN" else right > LEARNED
            failures += [f"{name}, seed {seed}: {right:.2f} %"] * (not as_expected)
            failures += [f"{name}, seed {seed}: {seconds:.0f} s, expected {SECONDS}"] * (seconds > SECONDS)
        console.print(table)
    for failure in failures:
        console.print(f"FAIL: {failure}", soft_wrap=True)
    if not failures:
        console.print("pass")
    return len(failures) > 0


if __name__ == "__main__":
    sys.exit(main())
