"""ONNX's recurrent operators: the numbers of ONNX Runtime, on random weights, all attributes and whole models."""

from __future__ import annotations

import os

import numpy as np
import onnx
import onnxruntime
import ort
import pytest
import torch
from cases import ACTIVATIONS, OPTIONS, text
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import openlstm
from openlstm import convert, nn
from openlstm.convert import Layers, Refused
from openlstm.convert import onnx as format
from openlstm.spec import Spec

I, H, T, B = 3, 5, 6, 4
FORMS = (
    "lstm(3, 5)",
    "lstm(3, 5; bias=False)",
    "lstm(3, 5; bidirectional, peephole=diagonal)",
    "lstm(3, 5; peephole=diagonal, coupled=f=1-i)",
    "lstm(3, 5; peephole=diagonal, preactivation_clip=0.4)",
    "lstm(3, 5; activations=hard_sigmoid:0.3:0.4/elu:0.7/scaled_tanh:1.3:0.6)",
    "lstm(3, 5; activations=sigmoid/leaky_relu:0.3/softsign)",
    "lstm(3, 5; bidirectional, activations=hard_sigmoid:0.25:0.5/thresholded_relu:0.1/affine:0.5:0.1)",
    "gru(3, 5)",
    "gru(3, 5; reset=before)",
    "gru(3, 5; bidirectional, reset=before, activations=hard_sigmoid:0.3:0.4/elu:0.7)",
    "rnn(3, 5; bidirectional)",
    "rnn(3, 5; nonlinearity=relu)",
    "rnn(3, 5; nonlinearity=leaky_relu:0.3, preactivation_clip=0.4)",
    "gru(3, 5; bidirectional, preactivation_clip=0.4)",
    "gru(3, 5; reset=before, preactivation_clip=0.4)",
)


def numbers(spec: Spec, seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    parameters = {n: random.normal(size=s).astype(np.float32) * 0.6 for n, s in spec.parameters.items()}
    return parameters, {n: random.normal(size=(B, H)).astype(np.float32) for n in spec.state_names}


def model(spec: Spec, seed: int = 0, lengths: bool = True, direction: str = "", layout: int = 0, around: bool = False):
    """A model of one node with its weights inside, and what to feed it. around: with other nodes before and behind."""
    parameters, states = numbers(spec, seed)
    operator, _ = ort.OPERATORS[spec.cell]
    constants = {name: numpy_helper.from_array(a, name) for name, a in ort.weights(spec, parameters).items()}
    suffixes = ("_l0", "_l0_reverse")[: spec.directions]
    random = np.random.default_rng(seed + 1)
    feed = {"X": random.normal(size=(T, B, I)).astype(np.float32)}
    if lengths:
        feed["sequence_lens"] = np.array([T, 0, 1, 4], np.int32)
    for name in spec.definition.states:
        feed[f"initial_{name}"] = np.stack([states[name + suffix] for suffix in suffixes])
    inputs = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"]
    outputs = ["Y", "Y_h", "Y_c"]
    if spec.cell != "lstm":
        inputs, outputs = inputs[:6], outputs[:2]
    direction = direction or ("bidirectional" if spec.bidirectional else "forward")
    attributes = ort.attributes(spec) | ({"layout": 1} if layout else {})
    if layout:
        feed = {n: a.swapaxes(0, 1).copy() if a.ndim == 3 else a for n, a in feed.items()}
    source = "twice" if around else "X"
    wired = [n if n in constants or n in feed else "" for n in inputs]
    nodes = [helper.make_node(operator, [source, *wired[1:]], outputs, name="it", direction=direction, **attributes)]
    last = list(outputs)
    if around:
        nodes = [helper.make_node("Add", ["X", "X"], ["twice"]), *nodes, helper.make_node("Relu", ["Y"], ["above"])]
        nodes += [helper.make_node("Concat", ["Y_h", "Y_h"], ["both"], axis=-1)]
        last = ["above", "both"]
    kind = {"sequence_lens": TensorProto.INT32}
    dims = {"X": ["time", "batch", I]}
    graph = helper.make_graph(
        nodes,
        "graph",
        [
            helper.make_tensor_value_info(n, kind.get(n, TensorProto.FLOAT), dims.get(n, a.shape))
            for n, a in feed.items()
        ],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in last],
        [tensor for name, tensor in constants.items() if name in wired],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8), feed


