"""Keras 3 and tf-keras: their own numbers, their files, what is written for them, and what is refused or broken."""

from __future__ import annotations

import io
import json
import os
import pathlib
import sys
import zipfile
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openlstm import convert, nn
from openlstm.convert import Layers, Refused, hdf5
from openlstm.convert import keras as format
from openlstm.convert.layers import outputs
from openlstm.spec import Spec

GOLDEN = pathlib.Path(__file__).parent / "golden"
FILES = ("keras_3.keras", "keras_3.h5", "tf_keras_2.keras", "tf_keras_2.h5")
with np.load(GOLDEN / "keras_layers.npz") as stored:
    NUMBERS = dict(stored)
DESCRIBED = json.loads(NUMBERS.pop("layers").tobytes())
CASES = [(library, case) for library, own in DESCRIBED.items() for case in own["cases"]]
FORMS = (
    "lstm(3, 5)",
    "lstm(3, 5; bias=False)",
    "lstm(3, 5, 4; bidirectional, recurrent_dropout=0.2)",
    "lstm(3, 5, 4, 6; batch_first)",
    "lstm(3, 5; activations=softsign/elu/elu)",
    "lstm(3, 5; activations=sigmoid/leaky_relu:0.2/leaky_relu:0.2)",
    "gru(3, 5; bidirectional)",
    "gru(3, 5, 5; reset=before)",
    "gru(3, 5; bidirectional, reset=before, activations=softsign/softplus)",
    "gru(3, 5; bias=False)",
    "rnn(3, 5, 2; bidirectional)",
    "rnn(3, 5; nonlinearity=relu)",
)
ENDINGS = (".keras", ".h5")


def layers_of(form: str, seed: int = 0) -> Layers:
    spec, random = Spec.parse(form), np.random.default_rng(seed)
    return Layers(spec, {n: random.normal(0, 0.6, s).astype(np.float32) for n, s in spec.parameters.items()})


def described(kind: str = "LSTM", **options) -> dict:
    """A layer as a file describes it."""
    told = {"name": "it", "units": 2, "activation": "tanh", "recurrent_activation": "sigmoid", **options}
    return {"module": "keras.layers", "class_name": kind, "config": told, "registered_name": None}


LSTM = {"cell": [np.zeros((3, 8), np.float32), np.zeros((2, 8), np.float32), np.zeros(8, np.float32)]}


def archive(
    path: pathlib.Path, *members: dict, weights: dict | None = None, version: str = "3.9.0", **root
) -> pathlib.Path:
    """A .keras file: layers with their arrays, those of the last one by the attributes that lead to them."""
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        for place, arrays in (LSTM if weights is None else weights).items():
            for k, array in enumerate(arrays):
                file[
                    f"layers/{members[-1]['class_name'].lower().replace('simplernn', 'simple_rnn')}/{place}/vars/{k}"
                ] = array
    config = {"class_name": "Sequential", "config": {"name": "model", "layers": members}, **root}
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("metadata.json", json.dumps({"keras_version": version}))
        file.writestr("config.json", json.dumps(config))
        file.writestr("model.weights.h5", out.getvalue())
    return path


def with_part(path: pathlib.Path, **changed: bytes) -> pathlib.Path:
    """The same archive with other contents: config, metadata, weights."""
    names = {"config": "config.json", "metadata": "metadata.json", "weights": "model.weights.h5"}
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, data in {**parts, **{names[key]: data for key, data in changed.items()}}.items():
            file.writestr(name, data)
    return path


