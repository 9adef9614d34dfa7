"""One peer in a process of its own: `python -m benchmarks.worker`, started by `run.py`.

It reads its orders from standard input and gives one line of JSON for each problem. A time is given only where the
results agree with the reference's, which an earlier process has left in a folder.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import peers
from .problems import Problem, Shape

TOLERANCE = 1e-3  # of the largest number in an array
LEAST, MOST = 3, 3000  # calls that are timed


def seconds(call: Callable[[], Any], budget: float) -> float:
    """The median of one call, over as many as fit in `budget` seconds."""
    until = time.perf_counter() + budget / 4  # first calls make memory and caches ready
    call()
    while time.perf_counter() < until:
        call()
    found: list[float] = []
    begun = time.perf_counter()
    while len(found) < LEAST or (len(found) < MOST and time.perf_counter() < begun + budget):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def results(call: Callable[[], Any], read: Callable[[Any], peers.Arrays], calls: int) -> peers.Arrays:
    """What the first calls give, stacked. They are copied, for a later call may write where an earlier one did."""
    found = [{name: np.array(value) for name, value in read(call()).items()} for _ in range(calls)]
    return {name: np.stack([one[name] for one in found]) for name in found[0]}


def difference(found: peers.Arrays, expected: peers.Arrays) -> tuple[float, str]:
    """The largest difference, relative to the largest number of its array, and that array's name."""
    missing = expected.keys() - found.keys()
    if missing:
        raise RuntimeError(f"it gives no {', '.join(sorted(missing))}")
    worst = 0.0, ""
    for name, right in expected.items():
        if found[name].shape != right.shape:
            raise RuntimeError(f"its {name} has shape {found[name].shape}, expected {right.shape}")
        # After one step from a state of zeros the gradient by weight_hh is 0: then the difference itself counts.
        error = float(np.abs(found[name] - right).max() / (np.abs(right).max() or 1))
        worst = max(worst, (error if np.isfinite(error) else np.inf, name))
    return worst


def limit(threads: int) -> float:
    """Operations a second: the fastest of several large float32 products, by torch and by numpy.

    It stands in for the limit of multiply-and-add instructions, and is somewhat below it. The libraries have their
    turns one after the other: called in turn, the spinning threads of each would slow the other's.
    """
    import torch

    torch.set_num_threads(threads)
    size = 2048
    a = np.random.default_rng(0).standard_normal((size, size), np.float32)
    b = torch.from_numpy(a)
    best = np.inf
    for product in (lambda: b @ b, lambda: a @ a):
        for _ in range(10):
            start = time.perf_counter()
            product()
            best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def answer(order: dict[str, Any], problem: Problem) -> dict[str, Any]:
    """Makes the problem ready, compares, and only then times."""
    file = Path(order["expected"], f"{problem.name}.npz")
    name = order["peer"]
    ready = peers.reference if name == "reference" else peers.PEERS[name].ready
    made = ready(problem, order["threads"])
    if made is None:
        return {"none": True}
    call, read = made
    found = results(call, read, problem.calls)
    if name == "reference":
        np.savez(file, **found)
        return {"none": True}
    with np.load(file) as expected:
        error, where = difference(found, dict(expected))
    if error > TOLERANCE:
        return {"wrong": f"{where} is off by {error:.1e} of its largest number"}
    return {"seconds": seconds(call, order["budget"]), "error": error}


def main() -> None:
    """Answers all orders."""
    order = json.load(sys.stdin)
    # Libraries print too: the lines go out by a channel of their own, and all else to standard error.
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        if order["peer"] == "limit":
            print(json.dumps({"limit": limit(order["threads"])}), file=out, flush=True)
            return
        for task, spec, shape, gradient in order["problems"]:
            problem = Problem(task, spec, Shape.parse(shape), gradient)
            try:
                line = answer(order, problem)
            except Exception as error:
                text = (str(error).strip() or repr(error)).splitlines()[0]
                line = {"wrong": f"{type(error).__name__}: {text[:200]}"}
            print(json.dumps({"name": problem.name, **line}), file=out, flush=True)


if __name__ == "__main__":
    main()
