"""Is every sign, gate and index of the equations held by a test? Each is changed in turn, and something must notice.

The changes are made in the syntax tree of `cells.py` and of `step.py`, all that its forms allow. A changed module is
run in a private copy of the package, so that nothing else sees it. What notices is a short form of the tests: the
declarations, numpy's arithmetic, and the cases against oracle.py.
"""

import ast
import importlib.util
import math
import pathlib
import re
import sys
import types

import numpy as np
import oracle
import pytest
import torch
from cases import ACTIVATIONS, ALONE, COMBINATIONS, DEFAULTS, FUNCTIONS, REFUSED, problems

import openlstm
from openlstm.arguments import Keep
from openlstm.spec import Spec

# What no test can notice, and why.
SAME: dict[str, dict[str, str]] = {
    "cells": {
        "Numpy.sigmoid: np.logaddexp(0, -x) -> np.logaddexp(-x, 0)": "is symmetric",
        "Numpy.softplus: np.logaddexp(0, x) -> np.logaddexp(x, 0)": "is symmetric",
        "Numpy.relu: np.maximum(x, 0) -> np.maximum(0, x)": "is symmetric",
        "Numpy.negative: np.minimum(x, 0) -> np.minimum(0, x)": "is symmetric",
        "Numpy.layer_norm: d -> x": "the mean of (x - mean) * x is that of (x - mean)^2",
    },
    "step": {
        "Step.__init__: array is None or not inside -> array is None": "to take all rows is only slower",
        "Step.__init__: not inside -> inside": "rows too many are computed and not read",
        "Step.__call__: 'weight_ch' in p and self.cell.dense(spec) -> self.cell.dense(spec)": "one implies the other",
        "Step.__call__: {**{'z_' + name: value for name, value in z.items()}, **values} -> "
        "{**values, **{'z_' + name: value for name, value in z.items()}}": "no name is in both",
    },
}

GROUPS = (("i", "f", "g", "o"), ("r", "u", "n"), ("h", "c"))
OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult}
COMPARISONS = {
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Gt: (ast.GtE, ast.Lt),
}


# The changes


