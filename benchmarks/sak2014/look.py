"""What gates and memory do in trained models of the experiment: python -m benchmarks.sak2014.look [--out FOLDER]

Takes the models of the first seed that `make paper` keeps beside the corpus, and trains those that are not there. Their
runs on sentences of seen words are traced, with the noise of the test: what gates do where one phone follows another,
how peephole weights are spread, and how long each layer's memory lasts. Writes sak2014_inside.svg and .png.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from openlstm import measures, plots
from openlstm.tracing import Trace, join
from openlstm.train.frames import FrameClassifier

from . import corpus, training
from .experiment import DEEP, LSTM, RESULTS, Asked, Experiment, kept, learn, prepared

SENTENCES, BEFORE, AFTER, HOP = 60, 8, 14, 10  # frames before and after a boundary, of so many ms
CLEAR = 0.05  # a gate that is so much more or less open than on average acts
QUANTILES = (0.1, 0.5, 0.9)
GATES = {"i": ("input gate", "#1f4e79"), "f": ("forget gate", "#c55a11"), "o": ("output gate", "#548235")}


def runs(model: FrameClassifier, part: corpus.Part, table: NDArray[np.int64]) -> Iterator[Trace]:
    """The trace of each of the first sentences."""
    own = part.head(SENTENCES)
    speech = training.Speech(own, table, training.SEEN + 1)
    for sentence in speech.data.x.split(own.lengths.tolist()):
        yield model.trace(sentence, len(sentence))


def boundaries(part: corpus.Part) -> NDArray[np.bool_]:
    """Where a phone begins that is not the first of its sentence, (frames,)."""
    own = part.head(SENTENCES)
    new = np.append(False, own.phones[1:] != own.phones[:-1])
    new[np.cumsum(own.lengths)[:-1]] = False
    return new


def around(values: NDArray[Any], lengths: NDArray[np.int64], new: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How far (frames, units) are from each unit's mean about a boundary, the mean over boundaries: (places, units)."""
    sentence = np.arange(len(lengths)).repeat(lengths)
    at = new.nonzero()[0]
    found = []
    for shift in range(-BEFORE, AFTER + 1):
        there = np.clip(at + shift, 0, len(values) - 1)
        found.append(values[there[sentence[there] == sentence[at]]].mean(0))
    return np.array(found) - values.mean(0)


def lives(trace: Trace) -> list[NDArray[np.float64]]:
    """For each layer, ms until half of each unit's memory is gone."""
    units = measures.units(trace)
    return [
        np.array([u["half_life"] for u in units if u["layer"] == layer]) * HOP for layer in range(trace.spec.num_layers)
    ]


def models_of(
    experiment: Experiment, folder: Path, console: Console
) -> Iterator[tuple[tuple[str, int], FrameClassifier]]:
    """The trained models, by form and layers. Errors: ValueError where no rate was measured."""
    for row, depths in DEEP.items():
        for layers in depths:
            asked = experiment.best(Asked(row, layers=layers))
            path = kept(asked, folder)
            if not path.is_file():
                console.print(f"{row}, {layers} deep, is trained: minutes")
                learn((asked, folder))
            yield (row, layers), FrameClassifier.load(path)


def gates(axes: Axes, about: NDArray[np.float64], most: float) -> Any:
    """A heat map of a gate: a line for each unit, those first that act first."""
    order = np.abs(about).argmax(0).argsort(kind="stable")
    edges = ((-BEFORE - 0.5) * HOP, (AFTER + 0.5) * HOP)
    image = axes.imshow(
        about[:, order].T, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto", extent=(*edges, len(order), 0)
    )
    for place, style in ((0, "-"), (training.DELAY * HOP, ":")):
        axes.axvline(place, color="black", linewidth=0.8, linestyle=style)
    axes.set_xlabel("ms after a phone begins")
    return image


