"""Times openlstm beside other libraries: `python -m benchmarks.run --help`.

Each peer runs in a process of its own, because threads that spin disturb those of others. The peers take turns, several
times, and what is reported is the median over these rounds of each round's median.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

try:
    import resource
except ImportError:  # Windows has none, and no way to bind a process either
    resource = None

from . import report
from .peers import PEERS
from .problems import CELLS, SHAPES, TASKS, Problem, Shape, problems

DISTURBED = 0.1  # share of our processors; a spinning thread that waits for one of two that are taken waits long

EPILOG = f"""tasks:
{chr(10).join(f"  {name:<10} {text}" for name, text in TASKS.items())}

peers, and what each needs:
{chr(10).join(f"  {name:<15} {peer.title:<20} pip install {' '.join(peer.packages)}" for name, peer in PEERS.items())}
  One that is not installed is left out, and a line says so.

shapes are TxBxIxHxL: steps, sequences, inputs, units, layers. Those that are run by default:
{chr(10).join(f"  {task:<10} {' '.join(str(shape) for shape in shapes)}" for task, shapes in SHAPES.items())}

Every peer has the same weights and inputs. Its result (the outputs and states; in training the outputs and the
gradients by x and by all weights; of the model the losses of three steps) is compared with openlstm's reference in
float64 first. One that is off by more than 1e-3 of the largest number is reported as wrong and gets no time.

examples:
  python -m benchmarks.run --quick
  python -m benchmarks.run --tasks inference --shapes 100x32x256x256 --peers torch,onnxruntime
"""


def choice(known: Any) -> Any:
    """The type of an argument: names out of `known`, with commas between."""

    def read(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",")]
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"'{name}': expected some of {','.join(known)}")
        return list(dict.fromkeys(names))

    return read


def shapes(text: str) -> list[Shape]:
    """The type of an argument: shapes with commas between."""
    try:
        return [Shape.parse(part.strip()) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def count(text: str) -> int:
    """The type of an argument: a number of at least 1."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"'{text}': expected a whole number of at least 1")
    return int(text)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run",
        description="Times openlstm beside other libraries.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--tasks", type=choice(TASKS), default=list(TASKS), metavar="A,B", help="which tasks (all)")
    add("--cells", type=choice(CELLS), metavar="A,B", help="which cells (all; with --quick lstm and gru)")
    add("--shapes", type=shapes, metavar="TxBxIxHxL,...", help="shapes instead of each task's own")
    add("--peers", type=choice(PEERS), default=list(PEERS), metavar="A,B", help="which peers beside openlstm (all)")
    add("--rounds", type=count, metavar="N", help="how often every peer has its turn (3; with --quick 1)")
    add("--threads", type=count, default=2, metavar="N", help="threads of each peer (2)")
    add("--quick", action="store_true", help="few small shapes, one round, short times: one or two minutes")
    add("--limit", type=count, default=3600, metavar="S", help="seconds that one process may take (3600)")
    add(
        "--out",
        type=Path,
        default=Path("benchmarks/results"),
        metavar="DIR",
        help="where CSV and chart go (%(default)s)",
    )
    given = parser.parse_args()
    given.rounds = given.rounds or (1 if given.quick else 3)
    given.cells = given.cells or (["lstm", "gru"] if given.quick else list(CELLS))
    given.peers = ["openlstm", *(name for name in given.peers if name != "openlstm")]
    return given


def processor() -> str:
    """What the machine says of its processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def cpus(threads: int) -> list[int]:
    """As many processors as threads, on cores of their own; none where the system cannot bind a process.

    Some peers take as many threads as they see processors, whatever they are told.
    """
    if not hasattr(os, "sched_setaffinity"):
        return []
    ours = sorted(os.sched_getaffinity(0))
    cores = {}
    for cpu in ours:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.setdefault(siblings.read_text() if siblings.exists() else cpu, cpu)
    chosen = [*cores.values(), *(cpu for cpu in ours if cpu not in cores.values())]
    return chosen[:threads]


def busy(chosen: list[int]) -> float | None:
    """Seconds for which these processors have worked since the machine began. None where the system does not say."""
    try:
        lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
        ticks = {line[0]: [int(number) for number in line[1:9]] for line in lines if line[0].startswith("cpu")}
        # All but idle time and waiting for disks; what other guests of the machine stole counts too.
        return sum(sum(ticks[f"cpu{cpu}"]) - sum(ticks[f"cpu{cpu}"][3:5]) for cpu in chosen) / os.sysconf("SC_CLK_TCK")
    except (OSError, KeyError, ValueError):
        return None


def versions(name: str) -> str | None:
    """The versions of what a peer needs. None where something is missing."""
    try:
        return " ".join(f"{package} {version(package)}" for package in PEERS[name].packages)
    except PackageNotFoundError:
        return None


def children() -> float:
    """Seconds for which our processes that have ended have worked."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN) if resource else None
    return used.ru_utime + used.ru_stime if used else 0.0


