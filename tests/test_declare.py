"""A cell of one's own: what `openlstm.cell` makes of equations, what it refuses, and the cells of `zoo`."""

from __future__ import annotations

import copy
import functools
import math
import pickle
import random
import re
import subprocess
import sys
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from cases import COMPILER, compiling
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import openlstm
from openlstm import cells, cli, convert, emit, nn, zoo
from openlstm.backends import reference
from openlstm.cells import CELLS, OLDER, Numpy, Option
from openlstm.declare import USABLE
from openlstm.spec import Spec
from openlstm.step import Step

ZOO = {name: kind for name, kind in vars(zoo).items() if isinstance(kind, type) and issubclass(kind, nn.Own)}
VARIANTS = [{}, {"bias": False}, {"num_layers": 2, "bidirectional": True}, {"zoneout_h": 0.3}, {"learned_state": True}]


@pytest.fixture(autouse=True)
def _clean():
    """Cells that a test declares are gone after it."""
    before = dict(CELLS), {name: list(each) for name, each in OLDER.items()}, dict(nn.MODULES)
    yield
    for table, old in zip((CELLS, OLDER, nn.MODULES), before, strict=True):
        table.clear()
        table.update(old)


def results(module, x, how, **options):
    """The output, final states and all gradients."""
    module.zero_grad()
    x = x.detach().clone().requires_grad_()
    torch.manual_seed(0)
    with openlstm.backend(how):
        y, states = module(x, **options)
        states = states if isinstance(states, tuple) else (states,)
        (y.sin().sum() + sum(state.cos().sum() for state in states if torch.isfinite(state).all())).backward()
    gradients = [x.grad, *(p.grad for p in module.parameters())]
    return [y.detach(), *(state.detach() for state in states), *(g.clone() for g in gradients)]


def agree(module, x, bound=2e-5, without=True, **options):
    """Does the engine give what the reference gives in float64, with gradients and `without`: then it keeps less."""
    fast = results(module, x, "cpu", **options)
    if without:
        with torch.no_grad():
            torch.manual_seed(0)
            torch.testing.assert_close(module(x, **options)[0], fast[0], rtol=1e-6, atol=1e-6)
    exact = results(copy.deepcopy(module).double(), x.double(), "reference", **options)
    for found, wanted in zip(fast, exact, strict=True):
        assert torch.isfinite(wanted).all()
        assert (found - wanted).norm() <= bound * max(1.0, float(wanted.norm())), module


# The cells of the zoo, once more, as their papers have them: one step of one sequence in plain numpy. `a` has the
# pre-activation of each gate, W x + R h + b.


def sigma(x):
    return 1 / (1 + np.exp(-x))


def greff(a, s, w, without="", coupled=False):
    """Greff et al. 2017, section 2, and what each variant changes."""
    peep = {gate: w.get(f"p_{gate}", 0.0) for gate in "ifo"}
    z = a["g"] if without == "NIAF" else np.tanh(a["g"])
    i = 1.0 if without == "NIG" else sigma(a["i"] + peep["i"] * s["c"])
    f = 1 - i if coupled else 1.0 if without == "NFG" else sigma(a["f"] + peep["f"] * s["c"])
    c = z * i + s["c"] * f
    o = 1.0 if without == "NOG" else sigma(a["o"] + peep["o"] * c)
    return {"h": (c if without == "NOAF" else np.tanh(c)) * o, "c": c}


def full_recurrence(a, s, w):
    seen = {g: a[g] + sum(w[f"R_{g}{source}"] @ s[source] for source in "ifo") for g in "ifo"}
    i, f = (sigma(seen[g] + w[f"p_{g}"] * s["c"]) for g in "if")
    c = np.tanh(a["g"]) * i + s["c"] * f
    o = sigma(seen["o"] + w["p_o"] * c)
    return {"h": np.tanh(c) * o, "c": c, "i": i, "f": f, "o": o}


def janet(a, s, w, beta=1.0):
    c = sigma(a["f"]) * s["c"] + (1 - sigma(a["f"] - beta)) * np.tanh(a["g"])
    return {"h": c, "c": c}


def minimal(a, s, w):
    f = sigma(a["f"])
    return {"h": (1 - f) * s["h"] + f * np.tanh(a["n"] + w["R_n"] @ (f * s["h"]) + w["b_n"])}


def independent(a, s, w):
    return {"h": np.maximum(0, a["h"] + w["u"] * s["h"])}


def exponential(forget):
    def step(a, s, w):
        """Beck et al. 2024, eq. 8 to 14, without the stabiliser, which changes nothing but the range."""
        c = forget(a["f"]) * s["c"] + np.exp(a["i"]) * np.tanh(a["g"])
        n = forget(a["f"]) * s["n"] + np.exp(a["i"])
        return {"h": sigma(a["o"]) * c / n, "c": c, "n": n}

    return step


def gru(a, s, w):
    r, u = sigma(a["r"]), sigma(a["u"])
    return {"h": (1 - u) * np.tanh(a["n"] + r * a["nh"]) + u * s["h"]}


PAPERS = {
    **{
        name: lambda a, s, w, name=name: greff(a, s, w, name, name == "CIFG")
        for name in ("NIG", "NFG", "NOG", "NIAF", "NOAF", "CIFG", "NP")
    },
    "FGR": full_recurrence,
    "JANET": janet,
    "MGU": minimal,
    "IndRNN": independent,
    "SLSTM": exponential(sigma),
    "OwnGRU": gru,
}


