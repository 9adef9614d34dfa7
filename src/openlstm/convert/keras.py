"""Keras 3 and tf-keras (Keras 2): whole models as .keras and .h5 files, and live models and layers.

    found = convert.read("model.keras")             # {"lstm": Layers, "encoder/lstm": Layers of a model inside}

LSTM, GRU, SimpleRNN, RNN of their cells, and Bidirectional of these are read wherever they are in Sequential and
Functional models; a layer in a model that is itself a layer is "<model>/<layer>". Keras is not needed, and nothing in
a file is executed. A recurrent layer that has no form here, such as ConvLSTM2D, is refused. A SavedModel holds what
TensorFlow alone reads: load it with tf-keras, and give the live model.

What the two libraries do differently is told by the version that is in the file: `hard_sigmoid` is
max(0, min(1, x / 6 + 1/2)) in Keras 3, and with 0.2 x in Keras 2.

What is left behind: `dropout` on x, initialisers, regularisers and constraints act in training alone.
`return_sequences`, `return_state`, `stateful`, `unroll`, `implementation` and `zero_output_for_mask` say what is given
back, what is kept or how it is computed, and do not change a step's numbers. With a mask Keras repeats the last output
behind a sequence's end, or gives 0; `lengths` here give 0; the final states are the same.

`write` makes one layer of Keras for each of a stack, "<name>_l0", "<name>_l1", ..., in a Sequential; such names in
line in a Sequential are read as one stack again. Keras has one bias where we have two: their sum is written (a GRU
that resets after has both). Masks of training other than recurrent_dropout are not written.
"""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import file
from ..cells import ACTIVATIONS
from ..spec import Spec
from .hdf5 import library
from .keras_models import (
    CONFIG,
    METADATA,
    WEIGHTS,
    Layer,
    Line,
    classes,
    home,
    live,
    major,
    objects,
    opened,
    read_array,
    unique,
)
from .layers import Layers, Refused, blocks, cells, named, only, outputs, several, stack, stacked

WHOLE = "give a whole model, as model.save writes it to a .keras or .h5 file"


class _Kind(NamedTuple):
    cell: str
    gates: str  # in Keras' order, by our names
    functions: tuple[str, ...]  # Keras' arguments, in the order of our activations


KINDS = {
    "LSTM": _Kind("lstm", "ifgo", ("recurrent_activation", "activation", "activation")),
    "GRU": _Kind("gru", "urn", ("recurrent_activation", "activation")),
    "SimpleRNN": _Kind("rnn", "h", ("activation",)),
}
CELLS = {f"{name}Cell": name for name in KINDS}
RECURRENT = re.compile("LSTM|GRU|RNN")  # in the names of classes, also of those that have no form here
# Keras' functions by our names. All others have no form here.
FUNCTIONS = {
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "relu": "relu",
    "linear": "linear",
    "softsign": "softsign",
    "softplus": "softplus",
    "elu": "elu",
    "leaky_relu": "leaky_relu:0.2",
}
HARD_SIGMOID = {2: "hard_sigmoid:0.2:0.5", 3: f"hard_sigmoid:{1 / 6}:0.5"}  # by the library's version
VERSION = "3.0.0"  # the first that reads what is written here


def read(source: Any, options: Mapping[str, Any] | None = None) -> dict[str, Layers]:
    """All recurrent layers of a model (a .keras or .h5 file, or a live model or layer), by their names.

    options: of the spec, for all layers, in place of what Keras says, such as the activations of a custom function.
    Errors: FileNotFoundError, ValueError, Refused; ImportError without h5py.
    """
    if hasattr(source, "get_config"):
        return _all(live(source), major(home(source).__version__), options or {})
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file '{path}': {WHOLE}")
    library()
    try:
        model = opened(path)
        return _all(model.layers, model.version, options or {})
    except Refused as error:
        raise Refused(f"'{path}': {error}") from None
    except Exception as error:  # of zlib, of json, and of HDF5, whose failures h5py raises as whatever they resemble
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"'{path}' cannot be read ({reason}): {WHOLE}") from None


