"""What is derived from the equations agrees with the equations, for every option that a cell declares."""

import itertools
import re

import numpy as np
import pytest

from openlstm import cells
from openlstm.cells import ACTIVATIONS, BUILT_IN, CELLS, Numpy
from openlstm.emit import LATEX, TEXT, graph, latex, parameters, symbols, text
from openlstm.spec import Spec
from openlstm.step import Step
from openlstm.symbols import Sym, Symbols, evaluate, nodes

I, H = 3, 4


def declared(cell):
    """Each single setting of each option that the cell declares, and of the options that all cells share."""
    for name, option in CELLS[cell].options.items():
        if option.choices:
            yield from ({name: choice} for choice in option.choices if choice != option.default)
        elif option.many:
            for word, (_, constants) in ACTIVATIONS.items():
                named = word + "".join(f":{0.5 + k}" for k in range(len(constants)))
                if option.many == 1:
                    yield {name: named}
                for k in range(option.many if option.many > 1 else 0):
                    yield {name: (*option.default[:k], named, *option.default[k + 1 :])}
        else:
            yield {name: 0.3}
    yield from ({"bias": False}, {"layer_norm": True}, {"zoneout_h": 0.2})
    if "c" in CELLS[cell].states:
        yield {"zoneout_c": 0.3}
    if CELLS[cell].projects:
        yield {"proj_size": 2}
        yield {"proj_size": 2, "nonrecurrent_proj_size": 3, "proj_bias": True, "proj_clip": 0.05}


def specs():
    seen = {}
    for cell in BUILT_IN:
        single = list(declared(cell))
        for a, b in [({}, {}), *((a, {}) for a in single), *itertools.combinations(single, 2)]:
            if a.keys() & b.keys() or (len(ACTIVATIONS) < len(single) and _activations(a) and _activations(b)):
                continue
            try:
                spec = Spec.of(cell, I, H, **a, **b)
            except ValueError:
                continue  # options that do not go together
            seen[str(spec)] = spec
    return list(seen.values())


def _activations(options):
    return any(isinstance(value, tuple) for value in options.values())


SPECS = specs()


def numbers(spec, seed=0):
    random = np.random.default_rng(seed)
    walk = spec.walks[0]
    p = {name: random.normal(size=shape) for name, shape in spec.shapes(walk).items()}
    s = {name: random.normal(size=(2, width)) for name, width in spec.state_sizes(walk).items()}
    return random.normal(size=(2, I)), s, p


def known(spec, x, s, p):
    """The numbers of every symbol that a step is made of."""
    found = {Sym("name", "x"): x}
    for name, value in s.items():
        found[Sym("name", ("r" if name == "h" and spec.proj_size else name) + "_prev")] = value
        found[Sym("parameter", "zoneout_" + name, "")] = getattr(spec, "zoneout_" + name, 0.0)
    for name, symbol in parameters(spec).items():
        blocks = np.split(p[name], len(symbol)) if isinstance(symbol, tuple) else [p[name]]
        found |= dict(zip(symbol if isinstance(symbol, tuple) else [symbol], blocks, strict=True))
    return found


