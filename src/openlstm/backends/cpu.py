"""The CPU engine: the native core, in float32, for every variant, forward and backward.

What it runs is derived in `program.py` and made ready in `plans.py`; here runs are laid out and autograd gets its
function. Results are the same bits whatever the batch around a sequence, the number of threads, and whether steps come
one by one.
"""

from __future__ import annotations

import functools
import itertools
import os
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .. import _core, compiled, plans
from ..arguments import Keep
from ..spec import Spec
from . import reference


def why_not(spec: Spec, x: Tensor) -> str | None:
    """Why the core cannot run this, or None."""
    if not x.is_cpu:
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


def how() -> str:
    """What becomes of equations that the core has no code for."""
    return "its equations compiled" if compiled.command else "its equations interpreted: see openlstm.use_compiler"


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
    keep: Keep | None = None,
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
            keep.values |= {name: kept.to(x.dtype) for name, kept in keep.values.items()}
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
    for weight in weights:
        if weight.dtype is not torch.float32 or not weight.is_cpu or not weight.is_contiguous():
            return None
    if spec.batch_first:
        x = x.transpose(0, 1)
    time, batch, size = x.shape
    if size != spec.input_size or not time or not batch:
        return None
    if hx is None:
        states = [x.new_zeros(form.depth, batch, width) for width in form.widths]
        for state, value in zip(states, form.begins, strict=True) if form.begins else ():
            state.fill_(value)
    else:
        states = [hx] if form.single else hx
        if type(states) not in (tuple, list) or len(states) != len(form.widths):
            return None
        for state, width in zip(states, form.widths, strict=True):
            plain = type(state) is Tensor and state.dtype is torch.float32 and state.is_cpu
            if not plain or state.shape != (form.depth, batch, width):
                return None
    if time > 1 or spec.residual or torch.is_grad_enabled():
        y, *final = _Run(spec, time, batch)(x, states, weights)
    else:
        y, final = _Step.of(spec, weights)(x, states)
    return y.transpose(0, 1) if spec.batch_first else y, final[0] if form.single else tuple(final)


@dataclass(frozen=True)
class _Form:
    """States as a module has them: one tensor each."""

    depth: int
    widths: tuple[int, ...]
    begins: tuple[float, ...]  # what they are before the first step; empty: 0
    single: bool
    random: bool  # in training


@functools.lru_cache(maxsize=1024)
def _form(spec: Spec) -> _Form | None:
    if len(set(spec.hidden_size)) > 1 or spec.learned_state:
        return None
    widths = tuple(spec.state_sizes(spec.walks[0]).values())
    initial = spec.definition.initial
    begins = tuple(initial.get(name, 0.0) for name in spec.definition.states) if initial else ()
    return _Form(len(spec.walks), widths, begins, len(widths) == 1, bool(spec.masks(1, 1)))


