"""Trains `frames` on examples/frames.py, whose labels need 50 steps of memory, with every kind of cell.

    python -m benchmarks.train_frames [--seeds 0 1 2] [--profile]

3840 sequences of 80 to 90 frames to train on, 1200 that are only scored. It passes where LSTM, peephole LSTM and GRU
have more than 99 % of the frames right, and the simple RNN, with the same settings, no more than it would have without
memory: it can see whether the light is on, and then can only guess one of four symbols.

--profile: which share of the time of training is spent in the native core and in torch's operations. They are what
cProfile counts as calls of torch's built-in functions, and as the two functions that call the core; operators such as
a * b, which it does not see, are left out. The time is that of the processor without the profiler.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import runpy
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
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
CONFIG = FramesConfig(hidden=64, learning_rate=5e-3, schedule="cosine", epochs=30, patience=30, threads=1)
CELLS: dict[str, dict[str, Any]] = {
    "LSTM": {},
    "LSTM with peepholes": {"recurrent": {"peephole": "diagonal"}},
    "GRU": {"cell": "gru"},
    "RNN": {"cell": "rnn"},
}
# What is profiled, and what is asked of it: whole sequences, and chunks of 20 steps as Sak, Senior and Beaufays 2014
# train on them. A chunk of 16 sequences for 128 units is 4 ms of work, to which Lightning adds one.
SPEECH = {"batch": 16, "truncate": 20, "delay": 5}
PROFILED: dict[str, tuple[dict[str, Any], float]] = {
    "128 units, whole sequences": ({"hidden": 128}, 85.0),
    "800 units, projected to 512, chunks of 20": ({"hidden": 800, "recurrent": {"proj_size": 512}} | SPEECH, 85.0),
    "128 units, chunks of 20": ({"hidden": 128} | SPEECH, 60.0),
}


def native(path: Path, config: FramesConfig) -> float:
    """The share of the time of training, in percent, that is spent in the core and in torch."""
    data = TASK.read([path], config)
    loop.train(TASK.job(data, config, Share()))  # what is made once is made now
    job = TASK.job(data, config, Share())
    begin = time.process_time()
    loop.train(job)
    whole = time.process_time() - begin
    job, profile = TASK.job(data, config, Share()), cProfile.Profile(time.process_time)
    profile.runcall(loop.train, job)
    calls = pstats.Stats(profile).stats.items()  # type: ignore[attr-defined]
    own = sum(
        times[2] for (file, _, name), times in calls if name in ("_flush", "_pack") or (file == "~" and "torch" in name)
    )
    return 100 * own / whole


def speech(path: Path) -> None:
    """Frames as speech has them: 40 features, 126 classes, sequences of 100 to 500 frames."""
    random = np.random.default_rng(0)
    lengths = random.integers(100, 501, 400)
    x = random.standard_normal((lengths.sum(), 40), np.float32)
    np.savez(path, x=x, lengths=lengths, y=random.integers(126, size=len(x)))


def main() -> int:
    """0 if all is as it must be."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_frames", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one model of each cell (%(default)s)")
    parser.add_argument("--profile", action="store_true", help="say where time goes, and train no further")
    given = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(highlight=False)
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frames.npz"
        if given.profile:
            speech(path)
            for name, (options, least) in PROFILED.items():
                share = native(path, replace(CONFIG, epochs=1, **options))
                console.print(f"{name}: {share:.0f} % of the time of training in the core and in torch", soft_wrap=True)
                failures += [f"{name}: {share:.0f} %, expected {least:g}"] * (share < least)
        else:
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
