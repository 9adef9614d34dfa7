"""The report of a run or an evaluation: one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import dataclasses
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import file
from .config import Config
from .loop import Outcome
from .task import Passage, Picture, Results, Table, Trained

TEMPLATE = Path(__file__).with_name("report.html")


def write_report(
    path: str | os.PathLike[str],
    config: Config | None,
    model: Trained,
    results: Results,
    outcome: Outcome | None = None,
    files: Sequence[str] = (),
) -> None:
    """Writes the page, whole or not at all. config and outcome: of the training run, if it is about one."""
    import jinja2

    from ..description import describe
    from ..plots import curve_figure

    parts: list[Any] = list(results.parts)
    if outcome is not None:
        figure = curve_figure(outcome.curve, outcome.best_epoch)
        parts.insert(1, Picture("Learning curves", figure, "The dotted line is the epoch whose weights were kept."))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    options = {} if config is None else {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        task=model.kind,
        spec=str(model.spec),
        files=files,
        how="" if outcome is None else how(outcome),
        parts=[_shown(part) for part in parts],
        options={name: _text(value) for name, value in options.items()},
        description=str(describe(model)),
    )
    file.replace(path, page.encode())


def how(outcome: Outcome) -> str:
    """How training went, in one sentence."""
    said = {
        "patience": f"Stopped in epoch {outcome.epochs}, without improvement since epoch {outcome.best_epoch}",
        "epochs": f"Trained to epoch {outcome.epochs}, the best was epoch {outcome.best_epoch}",
        "interrupt": f"Stopped by Ctrl-C in epoch {outcome.epochs + 1}, the best was epoch {outcome.best_epoch}",
    }[outcome.stopped]
    again = f", resumed after epoch {outcome.resumed}" if outcome.resumed else ""
    return f"{said}{again}; {outcome.seconds:.{int(outcome.seconds < 10)}f} s"


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={item}" for name, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else "" if value is None else str(value)


def _shown(part: Table | Picture | Passage) -> dict[str, Any]:
    shown: dict[str, Any] = {"title": part.title, "note": part.note, "kind": type(part).__name__}
    if isinstance(part, Picture):
        out = io.BytesIO()
        part.figure.savefig(out, format="svg", metadata={"Date": None})
        # As an image: names inside one SVG could be those of another on the same page.
        return shown | {"image": base64.b64encode(out.getvalue()).decode()}
    if isinstance(part, Table):
        return shown | {"columns": part.columns, "rows": part.rows, "numbers": part.numbers}
    return shown | {"text": part.text}
