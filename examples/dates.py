"""Reads dates as people write them: trains an encoder and a decoder with attention on dates that this file makes.

    python examples/dates.py [--only-data] [--out dates] [--pairs 20000] [--epochs 100] [--seed 0]

Into the folder go dates.tsv (such as "3rd of May 1998", a tab, "1998-05-03"), new.txt with a few more dates, and the
trained model. With --only-data the command line can train instead: `openlstm train seq2seq dates/dates.tsv`.
"""

from __future__ import annotations

import argparse
import datetime
import random
from dataclasses import dataclass
from pathlib import Path

MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October"]
MONTHS += ["November", "December"]  # calendar's would be those of the user's language
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
FIRST, LAST = datetime.date(1950, 1, 1), datetime.date(2049, 12, 31)  # two digits are enough for the year


@dataclass(frozen=True)
class Pair:
    """A date in free form, the same as year-month-day, and where the first shows what."""

    source: str
    target: str
    places: dict[str, range]  # "year", "month" and "day": which characters of the source show it


def ordinal(day: int) -> str:
    """As in "3rd".

    >>> [ordinal(day) for day in (1, 2, 3, 4, 11, 12, 13, 22, 30)]
    ['1st', '2nd', '3rd', '4th', '11th', '12th', '13th', '22nd', '30th']
    """
    return f"{day}{'th' if 10 < day < 20 else {1: 'st', 2: 'nd', 3: 'rd'}.get(day % 10, 'th')}"


def forms(date: datetime.date) -> list[list[tuple[str, str]]]:
    """Every form of a date, as pieces of text, each with what it shows: "year", "month", "day" or nothing."""

    def form(template: str) -> list[tuple[str, str]]:
        return [kinds.get(piece, ("", piece)) for piece in template.split("|")]

    month = MONTHS[date.month - 1]
    kinds = {
        **{"YYYY": ("year", f"{date:%Y}"), "YY": ("year", f"{date.year % 100:02d}")},
        **{"Month": ("month", month), "Mon": ("month", month[:3]), "MON": ("month", month[:3].upper())},
        **{"M": ("month", str(date.month)), "MM": ("month", f"{date.month:02d}")},
        **{"D": ("day", str(date.day)), "DD": ("day", f"{date.day:02d}"), "Dth": ("day", ordinal(date.day))},
        **{"Weekday": ("", DAYS[date.weekday()]), "Wee": ("", DAYS[date.weekday()][:3])},
    }
    found = ["Dth| of |Month| |YYYY", "the |Dth| of |Month|, |YYYY", "Month| |D|, |YYYY", "Month| the |Dth|, |YYYY"]
    found += [
        "Weekday|, |Month| |D|, |YYYY",
        "Wee| |D| |Mon| |YYYY",
        "D| |Mon| |YY",
        "DD|-|MON|-|YYYY",
        "Mon| |D| '|YY",
    ]
    found += ["D|.|M|.|YYYY", "DD|.|MM|.|YY"]  # with points the day comes first
    found += ["YYYY|/|MM|/|DD", "YYYY|MM|DD"]
    if date.day > 12 or date.day == date.month:  # else nobody knows which of them is the month
        found += ["MM|/|DD|/|YY", "D|/|M|/|YYYY"]
    return [form(template) for template in found]


def make(count: int, seed: int) -> list[Pair]:
    """So many pairs, each source once."""
    chance = random.Random(seed)
    pairs: dict[str, Pair] = {}
    while len(pairs) < count:
        date = FIRST + datetime.timedelta(chance.randrange((LAST - FIRST).days + 1))
        source, places = "", {}
        for shows, text in chance.choice(forms(date)):
            places |= {shows: range(len(source), len(source) + len(text))} if shows else {}
            source += text
        pairs[source] = Pair(source, date.isoformat(), places)
    return list(pairs.values())


def write(pairs: list[Pair], path: Path) -> None:
    """One pair a line: source, tab, target."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{pair.source}\t{pair.target}\n" for pair in pairs), encoding="utf-8")


def main() -> None:
    """Makes the data; trains, and reads a few dates."""
    from rich.console import Console
    from rich.table import Table

    from openlstm.train import loop
    from openlstm.train.config import Seq2SeqConfig
    from openlstm.train.seq2seq import TASK
    from openlstm.train.task import Share

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("dates"), help="where data and model go (%(default)s)")
    parser.add_argument("--pairs", type=int, default=20_000, help="how many (%(default)s)")
    parser.add_argument("--epochs", type=int, default=Seq2SeqConfig.epochs, help="to train at most (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of data and model (%(default)s)")
    parser.add_argument("--only-data", action="store_true", help="train nothing")
    given = parser.parse_args()
    console = Console(highlight=False)
    data, new = given.out / "dates.tsv", given.out / "new.txt"
    write(make(given.pairs, given.seed), data)
    new.write_text("Friday, May 8, 2026\n29.2.00\nDec 24 '49\n", encoding="utf-8")
    if given.only_data:
        console.print(f"Wrote dates.tsv and new.txt to {given.out}/", soft_wrap=True, markup=False)
        return
    config = Seq2SeqConfig(seed=given.seed, epochs=given.epochs)
    job = TASK.job(TASK.read([data], config), config, Share())
    outcome = loop.train(job, progress=console)
    console.print(f"{outcome.epochs} epochs in {outcome.seconds:.0f} s")
    results = job.results()
    shown = results.parts[0]
    table = Table(*shown.columns, title=shown.title, caption=shown.note)
    for row in shown.rows:
        table.add_row(*row)
    console.print(table)
    job.model.save(given.out / "model.safetensors")
    for piece in job.model.predict([new]):
        console.print(piece.to_string(index=False))
    console.print(f"Wrote dates.tsv, new.txt and model.safetensors to {given.out}/", soft_wrap=True, markup=False)


if __name__ == "__main__":
    main()
