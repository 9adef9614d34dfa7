"""Every variant against independent oracles: formulas written once more, ONNX Runtime, and its own pieces."""

import dataclasses
import itertools
import re

import numpy as np
import oracle
import ort
import pytest
import torch
from cases import (
    ACTIVATIONS,
    ALONE,
    CASES,
    COMBINATIONS,
    FUNCTIONS,
    OPTIONS,
    PAIRS,
    REFUSED,
    RUNS,
    TOLERANCE,
    lengths,
    masks,
    problem,
    problems,
    resets,
)

import openlstm.backends
from openlstm import cells
from openlstm.arguments import Keep
from openlstm.backends.reference import Torch
from openlstm.cells import BUILT_IN, CELLS
from openlstm.spec import _FIELDS, Spec
from openlstm.step import Step

BACKENDS = list(openlstm.backends.BACKENDS.values())
backends = pytest.mark.parametrize("backend", BACKENDS, ids=lambda module: module.__name__.rpartition(".")[2])
dtypes = pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: str(dtype).removeprefix("torch."))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """What is this small is slower on many."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def same(given, expected, tolerance, text=""):
    """Equal, NaN where NaN, to a tolerance both absolute and relative."""
    given = given.detach().numpy() if isinstance(given, torch.Tensor) else given
    expected = expected.detach().numpy() if isinstance(expected, torch.Tensor) else expected
    np.testing.assert_allclose(given, expected, tolerance, tolerance, err_msg=text)


def run(backend, p, **keep):
    """A backend on a problem, if it takes it."""
    if reason := backend.why_not(p.spec, p.x):
        pytest.skip(reason)
    return backend.forward(*p.arguments, **keep)


# The list of cases


def test_cases_have_every_option_and_every_function():
    for cell, definition in ((cell, CELLS[cell]) for cell in BUILT_IN):
        named = {part.partition("=")[0] for option in OPTIONS[cell] for part in option.split(", ")}
        known = {*_FIELDS, *definition.options} - {"batch_first"}  # which only the modules see
        if not definition.projects:
            known -= {"proj_size", "proj_bias", "proj_clip", "nonrecurrent_proj_size"}
        known -= set() if "c" in definition.states else {"zoneout_c"}
        known -= set() if definition.candidate else {"recurrent_dropout_on"}
        assert named == known, cell
        for name, option in definition.options.items():
            for choice in set(option.choices) - {option.default}:
                assert f"{name}={choice}" in OPTIONS[cell]
    assert {name.partition(":")[0] for name in ACTIVATIONS} == set(cells.ACTIVATIONS)
    for name in ACTIVATIONS:
        constants = [float(constant) for constant in name.split(":")[1:]]
        default = cells.ACTIVATIONS[name.partition(":")[0]][1]
        assert len(constants) == len(default)
        assert all(a != b for a, b in zip(constants, default, strict=True)), name
    assert len(set(CASES + PAIRS)) == len(CASES + PAIRS)


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    with pytest.raises(ValueError, match=r"Leave one out|expected reset='after'"):
        Spec.parse(case)


# Against the formulas, written once more in oracle.py


@backends
@dtypes
@pytest.mark.parametrize("case", CASES + PAIRS, ids=str)
def test_against_the_formulas(case, dtype, backend):
    for name, p in problems(case, dtype=dtype):
        y, final, named = oracle.forward(*p.numpy())
        keep = Keep()
        given, last = run(backend, p, keep=keep)
        assert given.dtype == dtype and list(last) == list(p.spec.state_names)
        same(given, y, TOLERANCE[dtype], name)
        for key, value in final.items():
            same(last[key], value, TOLERANCE[dtype], f"{name} {key}")
        assert set(keep.values) == set(named), name
        for key, value in named.items():
            same(keep.values[key], value, TOLERANCE[dtype], f"{name} {key}")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_step_in_numpy(case):
    p = problem(case, time=1)
    walk = p.spec.walks[0]
    _, _, named = oracle.forward(*p.numpy())
    _, x, parameters, states, *_ = p.numpy()
    step = Step(p.spec, walk, oracle.own(parameters, walk.suffix), cells.Numpy)
    rates = {f"zoneout_{name}": getattr(p.spec, f"zoneout_{name}") for name in p.spec.definition.states}
    masks = {name: rate for name, rate in rates.items() if rate}
    values, new, y = step(step.inputs(x)[0], oracle.own(states, walk.suffix), masks)
    expected = oracle.own(named, walk.suffix)
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        same(values[name], value[0], TOLERANCE[torch.float64], name)
    parts = [name for name in ("r", "p") if name in values] if p.spec.proj_size else ["h"]
    same(y, np.concatenate([values[name] for name in parts], -1), 0)
    assert list(new) == list(p.spec.definition.states)


@backends
@pytest.mark.parametrize("cell", BUILT_IN)
@pytest.mark.parametrize(("time", "batch"), [(0, 3), (1, 1), (5, 0)])
def test_no_steps_one_step_and_no_sequences(cell, time, batch, backend):
    p = problem(f"{cell}(3, 5, 4; bidirectional)", time, batch, ragged=True)
    y, final, _ = oracle.forward(*p.numpy())
    given, last = run(backend, p)
    same(given, y, TOLERANCE[torch.float64])
    for name, value in last.items():
        same(value, final.get(name, p.states[name]), TOLERANCE[torch.float64])


# Against ONNX Runtime, which computes in float32

JUDGED = (
    "lstm(3, 5)",
    "lstm(3, 5; bias=False)",
    "lstm(1, 1)",
    "lstm(7, 17)",
    "lstm(3, 5; peephole=diagonal)",
    "lstm(3, 5; coupled=f=1-i)",
    "lstm(3, 5; preactivation_clip=0.6)",
    "lstm(3, 5; peephole=diagonal, coupled=f=1-i)",
    "lstm(3, 5; peephole=diagonal, coupled=f=1-i, preactivation_clip=0.6)",
    "lstm(3, 5; peephole=diagonal, preactivation_clip=0.8, "
    "activations=hard_sigmoid:0.3:0.4/elu:0.7/scaled_tanh:1.3:0.6)",
    *(f"lstm(3, 5; activations={name}/tanh/tanh)" for name in ACTIVATIONS),
    *(f"lstm(3, 5; activations=sigmoid/{name}/tanh)" for name in ACTIVATIONS),
    *(f"lstm(3, 5; activations=sigmoid/tanh/{name})" for name in ACTIVATIONS),
    *(
        f"gru(3, 5; reset={reset}{more})"
        for reset in ("after", "before")
        for more in (
            "",
            ", bias=False",
            *(f", activations={name}/tanh" for name in ACTIVATIONS),
            *(f", activations=sigmoid/{name}" for name in ACTIVATIONS),
        )
    ),
    "gru(7, 17)",
    "rnn(3, 5)",
    "rnn(3, 5; bias=False)",
    "rnn(3, 5; nonlinearity=relu)",
    *(f"rnn(3, 5; preactivation_clip=0.6, nonlinearity={name})" for name in ACTIVATIONS),
    "gru(3, 5; preactivation_clip=0.6)",
    "gru(3, 5; preactivation_clip=0.6, reset=before, bidirectional)",
    "rnn(7, 17)",
)


@backends
@pytest.mark.parametrize("case", dict.fromkeys(JUDGED), ids=str)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_against_onnx_runtime(case, direction, backend):
    spec = Spec.parse(case)
    if direction != "forward":
        spec = dataclasses.replace(spec, bidirectional=True)
    for ragged in (False, True):
        p = problem(spec, ragged=ragged)
        p.reset = None  # ONNX has none
        # Smaller, so that gates without bounds do not blow up what float32 rounds.
        p.parameters = {name: 0.5 * value for name, value in p.parameters.items()}
        given, last = run(backend, p)
        _, x, parameters, states, ends, *_ = p.numpy()
        alone = spec
        if direction == "reverse":  # our reverse direction alone against a model with nothing else
            alone = dataclasses.replace(spec, bidirectional=False)
            given = given[..., spec.hidden_size[0] :]
            parameters, states, last = (
                {name.replace("_reverse", ""): value for name, value in group.items() if name.endswith("_reverse")}
                for group in (parameters, states, last)
            )
        y, final = ort.run(alone, x, parameters, states, ends, reverse=direction == "reverse")
        same(given, y, TOLERANCE[torch.float32], f"ragged={ragged}")
        assert set(final) == set(last)
        for name, value in final.items():
            if ragged:  # of a sequence without steps ONNX Runtime gives zeros, and we what it began with
                empty = ends == 0
                assert empty.any() and not value[empty].any()
                same(last[name][empty], states[name][empty], 0)
                value[empty] = states[name][empty]
            same(last[name], value, TOLERANCE[torch.float32], f"ragged={ragged} {name}")


# Against its own pieces

WALKED = (
    "lstm(3, 5, 4; bidirectional)",
    "gru(3, 5, 4; bidirectional, reset=before)",
    "rnn(3, 5, 4; bidirectional)",
    "lstm(3, 5, 5; bidirectional, residual, proj_size=3, nonrecurrent_proj_size=2, peephole=diagonal, zoneout_h=0.2, "
    "zoneout_c=0.3)",
)


def part(p, b, times, states=None):
    """One sequence of a problem, or some of its steps, as a problem of its own."""
    fresh = {
        name: mask[b : b + 1] if mask.dim() == 2 and name.startswith("recurrent") else mask
        for name, mask in p.masks.items()
    }
    fresh = {name: mask[times, b : b + 1] if mask.dim() == 3 else mask for name, mask in fresh.items()}
    states = states or {name: value[b : b + 1] for name, value in p.states.items()}
    return dataclasses.replace(p, x=p.x[times, b : b + 1], states=states, lengths=None, reset=None, masks=fresh)


@backends
@pytest.mark.parametrize("case", [*WALKED, "lstm(3, 5, 5; bidirectional, dropout=0.3, recurrent_dropout=0.3, "
                                  "weight_dropout=0.3, zoneout_h=0.3, zoneout_c=0.2)"])  # fmt: skip
def test_a_ragged_batch_is_each_sequence_alone(case, backend):
    p = problem(case, time=6, batch=6, training=True)
    p.lengths = lengths(6, 6)
    # Whatever stands past an end is not read.
    p.x = torch.where(torch.arange(6)[:, None, None] < p.lengths[:, None], p.x, torch.nan)
    y, last = run(backend, p)
    for b, end in enumerate(p.lengths.tolist()):
        alone, final = run(backend, part(p, b, slice(0, end)))
        same(y[:end, b : b + 1], alone, 1e-14)
        assert torch.equal(y[end:, b], torch.zeros_like(y[end:, b]))
        for name, value in final.items():
            same(last[name][b : b + 1], value, 1e-14)
            if end == 0:
                assert torch.equal(last[name][b], p.states[name][b])


@backends
@pytest.mark.parametrize("case", WALKED, ids=str)
def test_nothing_past_an_end_reaches_a_gradient(case, backend):
    def gradients(fill):
        p = problem(case, time=6, batch=6)
        p.lengths = lengths(6, 6)
        p.x = torch.where(torch.arange(6)[:, None, None] < p.lengths[:, None], p.x, fill)
        inputs = [p.x, *p.parameters.values(), *p.states.values()]
        for tensor in inputs:
            tensor.requires_grad_()
        y, last = run(backend, p)
        total = sum(value.square().sum() for value in (y, *last.values()))
        return torch.autograd.grad(total, inputs)

    for clean, poisoned in zip(gradients(0.0), gradients(torch.nan), strict=True):
        assert torch.equal(clean, poisoned)


@backends
@pytest.mark.parametrize("case", WALKED, ids=str)
def test_resets_are_the_pieces_apart(case, backend):
    # Every layer begins anew at a reset, in both directions, so nothing of one piece reaches another.
    p = problem(case, time=7, batch=4)
    p.reset = resets(7, 4)
    y, last = run(backend, p)
    for b in range(4):
        cuts = [0, *(t for t in range(1, 7) if p.reset[t, b]), 7]
        pieces = [run(backend, part(p, b, slice(a, z))) for a, z in itertools.pairwise(cuts)]
        same(y[:, b : b + 1], torch.cat([piece for piece, _ in pieces]), 1e-14)
        for name in last:
            _, final = pieces[0 if name.endswith("_reverse") else -1]
            same(last[name][b : b + 1], final[name], 1e-14)


@backends
@pytest.mark.parametrize("case", ["lstm(3, 5, 4)", "gru(3, 5, 4)", "rnn(3, 5, 4)"])
def test_two_halves_are_the_whole(case, backend):
    p = problem(case)
    y, last = run(backend, p)
    first, state = run(backend, dataclasses.replace(p, x=p.x[:2]))
    second, final = run(backend, dataclasses.replace(p, x=p.x[2:], states=state))
    same(torch.cat((first, second)), y, 1e-14)
    for name, value in final.items():
        same(value, last[name], 1e-14)


@backends
@pytest.mark.parametrize("case", ["lstm(3, 5; zoneout_h=0.2, zoneout_c=0.3)", "gru(3, 5; zoneout_h=0.4)"])
def test_zoneout_without_masks_is_their_mean_over_one_step(case, backend):
    # Over one step the result is linear in the mask, so the mean over masks is the result of the mean.
    p = problem(case, time=1)
    y, _ = run(backend, p)
    names = p.spec.masks(1, 4)
    weight, mean = 0.0, torch.zeros_like(y)
    for bits in range(2 ** len(names)):
        chance = 1.0
        for n, (name, mask) in enumerate(names.items()):
            on = float(bits >> n & 1)
            p.masks[name] = torch.full(mask.shape, on).double()
            chance *= 1 - mask.rate if on else mask.rate
        mean = mean + chance * run(backend, p)[0]
        weight += chance
    assert weight == pytest.approx(1) and masks(p.spec, 1, 4).keys() == names.keys()
    same(y, mean, 1e-14)


# Derivatives

DERIVED = (*ALONE, *FUNCTIONS, *PAIRS, *COMBINATIONS)


def flat(values):
    """All numbers of several arrays in one vector: one input or output makes a check of derivatives quick."""
    return torch.cat([value.reshape(-1) for value in values])


@backends
@pytest.mark.parametrize("case", DERIVED, ids=str)
def test_derivatives(case, backend):
    p = problem(re.sub(r"\(3, 5(, 5)?", lambda m: "(2, 3, 3" if m[1] else "(2, 3", case), 3, 2, training=True, seed=3)
    p.lengths, p.reset = torch.tensor([3, 2]), torch.tensor([[False, False], [True, False], [False, True]])
    if reason := backend.why_not(p.spec, p.x):
        pytest.skip(reason)
    named = {"x": p.x, **p.parameters, **p.states}

    def function(vector):
        parts = vector.split([value.numel() for value in named.values()])
        given = {k: part.view_as(value) for (k, value), part in zip(named.items(), parts, strict=True)}
        parameters, states = ({name: given[name] for name in group} for group in (p.parameters, p.states))
        y, last = backend.forward(p.spec, given["x"], parameters, states, p.lengths, p.reset, p.masks)
        return flat([y, *last.values()])

    vector = flat(named.values()).requires_grad_()
    assert torch.autograd.gradcheck(function, vector, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, vector, fast_mode=True)


@pytest.mark.parametrize(
    ("name", "theirs", "at"),
    [
        ("relu", torch.nn.functional.relu, 0.0),
        ("leaky_relu:0.3", lambda x: torch.nn.functional.leaky_relu(x, 0.3), 0.0),
        ("elu:1.0", torch.nn.functional.elu, 0.0),
        ("elu:0.7", lambda x: torch.nn.functional.elu(x, 0.7), 0.0),
        ("thresholded_relu:0.4", lambda x: torch.nn.functional.threshold(x, 0.4, 0.0), 0.4),
        ("softsign", torch.nn.functional.softsign, 0.0),
    ],
)
def test_slopes_where_functions_bend(name, theirs, at):
    x = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    slopes = [torch.autograd.grad(f(x), x)[0] for f in (cells.activation(Torch, name), theirs)]
    assert slopes[0] == slopes[1]


def test_runs_are_named():
    assert set(RUNS) == {name for name, _ in problems("lstm(3, 5; zoneout_h=0.2)")}
