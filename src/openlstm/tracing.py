"""Named arrays over time: every pre-activation, gate, memory and output of a run. No torch, no drawing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .spec import Spec

WIDE = 8  # inputs; a table shows no more

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Trace(Mapping[str, Floats]):
    """What a run computed, by name: z_i, i, f, g, o, c, h and so on, with the layer's suffix.

    `arrays`: (T, B, units) each, under names such as c_l0 or z_i_l1_reverse; NaN past the end of a sequence.
    `x`: the input (T, B, I). `output`: that of the last layer (T, B, O), 0 past the end of a sequence.
    `initial`: the states before the first step (B, units), under names such as h_l0.

    `t["c_l0"]` gives one array, and `t["c"]` too where there is one layer in one direction.
    """

    spec: Spec
    x: Floats
    initial: Mapping[str, Floats]
    arrays: Mapping[str, Floats]
    output: Floats

    dims = ("time", "batch", "unit")  # of every array of `arrays`

    def __getitem__(self, name: str) -> Floats:
        if name in self.arrays:
            return self.arrays[name]
        if name + "_l0" in self.arrays and len(self.spec.walks) == 1:
            return self.arrays[name + "_l0"]
        raise KeyError(f"no '{name}' in this trace: it has {', '.join(self.arrays)}")

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    def __repr__(self) -> str:
        time, batch = self.x.shape[:2]
        return f"Trace of {self.spec}: {time} steps, {batch} sequences; {', '.join(self.arrays)}"

    def names(self, layer: int = 0, reverse: bool = False) -> dict[str, Floats]:
        """The arrays of one layer in one direction, under their names without the suffix."""
        suffix = f"_l{layer}" + ("_reverse" if reverse else "")
        found = {name[: -len(suffix)]: array for name, array in self.arrays.items() if name.endswith(suffix)}
        if not found:
            raise KeyError(f"no layer {layer}{' reversed' if reverse else ''} in this trace of {self.spec}")
        return found

    def table(self, unit: int = 0, layer: int = 0, sequence: int = 0, reverse: bool = False, digits: int = 5) -> str:
        """One unit's numbers at every step as text: the network's inputs, if few, then each named value.

        `digits` are significant ones. Past the end of the sequence nothing is printed.
        """
        batch, width = self.x.shape[1:]
        if not 0 <= sequence < batch:
            raise IndexError(f"sequence {sequence}: this trace has {batch}, numbered from 0")
        named = self.names(layer, reverse)
        columns = {name: array[:, sequence, unit] for name, array in named.items() if 0 <= unit < array.shape[-1]}
        if not columns:
            raise IndexError(f"unit {unit}: layer {layer} has {max(a.shape[-1] for a in named.values())}, from 0")
        steps = np.flatnonzero(~np.isnan(next(iter(columns.values()))))
        if width <= WIDE:
            columns = {f"x{k + 1}": self.x[:, sequence, k] for k in range(width)} | columns
        rows = [["step", *columns]]
        rows += [[str(t + 1), *(f"{column[t]:.{digits}g}" for column in columns.values())] for t in steps]
        widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
        return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows)
