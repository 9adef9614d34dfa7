"""How onnx_recurrent.npz was made: LSTM, GRU and RNN of ONNX on random numbers, as ONNX Runtime runs them.

    python onnx_recurrent.py

The node tests of ONNX have equal constants as weights, mostly one step and states of zeros, so that a wrong order of
gates passes them. Here all arrays are different random numbers, T = 5 steps of B = 4 sequences with I = 3 inputs and
H = 2 units are read, of lengths 5, 0, 1 and 3, from random initial states, in all directions and with all attributes.

For each case the file has its arrays under `case/X`, W, R, B, P, sequence_lens, initial_h, initial_c (those that it
has), what came out under `case/Y`, Y_h, Y_c, and under `case/node` a text of JSON: the operator and its attributes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

T, B, I, H = 5, 4, 3, 2
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
LSTM = ["Sigmoid", "Tanh", "Tanh"]
CASES: dict[str, tuple[str, dict[str, Any], set[str]]] = {  # the operator, its attributes, and which inputs it has
    "lstm": ("LSTM", {}, set()),
    "lstm bias": ("LSTM", {}, {"B"}),
    "lstm all": ("LSTM", {}, {"B", "P", "sequence_lens", "initial"}),
    "lstm reverse": ("LSTM", {"direction": "reverse"}, {"B", "P", "sequence_lens", "initial"}),
    "lstm bidirectional": ("LSTM", {"direction": "bidirectional"}, {"B", "P", "sequence_lens", "initial"}),
    "lstm clip": ("LSTM", {"clip": 0.3}, {"B", "P", "initial"}),
    "lstm input_forget": ("LSTM", {"input_forget": 1}, {"B", "P", "initial"}),
    "lstm activations": (
        "LSTM",
        {
            "activations": ["HardSigmoid", "Elu", "ScaledTanh"],
            "activation_alpha": [0.3, 0.7, 1.3],
            "activation_beta": [0.4, 0.6],
        },
        {"B", "P", "initial"},
    ),
    "lstm more activations": (
        "LSTM",
        {"activations": ["Sigmoid", "Softsign", "LeakyRelu"], "activation_alpha": [0.2]},
        {"B"},
    ),
    "gru": ("GRU", {}, {"B", "sequence_lens", "initial"}),
    "gru after": ("GRU", {"linear_before_reset": 1}, {"B", "sequence_lens", "initial"}),
    "gru reverse": ("GRU", {"direction": "reverse", "linear_before_reset": 1}, {"B", "sequence_lens", "initial"}),
    "gru bidirectional": ("GRU", {"direction": "bidirectional"}, {"B", "sequence_lens", "initial"}),
    "rnn": ("RNN", {}, {"B", "sequence_lens", "initial"}),
    "rnn bidirectional": (
        "RNN",
        {"direction": "bidirectional", "activations": ["Relu", "Relu"]},
        {"B", "sequence_lens", "initial"},
    ),
}


def arrays(operator: str, attributes: dict[str, Any], there: set[str], seed: int) -> dict[str, np.ndarray]:
    """Random inputs of a node."""
    random, directions = np.random.default_rng(seed), 2 if attributes.get("direction") == "bidirectional" else 1
    rows = GATES[operator] * H
    shapes = {"X": (T, B, I), "W": (directions, rows, I), "R": (directions, rows, H)}
    shapes |= {"B": (directions, 2 * rows)} if "B" in there else {}
    shapes |= {"P": (directions, 3 * H)} if "P" in there else {}
    states = ("initial_h", "initial_c") if operator == "LSTM" else ("initial_h",)
    shapes |= dict.fromkeys(states, (directions, B, H)) if "initial" in there else {}
    found = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    if "sequence_lens" in there:
        found["sequence_lens"] = np.array([5, 0, 1, 3], np.int32)
    return found


def model(
    operator: str, attributes: dict[str, Any], given: dict[str, np.ndarray], constants: set[str]
) -> onnx.ModelProto:
    """One node with these arrays, of which some are constants of the model."""
    names = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"][: 8 if operator == "LSTM" else 6]
    outputs = ["Y", "Y_h", "Y_c"][: 3 if operator == "LSTM" else 2]
    node = helper.make_node(
        operator, [n if n in given else "" for n in names], outputs, hidden_size=given["R"].shape[2], **attributes
    )
    kind = {"sequence_lens": TensorProto.INT32}
    graph = helper.make_graph(
        [node],
        "case",
        [
            helper.make_tensor_value_info(n, kind.get(n, TensorProto.FLOAT), a.shape)
            for n, a in given.items()
            if n not in constants
        ],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [onnx.numpy_helper.from_array(given[n], n) for n in constants if n in given],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


def main() -> None:
    """Writes onnx_recurrent.npz."""
    found: dict[str, Any] = {"made by": f"onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}"}
    for seed, (case, (operator, attributes, there)) in enumerate(CASES.items()):
        given = arrays(operator, attributes, there, seed)
        made = model(operator, attributes, given, set())
        session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
        names = [value.name for value in made.graph.output]
        given |= dict(zip(names, session.run(names, given), strict=True))
        found[f"{case}/node"] = json.dumps({"operator": operator, "attributes": attributes})
        found |= {f"{case}/{name}": array for name, array in given.items()}
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **found)


if __name__ == "__main__":
    main()
