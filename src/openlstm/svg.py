"""How a diagram is written as SVG: boxes with lines of text, wires, and the page that they are on, for light and dark.

The font is one of fixed width, so that the room that a text needs is known without it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from xml.sax.saxutils import escape, quoteattr

from .layout import Net, Point

SIZE = 13.0  # of text
WIDE = 0.62 * SIZE  # of a character
LINE = 1.35 * SIZE
PAD = 8.0
MARGIN = 20.0
CAPTION = 48  # characters on a line of words above a small picture
SPACE = "\u200b"  # of no width: what follows stands at the old height again
MOST = 4  # of what there may be many, such as layers: of more, the first two and the last are drawn
FONTS = ("DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf")  # matplotlib brings them

# Colours that differ in lightness too, so that they do in print. The second of each is for dark pages.
COLOURS = {
    "paper": ("fill", "#ffffff", "#14181d"),
    "ink": ("fill", "#1b1f24", "#e6e9ed"),
    "soft": ("fill", "#57606a", "#a3adb8"),
    "box": ("fill", "#f4f5f7", "#232a32"),
    "input": ("fill", "#e3effa", "#1d3a55"),
    "state": ("fill", "#fdf0d5", "#45381d"),
    "edge": ("stroke", "#57606a", "#a3adb8"),
    "net": ("stroke", "#7b858f", "#8d98a3"),
    "net0": ("stroke", "#1f6fb2", "#6cb2eb"),
    "net1": ("stroke", "#b5541c", "#f0a06a"),
    "net2": ("stroke", "#2b7d4f", "#74c998"),
}
SOURCES = 3  # wires of inputs and states have colours of their own
DARK = "@media screen and (prefers-color-scheme:dark)"  # what is printed is light

Line = tuple[str, str]  # a style, and a text in it


@dataclass(frozen=True)
class Box:
    """Lines of text in a frame of a `kind`; where there is none, the text alone."""

    lines: Sequence[Line]
    kind: str = ""
    name: str = ""
    number: str = ""
    formula: str = ""  # what a browser shows at the pointer

    @property
    def size(self) -> Point:
        """Width and height that the text needs."""
        return 2 * PAD + WIDE * max(len(text) for _, text in self.lines), PAD + LINE * len(self.lines)


def page(caption: Sequence[str], width: float, height: float, body: Sequence[str], base: float = 0.0) -> str:
    """The whole picture: what it shows in words, the first of them in bold, and below them the `body`'s elements.

    These are within `width` and `height`, from a y of -`base` on.
    """
    room = max(CAPTION, int(width / WIDE))
    broken = [wrap(line, room) for line in caption if line]
    lines = [("soft" if k else "ink name", line) for k, parts in enumerate(broken) for line in parts]
    top = MARGIN + LINE * len(lines) + PAD
    width = max(width, WIDE * max(len(line) for _, line in lines)) + 2 * MARGIN
    height += top + MARGIN
    words = " ".join(line for _, line in lines)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" role="img"'
        f' viewBox="0 0 {width:.0f} {height:.0f}" font-size="{SIZE}">',
        f"<title>{_plain(words)}</title>",
        f"<style>{_style()}</style>",
        '<rect class="paper" width="100%" height="100%"/>',
    ]
    for k, (kind, line) in enumerate(lines):
        out.append(f'<text class="{kind}" x="{MARGIN}" y="{MARGIN + LINE * (k + 0.6):.1f}">{_plain(line)}</text>')
    return "\n".join([*out, f'<g transform="translate({MARGIN} {top + base:.1f})">', *body, "</g>", "</svg>", ""])


def framed(box: Box, x: float, y: float, size: Point) -> list[str]:
    """A box with its lines in the middle. Its left upper corner is at x, y."""
    w, h = size
    out = ["<g>"]
    if box.kind:
        about = f" data-name={quoteattr(box.name)}" if box.name else ""
        about += f" data-value={quoteattr(box.number)}" if box.number else ""
        corner = 5 if box.name else 8
        out = [
            f'<g class="node"{about}>',
            *([f"<title>{_plain(box.formula)}</title>"] if box.formula else []),
            f'<rect class="{box.kind} edge" x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" rx="{corner}"/>',
        ]
    first = y + h / 2 - LINE * (len(box.lines) - 1) / 2 + 0.35 * SIZE
    for k, (style, text) in enumerate(box.lines):
        out.append(written(text, x + w / 2, first + LINE * k, f"{style} mid"))
    return [*out, "</g>"]


def written(text: str, x: float, y: float, style: str) -> str:
    """A text that stands on y: z_i has its i set low."""
    down, small = 0.25 * SIZE, 0.75 * SIZE
    low = rf'\1<tspan dy="{down:.1f}" font-size="{small:.1f}">\2</tspan><tspan dy="-{down:.1f}">{SPACE}</tspan>'
    set_low = re.sub(r"([\w)])_(\w+(?:,\w+)*)", low, _plain(text))
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}">{set_low}</text>'


def _plain(text: str) -> str:
    """Text as it may stand in a file: a space for what cannot be printed, and no markup."""
    return escape("".join(c if c.isprintable() else " " for c in text))


def wired(net: Net, colour: str, down: bool = False) -> list[str]:
    """All wires from one box, of the class `colour`; they enter others from the left, or from above."""
    if not net.lines:
        return []
    path = "".join(f"M{a:.1f} {b:.1f}L{c:.1f} {d:.1f}" for (a, b), (c, d) in net.lines)
    arrows = "".join(_arrow((x, y - 1) if down else (x - 1, y), (x, y)) for x, y in net.arrows)
    return [f'<path class="{colour} wire" d="{path}{arrows}"/>', *dotted(net.dots, colour)]


def route(way: Sequence[Point], colour: str, start: str, end: str, carried: str = "") -> str:
    """A wire along the points of a way, from one box to another."""
    about = f"data-from={quoteattr(start)} data-to={quoteattr(end)} data-carried={quoteattr(carried)}"
    line = "L".join(f"{x:.1f} {y:.1f}" for x, y in way)
    return f'<path class="{colour} wire" {about} d="M{line}{_arrow(*way[-2:])}"/>'


def dotted(points: Sequence[Point], colour: str) -> list[str]:
    """Where wires branch."""
    dots = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in points)
    return [f'<path class="{colour} dot" d="{dots}"/>'] if dots else []


def _arrow(before: Point, at: Point) -> str:
    (x0, y0), (x, y) = before, at
    dx, dy = (x > x0) - (x < x0), (y > y0) - (y < y0)
    (a, b), (c, d) = ((x - 6 * dx + 3.5 * k * dy, y - 6 * dy + 3.5 * k * dx) for k in (-1, 1))
    return f"M{a:.1f} {b:.1f}L{x:.1f} {y:.1f}L{c:.1f} {d:.1f}"


def _style() -> str:
    rules = [f".{name}{{{what}:{light}}}" for name, (what, light, _) in COLOURS.items()]
    dark = [f".{name}{{{what}:{dark}}}" for name, (what, _, dark) in COLOURS.items()]
    rules += [
        "text{font-family:ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace}",
        ".mid{text-anchor:middle}.name,.value{font-weight:bold}.wire{fill:none;stroke-width:1.5;stroke-linejoin:round}",
        ".dot{stroke-width:6;stroke-linecap:round}.dashed{stroke-dasharray:4 3}",
    ]
    return "".join(rules) + DARK + "{" + "".join(dark) + "}"


def pixels(svg: str, dark: bool, scale: float) -> bytes:
    """A picture as PNG, in one of its themes, with `scale` pixels for a unit. Errors: ImportError."""
    try:
        import resvg_py
        from matplotlib import get_data_path
    except ModuleNotFoundError as error:
        raise ImportError(
            f"A .png needs {error.name}: install it with pip install 'openlstm[draw]', or write a .svg"
        ) from None
    # resvg knows no media queries: what is left is the rules for light, and after them those for dark if wanted.
    before, _, rest = svg.partition(DARK + "{")
    rules, _, rest = rest.partition("}}")
    found = re.search(r'width="(\d+)"', svg)
    assert found is not None  # `page` writes it
    fonts = Path(get_data_path()) / "fonts" / "ttf"
    png = resvg_py.svg_to_bytes(
        svg_string=before + (rules + "}" if dark else "") + rest,
        width=round(int(found[1]) * scale),
        font_files=[str(fonts / name) for name in FONTS],
        monospace_family="DejaVu Sans Mono",
        skip_system_fonts=True,  # or the same diagram would differ from machine to machine
    )
    return bytes(png)


def few(numbers: range) -> list[range]:
    """Those that are drawn, one each, and between them, as one, those that are not.

    >>> few(range(3)), few(range(9))
    ([range(0, 1), range(1, 2), range(2, 3)], [range(0, 1), range(1, 2), range(2, 8), range(8, 9)])
    """
    if len(numbers) <= MOST:
        return [range(n, n + 1) for n in numbers]
    return [numbers[:1], numbers[1:2], numbers[2:-1], numbers[-1:]]


def shape(*sizes: int) -> str:
    """The shape of an array as text: [64, 512]."""
    return f"[{', '.join(map(str, sizes))}]"
