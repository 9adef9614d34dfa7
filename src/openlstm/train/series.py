"""Series from files: read, checked, split by time and scaled. No torch."""

from __future__ import annotations

import csv
import dataclasses
import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..scaling import TRANSFORMS, Array
from ..words import counted
from .config import held_out

LARGEST = 1e100  # beyond it, squares are no numbers
MISSING = {"", "na", "n/a", "nan", "null", "none", "-", "?", "."}  # what stands for "no value" in files, in lower case


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are what."""

    target: tuple[str, ...]  # to forecast; each is a series of its own
    time: str | None = None
    id: str | None = None  # tells series apart that stand one below the other
    known: tuple[str, ...] = ()  # what is known ahead, such as holidays
    observed: tuple[str, ...] = ()  # what is known up to now only, such as the weather

    @property
    def exogenous(self) -> tuple[str, ...]:
        """Those that are read and not forecast."""
        return self.known + self.observed


@dataclass(frozen=True)
class Series:
    """Equally spaced numbers, with their times where a time column was named."""

    source: str  # for messages
    target: str
    values: Array  # (N,)
    time: str | None = None  # the time column's name
    times: pd.Index | None = None  # numbers or dates, (N + F,)
    name: str = ""  # among many: which it is
    known: Array | None = None  # (N + F, K): also F rows for which the target is to be forecast
    observed: Array | None = None  # (N, O)

    @property
    def called(self) -> str:
        """For messages."""
        return f"{self.source}, series '{self.name}'," if self.name else self.source

    @property
    def in_file(self) -> str:
        """Its name among the series of several files."""
        return ", ".join(part for part in (Path(self.source.strip("'")).stem, self.name) if part)

    def __len__(self) -> int:
        return len(self.values)

    def end(self, rows: int) -> Series:
        """The last so many values, and what belongs to them."""
        cut = max(0, len(self) - rows)
        known, observed = (None if some is None else some[cut:] for some in (self.known, self.observed))
        times = None if self.times is None else self.times[cut:]
        return dataclasses.replace(self, values=self.values[cut:], times=times, known=known, observed=observed)

    @property
    def step(self) -> str | None:
        """The distance of two times: a number, or for dates a pandas frequency or a number of months.

        None without times, or with fewer than three.
        """
        if self.times is None or len(self.times) < 3:
            return None
        if isinstance(self.times, pd.DatetimeIndex):
            # Months first: two half years may have as many days.
            frequency = _months(self.times) or _frequency(self.times)
            return frequency or f"{np.median(np.diff(clock(self.times))) / np.timedelta64(1, 's')}s"
        return f"{float(np.median(np.diff(clock(self.times)))):g}"

    def goes_by(self, step: str) -> bool:
        """Are the times this step apart? Steps of so many seconds, or without a unit, may be off by less than half."""
        if self.times is None or len(self.times) < 2 or self.step == step:
            return True
        dates = isinstance(self.times, pd.DatetimeIndex)
        try:
            size: Any = pd.Timedelta(step).to_timedelta64() if dates else float(step)
        except ValueError:  # months, business days and the like: do such times follow the first one
            return dates and self.times[1:].equals(_later(self.times[:1], step, len(self.times) - 1))
        return bool((np.abs(np.diff(clock(self.times)) - size) < size / 2).all())

    def after(self, steps: int, step: str | None = None) -> pd.Index:
        """The times after the last value, by the step given or its own; without times, the next row numbers."""
        step = step or self.step
        if self.times is None or step is None:
            return pd.RangeIndex(len(self), len(self) + steps)
        there = self.times[len(self) : len(self) + steps]
        return there if len(there) == steps else there.append(_later(self.times, step, steps - len(there)))


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


def spoken(step: str) -> str:
    """A step as the end of "one row every"."""
    return "month" if step == "1 months" else step


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


def read(paths: Sequence[str | os.PathLike[str]], columns: Columns, ahead: bool = False) -> list[Series]:
    """The series in CSV files (by comma, semicolon or tab) or Parquet files.

    ahead: rows at the end may have no target, and then say what is known ahead.
    Errors: FileNotFoundError, ValueError, each one sentence that names the line and what it holds.
    """
    found: list[Series] = []
    for path in paths:
        kept = pd.concat(list(pieces(path)))
        found += from_frame(kept, columns, f"'{path}'", place_of(path), ahead)
    return _distinct(found, [f"'{path}'" for path in paths])


def _distinct(found: list[Series], sources: Sequence[str]) -> list[Series]:
    """Series of several files get the file's name too where the name alone does not tell them apart."""
    names = [series.name for series in found]
    if len(set(names)) == len(names):
        return found
    if len(set(sources)) < len(sources):
        raise ValueError(f"{next(s for s in sources if sources.count(s) > 1)} is given twice: give each file once")
    return [dataclasses.replace(series, name=series.in_file) for series in found]


