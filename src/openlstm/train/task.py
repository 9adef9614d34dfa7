"""What a task is: data read from files, a job that trains on them, and a model that is kept in one file."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from .. import file
from ..spec import Spec
from .config import CONFIGS, Config

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from ..tracing import Trace

NUMBER = re.compile(r"|nan|−?inf|[+−-]?[\d,.]+(e[+-]?\d+)?\s?%?")  # as tables have them
VERSION = 1  # of what a task writes into a model file and a checkpoint

M = TypeVar("M", bound="Trained")


@dataclass(frozen=True)
class Share:
    """Which process this is, of how many that train together."""

    rank: int = 0
    world: int = 1

    @classmethod
    def here(cls) -> Share:
        """As torchrun says."""
        return cls(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))

    def of(self, count: int) -> range:
        """This process's numbers below `count`. All processes together have each once."""
        return range(self.rank, count, self.world)


def seeded(*numbers: int) -> torch.Generator:
    """Random numbers that depend on all of these numbers."""
    generator = torch.Generator()
    mixed = 0
    for number in numbers:  # splitmix64, so that (1, 0) and (0, 1) have nothing in common
        mixed = (mixed + number + 0x9E3779B97F4A7C15) % 2**64
        mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % 2**64
        mixed ^= mixed >> 31
    generator.manual_seed(mixed % 2**63)
    return generator


class Batches(ABC):
    """What is trained on. Batch k of pass n over the data is the same whenever it is asked for."""

    @abstractmethod
    def __len__(self) -> int:
        """The batches in one pass."""

    @abstractmethod
    def walk(self, number: int, begin: int = 0) -> Iterator[tuple[Any, bool]]:
        """The batches of a pass from the `begin`-th on, and for each: does it count? Where there are fewer sequences
        than processes, a process without one is given one that does not."""


