"""The command line: what it prints and writes, and one sentence for what is given wrong."""

import os
import pathlib
import re
import runpy
import shlex
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
import torch.distributed.run
from typer.main import get_command
from typer.testing import CliRunner

import openlstm
from openlstm import cli, convert, file
from openlstm.example import worked_example


def call(*args):
    return CliRunner().invoke(cli.app, [str(arg) for arg in args])


def program(*args, code=None, **options):
    command = [sys.executable, "-c", code or "from openlstm.cli import main; main()", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def test_example(tmp_path):
    done = call("example", "-o", tmp_path / "new" / "folder")
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    memory = next(line for line in lines if line.startswith("c memory")).split()
    assert memory == ["c", "memory", "cell", "3", "7", "6.9998", "≈7", "6.9995", "≈7", "5.74e-39", "≈0"]
    gate = next(line for line in lines if line.startswith("o output gate")).split()
    assert gate[3:] == ["4.54e-05", "≈0", "4.54e-05", "≈0", "4.54e-05", "≈0", "1", "4.54e-05", "≈0"]
    assert "  z_o  (0, 0, 100, -10)" in lines
    assert max(map(len, lines[:-1])) <= 79
    assert "…" not in done.output
    assert f"Wrote step-1.svg to step-5.svg to {tmp_path / 'new' / 'folder'}/" in done.output
    files = sorted((tmp_path / "new" / "folder").iterdir())
    assert [path.name for path in files] == [f"step-{k}.svg" for k in range(1, 6)]
    trace = worked_example()
    for t, path in enumerate(files):
        root = ElementTree.fromstring(path.read_bytes())
        found = {g.get("data-name"): g.get("data-value") for g in root.iter("{http://www.w3.org/2000/svg}g")}
        assert {name: found[name] for name in "ifgoch"} == {n: f"{trace[n][t].item():.5g}" for n in "ifgoch"}


def test_example_twice_gives_the_same(tmp_path):
    assert call("example", "-o", tmp_path).exit_code == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert call("example", "-o", tmp_path).exit_code == 0
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_explore(tmp_path):
    lstm, page = openlstm.LSTM(2, 3, batch_first=True), tmp_path / "page.html"
    openlstm.save(lstm, tmp_path / "m.safetensors")
    x = np.random.default_rng(0).normal(size=(6, 2))
    np.save(tmp_path / "x.npy", x)
    pd.DataFrame(x, columns=["a", "b"]).to_csv(tmp_path / "x.csv", index=False)
    for data in ("x.npy", "x.csv"):
        done = call("explore", tmp_path / "m.safetensors", tmp_path / data, "-o", page, "--names", "c, h")
        assert done.exit_code == 0, done.output
        assert f"Wrote {page}," in done.output and f"m.safetensors on {data}" in page.read_text()
    openlstm.trace(lstm, torch.from_numpy(x).float()[None]).save(tmp_path / "t.safetensors")
    (tmp_path / "x.txt").write_text("abcdef")
    assert call("explore", tmp_path / "t.safetensors", tmp_path / "x.txt", "-o", page).exit_code == 0
    for args, message in (
        ([tmp_path / "m.safetensors"], "is a model, not a trace: give a file that it shall read too"),
        ([tmp_path / "m.safetensors", tmp_path / "none.npy"], "There is no file '.*none.npy': give an .npy or a .csv"),
        ([tmp_path / "t.safetensors", tmp_path / "x.txt", "--names", "k"], "k"),
    ):
        done = call("explore", *args, "-o", page)
        assert done.exit_code == cli.WRONG and re.search(message, done.output.replace("\n", " ")), done.output
    np.save(tmp_path / "x.npy", x[0])
    done = call("explore", tmp_path / "m.safetensors", tmp_path / "x.npy")
    assert "expected numbers, (steps, inputs)" in done.output.replace("\n", " ")


def test_describe_a_form():
    form = "lstm(40, 512; peephole=diagonal)"
    done = call("describe", form, "--time", 5, "--batch", 2, "--outputs", 126)
    assert done.exit_code == 0
    assert done.output == str(openlstm.describe(openlstm.Spec.parse(form), 5, 2, 126)) + "\n"
    assert "1,196,544 weights" in done.output


def test_describe_a_file(tmp_path):
    module = openlstm.GRU(3, 4, 2, bidirectional=True)
    openlstm.save(module, tmp_path / "model (1).safetensors")
    done = call("describe", tmp_path / "model (1).safetensors")
    assert (done.exit_code, done.output) == (0, str(openlstm.describe(module)) + "\n")


def test_describe_a_file_of_low_precision(tmp_path):
    openlstm.save(openlstm.GRU(3, 4).bfloat16(), tmp_path / "m.safetensors")
    done = call("describe", tmp_path / "m.safetensors")
    assert done.exit_code == 0, done.stderr
    assert done.output.startswith("gru(3, 4)\n")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ("describe", "nothing.safetensors"),
            "There is no model file 'nothing.safetensors': give a file that openlstm",
        ),
        (("describe", "lstm(3, 4; colour=red)"), "Unknown option 'colour' of lstm: expected one of bias"),
        (("describe", "lstm(3)"), "has one size: expected the input size"),
        (("describe", "lstm(3, 4"), "Cannot read the spec 'lstm(3, 4'"),
        (("describe", "lstm(3, 0)"), "hidden_size must be greater than zero"),
        (("describe", "lstm(3, 4)", "--batch", "0"), "batch is 0: expected a whole number of at least 1"),
        (("describe", "{folder}/foreign"), "expected a complete safetensors file"),
        (("describe", "{folder}/other.safetensors"), "holds no spec"),
        (("example", "-o", "{folder}/foreign"), "(File exists): give another one"),
        (("example", "-o", "{folder}/foreign/below"), "(Not a directory): give another one"),
    ],
)
def test_what_is_wrong_is_one_sentence(args, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "foreign").write_text("hello")
    file.write(tmp_path / "other.safetensors", {"a": np.zeros(2)}, {})
    done = call(*(arg.format(folder=tmp_path) for arg in args))
    assert done.exit_code == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1 and done.stderr.endswith(".\n")


