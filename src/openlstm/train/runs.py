"""One training run, from data to a folder with the model and all that there is to know about it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from rich.console import Console

from .. import file
from . import loop
from .config import Config, to_yaml
from .report import write_report
from .task import Results, Share, Trained, task

MODEL, CONFIG, METRICS, REPORT = "model.safetensors", "config.yaml", "metrics.json", "report.html"
WRITTEN = (MODEL, CONFIG, METRICS, REPORT, loop.CHECKPOINT, "metrics.csv", loop.EVENTS)  # all, in a run's folder


@dataclass(frozen=True)
class Run:
    """A trained model, how training went, and how the model does on the test part."""

    model: Trained
    outcome: loop.Outcome
    results: Results


def fit(
    config: Config,
    data: Any,
    folder: str | os.PathLike[str] | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Console | None = None,
) -> Run | None:
    """Trains what the configuration says, and scores it on the test part.

    data: files, or what they hold, as the task's `read` gives it. folder: for the model, the checkpoint, the metrics
    and the report; None writes nothing. resume: go on with the run in the folder, if any. overwrite: replace it.
    None comes back where Ctrl-C came before the first epoch was over, and in all processes but the first.
    Errors: FileNotFoundError, ValueError, OSError; then no half-written file is left.
    """
    share, parts = Share.here(), task(config.task)
    files = [str(each) for each in data] if _are_files(data) else []
    read = parts.read([Path(each) for each in files], config) if files else data
    place = None if folder is None else Path(folder)
    first = share.rank == 0
    if place is not None and first:
        _may_write(place, resume, overwrite)
    loop.fabric(config)  # what is not there is said before an earlier run is removed
    job, fingerprint = parts.job(read, config, share), _fingerprint([*files, *config.files])
    made = _begin(place, config, files, resume) if place is not None and first else []
    outcome = None
    try:
        with loop.threads(config):
            outcome = loop.train(
                job,
                folder=place,
                resume=resume,
                data=fingerprint,
                progress=progress,
                keep=(lambda: job.model.save(place / MODEL)) if place is not None else lambda: None,
            )
    finally:
        # What has no model is no run: nothing of it is left.
        if place is not None and first and not (outcome is not None and outcome.best_epoch) and not _has_model(place):
            _clear(place)
            for path in made:
                if path.is_dir() and not any(path.iterdir()):
                    path.rmdir()
    if not outcome.best_epoch or not first:
        return None
    with loop.threads(config):
        results = job.results()
    run = Run(job.model, outcome, results)
    if place is not None:
        job.model.save(place / MODEL)
        _write(run, config, files, place)
    return run


def _are_files(data: Any) -> bool:
    return isinstance(data, Sequence) and bool(data) and all(isinstance(each, (str, os.PathLike)) for each in data)


def _has_model(folder: Path) -> bool:
    return (folder / MODEL).exists()


def _may_write(folder: Path, resume: bool, overwrite: bool) -> None:
    there = [name for name in (MODEL, loop.CHECKPOINT) if (folder / name).exists()]
    if there and not resume and not overwrite:
        raise ValueError(
            f"'{folder}' has the model of an earlier run: choose another folder with -o, go on with --resume, or add "
            "--overwrite"
        )


def _begin(folder: Path, config: Config, files: Sequence[str], resume: bool) -> list[Path]:
    """Makes the folder ready; gives the folders that were made."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    file.make_folder(folder)
    if not resume:
        _clear(folder)
    try:
        file.replace(folder / CONFIG, to_yaml(config, files).encode())
    except OSError:
        for path in made:
            path.rmdir()
        raise
    return made


def _clear(folder: Path) -> None:
    for name in WRITTEN:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _fingerprint(files: Sequence[str]) -> str:
    """Stands for the contents of files."""
    whole = hashlib.sha256()
    for name in files:
        each = hashlib.sha256()
        with open(name, "rb") as opened:
            while piece := opened.read(2**20):
                each.update(piece)
        whole.update(each.digest())
    return whole.hexdigest() if files else ""


def _write(run: Run, config: Config, files: Sequence[str], folder: Path) -> None:
    outcome = run.outcome
    metrics = {
        "task": config.task,
        "files": list(files),
        **run.results.metrics,
        "validation": outcome.best_score,
        "training": {key: value for key, value in dataclasses.asdict(outcome).items() if key != "best_score"},
        "config": dataclasses.asdict(config),
        "model": str(run.model.spec),
    }
    _write_json(folder / METRICS, metrics)
    write_report(folder / REPORT, config, run.model, run.results, outcome, files)


def _finite(value: Any) -> Any:
    """The same with None for each number that JSON does not have, such as the loss of a run that went astray."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def write_metrics(path: str | os.PathLike[str], results: Results) -> None:
    """Writes the metrics of an evaluation as JSON, whole or not at all."""
    _write_json(path, results.metrics)


def _write_json(path: str | os.PathLike[str], metrics: dict[str, Any]) -> None:
    file.replace(path, (json.dumps(_finite(metrics), indent=1, allow_nan=False) + "\n").encode())
