"""`openlstm train`, `evaluate`, `predict` and `sample`. What needs torch is imported when a command runs.

An error about what was given is raised as it is: the command line makes one sentence of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console

from ..cells import BUILT_IN
from ..spec import Spec
from .config import CONFIGS, RECURRENT, Config, help_of, hints, kind_of, load_yaml, read_yaml, to_yaml

if TYPE_CHECKING:
    import pandas as pd

    from .task import Table

train = typer.Typer(help="Train a model from files.")
INTERRUPTED = 130  # what a shell reports after Ctrl-C
RUN, FOLDER = "Folder of the run.", "runs/NAME OF THE FIRST FILE"
RESUME = "Go on with the run in the folder, if any."
OVERWRITE = "Replace the run in the folder."
LAYERS, SWITCHES = "More of the recurrent layers", "What the recurrent layers have or do"

AFTER = """

The run's folder gets model.safetensors, config.yaml, metrics.json, metrics.csv, report.html, last.ckpt to go on from, \
and events for TensorBoard. Ctrl-C ends training early and keeps the best model so far. Under torchrun all processes \
train together.
"""


def add(app: typer.Typer) -> None:
    """Puts the commands of this module into the command line."""
    for name, config in CONFIGS.items():
        train.command(name, help=config.summary + AFTER)(_command(config))
    app.add_typer(train, name="train")
    app.command()(evaluate)
    app.command()(predict)
    app.command()(sample)


@train.callback(invoke_without_command=True)
def _train(
    ctx: typer.Context,
    config: Annotated[
        Path | None, typer.Option("-c", "--config", help="Train what a YAML file says.", show_default="none")
    ] = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print all tasks' options as YAML.")] = False,
    run: Annotated[Path | None, typer.Option("-o", "--run", help=RUN, show_default=FOLDER)] = None,
    resume: Annotated[bool, typer.Option("--resume", help=RESUME)] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help=OVERWRITE)] = False,
) -> None:
    """Train a model from files."""
    given = [_flag(name) for name, value in ctx.params.items() if value]
    if ctx.invoked_subcommand is not None:
        if given:
            name = ctx.invoked_subcommand
            raise ValueError(
                f"{given[0]} stands before the task: give it behind, as in `openlstm train {name} {given[0]}`"
            )
        return
    if print_config:
        typer.echo("---\n".join(to_yaml(each()) for each in CONFIGS.values()), nl=False)
    elif config is not None:
        task = load_yaml(config).get("task")
        if task not in CONFIGS:
            what = "names no task" if task is None else f"has the task {task!r}"
            raise ValueError(
                f"'{config}' {what}: expected a line such as 'task: forecast', with one of {', '.join(CONFIGS)}"
            )
        values, files = read_yaml(config, CONFIGS[task])
        _run(CONFIGS[task](**values), files, run, resume, overwrite)
    elif given:
        raise ValueError(
            f"There is nothing to train: give a task or --config, as in `openlstm train forecast {given[0]}`"
        )
    else:
        typer.echo(ctx.get_help())


def _command(config: type[Config]) -> Callable[..., None]:
    """The command that trains a task: an option for each field of its configuration."""

    def command(ctx: typer.Context, **given: Any) -> None:
        chosen = {
            name: value
            for name, value in given.items()
            if getattr(ctx.get_parameter_source(name), "name", "") in ("COMMANDLINE", "ENVIRONMENT")
        }
        values, files = read_yaml(given["config"], config) if given["config"] else ({}, [])
        recurrent = dict(values.get("recurrent") or {})
        for name in RECURRENT.keys() & chosen.keys():
            cell = chosen.get("cell", values.get("cell", config.cell))
            none = {name: None} if chosen[name] == "none" else None  # as --help has it
            recurrent |= none or Spec.parse_options(cell, f"{name}={chosen[name]}")
        for each in fields(config):
            if each.name in chosen:
                kind, _, many = kind_of(hints(config)[each.name])
                lists = many and kind is not str
                values[each.name] = _numbers(chosen[each.name]) if lists else chosen[each.name]
        made = config(**(values | {"recurrent": recurrent}))
        files = [str(path) for path in given["files"] or ()] or files
        if given["print_config"]:
            typer.echo(to_yaml(made, files), nl=False)
            return
        _run(made, files, given["run"], given["resume"], given["overwrite"])

    command.__signature__ = inspect.Signature(list(_parameters(config)))  # type: ignore[attr-defined]
    command.__name__ = config.task
    return command


def _parameters(config: type[Config]) -> Iterator[inspect.Parameter]:
    def parameter(name: str, kind: Any, told: Any, default: Any = None) -> inspect.Parameter:
        return inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, told]
        )

    yield inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    yield parameter("files", list[Path] | None, typer.Argument(help="Files to train on.", show_default=False))
    for each in fields(config):
        if each.name == "recurrent":
            continue
        kind: Any
        kind, optional, many = kind_of(hints(config)[each.name])
        told, default = each.metadata, cast(Any, each.default)
        more: dict[str, Any] = {"help": help_of(each), "rich_help_panel": told["heading"]}
        if many and kind is str:
            more["help"] += " May be given more than once."
        if default is None or default == ():
            more["show_default"] = told["none"] if optional else "none"
        if many and kind is not str:  # numbers, which have no comma inside
            text = ",".join(map(str, default)) or None
            yield parameter(each.name, str | None, typer.Option(_flag(each.name), metavar="N,N,...", **more), text)
        elif many:
            yield parameter(each.name, list[kind] | None, typer.Option(_flag(each.name), **more), list(default) or None)
        else:
            flags = f"{_flag(each.name)}/--no-{_flag(each.name)[2:]}" if kind is bool else _flag(each.name)
            yield parameter(each.name, kind | None if optional else kind, typer.Option(flags, **more), default)
    trained = {cell: config(cell=cell).spec(1) for cell in BUILT_IN}  # by default
    for name, known in RECURRENT.items():
        if name == "bidirectional" and not config.may_read_ahead:
            continue
        choices = f" One of {', '.join(filter(None, known.choices))}." if known.choices else ""
        only = f" For {' and '.join(known.cells)}." if known.cells else ""
        more = {"help": known.help + choices + only}
        defaults = {cell: getattr(trained[cell], name) for cell in known.cells or BUILT_IN}
        if isinstance(known.default, bool):
            flags = f"{_flag(name)}/--no-{_flag(name)[2:]}"
            default = next(iter(defaults.values()))
            yield parameter(name, bool, typer.Option(flags, rich_help_panel=SWITCHES, **more), default)
        else:
            text = " or ".join(dict.fromkeys(map(_plain, defaults.values())))
            yield parameter(name, str, typer.Option(_flag(name), rich_help_panel=LAYERS, **more), text)
    yield parameter(
        "config",
        Path | None,
        typer.Option("-c", "--config", help="YAML file with options, where none are given here.", show_default="none"),
    )
    yield parameter("print_config", bool, typer.Option("--print-config", help="Print all options as YAML."), False)
    yield parameter("run", Path | None, typer.Option("-o", "--run", help=RUN, show_default=FOLDER))
    yield parameter("resume", bool, typer.Option("--resume", help=RESUME), False)
    yield parameter("overwrite", bool, typer.Option("--overwrite", help=OVERWRITE), False)


def _numbers(text: str) -> list[Any]:
    """The numbers in a text like 9,0,0. What is none stays a text, for the configuration to refuse."""
    return [int(part) if part.lstrip("-").isdigit() else part for part in map(str.strip, text.split(","))]


def _plain(default: Any) -> str:
    return "none" if default is None else "/".join(default) if isinstance(default, tuple) else str(default)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _run(
    config: Config, files: list[str], folder: Path | None = None, resume: bool = False, overwrite: bool = False
) -> None:
    if not files:
        raise ValueError(f"There is nothing to train on: give files, as in `openlstm train {config.task} FILE`")
    from .report import how
    from .runs import MODEL, fit
    from .task import Share

    console = Console(highlight=False)
    folder = folder or Path("runs") / Path(files[0]).stem
    try:
        run = fit(config, files, folder, resume=resume, overwrite=overwrite, progress=console)
    except KeyboardInterrupt:
        if (folder / MODEL).exists():
            console.print(f"Stopped: the model is in {folder / MODEL}, its report is not complete.", soft_wrap=True)
        raise
    if run is None:
        if Share.here().rank == 0:
            console.print("Stopped before the first epoch was over: nothing is written.")
            raise typer.Exit(INTERRUPTED)
        return
    console.print(f"{how(run.outcome)} ({run.model.spec}).", soft_wrap=True, markup=False)
    _show(console, run.results.parts)
    console.print(f"Wrote model.safetensors, metrics.json and report.html to {folder}/", soft_wrap=True, markup=False)
    if run.outcome.stopped == "interrupt":
        raise typer.Exit(INTERRUPTED)


def _show(console: Console, parts: list[Any]) -> None:
    """The first table."""
    from .task import Table

    for part in parts:
        if isinstance(part, Table):
            console.print(rich_table(part))
            if part.note:
                console.print(part.note, soft_wrap=True, markup=False)
            return


def rich_table(part: Table) -> Any:
    """A table for the terminal."""
    from rich.table import Table as Rich
    from rich.text import Text

    table = Rich(title=Text(part.title), title_justify="left")
    for k, (column, numbers) in enumerate(zip(part.columns, part.numbers, strict=True)):
        table.add_column(Text(column), justify="right" if k and numbers else "left")
    for k, row in enumerate(part.rows):
        table.add_row(*map(Text, row), style="" if k else "bold")
    return table


def evaluate(
    model: Annotated[Path, typer.Argument(help="model.safetensors of a training run.", show_default=False)],
    files: Annotated[list[Path], typer.Argument(help="Data with the truth.", show_default=False)],
    last: Annotated[
        int | None,
        typer.Option(help="forecast: so many rows at the end of each series.", show_default="all that can be"),
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="JSON file to write.", show_default="none")] = None,
    report: Annotated[Path | None, typer.Option(help="HTML page to write.", show_default="none")] = None,
) -> None:
    """Score a trained model on other data."""
    from ..file import check_place
    from . import load
    from .report import write_report
    from .runs import write_metrics

    for path in (out, report):
        if path is not None:
            check_place(path)
    trained = load(model)
    call = _with_options(trained.evaluate, {"last": last}, trained.kind)
    results = call(trained.read(files))
    if out is not None:
        write_metrics(out, results)
    if report is not None:
        write_report(report, None, trained, results, files=[str(path) for path in files])
    _show(Console(highlight=False), results.parts)


def predict(
    model: Annotated[Path, typer.Argument(help="model.safetensors of a training run.", show_default=False)],
    files: Annotated[list[Path], typer.Argument(help="What the model shall read.", show_default=False)],
    steps: Annotated[
        int | None, typer.Option(help="forecast: steps ahead.", show_default="the model's horizon")
    ] = None,
    beam: Annotated[int | None, typer.Option(help="seq2seq: hypotheses that are followed.", show_default="4")] = None,
    alpha: Annotated[
        float | None,
        typer.Option(help="seq2seq: 0 takes the likeliest target; the greater, the longer.", show_default="0.6"),
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="CSV to write.", show_default="the screen")] = None,
) -> None:
    """Write what a trained model says of files: what follows a series, labels, targets, or what characters cost.

    Files go through in pieces, so they may be larger than memory.
    """
    from . import load

    trained = load(model)
    call = _with_options(trained.predict, {"steps": steps, "beam": beam, "alpha": alpha}, trained.kind)
    with _csv(out) as write:
        for piece in call(files):
            write(piece)


def sample(
    model: Annotated[Path, typer.Argument(help="model.safetensors of a run of the task text.", show_default=False)],
    prompt: Annotated[str, typer.Option(help="What the text goes on from.", show_default="a line end")] = "\n",
    length: Annotated[int, typer.Option(help="Characters, or bytes, to write.")] = 500,
    temperature: Annotated[
        float, typer.Option(help="Below 1 what is likely is drawn more often, 0 takes the likeliest alone.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 0,
) -> None:
    """Let a trained model of text write, from a prompt on."""
    from .text import TextModel

    trained = TextModel.load(model)
    typer.echo(("" if prompt == "\n" else prompt) + trained.sample(prompt, length, temperature, seed))


def _with_options(call: Callable[..., Any], options: dict[str, Any], task: str) -> Callable[..., Any]:
    """The call with the options that were given. Errors: ValueError for one that the task does not have."""
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if name not in inspect.signature(call).parameters:
            raise ValueError(f"{_flag(name)} does not fit a model of the task '{task}': leave it out")
    return lambda what: call(what, **given)


@contextmanager
def _csv(out: Path | None) -> Iterator[Callable[[pd.DataFrame], None]]:
    """Writes tables one below the other, to the screen or to a file, which appears when it is complete."""
    from ..file import replacing

    count = 0

    def text(piece: pd.DataFrame) -> str:
        nonlocal count
        count += 1
        return str(piece.to_csv(index=False, header=count == 1, float_format="%.6g", lineterminator="\n"))

    if out is None:
        yield lambda piece: typer.echo(text(piece), nl=False)
        return
    with replacing(out) as opened:

        def write(piece: pd.DataFrame) -> None:
            opened.write(text(piece).encode())

        yield write
