"""The C++ core (csrc/): which instruction sets it was built with, and which one runs.

Names, best first: avx512, avx2, neon, baseline. baseline is plain C++ and always there.
isa() and lanes() read the environment variable OPENLSTM_ISA at each call. A name that this build does not have
or this processor cannot run raises RuntimeError; unset or empty means the best.
"""

def built() -> list[str]:
    """Instruction sets in this build, best first."""

def usable() -> list[str]:
    """Those of built() that this processor can run, best first."""

def isa() -> str:
    """The instruction set in use: the best usable one, or the one that OPENLSTM_ISA names."""

def lanes() -> int:
    """Floats in one vector of the instruction set in use."""

def selftest(isa: str) -> float:
    """Runs every vector operation of one instruction set; the largest relative error against scalar code."""
