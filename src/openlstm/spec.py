"""A variant as data: which cell, which sizes, which options. Shapes and names of all parameters follow from it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from numbers import Real
from typing import Any

from .cells import ACTIVATIONS, BUILT_IN, CELLS, OLDER, Cell, Option
from .words import counted, meant

# Parameters that torch.nn has too. The others follow them in every list, so that torch's keep their order.
TORCH_PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")


def suffix(layer: int, reverse: bool) -> str:
    """The ending of names that are of one layer in one direction."""
    return f"_l{layer}" + ("_reverse" if reverse else "")


@dataclass(frozen=True)
class Walk:
    """One layer in one direction: what has parameters of its own."""

    layer: int
    reverse: bool
    input_size: int
    hidden_size: int

    @property
    def suffix(self) -> str:
        """torch.nn's ending of the names of parameters: _l0, _l0_reverse, _l1, ..."""
        return suffix(self.layer, self.reverse)


@dataclass(frozen=True)
class Mask:
    """Random numbers that one training step needs: 1 with probability 1 - rate, divided by that where `scaled`."""

    shape: tuple[int, ...]
    rate: float
    scaled: bool = True


def _told(default: Any, help: str) -> Any:
    """A field of a spec, with what it is for people."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, repr=False)
class Spec:
    """Which cell and which options. Prints to one line, and `Spec.parse` reads it back.

    `hidden_size` has one size for each layer. `options` are the cell's own, from its declaration in `cells.py`, and
    are read as attributes like the rest. Errors: ValueError or TypeError, with torch.nn's text where torch has one.

    >>> spec = Spec.of("lstm", 40, [512, 512], proj_size=256, peephole="diagonal")
    >>> print(spec)
    lstm(40, 512, 512; proj_size=256, peephole=diagonal)
    >>> Spec.parse("lstm(40, 512, 512; proj_size=256, peephole=diagonal)") == spec
    True
    >>> spec.parameters["weight_hh_l1"], spec.peephole, spec.coupled
    ((2048, 256), 'diagonal', None)
    """

    cell: str
    input_size: int
    hidden_size: tuple[int, ...]
    bias: bool = _told(True, "Have biases.")
    batch_first: bool = _told(False, "Arrays begin with the sequence, not with time.")
    bidirectional: bool = _told(False, "Read the sequence from its end too.")
    dropout: float = _told(0.0, "Share of the outputs left out in training, in every layer but the last.")
    proj_size: int = _told(0, "Size of the recurrent projection (LSTMP); 0: none.")
    nonrecurrent_proj_size: int = _told(0, "Size of a second projection, which does not recur; 0: none.")
    proj_bias: bool = _told(False, "The projections have biases, as Kaldi's and TFLite's.")
    proj_clip: float = _told(0.0, "Bound of the projection; 0: none.")
    layer_norm: bool = _told(False, "Layer norm of Ba et al. 2016.")
    residual: bool = _told(False, "Add a layer's input to its output, from the second on.")
    learned_state: bool = _told(False, "Learn the initial state.")
    recurrent_dropout: float = _told(0.0, "Share of what recurs left out in training.")
    recurrent_dropout_on: str = _told("hidden", "'hidden': one mask a sequence; 'candidate': a fresh one a step.")
    weight_dropout: float = _told(0.0, "Share of the recurrent weights left out in training.")
    zoneout_h: float = _told(0.0, "Share of the hidden state that stays as it was, in training.")
    zoneout_c: float = _told(0.0, "Share of the memory that stays as it was, in training.")
    options: tuple[tuple[str, Any], ...] = ()
    definition: Cell = None  # type: ignore[assignment] # the cell's equations and declaration
    _text: str = field(init=False, default="", compare=False)

    @classmethod
    def of(
        cls,
        cell: str,
        input_size: int,
        hidden_size: Any,
        num_layers: int = 1,
        definition: Cell | None = None,
        **options: Any,
    ) -> Spec:
        """From the arguments of a module. `hidden_size` is one number, or a list with one for each layer."""
        definition = definition or declared(cell)
        _check_names(cell, definition, options)
        if isinstance(hidden_size, (list, tuple)):
            if num_layers not in (1, len(hidden_size)):
                raise ValueError(
                    f"hidden_size has {counted(len(hidden_size), 'size')}, one for each layer, but num_layers is "
                    f"{num_layers}: expected {len(hidden_size)}. Leave num_layers out"
                )
            sizes = tuple(hidden_size)
        else:
            _check_size("num_layers", num_layers)
            sizes = (hidden_size,) * num_layers
        chosen = {name: options.pop(name) for name in definition.options if name in options}
        return cls(cell, input_size, sizes, **options, options=tuple(chosen.items()), definition=definition)

    def __post_init__(self) -> None:
        if self.definition is None:
            object.__setattr__(self, "definition", declared(self.cell))
        own = self.definition.options
        given = dict(self.options)
        chosen = {name: checked_option(name, given[name], own[name]) for name in own if name in given}
        different = tuple((name, value) for name, value in chosen.items() if value != own[name].default)
        object.__setattr__(self, "options", different)
        object.__setattr__(self, "dropout", _checked_rate("dropout", self.dropout))
        _check_size("input_size", self.input_size)
        if not self.hidden_size:
            raise ValueError("hidden_size is an empty list: expected one size for each layer")
        for size in self.hidden_size:
            _check_size("hidden_size", size)
        for name in ("recurrent_dropout", "weight_dropout", "zoneout_h", "zoneout_c"):
            object.__setattr__(self, name, _checked_rate(name, getattr(self, name)))
        for name in ("bias", "batch_first", "bidirectional", "proj_bias", "layer_norm", "residual", "learned_state"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} should be of type bool, got: {type(getattr(self, name)).__name__}")
        object.__setattr__(self, "proj_clip", _checked_number("proj_clip", self.proj_clip))
        self._check_projection()
        self._check_together()
        object.__setattr__(self, "_text", self._print())
        for name in ("gates", "recurrent", "own", "walks", "parameters", "weights", "state_names", "begins"):
            getattr(self, name)  # made now: torch.compile cannot follow how a cached property is

    def _check_projection(self) -> None:
        for name in ("proj_size", "nonrecurrent_proj_size"):
            if not isinstance(getattr(self, name), int) or isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} should be of type int, got: {type(getattr(self, name)).__name__}")
        if self.proj_size < 0:
            raise ValueError("proj_size should be a positive integer or zero to disable projections")
        if self.proj_size >= min(self.hidden_size):
            raise ValueError("proj_size has to be smaller than hidden_size")
        if self.proj_size and not self.definition.projects:
            raise ValueError(f"proj_size is not defined for {self.cell}: it mixes h with the old one. Expected 0")
        if self.nonrecurrent_proj_size < 0:
            raise ValueError("nonrecurrent_proj_size should be a positive integer or zero to have none")
        for name in ("nonrecurrent_proj_size", "proj_bias", "proj_clip"):
            if getattr(self, name) and not self.proj_size:
                raise ValueError(f"{name}={getattr(self, name)} needs a recurrent projection: give proj_size too")

    def _check_together(self) -> None:
        definition = self.definition
        if self.recurrent_dropout_on not in ("hidden", "candidate"):
            raise ValueError(
                f"recurrent_dropout_on='{self.recurrent_dropout_on}': expected 'hidden' (one mask a sequence, on h) or "
                "'candidate' (a fresh mask a step)"
            )
        if self.recurrent_dropout_on == "candidate" and not definition.candidate:
            raise ValueError(f"recurrent_dropout_on='candidate': {self.cell} has no candidate. Expected 'hidden'")
        for name in ("recurrent_dropout", "weight_dropout"):
            hidden = name == "weight_dropout" or self.recurrent_dropout_on == "hidden"
            if getattr(self, name) and not self.recurrent and hidden:
                raise ValueError(f"{name}={getattr(self, name)}: {self.cell} has no recurrent weights. Expected 0")
        if definition.own and self.layer_norm and definition.inside(self):
            raise ValueError(
                f"layer_norm is not defined for {self.cell}: it applies the recurrent weights of "
                f"{', '.join(definition.inside(self))} itself. Expected False"
            )
        if self.zoneout_c and "c" not in definition.states:
            raise ValueError(f"zoneout_c={self.zoneout_c}: {self.cell} has no memory c. Use zoneout_h")
        for layer in range(1, self.num_layers) if self.residual else ():
            if self.output_size(layer) != self.output_size(layer - 1):
                raise ValueError(
                    f"residual adds a layer's input to its output, but layer {layer} has "
                    f"{counted(self.output_size(layer - 1), 'input')} and "
                    f"{counted(self.output_size(layer), 'output')}: expected layers of one size"
                )
        if reason := definition.refuse(self):
            raise ValueError(reason)

    def __getattr__(self, name: str) -> Any:
        # Called only for what is no field: an option of the cell.
        definition = None if name.startswith("_") else self.__dict__.get("definition")
        if definition is not None and name in definition.options:
            return dict(self.options).get(name, definition.options[name].default)
        raise AttributeError(f"{type(self).__name__} of {self.__dict__.get('cell')} has no option '{name}'")

    def __hash__(self) -> int:
        return hash(self._text)  # it is made once, and so is its hash

    @property
    def title(self) -> str:
        """The cell as people write it: LSTM, or as it was declared."""
        return self.cell if self.definition.own else self.cell.upper()

    @property
    def num_layers(self) -> int:
        """How many layers are stacked."""
        return len(self.hidden_size)

    @property
    def directions(self) -> int:
        """2 if bidirectional, else 1."""
        return 2 if self.bidirectional else 1

    @cached_property
    def gates(self) -> tuple[str, ...]:
        """The gates with rows in W and b, in their order there."""
        return self.definition.gates(self)

    @cached_property
    def recurrent(self) -> tuple[str, ...]:
        """Those of the gates that have rows in R too."""
        alone = self.definition.alone(self)
        return tuple(gate for gate in self.gates if gate not in alone)

    @cached_property
    def own(self) -> dict[str, tuple[str, ...]]:
        """The cell's own parameters: the names of the vectors or matrices that are stacked in each."""
        return {**self.definition.vectors(self), **self.definition.matrices(self)}

    def output_size(self, layer: int = -1) -> int:
        """Numbers that a layer gives at each step: all directions, [r; p] of each where it projects."""
        return self.directions * ((self.proj_size or self.hidden_size[layer]) + self.nonrecurrent_proj_size)

    @cached_property
    def walks(self) -> tuple[Walk, ...]:
        """Every layer in every direction, in torch.nn's order."""
        return tuple(
            Walk(k, reverse, self.output_size(k - 1) if k else self.input_size, size)
            for k, size in enumerate(self.hidden_size)
            for reverse in (False, True)[: self.directions]
        )

    def state_sizes(self, walk: Walk) -> dict[str, int]:
        """The states that recur and how many numbers each has: h is the projected one where there is a projection."""
        return {name: (self.proj_size if name == "h" else 0) or walk.hidden_size for name in self.definition.states}

    def shapes(self, walk: Walk) -> dict[str, tuple[int, ...]]:
        """The parameters of one layer in one direction: names without the suffix, and shapes."""
        size, rows, back = (
            walk.hidden_size,
            *(len(gates) * walk.hidden_size for gates in (self.gates, self.recurrent)),
        )
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, walk.input_size)}
        if back:
            shapes["weight_hh"] = (back, self.proj_size or size)
        if self.bias:
            shapes |= {"bias_ih": (rows,)} | ({"bias_hh": (back,)} if back else {})
        if self.proj_size:
            shapes["weight_hr"] = (self.proj_size, size)
        if self.nonrecurrent_proj_size:
            shapes["weight_hp"] = (self.nonrecurrent_proj_size, size)
        if self.proj_bias:
            shapes["bias_hr"] = (self.proj_size,)
        if self.proj_bias and self.nonrecurrent_proj_size:
            shapes["bias_hp"] = (self.nonrecurrent_proj_size,)
        if self.definition.dense(self):
            shapes["weight_ch"] = (rows, size)
        if self.layer_norm:
            shapes |= {"norm_ih": (rows,)} | ({"norm_hh": (back,)} if back else {})
        for name, vectors in self.definition.vectors(self).items():
            shapes[name] = (len(vectors) * size,)
        for name, matrices in self.definition.matrices(self).items():
            shapes[name] = (len(matrices) * size, size)
        if self.learned_state:
            shapes |= {f"initial_{name}": (width,) for name, width in self.state_sizes(walk).items()}
        return shapes

    def blocks(self, name: str) -> tuple[str, ...]:
        """What is stacked along the first dimension of a parameter (without suffix): gates, own blocks or nothing."""
        if name in ("weight_ih", "bias_ih", "norm_ih"):
            return self.gates
        if name in ("weight_hh", "bias_hh", "norm_hh"):
            return self.recurrent
        if name == "weight_ch" and self.definition.dense(self):
            return self.gates
        return self.own.get(name, ())

    @cached_property
    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Every parameter's name and shape, in torch.nn's order."""
        return {name + walk.suffix: shape for walk in self.walks for name, shape in self.shapes(walk).items()}

    @cached_property
    def weights(self) -> tuple[str, ...]:
        """The parameters that a step reads: all but learned states."""
        return tuple(name for name in self.parameters if not name.startswith("initial_"))

    @cached_property
    def state_names(self) -> tuple[str, ...]:
        """The states of all layers and directions: h_l0, c_l0, h_l0_reverse, ..."""
        return tuple(name + walk.suffix for walk in self.walks for name in self.definition.states)

    @cached_property
    def begins(self) -> dict[str, float]:
        """What the states of all layers and directions are before the first step, where they are not learned."""
        initial = self.definition.initial
        return {name + walk.suffix: initial.get(name, 0.0) for walk in self.walks for name in self.definition.states}

    def masks(self, time: int, batch: int) -> dict[str, Mask]:
        """The random masks of one training step over (T, B) inputs. None are needed in evaluation.

        In this order torch.nn draws the same ones: those between layers come first.
        """
        masks = {}
        if self.dropout:
            for layer in range(1, self.num_layers):
                masks[f"dropout_l{layer}"] = Mask((time, batch, self.output_size(layer - 1)), self.dropout)
        for walk in self.walks:
            if self.recurrent_dropout and self.recurrent_dropout_on == "hidden":
                masks["recurrent" + walk.suffix] = Mask((batch, self.state_sizes(walk)["h"]), self.recurrent_dropout)
            elif self.recurrent_dropout:
                masks["candidate" + walk.suffix] = Mask((time, batch, walk.hidden_size), self.recurrent_dropout)
            if self.weight_dropout:
                masks["weight" + walk.suffix] = Mask(self.shapes(walk)["weight_hh"], self.weight_dropout)
            for name, width in self.state_sizes(walk).items():
                if rate := getattr(self, f"zoneout_{name}", 0.0):  # 1 keeps the old state, with probability `rate`
                    masks[f"zoneout_{name}{walk.suffix}"] = Mask((time, batch, width), 1 - rate, scaled=False)
        return masks

    def __str__(self) -> str:
        return self._text  # made once: torch.compile cannot follow how

    def _print(self) -> str:
        parts = []
        fields = {name: (getattr(self, name), default) for name, default in _FIELDS.items()}
        own = {name: (value, None) for name, value in self.options}
        for name, (value, default) in (fields | own).items():
            if value is True and default is False:
                parts.append(name)
            elif value != default:
                parts.append(f"{name}={'/'.join(value) if isinstance(value, tuple) else value}")
        sizes = ", ".join(str(size) for size in (self.input_size, *self.hidden_size))
        return f"{self.cell}({sizes}{'; ' if parts else ''}{', '.join(parts)})"

    __repr__ = __str__

    @classmethod
    def parse(cls, text: str) -> Spec:
        """Reads what str() gives. Errors: ValueError, with the place."""
        form = re.fullmatch(r"\s*(\w+(?:@\w+)?)\s*\(([\d\s,]+)(?:;([^()]*))?\)\s*", text)
        if form is None:
            raise ValueError(
                f"Cannot read the spec {text[:200]!r}: expected a form such as 'lstm(40, 512, 512; bidirectional, "
                "proj_size=256)', with the input size, then each layer's size"
            )
        key, numbers, rest = form.groups()
        cell, _, digest = key.partition("@")
        try:
            sizes = [int(number) for number in numbers.split(",")]
        except ValueError:
            raise ValueError(f"Cannot read the sizes '{numbers}' of the spec {text!r}: expected numbers") from None
        if len(sizes) < 2:
            raise ValueError(f"The spec {text!r} has one size: expected the input size, then each layer's size")
        reasons = []
        for definition in declarations(cell):  # where it has a digest, an older one may be meant
            try:
                spec = cls.of(cell, sizes[0], sizes[1:], definition=definition, **_read_options(cell, definition, rest))
            except (ValueError, TypeError) as error:
                reasons.append(error)
                continue
            if digest in ("", spec.digest):
                return spec
        if reasons and not digest:
            raise reasons[0]
        raise ValueError(
            f"The cell '{cell}' has other equations (or gates, states or initial values) than the one that was meant, "
            f"whose digest is {digest[:64]}: declare it as it was, or under another name"
        ) from (reasons[0] if reasons else None)

    @staticmethod
    def parse_options(cell: str, text: str) -> dict[str, Any]:
        """Reads the options in a spec's text, as arguments for `of`. Errors: ValueError.

        >>> Spec.parse_options("lstm", "peephole=diagonal, zoneout_h=0.1")
        {'peephole': 'diagonal', 'zoneout_h': 0.1}
        """
        return _read_options(cell, declared(cell), text)

    @cached_property
    def digest(self) -> str:
        """What tells a declared cell's equations, with these options, from others of that name; "" for a built-in."""
        return self.definition.digest(self) if self.definition.digest else ""

    @cached_property
    def key(self) -> str:
        """The text with which files name the cell and its equations: `parse` takes it where they are the same."""
        return self._text.replace("(", f"@{self.digest}(", 1) if self.digest else self._text

    def __reduce__(self) -> tuple[Any, ...]:
        return Spec.parse, (self.key,)

    def __deepcopy__(self, memo: Any) -> Spec:
        return self


