"""Pictures over time: what the gates and the memory did, and how far back gradients reach."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import file
from .emit import shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .tracing import Floats, Trace

LINES = ("#1b1f24", "#c8401c", "#1f6fb2", "#8a857a", "#2b7d4f", "#8a4fa3")  # differ in lightness, so in print too
DASHES = ("-", "--", ":", "-.")
FONT = "DejaVu Sans Mono"  # of what models read; matplotlib brings it along
SIGNS = {"\n": "↵", "\t": "→"}  # for what cannot be seen


def write(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes a figure to a .png, .svg or .pdf file, whole or not at all. Errors: ValueError, OSError."""
    kind = Path(path).suffix[1:].lower()
    if kind not in ("png", "svg", "pdf"):
        raise ValueError(f"The picture's name is '{os.fspath(path)}': it should end with .png, .svg or .pdf")
    out = io.BytesIO()
    figure.savefig(out, format=kind, dpi=160)
    file.replace(path, out.getvalue())


def gates_figure(
    arrays: Mapping[str, Floats],
    series: Mapping[str, Floats] | Floats | None = None,
    time: Sequence[Any] | Floats | None = None,
    order: str | Sequence[int] | None = None,
    titles: Mapping[str, str] | None = None,
    title: str = "",
    time_label: str = "step",
) -> Figure:
    """Heat maps over time of named values, (T, units) each, under the series that the cell saw.

    `series`: the line above, (T,), or several by name, such as the input and the forecast. `time`: T numbers or dates,
    or texts, such as the characters that were read. `order`: the units from top to bottom, or the name of an array, by
    whose mean over time they are sorted, greatest first. `titles`: words for names. Values within 0 and 1, such as a
    gate's, get one scale; others one even around 0, which ends where 98 % of them do.
    Errors: ValueError where shapes do not fit.

    >>> figure = gates_figure({"f": np.zeros((5, 3)), "c": np.ones((5, 3))}, {"x": np.zeros(5)}, order="c")
    >>> len(figure.axes)  # the series, two maps, and their scales
    5
    """
    if not isinstance(series, Mapping):
        series = {} if series is None else {"input": series}
    steps = _same_steps(arrays, series, time)
    texts = time is not None and len(time) > 0 and isinstance(time[0], str)
    at = np.arange(steps) if time is None or texts else np.asarray(time)
    rows = bool(series) + len(arrays)
    figure = _figure(1.0 + 1.15 * rows + 0.4 * bool(series))
    grid = figure.subplots(rows, 1, sharex=True, squeeze=False, height_ratios=[1.5] * bool(series) + [1] * len(arrays))
    panels = list(grid[:, 0])
    if series:
        axes = panels.pop(0)
        for (name, line), colour in zip(series.items(), LINES, strict=False):
            axes.plot(at, line, lw=1.4, color=colour, label=name)
        axes.set_ylabel(next(iter(series)) if len(series) == 1 else "")
        if len(series) > 1:
            place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0}  # above, where no line is
            axes.legend(frameon=False, fontsize=9, ncols=len(series), **place)
        axes.spines[["top", "right"]].set_visible(False)
    for (name, array), axes in zip(arrays.items(), panels, strict=True):
        array = np.asarray(array)
        places = _places(order, arrays, array.shape[1])
        low, high = float(np.nanmin(array)), float(np.nanmax(array))
        gate = low >= 0 and high <= 1
        # A few units far out would leave the rest without colour: what is beyond the bound has the last one.
        bound = float(np.nanpercentile(np.abs(array), 98)) or max(-low, high) or 1.0
        image = axes.pcolormesh(
            at,
            np.arange(len(places)),
            array[:, places].T,
            shading="nearest",
            cmap="cividis" if gate else "RdBu_r",
            vmin=0 if gate else -bound,
            vmax=1 if gate else bound,
            rasterized=True,
        )
        axes.invert_yaxis()
        axes.set_yticks(sorted({0, len(places) - 1}) if order is None else [])
        words = (titles or {}).get(name, name).split()
        axes.set_ylabel("\n".join([*words, *(["unit"] if order is None else [])]))
        extend = "neither" if gate else ("neither", "min", "max", "both")[(low < -bound) + 2 * (high > bound)]
        bar = figure.colorbar(image, ax=axes, pad=0.01, aspect=9, extend=extend)
        bar.set_ticks([0, 1] if gate else [-bound, 0, bound], labels=["0", "1"] if gate else None)
        if not gate:
            bar.ax.set_yticklabels([f"{tick:.2g}" for tick in (-bound, 0, bound)])
        bar.outline.set_visible(False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.tick_params(length=2)
    for axes in grid[:-1, 0]:
        axes.tick_params(labelbottom=False)
    if texts:
        words = [drawable(text, space="\N{OPEN BOX}") for text in time or ()]
        slope = 0 if max(map(len, words)) == 1 else 90
        grid[-1, 0].set_xticks(at, words, family=FONT, fontsize=7, rotation=slope, parse_math=False)
    else:
        grid[-1, 0].set_xlabel(time_label)
    if isinstance(order, str):
        figure.supylabel(f"units, those of the greatest mean {order} on top", fontsize=9)
    if title:
        figure.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=11)
    return figure


