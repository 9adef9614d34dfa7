"""Models of Keras and tf-keras in .keras and .h5 files and in Python: their layers, and where the weights of each are.

Of a file only json, zipfile and h5py (in a process of its own: `hdf5.py`) read, and nothing in it is executed.
Descriptions and arrays are no larger than the file lets them be.
"""

from __future__ import annotations

import json
import re
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import hdf5
from .layers import Refused, numbers

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"  # what is in a .keras archive
LONGEST = 2**25  # bytes of a description of layers, which become some thirty times as many in memory
EXPANSION = 100  # times that an archive may grow: Keras does not compress, and weights hardly can be
HOMES = ("keras", "tf_keras", "tensorflow")  # where layers come from
MODELS = ("Sequential", "Functional", "Model")
# A cell's arrays: from what leads to it, attributes and classes; the names of its layer, the likeliest first; and the
# names of the arrays.
Weights = Callable[[Sequence[str], Sequence[str], Sequence[str]], list[Any]]


class Line(NamedTuple):
    """The Sequential that a layer is in, and its place there; of other models none."""

    model: tuple[str, ...] | None = None
    place: int = 0

    def before(self, other: Line) -> bool:
        """Does the other layer read this one."""
        return self.model is not None and other == Line(self.model, self.place + 1)


NOWHERE = Line()


class Layer(NamedTuple):
    """A layer as it is found in a model: where its weights are is the source's own affair."""

    name: str
    kind: str  # its class; of a foreign one with where it is from
    config: Mapping[str, Any]
    weights: Weights
    line: Line


class Model(NamedTuple):
    version: int  # of Keras: 2 or 3
    description: Any  # as the file has it
    layers: Iterator[Layer]


def major(version: Any) -> int:
    if not (match := re.match(r"(\d{1,3})\.", str(version))):
        raise ValueError(f"it says no version of Keras that is known: {str(version)[:40]!r}")
    return max(2, min(3, int(match[1])))


