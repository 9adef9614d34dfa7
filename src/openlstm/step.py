"""One layer, one direction, one step, in any arithmetic: how the equations of `cells.py` are put together."""

from __future__ import annotations

from typing import Any

from . import cells
from .cells import Array, Arrays
from .spec import Spec, Walk


class Step:
    """The parameters of one walk made ready, and the step itself.

    `p` has the walk's parameters under their names without the suffix (`Spec.shapes`). `weight_mask` drops recurrent
    weights. `m` is the arithmetic.
    """

    def __init__(self, spec: Spec, walk: Walk, p: Arrays, m: Any, weight_mask: Array | None = None) -> None:
        self.spec, self.cell, self.m, self.p, self.size = spec, spec.definition, m, p, walk.hidden_size
        inside, self.apart = self.cell.inside(spec), self.cell.apart(spec)
        weight: Any = p.get("weight_hh")
        weight = weight if weight_mask is None else weight * weight_mask
        self.w: dict[str, Array] = {}  # the cell's own arrays
        for name, blocks in spec.own.items():
            self.w |= {block: p[name][self._block(k)] for k, block in enumerate(blocks)}
        for k, gate in enumerate(spec.recurrent):
            if gate in inside:
                self.w["R_" + gate] = weight[self._block(k)]
                if spec.bias:
                    self.w["b_" + gate] = p["bias_hh"][self._block(k)]
        # Gates that apply their recurrent weights themselves are the last ones, so the rest is one block.
        self.outside = tuple(gate for gate in spec.recurrent if gate not in inside)
        rows = slice(0, len(self.outside) * self.size)
        self.weight, self.bias, self.gain = (
            (array if array is None or not inside else array[rows])
            for array in (weight, p.get("bias_hh"), p.get("norm_hh"))
        )

    def _block(self, k: int) -> slice:
        return slice(k * self.size, (k + 1) * self.size)

    def inputs(self, x: Array) -> Array:
        """W x + b_ih for all steps at once: (T, B, I) to (T, B, G*H)."""
        return cells.from_input(x, self.p["weight_ih"], self.p.get("bias_ih"), self.p.get("norm_ih"), self.m)

    def __call__(self, z_x: Array, s: Arrays, masks: Arrays) -> tuple[dict[str, Array], dict[str, Array], Array]:
        """One step: W x + b_ih (B, G*H) and the states give every named value, the new states, and the output.

        `masks`: `recurrent` (on h), `candidate`, and for each state `zoneout_<state>`: a mask, or its expectation.
        Named values: z_<gate> before peepholes; the cell's own; c_new, h_new before zoneout; r and p of a projection.
        """
        m, p, spec = self.m, self.p, self.spec
        seen = s["h"] * masks["recurrent"] if "recurrent" in masks else s["h"]
        z_h: Any = cells.from_state(seen, self.weight, self.bias, self.gain, m) if self.outside else None
        if "weight_ch" in p and self.cell.dense(spec):
            z_x = z_x + cells.from_memory(s["c"], p["weight_ch"], m)
        z: dict[str, Array] = {}
        for k, gate in enumerate(spec.gates):
            z[gate] = z_x[..., self._block(k)]
            if gate not in self.outside:
                continue
            recurrent = z_h[..., self._block(self.outside.index(gate))]
            if gate in self.apart:
                z[gate + "h"] = recurrent
            else:
                z[gate] = z[gate] + recurrent
        w = self.w | {"keep": masks["candidate"]} if "candidate" in masks else self.w
        values = self.cell.equations(z, {**s, "h_seen": seen}, w, m, spec)
        new = {name: values[name] for name in self.cell.states}
        output = None
        if spec.proj_size:
            new["h"], output = cells.project(new["h"], p, spec.proj_clip, m)
            values["r"] = new["h"]
            if output is not None:
                values["p"] = output
        for name, old in s.items():
            keep = masks.get("zoneout_" + name)
            if keep is not None:
                shown = "r" if name == "h" and spec.proj_size else name
                values[shown + "_new"] = new[name]
                values[shown] = new[name] = cells.zoneout(new[name], old, keep)
        output = new["h"] if output is None else m.join(new["h"], output)
        return {**{"z_" + name: value for name, value in z.items()}, **values}, new, output
