"""Diagrams are well formed, show every named value once with its number, and nothing lies on anything else."""

import re
import sys
from itertools import combinations, pairwise
from xml.etree import ElementTree

import matplotlib.image
import numpy as np
import pytest
import torch
from cases import CASES, problem
from test_emit import SPECS, known, numbers

import openlstm
from openlstm import svg
from openlstm.arguments import gather
from openlstm.cells import CELLS, Cell, Numpy
from openlstm.draw import (
    block_diagram,
    flow_diagram,
    io_diagram,
    network_diagram,
    trace_diagram,
    values_of,
)
from openlstm.emit import _CALLED, flow, graph, shown, symbols
from openlstm.example import worked_example
from openlstm.layout import Net, layered, turned
from openlstm.nn import of
from openlstm.spec import Spec
from openlstm.step import Step
from openlstm.symbols import Sym, evaluate

DRAWN = [spec for k, spec in enumerate(SPECS) if k % 5 == 0 or str(spec).count("=") < 2]
LARGE = (
    "lstm(1000, 4096, 4096, 4096, 4096, 4096, 4096, 4096; bidirectional, residual, dropout=0.25, learned_state)",
    "lstm(80, 1024, 1024; proj_size=512, nonrecurrent_proj_size=256, peephole=diagonal, layer_norm, batch_first)",
    "gru(40, 512, 512, 512, 512; reset=before, residual)",
)
SHAPED = [Spec.parse(case) for case in (*CASES, *LARGE)]
NS = "{http://www.w3.org/2000/svg}"
NARROW = 0.61  # width of a character, as a part of the font's size


def parse(text):
    root = ElementTree.fromstring(text)
    x0, y0, width, height = map(float, root.get("viewBox").split())
    assert (x0, y0) == (0, 0)
    assert float(root.get("width")) == width and float(root.get("height")) == height
    inner = root.find(f"{NS}g")
    shift = [float(n) for n in re.findall(r"[\d.]+", inner.get("transform"))]
    return root, inner, (width, height), shift


def boxes(inner):
    found = []
    for group in inner.iter(f"{NS}g"):
        rect = group.find(f"{NS}rect")
        if rect is not None:
            found.append((group, *(float(rect.get(key)) for key in ("x", "y", "width", "height"))))
    return found


def words(element):
    return "".join(element.itertext()).replace("\u200b", "")


def text_box(element):
    """Where a text stands at most: tspans are subscripts, which are smaller."""
    width = NARROW * svg.SIZE * len(words(element))
    x, y = float(element.get("x")), float(element.get("y"))
    left = x - width / 2 if "mid" in element.get("class") else x
    return left, y - 0.8 * svg.SIZE, left + width, y + 0.25 * svg.SIZE


def apart(a, b, gap=0.0):
    return a[2] + gap <= b[0] or b[2] + gap <= a[0] or a[3] + gap <= b[1] or b[3] + gap <= a[1]


def paths(inner):
    """Each wire's subpaths as lists of points, without the arrowheads; and where these point."""
    for path in inner.iter(f"{NS}path"):
        if "wire" in path.get("class"):
            parts = [
                [tuple(map(float, point.split())) for point in part.split("L")] for part in path.get("d").split("M")[1:]
            ]
            heads = [part for part in parts if len(part) == 3 and part[0] != part[1] and bent(part)]
            lines = [part for part in parts if part not in heads]
            for (a, b), _, (c, d) in heads:  # its middle is behind the point, on the wire
                x, y = (a + c) / 2, (b + d) / 2
                assert any(e - 0.1 <= x <= g + 0.1 and f - 0.1 <= y <= h + 0.1 for e, g, f, h in segments(lines))
            yield path, lines, [head[1] for head in heads]


def bent(part):
    """Is this the head of an arrow: two strokes that are neither horizontal nor vertical."""
    return all(a[0] != b[0] and a[1] != b[1] for a, b in pairwise(part))


def segments(parts):
    return [(*sorted((a, c)), *sorted((b, d))) for part in parts for (a, b), (c, d) in pairwise(part)]


