"""What every foreign format is read into, and written from; and what several formats need."""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, replace
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

from .. import file
from ..cells import CELLS
from ..spec import Spec, suffix
from ..words import counted

Array = Any  # of numpy
LARGEST = 2**31  # bytes of one array in a file
# What a spec says of arrays' order, of training and of its beginning: no format's function depends on it.
ELSEWHERE = {
    *("batch_first", "dropout", "recurrent_dropout", "recurrent_dropout_on", "weight_dropout", "forget_bias"),
}


class Layers(NamedTuple):
    """Recurrent layers as numbers: what every format is read into, and written from."""

    spec: Spec
    arrays: dict[str, Array]  # names and shapes of spec.parameters


class Refused(ValueError):
    """A conversion that cannot be right: what was found, which dialect it is, what to do instead."""


def blocks(array: Array, order: Iterable[str], axis: int = 0) -> dict[str, Array]:
    """The blocks of a stacked array by their names, in the order in which they stand there."""
    names = tuple(order)
    return dict(zip(names, np.split(array, len(names), axis), strict=True))


def stack(parts: Mapping[str, Array], order: Iterable[str], axis: int = 0) -> Array:
    """Blocks put together in an order."""
    return np.concatenate([parts[name] for name in order], axis)


def only(spec: Spec, says: Iterable[str], words: str) -> None:
    """Errors: Refused where a spec has an option that a format cannot say.

    says: what it can, names of options or one value of them, such as "peephole=diagonal".
    """
    own = [f.name for f in fields(spec) if "help" in f.metadata] + list(CELLS[spec.cell].options)
    plain, said = Spec.of(spec.cell, 1, 2), ELSEWHERE | set(says)
    options = {name: f"{name}={getattr(spec, name)}" for name in own if getattr(spec, name) != getattr(plain, name)}
    if more := [text for name, text in options.items() if name not in said and text not in said]:
        raise Refused(f"{words} no {spec.cell} with {', '.join(more)}: keep it in openlstm")


def cells(layers: Layers) -> Iterator[tuple[int, bool, Layers]]:
    """Every layer in every direction alone: which layer, does it read backwards, and its numbers."""
    for walk in layers.spec.walks:
        one = replace(layers.spec, input_size=walk.input_size, hidden_size=(walk.hidden_size,), bidirectional=False)
        yield walk.layer, walk.reverse, Layers(one, {n + "_l0": layers.arrays[n + walk.suffix] for n in one_names(one)})


def one_names(spec: Spec) -> list[str]:
    """The parameters of a spec's first layer, without the suffix."""
    return list(spec.shapes(spec.walks[0]))


def stacked(name: str, found: Mapping[tuple[int, bool], Layers]) -> Layers:
    """One stack of what `cells` gives, from the bottom up. Errors: ValueError where they do not fit together."""
    count, both = 1 + max(layer for layer, _ in found), any(reverse for _, reverse in found)
    for layer in range(count):
        for reverse in (False, True)[: 1 + both]:
            if (layer, reverse) not in found:
                way = " in the other direction" if (layer, not reverse) in found else ""
                raise ValueError(
                    f"{name} has no layer {layer}{way}: expected {counted(count, 'layer')} that read each other"
                )
    first = found[0, False].spec
    sizes = tuple(found[layer, False].spec.hidden_size[0] for layer in range(count))
    spec = replace(first, hidden_size=sizes, bidirectional=both)
    arrays: dict[str, Array] = {}
    for walk in spec.walks:
        own = found[walk.layer, walk.reverse]
        if own.spec != (wanted := replace(first, input_size=walk.input_size, hidden_size=(walk.hidden_size,))):
            raise ValueError(f"{name} has {own.spec} as layer {walk.layer}: expected {wanted} in this stack")
        arrays |= {n + walk.suffix: own.arrays[n + "_l0"] for n in one_names(own.spec)}
    return Layers(spec, arrays)


def several(layers: Layers | Mapping[str, Layers]) -> dict[str, Layers]:
    """By names; one alone has none."""
    return {"": layers} if isinstance(layers, Layers) else dict(layers)


def named(name: str, layer: int, reverse: bool) -> str:
    """Of one cell of a stack, in a format that has no stacks: "encoder_l0_reverse", or "l0" without a name."""
    return (name + suffix(layer, reverse)).removeprefix("_")