def theirs(made, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in made.graph.output]
    return dict(zip(names, session.run(names, feed), strict=True))


def close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=2e-5, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_every_attribute_as_onnx_runtime_has_it(form, lengths):
    spec = Spec.parse(form)
    made, feed = model(spec, lengths=lengths)
    found = format.read(made)
    assert list(found) == ["it"] and found["it"].spec == spec
    parameters, _ = numbers(spec)
    for name, array in found["it"].arrays.items():
        np.testing.assert_array_equal(array, parameters[name])
    close(format.accelerate(made)(feed), theirs(made, feed))
    assert format.difference(made, found) < 2e-6


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("form", ["lstm(3, 5; peephole=diagonal)", "gru(3, 5)", "rnn(3, 5)"])
def test_backwards_alone(form, lengths):
    made, feed = model(Spec.parse(form), lengths=lengths, direction="reverse")
    close(format.accelerate(made)(feed), theirs(made, feed))
    with pytest.raises(Refused, match=r"^it reads backwards only"):
        format.read(made)


def test_batch_first():
    """ONNX Runtime has no kernel for layout 1: the same model without it is the judge."""
    spec = Spec.parse("lstm(3, 5; bidirectional)")
    made, feed = model(spec, layout=1)
    plain, same = model(spec)
    expected = theirs(plain, same)
    found = format.accelerate(made)(feed)
    np.testing.assert_allclose(found["Y"], expected["Y"].transpose(2, 0, 1, 3), rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(found["Y_c"], expected["Y_c"].transpose(1, 0, 2), rtol=2e-5, atol=2e-6)
    assert format.read(made)["it"].spec.batch_first


@pytest.mark.parametrize("form", ["lstm(3, 5; bidirectional, peephole=diagonal)", "gru(3, 5)"])
def test_inside_a_whole_graph(tmp_path, form):
    made, feed = model(Spec.parse(form), around=True)
    onnx.save(made, tmp_path / "m.onnx")
    run = format.accelerate(tmp_path / "m.onnx")
    close(run(feed), theirs(made, feed))
    with pytest.raises(ValueError, match=r"^The model's input 'X' is missing: expected "):
        run({})


@pytest.mark.filterwarnings("ignore")  # of torch's exporter, about itself
def test_two_nodes_of_which_one_reads_the_other(tmp_path):
    """As torch exports a stack: between its nodes stand others, and states come from the graph."""
    torch.manual_seed(0)
    layer = torch.nn.GRU(3, 5, num_layers=2, bidirectional=True).eval()
    x = torch.randn(T, B, I)
    torch.onnx.export(layer, (x,), str(tmp_path / "m.onnx"), dynamo=False, input_names=["x"], output_names=["y", "h"])
    found = format.read(tmp_path / "m.onnx")
    assert [str(one.spec) for one in found.values()] == ["gru(3, 5; bidirectional)", "gru(10, 5; bidirectional)"]
    ours = format.accelerate(tmp_path / "m.onnx")({"x": x.numpy()})
    with torch.no_grad():
        y, h = layer(x)
    close(ours, {"y": y.numpy(), "h": h.numpy()})


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # onnx makes all its node tests at once
def test_the_node_tests_of_onnx():
    from onnx.backend.test.loader import load_model_tests

    count = 0
    for case in load_model_tests(kind="node"):
        if case.name.startswith(("test_lstm_", "test_gru_", "test_rnn_", "test_simple_rnn_")):
            # Their weights are inputs: here they are constants.
            for inputs, outputs in case.data_sets:
                made = onnx.ModelProto()
                made.CopyFrom(case.model)
                node = made.graph.node[0]
                arrays = dict(zip([value.name for value in made.graph.input], inputs, strict=True))
                for name in [name for place, name in enumerate(node.input) if name and place in (1, 2, 3, 7)]:
                    made.graph.initializer.append(numpy_helper.from_array(arrays.pop(name), name))
                found = format.accelerate(made)(arrays)
                for name, expected in zip([value.name for value in made.graph.output], outputs, strict=True):
                    np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-6)
                count += 1
    assert count == 18


