"""Trains a job, on Lightning: in one process or in many under torchrun, resumable, Ctrl-C safe.

Everything random in an epoch follows from the seed and the epoch's number, and a checkpoint has all that goes over from
one epoch to the next. So a run that was killed and resumed ends with the same bits as one that was not.

With several processes each has its share of every batch. A gradient step follows the mean over all predictions in all
shares, so that two processes do what one does with batches of twice the size.
"""

from __future__ import annotations

import dataclasses
import io
import logging
import math
import os
import pickle
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.fabric.plugins.io import CheckpointIO
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch import Tensor

from .. import file
from .config import Config
from .task import VERSION, Batches, Job, Share, seeded

CHECKPOINT, EVENTS = "last.ckpt", "events"
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
    run = _Run(job, share, data, keep if share.rank == 0 else lambda: None, folder)
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
        callbacks: list[pl.Callback] = [
            EarlyStopping("score", patience=config.patience, check_on_train_epoch_end=True, verbose=False),
            *([_Keep(checkpoint)] if checkpoint is not None else []),
            *([_Bar(progress, run)] if progress is not None and share.rank == 0 else []),
        ]
        logger = False if folder is None else TensorBoardLogger(str(folder), name="", version=EVENTS)
        world = share.world
        joined = _join(share, config.device)
        here = int(os.environ.get("LOCAL_WORLD_SIZE", world))
        trainer = pl.Trainer(
            max_epochs=config.epochs,
            gradient_clip_val=config.clip,
            callbacks=callbacks,
            accelerator=config.device,
            devices=here if world > 1 else 1,
            num_nodes=world // here,
            strategy="ddp" if world > 1 else "auto",
            precision=config.precision,  # type: ignore[arg-type] # its choices are Lightning's
            plugins=[_Whole()],
            logger=logger,
            use_distributed_sampler=False,
            enable_checkpointing=checkpoint is not None,
            enable_model_summary=False,
            enable_progress_bar=False,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
        )
        handler = signal.getsignal(signal.SIGINT)
        try:
            if found and found["openlstm"]["finished"]:
                run.on_load_checkpoint(found)
            else:
                trainer.fit(run, _Loader(run), ckpt_path=str(checkpoint) if found else None, weights_only=True)
        except SystemExit:
            # Lightning turns Ctrl-C into an exit, and ignores any more of them.
            if not trainer.interrupted:
                raise
            signal.signal(signal.SIGINT, handler)
            run.outcome.stopped = "interrupt"
        finally:
            if joined:
                dist.destroy_process_group()
    outcome = run.outcome
    outcome.seconds += time.perf_counter() - begin
    if run.best is not None:
        job.model.load_state_dict(run.best)
    elif outcome.stopped != "interrupt":
        raise ValueError(
            "Training gave no finite score in any epoch: expected numbers; check the data, or make the learning rate "
            "smaller"
        )
    if outcome.stopped == "epochs" and outcome.epochs < config.epochs:
        outcome.stopped = "patience"
    job.model.cpu().eval()
    return outcome


def _join(share: Share, device: str) -> bool:
    """Joins the processes of one machine, under a name of this attempt's own; did it?

    torchrun gives the workers that it restarts the store of those that failed, and whoever is first would call at an
    address where nobody is left. Between machines the number of the attempt need not be the same, and Lightning joins.
    """
    if share.world == 1 or dist.is_initialized() or os.environ.get("GROUP_WORLD_SIZE") != "1":
        return False
    store, rank, world = next(dist.rendezvous("env://", share.rank, share.world))  # type: ignore[attr-defined] # both are documented
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    own = dist.PrefixStore(f"attempt {attempt}", store)  # type: ignore[attr-defined]
    cuda = device != "cpu" and torch.cuda.is_available()
    dist.init_process_group("nccl" if cuda else "gloo", store=own, rank=rank, world_size=world)
    return True


