"""Forecasts series from their own past: the task, its model, and how it is scored.

The model reads a scaled series z step by step and says at each step what the next `outputs` values are. Where it works
on levels it reads and gives z; where it works on changes, nothing depends on the level that a series has reached:

    x(t) = [z(t), observed(t), known(t+1 .. t+outputs)]     z(t) - z(t-1) instead of z(t) for changes, 0 at first
    h(t) = recurrent(x(t))
    z(t+k) = W_k h(t) + b_k     or  z(t) + W_k h(t) + b_k     for k = 1 .. outputs

Direct forecasting has one output for each step of the horizon. Recursive forecasting has one output, and reads its own
forecast as the next value. What is forecast beyond the outputs is always recursive. With quantiles each output is one
for each quantile, learned by the pinball loss, and the median is the forecast.

Many series share the weights; each has a scale of its own.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ..nn import of
from ..scaling import TRANSFORMS, Array, Scaling
from ..spec import Spec
from ..words import counted
from . import scores
from .config import ForecastConfig
from .series import Columns, Series, Split, read, split, spoken, steadiest, tails
from .task import Job, Passage, Picture, Results, Share, Shuffled, Table, Task, Trained, gates, orthogonal

if TYPE_CHECKING:
    from ..tracing import Trace

MOST_STEPS = 100_000  # in one forecast
AT_ONCE = 2048  # windows that are forecast together
A_PASS = 4000  # windows in an epoch, at most: they overlap, so an epoch need not have all of them
SHOWN = 400  # steps in the picture of gates, at most
TAIL = 1000  # rows that are read of a series when it is forecast, or a window where that is more


@dataclass(frozen=True)
class ForecastAbout:
    """All that is needed, beside the weights, to forecast with a trained model."""

    columns: Columns
    window: int
    horizon: int
    outputs: int
    season: int
    output: str  # "level" or "change"
    transform: str
    scaling: dict[str, tuple[float, float]]  # mean and size of each series that was trained on, by name
    exogenous: tuple[tuple[float, float], ...] = ()  # of each column that is read beside the target
    quantiles: tuple[float, ...] = ()  # with the median among them; none: the mean is forecast
    step: str | None = None  # the distance of two times, as `Series.step` has it

    def __post_init__(self) -> None:
        if isinstance(self.columns, dict):  # from a file
            parts: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in self.columns.items()}
            object.__setattr__(self, "columns", Columns(**parts))
            pairs = {name: _pair(pair) for name, pair in self.scaling.items()}
            object.__setattr__(self, "scaling", pairs)
            object.__setattr__(self, "exogenous", tuple(map(_pair, self.exogenous)))
            object.__setattr__(self, "quantiles", tuple(map(float, self.quantiles)))
        sizes = (self.window, self.horizon, self.outputs)
        if not all(isinstance(size, int) and 0 < size <= MOST_STEPS for size in sizes):
            raise ValueError("its sizes are out of range")
        if self.output not in ("level", "change") or self.transform not in TRANSFORMS:
            raise ValueError("its output or transform is unknown")
        if len(self.exogenous) != len(self.columns.exogenous):
            raise ValueError("its columns do not fit their scales")
        if self.quantiles and (0.5 not in self.quantiles or not all(0 < q < 1 for q in self.quantiles)):
            raise ValueError("its quantiles are out of range")

    @property
    def inputs(self) -> int:
        """Numbers that the layers read at each step."""
        return 1 + len(self.columns.observed) + len(self.columns.known) * self.outputs

    def scale(self, series: Series) -> Scaling:
        """Of a series: as in training, or where it is new by what is given of it."""
        for name in (series.name, series.in_file):  # training may have had several files
            if (pair := self.scaling.get(name)) is not None:
                return Scaling(self.transform, *pair)
        return Scaling.fit(series.values, self.transform, changes=self.output == "change")

    def steps(self, steps: int) -> int:
        """How many steps are computed, so that there are so many: whole runs of the outputs."""
        return -(-steps // self.outputs) * self.outputs


def _pair(value: Any) -> tuple[float, float]:
    mean, std = map(float, value)
    if not (np.isfinite(mean) and np.isfinite(std) and std > 0):
        raise ValueError("a scale is out of range")
    return mean, std


@dataclass(frozen=True)
class Backtest:
    """Forecasts of one series from every row of its end (rolling origin), and what came."""

    series: Series
    starts: scores.Rows  # (M,) rows that forecasts begin at
    truth: Array  # (M, horizon)
    forecasts: dict[str, Array]  # (M, horizon), the model's first, then those to compare with
    quantiles: Array | None = None  # (M, horizon, Q)
    size: float = 1.0  # what errors are scaled by

    def frame(self) -> pd.DataFrame:
        """All forecasts, one in each row: where it starts, the step, its time, the truth and what was said."""
        count, horizon = self.truth.shape
        rows = np.repeat(self.starts, horizon)
        step = np.tile(np.arange(1, horizon + 1), count)
        at = rows + step - 1
        columns: dict[str, Any] = {} if not self.series.name else {"series": self.series.name}
        columns |= {"start": rows, "step": step}
        columns["time"] = at if self.series.times is None else self.series.times[at]
        columns["truth"] = self.truth.ravel()
        return pd.DataFrame(columns | {name: values.ravel() for name, values in self.forecasts.items()})


class Forecaster(Trained):
    """The model: recurrent layers and a linear head that begins at zero, so at the mean or at the last value."""

    kind: ClassVar[str] = "forecast"
    About = ForecastAbout
    about: ForecastAbout

    def __init__(self, spec: Spec, about: ForecastAbout, dropout: float = 0.0) -> None:
        super().__init__(spec, about, dropout)
        if spec.input_size != about.inputs:
            raise ValueError(
                f"its layers read {counted(spec.input_size, 'number')} a step, and its columns are {about.inputs}"
            )
        self.recurrent = of(spec)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(spec.output_size(), about.outputs * max(1, len(about.quantiles)))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @property
    def stages(self) -> list[tuple[str, Any]]:
        about = self.about
        known = len(about.columns.known)
        series = {"transform": about.transform, "output": about.output, "scaling": about.scaling}
        found: list[tuple[str, Any]] = [("series", series)]
        if about.exogenous:  # as `inputs` has them behind the series
            pairs = [(0.0, 1.0), *about.exogenous[known:], *about.exogenous[:known] * about.outputs]
            found += [("shift", [mean for mean, _ in pairs]), ("scale", [1 / size for _, size in pairs])]
        return [*found, ("recurrent", "recurrent."), ("linear", "head.")]

    def forward(self, x: Tensor, z: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """What follows each step, (T, B, outputs, Q), and the state after the last one.

        x: what the layers read, (T, B, inputs), from `inputs`. z: the scaled values, (T, B).
        """
        h, state = self.recurrent(x, state)
        y = self.head(self.dropout(h)).unflatten(-1, (self.about.outputs, -1))
        return (y + z[..., None, None] if self.about.output == "change" else y), state

    def inputs(self, z: Tensor, exogenous: Tensor | None = None, last: Tensor | None = None) -> Tensor:
        """What the layers read, (T, B, inputs), from scaled values (T, B), those before the first step (1, B), and
        scaled exogenous columns, (T + outputs, B, K + O), of which the observed ones are not read ahead."""
        changes = self.about.output == "change"
        x = torch.diff(z, dim=0, prepend=z[:1] if last is None else last) if changes else z
        parts = [x[..., None]]
        if exogenous is not None:
            known, time = len(self.about.columns.known), len(z)
            parts.append(exogenous[:time, :, known:])
            parts += [exogenous[k : k + time, :, :known] for k in range(1, self.about.outputs + 1)]
        return torch.cat(parts, -1)

    def ahead(self, z: Tensor, exogenous: Tensor | None, steps: int) -> Tensor:
        """Scaled windows (T, B), and exogenous columns from the first step on, (T + steps, B, K + O), to forecasts
        (steps, B, Q). `steps`: a multiple of the outputs."""
        outputs, middle = self.about.outputs, self.middle
        y, state = self(self.inputs(z, exogenous), z)
        parts, last = [y[-1]], z[-1:]  # (B, outputs, Q)
        while len(parts) * outputs < steps:
            fed = parts[-1][..., middle].t()  # (outputs, B)
            at = len(z) + (len(parts) - 1) * outputs
            some = None if exogenous is None else exogenous[at : at + 2 * outputs]
            y, state = self(self.inputs(fed, some, last), fed, state)
            last = fed[-1:]
            parts.append(y[-1])
        return torch.cat(parts, 1).transpose(0, 1)

    @property
    def middle(self) -> int:
        """Which of the quantiles is the median."""
        return self.about.quantiles.index(0.5) if self.about.quantiles else 0

    def exogenous(self, series: Series, rows: int) -> Array | None:
        """The scaled exogenous columns of so many rows, (rows, K + O); of observed ones, what is ahead is 0."""
        columns = self.about.columns
        if not columns.exogenous:
            return None
        found = np.zeros((rows, len(columns.exogenous)))
        for values, begin in ((series.known, 0), (series.observed, len(columns.known))):
            if values is not None:
                there = values[:rows]
                found[: len(there), begin : begin + values.shape[1]] = there
        mean, std = np.array(self.about.exogenous).T
        scaled: Array = (found - mean) / std
        if columns.observed:
            scaled[len(series) :, len(columns.known) :] = 0.0
        return scaled

    @torch.no_grad()
    def at(self, series: Series, starts: scores.Rows, steps: int | None = None) -> Array:
        """Forecasts of rows t, t+1, ... from what is before each start t: (M, steps, Q)."""
        about, scaling = self.about, self.about.scale(series)
        wanted = about.horizon if steps is None else steps
        whole = about.steps(wanted)
        z = scaling.apply(series.values)
        more = self.exogenous(series, int(starts.max()) + whole)
        reads = starts[:, None] + np.arange(-about.window, 0)
        found = []
        for some in np.array_split(np.arange(len(starts)), -(-len(starts) // AT_ONCE)):
            given = None
            if more is not None:
                at = starts[some][:, None] + np.arange(-about.window, whole)
                given = torch.from_numpy(more[at]).float().transpose(0, 1)
            y = self.ahead(torch.from_numpy(z[reads[some]]).float().t(), given, whole)
            found.append(scaling.undo(y.transpose(0, 1).double().numpy())[:, :wanted])
        return np.concatenate(found)

    def backtest(self, series: Series, first: int, config: ForecastConfig | None = None) -> Backtest:
        """Forecasts from every row from `first` on. config: which statistical models to compare with."""
        about = self.about
        starts = scores.origins(first, len(series), about.horizon)
        said = self.at(series, starts)
        forecasts = {self.spec.title: said[..., self.middle]}
        forecasts |= scores.naive(series.values, starts, about.horizon, about.season)
        if config is not None and (config.ets or config.arima):
            more = scores.fitted(series.values, starts, about.horizon, about.season, config.ets, config.arima)
            forecasts |= more
        truth = scores.targets(series.values, starts, about.horizon)
        size = scores.naive_size(series.values[:first], about.season)
        return Backtest(series, starts, truth, forecasts, said if about.quantiles else None, size)

    def forecast(self, series: Series, steps: int | None = None) -> pd.DataFrame:
        """What follows the end of a series: a row for each step, with its time. Errors: ValueError."""
        about = self.about
        wanted = about.horizon if steps is None else steps
        self._fits(series, wanted)
        try:
            said = self.at(series, np.array([len(series)]), wanted)[0]
        except ValueError as error:
            raise _unfit(series, error) from None
        columns: dict[str, Any] = {}
        if series.name:
            columns[about.columns.id or "series"] = series.name
        columns[about.columns.time or "row"] = series.after(wanted, about.step)
        columns[series.target if len(about.columns.target) == 1 else "forecast"] = said[:, self.middle]
        columns |= {f"quantile {q:g}": said[:, k] for k, q in enumerate(about.quantiles)}
        return pd.DataFrame(columns)

    def _goes_by(self, series: Series) -> None:
        """Errors: ValueError for a series whose times are otherwise apart than in training."""
        step = self.about.step
        if step is not None and not series.goes_by(step):
            raise ValueError(
                f"{series.called} has other steps of '{self.about.columns.time}' than the series that the model was "
                f"trained on, which had one row every {spoken(step)}: give a series with the same steps"
            )

    def _fits(self, series: Series, steps: int) -> None:
        about = self.about
        if not 1 <= steps <= MOST_STEPS:
            raise ValueError(f"steps is {steps}: expected 1 to {MOST_STEPS:,}")
        self._goes_by(series)
        if len(series) < about.window:
            raise ValueError(
                f"{series.called} has {counted(len(series), 'row')}, but the model reads the last {about.window}: give "
                "at least as many"
            )
        if about.columns.observed and steps > about.outputs:
            raise ValueError(
                f"steps is {steps}: beyond {about.outputs} the model would need {_quoted(about.columns.observed)} "
                "ahead; ask for fewer"
            )
        there = 0 if series.known is None else len(series.known) - len(series)
        if about.columns.known and there < about.steps(steps):
            raise ValueError(
                f"{series.called} has {counted(there, 'row')} after its last '{series.target}', but the model needs "
                f"{_quoted(about.columns.known)} of the next {about.steps(steps)}: add them, without a target"
            )

    def read(self, files: Sequence[str | os.PathLike[str]]) -> list[Series]:
        """The series in files. Errors: FileNotFoundError, ValueError."""
        return read(files, self.about.columns)

    def evaluate(self, data: list[Series], *, last: int | None = None) -> Results:
        """On the last rows of each series; None: on all after the first window. Errors: ValueError."""
        tests = []
        for series in data:
            self._goes_by(series)
            least = self.about.window + self.about.horizon
            if len(series) < least:
                raise ValueError(
                    f"{series.called} has {counted(len(series), 'row')}: expected at least {least}, the "
                    f"{self.about.window} that the model reads and {self.about.horizon} ahead"
                )
            rows = len(series) - self.about.window if last is None else last
            if not self.about.horizon <= rows <= len(series) - self.about.window:
                raise ValueError(
                    f"last is {rows}: expected from the horizon, {self.about.horizon}, to "
                    f"{len(series) - self.about.window}, which is what {series.called} has after a window"
                )
            try:
                tests.append(self.backtest(series, len(series) - rows))
            except ValueError as error:
                raise _unfit(series, error) from None
        return results(self, tests)

    def predict(self, files: Sequence[Path], *, steps: int | None = None) -> Iterator[pd.DataFrame]:
        """What follows the end of each series, so many steps ahead. Only ends of series are held in memory.

        Where there are several files, the first column says which.
        """
        for path in files:
            for series in tails(path, self.about.columns, max(self.about.window, TAIL)):
                found = self.forecast(series, steps)
                if len(files) > 1:
                    found.insert(0, "file", str(path))
                yield found

    def look(self, path: Path) -> tuple[Trace, Any]:
        """The trace of the layers over the first series in a file, and its values."""
        series = self.read([path])[0]
        return self.traced(series), series.values

    def traced(self, series: Series) -> Trace:
        """The trace of the layers over a whole series."""
        from ..models import trace

        z = torch.from_numpy(self.about.scale(series).apply(series.values)).float()[:, None]
        more = self.exogenous(series, len(series) + self.about.outputs)
        given = None if more is None else torch.from_numpy(more).float()[:, None]
        found: Trace = trace(self.recurrent, self.inputs(z, given))
        return found


def _unfit(series: Series, error: ValueError) -> ValueError:
    """What is said of values that a trained model's transform does not take."""
    return ValueError(f"In {series.called} {error}, with which this model was trained: give such values")


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def plan(data: Sequence[Series], config: ForecastConfig) -> tuple[list[Split], ForecastAbout]:
    """Cuts each series, and decides by the training parts alone what is left open. Errors: ValueError."""
    if not data:
        raise ValueError("There is no series to train on: give a file")
    window, horizon = config.window or 2, config.horizon
    cuts = [split(len(s), config.test, config.validation, horizon, window, s.called) for s in data]
    trains = [series.values[: cut.train] for series, cut in zip(data, cuts, strict=True)]
    season = _season(trains) if config.season is None else config.season
    shortest = min(map(len, trains))
    if config.ets or config.arima:  # now, not after training
        scores.statistical(min(cut.validation for cut in cuts), season, config.ets, config.arima)
    if config.window is None:
        window = max(2, min(2 * season or 32, (shortest - horizon) // 2))
    outputs = 1 if config.recursive else horizon
    output = _learned(trains, outputs) if config.output == "auto" else config.output
    transform = steadiest(trains) if config.transform == "auto" else config.transform
    scaling = {}
    for series, train in zip(data, trains, strict=True):
        try:
            scale = Scaling.fit(train, transform, changes=output == "change")
            scale.apply(series.values)  # values that come later must fit too
        except ValueError as error:
            raise ValueError(f"In {series.called} {error}: use the transform none") from None
        scaling[series.name] = (scale.mean, scale.std)
    columns = Columns(config.target, config.time, config.id, config.known, config.observed)
    quantiles = tuple(sorted({*config.quantile, 0.5})) if config.quantile else ()
    about = ForecastAbout(
        columns if config.target else dataclasses.replace(columns, target=(data[0].target,)),
        window,
        horizon,
        outputs,
        season,
        output,
        transform,
        scaling,
        _scales(data, cuts),
        quantiles,
        data[0].step,
    )
    for series in data:
        if about.step is not None and not series.goes_by(about.step):
            raise ValueError(
                f"{series.called} has other steps of '{config.time}' than {data[0].called} which has one row every "
                f"{spoken(about.step)}: train on series with the same steps"
            )
    return cuts, about


def _scales(data: Sequence[Series], cuts: Sequence[Split]) -> tuple[tuple[float, float], ...]:
    """Mean and size of each exogenous column, over the training parts."""
    found: list[tuple[float, float]] = []
    for kind in ("known", "observed"):
        parts = [
            getattr(s, kind)[: cut.train] for s, cut in zip(data, cuts, strict=True) if getattr(s, kind) is not None
        ]
        if parts:
            every = np.concatenate(parts)
            found += [(float(m), float(d) or 1.0) for m, d in zip(every.mean(0), every.std(0), strict=True)]
    return tuple(found)


def _season(trains: Sequence[Array]) -> int:
    """The season that most series have, or 0."""
    seasons = Counter(scores.find_season(train) for train in trains[:100])
    season, count = seasons.most_common(1)[0]
    return season if 2 * count > sum(seasons.values()) else 0


def _learned(trains: Sequence[Array], outputs: int) -> str:
    """What is predicted: levels where series stay about their mean, changes where they wander.

    That is, whichever of the two naive forecasts is nearer to the next values: the mean of what was, or the last value.
    """
    nearer = []
    for train in trains:
        early = np.cumsum(train)[:-1] / np.arange(1, len(train))
        ahead = scores.origins(len(train) // 2, len(train), outputs)
        truth = scores.targets(train, ahead, outputs)
        level, change = (np.abs(truth - said[ahead - 1][:, None]).mean() for said in (early, train))
        nearer.append(change < level)
    return "change" if np.mean(nearer) > 0.5 else "level"


class ForecastJob(Job):
    """Trains on the first part of each series, stops by the validation parts, and scores the test parts once."""

    model: Forecaster
    config: ForecastConfig
    batches: Shuffled

    def __init__(self, data: Sequence[Series], config: ForecastConfig, share: Share | None = None) -> None:
        self.data, self.config, self.share = data, config, share or Share()
        self.cuts, about = plan(data, config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = Forecaster(config.spec(about.inputs), about, config.dropout)
            orthogonal(self.model.recurrent, self.model.spec)
        window, outputs = about.window, about.outputs
        starts, parts, more, begin = [], [], [], 0
        for series, cut in zip(data, self.cuts, strict=True):
            z = about.scale(series).apply(series.values[: cut.train])
            starts.append(begin + np.arange(len(z) - window - outputs + 1))
            parts.append(z)
            if (given := self.model.exogenous(series, cut.train)) is not None:
                more.append(given)
            begin += len(z)
        self.z = torch.from_numpy(np.concatenate(parts)).float()
        self.exogenous = torch.from_numpy(np.concatenate(more)).float() if more else None
        self.starts = torch.from_numpy(np.concatenate(starts))
        self.batches = Shuffled(len(self.starts), config.batch, self.windows, config.seed, self.share)
        self._validation()

    def _validation(self) -> None:
        """Windows of the validation parts, evenly spread: few forecasts of many steps, more of one."""
        about, config = self.model.about, self.config
        most = 200 // config.horizon + 8
        most = most if len(self.data) == 1 else max(1, 8 * most // len(self.data))
        whole, z, more, truth = about.steps(about.horizon), [], [], []
        for series, cut in zip(self.data, self.cuts, strict=True):
            past = about.scale(series).apply(series.values[: cut.validation])
            starts = scores.origins(cut.train, cut.validation, about.horizon, most)
            truth.append(scores.targets(past, starts, about.horizon))
            z.append(past[starts[:, None] + np.arange(-about.window, 0)])
            if (given := self.model.exogenous(series, cut.validation + whole)) is not None:
                more.append(given[starts[:, None] + np.arange(-about.window, whole)])
        self.reads = torch.from_numpy(np.concatenate(z)).float()  # (M, T)
        self.truth = torch.from_numpy(np.concatenate(truth)).float()  # (M, horizon)
        self.given = torch.from_numpy(np.concatenate(more)).float() if more else None  # (M, T + whole, K + O)

    @property
    def steps(self) -> int:
        return self.config.steps_per_epoch or min(len(self.batches), -(-A_PASS // self.batches.size))

    def windows(self, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Training windows: what is read (T, B, inputs), the values (T, B), what follows each, (T, B, outputs)."""
        about = self.model.about
        at = self.starts[chosen] + torch.arange(about.window)[:, None]
        z = self.z[at]
        given = None
        if self.exogenous is not None:
            given = self.exogenous[self.starts[chosen] + torch.arange(about.window + about.outputs)[:, None]]
        return self.model.inputs(z, given), z, self.z[at[..., None] + 1 + torch.arange(about.outputs)]

    def loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, float]:
        x, z, y = batch
        # A forecast comes after a whole window: what the model says when it has read less is not what it is for.
        begin = len(y) // 2
        return self._loss(self.model(x, z)[0][begin:], y[begin:]), y[begin:].numel()

    def _loss(self, said: Tensor, truth: Tensor) -> Tensor:
        """The sum of squares, or of the pinball losses, of (..., Q) about (...)."""
        quantiles = self.model.about.quantiles
        if not quantiles:
            return ((said[..., 0] - truth) ** 2).sum()
        below, levels = truth[..., None] - said, said.new_tensor(quantiles)
        return torch.maximum(levels * below, (levels - 1) * below).sum() / len(quantiles)

    def score(self) -> dict[str, tuple[float, float]]:
        about, total, count = self.model.about, 0.0, 0
        device = next(self.model.parameters()).device
        own = list(self.share.of(len(self.reads)))
        for begin in range(0, len(own), AT_ONCE):
            some = own[begin : begin + AT_ONCE]
            given = None if self.given is None else self.given[some].transpose(0, 1).to(device)
            said = self.model.ahead(self.reads[some].t().to(device), given, about.steps(about.horizon))
            truth = self.truth[some].t().to(device)
            total += float(self._loss(said[: about.horizon], truth))
            count += truth.numel()
        return {"pinball loss" if about.quantiles else "squared error": (total, count)}

    def results(self) -> Results:
        tests = [
            self.model.backtest(series, cut.validation, self.config)
            for series, cut in zip(self.data, self.cuts, strict=True)
        ]
        found = results(self.model, tests)
        rows = [
            sum(cut.train for cut in self.cuts),
            sum(cut.validation - cut.train for cut in self.cuts),
            sum(cut.rows - cut.validation for cut in self.cuts),
        ]
        found.metrics["rows"] = dict(zip(("train", "validation", "test"), rows, strict=True))
        return found


def results(model: Forecaster, tests: Sequence[Backtest]) -> Results:
    """Errors of all forecasters over all series, the picture of some, and where the model was most wrong."""
    from .forecast_plots import forecast_figure

    about = model.about
    # What every series has: a short one may have no last season.
    names = [name for name in tests[0].forecasts if all(name in test.forecasts for test in tests)]
    own = names[0]
    truth = np.concatenate([test.truth for test in tests])
    size = np.repeat([test.size for test in tests], [len(test.truth) for test in tests])[:, None]
    found = {
        name: scores.errors(np.concatenate([test.forecasts[name] for test in tests]), truth, size) for name in names
    }
    if about.quantiles:
        levels = np.array(about.quantiles)
        said = np.concatenate([test.quantiles for test in tests if test.quantiles is not None])
        for name in names:
            point = np.concatenate([test.forecasts[name] for test in tests])[..., None]
            given = said if name == own else np.broadcast_to(point, said.shape)
            found[name]["pinball"] = float(scores.pinball(given, truth, levels).mean())
        found[own]["coverage"] = {  # type: ignore[assignment] # by quantile
            f"{q:g}": float((truth <= said[..., k]).mean()) for k, q in enumerate(levels)
        }
    metrics: dict[str, Any] = {"test": found, "season": about.season, "window": about.window}
    parts: list[Table | Picture | Passage] = [error_table(model, tests, found)]
    each = [scores.errors(test.forecasts[own], test.truth, test.size) for test in tests]
    if len(tests) > 1:
        metrics["series"] = {test.series.name: one for test, one in zip(tests, each, strict=True)}
        order = np.argsort([one["mase"] for one in each], kind="stable")[::-1]
        rows = [(tests[k].series.name, *(f"{each[k][name]:.4g}" for name in ("rmse", "mae", "mase"))) for k in order]
        worst = f"Series by their scaled error, worst first{', 20 of ' + str(len(rows)) if len(rows) > 20 else ''}"
        parts.append(Table(worst, ("series", "RMSE", "MAE", "MASE"), rows[:20]))
        shown = {
            int(order[len(order) // 2]): "the middle of all",
            int(order[-1]): "the best",
            int(order[0]): "the worst",
        }
        chosen = {k: f"Series '{tests[k].series.name}', {word}" for k, word in reversed(shown.items())}
    else:
        chosen = {0: "Forecasts of the test part"}
    parts += [Picture(title, forecast_figure(tests[k], about)) for k, title in chosen.items()]
    parts.append(_worst(tests, own))
    read = f"Above what the layers read: scaled {about.output}s. At most the last {SHOWN} steps."
    looked = model.traced(tests[next(iter(chosen))].series.end(SHOWN))
    parts.append(gates(looked, "What the gates do while the series is read", read))
    return Results(metrics, parts)


def error_table(model: Forecaster, tests: Sequence[Backtest], found: dict[str, dict[str, float]]) -> Table:
    """The errors of the test part, the model's above the others."""
    about, own = model.about, next(iter(found))
    steps = "one step ahead" if about.horizon == 1 else f"{about.horizon} steps ahead"
    rows = sorted({len(test.series) - int(test.starts[0]) for test in tests})
    many = f"{len(tests)} series, " if len(tests) > 1 else f"{tests[0].series.target}, "
    last = f"last {rows[0]} to {rows[-1]} rows" if len(rows) > 1 else f"last {counted(rows[0], 'row')}"
    measures = {"rmse": "RMSE", "mae": "MAE", "mase": "MASE", "pinball": "pinball"}
    measures = {m: head for m, head in measures.items() if np.isfinite(found[own].get(m, np.nan))}
    largest = max(float(np.abs(test.truth).max()) for test in tests)
    lines = []
    for name, errors in found.items():
        mine, its = found[own]["rmse"], errors["rmse"]
        if max(mine, its) <= 1e-9 * largest:
            change = "both exact"
        elif mine > 10 * its:
            change = "over 10 times"
        else:
            change = f"{mine / its - 1:+.0%}".replace("-", "−")
        numbers = [f"{errors[m]:.4g}" if np.isfinite(errors[m]) else "" for m in measures]
        lines.append((name, *numbers, "" if name == own else change))
    note = ""
    if about.quantiles:
        said: dict[str, float] = found[own]["coverage"]  # type: ignore[assignment]
        note = "Share of the truth at or below each quantile: " + ", ".join(f"{q}: {v:.3f}" for q, v in said.items())
    heads = (
        "forecast",
        *measures.values(),
        f"RMSE of the {own} against it",
    )
    return Table(f"{many}{last}, {steps}", heads, lines, note)


def _worst(tests: Sequence[Backtest], own: str, count: int = 10) -> Table:
    """The forecasts that were most wrong, by the size of a naive error."""
    frames = [
        test.frame().assign(wrong=lambda f, t=test: (f[own] - f["truth"]).abs() / (t.size or 1.0)) for test in tests
    ]
    worst = pd.concat(frames).nlargest(count, "wrong")
    many = "series" in worst
    rows = [
        (
            *([str(row["series"])] if many else []),
            f"{row['time']}",
            str(row["step"]),
            f"{row['truth']:.4g}",
            f"{row[own]:.4g}",
            f"{row[own] - row['truth']:+.4g}".replace("-", "−"),
        )
        for row in worst.to_dict("records")
    ]
    heads = (*(["series"] if many else []), tests[0].series.time or "row", "step", "truth", own, "error")
    return Table("Worst forecasts", heads, rows)


def read_files(files: Sequence[str | os.PathLike[str]], config: ForecastConfig) -> list[Series]:
    """The series that a configuration names. Errors: FileNotFoundError, ValueError."""
    return read(files, Columns(config.target, config.time, config.id, config.known, config.observed))


TASK = Task(Forecaster, read_files, ForecastJob)