def by_hand(module, x, equations):
    """All steps of a layer on one sequence, (T, I) to (T, H)."""
    spec = module.spec
    p = {name.removesuffix("_l0"): each.detach().numpy() for name, each in module.named_parameters()}
    size, inside, apart = spec.hidden_size[0], spec.definition.inside(spec), spec.definition.apart(spec)
    rows = lambda k: slice(k * size, (k + 1) * size)  # noqa: E731
    w = {block: p[name][rows(k)] for name, blocks in spec.own.items() for k, block in enumerate(blocks)}
    w |= {
        f"{word}_{g}": p[n][rows(spec.recurrent.index(g))]
        for g in inside
        for word, n in zip("Rb", ("weight_hh", "bias_hh"), strict=True)
    }
    state = dict.fromkeys(spec.definition.states, np.zeros(size))
    found = []
    for row in x:
        a = {}
        for k, gate in enumerate(spec.gates):
            a[gate] = p["weight_ih"][rows(k)] @ row + p["bias_ih"][rows(k)]
            if gate in spec.recurrent and gate not in inside:
                j = rows(spec.recurrent.index(gate))
                recurrent = p["weight_hh"][j] @ state["h"] + p["bias_hh"][j]
                if gate in apart:
                    a[gate + "h"] = recurrent
                else:
                    a[gate] = a[gate] + recurrent
        state = state | equations(a, state, w)
        found.append(state["h"])
    return np.array(found)


@pytest.mark.parametrize("name", ZOO)
def test_the_zoo_is_as_its_papers_have_it(name):
    assert set(PAPERS) == set(ZOO)
    torch.manual_seed(1)
    module = ZOO[name](3, 5, dtype=torch.float64)
    x = torch.randn(9, 3, dtype=torch.float64)
    np.testing.assert_allclose(module(x)[0].detach(), by_hand(module, x.numpy(), PAPERS[name]), 1e-12, 1e-12)
    assert module.__doc__ and openlstm.describe(module).total == sum(p.numel() for p in module.parameters())


def test_options_of_the_zoo():
    torch.manual_seed(2)
    x = torch.randn(9, 3, dtype=torch.float64)
    module = zoo.SLSTM(3, 5, forget_gate="exp", dtype=torch.float64)
    np.testing.assert_allclose(module(x)[0].detach(), by_hand(module, x.numpy(), exponential(np.exp)), 1e-11)
    module = zoo.JANET(3, 5, beta=0.5, dtype=torch.float64)
    wanted = by_hand(module, x.numpy(), lambda a, s, w: janet(a, s, w, 0.5))
    np.testing.assert_allclose(module(x)[0].detach(), wanted, 1e-12, 1e-12)
    assert str(zoo.IndRNN(3, 5, nonlinearity="tanh").spec) == "IndRNN(3, 5; nonlinearity=tanh)"
    # Where exp would overflow without the stabiliser.
    y, _ = zoo.SLSTM(3, 5)(torch.full((50, 1, 3), 900.0))
    assert torch.isfinite(y).all()


@pytest.mark.parametrize("name", ZOO)
def test_gradients_of_the_zoo(name):
    torch.manual_seed(3)
    module = ZOO[name](2, 3, dtype=torch.float64)
    x = torch.randn(4, 2, 2, dtype=torch.float64, requires_grad=True)
    names = [n for n, _ in module.named_parameters()]

    def run(x, *weights):
        return torch.func.functional_call(module, dict(zip(names, weights, strict=True)), x)[0]

    with openlstm.backend("reference"):
        assert torch.autograd.gradcheck(run, (x, *module.parameters()), atol=1e-6)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("name", ZOO)
def test_the_engine_runs_the_zoo(name, options):
    torch.manual_seed(4)
    module = ZOO[name](3, 17, **options)
    x = torch.randn(11, 5, 3)
    assert openlstm.explain(module, x).splitlines()[1].split()[:2] == ["cpu", "runs,"]  # its equations ...
    if "zoneout_h" in options:
        module.eval()
    agree(module, x)
    reset = torch.zeros(11, 5, dtype=torch.bool)
    reset[4, 1] = reset[7, 3] = True
    agree(module, x, lengths=[11, 0, 7, 8, 1], reset=reset)


def test_a_rewritten_gru_has_the_same_program():
    """And so the same speed: what the engine runs is derived from the equations."""
    from openlstm import program

    ours, theirs = zoo.OwnGRU(3, 8).spec, openlstm.GRU(3, 8).spec
    for masks in (frozenset(), frozenset({"recurrent"})):
        assert program.forward(ours, masks).sections == program.forward(theirs, masks).sections
        assert program.backward(ours, masks, False).sections == program.backward(theirs, masks, False).sections
    module = openlstm.GRU(3, 8)
    own = zoo.OwnGRU(3, 8)
    own.load_state_dict(module.state_dict())
    x = torch.randn(6, 2, 3)
    assert torch.equal(own(x)[0], module(x)[0])


def janet_of(extra=0.0):
    @openlstm.cell(("f", "g"), ("h", "c"), bias={"f": 1.0}, initial={"c": 0.5}, titles={"f": "forget gate"})
    def mine(z, s, w, m, o):
        """A cell of a test."""
        f = m.sigmoid(z["f"])
        c = f * s["c"] + (1 - f) * m.tanh(z["g"] + extra)
        return {"f": f, "c": c, "h": c}

    return mine