def check_clear(text):
    """No two boxes meet, no two texts, no wire crosses a text or a box's inside; all of it is within the picture."""
    root, inner, size, shift = parse(text)
    placed = boxes(inner)
    edges = [(x, y, x + w, y + h) for _, x, y, w, h in placed]
    assert all(apart(a, b, gap=7.9) for a, b in combinations(edges, 2))
    texts = [text_box(element) for element in inner.iter(f"{NS}text")]
    assert all(apart(a, b) for a, b in combinations(texts, 2))
    for (group, *_), edge in zip(placed, edges, strict=True):
        for left, top, right, bottom in (text_box(element) for element in group.iter(f"{NS}text")):
            assert edge[0] + 6 <= left and right + 6 <= edge[2] and edge[1] + 2 <= top and bottom + 2 <= edge[3]
    alone = [text for text in texts if all(apart(text, edge) for edge in edges)]
    inside = sum(len(list(group.iter(f"{NS}text"))) for group, *_ in placed)
    assert len(alone) + inside == len(texts)  # a text is in its box, or touches none
    for _, parts, heads in paths(inner):
        for a, c, b, d in segments(parts):
            assert a == c or b == d, "wires run along right angles"
            for edge in edges:
                assert c <= edge[0] + 0.11 or a >= edge[2] - 0.11 or d <= edge[1] + 0.11 or b >= edge[3] - 0.11
            for left, top, right, bottom in alone:
                assert c < left or a > right or d < top or b > bottom
        assert heads
    for left, top, right, bottom in [*edges, *texts]:
        assert left + shift[0] >= 0 and right + shift[0] <= size[0]
        assert top + shift[1] >= 0 and bottom + shift[1] <= size[1]
    captions = [text_box(element) for element in root.findall(f"{NS}text")]
    assert all(apart(a, b) for a, b in combinations(captions, 2))
    for left, top, right, bottom in captions:
        assert left >= 0 and top >= 0 and right <= size[0] and bottom <= shift[1]
    return inner, placed


def check_named(placed, diagram, values):
    """Each named value once, with its number both in the box and as data."""
    named = [group for group, *_ in placed if group.get("data-name")]
    assert sorted(group.get("data-name") for group in named) == sorted(n.name for n in diagram if n.name)
    for group in named:
        value = f"{values[group.get('data-name')]:.5g}"
        assert group.get("data-value") == value
        assert [t.text for t in group.iter(f"{NS}text") if "value" in t.get("class")] == [value]


def edges_drawn(inner, placed, diagram, down):
    """Which box feeds which, by where wires begin and arrows end; one that ends outside all boxes leaves the step."""
    found = []
    for _, parts, heads in paths(inner):
        lines = [end for part in parts for end in part]
        starts = {
            k for k, (_, x, y, w, h) in enumerate(placed) for a, b in lines
            if (abs(b - y - h) < 0.11 and x < a < x + w if down else abs(a - x - w) < 0.11 and y < b < y + h)
        }  # fmt: skip
        (source,) = starts
        for a, b in heads:
            ends = [
                k for k, (_, x, y, w, h) in enumerate(placed)
                if (abs(b - y) < 0.11 and x < a < x + w if down else abs(a - x) < 0.11 and y < b < y + h)
            ]  # fmt: skip
            found += [(source, ends[0] if ends else None)]
    return sorted(found, key=str)


def edges_wanted(spec, diagram):
    ends = {node.name: k for k, node in enumerate(diagram) if node.name}
    leave = {*shown(spec).values(), *(["y"] if "y" in ends else [])}
    inside = [(place, k) for k, node in enumerate(diagram) for place in node.inputs]
    return sorted([*inside, *((ends[name], None) for name in leave)], key=str)


@pytest.mark.parametrize("spec", DRAWN, ids=str)
def test_diagram(spec):
    x, s, p = numbers(spec)
    found = evaluate(symbols(spec), known(spec, x, s, p))
    values = {"x": x[0, 0], **{k: v[0, 0] for k, v in found.items()}}
    for name in s:
        values[("r" if name == "h" and spec.proj_size else name) + "_prev"] = s[name][0, 0]
    inner, placed = check_clear(block_diagram(spec, values, title="a & <b>"))
    diagram = graph(spec)
    assert len(placed) == len(diagram)
    check_named(placed, diagram, values)
    assert edges_drawn(inner, placed, diagram, down=False) == edges_wanted(spec, diagram)


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


def test_a_turned_layout_is_the_same_with_x_and_y_exchanged():
    sizes, inputs = [(20.0, 30.0), (40.0, 50.0), (30.0, 30.0)], [[], [0], [0, 1]]
    plain, other = layered(sizes, inputs), turned(layered(sizes, inputs))
    assert (other.width, other.height) == (plain.height, plain.width)
    assert [(y, x) for x, y in other.corners] == plain.corners
    for a, b in zip(plain.nets, other.nets, strict=True):
        assert [((y, x), (w, z)) for (x, y), (z, w) in b.lines] == a.lines
        assert [(y, x) for x, y in b.arrows] == a.arrows and [(y, x) for x, y in b.dots] == a.dots