class _Step:
    """One step without gradients, made ready: what is the same at every step is found once."""

    def __init__(self, spec: Spec, weights: Sequence[Tensor], addresses: list[int]) -> None:
        self.spec, self.addresses, self.isa, self.compiler = spec, addresses, _core.isa(), compiled.command
        key = id(weights[0])
        self.owner = weakref.ref(weights[0], lambda _: _steps.pop(key, None))
        self.layers: list[list[tuple[_core.Plan, list[_core.Packed], list[int]]]] = []
        at = 0
        for walks in plans.forward(spec, frozenset(), False, False, frozenset()):
            self.layers.append([])
            for plan in walks:
                own = slice(at, at := at + len(plan.names))
                packed = _pack(plan, weights[own], addresses[own], True, 1)
                self.layers[-1].append((plan.core, packed, addresses[own]))
        widths = [spec.output_size(layer) for layer in range(spec.num_layers)]
        self.width = widths[-1]
        self.core = _core.Step(self.layers, widths, [*spec.state_sizes(spec.walks[0]).values()])

    @classmethod
    def of(cls, spec: Spec, weights: Sequence[Tensor]) -> _Step:
        addresses = [weight.data_ptr() for weight in weights]
        step = _steps.get(id(weights[0]))
        if (
            step is None
            or step.owner() is not weights[0]
            or step.addresses != addresses
            or step.spec is not spec
            or step.isa != _core.isa()
            or step.compiler is not compiled.command
        ):
            step = _steps[id(weights[0])] = cls(spec, weights, addresses)
        return step

    def __call__(self, x: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        x = _rows(x)
        batch = x.shape[1]
        states = [state if state.is_contiguous() else state.contiguous() for state in states]
        y, final = x.new_empty(1, batch, self.width), [torch.empty_like(state) for state in states]
        before, after = [state.data_ptr() for state in states], [state.data_ptr() for state in final]
        self.core.run(batch, THREADS or torch.get_num_threads(), x.data_ptr(), x.stride(1), y.data_ptr(), before, after)
        return y, final


_steps: dict[int, _Step] = {}


class _Run:
    """All layers in all their directions, once. States are one tensor for each walk, or stacked over the walks."""

    def __init__(
        self,
        spec: Spec,
        time: int,
        batch: int,
        ragged: _Ragged | None = None,
        masks: Mapping[str, Tensor] | None = None,
        keep: Keep | None = None,
    ) -> None:
        self.spec, self.time, self.batch, self.ragged, self.keep = spec, time, batch, ragged, keep
        self.masks = {name: _rows(mask) for name, mask in masks.items()} if masks else {}
        self.threads = THREADS or torch.get_num_threads()
        self._marks: dict[bool, tuple[Tensor, Tensor]] = {}
        self._tasks: list[tuple[Any, ...]] = []
        self._alive: list[Tensor | None] = []  # what the tasks have the addresses of
        # A few sequences: a layer may run behind the one below it. Many: each layer's memory is free again after it.
        self.joins = spec.directions == 1 and batch < 8 * self.threads and self.threads > 1
        self.kinds = frozenset(self.masks)
        self.shows: frozenset[str] = frozenset()
        if keep is not None:
            self.shows = frozenset(filter(keep.wants, plans.named(spec, self.kinds)))

    def __call__(self, x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor]) -> Sequence[Tensor]:
        """The output and the final states, laid out as the states."""
        if torch.is_grad_enabled():
            tensors = (x, *states, *weights)
            if any(tensor.requires_grad for tensor in tensors):
                results: Sequence[Tensor] = _Function.apply(self, len(states), *tensors)  # type: ignore[no-untyped-call]
                return results
        return self.forward(x, states, weights, None)

    def _queue(
        self,
        plan: plans.Plan,
        given: list[int],
        ends: list[int],
        weights: Sequence[Tensor],
        addresses: list[int],
        gradients: Sequence[int] = (),
    ) -> None:
        """Puts a walk among those that `_flush` then runs together."""
        reverse = plan.walk.reverse
        begin = end = 0
        if self.ragged is not None:
            if reverse not in self._marks:
                self._marks[reverse] = self.ragged.marks(self.time, reverse)
            begin, end = (mark.data_ptr() for mark in self._marks[reverse])
        masks: list[int] = []
        for name in plan.masks:
            mask = self.masks[name + plan.walk.suffix]
            masks += mask.data_ptr(), mask.stride(0) if mask.dim() == 3 else 0, mask.stride(-2)
        packed = _pack(plan, weights, addresses, self.time == 1, self.threads)
        self._tasks.append((plan.core, reverse, packed, given, ends, masks, addresses, gradients, begin, end))

    def _flush(self) -> None:
        """Runs what is queued: the layers of a stack, each of which reads the one before, or a layer's directions."""
        active = 0 if self.ragged is None else self.ragged.active.data_ptr()
        tasks, self._tasks = self._tasks, []
        _core.run(self.time, self.batch, self.threads, tasks, self.spec.directions == 1, active)
        self._alive.clear()

    def _ends(self, k: int, *groups: Sequence[Tensor]) -> list[int]:
        """The address and stride that each state of the k-th walk has in each of these groups of states."""
        found: list[int] = []
        if groups[0][0].dim() == 3:  # stacked
            for tensors in zip(*groups, strict=True):
                for tensor in tensors:
                    found += tensor.data_ptr() + k * tensor.stride(0) * plans.FLOAT, tensor.stride(1)
        else:
            count = len(self.spec.definition.states)
            for tensors in zip(*(group[k * count : (k + 1) * count] for group in groups), strict=True):
                for tensor in tensors:
                    found += tensor.data_ptr(), tensor.stride(0)
        return found

    def _room(self, x: Tensor, arrays: Mapping[str, tuple[int, int]]) -> Tensor:
        """Memory for arrays over all steps. What is looked at is NaN past the end of a sequence."""
        room = _empty(x, self.time * self.batch * arrays[""][1])
        return room.fill_(torch.nan) if self.ragged is not None and self.keep is not None else room

    def _shown(
        self, plan: plans.Plan, room: Tensor, arrays: Mapping[str, tuple[int, int]], names: Mapping[str, str]
    ) -> dict[str, Tensor]:
        """What of these arrays is to be looked at, under names with the suffix, in the order of the batch."""
        found: dict[str, Tensor] = {}
        steps = self.time * self.batch
        for name, own in names.items():
            if own in arrays and name + plan.walk.suffix in self.shows:
                at, width = arrays[own]
                array = room[steps * at : steps * (at + width)].view(self.time, self.batch, width)
                found[name + plan.walk.suffix] = self._as_given(array)
        return found

    def _as_given(self, array: Tensor) -> Tensor:
        """With the sequences (T, B, n) in the order in which they came."""
        back = None if self.ragged is None else self.ragged.back
        return array if back is None else array.index_select(1, back)

    def forward(
        self, x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], saved: list[Tensor] | None
    ) -> list[Tensor]:
        """The output and the final states. `saved` takes the input of each layer, and what each walk keeps."""
        spec, time, batch, ragged, keep = self.spec, self.time, self.batch, self.ragged, self.keep
        x, weights = _rows(x), [_whole(weight) for weight in weights]
        states = [_rows(state) for state in states]
        final = [state.clone() if ragged is not None else torch.empty_like(state) for state in states]
        addresses = [weight.data_ptr() for weight in weights]
        stack = plans.forward(spec, self.kinds, ragged is not None, saved is not None, self.shows)
        at = k = 0
        rooms: list[Tensor] = []
        for layer, walks in enumerate(stack):
            wide = spec.output_size(layer)
            y = x.new_empty(time, batch, wide) if ragged is None else x.new_zeros(time, batch, wide)
            if saved is not None:
                saved.append(x)
            given = [x.data_ptr(), x.stride(0), x.stride(1), y.data_ptr(), batch * wide, wide]
            for plan in walks:
                own = slice(at, at := at + len(plan.names))
                kept = self._room(x, plan.kept)
                place = kept.data_ptr(), 0, 0
                self._queue(plan, [*given, *place], self._ends(k, states, final), weights[own], addresses[own])
                rooms.append(kept)
                if saved is not None:
                    saved.append(kept)
                k += 1
            if saved is not None:
                saved.append(y)
            dropped, adds = f"dropout_l{layer + 1}" in self.masks, spec.residual and layer > 0
            self._alive += [x, y]
            if dropped or adds or not self.joins or layer + 1 == len(stack):
                self._flush()
            if dropped:
                y = y * self.masks[f"dropout_l{layer + 1}"]
            x = y + x if adds else y
        for plan, kept in zip(itertools.chain(*stack), rooms, strict=True) if keep is not None else ():
            assert keep is not None
            keep.values |= self._shown(plan, kept, plan.kept, plan.shown)
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
        states, weights = [_rows(state) for state in states], [_whole(weight) for weight in weights]
        d_final = [_rows(d) for d in d_final]
        d_first = [torch.empty_like(d) for d in d_final]
        if ragged is not None:  # a sequence without steps gives back what it was given
            none = (ragged.lengths == 0)[:, None]
            d_first = [torch.where(none, d, 0.0) for d in d_final]
        gradients = [_empty(weight, weight.numel()).view(weight.shape) for weight in weights] if of_weights else []
        places = [gradient.data_ptr() for gradient in gradients]
        addresses = [weight.data_ptr() for weight in weights]
        looks = self.keep is not None and self.keep.gradients
        stack = plans.backward(spec, self.kinds, ragged is not None, self.shows, of_input, of_weights, looks)
        at, k = len(weights), len(spec.walks)
        shown: list[tuple[plans.Plan, Tensor]] = []
        for layer, walks in reversed([*enumerate(stack)]):
            behind = dy
            if f"dropout_l{layer + 1}" in self.masks:
                dy = dy * self.masks[f"dropout_l{layer + 1}"]
            dy = _rows(dy)
            y = saved.pop()
            parts: list[Tensor] = []
            kept = [saved.pop() for _ in walks][::-1]
            x = saved.pop()
            inputs = [x.data_ptr(), x.stride(0), x.stride(1), y.data_ptr(), y.stride(0), y.stride(1)]
            for plan in reversed(walks):
                k -= 1
                own = slice(at := at - len(plan.names), at + len(plan.names))
                wide = plan.sums[""][1]
                sums = x.new_zeros(batch, wide) if wide else None
                part = x.new_empty(x.shape) if ragged is None else x.new_zeros(x.shape)
                state = kept.pop()
                given = [*inputs, state.data_ptr(), 0, 0, dy.data_ptr(), dy.stride(0), dy.stride(1)]
                given += part.data_ptr(), part.stride(0), part.stride(1)
                given += 0 if sums is None else sums.data_ptr(), 0, wide
                slopes = self._room(x, plan.slopes)
                given += slopes.data_ptr(), 0, 0
                ends = self._ends(k, states, d_final, d_first)
                self._queue(plan, given, ends, weights[own], addresses[own], places[own])
                self._alive += [sums, dy, part, x, y, state]
                shown.append((plan, slopes))
                parts.append(part)
            adds, dropped = spec.residual and layer > 0, f"dropout_l{layer}" in self.masks
            if dropped or adds or not self.joins or not layer:
                self._flush()
            dy = parts[0] if len(parts) == 1 else parts[0] + parts[1]
            dy = dy + behind if adds else dy
        for plan, slopes in shown if self.keep is not None else ():
            names = {name: f"slope {name}" for name in plan.shown}
            self.keep.slopes |= self._shown(plan, slopes, plan.slopes, names)  # type: ignore[union-attr]
        found: Sequence[Tensor | None] = gradients or [None] * len(weights)
        return [dy if of_input else None, *d_first, *found]

    def reference(
        self, x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], keep: Keep | None
    ) -> list[Tensor]:
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
            keep,
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
            keep = Keep(run.keep.names, True) if run.keep is not None and run.keep.gradients else None
            results = run.reference(x, states, weights, keep)
            leaves = [tensor for tensor, want in zip(inputs, wanted, strict=True) if want]
            grads = torch.autograd.grad(results, leaves, gradients, create_graph=True, allow_unused=True)
            if run.keep is not None and keep is not None:
                run.keep.slopes |= {name: run._as_given(slope) for name, slope in keep.slopes.items()}
            found = iter(grads)
            return None, None, *(next(found) if want else None for want in wanted)
        of_weights = any(wanted[1 + ctx.count :])
        return None, None, *run.backward(gradients[0], gradients[1:], states, weights, saved, wanted[0], of_weights)


