"""What a model is in numbers: the shapes in and out of every layer, and its parameters by gate with the formula."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from .spec import Spec, Walk
from .words import counted

# What parameters are by how their names begin, in the order in which they are listed.
KINDS: dict[str, str | tuple[str, ...]] = {
    "W": "weight_ih",
    "R": "weight_hh",
    "b": ("bias_ih", "bias_hh"),
    "peephole": "weight_ch",
    "norm": "norm_",
    "projection": ("weight_hr", "weight_hp", "bias_hr", "bias_hp"),
    "state": "initial_",
    "own": "",  # what only one cell has
}


def _kind(name: str) -> str:
    return next(kind for kind, begins in KINDS.items() if name.startswith(begins))


@dataclass(frozen=True)
class Layer:
    """One layer in one direction: shapes, and parameter counts."""

    spec: Spec
    walk: Walk
    time: int
    batch: int

    @property
    def input(self) -> tuple[int, ...]:
        """(T, B, I), or (B, T, I) with batch_first."""
        return self._shape(self.walk.input_size)

    @property
    def output(self) -> tuple[int, ...]:
        """(T, B, O) of this direction alone, or (B, T, O)."""
        return self._shape(self.spec.output_size(self.walk.layer) // self.spec.directions)

    def _shape(self, size: int) -> tuple[int, ...]:
        return (self.batch, self.time, size) if self.spec.batch_first else (self.time, self.batch, size)

    @property
    def states(self) -> dict[str, tuple[int, int]]:
        """(B, n) each."""
        return {name: (self.batch, width) for name, width in self.spec.state_sizes(self.walk).items()}

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Parameters by kind, then by gate; under "" what belongs to no gate.

        >>> Layer(Spec.of("gru", 3, 4), Spec.of("gru", 3, 4).walks[0], 1, 1).counts["W"]
        {'r': 12, 'u': 12, 'n': 12}
        """
        found: dict[str, dict[str, int]] = {kind: {} for kind in KINDS}
        for name, shape in self.spec.shapes(self.walk).items():
            blocks = self.spec.blocks(name) or ("",)
            gates = self.spec.gates
            row = found[_kind(name)]
            for block in blocks:
                # A diagonal peephole is called p_<gate>; other vectors belong to no gate.
                gate = block if block in gates else block.removeprefix("p_")
                gate = gate if gate in gates else ""
                row[gate] = row.get(gate, 0) + prod(shape) // len(blocks)
        return {kind: row for kind, row in found.items() if row}

    @property
    def total(self) -> int:
        """All parameters."""
        return sum(sum(row.values()) for row in self.counts.values())

    @property
    def formula(self) -> str:
        """How the number comes about.

        >>> spec = Spec.of("lstm", 40, 512)
        >>> Layer(spec, spec.walks[0], 1, 1).formula
        '4 x (512 x 40 + 512 x 512 + 2 x 512)'
        """
        shapes, gates = self.spec.shapes(self.walk), self.spec.gates
        inside: list[str] = []
        outside: list[tuple[int, str]] = []
        for name, shape in shapes.items():
            if self.spec.blocks(name) == gates:
                inside.append(" x ".join(str(size) for size in (shape[0] // len(gates), *shape[1:])))
            elif name in self.spec.definition.vectors(self.spec):
                outside.append((len(self.spec.blocks(name)), str(self.walk.hidden_size)))
            else:
                outside.append((1, " x ".join(map(str, shape))))
        terms = " + ".join(_gathered([(1, term) for term in inside]))
        product = f"{len(gates)} x ({terms})" if len(gates) > 1 else terms
        return " + ".join([product, *_gathered(outside)])

    @property
    def plain(self) -> tuple[int, int]:
        """The parameters of W, R and b here, and those of a plain layer (rnn) of the same sizes."""
        own = [shape for name, shape in self.spec.shapes(self.walk).items() if _kind(name) in ("W", "R", "b")]
        return sum(map(prod, own)), sum(self.walk.hidden_size * prod(shape[1:]) for shape in own)


def _gathered(terms: list[tuple[int, str]]) -> list[str]:
    """2 x 512 for 512 + 512."""
    counts: dict[str, int] = {}
    for count, term in terms:
        counts[term] = counts.get(term, 0) + count
    return [term if count == 1 else f"{count} x {term}" for term, count in counts.items()]


@dataclass(frozen=True)
class Description:
    """The layers of one or more recurrent modules by name. str() gives the whole as text."""

    modules: Mapping[str, tuple[Spec, tuple[Layer, ...]]]
    outputs: int = 0

    @property
    def total(self) -> int:
        """All parameters of all of these modules."""
        return sum(layer.total for _, layers in self.modules.values() for layer in layers)

    def weights(self, name: str = "") -> int:
        """The N of Sak, Senior and Beaufays 2014, of one module: weights without biases, with those of the outputs.

        >>> describe(Spec.of("lstm", 40, 512, bias=False, peephole="diagonal"), outputs=126).weights()
        1196544
        """
        spec, layers = self.modules[name]
        without = ("b", "norm", "state")
        inside = sum(sum(row.values()) for layer in layers for kind, row in layer.counts.items() if kind not in without)
        return inside + spec.output_size() * self.outputs

    def __str__(self) -> str:
        return "\n\n".join(self._module(name) for name in self.modules)

    def _module(self, name: str) -> str:
        spec, layers = self.modules[name]
        lines = [
            f"{name}: {spec}" if name else str(spec),
            f"shapes [{', '.join(_named(spec))}], of states [batch, size]",
        ]
        for layer in layers:
            lines += ["", *_layer_lines(layer)]
        total = sum(layer.total for layer in layers)
        lines += ["", f"{total:,} parameters" + (f" in {len(layers)} layers and directions" if len(layers) > 1 else "")]
        lines.append(f"{counted(self.weights(name), 'weight')}{self._formula(name)}")
        return "\n".join(lines)

    def _formula(self, name: str) -> str:
        """In the paper's symbols, where there is one layer; biases, norms and learned states do not count there."""
        spec, layers = self.modules[name]
        outputs = f", with {spec.output_size()} x {self.outputs} to the outputs" if self.outputs else ""
        if len(layers) > 1:
            return f" without biases{outputs}"
        gates, recurrent = len(spec.gates), "n_r" if spec.proj_size else "n_c"
        terms = [(f"n_c {recurrent}", len(spec.recurrent))] if spec.recurrent else []
        terms.append(("n_i n_c", gates))
        out = "n_c" if not spec.proj_size else "(n_r + n_p)" if spec.nonrecurrent_proj_size else "n_r"
        if self.outputs:
            terms.append((f"{out} n_o", 1))
        if spec.proj_size:
            terms.append((f"n_c {out}", 1))
        if peepholes := layers[0].counts.get("peephole"):
            terms.append(("n_c n_c" if spec.definition.dense(spec) else "n_c", len(peepholes)))
        others = [blocks for name, blocks in spec.definition.vectors(spec).items() if _kind(name) == "own"]
        terms += [("n_c", len(blocks)) for blocks in others]
        terms += [("n_c n_c", len(blocks)) for blocks in spec.definition.matrices(spec).values()]
        sizes = {"n_i": spec.input_size, "n_c": spec.hidden_size[0], "n_r": spec.proj_size}
        sizes |= {"n_p": spec.nonrecurrent_proj_size, "n_o": self.outputs}
        formula = " + ".join(term if count == 1 else f"{term} {count}" for term, count in terms)
        known = ", ".join(f"{symbol} = {size}" for symbol, size in sizes.items() if size)
        return f" without biases: N = {formula}\n  with {known}"


def _layer_lines(layer: Layer) -> list[str]:
    spec, walk = layer.spec, layer.walk
    counts, gates = layer.counts, spec.gates
    direction = ", reversed" if walk.reverse else ", forward" if spec.bidirectional else ""
    shapes = f"input {_shape(layer.input)}   output {_shape(layer.output)}"
    states = "   ".join(f"{name} {_shape(shape)}" for name, shape in layer.states.items())
    head = ["parameters", *gates, *(["rest"] if any("" in row for row in counts.values()) else []), "all"]
    rows = [head]
    columns = [gate if gate in gates else "" for gate in head[1:-1]]
    sums = {gate: sum(row.get(gate, 0) for row in counts.values()) for gate in columns}
    for kind, row in [*counts.items(), ("all", sums)]:
        cells = [f"{row[gate]:,}" if gate in row else "" for gate in columns]
        rows.append([kind, *cells, f"{sum(row.values()):,}"])
    widths = [max(len(row[k]) for row in rows) for k in range(len(head))]
    table = [
        "  ".join(
            cell.ljust(w) if k == 0 else cell.rjust(w) for k, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    own, plain = layer.plain
    lines = [f"layer {walk.layer}{direction}", f"  {shapes}   states {states}", *("  " + line for line in table)]
    lines.append(f"  {layer.formula} = {layer.total:,}")
    if len(gates) > 1:
        lines.append(f"  W, R and b: {own // plain} times the {plain:,} of a plain layer (rnn) of these sizes")
    return lines


def _named(spec: Spec) -> tuple[str, ...]:
    return ("batch", "time", "size") if spec.batch_first else ("time", "batch", "size")


def _shape(sizes: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, sizes))}]"


def describe(model: Any, time: int = 100, batch: int = 32, outputs: int = 0) -> Description:
    """Shapes and parameters of a Spec, a module, or every recurrent module inside a torch model.

    `time` and `batch` are those of the input. `outputs` is the size of a linear layer on top, for the N of Sak, Senior
    and Beaufays 2014. Errors: TypeError where there is no recurrent layer, ValueError for sizes below 1.

    >>> print(describe(Spec.of("lstm", 40, 512, peephole="diagonal"), outputs=126))
    lstm(40, 512; peephole=diagonal)
    shapes [time, batch, size], of states [batch, size]
    <BLANKLINE>
    layer 0
      input [100, 32, 40]   output [100, 32, 512]   states h [32, 512]   c [32, 512]
      parameters        i        f        g        o        all
      W            20,480   20,480   20,480   20,480     81,920
      R           262,144  262,144  262,144  262,144  1,048,576
      b             1,024    1,024    1,024    1,024      4,096
      peephole        512      512               512      1,536
      all         284,160  284,160  283,648  284,160  1,136,128
      4 x (512 x 40 + 512 x 512 + 2 x 512) + 3 x 512 = 1,136,128
      W, R and b: 4 times the 283,648 of a plain layer (rnn) of these sizes
    <BLANKLINE>
    1,136,128 parameters
    1,196,544 weights without biases: N = n_c n_c 4 + n_i n_c 4 + n_c n_o + n_c 3
      with n_i = 40, n_c = 512, n_o = 126
    """
    for what, size, least in (("time", time, 1), ("batch", batch, 1), ("outputs", outputs, 0)):
        if isinstance(size, bool) or not isinstance(size, int) or size < least:
            raise ValueError(f"{what} is {size!r}: expected a whole number of at least {least}")
    specs = {"": model} if isinstance(model, Spec) else _inside(model)
    modules = {
        name: (spec, tuple(Layer(spec, walk, time, batch) for walk in spec.walks)) for name, spec in specs.items()
    }
    return Description(modules, outputs)


def _inside(model: Any) -> dict[str, Spec]:
    """The specs of a module and of what is inside it, by name."""
    if isinstance(spec := getattr(model, "spec", None), Spec):
        return {"": spec}
    found: dict[str, Spec] = {}
    if hasattr(model, "named_modules"):
        from .models import spec_of

        for name, module in model.named_modules():
            spec = getattr(module, "spec", None)
            spec = spec if isinstance(spec, Spec) else spec_of(module)
            if spec is not None:
                found[name] = spec
    if not found:
        raise TypeError(
            f"{type(model).__name__} has no recurrent layer: expected a Spec, an LSTM, GRU or RNN of openlstm or "
            "torch.nn, or a torch model with such layers inside"
        )
    return found
