"""The recipe of flax_cells.npz: what Flax' cells give, in float64, with all weights random and different.

Run by hand in an environment of its own, where flax is installed, and never by the tests:

    python tests/golden/flax_cells.py

Each case has the parameters by their names in Flax, joined by "/", x (T, B, I), the first carry and the last one, and
the outputs (T, B, H). The biases, which begin at zero in Flax, are drawn too.
"""

import json
import pathlib

import flax
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

jax.config.update("jax_enable_x64", True)
TIME, BATCH, INPUT, UNITS = 5, 3, 3, 4
CASES = {
    "linen lstm": (linen.LSTMCell, {}),
    "linen optimized lstm": (linen.OptimizedLSTMCell, {}),
    "linen lstm, activations": (linen.OptimizedLSTMCell, {"gate_fn": "hard_sigmoid", "activation_fn": "soft_sign"}),
    "linen gru": (linen.GRUCell, {}),
    "linen gru, activations": (linen.GRUCell, {"gate_fn": "hard_sigmoid", "activation_fn": "elu"}),
    "linen simple": (linen.SimpleCell, {}),
    "linen simple, relu": (linen.SimpleCell, {"activation_fn": "relu"}),
    "nnx lstm": (nnx.LSTMCell, {}),
    "nnx optimized lstm": (nnx.OptimizedLSTMCell, {}),
    "nnx gru": (nnx.GRUCell, {}),
    "nnx simple": (nnx.SimpleCell, {}),
}


def record(kind: type, options: dict, seed: int) -> dict[str, np.ndarray]:
    """One cell over a few steps."""
    random = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return random.normal(0, 0.8, shape).round(3)

    functions = {name: getattr(jax.nn, word) for name, word in options.items()}
    x, states = draw(TIME, BATCH, INPUT), [draw(BATCH, UNITS) for _ in range(2 if "LSTM" in kind.__name__ else 1)]
    carry = tuple(map(jnp.asarray, states)) if len(states) > 1 else jnp.asarray(states[0])
    if kind.__module__.startswith("flax.linen"):
        cell = kind(UNITS, param_dtype=jnp.float64, **functions)
        tree = flax.traverse_util.flatten_dict(cell.init(jax.random.key(0), carry, x[0])["params"])
        tree = {name: draw(*array.shape) for name, array in tree.items()}
        nested = {"params": flax.traverse_util.unflatten_dict(tree)}

        def step(carry: tuple, row: np.ndarray) -> tuple:
            return cell.apply(nested, carry, row)

    else:
        cell = kind(INPUT, UNITS, dtype=jnp.float64, param_dtype=jnp.float64, rngs=nnx.Rngs(0), **functions)
        state = nnx.state(cell, nnx.Param)
        tree = {tuple(map(str, name)): draw(*value.shape) for name, value in nnx.to_flat_state(state)}
        for name, value in nnx.to_flat_state(state):
            value.value = jnp.asarray(tree[tuple(map(str, name))])
        nnx.update(cell, state)
        step = cell
    outputs = []
    for row in x:
        carry, y = step(carry, jnp.asarray(row))
        outputs.append(np.asarray(y))
    last = carry if isinstance(carry, tuple) else (carry,)
    found = {"parameters/" + "/".join(name): array for name, array in tree.items()} | {"x": x, "y": np.stack(outputs)}
    names = ("c", "h") if len(states) > 1 else ("h",)  # Flax' order
    found |= {f"first_{name}": array for name, array in zip(names, states, strict=True)}
    found |= {f"last_{name}": np.asarray(array) for name, array in zip(names, last, strict=True)}
    return found | {"cell": np.array(json.dumps({"cell": f"{kind.__module__}.{kind.__name__}", "options": options}))}


if __name__ == "__main__":
    arrays = {
        f"{title}/{name}": array
        for seed, (title, what) in enumerate(CASES.items())
        for name, array in record(*what, seed).items()
    }
    arrays["versions"] = np.array(json.dumps({"flax": flax.__version__, "jax": jax.__version__}))
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **arrays)
