"""Traces: contexts over models, gradients of traced values, selection, other forms, and files."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
from cases import CASES, Problem, problems

import openlstm
from openlstm import Spec
from openlstm.arguments import Keep
from openlstm.backends import cpu, reference
from openlstm.tracing import Trace, all_names, chosen, join


def small() -> torch.nn.Module:
    torch.manual_seed(0)
    return openlstm.accelerate(
        torch.nn.ModuleDict({"first": torch.nn.LSTM(3, 4, 2), "second": torch.nn.GRU(4, 5, bidirectional=True)})
    )


def run(model, x):
    return model["second"](model["first"](x)[0])[0]


# Gradients of traced values


def slopes(backend, p: Problem, dtype: torch.dtype) -> tuple[Keep, dict[str, torch.Tensor]]:
    """Values and their gradients for a random sum of the output and the final states."""
    keep = Keep(gradients=True)

    def leaf(tensor):
        return tensor.detach().to(dtype).requires_grad_()

    p = dataclasses.replace(
        p,
        x=leaf(p.x),
        parameters={name: leaf(tensor) for name, tensor in p.parameters.items()},
        states={name: leaf(tensor) for name, tensor in p.states.items()},
        masks={name: mask.to(dtype) for name, mask in p.masks.items()},
    )
    y, final = backend.forward(*p.arguments, keep)
    generator = torch.Generator().manual_seed(1)
    total = 0
    for value in (y, *final.values()):
        total = total + (value * torch.randn(value.shape, generator=generator, dtype=torch.float64).to(dtype)).sum()
    total.backward()
    return keep, {name: tensor.grad for name, tensor in p.parameters.items()}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_of_values_are_those_of_autograd(case):
    for name, p in problems(case):
        exact, weights = slopes(reference, p, torch.float64)
        torchs, _ = slopes(reference, p, torch.float32)
        found, own = slopes(cpu, p, torch.float32)
        assert found.slopes.keys() == found.values.keys() == exact.values.keys(), name
        for value, slope in found.slopes.items():
            none = exact.values[value].isnan()
            assert torch.equal(slope.isnan(), none), f"{name} {value}"
            # Where the loss does not depend on a value, autograd's hooks never ran.
            want = exact.slopes.get(value, torch.zeros_like(none, dtype=torch.float64)).masked_fill(none, 0)
            theirs = torchs.slopes.get(value, want).masked_fill(none, 0)
            ours, others = ((one.masked_fill(none, 0).double() - want).norm() for one in (slope, theirs))
            # Where gates have no bounds, roundings grow without bounds too, in torch's float32 as here.
            assert ours <= 1e-6 + 4e-6 * want.norm() + 30 * others, f"{name} {value}: {ours}, torch's {others}"
        for weight, gradient in weights.items():  # looking changes nothing
            if gradient is not None and gradient.norm() < 100:
                torch.testing.assert_close(own[weight].double(), gradient, rtol=2e-4, atol=2e-5)


def test_gradients_against_a_loop_written_by_hand():
    lstm = openlstm.LSTM(3, 4)
    x = torch.randn(5, 2, 3)
    with openlstm.trace(lstm, gradients=True) as run:
        lstm(x)[0].square().sum().backward()
    h = c = torch.zeros(2, 4)
    values = {name: [] for name in "ifgoch"}
    loss = 0
    for step in x:
        z = step @ lstm.weight_ih_l0.T + lstm.bias_ih_l0 + h @ lstm.weight_hh_l0.T + lstm.bias_hh_l0
        i, f, g, o = z.chunk(4, -1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        c = f * c + i * g
        h = o * c.tanh()
        for name, value in zip("ifgoch", (i, f, g, o, c, h), strict=True):
            value.retain_grad()
            values[name].append(value)
        loss = loss + h.square().sum()
    loss.backward()
    for name, steps in values.items():
        want = np.stack([value.grad.numpy() for value in steps])
        np.testing.assert_allclose(run[""].gradients[name + "_l0"], want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # by the engine, and by the reference
def test_values_that_the_loss_does_not_depend_on_have_no_slope(dtype):
    lstm, x = openlstm.LSTM(3, 4, 2, dtype=dtype), torch.randn(5, 2, 3, dtype=dtype)
    with openlstm.trace(lstm, gradients=True) as run:
        _, (h, _) = lstm(x, lengths=[5, 2])
        h[0].sum().backward()
    t = run[""]
    assert list(t.gradients) == list(t)
    for name in ("c_l1", "h_l1", "z_i_l1"):
        assert (np.nan_to_num(t.gradients[name]) == 0).all()
        np.testing.assert_array_equal(np.isnan(t.gradients[name]), np.isnan(t[name]))
    assert (np.nan_to_num(t.gradients["c_l0"]) != 0).any()


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_gradients_in_training_with_packed_input(name):
    torch.manual_seed(0)
    model = openlstm.LSTM(3, 4, zoneout_c=0.3).train()
    x = torch.nn.utils.rnn.pack_sequence([torch.randn(n, 3) for n in (2, 5, 3)], enforce_sorted=False)
    with openlstm.backend(name), openlstm.trace(model, names=["c", "f"], gradients=True) as run:
        y, (h, _) = model(x)
        assert run[""].gradients == {}  # backward has not run
        (y.data.sum() + h.sum()).backward()
    t = run[""]
    assert list(t.gradients) == list(t) == ["f_l0", "c_l0"]
    for values in (t["c"], t.gradients["c_l0"]):
        assert [int((~np.isnan(values[:, k, 0])).sum()) for k in range(3)] == [2, 5, 3]
    assert (np.nan_to_num(t.gradients["c_l0"]) != 0).any()


def test_gradients_where_they_are_differentiated_again():
    torch.manual_seed(0)
    model, x = openlstm.LSTM(3, 4), torch.randn(5, 3, 3, requires_grad=True)
    found = []
    for again in (False, True):
        with openlstm.trace(model, gradients=True) as run:
            y, _ = model(x, lengths=[2, 5, 3])
            (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=again)
        found.append(run[""].gradients)
    assert dx.requires_grad
    for name, slope in found[0].items():
        np.testing.assert_allclose(slope, found[1][name], rtol=1e-4, atol=1e-6)


# Contexts


def test_a_context_traces_every_layer_and_run_of_a_model():
    model, x = small(), torch.randn(6, 2, 3)
    with openlstm.trace(model) as watch:
        first, second = run(model, x), run(model, 2 * x)
    run(model, x)  # the context is closed
    assert {name: len(traces) for name, traces in watch.traces.items()} == {"first": 2, "second": 2}
    np.testing.assert_array_equal(watch["second"].output, second.detach())
    np.testing.assert_array_equal(watch.traces["second"][0].output, first.detach())
    np.testing.assert_array_equal(watch.traces["second"][0].x, watch.traces["first"][0].output)
    for name, trace in openlstm.trace(model["first"], x).items():
        np.testing.assert_array_equal(watch.traces["first"][0][name], trace)


def test_what_a_context_keeps():
    model, x = small(), torch.randn(6, 2, 3)
    whole = openlstm.trace(model["first"], x)
    with openlstm.trace(model["first"], names="c", layers=1, steps=slice(1, 5, 2), units=[3, 0], sequences=1) as watch:
        model["first"](x)[0].sum().backward()
    part = watch[""]
    assert list(part) == ["c_l1"] and part.gradients == {}
    np.testing.assert_array_equal(part["c_l1"], whole["c_l1"][1:5:2, 1:, [0, 3]])
    assert (part.steps.tolist(), part.sequences.tolist(), part.units.tolist()) == ([1, 3], [1], [0, 3])
    np.testing.assert_array_equal(part.x, x[1:5:2, 1:])
    head, first, second = part.table(unit=3, layer=1, sequence=1).splitlines()
    assert head.split() == ["step", "x1", "x2", "x3", "c"] and (first.split()[0], second.split()[0]) == ("1", "3")
    with pytest.raises(IndexError, match=r"unit 1: layer 1 of this trace has 0, 3"):
        part.table(unit=1, layer=1, sequence=1)
    with pytest.raises(IndexError, match=r"sequence 0: this trace has 1 to 1"):
        part.table(unit=0, layer=1)


def test_a_compiled_model_is_traced_in_eager_mode():
    model, x = small()["first"], torch.randn(6, 2, 3)
    compiled = torch.compile(model, backend="eager")
    compiled(x)
    with openlstm.trace(model) as watch:
        y, _ = compiled(x)
    np.testing.assert_array_equal(watch[""].output, y.detach())
    compiled(x)
    assert len(watch.traces[""]) == 1


def test_choices_that_can_be_read_once_only():
    model, x = small(), torch.randn(6, 2, 3)
    with openlstm.trace(model, names=iter(["h"]), units=iter([1, 2]), steps=(t for t in (0, 5))) as watch:
        run(model, x)
        run(model, x)
    assert [[*trace, trace["h_l0"].shape] for traces in watch.traces.values() for trace in traces] == [
        *[["h_l0", "h_l1", (2, 2, 2)]] * 2,
        *[["h_l0", "h_l0_reverse", (2, 2, 2)]] * 2,
    ]


def test_cells_are_traced_step_by_step():
    cell, x = openlstm.LSTMCell(3, 4), torch.randn(5, 2, 3)
    lstm = openlstm.LSTM(3, 4)
    lstm.load_state_dict({name + "_l0": value for name, value in cell.state_dict().items()})
    state = None
    with openlstm.trace(cell) as watch:
        for step in x:
            state = cell(step, state)
    t, whole = join(watch.traces[""]), openlstm.trace(lstm, x)
    assert t.steps.tolist() == [0, 1, 2, 3, 4]
    for name in whole:
        np.testing.assert_allclose(t[name], whole[name], atol=1e-6)


def test_a_context_leaves_no_trace_behind():
    model = small()
    with pytest.raises(ZeroDivisionError), openlstm.trace(model):
        1 / 0  # noqa: B018
    assert all("_watch" not in vars(module) for module in model.modules())
    with openlstm.trace(model), pytest.raises(RuntimeError, match="'first' is traced already: leave that context"):
        openlstm.trace(model).__enter__()


def test_later_changes_do_not_reach_a_trace():
    lstm, x = openlstm.LSTM(3, 4), torch.randn(6, 2, 3)
    h = torch.zeros(1, 2, 4)
    with openlstm.trace(lstm) as watch:
        y, _ = lstm(x, (h, torch.zeros(1, 2, 4)))
    before = {name: array.copy() for name, array in watch[""].items()}
    given = x.clone(), y.detach().clone()
    with torch.no_grad():
        x.zero_(), y.zero_(), h.fill_(9)
    for _ in range(3):
        lstm(torch.randn(6, 2, 3))
    for name, array in before.items():
        np.testing.assert_array_equal(watch[""][name], array)
    np.testing.assert_array_equal(watch[""].x, given[0])
    np.testing.assert_array_equal(watch[""].output, given[1])
    assert (watch[""].initial["h_l0"] == 0).all()
    with pytest.raises(ValueError, match="read-only"):
        watch[""]["c"][0] = 0


def test_bad_requests():
    lstm, x = openlstm.LSTM(3, 4), torch.zeros(2, 1, 3)
    with pytest.raises(TypeError, match=r"Linear has no recurrent layer of openlstm$"):
        openlstm.trace(torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match=r"LSTM has no recurrent layer of openlstm: call openlstm.accelerate\(model\)"):
        openlstm.trace(torch.nn.LSTM(2, 2))
    with pytest.raises(KeyError, match=r"no value 'k' in lstm\(3, 4\): expected some of z_i, z_f, .*, h"):
        openlstm.trace(lstm, names="k")
    with pytest.raises(IndexError, match="layer 3: there are 1, numbered from 0"):
        openlstm.trace(lstm, layers=3)
    with pytest.raises(IndexError, match="step 9: there are 2, numbered from 0"):
        openlstm.trace(lstm, x, steps=[9])
    with pytest.raises(ValueError, match="gradients=True needs a loss: open a context"):
        openlstm.trace(lstm, x, gradients=True)
    with pytest.raises(TypeError, match="trace has hx, lengths or reset, but no input"):
        openlstm.trace(lstm, lengths=[1])
    with openlstm.trace(lstm) as watch, pytest.raises(KeyError, match="the layer '' has not run while it was traced"):
        watch[""]
    with pytest.raises(KeyError, match="no layer 'b' in this model: expected one of ''"):
        watch["b"]


# Selection and other forms


def test_names_that_are_chosen():
    spec = Spec.parse("lstm(3, 4, 4; bidirectional)")
    there = all_names(spec)
    assert chosen(spec, there, ["c"], 1) == ["c_l1", "c_l1_reverse"]
    assert chosen(spec, there, ["h_l0_reverse", "c"], [0]) == ["c_l0", "c_l0_reverse", "h_l0_reverse"]
    assert chosen(spec, there, layers=slice(1)) == list(there[:20])


def test_selection_of_layers_that_differ_in_width():
    t = openlstm.trace(openlstm.LSTM(3, [6, 2], proj_size=1), torch.randn(4, 3, 3)).select(units=[5, 1, 0])
    assert t["c_l0"].shape == (4, 3, 3) and t["c_l1"].shape == (4, 3, 2) and t["r_l1"].shape == (4, 3, 1)
    assert t.select(units=[-1])["c_l0"].shape == (4, 3, 1) and t.select(units=[2]).units.tolist() == [5]
    np.testing.assert_array_equal(t.select(steps=slice(1, 3)).select(steps=1).steps, [2])


@pytest.mark.parametrize("text", ["lstm(3, 4; proj_size=2)", "gru(3, 4, 4; bidirectional)"])
def test_pandas_and_xarray(text):
    spec = Spec.parse(text)
    module = openlstm.nn.of(spec)
    with openlstm.trace(module, gradients=True) as watch:
        module(torch.randn(5, 2, 3))[0].sum().backward()
    t = watch[""]
    table = t.to_pandas()
    assert table.index.names == ["step", "sequence", "unit"] and len(table) == 5 * 2 * 4
    assert table.loc[(3, 1, 2), "h"] == t["h_l0"][3, 1, 2]
    assert table.loc[(3, 1, 2), "d_h"] == t.gradients["h_l0"][3, 1, 2]
    if spec.proj_size:
        assert table.loc[(3, 1, 1), "r"] == t["r"][3, 1, 1] and np.isnan(table.loc[(3, 1, 2), "r"])
    data = t.to_xarray()
    assert data.attrs["spec"] == text
    for name, array in t.items():
        np.testing.assert_array_equal(data[name], array)
        np.testing.assert_array_equal(data["d_" + name], t.gradients[name])
    part = t.select(steps=[1, 3], units=[0, 3]).to_xarray()
    assert float(part["h_l0"].sel(step=3, sequence=1, unit_2=3)) == t["h_l0"][3, 1, 3]
    assert list(t.to_dict()) == list(t)


def test_a_trace_in_a_file(tmp_path):
    module = openlstm.LSTM(3, 4, 2)
    with openlstm.trace(module, gradients=True) as watch:
        module(torch.randn(5, 2, 3))[0].sum().backward()
    for t in (watch[""], watch[""].select("c", units=[1, 2])):
        t.save(tmp_path / "t.safetensors")
        back = Trace.load(tmp_path / "t.safetensors")
        assert list(back) == list(t) and list(back.gradients) == list(t.gradients) and back.spec == t.spec
        for ours, theirs in ((t, back), (t.gradients, back.gradients), (t.initial, back.initial)):
            for name in ours:
                np.testing.assert_array_equal(ours[name], theirs[name])
        assert back.length == 5
        for name in ("x", "output", "steps", "sequences"):
            np.testing.assert_array_equal(getattr(t, name), getattr(back, name))
        assert (t.units is None) == (back.units is None)
    openlstm.save(module, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"m.safetensors' holds no trace: expected a file that Trace.save wrote"):
        Trace.load(tmp_path / "m.safetensors")


def test_pictures_of_a_trace(tmp_path):
    t = openlstm.trace(openlstm.LSTM(3, 4, 2), torch.randn(5, 2, 3))
    picture = t.draw(2, 1, layer=1, sequence=1)
    assert f"{t['c_l1'][2, 1, 1]:.5g}" in picture and picture._repr_svg_().startswith("<svg")
    flow = t.flow(2, layer=1)
    assert "[1, 8] × [8, 16]" in flow and f"{t['c_l1'][2, 0, 0]:.3g}" in flow
    figure = t.plot("c", "f", layer=1)
    assert [axes.get_ylabel() for axes in figure.axes if "memory" in axes.get_ylabel()]


def test_the_explorer_of_a_trace(tmp_path):
    t = openlstm.trace(openlstm.LSTM(3, 4), torch.randn(5, 1, 3))
    page = t.explore("abc<&", title="five letters")
    page.save(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == page and "five letters" in page
    frame = page._repr_html_()
    assert frame.startswith("<iframe") and frame.count("<") == 2  # all of the page is an attribute's text
    with pytest.raises(ValueError, match=r"it should end with .html"):
        page.save(tmp_path / "page.txt")


def test_joining():
    a = openlstm.trace(openlstm.GRU(3, 4), torch.randn(2, 1, 3))
    with pytest.raises(ValueError, match="at least one trace"):
        join([])
    with pytest.raises(ValueError, match="do not fit"):
        join([a, openlstm.trace(openlstm.GRU(3, 5), torch.randn(2, 1, 3))])
    with pytest.raises(ValueError, match="both directions do not follow one another"):
        join([openlstm.trace(openlstm.GRU(3, 4, bidirectional=True), torch.randn(2, 1, 3))])


def test_traces_are_read_without_torch(tmp_path):
    openlstm.trace(openlstm.LSTM(3, 4), torch.zeros(2, 1, 3)).save(tmp_path / "t.safetensors")
    code = (
        "import sys; from openlstm.tracing import Trace\n"
        "t = Trace.load(sys.argv[1]); t.table(); str(t.summary()); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "t.safetensors")], check=True)
