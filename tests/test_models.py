"""accelerate, trace, save and load."""

import copy
import warnings

import numpy as np
import pytest
import torch
from test_nn import close, flat
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.rnn import pack_sequence

import openlstm
from openlstm.cells import CELLS, Cell, Option
from openlstm.draw import block_diagram
from openlstm.models import convert, spec_of
from openlstm.spec import Spec

SPECS = [
    "lstm(3, 4, 4; bidirectional, dropout=0.2)",
    "lstm(3, 5, 4; proj_size=2, nonrecurrent_proj_size=1, proj_clip=0.5, peephole=diagonal, learned_state)",
    "lstm(3, 4; bias=False, batch_first, layer_norm, peephole=dense, coupled=i=1-f)",
    "lstm(3, 4; coupled=f=1-i, activations=hard_sigmoid:0.25/softsign/linear, cell_clip=0.5, zoneout_c=0.1)",
    "gru(3, 4, 4; residual, reset=before)",
    "rnn(3, 4; nonlinearity=relu, weight_dropout=0.1)",
]


def module_of(text):
    torch.manual_seed(0)
    return openlstm.nn.of(Spec.parse(text), dtype=torch.float64)


@pytest.fixture(autouse=True)
def seed():
    """The same numbers in every order of the tests."""
    torch.manual_seed(0)


# accelerate


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.LSTM(3, 4, 2, bidirectional=True, dropout=0.5)
        self.rest = torch.nn.ModuleDict({"gru": torch.nn.GRU(8, 4), "rnn": torch.nn.RNN(4, 8, nonlinearity="relu")})
        self.shared = self.rest["gru"]

    def forward(self, x):
        x, _ = self.first(x)
        x, _ = self.rest["gru"](x)
        x, _ = self.rest["rnn"](x)
        return self.shared(x)[0]


def test_accelerate_swaps_in_place_and_back():
    model = Model().eval()
    model.rest["rnn"].weight_hh_l0.requires_grad_(False)
    x = torch.randn(5, 2, 3)
    expected = model(x)
    before = dict(model.named_parameters())
    calls = []
    model.first.register_forward_hook(lambda *_: calls.append(1))
    assert openlstm.accelerate(model) is model
    assert [type(m) for m in (model.first, *model.rest.values())] == [openlstm.LSTM, openlstm.GRU, openlstm.RNN]
    assert model.shared is model.rest["gru"] and not model.first.training
    assert {n: id(p) for n, p in model.named_parameters()} == {n: id(p) for n, p in before.items()}
    close(model(x), expected, torch.float32)
    assert calls == [1]
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(x).sum().backward()
    optimizer.step()
    changed = model(x)
    assert openlstm.accelerate(model, undo=True) is model
    assert [type(m) for m in (model.first, *model.rest.values())] == [torch.nn.LSTM, torch.nn.GRU, torch.nn.RNN]
    assert model.shared is model.rest["gru"] and repr(model) == repr(Model())
    assert {n: id(p) for n, p in model.named_parameters()} == {n: id(p) for n, p in before.items()}
    close(model(x), changed, torch.float32)
    assert not torch.equal(changed, expected)


def test_accelerate_a_bare_layer_and_leave_our_own():
    layer = torch.nn.LSTM(3, 4, proj_size=2)
    ours = openlstm.accelerate(layer)
    x = torch.randn(5, 2, 3)
    close(ours(x), layer(x), torch.float32)
    assert type(openlstm.accelerate(ours, undo=True)) is torch.nn.LSTM
    own = torch.nn.Sequential(openlstm.LSTM(3, 4))
    assert type(openlstm.accelerate(own, undo=True)[0]) is openlstm.LSTM


