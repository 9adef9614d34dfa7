"""TensorFlow 1: the variables of its cells, as arrays by their names in a checkpoint.

    reader = tf.train.load_checkpoint("model.ckpt")
    numpy.savez("model.npz", **{name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()})

Cells are known by their scopes (`CELLS`); those of a MultiRNNCell, or of a stack of bidirectional layers, become one
stack. A backward cell of `bidirectional_dynamic_rnn` beside a forward one is a direction of one layer. Other variables
(optimizers', dense layers') are left alone.

What changes numbers and is in the program, not in the variables, are `ARGUMENTS` of the cells: give them as `options`,
or as arrays beside a cell's variables, as `write` leaves them. TensorFlow adds forget_bias at every run; it must be
said (its default is 1.0), and is stored in our bias. cell_clip, proj_clip and activation have TensorFlow's defaults:
none, none, tanh. LSTMBlockCell and LSTMBlockFusedCell compute the same; their gradient ignores a clip, ours does not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..spec import Spec
from ..words import counted
from .layers import (
    Layers,
    Refused,
    blocks,
    cells,
    load,
    numbers,
    only,
    outputs,
    save,
    several,
    stack,
    stacked,
)

WORDS = "variables of TensorFlow 1's cells"


class _Kind(NamedTuple):
    classes: tuple[str, ...]
    cell: str
    gates: str  # in the order of the kernel's columns, by our names
    options: Mapping[str, Any] = {}


CELLS = {
    "basic_lstm_cell": _Kind(("BasicLSTMCell",), "lstm", "igfo"),
    "lstm_cell": _Kind(("LSTMCell", "LSTMBlockCell"), "lstm", "igfo"),
    "lstm_fused_cell": _Kind(("LSTMBlockFusedCell",), "lstm", "igfo"),
    "cudnn_compatible_lstm_cell": _Kind(("CudnnCompatibleLSTMCell",), "lstm", "igfo"),
    "coupled_input_forget_gate_lstm_cell": _Kind(
        ("CoupledInputForgetGateLSTMCell",), "lstm", "gfo", {"coupled": "i=1-f"}
    ),
    "gru_cell": _Kind(("GRUCell", "GRUBlockCell", "GRUBlockCellV2"), "gru", "ru", {"reset": "before"}),
    "cudnn_compatible_gru_cell": _Kind(("CudnnCompatibleGRUCell",), "gru", "ru"),
    "basic_rnn_cell": _Kind(("BasicRNNCell",), "rnn", "h"),
}
ARGUMENTS = {"forget_bias": float, "cell_clip": float, "proj_clip": float, "activation": str}
# Names that some cells have for what others call otherwise.
OTHERWISE = {"W": "kernel", "W_0": "kernel", "B": "bias", "W_P": "projection/kernel", "W_P_0": "projection/kernel"}
OTHERWISE |= {f"W_{gate.upper()}_diag": f"w_{gate}_diag" for gate in "ifo"}
OTHERWISE |= {"w_ru": "gates/kernel", "b_ru": "gates/bias", "w_c": "candidate/kernel", "b_c": "candidate/bias"}
VARIABLE = re.compile(
    r"(?:(?P<scope>.+?)/)??(?P<name>kernel|bias|(?:projection|gates|candidate)/(?:kernel|bias)|w_[ifo]_diag|W_\d+|W_P_\d+|"
    rf"candidate/(?:input|hidden)_projection/(?:kernel|bias)|\w+/gamma|{'|'.join((*OTHERWISE, *ARGUMENTS))})"
)


def read(source: Any, options: Mapping[str, Any] | None = None) -> dict[str, Layers]:
    """All cells among variables (a mapping of arrays, or an .npz file), by the scopes that they stand in.

    options: the `ARGUMENTS` of the cells; and `cell`, one of TensorFlow's classes, for those under other names than
    `CELLS` has. Errors: FileNotFoundError, ValueError, Refused.
    """
    given = dict(options or {})
    own = given.pop("cell", None)
    by_class = {word: scope for scope, kind in CELLS.items() for word in kind.classes}
    if own is not None and own not in by_class:
        raise ValueError(f"cell is {own!r}: expected one of {', '.join(by_class)}")
    if unknown := given.keys() - ARGUMENTS.keys():
        raise ValueError(f"TensorFlow's cells have no {unknown.pop()!r}: expected {', '.join(ARGUMENTS)} or cell")
    scopes: dict[str, dict[str, np.ndarray]] = {}
    for name, array in load(source, WORDS).items():
        if match := VARIABLE.fullmatch(name):
            scopes.setdefault(match["scope"] or "", {})[OTHERWISE.get(match["name"], match["name"])] = array
    found: dict[str, dict[tuple[int, bool], Layers]] = {}
    for scope, variables in scopes.items():
        path, _, last = scope.rpartition("/")
        kind = re.sub(r"_\d+$", "", last)
        if kind not in CELLS:
            if "layer_norm" in kind and "lstm" in kind:
                raise _normed(scope)
            if own is None:
                continue
            path, kind = scope, by_class[own]
        before, layer, reverse = _place(path)
        found.setdefault(before, {})[layer, reverse] = _cell(scope or "the cell", kind, variables, given)
    if not found:
        classes = ", ".join(by_class)
        raise ValueError(f"There are no cells among the variables: expected scopes such as rnn/lstm_cell, of {classes}")
    apart: dict[str, Layers] = {}
    for name, one in found.items():
        alone = {way for _, way in one} == {True}  # a stack of its own that the program gives the turned sequence
        apart[name] = stacked(name or "the cells", {(k, False): a for (k, _), a in one.items()} if alone else one)
    return apart


def _place(path: str) -> tuple[str, int, bool]:
    """Of a cell's scope: the stack that it is in, its layer there, and does it read backwards."""
    outer, _, way = path.rpartition("/")
    parts = (outer if way in ("fw", "bw") else path).split("/")  # a whole stack inside a direction stays apart
    layers = [k for k, part in enumerate(parts) if re.fullmatch(r"cell_\d+", part)]
    layer = int(parts.pop(layers[-1])[5:]) if layers else 0
    return "/".join(parts), layer, way == "bw"


