"""The modules against torch.nn's: numbers, gradients, shapes, names, errors; then what torch.nn does not have."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence
from torch.testing._internal.common_modules import ModuleErrorEnum, module_db

import openlstm
from openlstm import arguments
from openlstm.nn import MODULES, GRUOptions, LSTMOptions, RNNOptions
from openlstm.spec import Spec

NAMES = ["LSTM", "GRU", "RNN"]
CELLS = ["LSTMCell", "GRUCell", "RNNCell"]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


@pytest.fixture(autouse=True)
def seed():
    """The same numbers in every order of the tests."""
    torch.manual_seed(0)


def flat(result):
    """All tensors of a nested result."""
    if isinstance(result, torch.Tensor):
        return [result]
    if isinstance(result, PackedSequence):
        return [part for part in result if part is not None]
    return [tensor for part in result for tensor in flat(part)]


def close(ours, theirs, dtype=torch.float64):
    ours, theirs = flat(ours), flat(theirs)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def pair(name, *args, seed=0, **kwargs):
    """torch.nn's module and ours under one seed."""
    modules = []
    for library in (torch.nn, openlstm):
        torch.manual_seed(seed)
        modules.append(getattr(library, name)(*args, **kwargs))
    return modules


def leaves(*tensors):
    return [tensor.detach().clone().requires_grad_() for tensor in tensors]


# Against torch.nn


@pytest.mark.parametrize("name", NAMES + CELLS)
@pytest.mark.parametrize("bias", [True, False])
def test_same_weights_under_one_seed_and_state_dicts_both_ways(name, bias):
    theirs, ours = pair(name, 3, 4, bias=bias)
    assert list(theirs.state_dict()) == list(ours.state_dict())
    for a, b in zip(theirs.parameters(), ours.parameters(), strict=True):
        assert torch.equal(a, b)
    other_theirs, other_ours = pair(name, 3, 4, bias=bias, seed=1)
    other_ours.load_state_dict(theirs.state_dict())
    other_theirs.load_state_dict(ours.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(other_theirs.parameters(), other_ours.parameters(), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_same_weights_in_deep_bidirectional_stacks(name):
    projected = {"proj_size": 2} if name == "LSTM" else {}
    theirs, ours = pair(name, 3, 4, 3, bidirectional=True, **projected)
    assert theirs._flat_weights_names == ours._flat_weights_names
    for mine, torchs in zip(ours.all_weights, theirs.all_weights, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, torchs, strict=True))


configurations = st.fixed_dictionaries(
    {
        "num_layers": st.integers(1, 3),
        "bias": st.booleans(),
        "batch_first": st.booleans(),
        "bidirectional": st.booleans(),
    }
)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(NAMES),
    configurations,
    st.tuples(st.integers(1, 5), st.integers(2, 6), st.integers(1, 6), st.integers(0, 4)),
    st.sampled_from(["none", "given", "unbatched", "packed"]),
    st.sampled_from([torch.float64, torch.float32]),
    st.integers(0, 1),
)
def test_values_and_gradients_equal_torchs(name, configuration, sizes, kind, dtype, project):
    input_size, hidden, time, batch = sizes
    if kind == "packed":
        batch = max(batch, 1)
    if name == "LSTM" and project:
        configuration["proj_size"] = hidden - 1
    if name == "RNN":
        configuration["nonlinearity"] = ["tanh", "relu"][project]
    theirs, ours = pair(name, input_size, hidden, dtype=dtype, **configuration)
    generator = torch.Generator().manual_seed(1)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    unbatched = kind == "unbatched"
    shape = (batch, time) if configuration["batch_first"] else (time, batch)
    data = random(*((time,) if unbatched else shape), input_size)
    rows = configuration["num_layers"] * (1 + configuration["bidirectional"])
    width = configuration.get("proj_size") or hidden
    states = [random(rows, *([] if unbatched else [batch]), width)]
    if name == "LSTM":
        states.append(random(rows, *([] if unbatched else [batch]), hidden))
    lengths = torch.randint(1, time + 1, (batch,), generator=generator)

    def run(module):
        x, *hx = leaves(data, *states)
        packed = pack_padded_sequence(x, lengths, configuration["batch_first"], False) if kind == "packed" else x
        results = flat(module(packed, None if kind == "none" else tuple(hx) if name == "LSTM" else hx[0]))
        floating = [result for result in results if result.dtype == dtype]
        loss = sum(
            (result * torch.cos(torch.arange(result.numel(), dtype=dtype).view_as(result))).sum() for result in floating
        )
        wanted = [x, *module.parameters(), *([] if kind == "none" else hx)]
        first = torch.autograd.grad(loss, wanted, create_graph=True)
        second = torch.autograd.grad(
            sum((g * g).sum() for g in first), wanted, allow_unused=True, materialize_grads=True
        )
        return floating, first, second

    for a, b in zip(run(ours), run(theirs), strict=True):
        close(a, b, dtype)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("packed", [False, True])
