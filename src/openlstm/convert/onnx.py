"""ONNX: the operators LSTM, GRU and RNN, read with all their attributes, and whole models run with ours inside.

What is read as ONNX Runtime has it, where the specification is silent or says otherwise:
- `clip` bounds what the gates' activations are given, after bias and peephole. (By the letter c, which act_h is given,
  would be bounded too; ONNX Runtime never does that.)
- `input_forget` makes f = 1 - i, and the rows of f in W, R, B and P are not read.
- activation_alpha and _beta are read in order by those functions alone that take them.
- A sequence of length 0 ends with states of 0, not with its initial ones; outputs past an end are 0.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .. import file
from ..operators import FUNCTIONS, OPERATORS, PEEPHOLES, Operator
from ..spec import Spec
from ..words import counted
from .layers import Layers, Refused, blocks, outputs, stack

LARGEST = 2**31  # bytes of a model file: what protobuf can hold
LOWER = {word.lower(): word for word in FUNCTIONS}  # ONNX Runtime takes them in any case


@dataclass(frozen=True, eq=False)
class Node:
    """A recurrent node: its layers, and how it is wired."""

    name: str
    layers: Layers  # in both directions where it has them; a node that only reads backwards is one direction
    backwards: bool
    batch_first: bool  # layout 1
    inputs: dict[str, str]  # X, sequence_lens, initial_h, initial_c: names of values
    outputs: dict[str, str]  # Y, Y_h, Y_c

    @cached_property
    def _module(self) -> Any:
        import torch

        from ..nn import of

        module = of(self.layers.spec)
        module.load_state_dict({n: torch.from_numpy(np.array(a, np.float32)) for n, a in self.layers.arrays.items()})
        return module.eval()

    def run(self, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Its outputs by their names here (Y, ...), from its inputs by theirs, in the operator's layout."""
        import torch

        spec = self.layers.spec
        operator = next(op for op in OPERATORS.values() if op.cell == spec.cell)
        x = torch.from_numpy(np.ascontiguousarray(given["X"], np.float32))
        x = x.transpose(0, 1) if self.batch_first else x
        time, batch = x.shape[:2]
        lengths = given.get("sequence_lens")
        ends = torch.full((batch,), time) if lengths is None else torch.from_numpy(np.asarray(lengths)).long()
        states = []
        for name in operator.states:
            state = given.get(f"initial_{name}")
            if state is None:
                states.append(x.new_zeros(spec.directions, batch, spec.hidden_size[0]))
            else:
                one = torch.from_numpy(np.ascontiguousarray(state, np.float32))
                states.append(one.transpose(0, 1).contiguous() if self.batch_first else one)
        with torch.no_grad():
            if self.backwards:
                x = _flipped(x, ends)
            y, final = self._module(x, states[0] if len(states) == 1 else tuple(states), lengths=ends)
            if self.backwards:
                y = _flipped(y, ends)
        last = (final,) if len(states) == 1 else final
        found: dict[str, Any] = {"Y": y.unflatten(-1, (spec.directions, -1)).transpose(1, 2)}  # (T, D, B, H)
        for name, state in zip(operator.states, last, strict=True):
            found[f"Y_{name}"] = torch.where((ends == 0)[:, None], 0.0, state)
        if self.batch_first:
            found = {"Y": y.unflatten(-1, (spec.directions, -1)).transpose(0, 1)} | {
                name: state.transpose(0, 1) for name, state in found.items() if name != "Y"
            }
        return {name: value.contiguous().numpy() for name, value in found.items()}


def _flipped(x: Any, lengths: Any) -> Any:
    """Each sequence (T, B, n) from its own end to its beginning; what is past the end stays."""
    import torch

    steps = torch.arange(len(x))[:, None]
    at = torch.where(steps < lengths, lengths - 1 - steps, steps)
    return x.gather(0, at[:, :, None].expand_as(x))


def _library() -> Any:
    try:
        import onnx
    except ModuleNotFoundError:
        raise ImportError("ONNX models need the library onnx: install it with pip install 'openlstm[onnx]'") from None
    return onnx


