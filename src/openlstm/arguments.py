"""From what a user gives a module to what a backend takes, and back: checks, layouts, states, random masks.

Messages that begin like torch.nn's are torch.nn's own, so that code and tests written for it find them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from . import _core
from .spec import Spec


@dataclass(eq=False)
class Keep:
    """Which named values a run shall keep, and then these: (T, B, n) each, NaN past a sequence's end.

    Names have the layer's suffix. `slopes` are the derivatives of the loss by the values; they come with backward.
    """

    names: frozenset[str] | None = None  # None: all
    gradients: bool = False
    values: dict[str, Tensor] = field(default_factory=dict)
    slopes: dict[str, Tensor] = field(default_factory=dict)

    def wants(self, name: str) -> bool:
        """Shall a value be kept."""
        return self.names is None or name in self.names


State = Any  # (h, c) for the LSTM, h for GRU and RNN; tuples of layers where layers differ in size


def autocasts(x: Tensor) -> bool:
    """Is autocast on where this tensor is? Some devices, such as meta, have none."""
    kind = x.device.type
    return torch.amp.autocast_mode.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def check_type(x: Tensor, weight: Tensor) -> torch.dtype:
    """The type to compute in: the weights', or autocast's."""
    if autocasts(x) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(x.device.type)
    if x.dtype != weight.dtype:
        raise ValueError(
            f"RNN input dtype ({x.dtype}) does not match weight dtype ({weight.dtype}). "
            f"Convert input: input.to({weight.dtype}), or convert model: model.to({x.dtype})"
        )
    return weight.dtype


def initial(
    spec: Spec, hx: State, x: Tensor, batch: int, batched: bool, parameters: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The initial states by name, (B, n) each, from what was given, learned, or those that the cell begins with."""
    names = spec.definition.states
    if hx is None:
        return {
            name + walk.suffix: parameters[f"initial_{name}{walk.suffix}"].expand(batch, width)
            if spec.learned_state
            else x.new_full((batch, width), spec.begins[name + walk.suffix])
            for walk in spec.walks
            for name, width in spec.state_sizes(walk).items()
        }
    given = (hx,) if len(names) == 1 else tuple(hx)
    if len(given) != len(names):
        raise ValueError(f"hx has {len(given)} states: expected {len(names)}, ({', '.join(names)})")
    states: dict[str, Tensor] = {}
    depth = spec.directions
    for k, (name, state) in enumerate(zip(names, given, strict=True)):
        widths = [spec.state_sizes(walk)[name] for walk in spec.walks]
        if len(set(widths)) > 1:  # one tensor for each layer
            sizes = spec.hidden_size
            if isinstance(state, Tensor) or len(state) != spec.num_layers:
                raise ValueError(f"hx: the layers have the sizes {list(sizes)}. Expected a tuple of one {name} each")
            parts = [p if batched else p.unsqueeze(1) for p in state]
            expected = [(depth, batch, widths[depth * layer]) for layer in range(spec.num_layers)]
        else:
            if state.dim() != (3 if batched else 2):
                raise RuntimeError(_dimension_message(given, batched))
            parts = [state if batched else state.unsqueeze(1)]
            expected = [(len(spec.walks), batch, widths[0])]
        for part, shape in zip(parts, expected, strict=True):
            if tuple(part.shape) != shape:
                which = "Expected hidden size" if len(names) == 1 else f"Expected hidden[{k}] size"
                raise RuntimeError(f"{which} {shape}, got {list(part.shape)}")
            if part.dtype != x.dtype and not autocasts(x):
                raise RuntimeError(
                    "Input and hidden tensors are not the same dtype, found input tensor with "
                    f"{x.dtype} and hidden tensor with {part.dtype}"
                )
        rows = [row for part in parts for row in part.unbind(0)]
        states |= {name + walk.suffix: row for walk, row in zip(spec.walks, rows, strict=True)}
    return {name: states[name] for name in spec.state_names}


def _dimension_message(given: tuple[Tensor, ...], batched: bool) -> str:
    kind = "batched 3-D" if batched else "unbatched 2-D"
    wanted = 3 if batched else 2
    found = ", ".join(f"{state.dim()}-D" for state in given)
    if len(given) == 1:
        return f"For {kind} input, hx should also be {wanted}-D but got {found} tensor"
    return f"For {kind} input, hx and cx should also be {wanted}-D but got ({found}) tensors"


