"""What is timed: tasks, shapes, and seeded random numbers. Loads neither torch nor any peer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from openlstm.spec import Spec

TASKS = {
    "inference": "a whole sequence, without gradients",
    "training": "forward and backward of a whole sequence, gradients by the input and all weights",
    "streaming": "one step of one sequence, called from Python, states carried",
    "model": "one training step of embedding, LSTM, linear, cross entropy and Adam",
    "variants": "forms of the LSTM, beside the plain one and beside torch.compile of the loop",
    "cells": "training with cells that `openlstm.cell` makes, interpreted and compiled, beside the built-in ones",
}
CELLS = ("lstm", "gru", "rnn")
GRADIENTS = (
    "training",
    "model",
    "cells",
)  # three times as many operations: forward, by the input, by the weights


class Shape(NamedTuple):
    """Steps, sequences, inputs, units of each layer, layers."""

    time: int
    batch: int
    inputs: int
    units: int
    layers: int = 1

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Reads `100x32x256x256x1`, which is T x B x I x H x L; L may be left out."""
        if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){3,4}", text):
            raise ValueError(f"Cannot read the shape '{text}': expected TxBxIxH or TxBxIxHxL, such as 100x32x256x256")
        return cls(*(int(number) for number in text.split("x")))

    def __str__(self) -> str:
        return "x".join(str(number) for number in self)


# From one small step to what fills any cache; many steps of few inputs is how sound is heard.
SEQUENCES = (
    Shape(1, 1, 64, 64),
    Shape(1, 1, 256, 256),
    Shape(1, 1, 512, 512, 2),
    Shape(100, 1, 64, 64),
    Shape(100, 1, 256, 256),
    Shape(100, 1, 512, 512),
    Shape(100, 1, 1024, 1024),
    Shape(100, 8, 128, 128),
    Shape(100, 32, 64, 64),
    Shape(100, 32, 128, 128, 2),
    Shape(100, 32, 256, 256),
    Shape(100, 64, 512, 512),
    Shape(50, 128, 1024, 1024),
    Shape(1000, 16, 40, 128, 2),
)
SHAPES = {
    "inference": SEQUENCES,
    "training": SEQUENCES,
    "streaming": tuple(shape for shape in SEQUENCES if shape.time == 1),
    "model": (Shape(64, 32, 128, 256, 2),),
    "variants": (Shape(50, 32, 128, 128),),  # torch.compile unrolls the loop: it needs about a second a step
    "cells": (Shape(50, 1, 64, 64), Shape(20, 32, 64, 64), Shape(20, 32, 128, 128), Shape(20, 32, 256, 256)),
}
QUICK = {
    "inference": (Shape(100, 1, 64, 64), Shape(100, 8, 128, 128), Shape(50, 32, 256, 256)),
    "training": (Shape(100, 1, 64, 64), Shape(50, 32, 128, 128)),
    "streaming": (Shape(1, 1, 64, 64), Shape(1, 1, 256, 256)),
    "model": (Shape(16, 16, 64, 256, 2),),
    "variants": (Shape(4, 32, 128, 128),),
    "cells": (Shape(4, 32, 64, 64),),
}
VARIANTS = (
    "",
    "peephole=diagonal",
    "coupled=f=1-i",
    "cell_clip=0.5",
    "zoneout_h=0.1, zoneout_c=0.1",
    "recurrent_dropout=0.2",
    "proj_size={half}",
    "layer_norm",
)
QUICK_VARIANTS = VARIANTS[:2]  # each one costs a compilation
TWINS = ("gru", "OwnGRU", "lstm", "NP")  # OwnGRU is the GRU, NP the LSTM
OWN = (*TWINS, "JANET", "MGU", "IndRNN", "SLSTM", "FGR")
TWINS_ALONE = SHAPES["cells"][1], SHAPES["cells"][3]  # torch.compile needs a minute for some of the others
VOCABULARY = 1000  # words of the small model
CHUNKS = 8  # steps in the input of the streaming task; they come again and again


