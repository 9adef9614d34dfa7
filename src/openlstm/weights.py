"""Small weights: matrices of 16 or of 8 bits, and back. No torch.

bfloat16 is the upper half of a float32, to the nearest, halves to even. int8 is a whole number times a scale for each
row, which is the row's greatest weight / 127, rounded up to 16 bits: then a whole number times its scale is exact, and
what was made small once is the same when it is made small again. The core multiplies such weights by inputs that are
rounded to 16 bits: `product.inl`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

KINDS = ("float32", "bfloat16", "int8")  # of weights; Weights in core.h has them in this order
SCALE = " scale"  # ends the name of a matrix's scales; no parameter's name has a space

Floats = NDArray[np.float32]


def narrow(arrays: Mapping[str, Floats], kind: str) -> dict[str, NDArray[Any]]:
    """The same with every matrix of that kind, under its name: uint16 for bfloat16, int8 with scales beside it.

    Errors: ValueError for weights that are no finite numbers.

    >>> small = narrow({"w": np.array([[1.0, -0.5], [3.0, 0.1]], np.float32), "b": np.ones(2, np.float32)}, "int8")
    >>> small["w"].tolist(), list(small)
    ([[127, -63], [127, 4]], ['w', 'w scale', 'b'])
    """
    found: dict[str, NDArray[Any]] = {}
    for name, array in arrays.items():
        if kind == "float32" or array.ndim != 2:
            found[name] = array
            continue
        wide = np.ascontiguousarray(array, np.float32)
        if not np.isfinite(wide).all():
            raise ValueError(f"{name} holds numbers that are not finite: expected a trained model")
        if kind == "bfloat16":
            bits = wide.view(np.uint32)
            found[name] = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
        else:
            scale = (np.abs(wide).max(1) / np.float32(127)).view(np.uint32)
            scale = (scale + 0xFF & 0xFFFFFF00).astype(np.uint32).view(np.float32)
            rows = np.where(scale > 0, scale, np.float32(1))[:, None]
            found[name], found[name + SCALE] = np.rint(wide / rows).astype(np.int8), scale
    return found


def widen(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The floats that `narrow` has left. Errors: ValueError for scales that do not fit."""
    found: dict[str, NDArray[Any]] = {}
    for name, array in arrays.items():
        if name.endswith(SCALE):
            if arrays.get(name.removesuffix(SCALE), array).dtype != np.int8:
                raise ValueError(f"'{name}' is of no matrix of int8")
        elif array.dtype == np.uint16:
            found[name] = (array.astype(np.uint32) << 16).view(np.float32)
        elif array.dtype == np.int8:
            scale = arrays.get(name + SCALE)
            if array.ndim != 2 or scale is None or scale.shape != array.shape[:1] or scale.dtype != np.float32:
                raise ValueError(f"{name} is of int8, but its scales are missing or do not fit")
            found[name] = array.astype(np.float32) * scale[:, None]
        else:
            found[name] = array
    return found
