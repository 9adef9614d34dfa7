"""Where the time of training goes: `python -m benchmarks.train_speed`, two minutes on an idle machine.

Trains each task for a few hundred steps and says which share of the time is spent in the native core and in torch's
operations; the rest is Python. They are what cProfile counts as calls of torch's built-in functions, and as the two
functions that call the core; operators such as a * b, which it does not see, are left out. The time is that of the same
run without the profiler, on one thread. It passes where each share is as large as `ROWS` asks: 85 %, but in one row.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import runpy
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from examples import dates
from openlstm.train import loop, task
from openlstm.train.config import CONFIGS

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
LEAST, ROUNDS = 85.0, 3  # percent; how often each is timed: the median counts
CORE = ("_flush", "_pack")  # what calls the core, in backends/
# 20 steps and a delay of 5 are those of Sak, Senior and Beaufays 2014, who have 4 or 8 sequences in a step.
CHUNKS = {"batch": 16, "truncate": 20, "delay": 5}
# What is trained: the task, its options, how many steps, and the least share.
ROWS: list[tuple[str, dict[str, Any], int, float]] = [
    ("forecast", {"target": ("y",), "hidden": 128, "window": 64}, 200, LEAST),
    ("text", {"hidden": 128}, 300, LEAST),
    ("text", {}, 150, LEAST),
    ("frames", {"hidden": 128}, 50, LEAST),
    # 20 steps of 16 sequences are 2 ms of work, to which Python adds one.
    ("frames", {"hidden": 128, **CHUNKS}, 300, 60.0),
    ("frames", {"hidden": 800, "recurrent": {"proj_size": 512}, **CHUNKS}, 30, LEAST),
    ("seq2seq", {}, 200, LEAST),
    ("seq2seq", {"attention": "additive"}, 50, LEAST),
]


def make(kind: str, folder: Path) -> Path:
    """A file to train on."""
    path = folder / {"forecast": "y.csv", "text": "python.txt", "frames": "speech.npz", "seq2seq": "dates.tsv"}[kind]
    random = np.random.default_rng(0)
    if kind == "forecast":
        path.write_text(
            "y\n" + "".join(f"{value:.4f}\n" for value in np.sin(np.arange(6000) / 5) + random.normal(size=6000))
        )
    elif kind == "text":
        path.write_text(runpy.run_path(str(EXAMPLES / "text.py"))["library"](500_000), encoding="utf-8")
    elif kind == "frames":  # as speech has them
        lengths = random.integers(100, 501, 400)
        x = random.standard_normal((lengths.sum(), 40), np.float32)
        np.savez(path, x=x, lengths=lengths, y=random.integers(126, size=len(x)))
    else:
        dates.write(dates.make(5000, seed=0), path)
    return path


def shares(kind: str, options: dict[str, Any], steps: int, path: Path) -> tuple[float, float, float]:
    """Percent of the time of training in the core, and in torch's operations; milliseconds a step."""
    config, parts = CONFIGS[kind](epochs=1, steps_per_epoch=steps, threads=1, **options), task.task(kind)
    data = parts.read([path], config)

    def timed(profile: cProfile.Profile | None = None) -> float:
        job = parts.job(data, config, task.Share())
        job.score = lambda: {"nothing": (0.0, 1)}  # type: ignore[method-assign] # training alone
        begin = time.perf_counter()
        loop.train(job) if profile is None else profile.runcall(loop.train, job)
        return time.perf_counter() - begin

    timed()  # what is made once is made now
    whole, core, torch_ = [], [], []
    for _ in range(ROUNDS):
        whole.append(timed())
        timed(profile := cProfile.Profile())
        calls = pstats.Stats(profile).stats.items()  # type: ignore[attr-defined]
        own = {key: times[2] for key, times in calls}
        core.append(sum(seconds for (_, _, name), seconds in own.items() if name in CORE))
        torch_.append(sum(seconds for (file, _, name), seconds in own.items() if file == "~" and "torch" in name))
    time_ = statistics.median(whole)
    return 100 * statistics.median(core) / time_, 100 * statistics.median(torch_) / time_, 1000 * time_ / steps


def main() -> int:
    """0 if all is as it must be."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_speed", description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=CONFIGS, help="one of them only (all)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(highlight=False)
    table = Table(
        "task", "options", "ms a step", "core %", "torch %", "together %", title="Where the time of training goes"
    )
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        for kind, options, steps, least in ROWS:
            if given.task in (None, kind):
                core, torch_, time_ = shares(kind, options, steps, make(kind, Path(folder)))
                said = ", ".join(f"{name} {value}" for name, value in options.items() if name != "target")
                numbers = (f"{time_:.2f}", f"{core:.0f}", f"{torch_:.0f}", f"{core + torch_:.0f}")
                table.add_row(kind, said or "defaults", *numbers)
                if core + torch_ < least:
                    failures.append(f"{kind}, {said or 'defaults'}: {core + torch_:.1f} %, expected {least:g}")
    console.print(table)
    for failure in failures:
        console.print(f"FAIL: {failure}", soft_wrap=True)
    if not failures:
        console.print("pass")
    return len(failures) > 0


if __name__ == "__main__":
    sys.exit(main())