def grouped(found: Mapping[str, Layers]) -> dict[str, Layers]:
    """Cells under names as `named` gives them put together to stacks; others stay as they are. Errors: ValueError."""
    stacks: dict[str, dict[tuple[int, bool], Layers]] = {}
    alone = {}
    for name, one in found.items():
        if match := re.fullmatch(r"(?:(?P<name>.*)_)?l(?P<layer>\d{1,6})(?P<reverse>_reverse)?", name):
            stacks.setdefault(match["name"] or "", {})[int(match["layer"]), bool(match["reverse"])] = one
        else:
            alone[name] = one
    return alone | {name: stacked(name or "the stack", own) for name, own in stacks.items()}


def load(source: Any, words: str) -> dict[str, np.ndarray]:
    """Arrays by their names: of a mapping, whose inner names come after a "/", an .npz file or a state_dict's.

    words: what they are, for messages. Nothing in a file is executed. Errors: FileNotFoundError, ValueError.
    """
    if isinstance(source, Mapping):
        return dict(_flat(source))
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file '{path}': give {words}")
    if path.suffix.lower() in (".pt", ".pth", ".bin", ".safetensors"):
        from .torch import as_numpy
        from .torch import load as load_state

        return {str(name): as_numpy(tensor) for name, tensor in load_state(path).items() if hasattr(tensor, "detach")}
    try:
        with zipfile.ZipFile(path) as archive:
            return {info.filename.removesuffix(".npy"): _npy(archive, info) for info in archive.infolist()}
    except (ValueError, zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, MemoryError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"'{path}' cannot be read ({reason}): give {words}, as numpy.savez writes it") from None
    except Exception as error:  # of zlib, whose type is its own; of a broken header, whatever numpy's parser raises
        raise ValueError(
            f"'{path}' is broken ({type(error).__name__}): give {words}, as numpy.savez writes it"
        ) from None


def _npy(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """One array of an .npz file; its size is known before it is read."""
    if info.file_size > LARGEST:
        raise ValueError(f"{info.filename} has {info.file_size} bytes, expected fewer than {LARGEST}")
    data = io.BytesIO(archive.read(info))
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(npy.read_magic(data))
    if read is None:
        raise ValueError(f"{info.filename} has a version of the format that is not known")
    shape, _, dtype = read(data)
    if dtype.hasobject or prod(shape) * dtype.itemsize != info.file_size - data.tell():
        raise ValueError(f"{info.filename} says that it holds {shape} of {dtype}, which is not what is there")
    data.seek(0)
    return np.asarray(npy.read_array(data, allow_pickle=False))


def _flat(tree: Mapping[Any, Any], before: str = "") -> Iterator[tuple[str, np.ndarray]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}/")
        else:
            value = getattr(value, "detach", lambda value=value: value)()  # of torch, with a gradient
            yield f"{before}{name}", np.asarray(value)


def save(path: str | os.PathLike[str], arrays: Mapping[str, Any]) -> None:
    """Writes an .npz file, whole or not at all. Errors: OSError."""
    out = io.BytesIO()
    np.savez(out, **dict(arrays))
    file.replace(path, out.getvalue())


def save_each(
    layers: Layers | Mapping[str, Layers],
    path: str | os.PathLike[str],
    arrays_of: Callable[[Layers, str], Mapping[str, Any]],
) -> None:
    """Writes the arrays of all stacks, each of which is given with its name, as `save` does."""
    found: dict[str, Any] = {}
    for name, one in several(layers).items():
        found |= arrays_of(one, name)
    save(path, found)


def numbers(name: str, array: Any, shape: tuple[int, ...]) -> np.ndarray:
    """An array of floats of this shape. Errors: ValueError."""
    found = np.asarray(array)
    if found.dtype.kind != "f" or found.shape != shape:
        raise ValueError(f"{name} is {found.dtype} of shape {found.shape}: expected floats of shape {shape}")
    return found if found.dtype in (np.float32, np.float64) else found.astype(np.float32)


def outputs(layers: Layers, x: Any) -> Any:
    """What layers give for (T, B, I), in float64: (T, B, O). It runs the reference."""
    import torch

    from ..nn import of

    module = of(replace(layers.spec, batch_first=False)).to(torch.float64)
    module.load_state_dict({name: torch.from_numpy(np.array(a, np.float64)) for name, a in layers.arrays.items()})
    with torch.no_grad():
        return module.eval()(torch.from_numpy(np.asarray(x, np.float64)))[0].numpy()