def test_worked_example_numbers():
    text = worked_example().draw(3, unit=0, title="step 4")
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
    def said(spec):
        return [
            t.text for t in ElementTree.fromstring(block_diagram(spec)).iter(f"{NS}text") if "step" in (t.text or "")
        ]

    assert said(Spec.of("lstm", 2, 3)) == ["output, next step", "next step"]
    assert said(Spec.of("gru", 2, 3)) == ["output, next step"]
    spec = Spec.of("lstm", 2, 3, proj_size=2, nonrecurrent_proj_size=1)
    assert said(spec) == ["next step", "next step"]
    assert ">output<" in block_diagram(spec)


DIAGRAMS = (block_diagram, flow_diagram, network_diagram, io_diagram)


@pytest.mark.parametrize("diagram", DIAGRAMS)
def test_text_is_escaped_and_both_themes_are_there(diagram):
    text = diagram(Spec.of("lstm", 2, 3), title="<script>&\x00\ud800")
    assert "<script>" not in text and "&lt;script&gt;&amp;" in text
    assert ElementTree.fromstring(text.encode()) is not None
    assert "@media screen and (prefers-color-scheme:dark)" in text  # what is printed is light
    for name, (_, light, dark) in svg.COLOURS.items():
        assert light != dark, name
        assert f".{name}{{" in text


@pytest.mark.parametrize("diagram", DIAGRAMS)
def test_same_spec_same_picture(diagram):
    spec = Spec.of("lstm", 2, 3, peephole="diagonal")
    assert diagram(spec) == diagram(spec)


@pytest.mark.parametrize("diagram", DIAGRAMS)
def test_a_cell_of_ones_own_is_drawn(diagram, monkeypatch):
    """With names that could break a picture, three states, and gates that differ in what they read."""

    def own(z, s, w, m, o):
        a = m.tanh(z["a<"] + w["leak"] * s["m"])
        n = m.tanh(m.linear(a * s["h_seen"], w["R_n"], w.get("b_n")) + z["n"])
        return {"m": a, "k": s["k"] - a, "h": n * z["bh"] + z["b"]}

    cell = Cell(
        own,
        lambda o: ("a<", "b", "n"),
        states=("h", "m", "k"),
        titles={"m": "memory & more"},
        vectors=lambda o: {"leak": ("leak",)},
        apart=lambda o: ("b",),
        inside=lambda o: ("n",),
        projects=False,
    )
    monkeypatch.setitem(CELLS, "own", cell)
    for form in ("own(3, 4)", "own(3, 4, 4; bidirectional, layer_norm)"):
        check_clear(diagram(Spec.parse(form)))


@pytest.mark.parametrize(
    "form", ["lstm(2, 3)", "lstm(2, 3; peephole=dense)", "lstm(2, 3; peephole=diagonal, proj_size=2)", "gru(2, 3)"]
)
@pytest.mark.parametrize("diagram", [block_diagram, flow_diagram])
def test_each_source_has_its_colour_in_every_form(form, diagram):
    spec = Spec.parse(form)
    named = [node.name for node in (graph if diagram is block_diagram else flow)(spec)]
    _, inner, *_ = parse(diagram(spec))
    wires = [path.get("class").split()[0] for path in inner.iter(f"{NS}path") if "wire" in path.get("class")]
    colours = dict(zip(named, wires, strict=True))  # every box feeds another, or leaves the step
    states = [("r" if name == "h" and spec.proj_size else name) + "_prev" for name in spec.definition.states]
    assert [colours[name] for name in ("x", *states)] == [f"net{k}" for k in range(1 + len(states))]
    assert wires.count("net") == len(wires) - 1 - len(states)


# The arrays of one step.


def rows_of(spec, walk, p):
    """The numbers of parameters as a flow calls them: of one gate, of all, and of the first gates."""
    found = {Sym("parameter", "zoneout_" + name, ""): getattr(spec, "zoneout_" + name, 0.0) for name in ("h", "c")}
    size = walk.hidden_size
    for name in spec.shapes(walk):
        array, own = p[name + walk.suffix], spec.definition.vectors(spec).get(name)
        if own:
            found |= {Sym("parameter", v, ""): array[k * size : (k + 1) * size] for k, v in enumerate(own)}
        elif name in _CALLED:
            found[Sym("parameter", _CALLED[name], "")] = array
            for n in range(1, len(spec.gates)) if spec.blocks(name) else ():
                found[Sym("parameter", _CALLED[name], ",".join(spec.gates[:n]))] = array[: n * size]
            for k, gate in enumerate(spec.blocks(name)):
                found[Sym("parameter", _CALLED[name], gate)] = array[k * size : (k + 1) * size]
    return found


