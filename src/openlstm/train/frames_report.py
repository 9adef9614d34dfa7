"""What is said of how a model labels frames or sequences: tables, what was taken for what, and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ..plots import drawable, visible
from .frames_files import Frames, Label
from .task import Picture, Results, Table, gates

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .frames import FrameClassifier

DRAWN = 300  # steps
FEW, WIDE = 20, 60  # classes of which all confusions are shown as numbers, and in a picture
WORST = 12  # cases shown


def report(model: FrameClassifier, data: Frames, chosen: Tensor) -> Results:
    """Metrics, tables and pictures of what a model says of some sequences, beside the most frequent class."""
    about, classes = model.about, len(model.about.classes)
    truth_of = model.truth(data, chosen)
    said_of, log_of = model.said(data, chosen, truth_of)
    there = said_of >= 0
    truth, said = truth_of[there].numpy(), said_of[there].numpy()
    loss, sequences = -log_of[there].double().numpy(), data.sequences[there].numpy()
    right = truth == said
    counts, hits = np.bincount(truth, minlength=classes), np.bincount(truth[right], minlength=classes)
    shares = np.array(about.counts) / sum(about.counts)
    frequent = int(shares.argmax())
    seen = counts > 0
    own = [right.mean(), loss.mean(), (hits[seen] / counts[seen]).mean()]
    base = [(truth == frequent).mean(), -np.log(shares)[truth].mean(), seen[frequent] / seen.sum()]
    names = ("accuracy", "cross-entropy", "balanced accuracy")
    size = {"sequences": len(chosen)} | ({"frames": len(truth)} if about.each == "frame" else {})
    metrics: dict[str, Any] = dict(zip(names, map(float, own), strict=True)) | size
    metrics["baseline"] = dict(zip(names, map(float, base), strict=True))
    metrics["classes"] = {
        str(label): {"accuracy": float(hits[k] / counts[k]) if counts[k] else None, "count": int(counts[k])}
        for k, label in enumerate(about.classes)
    }
    lines = ((model.spec.title, own), (f"always {word(about.classes[frequent])}", base))
    shown: list[Any] = [
        Table(
            "Scores on " + " with ".join(f"{count} {what}" for what, count in size.items()),
            ("", *names),
            [(name, f"{share:.2%}", f"{nats:.4f}", f"{balanced:.2%}") for name, (share, nats, balanced) in lines],
            "Cross-entropy is in nats; in the last row it is that of the classes' shares in the training part. "
            "Balanced accuracy is the mean over classes.",
        )
    ]
    pairs, often = np.unique(truth * classes + said, return_counts=True)
    true, false = np.divmod(pairs, classes)
    words = [word(label) for label in about.classes]
    if classes <= FEW:
        full = np.zeros((classes, classes), np.int64)
        full[true, false] = often
        rows = [(words[k], *map(str, full[k])) for k in range(classes)]
        shown.append(Table("What was said for what", ("true \\ said", *words), rows))
    more = f" The {WIDE} most frequent of {classes} classes." if classes > WIDE else ""
    note = f"Each row is a class, its colours are shares of its labels: the diagonal is right.{more}"
    shown.append(
        Picture("How the labels of each class were answered", confusion_figure(true, false, often, counts, words), note)
    )
    wrong = np.flatnonzero(true != false)
    worst = wrong[np.argsort(-often[wrong], kind="stable")[:WORST]]
    confused = [(words[true[k]], words[false[k]], str(often[k]), f"{often[k] / counts[true[k]]:.1%}") for k in worst]
    shown.append(
        Table(
            "Worst confused",
            ("true", "said", "times", "of the class"),
            list(confused),
            "" if len(worst) else "All are right.",
        )
    )
    shown.append(_worst(data, sequences, truth, said, loss, words))
    first = int(chosen[0])
    x = data.x[int(data.starts[first]) :][: min(int(data.lengths[first]), DRAWN * about.skip + about.stack)]
    title = f"Inside the top layer while it reads sequence {word(data.names[first])}"
    shown.append(gates(model.trace(x, DRAWN), title, layer=model.spec.num_layers - 1))
    return Results(metrics, shown)


def word(label: Label) -> str:
    """A label in a few printable characters."""
    text = visible(str(label)[:25])
    return text if len(text) < 25 else text[:23] + "\N{HORIZONTAL ELLIPSIS}"


def _worst(data: Frames, sequences: Any, truth: Any, said: Any, loss: Any, words: list[str]) -> Table:
    """The sequences of the greatest cross-entropy."""
    number = np.maximum(np.bincount(sequences), 1)
    mean, right = (np.bincount(sequences, values) / number for values in (loss, truth == said))
    rows = []
    for s in np.argsort(-mean, kind="stable")[: min(WORST, len(np.unique(sequences)))].tolist():
        item = int(np.flatnonzero(sequences == s)[0])
        how = (f"{right[s]:.1%}",) if data.each == "frame" else (words[truth[item]], words[said[item]])
        rows.append((word(data.names[s]), str(int(data.lengths[s])), *how, f"{mean[s]:.3f}"))
    how = ("accuracy",) if data.each == "frame" else ("true", "said")
    return Table("Worst sequences", ("sequence", "frames", *how, "cross-entropy"), rows)


def confusion_figure(true: Any, said: Any, often: Any, counts: Any, words: Sequence[str]) -> Figure:
    """A heat map of how often a class was said for another: pairs, and how often they are there, (P,) each.

    counts: labels of each class, (K,). Of many classes the most frequent are drawn.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    kept = np.sort(np.argsort(-counts, kind="stable")[:WIDE])
    place = np.full(len(counts), -1)
    place[kept] = np.arange(len(kept))
    inside = (place[true] >= 0) & (place[said] >= 0)
    shares = np.zeros((len(kept), len(kept)))
    shares[place[true[inside]], place[said[inside]]] = often[inside] / counts[true[inside]]
    size = min(2.6 + 0.22 * max(len(kept), 8), 8.2)
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="cividis", norm=PowerNorm(0.5, 0, 1))  # so that one in a hundred can be seen
    names = [drawable(words[k]) for k in kept]
    small = 9 if len(kept) <= FEW else 6
    axes.set_xticks(range(len(kept)), names, fontsize=small, parse_math=False)
    axes.set_yticks(range(len(kept)), names, fontsize=small, parse_math=False)
    if max(map(len, names)) > 2:
        axes.tick_params(axis="x", rotation=90)
    axes.tick_params(length=0)
    axes.set_xlabel("said")
    axes.set_ylabel("true")
    bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=30)
    bar.set_ticks([0, 0.01, 0.1, 0.5, 1], labels=["0", "1 %", "10 %", "50 %", "100 %"])
    bar.minorticks_off()
    for spine in (*axes.spines.values(), bar.outline):
        spine.set_visible(False)
    return figure
