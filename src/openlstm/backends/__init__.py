"""The one door to what computes. Each backend is a module with `why_not` and `forward`, as in `reference.py`.

`layers` runs the backend in use. Under torch.compile and torch.export it stands in the graph as one opaque operator,
openlstm::layers, whose time axis may be dynamic. In eager mode, and so under vmap, forward-mode derivatives and double
backward, the backend is called as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..arguments import Keep
from ..spec import Spec
from . import cpu, reference

BACKENDS: dict[str, ModuleType] = {"cpu": cpu, "reference": reference}  # fastest first

_forced: ContextVar[str | None] = ContextVar("openlstm_backend", default=None)


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Inside `with backend("reference"):` that backend runs, and none else.

    What it cannot run raises RuntimeError with its reason. An unknown name raises ValueError.
    """
    if name not in BACKENDS:
        raise ValueError(f"Unknown backend '{name}': expected one of {', '.join(BACKENDS)}")
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def choose(spec: Spec, x: Tensor) -> ModuleType:
    """The forced backend, or the first that can run this spec on this input."""
    forced = _forced.get()
    for name, module in BACKENDS.items():
        if forced in (None, name):
            reason = module.why_not(spec, x)
            if reason is None:
                return module
            if forced:
                raise RuntimeError(f"The backend '{name}' was asked for but cannot run {spec}: {reason}")
    raise AssertionError("the reference runs everything")


def explain(module: Any, x: Tensor) -> str:
    """Which backend runs a module of openlstm on an input, and for each that does not, why. Errors: TypeError.

    >>> import torch, openlstm
    >>> print(openlstm.explain(openlstm.LSTM(3, 4), torch.zeros(5, 2, 3)))
    lstm(3, 4)
    cpu        runs
    reference  could run; another one does
    """
    if not isinstance(getattr(module, "spec", None), Spec):
        raise TypeError(
            f"explain takes a recurrent layer of openlstm, got {type(module).__module__}.{type(module).__qualname__}. "
            "openlstm.accelerate swaps torch's layers for ours"
        )
    used = choose(module.spec, x)
    lines = [str(module.spec)]
    for name, candidate in BACKENDS.items():
        reason = candidate.why_not(module.spec, x)
        runs = f"runs, {cpu.how()}" if candidate is cpu and module.spec.definition.own else "runs"
        lines.append(f"{name:<10} {runs if candidate is used else reason or 'could run; another one does'}")
    return "\n".join(lines)


def plain(x: Tensor) -> AbstractContextManager[Any]:
    """A context without autocast where this tensor is. Some devices, such as meta, have none at all."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.autocast_mode.is_autocast_available(kind) else nullcontext()


def layers(
    spec: Spec,
    x: Tensor,
    parameters: Mapping[str, Tensor],
    states: Mapping[str, Tensor],
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    masks: Mapping[str, Tensor] | None = None,
    keep: Keep | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """All layers over all steps by the backend in use: see `reference.forward` for arguments and result."""
    masks = masks or {}
    compiling = torch.compiler.is_compiling()
    if compiling and torch.onnx.is_in_onnx_export():
        from . import onnx

        return onnx.forward(spec, x, parameters, states, lengths, reset, masks)
    if compiling and not torch._C._are_functorch_transforms_active():
        y, *final = _layers(
            spec.key, x, list(parameters.values()), list(states.values()), lengths, reset, list(masks.values())
        )
        return y, dict(zip(states, final, strict=True))
    # The operator has no forward-mode derivative and no vmap: inside one that is compiled, the reference's steps are.
    module = reference if compiling else choose(spec, x)
    result: tuple[Tensor, dict[str, Tensor]] = module.forward(spec, x, parameters, states, lengths, reset, masks, keep)
    return result


def quick(spec: Spec, x: Tensor, hx: Any, weights: Sequence[Tensor], training: bool) -> tuple[Tensor, Any] | None:
    """A run in its plainest form on a module's own arguments, by the CPU engine; None where there is more to do."""
    if torch.compiler.is_compiling() or _forced.get() is not None:
        return None
    return cpu.quick(spec, x, hx, weights, training)