@pytest.mark.parametrize("spec", SHAPED[:-3], ids=str)
def test_the_flow_computes_what_the_equations_do(spec):
    """Each array follows from those that it is drawn with, has the shape that is written, and is the equations'."""
    for layer in range(spec.num_layers):
        _, _, parameters, states, *_ = problem(spec, batch=3).numpy()
        walk = spec.walks[layer * spec.directions]
        x = np.random.default_rng(0).normal(size=(3, walk.input_size))
        p = {name: parameters[name + walk.suffix] for name in spec.shapes(walk)}
        s = {name: states[name + walk.suffix] for name in spec.definition.states}
        step = Step(spec, walk, p, Numpy)
        masks = {f"zoneout_{name}": rate for name in s if (rate := getattr(spec, f"zoneout_{name}", 0.0))}
        expected, _, y = step(step.inputs(x), s, masks)
        constants = rows_of(spec, walk, parameters)
        given = {Sym("name", shown(spec)[name] + "_prev"): value for name, value in s.items()} | {Sym("name", "x"): x}
        arrays, names = [], {}
        for node in flow(spec, layer, batch=3):
            inputs = [arrays[place] for place in node.inputs]
            if node.columns:
                array = sum(each[:, a:b] for each, (a, b) in zip(inputs, node.columns, strict=True))
            else:
                values = [flow(spec, layer, batch=3)[place].value for place in node.inputs]
                array = evaluate({"": node.value}, given | constants | dict(zip(values, inputs, strict=True)))[""]
            assert array.shape == node.shape, node
            if node.factors:
                (a, b), (c, d) = node.factors
                assert b == c and (a, d) == node.shape and a == 3 and b == inputs[0].shape[-1]
            arrays.append(array)
            names |= {node.name: array} if node.name else {}
        for name, value in expected.items():
            np.testing.assert_allclose(names[name], value, rtol=1e-10, atol=1e-12, err_msg=name)
        np.testing.assert_allclose(names.get("y", names[shown(spec)["h"]]), y, rtol=1e-10, atol=1e-12)


def shape(sizes):
    return f"[{', '.join(map(str, sizes))}]"


@pytest.mark.parametrize("training", [False, True], ids=["", "training"])
@pytest.mark.parametrize("spec", SHAPED, ids=str)
def test_flow_diagram(spec, training):
    layer, random = spec.num_layers - 1, np.random.default_rng(0)
    diagram = flow(spec, layer, 64, training)
    values = {node.name: random.normal() for node in diagram if node.name}
    inner, placed = check_clear(flow_diagram(spec, layer, values=values, training=training, title="<&"))
    check_named(placed, diagram, values)
    assert edges_drawn(inner, placed, diagram, down=True) == edges_wanted(spec, diagram)
    for node, (group, *_) in zip(diagram, placed, strict=True):
        lines = [words(element) for element in group.iter(f"{NS}text")]
        if node.factors:
            assert " × ".join(map(shape, node.factors)) in lines and f"→ {shape(node.shape)}" in lines
        else:
            assert shape(node.shape) in lines


def labels(form, **options):
    return [(node.name, node.label) for node in flow(Spec.parse(form), **options) if node.factors or node.columns]


def test_one_product_makes_all_gates_where_the_equations_allow_it():
    joined = [("", "[W, R] [x; h(t-1)] + b_W + b_R")]
    gates = [(f"z_{gate}", f"·[:, {4 * k}:{4 * k + 4}]") for k, gate in enumerate("ifgo")]
    assert labels("lstm(3, 4)") == joined + gates
    assert labels("lstm(3, 4; peephole=diagonal)") == joined + gates
    assert labels("lstm(3, 4; peephole=dense, bias=False)") == [("", "[W, P, R] [x; c(t-1); h(t-1)]"), *gates]
    assert labels("lstm(3, 4; coupled=f=1-i)") == [
        *joined,
        *((f"z_{gate}", f"·[:, {4 * k}:{4 * k + 4}]") for k, gate in enumerate("igo")),
    ]
    assert labels("rnn(3, 4)") == [("z_h", "[W_h, R_h] [x; h(t-1)] + b_Wh + b_Rh")]
    assert labels("lstm(3, 4; weight_dropout=0.5, recurrent_dropout=0.5, bias=False)", training=True)[0] == (
        "",
        "[W, R ⊙ d_R] [x; h(t-1) ⊙ d_h]",
    )