_TOLD = {f.name: f for f in dataclasses.fields(Spec) if "help" in f.metadata}
_FIELDS = {name: f.default for name, f in _TOLD.items()}


@dataclass(frozen=True)
class Known:
    """An option that a spec may have: its default, what it is, what it may be, and the cells that have it.

    No choices: any value of its type. No cells: all have it.
    """

    default: Any
    help: str
    choices: tuple[Any, ...] = ()
    cells: tuple[str, ...] = ()


def known_options() -> dict[str, Known]:
    """Every option of every built-in cell, by name.

    >>> known_options()["reset"].cells
    ('gru',)
    """
    known = {name: Known(f.default, f.metadata["help"]) for name, f in _TOLD.items()}
    for cell in BUILT_IN:
        for name, option in CELLS[cell].options.items():
            first = known.get(name, Known(option.default, option.help, option.choices))
            known[name] = dataclasses.replace(first, cells=(*first.cells, cell))
    return known


def declarations(cell: str) -> list[Cell]:
    """A cell's declarations, the last one first. Errors: ValueError."""
    if cell not in CELLS:
        import_module(".zoo", __package__)  # its cells are there once it is imported
    if cell not in CELLS:
        raise ValueError(
            f"Unknown cell '{cell}': expected one of {', '.join(CELLS)}, or one that @openlstm.cell declared: import "
            f"the module that does so first (on the command line: openlstm --cells FILE ...){meant(cell, CELLS)}"
        )
    return [CELLS[cell], *OLDER.get(cell, ())]


