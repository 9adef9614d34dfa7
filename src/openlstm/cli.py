"""The command line. What is heavy is imported when a command runs, so that `openlstm --help` is quick."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version as version_of
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from traceback import extract_tb
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
        except BrokenPipeError:  # nobody reads on, as with `| head`: typer ends without a word
            raise
        except (ValueError, TypeError, OSError, ImportError) as error:
            _say(f"Error: {_sentence(error)}")
            raise typer.Exit(WRONG) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            if getattr(error, "option_name", "") == "--cells":  # the class is typer's own
                raise typer.BadParameter("--cells stands before the command: openlstm --cells FILE ...") from None
            raise


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
    text = str(error).rstrip(".")
    return text if text.endswith(("?", "!")) else f"{text}."


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
    cells: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Python file, or module, that declares cells of your own: it is run."),
    ] = None,
) -> None:
    """See inside recurrent networks, and train them."""
    for name in cells or ():
        _declare(name)


def _declare(name: str) -> None:
    """Runs a module that declares cells. Errors: ValueError where there is none, and where it fails."""
    path = Path(name)
    folder = str((path.parent if path.suffix == ".py" else Path()).resolve())
    sys.path.insert(0, folder)  # as `python name` has it
    try:
        if path.suffix == ".py":
            told = spec_from_file_location(path.stem, path)
            assert told is not None and told.loader is not None
            module = module_from_spec(told)
            sys.modules.setdefault(path.stem, module)  # where pickles look for its classes
            told.loader.exec_module(module)
        else:
            import_module(name)
    except ValueError:  # what is wrong with a cell has its line
        raise
    except Exception as error:
        missing = isinstance(error, FileNotFoundError) and error.filename == str(path)
        if missing or (isinstance(error, ModuleNotFoundError) and error.name == name.partition(".")[0]):
            raise ValueError(f"There is no '{name}': give a Python module, or the path of a .py file") from None
        machinery = (__file__, import_module.__code__.co_filename)
        own = [at for at in extract_tb(error.__traceback__) if at.filename[0] != "<" and at.filename not in machinery]
        where = f", line {own[-1].lineno} of {Path(own[-1].filename).name}" if own else ""
        raise ValueError(f"'{name}' failed when it was run{where}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(folder)


@app.command()
def example(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the five diagrams.")] = Path("worked-example"),
) -> None:
    """Follow one LSTM cell by hand: its numbers at five steps, and a diagram with them for each.

    The gates are sigmoids of ±10 and more, so they are nearly 0 or 1: beside a true number stands the rounded one.
    """
    from . import example as worked
    from .file import make_folder

    trace = worked.worked_example()
    steps = range(len(trace.x))
    make_folder(out)
    for t in steps:
        trace.draw(t, unit=0, title=f"The worked example, step {t + 1}").save(out / f"step-{t + 1}.svg")
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
        spec = file.read_spec(model, file.read_metadata(model))
    else:
        raise FileNotFoundError(
            f"There is no model file '{model}': give a file that openlstm wrote, or a form such as 'lstm(40, 512)'"
        )
    typer.echo(str(describe_spec(spec, time, batch, outputs)))


@app.command()
def quantize(
    model: Annotated[Path, typer.Argument(help="A model file.", show_default=False)],
    data: Annotated[
        list[Path] | None,
        typer.Argument(help="Data with the truth, to score a trained model before and after.", show_default="none"),
    ] = None,
    weights: Annotated[str, typer.Option(help="What matrices become.", metavar="int8|bfloat16")] = "int8",
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="The file to write.", show_default="MODEL.int8.safetensors")
    ] = None,
) -> None:
    """Write a model with small weights, and say what that changes.

    The small model is for `openlstm.Stream`, which computes with small weights; everything else reads it as the floats
    that they stand for.
    """
    import numpy as np
    from rich.table import Table

    from . import file
    from .stream import Stream

    if weights not in ("int8", "bfloat16"):
        raise ValueError(f"weights is '{weights}': expected int8 or bfloat16")
    target = out or model.with_name(f"{model.name.removesuffix('.safetensors')}.{weights}.safetensors")
    metadata = file.read_metadata(model)
    if metadata.get("kind") == "trace":
        raise ValueError(f"'{model}' is a trace: give a model")
    file.narrow(model, target, weights)
    sizes = [path.stat().st_size for path in (model, target)]
    console = Console(highlight=False)
    console.print(f"Wrote {target}: {sizes[1] / 1e6:.2f} MB, {sizes[0] / sizes[1]:.1f} times smaller", soft_wrap=True)
    spec = file.read_spec(model, metadata)
    if not data and not spec.bidirectional and "task" not in metadata:
        x = np.random.default_rng(0).standard_normal((200, spec.input_size)).astype(np.float32)
        before, after = (Stream.load(path).run(x) for path in (model, target))
        error = float(np.sqrt(np.mean((after - before) ** 2)))
        size = float(np.sqrt(np.mean(before**2)))
        console.print(f"On random input the outputs change by {error:.2g}, which is {error / size:.2%} of their size")
    if data:
        from .train import load

        found = [load(path) for path in (model, target)]
        scores = [dict(_scores(each.evaluate(each.read(data)).metrics)) for each in found]
        table = Table("score", "before", "after", title="What changes, on all of this data")
        for name in scores[0]:
            if scores[0][name] != scores[1].get(name):
                table.add_row(name, *(f"{each[name]:.5g}" for each in scores))
        console.print(table if table.rows else "No score changes")
    elif "task" in metadata:
        console.print("Give data with the truth too, and the scores before and after are shown")


def _scores(metrics: dict[str, Any], name: str = "") -> Iterator[tuple[str, float]]:
    """All numbers of a model's metrics, under the names on the way to them."""
    for key, value in metrics.items():
        if isinstance(value, dict):
            yield from _scores(value, f"{name}{key}, ")
        elif isinstance(value, (int, float)):
            yield name + key, value


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="The file to read.", show_default=False)],
    target: Annotated[Path, typer.Argument(help="The file to write; its ending says the format.", show_default=False)],
    source_format: Annotated[
        str | None, typer.Option("--from", help="The format of SOURCE.", show_default="by its ending")
    ] = None,
    target_format: Annotated[
        str | None, typer.Option("--to", help="The format of TARGET.", show_default="by its ending")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Which layers, where SOURCE has several.", show_default="the only ones")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=VALUE, of what no file of SOURCE's format shows: forget_bias=1.0 (tf1), nonlinearity=relu "
            "(torch), delay=-1 (kaldi). Can be given several times.",
            show_default="none",
        ),
    ] = None,
) -> None:
    """Move recurrent layers between PyTorch, ONNX, Keras, TensorFlow 1, Flax, haste, Kaldi and openlstm.

    Both sides run on random input where the other library is installed, and the largest difference is printed. What
    cannot be the same on the other side is refused, with the reason. Formats: openlstm (.safetensors), torch (.pt,
    .pth, .bin), onnx (.onnx), keras (.keras, .h5); tf1, flax, haste and kaldi, which are .npz files of arrays, by
    --from and --to.
    """
    from .convert import convert as move

    options: dict[str, object] = {}
    for each in option or ():
        named, equals, value = each.partition("=")
        if not equals:
            raise typer.BadParameter(f"'{each}': expected NAME=VALUE", param_hint="--option")
        options[named] = _value(value)
    layers, difference = move(
        source, target, source_format=source_format, target_format=target_format, name=name, options=options
    )
    typer.echo(f"Wrote {target}: {layers.spec}")
    if difference is not None:
        typer.echo(f"On random input the largest difference between both sides is {difference:.2g}")


