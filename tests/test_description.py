"""Shapes and parameter counts: against torch's own modules, the paper's figures, and formulas that compute."""

import re
from math import prod

import pytest
import torch
from test_emit import SPECS

import openlstm
from openlstm.description import describe
from openlstm.nn import of
from openlstm.spec import Spec

FORMS = [
    *SPECS[::7],
    *map(
        Spec.parse,
        [
            "lstm(40, 512, 512; bidirectional, proj_size=256, nonrecurrent_proj_size=32, layer_norm, learned_state)",
            "lstm(3, 4, 5; peephole=dense, coupled=i=1-f, batch_first)",
            "gru(3, 4, 5, 6; bidirectional, bias=False, reset=before)",
            "rnn(5, 6, 6; proj_size=2, residual=False)",
        ],
    ),
]


def layers(described):
    return [layer for _, layers in described.modules.values() for layer in layers]


@pytest.mark.parametrize("spec", FORMS, ids=str)
def test_counts_and_formulas(spec):
    described = describe(spec, time=7, batch=2)
    assert described.total == sum(map(prod, spec.parameters.values()))
    assert f"\n{described.total:,} parameters" in str(described)
    for layer in layers(described):
        expected = {n: prod(s) for n, s in spec.parameters.items() if n.endswith(layer.walk.suffix)}
        own = {n: c for n, c in expected.items() if n.removesuffix(layer.walk.suffix) in spec.shapes(layer.walk)}
        assert layer.total == sum(own.values())
        assert eval(layer.formula.replace(" x ", " * ")) == layer.total
        assert layer.counts["W"] == dict.fromkeys(spec.gates, layer.walk.input_size * layer.walk.hidden_size)
        assert f"  {layer.formula} = {layer.total:,}\n" in str(described)
        mine, plain = layer.plain
        assert mine == len(spec.gates) * plain


@pytest.mark.parametrize("spec", FORMS, ids=str)
def test_columns_add_up(spec):
    """The printed table's own numbers."""
    text = str(describe(spec))
    tables = re.findall(r"  parameters.*?\n(  all [^\n]*)", text, re.DOTALL)
    assert len(tables) == len(spec.walks)
    for part in text.split("\nlayer ")[1:]:
        lines = part.split("\n")
        start = next(k for k, line in enumerate(lines) if line.startswith("  parameters"))
        end = next(k for k, line in enumerate(lines) if line.startswith("  all "))
        rows = [[int(n.replace(",", "")) for n in re.findall(r"\b\d[\d,]*\b", line)] for line in lines[start + 1 : end]]
        assert all(sum(row[:-1]) == row[-1] for row in rows)
        total = [int(n.replace(",", "")) for n in re.findall(r"\b\d[\d,]*\b", lines[end])]
        assert sum(total[:-1]) == total[-1] == sum(row[-1] for row in rows)
        assert len({len(line) for line in lines[start : end + 1]}) == 1  # the columns stand under each other


@pytest.mark.parametrize(
    "form", ["lstm(3, 4, 5; batch_first, bidirectional)", "gru(3, 4, 5)", "rnn(3, 6, 6; proj_size=2)"]
)
def test_shapes_are_those_of_a_run(form):
    spec = Spec.parse(form)
    module = of(spec)
    described = describe(module, time=7, batch=2)
    x = torch.zeros(2, 7, 3) if spec.batch_first else torch.zeros(7, 2, 3)
    y, _ = module(x)
    found = layers(described)
    assert found[0].input == tuple(x.shape)
    last = [layer.output for layer in found if layer.walk.layer == spec.num_layers - 1]
    assert (*last[0][:2], sum(shape[-1] for shape in last)) == tuple(y.shape)
    t = openlstm.trace(module, x)
    for layer in found:
        for name, shape in layer.states.items():
            assert t.initial[name + layer.walk.suffix].shape == shape
    order = "batch, time, size" if spec.batch_first else "time, batch, size"
    assert f"shapes [{order}], of states [batch, size]" in str(described)


def test_lstm_has_four_times_a_plain_layer_and_gru_three():
    for module, times in ((torch.nn.LSTM(40, 512), 4), (torch.nn.GRU(40, 512), 3)):
        plain = sum(p.numel() for p in torch.nn.RNN(40, 512).parameters())
        assert sum(p.numel() for p in module.parameters()) == times * plain
        assert f"W, R and b: {times} times the {plain:,} of a plain layer (rnn) of these sizes" in str(describe(module))
    assert "times the" not in str(describe(torch.nn.RNN(40, 512)))