def test_dropout_draws_torchs_numbers(name, packed):
    theirs, ours = pair(name, 3, 4, 3, dropout=0.4, bidirectional=True, dtype=torch.float64)
    x = torch.randn(6, 3, 3, dtype=torch.float64)
    x = pack_padded_sequence(x, [2, 6, 4], enforce_sorted=False) if packed else x
    results = []
    for module in (theirs, ours):
        torch.manual_seed(7)
        results.append(flat(module(x)))
        assert not torch.equal(results[-1][0], flat(module(x))[0])  # a fresh mask each time
    close(results[1], results[0])
    close(flat(ours.eval()(x)), flat(theirs.eval()(x)))


CASES = [
    info for info in module_db if info.module_cls.__name__ in NAMES + CELLS and "torch.nn" in info.module_cls.__module__
]


@pytest.mark.parametrize("info", CASES, ids=lambda info: info.module_cls.__name__)
@pytest.mark.parametrize("training", [True, False])
def test_torchs_own_module_inputs(info, training):
    assert len(CASES) == 6
    count = 0
    extra = {"with_packed_sequence": True} if info.module_cls.__name__ in ("GRU", "RNN") else {}
    for sample in info.module_inputs_func(info, "cpu", torch.float64, True, training, **extra):
        arguments = sample.constructor_input
        theirs, ours = pair(info.module_cls.__name__, *arguments.args, **arguments.kwargs, dtype=torch.float64)
        results = []
        for module in (theirs.train(training), ours.train(training)):
            results.append(flat(module(*sample.forward_input.args, **sample.forward_input.kwargs)))
            loss = sum(result.sum() for result in results[-1] if result.is_floating_point())
            results.append(torch.autograd.grad(loss, list(module.parameters())))
        close(results[2], results[0])
        close(results[3], results[1])
        count += 1
    assert count > 1


@pytest.mark.parametrize(
    "info", [case for case in CASES if case.module_error_inputs_func], ids=lambda info: info.module_cls.__name__
)
def test_torchs_own_error_inputs(info):
    for sample in info.module_error_inputs_func(info, "cpu", torch.float32, False, False):
        ours = getattr(openlstm, info.module_cls.__name__)
        arguments = sample.module_error_input.constructor_input
        if sample.error_on == ModuleErrorEnum.CONSTRUCTION_ERROR:
            with pytest.raises(sample.error_type, match=sample.error_regex):
                ours(*arguments.args, **arguments.kwargs)
        else:
            module = ours(*arguments.args, **arguments.kwargs)
            forward = sample.module_error_input.forward_input
            with pytest.raises(sample.error_type, match=sample.error_regex):
                module(*forward.args, **forward.kwargs)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "make",
    [
        lambda m: m(torch.zeros(3)),
        lambda m: m(torch.zeros(2, 3, 4, 3)),
        lambda m: m(torch.zeros(5, 2, 4)),
        lambda m: m(torch.zeros(5, 2, 3, dtype=torch.float64)),
        lambda m: m(torch.zeros(5, 3), states(m, 2)),
        lambda m: m(torch.zeros(5, 2, 3), states(m)),
        lambda m: m(torch.zeros(5, 2, 3), states(m, 3)),
        lambda m: m(torch.zeros(5, 2, 3), states(m, 2, hidden=5)),
        lambda m: type(m)(3, 4, dropout=1.5),
        lambda m: type(m)(3, 4, dropout=True),
        lambda m: type(m)(3.0, 4),
        lambda m: type(m)(3, -4),
        lambda m: type(m)(3, 4, num_layers=0),
    ],
)
def test_errors_equal_torchs(name, make):
    theirs, ours = pair(name, 3, 4)
    with pytest.raises(Exception) as expected:
        make(theirs)
    with pytest.raises(type(expected.value)) as found:
        make(ours)
    assert str(found.value) == str(expected.value)


def states(module, *batch, hidden=4, dtype=torch.float32):
    h = torch.zeros(1, *batch, hidden, dtype=dtype)
    return (h, h) if type(module).__name__ == "LSTM" else h


