"""How well a character model learns: `python -m benchmarks.train_text`, some minutes for each seed.

Trains with the defaults of `openlstm train text` on 95 % of five million characters of Python's own library, and
guesses the rest. It passes where every seed costs less than 2 bits a character, and less than the n-gram models do.
"""

from __future__ import annotations

import argparse
import runpy
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from openlstm.train import loop
from openlstm.train.config import TextConfig
from openlstm.train.task import Share
from openlstm.train.text import TASK

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "text.py"
LIMIT = 2.0  # bits a character


def main() -> None:
    """Trains, guesses, and says whether it passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one model for each (%(default)s)")
    parser.add_argument("--characters", type=int, default=5_000_000, help="of the library (%(default)s)")
    given = parser.parse_args()
    console = Console(highlight=False)
    table = Table("seed", "bits a character", "guessed right", "5-gram", "10-gram", "characters read", "minutes", "")
    passed = True
    for seed in given.seeds:
        config = TextConfig(seed=seed)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "python.txt"
            path.write_text(runpy.run_path(str(EXAMPLE))["library"](given.characters), encoding="utf-8")
            data = TASK.read([path], config)
        job = TASK.job(data, config, Share())
        begun = time.perf_counter()
        outcome = loop.train(job, progress=console)
        minutes = (time.perf_counter() - begun) / 60
        found = job.results().metrics
        others = found["bits a character of others"]
        good = found["bits a character"] < min(LIMIT, others["5-gram"], others["10-gram"])
        passed &= good
        table.add_row(
            str(seed),
            f"{found['bits a character']:.3f}",
            f"{found['guessed right']:.1%}",
            f"{others['5-gram']:.3f}",
            f"{others['10-gram']:.3f}",
            f"{outcome.epochs * job.steps * config.batch * config.window:,}",
            f"{minutes:.1f}",
            "pass" if good else "FAIL",
        )
    console.print(table)
    sys.exit(not passed)


if __name__ == "__main__":
    main()
