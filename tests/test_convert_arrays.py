"""TensorFlow 1, Flax, haste and Kaldi as arrays: against their equations and golden numbers, both ways, and refused."""

from __future__ import annotations

import json
import os
import pathlib
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from cases import OPTIONS, text
from hypothesis import given, settings
from hypothesis import strategies as st

import openlstm
from openlstm import convert, nn
from openlstm.convert import Layers, Refused, flax, haste, kaldi, tf1
from openlstm.convert.layers import outputs
from openlstm.spec import Spec

GOLDEN = pathlib.Path(__file__).parent / "golden"
FORMATS = {"tf1": tf1, "flax": flax, "haste": haste, "kaldi": kaldi}
T, B, I, H = 5, 3, 4, 6


def drawn(seed=0):
    random = np.random.default_rng(seed)
    return lambda *shape: random.normal(0, 0.7, shape)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def layers_of(form: str) -> Layers:
    """With random numbers, all different, in float64."""
    spec, draw = Spec.parse(form), drawn()
    return Layers(spec, {name: draw(*shape) for name, shape in spec.parameters.items()})


# Against the equations of each, written here as their sources have them.


def test_tensorflow_coupled():
    draw = drawn()
    R = 2
    arrays = {
        "W_0": draw(I + R, 3 * H),
        "B": draw(3 * H),
        "W_F_diag": draw(H),
        "W_O_diag": draw(H),
        "W_P_0": draw(H, R),
    }
    scope = "rnn/coupled_input_forget_gate_lstm_cell"
    found = tf1.read({f"{scope}/{k}": v for k, v in arrays.items()}, {"forget_bias": 0.7, "proj_clip": 0.4})["rnn"]
    x, m, c, expected = draw(T, B, I), np.zeros((B, R)), np.zeros((B, H)), []
    for row in x:
        j, f, o = np.split(np.concatenate([row, m], 1) @ arrays["W_0"] + arrays["B"], 3, 1)
        f = sigmoid(f + 0.7 + arrays["W_F_diag"] * c)
        c = f * c + (1 - f) * np.tanh(j)
        m = np.clip((sigmoid(o + arrays["W_O_diag"] * c) * np.tanh(c)) @ arrays["W_P_0"], -0.4, 0.4)
        expected.append(m)
    np.testing.assert_allclose(outputs(found, x), expected, atol=1e-12)
    assert (np.abs(expected) == 0.4).any()


def test_tensorflow_cudnn_gru():
    draw, at = drawn(), "stack/cudnn_compatible_gru_cell/"
    arrays = {"gates/kernel": draw(I + H, 2 * H), "gates/bias": draw(2 * H)}
    for way, rows in (("input", I), ("hidden", H)):
        arrays |= {f"candidate/{way}_projection/kernel": draw(rows, H), f"candidate/{way}_projection/bias": draw(H)}
    found = tf1.read({at + k: v for k, v in arrays.items()})["stack"]
    x, h, expected = draw(T, B, I), np.zeros((B, H)), []
    for row in x:
        r, u = np.split(sigmoid(np.concatenate([row, h], 1) @ arrays["gates/kernel"] + arrays["gates/bias"]), 2, 1)
        a, b = (
            value @ arrays[f"candidate/{way}_projection/kernel"] + arrays[f"candidate/{way}_projection/bias"]
            for way, value in (("input", row), ("hidden", h))
        )
        h = (1 - u) * np.tanh(a + r * b) + u * h
        expected.append(h)
    np.testing.assert_allclose(outputs(found, x), expected, atol=1e-12)