def test_gates_that_come_apart():
    assert labels("gru(3, 4)") == [
        ("", "W x + b_W"),
        ("", "R h(t-1) + b_R"),
        ("z_r", "·[:, 0:4] + ·[:, 0:4]"),
        ("z_u", "·[:, 4:8] + ·[:, 4:8]"),
        ("z_n", "·[:, 8:12]"),
        ("z_nh", "·[:, 8:12]"),
    ]
    assert labels("gru(3, 4; reset=before, bias=False)") == [
        ("", "W x"),
        ("", "R_r,u h(t-1)"),
        ("z_r", "·[:, 0:4] + ·[:, 0:4]"),
        ("z_u", "·[:, 4:8] + ·[:, 4:8]"),
        ("z_n", "·[:, 8:12]"),
        ("", "R_n (r ⊙ h(t-1))"),
    ]
    assert labels("lstm(3, 4; layer_norm, bias=False)")[:2] == [("", "W x"), ("", "R h(t-1)")]
    made = [node for node in flow(Spec.parse("lstm(3, 4; layer_norm, bias=False)")) if node.shape == (1, 16)]
    assert made[-1].formula == "LN(W x) ⊙ γ_W + LN(R h(t-1)) ⊙ γ_R"


def test_numbers_of_whole_arrays():
    """What is cut apart has the numbers of its parts, and what stands side by side has those of both."""
    spec = Spec.of("lstm", 2, 3)
    values = {f"z_{gate}": np.full((5, 3), 10.0 * k) for k, gate in enumerate("ifgo")}
    values |= {"x": np.full((5, 2), -1.0), "h_prev": np.full((5, 3), 7.0)}
    inner, _ = check_clear(flow_diagram(spec, batch=5, values=values))
    numbers = [(words(group.find(f"{NS}text")), group.get("data-value")) for group, *_ in boxes(inner)]
    assert ("[x; h(t-1)]", "-1 … 7") in numbers
    assert ("[W, R] [x; h(t-1)] + bW + bR", "0 … 30") in numbers
    assert ("i", "0.5 … 0.5") in numbers  # follows from z_i


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layer": 2}, IndexError, r"layer 2: lstm\(2, 3\) has 1, numbered from 0"),
        ({"batch": 0}, ValueError, "batch is 0: expected a whole number of at least 1"),
        ({"values": {"i": np.zeros(4)}}, ValueError, r"'i' has the shape \(4,\): expected \(64, 3\), \(3,\) or one"),
    ],
)
def test_a_wrong_flow_is_said(options, error, message):
    with pytest.raises(error, match=message):
        flow_diagram(Spec.of("lstm", 2, 3), **options)


# The network over time.


def few(n):
    return [(k, k) for k in range(n)] if n <= 4 else [(0, 0), (1, 1), (2, n - 2), (n - 1, n - 1)]


def network_wanted(spec, steps):
    """Every wire by what it leads from and to and what it carries, from the meaning of a spec alone."""
    found, columns = [], few(steps)
    times = [a + 1 for a, b in columns if a == b]
    below = {t: f"x({t})" for t in times}
    for first, last in few(spec.num_layers):
        if first != last:
            here = {t: f"{spec.cell}_l{first}…l{last}({t})" for t in times}
            found += [(below[t], here[t], "") for t in times]
            below = here
            continue
        given = dict(below)
        for suffix in ("", "_reverse")[: spec.directions]:
            name = f"{spec.cell}_l{first}{suffix}"
            found += [(given[t], f"{name}({t})", "") for t in times]
            chain = [f"{name}({a + 1})" if a == b else f"{name}({a + 1}…{b + 1})" for a, b in columns]
            for state in spec.definition.states:
                ends = f"initial {state}_l{first}{suffix}", f"final {state}_l{first}{suffix}"
                found += [(a, b, state) for a, b in pairwise([ends[0], *chain[:: -1 if suffix else 1], ends[1]])]
        for t in times:
            top = f"{spec.cell}_l{first}({t})"
            if spec.bidirectional:
                found += [(f"{spec.cell}_l{first}{s}({t})", f"join_l{first}({t})", "") for s in ("", "_reverse")]
                top = f"join_l{first}({t})"
            if spec.dropout and first < spec.num_layers - 1:
                found.append((top, f"dropout_l{first}({t})", ""))
                top = f"dropout_l{first}({t})"
            if spec.residual and first:
                found += [(top, f"add_l{first}({t})", ""), (given[t], f"add_l{first}({t})", "")]
                top = f"add_l{first}({t})"
            below[t] = top
    return sorted([*found, *((below[t], f"y({t})", "") for t in times)])


