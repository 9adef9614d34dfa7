"""Streams give what the modules give, with the same bits, without torch; whatever is wrong gets one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from cases import OPTIONS, text

import openlstm
from openlstm import Stream, file, nn
from openlstm.spec import Spec
from openlstm.stream import core

CASES = [text(cell, option) for cell, options in OPTIONS.items() for option in options if option != "bidirectional"]
CASES += ["lstm(3, 70, 40)", "gru(5, 33, 33; residual)", "lstm(40, 300; proj_size=70)"]
T, N = 7, 5


def layer(spec: str, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    module = nn.of(Spec.parse(spec)).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


@pytest.fixture
def path(tmp_path):
    return tmp_path / "m.safetensors"


def given(module, *lead: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(*lead, module.spec.input_size)).astype(np.float32)


@pytest.mark.parametrize("spec", CASES)
def test_steps_are_the_bits_of_the_whole(spec, path):
    module = layer(spec)
    openlstm.save(module, path)
    x = given(module, T, N)
    batched = torch.from_numpy(x if not module.spec.batch_first else x.transpose(1, 0, 2).copy())
    with torch.no_grad(), openlstm.backend("cpu"):
        y, _ = module(batched)
    expected = y.numpy()
    stream = Stream.load(path, N)
    assert stream.backend == "core" and stream.spec == module.spec
    np.testing.assert_array_equal(np.stack([stream.step(row) for row in x]), expected)
    stream.reset()
    np.testing.assert_array_equal(stream.run(x), expected)
    one = Stream.load(path)
    np.testing.assert_array_equal(np.stack([one.step(row) for row in x[:, 3]]), expected[:, 3])
    one.reset()
    np.testing.assert_array_equal(
        np.concatenate([one.run(x[:5, 3]), one.run(x[5:6, 3]), one.run(x[6:, 3])]), expected[:, 3]
    )
    plain = Stream.load(path, N, backend="numpy")
    assert plain.backend == "numpy"
    np.testing.assert_allclose(np.stack([plain.step(row) for row in x]), expected, rtol=2e-5, atol=1e-5)
    plain.reset()
    np.testing.assert_allclose(plain.run(x), expected, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["core", "numpy"])
def test_each_stream_has_its_own_state(path, backend):
    module = layer("lstm(3, 6, 6; learned_state)")
    openlstm.save(module, path)
    x = given(module, T, N)
    alone = [Stream.load(path, backend=backend) for _ in range(N)]
    both = Stream.load(path, N, backend=backend)
    # numpy's products may sum in another order where there are more rows.
    close = (
        np.testing.assert_array_equal
        if backend == "core"
        else partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    )
    for t, some in enumerate(([0, 3], [3], [4, 0, 1], [], [2], [1, 3], [0, 1, 2, 3, 4])):
        y = both.step(x[t, some], which=some)
        assert y.shape == (len(some), 6)
        for k, row in zip(some, y, strict=True):
            close(row, alone[k].step(x[t, k]))
    both.reset([1, 4])
    fresh = Stream.load(path, backend=backend)
    for k in range(N):
        expected = (fresh if k in (1, 4) else alone[k]).state
        for name, state in both.state.items():
            close(state[k], expected[name])
    ways = both.fork([2, 2])
    assert ways.batch == 2
    close(ways.step(x[0, [0, 1]])[1], alone[2].step(x[0, 1]))


@pytest.mark.parametrize("backend", ["core", "numpy"])
def test_a_state_is_restored_exactly(path, tmp_path, backend):
    module = layer("gru(3, 6, 4)")
    openlstm.save(module, path)
    x = given(module, T)
    stream = Stream.load(path, backend=backend)
    stream.run(x[:3])
    np.savez(tmp_path / "state.npz", **stream.state)
    fork = stream.fork()
    expected = stream.run(x[3:])
    with np.load(tmp_path / "state.npz") as saved:
        again = Stream.load(path, backend=backend)
        again.state = dict(saved)
    np.testing.assert_array_equal(again.run(x[3:]), expected)
    np.testing.assert_array_equal(fork.run(x[3:]), expected)  # and the first was not touched by it
    assert list(stream.state) == ["h_l0", "h_l1"] and stream.state["h_l1"].shape == (4,)


def test_many_streams_are_computed_in_blocks(path):
    module = layer("lstm(3, 5, 5; residual)")
    openlstm.save(module, path)
    x = given(module, 2, 700)
    many = Stream.load(path, 700, threads=2)
    with torch.no_grad(), openlstm.backend("cpu"):
        expected = module(torch.from_numpy(x))[0].numpy()
    np.testing.assert_array_equal(np.stack([many.step(row) for row in x]), expected)
    some = np.random.default_rng(0).permutation(700)[:600]
    many.reset()
    np.testing.assert_array_equal(many.step(x[0][some], which=some), expected[0][some])
    np.testing.assert_array_equal(many.step(x[1][some], which=some), expected[1][some])


def test_nothing_is_allocated_for_the_result(path):
    module = layer("lstm(3, 6)")
    openlstm.save(module, path)
    x = given(module, 2)
    stream, out = Stream.load(path), np.zeros(6, np.float32)
    assert stream.step(x[0], out) is out
    np.testing.assert_array_equal(out, Stream.load(path).step(x[0]))
    rows = np.zeros((1, 6), np.float32)
    other = Stream.load(path, 1)
    assert other.step(x[:1], out=rows, which=[0]) is rows
    np.testing.assert_array_equal(rows[0], out)


@pytest.mark.skipif(core is None, reason="the core is not built")
@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
@pytest.mark.parametrize("spec", CASES)
def test_small_weights_are_those_that_are_told(spec, kind, path):
    """The core with small weights is near the module with the weights that these stand for."""
    from openlstm.weights import narrow, widen

    module = layer(spec)
    openlstm.save(module, path)
    x = given(module, T, N)
    arrays = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    # The core has a scale for each row of each gate's block of each matrix, as `narrow` has.
    module.load_state_dict({name: torch.from_numpy(array) for name, array in widen(narrow(arrays, kind)).items()})
    with torch.no_grad(), openlstm.backend("cpu"):
        expected = module(torch.from_numpy(x))[0].numpy()
    stream = Stream.load(path, N, weights=kind)
    found = np.stack([stream.step(row) for row in x])
    # What 8 bits multiply is rounded to 16; the weights' own rounding changes outputs by a hundred times as much.
    rtol, atol = (2e-4, 1e-4) if kind == "int8" else (2e-5, 5e-6)
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)
    stream.reset()
    np.testing.assert_array_equal(stream.run(x), found)
    one = Stream.load(path, weights=kind)
    np.testing.assert_array_equal(one.run(x[:, 2]), found[:, 2])


WITHOUT = """
import sys
for name in ("torch", "lightning", "pandas"): sys.modules[name] = None
{more}
import numpy as np
from openlstm import Stream
stream = Stream.load({path!r}, {batch})
x = np.load({x!r})
np.save({out!r}, np.stack([stream.step(row) for row in x]))
print(stream.backend, *sorted({{"torch", "scipy", "typer"}} & {{n for n, m in sys.modules.items() if m}}))
"""


@pytest.mark.parametrize("native", [True, False])
def test_without_torch(path, tmp_path, native):
    module = layer("lstm(3, 6, 6; peephole=diagonal, layer_norm, residual)")
    openlstm.save(module, path)
    x = given(module, T, N)
    np.save(tmp_path / "x.npy", x)
    more = "" if native else "sys.modules['openlstm._core'] = None"
    code = WITHOUT.format(path=str(path), batch=N, x=str(tmp_path / "x.npy"), out=str(tmp_path / "y.npy"), more=more)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("core" if native else "numpy", "")
    found, expected = np.load(tmp_path / "y.npy"), Stream.load(path, N).run(x)
    if native:
        np.testing.assert_array_equal(found, expected)
    else:
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["core", "numpy"])
def test_a_trained_model_of_text(path, backend):
    from openlstm.train.text import TextAbout, TextModel

    torch.manual_seed(0)
    model = TextModel(Spec.of("lstm", 4, 9, forget_bias=1.0), TextAbout("\n abc", 4)).eval()
    model.save(path)
    ids = np.random.default_rng(0).integers(0, 5, (T, N))
    with torch.no_grad():
        expected = model(torch.from_numpy(ids))[0].numpy()
    stream = Stream.load(path, N, backend=backend)
    np.testing.assert_allclose(np.stack([stream.step(row) for row in ids]), expected, rtol=1e-5, atol=1e-6)
    one = Stream.load(path, backend=backend)
    np.testing.assert_allclose(np.stack([one.step(k) for k in ids[:, 1]]), expected[:, 1], rtol=1e-5, atol=1e-6)
    for wrong, told in ((5, "x has numbers from 5 to 5: expected 0 to 4"), (0.5, "x is float64 of shape (): expected")):
        with pytest.raises(ValueError) as error:
            one.step(wrong)
        assert str(error.value).startswith(told)


@pytest.mark.parametrize("backend", ["core", "numpy"])
def test_a_trained_model_of_frames(path, backend):
    from openlstm.train.frames import Answers, FrameClassifier

    torch.manual_seed(0)
    about = Answers(("a", "b", "c"), (1, 2, 3), "frame", 2, stack=2)
    model = FrameClassifier(Spec.of("gru", 4, 6), about).eval()
    with torch.no_grad():
        model.mean.copy_(torch.tensor([3.0, -1.0]))
        model.scale.copy_(torch.tensor([0.5, 2.0]))
    model.save(path)
    x = given(model, T, N)
    with torch.no_grad():
        expected = model.head(model(torch.from_numpy(x))[0]).log_softmax(-1).numpy()
    stream = Stream.load(path, N, backend=backend)
    np.testing.assert_allclose(stream.run(x), expected, rtol=1e-5, atol=1e-6)


def message(call) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        call()
    return str(error.value)


def test_what_cannot_be_streamed(path, tmp_path):
    assert message(lambda: Stream.load(tmp_path / "none")).startswith("There is no model file ")
    openlstm.save(layer("lstm(3, 5; bidirectional)"), path)
    assert "has layers that read from the end too" in message(lambda: Stream.load(path))
    module = layer("lstm(3, 5)")
    openlstm.save(module, path)
    for options, told in (
        ({"batch": 0}, "batch is 0: expected a whole number of at least 1"),
        ({"weights": "int4"}, "weights is 'int4': expected one of float32, bfloat16, int8"),
        ({"backend": "gpu"}, "backend is 'gpu': expected 'core' or 'numpy'"),
        ({"backend": "numpy", "weights": "int8"}, "numpy computes with float32 only"),
    ):
        assert message(lambda options=options: Stream.load(path, **options)).startswith(told)
    stream = Stream.load(path, 2)
    x = np.zeros((2, 3), np.float32)
    for call, told in (
        (lambda: stream.step(x[0]), "x is float32 of shape (3,): expected numbers of shape (2, 3)"),
        (lambda: stream.step(x.astype(complex)), "x is complex128 of shape (2, 3): expected numbers"),
        (lambda: stream.step(x, out=np.zeros((2, 4), np.float32)), "out is float32 of shape (2, 4): expected"),
        (lambda: stream.step(x, out=np.zeros((2, 5))), "out is float64 of shape (2, 5): expected float32"),
        (lambda: stream.step(x, which=[0, 2]), "which is [0, 2]: expected a list of numbers of streams, 0 to 1"),
        (lambda: stream.step(x, which=[-1, 0]), "which is [-1, 0]: expected"),
        (lambda: stream.reset(1), "which is 1: expected a list of numbers of streams, 0 to 1"),
        (lambda: stream.step(x, which=[1, 1]), "which is [1, 1]: expected each stream once"),
        (lambda: stream.run(1.0), "x is float64 of shape (): expected numbers of shape (steps, 2, 3)"),
        (lambda: stream.run(x), "x is float32 of shape (2, 3): expected numbers of shape (steps, 2, 3)"),
        (lambda: setattr(stream, "state", {}), "state has nothing: expected h_l0, c_l0"),
        (
            lambda: setattr(stream, "state", stream.state | {"h_l0": np.zeros(5)}),
            "state 'h_l0' is float64 of shape (5,)",
        ),
    ):
        assert message(call).startswith(told), message(call)
    np.testing.assert_array_equal(stream.step(x.astype(np.float64)[:, ::1]), Stream.load(path, 2).step(x))


def test_a_file_with_wrong_stages(path):
    arrays, metadata = {name: t.numpy() for name, t in layer("lstm(3, 5)").state_dict().items()}, {"spec": "lstm(3, 5)"}

    def told(stages: object, **more: np.ndarray) -> str:
        kept = stages if isinstance(stages, str) else json.dumps(stages)
        file.write(path, arrays | more, metadata | {"stages": kept})
        return message(lambda: Stream.load(path)).replace(str(path), "m")

    for wrong in ("{", "[]", '[["recurrent", ""], ["recurrent", ""]]', '[["eval", "1"], ["recurrent", ""]]', "[1]"):
        assert told(wrong).startswith("'m' has stages that this openlstm cannot run: expected one 'recurrent' among")
    assert told([["lookup", "e"], ["recurrent", ""]]) == "'m' does not fit its stages: e is missing"
    matrix = np.zeros((4, 2), np.float32)
    assert told([["lookup", "e"], ["recurrent", ""]], e=matrix).startswith("'m' does not fit its stages: e is float32")
    assert told([["shift", "e"], ["recurrent", ""]], e=matrix[:2, 0]).startswith("'m' does not fit its stages: e is")
    assert told([["recurrent", ""], ["linear", "h."]], **{"h.weight": matrix}).startswith("'m' does not fit its stages")
    assert "before its layers" in told([["linear", "h."], ["recurrent", ""]])
    assert "after its layers" in told([["recurrent", ""], ["lookup", "e"]], e=matrix)
    assert "does not fit its spec" in told([["recurrent", "other."]])
    file.write(path, arrays, metadata | {"task": "{}"})
    assert "does not run step by step" in message(lambda: Stream.load(path))


@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
def test_a_small_file(path, tmp_path, kind):
    """It streams with its small weights, and everything else reads the floats that they stand for."""
    module = layer("lstm(30, 40; peephole=diagonal)")
    openlstm.save(module, path)
    small = tmp_path / "small.safetensors"
    file.narrow(path, small, kind)
    assert small.stat().st_size < path.stat().st_size * {"bfloat16": 0.6, "int8": 0.4}[kind]
    x = given(module, T, N)
    again = openlstm.load(small)
    assert again.spec == module.spec
    for name, tensor in module.state_dict().items():
        error = (again.state_dict()[name] - tensor).abs().max() / tensor.abs().max()
        assert error <= {"bfloat16": 2**-8, "int8": 1 / 253}[kind] and (tensor.dim() == 2 or error == 0)
    found = Stream.load(small, N).run(x)
    np.testing.assert_array_equal(found, Stream.load(path, N, weights=kind).run(x))
    atol = 1e-4 if kind == "int8" else 1e-5
    np.testing.assert_allclose(Stream.load(small, N, weights="float32").run(x), found, rtol=2e-5, atol=atol)
    np.testing.assert_allclose(Stream.load(small, N, backend="numpy").run(x), found, rtol=2e-5, atol=atol)


@pytest.mark.skipif(core is None, reason="the core is not built")
def test_inputs_of_8_bits_of_any_size(path):
    """They have a scale for each run of 128: large and tiny ones are as exact, and what is no number stays none."""
    module = layer("lstm(300, 40)")
    openlstm.save(module, path)
    x = given(module, 6) * np.float32([1, 1e-6, 1e6, 0, 1e-38, 1])[:, None]
    x[5, 200] = np.nan
    arrays = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    from openlstm.weights import narrow, widen

    module.load_state_dict({name: torch.from_numpy(array) for name, array in widen(narrow(arrays, "int8")).items()})
    with torch.no_grad(), openlstm.backend("cpu"):
        expected = module(torch.from_numpy(x)[:, None])[0][:, 0].numpy()
    found = Stream.load(path, weights="int8").run(x)
    np.testing.assert_allclose(found[:5], expected[:5], atol=1e-4)
    assert np.isnan(found[5]).all() and np.isnan(expected[5]).all()


def test_a_small_file_that_does_not_fit(path):
    module = layer("lstm(3, 5)")
    openlstm.save(module, path)
    arrays, metadata = file.read(path)
    for wrong in (
        {"weight_ih_l0": arrays["weight_ih_l0"].astype(np.int8)},
        {"weight_ih_l0": arrays["weight_ih_l0"].astype(np.int8), "weight_ih_l0 scale": np.ones(3, np.float32)},
        {"weight_ih_l0 scale": np.ones(20, np.float32)},
    ):
        file.write(path, arrays | wrong, metadata | {"weights": "int8"})
        for load in (openlstm.load, Stream.load):
            assert message(lambda load=load: load(path)).startswith(f"'{path}' has small weights that do not fit: ")
    file.write(path, arrays, metadata | {"weights": "int4"})
    assert "weights is 'int4'" in message(lambda: Stream.load(path))
    arrays["weight_ih_l0"][0, 0] = np.nan
    file.write(path, arrays, metadata)
    assert "not finite" in message(lambda: file.narrow(path, path, "int8"))


def test_quantize_says_what_changes(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from openlstm.cli import app
    from openlstm.train.config import FramesConfig
    from openlstm.train.runs import fit

    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    x = random.normal(size=(600, 4)).astype(np.float32)
    np.savez("f.npz", x=x, lengths=np.full(60, 10), y=(x[:, 0] > 0).astype(int))
    fit(FramesConfig(hidden=8, epochs=2), ["f.npz"], "run")
    openlstm.save(layer("lstm(3, 5)"), "layer.safetensors")

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["quantize", *arguments])
        assert done.exit_code == 0, done.output
        return done.output

    text = run("run/model.safetensors", "f.npz")
    assert (
        "Wrote run/model.int8.safetensors" in text
        and "cross-entropy" in text
        and "accuracy" not in text.split("cross")[0][-9:]
    )
    assert "Give data with the truth too" in run("run/model.safetensors")
    text = run("layer.safetensors", "--weights", "bfloat16", "-o", "small.safetensors")
    assert "Wrote small.safetensors" in text and "On random input the outputs change by" in text
    done = CliRunner().invoke(app, ["quantize", "layer.safetensors", "--weights", "int4"])
    assert (done.exit_code, done.output) == (2, "Error: weights is 'int4': expected int8 or bfloat16.\n")


def forecaster(output: str, transform: str, *, exogenous: bool = False, quantiles: tuple[float, ...] = ()):
    from openlstm.train.forecast import ForecastAbout, Forecaster
    from openlstm.train.series import Columns

    torch.manual_seed(0)
    columns = Columns(("y",), known=("k", "l"), observed=("o",)) if exogenous else Columns(("y",))
    scaling = {"a": (0.3, 1.7), "b": (-0.2, 0.4)}
    pairs = ((1.0, 2.0), (-1.0, 0.5), (3.0, 1.5)) if exogenous else ()
    about = ForecastAbout(columns, 6, 2, 2, 0, output, transform, scaling, pairs, quantiles)
    model = Forecaster(Spec.of("lstm", about.inputs, 5), about).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    return model


def told_ahead(model, series, start: int) -> np.ndarray:
    return model.at(series, np.array([start]))[0].reshape(-1)


@pytest.mark.parametrize("backend", ["core", "numpy"])
@pytest.mark.parametrize("quantiles", [(), (0.1, 0.5, 0.9)])
@pytest.mark.parametrize("exogenous", [False, True])
@pytest.mark.parametrize(("output", "transform"), [("level", "none"), ("change", "log"), ("change", "sqrt")])
def test_a_trained_model_of_series(path, backend, output, transform, exogenous, quantiles):
    """After a window's steps from the beginning, a stream says what the model forecasts from that window."""
    from openlstm.train.series import Series

    model = forecaster(output, transform, exogenous=exogenous, quantiles=quantiles)
    model.save(path)
    random = np.random.default_rng(0)
    window, ahead = model.about.window, model.about.outputs
    values = {name: random.uniform(1, 9, 20) for name in ("a", "b")}
    known, observed = random.normal(size=(20, 2)), random.normal(size=(20, 1))
    some = {"known": known, "observed": observed} if exogenous else {}
    series = {name: Series("m", "y", value, name=name, **some) for name, value in values.items()}

    def x(name: str, t: int) -> np.ndarray:
        if not exogenous:
            return values[name][t : t + 1]
        return np.concatenate([values[name][t : t + 1], observed[t], known[t + 1 : t + 1 + ahead].ravel()])

    both = Stream.load(path, 2, backend=backend, series=["b", "a"])
    for t in range(4, 4 + window):
        said = both.step(np.stack([x("b", t), x("a", t)]))
    for row, name in zip(said, ("b", "a"), strict=True):
        np.testing.assert_allclose(row, told_ahead(model, series[name], 4 + window), rtol=2e-4)
    # Some at a time, from where they were, and many steps at once.
    state = both.state
    assert ("last" in state) == (output == "change")
    fork = both.fork([1])
    expected = both.step(x("a", 10)[None], which=[1])
    close = np.testing.assert_array_equal if backend == "core" else partial(np.testing.assert_allclose, rtol=1e-5)
    close(fork.step(x("a", 10)[None]), expected)
    both.state = state
    close(both.step(np.stack([x("b", 10), x("a", 10)]))[1:], expected)
    both.reset([0])
    both.state = both.state  # a beginning is kept too
    chunk = np.stack([np.stack([x("b", t), x("a", t)]) for t in range(4, 4 + window)])
    whole = both.run(chunk)
    np.testing.assert_allclose(whole[-1, 0], said[0], rtol=1e-5)
    one = Stream.load(path, backend=backend, series=values["a"][:12])  # a series that it has not seen
    new = Series("m", "y", values["a"][:12], name="new", **{k: v[: 12 + ahead] for k, v in some.items()})
    for t in range(12 - window, 12):
        said = one.step(x("a", t))
    np.testing.assert_allclose(said, told_ahead(model, new, 12), rtol=2e-4)


