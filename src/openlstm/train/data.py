"""A series from a file: read, checked, split by time, scaled, and cut into windows. No torch."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]
LARGEST = 1e100  # beyond it, squares are no numbers
MISSING = {"", "na", "n/a", "nan", "null", "none", "-", "?", "."}  # what stands for "no value" in files, in lower case


@dataclass(frozen=True)
class Series:
    """Equally spaced numbers, with their times where a time column was named."""

    source: str  # for messages
    target: str
    values: Array  # (N,)
    time: str | None = None  # the time column's name
    times: pd.Index | None = None  # numbers or dates

    def __len__(self) -> int:
        return len(self.values)

    @property
    def step(self) -> str | None:
        """The distance of two times: a number, or for dates a pandas frequency or a number of months.

        None without times, or with fewer than three.
        """
        if self.times is None or len(self) < 3:
            return None
        if isinstance(self.times, pd.DatetimeIndex):
            # Months first: two half years may have as many days.
            frequency = _months(self.times) or _frequency(self.times)
            return frequency or f"{np.median(np.diff(clock(self.times))) / np.timedelta64(1, 's')}s"
        return f"{float(np.median(np.diff(clock(self.times)))):g}"

    def goes_by(self, step: str) -> bool:
        """Are the times this step apart? Steps of so many seconds, or without a unit, may be off by less than half."""
        if self.times is None or len(self) < 2 or self.step == step:
            return True
        dates = isinstance(self.times, pd.DatetimeIndex)
        try:
            size: Any = pd.Timedelta(step).to_timedelta64() if dates else float(step)
        except ValueError:  # months, business days and the like: do such times follow the first one
            return dates and self.times[1:].equals(_later(self.times[:1], step, len(self) - 1))
        return bool((np.abs(np.diff(clock(self.times)) - size) < size / 2).all())

    def after(self, steps: int, step: str | None = None) -> pd.Index:
        """The next times, by the step given or its own; without times, the next row numbers."""
        step = step or self.step
        if self.times is None or step is None:
            return pd.RangeIndex(len(self), len(self) + steps)
        return _later(self.times, step, steps)


def clock(times: pd.Index) -> Any:
    """The times as an array, (N,): numbers, or dates in UTC where they know their place in it."""
    utc = isinstance(times, pd.DatetimeIndex) and times.tz is not None
    return (times.tz_convert(None) if utc else times).to_numpy()


def _frequency(times: pd.DatetimeIndex) -> str | None:
    found: str | None = pd.DatetimeIndex(times, freq="infer").freqstr
    return found


def _months(times: pd.DatetimeIndex) -> str | None:
    """A number of months where dates are so far apart: the same day each time, or the last one of a shorter month."""
    distances = set(np.diff(times.year * 12 + times.month))
    days = np.minimum(times.day.max(), times.days_in_month)
    same = bool((times.day == days).all()) and len(set(times - times.normalize())) == 1
    return f"{distances.pop()} months" if len(distances) == 1 and distances != {0} and same else None


def _later(times: pd.Index, step: str, count: int) -> pd.Index:
    """The next times after the last one."""
    if not isinstance(times, pd.DatetimeIndex):
        later = times[-1] + float(step) * np.arange(1, count + 1)
        whole = times.dtype.kind == "i" and float(step).is_integer()
        return pd.Index(np.round(later).astype(np.int64) if whole else later)
    if step.endswith(" months"):
        months, day = int(step.removesuffix(" months")), int(times.day.max())
        return pd.DatetimeIndex([times[-1] + pd.DateOffset(months=months * k, day=day) for k in range(1, count + 1)])
    return pd.date_range(times[-1], periods=count + 1, freq=step)[1:]


def read_csv(path: str | os.PathLike[str], target: str, time: str | None = None) -> Series:
    """One column of a CSV file, which may be separated by comma, semicolon or tab.

    Errors: FileNotFoundError, ValueError, each one sentence that names the line and what it holds.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file '{path}': give the path of a CSV file")
    try:
        with open(path, encoding="utf-8-sig") as file:
            first = file.readline()
        separator = max(",;\t", key=first.count)
        # As text: a number is only taken for one when it is read here, and its line is known.
        frame = pd.read_csv(
            path,
            sep=separator,
            header=None,  # read below: pandas would rename a column that is there twice
            dtype=str,
            keep_default_na=False,
            skip_blank_lines=False,
            encoding="utf-8-sig",
            index_col=False,
            skipinitialspace=True,
        )
    except UnicodeDecodeError:
        raise ValueError(f"'{path}' is not text in UTF-8: expected a CSV file, save it as one") from None
    except pd.errors.EmptyDataError:
        raise ValueError(
            f"'{path}' is empty: expected a CSV file with a line of column names, then one line for each step of time"
        ) from None
    except (pd.errors.ParserError, csv.Error) as error:
        reason = str(error).split("C error:")[-1].strip()
        raise ValueError(
            f"'{path}' is not a CSV file that can be read ({reason}): give every line the same columns"
        ) from None
    frame = frame.iloc[1:].set_axis(frame.iloc[0].str.strip(), axis=1).reset_index(drop=True)
    while len(frame) and (frame.iloc[-1] == "").all():  # empty lines at the end
        frame = frame.iloc[:-1]
    return from_frame(frame, target, time, source=f"'{path}'", place=lambda row: f"line {row + 2}")


