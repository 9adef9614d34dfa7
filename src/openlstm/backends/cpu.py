"""The CPU engine: the native core, in float32, for every variant, forward and backward.

What it runs is derived in `program.py` and made ready in `plans.py`; here runs are laid out and autograd gets its
function. Results are the same bits whatever the batch around a sequence, the number of threads, and whether steps come
one by one.
"""

from __future__ import annotations

import functools
import os
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .. import _core
from ..spec import Spec
from . import plans, reference
from .plans import Kind


def why_not(spec: Spec, x: Tensor) -> str | None:
    """Why the core cannot run this, or None."""
    if x.device.type != "cpu":
        return f"it runs on the CPU, and the input is on {x.device}"
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"it computes in float32, and the input is {x.dtype}"
    if type(x) not in (Tensor, torch.nn.Parameter):
        return f"it takes plain tensors, and the input is a {type(x).__name__}"
    if torch._C._are_functorch_transforms_active():
        return "it has no derivatives inside transforms of torch.func"
    if forward_ad._current_level >= 0:
        return "it has no forward-mode derivatives"
    return None


def _threads() -> int | None:
    given = os.environ.get("OPENLSTM_NUM_THREADS", "")
    if not given:
        return None
    if not given.isdecimal() or not int(given):
        raise RuntimeError(
            f"The environment variable OPENLSTM_NUM_THREADS is '{given}'. Expected a whole number of at least 1. "
            "Set it to one, or unset it to use as many threads as torch"
        )
    return int(given)


THREADS = _threads()  # None: as many as torch


@dataclass(eq=False)
class _Ragged:
    """Lengths and resets as the core wants them: the longest sequences first."""

    order: Tensor | None  # of the sequences; None: they came so
    back: Tensor | None
    lengths: Tensor
    reset: Tensor | None
    active: Tensor  # sequences that a step has

    @classmethod
    def of(cls, time: int, batch: int, lengths: Tensor | None, reset: Tensor | None) -> _Ragged:
        if lengths is None:
            lengths = torch.full((batch,), time, device="cpu")
        order = back = None
        if bool((lengths[1:] > lengths[:-1]).any()):
            order = torch.argsort(lengths, descending=True, stable=True)
            back = torch.argsort(order)
            lengths = lengths[order]
            reset = None if reset is None else reset[:, order]
        active = (lengths > torch.arange(time, device="cpu")[:, None]).sum(1, dtype=torch.int32)
        return cls(order, back, lengths, reset, active)

    def marks(self, time: int, reverse: bool) -> tuple[Tensor, Tensor]:
        """Where pieces begin, and where sequences end, in walking order: (T, B) bytes each."""
        steps = torch.arange(time, device="cpu")[:, None]
        valid = steps < self.lengths
        first, last = (steps == 0) & valid, steps == self.lengths - 1
        begin, end = (last, first) if reverse else (first, last)
        if self.reset is not None:
            new = self.reset & valid
            if reverse:
                new = torch.cat((new[1:], torch.zeros_like(new[:1])))
            begin = begin | new
        return begin.to(torch.uint8).contiguous(), end.to(torch.uint8).contiguous()


