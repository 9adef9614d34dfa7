"""Against stored numbers of TensorFlow 1's cells, in float64: golden/tf1_cells.py is how they were made."""

import json
import pathlib

import numpy as np
import pytest
import torch

import openlstm.backends
from openlstm.convert import tf1

GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden" / "tf1_cells.json").read_text())
BACKENDS = list(openlstm.backends.BACKENDS.values())


def layers_of(cell, options, weights):
    """Read by the converter, as variables without a scope."""
    given = {name: value for name, value in options.items() if name in tf1.ARGUMENTS}
    given |= {"forget_bias": 1.0} if "LSTM" in cell and "forget_bias" not in given else {}  # TensorFlow's default
    return tf1.read({name: np.array(value) for name, value in weights.items()}, {"cell": cell, **given})[""]


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda module: module.__name__.rpartition(".")[2])
@pytest.mark.parametrize("title", GOLDEN["cells"])
def test_tensorflow_1(title, backend):
    golden = GOLDEN["cells"][title]
    cell, options = golden["cell"], golden["options"]
    x, *states = (torch.tensor(golden[name], dtype=torch.float64) for name in ("x", "h", "c") if name in golden)
    spec, arrays = layers_of(cell, options, golden["weights"])
    if reason := backend.why_not(spec, x):
        pytest.skip(reason)
    parameters = {name: torch.tensor(array) for name, array in arrays.items()}
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
