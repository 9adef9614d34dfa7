"""A variant as data: text and back, names and shapes, and what is said of a wrong one."""

import copy
import dataclasses
import math
import pickle

import pytest
from cases import CASES, PAIRS
from hypothesis import assume, given
from hypothesis import strategies as st

from openlstm.cells import ACTIVATIONS, BUILT_IN, CELLS
from openlstm.spec import _FIELDS, TORCH_PARAMETERS, Spec

KNOWN = [*_FIELDS, *CELLS["lstm"].options]
SIZES = st.integers(1, 9)
NUMBERS = st.floats(0, 1e6, allow_subnormal=False) | st.integers(0, 1000)
CONSTANTS = st.decimals(-100, 100, places=3, allow_nan=False).map(str)
RATES = st.floats(0, 1) | st.sampled_from([0, 1])


@st.composite
def activation(draw):
    """A name, or a name with some of its constants."""
    name = draw(st.sampled_from(sorted(ACTIVATIONS)))
    count = draw(st.integers(0, len(ACTIVATIONS[name][1])))
    return ":".join([name, *(draw(CONSTANTS) for _ in range(count))])


def value(option):
    """What an option of a cell may be."""
    if option.choices:
        return st.sampled_from(option.choices)
    if option.many:
        return st.tuples(*[activation()] * option.many)
    if option.default is None:
        return st.none() | st.floats(-99, 99) | st.integers(-99, 99)
    return NUMBERS


@st.composite
def specs(draw):
    """Any that is allowed, of any cell."""
    cell = draw(st.sampled_from(sorted(BUILT_IN)))
    same = draw(st.booleans())
    size = draw(SIZES)
    sizes = [size] * draw(st.integers(1, 4)) if same else draw(st.lists(SIZES, min_size=1, max_size=4))
    options = {}
    for name, default in _FIELDS.items():
        if draw(st.booleans()):
            options[name] = draw(
                st.sampled_from(["hidden", "candidate"])
                if isinstance(default, str)
                else st.booleans()
                if isinstance(default, bool)
                else st.integers(0, 5)
                if isinstance(default, int)
                else NUMBERS
                if name == "proj_clip"
                else RATES
            )
    for name, option in CELLS[cell].options.items():
        if draw(st.booleans()):
            options[name] = draw(value(option))
    try:
        return Spec.of(cell, draw(SIZES), sizes, **options)
    except ValueError:
        # Most are refused for a projection that does not fit, or for layers that residual cannot add.
        for name in (
            "proj_size",
            "nonrecurrent_proj_size",
            "proj_bias",
            "proj_clip",
            "residual",
            "zoneout_c",
            "forget_bias",
        ):
            options.pop(name, None)
    try:
        return Spec.of(cell, draw(SIZES), sizes, **options)
    except ValueError:
        assume(False)


@given(specs())
def test_text_and_back(spec):
    again = Spec.parse(str(spec))
    assert again == spec and hash(again) == hash(spec) and repr(spec) == str(spec)
    if "1-" not in str(spec):  # a coupling's name has a sign of equality in it
        assert Spec.parse(f"  {str(spec).replace(', ', ' ,  ').replace('=', ' = ')} ") == spec
    for name in (*_FIELDS, *CELLS[spec.cell].options):
        assert getattr(again, name) == getattr(spec, name)


@given(specs())
def test_what_is_default_is_not_printed(spec):
    parts = str(spec).partition(";")[2].removesuffix(")")
    printed = {part.partition("=")[0].strip() for part in parts.split(",")} - {""}
    known = {**_FIELDS, **{name: option.default for name, option in CELLS[spec.cell].options.items()}}
    assert printed == {name for name, default in known.items() if getattr(spec, name) != default}


