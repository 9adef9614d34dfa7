"""Against stored numbers of TensorFlow 1's cells, in float64: golden/tf1_cells.py is how they were made."""

import json
import pathlib

import numpy as np
import pytest
import torch

import openlstm.backends
from openlstm.spec import Spec

GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden" / "tf1_cells.json").read_text())
BACKENDS = list(openlstm.backends.BACKENDS.values())


def spec_of(cell, options, inputs, units):
    """Our name of a TensorFlow cell."""
    if cell == "BasicRNNCell":
        return Spec.of("rnn", inputs, units)
    if cell == "GRUCell":
        return Spec.of("gru", inputs, units, reset="before", activations=("sigmoid", options.get("activation", "tanh")))
    activation = options.get("activation", "tanh")
    return Spec.of(
        "lstm",
        inputs,
        units,
        activations=("sigmoid", activation, activation),
        peephole="diagonal" if options.get("use_peepholes") else None,
        cell_clip=options.get("cell_clip", 0.0),
        proj_size=options.get("num_proj", 0),
        proj_clip=options.get("proj_clip", 0.0),
    )


def parameters_of(cell, options, weights, inputs):
    """Our parameters: gates in our order, transposed, the bias that TensorFlow adds at run time stored."""
    weights = {name: np.array(value) for name, value in weights.items()}
    if cell == "GRUCell":
        kernels, biases = (
            [*np.split(weights[f"gates/{what}"], 2, -1), weights[f"candidate/{what}"]] for what in ("kernel", "bias")
        )
    elif cell == "BasicRNNCell":
        kernels, biases = [weights["kernel"]], [weights["bias"]]
    else:
        (i, j, f, o), (b_i, b_j, b_f, b_o) = (np.split(weights[name], 4, -1) for name in ("kernel", "bias"))
        kernels, biases = [i, f, j, o], [b_i, b_f + options.get("forget_bias", 1.0), b_j, b_o]
    kernel, bias = np.concatenate(kernels, -1).T, np.concatenate(biases)
    found = {"weight_ih": kernel[:, :inputs], "weight_hh": kernel[:, inputs:]}
    found |= {"bias_ih": bias, "bias_hh": np.zeros_like(bias)}
    if "projection/kernel" in weights:
        found["weight_hr"] = weights["projection/kernel"].T
    if "w_i_diag" in weights:
        found["weight_ch"] = np.concatenate([weights[f"w_{k}_diag"] for k in "ifo"])
    return {name + "_l0": torch.tensor(value, dtype=torch.float64) for name, value in found.items()}


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda module: module.__name__.rpartition(".")[2])
@pytest.mark.parametrize("title", GOLDEN["cells"])
def test_tensorflow_1(title, backend):
    golden = GOLDEN["cells"][title]
    cell, options = golden["cell"], golden["options"]
    x, *states = (torch.tensor(golden[name], dtype=torch.float64) for name in ("x", "h", "c") if name in golden)
    units = (states[1] if len(states) == 2 else states[0]).shape[1]
    spec = spec_of(cell, options, x.shape[2], units)
    if reason := backend.why_not(spec, x):
        pytest.skip(reason)
    parameters = parameters_of(cell, options, golden["weights"], spec.input_size)
    assert {name: tuple(value.shape) for name, value in parameters.items()} == spec.parameters
    y, last = backend.forward(spec, x, parameters, dict(zip(spec.state_names, states, strict=True)))
    np.testing.assert_allclose(y, golden["outputs"], 1e-12, 1e-12)
    for name in spec.definition.states:
        np.testing.assert_allclose(last[name + "_l0"], golden[f"last_{name}"], 1e-12, 1e-12)


def test_the_clips_bite():
    cells = GOLDEN["cells"]
    for title in ("cell clip", "peepholes, cell clip", "all"):
        c = np.abs(cells[title]["last_c"])
        assert (c == 0.3).any() and c.max() == 0.3 and (c < 0.3).any()
    for title in ("projection clip", "all"):
        y = np.abs(cells[title]["outputs"])
        assert (y == 0.2).any() and y.max() == 0.2 and (y < 0.2).any()
