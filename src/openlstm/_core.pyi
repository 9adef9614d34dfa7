"""The C++ core (csrc/): which instruction sets it was built with, which one runs, and the runs themselves.

Names, best first: avx512, avx2, neon, baseline. baseline is plain C++ and always there. The set in use is the best one,
or the one that the environment variable OPENLSTM_ISA names when it is first needed, or that of the last `use`. A name
that this build does not have or this processor cannot run raises RuntimeError; unset or empty means the best.

Addresses are those of float32 memory; nothing here looks whether they are right: `backends/cpu.py` is the one caller.
"""

from collections.abc import Sequence
from typing import Any

def built() -> list[str]:
    """Instruction sets in this build, best first."""

def usable() -> list[str]:
    """Those of built() that this processor can run, best first."""

def isa() -> str:
    """The instruction set in use."""

def use(isa: str) -> None:
    """Runs that begin from now on use this instruction set."""

def lanes() -> int:
    """Floats in one vector of the instruction set in use."""

def selftest(isa: str) -> float:
    """Runs every vector operation of one instruction set; the largest relative error against scalar code."""

def watch(on: bool) -> None:
    """For tests: own memory begins as NaN, and a write outside it raises RuntimeError."""

def fingerprint(arrays: Sequence[tuple[int, int]], threads: int) -> int:
    """A number that changes with the contents: (address, count of floats) each."""

def draw(address: int, count: int, probability: float, value: float, key: int) -> None:
    """Fills so many floats with `value`, each with this probability, and else with 0. The same key: the same numbers,
    with every instruction set."""

def empty(count: int) -> Any:
    """A torch tensor of so many floats, in memory that is used again after it."""

class Packed:
    """Weights in the order in which a product reads them, and what is added to it."""

    def __init__(
        self,
        width: int,
        depths: Sequence[int],
        weights: Sequence[tuple[int, int, int]],
        biases: Sequence[Sequence[int]],
        panels: bool,
        threads: int,
        kind: int,
    ) -> None:
        """width: units of each target. depths: terms of each source's sum. weights: for each source and target the
        address, and floats from one unit and from one term to the next. biases: addresses to add up for each target.
        Without `panels` nothing is copied: the addresses are read at every run. kind: how panels hold weights, the
        number in `weights.KINDS`."""

class Plan:
    """A program of `program.py` for the sizes of one layer."""

    def __init__(
        self,
        arrays: Sequence[tuple[int, int, int]],
        places: Sequence[tuple[int, int, int, bool]],
        sections: Sequence[Sequence[tuple[object, ...]]],
        states: Sequence[tuple[int, int]],
        outers: Sequence[tuple[int, int, int, int, int]],
        copies: Sequence[tuple[int, int, int, int, int]],
        vectors: Sequence[tuple[int, int, int]],
        temporaries: int,
        backward: bool,
        bodies: Sequence[Sequence[int]] = ...,
    ) -> None:
        """arrays: kind, the array that it follows, width. places: of each array the number of its input (-1: the
        core's own), floats into it, as many more for each step of each sequence, and whether its rows follow one
        another or have the input's strides. sections: those before, in and after the loop. outers: adjoint and source
        of the gradient of each weight's block (source -1: of a bias), and its input, floats into it, and stride.
        copies: gradients that equal another one: their input, floats into it, the same of the other, and how many.
        vectors: gradients that are sums of an array over the sequences: the array, their input, floats into it.
        bodies: addresses of compiled sections, 0 where there is none; empty: none is."""

def run(time: int, batch: int, threads: int, tasks: Sequence[tuple[Any, ...]], chained: bool, active: int) -> None:
    """Runs plans: each task is a plan, whether time runs backwards, weights, and what it works on: given, ends, masks,
    weights, gradients, begin, end.

    given, masks: address and strides in time and batch of each. ends: of each state address and stride of the initial
    value, backward also of the gradient by the final one, and of the result. weights, gradients: addresses. begin, end,
    active: addresses of what says where sequences are, or 0. chained: each task reads at a step what the one before it
    gives there, as layers do; else none reads what another gives.
    """

class Step:
    """One step of a stack of layers without gradients, where Python's own work would take longer than the core's."""

    def __init__(
        self,
        layers: Sequence[Sequence[tuple[Plan, Sequence[Packed], Sequence[int]]]],
        widths: Sequence[int],
        sizes: Sequence[int],
    ) -> None:
        """layers: of each direction of each layer the plan, the weights without panels, and the addresses of all
        parameters; plans and weights must outlive this. widths: of each layer's output. sizes: of each state."""

    def run(
        self, batch: int, threads: int, x: int, x_row: int, y: int, before: Sequence[int], after: Sequence[int]
    ) -> None:
        """Addresses of x (with the stride from one sequence to the next), of y, and of each state before and after the
        step: (directions of all layers, batch, size), contiguous."""

class Stream:
    """Many streams through the same layers, one step after another without gradients: `stream.py` is the one caller."""

    def __init__(
        self,
        layers: Sequence[tuple[Plan, Sequence[Packed], Sequence[int], int, int, Sequence[int], bool]],
        batch: int,
        threads: int,
    ) -> None:
        """layers: the plan, weights in panels, addresses of all parameters, inputs, outputs, sizes of its states, and
        does it add its input; all of them must outlive this. batch: streams."""

    def step(self, x: Any, y: Any) -> None:
        """(batch, inputs) to (batch, outputs), contiguous float32 arrays."""

    def step_some(self, x: Any, y: Any, which: Any) -> None:
        """The same for the streams of these numbers alone, int32."""

    def run(self, time: int, x: Any, y: Any) -> None:
        """(time, batch, inputs) to (time, batch, outputs)."""

    def states(self) -> list[Any]:
        """The states of each layer, (batch, size), as arrays of numpy on the stream's own memory."""