def _rows(tensor: Tensor) -> Tensor:
    """The same, with rows that are contiguous."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def _empty(like: Tensor, count: int) -> Tensor:
    """So many new floats; many of them in memory that the core keeps, because fresh pages cost time."""
    return like.new_empty(count) if count < LARGE else _core.empty(count)


LARGE = 1 << 16


def _whole(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_contiguous() else tensor.contiguous()


class _Kept(NamedTuple):
    """Packed weights, and for which weights they are."""

    owner: weakref.ref[Tensor]
    isa: str
    versions: list[int]
    content: Any  # None: nobody has looked
    packed: list[_core.Packed]


_packed: dict[Any, _Kept] = {}


def _pack(
    plan: plans.Plan, parameters: Sequence[Tensor], addresses: list[int], once: bool, threads: int
) -> list[_core.Packed]:
    """The weights in the core's order, anew where they changed; those that a run reads once stay as they are.

    `parameters` are contiguous, and at `addresses`.
    """
    if not plan.weights:
        return []
    owner = parameters[plan.weights[0]]
    key = (id(owner), once, plan)
    found = _packed.get(key)
    if found is not None and (found.owner() is not owner or found.isa != _core.isa()):
        found = None
    content: Any = addresses
    versions: list[int] = []
    if not once:
        # A version that is new tells of a change, and a training step need not look. One that is not tells nothing:
        # what writes through `.data` leaves it as it is.
        versions = [-1 if (weight := parameters[k]).is_inference() else weight._version for k in plan.weights]
        content = None
        if found is None or found.versions == versions:
            content = _core.fingerprint([(addresses[k], parameters[k].numel()) for k in plan.weights], threads)
    if found is None or found.versions != versions or found.content != content:
        packed = plan.pack(addresses, threads, panels=not once)
        reference = weakref.ref(owner, lambda _: _packed.pop(key, None))
        found = _packed[key] = _Kept(reference, _core.isa(), versions, content, packed)
    return found.packed