def trace_figure(
    trace: Trace,
    names: Sequence[str] = (),
    layer: int = 0,
    reverse: bool = False,
    sequence: int = 0,
    order: str | Sequence[int] | None = None,
    title: str = "",
    time: Sequence[Any] | None = None,
) -> Figure:
    """Heat maps over time of named values of a trace, in one layer and direction, for one sequence up to its end.

    `names`: those that the cell has words for, if none are given. The network's inputs are drawn above if they are few.
    `sequence` is the number in the run, from 0. `order`, `time`: as for `gates_figure`; without a time it is the
    number of a step in the run.
    Errors: ValueError for names that the trace has not, IndexError for a sequence, KeyError for a layer.
    """
    titles = trace.spec.definition.titles
    named = trace.names(layer, reverse)
    chosen = list(names) or [name for name in named if name in titles] or list(named)
    if missing := [name for name in chosen if name not in named]:
        raise ValueError(f"layer {layer} has no '{missing[0]}' in this trace: expected some of {', '.join(named)}")
    places = np.flatnonzero(np.asarray(trace.sequences) == sequence)
    if not len(places):
        kept = ", ".join(map(str, trace.sequences))
        raise IndexError(f"sequence {sequence} is not in this trace: it has {kept}")
    arrays = {name: named[name][:, places[0]] for name in chosen}
    valid: Any = ~np.isnan(arrays[chosen[0]]).all(-1)
    if not valid.any():
        raise ValueError(f"sequence {sequence} has no steps in this trace: there is nothing to draw")
    x = trace.x[:, places[0]]
    few = x.shape[-1] <= len(LINES)
    return gates_figure(
        {name: array[valid] for name, array in arrays.items()},
        {f"x{k + 1}" if x.shape[-1] > 1 else "x": x[valid, k] for k in range(x.shape[-1])} if few else None,
        [item for item, there in zip(trace.steps if time is None else time, valid, strict=True) if there],
        order,
        {name: f"{name} {word}" for name, word in titles.items()},
        title,
    )


def visible(text: str, space: str = " ") -> str:
    """The text in one line, with signs for what cannot be seen.

    >>> visible("a\\tb\\n\\0")
    'a→b↵�'
    """
    return "".join(
        SIGNS.get(c) or (space if c.isspace() else c if c.isprintable() else "\N{REPLACEMENT CHARACTER}") for c in text
    )


def drawable(text: str, space: str = " ") -> str:
    """The same, with a sign for what the font of pictures does not have."""
    known = _glyphs()
    return "".join(c if ord(c) in known else "\N{REPLACEMENT CHARACTER}" for c in visible(text, space))


