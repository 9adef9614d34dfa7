"""The block diagram of a cell with its numbers at a step."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import combinations, pairwise
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from .emit import TEXT, Node, graph, shown
from .layout import Net, layered
from .spec import Spec
from .symbols import Sym, evaluate

SIZE = 13.0  # of text
WIDE = 0.62 * SIZE  # of a character: the font is one of fixed width
LINE = 1.35 * SIZE
PAD = 8.0
MARGIN = 20.0
SPACE = "\u200b"  # of no width: what follows stands at the old height again
FORMULA = 30  # characters of a formula on a line

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
SOURCES = 3  # nets of inputs and states have colours of their own


def block_diagram(spec: Spec, values: Mapping[str, Any] | None = None, title: str = "", training: bool = False) -> str:
    """One step of a cell as SVG text: every operation as it is wired, from the equations, for any spec.

    `values`: numbers or arrays by name, as in a trace, with x and <state>_prev for what the step begins with. The
    number of an operation between named values follows from theirs where no parameter is needed.

    >>> block_diagram(Spec.of("gru", 3, 4)).startswith("<svg")
    True
    """
    nodes = graph(spec, training)
    numbers = _numbers(nodes, values or {})
    texts = [_lines(node, spec.definition.titles.get(node.name, ""), numbers[k]) for k, node in enumerate(nodes)]
    inputs = [list(node.inputs) for node in nodes]
    ends = {node.name: k for k, node in enumerate(nodes) if node.name}
    goes = dict.fromkeys(shown(spec).values(), "next step")
    output = "y" if "y" in ends else next(iter(goes))
    goes[output] = "output, next step" if output in goes else "output"
    for name, where in goes.items():  # what leaves the step
        texts.append([("soft", where)])
        inputs.append([ends[name]])
    sizes = [
        (2 * PAD + WIDE * max(len(text) for _, text in lines), PAD + max(LINE * len(lines), 13.0 * len(places)))
        for lines, places in zip(texts, inputs, strict=True)
    ]
    placed = layered(sizes, inputs, last=range(len(nodes), len(texts)))
    caption = [line for line in (title, str(spec)) if line]
    top = MARGIN + LINE * len(caption) + PAD
    width = max(placed.width, WIDE * max(map(len, caption))) + 2 * MARGIN
    height = placed.height + top + MARGIN
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" role="img"'
        f' viewBox="0 0 {width:.0f} {height:.0f}" font-size="{SIZE}">',
        f"<title>{escape(' '.join(caption))}</title>",
        f"<style>{_style()}</style>",
        '<rect class="paper" width="100%" height="100%"/>',
    ]
    for k, line in enumerate(caption):
        kind = "ink name" if k == 0 else "soft"
        out.append(f'<text class="{kind}" x="{MARGIN}" y="{MARGIN + LINE * (k + 0.6):.1f}">{escape(line)}</text>')
    out.append(f'<g transform="translate({MARGIN} {top:.1f})">')
    sources = [k for k, node in enumerate(nodes) if not node.inputs]
    names = ["x", *(state + "_prev" for state in shown(spec).values())]
    colours = {ends[name]: f"net{k}" for k, name in enumerate(names[:SOURCES]) if name in ends}
    for k, net in enumerate(placed.nets):
        out += _wires(net, colours.get(k, "net"))
    kinds = {ends[name]: "state" for state in shown(spec).values() for name in (state, state + "_prev") if name in ends}
    kinds = dict.fromkeys(sources, "input") | kinds
    for k, (lines, (x, y), size) in enumerate(zip(texts, placed.corners, sizes, strict=True)):
        node = nodes[k] if k < len(nodes) else None
        out += _box(node, lines, x, y, size, kinds.get(k, "box"), numbers[k] if node else "")
    return "\n".join([*out, "</g>", "</svg>", ""])


def _numbers(nodes: Sequence[Node], values: Mapping[str, Any]) -> list[str]:
    """Each node's number as text, "" where none was given and none follows from those of its inputs."""
    known: dict[Sym, Any] = {}
    found = []
    for node in nodes:
        inputs = [nodes[k].value for k in node.inputs]
        if node.name in values:
            known[node.value] = np.asarray(values[node.name])
        elif node.inputs and all(value in known for value in inputs):
            # What mixes units cannot follow from the number of one.
            alone = node.value.op in ("linear", "layer_norm", "join") and not all(np.ndim(known[k]) for k in inputs)
            with suppress(KeyError):  # a parameter
                known |= {} if alone else {node.value: evaluate({"": node.value}, known)[""]}
        found.append(_number(known[node.value]) if node.value in known else "")
    return found


