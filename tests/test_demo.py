"""The data that the repository ships, and the demo's own check."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture
def demo(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("demo", EXAMPLES / "demo.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "PICTURES", tmp_path / "demo")
    return module


def test_the_sunspots_are_those_of_statsmodels(demo):
    from statsmodels.datasets import sunspots

    data, series = sunspots.load_pandas().data, demo.sunspots()
    np.testing.assert_array_equal(series.values, data.SUNACTIVITY)
    np.testing.assert_array_equal(series.times, data.YEAR)


def test_the_demo_fails_where_the_forecast_is_poor(demo, monkeypatch, capsys):
    """After one epoch neither forecast is good enough, and the demo says so and writes its pictures."""
    short = {"epochs": 1, "hidden": 2, "season": 11}
    monkeypatch.setattr(demo, "SUNSPOTS", replace(demo.SUNSPOTS, learning_rate=1e-9, **short))
    monkeypatch.setattr(demo, "SINE", replace(demo.SINE, window=20, batch=1024, **short))
    assert demo.main() == 1
    said = capsys.readouterr()
    assert "Not good enough. Sunspots: RMSE" in said.err and "Not good enough. Sine: RMSE" in said.err
    written = {path.name for path in demo.PICTURES.iterdir()}
    assert {"sunspots.png", "sine.png", "gates.png"} <= written