@given(specs())
def test_names_and_shapes(spec):
    walks = [(walk.layer, walk.reverse) for walk in spec.walks]
    assert walks == [(k, r) for k in range(spec.num_layers) for r in ([False, True] if spec.bidirectional else [False])]
    assert len(set(spec.parameters)) == len(spec.parameters) == sum(len(spec.shapes(walk)) for walk in spec.walks)
    width = spec.input_size
    for layer, size in enumerate(spec.hidden_size):
        rows, recurs = len(spec.gates) * size, spec.proj_size or size
        for walk in (walk for walk in spec.walks if walk.layer == layer):
            shapes = spec.shapes(walk)
            assert shapes["weight_ih"] == (rows, width) and shapes["weight_hh"] == (rows, recurs)
            assert ("bias_ih" in shapes) == ("bias_hh" in shapes) == spec.bias
            assert list(shapes)[: len(TORCH_PARAMETERS) - 2 * (not spec.bias) - (not spec.proj_size)] == [
                name for name in TORCH_PARAMETERS if name in shapes
            ]
            assert spec.state_sizes(walk) == {"h": recurs, **({"c": size} if spec.cell == "lstm" else {})}
            for name, shape in shapes.items():
                assert spec.parameters[name + walk.suffix] == shape and min(shape) > 0
                assert not (blocks := spec.blocks(name)) or shape[0] == len(blocks) * size
        width = (2 if spec.bidirectional else 1) * (recurs + spec.nonrecurrent_proj_size)
        assert spec.output_size(layer) == width
    assert spec.output_size() == width
    names = {name for mask in spec.masks(2, 3) for name in [mask.rpartition("_l")[0]]}
    assert names == {
        *(["dropout"] if spec.dropout and spec.num_layers > 1 else []),
        *(["weight"] if spec.weight_dropout else []),
        *([{"hidden": "recurrent"}.get(spec.recurrent_dropout_on, "candidate")] if spec.recurrent_dropout else []),
        *(f"zoneout_{name}" for name in "hc" if getattr(spec, f"zoneout_{name}")),
    }


@pytest.mark.parametrize("text", [*CASES, *PAIRS], ids=str)
def test_every_case_prints_as_one_text(text):
    spec = Spec.parse(text)
    assert Spec.parse(str(spec)) == spec and str(Spec.parse(str(spec))) == str(spec)
    assert sorted(str(spec).strip(")").replace(";", ",").split(", ")) == sorted(
        text.strip(")").replace(";", ",").split(", ")
    )


@given(st.text() | st.from_regex(r"(lstm|gru|rnn|\w*) ?\([\d, ]*;?[\w=:/., -]*\)", fullmatch=True))
def test_garbage_is_refused_or_read(text):
    try:
        spec = Spec.parse(text)
    except (ValueError, TypeError) as error:
        assert str(error)
    else:
        assert Spec.parse(str(spec)) == spec


@given(st.sampled_from([*CASES, *PAIRS]), st.integers(0, 200), st.characters() | st.just(""))
def test_a_changed_character_is_refused_or_read(text, place, character):
    place %= len(text)
    try:
        spec = Spec.parse(text[:place] + character + text[place + 1 :])
    except (ValueError, TypeError) as error:
        assert str(error)
    else:
        assert Spec.parse(str(spec)) == spec


ANYTHING = (
    None,
    True,
    0,
    3,
    -3,
    0.5,
    -0.5,
    math.nan,
    math.inf,
    1e300,
    "",
    "x",
    "tanh",
    b"x",
    [],
    [1],
    ["a"] * 3,
    {},
    1j,
)


@pytest.mark.parametrize("cell", BUILT_IN)
def test_any_value_is_refused_or_taken(cell):
    for name in (*_FIELDS, *CELLS[cell].options):
        for value in ANYTHING:
            try:
                spec = Spec.of(cell, 3, 4, **{name: value})
            except (ValueError, TypeError) as error:
                assert name in str(error), (name, value)
            else:
                assert Spec.parse(str(spec)) == spec and hash(spec) == hash(Spec.parse(str(spec))), (name, value)


def test_it_does_not_change():
    spec = Spec.parse("lstm(3, 5; peephole=diagonal)")
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.bias = False
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.peephole = None
    assert {spec: 1}[Spec.of("lstm", 3, [5], peephole="diagonal")] == 1
    assert spec != Spec.parse("lstm(3, 5)") and spec != Spec.parse("lstm(3, 5, 5; peephole=diagonal)")
    for same in (copy.deepcopy(spec), pickle.loads(pickle.dumps(spec)), dataclasses.replace(spec)):
        assert same == spec and str(same) == str(spec) and same.peephole == "diagonal"


