"""What torch.onnx.export sees of layers: ONNX's own operators where these compute them, else the equations in a Scan.

Time and batch stay free, and the final states are those of the module. It runs while a model is exported, never else.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch._higher_order_ops.scan import scan

from .. import operators
from ..spec import Spec, Walk
from ..step import Step
from .reference import Torch


def check(spec: Spec, x: Tensor, reset: Tensor | None, masks: bool) -> None:
    """Errors: RuntimeError for what an exported model cannot hold."""
    if not hasattr(torch.onnx, "ops"):
        raise RuntimeError("torch.onnx.export of openlstm's layers needs torch 2.8 or later: update it")
    if masks:
        raise RuntimeError(f"{spec} draws random masks in training, which ONNX cannot hold: call model.eval() first")
    if x.dtype != torch.float32:
        raise RuntimeError(f"ONNX's recurrent operators are exported in float32, and x is {x.dtype}: convert the model")
    if reset is not None:
        raise RuntimeError("reset= has no form in an exported model: give each sequence a row of its own")


def forward(
    spec: Spec,
    x: Tensor,
    parameters: Mapping[str, Tensor],
    states: Mapping[str, Tensor],
    lengths: Tensor | None,
    reset: Tensor | None,
    masks: Mapping[str, Tensor],
) -> tuple[Tensor, dict[str, Tensor]]:
    """See `reference.forward`. Errors: as `check` has them."""
    check(spec, x, reset, bool(masks))
    # An exported scan has no gradients; where it could have, torch would make them, and fails.
    parameters = {name: parameter.detach() for name, parameter in parameters.items()}
    x, states = x.detach(), {name: state.detach() for name, state in states.items()}
    final: dict[str, Tensor] = {}
    for layer in range(spec.num_layers):
        walks = [walk for walk in spec.walks if walk.layer == layer]
        if operators.name_of(spec):
            y, last = _operator(spec, walks, x, parameters, states, lengths)
        else:
            parts = []
            last = {}
            for walk in walks:
                part, own = _scan(spec, walk, x, parameters, states, lengths)
                parts.append(part)
                last |= own
            y = torch.cat(parts, -1)
        x = y + x if spec.residual and layer else y
        final |= last
    return x, final


def _operator(
    spec: Spec,
    walks: list[Walk],
    x: Tensor,
    parameters: Mapping[str, Tensor],
    states: Mapping[str, Tensor],
    lengths: Tensor | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """One layer by ONNX's own operator."""
    name = operators.name_of(spec)
    assert name is not None
    operator, size, count = operators.OPERATORS[name], walks[0].hidden_size, len(walks)

    def rows(parameter: str, walk: Walk, order: str) -> Tensor:
        whole, own = parameters[parameter + walk.suffix], spec.blocks(parameter)
        places = {gate.removeprefix("p_"): k * size for k, gate in enumerate(own)}
        none = torch.zeros_like(whole[:size])  # of a coupled gate: it is not read
        return torch.cat([whole[at : at + size] if (at := places.get(gate)) is not None else none for gate in order])

    def whole(parameter: str, order: str) -> Tensor:
        return torch.stack([rows(parameter, walk, order) for walk in walks])

    given: list[Tensor | None] = [x, whole("weight_ih", operator.gates), whole("weight_hh", operator.gates)]
    biases = [whole(parameter, operator.gates) for parameter in ("bias_ih", "bias_hh") if spec.bias]
    given.append(torch.cat(biases, 1) if biases else None)
    given.append(None if lengths is None else lengths.to(torch.int32))
    first = {state: torch.stack([states[state + walk.suffix] for walk in walks]) for state in operator.states}
    given += first.values()
    if spec.cell == "lstm" and spec.peephole:
        given.append(whole("weight_ch", operators.PEEPHOLES))
    time, batch = x.shape[:2]
    shapes = [(time, count, batch, size), *[(count, batch, size)] * len(first)]
    y, *last = torch.onnx.ops.symbolic_multi_out(
        name, given, operators.attributes(spec, size), dtypes=[x.dtype] * len(shapes), shapes=shapes
    )
    y = y.transpose(1, 2).reshape(time, batch, count * size)
    if lengths is not None:  # the operator ends with 0 where there are no steps
        none = (lengths == 0)[None, :, None]
        last = [torch.where(none, begin, state) for begin, state in zip(first.values(), last, strict=True)]
    ends = zip(operator.states, last, strict=True)
    return y, {state + walk.suffix: value[k] for state, value in ends for k, walk in enumerate(walks)}


def _scan(
    spec: Spec,
    walk: Walk,
    x: Tensor,
    parameters: Mapping[str, Tensor],
    states: Mapping[str, Tensor],
    lengths: Tensor | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """One layer in one direction, step by step."""
    own = {name: parameters[name + walk.suffix] for name in spec.shapes(walk)}
    names = spec.definition.states
    rates = {f"zoneout_{name}": rate for name in names if (rate := getattr(spec, f"zoneout_{name}", 0.0))}
    ready = Step(spec, walk, own, Torch)
    # A scan may not see two parts of one tensor.
    ready.w = {name: part.clone() for name, part in ready.w.items()}
    ready.weight, ready.bias, ready.gain = (
        part if part is None else part.clone() for part in (ready.weight, ready.bias, ready.gain)
    )
    time = x.shape[0]  # len(x) would fix it
    valid = (
        None if lengths is None else torch.arange(time, device=x.device)[:, None, None] < lengths.to(x.device)[:, None]
    )

    def step(before: list[Tensor], given: tuple[Tensor, ...]) -> tuple[list[Tensor], Tensor]:
        old = dict(zip(names, before, strict=True))
        _, new, y = ready(given[0], old, rates)
        if valid is None:  # a scan may not give a tensor twice, or one that it was given
            return [value.clone() for value in new.values()], y.clone()
        return [torch.where(given[1], new[name], old[name]) for name in names], torch.where(given[1], y, 0.0)

    first = [states[name + walk.suffix] for name in names]
    steps = (ready.inputs(x),) if valid is None else (ready.inputs(x), valid)
    last, y = scan(step, first, steps, dim=0, reverse=walk.reverse)
    return y, {name + walk.suffix: state for name, state in zip(names, last, strict=True)}