@pytest.mark.parametrize("make", [lambda m: m(3, 4, proj_size=-1), lambda m: m(3, 4, proj_size=4)])
def test_projection_errors_equal_torchs(make):
    with pytest.raises(ValueError) as expected:
        make(torch.nn.LSTM)
    with pytest.raises(ValueError) as found:
        make(openlstm.LSTM)
    assert str(found.value) == str(expected.value)


def test_clear_errors_where_torchs_are_not():
    lstm = openlstm.LSTM(3, 4)
    with pytest.raises(
        RuntimeError, match=r"^Input and hidden tensors are not the same dtype, found input tensor with tor"
    ):
        lstm(torch.zeros(5, 2, 3), states(lstm, 2, dtype=torch.float64))
    with pytest.raises(RuntimeError, match=r"^input must have 2 dimensions, got 3$"):
        lstm(PackedSequence(torch.zeros(3, 3, 1), torch.tensor([2, 1])))
    with pytest.raises(ValueError, match=r"^dropout should be a number in range \[0, 1\] representing the"):
        openlstm.LSTM(3, 4, dropout="a")
    with pytest.raises(ValueError, match=r"^hx has 3 states: expected 2, \(h, c\)$"):
        lstm(torch.zeros(5, 2, 3), torch.zeros(3, 2, 4))
    with pytest.raises(RuntimeError, match=r"^LSTMCell: hx has 3 states: expected 2, \(h, c\)$"):
        openlstm.LSTMCell(3, 4)(torch.zeros(2, 3), (torch.zeros(2, 4),) * 3)


def test_other_errors_of_torch():
    with pytest.raises(ValueError, match=r"^proj_size argument is only supported for LSTM, not RNN or GRU$"):
        openlstm.GRU(3, 4, proj_size=2)
    with pytest.raises(ValueError, match=r"^Unknown nonlinearity 'sin'. Select from 'tanh' or 'relu'.$"):
        openlstm.RNN(3, 4, nonlinearity="sin")
    with pytest.warns(UserWarning, match="non-zero dropout expects num_layers greater than 1, but got dropout=0.5 and"):
        openlstm.LSTM(3, 4, dropout=0.5)


def test_positional_parameters_stand_in_torchs_order():
    device, dtype = torch.device("cpu"), torch.float64
    for name, args in [
        ("LSTM", (3, 4, 2, False, True, 0.5, True, 2, device, dtype)),
        ("RNN", (3, 4, 2, "relu", False, True, 0.5, True)),
        ("GRU", (3, 4, 2, False, True, 0.5, True)),
        ("LSTMCell", (3, 4, False, device, dtype)),
        ("GRUCell", (3, 4, False, device, dtype)),
        ("RNNCell", (3, 4, False, "relu", device, dtype)),
    ]:
        theirs, ours = pair(name, *args)
        for attribute in (
            "input_size",
            "hidden_size",
            "bias",
            "nonlinearity",
            "num_layers",
            "dropout",
            "mode",
            "proj_size",
        ):
            if hasattr(theirs, attribute):
                assert getattr(ours, attribute) == getattr(theirs, attribute), (name, attribute)
        assert [p.dtype for p in ours.parameters()] == [p.dtype for p in theirs.parameters()]


def test_attributes_can_be_set_where_no_parameter_changes():
    lstm = openlstm.LSTM(3, 4, 2)
    lstm.dropout = 0.25
    lstm.batch_first = True
    lstm.cell_clip = 3.0
    assert str(lstm.spec) == "lstm(3, 4, 4; batch_first, dropout=0.25, cell_clip=3.0)"
    assert lstm(torch.zeros(5, 7, 3))[1][0].shape == (2, 5, 4)
    for name, value in [("hidden_size", 5), ("peephole", "dense"), ("bias", False), ("num_layers", 3)]:
        with pytest.raises((AttributeError, ValueError), match=r"make a new module|num_layers"):
            setattr(lstm, name, value)
    with pytest.raises(ValueError, match=r"dropout should be a number in range"):
        lstm.dropout = 2
    with pytest.raises(AttributeError, match="has no attribute 'reset'"):
        lstm.reset  # noqa: B018


@pytest.mark.parametrize("name", NAMES)
def test_copies_are_whole(name):
    module = getattr(openlstm, name)(3, 4, 2, bidirectional=True)
    x = torch.randn(5, 2, 3)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert other.spec == module.spec and type(other) is type(module)
        close(other(x), module(x), torch.float32)
        assert not {p.data_ptr() for p in other.parameters()} & {p.data_ptr() for p in module.parameters()}


def test_repr_is_the_spec():
    assert repr(openlstm.LSTM(3, 4, 2, peephole="dense")) == "LSTM(3, 4, 4; peephole=dense)"