class Shuffled(Batches):
    """Sequences in an order of their own for each pass.

    make: from indices, (B,), to a batch. size: sequences in each process's batch. lengths: of each sequence; given,
    sequences of like length come together, so that little is padded.
    """

    def __init__(
        self,
        count: int,
        size: int,
        make: Callable[[Tensor], Any],
        seed: int,
        share: Share | None = None,
        lengths: Sequence[int] | Tensor | None = None,
    ) -> None:
        self.count, self.make, self.seed, self.share = count, make, seed, share or Share()
        self.size = size * self.share.world
        self.lengths = None if lengths is None else torch.as_tensor(lengths)

    def __len__(self) -> int:
        return -(-self.count // self.size)

    def walk(self, number: int, begin: int = 0) -> Iterator[tuple[Any, bool]]:
        generator = seeded(self.seed, number)
        order = torch.randperm(self.count, generator=generator)
        batches = list(torch.split(order, self.size))
        if self.lengths is not None:
            # Sorted within pieces of many batches only, and the batches shuffled again: no order is learned.
            pieces = torch.split(order, 64 * self.size)
            ordered = torch.cat([piece[torch.argsort(self.lengths[piece], stable=True)] for piece in pieces])
            batches = list(torch.split(ordered, self.size))
            batches = [batches[k] for k in torch.randperm(len(batches), generator=generator)]
        for chosen in batches[begin:]:
            own = chosen[self.share.rank :: self.share.world]
            yield self.make(own if len(own) else chosen[:1]), len(own) > 0


@dataclass(frozen=True)
class Table:
    """Numbers to show, as text."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str = ""

    @property
    def numbers(self) -> tuple[bool, ...]:
        """Which columns hold numbers alone, and so stand to the right."""
        columns = zip(*self.rows, strict=True) if self.rows else ((),) * len(self.columns)
        return tuple(all(NUMBER.fullmatch(cell) for cell in column) for column in columns)


@dataclass(frozen=True)
class Picture:
    """A figure to show."""

    title: str
    figure: Figure
    note: str = ""


@dataclass(frozen=True)
class Passage:
    """Text to show as it is."""

    title: str
    text: str
    note: str = ""


@dataclass
class Results:
    """How a model does on data that it was not trained on. `parts`: to show, the most telling first."""

    metrics: dict[str, Any]
    parts: list[Table | Picture | Passage] = field(default_factory=list)


class Trained(nn.Module, ABC):
    """A model with all that is needed to use it.

    spec: of the recurrent layers. about: the rest, a frozen dataclass of what JSON can hold; its `__post_init__` checks
    what a file says. A subclass builds all its parameters from these two.
    """

    kind: ClassVar[str]
    About: ClassVar[type]

    def __init__(self, spec: Spec, about: Any, dropout: float = 0.0) -> None:
        super().__init__()
        self.spec, self.about, self.rate = spec, about, dropout

    @property
    def stages(self) -> list[tuple[str, Any]]:
        """What it does at each step, as `stream.STAGES` has it, so that it runs without torch; empty: not by steps."""
        return []

    @abstractmethod
    def read(self, files: Sequence[Path]) -> Any:
        """Data with the truth, for `evaluate`. Errors: FileNotFoundError, ValueError."""

    @abstractmethod
    def evaluate(self, data: Any) -> Results:
        """How the model does on data."""

    @abstractmethod
    def predict(self, files: Sequence[Path]) -> Iterator[pd.DataFrame]:
        """What the model says of files, in pieces, so that a file may be larger than memory.

        A subclass may take more arguments by name, each with a default. Errors: FileNotFoundError, ValueError.
        """

    @abstractmethod
    def look(self, path: Path) -> tuple[Trace, Any]:
        """The trace of a run on a file, and what to show beside it (None: the layers' input)."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes one safetensors file, whole or not at all."""
        about = {"task": self.kind, "version": VERSION} | dataclasses.asdict(self.about)
        metadata = {"spec": self.spec.key, "task": json.dumps(about)}
        if self.stages and not self.spec.bidirectional:
            metadata["stages"] = json.dumps(self.stages)
        file.write(path, self.state_dict(), metadata)

    @classmethod
    def load(cls: type[M], path: str | os.PathLike[str]) -> M:
        """The model that `save` wrote. Nothing in the file is executed. Errors: FileNotFoundError, ValueError."""
        tensors, metadata = file.read(path, "torch")
        if (kind := kind_of(path, metadata)) != cls.kind:
            raise ValueError(f"'{path}' is a model of the task '{kind}', expected one of '{cls.kind}'")
        spec = file.read_spec(path, metadata)
        try:
            about = json.loads(metadata["task"])
            del about["task"], about["version"]
            about = cls.About(**about)
            with torch.device("meta"):
                model = cls(spec, about)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError) as error:
            raise ValueError(f"'{path}' holds a task that this openlstm cannot use: {error}") from None
        wanted = model.state_dict()
        for name in wanted.keys() | tensors.keys():
            shapes = [tuple(some[name].shape) if name in some else "missing" for some in (tensors, wanted)]
            if shapes[0] != shapes[1]:
                expected = "no such parameter" if shapes[1] == "missing" else shapes[1]
                raise ValueError(f"'{path}' does not fit its task: {name} is {shapes[0]}, expected {expected}")
            if tensors[name].dtype != wanted[name].dtype:
                raise ValueError(f"'{path}': {name} is of {tensors[name].dtype}, expected {wanted[name].dtype}")
        model.load_state_dict(tensors, assign=True)
        for parameter in model.parameters():
            parameter.requires_grad_()
        return model.eval()


def kind_of(path: str | os.PathLike[str], metadata: Mapping[str, str]) -> str:
    """The task whose model a file is, by its metadata. Errors: ValueError."""
    if "task" not in metadata:
        raise ValueError(f"'{path}' holds recurrent layers and no task: expected a model that `openlstm train` wrote")
    try:
        about = json.loads(metadata["task"])
        kind, version = about["task"], about["version"]
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ValueError(f"'{path}' holds a task that cannot be read: train it again") from None
    if kind not in CONFIGS:
        raise ValueError(f"'{path}' is a model of the task {kind!r}, expected one of {', '.join(CONFIGS)}")
    if version != VERSION:
        raise ValueError(f"'{path}' has version {version!r} of a task, this openlstm reads {VERSION}: train it again")
    return str(kind)


class Job(ABC):
    """One training run: a model, what it is trained on, and what it is measured by.

    Each process has its own job with its own share of the data, and they are made from the same data and configuration.
    """

    config: Config
    model: Trained
    batches: Batches

    @abstractmethod
    def loss(self, batch: Any) -> tuple[Tensor, float]:
        """Of one batch, in training mode: the sum over what is predicted, and how many predictions that were.

        A gradient step follows the sum over all processes, divided by the count over all of them.
        """

    @abstractmethod
    def score(self) -> dict[str, tuple[float, float]]:
        """On this process's share of the validation part, in evaluation mode: sums and counts, by name.

        What training is to make small comes first.
        """

    @abstractmethod
    def results(self) -> Results:
        """On the whole test part, with the best weights. Called in one process."""

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return self.config.steps_per_epoch or len(self.batches)

    def carried(self) -> dict[str, Tensor]:
        """What goes over from one batch to the next beside weights, such as states. It is kept in checkpoints."""
        return {}

    def carry(self, carried: dict[str, Tensor] | None) -> None:  # noqa: B027 - most tasks carry nothing
        """Takes what `carried` gave; None: begin anew."""


@dataclass(frozen=True)
class Task:
    """A task's parts, by which the command line uses it."""

    model: type[Trained]
    read: Callable[[Sequence[Path], Any], Any]  # files and configuration to data; bad input is a ValueError
    job: Callable[[Any, Any, Share], Job]  # data, configuration, share


def task(kind: str) -> Task:
    """The parts of a task by its name: `TASK` in the module of that name."""
    found: Task = importlib.import_module(f".{kind}", __package__).TASK
    return found


def gates(trace: Trace, title: str, note: str = "", layer: int = 0, read: Sequence[str] | None = None) -> Picture:
    """The gates and the memory of a layer over the one sequence of a trace, units sorted by their last state.

    read: a text for each step, of what was read there.
    """
    from ..plots import trace_figure

    order = trace.spec.definition.states[-1]
    return Picture(title, trace_figure(trace, layer=layer, order=order, time=read), note)


def orthogonal(recurrent: nn.Module, spec: Spec) -> None:
    """Makes the recurrent weights of each gate orthogonal, so that at first states neither grow nor fade by them."""
    with torch.no_grad():
        for walk in spec.walks:
            weight = getattr(recurrent, "weight_hh" + walk.suffix)
            for block in weight.split(walk.hidden_size):
                nn.init.orthogonal_(block)
