"""What is read from a file, and each sentence about a file that cannot be used."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from openlstm.scaling import Scaling
from openlstm.train.scores import errors, find_season, fitted, naive, naive_size, origins, pinball, targets
from openlstm.train.series import Columns, from_frame, read, split, spoken, steadiest, tails

YT = Columns(("y",), "t")


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes s.csv into the folder that the test runs in."""
    monkeypatch.chdir(tmp_path)

    def write(text: str | bytes) -> str:
        (tmp_path / "s.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
        return "s.csv"

    return write


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'s.csv' is empty: expected a CSV file with a line of column names, then one line for each step of time"),
        ("t,y\n", "'s.csv' has column names and no rows: expected one row for each step of time"),
        ("t,z\n1,2\n", "'s.csv' has no column 'y': it has 't', 'z'; choose one of them"),
        ("year,y\n1,2\n", "'s.csv' has no column 't': it has 'year', 'y'; choose one of them"),
        (
            "t,y\n1,2\n2,many\n",
            "Column 'y' of 's.csv' has 'many' in line 3: expected a number; correct it, or choose another column",
        ),
        (
            't,y\n1,2\n2,"3,5"\n',
            "Column 'y' of 's.csv' has '3,5' in line 3: expected a number; write numbers with a decimal point",
        ),
        (
            "t,y\n1,2\n2,\n3,4\n4,NA\n",
            "Column 'y' of 's.csv' has no value in line 3 and in 1 more: expected a number in every row; fill the gap, "
            "or keep only the rows on one side of it",
        ),
        (
            "t,y\n1,2\n\n3,4\n",
            "Column 'y' of 's.csv' has no value in line 3: expected a number in every row; fill the gap, or keep only "
            "the rows on one side of it",
        ),
        (
            "t,y\n1,2\n2,inf\n",
            "Column 'y' of 's.csv' has 'inf' in line 3: expected a number; correct it, or choose another column",
        ),
        (
            "t,y\n1,2\n2,1e101\n",
            "Column 'y' of 's.csv' has '1e101' in line 3: expected numbers of at most 1e+100; use a larger unit",
        ),
        (
            "t,y,y\n1,2,3\n",
            "'s.csv' has more than one column 'y': expected each name once; rename the others",
        ),
        (
            "t,y\n1,2\n1,3\n2,3\n",
            "Time column 't' of 's.csv' has '1' twice, in line 2 and line 3: expected each time once; remove one, or "
            "name the column that tells the series apart",
        ),
        (
            "t,y\n1,2\n3,3\n2,3\n",
            "Time column 't' of 's.csv' goes back from '3' to '2' in line 4: expected rows in order of time; sort the "
            "file by it",
        ),
        (
            "t,y\n1,2\n2,3\n3,3\n5,3\n",
            "Time column 't' of 's.csv' goes from '3' to '5' in line 5, more than one step: expected equal steps; add "
            "the missing rows, or leave the time column out to take all rows as equally spaced",
        ),
        (
            "t,y\n2024-01-01,2\n2024-01-02,3\n2024-01-03,3\n2024-01-06,3\n",
            "Time column 't' of 's.csv' goes from '2024-01-03' to '2024-01-06' in line 5, more than one step: expected "
            "equal steps; add the missing rows, or leave the time column out to take all rows as equally spaced",
        ),
        (
            "t,y\n1,2\nsoon,3\n",
            "Time column 't' of 's.csv' has 'soon' in line 3: expected a number, or a date such as 2024-01-31; correct "
            "it, or leave the time column out",
        ),
        (
            "t,y\n2024-01-01T00:00Z,2\n2024-01-01T01:00,3\n",
            "Time column 't' of 's.csv' has '2024-01-01T01:00' in line 3 without an offset from UTC, which others "
            "have: write it for all of them or for none",
        ),
        (b"t,y\n1,\xff\xfe\n", "'s.csv' is not text in UTF-8: expected a CSV file, save it as one"),
        (
            "t,y\n1,2\n2,3,4,5\n",
            "'s.csv' is not a CSV file that can be read (Expected 2 fields in line 3, saw 4): give every line the same "
            "columns",
        ),
    ],
)
def test_a_bad_file_gets_one_sentence(write, text, message):
    with pytest.raises(ValueError) as error:
        read([write(text)], YT)
    assert str(error.value) == message


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        read([tmp_path / "none.csv"], YT)
    assert str(error.value) == f"There is no file '{tmp_path / 'none.csv'}': give the path of a CSV or Parquet file"


