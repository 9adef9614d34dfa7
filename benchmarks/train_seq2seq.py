"""Trains `seq2seq` on the dates of examples/dates.py, and checks what it says and where it looks.

    python -m benchmarks.train_seq2seq [--attention multiplicative,additive] [--seeds 0 1 2]

20,000 pairs, of which a fifth is never seen in training. Exact: the share of these test dates that come out right in
every character, by the likeliest symbol at each step. Attention: for each of the eight digits of a date that is right,
does the position in the source with the greatest weight lie on the characters that show the year (for the first four),
the month (its number or its name) or the day? All eight count, also those that the source does not show as such: the
century of a year of two digits, the 0 before a one, and the first digit of a month that is a name.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from examples import dates
from openlstm.train import loop
from openlstm.train.config import Seq2SeqConfig
from openlstm.train.seq2seq import TASK, Batch, Ids
from openlstm.train.task import Share

PAIRS = 20_000
EXACT, LOOKS = 99.0, 90.0  # in percent: what is asked of each run, and of the mean over runs
WHERE = {"year": range(0, 4), "month": range(5, 7), "day": range(8, 10)}
CONFIG = Seq2SeqConfig(epochs=6, schedule="cosine", threads=1)


def job_of(path: Path, config: Seq2SeqConfig) -> Any:
    """What is trained."""
    return TASK.job(TASK.read([path], config), config, Share())


@torch.no_grad()
def measure(job: Any, pairs: list[dates.Pair]) -> dict[str, float]:
    """In percent: the test dates that are right, and the digits for which the model looks at the right place."""
    test = job.parts.test
    source = job.source.part(test)
    said, _ = job.model.say(source, beam=1)
    hits: dict[str, list[bool]] = {name: [] for name in WHERE}
    right = 0
    for chosen in torch.arange(len(test)).split(256):
        own = Ids.of([said[k] for k in chosen.tolist()])
        weights = job.model(Batch.of(source.part(chosen), own, torch.arange(len(chosen))))[1]  # (T, B, S)
        places = weights.argmax(-1).T.tolist()
        for k, looks in zip(chosen.tolist(), places, strict=True):
            pair = pairs[int(test[k])]
            if job.model.text(said[k]) != pair.target:
                continue
            right += 1
            for name, digits in WHERE.items():
                hits[name] += [looks[digit] in pair.places[name] for digit in digits]
    found = {name: 100 * sum(one) / max(1, len(one)) for name, one in hits.items()}
    every = [hit for one in hits.values() for hit in one]
    return {"exact": 100 * right / len(test)} | found | {"all": 100 * sum(every) / max(1, len(every))}


def main() -> int:
    """0 if all is as good as it must be."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_seq2seq", description=__doc__.splitlines()[0])
    parser.add_argument("--attention", default="multiplicative,additive", help="which, with a comma (%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one model for each (%(default)s)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(highlight=False)
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dates.tsv"
        pairs = dates.make(PAIRS, seed=0)
        dates.write(pairs, path)
        columns = ("attention", "seed", "CPU s", "exact %", "year %", "month %", "day %", "all %")
        table = Table(*columns, title="Dates: right, and where the model looks for the digits of")
        for attention in given.attention.split(","):
            looks = []
            for seed in given.seeds:
                job = job_of(path, replace(CONFIG, attention=attention, seed=seed))
                begin = time.process_time()
                loop.train(job)
                seconds = time.process_time() - begin
                found = measure(job, pairs)
                looks.append(found["all"])
                table.add_row(attention, str(seed), f"{seconds:.0f}", *(f"{one:.2f}" for one in found.values()))
                if found["exact"] < EXACT:
                    failures.append(f"{attention}, seed {seed}: {found['exact']:.2f} % exact, expected {EXACT:g}")
            if (mean := sum(looks) / len(looks)) < LOOKS:
                failures.append(f"{attention}: looks right for {mean:.1f} % of the digits, expected {LOOKS:g}")
        console.print(table)
    for failure in failures:
        print(f"Not good enough. {failure}.", file=sys.stderr)
    console.print("fail" if failures else "pass")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
