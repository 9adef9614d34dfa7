"""Where gate orders and layouts of others are kept: ONNX models, JAX functions and Keras layers from our parameters."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np

from .problems import Problem

# Our orders are torch.nn's: i, f, g, o and r, u, n. These are the rows of theirs in ours.
ONNX_ORDER = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}  # i, o, f, c and z, r, h
KERAS_ORDER = {"lstm": (0, 1, 2, 3), "gru": (1, 0, 2), "rnn": (0,)}  # i, f, c, o and z, r, h


def _rows(array: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
    """The gates' blocks of rows in another order."""
    blocks = np.split(array, len(order))
    return np.concatenate([blocks[k] for k in order])


def onnx_states(problem: Problem) -> dict[str, np.ndarray]:
    """Zeros for every state, (1, B, H) each: h of all layers, then c of all layers."""
    size = (1, problem.shape.batch, problem.shape.units)
    names = problem.spec.definition.states
    return {f"{name}{k}": np.zeros(size, np.float32) for name in names for k in range(problem.shape.layers)}


def onnx_model(problem: Problem) -> bytes:
    """From x and the states to y and the states: a recurrent node for each layer."""
    import onnx
    from onnx import helper, numpy_helper

    spec, shape = problem.spec, problem.shape
    order = ONNX_ORDER[spec.cell]
    nodes, constants = [], [numpy_helper.from_array(np.array([1]), "axis")]
    source, time = "x", 1 if problem.task == "streaming" else shape.time
    for k in range(shape.layers):
        own = {name: problem.parameters[f"{name}_l{k}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
        moved = {name: _rows(value, order) for name, value in own.items()}
        biases = np.concatenate((moved["bias_ih"], moved["bias_hh"]))  # Wb, then Rb
        for name, value in (("W", moved["weight_ih"]), ("R", moved["weight_hh"]), ("B", biases)):
            constants.append(numpy_helper.from_array(value[None], f"{name}{k}"))
        states = [f"{name}{k}" for name in spec.definition.states]
        options = {"linear_before_reset": 1} if spec.cell == "gru" else {}
        nodes.append(
            helper.make_node(
                spec.cell.upper(),
                [source, f"W{k}", f"R{k}", f"B{k}", "", *states],
                [f"Y{k}", *(f"new_{state}" for state in states)],
                hidden_size=shape.units,
                **options,
            )
        )
        nodes.append(helper.make_node("Squeeze", [f"Y{k}", "axis"], [f"y{k}"]))  # the dimension of directions
        source = f"y{k}"

    def info(name: str, *size: int) -> Any:
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, size)

    width = (1, shape.batch, shape.units)
    states = list(onnx_states(problem))
    graph = helper.make_graph(
        nodes,
        "layers",
        [info("x", time, shape.batch, shape.inputs), *(info(name, *width) for name in states)],
        [info(source, time, shape.batch, shape.units), *(info("new_" + name, *width) for name in states)],
        constants,
    )
    # Both are older than the newest: others read them too.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def jax_ready(problem: Problem) -> Any:
    """See `peers.jax_scan`."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    spec, layers = problem.spec, problem.shape.layers
    names = spec.definition.states
    sigmoid = jax.nn.sigmoid

    def lstm(z: Any, R: Any, b: Any, states: Any) -> Any:
        h, c = states
        i, f, g, o = jnp.split(z + h @ R.T + b, 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
        return sigmoid(o) * jnp.tanh(c), c

    def gru(z: Any, R: Any, b: Any, states: Any) -> Any:
        (h,) = states
        (z_r, z_u, z_n), (r_r, r_u, r_n) = jnp.split(z, 3, -1), jnp.split(h @ R.T + b, 3, -1)
        u = sigmoid(z_u + r_u)
        n = jnp.tanh(z_n + sigmoid(z_r + r_r) * r_n)
        return ((1 - u) * n + u * h,)

    def rnn(z: Any, R: Any, b: Any, states: Any) -> Any:
        return (jnp.tanh(z + states[0] @ R.T + b),)

    cell = {"lstm": lstm, "gru": gru, "rnn": rnn}[spec.cell]

    def forward(p: Any, x: Any, states: Any) -> Any:
        final = []
        for k in range(layers):
            R, b = p[f"weight_hh_l{k}"], p[f"bias_hh_l{k}"]

            def step(carry: Any, z: Any, R: Any = R, b: Any = b) -> Any:
                carry = cell(z, R, b, carry)
                return carry, carry[0]

            z = x @ p[f"weight_ih_l{k}"].T + p[f"bias_ih_l{k}"]
            last, x = lax.scan(step, tuple(state[k] for state in states), z)
            final.append(last)
        return x, tuple(jnp.stack(state) for state in zip(*final, strict=True))

    p = {name: jnp.asarray(value) for name, value in problem.parameters.items()}
    x = jnp.asarray(problem.x)
    zeros = tuple(jnp.zeros((layers, problem.shape.batch, problem.shape.units)) for _ in names)
    if problem.gradient:
        dy = jnp.asarray(problem.dy)

        def loss(p: Any, x: Any) -> Any:
            y, _ = forward(p, x, zeros)
            return (y * dy).sum(), y

        gradient = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))

        def train() -> Any:
            return jax.block_until_ready(gradient(p, x))

        def gradients(result: Any) -> dict[str, np.ndarray]:
            (_, y), (d_p, dx) = result
            found = {f"d {name}": value for name, value in d_p.items() if name.startswith("weight")}
            return {name: np.asarray(value) for name, value in {"y": y, "d x": dx, **found}.items()}

        return train, gradients
    return _jax_calls(problem, jax.jit(functools.partial(forward, p)), x, zeros)


def _jax_calls(problem: Problem, forward: Any, x: Any, states: Any) -> Any:
    """A function of x (T, B, I) and states to y and states, called as a task wants it."""
    import jax

    streaming = problem.task == "streaming"
    chunks = itertools.cycle([x[t : t + 1] for t in range(len(x))] if streaming else [x])

    def call() -> Any:
        nonlocal states
        y, final = jax.block_until_ready(forward(next(chunks), states))
        if streaming:
            states = final
        return y, final

    def read(result: Any) -> dict[str, np.ndarray]:
        y, final = result
        named = zip(problem.spec.definition.states, final, strict=True)
        return {"y": np.asarray(y), **{name: np.asarray(state) for name, state in named}}

    return call, read


def keras_ready(problem: Problem) -> Any:
    """See `peers.keras`."""
    import jax
    import jax.numpy as jnp
    import keras

    spec, shape, order = problem.spec, problem.shape, KERAS_ORDER[problem.spec.cell]
    kind = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU, "rnn": keras.layers.SimpleRNN}[spec.cell]
    states = spec.definition.states
    time = 1 if problem.task == "streaming" else shape.time
    x = keras.Input((time, shape.inputs), shape.batch)
    initial = [[keras.Input((shape.units,), shape.batch) for _ in states] for _ in range(shape.layers)]
    y, final, weights = x, [], []
    for k in range(shape.layers):
        layer = kind(shape.units, return_sequences=True, return_state=True)
        y, *last = layer(y, initial_state=initial[k])
        final.append(last)
        own = {name: problem.parameters[f"{name}_l{k}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
        W, R, b_ih, b_hh = (_rows(value, order) for value in own.values())
        # The GRU has both biases, the other two have one.
        weights += [W.T, R.T, np.stack((b_ih, b_hh)) if spec.cell == "gru" else b_ih + b_hh]
    model = keras.Model([x, initial], [y, final])
    model.set_weights(weights)
    trained = [variable.value for variable in model.trainable_variables]
    fixed = [variable.value for variable in model.non_trainable_variables]

    @jax.jit
    def run(trained: Any, fixed: Any, x: Any, states: Any) -> Any:
        return model.stateless_call(trained, fixed, [x, states], training=False)[0]

    call, read = _jax_calls(
        problem,
        lambda x, states: run(trained, fixed, x, states),
        # (B, T, I), made before the time begins: Keras's own layout.
        jnp.asarray(problem.x if problem.task == "streaming" else problem.x.transpose(1, 0, 2)),
        [[jnp.zeros((shape.batch, shape.units)) for _ in states] for _ in range(shape.layers)],
    )

    def own_layout(result: Any) -> dict[str, np.ndarray]:
        y, final = result
        stacked = tuple(np.stack(state) for state in zip(*final, strict=True))
        return read((np.asarray(y).transpose(1, 0, 2), stacked))

    return call, own_layout
