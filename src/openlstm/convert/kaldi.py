"""Kaldi nnet3: LSTM layers with projections (LSTMP) and without, as arrays by the names of their components.

The components of fast-lstmp-layer and fast-lstm-layer, with "." before what they hold:

    <name>.W_all.linear (4C, inputs + R)    <name>.W_all.bias (4C)    blocks i, f, c, o
    <name>.lstm_nonlin.params (3, C)        peepholes of i, f and o
    <name>.W_rp.linear (R + P, C)           <name>.W_rp.bias (R + P)    [r; p], of which r recurs

Those of the older lstmp-layer are W_i.xr, W_f.xr, W_c.xr, W_o.xr (C, inputs + R), w_i.c, w_f.c, w_o.c (C), W_rp.m, and
without projections W_i.xm and so on. This is Sak, Senior and Beaufays 2014, eq. 7 to 14, with biased projections.

What is in the configuration must be said as options, for no array shows it: `delay` (xconfig's default is -1, the step
before; with others Kaldi runs so many chains of steps side by side, which has no form here), and with projections
`recurrent_projection_dim`. Scaling the memory (decay-time) has no form either. Truncation and dropout are of training.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..spec import Spec
from ..words import counted
from .layers import Layers, Refused, cells, grouped, load, named, numbers, only, save_each

WORDS = "arrays of Kaldi's LSTM components"
GATES = "ifgo"  # which are Kaldi's i, f, c, o
LETTERS = dict(zip("ifco", GATES, strict=True))
ARRAY = re.compile(
    r"(?:(?P<name>.+)\.)?"
    r"(?P<part>(?:W_all|W_rp(?:\.m)?|W_[ifco]\.x[rm])\.(?:linear|bias)|lstm_nonlin\.params|w_[ifo]\.c(?:\.scales)?|"
    r"delay|recurrent_projection_dim)"
)


def read(source: Any, options: Mapping[str, Any] | None = None) -> dict[str, Layers]:
    """All LSTM layers among arrays (a mapping, or an .npz file), by their names.

    options: `delay` and `recurrent_projection_dim`; or arrays beside a layer's components, as `write` leaves them.
    Errors: FileNotFoundError, ValueError, Refused.
    """
    given = dict(options or {})
    if unknown := given.keys() - {"delay", "recurrent_projection_dim"}:
        raise ValueError(f"Kaldi's layers have no {unknown.pop()!r} here: expected delay, recurrent_projection_dim")
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, array in load(source, WORDS).items():
        if match := ARRAY.fullmatch(name):
            part = re.sub(r"\.m\.|\.x[rm]\.", ".", match["part"].removesuffix(".scales"))
            found.setdefault(match["name"] or "", {})[part] = array
    ours = {name: _layer(name or "the layer", own, given) for name, own in found.items() if len(own) > 2}
    if not ours:
        raise ValueError("There are no LSTM components: expected names such as 'lstm1.W_all.linear'")
    return grouped(ours)


def _layer(name: str, own: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> Layers:
    def get(part: str, *shape: int | None) -> np.ndarray:
        found = own.get(part)
        if found is None or found.ndim != len(shape):
            told = f"no {part}" if found is None else f"{part} of shape {found.shape}"
            raise ValueError(f"{name} has {told}: expected it with {len(shape)} dimensions")
        return numbers(f"{name}.{part}", found, tuple(n or found.shape[k] for k, n in enumerate(shape)))

    arguments = {key: own[key].item() for key in ("delay", "recurrent_projection_dim") if key in own} | dict(given)
    if "delay" not in arguments:
        raise Refused(
            f"{name} has a delay that no array shows: say it as an option, delay=-1 where xconfig says nothing"
        )
    if arguments["delay"] != -1:
        raise Refused(
            f"{name} has delay={arguments['delay']}: a step reads the one so many steps before, which has no form "
            "here. Give each of those chains of steps to a stream of its own, and say delay=-1"
        )
    if "W_all.linear" in own:
        whole, bias = get("W_all.linear", None, None), get("W_all.bias", None)
        peepholes = get("lstm_nonlin.params", 3, None).reshape(-1)
    else:
        whole = np.concatenate([get(f"W_{letter}.linear", None, None) for letter in LETTERS])
        bias = np.concatenate([get(f"W_{letter}.bias", None) for letter in LETTERS])
        peepholes = np.concatenate([get(f"w_{letter}.c", None) for letter in "ifo"])
    size = len(whole) // 4
    if not size or len(whole) % 4:
        raise ValueError(f"{name} has {counted(len(whole), 'row')} of weights: expected four for each unit")
    options: dict[str, Any] = {"peephole": "diagonal"}
    recurrent, projection = size, own.get("W_rp.linear")
    if projection is not None:
        projection = get("W_rp.linear", None, size)
        if "recurrent_projection_dim" not in arguments:
            raise Refused(
                f"{name} projects to {counted(len(projection), 'number')}, and no array shows how many of them recur: "
                "say it as the option recurrent_projection_dim"
            )
        recurrent = int(arguments["recurrent_projection_dim"])
        if not 0 < recurrent <= len(projection):
            raise ValueError(f"recurrent_projection_dim is {recurrent}: expected 1 to {len(projection)} for {name}")
        rest = len(projection) - recurrent
        options |= {"proj_size": recurrent, "nonrecurrent_proj_size": rest, "proj_bias": True}
    inputs = whole.shape[1] - recurrent
    if inputs < 1:
        raise ValueError(
            f"{name} has {counted(whole.shape[1], 'column')} of weights: expected more than the {recurrent} that recur"
        )
    spec = Spec.of("lstm", inputs, size, **options)
    whole = numbers(f"{name}'s weights", whole, (4 * size, inputs + recurrent))
    arrays = {"weight_ih_l0": whole[:, :inputs].copy(), "weight_hh_l0": whole[:, inputs:].copy()}
    arrays["bias_ih_l0"] = numbers(f"{name}'s biases", bias, (4 * size,))
    arrays["bias_hh_l0"] = np.zeros_like(bias)
    arrays["weight_ch_l0"] = numbers(f"{name}'s peepholes", peepholes, (3 * size,))
    if projection is not None:
        shift = get("W_rp.bias", len(projection))
        arrays |= {"weight_hr_l0": projection[:recurrent].copy(), "bias_hr_l0": shift[:recurrent].copy()}
        if rest:
            arrays |= {"weight_hp_l0": projection[recurrent:].copy(), "bias_hp_l0": shift[recurrent:].copy()}
    return Layers(spec, {name: arrays[name] for name in spec.parameters})


def components(layers: Layers, name: str = "") -> dict[str, Any]:
    """A stack as fast-lstmp layers, by names such as "<name>_l0.W_all.linear". Errors: Refused."""
    spec = layers.spec
    if spec.cell != "lstm":
        raise Refused(f"Kaldi's layers here are LSTMs, not {spec.cell}: keep it in openlstm")
    says = {"bias", "bidirectional", "peephole=diagonal", "proj_size", "nonrecurrent_proj_size", "proj_bias"}
    only(spec, says, "Kaldi has")
    found: dict[str, Any] = {}
    for layer, reverse, (one, arrays) in cells(layers):
        size, dtype = one.hidden_size[0], arrays["weight_ih_l0"].dtype
        zeros = np.zeros(4 * size, dtype)
        own: dict[str, Any] = {"W_all.linear": np.concatenate([arrays["weight_ih_l0"], arrays["weight_hh_l0"]], 1)}
        own["W_all.bias"] = arrays.get("bias_ih_l0", zeros) + arrays.get("bias_hh_l0", zeros)
        own["lstm_nonlin.params"] = arrays.get("weight_ch_l0", zeros[: 3 * size]).reshape(3, size)
        if one.proj_size:
            ways = [way for way in ("hr", "hp") if f"weight_{way}_l0" in arrays]
            linear = [arrays[f"weight_{way}_l0"] for way in ways]
            shift = [arrays.get(f"bias_{way}_l0", np.zeros(len(w), dtype)) for way, w in zip(ways, linear, strict=True)]
            own |= {"W_rp.linear": np.concatenate(linear), "W_rp.bias": np.concatenate(shift)}
            own["recurrent_projection_dim"] = np.int64(one.proj_size)
        own["delay"] = np.int64(-1)
        found |= {f"{named(name, layer, reverse)}.{key}": array for key, array in own.items()}
    return found


def write(layers: Layers | Mapping[str, Layers], path: str | os.PathLike[str]) -> None:
    """Writes an .npz file of `components`, whole or not at all. Errors: Refused, OSError."""
    save_each(layers, path, components)


def difference(source: Any, found: Mapping[str, Layers], seed: int = 0) -> None:
    """Kaldi has no library to run here: None."""