def run(layers: Layers, x: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Outputs (B, T, O), and final states in Keras' order: of each layer and direction h, c."""
    module = nn.of(layers.spec).to(torch.float64)
    module.load_state_dict({n: torch.from_numpy(np.array(a, np.float64)) for n, a in layers.arrays.items()})
    with torch.no_grad():
        y, final = module.eval()(torch.from_numpy(x.astype(np.float64)), lengths=torch.from_numpy(lengths))
    final = final if isinstance(final, tuple) else (final,)
    final = final if isinstance(final[0], (list, tuple)) else [list(each) for each in final]
    return y.numpy(), [each.numpy() for states in zip(*final, strict=True) for each in states]


# Keras' own numbers.


@pytest.mark.parametrize(("library", "case"), CASES)
def test_golden(tmp_path, library, case):
    own, key = DESCRIBED[library]["cases"][case], f"{library}/{case}/"
    sizes = np.cumsum([np.prod(shape) for shape in own["shapes"]])[:-1]
    parts = [a.reshape(s) for a, s in zip(np.split(NUMBERS[key + "weights"], sizes), own["shapes"], strict=True)]
    half, where = len(parts) // 2, {"cell": parts}
    if "bidirectional" in case:
        where = {"forward_layer/cell": parts[:half], "backward_layer/cell": parts[half:]}
    if case == "cells":
        where = {"cell/cells/gru_cell": parts[:half], "cell/cells/gru_cell_1": parts[half:]}
    path = archive(tmp_path / "m.keras", own["layer"], weights=where, version=DESCRIBED[library]["version"])
    (layers,) = convert.read(path).values()
    assert layers.spec.batch_first
    y, states = run(layers, NUMBERS["x"], NUMBERS["lengths"])
    close = {"rtol": 0, "atol": 1e-8 if "leaky" in case else 1e-12}  # TensorFlow's slope is the float32 0.2
    for b, length in enumerate(NUMBERS["lengths"]):
        np.testing.assert_allclose(y[b, :length], NUMBERS[key + "y"][b, :length], **close)
        assert not y[b, length:].any()
    np.testing.assert_allclose(np.concatenate([s.ravel() for s in states]), NUMBERS[key + "states"], **close)


@pytest.mark.parametrize("file", FILES)
def test_files_of_the_libraries(file):
    found = convert.read(GOLDEN / file)
    hard = "hard_sigmoid:0.16666666666666666:0.5" if file.startswith("keras") else "hard_sigmoid:0.2:0.5"
    assert {name: str(one.spec) for name, one in found.items()} == {
        "second": f"lstm(3, 4; batch_first, activations={hard}/tanh/tanh)",
        "both": "rnn(4, 2; batch_first, bidirectional)",
        "inside/third": "lstm(4, 4; batch_first)",
        "first": "lstm(4, 2; bias=False, batch_first)",
        "last": "gru(2, 3; batch_first)",
    }
    y = NUMBERS["x"]
    for name, one in found.items():
        ours = outputs(one, y.swapaxes(0, 1)).swapaxes(0, 1)
        theirs = NUMBERS[f"{file}/{name.rpartition('/')[2]}"]
        np.testing.assert_allclose(ours[:, -1] if theirs.ndim == 2 else ours, theirs, rtol=0, atol=1e-6)
        y = theirs


# What is written.


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("form", FORMS)
def test_round_trip(tmp_path, form, ending):
    layers, path = layers_of(form), tmp_path / f"m{ending}"
    convert.write({"the stack/of.mine": layers}, path)
    (name, found), *others = convert.read(path).items()
    assert (name, others) == ("the_stack_of.mine", [])
    assert found.spec == replace(layers.spec, batch_first=True)
    x = np.random.default_rng(1).normal(size=(7, 3, 3))
    np.testing.assert_allclose(outputs(found, x), outputs(layers, x), rtol=0, atol=1e-6)
    for other in ENDINGS:  # what is read is written the same again
        convert.write({name: found}, tmp_path / f"again{other}")
        again = convert.read(tmp_path / f"again{other}")[name]
        assert again.spec == found.spec
        for key, array in found.arrays.items():
            np.testing.assert_array_equal(again.arrays[key], array, strict=True)


def test_written_in_float64_as_a_layer_that_may_not_be_named(tmp_path):
    layers = layers_of("gru(3, 5)")
    layers = Layers(layers.spec, {name: array.astype(np.float64) for name, array in layers.arrays.items()})
    convert.write(layers, tmp_path / "m.keras")
    found = convert.read(tmp_path / "m.keras")["gru"]
    for key, array in layers.arrays.items():
        np.testing.assert_array_equal(found.arrays[key], array, strict=True)
    with pytest.raises(ValueError, match="There are 2 stacks of layers"):
        convert.write({"a": layers, "b": layers}, tmp_path / "m.h5")


def test_written_files_are_the_same_each_time(tmp_path):
    for ending in ENDINGS:
        for name in "ab":
            convert.write(layers_of("lstm(3, 5, 4)"), tmp_path / f"{name}{ending}")
        assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes()


def test_hard_sigmoid_is_written_as_what_keras_3_has(tmp_path):
    own = layers_of(f"lstm(3, 5; activations=hard_sigmoid:{1 / 6}:0.5/tanh/tanh)")
    convert.write(own, tmp_path / "m.keras")
    assert convert.read(tmp_path / "m.keras")["lstm"].spec.activations == own.spec.activations
    with pytest.raises(Refused, match=r"both read .h5 files, each with a hard_sigmoid of its own: write a .keras file"):
        convert.write(own, tmp_path / "m.h5")
    with pytest.raises(Refused, match=r"hard_sigmoid cannot be written: Keras 3's is hard_sigmoid:0\.1666"):
        convert.write(layers_of("gru(3, 5; activations=hard_sigmoid/tanh)"), tmp_path / "n.keras")
    assert not (tmp_path / "n.keras").exists()


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("lstm(3, 5; peephole=diagonal)", "Keras has no lstm with peephole=diagonal"),
        ("lstm(3, 5; proj_size=2)", "Keras has no lstm with proj_size=2"),
        ("lstm(3, 5; layer_norm)", "layer_norm=True"),
        ("lstm(3, 5; coupled=f=1-i, cell_clip=1.0)", "coupled=f=1-i, cell_clip=1.0"),
        ("lstm(3, 5; preactivation_clip=1.0)", "preactivation_clip=1.0"),
        ("gru(3, 3, 3; residual)", "residual=True"),
        ("rnn(3, 5; learned_state)", "learned_state=True"),
        ("lstm(3, 5; zoneout_h=0.1)", "zoneout_h=0.1"),
        (
            "lstm(3, 5; activations=sigmoid/tanh/relu)",
            "one activation for the candidate and the output, not tanh, relu",
        ),
        ("lstm(3, 5; activations=scaled_tanh:1.7:0.6/tanh/tanh)", "scaled_tanh:1.7:0.6 cannot be written"),
        ("gru(3, 5; activations=leaky_relu:0.3/tanh)", "leaky_relu:0.3 cannot be written"),
    ],
)
def test_what_keras_has_no_form_of_is_refused(tmp_path, form, message):
    for ending in ENDINGS:
        with pytest.raises(Refused, match=message):
            convert.write(layers_of(form), tmp_path / f"m{ending}")
    assert not list(tmp_path.iterdir())


