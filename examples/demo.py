"""Trains an LSTM on the sunspots and on a sine, forecasts both, and shows what its gates did.

Run it by `make demo`, or with a seed: `python examples/demo.py 3`. It fails where a forecast is not good enough.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from openlstm.plots import gates_figure, write
from openlstm.train.commands import rich_table
from openlstm.train.config import ForecastConfig
from openlstm.train.forecast import Forecaster, read_files
from openlstm.train.forecast_plots import forecast_figure
from openlstm.train.runs import Run, fit
from openlstm.train.series import Series

HERE = Path(__file__).resolve().parent
PICTURES = HERE.parent / "demo"
console = Console(highlight=False)

# The next year from the years before it. All else is chosen by the part of the series that is trained on.
SUNSPOTS = ForecastConfig(target=("SUNACTIVITY",), time="YEAR", test=60)
# A whole period ahead, each forecast read as the next value. There is no noise, so nothing is left out in training.
SINE = ForecastConfig(
    target=("sine",), test=70, horizon=70, recursive=True, window=70, dropout=0.0, batch=64, epochs=60, patience=15
)


def sunspots() -> Series:
    """Yearly sunspot numbers, 1700-2008."""
    return read_files([HERE / "data" / "sunspots.csv"], SUNSPOTS)[0]


def sine() -> Series:
    """1000 points with a period of 70."""
    return Series("the sine", "sine", np.sin(2 * np.pi * np.arange(1000) / 70))


def gates(model: Forecaster, series: Series, path: Path) -> None:
    """What the gates and the memory of a trained model do while it reads a series."""
    trace = model.traced(series)
    figure = gates_figure(
        {name: trace[name][:, 0] for name in "ifoc"},
        series={series.target: series.values},
        time=series.times,
        order="c",
        titles=model.spec.definition.titles,
        title="What the gates of the trained model do while it reads the series",
        time_label=series.time or "step",
    )
    write(figure, path)


def train(name: str, series: Series, config: ForecastConfig, seed: int) -> Run:
    """Trains, prints the errors, and writes the picture."""
    console.print(f"\n[bold]{name}[/bold]: {len(series)} rows, training ...")
    run = fit(replace(config, seed=seed), [series], progress=console)
    if run is None:
        sys.exit("Interrupted before the first epoch was over.")
    console.print(f"{run.outcome.epochs} epochs in {run.outcome.seconds:.0f} s")
    console.print(rich_table(run.results.parts[0]))
    if config is SINE:
        console.print("(There is no noise, so the last season is the answer itself: the model is not told of it.)")
    test = run.model.backtest(series, len(series) - int(config.test))
    write(forecast_figure(test, run.model.about), PICTURES / f"{name}.png")
    return run


def main(seed: int = 0) -> int:
    """0 if both forecasts are as good as they must be."""
    begin = time.perf_counter()
    PICTURES.mkdir(exist_ok=True)
    year = train("sunspots", sunspots(), SUNSPOTS, seed)
    period = train("sine", sine(), SINE, seed)
    gates(year.model, sunspots(), PICTURES / "gates.png")

    errors = year.results.metrics["test"]
    ratio = errors["LSTM"]["rmse"] / errors["last value"]["rmse"]
    error = period.results.metrics["test"]["LSTM"]["rmse"]
    failures = []
    if ratio > 0.75:
        failures.append(f"Sunspots: RMSE {1 - ratio:.0%} below the last value's, expected at least 25%.")
    if error >= 0.02:
        failures.append(f"Sine: RMSE {error:.3f} over a whole period, expected less than 0.02.")
    console.print(
        f"\nSunspots, one year ahead: RMSE {1 - ratio:.0%} below the last value's; at least 25% is asked."
        f"\nSine, a whole period ahead: RMSE {error:.4f}; less than 0.02 is asked."
        f"\nPictures: {', '.join(f'demo/{path.name}' for path in sorted(PICTURES.glob('*.png')))}."
        f" All took {time.perf_counter() - begin:.0f} s.",
        soft_wrap=True,
    )
    for failure in failures:
        print(f"Not good enough. {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seed", type=int, nargs="?", default=0, help="of both models (%(default)s)")
    sys.exit(main(parser.parse_args().seed))
