"""PyTorch: modules and their state_dicts, and torch's dynamically quantised LSTM and GRU.

Names, shapes and the order of gates are ours, for ours are PyTorch's (i, f, g, o; r, z, n; [W; R] with two biases).
What a state_dict cannot say is the activation of an RNN and options that have no parameters: give them as `options`.
"""

from __future__ import annotations

import io
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import file
from ..nn import Recurrent, of
from ..spec import Spec
from ..words import counted
from .layers import Layers, Refused

PARAMETER = re.compile(
    r"(?:(?P<prefix>.+)\.)?(?P<name>(?:weight_(?:ih|hh|hr|hp|ch)|bias_(?:ih|hh|hr|hp)|norm_\w+?|initial_\w+?))"
    r"(?P<suffix>_l(?P<layer>\d+)(?P<reverse>_reverse)?)?"
)
CELLS = {4: "lstm", 3: "gru", 1: "rnn"}  # by the rows of W for each unit
CLASSES = {nn.LSTM: "lstm", nn.GRU: "gru", nn.RNN: "rnn", nn.LSTMCell: "lstm", nn.GRUCell: "gru", nn.RNNCell: "rnn"}
OWN = ("bias", "batch_first", "bidirectional", "dropout", "proj_size", "nonlinearity")  # what torch.nn can say


def read(source: Any, options: Mapping[str, Any] | None = None) -> dict[str, Layers]:
    """All recurrent layers of a module, a state_dict, or the file of one (.pt, .pth, .bin, .safetensors).

    options: of the spec, what cannot be seen in a state_dict, such as nonlinearity="relu". Nothing in a file is
    executed. Errors: FileNotFoundError, ValueError.
    """
    if isinstance(source, nn.Module):
        return _of_module(source)
    state = source if isinstance(source, Mapping) else load(source)
    name = "the state_dict" if isinstance(source, Mapping) else f"'{os.fspath(source)}'"
    found: dict[str, dict[str, np.ndarray]] = {}
    for key, tensor in state.items():
        match = PARAMETER.fullmatch(key) if isinstance(key, str) and isinstance(tensor, Tensor) else None
        if match is not None:
            own = found.setdefault(match["prefix"] or "", {})
            own[match["name"] + (match["suffix"] or "_l0")] = as_numpy(tensor)
    layers = {prefix: _of_arrays(f"{prefix or name}", arrays, dict(options or {})) for prefix, arrays in found.items()}
    if not layers:
        raise ValueError(f"{name} has no recurrent layers: expected names such as 'weight_ih_l0'")
    return layers


def load(path: Any) -> Mapping[str, Any]:
    target = Path(path)
    if not target.is_file():
        raise FileNotFoundError(f"There is no file '{target}': give a state_dict that torch.save wrote")
    if target.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(target)
        except SafetensorError as error:
            raise ValueError(f"'{target}' cannot be read ({str(error)[:200]}): give a whole safetensors file") from None
    try:
        found = torch.load(target, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OSError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"'{target}' cannot be read without executing what is in it ({reason}): save module.state_dict() instead"
        ) from None
    if isinstance(found, Mapping) and not any(isinstance(value, Tensor) for value in found.values()):
        for name in ("state_dict", "model_state_dict", "model"):  # as checkpoints have them
            if isinstance(found.get(name), Mapping):
                found = found[name]
    if not isinstance(found, Mapping):
        raise ValueError(f"'{target}' holds a {type(found).__name__}: expected a state_dict")
    return found


def as_numpy(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).numpy()


def _of_module(module: nn.Module) -> dict[str, Layers]:
    found = {}
    for name, part in module.named_modules():
        quantised = type(part).__module__.endswith("quantized.dynamic.modules.rnn")
        if isinstance(part, Recurrent):
            found[name] = Layers(part.spec, {k: as_numpy(v) for k, v in part.state_dict().items()})
        elif type(part) in CLASSES:
            arrays = {k if "_l" in k else f"{k}_l0": as_numpy(v) for k, v in part.state_dict().items()}
            options = {
                k: getattr(part, k) for k in ("batch_first", "dropout", "nonlinearity") if getattr(part, k, None)
            }
            if CLASSES[type(part)] != "rnn":
                options.pop("nonlinearity", None)
            found[name] = _of_arrays(name or type(part).__name__, arrays, options)
        elif quantised and hasattr(part, "get_weight") and hasattr(part, "batch_first"):
            found[name] = _of_quantised(name or type(part).__name__, part)
    if not found:
        raise ValueError(
            f"{type(module).__name__} has no recurrent layers: expected torch.nn's LSTM, GRU or RNN, or ours"
        )
    return found


def _of_quantised(name: str, part: Any) -> Layers:
    """The floats that torch's quantised weights stand for."""
    arrays = {key: as_numpy(weight.dequantize()) for key, weight in part.get_weight().items()}
    arrays |= {key: as_numpy(bias) for key, bias in part.get_bias().items() if bias is not None}
    options = {"batch_first": part.batch_first, "dropout": float(part.dropout)}
    return _of_arrays(name, {key if "_l" in key else f"{key}_l0": array for key, array in arrays.items()}, options)