@pytest.mark.parametrize("text", ["t,y\n1,2\n2,3.5\n", "\ufefft;y\r\n1;2\r\n2;3.5\r\n\r\n\r\n", "t\ty \n1\t 2\n2\t3.5"])
def test_a_good_file(write, text):
    [series] = read([write(text)], YT)
    assert series.values.tolist() == [2, 3.5]
    assert series.times is not None and series.times.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("times", "after"),
    [
        ([1700, 1701, 1702], [1703, 1704]),
        ([0.1, 0.2, 0.3], [0.4, 0.5]),
        (["2024-01-31", "2024-02-29", "2024-03-31"], ["2024-04-30", "2024-05-31"]),
        (["2024-01-04", "2024-01-05", "2024-01-08", "2024-01-09", "2024-01-10"], ["2024-01-11", "2024-01-12"]),
        (["2023-12-15", "2024-01-15", "2024-02-15", "2024-03-15"], ["2024-04-15", "2024-05-15"]),
        (["2023-11-30", "2023-12-30", "2024-01-30", "2024-02-29"], ["2024-03-30", "2024-04-30"]),
        (["2023-06-15", "2023-12-15", "2024-06-15"], ["2024-12-15", "2025-06-15"]),
        (["20240227", "20240228", "20240229"], ["2024-03-01", "2024-03-02"]),
        (
            ["2024-10-27T01:00+02:00", "2024-10-27T02:00+02:00", "2024-10-27T02:00+01:00"],
            ["2024-10-27T02:00+00:00", "2024-10-27T03:00+00:00"],
        ),
        (
            ["2024-01-01T00:00:00", "2024-01-01T00:00:00.50", "2024-01-01T00:00:00.99", "2024-01-01T00:00:01.49"],
            ["2024-01-01T00:00:01.99", "2024-01-01T00:00:02.49"],
        ),
        (["2024-01-01T00:00", "2024-01-01T00:15", "2024-01-01T00:30"], ["2024-01-01T00:45", "2024-01-01T01:00"]),
    ],
)
def test_times_go_on(times, after):
    [series] = from_frame(pd.DataFrame({"t": times, "y": 1.0}), YT)
    found = series.after(2)
    if isinstance(after[0], str):
        assert list(found) == [pd.Timestamp(time) for time in after]
    else:
        assert list(found) == pytest.approx(after)


@pytest.mark.parametrize(
    ("times", "step", "fits"),
    [
        (["2024-01-01", "2024-01-02", "2024-01-03", "2024-01-04", "2024-01-05"], "B", True),  # it looks like "D"
        (["2024-01-05", "2024-01-06", "2024-01-07"], "B", False),
        (["2024-01-15", "2024-02-15", "2024-03-15"], "1 months", True),
        (["2024-01-15", "2024-02-15"], "1 months", True),
        (["2024-01-15", "2024-03-15"], "1 months", False),
        (["2024-01-01", "2024-02-01", "2024-03-01"], "1 months", True),
        (["2024-01-01", "2024-01-02", "2024-01-03"], "h", False),
        (["2024-01-01T00:00:00", "2024-01-01T00:01:01", "2024-01-01T00:01:59"], "60.0s", True),
        ([1, 2, 3], "1", True),
        ([1, 3, 5], "1", False),
        ([1, 2, 3], "D", False),
        ([7], "2", True),
    ],
)
def test_a_short_series_is_held_against_the_step_of_a_long_one(times, step, fits):
    assert from_frame(pd.DataFrame({"t": times, "y": 1.0}), YT)[0].goes_by(step) is fits


