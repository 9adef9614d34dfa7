"""What several tests share: the one list of cases, random numbers to run them on, and the C++ compiler."""

from __future__ import annotations

import itertools
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openlstm import compiled
from openlstm.spec import Spec

_NAMES = (os.environ.get("CXX", "c++"), "c++", "g++", "clang++")
COMPILER = next((found for name in _NAMES if os.name != "nt" and (found := shutil.which(name))), "")


@contextmanager
def compiling(cache: Path) -> Iterator[None]:
    """Meanwhile the engine compiles what it would interpret, and keeps it in this folder."""
    before = os.environ.get("OPENLSTM_CACHE")
    os.environ["OPENLSTM_CACHE"] = str(cache)
    try:
        compiled.use_compiler(shlex.quote(COMPILER))
        yield
    finally:
        compiled.use_compiler(None)
        os.environ.pop("OPENLSTM_CACHE")
        if before is not None:
            os.environ["OPENLSTM_CACHE"] = before


# Largest difference allowed, absolute and relative, against the same numbers computed in float64.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}

# Every option alone, in values that change the result. What is joined by a comma makes sense only together.
SHARED = (
    "bias=False",
    "bidirectional",
    "layer_norm",
    "residual",
    "learned_state",
    "dropout=0.3",
    "recurrent_dropout=0.3",
    "weight_dropout=0.3",
    "zoneout_h=0.2",
)
PROJECTED = (
    "proj_size=2",
    "proj_size=2, proj_clip=0.4",
    "proj_size=2, nonrecurrent_proj_size=3",
    "proj_size=2, nonrecurrent_proj_size=3, proj_bias",
)
ON_CANDIDATE = "recurrent_dropout=0.3, recurrent_dropout_on=candidate"
OPTIONS: dict[str, tuple[str, ...]] = {
    "lstm": (
        *SHARED,
        *PROJECTED,
        ON_CANDIDATE,
        "zoneout_c=0.3",
        "peephole=diagonal",
        "peephole=dense",
        "coupled=f=1-i",
        "coupled=i=1-f",
        "activations=hard_sigmoid/softsign/scaled_tanh:1.3:0.6",
        "cell_clip=0.4",
        "preactivation_clip=0.6",
        "forget_bias=1.0",
    ),
    "gru": (
        *SHARED,
        ON_CANDIDATE,
        "reset=before",
        "activations=hard_sigmoid:0.3:0.4/elu:0.7",
        "preactivation_clip=0.6",
    ),
    "rnn": (*SHARED, *PROJECTED, "nonlinearity=relu", "nonlinearity=scaled_tanh:1.3:0.6", "preactivation_clip=0.6"),
}

# ONNX's functions, each with constants that are not its defaults; and those with constants again with the defaults.
ACTIVATIONS = (
    "sigmoid",
    "tanh",
    "relu",
    "linear",
    "affine:0.3:0.2",
    "leaky_relu:0.3",
    "thresholded_relu:0.4",
    "scaled_tanh:1.3:0.6",
    "hard_sigmoid:0.3:0.4",
    "elu:0.7",
    "softsign",
    "softplus",
)
DEFAULTS = ("affine", "leaky_relu", "thresholded_relu", "scaled_tanh", "hard_sigmoid", "elu", "affine:0.5")


def text(cell: str, *options: str) -> str:
    """A small spec with these options: of two layers, if an option needs them."""
    deep = any(option.startswith(("residual", "dropout")) for option in options)
    return f"{cell}(3, {'5, 5' if deep else '5'}{'; ' if options else ''}{', '.join(options)})"


def _together(*options: str) -> bool:
    """Do these options name different things?"""
    names = [part.partition("=")[0] for option in options for part in option.split(", ")]
    return len(names) == len(set(names))


def _turned(names: tuple[str, ...], by: int) -> tuple[str, ...]:
    return names[by:] + names[:by]


ALONE = tuple(
    [text(cell) for cell in OPTIONS] + [text(cell, option) for cell, options in OPTIONS.items() for option in options]
)

# Those that the cells refuse: their declarations say why.
REFUSED = (
    text("lstm", "coupled=f=1-i", "forget_bias=1.0"),
    text("gru", "layer_norm", "reset=before"),
)

PAIRS = tuple(
    pair
    for cell, options in OPTIONS.items()
    for a, b in itertools.combinations(options, 2)
    if _together(a, b) and (pair := text(cell, a, b)) not in REFUSED
)

