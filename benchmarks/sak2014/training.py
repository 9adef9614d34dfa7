"""How a model of the experiment is trained: as `openlstm train frames` does, on noise that is new in every epoch.

The output comes 5 frames late, gradients go back 20 steps, states are carried from one chunk to the next, and a batch
has 8 sentences at once, each in a place of its own: the paper's truncated back-propagation. (There a place takes a new
sentence as soon as one ends. Here sentences of as many chunks come together, and begin and end together.)

The feed-forward net sees frames one by one, each with those beside it, in batches of 200 as in the paper.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from openlstm.spec import Spec
from openlstm.train import loop
from openlstm.train.config import FramesConfig
from openlstm.train.frames import Batch, FramesJob, split
from openlstm.train.frames_files import Frames
from openlstm.train.task import Batches, Share, Shuffled

from .corpus import Part, noisy
from .models import INPUTS, Window

DELAY, TRUNCATE = 5, 20  # frames
BATCH, FRAMES = 8, 200  # sentences of a recurrent model, frames of a feed-forward net
DEVELOPMENT = 120  # sentences of those to train on, by which the best epoch is chosen
SEEN, NEW = 10**6, 2 * 10**6  # seeds of the noise on what is tested


class Speech:
    """Sentences as the task reads them: each a sequence of frames; or with a window, each frame a sequence of one.

    A window is a view of all frames one after another, with each sentence's first and last frame repeated round it. So
    it begins at each frame, also at those of which some lie in the next sentence: these have no sentence.
    """

    def __init__(
        self, part: Part, inventory: NDArray[np.int64], seed: int | None, window: Window | None = None
    ) -> None:
        codes = torch.from_numpy(inventory[part.states])
        left, width = (window.left, window.width) if window else (0, 1)
        lengths = torch.from_numpy(part.lengths)
        own = torch.arange(len(lengths)).repeat_interleave(lengths + width - 1)  # (P,) the sentence of each place
        starts = (lengths + width - 1).cumsum(0) - lengths - width + 1
        frame = (torch.arange(len(own)) - starts[own] - left).clamp(min=0).minimum(lengths[own] - 1)
        self.frame = frame + (lengths.cumsum(0) - lengths)[own]  # (P,) what stands there
        self.part, self.own = part, own
        self.places = torch.empty(len(own), INPUTS)
        self.fill(torch.ones(len(lengths), dtype=torch.bool), seed)
        if window is None:
            x, numbers, self.sentence = self.places, codes, torch.arange(len(lengths))
        else:
            count = len(own) - width + 1
            x = self.places.as_strided((count, width * INPUTS), (INPUTS, 1))
            self.sentence = torch.where(own[:count] == own[width - 1 :], own[:count], -1)
            numbers, lengths = codes[self.frame[left : left + count]], torch.ones(count, dtype=torch.long)
        names: list[Any] = list(range(len(lengths)))
        self.data = Frames(
            x,
            lengths,
            numbers,
            tuple(range(1 + int(inventory.max()))),
            "frame",
            names,
            [f"Sequence {k}" for k in names],
        )

    def fill(self, chosen: Tensor, seed: int | None) -> None:
        """Draws the noise on the chosen sentences, (N,) of bool; None: there is none."""
        lengths = torch.from_numpy(self.part.lengths)
        frames = chosen.repeat_interleave(lengths)
        clean = self.part.clean[frames.numpy()]
        x = torch.from_numpy(
            clean.astype(np.float32) if seed is None else noisy(clean, self.part.lengths[chosen.numpy()], seed)
        )
        where = chosen[self.own]
        self.places[where] = x[(frames.cumsum(0) - 1)[self.frame[where]]]


class Net(nn.Module):
    """Plain layers, in the place of recurrent ones."""

    def __init__(self, window: Window, units: int) -> None:
        super().__init__()
        sizes = [window.width * INPUTS] + [units] * window.layers
        pairs = [(nn.Linear(*pair), getattr(nn, window.activation)()) for pair in pairwise(sizes)]
        self.layers = nn.Sequential(*chain(*pairs))

    def forward(self, x: Tensor, state: Any = None, *, lengths: Tensor | None = None) -> tuple[Tensor, Any]:
        """(T, B, I) to (T, B, units)."""
        return self.layers(x), None


class Renewed(Batches):
    """The batches of a job, on noise that is drawn before each pass."""

    def __init__(self, job: SpeechJob, batches: Batches) -> None:
        self.job, self.batches = job, batches

    def __len__(self) -> int:
        return len(self.batches)

    def walk(self, number: int, begin: int = 0) -> Iterator[tuple[Batch, bool]]:
        self.job.renew(number)
        yield from self.batches.walk(number, begin)


class SpeechJob(FramesJob):
    """Trains on a part, with another seed of noise in each pass."""

    def __init__(
        self,
        part: Part,
        inventory: NDArray[np.int64],
        config: FramesConfig,
        share: Share | None = None,
        window: Window | None = None,
        noise: bool = True,
    ) -> None:
        self.speech = Speech(part, inventory, SEEN if noise else None, window)
        self.inventory, self.window, self.noise = inventory, window, noise
        super().__init__(self.speech.data, config, share)
        self.chosen = torch.zeros(len(part.lengths), dtype=torch.bool)
        self.chosen[self.speech.sentence[self.train]] = True
        if window:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(config.seed)
                self.model.recurrent = Net(window, config.hidden)  # type: ignore[assignment]
            if window.run > 1:
                runs = self.train[: len(self.train) // window.run * window.run].view(-1, window.run)
                at = torch.arange(runs.numel()).view_as(runs)
                size = config.batch // window.run
                self.batches = Shuffled(
                    len(runs), size, lambda some: self._batch(at[some].flatten()), config.seed, self.share
                )
        self.batches = Renewed(self, self.batches)

    def split(self) -> tuple[Tensor, Tensor, Tensor]:
        """By sentences, also where each frame is a sequence of its own."""
        found = split(len(self.speech.part.lengths), self.config)
        if self.window is None:
            return found
        train, validation, test = (torch.isin(self.speech.sentence, own).nonzero()[:, 0] for own in found)
        return train, validation, test

    def renew(self, number: int) -> None:
        """Draws the noise of a pass on the sentences that are trained on."""
        if self.noise:
            self.speech.fill(self.chosen, (self.config.seed + 1) * 1000 + number)


@dataclass(frozen=True)
class Learned:
    """How a model did. Accuracies in percent of frames: while training, on held-out sentences of each kind."""

    curve: list[float]  # of the development sentences after each epoch
    seen: float
    new: float
    seconds: float  # of one processor
    frames: int  # that were trained on


Model = Spec | tuple[Window, int]  # recurrent layers, or a feed-forward net of so many units in a layer


def config(
    model: Model,
    rate: float,
    epochs: int,
    seed: int,
    batch: int = BATCH,
    threads: int = 1,
) -> FramesConfig:
    """What the task is told."""
    common: dict[str, Any] = {
        "learning_rate": rate,
        "schedule": "cosine",
        "epochs": epochs,
        "patience": epochs,
        "seed": seed,
        "threads": threads,
        "test": 1,
        "validation": DEVELOPMENT,
    }
    if not isinstance(model, Spec):
        return FramesConfig(cell="rnn", hidden=model[1], batch=FRAMES, **common)
    options: dict[str, Any] = dict(model.options)
    for name in ("proj_size", "nonrecurrent_proj_size"):
        if getattr(model, name):
            options[name] = getattr(model, name)
    return FramesConfig(
        cell=model.cell,
        hidden=model.hidden_size[0],
        layers=model.num_layers,
        recurrent=options,
        delay=DELAY,
        truncate=TRUNCATE,
        batch=batch,
        **common,
    )


def train(parts: dict[str, Part], made: SpeechJob) -> Learned:
    """Trains a model, and tests it on the sentences with seen words and on those with new ones."""
    start = time.process_time()
    curve = [100 * point["accuracy"] for point in loop.train(made).curve]
    seconds = time.process_time() - start
    frames = int(made.speech.data.lengths[made.train].sum()) * len(curve)
    return Learned(
        curve, accuracy(made, parts["seen"], SEEN + 1), accuracy(made, parts["new"], NEW + 1), seconds, frames
    )


def accuracy(made: SpeechJob, part: Part, seed: int) -> float:
    """Percent of the frames of a part that the model labels rightly."""
    speech = Speech(part, made.inventory, seed if made.noise else None, made.window)
    data, chosen = speech.data, (speech.sentence >= 0).nonzero()[:, 0]
    known = torch.tensor(made.model.about.classes)
    # Labels are not looked at: each is one that the model knows.
    said, _ = made.model.said(replace(data, codes=torch.zeros_like(data.codes), classes=(int(known[0]),)), chosen)
    there = said >= 0
    return 100 * float((known[said[there]] == data.codes[there]).double().mean())