def gather(spec: Spec, final: Mapping[str, Tensor], batched: bool) -> State:
    """The final states as torch.nn gives them."""
    result: list[Any] = []
    for name in spec.definition.states:
        rows = [final[name + walk.suffix] for walk in spec.walks]
        if len({row.shape[-1] for row in rows}) == 1:
            stacked = torch.stack(rows)
            result.append(stacked if batched else stacked.squeeze(1))
        else:
            depth = spec.directions
            layers = [torch.stack(rows[k : k + depth]) for k in range(0, len(rows), depth)]
            result.append(tuple(layer if batched else layer.squeeze(1) for layer in layers))
    return result[0] if len(result) == 1 else tuple(result)


def check_lengths(given: Any, time: int, batch: int, device: torch.device) -> Tensor:
    """(B,) integers on the input's device. Their values are checked where that costs no waiting: on the CPU."""
    lengths: Tensor = given if isinstance(given, Tensor) else torch.as_tensor(given)
    if lengths.numel() == 0 and not isinstance(given, Tensor):  # an empty list has no type
        lengths = lengths.long()
    kind = lengths.dtype
    other = kind.is_floating_point or kind.is_complex or kind == torch.bool
    if other or lengths.numel() != batch or lengths.dim() > 1:
        raise ValueError(
            f"lengths is {lengths.dtype} of shape {tuple(lengths.shape)}: expected integers of shape ({batch},), one "
            "for each sequence"
        )
    lengths = lengths.reshape(-1).long()
    if (
        lengths.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch._C._functorch.is_functorch_wrapped_tensor(lengths)
    ):
        for k, length in enumerate(lengths.tolist()):
            if not 0 <= length <= time:
                raise ValueError(f"lengths[{k}] is {length}: expected 0 to {time}, the number of steps in the input")
    return lengths.to(device)


def check_reset(spec: Spec, given: Any, x: Tensor, batched: bool) -> Tensor:
    """(T, B) of bool."""
    reset: Tensor = given if isinstance(given, Tensor) else torch.as_tensor(given)
    expected = tuple(x.shape[:2]) if batched else (x.shape[0],)
    if spec.batch_first and batched:
        expected = expected[::-1]
    if reset.dtype.is_floating_point or tuple(reset.shape) != expected:
        raise ValueError(
            f"reset is {reset.dtype} of shape {tuple(reset.shape)}: expected torch.bool of shape {expected}, true "
            "where a new sequence begins"
        )
    reset = reset.to(device=x.device, dtype=torch.bool)
    if not batched:
        return reset.unsqueeze(1)
    return reset.transpose(0, 1) if spec.batch_first else reset


def _own(name: str, x: Tensor, dtype: torch.dtype) -> bool:
    """May the core draw this mask."""
    plain = type(x) in (Tensor, torch.nn.Parameter) and x.device.type == "cpu" and dtype == torch.float32
    transformed = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    return plain and not transformed and not name.startswith("dropout_")


def draw(spec: Spec, x: Tensor, packed: PackedSequence | None, dtype: torch.dtype) -> dict[str, Tensor]:
    """The random masks of this run: torch.nn's numbers under the same seed."""
    masks: dict[str, Tensor] = {}
    for name, mask in spec.masks(x.shape[0], x.shape[1]).items():
        # torch.nn drops packed data without their padding.
        only = packed is not None and name.startswith("dropout_")
        shape = (len(packed.data), mask.shape[-1]) if packed is not None and only else mask.shape
        if _own(name, x, dtype):  # torch.nn has no such mask, and torch's generator is slow
            drawn = torch.empty(shape, device=x.device, dtype=dtype)
            value = 1 / (1 - mask.rate) if mask.scaled and mask.rate < 1 else 1.0
            key = int(torch.randint(2**63 - 1, (), device=x.device).item())
            _core.draw(drawn.data_ptr(), drawn.numel(), 1 - mask.rate, value, key)
            masks[name] = drawn
            continue
        if mask.scaled and mask.rate == 1:  # nothing is drawn, as in torch.nn
            drawn = torch.zeros(shape, device=x.device, dtype=dtype)
        elif torch.compiler.is_compiling():  # a rate may be symbolic there, which bernoulli cannot take
            drawn = (torch.rand(shape, device=x.device) >= mask.rate).to(dtype)
        else:  # not bernoulli_, which vmap cannot give each sample its own numbers
            drawn = torch.bernoulli(torch.empty(shape, device=x.device, dtype=dtype), 1 - mask.rate)
        if mask.scaled and mask.rate < 1:
            drawn = drawn / (1 - mask.rate)
        if packed is not None and only:
            drawn, _ = pad_packed_sequence(PackedSequence(drawn, packed.batch_sizes))
        masks[name] = drawn
    return masks
