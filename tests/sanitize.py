"""Builds the core with the sanitizers of GCC and runs its tests under them: `make sanitize`, on Linux.

First addresses and undefined behaviour, then threads. OpenMP's own threads are unknown to the thread sanitizer, so that
core begins threads of its own. What it says of the C library or of torch is left alone; what names the core fails.
"""

from __future__ import annotations

import importlib.util
import os
import pathlib
import subprocess
import sys
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]


class Run(NamedTuple):
    """A build and the tests that it runs."""

    name: str
    flags: str
    libraries: tuple[str, ...]
    options: dict[str, str]
    openmp: bool
    tests: str


RUNS = (
    Run(
        "address",
        "-fsanitize=address,undefined -fno-sanitize-recover=undefined",
        ("libasan.so", "libubsan.so"),
        {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"},  # Python leaks by design
        True,
        "every_vector or (odd_sizes and (33 or 7)) or same_bits or lie_in or python_threads or changed_weights",
    ),
    Run(
        "thread",
        "-fsanitize=thread",
        ("libtsan.so",),
        {"TSAN_OPTIONS": "exitcode=0"},  # judged by what is printed
        False,
        "same_bits_on_any or python_threads or (behind and gru)",
    ),
)


def build(run: Run) -> pathlib.Path:
    folder = ROOT / "build" / f"sanitize-{run.name}"
    nanobind = subprocess.run(
        [sys.executable, "-m", "nanobind", "--cmake_dir"], check=True, capture_output=True, text=True
    )
    subprocess.run(
        [
            *("cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Debug"),
            f"-DCMAKE_CXX_FLAGS=-O1 -g1 {run.flags}",
            f"-DOPENLSTM_OPENMP={'ON' if run.openmp else 'OFF'}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dnanobind_DIR={nanobind.stdout.strip()}",
        ],
        check=True,
    )
    subprocess.run(["cmake", "--build", str(folder)], check=True)
    return next(folder.glob("_core*.so"))


def inside(core: str, *arguments: str) -> int:
    """Runs pytest with that core in place of the installed one."""
    import pytest

    spec = importlib.util.spec_from_file_location("openlstm._core", core)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["openlstm._core"] = module
    spec.loader.exec_module(module)
    import openlstm

    openlstm._core = module  # type: ignore[attr-defined]
    return int(pytest.main(list(arguments)))


def main() -> None:
    for run in RUNS:
        core = build(run)
        paths = [
            subprocess.run(
                ["g++", f"-print-file-name={name}"], check=True, capture_output=True, text=True
            ).stdout.strip()
            for name in run.libraries
        ]
        print(f"{run.name}: {run.tests}", flush=True)
        done = subprocess.run(
            # Address randomisation of newer kernels is too wide for the thread sanitizer.
            [
                *("setarch", "-R", sys.executable, __file__, "inside", str(core), "-q", "-s", "-p", "no:cacheprovider"),
                *("tests/test_core.py", "tests/test_cpu.py", "-k", run.tests),
            ],
            cwd=ROOT,
            env={**os.environ, **run.options, "LD_PRELOAD": " ".join(paths)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        reports = [part for part in done.stdout.split("==================") if "Sanitizer" in part and "_core" in part]
        if done.returncode or reports:
            print(*reports or [done.stdout[-5000:]], sep="\n")
            sys.exit(f"{run.name}: failed")
        print("passed", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["inside"]:
        sys.exit(inside(*sys.argv[2:]))
    main()
