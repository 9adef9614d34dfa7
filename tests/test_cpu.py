"""The CPU engine against the reference in float64: every case, every gradient, every instruction set."""

import dataclasses
import gc
import os
import pathlib
import platform
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from cases import CASES, FUNCTIONS, PAIRS, Problem, problem, problems
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad

import openlstm
from openlstm import _core
from openlstm.backends import cpu, reference
from openlstm.cells import NORM_EPSILON
from openlstm.sections import KINDS, OPERATIONS


@pytest.fixture(autouse=True)
def watched():
    """Own memory of the core begins as NaN and has guards around it."""
    _core.watch(True)
    chosen = _core.isa()
    yield
    _core.use(chosen)
    _core.watch(False)


def cast(p: Problem, dtype: torch.dtype) -> Problem:
    """The same numbers in another type, as leaves that want gradients."""

    def leaf(tensor):
        return tensor.detach().to(dtype).requires_grad_()

    return dataclasses.replace(
        p,
        x=leaf(p.x),
        parameters={name: leaf(tensor) for name, tensor in p.parameters.items()},
        states={name: leaf(tensor) for name, tensor in p.states.items()},
        masks={name: mask.to(dtype) for name, mask in p.masks.items()},
    )


def results(backend, p: Problem) -> dict[str, torch.Tensor]:
    """Output, final states and all gradients of a random sum of them, by name."""
    y, final = backend.forward(*p.arguments)
    found = {"y": y, **{"final " + name: state for name, state in final.items()}}
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(value.shape, generator=generator, dtype=torch.float64) for value in found.values()]
    total = sum((value * weight.to(value.dtype)).sum() for value, weight in zip(found.values(), weights, strict=True))
    named = {"x": p.x, **p.parameters, **p.states}
    gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True, materialize_grads=True)
    return found | {"d " + name: gradient for name, gradient in zip(named, gradients, strict=True)}


def errors(p: Problem) -> Iterator[tuple[str, str, float, float, float]]:
    """With each instruction set, of every result its size in float64, our error and that of torch's float32: norms."""
    exact = results(reference, cast(p, torch.float64))
    torchs = results(reference, cast(p, torch.float32))
    for isa in _core.usable():
        _core.use(isa)
        ours = results(cpu, cast(p, torch.float32))
        assert ours.keys() == exact.keys()
        for name, value in exact.items():
            both = ((found[name].double() - value).norm().item() for found in (ours, torchs))
            yield isa, name, value.norm().item(), *both


def check(p: Problem, text: str = "") -> None:
    # Where gates have no bounds, roundings grow without bounds too, in torch's float32 as here.
    for isa, name, size, ours, theirs in errors(p):
        assert ours <= 1e-6 + 4e-6 * size + 30 * theirs, f"{isa} {text} {name}: {ours} of {size}, torch's {theirs}"


@pytest.mark.parametrize("case", CASES + PAIRS, ids=str)
def test_all_gradients(case):
    for name, p in problems(case):
        check(p, name)


SIZES = [(h, i) for h in (1, 7, 8, 33, 200) for i in (1, 5)]
TIMES = [(1, 1), (1, 17), (2, 3), (6, 2), (9, 17)]
WIDE = ("lstm(3, 5; peephole=diagonal, bidirectional)", "gru(3, 5, 4)", "rnn(3, 5)", "lstm(3, 5; proj_size=3)")