# Under torch's transforms


VARIANTS = [
    openlstm.LSTM(3, 4, 2, bidirectional=True, peephole="diagonal", dtype=torch.float64),
    openlstm.LSTM(
        3, [5, 4], proj_size=2, nonrecurrent_proj_size=1, layer_norm=True, learned_state=True, dtype=torch.float64
    ),
    openlstm.GRU(3, 4, 2, reset="before", zoneout_h=0.2, dtype=torch.float64),
    openlstm.RNN(3, 4, residual=True, weight_dropout=0.3, recurrent_dropout=0.2, dtype=torch.float64),
]
ids = [str(variant.spec) for variant in VARIANTS]


@pytest.mark.parametrize("module", VARIANTS, ids=ids)
@pytest.mark.parametrize("training", [True, False])
def test_compiled_without_a_break(module, training, monkeypatch):
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    if training:  # compiled code draws numbers of its own: here both get the same
        masks = arguments.draw(module.spec, x, None, x.dtype)
        monkeypatch.setattr(arguments, "draw", lambda *_: masks)
    lengths = torch.tensor([3, 5])
    reset = torch.zeros(5, 2, dtype=torch.bool)
    reset[2, 1] = True
    module = copy.deepcopy(module).train(training)
    torch.compiler.reset()  # else what earlier tests compiled counts against dynamo's limit
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    results = []
    for run in (module, compiled):
        (data,) = leaves(x)
        outputs = flat(run(data, lengths=lengths, reset=reset))
        loss = sum(output.square().sum() for output in outputs)
        outputs += torch.autograd.grad(loss, [data, *module.parameters()])
        results.append(outputs)
    close(results[1], results[0])


def test_compiled_code_draws_fresh_masks():
    module = openlstm.LSTM(3, 8, 2, dropout=0.5, zoneout_c=0.3, weight_dropout=0.2)
    torch.compiler.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    x = torch.randn(5, 2, 3)
    assert not torch.equal(compiled(x)[0], compiled(x)[0])
    compiled(x)[0].sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


@pytest.mark.parametrize("name", NAMES + CELLS)
def test_a_module_that_never_ran_is_compiled_and_exported_with_its_state(name):
    x = torch.randn(2, 3) if name in CELLS else torch.randn(5, 2, 3)
    h = torch.randn(2, 4) if name in CELLS else torch.randn(1, 2, 4)
    hx = (h, h + 1) if "LSTM" in name else h
    for make in (
        lambda module: torch.compile(module, fullgraph=True, backend="aot_eager"),
        lambda module: torch.export.export(module, (x, hx), strict=True).module(),
    ):
        torch.compiler.reset()
        module = getattr(openlstm, name)(3, 4)
        close(make(module)(x, hx), module(x, hx), torch.float32)


@pytest.mark.parametrize("transform", ["grad", "jvp", "vmap"])
def test_transforms_inside_compiled_code(transform):
    module = openlstm.LSTM(3, 4, peephole="diagonal", dtype=torch.float64)
    x, v = (torch.randn(3, 2, 3, dtype=torch.float64) for _ in range(2))  # views of one tensor make torch itself fail

    def run(x, v):
        if transform == "grad":
            return torch.func.grad(lambda q: module(q)[0].sum())(x)
        if transform == "jvp":
            return torch.func.jvp(lambda q: module(q)[0], (x,), (v,))[1]
        return torch.vmap(lambda q: module(q)[0])(torch.stack((x, v)))

    torch.compiler.reset()
    expected = run(x, v)
    assert expected.abs().max() > 0
    close(torch.compile(run, fullgraph=True, backend="aot_eager")(x, v), expected)


@pytest.mark.skipif(" " in torch.__file__, reason="inductor cannot link torch from a path with a space in it")
def test_compiled_by_inductor_with_changing_lengths_of_time():
    module = openlstm.LSTM(3, 4, 2, dropout=0.5, batch_first=True)
    torch.compiler.reset()
    compiled = torch.compile(module, fullgraph=True, dynamic=True)
    for time in (4, 7, 9):
        (x,) = leaves(torch.randn(2, time, 3))
        results = []
        for run in (module.eval(), compiled):
            y, _ = run(x)
            results.append([y, *torch.autograd.grad(y.sum(), [x, *module.parameters()])])
        close(results[1], results[0], torch.float32)


