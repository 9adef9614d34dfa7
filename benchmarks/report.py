"""What is told of the times: tables of plain text, and files."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean
from typing import Any, NamedTuple

from .peers import PEERS, VARIANTS
from .problems import TASKS, Problem


@dataclass(frozen=True)
class Machine:
    """Where and with what the times were taken. `limit`: operations a second. `others`: what other processes had."""

    processor: str
    threads: int
    limit: float
    others: float
    versions: dict[str, str]


class Row(NamedTuple):
    """One peer on one problem. `seconds` is None where it was wrong, and `wrong` says why."""

    problem: Problem
    peer: str
    seconds: float | None
    wrong: str
    speedup: float | None  # the peer's time over openlstm's
    share: float | None  # of the machine's limit


def rows(asked: list[Problem], names: list[str], found: dict[Any, Any], machine: Machine) -> list[Row]:
    """One for every answer."""
    made = []
    for problem in asked:
        ours = found.get((problem.name, "openlstm"))
        for name in names:
            value = found.get((problem.name, name))
            if value is None:
                continue
            if isinstance(value, str):
                made.append(Row(problem, name, None, value, None, None))
                continue
            speedup = value / ours if isinstance(ours, float) else None
            # The small model does more than its recurrent layers, which alone are counted.
            share = None if problem.task == "model" else problem.operations / value / machine.limit
            made.append(Row(problem, name, value, "", speedup, share))
    return made


def heading(machine: Machine, rounds: int, bound: bool) -> str:
    """The machine, and how the numbers are to be read."""
    where = "bound to as many processors" if bound else "not bound to processors: this system cannot"
    used = sorted({item for text in machine.versions.values() for item in _pairs(text)})
    return f"""
{machine.processor}, {machine.threads} threads, {where}
{", ".join(used)}
Medians in milliseconds, of {rounds} round{"s" * (rounds > 1)}. In brackets: how many times openlstm's time it takes.
limit: the share of {machine.limit / 1e9:.0f} GFLOP/s that openlstm reaches. That is the fastest of many large float32
matrix products here, by torch and by numpy: a stand-in for the limit of multiply-and-add instructions."""


def _pairs(text: str) -> list[str]:
    words = text.split()
    return [" ".join(words[k : k + 2]) for k in range(0, len(words), 2)]


def _number(seconds: float) -> str:
    milliseconds = seconds * 1e3
    return f"{milliseconds:.3g}" if milliseconds < 100 else f"{milliseconds:.0f}"


def _lines(cells: list[list[str]]) -> list[str]:
    """Columns side by side, the first to the left and the others to the right."""
    widths = [max(len(line[k]) for line in cells) for k in range(len(cells[0]))]
    return [
        "  ".join(
            text.rjust(width) if k else text.ljust(width)
            for k, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    ]


def table(found: list[Row], task: str) -> str:
    """One task: a line for each problem, a column for each peer; then means and minima, and what was wrong."""
    names = list(dict.fromkeys(row.peer for row in found))
    by_problem: dict[Problem, dict[str, Row]] = {}
    for row in found:
        by_problem.setdefault(row.problem, {})[row.peer] = row
    plain = {
        (row.problem.form, row.problem.shape, row.problem.gradient): row.seconds
        for row in found
        if row.peer == "openlstm"
    }
    variants = task in VARIANTS
    cells = [
        [
            "",
            *(PEERS[name].title for name in names),
            *(["limit"] if task != "model" else []),
            *(["of plain"] * variants),
        ]
    ]
    for problem, answers in by_problem.items():
        label = f"{problem.form} {problem.shape}" + (" training" if task == "variants" and problem.gradient else "")
        line = [label, *(_cell(answers.get(name)) for name in names)]
        ours = answers.get("openlstm")
        if task != "model":
            line.append(f"{ours.share:.0%}" if ours and ours.share else "-")
        if variants:
            base = plain.get((problem.plain, problem.shape, problem.gradient))
            line.append(f"{ours.seconds / base:.2f}" if ours and ours.seconds and base else "-")
        cells.append(line)
    text = [f"\n{task}: {TASKS[task]}", *(_lines(cells) if by_problem else ["nothing was timed"])]
    text += _summary(found, names)
    text += [
        f"wrong, no time: {PEERS[row.peer].title}, {row.problem.form} {row.problem.shape}: {row.wrong}"
        for row in found
        if row.wrong
    ]
    if any(row.share and row.share > 1 for row in found):
        text.append(
            "A share above 100 % is not possible: something disturbed the measured limit. Run again when it is quiet."
        )
    return "\n".join(text)


def _cell(row: Row | None) -> str:
    if row is None:
        return "-"
    if row.seconds is None:
        return "wrong"
    text = _number(row.seconds)
    return text if row.peer == "openlstm" or row.speedup is None else f"{text} ({row.speedup:.2f})"


def _summary(found: list[Row], names: list[str]) -> list[str]:
    """Geometric means and minima of the ratios."""
    cells = [["openlstm is faster", "mean", "least", "at"]]
    for name in names:
        ratios = [(row.speedup, row.problem) for row in found if row.peer == name != "openlstm" and row.speedup]
        if ratios:
            least, problem = min(ratios, key=lambda pair: pair[0])
            mean = geometric_mean([ratio for ratio, _ in ratios])
            cells.append(
                [f"than {PEERS[name].title}", f"{mean:.2f}", f"{least:.2f}", f"{problem.form} {problem.shape}"]
            )
    return ["", *_lines(cells)] if len(cells) > 1 else []


COLUMNS = (
    *("task", "cell", "shape", "pass", "peer", "milliseconds", "speedup", "share", "wrong"),
    *("processor", "threads", "limit_gflops", "others", "versions"),
)


def write(found: list[Row], path: Path, machine: Machine) -> None:
    """The rows as CSV: whole, or the old file stays. `speedup` is the peer's time over openlstm's."""
    beside = path.with_suffix(".part")
    try:
        with beside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            for row in found:
                problem = row.problem
                numbers = [
                    "" if value is None else f"{value:.4g}"
                    for value in (row.seconds and row.seconds * 1e3, row.speedup, row.share)
                ]
                writer.writerow(
                    [
                        *(problem.task, problem.form, problem.shape),
                        *("forward+backward" if problem.gradient else "forward", PEERS[row.peer].title),
                        *(*numbers, row.wrong, machine.processor, machine.threads),
                        *(f"{machine.limit / 1e9:.1f}", f"{machine.others:.2f}", machine.versions[row.peer]),
                    ]
                )
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