def read_array(name: str, given: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A layer's weights as floats."""
    return numbers(f"{name}'s weight", given.astype(np.float32) if str(given.dtype) == "bfloat16" else given, shape)


# Models as files. Keras names a layer's weights by its class and how many of it came before in the model (.keras), or
# by the layer's own name (.h5).


def _snake(name: str) -> str:
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def unique(classes: Sequence[str]) -> list[str]:
    """What the members of a list are called in a .keras file: lstm, lstm_1, ..."""
    counts: Counter[str] = Counter()
    names = []
    for name in map(_snake, classes):
        names.append(f"{name}_{counts[name]}" if counts[name] else name)
        counts[name] += 1
    return names


class _Place(NamedTuple):
    """Where a layer is in a file: the steps to it in a .keras file, and the names of the models and of itself."""

    path: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


def _described(model: Mapping[str, Any], weights: Callable[[_Place], Weights], place: _Place) -> Iterator[Layer]:
    """The layers of a model's description, in order, and of the models inside it."""
    config = model["config"]
    members = config["layers"] if isinstance(config, Mapping) else config  # Keras 2.1 has a list for a Sequential
    for k, (step, member) in enumerate(zip(unique([str(one["class_name"]) for one in members]), members, strict=True)):
        kind, own = _class(member), member["config"]
        name = str(own["name"] if "name" in own else member.get("name", ""))
        here = _Place((*place.path, "layers", step), (*place.names, name))
        if kind in MODELS or "layers" in own:
            yield from _described(member, weights, here)
        else:
            line = Line(place.names, k) if model["class_name"] == "Sequential" else NOWHERE
            yield Layer("/".join(here.names), kind, own, weights(here), line)


def _class(member: Mapping[str, Any]) -> str:
    """A layer's class, with where it is from if that is not Keras."""
    kind = str(member["class_name"])
    home = str(member.get("module") or "keras").partition(".")[0]
    registered = str(member.get("registered_name") or kind)
    return kind if home in HOMES and registered == kind else f"{home}.{registered}"


def _model(version: Any, text: str | bytes, weights: Callable[[_Place], Weights]) -> Model:
    model = json.loads(text)
    if not isinstance(model["config"], list) and "layers" not in model["config"]:
        raise Refused(
            f"it is a {_class(model)}, whose class alone knows what is in it: make the model in Python, and give it or "
            "its recurrent layers in place of the file"
        )
    return Model(major(version), model, _described(model, weights, _Place()))


def classes(description: Any) -> Iterator[tuple[str, str]]:
    """All classes that a description names, with the modules that it says they are from: of Keras if it says none."""
    if isinstance(description, Mapping):
        if "class_name" in description:
            yield str(description["class_name"]), str(description.get("module") or "keras")
        for value in description.values():
            yield from classes(value)
    elif isinstance(description, list):
        for value in description:
            yield from classes(value)


def opened(path: Path) -> Model:
    """The model in a file. Errors: ValueError, and what json and zipfile raise."""
    with open(path, "rb") as data:
        if data.read(2) == b"PK":
            with zipfile.ZipFile(data) as archive:
                parts = {name: _entry(archive, name, path.stat().st_size) for name in (CONFIG, METADATA, WEIGHTS)}
            version = json.loads(parts[METADATA])["keras_version"]
            _, arrays = hdf5.read(parts[WEIGHTS], ())
            if any(name.startswith("_layer_checkpoint_dependencies/") for name in arrays):
                raise Refused("it is of Keras 2.12 or 2.13, which named weights in a way given up since: save a .h5")
            return _model(version, parts[CONFIG], partial(_by_class, arrays))
        data.seek(0)
        texts, arrays = hdf5.read(data.read(), ("model_config", "keras_version"))
    if "model_config" not in texts:
        raise Refused(
            "it has weights alone, without the layers' options, such as their activations: give a whole model, saved "
            "by model.save"
        )
    if len(texts["model_config"]) > LONGEST:
        raise ValueError(f"its model_config has {len(texts['model_config'])} characters: expected fewer")
    version = texts.get("keras_version", "2.0")  # before 2.0.5 it was not there
    return _model(version, texts["model_config"], partial(_by_name, arrays))


def _entry(archive: zipfile.ZipFile, name: str, size: int) -> bytes:
    """A file in an archive of that many bytes."""
    if name not in archive.namelist():
        raise ValueError(f"it has no {name}")
    info = archive.getinfo(name)
    if info.file_size > (size * EXPANSION if name == WEIGHTS else LONGEST):
        raise ValueError(f"its {name} would have {info.file_size} bytes: expected fewer")
    with archive.open(info) as entry:
        return entry.read(info.file_size)


Arrays = Mapping[str, Any]  # by the paths in a file


def _there(place: _Place, array: Any) -> Any:
    if array is None:
        raise ValueError(
            f"{'/'.join(place.names)} has weights in chunks, compressed or elsewhere, or no floats: Keras stores "
            "floats plainly"
        )
    return array


def _by_class(arrays: Arrays, place: _Place) -> Weights:
    """Of .keras files: layers/lstm_1/cell/vars/0."""

    def weights(steps: Sequence[str], names: Sequence[str], wanted: Sequence[str]) -> list[Any]:
        path = "/".join((*place.path, *steps, "vars")) + "/"
        found = {name.removeprefix(path): array for name, array in arrays.items() if name.startswith(path)}
        if not found:
            raise ValueError(
                f"it has no {path}, where the weights of a layer are expected; if models share a layer, save a .h5"
            )
        if set(found) != {str(k) for k in range(len(wanted))}:
            raise ValueError(f"{place.names[-1]} has {len(found)} arrays: expected {', '.join(wanted)}")
        return [_there(place, found[str(k)]) for k in range(len(wanted))]

    return weights


def _by_name(arrays: Arrays, place: _Place) -> Weights:
    """Of .h5 files: model_weights/<layer>/..., under the names that the weights had. All of a model inside is there."""

    def weights(steps: Sequence[str], names: Sequence[str], wanted: Sequence[str]) -> list[Any]:
        start = f"model_weights/{place.names[0]}/"
        found = {
            tuple(name.removeprefix(start).split("/")): array
            for name, array in arrays.items()
            if name.startswith(start)
        }
        if not found:
            raise ValueError(f"it has no {start}, where the weights of a layer are expected")
        if len(place.names) > 1:  # Keras 3 has the whole way to a layer of a model inside, tf-keras its name alone
            whole = {path: array for path, array in found.items() if path[: len(place.names)] == place.names}
            found = whole or {path: array for path, array in found.items() if place.names[-1] in path}
        called = next((name for name in names if any(name in path for path in found)), None)
        chosen = []
        for name in wanted:
            fitting = [path for path in found if path[-1].partition(":")[0] == name and (not names or called in path)]
            if len(fitting) != 1:
                raise ValueError(
                    f"{'/'.join(place.names)} has {len(fitting)} arrays that may be its {name}: expected one; save the "
                    "model as a .keras file"
                )
            chosen.append(_there(place, found[fitting[0]]))
        return chosen

    return weights


# Models as they are in Python.


def home(thing: Any) -> Any:
    """The library that an object, or what its class is made of, is from. Errors: ValueError."""
    for each in type(thing).__mro__:
        if (root := each.__module__.partition(".")[0]) in HOMES:
            return sys.modules[root]
    raise ValueError(f"{type(thing).__name__} is no model or layer of Keras: give one, or the path of a file")


def objects(thing: Any, names: tuple[str, ...] = (), line: Line = NOWHERE) -> Iterator[tuple[str, Any, Line]]:
    """The layers of a model, in order, and of the models inside it; or a layer itself."""
    if not hasattr(thing, "layers"):
        yield "/".join(names or (thing.name,)), thing, line
        return
    for k, member in enumerate(thing.layers):
        at = Line(names, k) if type(thing).__name__ == "Sequential" else NOWHERE
        yield from objects(member, (*names, member.name), at)


def live(thing: Any) -> Iterator[Layer]:
    """The layers of `objects`, each once, with their descriptions."""
    seen = set()
    for name, one, line in objects(thing):
        if id(one) not in seen:
            seen.add(id(one))
            kind = _class({"class_name": type(one).__name__, "module": type(one).__module__})
            yield Layer(name, kind, one.get_config() if "." not in kind else {}, partial(_of_object, one), line)


def _of_object(layer: Any, steps: Sequence[str], names: Sequence[str], wanted: Sequence[str]) -> list[Any]:
    at = layer
    for step in steps:
        members = dict(zip(unique([type(one).__name__ for one in at]), at, strict=True)) if isinstance(at, list) else {}
        at = members[step] if members else getattr(at, step)
    arrays = list(at.get_weights())
    if len(arrays) != len(wanted):
        raise ValueError(
            f"{layer.name} has {len(arrays)} arrays: expected {', '.join(wanted)}; call a new layer once, so that it "
            "has its weights"
        )
    return arrays