FUNCTIONS = (
    *(
        f"lstm(3, 5; activations={f}/{g}/{h})"
        for f, g, h in zip(ACTIVATIONS, _turned(ACTIVATIONS, 4), _turned(ACTIVATIONS, 8), strict=True)
    ),
    *(f"lstm(3, 5; activations=sigmoid/{name}/tanh)" for name in DEFAULTS),
    *(f"gru(3, 5; activations={f}/{n})" for f, n in zip(_turned(ACTIVATIONS, 3), ACTIVATIONS, strict=True)),
)

SIZES = (
    "lstm(1, 1)",
    "lstm(1, 2; peephole=dense, proj_size=1)",
    "lstm(7, 13)",
    "lstm(2, 17; peephole=diagonal, bidirectional)",
    "lstm(3, 6, 2, 4)",
    "lstm(3, 7, 4; bidirectional, proj_size=3, nonrecurrent_proj_size=1)",
    "lstm(3, 4, 6; bidirectional, layer_norm, peephole=diagonal, zoneout_h=0.2, zoneout_c=0.3)",
    "gru(1, 1)",
    "gru(5, 17)",
    "gru(3, 6, 2, 4; bidirectional)",
    "rnn(1, 1)",
    "rnn(5, 19)",
    "rnn(3, 6, 2, 4; bidirectional, nonlinearity=relu)",
)

COMBINATIONS = (
    # Sak, Senior and Beaufays 2014, whole; and with TensorFlow's clips.
    "lstm(3, 6, 6; proj_size=3, nonrecurrent_proj_size=2, peephole=diagonal)",
    "lstm(3, 6; proj_size=3, proj_clip=0.3, peephole=diagonal, cell_clip=0.5)",
    "lstm(3, 6, 6; bidirectional, bias=False, proj_size=3, proj_bias, proj_clip=0.3, peephole=diagonal, zoneout_h=0.2)",
    "lstm(3, 6, 5; bidirectional, proj_size=3, nonrecurrent_proj_size=2, proj_clip=0.3, peephole=diagonal, "
    "coupled=i=1-f, cell_clip=0.5)",
    "lstm(3, 6; peephole=diagonal, coupled=f=1-i, preactivation_clip=0.8)",
    "lstm(3, 6; bidirectional, peephole=diagonal, coupled=i=1-f, preactivation_clip=0.8, cell_clip=0.5)",
    "lstm(3, 6; bidirectional, peephole=dense, coupled=f=1-i, cell_clip=0.5, layer_norm)",
    "lstm(3, 6, 6; bidirectional, residual, layer_norm, peephole=diagonal, coupled=f=1-i)",
    "lstm(3, 6, 6; bias=False, residual, layer_norm, peephole=dense, proj_size=4, nonrecurrent_proj_size=1)",
    "lstm(3, 6, 6; layer_norm, zoneout_h=0.1, zoneout_c=0.3, recurrent_dropout=0.2, recurrent_dropout_on=candidate)",
    "lstm(3, 6, 6, 6; bidirectional, dropout=0.3, residual, learned_state, recurrent_dropout=0.2, weight_dropout=0.3, "
    "zoneout_h=0.1, zoneout_c=0.3)",
    "lstm(3, 6, 6; dropout=0.3, proj_size=4, recurrent_dropout=0.2, weight_dropout=0.3, zoneout_h=0.3, zoneout_c=0.2, "
    "peephole=diagonal, activations=hard_sigmoid/tanh/linear, cell_clip=0.5)",
    "lstm(3, 5; activations=sigmoid/linear/linear, forget_bias=1.0)",
    "gru(3, 6, 6; bidirectional, residual, layer_norm, zoneout_h=0.2, recurrent_dropout=0.2)",
    "gru(3, 6, 6; bias=False, bidirectional, dropout=0.3, reset=before, recurrent_dropout=0.2, weight_dropout=0.3, "
    "zoneout_h=0.2)",
    "gru(3, 6, 6; reset=before, residual, learned_state, recurrent_dropout=0.2, recurrent_dropout_on=candidate)",
    "rnn(3, 6, 6; bidirectional, residual, layer_norm, nonlinearity=relu, zoneout_h=0.2, recurrent_dropout=0.2)",
    "rnn(3, 6, 5; bidirectional, proj_size=3, nonrecurrent_proj_size=2, proj_clip=0.3, weight_dropout=0.3)",
)