WRITTEN = [text(cell, option) for cell, options in OPTIONS.items() for option in options]
WRITTEN += [
    "lstm(3, 5, 5; bidirectional, residual=False)",
    "lstm(3, 5, 5; proj_size=2, nonrecurrent_proj_size=3, bidirectional)",
]
WRITTEN += [
    "gru(3, 5, 5; bidirectional, layer_norm)",
    "lstm(3, 5; peephole=dense, cell_clip=0.4, bidirectional, zoneout_c=0.2)",
]
WRITTEN += ["lstm(3, 5; batch_first, bidirectional)", "lstm(3, 5; layer_norm, batch_first, learned_state)"]
WRITTEN += [f"lstm(3, 5; activations=sigmoid/{name}/tanh)" for name in ACTIVATIONS]
WRITTEN += [f"lstm(3, 5; layer_norm, activations=sigmoid/{name}/tanh)" for name in ACTIVATIONS]


@pytest.mark.parametrize("lengths", [False, True], ids=["", "lengths"])
@pytest.mark.parametrize("form", WRITTEN)
def test_every_form_is_written(tmp_path, form, lengths):
    """ONNX Runtime runs it with any time and batch, and gives what the reference gives in float64."""
    spec = Spec.parse(form)
    random = np.random.default_rng(0)
    arrays = {name: 0.6 * random.normal(size=shape) for name, shape in spec.parameters.items()}
    module = nn.of(spec).double().eval()
    module.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    for states in (False, True):
        format.write(Layers(spec, arrays), tmp_path / "m.onnx", lengths=lengths, states=states)
        session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
        for time, batch in ((T, B), (1, 1)):
            x = random.normal(size=(batch, time, I) if spec.batch_first else (time, batch, I))
            feed, told, hx = {"x": x.astype(np.float32)}, {}, None
            if lengths:
                ends = np.array([time, 0, 1, time - 2][:batch])
                feed["lengths"], told["lengths"] = ends, torch.from_numpy(ends)
            if states:
                found = [
                    random.normal(size=(len(spec.walks), batch, spec.state_sizes(spec.walks[0])[name]))
                    for name in spec.definition.states
                ]
                feed |= {f"{n}_0": a.astype(np.float32) for n, a in zip(spec.definition.states, found, strict=True)}
                hx = tuple(map(torch.from_numpy, found)) if len(found) > 1 else torch.from_numpy(found[0])
            with torch.no_grad(), openlstm.backend("reference"):
                y, last = module(torch.from_numpy(x), hx, **told)
            expected = [y, *(last if isinstance(last, tuple) else (last,))]
            for name, ours, theirs_ in zip(
                ("y", *spec.definition.states), expected, session.run(None, feed), strict=True
            ):
                np.testing.assert_allclose(theirs_, ours.numpy(), rtol=3e-5, atol=5e-6, err_msg=name)


def test_what_is_written_is_read_again(tmp_path):
    for form in FORMS:
        spec = Spec.parse(form)
        parameters, _ = numbers(spec)
        convert.write(Layers(spec, parameters), tmp_path / "m.onnx")
        (found,) = convert.read(tmp_path / "m.onnx").values()
        assert found.spec == spec
        for name, array in parameters.items():
            np.testing.assert_array_equal(found.arrays[name], array)


@pytest.mark.parametrize("form", ["lstm(3, 5, 4; bidirectional)", "lstm(3, 5, 4; layer_norm)", "gru(3, 4, 5, 2)"])
def test_layers_of_different_sizes_are_written(tmp_path, form):
    """Each layer's states are arrays of their own."""
    spec = Spec.parse(form)
    random = np.random.default_rng(0)
    layers = Layers(spec, {name: random.normal(size=shape) for name, shape in spec.parameters.items()})
    format.write(layers, tmp_path / "m.onnx", states=True)
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    x = random.normal(size=(T, B, I)).astype(np.float32)
    parameters = {name: torch.from_numpy(array) for name, array in layers.arrays.items()}
    first = {
        name + walk.suffix: torch.from_numpy(random.normal(size=(B, size)))
        for walk in spec.walks
        for name, size in spec.state_sizes(walk).items()
    }
    y, last = openlstm.backends.reference.forward(spec, torch.from_numpy(x).double(), parameters, first)
    feed = {name.replace("_l", "_0_l", 1): state[None].numpy().astype(np.float32) for name, state in first.items()}
    names = ["y", *last]
    assert {value.name for value in session.get_outputs()} == set(names)
    found = session.run(names, {"x": x, **feed})
    np.testing.assert_allclose(found[0], y, rtol=3e-5, atol=5e-6)
    for state, expected in zip(found[1:], last.values(), strict=True):
        np.testing.assert_allclose(state[0], expected, rtol=3e-5, atol=5e-6)


