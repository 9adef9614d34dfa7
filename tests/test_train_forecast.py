"""The forecast: what it may know, what its options mean, many series, columns beside the target, quantiles."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from openlstm.train import load, runs
from openlstm.train.config import ForecastConfig
from openlstm.train.forecast import Forecaster, ForecastJob, plan, read_files
from openlstm.train.forecast_plots import forecast_figure
from openlstm.train.series import Series
from openlstm.train.task import Share

SMALL = ForecastConfig(target=("y",), hidden=4, epochs=3, window=8, batch=64)


def wave(count: int = 120, **more: object) -> Series:
    noise = np.random.default_rng(0).normal(size=count)
    return Series("it", "y", 10 + 3 * np.sin(2 * np.pi * np.arange(count) / 12) + 0.3 * noise, **more)  # type: ignore


def fit(series: Series | list[Series], **options: object) -> runs.Run:
    found = runs.fit(replace(SMALL, **options), series if isinstance(series, list) else [series])  # type: ignore
    assert found is not None
    return found


def ahead(model: Forecaster, series: Series, steps: int | None = None) -> np.ndarray:
    return model.forecast(series, steps)["y"].to_numpy()


def weights(model: Forecaster) -> list[np.ndarray]:
    return [tensor.numpy() for tensor in model.state_dict().values()]


def panel() -> list[Series]:
    """Series of other sizes and levels, whose names stay."""
    random = np.random.default_rng(1)
    scale = [(0.01, 5), (100, -3), (1, 0)]
    return [
        replace(wave(90 + 10 * k), name="abc"[k], values=size * (wave(90 + 10 * k).values + level + random.normal()))
        for k, (size, level) in enumerate(scale)
    ]


def test_nothing_of_the_test_part_is_known():
    """A tail of other size, level and season changes neither the plan nor a single weight."""
    plain, other = wave(), wave()
    other.values[-24:] = 1e4 * np.arange(24) ** 2
    found = [fit(series, test=24, window=None) for series in (plain, other)]
    assert found[0].model.about == found[1].model.about
    assert found[0].outcome.curve == found[1].outcome.curve
    for a, b in zip(*map(weights, (found[0].model, found[1].model)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_scaling_is_of_the_training_part_only():
    rain = np.linspace(0, 1, 120)[:, None]
    series = wave(observed=rain)
    config = replace(SMALL, test=24, transform="none", output="level", observed=("rain",))
    [parts], about = plan([series], config)
    known = series.values[: parts.train]
    assert about.scaling[""] == (known.mean(), known.std())
    assert about.exogenous == ((rain[: parts.train].mean(), rain[: parts.train].std()),)
    series.values[parts.train :] += 1000
    rain[parts.train :] += 1000
    assert plan([series], config)[1] == about


def test_nothing_is_fitted_to_the_validation_part():
    """It changes the scores, so it may change when training stops, and nothing of the training before that."""
    plain, other = wave(), wave()
    other.values[77:] += 5
    curves = [pd.DataFrame(fit(s, test=24, transform="none").outcome.curve) for s in (plain, other)]
    assert curves[0]["training loss"].tolist() == curves[1]["training loss"].tolist()
    assert curves[0]["squared error"].tolist() != curves[1]["squared error"].tolist()


@pytest.mark.parametrize("options", [{}, {"output": "change", "horizon": 2}, {"cell": "gru", "layers": 2}])
def test_a_forecast_reads_nothing_after_its_start(options):
    series, start = wave(observed=wave(130).values[10:, None]), np.array([100])
    model = fit(series, observed=("rain",), **options).model
    before = model.at(series, start)
    series.values[100:] = 0
    series.observed[100:] = 0
    np.testing.assert_array_equal(model.at(series, start), before)
    series.observed[99] += 1
    assert (model.at(series, start) != before).all()


@pytest.mark.parametrize(
    "options",
    [
        {"horizon": 3},
        {"horizon": 3, "recursive": True},
        {"cell": "gru", "output": "change", "transform": "log"},
        {"cell": "rnn", "layers": 2, "quantile": (0.1, 0.8)},
        {"recurrent": {"peephole": "diagonal", "zoneout_h": 0.1}, "layers": 2, "season": 12},
    ],
)
def test_file_round_trip(tmp_path, options):
    model = fit(wave(), **options).model
    model.save(tmp_path / "m.safetensors")
    again = load(tmp_path / "m.safetensors")
    assert again.about == model.about and again.spec == model.spec
    expected = model.forecast(wave(), 7)
    assert len(expected) == 7
    pd.testing.assert_frame_equal(again.forecast(wave(), 7), expected)


def test_training_begins_at_a_naive_forecast():
    """Before training a change is none, so the forecast is the last value; a level is the mean."""
    values = wave().values
    for output, expected in (("change", values[-1]), ("level", values[:77].mean())):
        model = ForecastJob([wave()], replace(SMALL, output=output, transform="none")).model.eval()
        np.testing.assert_allclose(ahead(model, wave(), 3), expected, rtol=1e-6)


def test_recursive_is_one_step_repeated():
    """Feeding the forecast back by hand gives the same as asking for more steps, but for the older context."""
    model, values = fit(wave(), output="level").model, list(wave().values)
    several, one = ahead(model, wave(), 2), ahead(model, wave(), 1)
    assert several[0] == one[0]
    longer = replace(wave(), values=np.array([*values, one[0]]))
    wider = replace(model.about, window=9)
    model.about = wider
    np.testing.assert_allclose(ahead(model, longer, 1), several[1], rtol=1e-5)


def test_a_forecast_of_changes_does_not_know_the_level():
    """Trained on changes, a series that goes on much higher is forecast as well as where it was seen."""
    model = fit(wave(), output="change", horizon=2).model
    low, high = wave(), wave()
    high.values[:] += 64
    np.testing.assert_allclose(ahead(model, high, 6), ahead(model, low, 6) + 64, rtol=1e-5)


def test_a_level_or_a_change_is_chosen_by_the_training_part():
    """The naive forecast that is nearer says which: the last value, or the mean."""
    noise = Series("it", "y", np.random.default_rng(0).normal(size=120))
    assert plan([Series("it", "y", np.arange(120.0))], SMALL)[1].output == "change"
    assert plan([noise], SMALL)[1].output == "level"
    assert plan([replace(noise, values=noise.values.cumsum())], SMALL)[1].output == "change"


def test_values_that_a_transform_does_not_take():
    low = Series("'low.csv'", "y", wave().values - 10)
    with pytest.raises(
        ValueError,
        match=r"^In 'low.csv' there is a value of -\d.*, but the log transform takes none of 0 or "
        "below: use the transform none$",
    ):
        plan([low], replace(SMALL, transform="log"))
    model = fit(wave(), transform="log").model
    for use in (lambda: ahead(model, low), lambda: model.evaluate([low])):
        with pytest.raises(
            ValueError, match=r"^In 'low.csv' .* 0 or below, with which this model was trained: give such"
        ):
            use()


def test_each_series_of_a_panel_has_its_scale():
    """A series that is made larger by a factor is forecast larger by it, and nothing else changes."""
    plain, larger = panel(), panel()
    larger[1] = replace(larger[1], values=larger[1].values * 1024)
    models = [fit(data, transform="none", horizon=2).model for data in (plain, larger)]
    np.testing.assert_allclose(ahead(models[1], larger[1]), 1024 * ahead(models[0], plain[1]), rtol=1e-6)
    np.testing.assert_allclose(ahead(models[1], larger[0]), ahead(models[0], plain[0]), rtol=1e-6)
    new = replace(plain[0], name="new")  # it was not trained on: its scale is taken from what is given
    assert np.isfinite(ahead(models[0], new)).all()


def test_series_of_several_files_are_known_again_in_each(tmp_path):
    """Alone, a file's series has the scale that it had among those of all files."""
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for k, file in enumerate(files):
        pd.DataFrame({"y": 100**k * wave(90).values}).to_csv(file, index=False)
    data = read_files(files, SMALL)
    model = fit(data).model
    assert [series.name for series in data] == ["a", "b"] == list(model.about.scaling)
    for series, file in zip(data, files, strict=True):
        [said] = model.predict([file])
        assert said.columns.tolist() == ["row", "y"] and said["y"].tolist() == ahead(model, series).tolist()
        assert model.about.scale(model.read([file])[0]) == model.about.scale(series)
    both = pd.concat(model.predict(files))
    assert both.columns.tolist() == ["file", "row", "y"] and both["file"].tolist() == list(map(str, files))


