"""What is said of how a model turns texts into texts: tables, and where it looked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..plots import drawable
from ..words import counted
from .seq2seq_files import END, UNKNOWN
from .task import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def scores_of(said: list[str], truth: list[str], characters: bool) -> dict[str, float]:
    """All in percent: texts that are right, BLEU, chrF, and for characters how many must be changed."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF
    from torchmetrics.functional.text import char_error_rate

    same = sum(one == true for one, true in zip(said, truth, strict=True))
    bleu = BLEU(tokenize="char" if characters else "13a", force=True)  # force: without advice on how texts look
    found = {
        "exact": 100 * same / len(truth),
        "BLEU": bleu.corpus_score(said, [truth]).score,
        "chrF": CHRF().corpus_score(said, [truth]).score,
    }
    return found | ({"character errors": 100 * float(char_error_rate(said, truth))} if characters else {})


def metrics_table(
    scores: Mapping[str, Mapping[str, float]],
    baseline: Mapping[str, Mapping[str, float]],
    perplexity: float,
    unknown: Sequence[int],
    count: int,
) -> Table:
    names = list(next(iter(scores.values())))
    rows = [
        (name, *(f"{one[column]:.2f}" for column in names), f"{perplexity:.5g}" if name in scores else "")
        for name, one in (dict(scores) | dict(baseline)).items()
    ]
    note = f"{counted(count, 'pair')}. In percent, but for the perplexity of a true symbol."
    if any(unknown):
        note += f" Unknown to the model: {counted(unknown[0], 'symbol')} of the sources, {unknown[1]:,} of the targets."
    return Table("How near to the true targets", ("", *names, "perplexity"), rows, note)


def worst_table(
    order: Sequence[int], source: Sequence[str], truth: Sequence[str], said: Sequence[str], cost: Sequence[float]
) -> Table:
    rows: list[tuple[str, ...]] = [(source[k], truth[k], said[k], f"{-cost[k]:.3f}".replace("-", "−")) for k in order]
    note = "Those whose true target the model finds least likely: log p for each of its symbols."
    return Table("Worst cases", ("source", "truth", "model", "log p"), rows, note)


def label(known: Sequence[str], number: int) -> str:
    """A symbol for a picture."""
    if number <= UNKNOWN:
        return {END: "end", UNKNOWN: "unknown"}[number]
    return drawable(known[number - UNKNOWN - 1], space="\N{OPEN BOX}")


def attention_figure(weights: Sequence[Any], labels: Sequence[tuple[Sequence[str], Sequence[str]]]) -> Figure:
    """For each pair the weights (T, S), with the labels of its S and its T symbols."""
    from matplotlib.figure import Figure

    columns = min(2, len(weights))
    figure = Figure(figsize=(4.5 * columns, 3.6 * -(-len(weights) // columns)), layout="constrained")
    for k, (one, (source, target)) in enumerate(zip(weights, labels, strict=True)):
        axes = figure.add_subplot(-(-len(weights) // columns), columns, k + 1)
        image = axes.imshow(one, cmap="Greys", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(source)), source, parse_math=False, rotation=90 if max(map(len, source)) > 1 else 0)
        axes.set_yticks(range(len(target)), target, parse_math=False)
        axes.tick_params(length=0, labelsize=8, labeltop=True, labelbottom=False)
        for spine in axes.spines.values():
            spine.set_color("#cfcac0")
    bar = figure.colorbar(image, ax=figure.axes, shrink=0.5, pad=0.02, ticks=[0, 1])
    bar.outline.set_visible(False)
    return figure