def _value(text: str) -> object:
    """A number, yes or no, several words with "/" between them, or a word."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"True": True, "False": False}.get(text, tuple(text.split("/")) if "/" in text else text)


@app.command()
def explore(
    model: Annotated[Path, typer.Argument(help="A model file, or a trace that was saved.", show_default=False)],
    data: Annotated[
        Path | None,
        typer.Argument(
            help="What the model reads: what it was trained on (.csv, text, .npz), or for layers alone a CSV or .npy "
            "file, (steps, inputs). A trace needs none; a text file with a character for each step is shown beside it.",
            show_default="none",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="The page.")] = Path("explorer.html"),
    sequence: Annotated[int | None, typer.Option(help="Which sequence of the batch.", show_default="the first")] = None,
    names: Annotated[
        str | None, typer.Option(help="Values to show, such as 'f,c,h'.", show_default="all that fit")
    ] = None,
) -> None:
    """Make a web page on which a run is played step by step, searched and compared. It needs no network."""
    from .explore import page

    trace, shown = _traced(model, data)
    chosen = None if names is None else [name.strip() for name in names.split(",")]
    text = page(trace, shown, sequence, chosen, f"{model.name}{f' on {data.name}' if data else ''}")
    text.save(out)
    typer.echo(f"Wrote {out}, {len(text) / 1e6:.1f} MB: open it in a browser")


def _traced(model: Path, data: Path | None) -> tuple[Any, Any]:
    """The trace of a model's run on a file, or a saved one, and what to show beside it; None: the model's input."""
    from . import file

    metadata = file.read_metadata(model)
    if metadata.get("kind") == "trace":
        from .tracing import Trace

        trace = Trace.load(model)
        return trace, None if data is None else data.read_text(encoding="utf-8")
    if data is None:
        raise ValueError(f"'{model}' is a model, not a trace: give a file that it shall read too")
    import torch

    from .models import load
    from .models import trace as run
    from .train import load as load_trained

    if "task" in metadata:
        return load_trained(model).look(data)
    layer = load(model)
    given = torch.from_numpy(_numbers(data)).to(next(layer.parameters()).dtype)
    batched = given[:, None] if given.dim() == 2 else given
    return run(layer, batched.transpose(0, 1) if layer.spec.batch_first else batched), None


def _numbers(path: Path) -> Any:
    """An array of numbers: an .npy file, or a CSV file with a line of names."""
    import numpy as np

    if not path.is_file():
        raise FileNotFoundError(f"There is no file '{path}': give an .npy or a .csv file with the model's input")
    if path.suffix == ".npy":
        found = np.load(path, allow_pickle=False)
    else:
        import pandas as pd

        found = pd.read_csv(path).to_numpy()
    if found.dtype.kind not in "fiub" or found.ndim not in (2, 3):
        raise ValueError(
            f"'{path}' holds {found.dtype} of shape {found.shape}: expected numbers, (steps, inputs) or (steps, "
            "sequences, inputs)"
        )
    return found.astype(np.float64)


commands.add(app)


def main() -> None:
    """Runs the command line."""
    app()
