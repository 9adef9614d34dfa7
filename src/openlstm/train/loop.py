"""Trains a job, on Lightning Fabric: in one process or in many under torchrun, resumable, Ctrl-C safe.

Everything random in an epoch follows from the seed and the epoch's number, and a checkpoint has all that goes over from
one epoch to the next. So a run that was killed and resumed ends with the same bits as one that was not.

With several processes each has its share of every batch. A gradient step follows the mean over all predictions in all
shares, so that two processes do what one does with batches of twice the size.

Fabric brings devices, processes and precision; the loop is written out here. Lightning's Trainer calls some forty hooks
in each step, which take 0.4 ms: a tenth of the time where there are 128 units.
"""

from __future__ import annotations

import dataclasses
import gc
import io
import itertools
import logging
import math
import os
import pickle
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from lightning.fabric.loggers.tensorboard import TensorBoardLogger
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from .. import file
from ..words import counted
from .config import Config
from .task import VERSION, Job, Share, seeded

CHECKPOINT, CURVE, EVENTS = "last.ckpt", "metrics.csv", "events"
EVERY = 10.0  # seconds between checkpoints, at least; an epoch that is lost is trained again
SMALL = 64  # up to so many units, a second thread gains nothing, and loses fivefold where the cores are busy


@dataclass
class Outcome:
    """How a training run went."""

    stopped: str = "epochs"  # why: "epochs", "patience" or "interrupt"
    epochs: int = 0  # that were completed
    best_epoch: int = 0  # 1 is the first; 0: interrupted before any was over
    best_score: float = float("inf")
    seconds: float = 0.0
    resumed: int = 0  # the epochs that were there when the run was resumed
    curve: list[dict[str, float]] = field(default_factory=list)  # for each epoch the training loss and the scores


def train(
    job: Job,
    *,
    folder: Path | None = None,
    resume: bool = False,
    data: str = "",
    progress: Console | None = None,
    keep: Callable[[], None] = lambda: None,
) -> Outcome:
    """Trains until the score has not improved for a while, and leaves the best weights in the job's model.

    folder: for last.ckpt, metrics.csv and TensorBoard's events; None writes nothing. resume: go on from last.ckpt if it
    is there. data: what stands for the data in the checkpoint; a run is not resumed with other data. keep: called at
    each improvement while the model has the weights of it, in the first process only. progress: where to show how it
    goes. At Ctrl-C, this returns with the best weights so far.
    Errors: ValueError where the score is no number in any epoch, or where a checkpoint is of another run.
    """
    config, share = job.config, Share.here()
    checkpoint = None if folder is None else folder / CHECKPOINT
    begin = time.perf_counter()
    with _quiet(), threads(config), torch.random.fork_rng(devices=[]):
        if folder is not None and resume:
            for left in folder.glob(f".*{file.TEMPORARY}"):  # of a process that was killed while it wrote
                left.unlink(missing_ok=True)
        found = None
        if resume and checkpoint is not None and checkpoint.is_file():
            found = read_checkpoint(checkpoint)
            _check(found, checkpoint, config, data)
        with _together(share, config.device):
            outcome, best = _trained(job, share, folder, data, keep, progress, found)
    outcome.seconds += time.perf_counter() - begin
    if best is not None:
        job.model.load_state_dict(best)
    elif outcome.stopped != "interrupt":
        raise ValueError(
            "Training gave no finite score in any epoch: expected numbers; check the data, or make the learning rate "
            "smaller"
        )
    job.model.cpu().eval()
    return outcome


def _trained(
    job: Job,
    share: Share,
    folder: Path | None,
    data: str,
    keep: Callable[[], None],
    progress: Console | None,
    found: Mapping[str, Any] | None,
) -> tuple[Outcome, dict[str, Tensor] | None]:
    """How training went, and the best weights."""
    run = _Run(job, share, folder, data, keep)
    if found is not None:
        run.load(found)
    with _Shown(progress if share.rank == 0 else None, run) as shown:
        run.train(shown)
    return run.outcome, run.best


@contextmanager
def _together(share: Share, device: str) -> Iterator[None]:
    """Inside, the processes of a run are connected."""
    ours = share.world > 1 and not dist.is_initialized()
    if ours:
        _join(share, device)
    try:
        yield
    finally:
        if ours and dist.is_initialized():
            # What shared the gradients must go first: it would wait for the connection's threads, and they for Python.
            gc.collect()
            dist.destroy_process_group()


