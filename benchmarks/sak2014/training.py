"""How a model of the experiment is trained: as `openlstm train frames` does, on noise that is new in every epoch.

The output comes 5 frames late, gradients go back 20 steps, states are carried from one chunk to the next, and a batch
has so many sentences at once, each in a place of its own: the paper's truncated back-propagation.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from openlstm.spec import Spec
from openlstm.train import loop
from openlstm.train.config import FramesConfig
from openlstm.train.frames import Batch, FrameClassifier, FramesJob
from openlstm.train.frames_files import Frames
from openlstm.train.task import Batches, Share

from .corpus import Part, noisy

DELAY, TRUNCATE, LEFT, RIGHT = 5, 20, 10, 5  # frames; what the feed-forward net sees beside its own
DEVELOPMENT = 120  # sentences of those to train on, by which the best epoch is chosen
SEEN, NEW = 10**6, 2 * 10**6  # seeds of the noise on what is tested


def frames(part: Part, context: bool, seed: int) -> Frames:
    """A part with noise on it, as the task reads it."""
    codes, classes = part.states(context), tuple(int(code) for code in np.unique(part.states(context)))
    numbers = torch.from_numpy(np.searchsorted(np.array(classes), codes))
    names: list[Any] = list(range(len(part.lengths)))
    x = torch.from_numpy(noisy(part.clean, part.lengths, seed))
    return Frames(x, torch.from_numpy(part.lengths), numbers, classes, "frame", names, [f"Sentence {k}" for k in names])


class Renewed(Batches):
    """The batches of a job, on noise that is drawn before each pass."""

    def __init__(self, job: SpeechJob, batches: Batches) -> None:
        self.job, self.batches = job, batches

    def __len__(self) -> int:
        return len(self.batches)

    def walk(self, number: int, begin: int = 0) -> Iterator[tuple[Batch, bool]]:
        self.job.renew(number)
        yield from self.batches.walk(number, begin)


class Window(nn.Module):
    """Three layers of sigmoids on 16 frames side by side, in the place of recurrent layers: a reference row."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        wide = inputs * (LEFT + 1 + RIGHT)
        self.layers = nn.Sequential(
            *(nn.Linear(wide, units), nn.Sigmoid(), nn.Linear(units, units), nn.Sigmoid()),
            *(nn.Linear(units, units), nn.Sigmoid()),
        )

    def forward(self, x: Tensor, state: Any = None, *, lengths: Tensor | None = None) -> tuple[Tensor, Any]:
        """(T, B, I) to (T, B, units). The state is the frames before, as a recurrent layer's is (1, B, n)."""
        before = x.new_zeros(LEFT + RIGHT, *x.shape[1:]) if state is None else state
        whole = torch.cat([before, x])
        seen = whole.unfold(0, LEFT + 1 + RIGHT, 1).flatten(2)  # (T, B, I * 16)
        return self.layers(seen), whole[len(x) :]


class SpeechJob(FramesJob):
    """Trains on a part, with another seed of noise in each pass. `units`: of a feed-forward net in place of layers."""

    def __init__(
        self, part: Part, context: bool, config: FramesConfig, share: Share | None = None, units: int = 0
    ) -> None:
        super().__init__(frames(part, context, SEEN), config, share)
        own = torch.zeros(len(part.lengths), dtype=torch.bool)
        own[self.train] = True
        self._rows = own.repeat_interleave(self.data.lengths)
        self._clean, self._lengths = part.clean[self._rows.numpy()], part.lengths[own.numpy()]
        if units:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(config.seed)
                self.model.recurrent = Window(self.data.x.shape[1], units)  # type: ignore[assignment]
                self.model.head = nn.Linear(units, len(self.model.about.classes))
        self.batches = Renewed(self, self.batches)

    def renew(self, number: int) -> None:
        """Draws the noise of a pass on the sentences that are trained on."""
        seed = (self.config.seed + 1) * 1000 + number
        self.data.x[self._rows] = torch.from_numpy(noisy(self._clean, self._lengths, seed))

    def carried(self) -> dict[str, Tensor]:
        return {} if isinstance(self.model.recurrent, Window) else super().carried()


@dataclass(frozen=True)
class Learned:
    """How a model did. Accuracies in percent of frames: while training, on held-out sentences of each kind."""

    curve: list[float]  # of the development sentences after each epoch
    seen: float
    new: float
    seconds: float  # of one processor
    frames: int  # that were trained on


def train(
    parts: dict[str, Part], context: bool, spec: Spec, rate: float, epochs: int, seed: int, batch: int, units: int = 0
) -> tuple[Learned, FrameClassifier]:
    """One model. units: of the feed-forward net, which has no spec of its own."""
    options = dict(spec.options)
    for name in ("proj_size", "nonrecurrent_proj_size"):
        if getattr(spec, name):
            options[name] = getattr(spec, name)
    config = FramesConfig(
        cell=spec.cell,
        hidden=spec.hidden_size[0],
        layers=spec.num_layers,
        recurrent=options,
        delay=DELAY,
        truncate=TRUNCATE,
        learning_rate=rate,
        schedule="cosine",
        epochs=epochs,
        patience=epochs,
        batch=batch,
        seed=seed,
        threads=1,
        test=1,
        validation=DEVELOPMENT,
    )
    job = SpeechJob(parts["train"], context, config, units=units)
    start = time.process_time()
    curve = [100 * point["accuracy"] for point in loop.train(job).curve]
    seconds = time.process_time() - start
    found = []
    for name, noise in (("seen", SEEN), ("new", NEW)):
        data = frames(parts[name], context, noise + 1)
        # States that training had not seen are never said: they are wrong, and count.
        found.append(100 * float((_said(job.model, data) == parts[name].states(context)).mean()))
    trained = int(job.data.lengths[job.train].sum()) * len(curve)
    return Learned(curve, found[0], found[1], seconds, trained), job.model


def _said(model: FrameClassifier, data: Frames) -> np.ndarray:
    """The state said of each frame. Labels are not looked at: each is one that the model knows."""
    known = replace(data, codes=torch.zeros_like(data.codes), classes=model.about.classes[:1])
    said, _ = model.said(known, torch.arange(len(data.lengths)))
    found: np.ndarray = np.array(model.about.classes)[said.numpy()]
    return found
