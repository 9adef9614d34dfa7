"""Layers as an ONNX graph: by its own recurrent operators where these can say it, else step by step in a Scan.

The Scan's body is made by running `step.Step` on values of ONNX, so no cell's equations are written here.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np

from .. import operators
from ..cells import NORM_EPSILON
from ..spec import Walk
from ..step import Step
from .layers import Layers, blocks, stack

OPSET, IR = 17, 8


class Value:
    """A value of a graph. Arithmetic with it adds a node."""

    __array_ufunc__ = None  # numpy leaves array * value to us

    def __init__(self, graph: Graph, name: str) -> None:
        self.graph, self.name = graph, name

    def __add__(self, other: Any) -> Value:
        return self.graph.node("Add", self, other)

    def __radd__(self, other: Any) -> Value:
        return self.graph.node("Add", other, self)

    def __sub__(self, other: Any) -> Value:
        return self.graph.node("Sub", self, other)

    def __rsub__(self, other: Any) -> Value:
        return self.graph.node("Sub", other, self)

    def __mul__(self, other: Any) -> Value:
        return self.graph.node("Mul", self, other)

    def __rmul__(self, other: Any) -> Value:
        return self.graph.node("Mul", other, self)

    def __truediv__(self, other: Any) -> Value:
        return self.graph.node("Div", self, other)

    def __rtruediv__(self, other: Any) -> Value:
        return self.graph.node("Div", other, self)

    def __neg__(self) -> Value:
        return self.graph.node("Neg", self)

    def __getitem__(self, place: tuple[Any, slice]) -> Value:
        """value[..., a:b]"""
        whole, part = place
        assert whole is Ellipsis and part.step is None
        ends = [np.array([end], np.int64) for end in (part.start, part.stop, -1)]
        return self.graph.node("Slice", self, *ends)


class Graph:
    """Nodes and constants that are gathered, in the outer graph or in a body, whose names are all different."""

    def __init__(self, helper: Any, outer: Graph | None = None) -> None:
        self.helper = helper
        self.nodes: list[Any] = []
        self.constants: list[Any] = [] if outer is None else outer.constants
        self.count: list[int] = [0] if outer is None else outer.count

    def _name(self, what: str) -> str:
        self.count[0] += 1
        return f"{what.lower()}_{self.count[0]}"

    def value(self, given: Any) -> Value:
        """A constant for a number or an array; a value as it is."""
        if isinstance(given, Value):
            return given
        from onnx import numpy_helper

        array = np.asarray(given)
        array = array.astype(np.float32) if array.dtype.kind == "f" or isinstance(given, Real) else array
        name = self._name("constant")
        self.constants.append(numpy_helper.from_array(array, name))
        return Value(self, name)

    def several(self, kind: str, count: int, *given: Any, **attributes: Any) -> list[Value]:
        """The values of an operator; "" is an input that is left out."""
        inputs = ["" if isinstance(one, str) and not one else self.value(one).name for one in given]
        names = [self._name(kind) for _ in range(count)]
        self.nodes.append(self.helper.make_node(kind, inputs, names, **attributes))
        return [Value(self, name) for name in names]

    def node(self, kind: str, *given: Any, **attributes: Any) -> Value:
        """The value of an operator that has one."""
        return self.several(kind, 1, *given, **attributes)[0]

    # The arithmetic of `cells.py`.

    def sigmoid(self, x: Value) -> Value:
        return self.node("Sigmoid", x)

    def tanh(self, x: Value) -> Value:
        return self.node("Tanh", x)

    def relu(self, x: Value) -> Value:
        return self.node("Relu", x)

    def softplus(self, x: Value) -> Value:
        return self.node("Softplus", x)

    def abs(self, x: Value) -> Value:
        return self.node("Abs", x)

    def negative(self, x: Value) -> Value:
        return self.node("Min", x, 0.0)

    def step(self, x: Value) -> Value:
        return self.node("Cast", self.node("Greater", x, 0.0), to=1)  # float32

    def exp(self, x: Value) -> Value:
        return self.node("Exp", x)

    def log(self, x: Value) -> Value:
        return self.node("Log", x)

    def maximum(self, a: Any, b: Any) -> Value:
        return self.node("Max", a, b)

    def minimum(self, a: Any, b: Any) -> Value:
        return self.node("Min", a, b)

    def expm1(self, x: Value) -> Value:
        return self.node("Exp", x) - 1.0

    def clip(self, x: Value, low: float, high: float) -> Value:
        return self.node("Clip", x, float(low), float(high))

    def linear(self, x: Value, weight: Any, bias: Any) -> Value:
        y = self.node("MatMul", x, np.ascontiguousarray(weight.T))
        return y if bias is None else y + bias

    def layer_norm(self, x: Value) -> Value:
        d = x - self.node("ReduceMean", x, axes=[-1])
        return d / self.node("Sqrt", self.node("ReduceMean", d * d, axes=[-1]) + NORM_EPSILON)

    def join(self, r: Value, p: Value) -> Value:
        return self.node("Concat", r, p, axis=-1)


def model(layers: Layers, lengths: bool = False, states: bool = False) -> Any:
    """x (time, batch, I) to y (time, batch, O) and the final states, (directions of all layers, batch, n) each.

    lengths: with an input `lengths`, (batch,) of int64. states: with the initial states as inputs `h_0`, `c_0`. With
    batch_first x and y begin with the sequence. Time and batch are free. Where layers have states of different sizes,
    each has its own: `h_l0`, `c_l0`, `h_l1`, ... and as inputs `h_0_l0`, ...
    """
    from onnx import TensorProto, checker, helper

    spec = layers.spec
    names = spec.definition.states
    sizes = {name: {spec.state_sizes(walk)[name] for walk in spec.walks} for name in names}
    # The arrays of states: which state, whose, and how many numbers each.
    kept: list[tuple[str, str, list[Walk], int]] = []
    for name in names:
        alone = [[walk] for walk in spec.walks] if len(sizes[name]) > 1 else [list(spec.walks)]
        for walks in alone:
            kept.append((name, walks[0].suffix if len(alone) > 1 else "", walks, spec.state_sizes(walks[0])[name]))
    graph = Graph(helper)
    lead = ["batch", "time"] if spec.batch_first else ["time", "batch"]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [*lead, spec.input_size])]
    x = Value(graph, "x")
    if spec.batch_first:
        x = graph.node("Transpose", x, perm=[1, 0, 2])
    ends = None
    if lengths:
        inputs.append(helper.make_tensor_value_info("lengths", TensorProto.INT64, ["batch"]))
        ends = Value(graph, "lengths")
    begin: dict[str, Value] = {}
    if states:
        for name, suffix, walks, size in kept:
            given = f"{name}_0{suffix}"
            inputs.append(helper.make_tensor_value_info(given, TensorProto.FLOAT, [len(walks), "batch", size]))
            parts = _split(graph, Value(graph, given), len(walks))
            begin |= {name + walk.suffix: part for walk, part in zip(walks, parts, strict=True)}
    else:
        batch = graph.node("Slice", graph.node("Shape", x), np.array([1]), np.array([2]))
        for walk in spec.walks:
            for name, size in spec.state_sizes(walk).items():
                learned = layers.arrays.get(f"initial_{name}{walk.suffix}")
                value = spec.begins[name + walk.suffix]
                first = np.full(size, value, np.float32) if learned is None else np.asarray(learned, np.float32)
                shape = graph.node("Concat", np.array([1]), batch, np.array([size]), axis=0)
                begin[name + walk.suffix] = graph.node("Expand", first, shape)
    last: dict[str, Value] = {}
    for layer in range(spec.num_layers):
        walks = [walk for walk in spec.walks if walk.layer == layer]
        if operators.name_of(spec):
            y, final = _operator(graph, layers, walks, x, begin, ends)
        else:
            parts = []
            final = {}
            for walk in walks:
                part, own = _scan(graph, layers, walk, x, begin, ends)
                parts.append(part)
                final |= own
            y = parts[0] if len(parts) == 1 else graph.node("Concat", *parts, axis=-1)
        x = y + x if spec.residual and layer else y
        last |= final
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [*lead, spec.output_size()])]
    if spec.batch_first:
        x = graph.node("Transpose", x, perm=[1, 0, 2])
    graph.nodes.append(helper.make_node("Identity", [x.name], ["y"]))
    for name, suffix, walks, size in kept:
        rows = [last[name + walk.suffix].name for walk in walks]
        graph.nodes.append(helper.make_node("Concat", rows, [name + suffix], axis=0))
        outputs.append(helper.make_tensor_value_info(name + suffix, TensorProto.FLOAT, [len(walks), "batch", size]))
    made = helper.make_graph(graph.nodes, "openlstm", inputs, outputs, graph.constants)
    found = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    found.doc_string = str(spec)
    checker.check_model(found, full_check=True)
    return found


def _operator(
    graph: Graph, layers: Layers, walks: Sequence[Walk], x: Value, begin: dict[str, Value], ends: Value | None
) -> tuple[Value, dict[str, Value]]:
    """A layer by ONNX's own operator."""
    spec = layers.spec
    kind = operators.name_of(spec)
    assert kind is not None
    operator = operators.OPERATORS[kind]
    size = walks[0].hidden_size

    def rows(name: str, walk: Walk, order: str) -> np.ndarray:
        parts = blocks(layers.arrays[name + walk.suffix], spec.blocks(name))
        parts = {gate.removeprefix("p_"): part for gate, part in parts.items()}
        none = np.zeros_like(next(iter(parts.values())))  # of a coupled gate: it is not read
        found: np.ndarray = stack({gate: parts.get(gate, none) for gate in order}, order)
        return found

    def whole(name: str, order: str) -> np.ndarray:
        return np.stack([rows(name, walk, order) for walk in walks]).astype(np.float32)

    bias: Any = ""
    if spec.bias:
        bias = np.concatenate([whole("bias_ih", operator.gates), whole("bias_hh", operator.gates)], 1)
    given = [x, whole("weight_ih", operator.gates), whole("weight_hh", operator.gates), bias]
    given.append("" if ends is None else graph.node("Cast", ends, to=6))  # int32
    first = {}
    for name in operator.states:
        parts = [begin[name + walk.suffix] for walk in walks]
        first[name] = parts[0] if len(parts) == 1 else graph.node("Concat", *parts, axis=0)
    given += first.values()
    if spec.cell == "lstm" and spec.peephole:
        given.append(whole("weight_ch", operators.PEEPHOLES))
    y, *last = graph.several(kind, 1 + len(operator.states), *given, **operators.attributes(spec, size))
    y = graph.node("Transpose", y, perm=[0, 2, 1, 3])  # (T, B, D, H)
    y = graph.node("Reshape", y, np.array([0, 0, len(walks) * size]))
    final: dict[str, Value] = {}
    for name, value in zip(operator.states, last, strict=True):
        if ends is not None:  # ONNX Runtime's operators end with 0 where there are no steps
            none = graph.node("Unsqueeze", graph.node("Equal", ends, np.array(0)), np.array([0, 2]))
            value = graph.node("Where", none, first[name], value)
        parts = _split(graph, value, len(walks))
        final |= {name + walk.suffix: part for walk, part in zip(walks, parts, strict=True)}
    return y, final


