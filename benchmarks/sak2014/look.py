"""What gates and memory do in the trained models of the experiment: python -m benchmarks.sak2014.look [--out FOLDER]

Reads the models that `make paper` keeps beside the corpus. Their runs on sentences of seen words are traced, with the
noise of the test: what the gates do where one phone follows another, how peephole weights are spread, and how long each
layer's memory lasts. Writes sak2014_inside.svg and .png.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from openlstm import measures, plots
from openlstm.tracing import Trace, join
from openlstm.train.frames import FrameClassifier

from . import corpus, training
from .experiment import DEEP, LSTM, Asked, kept, prepared

SENTENCES, BEFORE, AFTER, HOP = 60, 8, 14, 10  # frames before and after a boundary, of so many ms
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
    """The mean over boundaries of (frames, units) at each place about them that is in the sentence: (places, units)."""
    sentence = np.arange(len(lengths)).repeat(lengths)
    at = new.nonzero()[0]
    found = []
    for shift in range(-BEFORE, AFTER + 1):
        there = np.clip(at + shift, 0, len(values) - 1)
        found.append(values[there[sentence[there] == sentence[at]]].mean(0))
    return np.array(found)


def lives(trace: Trace) -> list[NDArray[np.float64]]:
    """For each layer, ms until half of each unit's memory is gone."""
    units = measures.units(trace)
    return [
        np.array([u["half_life"] for u in units if u["layer"] == layer]) * HOP for layer in range(trace.spec.num_layers)
    ]


def main() -> int:
    """0, or 2 where models are missing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sak2014.look", description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("build/sak2014"), help="of the corpus (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="where the pictures go (%(default)s)")
    given = parser.parse_args()
    console = Console(highlight=False, width=120)
    parts = prepared(given.folder, console)
    table = corpus.inventory(parts["train"], False)
    part = parts["seen"]
    traced: dict[tuple[str, int], tuple[FrameClassifier, Trace]] = {}
    for row, depths in DEEP.items():
        for layers in depths:
            path = kept(Asked(row, layers=layers), given.folder)
            if not path.is_file():
                console.print(f"There is no model '{path}': `make paper` trains it", soft_wrap=True)
                return 2
            model = FrameClassifier.load(path)
            traced[row, layers] = model, join(list(runs(model, part, table)))
    new, lengths = boundaries(part), part.head(SENTENCES).lengths
    model, trace = traced[LSTM, 1]
    values = {name: trace[name][:, 0] for name in (*GATES, "c")}
    first = np.cumsum(lengths) - lengths
    change = np.abs(np.diff(values["c"], axis=0, prepend=values["c"][:1]))
    change[first] = np.abs(values["c"][first])
    places = np.arange(-BEFORE, AFTER + 1) * HOP

    with matplotlib.rc_context({"font.size": 9, "svg.fonttype": "path", "svg.hashsalt": "openlstm"}):
        figure = Figure(figsize=(10.5, 3.4), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        for name, (title, colour) in GATES.items():
            left.plot(places, around(values[name], lengths, new).mean(1), color=colour, label=title)
        moved = around(change, lengths, new).mean(1)
        left.plot(places, moved, color="black", linestyle="--", label="change of the memory")
        left.axvline(0, color="grey", linewidth=0.8)
        left.axvline(training.DELAY * HOP, color="grey", linewidth=0.8, linestyle=":")
        left.set_xlabel("ms after a phone begins (dotted: its first label is due)")
        left.set_ylabel("mean over units and boundaries")
        left.set_ylim(0)
        left.set_title("Where one phone follows another")
        left.legend(frameon=False, fontsize=7)
        peepholes = model.recurrent.weight_ch_l0.detach()
        blocks = model.spec.blocks("weight_ch")
        parts_of = zip(blocks, peepholes.chunk(len(blocks)), strict=True)
        weights = {name.removeprefix("p_"): part.numpy() for name, part in parts_of}
        edges = np.linspace(-1.0, 1.0, 41) * max(float(np.abs(w).max()) for w in weights.values())
        for gate, (title, colour) in GATES.items():
            middle.hist(weights[gate], edges, histtype="step", color=colour, label=f"to the {title}")
        middle.set_xlabel("weight")
        middle.set_ylabel("units")
        middle.set_title("Peephole weights")
        middle.legend(frameon=False, fontsize=7)
        labels, boxes = [], []
        for (row, layers), (_, own) in traced.items():
            if row == LSTM:
                for layer, each in enumerate(lives(own)):
                    labels.append(f"{layer + 1}/{layers}")
                    boxes.append(each[np.isfinite(each)])
        right.boxplot(boxes, tick_labels=labels, showfliers=False, medianprops={"color": "#c55a11"})
        right.set_yscale("log")
        right.set_xlabel("layer / layers of the LSTM")
        right.set_ylabel("ms until half is gone")
        right.set_title("How long memory lasts")
        for axes in (left, middle, right):
            axes.spines[["top", "right"]].set_visible(False)
        for ending in ("svg", "png"):
            plots.write(figure, given.out / f"sak2014_inside.{ending}")

    said = Table("", "40 ms before", "at a phone's first frame", "40 ms after", "mean", title=f"{model.spec}")
    shown = {title: values[name] for name, (title, _) in GATES.items()} | {"change of the memory": change}
    for name, each in shown.items():
        about = around(each, lengths, new).mean(1)
        said.add_row(name, *(f"{about[BEFORE + k]:.3f}" for k in (-4, 0, 4)), f"{each.mean():.3f}")
    console.print(said)
    best = trace.find(new[:, None])[0]
    console.print(
        f"The unit whose memory marks first frames best: {best['unit']}, with a correlation of {best['match']:.2f}"
    )
    spread = Table("peephole to", "mean", "deviation", "below 0", title="Peephole weights")
    for gate, (title, _) in GATES.items():
        w = weights[gate]
        spread.add_row(title, f"{w.mean():+.2f}", f"{w.std():.2f}", f"{(w < 0).mean():.0%}")
    console.print(spread)
    lasting = Table(
        "form", "layer", "a tenth", "half", "nine tenths of units", title="ms until half of the memory is gone"
    )
    for (row, layers), (_, own) in traced.items():
        for layer, each in enumerate(lives(own)):
            quantiles = np.quantile(each, [0.1, 0.5, 0.9], method="nearest")
            lasting.add_row(row, f"{layer + 1} of {layers}", *(f"{q:,.0f}" for q in quantiles))
    console.print(lasting)
    return 0


if __name__ == "__main__":
    sys.exit(main())