def load(source: Any) -> Any:
    """An ONNX model, of a path, bytes, or a model as it is. Errors: FileNotFoundError, ValueError."""
    onnx = _library()
    if isinstance(source, onnx.ModelProto):
        return source
    name = "the model"
    folder = None
    if isinstance(source, bytes):
        data = source
    else:
        target = Path(source)
        name, folder = f"'{target}'", target.parent
        if not target.is_file():
            raise FileNotFoundError(f"There is no file {name}: give an ONNX model")
        if target.stat().st_size > LARGEST:
            raise ValueError(f"{name} is larger than an ONNX model can be: expected less than 2 GB")
        data = target.read_bytes()
    try:
        model = onnx.load_model_from_string(data)
        if not model.graph.node:
            raise ValueError("it has no nodes")
        if any(one.data_location == onnx.TensorProto.EXTERNAL for one in model.graph.initializer):
            if folder is None:
                raise ValueError("its weights are in another file: give the path of the model")
            onnx.load_external_data_for_model(model, str(folder))  # it refuses paths that leave the folder
    except Exception as error:  # protobuf's own types are not public
        raise ValueError(f"{name} is no ONNX model that can be read ({' '.join(str(error).split())[:200]})") from None
    return model


def _constants(model: Any) -> dict[str, Any]:
    """What is known before the model runs: initializers, and the values of Constant nodes."""
    found = {one.name: one for one in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    found[node.output[0]] = attribute.t
    return found


# What puts weights in another order, as exporters leave it: these are computed before the model runs.
ORDERING = {"Cast", "Concat", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}


def _ordered(model: Any, constants: dict[str, Any]) -> dict[str, Any]:
    """The constants, and the weights of recurrent nodes that are made of them by `ORDERING`."""
    onnx = _library()
    made_by = {name: node for node in model.graph.node for name in node.output if name}
    found = dict(constants)

    def need(name: str, depth: int) -> bool:
        """Makes a value, if it can be: from what it is made of."""
        node = made_by.get(name)
        if name in found or not name:
            return True
        if node is None or node.op_type not in ORDERING or node.domain not in ("", "ai.onnx") or depth > 50:
            return False
        if not all(need(one, depth + 1) for one in node.input):
            return False
        given = {one: onnx.numpy_helper.to_array(found[one]) for one in node.input if one}
        if sum(given[one].nbytes for one in node.input if one) > LARGEST:
            return False
        inputs = [onnx.helper.make_tensor_value_info(one, found[one].data_type, None) for one in given]
        outputs = [onnx.helper.make_empty_tensor_value_info(one) for one in node.output]
        graph = onnx.helper.make_graph([node], "one", inputs, outputs)
        alone = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
        for one, array in zip(node.output, onnx.reference.ReferenceEvaluator(alone).run(None, given), strict=True):
            found[one] = onnx.numpy_helper.from_array(np.ascontiguousarray(array), one)
        return True

    for node in model.graph.node:
        if node.op_type in OPERATORS and node.domain in ("", "ai.onnx"):
            for at, name in enumerate(node.input):
                if at in (1, 2, 3, 7):  # W, R, B, P
                    try:
                        need(name, 0)
                    except Exception as error:  # of onnx' evaluator: any
                        told = " ".join(str(error).split())[:150]
                        raise ValueError(f"The model's value {name!r} cannot be computed ({told})") from None
    return found


def nodes(model: Any) -> Iterator[Node]:
    """The recurrent nodes of a model, in its order. Errors: ValueError, Refused."""
    constants = _ordered(model, _constants(model))
    for number, node in enumerate(model.graph.node):
        if node.op_type in OPERATORS and node.domain in ("", "ai.onnx"):
            yield _node(node, node.name or f"{node.op_type} {number}", constants)


def _node(node: Any, name: str, constants: Mapping[str, Any]) -> Node:
    onnx = _library()
    operator = OPERATORS[node.op_type]
    given = _attributes(node, name)
    places = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")[: 8 if operator.cell == "lstm" else 6]
    wired = {place: value for place, value in zip(places, node.input, strict=False) if value}

    def numbers(place: str, shape: Sequence[int], optional: bool = False) -> np.ndarray | None:
        if place not in wired and optional:
            return None
        tensor = constants.get(wired.get(place, ""))
        if tensor is None:
            raise Refused(f"{name} has {place} that is computed or given when the model runs: expected a constant")
        count = int(np.prod([int(size) for size in tensor.dims], dtype=object)) if tensor.dims else 1
        if list(tensor.dims) != list(shape):
            raise ValueError(f"{name} has {place} of shape {list(tensor.dims)}: expected {list(shape)}")
        if count > LARGEST:
            raise ValueError(f"{name} has {place} of {count} numbers: expected less")
        try:
            array = onnx.numpy_helper.to_array(tensor)
        except Exception as error:
            raise ValueError(f"{name} has {place} that cannot be read ({' '.join(str(error).split())[:150]})") from None
        if array.dtype.kind != "f":
            raise ValueError(f"{name} has {place} of {array.dtype}: expected floats")
        return np.asarray(array, np.float64 if array.dtype == np.float64 else np.float32)

    direction = given.get("direction", "forward")
    if direction not in ("forward", "reverse", "bidirectional"):
        raise ValueError(f"{name} has the direction {direction!r}: expected forward, reverse or bidirectional")
    directions = 2 if direction == "bidirectional" else 1
    weight = constants.get(wired.get("W", ""))
    recurrent = constants.get(wired.get("R", ""))
    if weight is None or recurrent is None:
        raise Refused(f"{name} has weights that are computed or given when the model runs: expected constants")
    rows = len(operator.gates)
    size = int(given.get("hidden_size", 0)) or (int(recurrent.dims[2]) if len(recurrent.dims) == 3 else 0)
    inputs = int(weight.dims[2]) if len(weight.dims) == 3 else 0
    if not 0 < size < 2**20 or not 0 < inputs < 2**24:
        raise ValueError(
            f"{name} has {counted(size, 'unit')} and {counted(inputs, 'input')}: expected at least one of each, and "
            "not so many"
        )
    w = numbers("W", (directions, rows * size, inputs))
    r = numbers("R", (directions, rows * size, size))
    b = numbers("B", (directions, 2 * rows * size), optional=True)
    p = numbers("P", (directions, 3 * size), optional=True) if operator.cell == "lstm" else None
    options: dict[str, Any] = {"bias": b is not None, "bidirectional": directions == 2}
    options |= _activations(name, operator, given, directions)
    if clip := float(given.get("clip", 0.0)):
        options["preactivation_clip"] = float(str(np.float32(clip)))  # 0.4 again, not the float32 nearest to it
    if given.get("input_forget") and operator.cell == "lstm":
        options["coupled"] = "f=1-i"
    if operator.cell == "gru":
        options["reset"] = "after" if given.get("linear_before_reset") else "before"
    if p is not None:
        options["peephole"] = "diagonal"
    spec = Spec.of(operator.cell, inputs, size, **options)
    arrays: dict[str, np.ndarray] = {}
    assert w is not None and r is not None
    for k, suffix in enumerate(("_l0", "_l0_reverse")[:directions]):
        arrays["weight_ih" + suffix] = stack(blocks(w[k], operator.gates), spec.gates)
        arrays["weight_hh" + suffix] = stack(blocks(r[k], operator.gates), spec.gates)
        if b is not None:
            for which, half in zip(("bias_ih", "bias_hh"), np.split(b[k], 2), strict=True):
                arrays[which + suffix] = stack(blocks(half, operator.gates), spec.gates)
        if p is not None:
            seeing = [gate for gate in spec.gates if gate != "g"]
            arrays["weight_ch" + suffix] = stack(blocks(p[k], PEEPHOLES), seeing)
    outputs = dict(zip(("Y", "Y_h", "Y_c"), node.output, strict=False))
    dynamic = {place: value for place, value in wired.items() if place not in ("W", "R", "B", "P")}
    return Node(
        name,
        Layers(spec, arrays),
        direction == "reverse",
        bool(given.get("layout", 0)),
        dynamic,
        {place: value for place, value in outputs.items() if value},
    )


# ONNX's name of each attribute's type, and how it is read.
ATTRIBUTES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "activations": ("STRINGS", lambda a: [word.decode(errors="replace") for word in a.strings]),
    "activation_alpha": ("FLOATS", lambda a: list(a.floats)),
    "activation_beta": ("FLOATS", lambda a: list(a.floats)),
    "clip": ("FLOAT", lambda a: a.f),
    "direction": ("STRING", lambda a: a.s.decode(errors="replace")),
    "hidden_size": ("INT", lambda a: a.i),
    "input_forget": ("INT", lambda a: a.i),
    "layout": ("INT", lambda a: a.i),
    "linear_before_reset": ("INT", lambda a: a.i),
}