def test_only_layers_in_line_that_fit_become_one_stack(tmp_path):
    """Two of "a" in line; of "b" the second is of another kind; of "c" another layer is between."""
    kinds = {
        "a_l0": "LSTM",
        "a_l1": "LSTM",
        "b_l0": "LSTM",
        "b_l1": "GRU",
        "c_l0": "LSTM",
        "d": "Dense",
        "c_l1": "LSTM",
    }
    members = [described(kind, name=name, reset_after=True) for name, kind in kinds.items()]
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        for place in ("lstm", "lstm_1", "lstm_2", "gru", "lstm_3", "lstm_4"):
            inputs = 3 if place == "lstm" else 2
            rows, bias = (6, (2, 6)) if place == "gru" else (8, 8)
            for k, shape in enumerate(((inputs, rows), (2, rows), bias)):
                file[f"layers/{place}/cell/vars/{k}"] = np.zeros(shape, np.float32)
    path = with_part(archive(tmp_path / "m.keras", *members), weights=out.getvalue())
    assert {name: str(one.spec) for name, one in convert.read(path).items()} == {
        "a": "lstm(3, 2, 2; batch_first)",
        "b_l0": "lstm(2, 2; batch_first)",
        "b_l1": "gru(2, 2; batch_first)",
        "c_l0": "lstm(2, 2; batch_first)",
        "c_l1": "lstm(2, 2; batch_first)",
    }


# The libraries themselves, where they are installed.


@pytest.fixture(params=["keras", "tf_keras"])
def library(request):
    return pytest.importorskip(request.param, exc_type=ImportError)


