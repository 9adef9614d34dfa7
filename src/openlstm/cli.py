"""The command line. What is heavy is imported when a command runs, so that `openlstm --help` is quick."""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

try:
    import typer
    from rich.console import Console
    from typer.core import TyperGroup
except ModuleNotFoundError as error:
    sys.exit(f"The command line needs {error.name}: install it with pip install 'openlstm[cli]'")

from .train import commands
from .train.commands import INTERRUPTED

WRONG = 2  # exit code for what was given wrong
TABLE = 79  # characters across the example's table


class Commands(TyperGroup):
    """Commands whose expected errors are one sentence without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Runs a command."""
        try:
            return super().invoke(ctx)
        except (ValueError, TypeError, OSError, ImportError) as error:
            _say(f"Error: {_sentence(error)}")
            raise typer.Exit(WRONG) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=Commands,
    help="See inside recurrent networks, and train them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _sentence(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"This needs {error.name}: install it with pip install 'openlstm[train]'."
    if isinstance(error, OSError) and error.strerror:  # the system's own
        return f"{error.strerror}: '{error.filename}'." if error.filename else f"{error.strerror}."
    return str(error).rstrip(".") + "."


def _say(text: str) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False).print(text, markup=False)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"openlstm {version_of('openlstm')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """See inside recurrent networks, and train them."""


@app.command()
def example(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the five diagrams.")] = Path("worked-example"),
) -> None:
    """Follow one LSTM cell by hand: its numbers at five steps, and a diagram with them for each.

    The gates are sigmoids of ±10 and more, so they are nearly 0 or 1: beside a true number stands the rounded one.
    """
    from . import example as worked
    from .draw import block_diagram
    from .file import make_folder, replace

    trace = worked.worked_example()
    steps = range(len(trace.x))
    make_folder(out)
    for t in steps:
        picture = block_diagram(trace.spec, worked.at_step(trace, t), f"The worked example, step {t + 1}")
        replace(out / f"step-{t + 1}.svg", picture.encode())
    console = Console(highlight=False, width=max(Console().width, TABLE))
    console.print(f"One LSTM cell, {trace.spec}, from memory 0.")
    console.print("Weights on (x1, x2, x3, 1), those on h being 0:")
    for gate, weights in worked.WEIGHTS.items():
        console.print(f"  z_{gate}  ({', '.join(f'{weight:g}' for weight in weights)})")
    console.print(_table(worked.table(trace), len(steps)))
    console.print(f"Wrote step-1.svg to step-{len(steps)}.svg to {out}/", soft_wrap=True, markup=False)


def _table(groups: list[list[tuple[str, list[tuple[str, str]]]]], steps: int) -> Any:
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("step", no_wrap=True)
    for t in range(steps):
        table.add_column(str(t + 1), justify="right", no_wrap=True)
        table.add_column(style="dim", no_wrap=True)
    for rows in groups:
        for label, numbers in rows:
            table.add_row(label, *(text for pair in numbers for text in pair))
        if rows is not groups[-1]:
            table.add_row()
    return table


@app.command()
def describe(
    model: Annotated[
        str,
        typer.Argument(
            help="A model file, or a form such as 'lstm(40, 512, 512; peephole=diagonal)'.", metavar="MODEL"
        ),
    ],
    time: Annotated[int, typer.Option(help="Steps of the input.")] = 100,
    batch: Annotated[int, typer.Option(help="Sequences in the input.")] = 32,
    outputs: Annotated[int, typer.Option(help="Outputs of a linear layer on top, to count its weights.")] = 0,
) -> None:
    """Print the shapes in and out of every layer, and its parameters by gate with the formula."""
    from . import file
    from .description import describe as describe_spec
    from .spec import Spec

    if "(" in model and not Path(model).exists():
        spec = Spec.parse(model)
    elif Path(model).is_file():
        # numpy has no bfloat16, so torch reads where there is torch.
        spec = file.read_spec(model, file.read(model, "torch" if find_spec("torch") else "numpy")[1])
    else:
        raise FileNotFoundError(
            f"There is no model file '{model}': give a file that openlstm wrote, or a form such as 'lstm(40, 512)'"
        )
    typer.echo(str(describe_spec(spec, time, batch, outputs)))


commands.add(app)


def main() -> None:
    """Runs the command line."""
    app()
