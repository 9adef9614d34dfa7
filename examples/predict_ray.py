"""Lets a trained model of any task read many files on a cluster, with Ray Data; here on this machine.

    pip install 'ray[data]'
    python examples/predict_ray.py runs/panel/model.safetensors sales/*.parquet --out forecasts

A worker loads the model once and takes one file after another. Each file goes through in pieces, as in
`openlstm predict`, which does the same in one process; so neither files nor results need to fit into memory. A series
must stand in one file. The column `file` says which one.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from openlstm.train import load


class Predict:
    """What a worker does."""

    def __init__(self, path: str) -> None:
        self.model = load(path)

    def __call__(self, files: dict[str, np.ndarray]) -> Iterator[pd.DataFrame]:
        for path in files["item"]:
            for piece in self.model.predict([Path(path)]):
                yield piece.assign(file=path)


def main() -> None:
    """Reads, predicts, and writes Parquet files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="model.safetensors of a run of `openlstm train`")
    parser.add_argument("files", type=Path, nargs="+", help="what the model shall read")
    parser.add_argument("--out", type=Path, default=Path("predictions"), help="folder to write (%(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="that have the model loaded (%(default)s)")
    given = parser.parse_args()
    for path in (given.model, *given.files):
        if not path.is_file():
            parser.error(f"there is no file '{path}'")
    try:
        import ray
    except ModuleNotFoundError:
        parser.error("this needs Ray Data: install it with pip install 'ray[data]'")
    # Workers have folders of their own.
    files = ray.data.from_items([str(path.resolve()) for path in given.files], override_num_blocks=len(given.files))
    said = files.map_batches(
        Predict,
        fn_constructor_args=(str(given.model.resolve()),),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=given.workers),
    )
    said.write_parquet(str(given.out.resolve()))
    print(f"Wrote what the model says of {len(given.files)} files to {given.out}/")


if __name__ == "__main__":
    main()