@pytest.mark.parametrize("module", VARIANTS, ids=ids)
def test_exported_with_a_dynamic_time_axis(module):
    module = copy.deepcopy(module).eval()
    example = torch.randn(5, 2, 3, dtype=torch.float64)
    program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("time", min=1)},))
    for time in (1, 3, 11):
        x = torch.randn(time, 2, 3, dtype=torch.float64)
        close(program.module()(x), module(x))


@pytest.mark.parametrize("module", VARIANTS, ids=ids)
def test_the_operator_keeps_torchs_rules(module):
    spec = module.spec
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    parameters = [p.detach().requires_grad_() for p in module.parameters()]
    sizes = [width for walk in spec.walks for width in spec.state_sizes(walk).values()]
    states = [torch.randn(2, width, dtype=torch.float64, requires_grad=True) for width in sizes]
    arguments = (str(spec), x, parameters, states, torch.tensor([4, 2]), None, [])
    torch.library.opcheck(torch.ops.openlstm.layers, arguments)


@pytest.mark.parametrize("module", VARIANTS, ids=ids)
def test_vmap_over_inputs_and_over_stacked_weights(module):
    module = copy.deepcopy(module).eval()
    x = torch.randn(3, 5, 2, 3, dtype=torch.float64)
    close(torch.vmap(lambda x: module(x)[0])(x), torch.stack([module(part)[0] for part in x]))
    others = [copy.deepcopy(module) for _ in range(3)]
    for other in others:
        for parameter in other.parameters():
            torch.nn.init.uniform_(parameter)
    parameters, buffers = torch.func.stack_module_state(others)

    def call(parameters, x):
        return torch.func.functional_call(module, (parameters, buffers), (x,))[0]

    close(torch.vmap(call)(parameters, x), torch.stack([o(p)[0] for o, p in zip(others, x, strict=True)]))
    own = dict(module.named_parameters())
    per_sample = torch.vmap(torch.func.grad(lambda p, x: call(p, x).sum()), in_dims=(None, 0))(own, x)
    for k, part in enumerate(x):
        close([per_sample[name][k] for name in own], torch.autograd.grad(module(part)[0].sum(), list(own.values())))


@pytest.mark.parametrize(
    "option", [{"dropout": 0.5}, {"zoneout_h": 0.5}, {"recurrent_dropout": 0.5}, {"weight_dropout": 0.5}], ids=str
)
def test_vmap_draws_masks_as_it_is_told(option):
    module = openlstm.LSTM(3, 8, 2, **option)
    x = torch.randn(5, 2, 3).expand(3, 5, 2, 3)
    different = torch.vmap(lambda x: module(x)[0], randomness="different")(x)
    assert not torch.equal(different[0], different[1])
    same = torch.vmap(lambda x: module(x)[0], randomness="same")(x)
    close(same[0], same[1], torch.float32)


@pytest.mark.parametrize("module", VARIANTS, ids=ids)
def test_forward_mode_equals_reverse_mode(module):
    module = copy.deepcopy(module).eval()
    x, tangent, cotangent = (
        torch.randn(4, 2, n, dtype=torch.float64)
        for n in (3, 3, module(torch.zeros(1, 1, 3, dtype=torch.float64))[0].shape[-1])
    )
    _, forward = torch.func.jvp(lambda x: module(x)[0], (x,), (tangent,))
    _, pullback = torch.func.vjp(lambda x: module(x)[0], x)
    torch.testing.assert_close((forward * cotangent).sum(), (pullback(cotangent)[0] * tangent).sum())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_and_autocast(name, dtype):
    module = getattr(openlstm, name)(3, 4, 2)
    x = torch.randn(5, 2, 3)
    exact = module(x)[0]
    with torch.autocast("cpu", dtype):
        (data,) = leaves(x)
        y, h = module(data)
        assert {t.dtype for t in flat((y, h))} == {dtype}
        torch.testing.assert_close(y.float(), exact, rtol=0, atol=0.01)
        y.float().sum().backward()
    assert data.grad.dtype == torch.float32 and module.weight_hh_l0.grad.dtype == torch.float32
    y, h = copy.deepcopy(module).to(dtype)(x.to(dtype))
    assert {t.dtype for t in flat((y, h))} == {dtype}
    torch.testing.assert_close(y.float(), exact, rtol=0, atol=0.01)


@pytest.mark.parametrize("name", NAMES + CELLS)
def test_shapes_on_the_meta_device(name):
    x = (2, 3) if name in CELLS else (5, 2, 3)
    module = getattr(openlstm, name)(3, 4)
    expected = flat(module(torch.zeros(x)))
    found = flat(module.to("meta")(torch.zeros(x, device="meta")))
    assert [(y.shape, y.dtype) for y in found] == [(y.shape, y.dtype) for y in expected]
    assert found[0].device.type == "meta"