def test_tensorflow_block_gru_and_stacks():
    draw = drawn()
    arrays = {}
    for layer, inputs in enumerate((I, 2 * H)):
        for way in ("fw", "bw"):
            at = f"stack_bidirectional_rnn/cell_{layer}/bidirectional_rnn/{way}/gru_cell/"
            shapes = {"w_ru": (inputs + H, 2 * H), "b_ru": (2 * H,), "w_c": (inputs + H, H), "b_c": (H,)}
            arrays |= {at + name: draw(*shape) for name, shape in shapes.items()}
    arrays |= {"dense/kernel": draw(2 * H, 3), "dense/bias": draw(3)}
    arrays |= {name + "/Adam": np.zeros_like(array) for name, array in arrays.items()}
    arrays["global_step"] = np.array(7)
    found = tf1.read(arrays)
    assert list(found) == ["stack_bidirectional_rnn/bidirectional_rnn"]
    (layers,) = found.values()
    assert layers.spec == Spec.parse(f"gru({I}, {H}, {H}; bidirectional, reset=before)")
    y = x = draw(T, B, I)
    for layer in range(2):
        ways = []
        for way, turn in (("fw", 1), ("bw", -1)):
            at = f"stack_bidirectional_rnn/cell_{layer}/bidirectional_rnn/{way}/gru_cell/"
            w_ru, b_ru, w_c, b_c = (arrays[at + name] for name in ("w_ru", "b_ru", "w_c", "b_c"))
            h, steps = np.zeros((B, H)), []
            for row in y[::turn]:
                r, u = np.split(sigmoid(np.concatenate([row, h], 1) @ w_ru + b_ru), 2, 1)
                h = u * h + (1 - u) * np.tanh(np.concatenate([row, r * h], 1) @ w_c + b_c)
                steps.append(h)
            ways.append(np.stack(steps[::turn]))
        y = np.concatenate(ways, -1)
    np.testing.assert_allclose(outputs(layers, x), y, atol=1e-12)


def test_a_tensorflow_stack_inside_a_direction_stays_apart():
    draw = drawn()
    arrays = {}
    for way in ("fw", "bw"):
        for layer, inputs in enumerate((I, H)):
            at = f"bidirectional_rnn/{way}/multi_rnn_cell/cell_{layer}/basic_rnn_cell/"
            arrays |= {at + "kernel": draw(inputs + H, H), at + "bias": draw(H)}
    found = tf1.read(arrays)
    assert list(found) == [f"bidirectional_rnn/{way}/multi_rnn_cell" for way in ("fw", "bw")]
    assert all(str(layers.spec) == f"rnn({I}, {H}, {H})" for layers in found.values())
    kernel = arrays["bidirectional_rnn/bw/multi_rnn_cell/cell_1/basic_rnn_cell/kernel"]
    np.testing.assert_array_equal(found["bidirectional_rnn/bw/multi_rnn_cell"].arrays["weight_hh_l1"], kernel[H:].T)