def test_the_ways_to_say_the_same():
    spec = Spec.of("lstm", 3, 5, 2)
    assert spec == Spec.of("lstm", 3, [5, 5]) == Spec.of("lstm", 3, (5, 5), 2) == Spec.parse("lstm(3,5,5)")
    assert Spec.of("lstm", 3, 5, peephole=None, cell_clip=0, coupled=None) == Spec.of("lstm", 3, 5)
    assert Spec.of("lstm", 3, 5, cell_clip=1) == Spec.of("lstm", 3, 5, cell_clip=1.0)
    assert str(Spec.of("lstm", 3, 5, cell_clip=1)) == "lstm(3, 5; cell_clip=1.0)"
    assert Spec.parse("lstm(3, 5; bias=True, bidirectional=False)") == Spec.of("lstm", 3, 5)
    assert Spec.parse("lstm(3, 5; bidirectional=True)") == Spec.parse("lstm(3, 5; bidirectional)")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            "lstm 3",
            "Cannot read the spec 'lstm 3': expected a form such as 'lstm(40, 512, 512; bidirectional, proj_size=256)'"
            ", with the input size, then each layer's size",
        ),
        ("lstm(3,,5)", "Cannot read the sizes '3,,5' of the spec 'lstm(3,,5)': expected numbers"),
        ("lstm(3)", "The spec 'lstm(3)' has one size: expected the input size, then each layer's size"),
        ("lstm(3, 5; bias, bias)", "The options 'bias, bias' have 'bias' twice"),
        ("lstm(3, 5; proj_size=x)", "Cannot read the option 'proj_size=x': expected a whole number"),
        ("lstm(3, 5; bias=2)", "Cannot read the option 'bias=2': expected True or False"),
        ("lstm(3, 5; cell_clip)", "Cannot read the option 'cell_clip': expected a number"),
        *(
            (f"lstm(3, 5; {name}=7)", f"Unknown option '{name}' of lstm: expected one of {', '.join(KNOWN)}")
            for name in ("hidden_size", "cls", "input_size", "num_layers", "options", "_text", "")
        ),
        (
            "rnn(3, 5; peephole=dense)",
            "Unknown option 'peephole' of rnn: expected one of bias, batch_first, bidirectional, dropout, proj_size, "
            "nonrecurrent_proj_size, proj_bias, proj_clip, layer_norm, residual, learned_state, recurrent_dropout, "
            "recurrent_dropout_on, weight_dropout, zoneout_h, zoneout_c, nonlinearity, preactivation_clip",
        ),
        ("lstm(3, 5; peephole=full)", "peephole='full': expected one of None, 'diagonal', 'dense'"),
        ("gru(3, 5; reset=never)", "reset='never': expected one of 'after', 'before'"),
        ("rnn(3, 5; nonlinearity=sin)", "Unknown nonlinearity 'sin'. Select from 'tanh' or 'relu'."),
        (
            "lstm(3, 5; activations=tanh)",
            "activations=('tanh',): expected 3 names, as in ('sigmoid', 'tanh', 'tanh')",
        ),
        (
            "gru(3, 5; activations=sigmoid/swish)",
            "activations: unknown activation 'swish'. Expected one of sigmoid, tanh, relu, linear, affine, leaky_relu, "
            "thresholded_relu, scaled_tanh, hard_sigmoid, elu, softsign, softplus",
        ),
        (
            "gru(3, 5; activations=hard_sigmoid:a/tanh)",
            "activations: cannot read the activation 'hard_sigmoid:a'. Expected 'hard_sigmoid:0.2:0.5', or shorter for "
            "the defaults",
        ),
        (
            "gru(3, 5; activations=tanh:1/tanh)",
            "activations: cannot read the activation 'tanh:1'. Expected 'tanh', or shorter for the defaults",
        ),
        ("lstm(0, 5)", "input_size must be greater than zero"),
        ("lstm(3, 0)", "hidden_size must be greater than zero"),
        (
            "lstm(3, 5; dropout=1.5)",
            "dropout should be a number in range [0, 1] representing the probability of an element being zeroed",
        ),
        ("lstm(3, 5; zoneout_h=-1)", "zoneout_h should be a number in range [0, 1] but is -1.0"),
        ("lstm(3, 5; cell_clip=-1)", "cell_clip=-1.0: expected a number of at least 0, where 0 means none"),
        ("lstm(3, 5; forget_bias=nan)", "forget_bias=nan: expected a number"),
        (
            "lstm(3, 5; recurrent_dropout_on=c)",
            "recurrent_dropout_on='c': expected 'hidden' (one mask a sequence, on h) or 'candidate' (a fresh mask a "
            "step)",
        ),
        (
            "rnn(3, 5; recurrent_dropout_on=candidate)",
            "recurrent_dropout_on='candidate': rnn has no candidate. Expected 'hidden'",
        ),
        ("gru(3, 5; zoneout_c=0.5)", "zoneout_c=0.5: gru has no memory c. Use zoneout_h"),
        ("lstm(3, 5; proj_size=-1)", "proj_size should be a positive integer or zero to disable projections"),
        ("lstm(3, 5; proj_size=5)", "proj_size has to be smaller than hidden_size"),
        ("lstm(3, 7, 5; proj_size=6)", "proj_size has to be smaller than hidden_size"),
        ("gru(3, 5; proj_size=2)", "proj_size is not defined for gru: it mixes h with the old one. Expected 0"),
        (
            "lstm(3, 5; nonrecurrent_proj_size=-1)",
            "nonrecurrent_proj_size should be a positive integer or zero to have none",
        ),
        (
            "lstm(3, 5; nonrecurrent_proj_size=2)",
            "nonrecurrent_proj_size=2 needs a recurrent projection: give proj_size too",
        ),
        ("lstm(3, 5; proj_clip=2)", "proj_clip=2.0 needs a recurrent projection: give proj_size too"),
        (
            "lstm(3, 5, 4; residual)",
            "residual adds a layer's input to its output, but layer 1 has 5 inputs and 4 outputs: expected layers of "
            "one size",
        ),
        (
            "lstm(3, 5; coupled=f=1-i, forget_bias=1)",
            "forget_bias needs a forget gate with weights of its own, but coupled='f=1-i' has none. Leave one out",
        ),
        ("gru(3, 5; layer_norm, reset=before)", "layer_norm is not defined for reset='before': expected reset='after'"),
    ],
)
def test_wrong_text(text, error):
    with pytest.raises(ValueError) as found:
        Spec.parse(text)
    assert str(found.value) == error


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "error"),
    [
        ((3.0, 5), {}, TypeError, "input_size should be of type int, got: float"),
        ((3, "5"), {}, TypeError, "hidden_size should be of type int, got: str"),
        ((3, True), {}, TypeError, "hidden_size should be of type int, got: bool"),
        ((3, []), {}, ValueError, "hidden_size is an empty list: expected one size for each layer"),
        ((3, 5, 0), {}, ValueError, "num_layers must be greater than zero"),
        (
            (3, [5, 6], 3),
            {},
            ValueError,
            "hidden_size has 2 sizes, one for each layer, but num_layers is 3: expected 2. Leave num_layers out",
        ),
        ((3, 5), {"bias": 1}, TypeError, "bias should be of type bool, got: int"),
        ((3, 5), {"proj_size": 2.0}, TypeError, "proj_size should be of type int, got: float"),
        (
            (3, 5),
            {"weight_dropout": "0.5"},
            ValueError,
            "weight_dropout should be a number in range [0, 1] but is '0.5'",
        ),
        ((3, 5), {"zoneout_c": math.nan}, ValueError, "zoneout_c should be a number in range [0, 1] but is nan"),
        (
            (3, 5),
            {"cell_clip": math.inf},
            ValueError,
            "cell_clip=inf: expected a number of at least 0, where 0 means none",
        ),
        (
            (3, 5),
            {"activations": "tanh"},
            ValueError,
            "activations='tanh': expected 3 names, as in ('sigmoid', 'tanh', 'tanh')",
        ),
    ],
)
def test_wrong_arguments(arguments, options, kind, error):
    with pytest.raises(kind) as found:
        Spec.of("lstm", *arguments, **options)
    assert str(found.value) == error


def test_no_such_option():
    spec = Spec.parse("gru(3, 5)")
    with pytest.raises(AttributeError, match=r"^Spec of gru has no option 'peephole'$"):
        spec.peephole  # noqa: B018


def test_a_cell_that_nobody_declared():
    with pytest.raises(ValueError, match=r"Unknown cell 'elman': expected one of lstm, gru, rnn, .* @openlstm"):
        Spec.parse("elman(3, 5)")