def test_accelerate_says_what_it_leaves():
    class Special(torch.nn.LSTM):
        pass

    own = torch.nn.RNN(3, 4)
    own.forward = lambda x: x
    normed = parametrizations.weight_norm(torch.nn.GRU(3, 4), "weight_hh_l0")
    for layer, name in ((Special(3, 4), "Special"), (normed, "ParametrizedGRU"), (own, "RNN")):
        model = torch.nn.Sequential(layer)
        with pytest.warns(UserWarning, match=rf"^'0' is a {name}, whose forward may be another than that of the plain"):
            openlstm.accelerate(model)
        assert model[0] is layer
        with pytest.warns(UserWarning, match=rf"^the model is a {name}, "):
            assert openlstm.accelerate(layer) is layer


def test_accelerate_takes_everything_along():
    """What hooks compute weights from, buffers, children and attributes: there, and back."""
    layer = torch.nn.LSTM(3, 4)
    prune.l1_unstructured(layer, "weight_hh_l0", 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # weight_norm: there are parametrizations
        torch.nn.utils.weight_norm(layer, "weight_ih_l0")
    layer.register_buffer("scale", torch.ones(1), persistent=False)
    layer.child, layer.tag = torch.nn.GRU(2, 2), "t"
    log = []
    layer.register_full_backward_hook(lambda *_: log.append("backward"))
    layer.register_forward_pre_hook(lambda *_: log.append("before"))
    model = torch.nn.Sequential(layer)
    x = torch.randn(5, 2, 3, requires_grad=True)
    expected, names, state = model(x), list(dict(model.named_parameters())), list(model.state_dict())
    for undo, kind in ((False, openlstm.LSTM), (True, torch.nn.LSTM)):
        openlstm.accelerate(model, undo)
        assert type(model[0]) is kind and (type(model[0].child) is torch.nn.GRU) is undo
        assert list(dict(model.named_parameters())) == names and list(model.state_dict()) == state
        assert model[0].tag == "t" and model[0].scale is layer.scale
        log.clear()
        y = model(x)
        close(y, expected, torch.float32)
        y[0].sum().backward()
        assert log == ["before", "backward"]
        with torch.no_grad():
            model[0].weight_ih_l0_g.mul_(2)
        assert not torch.allclose(model(x)[0], expected[0])
        with torch.no_grad():
            model[0].weight_ih_l0_g.div_(2)


def test_undo_refuses_what_torch_does_not_have_before_it_changes_anything():
    model = openlstm.accelerate(torch.nn.Sequential(torch.nn.LSTM(3, 4), torch.nn.RNN(4, 4)))
    model[1].zoneout_h = 0.5
    with pytest.raises(ValueError, match=r"^'1' cannot be swapped: torch.nn has no rnn\(4, 4; zoneout_h=0.5\). Set wh"):
        openlstm.accelerate(model, undo=True)
    assert [type(layer) for layer in model] == [openlstm.LSTM, openlstm.RNN]
    model[1].zoneout_h = 0
    openlstm.accelerate(model, undo=True)
    assert [type(layer) for layer in model] == [torch.nn.LSTM, torch.nn.RNN]
    model[1].batch_first = 1
    with pytest.raises(ValueError, match=r"^'1' cannot be swapped: batch_first should be of type bool, got: int$"):
        openlstm.accelerate(model)
    assert type(model[0]) is torch.nn.LSTM


def test_parametrized_weights_are_used():
    lstm = openlstm.LSTM(3, 4, dtype=torch.float64)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    expected = lstm(x)
    parametrizations.weight_norm(lstm, "weight_hh_l0")
    close(lstm(x), expected)
    with torch.no_grad():
        lstm.parametrizations.weight_hh_l0.original0.mul_(2)
    assert not torch.allclose(lstm(x)[0], expected[0])


def test_convert_and_spec_of():
    gru = torch.nn.GRU(3, 4, 2, bias=False, bidirectional=True)
    assert str(spec_of(gru)) == "gru(3, 4, 4; bias=False, bidirectional)"
    assert spec_of(torch.nn.Linear(2, 2)) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert convert(torch.nn.RNN(3, 4)).spec == Spec.parse("rnn(3, 4)")


# trace


@pytest.mark.parametrize("text", SPECS)
@pytest.mark.parametrize("training", [False, True])
def test_trace_is_what_forward_computed(text, training):
    module = module_of(text).train(training)
    spec = module.spec
    x = torch.randn(6, 3, 3, dtype=torch.float64)
    lengths = [6, 2, 0]
    given = x.transpose(0, 1) if spec.batch_first else x
    torch.manual_seed(1)
    trace = openlstm.trace(module, given, lengths=lengths)
    torch.manual_seed(1)
    y, final = module(given, lengths=lengths)
    y = y.transpose(0, 1) if spec.batch_first else y
    np.testing.assert_array_equal(trace.output, y.detach().numpy())
    np.testing.assert_array_equal(trace.x, x.numpy())
    last = spec.num_layers - 1
    shown = [np.nan_to_num(named["h"] if not spec.proj_size else named["r"]) for named in directions(trace, last)]
    if spec.nonrecurrent_proj_size:
        shown = [
            np.concatenate((r, np.nan_to_num(named["p"])), -1)
            for r, named in zip(shown, directions(trace, last), strict=True)
        ]
    if not spec.residual:
        np.testing.assert_array_equal(np.concatenate(shown, -1), trace.output)
    for name, array in trace.items():
        assert array.shape[:2] == (6, 3) and trace.dims == ("time", "batch", "unit")
        for k, length in enumerate(lengths):
            assert not np.isnan(array[:length, k]).any() and np.isnan(array[length:, k]).all(), name
    if spec.cell == "lstm" and spec.num_layers == 1:
        c = final[1][0].detach().numpy()
        np.testing.assert_array_equal(c[0], trace["c_l0"][5, 0])
        np.testing.assert_array_equal(c[2], trace.initial["c_l0"][2])


def directions(trace, layer):
    return [trace.names(layer, reverse) for reverse in (False, True)[: trace.spec.directions]]


def test_the_equations_hold_between_traced_values():
    trace = openlstm.trace(module_of("lstm(3, 4)"), torch.randn(6, 3, 3, dtype=torch.float64))
    old = np.concatenate((trace.initial["c_l0"][None], trace["c"][:-1]))
    np.testing.assert_allclose(trace["c"], trace["f"] * old + trace["i"] * trace["g"], rtol=1e-14)
    np.testing.assert_allclose(trace["h"], trace["o"] * np.tanh(trace["c"]), rtol=1e-14)
    np.testing.assert_allclose(trace["i"], 1 / (1 + np.exp(-trace["z_i"])), rtol=1e-14)


def test_zoneout_shows_both_sides():
    module = module_of("lstm(3, 40; zoneout_c=0.5, zoneout_h=0.25)").train()
    trace = openlstm.trace(module, torch.randn(6, 2, 3, dtype=torch.float64))
    for name, rate in (("c", 0.5), ("h", 0.25)):
        old = np.concatenate((trace.initial[name + "_l0"][None], trace[name][:-1]))
        kept = trace[name] == old
        np.testing.assert_array_equal(np.where(kept, old, trace[name + "_new"]), trace[name])
        assert abs(kept.mean() - rate) < 0.1


def test_trace_of_torchs_layers_packed_and_half():
    lstm = torch.nn.LSTM(3, 4)
    x = torch.randn(6, 2, 3)
    trace = openlstm.trace(lstm, x)
    np.testing.assert_allclose(trace["h"], lstm(x)[0].detach(), atol=1e-6)
    packed = pack_sequence([x[:3, 0], x[:, 1]], enforce_sorted=False)
    unpacked = openlstm.trace(lstm, x, lengths=[3, 6])
    for name, array in openlstm.trace(lstm, packed).items():
        np.testing.assert_allclose(array, unpacked[name], atol=1e-6)
    assert openlstm.trace(openlstm.LSTM(3, 4, dtype=torch.bfloat16), x.bfloat16())["c"].dtype == np.float32
    with pytest.raises(TypeError, match=r"^trace takes a recurrent layer of openlstm or torch.nn, got Sequential"):
        openlstm.trace(torch.nn.Sequential(lstm), x)
    with pytest.raises(TypeError, match=r"^trace takes a recurrent layer of openlstm or torch.nn, got LSTMCell. Give"):
        openlstm.trace(openlstm.LSTMCell(3, 4), x[0])


@pytest.mark.parametrize("library", [torch.nn, openlstm])
def test_trace_runs_the_hooks_that_forward_runs(library):
    layer = library.LSTM(3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # weight_norm: there are parametrizations
        torch.nn.utils.weight_norm(layer, "weight_hh_l0")
    with torch.no_grad():
        layer.weight_hh_l0_g.mul_(3)  # the weight itself changes at the next run
    layer.register_forward_pre_hook(lambda module, args: (2 * args[0],))
    x = torch.randn(6, 2, 3)
    traced = openlstm.trace(layer, x)
    np.testing.assert_allclose(traced["h"], layer(x)[0].detach(), atol=1e-6)
    np.testing.assert_array_equal(traced.x, 2 * x)


def test_names_of_a_trace():
    trace = openlstm.trace(openlstm.GRU(3, 4, 2), torch.zeros(2, 1, 3))
    assert list(trace.names(1)) == ["z_r", "z_u", "z_n", "z_nh", "r", "u", "n", "h"]
    with pytest.raises(KeyError, match=r"no 'h' in this trace: it has z_r_l0, "):
        trace["h"]
    with pytest.raises(KeyError, match=r"no layer 2 in this trace of gru\(3, 4, 4\)"):
        trace.names(2)
    assert repr(trace).startswith("Trace of gru(3, 4, 4): 2 steps, 1 sequence; z_r_l0, z_u_l0")
    assert len(trace) == 16


def test_table_of_a_unit():
    lstm = openlstm.LSTM(1, 2, dtype=torch.float64)
    with torch.no_grad():
        for parameter in lstm.parameters():
            parameter.fill_(0.5)
    x = torch.tensor([[[1.0]], [[-1.0]], [[0.0]]], dtype=torch.float64)
    trace = openlstm.trace(lstm, x, lengths=[2])
    lines = trace.table(unit=1, digits=3).splitlines()
    assert lines[0].split() == ["step", "x1", "z_i", "z_f", "z_g", "z_o", "i", "f", "g", "c", "o", "h"]
    assert lines[1].split()[:3] == ["0", "1", "1.5"] and len(lines) == 3
    assert lines[2].split()[:2] == ["1", "-1"]
    assert len({len(line) for line in lines}) == 1
    with pytest.raises(IndexError, match=r"^unit 2: layer 0 of this trace has 0 to 1$"):
        trace.table(unit=2)
    with pytest.raises(IndexError, match=r"^sequence 1: this trace has 0 to 0$"):
        trace.table(sequence=1)


def test_a_cell_of_ones_own_is_as_good(monkeypatch, tmp_path):
    """Its equations and its declaration are enough for modules, traces, diagrams, descriptions and files."""

    def leaky(z, s, w, m, o):
        return {"h": m.tanh(z["a"]) * o.rate + s["h"] * w["leak"]}

    own = Cell(leaky, lambda o: ("a",), options={"rate": Option(0.5)}, vectors=lambda o: {"leak": ("leak",)})
    monkeypatch.setitem(CELLS, "leaky", own)
    spec = Spec.parse("leaky(3, 4, 4; bidirectional, rate=0.7, zoneout_h=0.1)")
    module = openlstm.nn.of(spec, dtype=torch.float64).eval()
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    traced = openlstm.trace(module, x, lengths=[5, 2])
    np.testing.assert_array_equal(module(x, lengths=[5, 2])[0].detach(), traced.output)
    z, leak = traced["z_a_l0"][0], module.leak_l0.detach().numpy()
    old = traced.initial["h_l0"]
    np.testing.assert_allclose(traced["h_l0"][0], 0.9 * (0.7 * np.tanh(z) + leak * old) + 0.1 * old, rtol=1e-14)
    openlstm.save(module, tmp_path / "m")
    close(openlstm.load(tmp_path / "m").eval()(x), module(x))
    assert "leak" in block_diagram(spec) and openlstm.describe(module).total == sum(
        p.numel() for p in module.parameters()
    )
    assert torch.autograd.gradcheck(lambda x: module(x)[0], x[:2].requires_grad_(), fast_mode=True)


def test_explain_takes_our_layers():
    assert openlstm.explain(openlstm.GRU(3, 4), torch.zeros(2, 1, 3)) == (
        "gru(3, 4)\ncpu        runs\nreference  could run; another one does"
    )
    with pytest.raises(
        TypeError, match=r"^explain takes a recurrent layer of openlstm, got torch.nn.modules.rnn.LSTM. o"
    ):
        openlstm.explain(torch.nn.LSTM(3, 4), torch.zeros(2, 1, 3))


def test_explain_says_what_becomes_of_equations(monkeypatch):
    for command, told in (((), "its equations interpreted: see openlstm.use_compiler"), (("c++",), "compiled")):
        monkeypatch.setattr(openlstm.compiled, "command", command)
        said = openlstm.explain(openlstm.zoo.MGU(3, 4), torch.zeros(2, 1, 3)).splitlines()
        assert said[1].startswith("cpu        runs, its equations ") and said[1].endswith(told)


# save and load


@pytest.mark.parametrize("text", SPECS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_file_gives_the_same_module_back(text, dtype, tmp_path):
    module = module_of(text).to(dtype)
    path = tmp_path / "model.safetensors"
    openlstm.save(module, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other = openlstm.load(path)
    assert type(other) is type(module) and other.spec == module.spec and other.training
    for (name, a), (other_name, b) in zip(module.state_dict().items(), other.state_dict().items(), strict=True):
        assert name == other_name and a.dtype == b.dtype and torch.equal(a, b)
    x = torch.randn(4, 2, 3).to(dtype)
    for a, b in zip(flat(module.eval()(x)), flat(other.eval()(x)), strict=True):
        assert torch.equal(a, b)
    other(x)[0].sum().backward()


def test_save_takes_our_modules_only(tmp_path):
    with pytest.raises(
        TypeError, match=r"^save takes a recurrent layer of openlstm, got torch.nn.modules.linear.Linear$"
    ):
        openlstm.save(torch.nn.Linear(2, 2), tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_saved_views_and_shared_memory_do_not_matter(tmp_path):
    module = openlstm.LSTM(3, 4)
    with torch.no_grad():
        module.weight_hh_l0.data = torch.randn(4, 16).t()
    openlstm.save(module, tmp_path / "m")
    close(openlstm.load(tmp_path / "m")(torch.ones(2, 1, 3)), copy.deepcopy(module)(torch.ones(2, 1, 3)), torch.float32)
    tied = openlstm.RNN(4, 4, 2)
    tied.weight_hh_l1 = tied.weight_hh_l0
    openlstm.save(tied, tmp_path / "m")
    close(openlstm.load(tmp_path / "m")(torch.ones(2, 1, 4)), tied(torch.ones(2, 1, 4)), torch.float32)


def test_save_refuses_what_load_could_not_give_back(tmp_path):
    normed = parametrizations.weight_norm(openlstm.LSTM(3, 4), "weight_hh_l0")
    with pytest.raises(
        ValueError, match=r"^save writes the parameters of lstm\(3, 4\) alone, but this module differs in "
    ):
        openlstm.save(normed, tmp_path / "m")
    assert not list(tmp_path.iterdir())