def model(library):
    """A model with a part that is used twice, models inside, and custom names."""
    layers, told = library.layers, {"return_sequences": True}
    inner = library.Sequential([layers.LSTM(3, name="deep", **told)], name="innermost")
    other = "deep" if library.__name__ == "keras" else "deeper"  # a .h5 file of tf-keras needs names of their own
    outer = library.Sequential([inner, layers.GRU(3, name=other, reset_after=False, **told)], name="outer")
    start = layers.Input((None, 3))
    shared = layers.LSTM(3, name="z", recurrent_activation="hard_sigmoid", dropout=0.2, recurrent_dropout=0.3, **told)
    x = outer(shared(shared(start)))
    x = layers.Bidirectional(layers.LSTM(2, use_bias=False, name="q", **told), name="q")(x)
    x = layers.RNN([layers.SimpleRNNCell(2), layers.SimpleRNNCell(4)], name="cells", **told)(x)
    frozen = layers.GRU(3, go_backwards=True, name="other", return_state=True, **told)
    x = layers.Bidirectional(layers.GRU(3, return_state=True, **told), backward_layer=frozen, name="two")(x)[0]
    x = layers.LSTM(2, name="a", activation="relu", trainable=False)(layers.Dropout(0.1)(x))
    return library.Model(start, layers.Dense(1)(x))


@pytest.mark.filterwarnings("ignore")
def test_models_of_the_libraries(tmp_path, library):
    whole = model(library)
    random = np.random.default_rng(3)
    whole.set_weights([random.normal(0, 0.5, each.shape) for each in whole.get_weights()])
    other = "deep" if library.__name__ == "keras" else "deeper"
    names = ["z", "outer/innermost/deep", f"outer/{other}", "q", "cells", "two", "a"]
    found = {"live": format.read(whole)}
    assert format.difference(whole, found["live"]) < 1e-6
    for ending in ENDINGS:
        path = tmp_path / f"m{ending}"
        whole.save(path)
        found[ending] = convert.read(path)
        assert format.difference(path, found[ending]) < 1e-6
    for own in found.values():
        assert list(own) == names
        assert own["z"].spec.recurrent_dropout == 0.3
        for name, one in own.items():
            assert one.spec == found["live"][name].spec
            for key, array in one.arrays.items():
                np.testing.assert_array_equal(array, found["live"][name].arrays[key])
    swapped = dict(found["live"], a=found["live"]["a"]._replace(arrays={**found["live"]["a"].arrays}))
    swapped["a"].arrays["weight_hh_l0"] = swapped["a"].arrays["weight_hh_l0"][::-1].copy()
    assert format.difference(whole, swapped) > 1e-3


@pytest.mark.filterwarnings("ignore")
def test_layers_of_the_libraries(library):
    layer = library.layers.LSTM(4, name="one")
    with pytest.raises(ValueError, match=r"one has 0 arrays: expected kernel, .*; call a new layer once"):
        format.read(layer)
    layer(np.zeros((2, 3, 3), np.float32))
    found = format.read(layer)
    assert str(found["one"].spec) == "lstm(3, 4; batch_first)"
    assert format.difference(layer, found) < 1e-6
    with pytest.raises(Refused, match="is a TimeDistributed around LSTM, which has no form here"):
        format.read(library.layers.TimeDistributed(layer))
    with pytest.raises(Refused, match="is a ConvLSTM1D, which has no form here"):
        format.read(library.layers.ConvLSTM1D(2, 1))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FORMS)
def test_the_libraries_load_what_is_written(tmp_path, library, form):
    layers = layers_of(form)
    for ending in ENDINGS if library.__name__ == "keras" else ENDINGS[1:]:
        path = tmp_path / f"m{ending}"
        convert.write({"mine": layers}, path)
        loaded = library.models.load_model(path, compile=False)
        x = np.random.default_rng(4).normal(size=(2, 6, 3)).astype(np.float32)
        theirs = np.asarray(loaded.predict(x, verbose=0)).swapaxes(0, 1)
        np.testing.assert_allclose(theirs, outputs(layers, x.swapaxes(0, 1)), rtol=1e-5, atol=1e-6)
        found = format.read(loaded)
        assert found["mine"].spec == replace(layers.spec, batch_first=True)


@pytest.mark.filterwarnings("ignore")
def test_nothing_is_executed_for_the_difference(tmp_path, library, monkeypatch):
    layers = library.layers
    told = {"output_shape": (None, 3)} if library.__name__ == "keras" else {}
    whole = library.Sequential(
        [layers.Input((None, 3)), layers.Lambda(lambda x: x + 1, **told), layers.LSTM(2, name="it")]
    )
    monkeypatch.setattr(format, "_installed", lambda version: pytest.fail("the file is loaded"))
    for ending in ENDINGS:
        path = tmp_path / f"m{ending}"
        whole.save(path)
        found = convert.read(path)
        assert list(found) == ["it"]
        assert format.difference(path, found) is None


