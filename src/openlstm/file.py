"""The model file: safetensors, with the spec in its metadata. Written whole or not at all; nothing in it can run."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as save_numpy

from . import weights
from .spec import Spec

VERSION = "1"  # of the format, under the metadata key "openlstm"
FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}  # what systems say of a full disk
TEMPORARY = ".tmp"  # ends the hidden file that becomes another; one is left only where a process was killed


def write(path: str | os.PathLike[str], tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
    """Writes arrays, all of numpy or all of torch, with a text for each key of `metadata`.

    The file appears under its name only when it is complete, also after a crash of the machine.
    """
    metadata = {"openlstm": VERSION, **metadata}
    if any(type(tensor).__module__.startswith("torch") for tensor in tensors.values()):
        from safetensors.torch import save as save_torch  # only here: whoever has such a tensor has torch

        # Copies: safetensors refuses tensors that share memory, such as tied weights.
        data = save_torch({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, metadata)
    else:
        data = save_numpy({k: v.copy(order="C") for k, v in tensors.items()}, metadata)
    replace(path, data)


def make_folder(path: str | os.PathLike[str]) -> None:
    """Makes a folder, with those above it, if it is not there. Errors: ValueError."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"Cannot make the folder '{path}' ({error.strerror}): give another one") from None


def replace(path: str | os.PathLike[str], data: bytes) -> None:
    """Puts these bytes in place of a file, whole or not at all."""
    with replacing(path) as file:
        file.write(data)


def check_place(path: str | os.PathLike[str]) -> None:
    """May there be such a file. Errors: FileNotFoundError, IsADirectoryError."""
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"Cannot write '{target}': there is no folder '{target.parent}'; make it first")
    if target.is_dir():
        raise IsADirectoryError(f"Cannot write '{target}': it is a folder; give the name of a file")


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """What is written inside takes the place of a file at the end, and nothing does where an error comes before.

    Errors: OSError.
    """
    target = Path(path)
    check_place(target)
    # The name is known before there is a file: wherever Ctrl-C comes, it is taken away again.
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}{TEMPORARY}")
    try:
        try:
            file = open(temporary, "xb")  # noqa: SIM115 - it is closed below
        except OSError as error:  # it would name the hidden file
            raise type(error)(f"Cannot write '{target}' ({error.strerror}): give another place") from None
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in FULL:
            raise OSError(f"Cannot write '{target}' ({error.strerror}): make room, or give another place") from None
        raise


def read(path: str | os.PathLike[str], framework: str = "numpy") -> tuple[dict[str, Any], dict[str, str]]:
    """The arrays, of "numpy" or "torch", and the metadata of a file that openlstm wrote.

    Small weights (`narrow`) come as the floats that they stand for.
    Errors: FileNotFoundError; ValueError for a file that is broken, foreign, or from a later version.
    """
    if read_metadata(path).get("weights", "float32") == "float32":
        return _read(path, {"numpy": "np", "torch": "pt"}[framework], arrays=True)
    small, metadata = _read(path, "np", arrays=True)
    try:
        wide = weights.widen(small)
    except ValueError as error:
        raise ValueError(f"'{path}' has small weights that do not fit: {error}") from None
    if framework == "numpy":
        return wide, metadata
    import torch

    return {name: torch.from_numpy(array) for name, array in wide.items()}, metadata


def narrow(path: str | os.PathLike[str], out: str | os.PathLike[str], kind: str) -> None:
    """Writes a model again with its matrices as `kind` of weights.KINDS. Errors: as `read` and `write` have them."""
    arrays, metadata = read(path)
    write(out, weights.narrow(arrays, kind), {**metadata, "weights": kind})


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The metadata alone, however large the arrays are. Errors: as `read` has them."""
    return _read(path, "np", arrays=False)[1]


def _read(path: str | os.PathLike[str], framework: str, arrays: bool) -> tuple[dict[str, Any], dict[str, str]]:
    target = Path(path)
    if not target.is_file():
        raise FileNotFoundError(
            f"There is no model file '{target}': give the path of one that openlstm.save or `openlstm train` wrote"
        )
    try:
        with safe_open(target, framework) as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in (file.keys() if arrays else ())}
    except (SafetensorError, TypeError, ValueError, AttributeError, OverflowError, MemoryError) as error:
        raise ValueError(
            f"Cannot read '{target}': expected a complete safetensors file ({str(error)[:200]}); give one that "
            "openlstm.save or `openlstm train` wrote"
        ) from None
    found = metadata.get("openlstm")
    if found is None:
        raise ValueError(
            f"'{target}' is a safetensors file, but not one of openlstm: its metadata has no 'openlstm'; build the "
            "module by hand and load the tensors as its state_dict"
        )
    if found != VERSION:
        raise ValueError(f"'{target}' has format {found[:20]!r}: this openlstm reads {VERSION!r}; update openlstm")
    return tensors, metadata


def read_spec(path: str | os.PathLike[str], metadata: Mapping[str, str]) -> Spec:
    """The spec that a file's metadata holds. Errors: ValueError."""
    if "spec" not in metadata:
        raise ValueError(f"'{path}' holds no spec: its metadata has {', '.join(sorted(metadata))}")
    try:
        return Spec.parse(metadata["spec"])
    except (ValueError, TypeError) as error:
        raise ValueError(f"'{path}' holds a spec that this openlstm cannot use: {error}") from None


def match(path: str | os.PathLike[str], spec: Spec, tensors: Mapping[str, Any]) -> None:
    """Checks that the arrays of a file are the parameters of its spec, before anything is built. Errors: ValueError."""
    for name in spec.parameters.keys() | tensors.keys():
        wanted, found = spec.parameters.get(name), tensors.get(name)
        shape = None if found is None else tuple(found.shape)
        if wanted != shape:
            raise ValueError(
                f"'{path}' does not fit its spec {spec}: {name} is {shape or 'missing'}, expected "
                f"{wanted or 'no such parameter'}"
            )
        if "float" not in str(found.dtype):  # type: ignore[union-attr] # float32, torch.bfloat16, ...
            raise ValueError(f"'{path}': {name} is of type {found.dtype}, expected a floating type")  # type: ignore[union-attr]