def forward(
    spec: Spec,
    x: Tensor,
    parameters: Mapping[str, Tensor],
    states: Mapping[str, Tensor],
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    masks: Mapping[str, Tensor] | None = None,
    keep: dict[str, Tensor] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """All layers over all steps: see `reference.forward` for arguments and result."""
    masks = masks or {}
    time, batch = x.shape[:2]
    if not time or not batch:  # nothing to compute, but all shapes
        return reference.forward(spec, x, parameters, states, lengths, reset, masks, keep)
    if x.dtype != torch.float32:
        wide = [{name: tensor.float() for name, tensor in group.items()} for group in (parameters, states, masks)]
        y, final = forward(spec, x.float(), wide[0], wide[1], lengths, reset, wide[2], keep)
        if keep is not None:
            keep |= {name: kept.to(x.dtype) for name, kept in keep.items()}
        return y.to(x.dtype), {name: state.to(x.dtype) for name, state in final.items()}

    ragged = None if lengths is None and reset is None else _Ragged.of(time, batch, lengths, reset)
    order = None if ragged is None else ragged.order
    if order is not None:
        x = x.index_select(1, order)
        states = {name: state.index_select(0, order) for name, state in states.items()}
        masks = {
            name: mask if name.startswith("weight") else mask.index_select(mask.dim() - 2, order)
            for name, mask in masks.items()
        }
    drop = {
        "weight_hh" + name.removeprefix("weight"): mask for name, mask in masks.items() if name.startswith("weight")
    }
    weights = [parameters[name] * drop[name] if name in drop else parameters[name] for name in spec.weights]
    run = _Run(spec, time, batch, ragged, {k: mask for k, mask in masks.items() if not k.startswith("weight")}, keep)
    y, *last = run(x, [states[name] for name in spec.state_names], weights)
    final = dict(zip(spec.state_names, last, strict=True))
    if ragged is not None and ragged.back is not None:
        y = y.index_select(1, ragged.back)
        final = {name: state.index_select(0, ragged.back) for name, state in final.items()}
        if keep is not None:
            keep |= {name: kept.index_select(1, ragged.back) for name, kept in keep.items()}
    return y, final


def quick(spec: Spec, x: Tensor, hx: Any, weights: Sequence[Tensor], training: bool) -> tuple[Tensor, Any] | None:
    """`forward` on a module's own arguments where nothing needs to be checked or laid out first, else None."""
    form = _form(spec)
    if (
        form is None
        or (training and form.random)
        or x.dim() != 3
        or x.dtype is not torch.float32
        or why_not(spec, x) is not None
        or torch.is_autocast_enabled("cpu")
    ):
        return None
    if spec.batch_first:
        x = x.transpose(0, 1)
    time, batch, size = x.shape
    if size != spec.input_size or not time or not batch:
        return None
    addresses = [weight.data_ptr() for weight in weights]
    ready = _ready.get(id(weights[0]))
    if ready is None or ready.owner() is not weights[0] or ready.addresses != addresses or ready.spec is not spec:
        for weight in weights:
            if weight.dtype is not torch.float32 or not weight.is_cpu or not weight.is_contiguous():
                return None
        ready = _Ready(spec, weights, addresses)
    if hx is None:
        states = [x.new_zeros(form.depth, batch, width) for width in form.widths]
    else:
        states = [hx] if form.single else hx
        if type(states) not in (tuple, list) or len(states) != len(form.widths):
            return None
        for state, width in zip(states, form.widths, strict=True):
            plain = type(state) is Tensor and state.dtype is torch.float32 and state.is_cpu
            if not plain or state.shape != (form.depth, batch, width):
                return None
    if torch.is_grad_enabled() or spec.residual:
        y, *final = _Run(spec, time, batch)(x, states, weights)
    else:
        y, final = ready.run(_rows(x), states, weights, time, batch)
    return y.transpose(0, 1) if spec.batch_first else y, final[0] if form.single else tuple(final)


class _Ready:
    """A stack of layers made ready for runs without gradients: what is the same in all of them is found once."""

    def __init__(self, spec: Spec, weights: Sequence[Tensor], addresses: list[int]) -> None:
        key = id(weights[0])
        self.spec, self.addresses = spec, addresses
        self.owner = weakref.ref(weights[0], lambda _: _ready.pop(key, None))
        self.layers: list[list[tuple[plans.Plan, slice, list[int]]]] = []
        at = 0
        for layer in range(spec.num_layers):
            self.layers.append([])
            for walk in spec.walks[layer * spec.directions : (layer + 1) * spec.directions]:
                plan = plans.plan(spec, walk, Kind())
                own = slice(at, at + len(plan.names))
                self.layers[-1].append(
                    (plan, own, [number for address in addresses[own] for number in (address, 0, 0)])
                )
                at = own.stop
        _ready[key] = self

    def run(
        self, x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], time: int, batch: int
    ) -> tuple[Tensor, list[Tensor]]:
        threads = THREADS or torch.get_num_threads()
        states = [state if state.is_contiguous() else state.contiguous() for state in states]
        final = [torch.empty_like(state) for state in states]
        places = [(s.data_ptr(), f.data_ptr(), width := s.shape[2], batch * width * plans.FLOAT)
                  for s, f in zip(states, final, strict=True)]  # fmt: skip
        begin = [x.data_ptr(), x.stride(0), x.stride(1)]
        k = 0
        for layer, walks in enumerate(self.layers):
            wide = self.spec.output_size(layer)
            y = x.new_empty(time, batch, wide)
            begin += y.data_ptr(), batch * wide, wide
            for plan, own, tail in walks:
                inputs = [*begin, 0, 0, 0]
                ends: list[int] = []
                for old, new, width, stride in places:
                    inputs += old + k * stride, 0, width
                    ends += old + k * stride, width, new + k * stride, width
                packed = plan.pack(weights[own], self.addresses[own], time == 1, threads)
                plan.core.run(time, batch, plan.walk.reverse, threads, packed, inputs + tail, ends, 0, 0, 0)
                k += 1
            begin, x = begin[3:], y  # x stays alive until the layer after it has run
        return x, final