@pytest.mark.filterwarnings("ignore")
def test_models_of_classes_of_ones_own(library):
    class Mine(library.Model):
        def __init__(self):
            super().__init__()
            self.encoder = library.layers.LSTM(2, name="encoder")

        def call(self, x):
            return self.encoder(x)

    whole = Mine()
    whole(np.zeros((1, 2, 3), np.float32))
    found = format.read(whole)
    assert {name: str(one.spec) for name, one in found.items()} == {"encoder": "lstm(3, 2; batch_first)"}
    assert format.difference(whole, found) < 1e-6


def test_difference_without_the_library(monkeypatch):
    for name in ("keras", "tf_keras"):
        monkeypatch.setitem(sys.modules, name, None)
    assert format.difference(GOLDEN / FILES[0], convert.read(GOLDEN / FILES[0])) is None


# What cannot be read.


def both(**options) -> dict:
    layer = described("Bidirectional", **{"merge_mode": "concat", "layer": described(), **options})
    return layer


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (described(activation="gelu"), "it has the activation 'gelu', which has no form here: expected one of sigmoid"),
        (described(recurrent_activation={"config": "mine"}), "activation 'mine', .*, give activations"),
        (described(go_backwards=True), "it has go_backwards=True: a layer here reads forwards, or in both directions"),
        (both(merge_mode="sum"), "Bidirectional with merge_mode='sum': expected 'concat'"),
        (both(merge_mode=None), "Bidirectional with merge_mode=None"),
        (both(layer=described(go_backwards=True)), "it has go_backwards=True in its forward_layer"),
        (
            both(layer=described("RNN", cell=described("StackedRNNCells", cells=[described("GRUCell")] * 2))),
            "all its cells",
        ),
        (described("RNN", cell=described("Mine")), "it is a Mine, which has no form here: expected LSTM"),
        (described("ConvLSTM2D"), "it is a ConvLSTM2D, which has no form here"),
        (described("CuDNNLSTM"), "it is a CuDNNLSTM, which has no form here"),
        (
            described("TimeDistributed", layer=described()),
            "it is a TimeDistributed around LSTM, which has no form here",
        ),
        ({**described(), "module": "mine"}, "it is a mine.LSTM, which has no form here"),
        ({**described(), "registered_name": "Mine>LSTM"}, "it is a keras.Mine>LSTM, which has no form here"),
    ],
)
def test_layers_that_have_no_form_here_are_refused(tmp_path, layer, message):
    with pytest.raises(Refused, match=message):
        convert.read(archive(tmp_path / "m.keras", layer))


def test_other_ways_in_both_directions_are_refused(tmp_path):
    weights = {f"{way}_layer/cell": LSTM["cell"] for way in ("forward", "backward")}
    for backward, message in (
        (described(go_backwards=True, activation="relu"), r"sigmoid/relu/relu\) as layer 0: expected .* in this stack"),
        (described(), "it has go_backwards=None in its backward_layer"),
    ):
        with pytest.raises(ValueError, match=message):
            convert.read(archive(tmp_path / "m.keras", both(backward_layer=backward), weights=weights))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "none"}, "it says no version of Keras that is known: 'none'"),
        ({"class_name": "Mine", "config": {"name": "x"}}, "it is a Mine, whose class alone knows what is in it"),
        ({"weights": {"cell": LSTM["cell"][:2]}}, "it has 2 arrays: expected kernel, recurrent_kernel, bias"),
        ({"weights": {"other": []}}, "it has no layers/lstm"),
        ({"weights": {"cell": [a.T for a in LSTM["cell"]]}}, r"of shape \(8, 3\): expected floats of shape \(8, 8\)"),
        (
            {"weights": {"cell": [a.astype(int) for a in LSTM["cell"]]}},
            "it has weights in chunks, compressed or elsewhere, or no floats",
        ),
        ({"weights": {"cell": [a.ravel() for a in LSTM["cell"]]}}, r"it has a kernel of shape \(24,\)"),
    ],
)
def test_archives_that_are_wrong(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        convert.read(archive(tmp_path / "m.keras", described(), **change))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([described(units=0)], "it has 0 units: expected a number of at least 1"),
        ([described(units="2")], "it has '2' units"),
        ([described("Dense")], "it has no recurrent layers: expected LSTM, GRU, SimpleRNN, RNN or Bidirectional"),
        ([described(), described()], "it has two layers called 'it'|it has no layers/lstm"),
        ([{"class_name": "LSTM"}], "cannot be read"),
        ([described(layer=None), 3], "cannot be read"),
    ],
)
def test_descriptions_that_are_wrong(tmp_path, members, message):
    config = {"class_name": "Sequential", "config": {"name": "m", "layers": members}}
    path = with_part(archive(tmp_path / "m.keras", described()), config=json.dumps(config).encode())
    with pytest.raises(ValueError, match=message):
        convert.read(path)


