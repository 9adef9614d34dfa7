"""The models of the experiment: their forms, their sizes as the paper counts them, and those that have one size.

Feed-forward nets stand beside them: three layers on 16 frames side by side, of sigmoids as in the paper.

The paper counts weights without biases: of the gates, the peepholes, the projections and the output layer. `weights`
counts them off a spec's parameters, so that it holds for every form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from openlstm.spec import Spec

INPUTS = 40
# The paper's LSTM models, figures 2 to 7: cells, r, p, and the size that the legend says for each number of outputs.
LEGENDS: dict[tuple[int, int, int], dict[int, str]] = {
    (2048, 512, 0): {126: "5.6M", 2000: "6.6M", 8000: "9.7M"},
    (2048, 256, 256): {126: "3.6M", 2000: "4.5M", 8000: "7.6M"},
    (2048, 256, 0): {126: "3M", 2000: "3.5M", 8000: "5M"},
    (1024, 256, 0): {126: "1.5M", 2000: "2M", 8000: "3.5M"},
    (512, 0, 0): {126: "1.2M", 2000: "2.2M", 8000: "5.2M"},
}


def paper(cells: int, r: int, p: int) -> Spec:
    """One of the paper's LSTMs: with peepholes, and projections where r and p are not 0."""
    return Spec.of("lstm", INPUTS, cells, peephole="diagonal", proj_size=r, nonrecurrent_proj_size=p)


def weights(spec: Spec, outputs: int) -> int:
    """As the paper counts: all parameters of the layers and of the output layer but biases."""
    own = sum(prod(shape) for name, shape in spec.parameters.items() if not name.startswith("bias"))
    return own + spec.output_size() * outputs


@dataclass(frozen=True)
class Row:
    """One form. `options`: of the spec, for so many cells."""

    cell: str
    options: Callable[[int], Mapping[str, Any]] = lambda cells: {}

    def spec(self, cells: int, layers: int = 1) -> Spec:
        """With so many cells in each layer."""
        return Spec.of(self.cell, INPUTS, cells, layers, **self.options(cells))

    def fitted(self, target: int, outputs: int, layers: int = 1) -> Spec:
        """The spec whose size is nearest to the target's: sizes grow with the cells."""
        low, high = 8, 8
        while weights(self.spec(high, layers), outputs) < target:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if weights(self.spec(middle, layers), outputs) < target else (low, middle)
        return min(
            (self.spec(cells, layers) for cells in (low, high)), key=lambda spec: abs(weights(spec, outputs) - target)
        )


def share(cells: int, of: float) -> int:
    """A projection of that share of the cells."""
    return max(1, round(of * cells))


@dataclass(frozen=True)
class Window:
    """A feed-forward net: what it sees beside a frame, and how its frames are drawn."""

    left: int = 10
    right: int = 5
    run: int = 1  # frames that come together in a batch, one after the other: 1 is what the paper does
    layers: int = 3
    activation: str = "Sigmoid"  # of torch.nn

    @property
    def width(self) -> int:
        """Frames side by side."""
        return self.left + 1 + self.right

    def weights(self, units: int, outputs: int) -> int:
        """As `weights` counts."""
        return units * (INPUTS * self.width + (self.layers - 1) * units + outputs)

    def fitted(self, target: int, outputs: int) -> int:
        """The units in each layer of the net whose size is nearest to the target's."""
        return min(range(8, 1024), key=lambda units: abs(self.weights(units, outputs) - target))


# Peepholes are the paper's; a projection has the share of the cells that its models have on average.
ROWS = {
    "RNN": Row("rnn"),
    "RNN, projected": Row("rnn", lambda n: {"proj_size": share(n, 0.2)}),
    "GRU": Row("gru"),
    "LSTM": Row("lstm"),
    "LSTM, coupled gates": Row("lstm", lambda n: {"coupled": "f=1-i", "peephole": "diagonal"}),
    "LSTM, peepholes": Row("lstm", lambda n: {"peephole": "diagonal"}),
    "LSTMP": Row("lstm", lambda n: {"peephole": "diagonal", "proj_size": share(n, 0.2)}),
    "LSTMP, r and p": Row(
        "lstm",
        lambda n: {"peephole": "diagonal", "proj_size": share(n, 0.16), "nonrecurrent_proj_size": share(n, 0.16)},
    ),
}
WINDOWS = {  # the first is the paper's
    "feed-forward": Window(),
    "feed-forward, in order": Window(run=20),
    "feed-forward, ReLU": Window(activation="ReLU"),
    "feed-forward, ReLU, in order": Window(activation="ReLU", run=20),
    "feed-forward, ReLU, 1 frame": Window(0, 0, activation="ReLU"),
    "feed-forward, ReLU, 6 frames": Window(0, 5, activation="ReLU"),
    "feed-forward, ReLU, 36 frames": Window(30, 5, activation="ReLU"),
}
CELLS = 128  # of the LSTM with peepholes, which all others are as large as


def target(outputs: int) -> int:
    """The size that all rows have."""
    return weights(ROWS["LSTM, peepholes"].spec(CELLS), outputs)