def test_a_panel_is_scored_by_series():
    found = fit(panel(), test=24)
    assert set(found.results.metrics["series"]) == {"a", "b", "c"}
    size = [one["rmse"] for one in found.results.metrics["series"].values()]
    assert size[1] > 50 * size[2] > 50 * size[0]
    titles = [part.title for part in found.results.parts]
    assert sum("the worst" in t or "the best" in t or "the middle" in t for t in titles) == 3
    assert found.results.parts[0].title.startswith("3 series, last 24 rows")


def test_what_is_known_ahead_is_used():
    """A series that is its known column of the same day: with the column ahead it is forecast, without it is not."""
    random = np.random.default_rng(0)
    switch = random.integers(0, 2, 400).astype(float)
    series = Series("it", "y", 5 + 2 * switch + 0.01 * random.normal(size=400), known=switch[:, None])
    options = {"epochs": 15, "dropout": 0.0, "transform": "none", "window": 4, "hidden": 8}
    for more in ({}, {"horizon": 3}, {"horizon": 3, "recursive": True}):
        with_it = fit(series, known=("open",), **options, **more).results.metrics["test"]["LSTM"]["rmse"]
        without = fit(replace(series, known=None), **options, **more).results.metrics["test"]["LSTM"]["rmse"]
        assert with_it < 0.5 < 0.8 < without
    model = fit(replace(series, known=series.known), known=("open",), **options, horizon=2).model
    with pytest.raises(
        ValueError, match=r"^it has 0 rows after its last 'y', but the model needs 'open' of the next 2"
    ):
        model.forecast(series)
    days = np.array([[1.0], [0.0]])
    said = ahead(model, replace(series, known=np.concatenate([switch[:, None], days])))
    assert said[0] - said[1] > 1.5