def _number(value: Any) -> str:
    flat = np.ravel(value)
    if flat.size == 1:
        return f"{flat[0]:.5g}"
    if flat.size <= 4:
        return f"[{', '.join(f'{one:.3g}' for one in flat)}]"
    return f"{np.nanmin(flat):.3g} … {np.nanmax(flat):.3g}"


def _lines(node: Node, title: str, number: str) -> list[tuple[str, str]]:
    """A box's lines: its name, what the field calls it, what it does, its number."""
    lines = [("ink name", TEXT.name(node.name, "", True))] if node.name else []
    lines += [("soft", title)] if title else []
    style = "soft" if node.name else "ink"
    return lines + [(style, line) for line in _broken(node.label)] + ([("ink value", number)] if number else [])


def _broken(label: str) -> list[str]:
    """A long sum on several lines, of lengths as equal as can be."""
    terms = label.split(" + ")
    count = min(len(terms), -(-len(label) // FORMULA))
    ways = (
        [" + ".join(terms[i:j]) for i, j in pairwise((0, *cuts, len(terms)))]
        for cuts in combinations(range(1, len(terms)), max(0, count - 1))
    )
    lines = min(ways, key=lambda lines: max(map(len, lines)))
    return [line + " +" for line in lines[:-1]] + [line for line in lines[-1:] if line]


def _box(
    node: Node | None,
    lines: list[tuple[str, str]],
    x: float,
    y: float,
    size: tuple[float, float],
    kind: str,
    number: str,
) -> list[str]:
    """A box with its lines of text in the middle; the last are the words for what leaves the step, which have none."""
    w, h = size
    out = ["<g>"]
    if node is not None:
        about = f" data-name={quoteattr(node.name)}" if node.name else ""
        about += f" data-value={quoteattr(number)}" if number else ""
        out = [f'<g class="node"{about}><title>{escape(node.formula)}</title>']
        corner = 5 if node.name else 11
        out.append(
            f'<rect class="{kind} edge" x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" rx="{corner:.1f}"/>'
        )
    first = y + h / 2 - LINE * (len(lines) - 1) / 2 + 0.35 * SIZE
    for k, (style, text) in enumerate(lines):
        out.append(
            f'<text class="{style} mid" x="{x + w / 2:.1f}" y="{first + LINE * k:.1f}">{_subscripts(text)}</text>'
        )
    return [*out, "</g>"]


def _subscripts(text: str) -> str:
    """z_i with the i set low."""
    down, small = 0.25 * SIZE, 0.75 * SIZE
    low = rf'\1<tspan dy="{down:.1f}" font-size="{small:.1f}">\2</tspan><tspan dy="-{down:.1f}">{SPACE}</tspan>'
    return re.sub(r"([\w)])_(\w+)", low, escape(text))


def _wires(net: Net, colour: str) -> list[str]:
    if not net.lines:
        return []
    path = "".join(f"M{a:.1f} {b:.1f}L{c:.1f} {d:.1f}" for (a, b), (c, d) in net.lines)
    arrows = "".join(f"M{x - 6:.1f} {y - 3.5:.1f}L{x:.1f} {y:.1f}L{x - 6:.1f} {y + 3.5:.1f}" for x, y in net.arrows)
    dots = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in net.dots)
    return [
        f'<path class="{colour} wire" d="{path}{arrows}"/>',
        *([f'<path class="{colour} dot" d="{dots}"/>'] if dots else []),
    ]


def _style() -> str:
    rules = [f".{name}{{{what}:{light}}}" for name, (what, light, _) in COLOURS.items()]
    dark = [f".{name}{{{what}:{dark}}}" for name, (what, _, dark) in COLOURS.items()]
    rules += [
        "text{font-family:ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace}",
        ".mid{text-anchor:middle}.name,.value{font-weight:bold}.wire{fill:none;stroke-width:1.5;stroke-linejoin:round}",
        ".dot{stroke-width:6;stroke-linecap:round}",
    ]
    return "".join(rules) + "@media (prefers-color-scheme:dark){" + "".join(dark) + "}"