def _all(layers: Iterator[Layer], version: int, options: Mapping[str, Any]) -> dict[str, Layers]:
    """What is recurrent among layers, with stacks put together."""
    found: dict[str, Layers] = {}
    lines: dict[str, Line] = {}
    for layer in layers:
        if layer.kind in KINDS or layer.kind in ("RNN", "Bidirectional"):
            if layer.name in found:
                raise ValueError(f"it has two layers called {layer.name!r}: give them names of their own")
            found[layer.name], lines[layer.name] = _layers(layer, version, options), layer.line
            continue
        parts = classes({"class_name": layer.kind, "config": layer.config})
        if mentioned := next((name for name, _ in parts if RECURRENT.search(name)), None):
            inside = "" if mentioned == layer.kind else f" around {mentioned}"
            raise Refused(
                f"{layer.name} is a {layer.kind}{inside}, which has no form here: take the recurrent layers that you "
                f"want out of the model, and read them alone; expected {', '.join(KINDS)}, RNN or Bidirectional"
            )
    if not found:
        raise ValueError(f"it has no recurrent layers: expected {', '.join(KINDS)}, RNN or Bidirectional")
    return _joined(found, lines)


def _joined(found: dict[str, Layers], lines: Mapping[str, Line]) -> dict[str, Layers]:
    """Stacks as `write` names their layers, put together where they are in line and fit; all others as they are."""
    joined: dict[str, Layers] = {}
    done: set[str] = set()
    for name, one in found.items():
        base, run = name.removesuffix("_l0"), [name]
        while base != name and (after := named(base, len(run), False)) in found and lines[run[-1]].before(lines[after]):
            run.append(after)
        parts = {(k, back): own for k, each in enumerate(run) for _, back, own in cells(found[each])}
        if len(run) > 1 and base not in found and all(found[each].spec.num_layers == 1 for each in run):
            try:
                joined[base] = stacked(base, parts)
                done |= set(run)
            except ValueError:  # they are layers of different kinds
                pass
        if name not in done:
            joined[name] = one
    return joined


def _layers(layer: Layer, version: int, options: Mapping[str, Any]) -> Layers:
    """One layer of Keras: a stack where it is an RNN of several cells, in both directions where it is Bidirectional."""
    whole = {"class_name": layer.kind, "config": layer.config}
    ways: list[tuple[str, bool, Mapping[str, Any]]] = [("", False, whole)]
    if layer.kind == "Bidirectional":
        merge, forward = layer.config["merge_mode"], layer.config["layer"]
        if merge != "concat":
            raise Refused(
                f"{layer.name} is Bidirectional with merge_mode={merge!r}: expected 'concat', whose halves you can "
                "merge yourself; its weights are the same"
            )
        backward = layer.config.get("backward_layer") or {
            "class_name": forward["class_name"],
            "config": {**forward["config"], "go_backwards": True},
        }
        ways = [("forward_layer", False, forward), ("backward_layer", True, backward)]
    parts = {}
    for attribute, reverse, way in ways:
        kind, config = way["class_name"], way["config"]
        if bool(config.get("go_backwards")) != reverse:
            raise Refused(
                f"{layer.name} has go_backwards={config.get('go_backwards')}{attribute and ' in its ' + attribute}: a "
                "layer here reads forwards, or in both directions; put it into a Bidirectional, and use half of its "
                "output"
            )
        start, own = ([attribute], [NAMED[attribute] + config["name"], config["name"]]) if attribute else ([], [])
        places = [([*start, "cell"], kind, config, own)]
        if kind == "RNN":
            inner = config["cell"]
            places = [([*start, "cell"], inner["class_name"], inner["config"], own)]
            if inner["class_name"] == "StackedRNNCells":
                those = inner["config"]["cells"]
                places = [
                    ([*start, "cell", "cells", step], one["class_name"], one["config"], [one["config"]["name"]])
                    for step, one in zip(unique([one["class_name"] for one in those]), those, strict=True)
                ]
        if attribute and len(places) > 1:
            raise Refused(
                f"{layer.name} runs all its cells in one direction and then in the other, but layers here see both "
                "directions of the layer below: make each a Bidirectional of its own"
            )
        for level, (steps, kind, own_config, own) in enumerate(places):
            name = f"{layer.name}'s cell {level}" if len(places) > 1 else layer.name
            cell = CELLS.get(kind, kind)
            if cell not in KINDS:
                raise Refused(
                    f"{name} is a {kind}, which has no form here: expected {', '.join(KINDS)}, or their cells"
                )
            given = {**own_config, "time_major": config.get("time_major", False)}
            get = partial(layer.weights, steps, own)
            parts[level, reverse] = _cell(name, cell, given, get, version, options)
    return stacked(layer.name, parts)