@cache
def _glyphs() -> Any:
    """The characters that the font has."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return get_font(findfont(FontProperties(family=FONT))).get_charmap()


def gradient_figure(traces: Mapping[str, Trace], title: str = "") -> Figure:
    """How large the gradient of the loss is with respect to each state at each step: where it vanishes, or explodes.

    `traces`: by the words that they have in the legend, each with gradients. A line is the norm over the units of
    dL/dh(t), dL/dc(t) and so on, its mean over the sequences, on a logarithmic axis: one for each trace (its colour)
    and state (its dashes), with a panel for each layer and direction. A gradient of 0 is a gap.
    Errors: ValueError where there are no traces, or one has no gradients.
    """
    if not traces:
        raise ValueError("There is nothing to draw: expected at least one trace with gradients, by a name")
    walks: set[tuple[int, bool, str]] = set()
    for label, trace in traces.items():
        states = shown(trace.spec).values()
        there = {walk for walk in trace.spec.walks for state in states if state + walk.suffix in trace.gradients}
        if not there:
            raise ValueError(
                f"The trace '{label}' has no gradients of {' or '.join(states)}: "
                "trace in a context with gradients=True, and take the trace after backward"
            )
        walks |= {(walk.layer, walk.reverse, walk.suffix) for walk in there}
    figure = _figure(1.2 + 2.2 * len(walks))
    grid = figure.subplots(len(walks), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for (layer, reverse, suffix), axes in zip(sorted(walks), grid, strict=True):
        axes.set_yscale("log")
        axes.set_ylabel(f"layer {layer}{' reversed' if reverse else ''}\n|dL/dstate|")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e6e3dc", lw=0.7)
        for (label, trace), colour in zip(traces.items(), cycle(LINES)):
            for state, dash in zip(shown(trace.spec).values(), cycle(DASHES)):
                if state + suffix in trace.gradients:
                    size = _mean_norm(trace.gradients[state + suffix])
                    axes.plot(trace.steps, size, color=colour, ls=dash, lw=1.5, label=f"{label}: {state}")
    figure.legend(*grid[0].get_legend_handles_labels(), frameon=False, ncols=4, loc="outside lower center")
    grid[-1].set_xlabel("step")
    if title:
        figure.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=11)
    return figure


def _mean_norm(gradient: Floats) -> Floats:
    """(T, B, n) to (T,): the norm over units, its mean over those sequences that have not ended, NaN for 0."""
    norm = np.sqrt(np.square(gradient, dtype=np.float64).sum(-1))  # squares of small float32 numbers would be 0
    valid = ~np.isnan(norm)
    mean = np.where(valid, norm, 0).sum(-1) / np.maximum(valid.sum(-1), 1)
    return np.where(mean > 0, mean, np.nan)


def curve_figure(curve: Sequence[Mapping[str, float]], best: int = 0, title: str = "") -> Figure:
    """Learning curves: what was measured in each epoch, by name, the same names in all; `best` is the epoch kept.

    The first two, the loss in training and in validation, share a panel; each of the others has its own.
    Errors: ValueError where there is no epoch.
    """
    if not curve:
        raise ValueError("There is no epoch to draw: expected at least one")
    names = list(curve[0])
    # The first two are the same thing, of training and of validation.
    panels = [names[:2], *([name] for name in names[2:])]
    figure = _figure(0.6 + 1.9 * len(panels))
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    epochs = np.arange(1, len(curve) + 1)
    for axes, shown_names in zip(grid, panels, strict=True):
        for name, colour in zip(shown_names, (LINES[3], LINES[1]) if len(shown_names) > 1 else LINES[1:], strict=False):
            values = np.array([each[name] for each in curve], float)
            label = f"validation {name}" if name == names[1] and len(names) > 1 else name
            marker = "." if len(curve) < 40 else ""
            axes.plot(epochs, values, lw=1.4, color=colour, label=label, marker=marker)
        shown_values = np.array([[each[name] for name in shown_names] for each in curve], float)
        finite = shown_values[np.isfinite(shown_values)]
        if finite.size and finite.min() > 0 and finite.max() > 5 * finite.min():
            axes.set_yscale("log")
        if best:
            axes.axvline(best, color=LINES[0], lw=0.8, ls=":")
        axes.legend(frameon=False, fontsize=9, loc="best", ncols=2)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e6e3dc", lw=0.7)
    grid[-1].set_xlabel("epoch")
    grid[-1].xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    if title:
        figure.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=11)
    return figure


def _figure(height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise ImportError("Pictures over time need matplotlib: install it with pip install 'openlstm[draw]'") from None
    return Figure(figsize=(9, height), layout="constrained")


def _same_steps(arrays: Mapping[str, Floats], series: Mapping[str, Floats], time: Any) -> int:
    if not arrays:
        raise ValueError("There is nothing to draw: expected at least one array of shape (steps, units)")
    steps = len(next(iter(arrays.values())))
    for name, array in arrays.items():
        if np.ndim(array) != 2 or len(array) != steps or not np.size(array):
            raise ValueError(
                f"'{name}' has the shape {np.shape(array)}: expected ({steps}, units). Take one sequence of a trace"
            )
    for name, line in [*series.items(), *([] if time is None else [("time", time)])]:
        if np.shape(line) != (steps,):
            raise ValueError(f"'{name}' has the shape {np.shape(line)}: expected ({steps},), one for each step")
    return steps


def _places(order: str | Sequence[int] | None, arrays: Mapping[str, Floats], units: int) -> Any:
    if order is None:
        return np.arange(units)
    if isinstance(order, str):
        if order not in arrays:
            raise ValueError(f"order='{order}': expected the name of an array, one of {', '.join(arrays)}")
        return np.argsort(-np.nanmean(arrays[order], axis=0), kind="stable")
    return np.asarray(order)
