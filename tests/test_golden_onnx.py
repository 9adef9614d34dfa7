"""The golden numbers of ONNX's recurrent operators: they are what is installed says, ours agree, and mistakes show."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from openlstm.convert import onnx as format

GOLDEN = Path(__file__).parent / "golden"
RECIPE = runpy.run_path(str(GOLDEN / "onnx_recurrent.py"))
CONSTANTS = {"W", "R", "B", "P"}
H = RECIPE["H"]


def stored() -> dict[str, tuple[dict, dict[str, np.ndarray]]]:
    cases: dict[str, tuple[dict, dict[str, np.ndarray]]] = {}
    with np.load(GOLDEN / "onnx_recurrent.npz") as file:
        for name in file.files:
            case, slash, part = name.partition("/")
            if slash:
                cases.setdefault(case, ({}, {}))
                if part == "node":
                    cases[case][0].update(json.loads(str(file[name])))
                else:
                    cases[case][1][part] = file[name]
    return cases


CASES = stored()


def ours(node: dict, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    given = {name: array for name, array in arrays.items() if not name.startswith("Y")}
    made = RECIPE["model"](node["operator"], node["attributes"], given, CONSTANTS & given.keys())
    return format.accelerate(made)({name: array for name, array in given.items() if name not in CONSTANTS})


def test_the_recipe_makes_what_is_stored():
    assert list(CASES) == list(RECIPE["CASES"])
    for seed, (case, (operator, attributes, there)) in enumerate(RECIPE["CASES"].items()):
        for name, array in RECIPE["arrays"](operator, attributes, there, seed).items():
            np.testing.assert_array_equal(CASES[case][1][name], array)


@pytest.mark.parametrize("case", CASES)
def test_what_is_installed_says_the_same(case):
    node, arrays = CASES[case]
    given = {name: array for name, array in arrays.items() if not name.startswith("Y")}
    made = RECIPE["model"](node["operator"], node["attributes"], given, set())
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    for value, found in zip(made.graph.output, session.run(None, given), strict=True):
        np.testing.assert_allclose(found, arrays[value.name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_ours_agree(case):
    node, arrays = CASES[case]
    for name, found in ours(node, arrays).items():
        np.testing.assert_allclose(found, arrays[name], rtol=1e-5, atol=1e-6)


def reordered(array: np.ndarray, order: str, count: int) -> np.ndarray:
    """The blocks in another order, as one would read them who takes them for that."""
    blocks = np.split(array, count, 1)
    return np.concatenate([blocks[int(k)] for k in order], 1)


def gates(order: str):
    """Someone reads the blocks of the gates in this order."""

    def mistake(node: dict, arrays: dict) -> dict:
        count = RECIPE["GATES"][node["operator"]]
        if count != len(order):
            return {}
        wrong = {name: reordered(arrays[name], order, count) for name in ("W", "R")}
        if "B" in arrays:
            wrong["B"] = np.concatenate([reordered(half, order, count) for half in np.split(arrays["B"], 2, 1)], 1)
        return wrong

    return mistake


def half_of_b(keep: int):
    def mistake(node: dict, arrays: dict) -> dict:
        if "B" not in arrays:
            return {}
        halves = np.split(arrays["B"].copy(), 2, 1)
        halves[1 - keep][:] = 0
        return {"B": np.concatenate(halves, 1)}

    return mistake


def peepholes(order: str):
    def mistake(node: dict, arrays: dict) -> dict:
        if "P" not in arrays:
            return {}
        blocks = np.split(arrays["P"], 3, 1)
        return {"P": np.concatenate([blocks[int(k)] if k != "-" else 0 * blocks[0] for k in order], 1)}

    return mistake


MISTAKES = {
    "gates i f o c": gates("0213"),
    "gates i c f o": gates("0321"),
    "gates i f c o": gates("0231"),
    "gates f i o c": gates("2103"),
    "gates r z h": gates("102"),
    "gates h r z": gates("210"),
    "no recurrent bias": half_of_b(0),
    "no input bias": half_of_b(1),
    "peepholes i f o": peepholes("021"),
    "no peephole of i": peepholes("-12"),
    "no peephole of o": peepholes("0-2"),
    "no peephole of f": peepholes("01-"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_shows_in_every_case_that_has_it(mistake):
    """As it does not in the node tests that ONNX ships."""
    shown = 0
    for case, (node, arrays) in CASES.items():
        wrong = MISTAKES[mistake](node, arrays)
        if not wrong or (mistake == "no peephole of f" and node["attributes"].get("input_forget")):
            continue
        if node["attributes"].get("input_forget") and mistake.startswith("gates"):
            continue  # rows of f are not read there: some orders differ by these alone
        found = ours(node, arrays | wrong)
        assert max(np.abs(found[name] - arrays[name]).max() for name in found) > 1e-3, case
        shown += 1
    assert shown >= 2


@pytest.mark.parametrize("attribute", ["clip", "input_forget", "linear_before_reset", "direction", "activations"])
def test_an_attribute_that_is_passed_over_shows(attribute):
    shown = 0
    for case, (node, arrays) in CASES.items():
        given = dict(node["attributes"])
        if given.pop(attribute, None) is None or given.get("direction") == "bidirectional":
            continue
        if attribute == "activations":
            given = {name: value for name, value in given.items() if not name.startswith("activation")}
        if node["attributes"].get("direction") == "bidirectional":
            continue  # it has other shapes
        found = ours({**node, "attributes": given}, arrays)
        assert max(np.abs(found[name] - arrays[name]).max() for name in found) > 1e-3, case
        shown += 1
    assert shown


def test_lengths_that_are_passed_over_show():
    for case, (node, arrays) in CASES.items():
        if "sequence_lens" in arrays:
            found = ours(node, {name: array for name, array in arrays.items() if name != "sequence_lens"})
            for name in ("Y", "Y_h"):
                assert np.abs(found[name] - arrays[name]).max() > 1e-2, case


# The numbers that ONNX Runtime's own tests of these operators have in them (onnxruntime/test/providers/cpu/rnn, MIT),
# which NumPy made there: small weights, where a wrong gate still shows.
TENS = np.array([[0.1, 0.2, 0.3, 0.4], [1, 2, 3, 4], [10, 11, 12, 13]]).reshape(12, 1)
X = np.array([[-0.455351, -0.276391], [-0.185934, -0.269585]])[:, None]
INPUT = {
    "i": [[-0.494659, 0.0453352], [-0.487793, 0.417264]],
    "o": [[-0.0175329, 0.489074], [-0.446013, 0.414029]],
    "f": [[-0.0091708, -0.255364], [-0.106952, -0.266717]],
    "c": [[-0.0888852, -0.428709], [-0.283349, 0.208792]],
}
RECURRENT = {
    "i": [[0.146626, -0.0620289], [-0.0815302, 0.100482]],
    "o": [[-0.219535, -0.306635], [-0.28515, -0.314112]],
    "f": [[-0.228172, 0.405972], [0.31576, 0.281487]],
    "c": [[-0.394864, 0.42111], [-0.386624, -0.390225]],
}
BIAS = [0.381619, 0.0323954, -0.14449, 0.420804, -0.258721, 0.45056, -0.250755, 0.0967895]
SMALL = {
    "W": np.concatenate([INPUT[gate] for gate in "iofc"]),
    "R": np.concatenate([RECURRENT[gate] for gate in "iofc"]),
    "B": np.array([*BIAS, *[0.0] * 8]),
    "P": np.array([0.2345, 0.5235, 0.4378, 0.3475, 0.8927, 0.3456]),
}
PLAIN = {name: array for name, array in SMALL.items() if name != "P"}
ROWS = {"X": np.array([[[1.0], [2.0]], [[10.0], [11.0]]]), "W": TENS, "R": np.full((12, 3), 0.1)}
GRU = {"X": np.array([[[-0.1], [0.2]], [[-0.3], [0.4]]]), "R": np.full((9, 3), 0.1)}
GRU["W"] = np.array([0.1, 0.2, 0.3, 0.2, 0.3, 0.1, 0.3, 0.1, 0.2]).reshape(9, 1)
GRU["B"] = np.array(
    [-0.01, 0.1, 0.01, -0.2, -0.02, 0.02, 0.3, -0.3, -0.3, -0.03, 0.5, -0.7, 0.05, -0.7, 0.3, 0.07, -0.03, 0.5]
)
LITERALS = {
    "two rows": ("LSTM", ROWS, {}, "Y_c", [1.27731147, 1.44181041, 1.53179041, 1.3249796, 1.51063104, 1.61451544]),
    "two rows, backwards": (
        *("LSTM", ROWS, {"direction": "reverse"}, "Y_c"),
        [1.27850552, 1.46799496, 1.57641257, 1.34960834, 1.54772296, 1.65633056],
    ),
    "two lengths": (
        *("LSTM", ROWS | {"sequence_lens": np.array([1, 2], np.int32)}, {}, "Y_c"),
        [0.52497941, 0.54983425, 0.5744428, 1.3249796, 1.51063104, 1.61451544],
    ),
    "two lengths, backwards": (
        *("LSTM", ROWS | {"sequence_lens": np.array([2, 1], np.int32)}, {"direction": "reverse"}, "Y_h"),
        [0.55391603, 0.69201493, 0.82696019, 0.34526044, 0.47220877, 0.55850935],
    ),
    "peepholes": ("LSTM", {"X": X} | SMALL, {}, "Y", [-0.0251062475, 0.0561261699, -0.03277518, 0.05935364]),
    "peepholes, backwards": (
        *("LSTM", {"X": X} | SMALL, {"direction": "reverse"}, "Y"),
        [-0.03189282, 0.07626793, -0.03068724, 0.02803503],
    ),
    "peepholes, no bias": (
        *("LSTM", {"X": X} | {name: array for name, array in SMALL.items() if name != "B"}, {}, "Y"),
        [0.04154162, 0.01969122, 0.05298181, 0.0030589],
    ),
    "input_forget": (
        *("LSTM", {"X": X} | SMALL, {"input_forget": 1}, "Y"),
        [-0.02510626, 0.05612619, -0.0314321, 0.05087372],
    ),
    "clip": ("LSTM", {"X": X} | SMALL, {"clip": 0.1}, "Y", [-0.02280854, 0.02744377, -0.03516197, 0.03875681]),
    "initial_h": (
        *("LSTM", {"X": X, "initial_h": np.array([[[0.34, 0.72]]])} | PLAIN, {}, "Y"),
        [0.01797521, -0.07104912, -0.03174796, -0.0152949],
    ),
    "activations": (
        *("LSTM", {"X": X} | PLAIN, {"activations": ["tanh", "sigmoid", "tanh"]}, "Y"),
        [-0.0660155, 0.0351227, -0.04236888, 0.0177365],
    ),
    "gru": (
        *("GRU", GRU, {}, "Y"),
        [
            0.16783132,
            -0.11754231,
            0.11977843,
            0.2046872,
            -0.10372487,
            0.15365849,
            0.22688604,
            -0.19698407,
            0.14017843,
            0.33386092,
            -0.15799662,
            0.2381169,
        ],
    ),
    "gru, linear_before_reset": (
        *("GRU", GRU, {"linear_before_reset": 1}, "Y"),
        [
            0.15024948,
            -0.11097029,
            -0.02121867,
            0.18887489,
            -0.09747667,
            0.02093463,
            0.19538902,
            -0.19016478,
            -0.05644283,
            0.30856851,
            -0.15190377,
            0.05999807,
        ],
    ),
    "gru, linear_before_reset, backwards": (
        *("GRU", GRU, {"linear_before_reset": 1, "direction": "reverse"}, "Y"),
        [
            0.20910699,
            -0.18880953,
            -0.04005555,
            0.29700265,
            -0.15308119,
            0.04537245,
            0.12252139,
            -0.12032216,
            -0.05064924,
            0.21249877,
            -0.08884402,
            0.04751285,
        ],
    ),
}


@pytest.mark.parametrize("case", LITERALS)
def test_the_literals_of_onnx_runtime(case):
    operator, given, attributes, output, expected = LITERALS[case]
    arrays = {name: array[None] if name in CONSTANTS else array for name, array in given.items()}
    arrays = {name: array if array.dtype == np.int32 else array.astype(np.float32) for name, array in arrays.items()}
    found = ours({"operator": operator, "attributes": attributes}, arrays)
    np.testing.assert_allclose(found[output].ravel(), expected, atol=5e-7)