@dataclass(frozen=True)
class Problem:
    """One thing to time. Its numbers are the same in every process."""

    task: str
    spec_text: str
    shape: Shape
    gradient: bool = False

    @cached_property
    def spec(self) -> Spec:
        """The variant."""
        if self.task == "cells":
            import openlstm.zoo  # noqa: F401, declares them, and loads torch, which all of this task's peers need
        return Spec.parse(self.spec_text)

    @property
    def form(self) -> str:
        """What a table calls the variant: the cell, and its options where it has some."""
        return self.spec.cell + ("; " + self.spec_text[:-1].partition("; ")[2] if ";" in self.spec_text else "")

    @property
    def plain(self) -> str:
        """The form that this one is set beside."""
        return "gru" if self.form in ("gru", "OwnGRU") else "lstm"

    @property
    def name(self) -> str:
        """The key under which results are kept."""
        return f"{self.task} {self.form} {self.shape} {'forward+backward' if self.gradient else 'forward'}"

    @property
    def calls(self) -> int:
        """How many calls are compared: those that carry something from one to the next need more than one."""
        return {"streaming": CHUNKS, "model": 3}.get(self.task, 1)

    @cached_property
    def x(self) -> np.ndarray:
        """(T, B, I); for streaming some steps."""
        time = CHUNKS if self.task == "streaming" else self.shape.time
        return self._random(1).standard_normal((time, self.shape.batch, self.shape.inputs), np.float32)

    @cached_property
    def dy(self) -> np.ndarray:
        """The gradient by the output, (T, B, O)."""
        size = (self.shape.time, self.shape.batch, self.spec.output_size())
        return self._random(2).standard_normal(size, np.float32)

    @cached_property
    def parameters(self) -> dict[str, np.ndarray]:
        """Under the names of `Spec.parameters`, in torch.nn's layout and range."""
        random, bound = self._random(3), self.shape.units**-0.5
        values = {name: random.uniform(-bound, bound, shape) for name, shape in self.spec.parameters.items()}
        # Gains of a norm belong near 1.
        return {
            name: (value + (name.startswith("norm") and "bias" not in name)).astype(np.float32)
            for name, value in values.items()
        }

    @cached_property
    def masks(self) -> dict[str, np.ndarray]:
        """The random masks of a training step, drawn here so that all peers have the same ones."""
        if not self.gradient:
            return {}
        random = self._random(4)
        return {
            name: ((random.random(mask.shape) >= mask.rate) / (1 - mask.rate if mask.scaled else 1)).astype(np.float32)
            for name, mask in self.spec.masks(self.shape.time, self.shape.batch).items()
        }

    @cached_property
    def model(self) -> dict[str, np.ndarray]:
        """What the small model has beside its LSTM: table, classifier, words (T, B) and the classes wanted (T, B)."""
        random, size = self._random(5), (self.shape.time, self.shape.batch)
        wide = self.spec.output_size()
        return {
            "embedding": random.standard_normal((VOCABULARY, self.shape.inputs), np.float32),
            "weight": random.uniform(-(wide**-0.5), wide**-0.5, (VOCABULARY, wide)).astype(np.float32),
            "words": random.integers(0, VOCABULARY, size),
            "targets": random.integers(0, VOCABULARY, size),
        }

    @property
    def operations(self) -> int:
        """Additions and multiplications in the matrix products of the recurrent layers."""
        count = sum(
            np.prod(shape)
            for name, shape in self.spec.parameters.items()
            if name.startswith("weight") and len(shape) == 2
        )
        return int(2 * self.shape.time * self.shape.batch * count * (3 if self.gradient else 1))

    def _random(self, stream: int) -> np.random.Generator:
        return np.random.default_rng([stream, *self.shape])


def problems(tasks: list[str], cells: list[str], shapes: list[Shape] | None, quick: bool) -> list[Problem]:
    """All that these choices ask for. `shapes`: instead of the tasks' own."""
    found = []
    for task in tasks:
        for shape in shapes or (QUICK if quick else SHAPES)[task]:
            sizes = ", ".join(str(size) for size in (shape.inputs, *[shape.units] * shape.layers))
            if task == "variants":
                for text in QUICK_VARIANTS if quick else VARIANTS:
                    options = text.format(half=shape.units // 2)
                    spec = str(Spec.parse(f"lstm({sizes}; {options})"))
                    found += [Problem(task, spec, shape, gradient) for gradient in (False, True)]
            elif task == "cells":
                for cell in TWINS if shapes is None and (quick or shape in TWINS_ALONE) else OWN:
                    found.append(Problem(task, f"{cell}({sizes})", shape, gradient=True))
            elif task != "streaming" or shape[:2] == (1, 1):
                for cell in ("lstm",) if task == "model" else cells:
                    found.append(Problem(task, f"{cell}({sizes})", shape, task in GRADIENTS))
    return found
