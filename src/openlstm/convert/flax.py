"""Flax: the parameters of its cells, of linen and of nnx, nested or as arrays by names such as "cell/ii/kernel".

    numpy.savez("model.npz", **flax.traverse_util.flatten_dict(params, sep="/"))

linen has a kernel (inputs, H) for each gate, and the biases of the LSTM on the side of h alone; nnx has one kernel of
all gates in some cells. Cells are known by their parameters' names; each is read by itself, under the name that it
stands under, but "<name>_l0", "<name>_l1" and "<name>_l0_reverse", as `write` names them, become one stack.

gate_fn and activation_fn are in the program: where they are not sigmoid and tanh, give `activations` (LSTM: gates,
candidate, output; GRU: gates, candidate) or `nonlinearity` as options. So is a SimpleCell's `residual`, which adds h
before the function and has no form here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..spec import Spec
from .layers import (
    Layers,
    Refused,
    blocks,
    cells,
    grouped,
    load,
    named,
    numbers,
    only,
    outputs,
    save_each,
)

WORDS = "parameters of Flax' cells"
GATES = {"lstm": "ifgo", "gru": "rzn", "rnn": ""}  # in Flax' letters, which are ours but for z
CELLS = {"lstm": "OptimizedLSTMCell", "gru": "GRUCell", "rnn": "SimpleCell"}
PARAMETER = re.compile(r"(?:(?P<scope>.+)/)?(?P<dense>[ih](?:[a-z]_?)?|dense_[ih])/(?P<what>kernel|bias)")


def read(source: Any, options: Mapping[str, Any] | None = None) -> dict[str, Layers]:
    """All cells among parameters (a nested mapping of arrays, or an .npz file), by the names that they stand under.

    options: of the spec, what parameters cannot say: activations, nonlinearity. Errors: FileNotFoundError, ValueError,
    Refused.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, array in load(source, WORDS).items():
        if match := PARAMETER.fullmatch(name):
            dense = match["dense"].removesuffix("_") if "dense" not in match["dense"] else match["dense"][-1]
            found.setdefault(match["scope"] or "", {})[f"{dense}/{match['what']}"] = array
    ours = {name: _cell(name or "the cell", own, dict(options or {})) for name, own in found.items()}
    if not ours:
        raise ValueError("There are no cells among the parameters: expected names such as 'cell/ii/kernel'")
    return grouped(ours)


