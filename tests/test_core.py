"""The C++ core: instruction sets that were built, the choice among them, and each one's vector operations."""

import ast
import os
import pathlib
import platform
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import openlstm
from openlstm import _core

LANES = {"avx512": 16, "avx2": 8, "neon": 4, "baseline": 4}
BUILT = {"x86_64": ["avx512", "avx2"], "aarch64": ["neon"], "arm64": ["neon"]}


def core(expression: str, isa: str | None) -> subprocess.CompletedProcess[str]:
    """Prints an expression about _core in a fresh process, where OPENLSTM_ISA is `isa`, or unset if that is None."""
    env = {name: value for name, value in os.environ.items() if name != "OPENLSTM_ISA"}
    if isa is not None:
        env["OPENLSTM_ISA"] = isa
    code = f"from openlstm import _core; print({expression})"
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)


def test_built_has_every_set_of_this_machine_best_first():
    extra = [] if platform.system() == "Windows" else BUILT.get(platform.machine(), [])
    assert _core.built() == [*extra, "baseline"]


def test_usable_is_the_part_of_built_that_this_processor_runs():
    assert _core.usable() == [isa for isa in _core.built() if isa in _core.usable()]
    assert _core.usable()[-1] == "baseline"


@pytest.mark.skipif(not pathlib.Path("/proc/cpuinfo").exists(), reason="asks Linux what the processor can do")
def test_usable_agrees_with_the_operating_system():
    text = pathlib.Path("/proc/cpuinfo").read_text()
    flags = next((set(line.split()) for line in text.splitlines() if line.startswith(("flags", "Features"))), set())
    needs = {
        "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl", "fma"},
        "avx2": {"avx2", "fma"},
        "neon": {"asimd"},
        "baseline": set(),
    }
    assert _core.usable() == [isa for isa in _core.built() if needs[isa] <= flags]


@pytest.mark.parametrize("unset", [None, ""])
def test_the_best_usable_set_is_the_default(unset):
    best = _core.usable()[0]
    assert core("_core.isa(), _core.lanes()", unset).stdout.strip() == f"{best} {LANES[best]}"


@pytest.mark.parametrize("isa", _core.usable())
def test_forced_by_the_environment(isa):
    assert core("_core.isa(), _core.lanes()", isa).stdout.strip() == f"{isa} {LANES[isa]}"


def test_use_switches():
    chosen = _core.isa()
    for isa in _core.usable():
        _core.use(isa)
        assert (_core.isa(), _core.lanes()) == (isa, LANES[isa])
    _core.use(chosen)


@pytest.mark.parametrize("isa", _core.usable())
def test_every_vector_operation_of_a_usable_set(isa):
    assert 0 < _core.selftest(isa) < 1e-6  # 0 would mean that nothing ran: a division always rounds


def check_message(isa: str, reason: str) -> None:
    """A forced `isa` and one that is passed both raise, and say what was given, what was expected and what to do."""
    given = f"is '{isa}', {reason}. Expected one of: {', '.join(_core.usable())}."
    forced = f"The environment variable OPENLSTM_ISA {given} Set it to one of these, or unset it to use the best."
    for call in ("_core.isa()", "_core.lanes()"):
        assert core(call, isa).stderr.strip().endswith(f"RuntimeError: {forced}")
    for function in (_core.selftest, _core.use):
        with pytest.raises(RuntimeError) as error:
            function(isa)
        assert str(error.value) == f"isa {given} Pass one of these."


@pytest.mark.parametrize("isa", ["sse9", "AVX2", " "])
def test_an_unknown_name_raises_at_the_call_and_not_at_import(isa):
    check_message(isa, f"which this build does not have (it has {', '.join(_core.built())})")
    imported = core("_core.built()", isa)
    assert (imported.returncode, imported.stdout.strip()) == (0, str(_core.built()))


@pytest.mark.skipif(_core.usable() == _core.built(), reason="this processor runs every set of this build")
def test_a_set_that_this_processor_cannot_run_raises_at_the_call():
    check_message(next(isa for isa in _core.built() if isa not in _core.usable()), "which this processor cannot run")


def test_threads_need_no_lock():
    isas = _core.usable() * 16
    with ThreadPoolExecutor(8) as pool:
        assert len(set(zip(isas, pool.map(_core.selftest, isas), strict=True))) == len(_core.usable())


def test_the_stub_names_what_the_module_has():
    stub = ast.parse(pathlib.Path(openlstm.__file__).with_name("_core.pyi").read_text()).body
    functions = {node.name: node for node in stub if isinstance(node, ast.FunctionDef)}
    classes = {node.name: node for node in stub if isinstance(node, ast.ClassDef)}
    assert {*functions, *classes} == {name for name in dir(_core) if not name.startswith("_")}
    for name, node in functions.items():
        arguments = [argument.arg for argument in node.args.args]
        assert re.findall(r"(\w+): ", getattr(_core, name).__doc__) == arguments
    for name, node in classes.items():
        methods = {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}
        own = {method for method in vars(getattr(_core, name)) if not method.startswith("_")}
        assert set(methods) == {"__init__", *own}
        for method, item in methods.items():
            arguments = [argument.arg for argument in item.args.args][1:]
            assert re.findall(r"(\w+): ", getattr(getattr(_core, name), method).__doc__) == arguments


@pytest.mark.parametrize("probability", [0.0, 0.05, 0.5, 0.9, 1.0])
def test_drawn_numbers(probability):
    count = 300_001
    drawn = []
    for isa in _core.usable():
        chosen = _core.isa()
        _core.use(isa)
        values = np.full(count + 1, 7.0, np.float32)
        _core.draw(values.ctypes.data, count, probability, 2.5, 12345)
        _core.use(chosen)
        assert values[-1] == 7
        drawn.append(values[:-1])
    assert all(np.array_equal(values, drawn[0]) for values in drawn)
    assert set(drawn[0].tolist()) <= {0.0, 2.5}
    keeps = drawn[0] > 0
    spread = np.sqrt(probability * (1 - probability) / count)
    assert abs(keeps.mean() - probability) <= 4 * spread
    for step in (1, 2, 16, 64, 1000):  # neighbours know nothing of each other
        both = (keeps[step:] & keeps[:-step]).mean()
        assert abs(both - probability**2) <= 6 * spread
    other = np.empty(count, np.float32)
    _core.draw(other.ctypes.data, count, probability, 2.5, 12346)
    assert abs((keeps & (other > 0)).mean() - probability**2) <= 6 * spread