_ready: dict[int, _Ready] = {}


@dataclass(frozen=True)
class _Form:
    """States as a module has them: one tensor each."""

    depth: int
    widths: tuple[int, ...]
    single: bool
    random: bool  # in training


@functools.lru_cache(maxsize=1024)
def _form(spec: Spec) -> _Form | None:
    if len(set(spec.hidden_size)) > 1 or spec.learned_state:
        return None
    widths = tuple(spec.state_sizes(spec.walks[0]).values())
    return _Form(len(spec.walks), widths, len(widths) == 1, bool(spec.masks(1, 1)))


class _Run:
    """All layers in all their directions, once."""

    def __init__(
        self,
        spec: Spec,
        time: int,
        batch: int,
        ragged: _Ragged | None = None,
        masks: Mapping[str, Tensor] | None = None,
        keep: dict[str, Tensor] | None = None,
    ) -> None:
        self.spec, self.time, self.batch, self.ragged, self.keep = spec, time, batch, ragged, keep
        self.masks = {name: _rows(mask) for name, mask in masks.items()} if masks else {}
        self.threads = THREADS or torch.get_num_threads()
        self._own: list[dict[str, Tensor]] = [{} for _ in spec.walks]
        for walk, own in zip(spec.walks, self._own, strict=True) if masks else ():
            for kind in ("recurrent", "candidate", *(f"zoneout_{name}" for name in spec.definition.states)):
                if kind + walk.suffix in self.masks:
                    own[kind] = self.masks[kind + walk.suffix]
        self._marks: dict[bool, tuple[Tensor, Tensor]] = {}

    def __call__(self, x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor]) -> Sequence[Tensor]:
        """The output and the final states, laid out as the states: one for each walk, or stacked ones."""
        tensors = (x, *states, *weights)
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            results: Sequence[Tensor] = _Function.apply(self, len(states), *tensors)  # type: ignore[no-untyped-call]
            return results
        return self.forward(x, states, weights, None)

    def _kind(self, k: int) -> Kind:
        return Kind(frozenset(self._own[k]), self.ragged is not None)

    def _states(self, states: Sequence[Tensor], k: int) -> list[int]:
        """The address and stride of each state of the k-th walk."""
        count = len(self.spec.definition.states)
        found: list[int] = []
        if len(states) == count and states[0].dim() == 3:  # stacked over walks
            for state in states:
                found += state.data_ptr() + k * state.stride(0) * plans.FLOAT, state.stride(1)
        else:
            for state in states[k * count : (k + 1) * count]:
                found += state.data_ptr(), state.stride(0)
        return found

    def _go(self, plan: plans.Plan, inputs: list[int], ends: list[int], weights: Sequence[Tensor]) -> None:
        reverse = plan.walk.reverse
        active = begin = end = 0
        if self.ragged is not None:
            if reverse not in self._marks:
                self._marks[reverse] = self.ragged.marks(self.time, reverse)
            active = self.ragged.active.data_ptr()
            begin, end = (mark.data_ptr() for mark in self._marks[reverse])
        addresses = [weight.data_ptr() for weight in weights]
        packed = plan.pack(weights, addresses, self.time == 1, self.threads)
        plan.core.run(self.time, self.batch, reverse, self.threads, packed, inputs, ends, active, begin, end)

    def _inputs(self, plan: plans.Plan, masks: Mapping[str, Tensor], weights: Sequence[Tensor]) -> list[int]:
        found: list[int] = []
        for name in plan.masks:
            mask = masks[name]
            found += mask.data_ptr(), mask.stride(0) if mask.dim() == 3 else 0, mask.stride(-2)
        for weight in weights:
            found += weight.data_ptr(), 0, 0
        return found

    def forward(
        self, x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], saved: list[Tensor] | None
    ) -> list[Tensor]:
        """The output and the final states. `saved` takes the input of each layer, and what each walk keeps."""
        spec, time, batch, ragged = self.spec, self.time, self.batch, self.ragged
        states = [_rows(state) for state in states]
        final = [state.clone() if ragged is not None else torch.empty_like(state) for state in states]
        x = _rows(x)
        at = 0
        for layer in range(spec.num_layers):
            shape = (time, batch, spec.output_size(layer))
            y = x.new_empty(shape) if ragged is None else x.new_zeros(shape)
            if saved is not None:
                saved.append(x)
            for k in range(layer * spec.directions, (layer + 1) * spec.directions):
                kind = self._kind(k)
                keep: frozenset[str] = frozenset() if saved is None else plans.needed(spec, kind)
                if self.keep is not None:
                    keep = keep.union(plans.values(spec, kind.masks).values())
                plan = plans.plan(spec, spec.walks[k], Kind(kind.masks, kind.ragged, keep))
                own = [_whole(weight) for weight in weights[at : at + len(plan.names)]]
                at += len(own)
                kept = None
                if keep:
                    kept = _core.empty(time * batch * plan.kept[""][1])
                    if ragged is not None and self.keep is not None:
                        kept.fill_(torch.nan)
                first, last = self._states(states, k), self._states(final, k)
                inputs = [x.data_ptr(), x.stride(0), x.stride(1), y.data_ptr(), y.stride(0), y.stride(1)]
                inputs += 0 if kept is None else kept.data_ptr(), 0, 0
                ends: list[int] = []
                for j in range(0, len(first), 2):
                    inputs += first[j], 0, first[j + 1]
                    ends += *first[j : j + 2], *last[j : j + 2]
                inputs += self._inputs(plan, self._own[k], own)
                self._go(plan, inputs, ends, own)
                if kept is not None and self.keep is not None:
                    for name, shown in plans.values(spec, kind.masks).items():
                        place, width = plan.kept[shown]
                        flat = kept[time * batch * place : time * batch * (place + width)]
                        self.keep[name + spec.walks[k].suffix] = flat.view(time, batch, width)
                if saved is not None and kept is not None:
                    saved.append(kept)
            if saved is not None:
                saved.append(y)
            if f"dropout_l{layer + 1}" in self.masks:
                y = y * self.masks[f"dropout_l{layer + 1}"]
            x = y + x if spec.residual and layer else y
        return [x, *final]

    def backward(
        self,
        dy: Tensor,
        d_final: Sequence[Tensor],
        states: Sequence[Tensor],
        weights: Sequence[Tensor],
        saved: list[Tensor],
        of_input: bool,
        of_weights: bool,
    ) -> list[Tensor | None]:
        """The gradients by x, states and weights."""
        spec, batch, ragged = self.spec, self.batch, self.ragged
        states = [_rows(state) for state in states]
        d_final = [_rows(d) for d in d_final]
        d_first = [torch.empty_like(d) for d in d_final]
        if ragged is not None:  # a sequence without steps gives back what it was given
            none = (ragged.lengths == 0)[:, None]
            d_first = [torch.where(none, d, 0.0) for d in d_final]
        gradients = [_empty(weight) if of_weights else None for weight in weights]
        at = len(weights)
        for layer in reversed(range(spec.num_layers)):
            behind = dy
            if f"dropout_l{layer + 1}" in self.masks:
                dy = dy * self.masks[f"dropout_l{layer + 1}"]
            dy = _rows(dy)
            y = saved.pop()
            through = layer > 0 or of_input
            dx: Tensor | None = None
            kept = [saved.pop() for _ in range(spec.directions)][::-1]
            x = saved.pop()
            for k in reversed(range(layer * spec.directions, (layer + 1) * spec.directions)):
                kind = self._kind(k)
                keep = plans.needed(spec, kind)
                if self.keep is not None:
                    keep = keep.union(plans.values(spec, kind.masks).values())
                plan = plans.plan(spec, spec.walks[k], Kind(kind.masks, kind.ragged, keep, True, through, of_weights))
                at -= len(plan.names)
                own = [_whole(weight) for weight in weights[at : at + len(plan.names)]]
                wide = plan.sums[""][1]
                sums = x.new_zeros(batch, wide) if wide else None
                part = x.new_empty(x.shape) if ragged is None else x.new_zeros(x.shape)
                inputs = [x.data_ptr(), x.stride(0), x.stride(1), y.data_ptr(), y.stride(0), y.stride(1)]
                inputs += kept[k % spec.directions].data_ptr(), 0, 0, dy.data_ptr(), dy.stride(0), dy.stride(1)
                inputs += part.data_ptr(), part.stride(0), part.stride(1)
                inputs += 0 if sums is None else sums.data_ptr(), 0, wide
                first, carry, last = (self._states(tensors, k) for tensors in (states, d_final, d_first))
                for ends in (first, carry):
                    for j in range(0, len(ends), 2):
                        inputs += ends[j], 0, ends[j + 1]
                inputs += self._inputs(plan, self._own[k], own)
                found = gradients[at : at + len(plan.names)]
                for gradient in found:
                    inputs += 0 if gradient is None else gradient.data_ptr(), 0, 0
                ends = []
                for j in range(0, len(carry), 2):
                    ends += *carry[j : j + 2], *last[j : j + 2]
                self._go(plan, inputs, ends, own)
                if of_weights:
                    plan.finish(sums, [gradient for gradient in found if gradient is not None])
                dx = part if dx is None else dx + part
            assert dx is not None
            dy = dx + behind if spec.residual and layer else dx
        return [dy if of_input else None, *d_first, *gradients]

    def reference(self, x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
        """The same by the reference: for derivatives of derivatives."""
        spec = self.spec
        stacked = states[0].dim() == 3
        rows = [row for state in states for row in state.unbind(0)] if stacked else list(states)
        names = list(spec.state_names)
        if stacked:
            names = [name + walk.suffix for name in spec.definition.states for walk in spec.walks]
        lengths = reset = None
        if self.ragged is not None:
            lengths, reset = self.ragged.lengths, self.ragged.reset
        y, final = reference.forward(
            spec,
            x,
            dict(zip(spec.weights, weights, strict=True)),
            dict(zip(names, rows, strict=True)),
            lengths,
            reset,
            self.masks,
        )
        found = [final[name] for name in names]
        if not stacked:
            return [y, *found]
        depth = len(spec.walks)
        return [y, *(torch.stack(found[k : k + depth]) for k in range(0, len(found), depth))]


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: _Run, count: int, x: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        saved: list[Tensor] = []
        results = run.forward(x, tensors[:count], tensors[count:], saved)
        ctx.run, ctx.count, ctx.inputs = run, count, 1 + len(tensors)
        ctx.save_for_backward(x, *tensors, *saved)
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        run: _Run = ctx.run
        inputs, saved = ctx.saved_tensors[: ctx.inputs], list(ctx.saved_tensors[ctx.inputs :])
        x, states, weights = inputs[0], inputs[1 : 1 + ctx.count], inputs[1 + ctx.count :]
        wanted = ctx.needs_input_grad[2:]
        if torch.is_grad_enabled():  # create_graph: what comes out is differentiated again
            results = run.reference(x, states, weights)
            leaves = [tensor for tensor, want in zip(inputs, wanted, strict=True) if want]
            grads = torch.autograd.grad(results, leaves, gradients, create_graph=True, allow_unused=True)
            found = iter(grads)
            return None, None, *(next(found) if want else None for want in wanted)
        of_weights = any(wanted[1 + ctx.count :])
        return None, None, *run.backward(gradients[0], gradients[1:], states, weights, saved, wanted[0], of_weights)


def _rows(tensor: Tensor) -> Tensor:
    """The same, with rows that are contiguous."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def _empty(like: Tensor) -> Tensor:
    """A new tensor of that shape; a large one in memory that the core keeps, because fresh pages cost time."""
    shape, count = like.shape, like.numel()
    return like.new_empty(shape) if count < LARGE else _core.empty(count).view(shape)


LARGE = 1 << 16


def _whole(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_contiguous() else tensor.contiguous()
