"""Trains any module, on Lightning: early stopping, best weights kept, gradients clipped, Ctrl-C safe.

What is trained comes as functions, so no task is known here. Nothing is written but what `keep` writes.
"""

from __future__ import annotations

import logging
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch import Tensor, nn


@dataclass
class Outcome:
    """How a training run went."""

    stopped: str = "epochs"  # why: "epochs", "patience" or "interrupt"
    epochs: int = 0  # that were completed
    best_epoch: int = 0  # 1 is the first; 0: interrupted before any was over
    best_score: float = float("inf")
    seconds: float = 0.0
    curve: list[tuple[float, float]] = field(default_factory=list)  # training loss and validation score of each epoch


class Batches:
    """Shuffled minibatches of tensors that fit in memory, in an order that torch's seed decides."""

    def __init__(self, *tensors: Tensor, size: int) -> None:
        self.tensors, self.size = tensors, size

    def __len__(self) -> int:
        return -(-len(self.tensors[0]) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for chosen in torch.split(torch.randperm(len(self.tensors[0])), self.size):
            yield tuple(tensor[chosen] for tensor in self.tensors)


def train(
    module: nn.Module,
    batches: Any,
    loss: Callable[..., Tensor],
    score: Callable[[], float],
    *,
    epochs: int,
    patience: int,
    learning_rate: float,
    clip: float = 1.0,
    threads: int | None = None,
    keep: Callable[[], None] = lambda: None,
    progress: Console | None = None,
) -> Outcome:
    """Trains until the score has not improved for `patience` epochs, and leaves the best weights in the module.

    loss: of one batch. score: after each epoch, in evaluation mode; less is better. keep: called at each improvement,
    while the module has the weights of it. progress: where to show a bar. At Ctrl-C, this returns with the best weights
    so far. threads: of torch on the CPU; None leaves their number.
    Errors: ValueError where the score is no number from the first epoch on.
    """
    run = _Run(module, loss, score, keep, learning_rate)
    callbacks: list[pl.Callback] = [
        EarlyStopping("score", patience=patience, check_on_train_epoch_end=True, verbose=False)
    ]
    if progress is not None and progress.is_terminal:
        callbacks.append(_Bar(progress, run.outcome))
    begin = time.perf_counter()
    with _quiet(), _threads(threads):
        trainer = pl.Trainer(
            max_epochs=epochs,
            gradient_clip_val=clip,
            callbacks=callbacks,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
        )
        handler = signal.getsignal(signal.SIGINT)
        try:
            trainer.fit(run, batches)
        except SystemExit:
            # Lightning turns Ctrl-C into an exit, and ignores any more of them.
            if not trainer.interrupted:
                raise
            signal.signal(signal.SIGINT, handler)
            run.outcome.stopped = "interrupt"
    outcome = run.outcome
    outcome.seconds = time.perf_counter() - begin
    if run.best is not None:
        module.load_state_dict(run.best)
    elif outcome.stopped != "interrupt":
        raise ValueError(
            "Training gave no finite score in any epoch: expected numbers; check the series, or make the learning rate "
            "smaller"
        )
    if outcome.stopped == "epochs" and outcome.epochs < epochs:
        outcome.stopped = "patience"
    module.eval()
    return outcome


class _Run(pl.LightningModule):
    def __init__(
        self,
        module: nn.Module,
        loss: Callable[..., Tensor],
        score: Callable[[], float],
        keep: Callable[[], None],
        learning_rate: float,
    ) -> None:
        super().__init__()
        self.module, self.loss, self.score, self.keep = module, loss, score, keep
        self.learning_rate = learning_rate
        self.outcome = Outcome()
        self.best: dict[str, Tensor] | None = None
        self.losses: list[Tensor] = []

    def training_step(self, batch: tuple[Tensor, ...], index: int) -> Tensor:
        loss = self.loss(*batch)
        self.losses.append(loss.detach())
        return loss

    def on_train_epoch_end(self) -> None:
        self.module.eval()
        with torch.no_grad():
            score = self.score()
        outcome = self.outcome
        if score < outcome.best_score:
            state = {name: tensor.detach().clone() for name, tensor in self.module.state_dict().items()}
            outcome.best_score, outcome.best_epoch, self.best = score, outcome.epochs + 1, state
            self.keep()
        self.module.train()
        outcome.epochs += 1
        outcome.curve.append((float(torch.stack(self.losses).mean()), score))
        self.losses.clear()
        self.log("score", torch.tensor(score, dtype=torch.float64))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.module.parameters(), lr=self.learning_rate)


class _Bar(pl.Callback):
    """One line for the whole run."""

    def __init__(self, console: Console, outcome: Outcome) -> None:
        self.console, self.outcome = console, outcome
        self.progress: Progress | None = None
        self.line = TaskID(0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        columns = (TextColumn("epoch {task.completed}/{task.total}"), BarColumn(), TextColumn("{task.description}"))
        self.progress = Progress(*columns, TimeRemainingColumn(), console=self.console, transient=True)
        self.line = self.progress.add_task("", total=trainer.max_epochs)
        self.progress.start()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.progress is not None and self.outcome.epochs:
            best = f"best validation error {self.outcome.best_score:.4g}, of epoch {self.outcome.best_epoch}"
            self.progress.update(self.line, completed=self.outcome.epochs, description=best)

    def _stop(self) -> None:
        if self.progress is not None:
            self.progress.stop()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._stop()


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
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
