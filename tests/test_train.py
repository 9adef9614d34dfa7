"""Training a forecast from a file: what it may know, that it repeats, and what it leaves behind."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from openlstm import file
from openlstm.cells import CELLS
from openlstm.cli import WRONG, app
from openlstm.train import commands, loop
from openlstm.train.data import Series
from openlstm.train.figure import forecast_figure
from openlstm.train.forecast import ForecastConfig, Forecaster, fit, plan, predict

SMALL = ForecastConfig(hidden=4, epochs=3, window=8, batch=64)


def wave(count: int = 120) -> Series:
    noise = np.random.default_rng(0).normal(size=count)
    return Series("it", "y", 10 + 3 * np.sin(2 * np.pi * np.arange(count) / 12) + 0.3 * noise)


@pytest.fixture
def csv(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    lines = [f"{1900 + k},{value:.3f}\n" for k, value in enumerate(wave().values)]
    Path("wave.csv").write_text("year,y\n" + "".join(lines))
    return Path("wave.csv")


@pytest.fixture
def run():
    """Runs a command line; gives its exit code and what it printed."""

    def run(*arguments: object) -> tuple[int, str]:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        return result.exit_code, result.output

    return run


def weights(model: Forecaster) -> list[np.ndarray]:
    return [tensor.numpy() for tensor in model.state_dict().values()]


def train_small(series: Series, **options: object):
    result = fit(series, replace(SMALL, **options))
    assert result is not None
    return result


def test_nothing_of_the_test_tail_is_known():
    """A tail of other size, level and season changes neither the plan nor a single weight."""
    plain, other = wave(), wave()
    other.values[-24:] = 1e4 * np.arange(24) ** 2
    options = {"test": 24, "window": None}
    results = [train_small(series, **options) for series in (plain, other)]
    assert results[0].model.task == results[1].model.task
    assert results[0].outcome.curve == results[1].outcome.curve
    for a, b in zip(*map(weights, (results[0].model, results[1].model)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_scaling_is_of_the_training_part_only():
    series = wave()
    parts, task = plan(series, replace(SMALL, test=24, transform="none"))
    known = series.values[: parts.train]
    assert (task.scaling.mean, task.scaling.std) == (known.mean(), known.std())
    series.values[parts.train :] += 1000
    assert plan(series, replace(SMALL, test=24, transform="none"))[1] == task


def test_nothing_is_fitted_to_the_validation_part():
    """It changes the scores, so it may change when training stops, and nothing of the training before that."""
    plain, other = wave(), wave()
    other.values[77:] += 5
    curves = [train_small(series, test=24, transform="none").outcome.curve for series in (plain, other)]
    losses, scores = zip(*(zip(*curve, strict=True) for curve in curves), strict=True)
    assert losses[0] == losses[1] and scores[0] != scores[1]


def test_a_forecast_reads_nothing_after_its_start():
    result, values = train_small(wave()), wave().values
    start = np.array([100])
    before = result.model.at(values, start)
    values[100:] = 0
    np.testing.assert_array_equal(result.model.at(values, start), before)


def test_one_seed_one_model():
    state = torch.random.get_rng_state()
    first, again, other = (train_small(wave(), seed=seed) for seed in (1, 1, 2))
    assert all((a == b).all() for a, b in zip(weights(first.model), weights(again.model), strict=True))
    assert any((a != b).any() for a, b in zip(weights(first.model), weights(other.model), strict=True))
    assert torch.equal(torch.random.get_rng_state(), state)  # the caller's numbers are not disturbed


def test_the_best_weights_are_kept():
    """After an epoch that makes it worse, the module has the weights of the best one, and so had `keep`."""
    module = torch.nn.Linear(1, 1)
    scores, seen, kept = iter([3.0, 1.0, 2.0, 2.5]), [], []

    def score() -> float:
        seen.append(module.weight.item())
        return next(scores)

    batches = loop.Batches(torch.ones(8, 1), size=4)
    outcome = loop.train(
        module,
        batches,
        lambda x: module(x).sum(),
        score,
        epochs=10,
        patience=2,
        learning_rate=0.1,
        keep=lambda: kept.append(module.weight.item()),
    )
    assert (outcome.stopped, outcome.epochs, outcome.best_epoch, outcome.best_score) == ("patience", 4, 2, 1.0)
    assert len(set(seen)) == 4 and kept == seen[:2] and module.weight.item() == seen[1]
    assert not module.training


def test_a_score_that_is_no_number_is_an_error():
    module = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match=r"^Training gave no finite score in any epoch: "):
        loop.train(
            module,
            loop.Batches(torch.ones(8, 1), size=4),
            lambda x: module(x).sum(),
            lambda: float("nan"),
            epochs=3,
            patience=2,
            learning_rate=0.1,
        )


@pytest.mark.parametrize(
    "options",
    [
        {"horizon": 3},
        {"horizon": 3, "recursive": True},
        {"cell": "gru", "output": "change", "transform": "log"},
        {"cell": "rnn", "layers": 2},
        {"options": "peephole=diagonal, zoneout_h=0.1", "layers": 2, "season": 12},
    ],
)
def test_file_round_trip(tmp_path, options):
    series = wave()
    result = train_small(series, **options)
    result.model.save(tmp_path / "m.safetensors")
    again = Forecaster.load(tmp_path / "m.safetensors")
    assert again.task == result.model.task and again.recurrent.spec == result.model.recurrent.spec
    expected = predict(result.model, series, 7)
    assert expected.shape == (7,)
    np.testing.assert_array_equal(predict(again, series, 7), expected)
    _, metadata = file.read(tmp_path / "m.safetensors")
    assert json.loads(metadata["task"])["kind"] == "forecast"


def test_training_begins_at_a_naive_forecast():
    """Before training a change is none, so the forecast is the last value; a level is the mean."""
    values = wave().values
    for output, expected in (("change", values[-1]), ("level", values[:77].mean())):
        config = replace(SMALL, output=output, transform="none")
        model = Forecaster(config.spec(), plan(wave(), config)[1])
        np.testing.assert_allclose(predict(model, wave(), 3), expected, rtol=1e-6)


def test_recursive_is_one_step_repeated():
    """Feeding the forecast back by hand gives the same as asking for more steps, but for the older context."""
    result, values = train_small(wave(), output="level"), list(wave().values)
    several = predict(result.model, wave(), 2)
    one = predict(result.model, wave(), 1)
    assert several[0] == one[0]
    longer = result.model.forecast(np.array([[*values[-8:], one[0]]]), 1)
    np.testing.assert_allclose(longer[0, 0], several[1], rtol=1e-5)


def test_a_forecast_of_changes_does_not_know_the_level():
    """Trained on changes, a series that goes on much higher is forecast as well as where it was seen."""
    result = train_small(wave(), output="change", horizon=2)
    low, high = wave(), wave()
    high.values[:] += 64
    np.testing.assert_allclose(predict(result.model, high, 6), predict(result.model, low, 6) + 64, rtol=1e-5)


def test_a_level_or_a_change_is_chosen_by_the_training_part():
    rising = Series("it", "y", np.arange(120.0))
    assert plan(rising, SMALL)[1].output == "change"
    assert plan(wave(), SMALL)[1].output == "level"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon": 0}, "horizon is 0: expected at least 1"),
        ({"window": 1}, "window is 1: expected at least 2, or nothing for a choice from the data"),
        ({"dropout": 1.0}, "dropout is 1.0: expected a share of at least 0 and below 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0: expected a number above 0"),
        ({"output": "up"}, "output is 'up': expected level, change or auto"),
        ({"transform": "cube"}, "transform is 'cube': expected one of none, sqrt, log, auto"),
        ({"seed": 2**63}, f"seed is {2**63}: expected a whole number from 0 to 2^63 - 1"),
        ({"options": "bidirectional"}, "bidirectional layers read what is to be forecast: leave that option out"),
        ({"options": "bias=False, bias"}, "The options 'bias=False, bias' have 'bias' twice"),
    ],
)
def test_a_bad_option_gets_one_sentence(options, message):
    with pytest.raises(ValueError) as error:
        replace(SMALL, **options).spec()
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("config", "spec"),
    [
        ({}, "lstm(1, 4; batch_first, forget_bias=1.0)"),
        ({"cell": "gru", "layers": 2}, "gru(1, 4, 4; batch_first, dropout=0.3)"),
        ({"options": "coupled=f=1-i"}, "lstm(1, 4; batch_first, coupled=f=1-i)"),
        ({"options": "coupled=i=1-f, batch_first"}, "lstm(1, 4; batch_first, coupled=i=1-f, forget_bias=1.0)"),
        (
            {"options": "forget_bias=2, dropout=0.1", "layers": 2},
            "lstm(1, 4, 4; batch_first, dropout=0.1, forget_bias=2.0)",
        ),
    ],
)
def test_options_reach_the_layers(config, spec):
    assert str(replace(SMALL, **config).spec()) == spec


def test_the_command_has_the_defaults_of_the_configuration():
    given = inspect.signature(commands.forecast).parameters
    for field in fields(ForecastConfig):
        assert given[field.name].default == field.default, field.name
    assert all(cell in str(given["cell"].annotation) for cell in CELLS)


def test_values_that_a_transform_does_not_take():
    low = Series("'low.csv'", "y", wave().values - 10)
    with pytest.raises(
        ValueError,
        match=r"^In 'low.csv' there is a value of -\d.*, but the log transform takes none of 0 or "
        "below: use the transform none$",
    ):
        plan(low, replace(SMALL, transform="log"))
    model = train_small(wave(), transform="log").model
    with pytest.raises(ValueError, match=r"none of 0 or below, with which this model was trained: give such values$"):
        predict(model, low)


def test_a_file_that_is_no_forecast(tmp_path):
    path = tmp_path / "m.safetensors"
    result = train_small(wave())
    result.model.save(path)
    tensors, metadata = file.read(path)

    def message(tensors: dict, metadata: dict) -> str:
        file.write(path, tensors, metadata)
        with pytest.raises(ValueError) as error:
            Forecaster.load(path)
        return str(error.value).replace(str(path), "m")

    plain = {name: text for name, text in metadata.items() if name != "task"}
    assert message(tensors, plain) == (
        "'m' holds recurrent layers and no task: expected a model that `openlstm train` wrote"
    )
    task = json.loads(metadata["task"])
    for wrong in ("{", "[]", json.dumps(task | {"kind": "text"}), json.dumps(task | {"window": "8"}), "{}"):
        assert message(tensors, metadata | {"task": wrong}).startswith("'m' holds a task that this openlstm cannot use")
    assert message({k: v for k, v in tensors.items() if k != "head.bias"}, metadata) == (
        "'m' does not fit its task: head.bias is missing, expected (1,)"
    )
    assert "weight_hh_l0" in message(tensors | {"recurrent.weight_hh_l0": np.zeros((2, 2))}, metadata)


def test_from_file_to_forecast(csv, run):
    """The two commands, end to end."""
    code, text = run(
        *("train", "forecast", csv, "--target", "y", "--time", "year", "--hidden", 4, "--epochs", 3, "-o", "a/b")
    )
    assert code == 0, text
    assert "last value" in text and "last season" in text and "a/b/" in text
    assert sorted(path.name for path in Path("a/b").iterdir()) == ["forecast.png", "metrics.json", "model.safetensors"]
    assert sorted(path.name for path in Path().iterdir()) == ["a", "wave.csv"]  # no logs, no checkpoints
    metrics = json.loads(Path("a/b/metrics.json").read_text())
    assert metrics["rows"] == {"train": 77, "validation": 19, "test": 24}
    assert set(metrics["test"]) == {"LSTM", "last value", "last season"}
    assert metrics["model"]["season"] == 12 and metrics["config"]["seed"] == 0
    assert Path("a/b/forecast.png").read_bytes().startswith(b"\x89PNG")

    code, text = run("predict", "a/b/model.safetensors", csv, "--steps", 3)
    lines = text.splitlines()
    assert code == 0 and lines[0] == "year,y" and [line.split(",")[0] for line in lines[1:]] == ["2020", "2021", "2022"]
    code, _ = run("predict", "a/b/model.safetensors", csv, "--steps", 3, "-o", "out.csv")
    assert code == 0 and Path("out.csv").read_text() == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--target", "z"), "Error: 'wave.csv' has no column 'z': it has 'year', 'y'; choose one of them.\n"),
        (("--target", "y", "--window", "90"), "Error: 'wave.csv' has 120 rows, which leaves 77 to train on after 19 "),
        (("--target", "y", "--cell", "lstn"), "lstn"),
        (("--target", "y", "--options", "peepholes=diagonal"), "peepholes"),
        (("--target", "y", "--horizon", "0"), "Error: horizon is 0: expected at least 1.\n"),
        (
            ("--target", "y", "-o", "wave.csv/run"),
            "Cannot make the folder 'wave.csv/run' (Not a directory): give another",
        ),
        (("--target", "y", "-o", "wave.csv"), "Cannot make the folder 'wave.csv' (File exists): give another one"),
        (("--target", "y", "--seed", "-1"), "seed is -1: expected a whole number from 0 to 2^63 - 1"),
        (("--target", "y", "--learning-rate", "inf"), "Training gave no finite score in any epoch: expected numbers"),
    ],
)
def test_a_bad_command_gets_one_sentence_and_leaves_nothing(csv, run, arguments, message):
    code, text = run("train", "forecast", csv, *arguments)
    assert code == WRONG and message in text and text.count("\n") == 1 and text.startswith("Error: "), text
    assert [path.name for path in Path().iterdir()] == ["wave.csv"]


def test_an_earlier_model_is_not_lost_by_mistake(csv, run):
    Path("run").mkdir()
    train_small(wave()).model.save("run/model.safetensors")
    before = Path("run/model.safetensors").read_bytes()
    command = ("train", "forecast", csv, "--target", "y", "--epochs", 1, "--hidden", 4, "-o", "run")
    code, text = run(*command)
    assert (code, text) == (
        WRONG,
        "Error: 'run' has the model of an earlier run: choose another folder with -o, or add --overwrite.\n",
    )
    assert Path("run/model.safetensors").read_bytes() == before
    assert run(*command, "--overwrite")[0] == 0
    assert Path("run/model.safetensors").read_bytes() != before


def test_a_disk_that_is_full_leaves_no_half_file(csv, run, monkeypatch):
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    code, text = run("train", "forecast", csv, "--target", "y", "--epochs", 1, "--hidden", 4, "-o", "run")
    assert code == WRONG and "No space left on device" in text and text.count("\n") == 1
    assert not Path("run").exists()


def test_prediction_refuses_what_does_not_fit(csv, run):
    assert run("train", "forecast", csv, "--target", "y", "--time", "year", "--epochs", 1, "-o", "run")[0] == 0
    text = csv.read_text().splitlines(keepends=True)
    Path("short.csv").write_text("".join(text[:6]))
    code, said = run("predict", "run/model.safetensors", "short.csv")
    assert (code, said) == (
        WRONG,
        "Error: 'short.csv' has 5 rows, but the model reads the last 24: give at least as many.\n",
    )
    Path("other.csv").write_text("year,y\n" + "".join(f"{2 * k},1\n" for k in range(40)))
    code, said = run("predict", "run/model.safetensors", "other.csv")
    assert (code, said) == (
        WRONG,
        "Error: 'other.csv' has other steps of 'year' than the series that the model was trained on, which had one row "
        "every 1: give a series with the same steps.\n",
    )
    for steps in (0, 10**9):
        code, said = run("predict", "run/model.safetensors", csv, "--steps", steps)
        assert (code, said) == (WRONG, f"Error: steps is {steps}: expected 1 to 100,000.\n")
    Path("folder").mkdir()
    code, said = run("predict", "run/model.safetensors", csv, "-o", "folder")
    assert (code, said) == (WRONG, "Error: Cannot write 'folder': it is a folder; give the name of a file.\n")
    code, said = run("predict", csv, csv)
    assert code == WRONG and said.startswith("Error: Cannot read 'wave.csv'")


def endless(csv: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error::UserWarning", "-c", "from openlstm.cli import main; main()"]
    command += ["train", "forecast", str(csv), "--target", "y", "--hidden", "4"]
    command += ["--epochs", "100000", "--patience", "100000", "-o", "run"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_ctrl_c_leaves_a_usable_model(csv, run):
    process = endless(csv)
    try:
        deadline = time.monotonic() + 60
        while not Path("run/model.safetensors").exists() and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert "Stopped by Ctrl-C in epoch" in said and "Traceback" not in said and "Lightning" not in said
    assert sorted(path.name for path in Path("run").iterdir()) == ["forecast.png", "metrics.json", "model.safetensors"]
    assert json.loads(Path("run/metrics.json").read_text())["training"]["stopped"] == "interrupt"
    assert run("predict", "run/model.safetensors", csv)[0] == 0


def test_ctrl_c_gives_back_its_handler_and_the_best_weights():
    """The same inside one process: training ends, the handler is as before, and the caller goes on."""
    module, handler = torch.nn.Linear(1, 1), signal.getsignal(signal.SIGINT)
    scores = iter([2.0, 1.0, 3.0])
    seen: list[float] = []

    def loss(x: torch.Tensor) -> torch.Tensor:
        if len(seen) == 3:
            signal.raise_signal(signal.SIGINT)
        return module(x).sum()

    def score() -> float:
        seen.append(module.weight.item())
        return next(scores)

    outcome = loop.train(
        module, loop.Batches(torch.ones(4, 1), size=4), loss, score, epochs=9, patience=9, learning_rate=0.1
    )
    assert (outcome.stopped, outcome.epochs, outcome.best_epoch) == ("interrupt", 3, 2)
    assert module.weight.item() == seen[1]
    assert signal.getsignal(signal.SIGINT) is handler


def test_ctrl_c_before_the_first_epoch_leaves_nothing(csv, run, monkeypatch):
    monkeypatch.setattr(loop.Batches, "__iter__", lambda self: signal.raise_signal(signal.SIGINT))
    code, text = run("train", "forecast", csv, "--target", "y", "-o", "run")
    assert (code, text) == (130, "Stopped before the first epoch was over: nothing is written.\n")
    assert not Path("run").exists()


def test_a_second_ctrl_c_says_what_is_there(csv, run, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("openlstm.train.figure.forecast_figure", interrupted)
    code, text = run("train", "forecast", csv, "--target", "y", "--epochs", 1, "--hidden", 4, "-o", "run")
    assert code == 130
    assert text.endswith("Stopped: the model is in run/model.safetensors, its metrics and picture are not complete.\n")
    assert run("predict", "run/model.safetensors", csv)[0] == 0


def test_metrics_of_a_run_that_went_astray_are_json(csv, run, monkeypatch):
    def astray(*args: object, **options: object):
        result = fit(*args, **options)
        assert result is not None
        result.outcome.curve.append((float("nan"), float("inf")))
        return result

    monkeypatch.setattr("openlstm.train.forecast.fit", astray)
    code, text = run("train", "forecast", csv, "--target", "y", "--epochs", 1, "--hidden", 4, "-o", "run")
    assert code == 0, text
    metrics = json.loads(Path("run/metrics.json").read_text(), parse_constant=pytest.fail)  # NaN, Infinity
    assert metrics["training"]["curve"][1] == [None, None] and None not in metrics["training"]["curve"][0]


def test_a_still_series_is_forecast_without_an_error(csv, run):
    csv.write_text("y\n" + "0.1\n" * 60)
    code, text = run("train", "forecast", csv, "--target", "y", "--epochs", 2, "--hidden", 4, "-o", "run")
    assert code == 0 and text.count("both exact") == 1, text
    code, text = run("predict", "run/model.safetensors", csv)
    assert text == "row,y\n60,0.1\n"


@pytest.mark.parametrize("horizon", [1, 5])
def test_the_figure_shows_every_forecast(horizon):
    result = train_small(wave(), horizon=horizon, season=12)
    above, below = forecast_figure(result, wave()).axes
    labels = [text.get_text() for text in above.get_legend().get_texts()]
    assert [label.split(",")[0] for label in labels] == ["truth", "LSTM", "last value", "last season"]
    truth = wave().values
    assert above.patches[0].get_extents().transformed(above.transData.inverted()).x1 == pytest.approx(
        95
    )  # the last seen
    for line in below.lines[:3]:  # forecast minus truth, each where it belongs
        drawn = np.asarray(line.get_ydata(), float)
        assert np.isfinite(drawn).sum() == 24 // horizon * horizon
    line = next(line for line in above.lines if str(line.get_label()).startswith("last value"))
    x, y = np.asarray(line.get_xdata(), int), np.asarray(line.get_ydata(), float)
    if horizon == 1:
        np.testing.assert_array_equal(y, truth[x - 1])
