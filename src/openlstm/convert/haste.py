"""haste: the parameters of its layers, as arrays or as a state_dict of its PyTorch modules.

Kernels are (inputs, gates * H), with the LSTM's gates in the order i, g, f, o and the GRU's as z, r, h. A LayerNormLSTM
has gamma (2, 4H) for W x and R h, and gamma_h, beta_h for the memory where it is read: openlstm's layer norm.
Each layer is read by itself, under the name that stands before its parameters, but "<name>_l0", "<name>_l1" and
"<name>_l0_reverse", as `write` names them, become one stack.

zoneout is in the program: give it as the option zoneout_h. dropout, on the recurrent weights, is of training alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..spec import Spec
from .layers import Layers, Refused, blocks, cells, grouped, load, named, numbers, only, save_each, stack

WORDS = "parameters of haste's layers"
GATES = {"lstm": "igfo", "gru": "urn"}  # in haste's order, by our names
PARAMETER = re.compile(
    r"(?:(?P<scope>.+)[./])?"
    r"(?P<name>kernel|recurrent_kernel|bias|recurrent_bias|gamma|gamma_h|beta_h|recurrent_scale)"
)


def read(source: Any, options: Mapping[str, Any] | None = None) -> dict[str, Layers]:
    """All layers among arrays (a mapping, an .npz file, a state_dict's .pt file), by what stands before their names.

    options: of the spec: zoneout_h. Errors: FileNotFoundError, ValueError, Refused.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, array in load(source, WORDS).items():
        if match := PARAMETER.fullmatch(name):
            found.setdefault(match["scope"] or "", {})[match["name"]] = array
    ours = {name: _layer(name or "the layer", own, dict(options or {})) for name, own in found.items()}
    if not ours:
        raise ValueError("There are no layers of haste: expected names such as 'recurrent_kernel'")
    return grouped(ours)


def _layer(name: str, own: Mapping[str, np.ndarray], options: dict[str, Any]) -> Layers:
    if "recurrent_scale" in own:
        raise Refused(f"{name} is an IndRNN of haste, whose units do not see each other: it has no form here")
    recurrent, kernel = own.get("recurrent_kernel", np.empty(0)), own.get("kernel", np.empty(0))
    size, columns = recurrent.shape if recurrent.ndim == 2 else (0, 0)
    cell = {4: "lstm", 3: "gru"}.get(columns // size if size and not columns % size else 0)
    if cell is None or kernel.ndim != 2 or not kernel.shape[0]:
        raise ValueError(
            f"{name} has a kernel of shape {kernel.shape} and a recurrent_kernel of shape {recurrent.shape}: expected "
            "(inputs, n * H) and (H, n * H), where n is 4 in an LSTM and 3 in a GRU"
        )
    spec = Spec.of(cell, kernel.shape[0], size, layer_norm="gamma" in own, **options)

    def get(key: str, *shape: int) -> np.ndarray:
        if key not in own:
            raise ValueError(f"{name} has no {key}: expected it beside {', '.join(own)}")
        return numbers(f"{name}.{key}", own[key], shape)

    def ordered(array: Any) -> Any:  # along the last dimension
        return stack(blocks(array, GATES[cell], axis=-1), spec.gates, axis=-1)

    arrays = {"weight_ih_l0": ordered(get("kernel", kernel.shape[0], columns)).T.copy()}
    arrays["weight_hh_l0"] = ordered(get("recurrent_kernel", size, columns)).T.copy()
    arrays["bias_ih_l0"] = ordered(get("bias", columns))
    other = "recurrent_bias"
    arrays["bias_hh_l0"] = ordered(get(other, columns)) if cell == "gru" else np.zeros_like(arrays["bias_ih_l0"])
    if spec.layer_norm:
        arrays["norm_ih_l0"], arrays["norm_hh_l0"] = ordered(get("gamma", 2, columns))
    if spec.layer_norm and cell == "lstm":
        arrays |= {"norm_c_l0": get("gamma_h", size), "norm_c_bias_l0": get("beta_h", size)}
    return Layers(spec, arrays)


def parameters(layers: Layers, name: str = "") -> dict[str, Any]:
    """A stack as haste's parameters, by names such as "<name>_l0.kernel". Errors: Refused."""
    spec = layers.spec
    if spec.cell not in GATES:
        raise Refused(f"haste has no {spec.cell} with recurrent weights: keep it in openlstm")
    only(spec, {"bias", "bidirectional", "layer_norm", "zoneout_h"}, "haste has")
    found: dict[str, Any] = {}
    for layer, reverse, (one, arrays) in cells(layers):

        def ordered(array: Any, gates: Any = one.gates) -> Any:
            return stack(blocks(array, gates, axis=-1), GATES[spec.cell], axis=-1)

        zeros = np.zeros(len(one.gates) * one.hidden_size[0], arrays["weight_ih_l0"].dtype)
        bias, other = (arrays.get(f"bias_{way}_l0", zeros) for way in ("ih", "hh"))
        own = {"kernel": ordered(arrays["weight_ih_l0"].T), "recurrent_kernel": ordered(arrays["weight_hh_l0"].T)}
        own |= {"bias": ordered(bias + other)} if spec.cell == "lstm" else {}
        own |= {"bias": ordered(bias), "recurrent_bias": ordered(other)} if spec.cell == "gru" else {}
        if spec.layer_norm:
            own["gamma"] = ordered(np.stack([arrays["norm_ih_l0"], arrays["norm_hh_l0"]]))
        if spec.layer_norm and spec.cell == "lstm":
            own |= {"gamma_h": arrays["norm_c_l0"], "beta_h": arrays["norm_c_bias_l0"]}
        found |= {f"{named(name, layer, reverse)}.{key}": array for key, array in own.items()}
    return found


def write(layers: Layers | Mapping[str, Layers], path: str | os.PathLike[str]) -> None:
    """Writes an .npz file of `parameters`, whole or not at all. Errors: Refused, OSError."""
    save_each(layers, path, parameters)


def difference(source: Any, found: Mapping[str, Layers], seed: int = 0) -> None:
    """haste runs on CUDA devices alone, and is not run here: None."""
