"""PyTorch's layers, their state_dicts and files, and quantised ones: the same numbers here, and back."""

from __future__ import annotations

import itertools
import pickle
import warnings

import numpy as np
import pytest
import torch
from torch import nn as theirs

import openlstm
from openlstm import convert, nn
from openlstm.convert import Layers, Refused
from openlstm.convert import torch as format
from openlstm.spec import Spec


def same(layers: Layers, peer, batch_first: bool = False) -> None:
    """Ours with these numbers gives what a layer of torch gives."""
    own = nn.of(layers.spec)
    own.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in layers.arrays.items()})
    x = torch.randn(6, 4, layers.spec.input_size)
    with torch.no_grad():
        expected, _ = peer.eval()(x)
        found, _ = own.eval()(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


CASES = [
    (kind, options)
    for kind, options in itertools.product(
        (theirs.LSTM, theirs.GRU, theirs.RNN),
        ({}, {"num_layers": 3, "bidirectional": True}, {"bias": False}, {"batch_first": True}),
    )
] + [
    (theirs.LSTM, {"proj_size": 2, "num_layers": 2, "bidirectional": True}),
    (theirs.RNN, {"nonlinearity": "relu"}),
]


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_modules_and_files_both_ways(tmp_path, kind, options):
    torch.manual_seed(0)
    model = theirs.ModuleDict({"head": theirs.Linear(5, 2), "encoder": kind(3, 5, **options)})
    found = format.read(model)
    assert list(found) == ["encoder"]
    same(found["encoder"], model["encoder"])
    assert format.difference(model, found) < 1e-6
    for ending in (".pt", ".safetensors"):
        path = tmp_path / f"m{ending}"
        format.write(found, path)
        state = format.load(path)
        assert {name: t.shape for name, t in state.items()} == {
            name: t.shape for name, t in model.state_dict().items() if name.startswith("encoder")
        }
        again = format.read(path, {k: v for k, v in options.items() if k in ("batch_first", "nonlinearity")})["encoder"]
        assert again.spec == found["encoder"].spec
        for name, array in found["encoder"].arrays.items():
            np.testing.assert_array_equal(again.arrays[name], array)
    torch.save({"epoch": 3, "state_dict": model.state_dict()}, tmp_path / "checkpoint.pth")
    assert format.read(tmp_path / "checkpoint.pth").keys() == {"encoder"}


@pytest.mark.parametrize("kind", [theirs.LSTMCell, theirs.GRUCell, theirs.RNNCell])
def test_cells(kind):
    torch.manual_seed(0)
    cell = kind(3, 5)
    layers = format.read(cell)[""]
    x = torch.randn(6, 4, 3)
    own = nn.of(layers.spec)
    own.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in layers.arrays.items()})
    state, expected = None, []
    with torch.no_grad():
        for row in x:
            state = cell(row, state)
            expected.append(state[0] if isinstance(state, tuple) else state)
        torch.testing.assert_close(own(x)[0], torch.stack(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "form",
    [
        "lstm(3, 5, 4; peephole=diagonal, layer_norm, learned_state)",
        "lstm(3, 5; proj_size=2, nonrecurrent_proj_size=3, peephole=dense)",
        "gru(3, 5; bidirectional)",
    ],
)
def test_ours_are_read_from_their_state_dicts(tmp_path, form):
    module = nn.of(Spec.parse(form))
    torch.save(module.state_dict(), tmp_path / "m.pt")
    for source in (module, module.state_dict(), tmp_path / "m.pt"):
        found = format.read(source)[""]
        assert found.spec == module.spec
        assert all((array == module.state_dict()[name].numpy()).all() for name, array in found.arrays.items())
    if "bidirectional" not in form:
        with pytest.raises(Refused, match=r"^torch\.nn has no lstm with "):
            format.write(found, tmp_path / "n.pt")
        assert not (tmp_path / "n.pt").exists()


@pytest.mark.parametrize("kind", [theirs.LSTM, theirs.GRU])
def test_quantised_layers(kind):
    torch.manual_seed(0)
    layer = kind(3, 5, num_layers=2, bidirectional=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = torch.ao.quantization.quantize_dynamic(theirs.Sequential(layer), {kind}, torch.qint8)
    layers = format.read(small)["0"]
    assert layers.spec == format.read(layer)[""].spec
    for name, tensor in layer.state_dict().items():
        error = np.abs(layers.arrays[name] - tensor.numpy()).max()
        assert error <= tensor.abs().max() / 127 and (error > 0 or "bias" in name)


def test_a_command_converts_and_says_the_difference(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from openlstm.cli import app

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = theirs.ModuleDict({"a": theirs.LSTM(3, 5), "b": theirs.GRU(2, 4)})
    torch.save(model.state_dict(), "m.pt")

    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["convert", *arguments])
        return done.exit_code, done.output

    code, text = run("m.pt", "a.safetensors", "--name", "a")
    assert code == 0 and "Wrote a.safetensors: lstm(3, 5)" in text and "largest difference" in text, text
    same(Layers(*_ours("a.safetensors")), model["a"])
    openlstm.save(openlstm.load("a.safetensors"), "named_wrongly.pt")  # what a file is stands in it
    code, text = run("named_wrongly.pt", "again.safetensors")
    assert code == 0 and "lstm(3, 5)" in text, text
    code, text = run("a.safetensors", "back.pt")
    assert code == 0, text
    assert torch.load("back.pt").keys() == model["a"].state_dict().keys()
    for arguments, told in (
        (
            ("m.pt", "c.safetensors"),
            "Error: There are 2 stacks of layers for 'm.pt', which has one: choose one of 'a', 'b'",
        ),
        (("m.pt", "c.safetensors", "--name", "c"), "Error: 'm.pt' has no layers called 'c': expected one of 'a', 'b'"),
        (("none.pt", "c.safetensors"), "Error: There is no file 'none.pt': give a state_dict of PyTorch"),
        (("m.pt", "c.what", "--name", "a"), "Error: 'c.what' ends with '.what': expected one of "),
        (("m.pt", "c.pt", "--from", "jax"), "Error: format is 'jax': expected one of openlstm, torch"),
    ):
        code, text = run(*arguments)
        assert code == 2 and text.startswith(told) and text.count("\n") == 1, text


def _ours(path):
    layer = openlstm.load(path)
    return layer.spec, {name: t.numpy() for name, t in layer.state_dict().items()}


def test_what_cannot_be_read(tmp_path):
    def told(content: object, name: str = "m.pt") -> str:
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        with pytest.raises(ValueError) as error:
            convert.read(path)
        return str(error.value).replace(str(path), "m")

    class Evil:
        def __reduce__(self):
            import os

            return os.mkdir, (str(tmp_path / "pwned"),)

    for content in (b"", b"no", pickle.dumps(Evil(), 2)):
        assert told(content).startswith("'m' cannot be read without executing what is in it (")
    assert not (tmp_path / "pwned").exists()
    assert told([1]) == "'m' holds a list: expected a state_dict"
    assert told({"a": torch.zeros(2)}).startswith("'m' has no recurrent layers: expected names such as")
    lstm = theirs.LSTM(3, 5).state_dict()
    for changed, message in (
        ({"weight_ih_l0": torch.zeros(21, 3)}, "'m' has weight_ih_l0 of shape (21, 3)"),
        ({"weight_hh_l0": torch.zeros(20)}, "'m' has no weight_hh_l0 of two dimensions"),
        ({"bias_hh_l0": torch.zeros(19)}, "'m' does not fit its spec lstm(3, 5): bias_hh_l0 is (19,), expected (20,)"),
        ({"weight_ih_l2": torch.zeros(20, 5)}, "'m' has no weight_hh_l1 of two dimensions"),
    ):
        assert message in told(lstm | changed).replace("''", "'"), told(lstm | changed)
