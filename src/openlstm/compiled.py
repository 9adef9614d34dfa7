"""The element-by-element part of a cell as machine code, where a C++ compiler is at hand and asked for.

Without one the core interprets the instructions of a section on blocks that stay in the first cache. With one, each
section becomes a function in which values stay in registers: it is written here from the same instructions, compiled
once, and kept in a cache. Only numbers and the core's own operations go into its text.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import math
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import _core
from .sections import OPERATIONS

VERSION = 1  # of the functions' arguments
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-fno-math-errno", "-ffp-contract=off")
SETS = {  # what the core's instruction sets are called, and how a compiler is told
    "avx512": ("ISA_AVX512", ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma")),
    "avx2": ("ISA_AVX2", ("-mavx2", "-mfma")),
    "neon": ("ISA_NEON", ()),
    "baseline": ("ISA_BASELINE", ()),
}
_FORMS = {  # of a, b, c and the numbers s, t
    "copy": "{a}",
    "add": "add({a}, {b})",
    "sub": "sub({a}, {b})",
    "mul": "mul({a}, {b})",
    "div": "div({a}, {b})",
    "fma": "fma({a}, {b}, {c})",
    "fnma": "fnma({a}, {b}, {c})",
    "affine": "fma(set({s}), {a}, set({t}))",
    "over": "div(set({s}), {a})",
    "relu": "max(set(0), {a})",
    "negative": "min(set(0), {a})",
    "step": "greater({a}, set(0))",
    "clip": "within(set({s}), set({t}), {a})",
    "inside": "inside(set({s}), set({t}), {a})",
    "constant": "set({s})",
    "maximum": "maximum({a}, {b})",
    "minimum": "minimum({a}, {b})",
    "accumulate": "add({to}, {a})",
    **{name: name + "({a})" for name in ("sigmoid", "tanh", "exp", "expm1", "log", "abs", "softplus")},
}
_HEAD = """
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
#define FN static inline __attribute__((always_inline))
namespace {
#include "vec.h"
#include "functions.inl"
}
using Long = std::int64_t;
"""
_HEADERS = (Path(__file__).with_name("csrc"), Path(__file__).parents[2] / "csrc")  # installed, or in a checkout
command: tuple[str, ...] = tuple(shlex.split(os.environ.get("OPENLSTM_CXX", "")))
changed: list[Callable[[], None]] = []  # called when another compiler, or none, is to be used
_loaded: dict[str, ctypes.CDLL] = {}


def use_compiler(compiler: str | None = "c++") -> None:
    """From now on the engine compiles what it would interpret, by this C++ compiler; None: it interprets again.

    A cell takes some seconds when it first runs, and is then found in a cache: the folder that OPENLSTM_CACHE names, or
    openlstm in the user's cache. The environment variable OPENLSTM_CXX does the same for a whole process. Results
    differ from interpreted ones by roundings. Errors: ValueError for a compiler that is not there or cannot be used.
    """
    global command
    words = tuple(shlex.split(compiler)) if compiler else ()
    if words and shutil.which(words[0]) is None:
        raise ValueError(f"There is no compiler '{words[0]}': give the command of one (Debian: apt-get install g++)")
    before, command = command, words
    try:
        if words:
            bodies([[(0, 0, 1, [(OPERATIONS.index("copy"), 1, 0, 0, 0)], [(0.0, 0.0)], [], [], [], [], 0)]])
    except BaseException:
        command = before
        raise
    for each in changed:
        each()


def bodies(sections: Sequence[Sequence[Any]]) -> list[list[int]]:
    """For each part of a program, the address of each section's function; 0 where the core does it itself.

    sections: as `_core.Plan` takes them. Errors: ValueError where the compiler refuses.
    """
    if not command:
        return []
    texts = [[_function(f"body_{p}_{k}", s) for k, s in enumerate(part)] for p, part in enumerate(sections)]
    library = _library("".join(text for part in texts for text in part))
    found: list[list[int]] = []
    for p, part in enumerate(texts):
        names = [f"body_{p}_{k}" if text else "" for k, text in enumerate(part)]
        found.append([ctypes.cast(library[name], ctypes.c_void_p).value or 0 if name else 0 for name in names])
    return found


def _function(name: str, section: Any) -> str:
    """The function of a pointwise section, or nothing."""
    form, _, _, codes, numbers = section[:5]
    if form != 0:
        return ""
    arrays = sorted({place for _, *places in codes for place in places if place >= 0})
    lines = [f"float *const p{k} = at[{k}] + b * row[{k}];" for k in arrays]
    whole, part = (_body(codes, numbers, end) for end in ("", ", n"))
    lines += ["int u = u0;", "for (; u + N <= u1; u += N) {", *whole, "}"]
    lines += ["if (u < u1) {", "const int n = u1 - u;", *part, "}"]
    arguments = "float *const *at, const Long *row, int b0, int b1, int u0, int u1"
    inside = "\n".join(lines)
    return f'extern "C" void {name}({arguments}) {{\nfor (int b = b0; b < b1; b++) {{\n{inside}\n}}\n}}\n'


def _body(codes: Sequence[tuple[int, ...]], numbers: Sequence[tuple[float, float]], end: str) -> list[str]:
    """The operations on one vector, or (`end`) on a part of one."""
    load, store = ("part_load", "part_store") if end else ("load", "store")
    lines: list[str] = []
    held: dict[int, str] = {}  # the variable that has an array's or a temporary's value now

    def read(place: int) -> str:
        if place not in held:
            held[place] = f"v{len(lines)}"
            lines.append(f"const V {held[place]} = {load}(p{place} + u{end});")
        return held[place]

    for (code, to, *places), (s, t) in zip(codes, numbers, strict=True):
        form = _FORMS[OPERATIONS[code]]
        given = {"to": to, **dict(zip("abc", places, strict=True))}
        words = {key: read(place) for key, place in given.items() if f"{{{key}}}" in form}
        held[to] = f"v{len(lines)}"
        lines.append(f"const V {held[to]} = {form.format(**words, s=_number(s), t=_number(t))};")
        if to >= 0:
            lines.append(f"{store}(p{to} + u, {held[to]}{end});")
    return lines


def _number(value: float) -> str:
    if math.isnan(value):
        return "NAN"
    if math.isinf(value):
        return "HUGE_VALF" if value > 0 else "-HUGE_VALF"
    return f"{value.hex()}f"


def _library(text: str) -> ctypes.CDLL:
    """The functions of a text, compiled now or before. Errors: ValueError."""
    name, flags = SETS[_core.isa()]
    folder = next(each for each in _HEADERS if (each / "vec.h").is_file())
    headers = "".join((folder / each).read_text(encoding="utf-8") for each in ("vec.h", "functions.inl"))
    words = [*command, *FLAGS, *flags, f"-D{name}=1", f"-I{folder}"]
    key = hashlib.sha256("\n".join([str(VERSION), _version(command), *words, headers, text]).encode()).hexdigest()
    if key not in _loaded:
        path = _cache() / f"{key[:32]}.so"
        if not path.is_file():
            _compile(words, _HEAD + text, path)
        try:
            _loaded[key] = ctypes.CDLL(str(path))
        except OSError as error:
            raise ValueError(f"Cannot load '{path}', which {command[0]} made ({error}): remove it") from None
    return _loaded[key]


def _compile(words: Sequence[str], text: str, path: Path) -> None:
    """Makes a library of a source text, whole or not at all."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        source, made = Path(folder, "body.cpp"), Path(folder, path.name)
        source.write_text(text, encoding="utf-8")
        found = _run([*words, "-o", str(made), str(source)])
        if found.returncode or not made.is_file():
            said = next((line for line in found.stderr.splitlines() if "error" in line), found.stderr[:300])
            raise ValueError(f"'{' '.join(command)}' cannot compile what openlstm wrote: {said.strip()}")
        os.replace(made, path)


@functools.lru_cache(maxsize=8)
def _version(words: tuple[str, ...]) -> str:
    return _run([*words, "--version"]).stdout


def _run(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """What a command says. Errors: ValueError where it cannot be run."""
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ValueError(
            f"Cannot run the compiler '{words[0]}' ({error.strerror}): give another to openlstm.use_compiler, or in "
            "OPENLSTM_CXX"
        ) from None


def _cache() -> Path:
    """The folder of compiled libraries, for this user alone. Errors: ValueError."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("OPENLSTM_CACHE") or Path(home, "openlstm"))
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"Cannot make the folder '{folder}' ({error.strerror}): let OPENLSTM_CACHE name another"
        ) from None
    if os.name != "nt" and ((told := folder.stat()).st_uid != os.getuid() or told.st_mode & 0o022):
        raise ValueError(f"Others may write to '{folder}', whose libraries are run: chmod go-w, or set OPENLSTM_CACHE")
    return folder