def from_frame(
    frame: pd.DataFrame,
    target: str,
    time: str | None = None,
    source: str = "the table",
    place: Callable[[int], str] = lambda row: f"row {row}",
) -> Series:
    """One column of a table. `place` says where its row is found, for messages. Errors: ValueError."""
    for column in (target,) if time is None else (target, time):
        if column not in frame.columns:
            raise ValueError(f"{source} has no column '{column}': it has {_names(frame.columns)}; choose one of them")
        if (frame.columns == column).sum() > 1:
            raise ValueError(
                f"{source} has more than one column '{column}': expected each name once; rename the others"
            )
    if not len(frame):
        raise ValueError(f"{source} has column names and no rows: expected one row for each step of time")
    values = _numbers(frame[target], target, source, place)
    if time is None:
        return Series(source, target, values)
    return Series(source, target, values, time, _times(frame[time], time, source, place))


def _names(columns: Any) -> str:
    shown = [f"'{name}'" for name in columns[:12]]
    return ", ".join(shown) + (f" and {len(columns) - 12} more" if len(columns) > 12 else "")


def _numbers(column: Any, name: Hashable, source: str, place: Callable[[int], str]) -> Array:
    text = column.map(str).str.strip()
    numbers: Array = pd.to_numeric(text, errors="coerce").to_numpy(np.float64)
    where = f"Column '{name}' of {source} has"
    for row in np.flatnonzero(~np.isfinite(numbers))[:1]:
        given = text.iloc[row]
        if given.lower() in MISSING:
            count = int(text.str.lower().isin(MISSING).sum())
            more = f" and in {count - 1} more" if count > 1 else ""
            raise ValueError(
                f"{where} no value in {place(row)}{more}: expected a number in every row; fill the gap, or keep only "
                "the rows on one side of it"
            )
        comma = given.replace(",", "", 1).lstrip("+-").isdigit()
        advice = "write numbers with a decimal point" if comma else "correct it, or choose another column"
        raise ValueError(f"{where} '{given}' in {place(row)}: expected a number; {advice}")
    for row in np.flatnonzero(np.abs(numbers) > LARGEST)[:1]:
        raise ValueError(
            f"{where} '{text.iloc[row]}' in {place(row)}: expected numbers of at most {LARGEST:g}; use a larger unit"
        )
    return numbers


def _times(column: Any, name: Hashable, source: str, place: Callable[[int], str]) -> pd.Index:
    text = column.map(str).str.strip()
    where = f"Time column '{name}' of {source}"
    times = _parsed(text, where, place)
    steps = np.diff(clock(times))
    zero = steps.dtype.type(0)
    if times.has_duplicates:
        second = int(np.flatnonzero(times.duplicated())[0])
        first = int(np.flatnonzero(times == times[second])[0])
        raise ValueError(
            f"{where} has '{text.iloc[second]}' twice, in {place(first)} and {place(second)}: expected each time once; "
            "remove one, or train on one series at a time"
        )
    for row in np.flatnonzero(steps < zero)[:1]:
        raise ValueError(
            f"{where} goes back from '{text.iloc[row]}' to '{text.iloc[row + 1]}' in {place(row + 1)}: expected rows "
            "in order of time; sort the file by it"
        )
    if len(steps) > 1 and not (isinstance(times, pd.DatetimeIndex) and _frequency(times)):
        # Months differ by a tenth; half a step more than usual is a gap.
        for row in np.flatnonzero(steps > 1.5 * np.median(steps))[:1]:
            raise ValueError(
                f"{where} goes from '{text.iloc[row]}' to '{text.iloc[row + 1]}' in {place(row + 1)}, more than one "
                "step: expected equal steps; add the missing rows, or leave the time column out to take all rows as "
                "equally spaced"
            )
    return times


def _parsed(text: Any, where: str, place: Callable[[int], str]) -> pd.Index:
    numbers = pd.to_numeric(text, errors="coerce")
    if text.str.fullmatch(r"\d{8}").all():  # such as 20240131
        compact = pd.to_datetime(text, errors="coerce", format="%Y%m%d")
        if compact.notna().all():
            return pd.DatetimeIndex(compact)
    if np.isfinite(numbers).all():
        times = pd.Index(numbers)
        return times.astype(np.int64) if (times % 1 == 0).all() and abs(times).max() < 2**53 else times
    # Offsets that change, as at the end of summer time, have only UTC in common.
    offsets = text.str.extract(r":[\d:.]*(Z|[+-]\d\d:?\d\d)$")[0]
    dates = pd.to_datetime(text, errors="coerce", format="ISO8601", utc=offsets.nunique(dropna=False) > 1)
    wrong = numbers if np.isfinite(numbers).any() else dates
    for row in np.flatnonzero(wrong.isna() | np.isinf(numbers))[:1]:
        raise ValueError(
            f"{where} has '{text.iloc[row]}' in {place(row)}: expected a number, or a date such as 2024-01-31; correct "
            "it, or leave the time column out"
        )
    for row in np.flatnonzero(offsets.isna())[:1] if offsets.notna().any() else ():
        raise ValueError(
            f"{where} has '{text.iloc[row]}' in {place(row)} without an offset from UTC, which others have: write it "
            "for all of them or for none"
        )
    return pd.DatetimeIndex(dates)