def test_what_is_wrong_with_series(path):
    model = forecaster("change", "log")
    model.save(path)
    assert message(lambda: Stream.load(path)).startswith("series is not given: ")
    assert "was trained on 'a', 'b'" in message(lambda: Stream.load(path, series="c"))
    assert message(lambda: Stream.load(path, 3, series=["a"])).startswith("series has 1 entry: expected 3")
    assert message(lambda: Stream.load(path, series=np.zeros((2, 2)))).startswith("series has float64 of shape (2, 2)")
    past = [1.0, 2.0, 4.0, 3.0]
    y = [Stream.load(path, series=one).step([2.0]) for one in (past, np.array(past))]
    np.testing.assert_array_equal(*y)
    stream = Stream.load(path, 2, series=["a", "b"])
    before = stream.state
    assert "but the log transform takes none" in message(lambda: stream.step(np.array([[1.0], [0.0]])))
    np.testing.assert_equal(stream.state, before)
    assert message(lambda: stream.export(path.with_suffix(".stream"))).startswith("export writes a model of one series")
    openlstm.save(layer("lstm(3, 5)"), path)
    assert "forecasts no series" in message(lambda: Stream.load(path, series="a"))
    arrays, metadata = file.read(path)
    for wrong in ({}, {"transform": "cube", "output": "level", "scaling": {"a": [0, 1]}}, {"scaling": 3}):
        stages = json.dumps([["series", wrong], ["recurrent", ""]])
        file.write(path, arrays, metadata | {"stages": stages})
        assert "has a series that this openlstm cannot run" in message(lambda: Stream.load(path))
    file.write(path, arrays, metadata | {"stages": json.dumps([["shift", ["a"]], ["recurrent", ""]])})
    assert "has stages that this openlstm cannot run" in message(lambda: Stream.load(path))