# What torch.nn does not have


@pytest.mark.parametrize("name", NAMES)
def test_typed_options_are_the_declared_ones(name):
    typed = {"LSTM": LSTMOptions, "GRU": GRUOptions, "RNN": RNNOptions}[name]
    spec = getattr(openlstm, name)(3, 4).spec
    torchs = {"input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional"}
    torchs |= {"LSTM": {"proj_size"}, "RNN": {"nonlinearity"}, "GRU": {"proj_size"}}[name]
    from openlstm.nn import _readable

    assert set(typed.__annotations__) | torchs == _readable(spec)
    for option in typed.__annotations__:  # each reaches the spec
        assert getattr(getattr(openlstm, name)(3, 4, **{option: getattr(spec, option)}), option) == getattr(
            spec, option
        )


@pytest.mark.parametrize("name", NAMES)
def test_unknown_options_are_refused(name):
    with pytest.raises(ValueError, match=r"^Unknown option 'peephoel' of \w+: expected one of bias, "):
        getattr(openlstm, name)(3, 4, peephoel="dense")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch_first", [False, True])
def test_lengths_in_every_form(name, batch_first):
    module = getattr(openlstm, name)(3, 4, 2, bidirectional=True, batch_first=batch_first, dtype=torch.float64)
    x = torch.randn(6, 4, 3, dtype=torch.float64)
    given = x.transpose(0, 1) if batch_first else x
    lengths = [2, 6, 0, 3]
    y, final = module(given, lengths=lengths)
    y = y.transpose(0, 1) if batch_first else y
    for k, length in enumerate(lengths):
        alone, ended = module(given[k : k + 1, :length] if batch_first else given[:length, k : k + 1])
        close(y[:length, k], alone.flatten(0, 1))
        assert not y[length:, k].any()
        close([state[:, k : k + 1] for state in flat(final)], flat(ended))
    for form in (torch.tensor(lengths), torch.tensor(lengths, dtype=torch.int32), tuple(lengths)):
        close(module(given, lengths=form)[0].transpose(0, 1) if batch_first else module(given, lengths=form)[0], y)
    packed = pack_padded_sequence(
        given[:, [0, 1, 3]] if not batch_first else given[[0, 1, 3]], [2, 6, 3], batch_first, False
    )
    ours, _ = pad_packed_sequence(module(packed)[0])
    close(ours, y[:, [0, 1, 3]])