def test_what_is_declared_holds(tmp_path):
    mine = janet_of()
    module = mine(3, 4, num_layers=2, bidirectional=True)
    assert repr(module) == "mine(3, 4, 4; bidirectional)" and module.__doc__ == "A cell of a test."
    assert (module.bias_ih_l0[:4] == 1).all() and (module.bias_hh_l0[:4] == 0).all()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    y, (h, c) = module(torch.zeros(1, 2, 3))  # f = 1/2 and g = 0: half of the first memory is left
    assert (y == 0.25).all() and h.shape == c.shape == (4, 2, 4) and (c == 0.25).all()
    with openlstm.backend("reference"):
        assert (module(torch.zeros(1, 2, 3))[0] == 0.25).all()
    learned = mine(3, 4, learned_state=True)
    assert (learned.initial_c_l0 == 0.5).all() and (learned.initial_h_l0 == 0).all()
    trace = openlstm.trace(module, torch.zeros(5, 1, 3))
    assert (trace.initial["c_l1_reverse"] == 0.5).all() and "forget gate" in str(trace.summary())
    assert emit.latex(mine(1, 1).spec)["c"].startswith("c_t = f_t")
    one = mine(3, 4)
    openlstm.save(one, tmp_path / "one.safetensors")
    x = torch.randn(6, 3)
    stream = openlstm.Stream.load(tmp_path / "one.safetensors")
    assert np.array_equal(stream.run(x.numpy()), one(x)[0].detach())
    stream.reset()
    assert (stream.state["c_l0"] == 0.5).all()


def test_formulas_have_words_for_names():
    @openlstm.cell(("f", "g"), vectors={"weight_rest": ["rest"]})
    def worded(z, s, w, m, o):
        forget = m.sigmoid(z["f"])
        return {"forget": forget, "h": w["rest"] + forget * m.tanh(z["g"])}

    found = emit.latex(worded(1, 1).spec)
    assert found["forget"] == r"\mathrm{forget}_t = \sigma(z_{f,t})"
    assert found["h"] == r"h_t = \mathrm{rest} + \mathrm{forget}_t \odot \tanh(z_{g,t})"
    assert emit.text(worded(1, 1).spec)["h"] == "h = rest + forget ⊙ tanh(z_g)"


def test_a_projection_needs_h_for_recurrent_weights_alone():
    mine = janet_of()
    assert mine(3, 4, proj_size=2)(torch.zeros(2, 1, 3))[0].shape == (2, 1, 2)
    agree(mine(3, 9, proj_size=4, num_layers=2), torch.randn(5, 2, 3))
    with pytest.raises(ValueError, match="proj_size is not defined for OwnGRU"):
        zoo.OwnGRU(3, 4, proj_size=2)


def test_files_know_their_equations(tmp_path):
    path = tmp_path / "mine.safetensors"
    module = janet_of()(3, 4)
    openlstm.save(module, path)
    assert module.spec.key == f"mine@{module.spec.digest}(3, 4)" and len(module.spec.digest) == 16
    back = openlstm.load(path)
    assert type(back) is type(module) and back.spec == module.spec
    again = janet_of()  # the same equations: as good
    assert type(openlstm.load(path)) is again
    other = janet_of(0.5)
    assert other(3, 4).spec.digest != module.spec.digest
    x = torch.randn(5, 2, 3)
    assert torch.equal(openlstm.load(path)(x)[0], module(x)[0])  # an older declaration is still known here
    assert type(openlstm.load(path)) is nn.Recurrent
    # In a process that knows the others alone.
    OLDER.clear()
    with pytest.raises(ValueError, match="'mine' has other equations"):
        openlstm.load(path)
    del CELLS["mine"]
    with pytest.raises(ValueError, match=r"Unknown cell 'mine'.*@openlstm.cell declared: import the module"):
        openlstm.load(path)


def test_old_modules_keep_their_equations():
    module = janet_of()(3, 4)
    x = torch.randn(5, 2, 3)
    before = module(x)[0]
    other = janet_of(0.5)(3, 4)
    other.load_state_dict(module.state_dict())
    assert module.spec != other.spec and not torch.equal(other(x)[0], before)
    copied = copy.deepcopy(module)
    copied.dropout = 0.5  # makes a new spec
    copied.eval()
    for one in (module, copied):
        assert torch.equal(one(x)[0], before)
        with openlstm.backend("reference"):
            torch.testing.assert_close(one(x)[0], before)


def test_modules_travel():
    module = zoo.FGR(3, 4, num_layers=2, bidirectional=True, dropout=0.1)
    back = pickle.loads(pickle.dumps(module))
    assert type(back) is zoo.FGR and back.spec == module.spec
    spec = pickle.loads(pickle.dumps(openlstm.LSTM(3, 4, peephole="diagonal", zoneout_c=0.1).spec))
    assert spec == openlstm.LSTM(3, 4, peephole="diagonal", zoneout_c=0.1).spec


def test_torch_compile_and_export():
    module = zoo.JANET(3, 4)
    x = torch.randn(5, 2, 3)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x)[0], module(x)[0])
    program = torch.export.export(module, (x,))
    torch.testing.assert_close(program.module()(x)[0], module(x)[0])


def declare(equations, **how):
    return openlstm.cell(**({"gates": ("f", "g"), "states": ("h", "c")} | how))(equations)


