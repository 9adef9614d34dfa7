"""Diagrams are well formed, show every named value once with its number, and nothing lies on anything else."""

import re
from itertools import combinations
from xml.etree import ElementTree

import numpy as np
import pytest
from test_emit import SPECS, known, numbers

from openlstm import draw
from openlstm.draw import block_diagram
from openlstm.emit import graph, symbols
from openlstm.example import SPEC, at_step, worked_example
from openlstm.layout import layered
from openlstm.spec import Spec
from openlstm.symbols import evaluate

DRAWN = [spec for k, spec in enumerate(SPECS) if k % 5 == 0 or str(spec).count("=") < 2]
SVG = "{http://www.w3.org/2000/svg}"
NARROW = 0.61  # width of a character, as a part of the font's size


def parse(text):
    root = ElementTree.fromstring(text)
    x0, y0, width, height = map(float, root.get("viewBox").split())
    assert (x0, y0) == (0, 0)
    assert float(root.get("width")) == width and float(root.get("height")) == height
    inner = root.find(f"{SVG}g")
    shift = [float(n) for n in re.findall(r"[\d.]+", inner.get("transform"))]
    return root, inner, (width, height), shift


def boxes(inner):
    found = []
    for group in inner.iter(f"{SVG}g"):
        rect = group.find(f"{SVG}rect")
        if rect is not None:
            found.append((group, *(float(rect.get(key)) for key in ("x", "y", "width", "height"))))
    return found


def text_box(element):
    """Where a text stands at most: tspans are subscripts, which are smaller."""
    text = "".join(element.itertext()).replace("\u200b", "")
    width = NARROW * draw.SIZE * len(text)
    x, y = float(element.get("x")), float(element.get("y"))
    left = x - width / 2 if "mid" in element.get("class") else x
    return left, y - 0.8 * draw.SIZE, left + width, y + 0.5 * draw.SIZE


def apart(a, b, gap=0.0):
    return a[2] + gap <= b[0] or b[2] + gap <= a[0] or a[3] + gap <= b[1] or b[3] + gap <= a[1]


@pytest.mark.parametrize("spec", DRAWN, ids=str)
def test_diagram(spec):
    x, s, p = numbers(spec)
    found = evaluate(symbols(spec), known(spec, x, s, p))
    values = {"x": x[0, 0], **{k: v[0, 0] for k, v in found.items()}}
    for name in s:
        values[("r" if name == "h" and spec.proj_size else name) + "_prev"] = s[name][0, 0]
    root, inner, size, shift = parse(block_diagram(spec, values, title="a & <b>"))
    placed = boxes(inner)
    diagram = graph(spec)
    assert len(placed) == len(diagram)

    # Each named value once, with its number both in the box and as data.
    named = [group for group, *_ in placed if group.get("data-name")]
    assert sorted(group.get("data-name") for group in named) == sorted(n.name for n in diagram if n.name)
    for group in named:
        value = f"{values[group.get('data-name')]:.5g}"
        assert group.get("data-value") == value
        assert [t.text for t in group.iter(f"{SVG}text") if "value" in t.get("class")] == [value]

    # Boxes are apart, texts are inside their boxes, and everything is inside the picture.
    edges = [(x, y, x + w, y + h) for _, x, y, w, h in placed]
    assert all(apart(a, b, gap=8) for a, b in combinations(edges, 2))
    for (group, *_), edge in zip(placed, edges, strict=True):
        texts = [text_box(element) for element in group.iter(f"{SVG}text")]
        assert all(apart((*a[:1], a[1] + 3, a[2], a[3] - 3), b) or a[3] <= b[1] + 5 for a, b in combinations(texts, 2))
        for left, top, right, bottom in texts:
            assert edge[0] <= left and right <= edge[2] and edge[1] <= top + 2 and bottom <= edge[3] + 2
    words = [text_box(e) for e in inner.iter(f"{SVG}text")]
    for left, top, right, bottom in [*edges, *words]:
        assert left + shift[0] >= 0 and right + shift[0] <= size[0]
        assert top + shift[1] >= 0 and bottom + shift[1] <= size[1]
    for element in root.findall(f"{SVG}text"):
        left, top, right, bottom = text_box(element)
        assert left >= 0 and top >= 0 and right <= size[0] and bottom <= shift[1] + 1


def spans(net):
    return [(*sorted((a, c)), *sorted((b, d))) for (a, b), (c, d) in net.lines]


@pytest.mark.parametrize("spec", DRAWN, ids=str)
def test_wires(spec):
    """Each wire leads from its box to all that it feeds, past all others, and never along another net's."""
    inputs = [list(node.inputs) for node in graph(spec)]
    random = np.random.default_rng(len(inputs))
    sizes = [(float(random.integers(20, 150)), float(random.integers(30, 90))) for _ in inputs]
    result = layered(sizes, inputs)
    edges = [(x, y, x + w, y + h) for (x, y), (w, h) in zip(result.corners, sizes, strict=True)]
    for source, net in enumerate(result.nets):
        feeds = [k for k, places in enumerate(inputs) for place in places if place == source]
        assert bool(net.lines) == bool(feeds)
        entered = [k for x, y in net.arrows for k, e in enumerate(edges) if x == e[0] and e[1] <= y <= e[3]]
        assert sorted(entered) == sorted(feeds)
        if feeds:
            assert connected(net, edges[source])
            assert set(net.dots) == branches(net)
        for a, c, b, d in spans(net):
            assert a == c or b == d
            for edge in edges:  # a wire may touch a box, not cross it
                assert c <= edge[0] or a >= edge[2] or d <= edge[1] or b >= edge[3]
    for one, other in combinations(result.nets, 2):
        for (a, c, b, d), (e, g, f, h) in ((p, q) for p in spans(one) for q in spans(other)):
            if b == d and f == h and abs(b - f) < 2:
                assert c <= e or g <= a, "two nets on one height"
            if a == c and e == g and abs(a - e) < 2:
                assert d <= f or h <= b, "two trunks in one place"