def changed(form: str, **attributes: object):
    made, _ = model(Spec.parse(form))
    node = made.graph.node[0]
    for name, value in attributes.items():
        for old in [one for one in node.attribute if one.name == name]:
            node.attribute.remove(old)
        node.attribute.append(helper.make_attribute(name, value))
    return made


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda: changed("lstm(3, 5)", activations=["Sigmoid", "Tanh", "Sine"]), "it has the activation 'Sine'"),
        (
            lambda: changed("lstm(3, 5)", activations=["Sigmoid", "Affine", "Tanh"]),
            "it has Affine without its constants",
        ),
        (lambda: changed("lstm(3, 5)", activations=["Sigmoid"]), "it has 1 activation: expected 3"),
        (
            lambda: changed("rnn(3, 5; bidirectional)", activations=["Tanh", "Relu"]),
            "it has other activations backwards (relu) than forwards (tanh)",
        ),
        (lambda: changed("lstm(3, 5)", direction="sideways"), "it has the direction 'sideways'"),
        (lambda: changed("lstm(3, 5)", hidden_size=2**40), "it has 1,099,511,627,776 units and 3 inputs"),
        (lambda: changed("lstm(3, 5)", hidden_size=6), "it has W of shape [1, 20, 3]: expected [1, 24, 3]"),
        (lambda: changed("lstm(3, 5)", hidden_size=-5), "it has -5 units"),
    ],
)
def test_what_is_refused(made, told):
    with pytest.raises(ValueError) as error:
        format.read(made())
    assert str(error.value).startswith(told) and "\n" not in str(error.value)


def test_files_that_are_none(tmp_path):
    def told(content: bytes) -> str:
        (tmp_path / "m.onnx").write_bytes(content)
        with pytest.raises(ValueError) as error:
            convert.read(tmp_path / "m.onnx")
        return str(error.value).replace(str(tmp_path / "m.onnx"), "m")

    assert told(b"").startswith("'m' is no ONNX model that can be read (")
    assert told(b"no").startswith("'m' is no ONNX model that can be read (")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [], [])
    assert told(helper.make_model(graph).SerializeToString()).startswith("The model has no LSTM, GRU or RNN")
    made, _ = model(Spec.parse("lstm(3, 5)"))
    weight = next(one for one in made.graph.initializer if one.name == "W")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for place in ("../../etc/passwd", "/etc/passwd", "none.bin"):
        del weight.external_data[:]
        weight.external_data.append(onnx.StringStringEntryProto(key="location", value=place))
        assert told(made.SerializeToString()).startswith("'m' is no ONNX model that can be read (")


@settings(
    max_examples=int(os.environ.get("OPENLSTM_FUZZ", 200)),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_mutated_files_give_one_error_or_layers(tmp_path, data):
    made, _ = model(Spec.parse(data.draw(st.sampled_from(FORMS))))
    whole = bytearray(made.SerializeToString())
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(whole) - 1))
        how = data.draw(st.sampled_from(["change", "cut", "add"]))
        if how == "change":
            whole[place] = data.draw(st.integers(0, 255))
        elif how == "cut":
            del whole[place : place + data.draw(st.integers(1, 40))]
        else:
            whole[place:place] = data.draw(st.binary(min_size=1, max_size=8))
        if not whole:
            return
    path = tmp_path / "m.onnx"
    path.write_bytes(whole)
    try:
        found = convert.read(path)
    except ValueError as error:
        assert "\n" not in str(error)
        return
    for layers in found.values():
        assert {name: array.shape for name, array in layers.arrays.items()} == layers.spec.parameters
