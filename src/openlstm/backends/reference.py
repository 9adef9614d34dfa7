"""The reference: the equations run by torch operations, one step after the other.

It is the oracle of every other backend. It runs on any device and in any floating type, and autograd, double backward,
forward-mode derivatives and vmap go through it by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cells import NORM_EPSILON
from ..spec import Spec, Walk
from ..step import Step

if TYPE_CHECKING:
    from ..arguments import Keep


class Torch:
    """The arithmetic of torch."""

    sigmoid = staticmethod(torch.sigmoid)
    tanh = staticmethod(torch.tanh)
    exp = staticmethod(torch.exp)
    expm1 = staticmethod(torch.expm1)
    log = staticmethod(torch.log)
    abs = staticmethod(torch.abs)
    relu = staticmethod(torch.relu)
    clip = staticmethod(torch.clamp)
    linear = staticmethod(F.linear)

    @staticmethod
    def maximum(a: Tensor | float, b: Tensor | float) -> Tensor:
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            return torch.maximum(a, b)
        return torch.clamp(a, min=b) if isinstance(a, Tensor) else torch.clamp(b, min=a)  # type: ignore[arg-type]

    @staticmethod
    def minimum(a: Tensor | float, b: Tensor | float) -> Tensor:
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            return torch.minimum(a, b)
        return torch.clamp(a, max=b) if isinstance(a, Tensor) else torch.clamp(b, max=a)  # type: ignore[arg-type]

    @staticmethod
    def negative(x: Tensor) -> Tensor:
        return torch.clamp(x, max=0)

    @staticmethod
    def step(x: Tensor) -> Tensor:
        return (x > 0).to(x.dtype)

    @staticmethod
    def softplus(x: Tensor) -> Tensor:
        return torch.logaddexp(torch.zeros_like(x), x)  # F.softplus is linear above 20: not exact in float64

    @staticmethod
    def layer_norm(x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], eps=NORM_EPSILON)

    @staticmethod
    def join(r: Tensor, p: Tensor) -> Tensor:
        return torch.cat((r, p), -1)


def why_not(spec: Spec, x: Tensor) -> str | None:
    """The reference runs everything."""
    return None


def forward(
    spec: Spec,
    x: Tensor,
    parameters: Mapping[str, Tensor],
    states: Mapping[str, Tensor],
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    masks: Mapping[str, Tensor] | None = None,
    keep: Keep | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """All layers over all steps.

    x: (T, B, I). parameters: under the names of `spec.parameters`. states: the initial ones under `spec.state_names`,
    (B, n) each. lengths: (B,), each in 0..T. reset: (T, B), true where a new sequence begins. masks: under the names of
    `spec.masks`, in training. keep: takes the named values that it asks for.
    Returns the output (T, B, O) and the final states under `spec.state_names`.
    """
    masks = masks or {}
    valid = None if lengths is None else torch.arange(len(x), device=x.device)[:, None] < lengths.to(x.device)  # (T, B)
    if valid is not None:
        x = torch.where(valid[:, :, None], x, 0)  # or a NaN past an end would reach the gradients
        reset = None if reset is None else reset & valid  # past an end nothing begins: the last valid state stays
    final: dict[str, Tensor] = {}
    for layer in range(spec.num_layers):
        outputs = []
        for walk in spec.walks:
            if walk.layer == layer:
                y, last = _walk(spec, walk, x, parameters, states, valid, reset, masks, keep)
                outputs.append(y)
                final |= last
        y = outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)
        if f"dropout_l{layer + 1}" in masks:
            y = y * masks[f"dropout_l{layer + 1}"]
        x = y + x if spec.residual and layer else y
    return x, final


def _walk(
    spec: Spec,
    walk: Walk,
    x: Tensor,
    parameters: Mapping[str, Tensor],
    states: Mapping[str, Tensor],
    valid: Tensor | None,
    reset: Tensor | None,
    masks: Mapping[str, Tensor],
    keep: Keep | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """One layer in one direction: (T, B, I) to (T, B, O), and the final states under their full names."""
    suffix = walk.suffix
    time = range(len(x))
    step = Step(spec, walk, {n: parameters[n + suffix] for n in spec.shapes(walk)}, Torch, masks.get("weight" + suffix))
    own = {name: masks[name + suffix] for name in ("recurrent", "candidate") if name + suffix in masks}
    for name in spec.definition.states:
        if getattr(spec, f"zoneout_{name}", 0.0):
            rate = x.new_full((1, 1, 1), getattr(spec, f"zoneout_{name}"))
            own[f"zoneout_{name}"] = masks.get(f"zoneout_{name}{suffix}", rate.expand(len(x), 1, 1))
    z = step.inputs(x)  # (T, B, G*H)
    initial = {name: states[name + suffix] for name in spec.definition.states}
    state = dict(initial)
    outputs: list[Tensor] = []
    shown: list[tuple[int, dict[str, Tensor]]] = []
    for t in reversed(time) if walk.reverse else time:
        # Backwards, a new sequence begins where the one after it in time ends.
        begins = t + 1 if walk.reverse else t
        if reset is not None and begins < len(x):
            state = {k: torch.where(reset[begins][:, None], initial[k], v) for k, v in state.items()}
        # What there is of masks at this step: those over time have three dimensions.
        now = {name: mask[t] if mask.dim() == 3 else mask for name, mask in own.items()}
        values, new, y = step(z[t], state, now)
        if valid is not None:
            here = valid[t][:, None]
            new = {k: torch.where(here, v, state[k]) for k, v in new.items()}
            y = torch.where(here, y, torch.zeros_like(y))
        state = new
        outputs.append(y)
        if keep is not None:
            shown.append((t, {name: value for name, value in values.items() if keep.wants(name + suffix)}))
    if walk.reverse:
        outputs.reverse()
    if keep is not None:
        _show(keep, suffix, sorted(shown, key=lambda step: step[0]), valid)
    y = torch.stack(outputs) if outputs else x.new_zeros(0, x.shape[1], spec.output_size(walk.layer) // spec.directions)
    return y, {name + suffix: value for name, value in state.items()}


def _show(keep: Keep, suffix: str, steps: list[tuple[int, dict[str, Tensor]]], valid: Tensor | None) -> None:
    """Puts the values of all steps in place, and has autograd put their gradients there."""
    for name in steps[0][1] if steps else ():
        values = torch.stack([found[name].detach() for _, found in steps])
        none = None if valid is None else ~valid[:, :, None]
        keep.values[name + suffix] = values if none is None else values.masked_fill(none, torch.nan)
        for t, found in steps if keep.gradients else ():
            if not found[name].requires_grad:
                continue

            def put(gradient: Tensor, t: int = t, name: str = name + suffix, none: Tensor | None = none) -> None:
                if not keep.slopes:  # the first of all: what the loss does not depend on stays 0
                    for other, value in keep.values.items():
                        slopes = torch.zeros_like(value)
                        keep.slopes[other] = slopes if none is None else slopes.masked_fill(none, torch.nan)
                gradient = gradient.detach()
                keep.slopes[name][t] = gradient if none is None else gradient.masked_fill(none[t], torch.nan)

            found[name].register_hook(put)  # type: ignore[no-untyped-call]