def declared(cell: str) -> Cell:
    """A cell's declaration. Errors: ValueError."""
    return declarations(cell)[0]


def _read_options(cell: str, definition: Cell, text: str | None) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for part in text.split(",") if text and text.strip() else ():
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if name in options:
            raise ValueError(f"The options '{text.strip() if text else ''}' have '{name}' twice")
        _check_names(cell, definition, [name])
        options[name] = _read(name, value if equals else None, definition.options.get(name))
    return options


def _check_names(cell: str, definition: Cell, names: Iterable[str]) -> None:
    own = definition.options
    for name in names:
        if name not in own and name not in _FIELDS:
            known = [*_FIELDS, *own]
            close = meant(name, [*known, "input_size", "hidden_size", "num_layers"])
            raise ValueError(f"Unknown option '{name}' of {cell}: expected one of {', '.join(known)}{close}")


def _read(name: str, value: str | None, option: Option | None) -> Any:
    """One option's value from its text; None stands for a name alone."""
    default = _FIELDS.get(name)
    if option and option.choices:
        return next((choice for choice in option.choices if str(choice) == value), value)
    if option and option.many == 1:
        return value
    if option and option.many:
        return tuple((value or "").split("/"))
    if isinstance(default, str):
        return value
    if isinstance(default, bool) and value in (None, "True", "False"):
        return value != "False"
    try:
        if option or isinstance(default, float):
            return float(value or "")
        if isinstance(default, int) and not isinstance(default, bool):
            return int(value or "")
    except ValueError:
        pass
    kind = (
        "True or False" if isinstance(default, bool) else "a whole number" if isinstance(default, int) else "a number"
    )
    raise ValueError(f"Cannot read the option '{name}{'' if value is None else '=' + value}': expected {kind}")