def _attributes(node: Any, name: str) -> dict[str, Any]:
    found = {}
    for attribute in node.attribute:
        kind, read = ATTRIBUTES.get(attribute.name, ("", None))
        if read is None:
            raise Refused(
                f"{name} has the attribute {attribute.name[:40]!r}, which is none of this operator's: take it out"
            )
        if attribute.type != getattr(_library().AttributeProto, kind):
            raise ValueError(f"{name} has {attribute.name} of another type than {kind}")
        found[attribute.name] = read(attribute)
    return found


def _activations(name: str, operator: Operator, given: Mapping[str, Any], directions: int) -> dict[str, Any]:
    """The spec's option for the functions, which must be the same in both directions."""
    words = given.get("activations") or list(operator.activations) * directions
    count = len(operator.activations)
    if len(words) != count * directions:
        raise ValueError(f"{name} has {counted(len(words), 'activation')}: expected {count * directions}")
    constants = iter(given.get("activation_alpha", ())), iter(given.get("activation_beta", ()))
    found = []
    for word in words:
        ours, defaults = FUNCTIONS.get(LOWER.get(word.lower(), ""), ("", ()))
        if not ours:
            raise Refused(f"{name} has the activation {word!r}, which openlstm has not: expected one of ONNX's")
        text = ours
        for stream, default in zip(constants, defaults, strict=False):
            value = next(stream, default)
            if value is None:
                raise Refused(
                    f"{name} has {word} without its constants, which libraries read differently: write them out"
                )
            text += ":" + str(np.float32(value))  # the shortest text of that float
        found.append(text)
    own, other = tuple(found[:count]), tuple(found[count:])
    if other and other != own:
        raise Refused(f"{name} has other activations backwards ({', '.join(other)}) than forwards ({', '.join(own)})")
    if operator.cell == "rnn":
        return {"nonlinearity": own[0]}
    return {"activations": own}