@pytest.mark.parametrize("steps", [1, 3, 4, 5, 120])
@pytest.mark.parametrize("spec", SHAPED, ids=str)
def test_network_diagram(spec, steps):
    inner, placed = check_clear(network_diagram(spec, steps, batch=17, title="a & <b>"))
    named = {group.get("data-name"): (x, y, x + w, y + h) for group, x, y, w, h in placed}
    assert len(named) == len(placed)
    found = []
    for path, (way,), (tip,) in paths(inner):
        start, end = path.get("data-from"), path.get("data-to")
        found.append((start, end, path.get("data-carried")))
        assert way[-1] == tip
        for (x, y), (left, top, right, bottom) in ((way[0], named[start]), (tip, named[end])):
            on_side = (abs(x - left) < 0.11 or abs(x - right) < 0.11) and top <= y <= bottom
            assert on_side or ((abs(y - top) < 0.11 or abs(y - bottom) < 0.11) and left <= x <= right)
    assert sorted(found) == network_wanted(spec, steps)
    starts, dots = {}, set()
    for path in inner.iter(f"{NS}path"):
        if "dot" in path.get("class"):
            dots |= {tuple(map(float, at.removesuffix("h0").split())) for at in path.get("d").split("M")[1:]}
    for _, (way,), _ in paths(inner):
        starts.setdefault(way[0], []).extend(pairwise(way))
    assert dots == set().union(*(branches(Net(lines)) for lines in starts.values()))


def test_a_network_says_what_it_leaves_out_and_every_shape():
    spec = Spec.of("lstm", 7, [3, 4, 5, 6, 8, 9], proj_size=2, bidirectional=True)
    inner, placed = check_clear(network_diagram(spec, steps=50, batch=17))
    lines = {group.get("data-name"): [words(t) for t in group.iter(f"{NS}text")] for group, *_ in placed}
    assert lines["x(50)"] == ["x(50)", "[17, 7]"] and lines["y(1)"] == ["y(1)", "[17, 4]"]
    assert lines["lstm_l1_reverse(3…49)"] == ["47 more", "steps"]
    assert lines["lstm_l2…l4(2)"] == ["3 more", "layers"]
    assert lines["initial h_l5"] == ["initial r", "[17, 2]"] and lines["final c_l5_reverse"] == ["final c", "[17, 9]"]
    inside = {id(t) for group, *_ in placed for t in group.iter(f"{NS}text")}
    beside = [words(t) for t in inner.iter(f"{NS}text") if id(t) not in inside]
    assert beside.count("r [17, 2]") == 3 * 2 * 3  # three gaps, two directions, three layers that are drawn
    assert [beside.count(f"c [17, {n}]") for n in (3, 4, 5, 9)] == [6, 6, 0, 6]
    assert beside.count("[17, 4]") == 3 * 4  # what is passed up
    plain = [words(t) for t in parse(network_diagram(Spec.of("gru", 2, 3, 2), 2, 5))[1].iter(f"{NS}text")]
    assert plain.count("h [5, 3]") == 2 + 4


def test_learned_states_and_both_ends_of_each_direction():
    spec = Spec.of("gru", 2, 3, learned_state=True, bidirectional=True)
    _, placed = check_clear(network_diagram(spec))
    at = {group.get("data-name"): x for group, x, *_ in placed}
    assert at["initial h_l0"] < at["gru_l0(1)"] < at["gru_l0(4)"] < at["final h_l0"]
    assert at["final h_l0_reverse"] < at["gru_l0_reverse(1)"] < at["gru_l0_reverse(4)"] < at["initial h_l0_reverse"]
    said = {group.get("data-name"): [words(t) for t in group.iter(f"{NS}text")] for group, *_ in placed}
    assert said["initial h_l0"][-1] == "learned" and "learned" not in said["final h_l0"]


@pytest.mark.parametrize("diagram", [network_diagram, io_diagram])
@pytest.mark.parametrize("size", [0, -1, 2.0, True])
def test_a_size_that_is_none(diagram, size):
    with pytest.raises(ValueError, match=f"batch is {size!r}: expected a whole number of at least 1"):
        diagram(Spec.of("lstm", 2, 3), batch=size)


# A whole run.


@pytest.mark.parametrize("spec", SHAPED[:-3], ids=str)
def test_io_diagram_has_the_shapes_of_a_run(spec):
    _, placed = check_clear(io_diagram(spec, time=6, batch=4))
    module = of(spec).eval()
    with torch.no_grad():
        y, final = module(torch.zeros((4, 6, spec.input_size) if spec.batch_first else (6, 4, spec.input_size)))
    final = final if len(spec.definition.states) > 1 else (final,)
    said = {group.get("data-name"): [words(t) for t in group.iter(f"{NS}text")] for group, *_ in placed}
    assert shape(y.shape) in said["y"]
    for name, state in zip(spec.definition.states, final, strict=True):
        shapes = [shape(each.shape) for each in (state if isinstance(state, tuple) else (state,))]
        for box in (f"{name}_0", f"{name}_n"):
            assert [line for line in said[box] if line.startswith("[")] == shapes
    count = sum(parameter.numel() for parameter in module.parameters())
    assert f"{count:,} parameters" in said[spec.cell]