def test_a_short_series_goes_on_by_the_step_of_a_long_one():
    [series] = from_frame(pd.DataFrame({"t": ["2024-01-04", "2024-01-05"], "y": 1.0}), YT)
    assert list(series.after(2, "B")) == [pd.Timestamp("2024-01-08"), pd.Timestamp("2024-01-09")]


def test_steps_of_a_month_are_said_as_such():
    [series] = from_frame(pd.DataFrame({"t": ["2024-01-15", "2024-02-15", "2024-03-15"], "y": 1.0}), YT)
    assert spoken(series.step) == "month" and spoken("11 months") == "11 months"


def test_a_table_names_its_rows():
    with pytest.raises(ValueError, match=r"^Column 'y' of the table has no value in row 1: "):
        from_frame(pd.DataFrame({"y": [1.0, np.nan]}), Columns(("y",)))


def test_split_by_time():
    assert vars(split(309, 60, 0.2, 1, 22, "it")) == {"train": 199, "validation": 249, "rows": 309}
    assert vars(split(100, 0.1, 0.1, 20, 5, "it")) == {"train": 60, "validation": 80, "rows": 100}  # room for a horizon


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (30, 6, 0.2, 1, 22),
            "it has 30 rows, which leaves 19 to train on after 5 for validation and 6 for the test: expected at least "
            "23, a window of 22 and 1 ahead; give a longer series, or make window, horizon or test smaller",
        ),
        ((100, 5, 0.2, 10, 5), "test is 5 rows: expected at least the horizon, 10, so that one forecast fits"),
        ((100, 2.5, 0.2, 1, 5), "test is 2.5: expected a share such as 0.2, or a number of rows such as 60"),
        ((100, 20, -1, 1, 5), "validation is -1: expected a share such as 0.2, or a number of rows such as 60"),
    ],
)
def test_a_split_without_room(arguments, message):
    with pytest.raises(ValueError) as error:
        split(*arguments, "it")
    assert str(error.value) == message


def test_scaling_is_undone():
    y = np.random.default_rng(0).gamma(2, 30, 200)
    for transform in ("none", "sqrt", "log"):
        scaling = Scaling.fit(y, transform)
        z = scaling.apply(y)
        assert abs(z.mean()) < 1e-12 and abs(z.std() - 1) < 1e-12
        np.testing.assert_allclose(scaling.undo(z), y)
    assert Scaling.fit(np.ones(50)).apply(np.ones(3)).tolist() == [0, 0, 0]


def test_the_transform_follows_the_data():
    steps = np.random.default_rng(0).normal(size=1000)
    assert steadiest([np.exp(steps.cumsum() / 10)]) == "log"
    assert steadiest([steps + 10]) == "none"
    assert steadiest([np.exp(steps.cumsum() / 10) - 10]) == "none"  # none other takes values below 0
    assert steadiest([np.exp(steps.cumsum() / 10), -np.ones(30)]) == "none"  # one of many that others do not take
    with pytest.raises(ValueError, match=r"^there is a value of -1, but the log transform takes none of 0 or below$"):
        Scaling.fit(np.array([1.0, -1]), "log")


def test_what_rounding_leaves_is_not_scaled_up():
    for value in (0.1, 5.0, -1e12, 0.0):
        assert Scaling.fit(np.full(180, value)).std == 1
    assert Scaling.fit(np.array([1e6, 1e6 + 1])).std == 0.5