def test_lengths_of_no_sequences_and_of_other_integers():
    module = openlstm.LSTM(3, 4)
    assert module(torch.zeros(5, 0, 3), lengths=[])[0].shape == (5, 0, 4)
    x = torch.randn(5, 2, 3)
    expected = module(x, lengths=[3, 5])
    for dtype in (torch.uint8, torch.uint16, torch.uint64, torch.int8):
        close(module(x, lengths=torch.tensor([3, 5]).to(dtype)), expected, torch.float32)
    close(module(x, lengths=np.array([3, 5])), expected, torch.float32)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([1j, 1], r"lengths is torch.complex64 of shape \(2,\): expected integers of shape \(2,\), one for each seq.*"),
        ([2, 7], r"lengths\[1\] is 7: expected 0 to 5, the number of steps in the input"),
        ([-1, 2], r"lengths\[0\] is -1: expected 0 to 5, the number of steps in the input"),
        ([1], r"lengths is torch.int64 of shape \(1,\): expected integers of shape \(2,\), one for each sequence"),
        (
            [1.0, 2.0],
            r"lengths is torch.float32 of shape \(2,\): expected integers of shape \(2,\), one for each sequence",
        ),
    ],
)
def test_bad_lengths(lengths, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        openlstm.LSTM(3, 4)(torch.zeros(5, 2, 3), lengths=lengths)


def test_bad_reset_and_packed_with_lengths():
    lstm = openlstm.LSTM(3, 4)
    message = r"^reset is torch.bool of shape \(2, 5\): expected torch.bool of shape \(5, 2\), true where a new seq"
    with pytest.raises(ValueError, match=message):
        lstm(torch.zeros(5, 2, 3), reset=torch.zeros(2, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"^lengths and reset are for padded input, but a PackedSequence has its own"):
        lstm(pack_sequence([torch.zeros(2, 3)]), lengths=[2])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch_first", [False, True])
def test_reset_equals_sequences_run_apart(name, batch_first):
    module = getattr(openlstm, name)(
        3, 4, 2, bidirectional=True, learned_state=True, batch_first=batch_first, dtype=torch.float64
    )
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    parts = [torch.randn(n, 1, 3, dtype=torch.float64) for n in (2, 1, 4)]
    reset = torch.zeros(7, 1, dtype=torch.bool)
    reset[[0, 2, 3]] = True

    def turn(x):
        return x.transpose(0, 1) if batch_first else x

    y, _ = module(turn(torch.cat(parts)), reset=turn(reset))
    close(turn(y), torch.cat([turn(module(turn(part))[0]) for part in parts]))
    close(module(turn(torch.cat(parts)), reset=turn(reset).tolist())[0], y)
    y, _ = module(torch.cat(parts)[:, 0], reset=reset[:, 0])
    close(y, torch.cat([module(part[:, 0])[0] for part in parts]))


@pytest.mark.parametrize("name", NAMES)
def test_given_states_come_before_learned_ones(name):
    module = getattr(openlstm, name)(3, 4, learned_state=True)
    plain = getattr(openlstm, name)(3, 4)
    plain.load_state_dict({k: v for k, v in module.state_dict().items() if not k.startswith("initial")})
    x = torch.randn(5, 2, 3)
    close(module(x), plain(x), torch.float32)  # they begin at zero
    torch.nn.init.ones_(module.initial_h_l0)
    h = torch.ones(1, 2, 4)
    close(module(x), plain(x, (h, 0 * h) if name == "LSTM" else h), torch.float32)
    close(module(x, states(module, 2)), plain(x), torch.float32)
    (gradient,) = torch.autograd.grad(module(x)[0].sum(), [module.initial_h_l0])
    assert gradient.abs().min() > 0


def test_layers_of_different_sizes_have_states_in_tuples():
    lstm = openlstm.LSTM(3, [4, 5], bidirectional=True, dtype=torch.float64)
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    y, (h, c) = lstm(x)
    assert [tuple(s.shape) for s in (*h, *c)] == [(2, 2, 4), (2, 2, 5)] * 2 and y.shape == (6, 2, 10)
    close(lstm(x[:, 0])[0], lstm(x[:, :1])[0][:, 0])
    forward = openlstm.LSTM(3, [4, 5], dtype=torch.float64)
    whole, (h, c) = forward(x)
    first, state = forward(x[:2])
    second, (h2, c2) = forward(x[2:], state)
    close((torch.cat((first, second)), h2, c2), (whole, h, c))
    with pytest.raises(ValueError, match=r"^hx: the layers have the sizes \[4, 5\]. Expected a tuple of one h each$"):
        forward(x, (torch.zeros(2, 2, 4), torch.zeros(2, 2, 4)))
    assert forward.hidden_size == [4, 5] and lstm.num_layers == 2


def test_forget_bias_is_stored():
    torch.manual_seed(0)
    plain = openlstm.LSTM(3, 4, 2, bidirectional=True)
    torch.manual_seed(0)
    biased = openlstm.LSTM(3, 4, 2, bidirectional=True, forget_bias=1.5)
    for (name, a), b in zip(plain.named_parameters(), biased.parameters(), strict=True):
        assert torch.equal(a[:4], b[:4]) and torch.equal(a[8:], b[8:])
        if name.startswith("bias"):
            assert (b[4:8] == (1.5 if "ih" in name else 0)).all()
    assert (openlstm.LSTMCell(3, 4, forget_bias=2.0).bias_ih[4:8] == 2).all()


def test_what_is_drawn_does_not_depend_on_the_options():
    torch.manual_seed(0)
    plain = openlstm.LSTM(3, 4, 2)
    torch.manual_seed(0)
    other = openlstm.LSTM(3, 4, 2, peephole="diagonal", layer_norm=True, learned_state=True)
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameter, other.get_parameter(name))
    assert (other.norm_ih_l0 == 1).all() and (other.norm_c_bias_l0 == 0).all() and (other.initial_c_l1 == 0).all()
    assert other.weight_ch_l0.abs().max() <= 0.5 and other.weight_ch_l0.std() > 0


@pytest.mark.parametrize("option", ["zoneout_h", "zoneout_c", "recurrent_dropout", "weight_dropout"])
def test_random_options_act_in_training_only(option):
    module = openlstm.LSTM(3, 8, **{option: 0.5})
    x = torch.randn(5, 2, 3)
    assert not torch.equal(module(x)[0], module(x)[0])
    torch.manual_seed(1)
    first = module(x)[0]
    torch.manual_seed(1)
    assert torch.equal(first, module(x)[0])
    module.eval()
    assert torch.equal(module(x)[0], module(x)[0])


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_masks_keep_the_mean_and_the_rate(rate):
    from openlstm.arguments import draw

    spec = Spec.of("lstm", 3, 100, 2, dropout=rate, recurrent_dropout=rate, weight_dropout=rate, zoneout_h=rate)
    torch.manual_seed(0)
    masks = draw(spec, torch.zeros(50, 40, 3), None, torch.float32)
    assert bool(masks) is (rate > 0)
    for name, mask in masks.items():
        zoned = name.startswith("zoneout")
        share = (mask == 0).float().mean()
        assert abs(share - (1 - rate if zoned else rate)) < 0.02, name
        if rate < 1 and not zoned:
            assert abs(mask.mean() - 1) < 0.03, name
        if zoned:
            assert set(mask.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("training", [True, False])
def test_empty_batches_and_sequences(name, training):
    module = getattr(openlstm, name)(3, 4, 2, bidirectional=True, zoneout_h=0.2, recurrent_dropout=0.1, dropout=0.1)
    module.train(training)
    y, h = module(torch.zeros(5, 0, 3))
    assert y.shape == (5, 0, 8) and flat(h)[0].shape == (4, 0, 4)
    start = states(module, 2, hidden=4)
    start = tuple(s.expand(4, 2, 4) for s in start) if name == "LSTM" else start.expand(4, 2, 4)
    y, h = module(torch.zeros(0, 2, 3), start)
    assert y.shape == (0, 2, 8)
    close(h, start, torch.float32)


@pytest.mark.parametrize(
    ("cell", "layer", "options"),
    [
        ("LSTMCell", "LSTM", {}),
        ("LSTMCell", "LSTM", {"peephole": "diagonal", "proj_size": 2, "cell_clip": 0.3}),
        ("LSTMCell", "LSTM", {"coupled": "f=1-i", "layer_norm": True}),
        ("GRUCell", "GRU", {"reset": "before"}),
        ("RNNCell", "RNN", {"nonlinearity": "relu"}),
    ],
)
def test_cells_step_like_their_layers(cell, layer, options):
    whole = getattr(openlstm, layer)(3, 4, dtype=torch.float64, **options)
    step = getattr(openlstm, cell)(3, 4, dtype=torch.float64, **options)
    step.load_state_dict({name.removesuffix("_l0"): value for name, value in whole.state_dict().items()})
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    y, final = whole(x)
    state = None
    for t in range(6):
        state = step(x[t], state)
        close(flat(state)[0], y[t])
    close(flat(state), [s[0] for s in flat(final)])
    close(flat(step(x[0, 0])), [s[0] for s in flat(step(x[0]))])


@pytest.mark.parametrize("option", ["learned_state", "batch_first", "bidirectional", "residual"])
def test_cells_refuse_what_needs_a_layer(option):
    message = f"^{option}=True is not for LSTMCell, one step: use a whole layer$"
    with pytest.raises(ValueError, match=message):
        openlstm.LSTMCell(3, 4, **{option: True})
    if option in ("batch_first", "residual"):  # they change no parameter
        with pytest.raises(ValueError, match=message):
            setattr(openlstm.LSTMCell(3, 4), option, True)


def test_subclasses_may_have_attributes_before_they_are_layers():
    class Special(openlstm.LSTM):
        def __init__(self):
            self.early = 1
            super().__init__(3, 4)

    assert Special().early == 1 and Special()(torch.zeros(5, 2, 3))[0].shape == (5, 2, 4)
    assert openlstm.GRU(3, 4)._replicate_for_data_parallel().spec == Spec.parse("gru(3, 4)")  # torch's own way


def test_numbers_of_numpy():
    spec = openlstm.LSTM(3, 4, 2, dropout=np.float32(0.5), zoneout_c=np.int64(0), cell_clip=np.float64(3)).spec
    assert str(spec) == "lstm(3, 4, 4; dropout=0.5, cell_clip=3.0)"


def test_dropout_of_everything_draws_nothing():
    theirs, ours = pair("LSTM", 3, 4, 2, dropout=1.0)
    x = torch.randn(5, 2, 3)
    for module in (theirs, ours):
        torch.manual_seed(3)
        close(module(x), theirs(x), torch.float32)
        assert torch.equal(torch.rand(2), torch.rand(2, generator=torch.Generator().manual_seed(3)))


def test_every_cell_has_a_module():
    from openlstm.cells import CELLS as declared

    assert set(MODULES) == set(declared)


def test_no_warning_at_use():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        openlstm.LSTM(3, 4, 2, dropout=0.5)(torch.zeros(2, 2, 3))
