"""The picture of a forecast: the truth, the model's forecast, and the naive ones beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from .scores import errors
from .series import clock

if TYPE_CHECKING:
    from .forecast import Backtest, ForecastAbout

TRUTH, MODEL, OTHERS = "#222222", "#c8401c", ("#8fa3b5", "#b9a66b", "#7aa37a", "#a58bb5")


def forecast_figure(test: Backtest, about: ForecastAbout) -> Figure:
    """Above: the end of the series and the forecasts of its test tail. Below: how far each is from the truth."""
    series, horizon = test.series, about.horizon
    shown = _shown(test, horizon)
    x = np.arange(len(series)) if series.times is None else clock(series.times[: len(series)])
    figure = Figure(figsize=(10, 6), layout="constrained")
    grid = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.2))
    above, below = grid
    first = int(test.starts[0])
    begin = max(0, first - max(len(series) - first, 2 * about.season))
    above.axvspan(x[begin], x[first - 1], color="#f3f1ec", lw=0)
    above.plot(x[begin:], series.values[begin:], color=TRUTH, lw=1.6, label="truth", zorder=3)
    names = list(test.forecasts)
    colors = dict(zip(names, (MODEL, *OTHERS), strict=False))
    if test.quantiles is not None and len(about.quantiles) > 1:
        # The widest two are a band around the forecast.
        low, high = (_joined(test.quantiles[..., k], shown, horizon) for k in (0, -1))
        rows = _rows(shown, horizon)
        label = f"quantiles {about.quantiles[0]:g} to {about.quantiles[-1]:g}"
        above.fill_between(x[np.maximum(rows, 0)], low, high, color=MODEL, alpha=0.15, lw=0, label=label)
    for name in reversed(names):  # the model last, so on top
        style: dict[str, Any] = {"color": colors[name], "lw": 1.8 if name == names[0] else 1.1}
        style |= {"zorder": 4 if name == names[0] else 2, "ls": "-" if name == names[0] else "--"}
        rows = _rows(shown, horizon)
        values = _joined(test.forecasts[name], shown, horizon)
        where = x[np.maximum(rows, 0)]
        above.plot(
            where, values, label=f"{name}, RMSE {_number(errors(test.forecasts[name], test.truth)['rmse'])}", **style
        )
        truth = np.where(rows >= 0, series.values[rows], np.nan)
        below.plot(where, values - truth, **style)
    below.axhline(0, color=TRUTH, lw=0.8)
    ahead = "one step ahead" if horizon == 1 else f"{horizon} steps ahead"
    above.set_title(f"{series.name or series.target}: the test tail, forecast {ahead}", loc="left", weight="bold")
    above.set_ylabel(series.target)
    below.set_ylabel("forecast − truth")
    below.set_xlabel(series.time or "row")
    handles, labels = above.get_legend_handles_labels()
    order = [labels.index("truth"), *reversed(range(1, len(labels)))]
    above.legend([handles[k] for k in order], [labels[k] for k in order], frameon=False, loc="upper left", ncols=2)
    above.margins(x=0.01)
    low, high = above.get_ylim()
    low, high = low - 0.08 * (high - low), high + 0.18 * (high - low)  # room for the two texts
    above.set_ylim(low, high)
    above.annotate(
        "seen in training and validation",
        (x[first - 1], low),
        xytext=(-6, 5),
        textcoords="offset points",
        ha="right",
        color="#8a857a",
        fontsize=9,
    )
    for axes in grid:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e6e3dc", lw=0.7)
        axes.set_axisbelow(True)
    return figure


def _number(value: float) -> str:
    """Three digits; a rounding error is none."""
    return f"{value:.3g}" if value > 1e-12 else "0"


def _shown(test: Backtest, horizon: int) -> list[tuple[int, int]]:
    """Forecasts to draw, as (row that it starts at, index): all one step ahead, else as many as lie side by side."""
    last = len(test.starts) - 1
    chosen = range(last % horizon, last + 1, horizon)
    return [(int(test.starts[k]), k) for k in chosen]


def _rows(shown: list[tuple[int, int]], horizon: int) -> np.ndarray:
    """The rows of the drawn forecasts, with -1 between those of several steps."""
    rows = np.concatenate([np.append(start + np.arange(horizon), -1) for start, _ in shown])
    return rows[:-1] if horizon > 1 else rows[rows >= 0]


def _joined(forecast: np.ndarray, shown: list[tuple[int, int]], horizon: int) -> np.ndarray:
    """The drawn forecasts as one line, broken between those of several steps."""
    if horizon == 1:
        return forecast[[k for _, k in shown], 0]
    return np.concatenate([np.append(forecast[k], np.nan) for _, k in shown])[:-1]
