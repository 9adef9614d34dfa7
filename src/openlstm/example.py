"""The worked example, one LSTM cell whose numbers can be followed by hand; and a trained model to look into.

The cell's candidate takes x1; x2 = 1 opens the input gate, x2 = -1 shuts the forget gate, x3 = 1 opens the output gate.
The gates are sigmoids of ±10 and more, so rounded they are 0 and 1: the memory goes 3, 7, 7, 7, 0.
"""

from __future__ import annotations

import string
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .cells import Numpy
from .spec import Spec
from .step import Step
from .tracing import Floats, Trace

SPEC = Spec.of("lstm", 3, 1, activations=("sigmoid", "linear", "linear"))
WEIGHTS = {  # on (x1, x2, x3, 1); those on h are 0
    "i": (0.0, 100.0, 0.0, -10.0),
    "f": (0.0, 100.0, 0.0, 10.0),
    "g": (1.0, 0.0, 0.0, 0.0),
    "o": (0.0, 0.0, 100.0, -10.0),
}
INPUTS = ((3.0, 1.0, 0.0), (4.0, 1.0, 0.0), (2.0, 0.0, 0.0), (1.0, 0.0, 1.0), (3.0, -1.0, 0.0))

# A layer of 128 units that guesses the next character of Python sources: `examples/characters.py` has trained it.
CHARACTERS = Path(__file__).parent / "characters.safetensors"
ALPHABET = string.printable[:97] + "\N{REPLACEMENT CHARACTER}"  # which stands for all others


def encode(text: str) -> npt.NDArray[np.int64]:
    """The places of characters in `ALPHABET`, (T,)."""
    places = {c: k for k, c in enumerate(ALPHABET)}
    return np.array([places.get(c, len(ALPHABET) - 1) for c in text], np.int64)


def one_hot(text: str) -> Floats:
    """What the character model reads: a row for each character, (T, 98), with a 1 for which of `ALPHABET` it is.

    >>> one_hot("0a").shape, one_hot("0a").argmax(-1)
    ((2, 98), array([ 0, 10]))
    """
    return np.eye(len(ALPHABET), dtype=np.float32)[encode(text)]


def parameters() -> dict[str, Floats]:
    """The example's parameters under the names of `SPEC`, without the suffix."""
    rows = np.array([WEIGHTS[gate] for gate in SPEC.gates])  # (4, 3 + 1)
    given = {"weight_ih": rows[:, :3], "bias_ih": rows[:, 3]}
    return {name: given.get(name, np.zeros(shape)) for name, shape in SPEC.shapes(SPEC.walks[0]).items()}


def worked_example() -> Trace:
    """The example's run: every value at each of its five steps, from memory 0.

    >>> t = worked_example()
    >>> t["c"].ravel().round(3)
    array([3., 7., 7., 7., 0.])
    >>> t["h"].ravel().round(2)
    array([0., 0., 0., 7., 0.])
    """
    walk = SPEC.walks[0]
    x = np.array(INPUTS)[:, None]  # (T, 1, 3)
    state = {name: np.zeros((1, width)) for name, width in SPEC.state_sizes(walk).items()}
    initial = {name + walk.suffix: value for name, value in state.items()}
    step = Step(SPEC, walk, parameters(), Numpy)
    kept, outputs = [], []
    for z_x in step.inputs(x):
        values, state, y = step(z_x, state, {})
        kept.append(values)
        outputs.append(y)
    arrays = {name + walk.suffix: np.stack([values[name] for values in kept]) for name in kept[0]}
    return Trace(SPEC, x, initial, arrays, np.stack(outputs))


def table(trace: Trace) -> list[list[tuple[str, list[tuple[str, str]]]]]:
    """The example as text: groups of rows, each a label and for each step a number and the rounded one beside it.

    >>> inputs, z, gates, memory, output = table(worked_example())
    >>> output[0][0], output[0][1][3]
    ('h hidden state', ('6.9995', '≈7'))
    """
    columns = {f"x{k + 1}": trace.x[:, 0, k] for k in range(SPEC.input_size)}
    groups = [[*columns], ["z_" + gate for gate in SPEC.gates], [*SPEC.gates], ["c"], ["h"]]
    columns |= {name: array.ravel() for name, array in trace.names().items()}
    titles = SPEC.definition.titles
    return [
        [(f"{name} {titles.get(name, '')}".strip(), [*map(number, columns[name])]) for name in names]
        for names in groups
    ]


def number(value: float) -> tuple[str, str]:
    """A number to five digits, three where it is small; and the whole number within 0.001 of it if that is another.

    >>> number(7.0), number(6.99941), number(0.5)
    (('7', ''), ('6.9994', '≈7'), ('0.5', ''))
    """
    true, whole = f"{value:.{5 if abs(value) >= 1e-3 else 3}g}", round(value)
    return true, f"≈{whole}" if true != str(whole) and abs(value - whole) < 1e-3 else ""