def changes(node, names):
    """What a piece of syntax may be changed to. `names` are the variables of the function around it."""
    if isinstance(node, ast.BinOp):
        yield from (node.left, node.right)
        if type(node.op) in OPERATORS:
            yield ast.BinOp(node.left, OPERATORS[type(node.op)](), node.right)
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, ast.Compare):
        for other in COMPARISONS[type(node.ops[0])]:
            yield ast.Compare(node.left, [other()], node.comparators)
    elif isinstance(node, ast.BoolOp):
        yield from node.values
        yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
    elif isinstance(node, ast.IfExp):
        yield ast.IfExp(node.test, node.orelse, node.body)
    elif isinstance(node, ast.If):
        yield ast.If(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
        yield ast.Pass()
    elif isinstance(node, (ast.Assign, ast.AugAssign, ast.For)) and names:
        yield ast.Pass()
    elif isinstance(node, ast.Constant):
        yield from map(ast.Constant, values(node.value))
    elif isinstance(node, (ast.Tuple, ast.List)) and isinstance(node.ctx, ast.Load):
        for k in range(len(node.elts) - 1):
            first, second = node.elts[k : k + 2]
            yield type(node)([*node.elts[:k], second, first, *node.elts[k + 2 :]], node.ctx)
        for k in range(len(node.elts)):
            yield type(node)([*node.elts[:k], *node.elts[k + 1 :]], node.ctx)
    elif isinstance(node, ast.Dict):
        for k in range(len(node.keys)):
            yield ast.Dict([*node.keys[:k], *node.keys[k + 1 :]], [*node.values[:k], *node.values[k + 1 :]])
            if k:
                swapped = [*node.values[: k - 1], node.values[k], node.values[k - 1], *node.values[k + 1 :]]
                yield ast.Dict(node.keys, swapped)
    elif isinstance(node, ast.Call):
        for k in range(len(node.keywords)):
            yield ast.Call(node.func, node.args, [*node.keywords[:k], *node.keywords[k + 1 :]])
        if names and node.args:
            yield from (argument for argument in node.args if not isinstance(argument, ast.Starred))
            if len(node.args) > 1:
                yield ast.Call(node.func, [node.args[1], node.args[0], *node.args[2:]], node.keywords)
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in names and len(names) > 1:
        yield ast.Name(names[(names.index(node.id) + 1) % len(names)], node.ctx)


def values(value):
    """What a constant may be changed to. Sentences are not changed: they are told, not computed with."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, (int, float)):
        yield from (value + 1, value * 1.5 + 0.125 if isinstance(value, float) else value - 1)
    elif isinstance(value, str) and " " not in value:
        yield value + "_"
        for group in GROUPS:
            if value in group:
                yield group[(group.index(value) + 1) % len(group)]


def sites(node, names=(), where=""):
    """Every place that may be changed: who holds it, in which field, at which index, and what may stand there."""
    for field, held in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "type_comment", "bases"):
            continue
        for index, child in enumerate(held) if isinstance(held, list) else [(None, held)]:
            if not isinstance(child, ast.AST) or isinstance(child, (ast.Import, ast.ImportFrom)):
                continue
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):  # a docstring
                continue
            if isinstance(child, ast.AnnAssign) and ast.unparse(child.target) == "help":
                continue
            inside, place = names, where
            if isinstance(child, (ast.FunctionDef, ast.Lambda)):
                inside = variables(child)
            if isinstance(child, (ast.Assign, ast.AnnAssign)) and not where:
                target = child.targets[0] if isinstance(child, ast.Assign) else child.target
                if isinstance(child, ast.Assign) and not isinstance(child.value, (ast.Constant, ast.Dict)):
                    continue  # a name of a type
                place = ast.unparse(target)
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                place = f"{where}{'.' if where else ''}{child.name}"
            for other in changes(child, inside):
                if ast.dump(other) != ast.dump(child):
                    yield node, field, index, other, place
            yield from sites(child, inside, place)


def variables(function):
    """A function's own variables, in their order in the text."""
    found = [argument.arg for argument in function.args.args]
    found += [n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    return tuple(dict.fromkeys(found))


def mutants(source):
    """Every changed form of a text: what was changed, and its code. What is told of an option is left out of all."""
    tree = ast.parse(source)
    for call in ast.walk(tree):
        if isinstance(call, ast.Call):
            call.keywords = [keyword for keyword in call.keywords if keyword.arg != "help"]
    for owner, field, index, other, place in list(sites(tree)):
        held = getattr(owner, field)
        before = held if index is None else held[index]
        ast.copy_location(other, before)
        ast.fix_missing_locations(other)
        if index is None:
            setattr(owner, field, other)
        else:
            held[index] = other
        text = f"{place}: {ast.unparse(before)} -> {ast.unparse(other)}"
        try:
            yield text, compile(tree, "<changed>", "exec")
        finally:
            if index is None:
                setattr(owner, field, before)
            else:
                held[index] = before


# A private copy of the package


class Copy:
    """The equations, what is data, the step and the reference, apart from the modules that others import."""

    order = ("cells", "words", "spec", "step", "backends.reference")

    def __init__(self, name="openlstm_changed"):
        self.name = name
        for package in ("", ".backends"):
            sys.modules[name + package] = types.ModuleType(name + package)
            sys.modules[name + package].__path__ = []
        self.sources = {
            part: pathlib.Path(importlib.util.find_spec(f"openlstm.{part}").origin).read_text(encoding="utf-8")
            for part in self.order
        }
        self.codes = {part: compile(text, part, "exec") for part, text in self.sources.items()}
        self.load(self.order)

    def load(self, parts, codes=None):
        """Runs modules afresh, in their order."""
        for part in parts:
            full = f"{self.name}.{part}"
            module = sys.modules[full] = types.ModuleType(full)
            module.__package__ = full.rpartition(".")[0]
            setattr(sys.modules[module.__package__], part.rpartition(".")[2], module)
            exec((codes or {}).get(part) or self.codes[part], module.__dict__)

    def change(self, part, code):
        """Puts changed code in a module's place and loads what stands on it."""
        self.load(self.order[self.order.index(part) :], {part: code})

    def __getitem__(self, part):
        return sys.modules[f"{self.name}.{part}"]

    def close(self):
        """Forgets the copy."""
        for name in [name for name in sys.modules if name.partition(".")[0] == self.name]:
            del sys.modules[name]


# What notices

DECLARED = {
    "lstm": {
        "states": ("h", "c"),
        "titles": {
            "i": "input gate",
            "f": "forget gate",
            "g": "candidate",
            "c": "memory cell",
            "o": "output gate",
            "h": "hidden state",
        },
        "candidate": "g",
        "projects": True,
        "options": {
            "peephole": (None, (None, "diagonal", "dense"), 0),
            "coupled": (None, (None, "f=1-i", "i=1-f"), 0),
            "activations": (("sigmoid", "tanh", "tanh"), (), 3),
            "cell_clip": (0.0, (), 0),
            "preactivation_clip": (0.0, (), 0),
            "forget_bias": (None, (), 0),
        },
    },
    "gru": {
        "states": ("h",),
        "titles": {"r": "reset gate", "u": "update gate", "n": "candidate", "h": "hidden state"},
        "candidate": "n",
        "projects": False,
        "options": {
            "reset": ("after", ("after", "before"), 0),
            "activations": (("sigmoid", "tanh"), (), 2),
            "preactivation_clip": (0.0, (), 0),
        },
    },
    "rnn": {
        "states": ("h",),
        "titles": {"h": "hidden state"},
        "candidate": "",
        "projects": True,
        "options": {"nonlinearity": ("tanh", (), 1), "preactivation_clip": (0.0, (), 0)},
    },
}
NUMBERS = np.array(
    [[-800.0, -3.0, -0.7, 0.0, 0.2, 1.0, 2.5, 800.0], [0.5, 0.1, -0.3, 0.0, 1.0, 1.5, -math.inf, math.inf]]
)
SCALARS = {
    "sigmoid": lambda x: oracle.function("sigmoid", x),
    "tanh": math.tanh,
    "exp": math.exp,
    "expm1": math.expm1,
    "log": math.log,
    "abs": abs,
    "relu": lambda x: x if x > 0 else 0.0,
    "negative": lambda x: x if x < 0 else 0.0,
    "step": lambda x: 1.0 if x > 0 else 0.0,
    "softplus": lambda x: oracle.function("softplus", x),
}


def check_declarations(cells, spec):
    """What a cell says of itself."""
    assert {name for name, cell in cells.CELLS.items() if not cell.own} == set(DECLARED)
    for name, cell in ((name, cells.CELLS[name]) for name in DECLARED):
        expected = DECLARED[name]
        plain = expected.keys() - {"options"}
        assert {key: getattr(cell, key) for key in plain} == {key: expected[key] for key in plain}
        found = {key: (option.default, option.choices, option.many) for key, option in cell.options.items()}
        assert found == expected["options"]
    for text, biases in {
        "lstm(3, 5)": {"f": None},
        "lstm(3, 5; forget_bias=1.5)": {"f": 1.5},
        "lstm(3, 5; forget_bias=1.5, coupled=i=1-f)": {"f": 1.5},
        "lstm(3, 5; coupled=f=1-i)": {"f": None},
        "gru(3, 5)": {},
        "rnn(3, 5)": {},
    }.items():
        parsed = spec.Spec.parse(text)
        assert parsed.definition.initial_bias(parsed) == biases
    for text, options in {
        "lstm(3, 5)": {"forget_bias": 1.0},
        "lstm(3, 5; coupled=i=1-f)": {"forget_bias": 1.0},
        "lstm(3, 5; coupled=f=1-i)": {},
        "gru(3, 5)": {},
        "rnn(3, 5)": {},
    }.items():
        parsed = spec.Spec.parse(text)
        assert parsed.definition.advised(parsed) == options
    for text in (*REFUSED, "gru(3, 5; proj_size=2)"):
        with pytest.raises(ValueError, match=r"Leave one out|not defined"):
            spec.Spec.parse(text)


def check_arithmetic(m):
    """Numpy's functions, one number at a time."""
    for name, scalar in SCALARS.items():
        x = np.minimum(NUMBERS, 10.0) if name in ("exp", "expm1") else NUMBERS
        x = 1 + np.abs(np.clip(x, -9, 9)) if name == "log" else x
        expected = np.array([[scalar(value) for value in row] for row in x.tolist()])
        np.testing.assert_allclose(getattr(m, name)(x), expected, 1e-12, 0, err_msg=name)
        assert getattr(m, name)(x.astype(np.float32)).dtype == np.float32
    pairs = [(a, b) for a in NUMBERS.flat for b in (-0.7, 0.0, 1.0)]
    assert [float(m.maximum(a, b)) for a, b in pairs] == [max(pair) for pair in pairs]
    assert [float(m.minimum(a, b)) for a, b in pairs] == [min(pair) for pair in pairs]
    x, weight, bias = NUMBERS[:, 1:4], NUMBERS[:, 2:5], NUMBERS[1, :2]
    products = np.array([[sum(a * b for a, b in zip(row, line, strict=True)) for line in weight] for row in x])
    np.testing.assert_allclose(m.linear(x, weight, None), products, 1e-12)
    np.testing.assert_allclose(m.linear(x, weight, bias), products + bias, 1e-12)
    np.testing.assert_allclose(m.layer_norm(x[:, None]), [[oracle.normalise(row)] for row in x], 1e-12)
    np.testing.assert_allclose(m.clip(x, -0.5, 0.25), [[max(-0.5, min(v, 0.25)) for v in row] for row in x.tolist()])
    assert m.join(x[:, None], weight[:, None]).tolist() == [[[*a, *b]] for a, b in zip(x, weight, strict=True)]


def check_functions(cells, torch_arithmetic):
    """The activations, one number at a time, in numpy and in torch."""
    x = np.linspace(-3, 3, 25)
    for name in (*ACTIVATIONS, *DEFAULTS):
        expected = [oracle.function(name, value) for value in x.tolist()]
        np.testing.assert_allclose(cells.activation(cells.Numpy, name)(x), expected, 1e-12, 1e-15)
        given = cells.activation(torch_arithmetic, name)(torch.from_numpy(x))
        np.testing.assert_allclose(given, expected, 1e-12, 1e-15)


class Checks:
    """All checks of a private copy. That which noticed last is tried first: changes come in order of the text."""

    def __init__(self):
        self.checks = [
            lambda copy: check_declarations(copy["cells"], copy["spec"]),
            lambda copy: check_arithmetic(copy["cells"].Numpy),
            lambda copy: check_functions(copy["cells"], copy["backends.reference"].Torch),
            *(
                self.against_the_formulas(case, p)
                for case in (*ALONE, *FUNCTIONS, *COMBINATIONS)
                for _, p in problems(case, time=3, batch=3)
            ),
        ]

    @staticmethod
    def against_the_formulas(case, p):
        y, final, named = oracle.forward(*p.numpy())
        expected = {"y": y, **{"last " + name: value for name, value in final.items()}, **named}
        expected = {name: torch.from_numpy(value) for name, value in expected.items()}
        arguments = p.arguments[1:]

        def check(copy):
            spec = copy["spec"].Spec.parse(case)
            assert spec.parameters == p.spec.parameters and list(spec.parameters) == list(p.spec.parameters)
            assert spec.state_names == p.spec.state_names
            assert spec.masks(3, 3).keys() == p.spec.masks(3, 3).keys()
            keep = Keep()
            result, last = copy["backends.reference"].forward(spec, *arguments, keep)
            found = keep.values | {"y": result, **{"last " + name: value for name, value in last.items()}}
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                assert found[name].shape == value.shape
                assert torch.allclose(found[name], value, 1e-9, 1e-9, equal_nan=True)

        return check

    def notice(self, copy):
        """Does any check fail?"""
        for k, check in enumerate(self.checks):
            try:
                check(copy)
            except Exception:
                self.checks.insert(0, self.checks.pop(k))
                return True
            except BaseException as error:  # pytest's own, where something should have been raised
                if type(error).__name__ != "Failed":
                    raise
                self.checks.insert(0, self.checks.pop(k))
                return True
        return False


@pytest.fixture
def copy():
    copy = Copy()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield copy
    torch.set_num_threads(threads)
    copy.close()


@pytest.fixture(scope="module")
def checks():
    return Checks()


def test_nothing_is_noticed_where_nothing_is_changed(copy, checks):
    for check in checks.checks:
        check(copy)
    assert copy["spec"].Spec is not Spec and copy["cells"].CELLS is not openlstm.cells.CELLS


@pytest.mark.parametrize(("part", "least"), [("cells", 900), ("step", 400)])
def test_every_change_is_noticed(part, least, copy, checks):
    survivors, count = [], 0
    for text, code in mutants(copy.sources[part]):
        count += 1
        try:
            copy.change(part, code)
        except Exception:
            continue  # it does not load
        if not checks.notice(copy):
            survivors.append(text)
    assert count >= least
    known = SAME.get(part, {})
    unknown = [text for text in survivors if text not in known]
    assert not unknown, f"{len(unknown)} of {count} changes of {part}.py were not noticed:\n" + "\n".join(unknown)
    assert set(known) == set(survivors), "SAME names changes that are noticed, or are no more"


def test_sentences_are_not_changed():
    assert not [text for text, _ in mutants('x = "a sentence"')]
    assert re.search("-> b - a", "".join(text for text, _ in mutants("def f(a, b): return b + a")))