def _of_arrays(name: str, arrays: Mapping[str, np.ndarray], options: dict[str, Any]) -> Layers:
    """The spec that these parameters are of."""
    wanted = f"expected the parameters of recurrent layers in {name}"
    try:
        first = arrays["weight_ih_l0"]
    except KeyError as missing:
        raise ValueError(f"{name} has no {missing.args[0]}: {wanted}") from None
    count = 1 + max(int(k.partition("_l")[2].partition("_")[0]) for k in arrays if "_l" in k)
    sizes = []
    for layer in range(count):
        reader = arrays.get(f"weight_hr_l{layer}", arrays.get(f"weight_hh_l{layer}"))
        if reader is None or reader.ndim != 2:
            raise ValueError(f"{name} has no weight_hh_l{layer} of two dimensions: {wanted}")
        sizes.append(reader.shape[1])
    if first.ndim != 2 or not sizes[0] or first.shape[0] % sizes[0] or first.shape[0] // sizes[0] not in CELLS:
        raise ValueError(f"{name} has weight_ih_l0 of shape {first.shape}: {wanted}, of {counted(sizes[0], 'unit')}")
    cell = CELLS[first.shape[0] // sizes[0]]
    seen: dict[str, Any] = {"bias": "bias_ih_l0" in arrays, "bidirectional": "weight_ih_l0_reverse" in arrays}
    if "weight_hr_l0" in arrays:
        seen["proj_size"] = arrays["weight_hr_l0"].shape[0]
    if "weight_hp_l0" in arrays:
        seen["nonrecurrent_proj_size"] = arrays["weight_hp_l0"].shape[0]
    if "bias_hr_l0" in arrays:
        seen["proj_bias"] = True
    if "weight_ch_l0" in arrays:
        seen["peephole"] = "diagonal" if arrays["weight_ch_l0"].ndim == 1 else "dense"
    seen |= {"layer_norm": True} if "norm_ih_l0" in arrays else {}
    seen |= {"learned_state": True} if "initial_h_l0" in arrays else {}
    spec = Spec.of(cell, first.shape[1], sizes, **(seen | options))
    file.match(name, spec, arrays)
    return Layers(spec, dict(arrays))


def module(layers: Layers) -> nn.Module:
    """torch.nn's layer with these numbers. Errors: Refused for what torch.nn has no form of."""
    spec = layers.spec
    options = {name: getattr(spec, name) for name in OWN if name != "nonlinearity"}
    plain = Spec.of(
        spec.cell,
        spec.input_size,
        list(spec.hidden_size),
        **options,
        **({"nonlinearity": spec.nonlinearity} if spec.cell == "rnn" else {}),
    )
    function = spec.cell != "rnn" or spec.nonlinearity in ("tanh", "relu")
    if plain != spec or len(set(spec.hidden_size)) > 1 or not function:
        more = str(spec).partition("; ")[2]
        raise Refused(f"torch.nn has no {spec.cell} with {more or 'layers of different sizes'}: keep it in openlstm")
    kind = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[spec.cell]
    if spec.cell != "lstm":
        del options["proj_size"]
    made: nn.Module = kind(
        spec.input_size,
        spec.hidden_size[0],
        spec.num_layers,
        **options,
        **({"nonlinearity": spec.nonlinearity} if spec.cell == "rnn" else {}),
    )
    made.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in layers.arrays.items()})
    return made.to(torch.from_numpy(layers.arrays["weight_ih_l0"]).dtype).eval()


def write(layers: Layers | Mapping[str, Layers], path: str | os.PathLike[str]) -> None:
    """Writes a state_dict that torch.nn's layers load, whole or not at all. Errors: Refused, OSError."""
    several = {"": layers} if isinstance(layers, Layers) else layers
    state: dict[str, Tensor] = {}
    for name, one in several.items():
        state |= {f"{name}.{k}" if name else k: v for k, v in module(one).state_dict().items()}
    if Path(path).suffix == ".safetensors":
        from safetensors.torch import save

        file.replace(path, save(state))
        return
    out = io.BytesIO()
    torch.save(state, out)
    file.replace(path, out.getvalue())


def difference(source: Any, found: Mapping[str, Layers], seed: int = 0) -> float:
    """The largest difference between torch.nn's output and ours on random input."""
    worst = 0.0
    parts = dict(source.named_modules()) if isinstance(source, nn.Module) else {}
    for name, layers in found.items():
        spec = layers.spec
        peer = parts.get(name)
        if not isinstance(peer, (nn.LSTM, nn.GRU, nn.RNN)):
            peer = module(layers)
        own = of(spec).to(torch.float64)
        own.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in layers.arrays.items()})
        x = torch.randn(7, 3, spec.input_size, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            theirs, _ = peer.eval()(x.to(next(peer.parameters()).dtype))
            ours, _ = own.eval()(x.double())
        worst = max(worst, float((theirs.double() - ours).abs().max()))
    return worst