class _Run(pl.LightningModule):
    """The job as Lightning takes it."""

    def __init__(self, job: Job, share: Share, data: str, keep: Callable[[], None], folder: Path | None) -> None:
        super().__init__()
        self.model = job.model  # Lightning finds the parameters here
        self.job, self.share, self.data, self.keep, self.folder = job, share, data, keep, folder
        self.outcome = Outcome()
        self.best: dict[str, Tensor] | None = None
        self.lost = torch.zeros((), dtype=torch.float64)  # the sum of the losses in this epoch
        self.steps = job.steps

    def on_train_epoch_start(self) -> None:
        config, epoch = self.job.config, self.outcome.epochs
        torch.manual_seed(seeded(config.seed, epoch, self.share.rank).initial_seed())
        self.lost = torch.zeros((), dtype=torch.float64, device=self.device)

    def training_step(self, batch: tuple[Any, bool], index: int) -> Tensor:
        given, counts = batch
        total, count = self.job.loss(given)
        everywhere = float(count) * counts
        if self.share.world > 1:
            sent = torch.tensor([everywhere], dtype=torch.float64, device=total.device)
            dist.all_reduce(sent)
            everywhere = float(sent)
        # Lightning's DDP takes the mean of the gradients over the processes.
        loss = total * (counts * self.share.world / max(everywhere, 1.0))
        self.lost = self.lost + loss.detach()
        return loss

    def on_train_epoch_end(self) -> None:
        model, outcome = self.job.model, self.outcome
        model.eval()
        with torch.no_grad():
            sums = self.job.score()
        model.train()
        world = self.share.world
        means = self._means(sums | {"training loss": (float(self.lost) / world, self.steps / world)})
        loss = means.pop("training loss")
        score = next(iter(means.values()))
        outcome.epochs += 1
        outcome.curve.append({"training loss": loss} | means)
        if score < outcome.best_score:
            outcome.best_score, outcome.best_epoch = score, outcome.epochs
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
            self.keep()
        self.log("score", torch.tensor(score, dtype=torch.float64), sync_dist=world > 1)
        if self.logger is not None and self.share.rank == 0:
            rate = self.trainer.optimizers[0].param_groups[0]["lr"]
            self.logger.log_metrics(outcome.curve[-1] | {"learning rate": rate}, step=outcome.epochs)
            self.write_curve()

    def _means(self, sums: Mapping[str, tuple[float, float]]) -> dict[str, float]:
        table = torch.tensor(list(sums.values()), dtype=torch.float64)  # (N, 2)
        if self.share.world > 1:
            table = table.to(self.device)
            dist.all_reduce(table)
        return {name: float(total / count) for name, (total, count) in zip(sums, table.cpu(), strict=True)}

    def write_curve(self) -> None:
        """The curve as a CSV file: whole each time, so that it is right after a resumption."""
        import pandas as pd

        assert self.folder is not None
        curve = pd.DataFrame(self.outcome.curve)
        curve.insert(0, "epoch", range(1, len(curve) + 1))
        file.replace(self.folder / "metrics.csv", curve.to_csv(index=False).encode())

    def configure_optimizers(self) -> Any:
        config = self.job.config
        parameters = list(self.job.model.parameters())
        # Decay would pull gains, biases and learned states to 0, where they have no reason to be.
        groups = [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
        ]
        # Fused: one operation for all parameters. With scaled gradients it cannot be clipped before.
        fused = config.precision != "16-mixed"
        optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=config.learning_rate, fused=fused)
        rate = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule(config, self.steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        carried = self.job.carried()
        if self.share.world > 1:  # of all processes, (world, ...)
            for name, tensor in carried.items():
                every = [torch.empty_like(tensor) for _ in range(self.share.world)]
                dist.all_gather(every, tensor.contiguous())
                carried[name] = torch.stack(every)
        else:
            carried = {name: tensor[None] for name, tensor in carried.items()}
        checkpoint["openlstm"] = {
            "version": VERSION,
            "task": self.job.config.task,
            "config": dataclasses.asdict(self.job.config),
            "data": self.data,
            "outcome": dataclasses.asdict(self.outcome),
            "best": self.best,
            "carried": carried,
            "world": self.share.world,
            "finished": self.finished,
        }

    @property
    def finished(self) -> bool:
        """Was this the last epoch."""
        return self.trainer.should_stop or self.outcome.epochs >= self.job.config.epochs

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        ours = checkpoint["openlstm"]
        self.outcome = Outcome(**ours["outcome"])
        self.outcome.resumed = self.outcome.epochs
        self.best = ours["best"]
        same = ours["world"] == self.share.world
        self.job.carry({k: v[self.share.rank] for k, v in ours["carried"].items()} if same else None)


def schedule(config: Config, steps: int) -> Callable[[int], float]:
    """The factor of the learning rate at each step, of an epoch of so many."""
    total = config.epochs * steps

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / (config.warmup + 1))
        left = max(0.0, 1 - step / total)
        fall = {"constant": 1.0, "linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left)}[config.schedule]
        return rise * fall

    return factor


class _Loader:
    """The batches of each epoch. An epoch need not be one pass over the data."""

    def __init__(self, run: _Run) -> None:
        self.run = run

    def __len__(self) -> int:
        return self.run.steps

    def __iter__(self) -> Iterator[tuple[Any, bool]]:
        return self._walk()

    def _walk(self) -> Iterator[tuple[Any, bool]]:
        batches: Batches = self.run.job.batches
        at = self.run.outcome.epochs * self.run.steps
        for _ in range(self.run.steps):
            number, begin = divmod(at, len(batches))
            if not begin or at == self.run.outcome.epochs * self.run.steps:
                walk = batches.walk(number, begin)
            yield next(walk)
            at += 1


class _Whole(CheckpointIO):
    """Checkpoints that are written whole or not at all, and read without executing anything."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        out = io.BytesIO()
        torch.save(checkpoint, out)
        file.replace(path, out.getvalue())

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        return read_checkpoint(path)

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a checkpoint holds, on the CPU. Nothing in it is executed. Errors: ValueError."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        if found["openlstm"]["version"] == VERSION:
            return dict(found)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, OSError):
        pass
    raise ValueError(
        f"'{path}' is not a checkpoint of this version of openlstm: begin anew, with --overwrite or in another folder"
    )


def _check(found: dict[str, Any], path: Path, config: Config, data: str) -> None:
    ours = found["openlstm"]
    anew = "give the same as then, or begin anew in another folder"
    if ours["task"] != config.task:
        raise ValueError(f"'{path}' is of the task '{ours['task']}', this run is of '{config.task}': {anew}")
    now = dataclasses.asdict(config)
    different = [name for name in now if name != "device" and ours["config"].get(name) != now[name]]
    if different:
        name = different[0]
        raise ValueError(f"'{path}' is of a run with {name} {ours['config'].get(name)}, now it is {now[name]}: {anew}")
    if ours["data"] != data:
        raise ValueError(f"'{path}' is of a run on other data: {anew}")


class _Keep(Checkpoint):
    """Writes the checkpoint after an epoch, when all others have done with it, but not too often."""

    def __init__(self, path: Path) -> None:
        self.path, self.last = path, time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        due = time.monotonic() - self.last >= EVERY or pl_module.finished
        if trainer.strategy.broadcast(due):  # the first process's clock holds for all, who write together
            trainer.save_checkpoint(self.path)
            self.last = time.monotonic()


class _Bar(pl.Callback):
    """One line for the whole run on a terminal; elsewhere a line now and then."""

    def __init__(self, console: Console, run: _Run) -> None:
        self.console, self.run = console, run
        self.progress: Progress | None = None
        self.line = TaskID(0)
        self.begun = self.said = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.begun = self.said = time.monotonic()
        if not self.console.is_terminal:
            return
        columns = (TextColumn("epoch {task.fields[epoch]}"), BarColumn(), TextColumn("{task.description}"))
        self.progress = Progress(*columns, TimeRemainingColumn(), console=self.console, transient=True)
        steps, epochs = self.run.steps, self.run.job.config.epochs
        self.line = self.progress.add_task(
            "", total=steps * epochs, completed=steps * self.run.outcome.epochs, epoch=self._epoch()
        )
        self.progress.start()

    def _epoch(self) -> str:
        return f"{self.run.outcome.epochs + 1}/{self.run.job.config.epochs}"

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, index: int) -> None:
        if self.progress is not None:
            done = self.run.outcome.epochs * self.run.steps + index + 1
            self.progress.update(self.line, completed=done, epoch=self._epoch(), description=self._how())

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        outcome, epochs = self.run.outcome, self.run.job.config.epochs
        if self.progress is None and time.monotonic() - self.said > 30:
            self.said = time.monotonic()
            each = (self.said - self.begun) / (outcome.epochs - outcome.resumed)
            left = f"at most {each * (epochs - outcome.epochs) / 60:.0f} minutes left"
            self.console.print(f"epoch {outcome.epochs}/{epochs}, {self._how()}, {left}", soft_wrap=True)

    def _how(self) -> str:
        outcome = self.run.outcome
        if not outcome.curve:
            return ""
        loss, score = list(outcome.curve[-1].values())[:2]
        best = f"best {outcome.best_score:.4g} of epoch {outcome.best_epoch}"
        return f"training {loss:.4g}, validation {score:.4g}, {best}"

    def _stop(self) -> None:
        if self.progress is not None:
            self.progress.stop()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._stop()


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
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for message in ("GPU available but not used", ".*`isinstance\\(treespec, LeafSpec\\)`"):
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