def test_options_say_what_keras_does_not(tmp_path):
    path = archive(tmp_path / "m.keras", described(activation="my_tanh"))
    found = convert.read(path, options={"activations": ("sigmoid", "tanh", "tanh")})
    assert str(found["it"].spec) == "lstm(3, 2; batch_first)"

    with pytest.raises(ValueError, match="does not fit its spec"):
        convert.read(path, options={"activations": ("sigmoid", "tanh", "tanh"), "bias": False})


def test_time_first(tmp_path):
    found = convert.read(archive(tmp_path / "m.keras", described(time_major=True)))
    assert str(found["it"].spec) == "lstm(3, 2)"


def test_names_as_of_a_stack_in_a_functional_model_are_no_stack(tmp_path):
    path = archive(tmp_path / "m.keras", described(name="a_l0"), class_name="Functional")
    assert list(convert.read(path)) == ["a_l0"]


def test_the_first_archives_of_keras_2_are_refused(tmp_path):
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        file["_layer_checkpoint_dependencies/lstm/cell/vars/0"] = np.zeros((3, 8))
    path = with_part(archive(tmp_path / "m.keras", described()), weights=out.getvalue())
    with pytest.raises(Refused, match=r"it is of Keras 2.12 or 2.13, .*: save a .h5"):
        convert.read(path)