def plain(z, s, w, m, o):
    c = m.sigmoid(z["f"]) * s["c"] + m.tanh(z["g"])
    return {"c": c, "h": c}


def unknown(z, s, w, m, o):
    return {"h": m.sigmid(z["f"]), "c": z["g"]}


def no_gate(z, s, w, m, o):
    return {"h": z["q"], "c": z["g"]}


def of_torch(z, s, w, m, o):
    return {"h": torch.sigmoid(z["f"]), "c": z["g"]}


def of_numpy(z, s, w, m, o):
    return {"h": np.tanh(z["f"]), "c": z["g"]}


def of_math(z, s, w, m, o):
    return {"h": math.exp(z["f"]), "c": z["g"]}


def an_array(z, s, w, m, o):
    return {"h": np.ones(3) * z["f"], "c": z["g"]}


def a_power(z, s, w, m, o):
    return {"h": z["f"] ** 2, "c": z["g"]}


def a_choice(z, s, w, m, o):
    return {"h": z["f"] if z["f"] else z["g"], "c": z["g"]}


def no_slope(z, s, w, m, o):
    f = m.step(z["f"])
    return {"h": f * z["g"], "c": z["g"]}


def no_state(z, s, w, m, o):
    return {"h": z["f"] + z["g"]}


def unused(z, s, w, m, o):
    return {"h": z["f"], "c": s["c"]}


def for_nothing(z, s, w, m, o):
    return {"h": z["f"], "c": s["c"] + z["f"], "d": z["g"]}


def a_number(z, s, w, m, o):
    return {"h": z["f"] + z["g"], "c": 0.5}


def a_matrix(z, s, w, m, o):
    return {"h": z["f"] * w["A"], "c": z["g"]}


def a_vector(z, s, w, m, o):
    return {"h": m.linear(z["f"], w["A"], None), "c": z["g"]}


def a_part(z, s, w, m, o):
    return {"h": z["f"][..., :1], "c": z["g"]}


def a_sum(z, s, w, m, o):
    return {"h": sum(z["f"]), "c": z["g"]}


def by_zero(z, s, w, m, o):
    return {"h": z["f"] / 0, "c": z["g"]}


def one_bound(z, s, w, m, o):
    return {"h": m.clip(z["f"], 0.0), "c": z["g"]}


def of_a_number(z, s, w, m, o):
    return {"h": z["f"] * m.log(2.0), "c": z["g"]}


def of_parameters(z, s, w, m, o):
    d = m.sigmoid(w["v"])
    return {"d": d, "h": z["f"] * d, "c": z["g"]}


def used_twice(z, s, w, m, o):
    c = m.tanh(z["g"] + m.linear(s["c"], w["A"], None))
    return {"h": z["f"] + m.linear(c, w["A"], None), "c": c}


def of_a_vector(z, s, w, m, o):
    return {"h": z["f"] + m.linear(w["v"], w["A"], None), "c": z["g"]}


def a_bias(z, s, w, m, o):
    return {"h": z["f"] + m.linear(s["c"], w["A"], z["g"]), "c": z["g"]}


def drawn(z, s, w, m, o):
    return {"h": z["f"] * random.random(), "c": z["g"]}


def called(z, s, w, m, o):
    return {"dx": z["f"] + z["g"], "h": z["f"], "c": z["g"]}


def one(z, s, w, m, o):
    return z["f"] + z["g"]


def without_options(z, s, w, m):
    return {"h": z["f"], "c": z["g"]}


def by_attribute(z, s, w, m, o):
    return {"h": z.f, "c": z["g"]}


def a_method(z, s, w, m, o):
    return {"h": z["f"].sum(), "c": z["g"]}


def two(z, s, w, m, o):
    return z["f"], z["g"]