def _join(share: Share, device: str) -> None:
    """Joins the processes of one machine, under a name of this attempt's own.

    torchrun gives the workers that it restarts the store of those that failed, and whoever is first would call at an
    address where nobody is left. Between machines the number of the attempt need not be the same, and Lightning joins.
    """
    if os.environ.get("GROUP_WORLD_SIZE") != "1":
        return
    store, rank, world = next(dist.rendezvous("env://", share.rank, share.world))  # type: ignore[attr-defined] # both are documented
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    own = dist.PrefixStore(f"attempt {attempt}", store)  # type: ignore[attr-defined]
    cuda = device != "cpu" and torch.cuda.is_available()
    dist.init_process_group("nccl" if cuda else "gloo", store=own, rank=rank, world_size=world)


class _Step(nn.Module):
    """A job's loss as a module: processes share the gradients of what goes through `forward`."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.model, self.job = job.model, job

    def forward(self, batch: Any) -> tuple[Tensor, float]:
        """As `Job.loss`."""
        return self.job.loss(batch)


class _Run:
    """A job in training."""

    def __init__(self, job: Job, share: Share, folder: Path | None, data: str, keep: Callable[[], None]) -> None:
        self.job, self.share, self.folder, self.data, self.keep = job, share, folder, data, keep
        self.outcome = Outcome()
        self.best: dict[str, Tensor] | None = None
        self.steps = job.steps
        self.saved = time.monotonic()
        config, self.fabric = job.config, fabric(job.config)
        if share.world > 1:
            self.fabric.launch()
        self.factor = schedule(config, self.steps)
        self.step, self.optimizer = self.fabric.setup(_Step(job), _optimizer(job))
        logs = folder is not None and share.rank == 0
        self.logger = TensorBoardLogger(str(folder), name="", version=EVENTS) if logs else None

    @property
    def finished(self) -> bool:
        """Is nothing left to train."""
        outcome, config = self.outcome, self.job.config
        return outcome.epochs >= config.epochs or self.out_of_patience

    @property
    def out_of_patience(self) -> bool:
        """Did the score not improve for too long, or become no number."""
        outcome = self.outcome
        without = outcome.epochs - outcome.best_epoch
        astray = bool(outcome.curve) and not math.isfinite(self.score_of(outcome.curve[-1]))
        return without >= self.job.config.patience or astray

    @staticmethod
    def score_of(epoch: Mapping[str, float]) -> float:
        """What training is to make small: it stands behind the training loss."""
        return list(epoch.values())[1]

    def train(self, shown: _Shown) -> None:
        """Trains to the end, or until Ctrl-C."""
        outcome = self.outcome
        try:
            while not self.finished:
                self.epoch(shown)
            outcome.stopped = (
                "patience" if self.out_of_patience and outcome.epochs < self.job.config.epochs else "epochs"
            )
        except KeyboardInterrupt:
            outcome.stopped = "interrupt"
        finally:
            if self.logger is not None:
                self.logger.finalize("")

    def epoch(self, shown: _Shown) -> None:
        """Trains an epoch, scores it, and writes what there is to keep."""
        job, outcome, world = self.job, self.outcome, self.share.world
        first = outcome.epochs * self.steps
        torch.manual_seed(seeded(job.config.seed, outcome.epochs, self.share.rank).initial_seed())
        job.model.train()
        lost = torch.zeros((), dtype=torch.float64, device=self.fabric.device)
        for number, (batch, counts) in enumerate(self.batches(first), first):
            for group in self.optimizer.param_groups:
                group["lr"] = job.config.learning_rate * self.factor(number)
            total, count = self.step(self.fabric.to_device(batch))
            everywhere = float(count) * counts
            if world > 1:
                sent = torch.tensor([everywhere], dtype=torch.float64, device=self.fabric.device)
                dist.all_reduce(sent)
                everywhere = float(sent)
            # Processes take the mean of their gradients.
            loss = total * (counts * world / max(everywhere, 1.0))
            self.optimizer.zero_grad()
            self.fabric.backward(loss)
            # What is no number stays so: the score tells.
            self.fabric.clip_gradients(self.step, self.optimizer, max_norm=job.config.clip, error_if_nonfinite=False)
            self.optimizer.step()
            lost += loss.detach()
            shown.step(number + 1)
        job.model.eval()
        with torch.no_grad():
            sums = job.score()
        means = self.means({"training loss": (float(lost) / world, self.steps / world)} | sums)
        outcome.epochs += 1
        outcome.curve.append(means)
        if (score := self.score_of(means)) < outcome.best_score:
            outcome.best_score, outcome.best_epoch = score, outcome.epochs
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in job.model.state_dict().items()}
            self.keep()
        if self.logger is not None:
            rate = self.optimizer.param_groups[0]["lr"]
            self.logger.log_metrics(means | {"learning rate": rate}, step=outcome.epochs)
            self.write_curve()
        self.save()
        shown.epoch()

    def batches(self, at: int) -> Iterator[tuple[Any, bool]]:
        """Those of an epoch, from the batch of this number on. An epoch need not be one pass over the data."""
        batches, end = self.job.batches, at + self.steps
        while at < end:
            number, begin = divmod(at, len(batches))
            for each in itertools.islice(batches.walk(number, begin), end - at):
                yield each
                at += 1

    def means(self, sums: Mapping[str, tuple[float, float]]) -> dict[str, float]:
        """Sums over counts, over all processes."""
        table = torch.tensor(list(sums.values()), dtype=torch.float64)  # (N, 2)
        if self.share.world > 1:
            table = table.to(self.fabric.device)
            dist.all_reduce(table)
        return {name: float(total / count) for name, (total, count) in zip(sums, table.cpu(), strict=True)}

    def write_curve(self) -> None:
        """The curve as a CSV file: whole each time, so that it is right after a resumption."""
        import pandas as pd

        assert self.folder is not None
        curve = pd.DataFrame(self.outcome.curve)
        curve.insert(0, "epoch", range(1, len(curve) + 1))
        file.replace(self.folder / CURVE, curve.to_csv(index=False).encode())

    def save(self) -> None:
        """Writes the checkpoint, whole or not at all, but not too often."""
        if self.folder is None:
            return
        due = time.monotonic() - self.saved >= EVERY or self.finished
        if not self.fabric.broadcast(due):  # the first process's clock holds for all, who gather together
            return
        carried = {name: tensor[None] for name, tensor in self.job.carried().items()}
        if self.share.world > 1:  # of all processes, (world, ...)
            for name, tensor in carried.items():
                every = [torch.empty_like(tensor) for _ in range(self.share.world)]
                dist.all_gather(every, tensor.contiguous())
                carried[name] = torch.cat(every)
        if self.share.rank == 0:
            out = io.BytesIO()
            found = {
                "version": VERSION,
                "task": self.job.config.task,
                "config": dataclasses.asdict(self.job.config),
                "data": self.data,
                "outcome": dataclasses.asdict(self.outcome),
                "model": self.job.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "precision": self.fabric.strategy.precision.state_dict(),
                "best": self.best,
                "carried": carried,
            }
            torch.save(found, out)
            file.replace(self.folder / CHECKPOINT, out.getvalue())
        self.saved = time.monotonic()

    def load(self, found: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self.outcome = Outcome(**found["outcome"])
        self.outcome.resumed = self.outcome.epochs
        self.best = found["best"]
        self.job.model.load_state_dict(found["model"])
        self.optimizer.load_state_dict(found["optimizer"])
        self.fabric.strategy.precision.load_state_dict(found["precision"])
        own = {
            name: tensor[self.share.rank]
            for name, tensor in found["carried"].items()
            if len(tensor) == self.share.world
        }
        self.job.carry({name: tensor.to(self.fabric.device) for name, tensor in own.items()} or None)


def fabric(config: Config) -> Fabric:
    """The device, the processes and the precision of a run. Errors: ValueError where they cannot be had here."""
    world = Share.here().world
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    try:
        with _quiet():
            made = Fabric(
                accelerator=config.device,
                devices=here if world > 1 else 1,
                num_nodes=world // here if world > 1 else 1,
                strategy="ddp" if world > 1 else "auto",
                precision=config.precision,  # type: ignore[arg-type] # its choices are Lightning's
            )
    except RuntimeError as error:
        raise ValueError(f"device is '{config.device}', which cannot be had here ({error}): take cpu") from None
    if config.precision == "16-mixed" and made.device.type == "cpu":  # Lightning would take another
        raise ValueError("precision is '16-mixed', which the CPU does not have: take bf16-mixed, or device gpu")
    return made


def _optimizer(job: Job) -> torch.optim.Optimizer:
    config, parameters = job.config, list(job.model.parameters())
    # Decay would pull gains, biases and learned states to 0, where they have no reason to be.
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    # Fused: one operation for all parameters. With scaled gradients it cannot be clipped before.
    fused = config.precision != "16-mixed"
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.learning_rate, fused=fused)


def schedule(config: Config, steps: int) -> Callable[[int], float]:
    """The factor of the learning rate at each step, of an epoch of so many."""
    total = config.epochs * steps

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / (config.warmup + 1))
        left = max(0.0, 1 - step / total)
        fall = {"constant": 1.0, "linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left)}[config.schedule]
        return rise * fall

    return factor


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a checkpoint holds, on the CPU. Nothing in it is executed. Errors: ValueError."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        if found["version"] == VERSION:
            return dict(found)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, OSError):
        pass
    raise ValueError(
        f"'{path}' is not a checkpoint of this version of openlstm: begin anew, with --overwrite or in another folder"
    )


def _check(found: dict[str, Any], path: Path, config: Config, data: str) -> None:
    anew = "give the same as then, or begin anew in another folder"
    if found["task"] != config.task:
        raise ValueError(f"'{path}' is of the task '{found['task']}', this run is of '{config.task}': {anew}")
    now = dataclasses.asdict(config)
    different = [name for name in now if name != "device" and found["config"].get(name) != now[name]]
    if different:
        name = different[0]
        raise ValueError(f"'{path}' is of a run with {name} {found['config'].get(name)}, now it is {now[name]}: {anew}")
    if found["data"] != data:
        raise ValueError(f"'{path}' is of a run on other data: {anew}")


class _Shown:
    """How a run goes: one line for all of it on a terminal; elsewhere a line now and then."""

    def __init__(self, console: Console | None, run: _Run) -> None:
        self.console, self.run = console, run
        self.progress: Progress | None = None
        self.line = TaskID(0)
        self.begun = self.said = time.monotonic()

    def __enter__(self) -> _Shown:
        if self.console is not None and self.console.is_terminal:
            columns = (TextColumn("epoch {task.fields[epoch]}"), BarColumn(), TextColumn("{task.description}"))
            self.progress = Progress(*columns, TimeRemainingColumn(), console=self.console, transient=True)
            steps, outcome = self.run.steps, self.run.outcome
            total = steps * self.run.job.config.epochs
            self.line = self.progress.add_task("", total=total, completed=steps * outcome.epochs, epoch=self._epoch())
            self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.progress is not None:
            self.progress.stop()

    def step(self, done: int) -> None:
        """So many steps are done."""
        if self.progress is not None:
            self.progress.update(self.line, completed=done, epoch=self._epoch(), description=self._how())

    def epoch(self) -> None:
        """One more epoch is."""
        outcome, epochs = self.run.outcome, self.run.job.config.epochs
        if self.console is not None and self.progress is None and time.monotonic() - self.said > 30:
            self.said = time.monotonic()
            each = (self.said - self.begun) / (outcome.epochs - outcome.resumed)
            left = f"at most {counted(round(each * (epochs - outcome.epochs) / 60), 'minute')} left"
            self.console.print(f"epoch {outcome.epochs}/{epochs}, {self._how()}, {left}", soft_wrap=True)

    def _epoch(self) -> str:
        return f"{self.run.outcome.epochs + 1}/{self.run.job.config.epochs}"

    def _how(self) -> str:
        outcome = self.run.outcome
        if not outcome.curve:
            return ""
        loss, score = list(outcome.curve[-1].values())[:2]
        best = f"best {outcome.best_score:.4g} of epoch {outcome.best_epoch}"
        return f"training {loss:.4g}, validation {score:.4g}, {best}"


@contextmanager
def threads(config: Config) -> Iterator[None]:
    """torch's threads as a configuration wants them."""
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads or (1 if config.hidden <= SMALL else before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's banners, tips and advice; its errors, and others' warnings, are still heard."""
    names = ("lightning.fabric", "lightning.pytorch", "lightning", "tensorboardX")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            known = (
                "GPU available but not used",
                ".*`isinstance\\(treespec, LeafSpec\\)`",
                ".*AMP with fp16 is not supp",
            )
            for message in known:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