def _split(graph: Graph, whole: Value, count: int) -> list[Value]:
    """The rows of the first dimension, each with that dimension still."""
    return [whole] if count == 1 else graph.several("Split", count, whole, np.ones(count, np.int64), axis=0)


def _scan(
    graph: Graph, layers: Layers, walk: Walk, x: Value, begin: dict[str, Value], ends: Value | None
) -> tuple[Value, dict[str, Value]]:
    """A layer in one direction, step by step."""
    from onnx import TensorProto, helper

    spec = layers.spec
    arrays = {name: np.asarray(layers.arrays[name + walk.suffix], np.float32) for name in spec.shapes(walk)}
    names = spec.definition.states
    if walk.reverse and ends is not None:
        x = graph.node("ReverseSequence", x, ends, time_axis=0, batch_axis=1)
    z = Step(spec, walk, arrays, graph).inputs(x)
    body = Graph(helper, graph)
    previous = {name: Value(body, f"{name}_in{walk.suffix}") for name in names}
    rates = {f"zoneout_{name}": float(rate) for name in names if (rate := getattr(spec, f"zoneout_{name}", 0.0))}
    _, new, y = Step(spec, walk, arrays, body)(Value(body, f"z{walk.suffix}"), previous, rates)
    inputs = [helper.make_tensor_value_info(value.name, TensorProto.FLOAT, None) for value in previous.values()]
    scanned = [z]
    inputs.append(helper.make_tensor_value_info(f"z{walk.suffix}", TensorProto.FLOAT, None))
    if ends is not None:
        time = graph.node("Squeeze", graph.node("Slice", graph.node("Shape", x), np.array([0]), np.array([1])))
        scanned.append(graph.node("Range", np.array(0), time, np.array(1)))
        inputs.append(helper.make_tensor_value_info(f"t{walk.suffix}", TensorProto.INT64, None))
        there = body.node("Unsqueeze", body.node("Less", Value(body, f"t{walk.suffix}"), ends), np.array([1]))
        new = {name: body.node("Where", there, value, previous[name]) for name, value in new.items()}
        y = body.node("Where", there, y, 0.0)
    results = [body.node("Identity", value) for value in (*new.values(), y)]
    outputs = [helper.make_tensor_value_info(value.name, TensorProto.FLOAT, None) for value in results]
    inner = helper.make_graph(body.nodes, f"step{walk.suffix}", inputs, outputs)
    first = [graph.node("Squeeze", begin[name + walk.suffix], np.array([0])) for name in names]
    backwards = int(walk.reverse and ends is None)
    *last, out = graph.several(
        "Scan",
        len(names) + 1,
        *first,
        *scanned,
        body=inner,
        num_scan_inputs=len(scanned),
        scan_input_directions=[backwards] * len(scanned),
        scan_output_directions=[backwards],
    )
    if walk.reverse and ends is not None:
        out = graph.node("ReverseSequence", out, ends, time_axis=0, batch_axis=1)
    final = {
        name + walk.suffix: graph.node("Unsqueeze", value, np.array([0]))
        for name, value in zip(names, last, strict=True)
    }
    return out, final