def branches(net):
    """Where three lines or more meet."""
    ends = [end for line in net.lines if line[0] != line[1] for end in line]
    found = set()
    for x, y in ends:
        ways = set()
        for a, c, b, d in spans(net):
            if b == d == y and a <= x <= c:
                ways |= ({"left"} if a < x else set()) | ({"right"} if x < c else set())
            if a == c == x and b <= y <= d:
                ways |= ({"up"} if b < y else set()) | ({"down"} if y < d else set())
        if len(ways) > 2:
            found.add((x, y))
    return found


def connected(net, box):
    """Can one walk along the net's lines from the box to every one."""
    lines = [(*sorted((a, c)), *sorted((b, d))) for (a, b), (c, d) in net.lines if (a, b) != (c, d)]
    reached = {i for i, (a, _, b, d) in enumerate(lines) if a == box[2] and box[1] <= b <= d <= box[3]}
    while True:
        more = {
            j
            for i in reached
            for j, q in enumerate(lines)
            if j not in reached and not (lines[i][1] < q[0] or q[1] < lines[i][0])
            and not (lines[i][3] < q[2] or q[3] < lines[i][2])
        }  # fmt: skip
        if not more:
            break
        reached |= more
    return len(reached) == len(lines)


def test_worked_example_numbers():
    text = block_diagram(SPEC, at_step(worked_example(), 3), "step 4")
    _, inner, *_ = parse(text)
    numbers = {group.get("data-name"): group.get("data-value") for group, *_ in boxes(inner)}
    assert numbers["x"] == "[1, 0, 1]"
    assert numbers["i"] == "4.5398e-05"
    assert numbers["f"] == "0.99995"
    assert numbers["c_prev"] == "6.9998"
    assert numbers["h"] == "6.9995"
    # Operations on the way have theirs too: f * c(t-1) and i * g.
    ways = sorted(group.get("data-value") for group, *_ in boxes(inner) if not group.get("data-name"))
    assert ways == ["4.5398e-05", "6.9995"]


def test_numbers_of_many_units():
    spec = Spec.of("rnn", 2, 6)
    values = {"x": np.array([1.0, 2.0]), "z_h": np.arange(6.0), "h": np.array([np.nan, 1, 2, 3, 4, 5.0])}
    _, inner, *_ = parse(block_diagram(spec, values))
    numbers = {group.get("data-name"): group.get("data-value") for group, *_ in boxes(inner)}
    assert numbers == {"x": "[1, 2]", "h_prev": None, "z_h": "0 … 5", "h": "1 … 5"}


def test_what_leaves_the_step():
    def words(spec):
        return [
            t.text for t in ElementTree.fromstring(block_diagram(spec)).iter(f"{SVG}text") if "step" in (t.text or "")
        ]

    assert words(Spec.of("lstm", 2, 3)) == ["output, next step", "next step"]
    assert words(Spec.of("gru", 2, 3)) == ["output, next step"]
    spec = Spec.of("lstm", 2, 3, proj_size=2, nonrecurrent_proj_size=1)
    assert words(spec) == ["next step", "next step"]
    assert ">output<" in block_diagram(spec)


def test_text_is_escaped_and_both_themes_are_there():
    text = block_diagram(Spec.of("lstm", 2, 3), title="<script>&")
    assert "<script>" not in text and "&lt;script&gt;&amp;" in text
    assert "prefers-color-scheme:dark" in text
    for name, (_, light, dark) in draw.COLOURS.items():
        assert light != dark, name
        assert f".{name}{{" in text


def test_same_spec_same_picture():
    spec = Spec.of("lstm", 2, 3, peephole="diagonal")
    assert block_diagram(spec) == block_diagram(spec)


@pytest.mark.parametrize(
    "form", ["lstm(2, 3)", "lstm(2, 3; peephole=dense)", "lstm(2, 3; peephole=diagonal, proj_size=2)", "gru(2, 3)"]
)
def test_each_source_has_its_colour_in_every_form(form):
    spec = Spec.parse(form)
    named = [node.name for node in graph(spec)]
    _, inner, *_ = parse(block_diagram(spec))
    wires = [path.get("class").split()[0] for path in inner.iter(f"{SVG}path") if "wire" in path.get("class")]
    colours = dict(zip(named, wires, strict=True))  # every box feeds another, or leaves the step
    states = [("r" if name == "h" and spec.proj_size else name) + "_prev" for name in spec.definition.states]
    assert [colours[name] for name in ("x", *states)] == [f"net{k}" for k in range(1 + len(states))]
    assert wires.count("net") == len(wires) - 1 - len(states)