def test_naive_forecasts_know_only_what_is_before_them():
    values = np.arange(20.0)
    starts = origins(10, 20, 5)
    assert starts.tolist() == [10, 11, 12, 13, 14, 15]
    assert origins(10, 20, 5, most=2).tolist() == [10, 15]
    assert targets(values, starts, 5)[0].tolist() == [10, 11, 12, 13, 14]
    found = naive(values, starts, 5, season=3)
    assert found["last value"][0].tolist() == [9] * 5
    assert found["last season"][0].tolist() == [7, 8, 9, 7, 8]
    assert list(naive(values, starts, 5, season=0)) == ["last value"]
    assert errors(np.array([1.0, 3]), np.array([2.0, 6]), 4) == {"rmse": pytest.approx(5**0.5), "mae": 2, "mase": 0.5}


def test_a_season_is_found_where_there_is_one():
    random = np.random.default_rng(0)
    wave = np.sin(2 * np.pi * np.arange(240) / 12)
    assert find_season(wave + 0.05 * np.arange(240) + 0.5 * random.normal(size=240)) == 12
    for _ in range(5):
        assert find_season(random.normal(size=300)) == 0
    assert find_season(np.ones(100)) == 0


PANEL = "shop,t,y,open,rain\na,1,2,1,0.1\na,2,3,0,0.2\nb,1,5,1,0.3\nb,2,6,1,0.4\nb,3,7,0,0.5\na,3,,1,\n"


def test_many_series_in_one_file(write):
    columns = Columns(("y",), "t", "shop", ("open",), ("rain",))
    a, b = read([write(PANEL)], columns, ahead=True)
    assert (a.name, b.name) == ("a", "b")
    assert a.values.tolist() == [2, 3] and b.values.tolist() == [5, 6, 7]
    assert a.known.tolist() == [[1], [0], [1]] and a.observed.tolist() == [[0.1], [0.2]]
    assert a.times.tolist() == [1, 2, 3] and a.after(2).tolist() == [3, 4]  # the row that is known ahead is the next
    with pytest.raises(ValueError, match=r"^Column 'y' of 's.csv' has no value in line 7: "):
        read(["s.csv"], columns)


def test_many_columns_are_many_series(write):
    first, second = read([write("t,y,z\n1,2,3\n2,4,5\n")], Columns(("y", "z"), "t"))
    assert (first.name, second.name) == ("y", "z")
    assert first.values.tolist() == [2, 4] and second.values.tolist() == [3, 5]


def test_many_files_are_many_series(write, tmp_path):
    write("t,y\n1,2\n2,4\n")
    (tmp_path / "r.csv").write_text("t,y\n5,6\n6,7\n")
    assert [series.name for series in read(["s.csv", "r.csv"], YT)] == ["s", "r"]
    with pytest.raises(ValueError, match=r"^'s.csv' is given twice: give each file once$"):
        read(["s.csv", "s.csv"], YT)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (Columns(()), "No target is given: 's.csv' has 'shop', 't', 'y', 'open', 'rain'; choose what to forecast"),
        (Columns(("y",), known=("y",)), "The column 'y' is named twice: give each column one part"),
        (Columns(("open",), "t", "y"), "Column 'y' of 's.csv' has no value in line 7: name the series in every row"),
        (
            Columns(("open",), "t"),
            "Time column 't' of 's.csv' has '1' twice, in line 2 and line 4: expected each time once; remove one, or "
            "name the column that tells the series apart",
        ),
        (
            Columns(("open",), "open", "shop"),
            "The column 'open' is named twice: give each column one part",
        ),
    ],
)
def test_columns_that_do_not_fit_get_one_sentence(write, columns, message):
    with pytest.raises(ValueError) as error:
        read([write(PANEL)], columns)
    assert str(error.value) == message


