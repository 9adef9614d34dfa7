"""Pictures over time show the numbers that they were given, and say what does not fit."""

import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import openlstm
from openlstm.nn import of
from openlstm.plots import gates_figure, gradient_figure, trace_figure, write
from openlstm.spec import Spec


def arrays(steps=6, units=4):
    random = np.random.default_rng(0)
    return {"f": random.random((steps, units)), "c": random.normal(size=(steps, units)) * 3}


def test_gates_figure_shows_the_numbers():
    given = arrays()
    figure = gates_figure(given, {"x": np.arange(6.0)}, time=np.arange(1700, 1706), time_label="year")
    line, gate, memory, *bars = figure.axes
    np.testing.assert_array_equal(line.lines[0].get_ydata(), np.arange(6.0))
    np.testing.assert_array_equal(line.lines[0].get_xdata(), np.arange(1700, 1706))
    for axes, name in ((gate, "f"), (memory, "c")):
        np.testing.assert_array_equal(axes.collections[0].get_array(), given[name].T)
        assert axes.get_ylabel().startswith(name)
    bound = np.percentile(np.abs(given["c"]), 98)
    assert gate.collections[0].get_clim() == (0, 1)
    assert memory.collections[0].get_clim() == (-bound, bound)
    assert memory.get_xlabel() == "year"
    assert len(bars) == 2


def test_units_can_be_sorted():
    given = arrays()
    order = np.argsort(-given["c"].mean(0))
    figure = gates_figure(given, order="c", titles={"f": "forget gate"})
    for axes, name in zip(figure.axes[:2], given, strict=True):
        np.testing.assert_array_equal(axes.collections[0].get_array(), given[name].T[order])
    assert figure.axes[0].get_ylabel() == "forget\ngate"
    figure = gates_figure(given, order=[2, 0])
    np.testing.assert_array_equal(figure.axes[0].collections[0].get_array(), given["f"].T[[2, 0]])


def test_values_past_the_end_and_values_of_one_kind():
    given = {"c": np.array([[1.0, -2.0], [np.nan, np.nan]]), "h": np.zeros((2, 2))}
    figure = gates_figure(given)
    np.testing.assert_allclose(figure.axes[0].collections[0].get_clim(), (-1.98, 1.98))


def test_steps_may_have_texts(tmp_path):
    """Spaces, line ends, mathematics and characters that the font has not are signs, and nothing is warned of."""
    figure = gates_figure(arrays(), time=list("a$ \n\U00020000_"))
    assert [label.get_text() for label in figure.axes[1].get_xticklabels()] == list("a$\u2423↵\ufffd_")
    assert figure.axes[1].get_xlabel() == ""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write(figure, tmp_path / "gates.png")


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_pictures_are_written(kind, tmp_path):
    write(gates_figure(arrays(), series=np.zeros(6), title="t"), tmp_path / f"gates.{kind}")
    begins = (tmp_path / f"gates.{kind}").read_bytes()[:5]
    assert begins.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[kind])


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ({}, {}, "There is nothing to draw"),
        ({"f": np.zeros((5, 2, 3))}, {}, r"'f' has the shape \(5, 2, 3\): expected \(5, units\). Take one sequence"),
        ({"f": np.zeros((5, 2)), "c": np.zeros((4, 2))}, {}, r"'c' has the shape \(4, 2\): expected \(5, units\)"),
        ({"f": np.zeros((5, 2))}, {"series": np.zeros(4)}, r"'input' has the shape \(4,\): expected \(5,\)"),
        ({"f": np.zeros((5, 2))}, {"time": np.zeros(3)}, r"'time' has the shape \(3,\): expected \(5,\)"),
        ({"f": np.zeros((5, 2))}, {"order": "g"}, "order='g': expected the name of an array, one of f"),
    ],
)
def test_wrong_shapes_are_said(given, options, message):
    with pytest.raises(ValueError, match=message):
        gates_figure(given, **options)


def test_unknown_kind_of_picture(tmp_path):
    with pytest.raises(ValueError, match=r"should end with \.png, \.svg or \.pdf"):
        write(gates_figure(arrays()), tmp_path / "gates.txt")
    assert not list(tmp_path.iterdir())


def traced(form, lengths=None):
    """The trace of a run."""
    torch.manual_seed(0)
    spec = Spec.parse(form)
    return openlstm.trace(of(spec), torch.randn(6, 4, spec.input_size), lengths=lengths)


def test_trace_figure_shows_one_sequence_up_to_its_end():
    trace = traced("lstm(2, 5, 5; bidirectional)", lengths=[6, 4, 6, 0])
    figure = trace_figure(trace, layer=1, reverse=True, sequence=1, title="what it did")
    above, *maps = figure.axes[:7]
    for k, line in enumerate(above.lines):
        np.testing.assert_array_equal(line.get_ydata(), trace.x[:4, 1, k])
        np.testing.assert_array_equal(line.get_xdata(), range(4))
    assert len(above.lines) == 2
    for axes, name in zip(maps, "ifgcoh", strict=True):
        np.testing.assert_array_equal(axes.collections[0].get_array(), trace.names(1, True)[name][:4, 1].T)
        assert axes.get_ylabel().split() == [name, *trace.spec.definition.titles[name].split(), "unit"]
    assert figure.get_suptitle() == "what it did"