def test_brackets_in_what_is_given_are_no_markup():
    done = call("describe", "[bold]x[/bold]")
    assert "There is no model file '[bold]x[/bold]'" in done.stderr


def test_interruption_is_quiet(monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(openlstm.Spec, "parse", interrupted)
    done = call("describe", "lstm(3, 4)")
    assert (done.exit_code, done.output) == (130, "")


def test_a_defect_keeps_its_traceback(monkeypatch):
    def defect(*args):
        raise AssertionError("a defect")

    monkeypatch.setattr(openlstm.Spec, "parse", defect)
    assert isinstance(call("describe", "lstm(3, 4)").exception, AssertionError)


def test_help_and_version():
    for args in ([], ["--help"]):
        text = call(*args).output
        for command in ("example", "describe", "train", "evaluate", "predict"):
            assert command in text
    for command in ("example", "describe"):
        done = call(command, "--help")
        assert done.exit_code == 0
    assert call("--version").output == f"openlstm {openlstm.__version__}\n"
    assert call("nonsense").exit_code == 2


def test_help_loads_nothing_heavy():
    code = (
        "import sys, openlstm.cli\ntry: openlstm.cli.main()\nexcept SystemExit: pass\n"
        "print([n for n in ('torch', 'pandas', 'matplotlib', 'lightning', 'yaml') if n in sys.modules])"
    )
    done = program("--help", code=code)
    assert done.stdout.strip().splitlines()[-1] == "[]", done.stderr


def test_describe_and_example_need_no_torch(tmp_path):
    code = "import sys; sys.modules['torch'] = None\nfrom openlstm.cli import main; main()"
    openlstm.save(openlstm.GRU(3, 4), tmp_path / "m.safetensors")
    for args in (["describe", "gru(3, 4)"], ["describe", tmp_path / "m.safetensors"], ["example", "-o", tmp_path]):
        done = program(*args, code=code)
        assert done.returncode == 0, done.stderr


def test_without_typer_one_sentence_says_what_to_install():
    code = "import sys; sys.modules['typer'] = None\nfrom openlstm.cli import main; main()"
    done = program(code=code)
    assert done.returncode == 1
    assert done.stderr == "The command line needs typer: install it with pip install 'openlstm[cli]'\n"


def test_a_missing_library_is_named(tmp_path):
    code = "import sys; sys.modules['pandas'] = None\nfrom openlstm.cli import main; main()"
    done = program("train", "forecast", "x.csv", "--target", "y", code=code)
    assert (done.returncode, done.stderr) == (
        2,
        "Error: This needs pandas: install it with pip install 'openlstm[train]'.\n",
    )


ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def example(monkeypatch, name, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(name, run_name="__main__")


def as_arrays(module):
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def test_the_commands_in_the_readme_run(tmp_path, monkeypatch):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    # The reader's own file.
    sales = 10 + np.random.default_rng(0).random(120).round(2)
    pd.DataFrame({"shop": ["a"] * 60 + ["b"] * 60, "sales": sales}).to_parquet("panel.parquet")
    layers = convert.Layers(openlstm.LSTM(3, 4).spec, as_arrays(openlstm.LSTM(3, 4)))
    torch.save(
        {f"encoder.{name}": tensor for name, tensor in openlstm.LSTM(3, 4).state_dict().items()}, "checkpoint.pt"
    )
    convert.write(layers, "model.onnx")
    convert.write({"encoder": layers}, "model.keras")
    node = onnx.load("model.onnx")
    next(one for one in node.graph.node if one.op_type == "LSTM").name = "encoder"
    onnx.save(node, "model.onnx")
    two = openlstm.LSTM(3, 4, num_layers=2)
    convert.write(convert.Layers(two.spec, as_arrays(two)), "checkpoint.npz", "tf1")
    commands = "example|describe|train|predict|evaluate|sample|convert"
    pattern = rf"(?:^|`)(?:openlstm|python) ((?:(?:{commands})\b|examples/(?:text|frames|dates)).*?)(?:`|$)"
    found = re.findall(pattern, README, re.MULTILINE)
    for line in re.findall("^torchrun (.*)$", README, re.MULTILINE):  # here by one process
        given = torch.distributed.run.get_args_parser().parse_args(shlex.split(line))
        assert given.module and given.training_script == "openlstm"
        found.append(shlex.join(given.training_script_args))
    # What trains for minutes is made shorter: it shall run here, not learn.
    shorter = {
        "train forecast": ("--hidden", "8", "--epochs", "1"),
        "train text": ("--hidden", "8", "--epochs", "1", "--steps-per-epoch", "2"),
        "train frames": ("--hidden", "8", "--epochs", "1"),
        "train seq2seq": ("--hidden", "8", "--epochs", "1"),
        "examples/text.py": ("--characters", "30000"),
        "examples/frames.py": ("--sequences", "60", "--epochs", "1"),
        "examples/dates.py": ("--pairs", "60", "--epochs", "1"),
    }
    used = set()
    for line in found:
        arguments = shlex.split(line)
        if len(arguments) == 1 and arguments[0] in ("train", "predict", "evaluate"):  # named, not shown
            continue
        key = {arguments[0], " ".join(arguments[:2])} & shorter.keys()
        used |= key
        arguments += shorter[key.pop()] if key else ()
        if arguments[0].endswith(".py"):
            example(monkeypatch, *arguments)
        else:
            done = call(*arguments)
            assert done.exit_code == 0, f"{line}: {done.output}"
    assert used == shorter.keys()
    assert {line.split()[0] for line in found} >= set(commands.split("|"))
    assert (tmp_path / "runs" / "panel" / "model.safetensors").exists()


def test_the_examples_train(tmp_path, monkeypatch, capsys):
    """From Python, where the README has them make data only."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    for name, (size, folder) in {"frames": ("--sequences", "runs/frames"), "dates": ("--pairs", "dates")}.items():
        example(monkeypatch, f"examples/{name}.py", size, "60", "--epochs", "1")
        said = capsys.readouterr().out.splitlines()[-1]
        written = re.findall(r"[a-z-]+\.[a-z]+", said)
        assert said.startswith("Wrote ") and "model.safetensors" in written
        assert all((tmp_path / folder / file).exists() for file in written)


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of a shell")
def test_a_reader_who_has_enough_gets_no_error():
    code = (
        "from openlstm.cli import app; import typer\n@app.command()\ndef endless():\n  while True: typer.echo('a' * 99)"
    )
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(code + chr(10) + 'app()')} endless | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("a" * 99 + "\n", "")


TASKS = {"## Train from a file": "forecast", "### Text": "text", "### Frames": "frames", "### Pairs": "seq2seq"}


@pytest.mark.parametrize("heading", TASKS)
def test_the_options_in_the_readme_are_those_of_its_task(heading):
    own = TASKS[heading]
    options = get_command(cli.app).commands["train"].commands[own].params
    known = {flag for option in options for flag in option.opts} | {"--help", "--only-data"}
    part = re.split("^##", README.partition(heading)[2], flags=re.MULTILINE)[0]
    for code in re.findall(r"`(--.*?)`", part):
        assert set(re.findall("--[a-z-]+", code)) <= known, code
        if " " in code:  # with what it may be
            done = call("train", own, *code.split(), "--print-config")
            assert done.exit_code == 0, f"{code}: {done.output}"


def test_as_a_program(tmp_path):
    done = program("example", cwd=tmp_path, env={**os.environ, "COLUMNS": "40"})
    assert done.returncode == 0, done.stderr
    assert "c memory cell         3           7      6.9998 ≈7   6.9995 ≈7 5.74e-39 ≈0\n" in done.stdout
    assert len(list((tmp_path / "worked-example").iterdir())) == 5