def figure(
    about: dict[str, NDArray[np.float64]],
    peepholes: dict[str, NDArray[np.float32]],
    lasting: dict[tuple[str, int], list[NDArray[np.float64]]],
) -> Figure:
    """Gates about a boundary, how much they act there, peepholes, and how long memory lasts."""
    places = np.arange(-BEFORE, AFTER + 1) * HOP
    most = float(np.quantile([np.abs(about[name]) for name in GATES], 0.995))
    with matplotlib.rc_context({"font.size": 9, "svg.fonttype": "path", "svg.hashsalt": "openlstm"}):
        drawn = Figure(figsize=(10.5, 6.6), layout="constrained")
        top, bottom = drawn.subplots(2, 3, height_ratios=(1.25, 1))
        for axes, (name, (title, _)) in zip(top, GATES.items(), strict=True):
            image = gates(axes, about[name], most)
            axes.set_title(f"{title.capitalize()}s")
        top[0].set_ylabel("units, those first that act first")
        drawn.colorbar(image, ax=top[2], label="more or less open than on average")

        left, middle, right = bottom
        for name, (title, colour) in GATES.items():
            left.plot(places, np.sqrt((about[name] ** 2).mean(1)), color=colour, label=title)
        for place, style in ((0, "-"), (training.DELAY * HOP, ":")):
            left.axvline(place, color="black", linewidth=0.8, linestyle=style)
        left.set_xlabel("ms after a phone begins (dotted: its first label is due)")
        left.set_ylabel("root of the mean square over units")
        left.set_ylim(0)
        left.set_title("How far gates are from their averages")
        left.legend(frameon=False, fontsize=8)
        edges = np.linspace(-1.0, 1.0, 22) * max(float(np.abs(w).max()) for w in peepholes.values())
        for gate, (title, colour) in GATES.items():
            middle.hist(peepholes[gate], edges, histtype="step", color=colour, label=f"to the {title}", linewidth=1.3)
        middle.set_xlabel("weight")
        middle.set_ylabel("units")
        middle.set_ylim(0, 1.3 * middle.get_ylim()[1])
        middle.set_title("Peephole weights")
        middle.legend(frameon=False, fontsize=8)
        at, ticks = 0.0, []
        for (row, layers), own in lasting.items():
            for layer, each in enumerate(own):
                colour = "#1f4e79" if row == LSTM else "#c55a11"
                low, half, high = np.quantile(each, QUANTILES, method="nearest")
                right.plot([at, at], [low, high], color=colour, linewidth=1.5)
                right.plot(at, half, "o", color=colour, markersize=4, label=row if layers == 1 else None)
                ticks.append((at, str(layer + 1)))
                at += 1
            at += 1
        right.set_yscale("log")
        right.yaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:g}"))
        right.set_xticks(*zip(*ticks, strict=True))
        right.set_xlabel("layer, in nets of 1, 2 and 5")
        right.set_ylabel("ms until half is gone")
        right.set_title("Memory: the middle unit, and 80 % of all")
        right.legend(frameon=False, fontsize=8)
        for axes in bottom:
            axes.spines[["top", "right"]].set_visible(False)
    return drawn


def main() -> int:
    """0, or 2 where the grid of rates was not measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sak2014.look", description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("build/sak2014"), help="of the corpus (%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="has the rates (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="where the pictures go (%(default)s)")
    given = parser.parse_args()
    console = Console(highlight=False, width=120)
    parts = prepared(given.folder, console)
    table, part = corpus.inventory(parts["train"], False), parts["seen"]
    new, lengths = boundaries(part), part.head(SENTENCES).lengths
    lasting = {}
    try:
        experiment = Experiment(given.folder, given.results, corpus.digest(parts), console)
        for (row, layers), each in models_of(experiment, given.folder, console):
            own = join(list(runs(each, part, table)))
            lasting[row, layers] = lives(own)
            if (row, layers) == (LSTM, 1):
                model, trace = each, own
    except ValueError as error:
        console.print(f"Error: {error}", soft_wrap=True)
        return 2
    about = {name: around(trace[name][:, 0], lengths, new) for name in GATES}
    blocks = model.spec.blocks("weight_ch")
    parts_of = zip(blocks, model.recurrent.weight_ch_l0.detach().chunk(len(blocks)), strict=True)
    peepholes = {name.removeprefix("p_"): part.numpy() for name, part in parts_of}
    drawn = figure(about, peepholes, lasting)
    for ending in ("svg", "png"):
        plots.write(drawn, given.out / f"sak2014_inside.{ending}")

    acting = Table("", "mean", "farthest from it", "units that open", "units that shut", title=str(model.spec))
    for gate, (title, _) in GATES.items():
        far = np.sqrt((about[gate] ** 2).mean(1)).argmax()
        last = about[gate][np.abs(about[gate]).argmax(0), np.arange(about[gate].shape[1])]
        opens, shuts = (last > CLEAR).mean(), (last < -CLEAR).mean()
        acting.add_row(
            title, f"{trace[gate].mean():.2f}", f"{(far - BEFORE) * HOP:+d} ms", f"{opens:.0%}", f"{shuts:.0%}"
        )
    console.print(acting)
    marks = [
        (abs(best["match"]), title, best, late)
        for gate, (title, _) in GATES.items()
        for late in range(AFTER + 1)
        for best in trace.find(np.append(np.zeros(late, bool), new[: len(new) - late])[:, None], gate)[:1]
    ]
    _, title, best, late = max(marks, key=lambda each: each[0])
    console.print(
        f"What marks a phone's begin best: the {title} of unit {best['unit']}, {late * HOP} ms later, with a "
        f"correlation of {best['match']:+.2f}"
    )
    spread = Table("peephole to", "mean", "deviation", "below 0", title="Peephole weights")
    for gate, (title, _) in GATES.items():
        w = peepholes[gate]
        spread.add_row(title, f"{w.mean():+.2f}", f"{w.std():.2f}", f"{(w < 0).mean():.0%}")
    console.print(spread)
    halves = Table(
        "form", "layer", "a tenth", "half", "nine tenths of units", title="ms until half of the memory is gone"
    )
    for (row, layers), own in lasting.items():
        for layer, each in enumerate(own):
            quantiles = np.quantile(each, QUANTILES, method="nearest")
            halves.add_row(row, f"{layer + 1} of {layers}", *(f"{q:,.0f}" for q in quantiles))
    console.print(halves)
    return 0


if __name__ == "__main__":
    sys.exit(main())