@pytest.mark.parametrize(
    ("sizes", "outputs", "published"),
    [
        # Sak, Senior and Beaufays 2014: the two whole figures, then the rounded ones of its legends.
        ("40, 512", 126, 1_196_544),
        ("40, 2048; proj_size=512", 8000, 9_672_704),
        ("40, 512", 2000, "2.2M"),
        ("40, 512", 8000, "5.2M"),
        ("40, 1024; proj_size=256", 126, "1.5M"),
        ("40, 1024; proj_size=256", 2000, "2.0M"),
        ("40, 2048; proj_size=512", 126, "5.6M"),
        ("40, 2048; proj_size=512", 2000, "6.6M"),
        ("40, 2048; proj_size=256, nonrecurrent_proj_size=256", 2000, "4.5M"),
        ("40, 2048; proj_size=256, nonrecurrent_proj_size=256", 8000, "7.6M"),
    ],
)
def test_the_paper(sizes, outputs, published):
    spec = Spec.parse(f"lstm({sizes}{',' if ';' in sizes else ';'} peephole=diagonal)")
    described = describe(spec, outputs=outputs)
    found = described.weights()
    assert found == published or f"{found / 1e6:.1f}M" == published
    n_i, n_c, n_r, n_p, n_o = 40, spec.hidden_size[0], spec.proj_size, spec.nonrecurrent_proj_size, outputs
    if n_r:
        assert found == n_c * n_r * 4 + n_i * n_c * 4 + (n_r + n_p) * n_o + n_c * (n_r + n_p) + n_c * 3
    else:
        assert found == n_c * n_c * 4 + n_i * n_c * 4 + n_c * n_o + n_c * 3
    formula = re.search(r"N = (.*)\n  with (.*)", str(described))
    values = {name: int(size) for name, size in (part.split(" = ") for part in formula[2].split(", "))}
    terms = re.sub(r"(?<=[\w)]) (?=[\w(])", " * ", formula[1])
    assert eval(terms, {}, values) == found


def test_the_papers_formulas_as_printed():
    def formula(form, outputs=0):
        return re.search("N = (.*)", str(describe(Spec.parse(form), outputs=outputs)))[1]

    assert formula("lstm(40, 512; peephole=diagonal)", 126) == "n_c n_c 4 + n_i n_c 4 + n_c n_o + n_c 3"
    assert (
        formula("lstm(40, 512; proj_size=256, nonrecurrent_proj_size=2, peephole=diagonal)", 9)
        == "n_c n_r 4 + n_i n_c 4 + (n_r + n_p) n_o + n_c (n_r + n_p) + n_c 3"
    )
    assert formula("lstm(40, 512; peephole=dense)") == "n_c n_c 4 + n_i n_c 4 + n_c n_c 4"


def test_a_model_with_layers_inside():
    model = torch.nn.ModuleDict(
        {"a": torch.nn.LSTM(3, 4, bidirectional=True), "b": torch.nn.Linear(8, 5), "c": openlstm.GRU(5, 6)}
    )
    described = describe(model)
    assert {name: str(spec) for name, (spec, _) in described.modules.items()} == {
        "a": "lstm(3, 4; bidirectional)",
        "c": "gru(5, 6)",
    }
    assert described.total == sum(p.numel() for name in "ac" for p in model[name].parameters())
    assert str(described).startswith("a: lstm(3, 4; bidirectional)\n")
    assert "\nlayer 0, reversed\n" in str(described)


def test_what_cannot_be_described():
    with pytest.raises(TypeError, match="Linear has no recurrent layer: expected a Spec, an LSTM, GRU or RNN"):
        describe(torch.nn.Linear(2, 3))
    with pytest.raises(TypeError, match="int has no recurrent layer"):
        describe(3)
    with pytest.raises(ValueError, match="time is 0: expected a whole number of at least 1"):
        describe(Spec.of("rnn", 1, 1), time=0)
    with pytest.raises(ValueError, match=r"outputs is 1\.5"):
        describe(Spec.of("rnn", 1, 1), outputs=1.5)


def test_public_name():
    assert openlstm.describe is describe
