"""The package as a whole: its public names, what it imports, and that its documentation runs."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

import openlstm
from openlstm.cells import BUILT_IN, CELLS
from openlstm.spec import _FIELDS

ROOT = pathlib.Path(__file__).parents[1]
SOURCE = ROOT / "src" / "openlstm"

# A module imports only from lower levels: those of the table in DESIGN.md.
ROWS = re.findall(r"^\| (\d+) \| `(\w+)(?:\.py|/)` \|", (ROOT / "DESIGN.md").read_text(encoding="utf-8"), re.MULTILINE)
LEVELS = {name: int(level) for level, name in ROWS}


def test_public_names():
    assert openlstm.__all__ == [
        "GRU",
        "GRUCell",
        "LSTM",
        "LSTMCell",
        "Option",
        "RNN",
        "RNNCell",
        "Spec",
        "Stream",
        "accelerate",
        "backend",
        "cell",
        "convert",
        "describe",
        "draw",
        "explain",
        "load",
        "save",
        "trace",
        "train",
        "use_compiler",
        "zoo",
    ]
    for name in openlstm.__all__:
        assert getattr(openlstm, name).__doc__, name
        assert name in dir(openlstm)
    with pytest.raises(AttributeError, match="module 'openlstm' has no attribute 'nonsense'"):
        openlstm.nonsense  # noqa: B018


def test_type_checkers_see_the_public_names():
    tree = ast.parse((SOURCE / "__init__.py").read_text())
    relative = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    found = {alias.asname: node.module for node in relative for alias in node.names}
    assert found == openlstm._HOME | dict.fromkeys(openlstm._MODULES)


def imports(path):
    """The modules of openlstm that a file imports at its top, or inside a function, and not for type checkers alone."""
    package = ["openlstm", *path.relative_to(SOURCE).parent.parts]
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
            names = [base] if len(base) > 1 else [[*base, alias.name] for alias in node.names]
            yield from (name[1] for name in names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("openlstm"):
            yield from ([*node.module.split("."), *[alias.name for alias in node.names]])[1:2]


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_imports_only_from_lower_levels(path):
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if own in ("__init__", "__main__"):
        return
    for other in imports(path):
        if other not in (own, "_core"):
            assert LEVELS[other] < LEVELS[own], f"{own} imports {other}"


def test_levels_name_what_there_is():
    assert set(LEVELS) == {
        path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    } - {"__init__", "__main__"}


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


LIGHT = [name for name, level in LEVELS.items() if level < 3] + [
    "emit",
    "example",
    "program",
    "plans",
    "stream",
    "draw",
    "plots",
    "measures",
    "tracing",
    "explore",
    "description",
    "cli",
]


@pytest.mark.parametrize("module", ["openlstm", *(f"openlstm.{name}" for name in LIGHT)])
def test_import_without_torch(module):
    block = "import sys; sys.modules['torch'] = None\n"  # an import of torch raises ImportError
    done = run(f"{block}import {module}; import openlstm; openlstm.Spec")
    assert done.returncode == 0, done.stderr


def test_what_needs_torch_says_so():
    done = run("import sys; sys.modules['torch'] = None; import openlstm; openlstm.LSTM")
    last = done.stderr.strip().splitlines()[-1]
    assert last == "ImportError: openlstm.LSTM needs torch: install it with pip install 'openlstm[torch]'"


def test_import_is_light():
    done = run("import sys, openlstm; print(sorted({'torch', 'numpy', 'matplotlib', 'lightning'} & set(sys.modules)))")
    assert done.stdout.strip() == "[]"


def blocks(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_code_in_the_readme_runs(tmp_path, monkeypatch, capsys):
    """And prints what its comments say."""
    monkeypatch.chdir(tmp_path)
    code = blocks((ROOT / "README.md").read_text())
    names: dict[str, object] = {}
    for block in code:
        exec(compile(block, "README.md", "exec"), names)
    promised = re.findall(r"^print\(.*\)  # (.*)$", "\n".join(code), re.MULTILINE)
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if line in promised] == promised
    assert len(code) > 3 and len(promised) > 1


KNOWN = {*_FIELDS, *(name for cell in BUILT_IN for name in CELLS[cell].options)}


def test_the_readme_names_every_option_and_no_other():
    text = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| (`.*?) \|", text.partition("## Every form")[2].partition("##")[0], re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"[\"`( ](\w+)=?", row) if name in KNOWN or f"`{name}" in row}
    torchs = {"bias", "batch_first", "bidirectional", "nonlinearity"}
    assert named - {"GRU", "RNN", "lengths", "hidden_size"} | torchs == KNOWN


def test_what_stands_twice_is_the_same():
    """The Makefile and CMake say the same of a missing compiler."""
    sentence = (
        "openlstm needs a C++17 compiler: none was found. Install one (Debian: apt-get install g++; macOS: xcode-se"
    )
    assert all(sentence in (ROOT / name).read_text() for name in ("Makefile", "CMakeLists.txt"))


def test_links_in_the_documentation_lead_somewhere():
    for page in ROOT.glob("*.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (ROOT / target).exists(), f"{page.name}: {target}"


def test_the_version_is_in_the_changelog():
    assert f"## {openlstm.__version__}" in (ROOT / "CHANGELOG.md").read_text()
