"""ONNX's recurrent operators: which specs they can say, and how. Facts for all that reads, writes or exports them.

LSTM    gates i, o, f, g; peepholes P of i, o, f         GRU    gates u, r, n (u is ONNX's z)        RNN    h
"""

from __future__ import annotations

from typing import Any, NamedTuple

from .cells import ACTIVATIONS
from .spec import Spec


class Operator(NamedTuple):
    """One of them."""

    cell: str
    gates: str  # in ONNX's order, by our names
    activations: tuple[str, ...]  # that ONNX takes where none are given
    states: tuple[str, ...]


OPERATORS = {
    "LSTM": Operator("lstm", "iofg", ("Sigmoid", "Tanh", "Tanh"), ("h", "c")),
    "GRU": Operator("gru", "urn", ("Sigmoid", "Tanh"), ("h",)),
    "RNN": Operator("rnn", "h", ("Tanh",), ("h",)),
}
PEEPHOLES = "iof"
# ONNX's functions: ours, and which constants they take, with the value where none is given. For ThresholdedRelu,
# ScaledTanh and Affine the specification has other values, or none, and ONNX Runtime takes 0.
FUNCTIONS: dict[str, tuple[str, tuple[float | None, ...]]] = {
    "Sigmoid": ("sigmoid", ()),
    "Tanh": ("tanh", ()),
    "Relu": ("relu", ()),
    "Softsign": ("softsign", ()),
    "Softplus": ("softplus", ()),
    "LeakyRelu": ("leaky_relu", (0.01,)),
    "Elu": ("elu", (1.0,)),
    "ThresholdedRelu": ("thresholded_relu", (None,)),
    "HardSigmoid": ("hard_sigmoid", (0.2, 0.5)),
    "ScaledTanh": ("scaled_tanh", (None, None)),
    "Affine": ("affine", (None, None)),
}


def name_of(spec: Spec) -> str | None:
    """The operator that computes one layer of this; None: there is none."""
    found = next((name for name, operator in OPERATORS.items() if operator.cell == spec.cell), None)
    if spec.proj_size or spec.layer_norm or spec.zoneout_h or spec.zoneout_c:
        return None
    if spec.cell == "lstm" and (spec.peephole == "dense" or spec.coupled == "i=1-f" or spec.cell_clip):
        return None
    return found


def attributes(spec: Spec, size: int) -> dict[str, Any]:
    """Of the operator for a layer of so many units, all of them said."""
    theirs = {ours: (word, len(defaults)) for word, (ours, defaults) in FUNCTIONS.items()}
    functions: list[str] = []
    constants: dict[str, list[float]] = {"activation_alpha": [], "activation_beta": []}
    for text in (spec.nonlinearity,) if spec.cell == "rnn" else spec.activations:
        word, *numbers = text.split(":")
        if word == "linear":
            word, numbers = "affine", ["1", "0"]
        name, count = theirs[word]
        numbers += map(str, ACTIVATIONS[word][1][len(numbers) :])
        for values, number in zip(constants.values(), numbers[:count], strict=False):
            values.append(float(number))
        functions.append(name)
    found: dict[str, Any] = {"hidden_size": size, "activations": functions * spec.directions}
    found |= {name: values * spec.directions for name, values in constants.items() if values}
    if spec.cell == "lstm":
        found["input_forget"] = int(spec.coupled == "f=1-i")
    if spec.cell == "gru":
        found["linear_before_reset"] = int(spec.reset == "after")
    if spec.preactivation_clip:
        found["clip"] = float(spec.preactivation_clip)
    return found | {"direction": "bidirectional" if spec.bidirectional else "forward"}