@pytest.mark.parametrize(
    ("equations", "how", "message"),
    [
        (unknown, {}, r"'unknown', line \d+ of test_declare.py, `return .*sigmid.*no 'sigmid': did you mean m.sigmoid"),
        (no_gate, {}, r"line \d+ .*there is no z\['q'\]: its gates are f, g"),
        (of_torch, {}, r"line \d+ .*must be Tensor, not a value of the cell; use the functions of m"),
        (of_numpy, {}, r"line \d+ .*ufunc.*use the functions of m"),
        (of_math, {}, r"line \d+ .*must be real number, not a value of the cell; use the functions of m"),
        (an_array, {}, r"line \d+ .*'\*' is given ndarray: it takes values of the cell, and numbers"),
        (a_power, {}, r"line \d+ .*unsupported operand"),
        (a_choice, {}, r"line \d+ .*neither true nor false"),
        (no_slope, {}, r"line \d+ of test_declare.py, `f = m.step\(z\[\"f\"\]\)`: m.step has no slope, and z\['f'\]"),
        (no_state, {}, r"it gives h, and no new 'c': expected each of the states h, c"),
        (unused, {}, r"z\['g'\] is not used: leave it out"),
        (for_nothing, {}, r"no state depends on z\['g'\]"),
        (a_number, {}, r"'c' is 0.5: expected a value made of z, s and w"),
        (a_matrix, {"matrices": {"weight_a": ["A"]}}, r"line \d+ .*w\['A'\] is a matrix.*use m.linear"),
        (a_vector, {"vectors": {"weight_a": ["A"]}}, r"line \d+ .*takes w\['A'\] as its matrix, but that is a vector"),
        (two, {}, "it gives tuple: expected a dict"),
        (one, {}, "it gives one value: expected a dict"),
        (without_options, {}, r"takes \(z, s, w, m\): expected \(z, s, w, m, o\)$"),
        (by_attribute, {}, r"line \d+ .*z has no 'f': write z\['f'\]$"),
        (a_method, {}, r"line \d+ .*: a value of the cell has no attribute 'sum'$"),
        (a_part, {}, r"line \d+ .*a value of the cell has no parts"),
        (a_sum, {}, r"line \d+ .*one number of each unit"),
        (by_zero, {}, r"line \d+ .*division by zero"),
        (one_bound, {}, r"line \d+ .*m.clip takes a value and two numbers, and is given a value, 0.0$"),
        (of_a_number, {}, r"line \d+ .*m.log takes a value of the cell, and is given 2.0$"),
        (of_parameters, {"vectors": {"weight_v": ["v"]}}, r"'d' is the same at every step"),
        (used_twice, {"matrices": {"weight_a": ["A"]}}, r"line \d+ .*w\['A'\] is used in a product and once more"),
        (of_a_vector, {"matrices": {"weight_a": ["A"]}, "vectors": {"weight_v": ["v"]}}, "m.linear takes a value made"),
        (a_bias, {"matrices": {"weight_a": ["A"]}}, r"line \d+ .*a vector of w or None"),
        (drawn, {}, "it gives other equations when it is run again"),
        (called, {}, "a value cannot be called 'dx'"),
        (plain, {"candidate": "g"}, "candidate='g', but it gives no value of this name that it multiplies by"),
        (plain, {"vectors": {"weight_v": ["keep"]}}, "has a parameter called 'keep'"),
        (plain, {"states": ("h", "h_seen")}, "has a state called 'h_seen'"),
        (plain, {"gates": ("f", "g", "fh"), "apart": ("f",)}, "has a gate called 'fh', which is what z has of 'f'"),
        (plain, {"apart": ("g",), "inside": ("g",)}, "has the gate 'g' as apart, and as inside or alone"),
        (plain, {"inside": ("g",), "vectors": {"weight_v": ["R_g"]}}, "has a parameter twice"),
        (plain, {"vectors": {"weight_v": ["v"]}, "matrices": {"weight_v": ["A"]}}, "of vectors and of matrices"),
        (plain, {"options": {"training": Option(1.0)}}, "has an option 'training', which all modules have"),
        (plain, {"options": {"q": 1.0}}, r"has 1\.0 as its option 'q': expected an openlstm.cells.Option"),
        (plain, {"options": {"q": Option(-1.0)}}, "has an option whose default is not one of its values"),
        (plain, {"options": {"q": Option("b,c", ("b,c",))}}, "has the choices"),
        (plain, {"options": ["q"]}, r"has options=\['q'\]: expected a dict"),
        (plain, {"bias": {"g": "1"}}, "has bias '1' of 'g': expected a finite number"),
        (plain, {"initial": {"c": None}}, "has initial None of 'c': expected a finite number"),
        (lambda z, s, w, m, o: {}, {}, "expected a function with a name, by def"),
        (functools.partial(plain), {}, "expected a function with a name, by def"),
        (plain, {"states": ("c", "h")}, "expected h, its output, as the first"),
        (plain, {"options": {"dropout": Option(1.0)}}, "has an option 'dropout', which all modules have"),
        (plain, {"vectors": {"weight_ih": ["a"]}}, "has a parameter 'weight_ih'"),
        (plain, {"vectors": {"peephole": ["a"]}}, r"expected weight_\.\.\. or norm_"),
        (plain, {"vectors": {"weight_a": ["a"]}}, r"w\['a'\] is not used"),
        (plain, {"initial": {"q": 1}}, "has initial of 'q', which is none of h, c"),
        (plain, {"initial": {"c": math.inf}}, "expected a finite number"),
        (plain, {"bias": {"q": 1}}, "has bias of 'q', which is none of f, g"),
        (plain, {"titles": {"q": "what"}}, "has a title for 'q'"),
        (plain, {"gates": ("f", "f", "g")}, "has a gate twice"),
        (plain, {"gates": ("x", "g")}, "has a gate called 'x', as a step calls something else"),
        (plain, {"gates": ()}, "has no gates"),
        (plain, {"alone": ("q",)}, "has alone=.*but its gates are f, g"),
        (plain, {"inside": ("f",)}, "those gates come last"),
    ],
)
def test_what_cannot_be_a_cell_is_refused(equations, how, message):
    before = dict(CELLS)
    with pytest.raises(ValueError, match=message):
        declare(equations, **how)
    assert before == CELLS


def test_gates_must_be_said():
    with pytest.raises(
        ValueError, match=r"^openlstm.cell is put before 'plain' alone: expected @openlstm.cell\(gates="
    ):
        openlstm.cell(plain)


def test_help_lists_the_arithmetic():
    assert all(re.search(rf"\b{name}\b", openlstm.cell.__doc__) for name in USABLE)


def test_names_of_built_in_cells_are_taken():
    def LSTM(z, s, w, m, o):
        return plain(z, s, w, m, o)

    with pytest.raises(ValueError, match="name of a built-in one"):
        declare(LSTM)


