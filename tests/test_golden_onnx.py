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
