"""How well series are forecast: `python -m benchmarks.train_forecast`, some minutes.

- sunspots, one year ahead over the last 60 years: at least 25 % under the last value, and no worse than AR(9);
- the sine of period 70, a whole period ahead, each forecast read as the next value: RMSE under 0.02;
- 100 made series whose noise is known (a season of 12, a level, an autoregression): within 10 % of the noise.

Each with three seeds. It passes where all of them do.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from openlstm.train.config import ForecastConfig
from openlstm.train.forecast import read_files
from openlstm.train.runs import fit
from openlstm.train.series import Series

SUNSPOTS = Path(__file__).resolve().parents[1] / "examples" / "data" / "sunspots.csv"


def sunspots(seed: int) -> tuple[str, str, bool, float]:
    """What was reached, what is asked, is it reached, and the seconds."""
    config = ForecastConfig(target=("SUNACTIVITY",), time="YEAR", test=60, arima=(9, 0, 0), ets=True, seed=seed)
    run = fit(config, read_files([SUNSPOTS], config))
    assert run is not None
    errors = {name: each["rmse"] for name, each in run.results.metrics["test"].items()}
    own, last, ar = errors["LSTM"], errors["last value"], errors["ARIMA(9,0,0)"]
    said = f"RMSE {own:.2f}; last value {last:.2f}, AR(9) {ar:.2f}, ETS {errors['ETS']:.2f}"
    return said, f"< {0.75 * last:.2f} and {ar:.2f}", own <= 0.75 * last and own <= ar, run.outcome.seconds


def sine(seed: int) -> tuple[str, str, bool, float]:
    """The same for the sine, which has no noise, so nothing is left out in training."""
    series = Series("the sine", "sine", np.sin(2 * np.pi * np.arange(1000) / 70))
    config = ForecastConfig(target=("sine",), test=70, horizon=70, recursive=True, window=70, dropout=0.0, seed=seed)
    run = fit(config, [series])
    assert run is not None
    error = run.results.metrics["test"]["LSTM"]["rmse"]
    return f"RMSE {error:.4f}", "< 0.02", error < 0.02, run.outcome.seconds


def panel(seed: int, count: int = 100, rows: int = 200) -> tuple[str, str, bool, float]:
    """The same for made series of sizes from 0.1 to 100. The noise of each is what no forecast can know."""
    random = np.random.default_rng(0)
    data, sizes = [], 10 ** random.uniform(-1, 2, count)
    for k, size in enumerate(sizes):
        noise, wander = size * random.normal(size=rows), np.zeros(rows)
        for t in range(1, rows):
            wander[t] = 0.6 * wander[t - 1] + noise[t]
        season = size * random.uniform(1, 4) * np.sin(2 * np.pi * (np.arange(rows) + random.uniform(0, 12)) / 12)
        data.append(Series("made", "y", 10 * size * random.uniform(-5, 5) + season + wander, name=f"series {k}"))
    run = fit(ForecastConfig(target=("y",), seed=seed), data)
    assert run is not None
    errors = [run.results.metrics["series"][series.name]["rmse"] for series in data]
    ratio = float(np.sqrt(np.mean((np.array(errors) / sizes) ** 2)))
    return f"{ratio:.3f} of the noise", "< 1.1", ratio < 1.1, run.outcome.seconds


def lines(seeds: list[int]) -> Iterator[tuple[str, int, str, str, bool, float]]:
    """Every problem with every seed."""
    for problem in (sunspots, sine, panel):
        for seed in seeds:
            yield problem.__name__, seed, *problem(seed)


def main() -> None:
    """Trains, forecasts, and says whether it passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one model for each (%(default)s)")
    table = Table("problem", "seed", "reached", "asked", "seconds", "")
    passed = True
    for name, seed, said, asked, good, seconds in lines(parser.parse_args().seeds):
        table.add_row(name, str(seed), said, asked, f"{seconds:.0f}", "pass" if good else "FAIL")
        passed &= good
    Console(highlight=False, width=110).print(table)
    sys.exit(not passed)


if __name__ == "__main__":
    main()