def test_options_that_do_not_go_together():
    with pytest.raises(ValueError, match="IndRNN has no recurrent weights"):
        zoo.IndRNN(3, 4, weight_dropout=0.5)
    with pytest.raises(ValueError, match="layer_norm is not defined for MGU"):
        zoo.MGU(3, 4, layer_norm=True)
    agree(zoo.IndRNN(3, 7, layer_norm=True), torch.randn(4, 2, 3))

    @openlstm.cell(("a", "b"), options={"form": Option("one", ("one", "two"))})
    def twice(z, s, w, m, o):
        return {"h": m.tanh(z["a"] + z["b"]) if o.form == "one" else m.tanh(z["a"])}

    twice(3, 4)
    with pytest.raises(ValueError, match=r"z\['b'\] is not used"):  # equations are looked at with these options too
        twice(3, 4, form="two")


# Random equations. Values stay small, so that what differs is a mistake and not rounding.

UNARY = {
    "tanh": lambda m, a: m.tanh(a),
    "sigmoid": lambda m, a: m.sigmoid(a),
    "softplus": lambda m, a: m.softplus(m.tanh(a)),
    "abs": lambda m, a: m.abs(m.tanh(a)),
    "relu": lambda m, a: m.relu(m.tanh(a)),
    "negative": lambda m, a: m.negative(m.tanh(a)),
    "exp": lambda m, a: m.exp(m.tanh(a)),
    "expm1": lambda m, a: m.expm1(m.tanh(a)),
    "log": lambda m, a: m.log(1.5 + m.tanh(a)),
    "clip": lambda m, a: m.clip(a, -0.75, 0.5),
    "neg": lambda m, a: -a,
    "affine": lambda m, a: 0.5 * a - 0.25,
    "one less": lambda m, a: 1 - a,
    "over": lambda m, a: 0.5 / (2 + m.tanh(a)),
    "half": lambda m, a: a / 2,
}
BINARY = {
    "+": lambda m, a, b: m.tanh(a + b),
    "-": lambda m, a, b: m.tanh(a - b),
    "*": lambda m, a, b: m.tanh(a) * b,
    "/": lambda m, a, b: a / (2 + m.sigmoid(b)),
    "maximum": lambda m, a, b: m.maximum(a, b),
    "minimum": lambda m, a, b: m.minimum(a, b),
    "fma": lambda m, a, b: m.sigmoid(a) * b + m.tanh(a) * 0.5,
}


@st.composite
def programs(draw):
    """The number of gates, states, vectors and matrices, and the operations one after another: (name, places)."""
    count = {
        "gates": draw(st.integers(1, 4)),
        "states": draw(st.integers(1, 4)),
        "vectors": draw(st.integers(0, 2)),
        "matrices": draw(st.integers(0, 2)),
        "apart": draw(st.booleans()),
        "alone": draw(st.booleans()),
        "bounded": draw(st.booleans()),
    }
    steps = []
    for k in range(draw(st.integers(1, 12))):
        name = draw(st.sampled_from([*UNARY, *BINARY]))
        steps.append((name, draw(st.integers(0, 30 + k)), draw(st.integers(0, 30 + k))))
    return count, steps, [draw(st.integers(0, 60)) for _ in range(count["states"])]


def built(program):
    """The cell of a program. All gates and parameters are used once more at the end, so that none is refused."""
    count, steps, chosen = program
    gates = [f"g{k}" for k in range(count["gates"])]
    states = ["h", *(f"s{k}" for k in range(count["states"] - 1))]
    vectors = [f"v{k}" for k in range(count["vectors"])]
    matrices = [f"M{k}" for k in range(count["matrices"])]
    apart = gates[:1] if count["apart"] else []
    alone = gates[-2:] if count["alone"] and len(gates) > 2 else gates[1:] if count["alone"] else []

    def random_cell(z, s, w, m, o):
        given = [*(z[gate] for gate in z), *(s[state] for state in states)]
        given += [w[v] * s["h"] for v in vectors]
        given += [z[gates[-1]] - m.exp(w[v]) * 0.5 for v in vectors[1:]]
        given += [m.tanh(m.linear(m.tanh(given[k % len(given)]), w[M], None)) for k, M in enumerate(matrices)]
        made = list(given)
        for name, a, b in steps:
            a, b = made[a % len(made)], made[b % len(made)]
            made.append(UNARY[name](m, a) if name in UNARY else BINARY[name](m, a, b))
        all_of = given[0]
        for each in given[1:]:
            all_of = all_of + each
        values = {f"v_{k}": value for k, value in enumerate(made[len(given) :])}
        new = {state: made[k % len(made)] for state, k in zip(states, chosen, strict=True)}  # also one of the old ones
        if count["bounded"]:
            new = {state: m.tanh(value * 0.5) for state, value in new.items()}
        return values | new | {"h": new["h"] + 0.25 * m.tanh(all_of)}

    how = {"vectors": {"weight_v": vectors}} if vectors else {}
    how |= {"matrices": {"weight_m": matrices}} if matrices else {}
    return openlstm.cell(gates, states, apart=apart, alone=alone, **how)(random_cell)


@pytest.mark.parametrize("part", range(4))  # side by side; each has a seed, or derandomized runs would be the same
def test_a_hundred_random_cells_agree(part, tmp_path_factory):
    cache = tmp_path_factory.getbasetemp() / "cache"
    options = st.sampled_from([{}, {}, {"zoneout_h": 0.3}, {"layer_norm": True}, {"bias": False}])
    drawn = given(st.just(cache), programs(), st.integers(0, 2**31), st.integers(1, 2), st.booleans(), options)
    hypothesis.seed(part)(settings(max_examples=25, deadline=None)(drawn(agree_everywhere)))()


