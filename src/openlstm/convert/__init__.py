"""From other formats to ours and back: recurrent layers as numbers, with every dialect said or refused.

    found = convert.read("model.onnx")              # {name: Layers(spec, arrays)}, all stacks of recurrent layers in it
    convert.write(found["encoder"], "encoder.pt")

A conversion that would change numbers is refused with the reason. Each format is a module of its own with `read` and
`write`; none of them loads the format's library before it is needed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from .. import file
from .layers import Layers, Refused
from .layers import several as layers_of

__all__ = ["FORMATS", "Layers", "Refused", "convert", "read", "write"]  # and each format's module, once it is used


class Format(NamedTuple):
    """A format: the endings of its files, what it is, and can reading take options (of what no file shows)."""

    endings: tuple[str, ...]
    words: str
    options: bool = False


# Each but ours is read and written by the module of its name here. Files of arrays have no sign of whose they are.
FORMATS = {
    "openlstm": Format((".safetensors",), "a model file of openlstm"),
    "torch": Format((".pt", ".pth", ".bin"), "a state_dict of PyTorch", True),
    "onnx": Format((".onnx",), "an ONNX model"),
    "keras": Format((".keras", ".h5", ".hdf5"), "a model of Keras 3 or tf-keras", True),
    "tf1": Format((), "variables of TensorFlow 1's cells (.npz)", True),
    "flax": Format((), "parameters of Flax' cells (.npz)", True),
    "haste": Format((), "parameters of haste's layers (.npz, .pt)", True),
    "kaldi": Format((), "arrays of Kaldi's LSTM components (.npz)", True),
}


def _format(path: str | os.PathLike[str], given: str | None) -> str:
    if given is not None:
        if given not in FORMATS:
            raise ValueError(f"format is {given!r}: expected one of {', '.join(FORMATS)}")
        return given
    ending = Path(path).suffix.lower()
    for name, each in FORMATS.items():
        if ending in each.endings:
            return name
    endings = ", ".join(ending for each in FORMATS.values() for ending in each.endings)
    others = ", ".join(name for name, each in FORMATS.items() if not each.endings)
    raise ValueError(f"'{path}' ends with '{ending}': expected one of {endings}, or say which format it is: {others}")


def _format_of(path: str | os.PathLike[str], given: str | None) -> str:
    """The format of a file that is read: ours says so itself, whatever its name."""
    if given is None and Path(path).is_file():
        with suppress(ValueError):
            file.read_metadata(path)
            return "openlstm"
    return _format(path, given)


def _module(name: str) -> ModuleType:
    return import_module(f".{name}", __package__)


def __getattr__(name: str) -> ModuleType:
    if name not in FORMATS or name == "openlstm":
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return _module(name)


def read(
    path: str | os.PathLike[str], format: str | None = None, options: Mapping[str, Any] | None = None
) -> dict[str, Layers]:
    """All stacks of recurrent layers in a file, by the names that they have there.

    format: one of FORMATS; None: by the file's ending. options: what the format's file does not show, as its module
    says. Errors: FileNotFoundError, ValueError (`Refused` where a conversion cannot be right), ImportError.
    """
    name = _format_of(path, format)
    if options and not FORMATS[name].options:
        raise ValueError(f"Of {FORMATS[name].words} nothing needs to be said: leave out {', '.join(options)}")
    if name == "openlstm":
        if "task" in file.read_metadata(path):
            from ..train import load

            trained: dict[str, Layers] = _module("torch").read(load(path))
            return trained
        arrays, metadata = file.read(path)
        spec = file.read_spec(path, metadata)
        file.match(path, spec, arrays)
        return {"": Layers(spec, arrays)}
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file '{path}': give {FORMATS[name].words}")
    found: dict[str, Layers] = _module(name).read(path, options) if options else _module(name).read(path)
    return found


def write(layers: Layers | Mapping[str, Layers], path: str | os.PathLike[str], format: str | None = None) -> None:
    """Writes layers, whole or not at all. Errors: as `read` has them; OSError."""
    name = _format(path, format)
    if name == "openlstm":
        one = layers if isinstance(layers, Layers) else _only(layers, path)
        file.write(path, one.arrays, {"spec": one.spec.key})
        return
    for each in layers_of(layers).values():
        if each.spec.definition.own and name != "onnx":
            raise Refused(
                f"{FORMATS[name].words[0].upper()}{FORMATS[name].words[1:]} has no {each.spec.cell}, a cell that "
                "@openlstm.cell declared: keep it in openlstm, or write ONNX, step by step"
            )
    _module(name).write(layers, path)


def _only(layers: Mapping[str, Layers], what: object) -> Layers:
    if len(layers) != 1:
        names = ", ".join(map(repr, layers))
        raise ValueError(f"There are {len(layers)} stacks of layers for '{what}', which has one: choose one of {names}")
    return next(iter(layers.values()))


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    source_format: str | None = None,
    target_format: str | None = None,
    name: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[Layers, float | None]:
    """Reads one file and writes another; gives what was converted, and the largest difference on random input.

    name: which stack, where the source has several. options: as `read` takes them. The difference is that of the
    other side's library from ours, None where that is not installed. Errors: as `read` and `write` have them.
    """
    found = read(source, source_format, options)
    if name is not None and name not in found:
        raise ValueError(f"'{source}' has no layers called '{name}': expected one of {', '.join(map(repr, found))}")
    one = found[name] if name is not None else _only(found, source)
    write(one, target, target_format)
    kind, to = _format_of(source, source_format), _format(target, target_format)
    if kind == to == "openlstm":
        return one, None
    if kind == "openlstm":
        return one, _module(to).difference(target, {"": one})
    chosen = name if name is not None else next(iter(found))
    return one, _module(kind).difference(source, {chosen: one})
