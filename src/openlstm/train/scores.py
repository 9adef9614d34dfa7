"""What a forecast is measured by: errors, and the naive forecasts that it must beat. No torch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..scaling import Array
from ..words import counted

Rows = NDArray[np.int64]


def errors(forecast: Array, truth: Array, size: Array | float = 1.0) -> dict[str, float]:
    """Root mean square and mean absolute error, and the mean absolute scaled one (Hyndman and Koehler 2006).

    size: what `naive_size` gives, for each forecast; where it is 0 there is no scaled error.
    """
    difference = forecast - truth
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = np.abs(difference) / size
    return {
        "rmse": float(np.sqrt(np.mean(difference**2))),
        "mae": float(np.mean(np.abs(difference))),
        "mase": float(np.mean(scaled)),
    }


def naive_size(train: Array, season: int) -> float:
    """The mean absolute error of the naive forecast one step (or one season) ahead, on the training part."""
    lag = season if 1 < season < len(train) else 1
    size = float(np.abs(train[lag:] - train[:-lag]).mean()) if len(train) > lag else 0.0
    return size if size > 1e-9 * np.abs(train).max() else 0.0  # what rounding leaves is none


def pinball(forecast: Array, truth: Array, quantiles: Array) -> Array:
    """The loss whose least mean is at the quantiles (Koenker and Bassett 1978): (..., Q) from (..., Q) and (...)."""
    below = truth[..., None] - forecast
    return np.maximum(quantiles * below, (quantiles - 1) * below)


def origins(begin: int, end: int, horizon: int, most: int | None = None) -> Rows:
    """Rows from which a forecast of `horizon` steps has its targets in begin..end: row t forecasts t, t+1, ...

    With `most`, that many of them, evenly spread, the last among them.
    """
    every = np.arange(begin, end - horizon + 1)
    if most is None or len(every) <= most:
        return every
    chosen: Rows = every[np.linspace(0, len(every) - 1, most).round().astype(int)]
    return chosen


def targets(values: Array, starts: Rows, horizon: int) -> Array:
    """The truth that belongs to forecasts from `starts`, (M, horizon)."""
    truth: Array = values[starts[:, None] + np.arange(horizon)]
    return truth


def naive(values: Array, starts: Rows, horizon: int, season: int) -> dict[str, Array]:
    """The naive forecasts from each start, (M, horizon): the last value, and with a season the value one season ago."""
    found = {"last value": np.repeat(values[starts - 1][:, None], horizon, axis=1)}
    if season > 1 and starts.min() >= season:
        ahead = np.arange(horizon) % season - season  # beyond one season the same one is used again
        found["last season"] = values[starts[:, None] + ahead]
    return found


def statistical(first: int, season: int, ets: bool, arima: tuple[int, ...]) -> dict[str, Callable[[Array], Any]]:
    """statsmodels' models of a series by name, whose first rows, so many, they are to be fitted to.

    ETS has an additive error, a damped trend, and with a season an additive one.
    Errors: ValueError for too few rows, ImportError.
    """
    try:
        from statsmodels.tsa.arima.model import ARIMA
        from statsmodels.tsa.exponential_smoothing.ets import ETSModel
    except ModuleNotFoundError:
        raise ImportError("ets and arima need statsmodels: install it with pip install statsmodels") from None
    period = season if 1 < season <= first // 2 else 0
    wanted: dict[str, Callable[[Array], Any]] = {}
    if ets:
        more = {"seasonal": "add", "seasonal_periods": period} if period else {}
        wanted["ETS"] = lambda y: ETSModel(y, error="add", trend="add", damped_trend=True, **more)
    if arima:
        wanted[f"ARIMA({','.join(map(str, arima))})"] = lambda y: ARIMA(y, order=arima)
    for name in wanted:
        if first < (least := 2 * (period + 5 if name == "ETS" else sum(arima) + 2)):
            raise ValueError(
                f"{name} cannot be fitted to {counted(first, 'row')}: expected at least {least}; leave it out"
            )
    return wanted


def fitted(
    values: Array, starts: Rows, horizon: int, season: int, ets: bool, arima: tuple[int, ...]
) -> dict[str, Array]:
    """What statsmodels' ETS and ARIMA say from each start, (M, horizon). They are fitted to what is before the first.

    At each later start they have read what came until then, with the parameters as they were.
    Errors: ValueError where a model cannot be fitted, ImportError.
    """
    first = int(starts.min())
    found = {}
    for name, model in statistical(first, season, ets, arima).items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on how the fit went: its errors tell
            try:
                parameters = model(values[:first]).fit(**({"disp": False} if name == "ETS" else {})).params
                said = [model(values[:start]).smooth(parameters).forecast(horizon) for start in starts]
            except (ValueError, np.linalg.LinAlgError, IndexError, TypeError) as error:
                raise ValueError(
                    f"{name} cannot be fitted to {counted(first, 'row')} ({error}); leave it out"
                ) from None
        found[name] = np.array(said)
    return found


def find_season(train: Array) -> int:
    """The length of a clear period, or 0: the first peak of the autocorrelation after it has been negative.

    >>> find_season(np.sin(2 * np.pi * np.arange(200) / 25))
    25
    >>> find_season(np.arange(50.0))
    0
    """
    steps = np.arange(len(train))
    z = train - np.polyval(np.polyfit(steps, train, 1), steps)
    if len(z) < 12 or z.std() < 1e-9 * (np.abs(train).max() or 1):
        return 0
    longest = len(z) // 3
    size = 2 ** int(np.ceil(np.log2(2 * len(z))))
    products = np.fft.irfft(np.abs(np.fft.rfft(z, size)) ** 2)[: longest + 1]
    # Each lag has its own number of pairs; dividing by it keeps late peaks from looking small and early.
    correlation = products / np.arange(len(z), len(z) - longest - 1, -1) / z.var()
    negative = np.flatnonzero(correlation < 0)
    if not len(negative):
        return 0
    peak = negative[0] + int(np.argmax(correlation[negative[0] :]))
    for lag in range(negative[0] + 1, peak):  # an earlier peak that is nearly as high is the period itself
        if correlation[lag] >= 0.8 * correlation[peak] and correlation[lag] >= correlation[lag - 1 : lag + 2].max():
            peak = lag
            break
    return int(peak) if peak < longest and correlation[peak] > 0.3 else 0
