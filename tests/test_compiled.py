"""What a compiler makes of the engine's instructions gives what the engine gives."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from cases import COMPILER, compiling
from test_declare import agree, built

import openlstm
from openlstm import _core, compiled, plans, zoo

needs_compiler = pytest.mark.skipif(not COMPILER, reason="there is no C++ compiler")


@pytest.fixture
def compiler(tmp_path_factory):
    """The engine compiles, into a cache of these tests."""
    with compiling(tmp_path_factory.getbasetemp() / "cache"):
        yield


def functions(module):
    """How many sections of a module's programs have functions of their own."""
    found = plans.forward(module.spec, frozenset(), False, False, frozenset())
    return sum(
        address != 0
        for layer in found
        for plan in layer
        for part in compiled.bodies(plan.data["sections"])
        for address in part
    )


@needs_compiler
@pytest.mark.parametrize(
    "module",
    [
        openlstm.LSTM(3, 17, 2, bidirectional=True, peephole="diagonal", cell_clip=0.5),
        openlstm.LSTM(3, 17, activations=("hard_sigmoid", "elu", "softplus"), layer_norm=True),
        openlstm.LSTM(3, 17, activations=("sigmoid", "leaky_relu", "softsign"), proj_size=5),
        openlstm.GRU(3, 5, reset="before"),
        zoo.SLSTM(3, 33),
        zoo.FGR(3, 8),
        zoo.IndRNN(3, 1),
    ],
    ids=str,
)
def test_compiled_cells_agree(compiler, module):
    x = torch.randn(7, 5, 3)
    assert functions(module) > 0
    agree(module, x)
    agree(module, x, without=False, lengths=[7, 0, 3, 5, 1])
    with torch.no_grad():  # step by step the same bits
        whole, _ = module(x)
        if not module.bidirectional:
            state, steps = None, []
            for row in x.split(1):
                y, state = module(row, state)
                steps.append(y)
            assert torch.equal(torch.cat(steps), whole)
    openlstm.use_compiler(None)
    assert functions(module) == 0
    torch.testing.assert_close(module(x)[0], whole, rtol=1e-5, atol=1e-6)


@needs_compiler
def test_compiled_streams_and_random_cells(compiler, tmp_path):
    program = (
        {"gates": 3, "states": 3, "vectors": 1, "matrices": 1, "apart": True, "alone": True, "bounded": True},
        [
            (name, 3 * k, 5 * k + 1)
            for k, name in enumerate(("maximum", "log", "exp", "minimum", "/", "clip", "fma", "abs"))
        ],
        [2, 9, 14],
    )
    module = built(program)(3, 13)
    agree(module, torch.randn(6, 4, 3))
    openlstm.save(module, tmp_path / "a.safetensors")
    x = torch.randn(6, 3)
    stream = openlstm.Stream.load(tmp_path / "a.safetensors")
    np.testing.assert_allclose(stream.run(x.numpy()), module(x)[0].detach(), 1e-5, 1e-6)


@needs_compiler
def test_what_was_compiled_is_found_again(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "_loaded", {})
    with compiling(tmp_path / "cache"):
        module = zoo.JANET(3, 4)
        with torch.no_grad():
            before = module(torch.ones(2, 1, 3))[0]
        made = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
        assert made and all(name.endswith(".so") for name in made)  # nothing else is left
        compiled._loaded.clear()
        plans.forget()
        with torch.no_grad():
            assert torch.equal(module(torch.ones(2, 1, 3))[0], before)
        assert made == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}


def test_a_compiler_that_is_not_there():
    with pytest.raises(ValueError, match="There is no compiler 'no-such-compiler': give the command of one"):
        openlstm.use_compiler("no-such-compiler")
    with pytest.raises(ValueError, match="cannot compile what openlstm wrote"):
        openlstm.use_compiler("false")
    assert not compiled.command


@needs_compiler
def test_an_environment_variable_asks_for_it(tmp_path):
    code = "import torch, openlstm; openlstm.LSTM(2, 3)(torch.zeros(4, 1, 2)); print(len(openlstm.compiled._loaded))"
    environment = {"OPENLSTM_CXX": COMPILER, "OPENLSTM_CACHE": str(tmp_path), "PATH": "/usr/bin:/bin:/usr/local/bin"}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(found.stdout) >= 1


def test_the_core_looks_at_what_it_is_given():
    plan = plans.forward(openlstm.LSTM(2, 3).spec, frozenset(), False, False, frozenset())[0][0]
    with pytest.raises(ValueError, match="bodies"):
        _core.Plan(**plan.data, bodies=[[0]])
