"""Forecasts a series from its own past: the task, its model, and the file that holds both.

The model reads the scaled series z step by step and says at each step what the next `outputs` values are. Where it
works on levels it reads and gives z; where it works on changes, nothing depends on the level that a series has reached:

    x(t) = z(t)             or  z(t) - z(t-1), 0 at the first step
    h(t) = recurrent(x(t))
    z(t+k) = W_k h(t) + b_k     or  z(t) + W_k h(t) + b_k     for k = 1 .. outputs

Direct forecasting has one output for each step of the horizon. Recursive forecasting has one output, and reads its own
forecast as the next value. What is forecast beyond the outputs is always recursive.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from .. import file
from ..nn import of
from ..spec import Spec
from . import scores
from .data import TRANSFORMS, Array, Scaling, Series, Split, split, windows
from .loop import Batches, Outcome, train

MOST_STEPS = 100_000  # in one forecast


@dataclass(frozen=True)
class ForecastConfig:
    """What to train. None: chosen from the training part."""

    horizon: int = 1  # steps ahead that are forecast and scored
    recursive: bool = False  # one output, fed back; else one output for each step of the horizon
    window: int | None = None  # steps that the model reads; None: two seasons, or 32
    season: int | None = None  # length of a period; 0: there is none; None: looked for
    cell: str = "lstm"
    hidden: int = 32
    layers: int = 1
    options: str = ""  # of the cell, as a spec has them: "peephole=diagonal, zoneout_h=0.1"
    dropout: float = 0.3  # of h before the head, and between layers
    transform: str = "auto"  # before scaling: "none", "sqrt", "log"
    output: str = "auto"  # "level" or "change" from the last value
    test: float = 0.2  # the tail that is only scored: a share, or rows
    validation: float = 0.2  # what chooses when to stop: a share of the rows before the test, or rows
    epochs: int = 300
    patience: int = 40
    batch: int = 32
    learning_rate: float = 3e-3
    clip: float = 1.0  # of the gradient's norm
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("horizon", "hidden", "layers", "epochs", "patience", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: expected at least 1")
        for name, least in (("window", 2), ("season", 0)):
            if (value := getattr(self, name)) is not None and value < least:
                raise ValueError(f"{name} is {value}: expected at least {least}, or nothing for a choice from the data")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}: expected a whole number from 0 to 2^63 - 1")
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}: expected a number above 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}: expected a share of at least 0 and below 1")
        if self.output not in ("level", "change", "auto"):
            raise ValueError(f"output is '{self.output}': expected level, change or auto")
        if self.transform not in (*TRANSFORMS, "auto"):
            raise ValueError(f"transform is '{self.transform}': expected one of {', '.join(TRANSFORMS)}, auto")

    def spec(self) -> Spec:
        """The recurrent layers. Errors: ValueError for an option that the cell does not have."""
        given = Spec.parse_options(self.cell, self.options)
        if given.get("bidirectional"):
            raise ValueError("bidirectional layers read what is to be forecast: leave that option out")
        own = {"dropout": self.dropout if self.layers > 1 else 0.0} | given | {"batch_first": True}
        spec = Spec.of(self.cell, 1, self.hidden, self.layers, **own)
        return Spec.of(self.cell, 1, self.hidden, self.layers, **(spec.definition.advised(spec) | own))


@dataclass(frozen=True)
class Task:
    """All that is needed, beside the weights, to forecast with a trained model."""

    target: str
    window: int
    horizon: int
    outputs: int
    season: int
    output: str
    scaling: Scaling
    time: str | None = None
    step: str | None = None  # the distance of two times, as `Series.step` has it
    kind: str = "forecast"

    def text(self) -> str:
        """As JSON, for the file."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def parse(cls, text: str) -> Task:
        """Reads what `text` gives. Errors: ValueError, TypeError."""
        fields = json.loads(text)
        scaling = Scaling(**fields.pop("scaling"))
        task = cls(**fields, scaling=scaling)
        if task.kind != "forecast":
            raise ValueError(f"it is for the task '{task.kind}', expected 'forecast'")
        sizes = (task.window, task.horizon, task.outputs)
        if not all(isinstance(size, int) and size > 0 for size in sizes) or task.output not in ("level", "change"):
            raise ValueError("its sizes or its output are out of range")
        scaling.undo(np.zeros(1))
        return task