class Runner:
    """Starts the processes."""

    def __init__(self, given: argparse.Namespace, folder: str) -> None:
        self.given, self.folder, self.cpus = given, folder, cpus(given.threads)
        self.others = 0.0  # the largest share of our processors that other processes had while one of ours ran
        if self.cpus:
            os.sched_setaffinity(0, self.cpus)  # every thread of every process that is started from here has it too
        threads = str(given.threads)
        variables = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENLSTM_NUM_THREADS")
        self.environment = os.environ | dict.fromkeys(variables, threads) | {
            "JAX_PLATFORMS": "cpu",
            # Later rounds find what the first has compiled, and nothing stays on the machine.
            "TORCHINDUCTOR_CACHE_DIR": os.path.join(folder, "compiled"),
            "OPENLSTM_CACHE": os.path.join(folder, "bodies"),
        }  # fmt: skip

    def __call__(self, peer: str, asked: list[Problem]) -> list[dict[str, Any]]:
        """One process: its lines. What it did not come to is reported as wrong, with the reason."""
        order = {
            "peer": peer,
            "threads": self.given.threads,
            "budget": 0.15 if self.given.quick else 0.5,
            "expected": self.folder,
            "problems": [(p.task, p.spec_text, str(p.shape), p.gradient) for p in asked],
        }
        start, before, own = time.perf_counter(), busy(self.cpus), children()
        log = Path(self.folder, f"{peer}.log")
        with log.open("w") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=self.environment,
                cwd=Path(__file__).parent.parent,
            )
            timer = threading.Timer(self.given.limit, process.kill)
            timer.start()
            try:
                output, _ = process.communicate(json.dumps(order))
            finally:
                timer.cancel()
                process.kill()
        after, spent = busy(self.cpus), time.perf_counter() - start
        if self.cpus and before is not None and after is not None and peer != "reference":  # which is not timed
            others = (after - before - (children() - own)) / (len(self.cpus) * spent)
            self.others = max(self.others, others)
            if others > DISTURBED:
                print(f"{peer}: other processes had {others:.0%} of its processors, its times are off", file=sys.stderr)
        # A process that is killed may leave half a line.
        lines = [json.loads(line) for line in output.splitlines(keepends=True) if line.endswith("\n")]
        if process.returncode:
            last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:]
            reason = f"the process ended with {process.returncode}: {' '.join(last)[:200]}"
            told = {line.get("name") for line in lines}
            lines += [{"name": problem.name, "wrong": reason} for problem in asked if problem.name not in told]
        return lines


def measure(
    given: argparse.Namespace, run: Runner, asked: list[Problem], names: list[str]
) -> tuple[dict[Any, Any], float]:
    """For (problem's name, peer): the seconds, or in words what is wrong. And the machine's limit.

    The limit is the best of all rounds: another process that was at work during one must not lower it.
    """
    limits = []
    wrong = [line for line in run("reference", asked) if "wrong" in line]
    if wrong:
        sys.exit(f"The reference failed on {wrong[0]['name']}: {wrong[0]['wrong']}")
    times: dict[tuple[str, str], list[float]] = {}
    reasons: dict[tuple[str, str], str] = {}
    some = {name: asked for name in names}
    for turn in range(given.rounds + 1):
        limits += [line["limit"] for line in run("limit", [])]
        # Whoever comes first after the limit may find a cooler machine: every second round goes the other way.
        order = names[:: -1 if turn % 2 else 1]
        for name in order if turn < given.rounds else ():  # the limit is measured after the last one too
            start = time.perf_counter()
            lines = run(name, some[name])
            for line in lines:
                key = line["name"], name
                if "wrong" in line:
                    reasons[key] = line["wrong"]
                elif "seconds" in line:
                    times.setdefault(key, []).append(line["seconds"])
            # What a peer has no form of, or has failed at, is not asked again.
            some[name] = [problem for problem in some[name] if (problem.name, name) in times.keys() - reasons.keys()]
            spent = time.perf_counter() - start
            print(
                f"round {turn + 1} of {given.rounds}: {PEERS[name].title}, {spent:.0f} s", file=sys.stderr, flush=True
            )
    if not limits:
        sys.exit("The machine's limit could not be measured: is torch installed?")
    return {key: statistics.median(found) for key, found in times.items()} | reasons, max(limits)


def main() -> None:
    """Runs what the command line asks for, prints the tables and writes the files."""
    given = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that no process and no folder is left behind
    names = []
    for name in given.peers:
        if versions(name) is None:
            print(f"{PEERS[name].title} is left out: it needs pip install {' '.join(PEERS[name].packages)}", flush=True)
        else:
            names.append(name)
    if "openlstm" not in names:
        sys.exit("openlstm itself is not installed: nothing to compare. See the line above")
    asked = problems(given.tasks, given.cells, given.shapes, given.quick)
    with tempfile.TemporaryDirectory() as folder:
        run = Runner(given, folder)
        found, limit = measure(given, run, asked, names)
        others = run.others
        machine = report.Machine(
            processor(), given.threads, limit, others, {name: versions(name) or "" for name in names}
        )
        rows = report.rows(asked, names, found, machine)
    print(report.heading(machine, given.rounds, bool(run.cpus)))
    if others > DISTURBED:
        print(
            f"\nNOT TO BE QUOTED: other processes had up to {others:.0%} of the processors. Run again when it is quiet."
        )
    given.out.mkdir(parents=True, exist_ok=True)
    for task in given.tasks:
        print(report.table([row for row in rows if row.problem.task == task], task))
        report.write([row for row in rows if row.problem.task == task], given.out / f"{task}.csv", machine)
    try:
        from . import chart
    except ImportError as error:
        print(f"No chart: it needs pip install matplotlib ({error})")
        return
    if chart.draw(rows, machine, given.out):
        print(f"Wrote {given.out}/<task>.csv, speed.svg and speed.png")
    else:
        print(f"Wrote {given.out}/<task>.csv; no chart, for torch.nn was not timed in inference or training")


if __name__ == "__main__":
    main()
