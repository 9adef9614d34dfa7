"""What the experiment found, as the tables of docs/sak2014.md and its curves: python -m benchmarks.sak2014.report

Reads benchmarks/results/sak2014.csv, prints the tables as Markdown and writes sak2014_curves.svg and .png.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from openlstm import plots

from . import speed
from .experiment import EPOCHS, LSTM, RESULTS, WINDOW, Found, read

COLOURS = {
    "RNN": "#9e9e9e",
    "RNN, projected": "#616161",
    "GRU": "#548235",
    "LSTM": "#5b9bd5",
    "LSTM, coupled gates": "#2aa5a0",
    LSTM: "#1f4e79",
    "LSTMP": "#c55a11",
    "LSTMP, r and p": "#e3a21a",
    WINDOW: "black",
}


def spread(values: Sequence[float]) -> str:
    """Mean and deviation."""
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def groups(found: Iterable[Found]) -> list[list[Found]]:
    """The whole runs that differ in their seeds alone."""
    kinds: dict[object, list[Found]] = {}
    for each in found:
        if not each.sentences:
            kinds.setdefault(replace(each.asked, seed=0), []).append(each)
    return list(kinds.values())


def main_runs(found: Iterable[Found], context: bool) -> list[list[Found]]:
    """Those of the main table, in its order."""
    own = [group for group in groups(found) if group[0].context == context and group[0].row in COLOURS]
    own = [group for group in own if group[0].noise and group[0].epochs == EPOCHS]
    return sorted(own, key=lambda group: (group[0].layers, list(COLOURS).index(group[0].row)))


def others(found: Iterable[Found]) -> list[list[Found]]:
    """Those that tell what the feed-forward net's place depends on."""
    own = [group for group in groups(found) if not group[0].context and group[0].layers == 1]
    return [group for group in own if group[0].row == LSTM or group[0].row.startswith(WINDOW)]


def table(runs: Iterable[list[Found]]) -> list[str]:
    """As Markdown, a line for each form."""
    lines = [
        "| form | layers | weights | rate | epochs | seen words % | new words % |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for group in runs:
        first = group[0]
        name = first.row if first.noise else f"{first.row}, without noise"
        told = [spread([getattr(each, kind) for each in group]) for kind in ("seen", "new")]
        cells = (name, first.layers, f"{first.weights:,}", f"{first.rate:g}", first.epochs, *told)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def grid(found: Iterable[Found], context: bool) -> list[str]:
    """The development frames that are right after the short runs, for each rate, as Markdown."""
    own = [each for each in found if each.sentences and each.context == context]
    rates = sorted({each.rate for each in own})
    lines = [f"| form | layers | {' | '.join(f'{rate:g}' for rate in rates)} |", "|---|--:|" + "--:|" * len(rates)]
    for row, layers in sorted({(each.row, each.layers) for each in own}, key=lambda key: (key[1], key[0])):
        scores = {each.rate: each.best for each in own if (each.row, each.layers) == (row, layers)}
        best = max(scores.values())
        texts = {rate: f"{score:.1f}" if score < best else f"**{score:.1f}**" for rate, score in scores.items()}
        cells = [texts.get(rate, "") for rate in rates]
        lines.append(f"| {row} | {layers} | {' | '.join(cells)} |")
    return lines


def everything(found: Sequence[Found]) -> list[str]:
    """All tables."""
    lines = []
    for context in (False, True):
        if runs := main_runs(found, context):
            lines += [f"## {'States in context' if context else '126 states'}", "", *table(runs), ""]
            lines += [*grid(found, context), ""]
    return [*lines, "## The feed-forward net", "", *table(others(found))]


def speeds(path: Path) -> list[str]:
    """How fast training is, as Markdown, from what speed.py wrote."""
    found: dict[tuple[str, str, str], dict[str, int]] = {}
    with path.open(newline="", encoding="utf-8") as rows:
        for each in csv.DictReader(rows):
            kinds = found.setdefault((each["row"], each["layers"], each["context"]), {})
            kinds[each["kind"]] = int(each["frames_per_second"])
    lines = []
    own, plain, torchs = speed.KINDS
    for (row, layers, context), kinds in found.items():
        first = kinds.get(own, kinds.get(plain, 0))
        second = kinds[plain] if {own, plain} <= kinds.keys() else None
        ratio = f"{kinds[plain] / kinds[torchs]:.2f}" if torchs in kinds else ""
        shown = [f"{each:,}" if each else "" for each in (first, second, kinds.get(torchs))]
        name = f"{row}, in context" if context == "True" else row
        lines.append(f"| {name} | {layers} | {' | '.join(shown)} | {ratio} |")
    return lines


def curves(found: Sequence[Found]) -> Figure:
    """The development frames that are right over the frames trained on, as the paper's figures 2 to 4."""
    panels = [context for context in (False, True) if main_runs(found, context)]
    with matplotlib.rc_context({"font.size": 9, "svg.fonttype": "path", "svg.hashsalt": "openlstm"}):
        figure = Figure(figsize=(4.6 * len(panels) + 2.2, 4), layout="constrained")
        for axes, context in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            runs = main_runs(found, context)
            ranked = sorted(runs, key=lambda group: max(each.best for each in group))
            best = {(group[0].row, group[0].layers): group for group in ranked}
            for group in runs:
                first = group[0]
                if group is not best[first.row, first.layers]:
                    continue  # of two rates the better one is drawn
                each = np.array([[float(score) for score in one.curve.split()] for one in group]).mean(0)
                frames = first.frames / len(each) * np.arange(1, len(each) + 1) / 1e6
                deep = {1: "-", 2: "--", 5: ":"}[first.layers]
                label = first.row if first.layers == 1 else f"{first.row}, {first.layers} layers"
                axes.plot(frames, each, deep, color=COLOURS[first.row], label=label, linewidth=1.4)
            axes.set_xlabel("million frames trained on")
            axes.set_title("states in context" if context else "126 states")
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", linewidth=0.4, alpha=0.5)
        figure.axes[0].set_ylabel("% of development frames that are right")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8)
    return figure


def main() -> int:
    """0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sak2014.report", description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="what was measured (%(default)s)")
    parser.add_argument("--speeds", type=Path, default=speed.RESULTS, help="how fast that was (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="where the curves go (%(default)s)")
    given = parser.parse_args()
    found = read(given.results)
    print(*everything(found), sep="\n")
    if given.speeds.is_file():
        print("", "## Frames a second in training", "", *speeds(given.speeds), sep="\n")
    if any(main_runs(found, context) for context in (False, True)):
        figure = curves(found)
        for ending in ("svg", "png"):
            plots.write(figure, given.out / f"sak2014_curves.{ending}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