def test_parquet(write, tmp_path):
    """The same series as from text, with dates and numbers of their own types."""
    rows = "".join(f"2024-01-{day:02},{day / 7}\n" for day in range(1, 20))
    [text] = read([write("t,y\n" + rows)], YT)
    frame = pd.read_csv("s.csv", parse_dates=["t"])
    frame.to_parquet("s.parquet", row_group_size=5)
    [series] = read(["s.parquet"], YT)
    np.testing.assert_array_equal(series.values, text.values)
    assert list(series.times) == list(text.times)
    frame.loc[3, "y"] = np.nan
    frame.to_parquet("s.parquet")
    with pytest.raises(ValueError, match=r"^Column 'y' of 's.parquet' has no value in row 3: "):
        read(["s.parquet"], YT)
    frame.iloc[:0].to_parquet("s.parquet")
    with pytest.raises(ValueError, match=r"^'s.parquet' has column names and no rows: "):
        read(["s.parquet"], YT)
    (tmp_path / "s.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match=r"^'s.parquet' is not a Parquet file that can be read"):
        read(["s.parquet"], YT)


@pytest.mark.parametrize("piece", [1, 2, 3, 100])
def test_ends_are_the_same_however_a_file_is_cut(write, piece):
    """Only the last rows are kept, in whichever pieces the file is read."""
    random = np.random.default_rng(0)
    names = random.choice(["a", "b", "c"], 60)
    rows = [f"{name},{(names[:k] == name).sum()},{k},{k % 3}" for k, name in enumerate(names)]
    rows += [f"{name},{(names == name).sum()},,1" for name in "abc"]
    columns = Columns(("y",), "t", "shop", ("open",))
    write("shop,t,y,open\n" + "\n".join(rows) + "\n\n")
    whole = {series.name: series.end(5) for series in read(["s.csv"], columns, ahead=True)}
    for series in tails("s.csv", columns, 5, piece):
        expected = whole[series.name]
        np.testing.assert_array_equal(series.values, expected.values)
        np.testing.assert_array_equal(series.known, expected.known)
        assert series.times.tolist() == expected.times.tolist() and len(series.known) == 6


def test_pinball_is_least_at_the_quantile():
    values = np.random.default_rng(0).exponential(size=4001)
    levels = np.array([0.1, 0.5, 0.9])
    best = np.quantile(values, levels)

    def loss(said):
        return pinball(np.broadcast_to(said, (4001, 3)), values, levels).mean(0)

    assert (loss(best) < loss(best + 0.05)).all() and (loss(best) < loss(best - 0.05)).all()
    assert pinball(np.array([[1.0]]), np.array([3.0]), np.array([0.9])).item() == pytest.approx(1.8)


def test_the_size_of_a_naive_error():
    assert naive_size(np.array([1.0, 2, 4, 7]), 0) == 2
    assert naive_size(np.array([1.0, 2, 4, 7]), 2) == 4
    assert naive_size(np.sin(2 * np.pi * np.arange(70) / 7), 7) == 0  # what rounding leaves


def test_statistical_models_roll_over_the_origins():
    """statsmodels' own forecast at each origin, with the parameters of the first; what comes later changes nothing."""
    from statsmodels.tsa.arima.model import ARIMA

    random = np.random.default_rng(0)
    values = 5 + np.convolve(random.normal(size=90), [1, 0.6, 0.3])[:80]
    starts = origins(70, 80, 3)
    found = fitted(values, starts, 3, 0, True, (1, 0, 0))
    assert list(found) == ["ETS", "ARIMA(1,0,0)"] and found["ETS"].shape == (8, 3)
    model = ARIMA(values[:70], order=(1, 0, 0)).fit()
    for k in (0, 4):
        expected = model.apply(values[: starts[k]]).forecast(3)
        np.testing.assert_allclose(found["ARIMA(1,0,0)"][k], expected, rtol=1e-6)
    later = values.copy()
    later[75:] += 100
    again = fitted(later, starts, 3, 0, True, (1, 0, 0))
    for name in found:
        np.testing.assert_array_equal(found[name][:6], again[name][:6])
    with pytest.raises(ValueError, match=r"^ARIMA\(9,0,0\) cannot be fitted to 20 rows: expected at least 22; leave"):
        fitted(values[:30], origins(20, 30, 1), 1, 0, False, (9, 0, 0))
