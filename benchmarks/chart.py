"""The chart: how many times as fast as torch.nn openlstm is, for each shape, in inference and in training."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from .problems import CELLS
from .report import Machine, Row

# Apart in grey print too.
COLOURS = {"lstm": "#1f4e79", "gru": "#5b9bd5", "rnn": "#c9c9c9"}
PANELS = ("inference", "training")


def draw(rows: list[Row], machine: Machine, folder: Path) -> bool:
    """Writes speed.svg and speed.png. False, and nothing is written, where there is nothing to show."""
    found = {
        (row.problem.task, row.problem.shape, row.problem.spec.cell): row.speedup
        for row in rows
        if row.peer == "torch" and row.speedup and row.problem.task in PANELS
    }
    if not found:
        return False
    tasks = [task for task in PANELS if any(key[0] == task for key in found)]
    shapes = {task: list(dict.fromkeys(key[1] for key in found if key[0] == task)) for task in tasks}
    cells = [cell for cell in CELLS if any(key[2] == cell for key in found)]
    most = max(len(names) for names in shapes.values())
    thick = 0.8 / len(cells)
    with matplotlib.rc_context({"font.size": 9, "svg.fonttype": "path", "svg.hashsalt": "openlstm"}):
        height = 1.4 + most * (0.18 + 0.17 * len(cells))
        figure = Figure(figsize=(5.2 * len(tasks), height), layout="constrained")
        for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
            longest = max(value for key, value in found.items() if key[0] == task)
            for j, cell in enumerate(cells):
                places = [k + (j - (len(cells) - 1) / 2) * thick for k in range(len(shapes[task]))]
                values = [found.get((task, shape, cell), 0.0) for shape in shapes[task]]
                bars = axes.barh(places, values, thick, color=COLOURS[cell], label=cell.upper())
                texts = [f"{value:.1f}" if value else "" for value in values]
                # On white, because the line at 1 may run behind a number.
                behind = {"facecolor": "white", "edgecolor": "none", "pad": 0.4}
                axes.bar_label(bars, texts, padding=2, fontsize=7, bbox=behind)
            axes.axvline(1, color="black", linewidth=0.8)
            axes.set_yticks(range(len(shapes[task])), [_label(shape) for shape in shapes[task]])
            axes.set_ylim(most - 0.5, -0.5)  # the first on top, and bars of one size in both panels
            axes.set_xlim(0, longest * 1.12)
            axes.set_title(task)
            axes.set_xlabel("times as fast as torch.nn")
            axes.spines[["top", "right"]].set_visible(False)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=len(cells), frameon=False)
        versions = machine.versions["openlstm"].replace(" torch ", ", torch ")
        figure.supxlabel(f"{machine.processor}, {machine.threads} threads\n{versions}", fontsize=8)
        for ending, options in (("svg", {"metadata": {"Date": None}}), ("png", {"dpi": 150})):
            beside = folder / f"speed.part.{ending}"
            figure.savefig(beside, **options)
            beside.replace(folder / f"speed.{ending}")
    return True


def _label(shape: object) -> str:
    time, batch, inputs, units, layers = shape
    return f"T{time} B{batch} I{inputs} H{units}" + (f" L{layers}" if layers > 1 else "")