def place_of(path: str | os.PathLike[str]) -> Callable[[int], str]:
    """Where a file's row is found, for messages."""
    return (lambda row: f"row {row}") if _is_parquet(path) else (lambda row: f"line {row + 2}")


def _is_parquet(path: str | os.PathLike[str]) -> bool:
    return Path(path).suffix.lower() in (".parquet", ".pq")


def pieces(path: str | os.PathLike[str], rows: int | None = None) -> Iterator[pd.DataFrame]:
    """A table of so many rows after the other, whose index goes on. None: all at once.

    Errors: FileNotFoundError, ValueError.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file '{path}': give the path of a CSV or Parquet file")
    return _parquet(path, rows) if _is_parquet(path) else _csv(path, rows)


def _parquet(path: str | os.PathLike[str], rows: int | None) -> Iterator[pd.DataFrame]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            at = 0
            for batch in file.iter_batches(rows or max(1, file.metadata.num_rows)):
                frame = batch.to_pandas()
                yield frame.set_axis(range(at, at + len(frame)))
                at += len(frame)
            if not at:
                yield file.schema_arrow.empty_table().to_pandas()
    except pyarrow.ArrowException as error:
        raise ValueError(f"'{path}' is not a Parquet file that can be read ({error}): write it again") from None


def _csv(path: str | os.PathLike[str], rows: int | None) -> Iterator[pd.DataFrame]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            first = file.readline()
        # As text: a number is only taken for one when it is read here, and its line is known.
        reader = pd.read_csv(
            path,
            sep=max(",;\t", key=first.count),
            header=None,  # read below: pandas would rename a column that is there twice
            dtype=str,
            keep_default_na=False,
            skip_blank_lines=False,
            encoding="utf-8-sig",
            index_col=False,
            skipinitialspace=True,
            chunksize=rows or 2**62,
        )
        names, blank = None, None
        for frame in reader:
            if names is None:
                names, frame = frame.iloc[0].str.strip(), frame.iloc[1:]
            frame = frame.set_axis(names, axis=1).set_axis(frame.index - 1)
            if blank is not None:  # empty lines are only let be at the end
                frame = pd.concat([blank, frame])
            filled = np.flatnonzero((frame != "").any(axis=1))
            end = filled[-1] + 1 if len(filled) else 0
            blank = frame.iloc[end:]
            yield frame.iloc[:end]
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


def tails(path: str | os.PathLike[str], columns: Columns, rows: int, piece: int = 100_000) -> list[Series]:
    """The last rows of each series in a file that may be larger than memory, with what is known ahead.

    Errors: as `read`, for what is kept.
    """
    source, kept = f"'{path}'", None
    for frame in pieces(path, piece):
        frame = frame[_there(frame, columns, source)]
        kept = frame if kept is None else pd.concat([kept, frame])
        groups = kept.groupby(columns.id, sort=False) if columns.id else [("", kept)]
        ends = []
        for _, group in groups:
            ahead = len(group) - _known_to(group, columns)
            ends.append(group.iloc[-(rows + ahead) :])
        kept = pd.concat(ends) if ends else kept
    assert kept is not None
    return from_frame(kept, columns, source, place_of(path), ahead=True)


def from_frame(
    frame: pd.DataFrame,
    columns: Columns,
    source: str = "the table",
    place: Callable[[int], str] = lambda row: f"row {row}",
    ahead: bool = False,
) -> list[Series]:
    """The series in a table. `place`: where the row with that label is found, for messages. Errors: ValueError."""
    frame = frame[_there(frame, columns, source)]
    if not len(frame):
        raise ValueError(f"{source} has column names and no rows: expected one row for each step of time")
    many = len(columns.target) > 1
    found = []
    for name, group in _groups(frame, columns, source, place):
        end = _known_to(group, columns) if ahead else len(group)
        values = [_numbers(group[target].iloc[:end], target, source, place) for target in columns.target]
        times = None if columns.time is None else _times(group[columns.time], columns, source, place)
        known, observed = (
            np.stack([_numbers(some[each], each, source, place) for each in names], 1) if names else None
            for names, some in ((columns.known, group), (columns.observed, group.iloc[:end]))
        )
        for target, numbers in zip(columns.target, values, strict=True):
            called = ", ".join(([name] if columns.id else []) + ([target] if many else []))
            found.append(Series(source, target, numbers, columns.time, times, called, known, observed))
    return found


def _there(frame: pd.DataFrame, columns: Columns, source: str) -> list[str]:
    """The columns that are named, which must be in the table."""
    if not columns.target:
        raise ValueError(f"No target is given: {source} has {_names(frame.columns)}; choose what to forecast")
    named = [*columns.target, *(each for each in (columns.time, columns.id) if each is not None), *columns.exogenous]
    for column in named:
        if column not in frame.columns:
            raise ValueError(f"{source} has no column '{column}': it has {_names(frame.columns)}; choose one of them")
        if (frame.columns == column).sum() > 1:
            raise ValueError(
                f"{source} has more than one column '{column}': expected each name once; rename the others"
            )
        if named.count(column) > 1:
            raise ValueError(f"The column '{column}' is named twice: give each column one part")
    return named


def _groups(
    frame: pd.DataFrame, columns: Columns, source: str, place: Callable[[int], str]
) -> Iterator[tuple[str, pd.DataFrame]]:
    if columns.id is None:
        yield "", frame
        return
    ids = frame[columns.id].map(lambda value: "" if pd.isna(value) else str(value).strip())
    for row in frame.index[ids == ""][:1]:
        raise ValueError(
            f"Column '{columns.id}' of {source} has no value in {place(row)}: name the series in every row"
        )
    yield from frame.groupby(ids, sort=False)


def _known_to(group: pd.DataFrame, columns: Columns) -> int:
    """How many rows there are up to the last that has a target."""
    there = ~group[list(columns.target)].map(_is_missing).all(axis=1)
    return int(np.flatnonzero(there)[-1]) + 1 if there.any() else 0


def _is_missing(value: Any) -> bool:
    return bool(pd.isna(value)) or (isinstance(value, str) and value.strip().lower() in MISSING)


def _names(columns: Any) -> str:
    shown = [f"'{name!s:.60}'" for name in columns[:12]]
    return ", ".join(shown) + (f" and {len(columns) - 12} more" if len(columns) > 12 else "")


def _numbers(column: Any, name: Hashable, source: str, place: Callable[[int], str]) -> Array:
    plain = pd.api.types.is_numeric_dtype(column.dtype)
    found = column if plain else column.map(str).str.strip()
    numbers: Array = pd.to_numeric(found, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    where, text = f"Column '{name}' of {source} has", column.map(str).str.strip
    for row in np.flatnonzero(~np.isfinite(numbers))[:1]:
        given, at = text().iloc[row], place(column.index[row])
        if _is_missing(column.iloc[row]):
            count = int(column.map(_is_missing).sum())
            more = f" and in {count - 1} more" if count > 1 else ""
            raise ValueError(
                f"{where} no value in {at}{more}: expected a number in every row; fill the gap, or keep only "
                "the rows on one side of it"
            )
        comma = given.replace(",", "", 1).lstrip("+-").isdigit()
        advice = "write numbers with a decimal point" if comma else "correct it, or choose another column"
        raise ValueError(f"{where} '{given}' in {at}: expected a number; {advice}")
    for row in np.flatnonzero(np.abs(numbers) > LARGEST)[:1]:
        raise ValueError(
            f"{where} '{text().iloc[row]}' in {place(column.index[row])}: expected numbers of at most {LARGEST:g}; use "
            "a larger unit"
        )
    return numbers


def _times(column: Any, columns: Columns, source: str, label: Callable[[int], str]) -> pd.Index:
    text = column.map(str).str.strip()
    where = f"Time column '{columns.time}' of {source}"

    def place(row: int) -> str:
        return label(column.index[row])

    times = _parsed(text, where, place)
    steps = np.diff(clock(times))
    zero = steps.dtype.type(0)
    if times.has_duplicates:
        second = int(np.flatnonzero(times.duplicated())[0])
        first = int(np.flatnonzero(times == times[second])[0])
        raise ValueError(
            f"{where} has '{text.iloc[second]}' twice, in {place(first)} and {place(second)}: expected each time once"
            + (" for a series" if columns.id else "")
            + "; "
            + ("remove one" if columns.id else "remove one, or name the column that tells the series apart")
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
            f"{source} has {counted(rows, 'row')}, which leaves {max(train, 0)} to train on after {middle} for "
            f"validation and {tail} for the test: expected at least {least}, a window of {window} and {horizon} ahead; "
            "give a longer series, or make window, horizon or test smaller"
        )
    return Split(train, train + middle, rows)


def _rows(name: str, wanted: float, rows: int, horizon: int) -> int:
    count = held_out(name, wanted, rows, "rows")
    if wanted < 1:
        count = max(count, horizon)
    if count < horizon:
        raise ValueError(
            f"{name} is {counted(count, 'row')}: expected at least the horizon, {horizon}, so that one forecast fits"
        )
    return count


def steadiest(trains: Sequence[Array]) -> str:
    """The transform under which the size of a step depends least on the level; "none" unless it is clearly worse."""
    least = min(float(train.min()) for train in trains)
    fits = [name for name, (_, _, bound) in TRANSFORMS.items() if least >= bound]
    told = [train for train in trains if len(train) >= 20 and train.std() > 0][:100]

    def dependence(name: str) -> float:
        found = []
        for train in told:
            z = TRANSFORMS[name][0](train)
            steps = np.abs(np.diff(z) - np.diff(z).mean())
            still = steps.std() == 0
            found.append(0.0 if still else abs(float(np.corrcoef(steps, z[:-1] + z[1:])[0, 1])))
        return float(np.mean(found)) - 0.1 * (name == "none")

    return min(fits, key=dependence) if len(fits) > 1 and told else "none"