@pytest.mark.parametrize("case", [*WIDE, "gru(3, 5; reset=before)", "lstm(3, 5; layer_norm)"], ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_odd_sizes(case, sizes):
    hidden, width = sizes
    if hidden == 1 and "proj_size" in case:
        pytest.skip("a projection is smaller than the memory")
    projected = min(3, hidden - 1)
    text = re.sub(r"\(3, 5(, 4)?", lambda m: f"({width}, {hidden}" + (f", {hidden}" if m[1] else ""), case)
    for time, batch in TIMES:
        check(problem(text.replace("proj_size=3", f"proj_size={projected}"), time, batch), f"T={time} B={batch}")


@pytest.mark.parametrize("case", WIDE)
def test_many_steps(case):
    check(problem(case, 257, 2))


LARGE = "lstm(20, 64; layer_norm, peephole=diagonal, proj_size=30)"


def test_no_worse_than_torch_on_the_whole():
    ratios = {}
    for case in (
        "lstm(40, 100)",
        "gru(33, 120)",
        "rnn(40, 100)",
        "lstm(20, 64; layer_norm, peephole=diagonal, proj_size=30)",
    ):
        for seed in range(3):
            for _, name, _, ours, theirs in errors(problem(case, 20, 6, seed=seed)):
                ratios.setdefault(name, []).append(np.log(max(ours, 1e-12) / max(theirs, 1e-12)))
    assert np.exp(np.mean([value for values in ratios.values() for value in values])) < 1.2
    for name, values in ratios.items():
        assert np.exp(np.mean(values)) < 1.8, name


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("case", [*WIDE, "lstm(3, 5; cell_clip=0.4, preactivation_clip=0.6)", *FUNCTIONS], ids=str)
def test_what_is_not_finite_passes_as_in_the_reference(case, bad):
    p = cast(problem(case, 6, 3), torch.float32)
    with torch.no_grad():
        p.x[2, 1, 0] = bad
        expected, last = reference.forward(*p.arguments)
    for isa in _core.usable():
        _core.use(isa)
        for ours, wanted in zip(forward(p), (expected, *last.values()), strict=True):
            assert torch.equal(ours.isnan(), wanted.isnan()), isa
            assert torch.equal(ours.isinf(), wanted.isinf()), isa


def forward(p: Problem) -> list[torch.Tensor]:
    with torch.no_grad():
        y, final = cpu.forward(*p.arguments)
    return [y, *final.values()]


def same_bits(given, expected, text=""):
    for a, b in zip(given, expected, strict=True):
        assert torch.equal(a, b), text


@pytest.fixture
def set_threads():
    threads = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(threads)


shapes = {
    "cell": st.sampled_from(
        ["lstm", "gru", "rnn", "lstm; peephole=diagonal, proj_size=9", "gru; reset=before", "lstm; layer_norm"]
    ),
    "width": st.integers(1, 150),
    "hidden": st.integers(10, 300),
    "time": st.integers(1, 9),
    "batch": st.integers(1, 40),
    "isa": st.sampled_from(_core.usable()),
}


def spec_of(cell: str, width: int, hidden: int) -> str:
    name, _, options = cell.partition(";")
    return f"{name}({width}, {hidden};{options})"


@settings(max_examples=60, deadline=None)
@given(**shapes, data=st.data())
def test_the_same_bits_in_any_batch_and_step_by_step(cell, width, hidden, time, batch, isa, data):
    _core.use(isa)
    p = problem(spec_of(cell, width, hidden), time, batch, dtype=torch.float32)
    whole = forward(p)
    first = data.draw(st.integers(0, batch - 1))
    last = data.draw(st.integers(first + 1, batch))
    states = {name: value[first:last] for name, value in p.states.items()}
    part = dataclasses.replace(p, x=p.x[:, first:last], states=states)
    same_bits(forward(part), [whole[0][:, first:last], *(state[first:last] for state in whole[1:])])
    for t in range(time):
        y, *final = forward(dataclasses.replace(part, x=part.x[t : t + 1]))
        assert torch.equal(y[0], whole[0][t, first:last])
        part.states = dict(zip(p.states, final, strict=True))
    same_bits(final, [state[first:last] for state in whole[1:]])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(**shapes, ragged=st.booleans())
def test_the_same_bits_on_any_number_of_threads(set_threads, cell, width, hidden, time, batch, isa, ragged):
    _core.use(isa)
    p = cast(problem(spec_of(cell, width, hidden), 4 * time, batch, ragged=ragged), torch.float32)
    set_threads(1)
    alone = results(cpu, p)
    for threads in (2, 3, 7):
        set_threads(threads)
        found = results(cpu, p)
        same_bits(found.values(), alone.values(), f"{threads} threads: {', '.join(alone)}")


# Few sequences and many steps: here a layer runs behind the one below it, and both directions at once.
STACKS = (
    "lstm(40, 64, 64, 64)",
    "lstm(40, 96, 64; proj_size=32, peephole=diagonal, layer_norm)",
    "gru(40, 48, 96, 48, 64)",
    "rnn(40, 128, 128, 128; dropout=0.2)",
    "lstm(40, 64, 64, 64, 64; residual)",
    "lstm(30, 70, 50; bidirectional)",
)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("case", STACKS)
def test_the_same_bits_where_layers_run_one_behind_the_other(set_threads, case, ragged, batch):
    p = cast(problem(case, 230, batch, ragged=ragged), torch.float32)
    set_threads(1)
    alone = results(cpu, p)
    for threads in (2, 3, 8):
        set_threads(threads)
        for _ in range(3):
            found = results(cpu, p)
            same_bits(found.values(), alone.values(), f"{threads} threads: {', '.join(alone)}")
    set_threads(2)
    same_bits(forward(p), [alone["y"], *(value for name, value in alone.items() if name.startswith("final"))])


@pytest.mark.parametrize("case", ["lstm(6, 40, 40)", "gru(6, 40; bidirectional)"])
def test_inputs_may_lie_in_any_way(case):
    p = problem(case, 7, 5, dtype=torch.float32)
    whole = forward(p)
    forms = {
        "transposed": p.x.transpose(0, 1).contiguous().transpose(0, 1),
        "last first": p.x.permute(2, 0, 1).contiguous().permute(1, 2, 0),
        "strided": torch.stack((p.x, p.x), -1).flatten(2)[..., ::2],
        "offset": torch.cat((p.x.flatten(), torch.zeros(3))).roll(3)[3:].view(p.x.shape),
        "rows apart": torch.cat((p.x, p.x), -1)[..., : p.x.shape[-1]],
    }
    for name, x in forms.items():
        assert torch.equal(x, p.x)
        same_bits(forward(dataclasses.replace(p, x=x)), whole, name)
    wide = {name: torch.cat((state, state), -1)[:, : state.shape[1]] for name, state in p.states.items()}
    turned = {name: value.T.contiguous().T for name, value in p.parameters.items() if value.dim() == 2}
    same_bits(forward(dataclasses.replace(p, states=wide, parameters=p.parameters | turned)), whole)
    one = {name: state[:1].expand_as(state) for name, state in p.states.items()}
    same_bits(
        forward(dataclasses.replace(p, states=one)),
        forward(dataclasses.replace(p, states={name: state.clone() for name, state in one.items()})),
    )


def test_gradients_may_lie_in_any_way():
    module = openlstm.LSTM(4, 6, 2, batch_first=True)
    x = torch.randn(3, 5, 4, requires_grad=True)
    y, _ = module(x)
    (alone,) = torch.autograd.grad(y, x, torch.ones(3, 5, 6), retain_graph=True)
    (given,) = torch.autograd.grad(y, x, torch.ones(1).expand(3, 5, 6), retain_graph=True)
    (again,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(given, alone) and torch.equal(again, alone)


@pytest.mark.parametrize("frozen", ["input", "weights", "all but a bias"])
def test_only_wanted_gradients(frozen):
    module = openlstm.LSTM(4, 6, 2)
    x = torch.randn(5, 3, 4, requires_grad=frozen != "input")
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(frozen == "input" or (frozen == "all but a bias" and name == "bias_hh_l0"))
    leaves = [leaf for leaf in (x, *module.parameters()) if leaf.requires_grad]
    found = torch.autograd.grad(module(x)[0].sum(), leaves)
    with openlstm.backend("reference"):
        expected = torch.autograd.grad(module(x)[0].sum(), leaves)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", ["lstm(3, 4, 4; dropout=0.3)", "gru(3, 4; bidirectional)", "rnn(3, 4)"])
def test_derivatives_of_derivatives(case):
    p = cast(problem(case, 4, 3, ragged=True, training=True), torch.float32)

    def penalty(backend):
        y, _ = backend.forward(*p.arguments)
        gradients = torch.autograd.grad(y.square().sum(), [p.x, *p.parameters.values()], create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in gradients), [p.x, *p.parameters.values()])

    for ours, expected in zip(penalty(cpu), penalty(reference), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_a_graph_that_is_kept_can_be_used_twice():
    module = openlstm.GRU(4, 6)
    y, _ = module(torch.randn(5, 3, 4))
    weight = module.weight_hh_l0
    first, second = (torch.autograd.grad(y.sum(), weight, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    with torch.no_grad():
        weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


# Weights that are packed


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("time", [1, 3])
def test_changed_weights_are_seen(time, gradients):
    with torch.set_grad_enabled(gradients):
        _change_weights(time)


def _change_weights(time):
    module = openlstm.LSTM(8, 16).requires_grad_(False)
    square = openlstm.RNN(8, 16).requires_grad_(False)
    x, state = torch.randn(time, 2, 8), (torch.randn(1, 2, 16), torch.randn(1, 2, 16))

    def change_in_place():
        module.weight_hh_l0.mul_(1.5)

    def change_behind_the_counter():
        module.weight_ih_l0.data.mul_(1.5)

    def swap_data():
        module.weight_hh_l0.data = torch.randn(64, 16)

    def change_one_bias():
        module.bias_hh_l0.data[17] += 1

    def load():
        module.load_state_dict(openlstm.LSTM(8, 16).state_dict())

    def swap_two():
        weight = module.weight_hh_l0.data
        weight[[0, 1]] = weight[[1, 0]]

    seen = [module(x, state)[0]]
    for change in (change_in_place, change_behind_the_counter, swap_data, change_one_bias, load, swap_two):
        change()
        y = module(x, state)[0]
        with openlstm.backend("reference"):
            torch.testing.assert_close(y, module(x, state)[0], rtol=1e-5, atol=1e-5)
        assert all(not torch.equal(y, other) for other in seen), change.__name__
        assert torch.equal(y, module(x, state)[0])
        seen.append(y)
    square(x, state[0])
    square.weight_hh_l0.data = square.weight_hh_l0.data.t()  # at the same address
    y = square(x, state[0])[0]
    with openlstm.backend("reference"):
        torch.testing.assert_close(y, square(x, state[0])[0], rtol=1e-5, atol=1e-5)


def test_packed_weights_go_with_their_module():
    gc.collect()
    before = len(cpu._packed), len(cpu._steps)
    modules = [openlstm.LSTM(8, 16, 2, bidirectional=True) for _ in range(3)]
    for module in modules:
        module(torch.randn(3, 2, 8, requires_grad=True))[0].sum().backward()
        with torch.no_grad():
            module(torch.randn(1, 2, 8))
    assert len(cpu._packed) > before[0] and len(cpu._steps) > before[1]
    del module, modules
    gc.collect()
    assert (len(cpu._packed), len(cpu._steps)) == before


def test_a_fingerprint_changes_with_every_float():
    values = torch.randn(1000)
    marks = {_core.fingerprint([(values.data_ptr(), 1000)], 1)}
    for k in range(1000):
        values[k] = torch.nextafter(values[k], torch.tensor(9.0))
        marks.add(_core.fingerprint([(values.data_ptr(), 1000)], 1))
    assert len(marks) == 1001


# Threads and processes


@pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64", "aarch64", "arm64"), reason="no way to say so is known here"
)
@pytest.mark.parametrize("isa", _core.usable())
@pytest.mark.parametrize("time", [1, 16])
@pytest.mark.parametrize("threads", [1, 2])
def test_what_is_too_small_is_0_in_the_core_alone(set_threads, isa, time, threads):
    """Numbers below 1.2e-38 are 0 in all that the core computes, and what they were in its caller's threads."""
    set_threads(threads)
    _core.use(isa)
    tiny, least = 1e-20, np.finfo(np.float32).tiny
    layer = openlstm.RNN(16, 64, nonlinearity="relu", bias=False)
    for parameter in layer.parameters():
        torch.nn.init.constant_(parameter, tiny)
    with torch.no_grad():
        assert 0 < 16 * tiny * tiny < least  # what y would be
        assert (layer(torch.full((time, 64, 16), tiny))[0] == 0).all()
    x = torch.ones(time, 64, 16, requires_grad=True)
    y = layer(x)[0]
    assert (y > least).all()
    y.backward(torch.full_like(y, tiny))
    assert 0 < 64 * tiny * tiny < least  # what the gradient of x would be
    assert (x.grad == 0).all() and (layer.weight_ih_l0.grad > least).all()
    assert np.float32(1e-40) * np.float32(1) != 0
    assert (torch.full((1 << 20,), 1e-40) * 1 != 0).all()


def test_many_python_threads():
    module = openlstm.LSTM(16, 64, 2)
    xs = [torch.randn(9, 3 + k % 7, 16) for k in range(100)]
    expected = [module(x)[0] for x in xs]
    with ThreadPoolExecutor(100) as pool:
        for _ in range(3):
            same_bits(pool.map(lambda x: module(x)[0], xs), expected)

    def gradient(x):
        return torch.autograd.grad(module(x)[0].sum(), module.weight_hh_l0)[0]

    expected = [gradient(x) for x in xs]
    with ThreadPoolExecutor(100) as pool:
        same_bits(pool.map(gradient, xs), expected)


class _Rows(torch.utils.data.Dataset):
    """Runs a layer in the process of a worker."""

    def __init__(self, module, xs):
        self.module, self.xs = module, xs

    def __len__(self):
        return len(self.xs)

    def __getitem__(self, k):
        with torch.no_grad():
            return self.module(self.xs[k])[0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_worker_computes_the_same():
    module = openlstm.LSTM(64, 256)
    xs = [torch.randn(20, 32, 64) for _ in range(6)]
    data = _Rows(module, xs)
    expected = [data[k] for k in range(6)]  # on all threads, so that their pool is there before the fork
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of every fork where there are threads
        loader = torch.utils.data.DataLoader(data, None, num_workers=2, multiprocessing_context="fork", timeout=60)
        same_bits(list(loader), expected)


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )


def test_the_environment_says_how_many_threads():
    code = "import torch; torch.set_num_threads(2); from openlstm.backends import cpu; print(cpu.THREADS)"
    assert python(code, OPENLSTM_NUM_THREADS="3").stdout.strip() == "3"
    assert python(code, OPENLSTM_NUM_THREADS="").stdout.strip() == "None"
    for bad in ("0", "two", "-1"):
        last = python(code, OPENLSTM_NUM_THREADS=bad).stderr.strip().splitlines()[-1]
        assert last == (
            f"RuntimeError: The environment variable OPENLSTM_NUM_THREADS is '{bad}'. Expected a whole number of at "
            "least 1. Set it to one, or unset it to use as many threads as torch"
        )


def test_one_copy_of_openmp():
    code = (
        "import openlstm._core, torch; torch.ones(9) @ torch.ones(9);"
        "print(len({line.split()[-1] for line in open('/proc/self/maps') if 'libgomp' in line}))"
    )
    if not os.path.exists("/proc/self/maps"):
        pytest.skip("asks Linux what is loaded")
    assert python(code).stdout.strip() == "1"


def test_the_interpreter_exits_while_threads_run():
    # Without torch, which aborts here by itself.
    code = (
        "import threading, time, numpy\n"
        "from openlstm import _core\n"
        "a = numpy.ones(1_000_000, 'f')\n"
        "def work():\n"
        "    while True: _core.fingerprint([(a.ctypes.data, a.size)] * 2, 2)\n"
        "for _ in range(4): threading.Thread(target=work, daemon=True).start()\n"
        "time.sleep(0.3)"
    )
    for _ in range(3):
        done = python(code)
        assert (done.returncode, done.stderr) == (0, "")


def test_small_calls_do_not_grow():
    module = openlstm.LSTM(4, 8)
    x = torch.randn(1, 1, 4)
    state = None
    resource = pytest.importorskip("resource")

    def step(count):
        nonlocal state
        with torch.no_grad():
            for _ in range(count):
                _, state = module(x, state)
        for _ in range(count // 50):
            module(x)[0].sum().backward()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = step(20_000)
    assert step(200_000) - before < 4_000  # KiB; one leaked tensor a call would be 20,000


# The door


def test_what_it_cannot_run():
    spec = openlstm.Spec.of("lstm", 3, 4)
    x = torch.zeros(2, 1, 3)
    assert cpu.why_not(spec, x) is None
    assert cpu.why_not(spec, x.bfloat16()) is None
    assert cpu.why_not(spec, x.double()) == "it computes in float32, and the input is torch.float64"
    assert cpu.why_not(spec, x.to("meta")) == "it runs on the CPU, and the input is on meta"
    reasons = []
    torch.func.vmap(lambda x: (reasons.append(cpu.why_not(spec, x)), x)[1])(x)
    assert reasons == ["it has no derivatives inside transforms of torch.func"]
    with forward_ad.dual_level():
        assert cpu.why_not(spec, x) == "it has no forward-mode derivatives"
    said = "'cpu' was asked for but cannot run lstm(3, 4): it computes in float32, and the input is torch.float64"
    with pytest.raises(RuntimeError, match=re.escape(said)), openlstm.backend("cpu"):
        openlstm.LSTM(3, 4, dtype=torch.float64)(x.double())


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_modules_take_it(name, monkeypatch):
    """In training and not, compiled, and under autocast."""
    monkeypatch.setattr(reference, "forward", None)
    module = getattr(openlstm, name)(3, 4, 2)
    x = torch.randn(5, 2, 3)
    y, _ = module(x)
    y.sum().backward()
    with torch.no_grad():
        module(x[:1])
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x)[0], y)
    with torch.autocast("cpu", torch.bfloat16):
        half, _ = module(x)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), y, rtol=0.05, atol=0.05)