def test_the_list_covers_what_is_declared():
    assert len(SPECS) > 150
    for cell in BUILT_IN:
        for name, option in CELLS[cell].options.items():
            found = {getattr(spec, name) for spec in SPECS if spec.cell == cell}
            assert len(found) > 1, name
            assert set(option.choices) <= found


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_symbols_give_the_numbers_of_the_equations(spec):
    x, s, p = numbers(spec)
    step = Step(spec, spec.walks[0], p, Numpy)
    masks = {f"zoneout_{n}": r for n in s if (r := getattr(spec, f"zoneout_{n}", 0.0))}
    expected, _, y = step(step.inputs(x), s, masks)
    found = evaluate(symbols(spec), known(spec, x, s, p))
    assert set(expected) <= set(found) <= {*expected, "y"}
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12, atol=1e-14, err_msg=name)
    output = found.get("y", found["r" if spec.proj_size else "h"])
    np.testing.assert_allclose(output, y, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_the_diagram_computes_what_the_equations_do(spec):
    """Every node's number follows from those of its inputs, and every named value is one node."""
    x, s, p = numbers(spec, 1)
    values = known(spec, x, s, p)
    diagram = graph(spec)
    expected = evaluate(symbols(spec), values)
    for k, node in enumerate(diagram):
        assert all(place < k for place in node.inputs)
        inputs = {diagram[place].value: evaluate({"": diagram[place].value}, values)[""] for place in node.inputs}
        constants = {symbol: v for symbol, v in values.items() if symbol.op == "parameter"}
        if node.value.op != "name":
            alone = evaluate({"": node.value}, constants | inputs)[""]
            np.testing.assert_allclose(alone, evaluate({"": node.value}, values)[""], rtol=1e-12)
    for name, line in text(spec).items():
        assert [f"{TEXT.name(name, '', True)} = {n.formula}" for n in diagram if n.name == name] == [line]
    names = [node.name for node in diagram if node.name]
    assert sorted(names) == sorted({"x", *(f"{state_name(spec, n)}_prev" for n in needed(spec)), *expected})
    used = {place for node in diagram for place in node.inputs}
    ends = {node.name for k, node in enumerate(diagram) if k not in used}
    assert "" not in ends  # nothing is drawn that leads nowhere


def state_name(spec, name):
    return "r" if name == "h" and spec.proj_size else name


def needed(spec):
    used = {node.args[0] for node in nodes(symbols(spec).values()) if node.op == "name"}
    return [n for n in spec.definition.states if f"{state_name(spec, n)}_prev" in used]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_formulas_are_well_formed(spec):
    for lines in (latex(spec), text(spec)):
        assert list(lines) == list(symbols(spec))
        for line in lines.values():
            for left, right in ("()", "{}"):
                assert line.count(left) == line.count(right)
            assert "((" not in line.replace("((1 - ", "").replace("\\left(", "")
            assert not re.search(r"\b1(\.0)? (\\odot|⊙)|\+ -|- -|\+ 0(?!\.)\b|nan|<|object at", line)


def test_the_lstm_of_the_paper():
    """Sak, Senior and Beaufays 2014, eq. 7 to 13, as the equations give them."""
    spec = Spec.of("lstm", I, H, bias=False, peephole="diagonal", proj_size=2, nonrecurrent_proj_size=1)
    assert list(latex(spec).values()) == [
        r"z_{i,t} = W_i \, x_t + R_i \, r_{t-1}",
        r"z_{f,t} = W_f \, x_t + R_f \, r_{t-1}",
        r"z_{g,t} = W_g \, x_t + R_g \, r_{t-1}",
        r"z_{o,t} = W_o \, x_t + R_o \, r_{t-1}",
        r"i_t = \sigma(z_{i,t} + p_i \odot c_{t-1})",
        r"f_t = \sigma(z_{f,t} + p_f \odot c_{t-1})",
        r"g_t = \tanh(z_{g,t})",
        r"c_t = f_t \odot c_{t-1} + i_t \odot g_t",
        r"o_t = \sigma(z_{o,t} + p_o \odot c_t)",
        r"h_t = o_t \odot \tanh(c_t)",
        r"r_t = W_{hr} \, h_t",
        r"p_t = W_{hp} \, h_t",
        r"y_t = [r_t; p_t]",
    ]


def test_other_forms():
    options = {"coupled": "f=1-i", "layer_norm": True, "zoneout_c": 0.1, "cell_clip": 3}
    lines = text(Spec.of("lstm", I, H, **options))
    assert lines["z_g"] == "z_g = LN(W x)_g ⊙ γ_Wg + b_Wg + LN(R h(t-1))_g ⊙ γ_Rg + b_Rg"
    assert lines["f"] == "f = 1 - i"
    assert lines["c_new"] == "c_new = clip(f ⊙ c(t-1) + i ⊙ g, -3, 3)"
    assert lines["c"] == "c = ζ_c ⊙ c(t-1) + (1 - ζ_c) ⊙ c_new"
    assert lines["h"] == "h = o ⊙ tanh(LN(c_new) ⊙ γ_c + β_c)"
    lines = text(Spec.of("gru", I, H, reset="before", bias=False))
    assert lines["n"] == "n = tanh(z_n + R_n (r ⊙ h(t-1)))"
    lines = text(Spec.of("lstm", I, H, peephole="dense", activations=("hard_sigmoid", "leaky_relu:0.2", "linear")))
    assert lines["z_o"] == "z_o = W_o x + b_Wo + P_o c(t-1) + R_o h(t-1) + b_Ro"
    assert lines["i"] == "i = clip(0.2 z_i + 0.5, 0, 1)"
    assert lines["g"] == "g = max(0, z_g) + 0.2 min(0, z_g)"
    assert lines["h"] == "h = o ⊙ c"
    lines = text(Spec.of("lstm", I, H, activations=("sigmoid", "linear", "tanh")))
    assert (lines["g"], lines["c"]) == ("g = z_g", "c = f ⊙ c(t-1) + i ⊙ g")


def test_training_shows_the_masks():
    spec = Spec.of("lstm", I, H, recurrent_dropout=0.2, weight_dropout=0.1, bias=False)
    assert text(spec)["z_i"] == "z_i = W_i x + R_i h(t-1)"
    assert text(spec, training=True)["z_i"] == "z_i = W_i x + (R_i ⊙ d_Ri) (h(t-1) ⊙ d_h)"
    spec = Spec.of("lstm", I, H, recurrent_dropout=0.2, recurrent_dropout_on="candidate")
    assert text(spec, training=True)["g"] == "g = tanh(z_g) ⊙ d_g"
    assert len(graph(spec, training=True)) == len(graph(spec)) + 1


@pytest.mark.parametrize("form", ["recurrent_dropout=0.2", "weight_dropout=0.2", "recurrent_dropout=0.2, bias=False"])
def test_a_gate_of_a_norm_keeps_its_name_beside_masks(form):
    lines = text(Spec.parse(f"lstm(3, 4; layer_norm, {form})"), training=True)
    for gate in "ifgo":
        assert re.search(rf"LN\(\(?R .*\)_{gate} ⊙ γ_R{gate}", lines["z_" + gate])


def test_a_cell_of_ones_own_is_as_good(monkeypatch):
    """Nothing but its declaration is needed."""

    def leaky(z, s, w, m, o):
        return {"h": (s["h"] - m.tanh(z["a"]) * w["leak"]) / 2}

    own = cells.Cell(leaky, lambda o: ("a",), vectors=lambda o: {"leak": ("leak",)})
    monkeypatch.setitem(CELLS, "leaky", own)
    spec = Spec.of("leaky", I, H)
    assert text(spec)["h"] == "h = (h(t-1) - tanh(z_a) ⊙ leak) / 2"
    assert latex(spec)["h"] == r"h_t = \frac{h_{t-1} - \tanh(z_{a,t}) \odot \mathrm{leak}}{2}"


def test_equal_expressions_are_one_object():
    a, b = Sym("name", "a"), Sym("name", "b")
    assert Symbols.tanh(a + b) is Symbols.tanh(a + b)
    assert a + b is not b + a
    spec = Spec.of("lstm", I, H)
    first, second = symbols(spec), symbols(spec)
    assert all(first[name] is second[name] for name in first)
    z = first["z_i"]
    assert sum(node is z for node in nodes(first.values())) == 1


@pytest.mark.parametrize(
    ("make", "plain", "math"),
    [
        (lambda a, b: a - (b - a), "a - (b - a)", "a_t - (b_t - a_t)"),
        (lambda a, b: a - b + a, "a - b + a", "a_t - b_t + a_t"),
        (lambda a, b: a + -b, "a - b", "a_t - b_t"),
        (lambda a, b: (-a).__neg__() * 1 + 0, "a", "a_t"),
        (lambda a, b: -(a + b), "-(a + b)", "-(a_t + b_t)"),
        (lambda a, b: (1 - a) * b, "(1 - a) ⊙ b", r"(1 - a_t) \odot b_t"),
        (lambda a, b: a / (b / 2) / a, "a / (b / 2) / a", r"\frac{\frac{a_t}{\frac{b_t}{2}}}{a_t}"),
        (lambda a, b: 2 * (a + -3), "2 (a - 3)", r"2 \, (a_t - 3)"),
        (lambda a, b: a * -b, "a ⊙ (-b)", r"a_t \odot (-b_t)"),
    ],
)
def test_parentheses(make, plain, math):
    value = make(Sym("name", "a"), Sym("name", "b"))
    assert (TEXT.formula(value), LATEX.formula(value)) == (plain, math)


def test_a_missing_number_is_named():
    with pytest.raises(KeyError, match="no value for b"):
        evaluate({"y": Sym("name", "a") + Sym("name", "b")}, {Sym("name", "a"): 1.0})