CASES = (*ALONE, *FUNCTIONS, *SIZES, *COMBINATIONS)


def parameters(spec: Spec, seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Random ones, all different, under which clips bite and activations are neither flat nor straight."""
    random = np.random.default_rng([seed, 1])
    values = {}
    for name, shape in spec.parameters.items():
        fan_in = shape[1] if len(shape) == 2 else 1
        scale = 1.2 / np.sqrt(fan_in) if name.startswith("weight") else 0.4
        values[name] = random.normal(1.0 if name.startswith("norm") else 0.0, scale, shape)
    return _tensors(values, dtype)


def states(spec: Spec, batch: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Random initial states (B, n) under `spec.state_names`."""
    random = np.random.default_rng([seed, 2])
    values = {
        name + walk.suffix: random.normal(0, 0.6, (batch, size))
        for walk in spec.walks
        for name, size in spec.state_sizes(walk).items()
    }
    return _tensors(values, dtype)


def inputs(spec: Spec, time: int, batch: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random x: (T, B, I)."""
    random = np.random.default_rng([seed, 3])
    return torch.tensor(random.normal(0, 1, (time, batch, spec.input_size))).to(dtype)


def lengths(time: int, batch: int) -> Tensor:
    """Unsorted, with 0, 1, T and others among them: (B,)."""
    known = [max(time - 2, 0), 0, time, min(1, time)]
    return torch.tensor([known[b] if b < 4 else (3 * b) % (time + 1) for b in range(batch)], dtype=torch.int64)


def resets(time: int, batch: int, seed: int = 0) -> Tensor:
    """True where a new sequence begins, also at the first step and past an end: (T, B)."""
    found = np.random.default_rng([seed, 4]).random((time, batch)) < 0.35
    found[-1:, :2] = found[:1, 2:] = True
    return torch.tensor(found)


def masks(spec: Spec, time: int, batch: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Random masks of one training step, as `spec.masks` wants them."""
    random = np.random.default_rng([seed, 5])
    values = {
        name: (random.random(mask.shape) >= mask.rate) / ((1 - mask.rate) if mask.scaled else 1)
        for name, mask in spec.masks(time, batch).items()
    }
    return _tensors(values, dtype)


def _tensors(values: dict[str, Any], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: torch.tensor(value, dtype=torch.float64).to(dtype) for name, value in values.items()}


@dataclass
class Problem:
    """A spec and all the arguments of a backend's `forward`."""

    spec: Spec
    x: Tensor
    parameters: dict[str, Tensor]
    states: dict[str, Tensor]
    lengths: Tensor | None = None
    reset: Tensor | None = None
    masks: dict[str, Tensor] = field(default_factory=dict)

    @property
    def arguments(self) -> tuple[Any, ...]:
        """In the order of `forward`."""
        return self.spec, self.x, self.parameters, self.states, self.lengths, self.reset, self.masks

    def numpy(self) -> tuple[Any, ...]:
        """The same as arrays of float64."""
        return (self.spec, *(_array(argument) for argument in self.arguments[1:]))


def _array(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _array(item) for name, item in value.items()}
    if isinstance(value, Tensor):
        return (value.detach().double() if value.is_floating_point() else value).numpy()
    return value


# How a case is run: a name and what goes with the input.
RUNS: dict[str, dict[str, bool]] = {
    "plain": {},
    "ragged": {"ragged": True},
    "training": {"ragged": True, "training": True},
}


def problem(
    case: str | Spec,
    time: int = 5,
    batch: int = 4,
    *,
    ragged: bool = False,
    training: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Problem:
    """A case with random numbers. `ragged`: with lengths and resets; `training`: with random masks."""
    spec = case if isinstance(case, Spec) else Spec.parse(case)
    return Problem(
        spec,
        inputs(spec, time, batch, seed, dtype),
        parameters(spec, seed, dtype),
        states(spec, batch, seed, dtype),
        lengths(time, batch) if ragged else None,
        resets(time, batch, seed) if ragged else None,
        masks(spec, time, batch, seed, dtype) if training else {},
    )


def problems(case: str, **options: Any) -> Iterator[tuple[str, Problem]]:
    """Every run of a case that differs from the others: training only where there are masks."""
    for name, run in RUNS.items():
        if name != "training" or Spec.parse(case).masks(1, 1):
            yield name, problem(case, **run, **options)