def checked_option(name: str, value: Any, option: Option) -> Any:
    """A value that an option may have. Errors: ValueError."""
    if option.choices:
        if value not in option.choices:
            raise ValueError(f"{name}={value!r}: expected one of {', '.join(map(repr, option.choices))}")
        return value
    if option.many == 1:
        if name == "nonlinearity" and str(value).partition(":")[0] not in ACTIVATIONS:  # torch.nn's text
            raise ValueError(f"Unknown nonlinearity '{value}'. Select from 'tanh' or 'relu'.")
        _check_activation(name, value)
        return value
    if option.many:
        names = tuple(value) if isinstance(value, (list, tuple)) else (value,)
        if len(names) != option.many:
            raise ValueError(f"{name}={value!r}: expected {option.many} names, as in {option.default!r}")
        for item in names:
            _check_activation(name, item)
        return names
    if value is None and option.default is None:
        return None
    if option.default is None:
        if not -1e6 < (number := _number(value)) < 1e6:
            raise ValueError(f"{name}={value!r}: expected a number")
        return number
    return _checked_number(name, value)


def _check_activation(name: str, text: Any) -> None:
    word, *constants = str(text).split(":")
    if not isinstance(text, str) or word not in ACTIVATIONS:
        raise ValueError(f"{name}: unknown activation {text!r}. Expected one of {', '.join(ACTIVATIONS)}")
    defaults = ACTIVATIONS[word][1]
    readable = all(re.fullmatch(r"-?\d+(\.\d*)?(e-?\d+)?", constant) for constant in constants)
    if len(constants) > len(defaults) or not readable:
        form = word + "".join(f":{default}" for default in defaults)
        raise ValueError(f"{name}: cannot read the activation {text!r}. Expected '{form}', or shorter for the defaults")


def _checked_rate(name: str, value: Any) -> float:
    if not 0 <= (number := _number(value)) <= 1:
        torchs = "representing the probability of an element being zeroed"  # torch.nn's text
        reason = torchs if name == "dropout" else f"but is {value!r}"
        raise ValueError(f"{name} should be a number in range [0, 1] {reason}")
    return number


def _number(value: Any) -> float:
    """NaN, which is in no range, for what is no number."""
    return float(value) if isinstance(value, Real) and not isinstance(value, bool) else float("nan")


def _check_size(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} should be of type int, got: {type(value).__name__}")
    if value <= 0:
        raise ValueError(f"{name} must be greater than zero")


def _checked_number(name: str, value: Any) -> float:
    if not 0 <= (number := _number(value)) < float("inf"):
        raise ValueError(f"{name}={value!r}: expected a number of at least 0, where 0 means none")
    return number