@pytest.mark.parametrize("form", ["plain", "norm"])
def test_haste_lstm(form):
    draw = drawn()
    arrays = {"kernel": draw(I, 4 * H), "recurrent_kernel": draw(H, 4 * H), "bias": draw(4 * H)}
    if form == "norm":
        arrays |= {"gamma": draw(2, 4 * H), "gamma_h": draw(H), "beta_h": draw(H)}
    found = haste.read(
        {f"encoder.{k}": torch.tensor(v, requires_grad=True) for k, v in arrays.items()}, {"zoneout_h": 0.3}
    )
    x, h, c, expected = draw(T, B, I), np.zeros((B, H)), np.zeros((B, H)), []

    def norm(v):
        return (v - v.mean(-1, keepdims=True)) / np.sqrt(v.var(-1, keepdims=True) + 1e-5)

    for row in x:
        a, b = row @ arrays["kernel"], h @ arrays["recurrent_kernel"]
        if form == "norm":
            a, b = norm(a) * arrays["gamma"][0], norm(b) * arrays["gamma"][1]
        i, g, f, o = np.split(a + b + arrays["bias"], 4, 1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        seen = norm(c) * arrays["gamma_h"] + arrays["beta_h"] if form == "norm" else c
        h = 0.3 * h + 0.7 * sigmoid(o) * np.tanh(seen)
        expected.append(h)
    np.testing.assert_allclose(outputs(found["encoder"], x), expected, atol=1e-12)


@pytest.mark.parametrize("form", ["plain", "norm"])
def test_haste_gru(form):
    draw = drawn()
    arrays = {"kernel": draw(I, 3 * H), "recurrent_kernel": draw(H, 3 * H), "bias": draw(3 * H)}
    arrays |= {"recurrent_bias": draw(3 * H)} | ({"gamma": draw(2, 3 * H)} if form == "norm" else {})
    found = haste.read(arrays)[""]
    x, h, expected = draw(T, B, I), np.zeros((B, H)), []

    def norm(v, gain):
        return gain * (v - v.mean(-1, keepdims=True)) / np.sqrt(v.var(-1, keepdims=True) + 1e-5)

    for row in x:
        a, b = row @ arrays["kernel"], h @ arrays["recurrent_kernel"]
        if form == "norm":
            a, b = norm(a, arrays["gamma"][0]), norm(b, arrays["gamma"][1])
        (z, r, g), (zh, rh, gh) = (np.split(v, 3, 1) for v in (a + arrays["bias"], b + arrays["recurrent_bias"]))
        z = sigmoid(z + zh)
        h = z * h + (1 - z) * np.tanh(g + sigmoid(r + rh) * gh)
        expected.append(h)
    np.testing.assert_allclose(outputs(found, x), expected, atol=1e-12)


@pytest.mark.parametrize("projected", [True, False])
@pytest.mark.parametrize("fast", [True, False])
def test_kaldi(projected, fast):
    draw = drawn()
    R, P = (2, 3) if projected else (H, 0)
    whole, bias, peepholes = draw(4 * H, I + R), draw(4 * H), draw(3, H)
    projection, shift = draw(R + P, H), draw(R + P)
    arrays = {"W_all.linear": whole, "W_all.bias": bias, "lstm_nonlin.params": peepholes}
    if not fast:
        last = "r" if projected else "m"
        arrays = {f"W_{k}.x{last}.linear": w for k, w in zip("ifco", np.split(whole, 4), strict=True)}
        arrays |= {f"W_{k}.x{last}.bias": b for k, b in zip("ifco", np.split(bias, 4), strict=True)}
        arrays |= {f"w_{k}.c": p for k, p in zip("ifo", peepholes, strict=True)}
    if projected:
        arrays |= {f"W_rp{'' if fast else '.m'}.linear": projection, f"W_rp{'' if fast else '.m'}.bias": shift}
    options = {"delay": -1} | ({"recurrent_projection_dim": R} if projected else {})
    found = kaldi.read({f"lstm1.{k}": v for k, v in arrays.items()}, options)["lstm1"]
    x, r, c, expected = draw(T, B, I), np.zeros((B, R)), np.zeros((B, H)), []
    for row in x:
        i, f, g, o = np.split(np.concatenate([row, r], 1) @ whole.T + bias, 4, 1)
        w_ic, w_fc, w_oc = peepholes
        c = sigmoid(f + w_fc * c) * c + sigmoid(i + w_ic * c) * np.tanh(g)
        m = sigmoid(o + w_oc * c) * np.tanh(c)
        rp = m @ projection.T + shift if projected else m
        r = rp[:, :R]
        expected.append(rp)
    np.testing.assert_allclose(outputs(found, x), expected, atol=1e-12)


with np.load(GOLDEN / "flax_cells.npz") as _file:
    FLAX = {name: _file[name] for name in _file.files}
CASES = sorted({name.partition("/")[0] for name in FLAX if "/" in name})
OURS = {"hard_sigmoid": f"hard_sigmoid:{1 / 6}:0.5", "soft_sign": "softsign"}


@pytest.mark.parametrize("case", CASES)
def test_flax(case):
    own = {name.partition("/")[2]: array for name, array in FLAX.items() if name.startswith(case + "/")}
    told = json.loads(str(own["cell"]))
    words = {name: OURS.get(word, word) for name, word in told["options"].items()}
    gate, function, options = words.get("gate_fn", "sigmoid"), words.get("activation_fn", "tanh"), {}
    if "Simple" in told["cell"]:
        options = {"nonlinearity": function}
    elif words:
        options = {"activations": (gate, function, function)[: 3 if "LSTM" in told["cell"] else 2]}
    tree: dict = {}
    for name, array in own.items():
        *parts, last = name.split("/")
        at = tree
        for part in parts:
            at = at.setdefault(part, {})
        at[last] = array
    layers = flax.read({"params": {"cell": tree["parameters"]}}, options)["params/cell"]
    module = nn.of(layers.spec).double()
    module.load_state_dict({name: torch.from_numpy(array) for name, array in layers.arrays.items()})
    states = [torch.from_numpy(own[f"first_{name}"])[None] for name in layers.spec.definition.states]
    with torch.no_grad():
        y, last = module(torch.from_numpy(own["x"]), tuple(states) if len(states) > 1 else states[0])
    np.testing.assert_allclose(y, own["y"], atol=1e-12)
    for name, state in zip(layers.spec.definition.states, last if len(states) > 1 else (last,), strict=True):
        np.testing.assert_allclose(state[0], own[f"last_{name}"], atol=1e-12)


# Both ways.

WHOLE = [text(cell, *option.split(", ")) for cell, options in OPTIONS.items() for option in options]
WHOLE += [
    "lstm(3, 5, 4; bidirectional)",
    "gru(3, 5, 4; bidirectional)",
    "gru(3, 5, 5; bidirectional, reset=before)",
    "rnn(3, 5, 4; bidirectional)",
    "lstm(3, 5, 4; bidirectional, peephole=diagonal, proj_size=2, nonrecurrent_proj_size=1, proj_bias)",
    "lstm(3, 5, 5; peephole=diagonal, proj_size=2, proj_clip=0.4, cell_clip=0.5, activations=sigmoid/relu/relu)",
    "lstm(3, 5, 5; peephole=diagonal, coupled=i=1-f, proj_size=2, proj_clip=0.4)",
    "lstm(3, 5, 5; bidirectional, layer_norm, zoneout_h=0.3)",
    "gru(3, 5, 5; layer_norm, zoneout_h=0.3)",
]
# What is in no array, and must be said again where it is read.
SAID = {
    "flax": lambda spec: (
        {"nonlinearity": spec.nonlinearity} if spec.cell == "rnn" else {"activations": spec.activations}
    ),
    "haste": lambda spec: {"zoneout_h": spec.zoneout_h},
}
SAYS = {"tf1": 32, "flax": 24, "haste": 21, "kaldi": 13}  # so many of these each format can say


@pytest.mark.parametrize("format", FORMATS)
def test_a_round_trip_keeps_the_function(tmp_path, format):
    said = 0
    for form in WHOLE:
        layers = layers_of(form)
        x = drawn(1)(T, B, layers.spec.input_size)
        path = tmp_path / "m.npz"
        path.unlink(missing_ok=True)
        try:
            convert.write({"encoder": layers}, path, format)
        except Refused as error:
            assert str(error).count("\n") == 0 and not path.exists()
            continue
        said += 1
        options = SAID.get(format, lambda spec: {})(layers.spec)
        found = convert.read(path, format, options)
        (again,) = found.values()
        np.testing.assert_allclose(outputs(again, x), outputs(layers, x), atol=1e-12, err_msg=f"{format} {form}")
        second = tmp_path / "again.npz"
        convert.write(found, second, format)
        third = next(iter(convert.read(second, format, options).values()))
        assert third.spec == again.spec
        for name, array in again.arrays.items():
            np.testing.assert_allclose(third.arrays[name], array, atol=1e-15)
    assert said == SAYS[format], said


@pytest.mark.parametrize(
    ("format", "form", "reason"),
    [
        ("tf1", "lstm(3, 5; layer_norm)", "TensorFlow 1 has no lstm with layer_norm=True: keep it in openlstm"),
        ("tf1", "lstm(3, 5; coupled=f=1-i)", "TensorFlow 1 has no lstm with coupled=f=1-i: keep it in openlstm"),
        ("tf1", "lstm(3, 5; coupled=i=1-f, cell_clip=1.0)", "TensorFlow 1 has no lstm with cell_clip=1.0"),
        ("tf1", "rnn(3, 5; proj_size=2)", "TensorFlow 1 has no rnn with proj_size=2: keep it in openlstm"),
        ("tf1", "lstm(3, 5; activations=tanh/tanh/tanh)", "TensorFlow 1 has one activation beside its gates' sigmoid"),
        ("flax", "gru(3, 5; reset=before)", "Flax has no gru with reset=before: keep it in openlstm"),
        ("flax", "lstm(3, 5; activations=sigmoid/relu/tanh)", "Flax has one activation_fn for the candidate and"),
        ("haste", "rnn(3, 5)", "haste has no rnn with recurrent weights: keep it in openlstm"),
        ("haste", "lstm(3, 5; zoneout_c=0.2)", "haste has no lstm with zoneout_c=0.2: keep it in openlstm"),
        ("kaldi", "gru(3, 5)", "Kaldi's layers here are LSTMs, not gru: keep it in openlstm"),
        ("kaldi", "lstm(3, 5; peephole=dense)", "Kaldi has no lstm with peephole=dense: keep it in openlstm"),
    ],
)
def test_what_a_format_cannot_say(tmp_path, format, form, reason):
    with pytest.raises(Refused) as error:
        convert.write(layers_of(form), tmp_path / "m.npz", format)
    assert str(error.value).startswith(reason)


LSTM = {"rnn/lstm_cell/kernel": np.ones((I + H, 4 * H)), "rnn/lstm_cell/bias": np.ones(4 * H)}
KALDI = {"W_all.linear": np.ones((4 * H, I + 2)), "W_all.bias": np.ones(4 * H), "lstm_nonlin.params": np.ones((3, H))}
KALDI |= {"W_rp.linear": np.ones((3, H)), "W_rp.bias": np.ones(3)}


@pytest.mark.parametrize(
    ("read", "arrays", "options", "reason"),
    [
        (tf1.read, LSTM, {}, "rnn/lstm_cell has a forget_bias that TensorFlow adds at every run"),
        (tf1.read, LSTM, {"forget_bias": "one"}, "rnn/lstm_cell has forget_bias 'one': expected a float"),
        (tf1.read, LSTM, {"bias": 1}, "TensorFlow's cells have no 'bias': expected forget_bias, cell_clip"),
        (tf1.read, LSTM, {"cell": "LSTM"}, "cell is 'LSTM': expected one of BasicLSTMCell"),
        (tf1.read, {"dense/kernel": np.ones((3, 4))}, {}, "There are no cells among the variables"),
        (
            tf1.read,
            {"rnn/layer_norm_basic_lstm_cell/kernel": np.ones((I + H, 4 * H))},
            {},
            "rnn/layer_norm_basic_lstm_cell has TensorFlow's layer norm",
        ),
        (
            tf1.read,
            {
                "a/coupled_input_forget_gate_lstm_cell/W_0": np.ones((3, 4)),
                "a/coupled_input_forget_gate_lstm_cell/W_1": 1,
            },
            {},
            "a/coupled_input_forget_gate_lstm_cell has a matrix in several shards (W_1)",
        ),
        (
            tf1.read,
            LSTM | {"rnn/lstm_cell/w_i_diag": np.ones(H)},
            {"forget_bias": 1},
            "rnn/lstm_cell has peepholes of i alone: expected all, or none",
        ),
        (
            tf1.read,
            LSTM | {"rnn/lstm_cell/bias": np.ones(3)},
            {"forget_bias": 1},
            "rnn/lstm_cell/bias is float64 of shape (3,)",
        ),
        (
            flax.read,
            {"mgu": {name: {"kernel": np.ones((3, 3))} for name in ("if", "in", "hf", "hn")}},
            {},
            "mgu has hf, hn, if, in (a minimal gated unit, which has no form here)",
        ),
        (flax.read, {"a/b": np.ones(3)}, {}, "There are no cells among the parameters"),
        (
            haste.read,
            {"kernel": np.ones((3, 8)), "recurrent_kernel": np.ones((2, 7))},
            {},
            "the layer has a kernel of shape",
        ),
        (haste.read, {"recurrent_scale": np.ones(3)}, {}, "the layer is an IndRNN of haste"),
        (kaldi.read, KALDI, {}, "the layer has a delay that no array shows"),
        (kaldi.read, KALDI, {"delay": -3}, "the layer has delay=-3: a step reads the one so many steps before"),
        (
            kaldi.read,
            KALDI,
            {"delay": -1},
            "the layer projects to 3 numbers, and no array shows how many of them recur",
        ),
        (kaldi.read, KALDI, {"decay": 1}, "Kaldi's layers have no 'decay' here"),
    ],
)
def test_what_is_not_read(read, arrays, options, reason):
    with pytest.raises(ValueError) as error:
        read(arrays, options)
    assert str(error.value).startswith(reason) and "\n" not in str(error.value)


def test_a_stack_with_a_hole():
    layers = layers_of("gru(3, 5, 4, 4; bidirectional)")
    own = flax.parameters(layers)
    with pytest.raises(ValueError, match=r"^the stack has no layer 1: expected 3 layers that read each other$"):
        flax.read({name: array for name, array in own.items() if not name.startswith("l1")})
    with pytest.raises(ValueError, match=r"^the stack has no layer 2 in the other direction"):
        flax.read({name: array for name, array in own.items() if not name.startswith("l2_reverse")})
    del own["l1/ir/bias"]  # a bias that is not there is none
    assert not flax.read(own)[""].arrays["bias_ih_l1"][:4].any()


def test_the_command_says_the_format_and_options(tmp_path):
    from typer.testing import CliRunner

    from openlstm.cli import app

    layers = layers_of("lstm(3, 5; peephole=diagonal)")
    convert.write(layers, tmp_path / "m.npz", "tf1")
    with np.load(tmp_path / "m.npz") as file:
        bare = {name: file[name] for name in file.files if "forget_bias" not in name}
    np.savez(tmp_path / "bare.npz", **bare)
    arguments = ["convert", str(tmp_path / "bare.npz"), str(tmp_path / "m.safetensors")]
    without = CliRunner().invoke(app, arguments)
    assert without.exit_code == 2 and "say which format it is: tf1, flax, haste, kaldi" in without.stderr
    unsaid = CliRunner().invoke(app, [*arguments, "--from", "tf1"])
    assert unsaid.exit_code == 2 and "forget_bias" in unsaid.stderr
    done = CliRunner().invoke(app, [*arguments, "--from", "tf1", "--option", "forget_bias=1.0"])
    assert done.exit_code == 0, done.exception
    for ending in (".onnx", ".pt"):  # the other way, the library of the other side judges what was written
        back = CliRunner().invoke(app, ["convert", str(tmp_path / "m.safetensors"), str(tmp_path / f"m{ending}")])
        if ending == ".pt":
            assert back.exit_code == 2 and "torch.nn has no lstm with peephole=diagonal" in back.stderr
        else:
            assert back.exit_code == 0 and float(back.stdout.split()[-1]) < 1e-6
    module = openlstm.load(tmp_path / "m.safetensors")
    np.testing.assert_allclose(module.weight_ch_l0.detach(), layers.arrays["weight_ch_l0"], atol=1e-6)
    np.testing.assert_allclose(
        (module.bias_ih_l0 + module.bias_hh_l0).detach(),
        layers.arrays["bias_ih_l0"] + layers.arrays["bias_hh_l0"],
        atol=1e-6,
    )


EXAMPLES = int(os.environ.get("OPENLSTM_FUZZ", 60))


@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_mutated_files_of_arrays(tmp_path_factory, data):
    """A clear error, or what the bytes say: never another exception."""
    folder = tmp_path_factory.mktemp("fuzz")
    format = data.draw(st.sampled_from(sorted(FORMATS)))
    form = "lstm(2, 3; peephole=diagonal)" if format in ("tf1", "kaldi") else "gru(2, 3; bidirectional)"
    layers = layers_of(form)
    convert.write(Layers(replace(layers.spec), layers.arrays), folder / "m.npz", format)
    whole = bytearray((folder / "m.npz").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        kind = data.draw(st.integers(0, 2))
        if kind == 0:
            whole[at] = data.draw(st.integers(0, 255))
        elif kind == 1:
            del whole[at : at + data.draw(st.integers(1, 40))]
        else:
            whole[at:at] = data.draw(st.binary(max_size=20))
        if not whole:
            break
    (folder / "m.npz").write_bytes(whole)
    try:
        convert.read(folder / "m.npz", format)
    except ValueError as error:
        assert len(str(error)) < 600 and "\n" not in str(error)


def test_an_array_that_says_too_much_is_not_read(tmp_path):
    path = tmp_path / "m.npz"
    np.savez(path, **{"cell/ii/kernel": np.ones((2, 3))})
    with zipfile.ZipFile(path) as file:
        data = file.read("cell/ii/kernel.npy")
    for wrong in (data.replace(b"(2, 3)", b"(9999999, 99999999)"), data.replace(b"<f8", b"|O "), data[:-8]):
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("cell/ii/kernel.npy", wrong)
        with pytest.raises(ValueError, match=r"^'.*m\.npz' (cannot be read|is broken)"):
            convert.read(path, "flax")