def _cell(name: str, own: dict[str, np.ndarray], options: dict[str, Any]) -> Layers:
    denses = {key.partition("/")[0] for key in own}
    kind = next(
        (kind for kind, gates in GATES.items() if denses == {way + g for way in "ih" for g in gates or [""]}), ""
    )
    if denses == {"i", "h"}:  # one kernel of all gates, or of the one that there is
        square = own.get("h/kernel", np.empty(0))
        shape = square.shape if square.ndim == 2 else (0, 0)
        kind = (
            {4: "lstm", 3: "gru", 1: "rnn"}.get(shape[1] // shape[0], "")
            if shape[0] and not shape[1] % shape[0]
            else ""
        )
        parts = {key: blocks(array, GATES[kind], axis=-1) for key, array in own.items()} if GATES.get(kind) else {}
        own = {f"{key[0]}{gate}{key[1:]}": array for key, all in parts.items() for gate, array in all.items()} or own
    if not kind:
        minimal = " (a minimal gated unit, which has no form here)" if denses == {"if", "in", "hf", "hn"} else ""
        raise Refused(f"{name} has {', '.join(sorted(denses))}{minimal}: expected an LSTM, GRU or SimpleCell of Flax")
    first = own.get("ii/kernel", own.get("ir/kernel", own.get("i/kernel")))
    if first is None or first.ndim != 2 or 0 in first.shape:
        raise ValueError(f"{name} has no kernel of two dimensions: expected the parameters of {CELLS[kind]}")
    inputs, size = first.shape
    spec = Spec.of(kind, inputs, size, **options)

    def get(key: str, *shape: int) -> np.ndarray:
        if key not in own and key.endswith("bias"):
            return np.zeros(shape, first.dtype)
        if key not in own:
            raise ValueError(f"{name} has no {key}: expected all parameters of {CELLS[kind]}")
        return numbers(f"{name}/{key}", own[key], shape)

    arrays = {}
    gates = list(GATES[kind]) or [""]
    for way, rows in (("i", inputs), ("h", size)):
        arrays[f"weight_{way}h_l0"] = np.concatenate([get(f"{way}{gate}/kernel", rows, size).T for gate in gates])
        arrays[f"bias_{way}h_l0"] = np.concatenate([get(f"{way}{gate}/bias", size) for gate in gates])
    return Layers(spec, arrays)


def parameters(layers: Layers, name: str = "") -> dict[str, Any]:
    """A stack as the parameters of linen's cells, by names such as "<name>_l0/ii/kernel". Errors: Refused."""
    only(layers.spec, {"bias", "bidirectional", "activations", "nonlinearity"}, "Flax has")
    if layers.spec.cell == "lstm" and layers.spec.activations[1] != layers.spec.activations[2]:
        raise Refused("Flax has one activation_fn for the candidate and the output, not two: keep it in openlstm")
    found: dict[str, Any] = {}
    for layer, reverse, (spec, arrays) in cells(layers):
        gates = dict(zip(spec.gates, GATES[spec.cell] or ("",), strict=True))
        zeros = np.zeros(len(gates) * spec.hidden_size[0], arrays["weight_ih_l0"].dtype)
        # A bias is on one side: the LSTM's on h's, others' on x's, but for the GRU's candidate, which has both.
        bias, other = (blocks(arrays.get(f"bias_{way}h_l0", zeros), gates) for way in "ih")
        for gate, letter in gates.items():
            at = named(name, layer, reverse)
            for way in "ih":
                found[f"{at}/{way}{letter}/kernel"] = blocks(arrays[f"weight_{way}h_l0"], gates)[gate].T
            if gate == "n":
                found[f"{at}/in/bias"], found[f"{at}/hn/bias"] = bias[gate], other[gate]
            else:
                found[f"{at}/{'h' if spec.cell == 'lstm' else 'i'}{letter}/bias"] = bias[gate] + other[gate]
    return found


def write(layers: Layers | Mapping[str, Layers], path: str | os.PathLike[str]) -> None:
    """Writes an .npz file of `parameters`, whole or not at all. Errors: Refused, OSError.

    flax.traverse_util.unflatten_dict(dict(numpy.load(path)), sep="/") nests them.
    """
    save_each(layers, path, parameters)


def difference(source: Any, found: Mapping[str, Layers], seed: int = 0) -> float | None:
    """The largest difference between linen's cells and ours on random input; None where Flax is not installed.

    linen computes in float32. Functions that it has not under our names are not compared: None.
    """
    try:
        import flax.linen
        import jax
    except ModuleNotFoundError:
        return None
    worst, random = 0.0, np.random.default_rng(seed)
    for layers in found.values():
        spec, own = layers.spec, parameters(layers)
        functions = (spec.nonlinearity,) if spec.cell == "rnn" else spec.activations
        if not all(hasattr(flax.linen, word) for word in functions):
            return None
        told = {"activation_fn": getattr(flax.linen, functions[-1])}
        told |= {} if spec.cell == "rnn" else {"gate_fn": getattr(flax.linen, functions[0])}
        y = x = random.normal(size=(7, 3, spec.input_size)).astype(np.float32)
        for layer in range(spec.num_layers):
            ways = []
            for reverse in (False, True)[: spec.directions]:
                at = named("", layer, reverse) + "/"
                flat = {n.removeprefix(at): np.asarray(a, np.float32) for n, a in own.items() if n.startswith(at)}
                tree: dict[str, dict[str, Any]] = {n.partition("/")[0]: {} for n in flat}
                for n, array in flat.items():
                    tree[n.partition("/")[0]][n.partition("/")[2]] = array
                cell = getattr(flax.linen, CELLS[spec.cell])(spec.hidden_size[layer], **told)
                state, steps = cell.initialize_carry(jax.random.key(0), y.shape[1:]), []
                for row in y[::-1] if reverse else y:
                    state, out = cell.apply({"params": tree}, state, row)
                    steps.append(np.asarray(out))
                ways.append(np.stack(steps[::-1] if reverse else steps))
            y = np.concatenate(ways, -1)
        worst = max(worst, float(np.abs(y - outputs(layers, x)).max()))
    return worst
