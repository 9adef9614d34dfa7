"""`openlstm train forecast` and `openlstm predict`. What needs torch is imported when a command runs.

An error about what was given is raised as it is: the command line makes one sentence of it.
"""

from __future__ import annotations

import dataclasses
import json
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from .data import Series
    from .forecast import Forecaster, Result

train = typer.Typer(help="Train a model from a file.", no_args_is_help=True)
INTERRUPTED = 130  # what a shell reports after Ctrl-C


def add(app: typer.Typer) -> None:
    """Puts the commands of this module into the command line."""
    app.add_typer(train, name="train")
    app.command()(predict)


@train.callback()
def _train() -> None:
    """Train a model from a file."""


@train.command()
def forecast(
    file: Annotated[Path, typer.Argument(help="CSV with one row for each step of time.", show_default=False)],
    target: Annotated[str, typer.Option(help="Column to forecast.", show_default=False)],
    time: Annotated[str | None, typer.Option(help="Column of times: numbers or dates.", show_default="none")] = None,
    horizon: Annotated[int, typer.Option(help="Steps ahead to forecast and to score.")] = 1,
    recursive: Annotated[
        bool, typer.Option("--recursive/--direct", help="Feed forecasts back, or give all steps at once.")
    ] = False,
    window: Annotated[
        int | None, typer.Option(help="Steps that the model reads.", show_default="two seasons, or 32")
    ] = None,
    season: Annotated[
        int | None, typer.Option(help="Length of a season, 0 for none.", show_default="looked for")
    ] = None,
    cell: Annotated[str, typer.Option(help="lstm, gru or rnn.")] = "lstm",
    hidden: Annotated[int, typer.Option(help="Units in each layer.")] = 32,
    layers: Annotated[int, typer.Option(help="Layers.")] = 1,
    options: Annotated[
        str, typer.Option(help="More of the cell, as 'peephole=diagonal, zoneout_h=0.1'.", show_default="none")
    ] = "",
    dropout: Annotated[float, typer.Option(help="Share of units left out in training.")] = 0.3,
    transform: Annotated[str, typer.Option(help="Before scaling: none, sqrt, log or auto.")] = "auto",
    output: Annotated[str, typer.Option(help="What is learned: level, change or auto.")] = "auto",
    test: Annotated[float, typer.Option(help="Last rows, held out: a share below 1, or a number.")] = 0.2,
    validation: Annotated[
        float, typer.Option(help="Rows before them that choose when to stop: a share, or a number.")
    ] = 0.2,
    epochs: Annotated[int, typer.Option(help="At most.")] = 300,
    patience: Annotated[int, typer.Option(help="Epochs without improvement before the end.")] = 40,
    batch: Annotated[int, typer.Option(help="Windows in one step of training.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="Of Adam.")] = 3e-3,
    clip: Annotated[float, typer.Option(help="Greatest norm of the gradient.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same model.")] = 0,
    run: Annotated[
        Path | None, typer.Option("-o", "--run", help="Folder for the results.", show_default="runs/NAME OF FILE")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the results of an earlier run.")] = False,
) -> None:
    """Train a forecast of one column of a CSV file, and score it on a held-out tail against naive forecasts.

    Writes model.safetensors, metrics.json and forecast.png. Ctrl-C ends training early and keeps the best model so far.
    """
    given = dict(locals())
    console = Console(highlight=False)
    from ..file import make_folder
    from ..plots import write
    from .data import read_csv
    from .figure import forecast_figure
    from .forecast import ForecastConfig, fit, plan

    config = ForecastConfig(**{field.name: given[field.name] for field in dataclasses.fields(ForecastConfig)})
    config.spec()
    series = read_csv(file, target, time)
    plan(series, config)
    folder = run or Path("runs") / file.stem
    model_file = folder / "model.safetensors"
    if model_file.exists() and not overwrite:
        raise ValueError(
            f"'{folder}' has the model of an earlier run: choose another folder with -o, or add --overwrite"
        )
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    make_folder(folder)

    def keep(model: Forecaster) -> None:
        for name in ("metrics.json", "forecast.png"):  # of an earlier run: they are not about this model
            (folder / name).unlink(missing_ok=True)
        model.save(model_file)

    try:
        result = fit(series, config, keep=keep, progress=console)
    finally:
        for path in new if not any(folder.iterdir()) else ():
            path.rmdir()
    if result is None:
        console.print("Stopped before the first epoch was over: nothing is written.")
        raise typer.Exit(INTERRUPTED)
    try:
        _write_metrics(folder / "metrics.json", result, config, series)
        write(forecast_figure(result, series), folder / "forecast.png")
    except KeyboardInterrupt:
        console.print(
            f"Stopped: the model is in {model_file}, its metrics and picture are not complete.", soft_wrap=True
        )
        raise
    _report(console, result, folder)
    if result.outcome.stopped == "interrupt":
        raise typer.Exit(INTERRUPTED)


def _write_metrics(path: Path, result: Result, config: Any, series: Series) -> None:
    from ..file import replace

    outcome, parts = result.outcome, result.parts
    metrics = {
        "task": "forecast",
        "file": series.source.strip("'"),
        "rows": {
            "train": parts.train,
            "validation": parts.validation - parts.train,
            "test": parts.rows - parts.validation,
        },
        "test": result.errors,
        "validation": {"rmse, scaled": outcome.best_score},
        "training": {key: value for key, value in dataclasses.asdict(outcome).items() if key != "best_score"},
        "config": dataclasses.asdict(config),
        "model": json.loads(result.model.task.text()) | {"spec": str(result.model.recurrent.spec)},
    }
    replace(path, (json.dumps(_finite(metrics), indent=1, allow_nan=False) + "\n").encode())


def _finite(value: Any) -> Any:
    """The same with None for each number that JSON does not have, such as the loss of a run that went astray."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def error_table(result: Result) -> Table:
    """The errors of the test tail, the model's above the naive ones."""
    task, first = result.model.task, next(iter(result.errors))
    ahead = "one step ahead" if task.horizon == 1 else f"{task.horizon} steps ahead"
    table = Table(
        title=f"{task.target}, last {result.parts.rows - result.parts.validation} rows, {ahead}", title_justify="left"
    )
    table.add_column("forecast")
    for name in ("RMSE", "MAE"):
        table.add_column(name, justify="right")
    table.add_column(f"RMSE of the {first} against it", justify="right")
    for name, errors in result.errors.items():
        own, its = result.errors[first]["rmse"], errors["rmse"]
        if max(own, its) <= 1e-9 * abs(result.truth).max():
            change = "both exact"
        elif own > 10 * its:
            change = "over 10 times"
        else:
            change = f"{own / its - 1:+.0%}".replace("-", "−")
        against = "" if name == first else change
        table.add_row(
            name, f"{errors['rmse']:.4g}", f"{errors['mae']:.4g}", against, style="bold" if name == first else ""
        )
    return table


def _report(console: Console, result: Result, folder: Path) -> None:
    outcome = result.outcome
    how = {
        "patience": f"Stopped after {outcome.epochs} epochs without improvement since epoch {outcome.best_epoch}",
        "epochs": f"Trained {outcome.epochs} epochs, the best was {outcome.best_epoch}",
        "interrupt": f"Stopped by Ctrl-C in epoch {outcome.epochs + 1}, the best was {outcome.best_epoch}",
    }[outcome.stopped]
    console.print(f"{how} ({outcome.seconds:.0f} s, {result.model.recurrent.spec}).", soft_wrap=True)
    console.print(error_table(result))
    console.print(f"Wrote model.safetensors, metrics.json and forecast.png to {folder}/", soft_wrap=True)


def predict(
    model: Annotated[Path, typer.Argument(help="model.safetensors of a training run.", show_default=False)],
    file: Annotated[Path, typer.Argument(help="CSV with the series up to now.", show_default=False)],
    steps: Annotated[int | None, typer.Option(help="Steps ahead.", show_default="the model's horizon")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="CSV to write.", show_default="the screen")] = None,
) -> None:
    """Forecast what follows the last row of a CSV file, with a trained model."""
    from ..file import replace
    from .data import read_csv
    from .forecast import Forecaster

    trained = Forecaster.load(model)
    table = _table(trained, read_csv(file, trained.task.target, trained.task.time), steps)
    if out is None:
        typer.echo(table, nl=False)
    else:
        replace(out, table.encode())


def _table(trained: Forecaster, series: Series, steps: int | None) -> str:
    from .forecast import predict as predict_values

    task = trained.task
    if task.step is not None and not series.goes_by(task.step):
        raise ValueError(
            f"{series.source} has other steps of '{task.time}' than the series that the model was trained on, which "
            f"had one row every {task.step}: give a series with the same steps"
        )
    values = predict_values(trained, series, steps)
    import pandas as pd

    frame = pd.DataFrame({task.time or "row": series.after(len(values), task.step), task.target: values})
    return str(frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