NAMED = {"forward_layer": "forward_", "backward_layer": "backward_"}  # how Bidirectional names its layers


def _cell(
    name: str,
    kind: str,
    config: Mapping[str, Any],
    weights: Callable[[Sequence[str]], list[Any]],
    version: int,
    options: Mapping[str, Any],
) -> Layers:
    cell, gates, functions = KINDS[kind]
    units, bias = config["units"], bool(config.get("use_bias", True))
    if not isinstance(units, int) or not 0 < units < 2**20:
        raise ValueError(f"{name} has {units!r} units: expected a number of at least 1, and not so large")
    told: dict[str, Any] = {"bias": bias, "batch_first": not config["time_major"]}
    told |= {"recurrent_dropout": config.get("recurrent_dropout") or 0.0}
    if cell == "gru":
        told["reset"] = "after" if config.get("reset_after") else "before"
    option = "nonlinearity" if cell == "rnn" else "activations"
    if option not in options:
        found = tuple(_function(name, config[argument], version, option) for argument in functions)
        told[option] = found[0] if cell == "rnn" else found
    both = bias and told.get("reset") == "after"  # biases, of x and of h
    arrays = weights(["kernel", "recurrent_kernel", "bias"][: 2 + bias])
    inputs = arrays[0].shape[0] if len(arrays[0].shape) == 2 else 0
    if not 0 < inputs < 2**24:
        raise ValueError(f"{name} has a kernel of shape {tuple(arrays[0].shape)}: expected (inputs, {units} units)")
    rows = len(gates) * units
    shapes = [(inputs, rows), (units, rows), (2, rows) if both else (rows,)]
    spec = Spec.of(cell, inputs, units, **(told | dict(options)))
    theirs = [read_array(name, array, shape) for array, shape in zip(arrays, shapes, strict=False)]
    ours = {"weight_ih_l0": theirs[0].T, "weight_hh_l0": theirs[1].T}
    if bias:
        ours["bias_ih_l0"], ours["bias_hh_l0"] = theirs[2] if both else (theirs[2], np.zeros_like(theirs[2]))
    ours = {key: stack(blocks(array, gates), spec.gates) for key, array in ours.items()}
    file.match(name, spec, ours)  # options may say what is not so
    return Layers(spec, ours)


def _function(name: str, given: Any, version: int, option: str) -> str:
    word = "linear" if given is None else given
    if isinstance(word, str) and (ours := {**FUNCTIONS, "hard_sigmoid": HARD_SIGMOID[version]}.get(word)):
        return ours
    called = given.get("config", given) if isinstance(given, Mapping) else given
    raise Refused(
        f"{name} has the activation {str(called)[:60]!r}, which has no form here: expected one of "
        f"{', '.join(FUNCTIONS)}, hard_sigmoid; if it is one of them under a name of its own, give {option}"
    )


# Ours as models of Keras.


