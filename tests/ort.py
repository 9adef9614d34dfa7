"""ONNX Runtime on a model of one recurrent operator, from a spec and our parameters."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

# The order of the blocks in ONNX's W, R and B, and of the vectors in its P.
OPERATORS = {"lstm": ("LSTM", "iofg"), "gru": ("GRU", "urn"), "rnn": ("RNN", "h")}
PEEPHOLES = "iof"
# ONNX's functions by our names, with how many constants each takes, in ONNX's order: alpha, beta.
FUNCTIONS = {
    "sigmoid": ("Sigmoid", 0),
    "tanh": ("Tanh", 0),
    "relu": ("Relu", 0),
    "linear": ("Affine", 2),
    "affine": ("Affine", 2),
    "leaky_relu": ("LeakyRelu", 1),
    "thresholded_relu": ("ThresholdedRelu", 1),
    "scaled_tanh": ("ScaledTanh", 2),
    "hard_sigmoid": ("HardSigmoid", 2),
    "elu": ("Elu", 1),
    "softsign": ("Softsign", 0),
    "softplus": ("Softplus", 0),
}


def attributes(spec):
    """The operator's attributes. Constants are always written out: ONNX Runtime's defaults are not all ONNX's."""
    names = [spec.nonlinearity] if spec.cell == "rnn" else spec.activations
    functions, alpha, beta = [], [], []
    for name in names:
        word, *given = name.split(":")
        function, count = FUNCTIONS[word]
        constants = ["1", "0"] if word == "linear" else given
        assert len(constants) == count, f"{name}: give its constants"
        functions.append(function)
        # Both lists are read in order by those functions only that take a constant.
        alpha += [float(text) for text in constants[:1]]
        beta += [float(text) for text in constants[1:]]
    found = {"hidden_size": spec.hidden_size[0], "activations": functions * spec.directions}
    found |= {"activation_alpha": alpha * spec.directions} if alpha else {}
    found |= {"activation_beta": beta * spec.directions} if beta else {}
    if spec.cell == "lstm":
        found["input_forget"] = int(spec.coupled == "f=1-i")
    if spec.preactivation_clip:
        found["clip"] = spec.preactivation_clip
    if spec.cell == "gru":
        found["linear_before_reset"] = int(spec.reset == "after")
    return found


def weights(spec, parameters):
    """W, R, B and P with their first dimension for the directions. What the operator must not read is large."""
    order, size = OPERATORS[spec.cell][1], spec.hidden_size[0]

    def stack(name, suffix, names, order):
        array = parameters[name + suffix]
        blocks = {k: array[n * size : (n + 1) * size] for n, k in enumerate(names)}
        return np.concatenate([blocks.get(k, np.full_like(array[:size], 1e3)) for k in order])

    found = {"W": [], "R": [], "B": [], "P": []}
    for suffix in ("_l0", "_l0_reverse")[: spec.directions]:
        found["W"].append(stack("weight_ih", suffix, spec.gates, order))
        found["R"].append(stack("weight_hh", suffix, spec.gates, order))
        if spec.bias:
            found["B"].append(np.concatenate([stack(n, suffix, spec.gates, order) for n in ("bias_ih", "bias_hh")]))
        if spec.cell == "lstm" and spec.peephole == "diagonal":
            seeing = [k for k in spec.gates if k != "g"]
            found["P"].append(stack("weight_ch", suffix, seeing, PEEPHOLES))
    return {name: np.stack(arrays).astype(np.float32) for name, arrays in found.items() if arrays}


def run(spec, x, parameters, states, lengths=None, reverse=False):
    """Output (T, B, O) and final states under our names. `reverse`: a spec of one direction is walked backwards."""
    operator = OPERATORS[spec.cell][0]
    suffixes = ("_l0", "_l0_reverse")[: spec.directions]
    feed = {"X": x.astype(np.float32), **weights(spec, parameters)}
    if lengths is not None:
        feed["sequence_lens"] = lengths.astype(np.int32)
    for name in spec.definition.states:
        feed["initial_" + name] = np.stack([states[name + suffix] for suffix in suffixes]).astype(np.float32)
    inputs = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"]
    outputs = ["Y", "Y_h", "Y_c"]
    if spec.cell != "lstm":
        inputs, outputs = inputs[:6], outputs[:2]
    direction = "bidirectional" if spec.bidirectional else "reverse" if reverse else "forward"
    node = helper.make_node(
        operator,
        [name if name in feed else "" for name in inputs],
        outputs,
        direction=direction,
        **attributes(spec),
    )
    kind = {"sequence_lens": TensorProto.INT32}
    graph = helper.make_graph(
        [node],
        operator,
        [helper.make_tensor_value_info(n, kind.get(n, TensorProto.FLOAT), a.shape) for n, a in feed.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * (4 if n == "Y" else 3)) for n in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    y, *last = session.run(outputs, feed)  # y: (T, D, B, H)
    final = {
        name + suffix: value[k]
        for name, value in zip(spec.definition.states, last, strict=True)
        for k, suffix in enumerate(suffixes)
    }
    return np.concatenate([y[:, k] for k in range(spec.directions)], -1), final
