"""What is said of how a model guesses a text: tables, the passages that cost most, and pictures."""

from __future__ import annotations

import itertools
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..plots import FONT, SIGNS, drawable, visible
from ..words import counted
from .task import Passage, Picture, Results, Table, gates

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..tracing import Trace

Ids = NDArray[np.integer]

BYTES = "".join(map(chr, range(256)))  # the alphabet of bytes: each stands as the character of its number
PASSAGE, WORST = 60, 8  # characters of a passage, and how many of those that cost most are shown
COLUMNS, LINES = 80, 16  # of the text that is coloured
CEILING = 8.0  # bits that have the last colour
MODEL, OTHERS = "#c8401c", "#8a857a"


def decoded(alphabet: str, ids: Ids) -> str:
    """The text of symbols by their places in an alphabet."""
    text = "".join(alphabet[k] for k in ids)
    return text.encode("latin-1").decode("utf-8", "replace") if alphabet == BYTES else text


@dataclass(frozen=True, eq=False)
class Text:
    """Files as one text."""

    names: tuple[str, ...]  # of the files
    begins: NDArray[np.int64]  # where each begins in the text
    ids: Ids  # (N,) places in the alphabet
    alphabet: str  # in order; BYTES where a symbol is a byte

    @property
    def source(self) -> str:
        """The files, for messages."""
        more = f" and {len(self.names) - 1} more" if len(self.names) > 1 else ""
        return f"'{self.names[0]}'{more}"

    @property
    def unit(self) -> str:
        """What a symbol is."""
        return "byte" if self.alphabet == BYTES else "character"

    def decode(self, ids: Ids) -> str:
        """The text of symbols by their places in the alphabet."""
        return decoded(self.alphabet, ids)

    def signs(self, ids: Ids) -> str:
        """A character for each symbol."""
        signs = "".join(self.alphabet[k] for k in ids)
        return (
            "".join(c if c < "\x80" else "\N{REPLACEMENT CHARACTER}" for c in signs)
            if self.alphabet == BYTES
            else signs
        )

    def where(self, place: int) -> str:
        """The file and the line of a character."""
        number = int(np.searchsorted(self.begins, place, "right")) - 1
        before = self.ids[self.begins[number] : place]
        line = np.count_nonzero(before == self.alphabet.index("\n")) if "\n" in self.alphabet else 0
        return f"{self.names[number]}:{line + 1}"


@dataclass(frozen=True, eq=False)
class Scored:
    """How a model guessed characters: (N,) each."""

    bits: NDArray[np.float32]  # that each costs
    right: NDArray[np.bool_]  # was it the likeliest


@dataclass(frozen=True, eq=False)
class Look:
    """What a report shows of a model at work."""

    trace: Trace  # of the first characters that are guessed, and of none before
    prompt: str  # what it is given
    written: str  # what it goes on with
    reach: NDArray[np.floating]  # (R,) the mean bits of a character where so many before it are known: 1, 2, ...


def report(data: Text, begin: int, scored: Scored, baselines: Mapping[str, float], look: Look) -> Results:
    """All that is said of how a text was guessed from some character on.

    baselines: bits a symbol of other models, by name.
    """
    unit = data.unit
    bits, count = float(scored.bits.mean(dtype=np.float64)), len(scored.bits)
    others = dict(baselines) | {"all alike": math.log2(len(data.alphabet))}
    metrics = {
        f"bits a {unit}": bits,
        "guessed right": float(scored.right.mean()),
        f"{unit}s": count,
        "alphabet": len(data.alphabet),
        f"bits a {unit} of others": others,
    }
    rows: list[tuple[str, ...]] = [("the model", f"{bits:.3f}", "")]
    rows += [(name, f"{value:.3f}", f"{value - bits:+.3f}".replace("-", "−")) for name, value in others.items()]
    note = f"The likeliest {unit} is the right one in {scored.right.mean():.1%}."
    note += f" An n-gram knows the n − 1 {unit}s before." if baselines else ""
    read = data.signs(data.ids[begin : begin + COLUMNS * LINES])
    parts: list[Table | Picture | Passage] = [
        Table(counted(count, unit), ("", f"bits a {unit}", "above the model"), rows, note),
        Picture("What was hard to guess", surprise_figure(read, scored.bits), "The darker, the less it was expected."),
        _kinds(data, data.ids[begin:], scored),
        _worst(data, begin, scored.bits),
        Picture(
            "How much it helps to know more",
            reach_figure(look.reach, others, unit),
            "Reading begins at many places of the text, without what is before.",
        ),
        Passage("What the model writes", look.written, f"It was given what ends with: {look.prompt[-PASSAGE:]!r}"),
        gates(look.trace, "What the layer does while it reads", read=read[: len(look.trace.x)]),
    ]
    return Results(metrics, parts)


