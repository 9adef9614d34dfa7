"""torch.onnx.export of models with our layers: ONNX Runtime gives what the model gives, at any length and batch."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import onnxruntime
import pytest
import torch

import openlstm
from openlstm import convert, nn
from openlstm.spec import Spec

T, B = torch.export.Dim("T"), torch.export.Dim("B")


class Model(torch.nn.Module):
    """Something before, something behind."""

    def __init__(self, form: str):
        super().__init__()
        self.spec = Spec.parse(form)
        self.before = torch.nn.Linear(2, self.spec.input_size)
        self.layers = nn.of(self.spec)

    def forward(self, x, lengths=None):
        y, state = self.layers(self.before(x), lengths=lengths)
        return (2 * y, *state) if isinstance(state, tuple) else (2 * y, state)


def exported(model, path, *arguments, shapes):
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = torch.onnx.export(model, arguments, dynamo=True, dynamic_shapes=shapes, verbose=False)
    finally:
        logging.disable(logging.NOTSET)
    made.save(path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return made, onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("form", "lengths", "operator"),
    [
        ("lstm(3, 5, 5; bidirectional, peephole=diagonal, residual)", True, "LSTM"),
        ("lstm(3, 5; coupled=f=1-i, preactivation_clip=0.4, activations=sigmoid/elu:0.7/softsign)", False, "LSTM"),
        ("gru(3, 5; batch_first, reset=before, learned_state)", False, "GRU"),
        ("rnn(3, 5; bidirectional, nonlinearity=relu)", True, "RNN"),
        ("lstm(3, 5; proj_size=2, nonrecurrent_proj_size=3, proj_bias, layer_norm)", True, "Scan"),
        ("lstm(3, 5, 5; bidirectional, peephole=dense, zoneout_c=0.3, cell_clip=0.4)", False, "Scan"),
        ("gru(3, 5; bidirectional, layer_norm)", True, "Scan"),
        ("gru(3, 5; zoneout_h=0.3, reset=before)", False, "Scan"),
        ("lstm(3, 5; peephole=diagonal, cell_clip=0.4)", False, "Scan"),
        ("JANET(3, 5; bidirectional)", False, "Scan"),  # whose h is c
        ("SLSTM(3, 5, 5)", True, "Scan"),
        ("FGR(3, 5)", False, "Scan"),
        ("IndRNN(3, 5; nonlinearity=softplus)", False, "Scan"),
        ("MGU(3, 5)", False, "Scan"),
    ],
)
def test_a_model_is_exported(tmp_path, form, lengths, operator):
    torch.manual_seed(0)
    model = Model(form).eval()
    first = model.spec.batch_first
    axes = ({0: B, 1: T} if first else {0: T, 1: B},)
    x = torch.randn(5, 2, 2)
    arguments = (x, torch.tensor([5, 3])) if lengths else (x,)
    shapes = (*axes, {0: B}) if lengths else axes
    made, session = exported(model, tmp_path / "m.onnx", *arguments, shapes=shapes)
    kinds = [node.op_type for node in made.model.graph]
    # A scan has one direction.
    count = model.spec.num_layers * (model.spec.directions if operator == "Scan" else 1)
    assert kinds.count(operator) == count and not {"LSTM", "GRU", "RNN", "Scan", "Loop"} - {operator} & set(kinds)
    x = torch.randn(7, 4, 2)
    arguments = (x, torch.tensor([7, 3, 0, 1])) if lengths else (x,)
    found = session.run(None, {i.name: a.numpy() for i, a in zip(session.get_inputs(), arguments, strict=True)})
    with torch.no_grad():
        expected = model(*arguments)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("units", [4, 300])
def test_what_was_exported_is_read_again(tmp_path, units):
    """Large weights are put in ONNX's order by operations on constants, which the exporter leaves in the model."""
    torch.manual_seed(0)
    model = Model(f"lstm(3, 5, {units}; bidirectional, peephole=diagonal)").eval()
    x = torch.randn(5, 2, 2)
    made, _ = exported(model, tmp_path / "m.onnx", x, shapes=({0: T, 1: B},))
    assert ("Concat" in [node.op_type for node in made.model.graph if node.name.startswith("node_cat")]) == (units > 50)
    nodes = list(convert.read(tmp_path / "m.onnx").values())
    assert [str(one.spec) for one in nodes] == [
        "lstm(3, 5; bidirectional, peephole=diagonal)",
        f"lstm(10, {units}; bidirectional, peephole=diagonal)",
    ]
    assert convert.onnx.difference(tmp_path / "m.onnx", convert.read(tmp_path / "m.onnx")) < 1e-5
    np.testing.assert_array_equal(nodes[1].arrays["weight_hh_l0_reverse"], model.layers.weight_hh_l1_reverse.detach())
    run = convert.onnx.accelerate(tmp_path / "m.onnx")
    with torch.no_grad():
        expected = model(x)[0]
    np.testing.assert_allclose(next(iter(run({"x": x.numpy()}).values())), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda model: model.train(),
            "draws random masks in training, which ONNX cannot hold: call model.eval()",
        ),
        (lambda model: model.eval().double(), "exported in float32, and x is torch.float64: convert the model"),
    ],
)
def test_what_is_not_exported(tmp_path, change, told):
    model = change(Model("lstm(3, 5; zoneout_h=0.3)"))
    with pytest.raises(Exception) as error:
        exported(model, tmp_path / "m.onnx", torch.randn(5, 2, 2, dtype=model.before.weight.dtype), shapes=({0: T},))
    assert told in str(error.value)


def test_a_trace_is_refused():
    with pytest.raises(RuntimeError, match=r"^LSTM cannot be traced by torch\.jit: use torch\.export, or torch\.onnx"):
        torch.jit.trace(openlstm.LSTM(3, 4), torch.randn(5, 2, 3))