def read(source: Any) -> dict[str, Layers]:
    """The recurrent nodes of a model (path, bytes or ModelProto), by their names.

    A layout of 1 becomes batch_first. Errors: FileNotFoundError; ValueError; Refused for what we have no form of.
    """
    found = {}
    for node in nodes(load(source)):
        if node.backwards:
            raise Refused(
                f"{node.name} reads backwards only, which no layer here does: run the model by `accelerate`, or make "
                "the node bidirectional and use half of its output"
            )
        spec = replace(node.layers.spec, batch_first=node.batch_first)
        found[node.name] = Layers(spec, node.layers.arrays)
    if not found:
        raise ValueError("The model has no LSTM, GRU or RNN in its main graph: expected at least one")
    return found


def accelerate(source: Any) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    """A model (path, bytes or ModelProto) as a function: its recurrent nodes run here, all others in ONNX Runtime.

    It takes and gives arrays by the model's names for its inputs and outputs. Errors: FileNotFoundError; ValueError;
    Refused; ImportError without onnxruntime.
    """
    onnx = _library()
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise ImportError("accelerate needs ONNX Runtime: install it with pip install 'openlstm[onnx]'") from None
    model = load(source)
    recurrent = list(nodes(model))
    if not recurrent:
        raise ValueError("The model has no LSTM, GRU or RNN in its main graph: there is nothing to accelerate")
    constants = set(_ordered(model, _constants(model)))
    given = [
        value.name for value in model.graph.input if value.name not in {one.name for one in model.graph.initializer}
    ]
    # Every value needs a type where the graph is cut there.
    typed = onnx.shape_inference.infer_shapes(model)
    known = {value.name for value in (*typed.graph.value_info, *typed.graph.input, *typed.graph.output)}
    for node in recurrent:
        for value in node.outputs.values():
            if value not in known:
                typed.graph.value_info.append(onnx.helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, None))
        for place, value in node.inputs.items():
            if value not in known and value not in constants:
                kind = onnx.TensorProto.INT32 if place == "sequence_lens" else onnx.TensorProto.FLOAT
                typed.graph.value_info.append(onnx.helper.make_tensor_value_info(value, kind, None))
    extractor = onnx.utils.Extractor(typed)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3

    def part(there: Sequence[str], wanted: Sequence[str]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        """What computes these values from those that are there."""
        asked = [name for name in wanted if name not in there]
        if not asked:
            return lambda values: {}
        piece = extractor.extract_model(list(there), asked)
        used = {name for node in piece.graph.node for name in node.input} | set(asked)
        for value in [value for value in piece.graph.input if value.name not in used]:
            piece.graph.input.remove(value)
        feeds = [value.name for value in piece.graph.input]
        session = onnxruntime.InferenceSession(piece.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return lambda values: dict(zip(asked, session.run(asked, {name: values[name] for name in feeds}), strict=True))

    there, steps = list(given), []
    for node in recurrent:
        steps.append((part(there, list(node.inputs.values())), node))
        there += node.outputs.values()
    last = [value.name for value in model.graph.output]
    finish = part(there, last)

    def run(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if missing := [name for name in given if name not in feed]:
            raise ValueError(f"The model's input '{missing[0]}' is missing: expected {', '.join(given)}")
        values: dict[str, Any] = {name: np.asarray(feed[name]) for name in given}
        for prepare, node in steps:
            values |= prepare(values)
            found = node.run({place: values[value] for place, value in node.inputs.items()})
            values |= {value: found[place] for place, value in node.outputs.items()}
        values |= finish(values)
        return {name: values[name] for name in last}

    return run


def difference(source: Any, found: Mapping[str, Layers], seed: int = 0) -> float | None:
    """The largest difference between ONNX Runtime's output and ours on random input, over these nodes.

    Layers without a name are what `write` has made the whole model of.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return None
    onnx = _library()
    model = load(source)
    random, worst = np.random.default_rng(seed), 0.0
    if "" in found:
        spec = found[""].spec
        x = random.standard_normal((7, 3, spec.input_size)).astype(np.float32)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        (y,) = session.run(["y"], {"x": x.swapaxes(0, 1) if spec.batch_first else x})
        return float(np.abs((y.swapaxes(0, 1) if spec.batch_first else y) - outputs(found[""], x)).max())
    for node, proto in zip(nodes(model), [n for n in model.graph.node if n.op_type in OPERATORS], strict=True):
        if node.name not in found:
            continue
        spec = node.layers.spec
        shape = (3, 7, spec.input_size) if node.batch_first else (7, 3, spec.input_size)
        x = random.standard_normal(shape).astype(np.float32)
        alone = onnx.NodeProto()
        alone.CopyFrom(proto)
        for k in range(4, min(7, len(alone.input))):  # without lengths and states
            alone.input[k] = ""
        alone.input[0] = "X"
        constants = _ordered(model, _constants(model))
        graph = onnx.helper.make_graph(
            [alone],
            "node",
            [onnx.helper.make_tensor_value_info("X", onnx.TensorProto.FLOAT, shape)],
            [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in alone.output if name],
            [_named(constants[name], name) for name in alone.input[1:] if name],
        )
        single = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(
                single.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception:  # what ONNX Runtime has no kernel for, such as layout 1: its own type is not public
            return None
        names = [name for name in alone.output if name]
        ours = node.run({"X": x})
        for name, theirs in zip(names, session.run(names, {"X": x}), strict=True):
            place = next(place for place, value in node.outputs.items() if value == name)
            worst = max(worst, float(np.abs(theirs - ours[place]).max()))
    return worst


def _named(tensor: Any, name: str) -> Any:
    copy = type(tensor)()
    copy.CopyFrom(tensor)
    copy.name = name
    return copy


def write(
    layers: Layers | Mapping[str, Layers], path: str | os.PathLike[str], lengths: bool = False, states: bool = False
) -> None:
    """Writes a stack of layers as a model, whole or not at all: see `onnx_graph.model` for its inputs and outputs.

    By ONNX's own operators where they can say it, else by primitive ones in a Scan. Masks of training are not in it.
    Errors: ValueError for several stacks; OSError.
    """
    from .onnx_graph import model

    _library()
    if not isinstance(layers, Layers):
        if len(layers) != 1:
            raise ValueError(f"There are {len(layers)} stacks of layers: an ONNX model is written of one")
        layers = next(iter(layers.values()))
    file.replace(path, model(layers, lengths, states).SerializeToString())