class Forecaster(nn.Module):
    """The model: recurrent layers and a linear head that begins at zero, so at the mean or at the last value."""

    def __init__(self, spec: Spec, task: Task, dropout: float = 0.0) -> None:
        super().__init__()
        self.task = task
        self.recurrent = of(spec)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(spec.output_size(), task.outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, z: Tensor, state: Any = None, last: Tensor | None = None) -> tuple[Tensor, Any]:
        """Scaled values (B, T) to what follows each step, (B, T, N), and the state after the last step.

        To go on after earlier values: the state, and the last of them (B, 1).
        """
        changes = self.task.output == "change"
        x = torch.diff(z, prepend=z[:, :1] if last is None else last) if changes else z
        h, state = self.recurrent(x[..., None], state)
        y = self.head(self.dropout(h))
        return (z[..., None] + y if changes else y), state

    def _ahead(self, z: Tensor, steps: int) -> Tensor:
        """Scaled windows (B, T) to forecasts (B, steps)."""
        y, state = self(z)
        parts, last = [y[:, -1]], z[:, -1:]
        while sum(part.shape[1] for part in parts) < steps:
            y, state = self(parts[-1], state, last)
            last = parts[-1][:, -1:]
            parts.append(y[:, -1])
        return torch.cat(parts, 1)[:, :steps]

    @torch.no_grad()
    def forecast(self, windows: Array, steps: int | None = None) -> Array:
        """What follows each window of the series (B, T), in its own units: (B, steps). `steps`: the horizon."""
        scaling = self.task.scaling
        z = torch.from_numpy(scaling.apply(windows)).to(self.head.weight.dtype)
        return scaling.undo(self._ahead(z, steps or self.task.horizon).double().numpy())

    def at(self, values: Array, starts: scores.Rows, steps: int | None = None) -> Array:
        """Forecasts of rows t, t+1, ... from what is before each start t: (M, steps)."""
        reads = starts[:, None] + np.arange(-self.task.window, 0)
        return self.forecast(values[reads], steps)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes one safetensors file, whole or not at all."""
        file.write(path, self.state_dict(), {"spec": str(self.recurrent.spec), "task": self.task.text()})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Forecaster:
        """The model that `save` wrote. Nothing in the file is executed. Errors: FileNotFoundError, ValueError."""
        tensors, metadata = file.read(path, "torch")
        if "task" not in metadata:
            raise ValueError(
                f"'{path}' holds recurrent layers and no task: expected a model that `openlstm train` wrote"
            )
        spec = file.read_spec(path, metadata)
        try:
            task = Task.parse(metadata["task"])
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"'{path}' holds a task that this openlstm cannot use: {error}") from None
        prefix = "recurrent."
        file.match(path, spec, {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        shapes = {"head.weight": (task.outputs, spec.output_size()), "head.bias": (task.outputs,)}
        for name, shape in shapes.items():
            found = tuple(tensors[name].shape) if name in tensors else "missing"
            if found != shape:
                raise ValueError(f"'{path}' does not fit its task: {name} is {found}, expected {shape}")
        model = cls(spec, task)
        model.load_state_dict(tensors, strict=False)
        return model.eval()


@dataclass(frozen=True)
class Result:
    """A trained model and how it did."""

    model: Forecaster
    parts: Split
    outcome: Outcome
    starts: scores.Rows  # (M,) rows of the test tail that forecasts begin at
    forecasts: dict[str, Array]  # (M, horizon) of the model and of each naive forecast, by name
    truth: Array  # (M, horizon)

    @property
    def errors(self) -> dict[str, dict[str, float]]:
        """RMSE and MAE on the test tail, by forecast."""
        return {name: scores.errors(forecast, self.truth) for name, forecast in self.forecasts.items()}


def plan(series: Series, config: ForecastConfig) -> tuple[Split, Task]:
    """Cuts the series and decides by its training part alone what the configuration leaves open. Errors: ValueError."""
    window = config.window or 2
    parts = split(len(series), config.test, config.validation, config.horizon, window, series.source)
    known = series.values[: parts.train]
    season = scores.find_season(known) if config.season is None else config.season
    if config.window is None:
        window = max(2, min(2 * season or 32, (parts.train - config.horizon) // 2))
    output = _learned(known) if config.output == "auto" else config.output
    try:
        scaling = Scaling.fit(known, config.transform, changes=output == "change")
        scaling.apply(series.values)  # values that come later must fit too
    except ValueError as error:
        raise ValueError(f"In {series.source} {error}: use the transform none") from None
    task = Task(
        series.target,
        window,
        config.horizon,
        1 if config.recursive else config.horizon,
        season,
        output,
        scaling,
        series.time,
        series.step,
    )
    return parts, task


def _learned(train: Array) -> str:
    """A level beyond those seen is not learned: where a series leaves its range, its changes are predicted."""
    early, late = np.array_split(train, 2)
    margin = early.std() / 2
    outside = (late < early.min() - margin) | (late > early.max() + margin)
    return "change" if outside.mean() > 0.1 else "level"


def fit(
    series: Series,
    config: ForecastConfig,
    *,
    keep: Callable[[Forecaster], None] = lambda model: None,
    progress: Console | None = None,
) -> Result | None:
    """Trains on the first part, stops by the validation part, and scores the test tail once.

    keep: called with the model at each improvement. None comes back where Ctrl-C came before the first epoch was over.
    """
    parts, task = plan(series, config)
    spec = config.spec()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = Forecaster(spec, task, config.dropout)
        z = task.scaling.apply(series.values[: parts.train])
        stride = 1 + len(z) // 4000  # windows overlap: a long series needs fewer of them
        x, y = (torch.from_numpy(a).float() for a in windows(z, task.window, task.outputs, stride))
        ahead = scores.origins(parts.train, parts.validation, task.horizon, most=200 // task.horizon + 8)
        scale = task.scaling
        past = scale.apply(series.values[: parts.validation])
        truth = scores.targets(past, ahead, task.horizon)
        reads = torch.from_numpy(past[ahead[:, None] + np.arange(-task.window, 0)]).float()

        def loss(x: Tensor, y: Tensor) -> Tensor:
            return nn.functional.mse_loss(model(x)[0], y)

        def score() -> float:
            return scores.errors(model._ahead(reads, task.horizon).double().numpy(), truth)["rmse"]

        outcome = train(
            model,
            Batches(x, y, size=config.batch),
            loss,
            score,
            epochs=config.epochs,
            patience=config.patience,
            learning_rate=config.learning_rate,
            clip=config.clip,
            # Small steps gain nothing from a second thread, and lose fivefold by it where the cores are busy.
            threads=1 if config.hidden <= 64 else None,
            keep=lambda: keep(model),
            progress=progress,
        )
    if not outcome.best_epoch:
        return None
    starts = scores.origins(parts.validation, parts.rows, task.horizon)
    return Result(
        model,
        parts,
        outcome,
        starts,
        {config.cell.upper(): model.at(series.values, starts)}
        | scores.naive(series.values, starts, task.horizon, task.season),
        scores.targets(series.values, starts, task.horizon),
    )


def predict(model: Forecaster, series: Series, steps: int | None = None) -> Array:
    """The next values after the series ends, (steps,). Errors: ValueError where it is shorter than a window."""
    window = model.task.window
    if len(series) < window:
        raise ValueError(
            f"{series.source} has {len(series)} rows, but the model reads the last {window}: give at least as many"
        )
    if steps is not None and not 1 <= steps <= MOST_STEPS:
        raise ValueError(f"steps is {steps}: expected 1 to {MOST_STEPS:,}")
    try:
        values: Array = model.at(series.values, np.array([len(series)]), steps)[0]
    except ValueError as error:
        raise ValueError(f"In {series.source} {error}, with which this model was trained: give such values") from None
    return values