def write(layers: Layers | Mapping[str, Layers], path: str | os.PathLike[str]) -> None:
    """Writes a stack as a Sequential, whole or not at all: .keras for Keras 3; .h5 for Keras 3 and for tf-keras.

    Input and output are (B, T, features); every layer returns its sequences. Errors: Refused for what Keras has no
    form of; ValueError for several stacks; OSError; ImportError without h5py.
    """
    found = several(layers)
    if len(found) != 1:
        raise ValueError(f"There are {len(found)} stacks of layers: a model of Keras is written of one")
    (name, one), h5 = next(iter(found.items())), library()
    legacy = Path(path).suffix.lower() in (".h5", ".hdf5")
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip("_-") or one.spec.cell  # what both libraries take as a name
    described, arrays = _written(name, one, legacy)
    kinds = unique([each["class_name"] for each in described])
    out = io.BytesIO()
    with h5.File(out, "w") as root:
        if legacy:
            root.attrs["keras_version"] = VERSION
            root.attrs["backend"] = "tensorflow"
            root.attrs["model_config"] = json.dumps(_sequential(name, one, described, legacy))
            weights = root.create_group("model_weights")
            weights.attrs["layer_names"] = [each["config"]["name"].encode() for each in described]
            weights.attrs["keras_version"], weights.attrs["backend"] = VERSION, "tensorflow"
        for each, kind, own in zip(described, kinds, arrays, strict=True):
            called = each["config"]["name"]
            group = root.create_group(f"model_weights/{called}" if legacy else f"layers/{kind}")
            names = []
            for way, cell in own.items():
                for k, (what, array) in enumerate(cell.items()):
                    inner = f"{called}/{NAMED[way]}{called}" if way else called
                    names.append(f"{inner}/{what}:0" if legacy else f"{way}/cell/vars/{k}".lstrip("/"))
                    group[names[-1]] = array
            if legacy:
                group.attrs["weight_names"] = [each.encode() for each in names]
    if not legacy:
        parts = {
            METADATA: json.dumps({"keras_version": VERSION}).encode(),
            CONFIG: json.dumps(_sequential(name, one, described, legacy)).encode(),
            WEIGHTS: out.getvalue(),
        }
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for part, data in parts.items():
                archive.writestr(zipfile.ZipInfo(part), data)
    file.replace(path, out.getvalue())


def _written(name: str, layers: Layers, legacy: bool) -> tuple[list[dict[str, Any]], list[dict[str, dict[str, Any]]]]:
    """The layers of a stack as Keras describes them, and the arrays of each by its directions and their names."""
    spec = layers.spec
    only(spec, {"bias", "bidirectional", "activations", "nonlinearity", "reset"}, "Keras has")
    kind = next(name for name, each in KINDS.items() if each.cell == spec.cell)
    both = spec.bias and spec.cell == "gru" and spec.reset == "after"  # biases, of x and of h
    functions = (spec.nonlinearity,) if spec.cell == "rnn" else spec.activations
    told: dict[str, Any] = {}
    for argument, text in zip(KINDS[kind].functions, functions, strict=True):
        if told.setdefault(argument, word := _word(text, legacy)) != word:
            raise Refused(f"Keras has one activation for the candidate and the output, not {', '.join(functions[1:])}")
    told |= {"use_bias": spec.bias, "return_sequences": True}
    told |= {"reset_after": spec.reset == "after"} if spec.cell == "gru" else {}
    told |= {"recurrent_dropout": spec.recurrent_dropout} if spec.recurrent_dropout_on == "hidden" else {}
    described: list[dict[str, Any]] = []
    arrays: list[dict[str, dict[str, Any]]] = []
    for level, reverse, (one, own) in cells(layers):
        theirs = {key: stack(blocks(array, one.gates), KINDS[kind].gates) for key, array in own.items()}
        written = {"kernel": theirs["weight_ih_l0"].T, "recurrent_kernel": theirs["weight_hh_l0"].T}
        if spec.bias:
            pair = theirs["bias_ih_l0"], theirs["bias_hh_l0"]
            written["bias"] = np.stack(pair) if both else np.add(*pair)
        if reverse:
            arrays[-1]["backward_layer"] = written
            continue
        called = named(name, level, False) if spec.num_layers > 1 else name
        plain = {"name": called, "dtype": str(written["kernel"].dtype)}
        layer = {"class_name": kind, "config": {**plain, "units": one.hidden_size[0], **told}}
        if spec.bidirectional:
            layer = {"class_name": "Bidirectional", "config": {**plain, "merge_mode": "concat", "layer": _homed(layer)}}
        described.append(_homed(layer))
        arrays.append({"forward_layer" if spec.bidirectional else "": written})
    return described, arrays


def _homed(layer: dict[str, Any]) -> dict[str, Any]:
    return {"module": "keras.layers", **layer, "registered_name": None}