def agree_everywhere(cache, program, seed, layers, both, options):
    """Reference, engine, what a compiler makes where there is one, and numpy; with all gradients."""
    kind = built(program)
    torch.manual_seed(seed)
    size, batch, time = 1 + seed % 19, 1 + seed % 5, 1 + seed % 7
    module = kind(3, size, num_layers=layers, bidirectional=both, **options).eval()
    x = torch.randn(time, batch, 3)
    agree(module, x)
    lengths = torch.randint(0, time + 1, (batch,))
    agree(module, x, lengths=lengths)
    if COMPILER:
        with compiling(cache):
            agree(module, x, without=False)
    spec, walk = module.spec, module.spec.walks[0]
    p = {name: getattr(module, name + walk.suffix).detach().numpy() for name in spec.shapes(walk)}
    step = Step(spec, walk, p, Numpy)
    state = {name: np.zeros((batch, size), np.float32) for name in spec.definition.states}
    with openlstm.backend("reference"):
        wanted = openlstm.trace(module, x)
    for t in range(time):
        values, state, _ = step(
            step.inputs(x[t].numpy()), state, {name: rate for name, rate in options.items() if name == "zoneout_h"}
        )
        for name, value in values.items():
            np.testing.assert_allclose(value, wanted[name + walk.suffix][t], 1e-4, 1e-5, err_msg=name)


def test_arithmetics_have_the_same_functions():
    from openlstm.declare import USABLE

    for name in USABLE:
        assert hasattr(cells.Numpy, name) and hasattr(reference.Torch, name)
    a, b = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 2.0, 2.0])
    assert reference.Torch.maximum(a, 2.5).tolist() == [2.5, 2.5, 3.0]
    assert reference.Torch.minimum(1.5, a).tolist() == [1.0, 1.5, 1.5]
    assert Numpy.maximum(a.numpy(), b.numpy()).tolist() == [2, 2, 3]


def test_states_that_come_from_the_input_alone_or_from_the_step_before():
    @openlstm.cell(("f", "g"), ("h", "c", "d"), alone=("g",))
    def late(z, s, w, m, o):  # a window of two steps, as in a QRNN; h is what c was
        return {"c": m.tanh(z["g"]) + z["f"] * 0.5 * s["d"], "d": z["g"], "h": s["c"]}

    module = late(3, 7, num_layers=2, bidirectional=True)
    x = torch.randn(6, 4, 3)
    agree(module, x)
    agree(module, x, lengths=[6, 0, 3, 1])
    agree(late(3, 7, residual=True, num_layers=2), x)


def test_equations_that_change_are_told():
    scale = [1.0]

    @openlstm.cell(("f",))
    def changing(z, s, w, m, o):
        return {"h": m.tanh(z["f"] * scale[0])}

    module = changing(2, 3)
    scale[0] = 2.0
    with pytest.raises(RuntimeError, match="The equations of changing read something that has changed since"):
        module(torch.zeros(2, 1, 2))


def test_a_projection_is_refused_where_options_make_it_wrong():
    @openlstm.cell(("f",), options={"leak": Option("no", ("no", "yes"))})
    def leaking(z, s, w, m, o):
        return {"h": m.tanh(z["f"]) + (s["h"] * 0.5 if o.leak == "yes" else 0.0)}

    leaking(3, 4, proj_size=2)
    with pytest.raises(ValueError, match="proj_size is not defined for leaking with these options: it mixes h with"):
        leaking(3, 4, proj_size=2, leak="yes")


def test_a_candidate_is_dropped():
    """All of it: then the GRU keeps a share of what it was."""
    module = zoo.OwnGRU(2, 3, recurrent_dropout=1.0, recurrent_dropout_on="candidate")
    y, _ = module(torch.randn(4, 2, 2), torch.ones(1, 2, 3))
    assert (y > 0).all() and (y[1:] < y[:-1]).all()
    own, built_in = (
        kind(3, 5, recurrent_dropout=0.5, recurrent_dropout_on="candidate") for kind in (zoo.OwnGRU, nn.GRU)
    )
    built_in.load_state_dict(own.state_dict())
    x, found = torch.randn(4, 2, 3), []
    for one in (own, built_in):
        torch.manual_seed(0)
        found.append(one(x)[0])
    assert torch.equal(*found)


