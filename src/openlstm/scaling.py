"""Series as numbers around 0 of size 1, and back. numpy alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# There, back, and the least value that it takes.
TRANSFORMS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array], float]] = {
    "none": (lambda y: y, lambda z: z, -np.inf),
    "sqrt": (np.sqrt, lambda z: np.maximum(z, 0) ** 2, 0.0),
    "log": (np.log, np.exp, np.nextafter(0, 1)),
}


@dataclass(frozen=True)
class Scaling:
    """To numbers around 0 of size 1 and back: (transform(y) - mean) / std."""

    transform: str = "none"
    mean: float = 0.0
    std: float = 1.0

    @classmethod
    def fit(cls, train: Array, transform: str = "none", changes: bool = False) -> Scaling:
        """From the training part, which must be all that is given here.

        changes: it is the steps from one value to the next that get size 1.
        """
        z = cls(transform).apply(train)
        std = float((np.diff(z) if changes else z).std()) if len(z) > changes else 0.0
        still = not std > 1e-9 * np.abs(z).max()  # what is left by rounding, or 0
        return cls(transform, float(z.mean()), 1.0 if still else std)

    def apply(self, y: Array) -> Array:
        """Scaled values. Errors: ValueError for one that the transform does not take."""
        there, _, least = TRANSFORMS[self.transform]
        if (y < least).any():
            raise ValueError(
                f"there is a value of {y.min():g}, but the {self.transform} transform takes none "
                f"{'below 0' if least == 0 else 'of 0 or below'}"
            )
        return (there(y) - self.mean) / self.std

    def undo(self, z: Array) -> Array:
        """What `apply` was given."""
        return TRANSFORMS[self.transform][1](z * self.std + self.mean)