@pytest.mark.parametrize("form", LARGE)
def test_io_diagram_of_large_ones(form):
    spec = Spec.parse(form)
    _, placed = check_clear(io_diagram(spec))
    said = {group.get("data-name"): [words(t) for t in group.iter(f"{NS}text")] for group, *_ in placed}
    order = "batch, time" if spec.batch_first else "time, batch"
    assert said["x"][1:] == [
        "input",
        shape((*((64, 100) if spec.batch_first else (100, 64)), spec.input_size)),
        f"{order}, features",
    ]
    assert sum("more layers" in line for line in said[spec.cell]) == (spec.num_layers > 4)


# Numbers of a trace.


def kept(case, lengths=None, **some):
    """A case's parameters, and the trace of a run with them from random states; `some`: what it keeps."""
    asked = problem(case, time=6)
    module = of(asked.spec, dtype=torch.float64).eval()
    module.load_state_dict(asked.parameters)
    x = asked.x.transpose(0, 1) if asked.spec.batch_first else asked.x
    hx = gather(asked.spec, asked.states, batched=True)
    return asked.parameters, openlstm.trace(module, x, hx, lengths=lengths, **some)


@pytest.mark.parametrize("spec", SHAPED[:-3], ids=str)
def test_values_of_a_trace_are_those_of_its_step(spec):
    """From x and the states that a step begins with, the equations give all else that is said of this step."""
    lengths = [6, 0, 3, 1]
    parameters, trace = kept(spec, lengths)
    for walk in spec.walks:
        p = {name: parameters[name + walk.suffix].numpy() for name in spec.shapes(walk)}
        step = Step(spec, walk, p, Numpy)
        masks = {f"zoneout_{n}": r for n in spec.definition.states if (r := getattr(spec, f"zoneout_{n}", 0.0))}
        for sequence, t in ((b, t) for b in range(4) for t in range(lengths[b])):
            found = values_of(trace, t, layer=walk.layer, reverse=walk.reverse, sequence=sequence)
            if walk.layer and spec.dropout:
                assert "x" not in found
                continue
            s = {name: found[title + "_prev"][None] for name, title in shown(spec).items()}
            expected, *_ = step(step.inputs(found["x"][None]), s, masks)
            assert found.keys() == {"x", *expected, *(title + "_prev" for title in shown(spec).values())}
            for name, value in expected.items():
                np.testing.assert_allclose(found[name], value[0], rtol=1e-9, atol=1e-12, err_msg=name)


def test_a_reversed_direction_of_a_trace_that_was_cut():
    """Where the run went on, the state before the last kept step is not the initial one."""
    trace = openlstm.trace(openlstm.GRU(3, 4, bidirectional=True), torch.randn(6, 1, 3))
    whole, part = (values_of(t, 2, reverse=True) for t in (trace, trace.select(steps=slice(3))))
    assert "h_prev" in whole and "h_prev" not in part
    assert "h_prev" in values_of(trace.select(steps=slice(3, 6)), 5, reverse=True)


def test_trace_diagram_has_the_numbers_of_one_unit():
    case = "lstm(3, 5, 5; bidirectional, peephole=diagonal)"
    _, trace = kept(case)
    text = trace_diagram(trace, step=2, unit=4, layer=1, reverse=True, sequence=3)
    _, placed = check_clear(text)
    numbers = {group.get("data-name"): group.get("data-value") for group, *_ in placed}
    for name in ("z_i", "i", "f", "g", "o", "c", "h"):
        assert numbers[name] == f"{trace.arrays[f'{name}_l1_reverse'][2, 3, 4]:.5g}"
    for name in "hc":
        assert numbers[name + "_prev"] == f"{trace.arrays[f'{name}_l1_reverse'][3, 3, 4]:.5g}"
        first = trace_diagram(trace, step=5, unit=4, layer=1, reverse=True, sequence=3)
        begins = {group.get("data-name"): group.get("data-value") for group, *_ in boxes(parse(first)[1])}
        assert begins[name + "_prev"] == f"{trace.initial[f'{name}_l1_reverse'][3, 4]:.5g}"
    assert "step 2, unit 4, layer 1 reversed, sequence 3, all from 0" in text
    assert ">mine<" in trace_diagram(trace, 0, 0, title="mine")


