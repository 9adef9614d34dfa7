"""What a step of a stream costs: `python -m benchmarks.stream`, three minutes on an idle machine.

One stream, layers of H units with H inputs: openlstm.Stream with float32, bfloat16 and int8 weights, beside a step of
torch.nn.LSTM and of ONNX Runtime, and, for small weights, torch's dynamic quantisation and ONNX Runtime's
DynamicQuantizeLSTM. Then 10,000 streams at once: steps of one stream in a second, and memory for each.

Each rival has a process of its own, one after the other, and that three times; the medians are shown. Before it is
timed, what it says is compared with the float32 model's: the largest difference, by the size of the outputs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

ROUNDS, CHECKED = 3, 20  # processes of each rival; steps that are compared
SIZES = (64, 256, 512, 1024)
MANY, UNITS = 10_000, 64
TOLERANCE = {"openlstm": 1e-5, "torch.nn": 1e-4, "ONNX Runtime": 1e-4}  # small weights may differ by more
RIVALS = (
    "openlstm",
    "openlstm bfloat16",
    "openlstm int8",
    "torch.nn",
    "torch int8",
    "ONNX Runtime",
    "ONNX Runtime int8",
)


def weights(size: int, units: int) -> dict[str, np.ndarray]:
    """Of one layer, as torch.nn begins."""
    random = np.random.default_rng(0)
    shapes = {"weight_ih_l0": (4 * units, size), "weight_hh_l0": (4 * units, units)}
    shapes |= {"bias_ih_l0": (4 * units,), "bias_hh_l0": (4 * units,)}
    return {name: random.uniform(-1, 1, shape).astype(np.float32) / units**0.5 for name, shape in shapes.items()}


def model(path: Path, size: int) -> None:
    """A model file."""
    from openlstm import file

    file.write(path, weights(size, size), {"spec": f"lstm({size}, {size})"})


def ours(size: int, kind: str, folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """A step of a stream."""
    from openlstm import Stream

    model(folder / "m.safetensors", size)
    stream = Stream.load(folder / "m.safetensors", weights=kind)
    out = np.empty(size, np.float32)
    return lambda x: stream.step(x, out)


def torchs(size: int, small: bool) -> Callable[[np.ndarray], np.ndarray]:
    """A step of torch.nn.LSTM, with the state carried."""
    import torch

    torch.set_num_threads(1)
    layer: Any = torch.nn.LSTM(size, size).eval()
    layer.load_state_dict({name: torch.from_numpy(array) for name, array in weights(size, size).items()})
    if small:
        layer = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(layer), {torch.nn.LSTM}, torch.qint8)[0]
    state = [(torch.zeros(1, 1, size), torch.zeros(1, 1, size))]
    torch.set_grad_enabled(False)

    def step(x: np.ndarray) -> np.ndarray:
        y, state[0] = layer(torch.from_numpy(x).view(1, 1, size), state[0])
        found: np.ndarray = y.numpy()
        return found

    return step


def runtime(size: int, small: bool, folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """A step of ONNX Runtime's LSTM, with the state carried."""
    from types import SimpleNamespace

    import onnx
    import onnxruntime

    from openlstm.spec import Spec

    from .foreign import onnx_model

    shape = SimpleNamespace(time=1, batch=1, inputs=size, units=size, layers=1)
    problem: Any = SimpleNamespace(spec=Spec.of("lstm", size, size), shape=shape, parameters=weights(size, size))
    problem.task = "streaming"
    path = folder / "m.onnx"
    path.write_bytes(onnx_model(problem))
    if small:
        from onnxruntime.quantization import quantize_dynamic

        path = folder / "q.onnx"
        quantize_dynamic(folder / "m.onnx", path, op_types_to_quantize=["LSTM"])
        kinds = {node.op_type for node in onnx.load(path).graph.node}
        if "DynamicQuantizeLSTM" not in kinds:
            raise RuntimeError(f"it made {', '.join(sorted(kinds))} of the LSTM")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    state = [np.zeros((1, 1, size), np.float32), np.zeros((1, 1, size), np.float32)]

    def step(x: np.ndarray) -> np.ndarray:
        y, *state[:] = session.run(None, {"x": x.reshape(1, 1, size), "h0": state[0], "c0": state[1]})
        found: np.ndarray = y
        return found

    return step