def test_trace_figure_takes_any_names_and_an_order():
    trace = traced("gru(30, 5)")
    figure = trace_figure(trace, ["z_nh", "h"], order="h")
    first, second, *_ = figure.axes  # 30 inputs are too many for lines
    order = np.argsort(-trace.names()["h"][:, 0].mean(0))
    np.testing.assert_array_equal(first.collections[0].get_array(), trace.names()["z_nh"][:, 0].T[order])
    np.testing.assert_array_equal(second.collections[0].get_array(), trace.names()["h"][:, 0].T[order])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"names": ["f"]}, ValueError, r"layer 0 has no 'f' in this trace: expected some of z_r, z_u, z_n, z_nh, r, u"),
        ({"sequence": 4}, IndexError, "sequence 4 is not in this trace: it has 0, 1, 2, 3"),
        ({"sequence": 1}, ValueError, "sequence 1 has no steps in this trace: there is nothing to draw"),
    ],
)
def test_what_a_trace_has_not_is_said(options, error, message):
    with pytest.raises(error, match=message):
        trace_figure(traced("gru(3, 5)", lengths=[6, 0, 6, 6]), **options)


def gradients(spec, size, steps=5):
    """A trace whose gradients with respect to every state are `size` to the power of the steps that follow."""
    array = size ** np.arange(steps - 1.0, -1, -1)[:, None, None] * np.ones((1, 3, 4))
    names = [name for state in ("h", "c") for name in spec.state_names if name.startswith(state)]
    return SimpleNamespace(spec=spec, steps=np.arange(steps), gradients={name: array for name in names})


def test_gradient_figure_shows_norms_side_by_side():
    traces = {"RNN": gradients(Spec.of("rnn", 3, 4), 0.1), "LSTM": gradients(Spec.of("lstm", 3, 4, 2), 0.9)}
    traces["LSTM"].gradients["c_l1"] = np.where([[[True]], [[False]], [[True]], [[True]], [[True]]], np.nan, 1e-30)
    traces["LSTM"].gradients["c_l1"] = np.repeat(np.repeat(traces["LSTM"].gradients["c_l1"], 3, 1), 4, 2)
    figure = gradient_figure(traces, "how far back")
    below, above = figure.axes
    assert below.get_yscale() == above.get_yscale() == "log"
    lines = {line.get_label(): line for line in below.lines}
    assert list(lines) == ["RNN: h", "LSTM: h", "LSTM: c"]
    np.testing.assert_allclose(lines["RNN: h"].get_ydata(), 2 * 0.1 ** np.arange(4.0, -1, -1))  # of 4 units
    np.testing.assert_allclose(lines["LSTM: c"].get_ydata(), 2 * 0.9 ** np.arange(4.0, -1, -1))
    assert lines["LSTM: h"].get_color() == lines["LSTM: c"].get_color() != lines["RNN: h"].get_color()
    assert lines["LSTM: h"].get_linestyle() == lines["RNN: h"].get_linestyle() != lines["LSTM: c"].get_linestyle()
    assert [line.get_label() for line in above.lines] == ["LSTM: h", "LSTM: c"]
    np.testing.assert_allclose(above.lines[1].get_ydata(), [np.nan, 2e-30, np.nan, np.nan, np.nan])
    assert [axes.get_ylabel().split("\n")[0] for axes in figure.axes] == ["layer 0", "layer 1"]


def test_gradient_figure_of_sequences_that_end_and_of_numbers_that_are_small():
    trace = gradients(Spec.of("gru", 3, 4, bidirectional=True), 1.0)
    small = np.full((5, 3, 4), 1e-30, dtype=np.float32)  # whose squares float32 cannot hold
    small[2:, 0], small[3:], small[0] = np.nan, np.nan, 0
    trace.gradients["h_l0_reverse"] = small
    figure = gradient_figure({"GRU": trace})
    np.testing.assert_allclose(figure.axes[1].lines[0].get_ydata(), [np.nan, 2e-30, 2e-30, np.nan, np.nan], rtol=1e-6)
    assert figure.axes[1].get_ylabel().startswith("layer 0 reversed")


def learned(form, time=40):
    """A trace with the gradients of a loss at the last step."""
    torch.manual_seed(0)
    spec = Spec.parse(form)
    module = of(spec)
    with openlstm.trace(module, gradients=True) as run:
        y, _ = module(torch.randn(time, 3, spec.input_size))
        (y[-1] ** 2).sum().backward()
    return run[""]


def test_the_gradient_of_an_rnn_vanishes_beside_that_of_an_lstm(tmp_path):
    """What a projection feeds back is called r."""
    traces = {"RNN": learned("rnn(3, 8)"), "LSTM": learned("lstm(3, 8; proj_size=4, forget_bias=4.0)")}
    figure = gradient_figure(traces)
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    assert list(lines) == ["RNN: h", "LSTM: r", "LSTM: c"]
    for name, (label, state) in {"RNN: h": ("RNN", "h_l0"), "LSTM: c": ("LSTM", "c_l0")}.items():
        expected = np.linalg.norm(traces[label].gradients[state].astype(float), axis=-1).mean(-1)
        np.testing.assert_allclose(lines[name], np.where(expected > 0, expected, np.nan))
    assert lines["RNN: h"][0] < 1e-6 * lines["RNN: h"][-1]
    assert lines["LSTM: c"][0] > 0.1 * lines["LSTM: c"][-1]
    write(figure, tmp_path / "gradients.svg")
    assert (tmp_path / "gradients.svg").stat().st_size > 1000


def test_no_gradients():
    with pytest.raises(ValueError, match="There is nothing to draw: expected at least one trace with gradients"):
        gradient_figure({})
    message = "The trace 'mine' has no gradients of r or c: trace in a context with gradients=True, and take the trace"
    with pytest.raises(ValueError, match=message):
        gradient_figure({"mine": traced("lstm(3, 5; proj_size=2)")})


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"need matplotlib: install it with pip install 'openlstm\[draw\]'"):
        gates_figure(arrays())