def _sequential(name: str, layers: Layers, described: list[dict[str, Any]], legacy: bool) -> dict[str, Any]:
    """The description of the whole model."""
    shape = {"batch_input_shape" if legacy else "batch_shape": [None, None, layers.spec.input_size]}
    given = {"name": f"{name}_input", "dtype": described[0]["config"]["dtype"], **shape}
    members = [_homed({"class_name": "InputLayer", "config": given}), *described]
    return {
        "module": "keras",
        "class_name": "Sequential",
        "config": {"name": f"{name}_model", "layers": members},
        "registered_name": None,
    }


def _word(text: str, legacy: bool) -> str:
    """Keras' name of one of our functions. Errors: Refused."""
    functions = FUNCTIONS if legacy else {**FUNCTIONS, "hard_sigmoid": HARD_SIGMOID[3]}
    for word, ours in functions.items():
        if _function_of(ours) == _function_of(text):
            return word
    why = "Keras has no such activation"
    if text.startswith("hard_sigmoid"):
        why = (
            "Keras 3 and tf-keras both read .h5 files, each with a hard_sigmoid of its own: write a .keras file"
            if legacy
            else f"Keras 3's is {HARD_SIGMOID[3]}"
        )
    raise Refused(f"The activation {text} cannot be written: {why}")


def _function_of(text: str) -> tuple[Any, ...]:
    """A function with all its constants, to the precision of what is computed."""
    word, *given = text.split(":")
    return (word, *(np.float32(each) for each in (*map(float, given), *ACTIVATIONS[word][1][len(given) :])))


# Keras' own numbers.

OWN = re.compile("(?!Lambda|function|__lambda__).*")  # classes that cannot hold a program, and where Keras' own are
HOME = re.compile(
    r"keras(\.(layers|initializers|regularizers|constraints))?|(keras|tf_keras)\.src\.(models|engine)\.\w+"
)


def difference(source: Any, found: Mapping[str, Layers], seed: int = 0) -> float | None:
    """The largest difference between Keras' output and ours at every step, on random input, over these layers.

    A file is loaded by the library that wrote it; None where that is not installed, or where what is in the file is not
    its own alone, such as a Lambda, which it might execute. Errors: as `read` has them.
    """
    model = source
    if not hasattr(source, "get_config"):
        stored = opened(Path(source))
        own = all(OWN.fullmatch(name) and HOME.fullmatch(home) for name, home in classes(stored.description))
        peer = _installed(stored.version) if own else None
        try:
            model = peer and peer.models.load_model(source, compile=False, safe_mode=True)
        except Exception:  # what is the reason is for Keras to say, in many types
            model = None
        if model is None:
            return None
    peers = {name: layer for name, layer, _ in objects(model)}
    random, worst = np.random.default_rng(seed), 0.0
    for name, one in found.items():
        x = random.normal(size=(7, 3, one.spec.input_size)).astype(np.float32)
        y = x.swapaxes(0, 1) if one.spec.batch_first else x
        for peer in (
            [peers[name]] if name in peers else [peers[named(name, k, False)] for k in range(one.spec.num_layers)]
        ):
            y = _steps(peer, y)
        theirs = y.swapaxes(0, 1) if one.spec.batch_first else y
        worst = max(worst, float(np.abs(theirs - outputs(one, x)).max()))
    return worst


def _installed(version: int) -> Any:
    """The library of that version, or None."""
    for name in ("keras", "tf_keras"):
        try:
            peer = import_module(name)
        except ImportError:
            continue
        if major(peer.__version__) == version:
            return peer
    return None


def _steps(layer: Any, x: Any) -> Any:
    """What a layer gives at every step: of a copy that returns its sequences."""
    config = deepcopy(layer.get_config())  # tf-keras gives out what it keeps
    for each in (config, *(config[key]["config"] for key in ("layer", "backward_layer") if config.get(key))):
        if "return_sequences" in each:
            each |= {"return_sequences": True, "return_state": False, "stateful": False}
    copy = type(layer).from_config(config)
    copy(x)
    copy.set_weights(layer.get_weights())
    y = copy(x)
    peer = home(layer)
    return np.asarray(peer.ops.convert_to_numpy(y) if hasattr(peer, "ops") else y)