def worker(rival: str, size: int) -> dict[str, float]:
    """The median time of a step in microseconds, and the difference from the float32 model."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = "int8" in rival
        step = (
            ours(size, rival.partition(" ")[2] or "float32", folder)
            if rival.startswith("openlstm")
            else torchs(size, small)
            if rival.startswith("torch")
            else runtime(size, small, folder)
        )
        x = np.random.default_rng(1).standard_normal((CHECKED, size)).astype(np.float32)
        found = np.stack([step(row).ravel().copy() for row in x])
        from openlstm import Stream

        model(folder / "r.safetensors", size)
        expected = Stream.load(folder / "r.safetensors", backend="numpy").run(x)
        error = float(np.abs(found - expected).max() / np.abs(expected).max())
        times, until = [], time.perf_counter() + 1.0
        row, clock = x[0], time.perf_counter
        while clock() < until:
            begin = clock()
            for _ in range(20):
                step(row)
            times.append((clock() - begin) / 20)
    return {"us": statistics.median(times) * 1e6, "error": error}


def many() -> dict[str, float]:
    """10,000 streams: steps of one stream in a second, and memory for each in bytes."""
    import resource

    from openlstm import Stream

    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "m.safetensors"
        model(path, UNITS)
        Stream.load(path).step(np.zeros(UNITS, np.float32))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        stream = Stream.load(path, MANY, threads=2)
        x = np.random.default_rng(0).standard_normal((MANY, UNITS)).astype(np.float32)
        base = x.nbytes * 2  # what goes in and comes out is the caller's
        out = np.empty((MANY, UNITS), np.float32)
        stream.step(x, out)
        memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 - base
        times = []
        for _ in range(50):
            begin = time.perf_counter()
            stream.step(x, out)
            times.append(time.perf_counter() - begin)
    return {"rate": MANY / statistics.median(times), "memory": memory / MANY}


def asked(*arguments: str) -> list[dict[str, Any]]:
    """What a process says that was told this, several times."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.stream", "--worker", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode:
        return [{"why": done.stderr.strip().splitlines()[-1] if done.stderr else "it ended"}]
    return [json.loads(done.stdout.splitlines()[-1])]


def main() -> int:
    """0 if the results that are compared agree."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stream", description=__doc__.splitlines()[0])
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="units (%(default)s)")
    given = parser.parse_args()
    if given.worker:
        found = many() if given.worker == ["many"] else worker(given.worker[0], int(given.worker[1]))
        print(json.dumps(found))
        return 0
    console = Console(highlight=False, width=120)
    table = Table("rival", *(f"H = {size}" for size in given.sizes), title="Microseconds for one step of one stream")
    failures = []
    all_: dict[tuple[str, int], list[Any]] = {(rival, size): [] for rival in RIVALS for size in given.sizes}
    for _ in range(ROUNDS):
        for rival, size in all_:
            all_[rival, size] += asked(rival, str(size))
    base = {size: statistics.median(one.get("us", np.nan) for one in all_["openlstm", size]) for size in given.sizes}
    for rival in RIVALS:
        cells = []
        for size in given.sizes:
            found = [one for one in all_[rival, size] if "us" in one]
            if not found:
                cells.append("-")
                console.print(f"{rival}, H = {size}: {all_[rival, size][0]['why']}", soft_wrap=True)
                continue
            time_, error = statistics.median(one["us"] for one in found), found[0]["error"]
            cells.append(f"{time_:.1f}  ({time_ / base[size]:.2f}, differs by {error:.1g})")
            if error > TOLERANCE.get(rival, 0.1):
                failures.append(f"{rival}, H = {size}: differs by {error:.2g}")
        table.add_row(rival, *cells)
    console.print(table)
    rounds = [asked("many")[0] for _ in range(ROUNDS)]
    rate, memory = (statistics.median(one[what] for one in rounds) for what in ("rate", "memory"))
    told = f"{rate / 1e6:.2f} million steps a second, {memory:,.0f} bytes each"
    console.print(f"{MANY:,} streams of {UNITS} units, two threads: {told}")
    for failure in failures:
        console.print(f"FAIL: {failure}", soft_wrap=True)
    return len(failures) > 0


if __name__ == "__main__":
    sys.exit(main())