def test_what_is_observed_is_used():
    """A series that is yesterday's observed column."""
    random = np.random.default_rng(0)
    rain = random.normal(size=401)
    series = Series("it", "y", 3 * rain[:-1], observed=rain[1:, None])
    options = {"epochs": 40, "dropout": 0.0, "window": 4, "hidden": 16, "output": "level"}
    found = fit(series, observed=("rain",), **options)
    assert found.results.metrics["test"]["LSTM"]["rmse"] < 0.5
    with pytest.raises(ValueError, match=r"^steps is 2: beyond 1 the model would need 'rain' ahead; ask for fewer$"):
        found.model.forecast(series, 2)


def test_quantiles_are_learned():
    """Of noise they are those of its distribution; the median is the forecast; they stand in order."""
    noise = np.random.default_rng(0).exponential(size=1500)
    series = Series("it", "y", noise)
    found = fit(series, quantile=(0.1, 0.9), epochs=12, dropout=0.0, output="level", transform="none")
    coverage = found.results.metrics["test"]["LSTM"]["coverage"]
    assert list(coverage) == ["0.1", "0.5", "0.9"]
    assert all(abs(share - float(q)) < 0.07 for q, share in coverage.items())
    said = found.model.forecast(series)
    assert list(said) == ["row", "y", "quantile 0.1", "quantile 0.5", "quantile 0.9"]
    assert said["quantile 0.1"][0] < said["y"][0] == said["quantile 0.5"][0] < said["quantile 0.9"][0]
    errors = found.results.metrics["test"]
    assert errors["LSTM"]["pinball"] < errors["last value"]["pinball"]


@pytest.mark.parametrize("options", [{}, {"quantile": (0.2,), "horizon": 2}])
def test_two_shares_make_the_gradient_of_one(options):
    """The sums of both shares' losses, divided by both counts, have the gradient of one process's."""
    config = replace(SMALL, batch=8, dropout=0.0, **options)

    def gradients(share: Share, batch: int) -> tuple[list[torch.Tensor], float, float]:
        job = ForecastJob(panel(), replace(config, batch=batch), share)
        total, count = job.loss(next(job.batches.walk(0))[0])
        total.backward()
        with torch.no_grad():
            [(_, scored)] = job.score().values()
        return [p.grad for p in job.model.parameters()], count, scored  # type: ignore[misc]

    (one, count, scored), *two = gradients(Share(), 16), gradients(Share(0, 2), 8), gradients(Share(1, 2), 8)
    assert count == sum(each[1] for each in two) and scored == sum(each[2] for each in two)
    for whole, *parts in zip(one, *(each[0] for each in two), strict=True):
        torch.testing.assert_close(sum(parts), whole, rtol=1e-4, atol=1e-4)