def test_defaults_of_torch_do_not_matter():
    module = openlstm.LSTM(4, 6, 2, recurrent_dropout=0.3, zoneout_h=0.1, layer_norm=True)
    x, lengths = torch.randn(5, 3, 4), torch.tensor([2, 5, 0])

    def run():
        torch.manual_seed(0)
        y, final = module(x, lengths=lengths)
        gradients = torch.autograd.grad(y.square().sum(), list(module.parameters()))
        plain = openlstm.accelerate(torch.nn.LSTM(4, 6, device="cpu", dtype=torch.float32))
        with torch.no_grad():
            for parameter in plain.parameters():
                parameter.fill_(0.1)
            return [y, *final, *gradients, plain(x)[0], plain(x[:1])[0]]

    expected = run()
    try:
        torch.set_default_dtype(torch.float64)
        same_bits(run(), expected)
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.device("meta"):
        same_bits(run(), expected)


def test_the_core_numbers_instructions_as_python_does():
    core = pathlib.Path(__file__).parents[1] / "csrc"
    for name, words in (("Kind", KINDS), ("Code", OPERATIONS)):
        listed = re.search(rf"enum {name} \{{(.*?)\}}", (core / "core.h").read_text(), re.DOTALL)[1]
        assert [word.strip().lower() for word in listed.split(",") if word.strip() != "CODES"] == list(words)
    epsilon = re.search(r"EPSILON = (\S+)f;", (core / "pointwise.inl").read_text())[1]
    assert float(epsilon) == NORM_EPSILON
