"""Makes keras_layers.npz and four models beside it, with Keras 3 and tf-keras: python keras_layers.py

It needs both libraries (pip install keras tf-keras) and a backend of Keras 3 that computes in float64.

`layers` is JSON in UTF-8: of each library its version, and of each case the layer's description as the library saves
it, and the shapes of its arrays in get_weights' order. For every case of each library, as `<library>/<case>/...`:
    weights  those arrays, one after another
    y        what it gives at every step for `x` with `lengths`; what is past an end is the library's own affair
    states   the final states, one after another: (states, B, units), forward before backward
and for the models, which are chains of layers: what each of their recurrent layers gives, `<file>/<layer>`, from `x`
on.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np

T, B, I, H = 5, 3, 3, 4
LENGTHS = np.array([T, 0, 3])


def cases(layers):
    hard = {"recurrent_activation": "hard_sigmoid"}
    for name, kind in {"lstm": layers.LSTM, "gru": layers.GRU, "rnn": layers.SimpleRNN}.items():
        own = hard if name != "rnn" else {}
        yield name, kind, {}
        yield f"{name} without bias", kind, {"use_bias": False}
        yield f"{name} relu", kind, {"activation": "relu", **own}
    for word in ("elu", "softplus", "linear", "leaky_relu"):
        yield f"lstm {word}", layers.LSTM, {"activation": word, "recurrent_activation": "softsign"}
    yield "gru before", layers.GRU, {"reset_after": False, "activation": "softsign", **hard}
    yield "gru before without bias", layers.GRU, {"reset_after": False, "use_bias": False}


def built(layers):
    """Every layer that is compared, by the name of its case."""
    for name, kind, options in cases(layers):
        yield name, kind(H, return_sequences=True, return_state=True, **options)
        if name in ("lstm", "gru relu", "gru before", "rnn without bias"):
            inner = kind(H, return_sequences=True, return_state=True, **options)
            yield f"bidirectional {name}", layers.Bidirectional(inner)
    told = {"return_sequences": True, "return_state": True}
    yield "cell", layers.RNN(layers.LSTMCell(H), **told)
    yield "cells", layers.RNN([layers.GRUCell(H), layers.GRUCell(2)], **told)
    backward = layers.GRU(H, name="other", go_backwards=True, **told)
    yield "bidirectional of two", layers.Bidirectional(layers.GRU(H, **told), backward_layer=backward)


def model(keras):
    layers, told = keras.layers, {"return_sequences": True}
    inner = keras.Sequential(name="inside")
    inner.add(layers.LSTM(4, name="third", **told))
    x = start = layers.Input((None, I))
    x = layers.LSTM(4, name="second", recurrent_activation="hard_sigmoid", **told)(x)
    x = layers.Bidirectional(layers.SimpleRNN(2, **told), name="both")(x)
    x = inner(x)
    x = layers.LSTM(2, name="first", use_bias=False, **told)(x)
    return keras.Model(start, layers.GRU(3, name="last")(x))


def main():
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras
    import tf_keras

    here, found, described = Path(__file__).parent, {}, {}
    random = np.random.default_rng(7)
    x = found["x"] = random.normal(size=(B, T, I)).astype(np.float32)
    found["lengths"] = LENGTHS
    mask = np.arange(T) < LENGTHS[:, None]
    for library, version in ((keras, keras.__version__), (tf_keras, tf_keras.__version__)):
        told = described[library.__name__] = {"version": version, "cases": {}}
        library.backend.set_floatx("float64")
        for name, layer in built(library.layers):
            layer(x.astype(np.float64))
            weights = [random.normal(0, 0.6, each.shape).astype(np.float32) for each in layer.get_weights()]
            layer.set_weights(weights)
            y, *states = [np.asarray(each) for each in flat(layer(x.astype(np.float64), mask=mask))]
            config = library.saving.serialize_keras_object(layer)
            told["cases"][name] = {"layer": config, "shapes": [each.shape for each in weights]}
            key = f"{library.__name__}/{name}/"
            found[key + "weights"] = np.concatenate([each.ravel() for each in weights])
            found[key + "y"] = y
            found[key + "states"] = np.concatenate([each.ravel() for each in states])
            assert y.dtype == np.float64, key
        library.backend.set_floatx("float32")
        whole = model(library)
        whole.set_weights([random.normal(0, 0.6, each.shape).astype(np.float32) for each in whole.get_weights()])
        for ending in ("keras", "h5"):
            file = f"{library.__name__}_{version.partition('.')[0]}.{ending}"
            whole.save(here / file)
            y = x
            for layer in whole.layers[1:]:
                for one in getattr(layer, "layers", [layer]):
                    y = np.asarray(one(y))
                    if "rnn" in type(one).__module__:
                        found[f"{file}/{one.name}"] = y
    found["layers"] = np.frombuffer(json.dumps(described).encode(), np.uint8)
    np.savez_compressed(here / "keras_layers.npz", **found)


def flat(value):
    return [each for one in value for each in flat(one)] if isinstance(value, (list, tuple)) else [value]


if __name__ == "__main__":
    sys.exit(main())
