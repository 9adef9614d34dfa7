"""The recipe of tf1_cells.json: what TensorFlow 1's cells give, in float64, with all weights random and different.

Run by hand in an environment of its own, where tensorflow and tf_keras are installed, and never by the tests:

    python tests/golden/tf1_cells.py

The cells are those that tf.compat.v1.nn.rnn_cell shows. Weights and inputs have three decimals, so that they are the
same numbers in the file. A weight matrix is [x; h] times gates, in the order i, j, f, o for an LSTM (j: the candidate)
and r, u for a GRU, whose candidate has a matrix of its own.
"""

import json
import pathlib
import warnings

import numpy as np
import tensorflow as tf
import tf_keras
from tf_keras.src.layers.rnn import legacy_cells

TIME, BATCH, INPUT, UNITS = 5, 3, 3, 4
CELLS = {
    "basic": ("BasicLSTMCell", {}),
    "basic, no forget bias": ("BasicLSTMCell", {"forget_bias": 0.0}),
    "lstm": ("LSTMCell", {}),
    "forget bias": ("LSTMCell", {"forget_bias": 2.5}),
    "peepholes": ("LSTMCell", {"use_peepholes": True}),
    "cell clip": ("LSTMCell", {"cell_clip": 0.3}),
    "peepholes, cell clip": ("LSTMCell", {"use_peepholes": True, "cell_clip": 0.3}),
    "projection": ("LSTMCell", {"num_proj": 2}),
    "projection clip": ("LSTMCell", {"num_proj": 2, "proj_clip": 0.2}),
    "all": (
        "LSTMCell",
        {"use_peepholes": True, "cell_clip": 0.3, "num_proj": 2, "proj_clip": 0.2, "forget_bias": 0.5},
    ),
    "activation": ("LSTMCell", {"use_peepholes": True, "activation": "softsign"}),
    "gru": ("GRUCell", {}),
    "gru, activation": ("GRUCell", {"activation": "relu"}),
    "rnn": ("BasicRNNCell", {}),
}


def record(name: str, options: dict, seed: int) -> dict:
    """One cell over a few steps: weights, inputs, outputs and last states."""
    random = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return random.normal(0, 0.8, shape).round(3)

    cell = getattr(legacy_cells, name)(UNITS, dtype=tf.float64, **options)
    x = draw(TIME, BATCH, INPUT)
    lstm = "LSTM" in name
    h = draw(BATCH, options.get("num_proj", UNITS))
    c = draw(BATCH, UNITS)
    state = legacy_cells.LSTMStateTuple(tf.constant(c), tf.constant(h)) if lstm else tf.constant(h)
    cell.build(tf.TensorShape((BATCH, INPUT)))
    weights = {}
    for weight in cell.weights:  # named <the layer's name>/<the weight's>:0
        value = weights[weight.name.partition("/")[2].removesuffix(":0")] = draw(*weight.shape)
        weight.assign(value)
    outputs = []
    for t in range(TIME):
        y, state = cell(tf.constant(x[t]), state)
        outputs.append(y.numpy())
    found = {"cell": name, "options": options, "weights": weights, "x": x, "h": h}
    found |= {"c": c, "last_c": state[0].numpy(), "last_h": state[1].numpy()} if lstm else {"last_h": state.numpy()}
    found["outputs"] = np.stack(outputs)
    return found


def lists(value: object) -> object:
    """Arrays as lists, all the way down."""
    if isinstance(value, dict):
        return {name: lists(item) for name, item in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    numbers = {
        "versions": {"tensorflow": tf.__version__, "tf_keras": tf_keras.__version__, "numpy": np.__version__},
        "cells": {title: record(*what, seed) for seed, (title, what) in enumerate(CELLS.items())},
    }
    path = pathlib.Path(__file__).with_suffix(".json")
    path.write_text(
        json.dumps(lists(numbers), indent=None, separators=(",", ":")).replace('"cell":', '\n"cell":') + "\n"
    )