def test_weights_alone_are_refused(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["lstm/lstm_cell/kernel:0"] = np.zeros((3, 8))
    with pytest.raises(Refused, match=r"it has weights alone, without the layers' options, .*model\.save"):
        convert.read(tmp_path / "w.h5")


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no file .*m.keras': give a model of Keras"):
        convert.read(tmp_path / "m.keras")
    with pytest.raises(FileNotFoundError, match=r"There is no file .*m.h5': give a whole model"):
        format.read(tmp_path / "m.h5")
    (tmp_path / "m.h5").write_bytes(b"")
    with pytest.raises(ValueError, match=r"m.h5' cannot be read"):
        convert.read(tmp_path / "m.h5")


def test_without_h5py(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"pip install 'openlstm\[keras\]'"):
        convert.read(GOLDEN / FILES[0])
    with pytest.raises(ImportError, match="h5py"):
        convert.write(layers_of("lstm(3, 5)"), tmp_path / "m.h5")


# Files that are made to do harm.


def replaced(path: pathlib.Path, how) -> pathlib.Path:
    """A file of tf-keras whose first array is something else."""
    path.write_bytes((GOLDEN / "tf_keras_2.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        group = file["model_weights/second/second/lstm_cell"]
        array = group["kernel:0"][()]
        del group["kernel:0"]
        how(group, array)
    return path


def test_no_link_is_followed(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["k"] = np.zeros((3, 16), np.float32)
    for link in (h5py.ExternalLink(str(tmp_path / "other.h5"), "/k"), h5py.SoftLink("/model_weights/first")):
        path = replaced(tmp_path / "m.h5", lambda group, array, link=link: group.__setitem__("kernel:0", link))
        with pytest.raises(ValueError, match="second has 0 arrays that may be its kernel: expected one"):
            convert.read(path)
        with h5py.File(path, "r+") as file:
            del file["model_weights"]
            file["model_weights"] = link
        with pytest.raises(ValueError, match="it has no model_weights/second/, where the weights"):
            convert.read(path)


def test_arrays_that_are_not_plainly_there_are_not_read(tmp_path):
    def external(group, array):
        group.create_dataset("kernel:0", (3, 16), "f4", external=[(str(tmp_path / "raw"), 0, 192)])

    def virtual(group, array):
        layout = h5py.VirtualLayout((3, 16), "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "k", (3, 16))
        group.create_virtual_dataset("kernel:0", layout)

    def unwritten(group, array):
        group.create_dataset("kernel:0", (2**23, 16), "f8")

    (tmp_path / "raw").write_bytes(bytes(192))
    hows = {
        "chunked": lambda group, array: group.create_dataset("kernel:0", data=array, chunks=(1, 16)),
        "compressed": lambda group, array: group.create_dataset("kernel:0", data=array, compression="gzip"),
        "external": external,
        "virtual": virtual,
        "unwritten": unwritten,
    }
    for name, how in hows.items():
        with pytest.raises(ValueError, match="in chunks, compressed or elsewhere"):
            convert.read(replaced(tmp_path / f"{name}.h5", how))


def test_what_breaks_hdf5_is_an_error(tmp_path):
    """It takes 4 GB for a text that claims them, and crashes on a type of variable length that is none."""
    whole = (GOLDEN / "keras_3.h5").read_bytes()
    at = whole.index(b"model_config\0") + 16  # its type, of 24 bytes; then its shape, of 8; then its value
    assert whole[at] % 16 == 9 and int.from_bytes(whole[at + 32 : at + 36], "little") == 9005
    for place, new in ((at + 32, b"\xff\xff\xff\xee"), (at + 1, b"\x09")):
        path = tmp_path / "m.h5"
        path.write_bytes(whole[:place] + new + whole[place + len(new) :])
        with pytest.raises(ValueError, match=r"^'.*m\.h5' cannot be read \("):
            convert.read(path)


def test_what_has_no_end_is_ended(tmp_path, monkeypatch):
    """The process that reads HDF5 has its time."""
    monkeypatch.setattr(hdf5, "SECONDS", 0.001)
    with pytest.raises(ValueError, match="HDF5 finds no end in it: the file is broken"):
        convert.read(GOLDEN / "keras_3.h5")


def test_groups_in_a_circle_end(tmp_path):
    path = replaced(tmp_path / "m.h5", lambda group, array: group.__setitem__("again", group.parent))
    with pytest.raises(ValueError, match="second has 0 arrays that may be its kernel"):
        convert.read(path)


def test_bombs_are_not_opened(tmp_path):
    for name, size in {"config.json": 2**25, "model.weights.h5": 2**20}.items():
        path = tmp_path / "m.keras"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for part in ("metadata.json", "config.json", "model.weights.h5"):
                file.writestr(part, b" " * (size + 1) if part == name else b"{}")
        with pytest.raises(ValueError, match=f"its {name} would have {size + 1} bytes: expected fewer"):
            convert.read(path)
    deep = b'{"a":' * 200_000 + b"1" + b"}" * 200_000
    with zipfile.ZipFile(path, "w") as file:
        for part in ("metadata.json", "config.json", "model.weights.h5"):
            file.writestr(part, deep)
    with pytest.raises(ValueError, match="cannot be read"):
        convert.read(path)


def changed(data, whole: bytearray) -> bytes:
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(whole) - 1))
        how = data.draw(st.sampled_from(["change", "cut", "add", "copy"]))
        if how == "change":
            whole[place] = data.draw(st.integers(0, 255))
        elif how == "cut":
            del whole[place : place + data.draw(st.integers(1, min(40, len(whole) - 1)))]
        elif how == "add":
            whole[place:place] = data.draw(st.binary(min_size=1, max_size=8))
        else:
            there = data.draw(st.integers(0, len(whole) - 1))
            whole[place : place + 8] = whole[there : there + 8]
    return bytes(whole)


@given(st.data())
@settings(
    max_examples=int(os.environ.get("OPENLSTM_FUZZ", 40)),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_mutated_files_give_one_error_or_layers(tmp_path, data):
    """Of archives also what is inside: a checksum would hide it."""
    name = data.draw(st.sampled_from(FILES))
    whole, path = (GOLDEN / name).read_bytes(), tmp_path / name
    inside = data.draw(st.sampled_from(["", "config.json", "model.weights.h5"])) if name.endswith(".keras") else ""
    path.write_bytes(whole if inside else changed(data, bytearray(whole)))
    if inside:
        with zipfile.ZipFile(path) as file:
            part = bytearray(file.read(inside))
        with_part(path, **{"config" if "json" in inside else "weights": changed(data, part)})
    try:
        found = convert.read(path)
    except ValueError as error:
        assert "\n" not in str(error)
        return
    for layers in found.values():
        assert {name: array.shape for name, array in layers.arrays.items()} == layers.spec.parameters
