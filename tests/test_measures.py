"""What traced values say of a unit, on cells that were built by hand to do one thing."""

import numpy as np
import pytest
import torch
from cases import CASES

import openlstm
from openlstm import Spec, measures
from openlstm.derivative import Graph

TEXT = "ab(cd(e)f)g(hij)k" * 6
BRACKETS, COUNTER, SHUT, LAYER = 5, 2, 6, 0


def planted() -> tuple[openlstm.LSTM, torch.Tensor, np.ndarray]:
    """A random network with three units built by hand, its input, and where the text is inside brackets.

    BRACKETS is on from the opening bracket until the closing one, COUNTER adds a little at each step and loses nothing,
    and SHUT lets nothing out. Input: is the character an opening bracket, a closing one, another.
    """
    torch.manual_seed(0)
    lstm = openlstm.LSTM(3, 8, 2)
    text = TEXT.replace("cd(e)f", "cdef")  # one level is all that a switch can do
    x = torch.tensor([[c == "(", c == ")", c not in "()"] for c in text]).float()[:, None]
    inside = np.cumsum([(c == "(") - (c == ")") for c in text]) > 0

    def build(unit: int, **rows: tuple[float, float, float, float]) -> None:
        """For each gate: weights of the three inputs, and a bias."""
        with torch.no_grad():
            for k, gate in enumerate(lstm.spec.gates):
                row = 8 * k + unit
                lstm.weight_hh_l0[row] = lstm.bias_hh_l0[row] = 0
                lstm.weight_ih_l0[row] = torch.tensor(rows[gate][:3])
                lstm.bias_ih_l0[row] = rows[gate][3]

    on, off = (0.0, 0.0, 0.0, 30.0), (0.0, 0.0, 0.0, -30.0)
    build(BRACKETS, i=(60.0, 0, 0, -30), f=(0, -60.0, 0, 30), g=on, o=on)
    build(COUNTER, i=on, f=on, g=(0.01, 0.01, 0.01, 0), o=on)
    build(SHUT, i=off, f=off, g=on, o=off)
    return lstm, x, inside


def test_planted_units_come_first():
    lstm, x, inside = planted()
    t = openlstm.trace(lstm, x)
    summary = t.summary()
    best = summary.longest[0]
    assert (best["layer"], best["unit"], best["half_life"]) == (LAYER, COUNTER, np.inf)
    assert len(summary.units) == 16 and all(unit["half_life"] < 1000 for unit in summary.longest[1:])
    assert [(unit["layer"], unit["unit"]) for unit in summary.dead] == [(LAYER, SHUT)]
    first = t.find(inside)[0]
    assert (first["layer"], first["unit"]) == (LAYER, BRACKETS) and first["match"] > 0.999999
    assert abs(t.find(inside)[1]["match"]) < 0.9
    ramp = t.find(np.arange(len(inside)) >= len(inside) // 2, "h")[0]
    assert (ramp["layer"], ramp["unit"]) == (LAYER, COUNTER)
    unit = next(u for u in summary.units if (u["layer"], u["unit"]) == (LAYER, SHUT))
    assert unit["shut"] == {"i": 1.0, "f": 1.0, "o": 1.0} and unit["open"] == {"i": 0.0, "f": 0.0, "o": 0.0}
    text = str(summary)
    assert f"layer {LAYER} unit {COUNTER}: infinitely many steps" in text and "dead: 6" in text
    assert "f  forget gate" in text and "layer 1: 8 units, dead: none" in text


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_memory(case):
    spec = Spec.parse(str(case))
    known = measures.roles(spec)
    graph = Graph(spec)
    assert set(known.gates) <= set(graph.values)
    # Linear activations and the like aside, an LSTM remembers in c and a GRU in h.
    assert known.memory == {"lstm": "c", "gru": "h", "rnn": "h" if spec.zoneout_h else ""}[spec.cell], case


def test_half_life_of_a_gru_and_of_coupled_gates():
    t = openlstm.trace(openlstm.GRU(3, 4), torch.randn(20, 2, 3))
    lives = [unit["half_life"] for unit in t.summary().units]
    np.testing.assert_allclose(lives, np.log(0.5) / np.log(t["u"].astype(np.float64)).mean((0, 1)))
    t = openlstm.trace(openlstm.LSTM(3, 4, coupled="f=1-i"), torch.randn(20, 2, 3))
    lives = [unit["half_life"] for unit in t.summary().units]
    np.testing.assert_allclose(lives, np.log(0.5) / np.log(t["f"].astype(np.float64)).mean((0, 1)), rtol=1e-5)
    assert measures.roles(t.spec).gates == ("i", "f", "o")
    t = openlstm.trace(openlstm.RNN(3, 4), torch.randn(20, 2, 3))
    assert t.summary().longest == [] and "half of the memory" not in str(t.summary())


def test_half_life_with_lengths():
    lstm = openlstm.LSTM(3, 4)
    x = torch.randn(20, 2, 3)
    t = openlstm.trace(lstm, x, lengths=[20, 7])
    f = np.concatenate((t["f"][:, 0], t["f"][:7, 1])).astype(np.float64)
    np.testing.assert_allclose([u["half_life"] for u in measures.units(t)], np.log(0.5) / np.log(f).mean(0))


def test_summary_of_a_part():
    t = openlstm.trace(openlstm.LSTM(3, 4, 2), torch.randn(20, 2, 3)).select(["f", "c"], layers=1, units=[1, 3])
    found = measures.units(t)
    assert [(u["layer"], u["unit"]) for u in found] == [(1, 1), (1, 3)]
    assert all(u["half_life"] > 0 and np.isnan(u["swing"]) and list(u["open"]) == ["f"] for u in found)
    assert [u["unit"] for u in t.find(np.arange(20) > 9)] != [] and str(t.summary())
    with pytest.raises(KeyError, match="no 'h' in this trace: it has f_l1, c_l1"):
        t.find(np.arange(20) > 9, "h")


def test_match():
    rng = np.random.default_rng(0)
    on = rng.random(50) < 0.4
    values = np.stack((on, ~on, np.ones(50), rng.random(50)), -1).astype(float)
    found = measures.match(values, on)
    np.testing.assert_allclose(found[:3], [1, -1, 0], atol=1e-12)
    np.testing.assert_allclose(found[3], np.corrcoef(values[:, 3], on)[0, 1])
    values[:10] = np.nan
    np.testing.assert_allclose(measures.match(values, on)[3], np.corrcoef(values[10:, 3], on[10:])[0, 1])
    assert (measures.match(values, np.zeros(50, bool)) == 0).all()
    with pytest.raises(ValueError, match=r"The pattern has the shape \(49,\): expected \(50,\), one for each step"):
        measures.match(values, on[:49])