def test_flow_diagram_takes_the_numbers_of_a_trace():
    _, trace = kept("lstm(3, 7; proj_size=2, nonrecurrent_proj_size=1)")
    values = values_of(trace, 1, sequence=2)
    _, placed = check_clear(flow_diagram(trace.spec, values=values))
    numbers = {group.get("data-name"): group.get("data-value") for group, *_ in placed}
    low, high = trace.arrays["c_l0"][1, 2].min(), trace.arrays["c_l0"][1, 2].max()
    assert numbers["c"] == f"{low:.3g} … {high:.3g}"
    assert numbers["y"] == "[" + ", ".join(f"{v:.3g}" for v in trace.output[1, 2]) + "]"  # follows from r and p
    assert numbers["r_prev"] == "[" + ", ".join(f"{v:.3g}" for v in trace.arrays["r_l0"][0, 2]) + "]"


def test_what_a_trace_has_not_kept_has_no_number():
    form = "lstm(3, 5; bidirectional)"
    whole, some = kept(form)[1], kept(form, steps=[0, 2, 3], sequences=[1, 3], units=[0, 4])[1]
    found = values_of(some, 3, unit=0, sequence=3)
    assert found["c"] == whole.arrays["c_l0"][3, 3, 0] and found["c_prev"] == whole.arrays["c_l0"][2, 3, 0]
    np.testing.assert_array_equal(found["x"], whole.x[3, 3])
    assert values_of(some, 0, unit=4, sequence=1)["h_prev"] == whole.initial["h_l0"][1, 4]
    assert "h_prev" not in values_of(some, 2, unit=4, sequence=1)
    assert values_of(some, 2, 4, reverse=True, sequence=1)["c_prev"] == whole.arrays["c_l0_reverse"][3, 1, 4]
    assert "c_prev" not in values_of(some, 0, 4, reverse=True, sequence=1)
    assert "c_prev" not in values_of(some, 3, 4, reverse=True, sequence=1)  # step 4 is not here
    check_clear(trace_diagram(some, 2, 4, sequence=1))
    for some in ({"units": [1]}, {"names": ["z_r", "u"]}, {"layers": 1}):
        assert "x" not in values_of(kept("gru(3, 5, 5)", **some)[1], 0, 1, layer=1)
    gates = values_of(kept("lstm(3, 5)", names=["i", "f"])[1], 1)
    assert gates.keys() == {"x", "i", "f"}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"step": 6}, IndexError, r"step 6 is not in this trace: it has 0, 1, 2, 3, 4, \.\.\."),
        ({"sequence": 4}, IndexError, "sequence 4 is not in this trace: it has 0, 1, 2, 3"),
        ({"unit": 5}, IndexError, "unit 5: layer 0 has 5, from 0"),
        ({"unit": -1}, IndexError, "unit -1: layer 0 has 5, from 0"),
        ({"layer": 1}, KeyError, "1"),
        ({"step": 4, "sequence": 2}, IndexError, "step 4: sequence 2 has ended before. Take an earlier step"),
    ],
)
def test_numbers_that_are_not_there(options, error, message):
    _, trace = kept("lstm(3, 5)", lengths=[6, 6, 3, 6])
    with pytest.raises(error, match=message):
        values_of(trace, **{"step": 0, **options})


# Files.


def test_diagrams_are_written(tmp_path):
    text = block_diagram(Spec.of("gru", 2, 3))
    text.save(tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_text(encoding="utf-8") == text
    root = ElementTree.fromstring(text)
    for dark, scale in ((False, 1), (True, 1.5)):
        path = tmp_path / f"{dark}.png"
        text.save(str(path), dark=dark, scale=scale)
        picture = matplotlib.image.imread(path)
        height, width = picture.shape[:2]
        assert width == round(float(root.get("width")) * scale)
        assert abs(height - float(root.get("height")) * scale) <= 1
        paper, ink = (svg.COLOURS[name][1 + dark] for name in ("paper", "ink"))
        colours = {tuple(pixel) for pixel in (picture.reshape(-1, picture.shape[-1])[:, :3] * 255).round().astype(int)}
        assert tuple((picture[0, 0, :3] * 255).round().astype(int)) == rgb(paper)
        assert rgb(ink) in colours  # there is text
        assert rgb(svg.COLOURS["net0"][1 + dark]) in colours and rgb(svg.COLOURS["net0"][2 - dark]) not in colours
    assert sorted(path.name for path in tmp_path.iterdir()) == ["False.png", "True.png", "a.svg"]


def rgb(colour):
    return tuple(int(colour[k : k + 2], 16) for k in (1, 3, 5))


def test_a_diagram_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    text = io_diagram(Spec.of("gru", 2, 3))
    with pytest.raises(ValueError, match=r"The diagram's name is '.*a\.pdf': it should end with \.png or \.svg"):
        text.save(tmp_path / "a.pdf")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        text.save(tmp_path / "none" / "a.svg")
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(ImportError, match=r"A \.png needs resvg_py: install it with pip install 'openlstm\[draw\]'"):
        text.save(tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
    text.save(tmp_path / "a.svg")