def test_the_zoo_displaces_nobody():
    """Also where it is imported after a cell of one of its names: what is declared later counts."""
    code = (
        "import openlstm\n"
        "@openlstm.cell(('a',))\n"
        "def JANET(z, s, w, m, o): return {'h': m.tanh(z['a'])}\n"
        "import openlstm.zoo\n"
        "assert openlstm.Spec.parse('JANET(3, 4)').gates == ('a',) and openlstm.zoo.JANET is not JANET\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_stabiliser_of_the_slstm():
    """Whatever the first input gate is, the first step takes it alone."""
    module = zoo.SLSTM(1, 2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        for gate in (-3e4, 0.0, 3e4):
            module.bias_ih_l0[:2] = gate
            y, (_, c, n, _) = module(torch.zeros(3, 1, 1))
            assert torch.isfinite(y).all() and (n > 0).all() and (c == 0).all()


def test_equal_values_share_the_slope_of_their_maximum():
    @openlstm.cell(("a", "b"))
    def larger(z, s, w, m, o):
        return {"h": m.maximum(z["a"], z["b"]) + 0.5 * m.minimum(z["a"], z["b"])}

    module = larger(2, 3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter[3:] = parameter[:3]
    agree(module, torch.randn(3, 2, 2))
    found = results(module, torch.randn(3, 2, 2), "cpu")
    weight = found[3]
    assert torch.equal(weight[:3], weight[3:])


def test_specs_are_read_and_written():
    for text in ("JANET(3, 4; beta=0.5)", "SLSTM(3, 4, 5; bidirectional, forget_gate=exp)"):
        spec = Spec.parse(text)
        assert str(spec) == text and Spec.parse(spec.key) == spec and spec.key != text
    with pytest.raises(ValueError, match="Unknown cell 'nothing'"):
        Spec.parse("nothing(3, 4)")


@pytest.mark.parametrize("kind", ZOO.values(), ids=ZOO)
def test_other_formats(kind, tmp_path):
    """ONNX has the equations in a Scan; what has no form for them refuses."""
    module = kind(3, 5, num_layers=2, bidirectional=True)
    openlstm.save(module, tmp_path / "a.safetensors")
    _, difference = convert.convert(tmp_path / "a.safetensors", tmp_path / "b.onnx")
    assert difference < 1e-5
    for name, each in convert.FORMATS.items():
        target = tmp_path / f"c{each.endings[0] if each.endings else '.npz'}"
        if name not in ("openlstm", "onnx"):
            with pytest.raises(convert.Refused, match=f"has no {kind.title}, a cell that @openlstm.cell declared"):
                convert.convert(tmp_path / "a.safetensors", target, target_format=name)
            assert not target.exists()


def test_initial_states_go_to_onnx(tmp_path):
    """A memory that begins at 1/2 does so there too."""
    module = janet_of()(3, 5)
    openlstm.save(module, tmp_path / "a.safetensors")
    _, difference = convert.convert(tmp_path / "a.safetensors", tmp_path / "b.onnx")
    assert difference < 1e-5


CELLS_OF_A_FILE = """
import openlstm

@openlstm.cell(gates=("f", "g"), states=("h", "c"))
def FromFile(z, s, w, m, o):
    f = m.sigmoid(z["f"])
    c = f * s["c"] + (1 - f) * m.tanh(z["g"])
    return {"f": f, "c": c, "h": m.tanh(c)}
"""


def test_the_command_line_is_told_of_cells(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke
    Path("own_cells_of_a_test.py").write_text(CELLS_OF_A_FILE)
    found = run(cli.app, ["describe", "FromFile(3, 4)"])
    assert found.exit_code == 2 and "Unknown cell 'FromFile'" in found.stderr and "--cells FILE" in found.stderr
    for name in ("own_cells_of_a_test.py", "own_cells_of_a_test"):
        found = run(cli.app, ["--cells", name, "describe", "FromFile(3, 4)"])
        assert found.exit_code == 0 and "72 parameters" in found.stdout
        del CELLS["FromFile"]
        sys.modules.pop("own_cells_of_a_test")
    before = sys.modules["random"]
    Path("random.py").write_text(CELLS_OF_A_FILE)  # a file is that file, whatever else has its name
    found = run(cli.app, ["--cells", "random.py", "describe", "FromFile(3, 4)"])
    assert found.exit_code == 0 and sys.modules["random"] is before
    Path("random.py").unlink()
    del CELLS["FromFile"]
    found = run(cli.app, ["--cells", "no_such_module", "describe", "FromFile(3, 4)"])
    assert found.exit_code == 2 and "There is no 'no_such_module': give a Python module" in found.stderr
    Path("broken_cells_of_a_test.py").write_text(CELLS_OF_A_FILE.replace("m.tanh(c)", "m.tanhh(c)"))
    found = run(cli.app, ["--cells", "broken_cells_of_a_test.py", "describe", "FromFile(3, 4)"])
    assert found.exit_code == 2 and "line 8 of broken_cells_of_a_test.py" in found.stderr
    assert found.stderr.rstrip().endswith("did you mean m.tanh?")
    found = run(cli.app, ["describe", "FromFile(3, 4)", "--cells", "a.py"])
    assert found.exit_code == 2 and "--cells stands before the command" in found.stderr
    for name, text, told in (
        ("a", "x = 1\n\n1 / 0", ", line 3 of a.py: ZeroDivisionError: division by zero."),
        ("b", "import no_such_module", ", line 1 of b.py: ModuleNotFoundError: No module named 'no_such_module'."),
        ("c", "def f(:", ": SyntaxError: invalid syntax (c.py, line 1)."),
    ):
        Path(f"{name}.py").write_text(text)
        found = run(cli.app, ["--cells", f"{name}.py", "describe", "FromFile(3, 4)"])
        assert found.exit_code == 2 and found.stderr == f"Error: '{name}.py' failed when it was run{told}\n"


def test_a_cell_is_trained(tmp_path, monkeypatch):
    """As any other by a task, and its file knows its equations."""
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("to be or not to be " * 100)
    run = CliRunner().invoke
    found = run(cli.app, ["train", "text", "a.txt", "--cell", "SLSTM", "--hidden", "8", "--epochs", "1", "-o", "run"])
    assert found.exit_code == 0, found.output
    _, metadata = openlstm.file.read("run/model.safetensors")
    assert metadata["spec"].startswith("SLSTM@")
    found = run(cli.app, ["sample", "run/model.safetensors", "--length", "5", "--prompt", "to"])
    assert found.exit_code == 0, found.output
