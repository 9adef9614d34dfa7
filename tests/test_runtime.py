"""The C interface: it is built with the system's compiler, gives what Python's streams give, and survives any file."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import COMPILER
from test_stream import forecaster

import openlstm
from openlstm import Stream, nn
from openlstm.spec import Spec
from openlstm.stream import MAGIC

ROOT = Path(__file__).parents[1]
SOURCES = [ROOT / "csrc" / f"{name}.cpp" for name in ("runtime", "stream", "plan", "kernels", "threads", "memory")]
FORMS = (
    "lstm(3, 5; peephole=diagonal)",
    "lstm(3, 40, 20; proj_size=10, nonrecurrent_proj_size=3, layer_norm, learned_state)",
    "gru(4, 17, 17; residual, reset=before)",
    "lstm(2, 6; peephole=dense, zoneout_c=0.1, cell_clip=0.5)",
    "rnn(3, 70)",
    "SLSTM(3, 5, 4)",
    "FGR(3, 5)",
)

pytestmark = pytest.mark.skipif(not COMPILER, reason="needs a C++ compiler")


def compiled(folder: Path, sources: list[Path], *options: str) -> list[Path]:
    """Sources as objects."""
    command = [COMPILER, "-std=c++17", "-O1", "-fno-math-errno", "-ffp-contract=fast", "-fPIC", "-pthread", "-w", "-c"]
    done = subprocess.run(
        [*command, *options, *map(str, sources)], cwd=folder, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return sorted(folder.glob("*.o"))


def linked(target: Path, objects: list[Path], *options: object) -> Path:
    command = [COMPILER, "-std=c++17", "-pthread", "-I", ROOT / "csrc", *options, *objects, "-o", target]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    return target


@pytest.fixture(scope="session")
def objects(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("objects"), SOURCES)


@pytest.fixture(scope="session")
def library(tmp_path_factory, objects):
    found = ctypes.CDLL(str(linked(tmp_path_factory.mktemp("library") / "stream.so", objects, "-shared")))
    pointer, floats = ctypes.c_void_p, np.ctypeslib.ndpointer(np.float32, flags="C")
    found.openlstm_load.restype, found.openlstm_state_size.restype = pointer, ctypes.c_size_t
    found.openlstm_load.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t]
    found.openlstm_step.argtypes = [pointer, floats, floats]
    whole = np.ctypeslib.ndpointer(np.int32, flags="C")
    found.openlstm_step_some.argtypes = [pointer, floats, floats, whole, ctypes.c_int]
    for name in ("free", "inputs", "outputs", "streams", "reset", "state_size"):
        getattr(found, f"openlstm_{name}").argtypes = [pointer]
    for name in ("get_state", "set_state"):
        getattr(found, f"openlstm_{name}").argtypes = [pointer, floats]
    return found


@pytest.fixture
def exported(tmp_path):
    def exported(form: str, weights: str = "float32") -> tuple[Path, Stream]:
        torch.manual_seed(0)
        module = nn.of(Spec.parse(form))
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        openlstm.save(module, tmp_path / "m.safetensors")
        stream = Stream.load(tmp_path / "m.safetensors", 4, weights=weights)
        stream.export(tmp_path / "m.stream")
        return tmp_path / "m.stream", stream

    return exported


def load(library, path: Path, streams: int = 4):
    message = ctypes.create_string_buffer(500)
    return library.openlstm_load(str(path).encode(), streams, 1, message, 500), message.value.decode()


@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("form", FORMS)
def test_it_gives_what_python_gives(library, exported, form, weights):
    path, stream = exported(form, weights)
    own, message = load(library, path)
    assert own, message
    sizes = (library.openlstm_inputs(own), library.openlstm_outputs(own), library.openlstm_streams(own))
    assert sizes == (stream.spec.input_size, stream.spec.output_size(), 4)
    x = np.random.default_rng(0).normal(size=(6, 4, sizes[0])).astype(np.float32)
    y = np.empty((4, sizes[1]), np.float32)

    def check(found: np.ndarray, expected: np.ndarray) -> None:  # another build: the last bit may differ
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)

    for row in x[:3]:
        library.openlstm_step(own, row, y)
        check(y, stream.step(row))
    state = np.empty(library.openlstm_state_size(own), np.float32)
    library.openlstm_get_state(own, state)
    check(state, np.concatenate([part.ravel() for part in stream.state.values()]))
    which = np.array([3, 1], np.int32)
    some = np.empty((2, sizes[1]), np.float32)
    library.openlstm_step_some(own, np.ascontiguousarray(x[3, :2]), some, which, 2)
    check(some, stream.step(x[3, :2], which=which))
    library.openlstm_step(own, x[4], y)
    check(y, stream.step(x[4]))
    after = y.copy()
    library.openlstm_set_state(own, state)
    library.openlstm_step_some(own, np.ascontiguousarray(x[3, :2]), some, which, 2)
    library.openlstm_step(own, x[4], y)
    np.testing.assert_array_equal(y, after)
    library.openlstm_reset(own)
    stream.reset()
    library.openlstm_step(own, x[5], y)
    check(y, stream.step(x[5]))
    library.openlstm_free(own)


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_trained_models(library, tmp_path, weights):
    from openlstm.train.frames import Answers, FrameClassifier
    from openlstm.train.text import TextAbout, TextModel

    torch.manual_seed(0)
    frames = FrameClassifier(Spec.of("gru", 4, 6), Answers(("a", "b", "c"), (1, 2, 3), "frame", 2, stack=2))
    with torch.no_grad():
        frames.mean.copy_(torch.tensor([3.0, -1.0]))
        frames.scale.copy_(torch.tensor([0.5, 2.0]))
    random = np.random.default_rng(0)
    values = random.uniform(1, 5, (6, 4, 1)).astype(np.float32)
    for model, x in (
        *((forecaster(output, kind), values) for output, kind in (("level", "sqrt"), ("change", "log"))),
        (TextModel(Spec.of("lstm", 4, 9, 7), TextAbout("\n abc", 4)), random.integers(0, 5, (6, 4))),
        (frames, random.normal(size=(6, 4, 4)).astype(np.float32)),
    ):
        model.save(tmp_path / "m.safetensors")
        series = None if x is not values else ["b"] * 4
        stream = Stream.load(tmp_path / "m.safetensors", 4, weights=weights, series=series)
        stream.export(tmp_path / "m.stream")
        own, message = load(library, tmp_path / "m.stream")
        assert own, message
        y = np.empty((4, library.openlstm_outputs(own)), np.float32)
        state = np.empty(library.openlstm_state_size(own), np.float32)
        library.openlstm_get_state(own, state)
        np.testing.assert_array_equal(state, np.concatenate([part.ravel() for part in stream.state.values()]))
        for row in x:
            library.openlstm_step(own, row.astype(np.float32), y)
            np.testing.assert_allclose(y, stream.step(row), rtol=1e-5, atol=2e-6)
        some = np.empty((2, len(y[0])), np.float32)
        library.openlstm_get_state(own, state)
        for _ in range(2):  # the same again from the state that was kept
            library.openlstm_step_some(own, x[0, :2].astype(np.float32), some, np.array([2, 0], np.int32), 2)
            library.openlstm_step(own, x[1].astype(np.float32), y)
            library.openlstm_set_state(own, state)
        np.testing.assert_allclose(some, stream.step(x[0, :2], which=[2, 0]), rtol=1e-5, atol=2e-6)
        np.testing.assert_allclose(y, stream.step(x[1]), rtol=1e-5, atol=2e-6)
        library.openlstm_free(own)


def test_the_example_runs(tmp_path, exported, objects):
    path, stream = exported("lstm(2, 3)")
    program = linked(tmp_path / "example", objects, ROOT / "examples" / "stream.cpp")
    x = np.array([[0.5, -1.0], [2.0, 0.25]], np.float32)
    done = subprocess.run([program, path], input="0.5 -1\n2 .25\n", capture_output=True, text=True, timeout=60)
    one = stream.fork([0])
    np.testing.assert_allclose(
        np.loadtxt(done.stdout.splitlines()), np.concatenate([one.step(row[None]) for row in x]), 1e-5
    )
    done = subprocess.run([program, path], input="0.5", capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (2, "Error: the input ends within a step of 2 numbers.\n")
    done = subprocess.run([program, "none"], input="", capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (2, "Error: 'none' cannot be used: the file cannot be opened.\n")


def test_any_file_is_refused_or_runs(tmp_path, exported, objects):
    """Numbers are changed, and files cut short, under the sanitizers; the kernels take minutes to compile so, and
    `make sanitize` has them."""
    sanitize = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g1")
    own = compiled(tmp_path, [path for path in SOURCES if path.stem != "kernels"], *sanitize)
    own += [path for path in objects if path.stem == "kernels"]
    program = linked(tmp_path / "fuzz", own, *sanitize, ROOT / "tests" / "runtime.cpp")
    random, files = np.random.default_rng(0), []
    rounds = min(2000, int(os.environ.get("OPENLSTM_FUZZ", 60)))
    forecaster("change", "log").save(tmp_path / "f.safetensors")
    kinds = ((FORMS[0], "int8"), (FORMS[1], "bfloat16"), (FORMS[2], "float32"), (FORMS[3], "int8"), ("", ""))
    for form, weights in kinds:
        path = exported(form, weights)[0] if form else tmp_path / "f.stream"
        if not form:
            Stream.load(tmp_path / "f.safetensors", series="a").export(path)
        whole = path.read_bytes()
        files.append(tmp_path / f"{len(files)}.stream")
        files[-1].write_bytes(whole)
        head = len(MAGIC)
        count = int(np.frombuffer(whole, "<i8", 2, head)[1])
        for k in range(rounds):
            changed = bytearray(whole)
            numbers = np.frombuffer(changed, "<i8", 4 + count, head)
            places = random.integers(0 if k % 5 == 0 else 4, 4 + count, random.choice([1, 1, 1, 2, 5]))
            near = numbers[places] + random.integers(-3, 4, len(places))
            numbers[places] = np.where(
                random.random(len(places)) < 0.6, near, random.choice([-1, 0, 1, 7, 160, 2**20, 2**31, 2**40, 2**62])
            )
            if k % 10 == 9:
                changed = changed[: int(random.integers(0, len(whole)))]
            files.append(tmp_path / f"{len(files)}.stream")
            files[-1].write_bytes(changed)
    done = subprocess.run(
        [program, *map(str, files)],
        capture_output=True,
        text=True,
        timeout=400,
        env=os.environ | {"ASAN_OPTIONS": "detect_leaks=0"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert len(lines) == len(files) and lines[0] == "ran" and lines.count("ran") >= 4
    assert sum(line.startswith("refused: ") for line in lines) > len(lines) / 3
