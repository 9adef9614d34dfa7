"""What a forecast is measured by: errors, and the naive forecasts that it must beat. No torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .data import Array

Rows = NDArray[np.int64]


def errors(forecast: Array, truth: Array) -> dict[str, float]:
    """Root mean square and mean absolute error."""
    difference = forecast - truth
    return {"rmse": float(np.sqrt(np.mean(difference**2))), "mae": float(np.mean(np.abs(difference)))}


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