def _run(
    spec: Spec,
    x: Tensor,
    parameters: Sequence[Tensor],
    states: Sequence[Tensor],
    lengths: Tensor | None,
    reset: Tensor | None,
    masks: Sequence[Tensor],
) -> list[Tensor]:
    """`layers` on lists, which is what an operator takes: the spec knows the names."""
    names = spec.masks(x.shape[0], x.shape[1]) if masks else ()
    y, final = choose(spec, x).forward(
        spec,
        x,
        dict(zip(spec.parameters, parameters, strict=True)),
        dict(zip(spec.state_names, states, strict=True)),
        lengths,
        reset,
        dict(zip(names, masks, strict=True)),
    )
    return [y, *final.values()]


@torch.library.custom_op("openlstm::layers", mutates_args=())
def _layers(
    spec: str,
    x: Tensor,
    parameters: list[Tensor],
    states: list[Tensor],
    lengths: Tensor | None,
    reset: Tensor | None,
    masks: list[Tensor],
) -> list[Tensor]:
    with plain(x):
        y, *final = _run(Spec.parse(spec), x, parameters, states, lengths, reset, masks)
    # An operator may not give back what it was given, and its results are laid out as the fake one says.
    return [result.clone(memory_format=torch.contiguous_format) for result in (y, *final)]


@_layers.register_fake
def _(
    spec: str,
    x: Tensor,
    parameters: list[Tensor],
    states: list[Tensor],
    lengths: Tensor | None,
    reset: Tensor | None,
    masks: list[Tensor],
) -> list[Tensor]:
    if torch.onnx.is_in_onnx_export():  # which tries another way where the first one was refused
        from . import onnx

        onnx.check(Spec.parse(spec), x, reset, bool(masks))
    y = x.new_empty(x.shape[0], x.shape[1], Spec.parse(spec).output_size())
    return [y, *(state.new_empty(state.shape) for state in states)]


@torch.library.custom_op("openlstm::layers_backward", mutates_args=())
def _layers_backward(
    spec: str,
    x: Tensor,
    parameters: list[Tensor],
    states: list[Tensor],
    lengths: Tensor | None,
    reset: Tensor | None,
    masks: list[Tensor],
    gradients: list[Tensor],
) -> list[Tensor]:
    # An operator's body runs below autograd; here it is wanted once more.
    autograd = torch._C._SetExcludeDispatchKeyGuard(torch._C.DispatchKey.AutogradFunctionality, False)
    with autograd, torch.enable_grad(), plain(x):
        x, *rest = (tensor.detach().requires_grad_() for tensor in (x, *parameters, *states))
        results = _run(Spec.parse(spec), x, rest[: len(parameters)], rest[len(parameters) :], lengths, reset, masks)
        found = torch.autograd.grad(results, (x, *rest), gradients, allow_unused=True, materialize_grads=True)
    return [gradient.clone(memory_format=torch.contiguous_format) for gradient in found]


@_layers_backward.register_fake
def _(
    spec: str,
    x: Tensor,
    parameters: list[Tensor],
    states: list[Tensor],
    lengths: Tensor | None,
    reset: Tensor | None,
    masks: list[Tensor],
    gradients: list[Tensor],
) -> list[Tensor]:
    return [tensor.new_empty(tensor.shape) for tensor in (x, *parameters, *states)]


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    ctx.spec, x, parameters, states, lengths, reset, masks = inputs
    ctx.sizes = len(parameters), len(states), len(masks)
    ctx.save_for_backward(x, *parameters, *states, *masks, lengths, reset)


def _backward(ctx: Any, gradients: list[Tensor]) -> tuple[Any, ...]:
    x, *rest, lengths, reset = ctx.saved_tensors
    p, s, m = ctx.sizes
    parameters, states, masks = rest[:p], rest[p : p + s], rest[p + s :]
    found = _layers_backward(
        ctx.spec, x, parameters, states, lengths, reset, masks, [g.contiguous() for g in gradients]
    )
    return None, found[0], found[1 : 1 + p], found[1 + p :], None, None, [None] * m


_layers.register_autograd(_backward, setup_context=_keep_for_backward)