def _kinds(data: Text, ids: Ids, scored: Scored) -> Table:
    """Where the bits go: by what a character is."""
    names = ("letter that begins a word", "other letter", "digit", "space", "line end", "other sign")
    kind = np.array([_kind(c) for c in data.alphabet])[ids]
    begins = (kind == 1) & (np.append(5, kind[:-1]) != 1)
    kind = np.where(begins, 0, kind)
    rows: list[tuple[str, ...]] = []
    for number, name in enumerate(names):
        own = kind == number
        if own.any():
            bits = scored.bits[own].astype(np.float64)
            share = bits.sum() / max(float(scored.bits.sum(dtype=np.float64)), 1e-300)
            right = scored.right[own].mean()
            rows.append((name, f"{own.mean():.1%}", f"{bits.mean():.2f}", f"{share:.1%}", f"{right:.1%}"))
    columns = ("", f"of all {data.unit}s", f"bits a {data.unit}", "of all bits", "guessed right")
    return Table("Where the bits go", columns, rows)


def _kind(character: str) -> int:
    if character == "\n":
        return 4
    category = unicodedata.category(character)
    return {"L": 1, "M": 1, "N": 2, "Z": 3}.get(category[0], 3 if character == "\t" else 5)


def _worst(data: Text, begin: int, bits: NDArray[np.float32]) -> Table:
    """The passages that cost most."""
    edges = np.arange(0, len(bits), PASSAGE)
    sizes = np.diff(np.append(edges, len(bits)))
    means = np.add.reduceat(bits.astype(np.float64), edges) / sizes
    means[sizes < min(PASSAGE // 2, len(bits))] = -1  # a short rest says little, where there is more
    rows: list[tuple[str, ...]] = []
    for k in np.argsort(-means, kind="stable")[: min(WORST, int((means >= 0).sum()))]:
        place = begin + int(edges[k])
        text = data.decode(data.ids[place : place + int(sizes[k])])
        rows.append((data.where(place), f"{means[k]:.2f}", visible(text)))
    return Table("The passages that cost most", ("file:line", f"bits a {data.unit}", "text"), rows)


def surprise_figure(text: str, bits: NDArray[np.float32]) -> Figure:
    """The text on colours that say how many bits each character costs, as far as it has room."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    places, row, column = [], 0, 0
    for character in text:
        if column == COLUMNS:
            row, column = row + 1, 0
        if row == LINES:
            break
        places.append((row, column))
        row, column = (row + 1, 0) if character == "\n" else (row, column + 1)
    rows, columns = places[-1][0] + 1, max(column for _, column in places) + 1
    colours = np.full((rows, columns), np.nan)
    figure = Figure(figsize=(1 + 0.1 * columns, 0.4 + 0.2 * rows), layout="constrained")
    axes = figure.subplots()
    for (row, column), character, cost in zip(places, text, bits, strict=False):
        colours[row, column] = cost
        sign = drawable(character)
        if sign != " ":
            colour = OTHERS if character in SIGNS else "#1b1f24"
            axes.text(
                column + 0.5,
                row + 0.5,
                sign,
                family=FONT,
                fontsize=8,
                color=colour,
                ha="center",
                va="center",
                parse_math=False,
            )
    warm = LinearSegmentedColormap.from_list("warm", ["#ffffff", "#f6c9a8", MODEL])
    image = axes.pcolormesh(colours, cmap=warm, vmin=0, vmax=CEILING)
    axes.set_ylim(rows, 0)
    axes.axis("off")
    bar = figure.colorbar(image, ax=axes, pad=0.01, aspect=25, extend="max", label="bits")
    bar.outline.set_visible(False)
    return figure


def reach_figure(reach: NDArray[np.floating], others: Mapping[str, float], unit: str = "character") -> Figure:
    """The bits that a symbol costs by how many before it are known."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    # Single characters differ by chance: farther on, more of them are taken together.
    edges = np.unique(np.round(2 ** np.arange(0, np.log2(len(reach) + 1) + 0.01, 0.5)).astype(int))
    edges = np.append(edges[edges < len(reach) + 1], len(reach) + 1)
    middle = np.sqrt(edges[:-1] * (edges[1:] - 1.0))
    means = [reach[first - 1 : last - 1].mean() for first, last in itertools.pairwise(edges)]
    axes.plot(middle, means, color=MODEL, lw=1.8, marker="o", ms=3)
    for name, bits in others.items():
        if bits < 1.3 * max(means):
            axes.axhline(bits, color=OTHERS, lw=1, ls="--")
            axes.annotate(name, (1, bits), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=9)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(f"{unit}s that are known before")
    axes.set_ylabel(f"bits a {unit}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e3dc", lw=0.7)
    return figure