def test_pandas_in_and_out():
    frame = pd.DataFrame(
        {"shop": np.repeat(["a", "b"], 60), "day": list(range(60)) * 2, "y": np.tile(wave(60).values, 2) + 1}
    )
    from openlstm.train.series import Columns, from_frame

    data = from_frame(frame, Columns(("y",), "day", "shop"))
    model = fit(data, time="day", id="shop", horizon=2).model
    said = model.forecast(data[1])
    assert said.columns.tolist() == ["shop", "day", "y"] and said["shop"].tolist() == ["b", "b"]
    assert said["day"].tolist() == [60, 61]
    table = model.backtest(data[0], 50).frame()
    assert list(table) == ["series", "start", "step", "time", "truth", "LSTM", "last value"]
    np.testing.assert_array_equal(table["truth"], data[0].values[table["time"]])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "No target is given: 'w.csv' has 'y'; choose what to forecast"),
        ({"target": ("y",), "known": ("z",)}, "'w.csv' has no column 'z': it has 'y'; choose one of them"),
        ({"target": ("y",), "id": ""}, "'w.csv' has no column '': it has 'y'; choose one of them"),
    ],
)
def test_files_that_do_not_fit_get_one_sentence(tmp_path, monkeypatch, config, message):
    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"y": wave().values}).to_csv("w.csv", index=False)
    with pytest.raises(ValueError) as error:
        read_files(["w.csv"], ForecastConfig(**config))
    assert str(error.value) == message


def test_series_that_do_not_fit_get_one_sentence():
    short = replace(wave(12), name="z")
    with pytest.raises(ValueError, match=r"^it, series 'z', has 12 rows, which leaves 8 to train on"):
        plan([*panel(), short], SMALL)
    days, years = pd.date_range("2024-01-01", periods=120), pd.RangeIndex(1900, 2020)
    with pytest.raises(ValueError, match=r"^it, series 'b', has other steps of 't' than it, series 'a',"):
        plan([wave(times=years, name="a"), wave(times=days, name="b")], replace(SMALL, time="t"))
    model = fit(wave(times=years), time="t").model
    for use in (lambda s: model.evaluate([s]), model.forecast):
        with pytest.raises(
            ValueError, match=r"^it has other steps of 't' than .* which had one row every 1: give a se"
        ):
            use(wave(times=pd.RangeIndex(1900, 2140, 2)))
    with pytest.raises(
        ValueError, match=r"^it has 8 rows: expected at least 9, the 8 that the model reads and 1 ahead$"
    ):
        model.evaluate([wave(8)])


def test_what_cannot_be_compared_with_is_said_before_training(monkeypatch):
    config = replace(SMALL, arima=(9, 0, 0), test=100)
    with pytest.raises(
        ValueError, match=r"^ARIMA\(9,0,0\) cannot be fitted to 20 rows: expected at least 22; leave it"
    ):
        plan([wave()], replace(config, window=2, validation=1))
    for name in [name for name in sys.modules if name.startswith("statsmodels")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "statsmodels", None)
    with pytest.raises(ImportError, match=r"^ets and arima need statsmodels: install it with pip install statsmodels$"):
        plan([wave()], replace(config, test=24))


@pytest.mark.parametrize("horizon", [1, 5])
def test_the_figure_shows_every_forecast(horizon):
    model = fit(wave(), horizon=horizon, season=12).model
    above, below = forecast_figure(model.backtest(wave(), 96), model.about).axes
    labels = [text.get_text() for text in above.get_legend().get_texts()]
    assert [label.split(",")[0] for label in labels] == ["truth", "LSTM", "last value", "last season"]
    truth = wave().values
    seen = above.patches[0].get_extents().transformed(above.transData.inverted())
    assert seen.x1 == pytest.approx(95)  # the last seen
    for line in below.lines[:3]:  # forecast minus truth, each where it belongs
        drawn = np.asarray(line.get_ydata(), float)
        assert np.isfinite(drawn).sum() == 24 // horizon * horizon
    line = next(line for line in above.lines if str(line.get_label()).startswith("last value"))
    x, y = np.asarray(line.get_xdata(), int), np.asarray(line.get_ydata(), float)
    if horizon == 1:
        np.testing.assert_array_equal(y, truth[x - 1])