def _normed(scope: str) -> Refused:
    return Refused(
        f"{scope} has TensorFlow's layer norm: it normalises each gate, and hands on the normalised memory, which is "
        "not the layer norm of Ba et al. 2016 that openlstm has: train such a model anew"
    )


def _cell(name: str, kind: str, variables: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> Layers:
    """One cell's numbers in ours. Kernels are [x; h] times gates."""
    _, cell, gates, options = CELLS[kind]
    if any(one.endswith("/gamma") for one in variables):
        raise _normed(name)
    if shards := [one for one in variables if re.fullmatch(r"W(_P)?_[1-9]\d*", one)]:
        raise Refused(f"{name} has a matrix in several shards ({shards[0]}): put them together along the first axis")
    arguments = {n: kept.item() if (kept := variables[n]).ndim == 0 else kept for n in ARGUMENTS if n in variables}
    arguments |= given
    if kind.startswith("cudnn"):
        arguments["forget_bias"] = 0.0
    for argument, value in arguments.items():
        if not isinstance(value, (int, float) if ARGUMENTS[argument] is float else str):
            raise ValueError(f"{name} has {argument} {value!r}: expected a {ARGUMENTS[argument].__name__}")

    def get(variable: str, *shape: int | None) -> np.ndarray:
        found = variables.get(variable)
        if found is None or found.ndim != len(shape):
            told = "no " + variable if found is None else f"{variable} of shape {found.shape}"
            raise ValueError(f"{name} has {told}: expected {len(shape)} dimensions, as {kind} has them")
        return numbers(f"{name}/{variable}", found, tuple(n or found.shape[k] for k, n in enumerate(shape)))

    spelled = {"gru": "gates/"}.get(cell, "")
    kernel = get(spelled + "kernel", None, None)
    size, over = divmod(kernel.shape[1], len(gates))
    if over or not size:
        raise ValueError(f"{name} has a kernel of shape {kernel.shape}: expected columns for {len(gates)} gates")
    projection = get("projection/kernel", size, None) if "projection/kernel" in variables else None
    recurrent = size if projection is None else projection.shape[1]
    inputs = kernel.shape[0] - recurrent
    if inputs < 1:
        raise ValueError(
            f"{name} has a kernel of {counted(kernel.shape[0], 'row')}: expected more than {recurrent}, those of h"
        )
    columns = blocks(kernel, gates, axis=1)
    bias = blocks(get(spelled + "bias", len(gates) * size), gates)
    other = {gate: np.zeros_like(array) for gate, array in bias.items()}
    if kind == "gru_cell":
        columns["n"], bias["n"] = get("candidate/kernel", inputs + size, size), get("candidate/bias", size)
        other["n"] = np.zeros_like(bias["n"])
    elif cell == "gru":
        ways = [
            get(f"candidate/{way}_projection/kernel", rows, size) for way, rows in (("input", inputs), ("hidden", size))
        ]
        columns["n"] = np.concatenate(ways)
        bias["n"], other["n"] = (get(f"candidate/{way}_projection/bias", size) for way in ("input", "hidden"))
    chosen = dict(options)
    if cell == "lstm":
        if "forget_bias" not in arguments:
            raise Refused(
                f"{name} has a forget_bias that TensorFlow adds at every run, and that no variable holds: say it as an "
                "option, forget_bias=1.0 where the program says nothing"
            )
        bias["f"] = bias["f"] + np.asarray(float(arguments["forget_bias"]), bias["f"].dtype)
        seeing = [gate for gate in "ifo" if gate in gates and f"w_{gate}_diag" in variables]
        if seeing and len(seeing) < len(gates) - 1:
            raise ValueError(f"{name} has peepholes of {', '.join(seeing)} alone: expected all, or none")
        chosen |= {"peephole": "diagonal"} if seeing else {}
        chosen["cell_clip"] = float(arguments.get("cell_clip") or 0.0)
        if projection is not None:
            chosen |= {"proj_size": recurrent, "proj_clip": float(arguments.get("proj_clip") or 0.0)}
    function = str(arguments.get("activation", "tanh"))
    if cell == "rnn":
        chosen["nonlinearity"] = function
    else:
        chosen["activations"] = ("sigmoid", *[function] * (2 if cell == "lstm" else 1))
    spec = Spec.of(cell, inputs, size, **chosen)
    whole = stack(columns, spec.gates, axis=1).T
    arrays = {"weight_ih_l0": whole[:, :inputs].copy(), "weight_hh_l0": whole[:, inputs:].copy()}
    arrays |= {"bias_ih_l0": stack(bias, spec.gates), "bias_hh_l0": stack(other, spec.gates)}
    if projection is not None:
        arrays["weight_hr_l0"] = projection.T.copy()
    if spec.cell == "lstm" and spec.peephole:
        arrays["weight_ch_l0"] = np.concatenate([get(f"w_{gate}_diag", size) for gate in seeing])
    return Layers(spec, arrays)


def variables(layers: Layers, forget_bias: float = 1.0) -> dict[str, Any]:
    """A stack as TensorFlow's variables, with the arguments of its cells beside them.

    Our biases are TensorFlow's and forget_bias, its own default. Errors: Refused for what its cells cannot say.
    """
    spec = layers.spec
    says = {"bias", "bidirectional", "activations", "nonlinearity", "reset"}
    if spec.cell == "lstm":
        says |= {"peephole=diagonal", "coupled=i=1-f", "proj_size", "proj_clip"}
    only(spec, says | (set() if spec.cell == "lstm" and spec.coupled else {"cell_clip"}), "TensorFlow 1 has")
    function = spec.nonlinearity if spec.cell == "rnn" else spec.activations[-1]
    if spec.cell != "rnn" and spec.activations != ("sigmoid", *[function] * (len(spec.activations) - 1)):
        raise Refused(f"TensorFlow 1 has one activation beside its gates' sigmoid, not {'/'.join(spec.activations)}")
    kind = {"rnn": "basic_rnn_cell", "gru": "gru_cell", "lstm": "lstm_cell"}[spec.cell]
    if spec.cell == "gru" and spec.reset == "after":
        kind = "cudnn_compatible_gru_cell"
    if spec.cell == "lstm" and spec.coupled:
        kind = "coupled_input_forget_gate_lstm_cell"
    found: dict[str, Any] = {}
    for layer, reverse, one in cells(layers):
        if spec.bidirectional:
            scope = f"stack_bidirectional_rnn/cell_{layer}/bidirectional_rnn/{('fw', 'bw')[reverse]}/{kind}/"
        else:
            scope = f"rnn/multi_rnn_cell/cell_{layer}/{kind}/" if spec.num_layers > 1 else f"rnn/{kind}/"
        own = _variables(kind, one, forget_bias)
        if spec.cell == "lstm":
            own |= {"forget_bias": np.float64(forget_bias)}
            own |= {clip: np.float64(value) for clip in ("cell_clip", "proj_clip") if (value := getattr(spec, clip))}
        if function != "tanh":
            own["activation"] = np.array(function)
        found |= {scope + name: array for name, array in own.items()}
    return found


def _variables(kind: str, one: Layers, forget_bias: float) -> dict[str, Any]:
    """One cell's, in the reverse of `_cell`."""
    spec, arrays = one
    _, cell, gates, _ = CELLS[kind]
    w, r = (blocks(arrays[f"weight_{way}_l0"], spec.gates) for way in ("ih", "hh"))
    kernel = {gate: np.concatenate([w[gate], r[gate]], 1).T for gate in spec.gates}
    zeros = np.zeros(spec.hidden_size[0] * len(spec.gates), arrays["weight_ih_l0"].dtype)
    bias, other = (blocks(arrays.get(f"bias_{way}_l0", zeros), spec.gates) for way in ("ih", "hh"))
    both = {gate: bias[gate] + other[gate] for gate in spec.gates}
    if cell == "lstm":
        both["f"] = both["f"] - np.asarray(forget_bias, zeros.dtype)
    if cell == "gru":
        found = {"gates/kernel": stack(kernel, gates, axis=1), "gates/bias": stack(both, gates)}
        if kind == "gru_cell":
            return found | {"candidate/kernel": kernel["n"], "candidate/bias": both["n"]}
        return found | {
            "candidate/input_projection/kernel": w["n"].T,
            "candidate/hidden_projection/kernel": r["n"].T,
            "candidate/input_projection/bias": bias["n"],
            "candidate/hidden_projection/bias": other["n"],
        }
    found = {"kernel": stack(kernel, gates, axis=1), "bias": stack(both, gates)}
    if "weight_hr_l0" in arrays:
        found["projection/kernel"] = arrays["weight_hr_l0"].T
    if "weight_ch_l0" in arrays:
        seeing = [gate for gate in spec.gates if gate != "g"]
        found |= {f"w_{gate}_diag": array for gate, array in blocks(arrays["weight_ch_l0"], seeing).items()}
    if kind.startswith("coupled"):
        names = {
            "kernel": "W_0",
            "bias": "B",
            "projection/kernel": "W_P_0",
            "w_f_diag": "W_F_diag",
            "w_o_diag": "W_O_diag",
        }
        found = {names[name]: array for name, array in found.items()}
    return found


def write(layers: Layers | Mapping[str, Layers], path: str | os.PathLike[str]) -> None:
    """Writes an .npz file of `variables`, whole or not at all. Errors: Refused, OSError."""
    found: dict[str, Any] = {}
    for name, one in several(layers).items():
        found |= {f"{name}/{key}" if name else key: array for key, array in variables(one).items()}
    save(path, found)


def difference(source: Any, found: Mapping[str, Layers], seed: int = 0) -> float | None:
    """The largest difference between what tf-keras' legacy cells and ours give for random input, in float64.

    None where tf_keras is not installed, or has not this cell.
    """
    try:
        import tensorflow as tf
        from tf_keras.src.layers.rnn import legacy_cells
    except ModuleNotFoundError:
        return None
    worst, random = 0.0, np.random.default_rng(seed)
    for layers in found.values():
        spec = layers.spec
        classes = {"lstm": "LSTMCell", "gru": "GRUCell", "rnn": "BasicRNNCell"}
        if (spec.cell == "lstm" and spec.coupled) or (spec.cell == "gru" and spec.reset == "after"):
            return None
        y = x = random.normal(size=(7, 3, spec.input_size))
        for layer in range(spec.num_layers):
            ways = []
            for at, reverse, one in cells(layers):
                if at != layer:
                    continue
                own = {name.partition("_cell/")[2]: array for name, array in variables(one).items()}
                arguments = {n: own.pop(n).item() for n in ARGUMENTS if n in own}
                if spec.cell == "lstm":
                    arguments |= {"use_peepholes": bool(spec.peephole), "num_proj": spec.proj_size or None}
                cell = getattr(legacy_cells, classes[spec.cell])(one.spec.hidden_size[0], dtype=tf.float64, **arguments)
                cell.build(tf.TensorShape((3, one.spec.input_size)))
                for weight in cell.weights:
                    weight.assign(np.asarray(own[weight.name.partition("/")[2].removesuffix(":0")], np.float64))
                state, steps = cell.zero_state(3, tf.float64), []
                for row in y[::-1] if reverse else y:
                    out, state = cell(tf.constant(row), state)
                    steps.append(out.numpy())
                ways.append(np.stack(steps[::-1] if reverse else steps))
            y = np.concatenate(ways, -1)
        worst = max(worst, float(np.abs(y - outputs(layers, x)).max()))
    return worst
