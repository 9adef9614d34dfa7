"""Makes sequences of frames whose labels need 50 steps of memory, trains an LSTM on them, and looks inside.

A frame shows one of four symbols as a noisy vector. One of the first ten frames of a sequence is marked. 60 frames
after the first one a light goes on and stays on: until then the label is "wait", from then on it is the symbol that was
marked, at least 50 frames ago, and the symbols shown since are of no use.

    python examples/frames.py [--only-data] [--out runs/frames] [--sequences 6000] [--epochs 60]

Into the folder go frames.npz, the trained model, pictures of how it does, and what it says of every frame. With
--only-data the command line can train instead: `openlstm train frames runs/frames/frames.npz`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from openlstm import file, plots
from openlstm.train import loop
from openlstm.train.config import FramesConfig
from openlstm.train.frames import TASK
from openlstm.train.task import Picture, Share

SYMBOLS = ("circle", "square", "star", "cross")
FIRST, LIGHT, LONGEST = 10, 60, 90  # the mark is before the first, the light goes on at the second
NOISE = 0.15


def make(path: Path, count: int, seed: int) -> None:
    """Writes an .npz file of so many sequences: x (frames, 6), lengths and y, a label for each frame."""
    random = np.random.default_rng(seed)
    lengths = random.integers(LIGHT + 20, LONGEST + 1, count)
    starts = np.cumsum(lengths) - lengths
    frame = np.arange(lengths.sum()) - np.repeat(starts, lengths)  # its number in its sequence
    shown = random.integers(len(SYMBOLS), size=len(frame))
    marked = starts + random.integers(FIRST, size=count)
    x = NOISE * random.standard_normal((len(frame), len(SYMBOLS) + 2), np.float32)
    x[np.arange(len(frame)), shown] += 1
    x[marked, -2] += 1
    x[frame >= LIGHT, -1] += 1
    answers = np.array(SYMBOLS)[np.repeat(shown[marked], lengths)]
    np.savez(path, x=x, lengths=lengths, y=np.where(frame < LIGHT, "wait", answers))


def main() -> None:
    """Makes the file; trains, tells how it went, and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, default=6000, help="to make (%(default)s)")
    parser.add_argument("--epochs", type=int, default=60, help="to train (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/frames"), help="where results go (%(default)s)")
    parser.add_argument("--only-data", action="store_true", help="train nothing")
    given = parser.parse_args()
    console = Console(highlight=False)
    file.make_folder(given.out)
    data_file = given.out / "frames.npz"
    make(data_file, given.sequences, seed=0)
    if given.only_data:
        console.print(f"Wrote frames.npz to {given.out}/", soft_wrap=True, markup=False)
        return

    # For ten epochs, and with some seeds for twenty, nothing seems to be learned: patience outlasts them.
    config = FramesConfig(hidden=64, learning_rate=5e-3, schedule="cosine", epochs=given.epochs, patience=given.epochs)
    job = TASK.job(TASK.read([data_file], config), config, Share())
    outcome = loop.train(job, progress=console)
    results = job.results()
    job.model.save(given.out / "model.safetensors")
    console.print(f"{outcome.epochs} epochs, {outcome.seconds:.0f} s, {job.model.spec}", soft_wrap=True)
    for name in ("accuracy", "cross-entropy", "balanced accuracy"):
        console.print(f"{name}: {results.metrics[name]:.4f}, always 'wait': {results.metrics['baseline'][name]:.4f}")
    for k, part in enumerate(part for part in results.parts if isinstance(part, Picture)):
        plots.write(part.figure, given.out / f"picture-{k}.png")
    frames = pd.concat(list(job.model.predict([data_file])))
    frames.to_csv(given.out / "predictions.csv", index=False)
    console.print(frames[frames["sequence"] == 0].iloc[LIGHT - 2 : LIGHT + 3].to_string(index=False))
    console.print(f"Wrote frames.npz, model.safetensors, pictures and predictions.csv to {given.out}/", soft_wrap=True)


if __name__ == "__main__":
    main()