@dataclass(frozen=True)
class Split:
    """Where a series of `rows` is cut by time: training, then validation, then the held-out test tail."""

    train: int  # rows before this one are fitted
    validation: int  # from `train` to here: they choose when to stop
    rows: int  # from `validation` to here: they are only scored


def split(rows: int, test: float, validation: float, horizon: int, window: int, source: str) -> Split:
    """Cuts by time. `test` and `validation`: a share below 1 (of all; of what is before the test) or a number of rows.

    Errors: ValueError where a part has no room for one forecast of `horizon` steps.
    """
    tail = _rows("test", test, rows, horizon)
    middle = _rows("validation", validation, rows - tail, horizon)
    train = rows - tail - middle
    if train < (least := max(window + horizon, 10)):
        raise ValueError(
            f"{source} has {rows} rows, which leaves {max(train, 0)} to train on after {middle} for validation and "
            f"{tail} for the test: expected at least {least}, a window of {window} and {horizon} ahead; give a longer "
            "series, or make window, horizon or test smaller"
        )
    return Split(train, train + middle, rows)


def _rows(name: str, wanted: float, rows: int, horizon: int) -> int:
    if not wanted > 0 or (wanted >= 1 and wanted != int(wanted)):
        raise ValueError(f"{name} is {wanted:g}: expected a share such as 0.2, or a number of rows such as 60")
    count = int(wanted) if wanted >= 1 else max(round(wanted * rows), horizon)
    if count < horizon:
        raise ValueError(f"{name} is {count} rows: expected at least the horizon, {horizon}, so that one forecast fits")
    return count


Transform = Literal["none", "sqrt", "log"]
TRANSFORMS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array], float]] = {
    "none": (lambda y: y, lambda z: z, -np.inf),
    "sqrt": (np.sqrt, lambda z: np.maximum(z, 0) ** 2, 0.0),
    "log": (np.log, np.exp, np.nextafter(0, 1)),
}  # there, back, the least value that it takes


@dataclass(frozen=True)
class Scaling:
    """To numbers around 0 of size 1 and back: (transform(y) - mean) / std."""

    transform: str = "none"
    mean: float = 0.0
    std: float = 1.0

    @classmethod
    def fit(cls, train: Array, transform: str = "auto", changes: bool = False) -> Scaling:
        """From the training part, which must be all that is given here. "auto" chooses the transform by it too.

        changes: it is the steps from one value to the next that get size 1.
        """
        chosen = _steadiest(train) if transform == "auto" else transform
        z = cls(chosen).apply(train)
        std = float((np.diff(z) if changes else z).std())
        still = std <= 1e-9 * np.abs(z).max()  # what is left by rounding, or 0
        return cls(chosen, float(z.mean()), 1.0 if still else std)

    def apply(self, y: Array) -> Array:
        """Scaled values. Errors: ValueError for one that the transform does not take."""
        there, _, least = TRANSFORMS[self.transform]
        if (y < least).any():
            raise ValueError(
                f"there is a value of {y.min():g}, but the {self.transform} transform takes none "
                f"{'below 0' if least == 0 else 'of 0 or below'}"
            )
        return (there(y) - self.mean) / self.std

    def undo(self, z: Array) -> Array:
        """What `apply` was given."""
        return TRANSFORMS[self.transform][1](z * self.std + self.mean)


def _steadiest(train: Array) -> str:
    """The transform under which the size of a step depends least on the level; "none" unless it is clearly worse."""
    fits = [name for name, (_, _, least) in TRANSFORMS.items() if train.min() >= least]
    if len(fits) == 1 or len(train) < 20 or train.std() == 0:
        return "none"

    def dependence(name: str) -> float:
        z = TRANSFORMS[name][0](train)
        steps = np.abs(np.diff(z) - np.diff(z).mean())
        return 0.0 if steps.std() == 0 else abs(float(np.corrcoef(steps, z[:-1] + z[1:])[0, 1]))

    return min(fits, key=lambda name: dependence(name) - 0.1 * (name == "none"))


def windows(z: Array, window: int, outputs: int, stride: int = 1) -> tuple[Array, Array]:
    """Every `stride`-th window, (M, T), and what follows each of its steps, (M, T, N). The last is among them."""
    starts = np.arange(len(z) - window - outputs, -1, -stride)[::-1]
    steps = starts[:, None] + np.arange(window)  # (M, T)
    return z[steps], z[steps[..., None] + 1 + np.arange(outputs)]
