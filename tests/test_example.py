"""The worked example has the numbers that one gets by hand."""

import math

import numpy as np

from openlstm.draw import values_of
from openlstm.example import INPUTS, SPEC, WEIGHTS, number, parameters, table, worked_example

STEPS = range(5)


def by_hand():
    """The same, from the formulas, with math alone."""
    h = c = 0.0
    for x in [(3, 1, 0), (4, 1, 0), (2, 0, 0), (1, 0, 1), (3, -1, 0)]:
        x1, x2, x3 = x
        i = 1 / (1 + math.exp(-(100 * x2 - 10)))
        f = 1 / (1 + math.exp(-(100 * x2 + 10)))
        o = 1 / (1 + math.exp(-(100 * x3 - 10)))
        c = f * c + i * x1
        h = o * c
        yield {"i": i, "f": f, "g": x1, "c": c, "o": o, "h": h}


def test_memory_and_output():
    t = worked_example()
    np.testing.assert_allclose(t["c"].ravel(), [3, 7, 7, 7, 0], atol=1e-3)
    np.testing.assert_allclose(t["h"].ravel(), [0, 0, 0, 7, 0], atol=1e-3)


def test_true_numbers():
    t = worked_example()
    for step, expected in enumerate(by_hand()):
        for name, value in expected.items():
            np.testing.assert_allclose(t[name][step].item(), value, rtol=1e-12, err_msg=f"{name} at step {step + 1}")
    assert t["z_i"].ravel().tolist() == [90, 90, -10, -10, -110]
    assert t["z_f"].ravel().tolist() == [110, 110, 10, 10, -90]
    assert t["z_g"].ravel().tolist() == [3, 4, 2, 1, 3]
    assert t["z_o"].ravel().tolist() == [-10, -10, -10, 90, -10]


def test_what_it_is_made_of():
    assert str(SPEC) == "lstm(3, 1; activations=sigmoid/linear/linear)"
    assert INPUTS == ((3, 1, 0), (4, 1, 0), (2, 0, 0), (1, 0, 1), (3, -1, 0))
    assert WEIGHTS == {"i": (0, 100, 0, -10), "f": (0, 100, 0, 10), "g": (1, 0, 0, 0), "o": (0, 0, 100, -10)}
    p = parameters()
    assert {name: value.shape for name, value in p.items()} == SPEC.shapes(SPEC.walks[0])
    assert not p["weight_hh"].any() and not p["bias_hh"].any()


def test_its_trace():
    t = worked_example()
    assert list(t.names()) == ["z_i", "z_f", "z_g", "z_o", "i", "f", "g", "c", "o", "h"]
    assert t.x.shape == (5, 1, 3)
    np.testing.assert_array_equal(t.output, t["h"])
    assert t.initial["c_l0"].tolist() == [[0.0]]


def test_one_step():
    t = worked_example()
    first, second = values_of(t, 0, unit=0), values_of(t, 1, unit=0)
    assert (first["h_prev"], first["c_prev"]) == (0, 0)
    assert (second["h_prev"], second["c_prev"]) == (first["h"], first["c"])
    assert second["x"].tolist() == [4, 1, 0]
    assert second["c"] == t["c"][1].item()


def test_table_has_true_and_rounded_numbers():
    rows = dict(row for group in table(worked_example()) for row in group)
    assert list(rows) == [
        *("x1", "x2", "x3", "z_i", "z_f", "z_g", "z_o"),
        *("i input gate", "f forget gate", "g candidate", "o output gate", "c memory cell", "h hidden state"),
    ]
    assert [true for true, _ in rows["x2"]] == ["1", "1", "0", "0", "-1"]
    assert rows["o output gate"] == [("4.54e-05", "≈0")] * 3 + [("1", ""), ("4.54e-05", "≈0")]
    assert rows["f forget gate"][2:] == [("0.99995", "≈1"), ("0.99995", "≈1"), ("8.19e-40", "≈0")]
    assert rows["c memory cell"][2:4] == [("6.9998", "≈7"), ("6.9995", "≈7")]

    def rounded(label):
        return [int((about or true).lstrip("≈")) for true, about in rows[label]]

    assert rounded("c memory cell") == [3, 7, 7, 7, 0]
    assert rounded("h hidden state") == [0, 0, 0, 7, 0]
    assert rounded("i input gate") == [1, 1, 0, 0, 0]


def test_numbers_that_are_not_nearly_whole_stay_as_they_are():
    assert number(0.998) == ("0.998", "")
    assert number(-0.0001) == ("-0.0001", "≈0")
    assert number(-6.9999) == ("-6.9999", "≈-7")
