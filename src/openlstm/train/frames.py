"""Labels for frames: sequences of feature vectors with a label for each frame, or one for each sequence.

The model reads the frames in order, at step s those from s * skip on, `stack` of them side by side; past its end a
sequence goes on with its last frame. With labels of frames the answer at step s + delay is the label of the frames
s * skip .. s * skip + skip - 1: with a delay it has read what comes after them; Sak, Senior and Beaufays 2014 take 5
frames. With labels of sequences it is the label, by the top layer's output at the last step, and of its reversed half
at the first.

    x(s) = (frame(s * skip), ..., frame(s * skip + stack - 1)), each feature less its mean, by its deviation
    log p(s) = log_softmax(W y(s) + b), y the output of the recurrent layers

Prediction takes a long sequence in parts, with the states carried from one to the next; bidirectional layers need a
whole sequence at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .. import nn as layers
from ..models import trace
from ..spec import Spec
from ..words import counted
from .config import FramesConfig, held_out
from .frames_files import NUMBERS, PIECE, Floats, Frames, Label, Part, parts, read
from .frames_report import report
from .task import Batches, Job, Results, Share, Shuffled, Task, Trained, orthogonal, seeded

if TYPE_CHECKING:
    import pandas as pd

    from ..tracing import Trace

LOOK = 1000  # steps that are traced
MOST = 100_000  # classes


@dataclass(frozen=True)
class Answers:
    """What a model knows beside its weights, and how steps and frames belong together."""

    classes: tuple[Label, ...]
    counts: tuple[int, ...]  # labels of each class in the training part
    each: str  # has a label: "frame" or "sequence"
    features: int
    stack: int = 1
    skip: int = 1
    delay: int = 0

    def __post_init__(self) -> None:
        for name in ("classes", "counts"):
            if not isinstance(getattr(self, name), (list, tuple)):
                raise ValueError(f"{name} is no list")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not 2 <= len(self.classes) <= MOST or len(self.counts) != len(self.classes):
            raise ValueError(
                f"it has {counted(len(self.classes), 'class', 'classes')} and {counted(len(self.counts), 'count')}: "
                f"expected 2 to {MOST}"
            )
        if set(map(type, self.classes)) not in ({int}, {str}) or len(set(self.classes)) != len(self.classes):
            raise ValueError("classes are not all whole numbers or all texts, or one is there twice")
        if any(type(label) is int and not -(2**63) <= label < 2**63 for label in self.classes):
            raise ValueError("classes are whole numbers of more than 64 bits")
        if not all(type(count) is int and 0 < count < 2**53 for count in self.counts):
            raise ValueError("counts are not whole numbers above 0")
        if self.each not in ("frame", "sequence") or (self.each == "sequence" and self.delay):
            raise ValueError(f"each is {self.each!r} with a delay of {self.delay!r}")
        for name, least, most in (("features", 1, 2**31), ("stack", 1, 1000), ("skip", 1, 1000), ("delay", 0, 1000)):
            if type(value := getattr(self, name)) is not int or not least <= value <= most:
                raise ValueError(f"{name} is {value!r}: expected a whole number from {least} to {most}")

    def steps(self, lengths: Tensor) -> Tensor:
        """How many steps the layers take for so many frames."""
        return (lengths + self.skip - 1).div(self.skip, rounding_mode="floor") + self.delay

    def inputs(self, x: Tensor, starts: Tensor, lengths: Tensor, begin: int, end: int) -> Tensor:
        """What the layers read at steps begin .. end of sequences in x, (F, D): (T, B, stack * D)."""
        frame = torch.arange(begin, end)[:, None] * self.skip + torch.arange(self.stack)  # (T, stack)
        frame = torch.minimum(frame[:, None], (lengths - 1)[:, None]) + starts[:, None]  # (T, B, stack)
        return x.index_select(0, frame.flatten()).view(end - begin, len(starts), -1)

    def asked(self, numbers: Tensor, starts: Tensor, lengths: Tensor, begin: int, end: int) -> tuple[Tensor, Tensor]:
        """Where in steps begin .. end there is an answer, (M,) of steps * sequences, and to what.

        numbers: of the sequences, (B,). The second is (M, skip), frames in x, -1 for those past an end; with labels of
        sequences (M, 1), numbers.
        """
        if self.each == "sequence":
            last = self.steps(lengths) - 1
            own = ((last >= begin) & (last < end)).nonzero()[:, 0]
            return (last[own] - begin) * len(lengths) + own, numbers[own, None]
        step = torch.arange(begin - self.delay, end - self.delay)[:, None, None]
        frame = step * self.skip + torch.arange(self.skip)  # (T, 1, skip)
        there = (step >= 0) & (frame < lengths[:, None])  # (T, B, skip)
        where = there[..., 0].flatten().nonzero()[:, 0]
        return where, torch.where(there, frame + starts[:, None], -1).flatten(0, 1)[where]


class FrameClassifier(Trained):
    """Recurrent layers and a linear one, which give the log-probability of each class."""

    kind: ClassVar[str] = "frames"
    About: ClassVar[type] = Answers
    about: Answers
    mean: Tensor
    scale: Tensor

    def __init__(self, spec: Spec, about: Answers, dropout: float = 0.0) -> None:
        super().__init__(spec, about, dropout)
        if spec.input_size != about.features * about.stack:
            raise ValueError(
                f"the layers have {counted(spec.input_size, 'input')}, expected {about.features} * {about.stack}"
            )
        if spec.batch_first or (spec.bidirectional and about.delay):
            raise ValueError(f"{spec} does not go with a delay of {about.delay}, or has batch_first")
        self.recurrent = layers.of(spec)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(spec.output_size(), len(about.classes))
        self.register_buffer("mean", torch.zeros(about.features))
        self.register_buffer("scale", torch.ones(about.features))

    @property
    def stages(self) -> list[tuple[str, Any]]:
        normal = [("shift", "mean"), ("scale", "scale")]
        return [*normal, ("recurrent", "recurrent."), ("linear", "head."), ("log_softmax", "")]

    def forward(self, x: Tensor, lengths: Tensor | None = None, state: Any = None) -> tuple[Tensor, Any]:
        """The layers' output at steps x, (T, B, stack * D), and the states after them."""
        stack = self.about.stack
        mean, scale = (each if stack == 1 else each.repeat(stack) for each in (self.mean, self.scale))
        x = (x - mean) * scale
        if lengths is not None and lengths.is_cpu and bool((lengths == len(x)).all()):
            lengths = None  # all are whole: that takes less time
        y, state = self.recurrent(x, state, lengths=lengths)
        return y, state

    def answer(self, y: Tensor, where: Tensor) -> Tensor:
        """Log-probabilities (M, K) at places (M,) in the output (T, B, O)."""
        found = y.flatten(0, 1).index_select(0, where)
        if self.spec.bidirectional and self.about.each == "sequence":
            half = y.shape[-1] // 2
            found = torch.cat([found[:, :half], y[0, where % y.shape[1], half:]], 1)
        odds: Tensor = self.head(self.dropout(found))
        return odds.log_softmax(-1)

    def _answers(self, y: Tensor, where: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """The answers at many places, piece by piece, on the CPU."""
        size = max(1, NUMBERS // len(self.about.classes))
        for begin in range(0, len(where), size):
            some = slice(begin, begin + size)
            yield some, self.answer(y, where[some].to(y.device)).float().cpu()

    @property
    def piece(self) -> int:
        """Steps of all sequences together that are computed at once, outside training."""
        return max(1, min(PIECE, NUMBERS // max(self.spec.input_size, self.spec.output_size())))

    @torch.no_grad()
    def walk(self, data: Frames, chosen: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """What the model says of some sequences, in pieces of bounded size: log-probabilities, and of what.

        Of what: (M, n) numbers of frames or sequences, as in `data.codes`; -1 is none. Log-probabilities: (M, K).
        """
        piece = self.piece
        chosen = chosen[torch.argsort(data.lengths[chosen], descending=True, stable=True)]
        starts, lengths = data.starts[chosen], data.lengths[chosen]
        steps = self.about.steps(lengths)
        at = 0
        while at < len(chosen):
            most = int(steps[at])
            group = slice(at, at + max(1, piece // most))
            numbers, own = chosen[group], (starts[group], lengths[group])
            size = most if self.spec.bidirectional else max(1, piece // len(numbers))
            state = None
            for begin in range(0, most, size):
                end = min(begin + size, most)
                x = self.about.inputs(data.x, *own, begin, end).to(self.mean.device)
                y, state = self(x, (steps[group] - begin).clamp(0, end - begin), state)
                where, items = self.about.asked(numbers, *own, begin, end)
                for some, log in self._answers(y, where):
                    yield items[some], log
            at = group.stop

    def said(self, data: Frames, chosen: Tensor, truth: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """For each label of `data.codes` that is of a chosen sequence, the class said, and a log-probability.

        It is that of the truth, as numbers of this model's classes; without one, that of the class said. The others
        have the class -1.
        """
        count = len(data.x) if self.about.each == "frame" else len(data.lengths)
        said, log = torch.full((count + 1,), -1), torch.zeros(count + 1)  # the last is for what is none
        for items, p in self.walk(data, chosen):
            best, first = p.max(-1, keepdim=True)
            said[items] = first.expand_as(items)
            log[items] = best.expand_as(items) if truth is None else p.gather(1, truth[items].clamp(0, p.shape[1] - 1))
        return said[:-1], log[:-1]

    def read(self, files: Sequence[Path]) -> Frames:
        """Sequences with labels. Errors: FileNotFoundError, ValueError, ImportError."""
        data = read(files)
        self.truth(data, torch.arange(len(data.lengths)))
        return data

    def truth(self, data: Frames, chosen: Tensor) -> Tensor:
        """The labels as numbers of this model's classes, as `data.codes`. Those of the chosen sequences must be known.

        Where others are not, -1. Errors: ValueError.
        """
        self._check(data.places[0], data.x.shape[1])
        if data.each != self.about.each:
            raise ValueError(
                f"{data.places[0]} has a label for each {data.each}, but the model was trained on one for each "
                f"{self.about.each}: give such labels"
            )
        known = {label: k for k, label in enumerate(self.about.classes)}
        truth = torch.tensor([known.get(label, -1) for label in data.classes])[data.codes]
        asked = torch.zeros(len(data.lengths), dtype=torch.bool)
        asked[chosen] = True
        for item in ((truth < 0) & asked[data.sequences]).nonzero()[:1, 0].tolist():
            raise ValueError(
                f"{data.place(item)} has the label {data.classes[int(data.codes[item])]!r:.60}, which the training "
                f"part has not: expected one of its {len(known)} classes; correct it, or leave such sequences out"
            )
        return truth

    def _check(self, place: str, features: int) -> None:
        if features != self.about.features:
            raise ValueError(
                f"{place} has {counted(features, 'feature')} in a frame, but the model was trained on "
                f"{self.about.features}: give such frames"
            )

    def evaluate(self, data: Frames, chosen: Tensor | None = None) -> Results:
        """How the model does on sequences with labels: the chosen ones, or all.

        Errors: ValueError for a label that it does not know.
        """
        return report(self, data, torch.arange(len(data.lengths)) if chosen is None else chosen)

    def predict(self, files: Sequence[Path]) -> Iterator[pd.DataFrame]:
        """The label of each frame and its probability, or those of each sequence. Labels in the files are not read.

        Columns: sequence (its id or number), frame, label, probability; or sequence, label, probability.
        Errors: FileNotFoundError, ValueError, ImportError.
        """
        held: list[Part] = []
        frames = 0
        source = self._parts(files)
        for part in source:
            if (long := part.more and not self.spec.bidirectional) or frames >= self.piece:
                if held:
                    yield self._whole(held)
                held, frames = [], 0
            if long:
                yield from self._long(part, source)
                continue
            own = [part]
            while own[-1].more:
                own.append(next(source))
            held.append(part._replace(x=np.concatenate([each.x for each in own])) if len(own) > 1 else part)
            frames += len(held[-1].x)
        if held:
            yield self._whole(held)

    def _parts(self, files: Sequence[Path]) -> Iterator[Part]:
        for part in parts(files, labelled=False, most=self.piece):
            self._check(part.place, part.x.shape[1])
            yield part

    def _whole(self, held: list[Part]) -> pd.DataFrame:
        """What the model says of whole sequences."""
        x, lengths = np.concatenate([part.x for part in held]), torch.tensor([len(part.x) for part in held])
        names = [part.name for part in held]
        data = Frames(torch.from_numpy(x), lengths, torch.empty(0), (), self.about.each, names, [])
        said, log = self.said(data, torch.arange(len(held)))
        frames = torch.arange(len(x)) - data.starts.repeat_interleave(lengths)
        return self._table(names, data.sequences, frames, said, log)

    @torch.no_grad()
    def _long(self, part: Part, source: Iterator[Part]) -> Iterator[pd.DataFrame]:
        """What the model says of a long sequence, part by part. `source` has the other ones."""
        about, state, steps, told, total = self.about, None, 0, 0, 0
        zero, x = torch.zeros(1, dtype=torch.long), torch.empty(0, about.features)
        while True:
            x = torch.cat([x, torch.from_numpy(np.array(part.x))])
            total += len(part.x)
            length = torch.tensor([len(x)])
            # The steps of which all frames are there; at the end all that are left.
            ready = max(0, (len(x) - max(about.stack, about.skip)) // about.skip + 1)
            count = ready if part.more else int(about.steps(length))
            if count:
                y, state = self(about.inputs(x, zero, length, 0, count), None, state)
                if about.each == "frame":
                    found = self._best(y, torch.arange(min(count, max(0, about.delay - steps)), count))
                    said, log = (each.repeat_interleave(about.skip)[: total - told] for each in found)
                    frames, told = told + torch.arange(len(said)), told + len(said)
                    if len(said):
                        yield self._table([part.name], torch.zeros_like(said), frames, said, log)
                elif not part.more:
                    yield self._table([part.name], zero, zero, *self._best(y, torch.tensor([count - 1])))
            if not part.more:
                return
            x, steps = x[count * about.skip :], steps + count
            part = next(source)

    def _best(self, y: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        """The most probable class at each place, (M,), and its log-probability."""
        found = [log.max(-1) for _, log in self._answers(y, where)]
        none = torch.empty(0)
        return torch.cat([none.long(), *(f.indices for f in found)]), torch.cat([none, *(f.values for f in found)])

    def _table(self, names: list[Label], sequences: Tensor, frames: Tensor, said: Tensor, log: Tensor) -> pd.DataFrame:
        import pandas as pd

        columns: dict[str, Any] = {"sequence": _column(names)[sequences.numpy()]}
        if self.about.each == "frame":
            columns["frame"] = frames.numpy()
        columns["label"] = _column(self.about.classes)[said.numpy()]
        return pd.DataFrame(columns | {"probability": log.exp().numpy()})

    def look(self, path: Path) -> tuple[Trace, Any]:
        """The trace of the first steps of a file's first sequence. Errors: FileNotFoundError, ValueError."""
        pieces: list[Floats] = []
        for part in self._parts([path]):
            pieces.append(part.x)
            if not part.more or sum(map(len, pieces)) >= LOOK * self.about.skip + self.about.stack:
                break
        return self.trace(torch.from_numpy(np.concatenate(pieces)), LOOK), None

    def trace(self, x: Tensor, most: int) -> Trace:
        """The trace of the first steps of a sequence (F, D)."""
        length = torch.tensor([len(x)])
        steps = min(int(self.about.steps(length)), most)
        with trace(self) as run, torch.no_grad():
            self(self.about.inputs(x, torch.zeros(1, dtype=torch.long), length, 0, steps))
        found: Trace = run["recurrent"]
        return found


def _column(labels: Sequence[Label]) -> Any:
    """Labels as an array: texts stay as long as they are."""
    return np.array(labels, np.int64) if set(map(type, labels)) == {int} else np.array(labels, np.object_)


class Batch(NamedTuple):
    """What a step of training reads."""

    x: Tensor  # (T, B, stack * D)
    lengths: Tensor  # (B,) steps
    where: Tensor  # (M,) places in the output (T, B) that are asked
    truth: Tensor  # (M, n) numbers of classes; as many as there are classes is none
    first: bool  # do the sequences begin here


class Chunks(Batches):
    """Batches of whole sequences, each cut into chunks of so many steps, which come one after another.

    Sequences of as many chunks come together, mixed anew in each pass, so that all passes have the same length. Each
    chunk is a run of its own: where dropout has one mask for a whole sequence, here it has one for each chunk.
    """

    def __init__(
        self, chunks: Tensor, size: int, make: Callable[[Tensor, int], Batch], seed: int, share: Share
    ) -> None:
        self.chunks, self.size, self.make, self.seed, self.share = chunks, size * share.world, make, seed, share
        # The longest of each batch: of ordered numbers the last one in each piece.
        ordered: list[int] = chunks.sort().values.tolist()
        self.count = sum(ordered[self.size - 1 :: self.size]) + (ordered[-1] if len(ordered) % self.size else 0)

    def __len__(self) -> int:
        return self.count

    def walk(self, number: int, begin: int = 0) -> Iterator[tuple[Batch, bool]]:
        generator = seeded(self.seed, number)
        order = torch.randperm(len(self.chunks), generator=generator)
        batches = torch.split(order[torch.argsort(self.chunks[order], stable=True)], self.size)
        for k in torch.randperm(len(batches), generator=generator).tolist():
            own = batches[k][self.share.rank :: self.share.world]
            for chunk in range(int(self.chunks[batches[k][-1]])):
                if begin:
                    begin -= 1
                else:
                    yield self.make(own if len(own) else batches[k][:1], chunk), len(own) > 0


class FramesJob(Job):
    """Trains a FrameClassifier. Whole sequences, by a seeded permutation, are kept for validation and test."""

    config: FramesConfig
    model: FrameClassifier

    def __init__(self, data: Frames, config: FramesConfig, share: Share | None = None) -> None:
        self.data, self.config, self.share = data, config, share or Share()
        self.train, self.validation, self.test = self.split()
        for name, value in (("delay", config.delay or None), ("truncate", config.truncate)):
            if data.each == "sequence" and value is not None:
                raise ValueError(
                    f"{name} is {value}, but {data.places[0]} has one label for the whole sequence, which is said at "
                    f"its end: leave {name} out"
                )
        part = torch.zeros(len(data.lengths), dtype=torch.bool)
        part[self.train] = True
        counts = torch.bincount(data.codes[part[data.sequences]], minlength=len(data.classes))
        there = counts.nonzero()[:, 0]
        if not 2 <= len(there) <= MOST:
            raise ValueError(
                f"The training part has {counted(len(there), 'different label')}: expected 2 to {MOST:,}; give "
                "sequences that have so many"
            )
        about = Answers(
            classes=tuple(data.classes[k] for k in there.tolist()),
            counts=tuple(counts[there].tolist()),
            each=data.each,
            features=data.x.shape[1],
            stack=config.stack,
            skip=config.skip,
            delay=config.delay,
        )
        spec = config.spec(about.features * about.stack)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = FrameClassifier(spec, about, config.dropout)
            orthogonal(self.model.recurrent, spec)
        if config.normalise:
            self._normalise(part.repeat_interleave(data.lengths))
        classes = len(about.classes)
        balanced = counts.sum() / (classes * counts[there].float())
        weights = balanced if config.class_weights == "balanced" else torch.ones(classes)
        # One more, of what is none: it stands last, where -1 points to.
        self.weights = torch.cat([weights, torch.zeros(1)])
        self.truth = torch.cat([self.model.truth(data, torch.arange(len(data.lengths))), torch.tensor([classes])])
        self.starts = data.starts
        self.state: Any = None
        steps = about.steps(data.lengths[self.train])
        self.batches: Batches
        if config.truncate is None:
            self.batches = Shuffled(len(self.train), config.batch, self._batch, config.seed, self.share, steps)
        else:
            chunks = (steps + config.truncate - 1).div(config.truncate, rounding_mode="floor")
            self.batches = Chunks(chunks, config.batch, self._batch, config.seed, self.share)

    def split(self) -> tuple[Tensor, Tensor, Tensor]:
        """Numbers of the sequences to train on, to validate and to test. Errors: ValueError."""
        return split(len(self.data.lengths), self.config)

    def _normalise(self, chosen: Tensor) -> None:
        """By mean and deviation of each feature over the chosen frames, (F,) of bool."""
        x, count = self.data.x, int(chosen.sum())
        blocks = [slice(begin, begin + PIECE) for begin in range(0, len(x), PIECE)]
        mean = sum((x[b][chosen[b]].double().sum(0) for b in blocks), torch.zeros(())) / count
        square = sum(((x[b][chosen[b]].double() - mean).square().sum(0) for b in blocks), torch.zeros(())) / count
        still = square.sqrt() <= 1e-6 * mean.abs()  # what float32's rounding leaves, or 0
        self.model.mean.copy_(mean)
        self.model.scale.copy_(torch.where(still, 1.0, square.rsqrt()))

    def _batch(self, chosen: Tensor, chunk: int = 0) -> Batch:
        """Of sequences of the training part, (B,), all steps or one chunk of them."""
        about, numbers, size = self.model.about, self.train[chosen], self.config.truncate
        own = self.starts[numbers], self.data.lengths[numbers]
        steps = about.steps(own[1])
        begin, end = 0, int(steps.max())
        if size is not None:  # another process's sequences may be longer: one step at least
            begin, end = chunk * size, max(min((chunk + 1) * size, end), chunk * size + 1)
        where, items = about.asked(numbers, *own, begin, end)
        x = about.inputs(self.data.x, *own, begin, end)
        return Batch(x, (steps - begin).clamp(0, end - begin), where, self.truth[items], chunk == 0)

    def loss(self, batch: Batch) -> tuple[Tensor, float]:
        """The sum of the cross-entropies, each times its class's weight, and the sum of the weights."""
        state = None
        if not batch.first and self.state is not None:
            state = _of_each(self.state, lambda s: s[:, : batch.x.shape[1]].to(batch.x.device))
        y, after = self.model(batch.x, batch.lengths, state)
        if self.config.truncate is not None:
            self.state = _of_each(after, Tensor.detach)
        log = self.model.answer(y, batch.where)
        weights = self.weights.to(log.device)[batch.truth]  # (M, n)
        total = -(weights * log.gather(1, batch.truth.clamp(max=log.shape[1] - 1))).sum()
        if state is not None:  # only first chunks read learned states, but every loss must reach them
            total = total + 0 * sum(p.sum() for name, p in self.model.recurrent.named_parameters() if "initial" in name)
        return total, float(weights.sum())

    def score(self) -> dict[str, tuple[float, float]]:
        """The cross-entropy with the weights of training, and the share of labels that are right, without weights."""
        own = self.validation[list(self.share.of(len(self.validation)))]
        said, log = self.model.said(self.data, own, self.truth)
        there = said >= 0
        truth, weights = self.truth[:-1][there], self.weights[self.truth[:-1][there]].double()
        return {
            "cross-entropy": (-float((weights * log[there]).sum()), float(weights.sum())),
            "accuracy": (float((said[there] == truth).sum()), float(there.sum())),
        }

    def results(self) -> Results:
        """How the model does on the test part."""
        return self.model.evaluate(self.data, self.test)

    def carried(self) -> dict[str, Tensor]:
        """With truncation the states after the last chunk, of as many sequences as a batch may have."""
        spec, found = self.model.spec, {}
        if self.config.truncate is not None:
            states = self.state if isinstance(self.state, tuple) else (self.state,) * len(spec.definition.states)
            for (name, size), state in zip(spec.state_sizes(spec.walks[0]).items(), states, strict=True):
                found[name] = torch.zeros(len(spec.walks), self.config.batch, size, device=self.model.mean.device)
                if state is not None:
                    found[name][:, : state.shape[1]] = state
        return found

    def carry(self, carried: dict[str, Tensor] | None) -> None:
        """Goes on with these states; None: with the initial ones."""
        states = tuple((carried or {}).values())
        self.state = None if not states else states[0] if len(states) == 1 else states


def _of_each(state: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """A function of each of the states."""
    return tuple(map(function, state)) if isinstance(state, tuple) else function(state)


def split(total: int, config: FramesConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers of the sequences to train on, to validate and to test, by a seeded permutation. Errors: ValueError."""
    test = held_out("test", config.test, total, "sequences")
    validation = held_out("validation", config.validation, total - test, "sequences")
    if (left := total - test - validation) < 1:
        raise ValueError(
            f"The data has {counted(total, 'sequence')}, which leaves {max(left, 0)} to train on after {validation} "
            f"for validation and {test} for the test: expected at least 1; give more sequences, or make validation or "
            "test smaller"
        )
    order = torch.randperm(total, generator=seeded(config.seed))
    return order[test + validation :], order[test : test + validation], order[:test]


TASK = Task(FrameClassifier, read, FramesJob)
