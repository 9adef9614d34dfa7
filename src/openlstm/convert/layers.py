"""What every foreign format is read into, and written from; and what several formats need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..spec import Spec

Array = Any  # of numpy


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
