"""LSTM, GRU and RNN as torch modules: torch.nn's own, with more options; and their cells for one step.

Everything that torch.nn's three accept gives the same numbers, shapes, names and errors here. What they do not have is
keyword-only.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from . import arguments, backends
from .arguments import State
from .cells import Cell
from .spec import TORCH_PARAMETERS, Spec

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Options(TypedDict, total=False):
    """What every module takes beyond torch.nn's parameters."""

    nonrecurrent_proj_size: int  # a second projection p of h that does not recur: the output is [r; p]
    proj_bias: bool  # of both projections
    proj_clip: float  # bound of |r|; 0: none
    layer_norm: bool  # of W x and of R h over all gates, and of c where it is read
    residual: bool  # every layer but the first adds its input to its output
    learned_state: bool  # initial states are parameters
    recurrent_dropout: float
    recurrent_dropout_on: str  # "hidden": one mask a sequence, on h; "candidate": a fresh mask a step
    weight_dropout: float  # of recurrent weights, once a forward
    zoneout_h: float
    zoneout_c: float


class LSTMOptions(Options, total=False):
    """What LSTM takes beyond torch.nn's parameters."""

    peephole: str | None  # "diagonal" or "dense"
    coupled: str | None  # "f=1-i" or "i=1-f"
    activations: Sequence[str]  # of the gates, the candidate and the output, such as ("hard_sigmoid:0.2:0.5", ...)
    cell_clip: float  # bound of |c|, stored clipped; 0: none
    preactivation_clip: float  # bound of what every activation of a gate or candidate takes; 0: none
    forget_bias: float | None  # of the forget gate to begin with; None: torch.nn's random one


class GRUOptions(Options, total=False):
    """What GRU takes beyond torch.nn's parameters."""

    reset: str  # "after" the recurrent weights, as torch.nn, or "before"
    activations: Sequence[str]  # of the gates and the candidate
    preactivation_clip: float  # bound of what every activation takes; 0: none


class RNNOptions(Options, total=False):
    """What RNN takes beyond torch.nn's parameters. Its nonlinearity may be any of ONNX's activations."""

    proj_size: int
    preactivation_clip: float  # bound of what the nonlinearity takes; 0: none


class Recurrent(nn.Module):
    """A stack of layers of any cell. LSTM, GRU and RNN differ only in how they are called.

    Options are read as attributes. Those that change no parameter (dropout, zoneout_h, batch_first, ...) can be set.
    """

    spec: Spec
    title: ClassVar[str] = "RNN"  # in messages
    _noun: ClassVar[str] = ""  # torch.nn's messages differ in it
    _watch: Any = None  # what models.trace sets

    def __init__(self, spec: Spec, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self._accept(spec)
        self.__dict__["spec"] = spec
        spec.key  # noqa: B018 - made now: torch.compile cannot follow how
        if spec.dropout > 0 and spec.num_layers == 1:
            warnings.warn(
                "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects "
                f"num_layers greater than 1, but got dropout={spec.dropout} and num_layers=1",
                stacklevel=3,
            )
        for name, shape in spec.parameters.items():
            self.register_parameter(self._own(name), nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self._names = [self._own(name) for name in spec.weights]
        self.reset_parameters()

    def _own(self, name: str) -> str:
        """This module's attribute for a parameter of the spec."""
        return name

    def _accept(self, spec: Spec) -> None:
        """Raises ValueError for what this kind of module cannot be."""

    def reset_parameters(self) -> None:
        """Draws all weights as torch.nn does: uniform within 1/sqrt(hidden_size), the same numbers under one seed.

        Gains of norms begin at 1, their shifts and learned states at 0, and the forget gate at `forget_bias`.
        """
        # torch.nn's parameters first, so that other ones do not shift the random numbers.
        for torchs in (True, False):
            for walk in self.spec.walks:
                bound = 1 / math.sqrt(walk.hidden_size)
                for name in self.spec.shapes(walk):
                    parameter = getattr(self, self._own(name + walk.suffix))
                    if (name in TORCH_PARAMETERS) is not torchs:
                        continue
                    if name.startswith("initial_"):
                        nn.init.constant_(
                            parameter, self.spec.definition.initial.get(name.removeprefix("initial_"), 0.0)
                        )
                    elif name.endswith("_bias"):
                        nn.init.zeros_(parameter)
                    elif name.startswith("norm_"):
                        nn.init.ones_(parameter)
                    else:
                        nn.init.uniform_(parameter, -bound, bound)
        for gate, value in self.spec.definition.initial_bias(self.spec).items():
            for walk in self.spec.walks if value is not None and self.spec.bias else ():
                with torch.no_grad():
                    for name, chosen in (("bias_ih", value), ("bias_hh", 0.0)):
                        if gate in (gates := self.spec.blocks(name)):
                            rows = slice(*(walk.hidden_size * (gates.index(gate) + k) for k in (0, 1)))
                            getattr(self, self._own(name + walk.suffix))[rows] = chosen

    # What torch.nn's modules have and others' code reads.

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            spec = self.__dict__.get("spec")
            if spec is None or name not in _readable(spec):
                raise
        sizes = getattr(spec, name)
        return sizes if name != "hidden_size" else sizes[0] if len(set(sizes)) == 1 else list(sizes)

    def __setattr__(self, name: str, value: Any) -> None:
        if "spec" not in self.__dict__ or name not in _readable(self.spec):
            super().__setattr__(name, value)
            return
        sizes = (*self.spec.hidden_size,)
        options = {option: getattr(self.spec, option) for option in _readable(self.spec)} | {name: value}
        spec = Spec.of(self.spec.cell, definition=self.spec.definition, **{"hidden_size": sizes, **options})
        if spec.parameters != self.spec.parameters:
            raise AttributeError(f"{name}={value!r} would change the parameters: make a new module")
        self._accept(spec)
        self.__dict__["spec"] = spec
        spec.key  # noqa: B018 - made now: torch.compile cannot follow how

    def extra_repr(self) -> str:
        """The spec's text without the cell."""
        return str(self.spec)[len(self.spec.cell) + 1 : -1]

    def flatten_parameters(self) -> None:
        """Nothing to do here: torch.nn arranges memory for cuDNN in it. Others' code calls it."""

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """The parameters of each layer and direction."""
        return [
            [getattr(self, self._own(name + walk.suffix)) for name in self.spec.shapes(walk)]
            for walk in self.spec.walks
        ]

    @property
    def _flat_weights_names(self) -> list[str]:
        return [self._own(name) for name in self.spec.parameters]

    @property
    def _flat_weights(self) -> list[Tensor]:
        return [getattr(self, name) for name in self._flat_weights_names]

    # One run.

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: State = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
    ) -> tuple[Any, State]:
        """The output of the last layer at every step, and the final states.

        input: (T, B, I), (B, T, I) with batch_first, (T, I) unbatched, or a PackedSequence.
        hx: the initial states as torch.nn has them; None: zeros, or the learned ones.
        lengths: (B,) integers in 0..T, in any order, on any device. Outputs past a sequence's end are 0, final states
        are those of its last step (the initial ones where it has none), and backwards it starts at its own end.
        reset: booleans, laid out as the input without its last dimension; true where a new sequence begins. States
        return to the initial ones before such a step; backwards before the step that precedes it.
        """
        return self._run(input, hx, lengths, reset)

    def _run(self, given: Any, hx: State, lengths: Any, reset: Any) -> tuple[Any, State]:
        watch = self._watch
        if torch.compiler.is_compiling():
            if watch is not None:
                return torch.compiler.disable(self._compute)(given, hx, lengths, reset, watch)  # type: ignore
        elif torch._C._is_tracing():  # what the engine computes would become constants
            raise RuntimeError(
                f"{self.title} cannot be traced by torch.jit: use torch.export, or torch.onnx.export with dynamo=True"
            )
        return self._compute(given, hx, lengths, reset, watch)

    def _compute(self, given: Any, hx: State, lengths: Any, reset: Any, watch: Any) -> tuple[Any, State]:
        spec = self.spec
        if lengths is None and reset is None and watch is None and type(given) is Tensor:
            weights = [weight for name in self._names if (weight := self._parameters.get(name)) is not None]
            if len(weights) == len(self._names):  # a parametrization would compute one
                quick = backends.quick(spec, given, hx, weights, self.training)
                if quick is not None:
                    return quick
        packed = given if isinstance(given, PackedSequence) else None
        x = given.data if packed else given
        batched = packed is not None or x.dim() == 3
        if packed is None and x.dim() not in (2, 3):
            raise ValueError(f"{self.title}: Expected input to be 2D or 3D, got {x.dim()}D{self._noun} instead")
        parameters = {name: getattr(self, self._own(name)) for name in spec.parameters}
        dtype = arguments.check_type(x, next(iter(parameters.values())))
        if packed is not None and x.dim() != 2:
            raise RuntimeError(f"input must have 2 dimensions, got {x.dim()}")
        if x.shape[-1] != spec.input_size:
            raise RuntimeError(
                f"input.size(-1) must be equal to input_size. Expected {spec.input_size}, got {x.shape[-1]}"
            )
        if packed is not None:
            if lengths is not None or reset is not None:
                raise ValueError(
                    "lengths and reset are for padded input, but a PackedSequence has its own: leave them out"
                )
            x, lengths = pad_packed_sequence(PackedSequence(packed.data, packed.batch_sizes))
        elif not batched:
            x = x.unsqueeze(1)
        elif spec.batch_first:
            x = x.transpose(0, 1)
        time, batch = x.shape[:2]
        states = arguments.initial(spec, hx, x, batch, batched, parameters)
        if packed is not None and packed.sorted_indices is not None:
            states = {name: state.index_select(0, packed.sorted_indices) for name, state in states.items()}
        lengths = None if lengths is None else arguments.check_lengths(lengths, time, batch, x.device)
        reset = None if reset is None else arguments.check_reset(spec, reset, x, batched)
        masks = arguments.draw(spec, x, packed, dtype) if self.training else {}
        if dtype != x.dtype or any(p.dtype != dtype for p in (*parameters.values(), *states.values())):
            x = x.to(dtype)
            parameters, states = ({k: v.to(dtype) for k, v in tensors.items()} for tensors in (parameters, states))
        keep = None if watch is None else watch.keep(spec)
        with backends.plain(x):
            y, final = backends.layers(spec, x, parameters, states, lengths, reset, masks, keep)
        if watch is not None:
            watch.take(self, x, states, keep, y, packed)
        if packed is not None:
            assert lengths is not None
            data = pack_padded_sequence(y, lengths.cpu(), enforce_sorted=True).data
            output = PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
            if packed.unsorted_indices is not None:
                final = {name: state.index_select(0, packed.unsorted_indices) for name, state in final.items()}
            return output, arguments.gather(spec, final, batched)
        y = y.squeeze(1) if not batched else y.transpose(0, 1) if spec.batch_first else y
        return y, arguments.gather(spec, final, batched)


def _readable(spec: Spec) -> set[str]:
    """What of a spec can be read as an attribute of a module."""
    fields = {field.name for field in dataclasses.fields(spec) if field.init} - {"cell", "options"}
    return fields - {"definition"} | {"num_layers"} | set(spec.definition.options)


class LSTM(Recurrent):
    """Long short-term memory: torch.nn.LSTM, with every published form of it.

    `hidden_size` may be a list with one size for each layer. Returns y and (h, c) as torch.nn does; the equations and
    their sources are in `cells.py`.

    >>> lstm = LSTM(40, 512, num_layers=2, proj_size=256, peephole="diagonal")
    >>> y, (h, c) = lstm(torch.zeros(7, 3, 40))
    >>> tuple(y.shape), tuple(h.shape), tuple(c.shape)
    ((7, 3, 256), (2, 3, 256), (2, 3, 512))
    """

    title = "LSTM"

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
        **options: Unpack[LSTMOptions],
    ) -> None:
        spec = Spec.of(
            "lstm",
            input_size,
            hidden_size,
            num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            proj_size=proj_size,
            **options,
        )
        super().__init__(spec, device, dtype)

    @property
    def mode(self) -> str:
        """torch.nn's name of the cell."""
        return "LSTM"


class GRU(Recurrent):
    """Gated recurrent unit: torch.nn.GRU, and with `reset="before"` the form of Cho et al. 2014. Returns y and h.

    >>> y, h = GRU(3, 4, bidirectional=True)(torch.zeros(7, 2, 3))
    >>> tuple(y.shape), tuple(h.shape)
    ((7, 2, 8), (2, 2, 4))
    """

    title = "GRU"

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        **options: Unpack[GRUOptions],
    ) -> None:
        if "proj_size" in options:
            raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")  # torch.nn's text
        spec = Spec.of(
            "gru",
            input_size,
            hidden_size,
            num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            **options,
        )
        super().__init__(spec, device, dtype)

    @property
    def mode(self) -> str:
        """torch.nn's name of the cell."""
        return "GRU"


class RNN(Recurrent):
    """Simple recurrent network of Elman 1990 with tanh or relu: torch.nn.RNN, and projections. Returns y and h.

    >>> y, h = RNN(3, 4, nonlinearity="relu")(torch.zeros(7, 2, 3))
    >>> tuple(y.shape), tuple(h.shape)
    ((7, 2, 4), (1, 2, 4))
    """

    _noun = " tensor"

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        **options: Unpack[RNNOptions],
    ) -> None:
        spec = Spec.of(
            "rnn",
            input_size,
            hidden_size,
            num_layers,
            nonlinearity=nonlinearity,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            **options,
        )
        super().__init__(spec, device, dtype)

    @property
    def mode(self) -> str:
        """torch.nn's name of the cell."""
        return f"RNN_{self.spec.nonlinearity.upper()}"


class Own(Recurrent):
    """What `openlstm.cell` makes of equations: their module."""

    definition: ClassVar[Cell]

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
        **options: Any,
    ) -> None:
        spec = Spec.of(
            self.title,
            input_size,
            hidden_size,
            num_layers,
            self.definition,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            proj_size=proj_size,
            **options,
        )
        self.definition.check(spec)
        super().__init__(spec, device, dtype)


class RecurrentCell(Recurrent):
    """One step of one layer: what LSTMCell, GRUCell and RNNCell share. Parameters have no suffix, as in torch.nn."""

    _forbidden = (
        *("batch_first", "bidirectional", "dropout", "recurrent_dropout", "recurrent_dropout_on", "weight_dropout"),
        *("residual", "learned_state", "nonrecurrent_proj_size"),
    )

    def __init__(self, spec: Spec, device: Any = None, dtype: Any = None) -> None:
        super().__init__(spec, device, dtype)
        for name in () if spec.bias else ("bias_ih", "bias_hh"):
            self.register_parameter(name, None)

    def _accept(self, spec: Spec) -> None:
        if spec.num_layers != 1:
            raise TypeError(f"hidden_size should be of type int, got: {type(spec.hidden_size).__name__}")
        for name in self._forbidden:
            if getattr(spec, name) != getattr(Spec, name):
                raise ValueError(f"{name}={getattr(spec, name)} is not for {self.title}, one step: use a whole layer")

    def _own(self, name: str) -> str:
        return name.removesuffix("_l0")

    def forward(self, input: Tensor, hx: State = None) -> State:  # type: ignore[override]
        """The states after one step: (B, I) and the states before it, or (I,) and unbatched ones. None: zeros."""
        names = self.spec.definition.states
        single = len(names) == 1
        if input.dim() not in (1, 2):
            raise ValueError(f"{self.title}: Expected input to be 1D or 2D, got {input.dim()}D instead")
        if input.shape[-1] != self.spec.input_size:
            raise RuntimeError(
                f"input has inconsistent input_size: got {input.shape[-1]} expected {self.spec.input_size}"
            )
        given = () if hx is None else (hx,) if single else tuple(hx)
        if given and len(given) != len(names):
            raise RuntimeError(f"{self.title}: hx has {len(given)} states: expected {len(names)}, ({', '.join(names)})")
        for k, state in enumerate(given):
            if state.dim() not in (1, 2):
                which = "hidden" if single else f"hx[{k}]"
                raise ValueError(f"{self.title}: Expected {which} to be 1D or 2D, got {state.dim()}D instead")
            if input.dim() == 2 and state.shape[0] != input.shape[0]:
                raise RuntimeError(
                    f"Input batch size {input.shape[0]} doesn't match hidden{k} batch size {state.shape[0]}"
                )
            width = self.spec.state_sizes(self.spec.walks[0])[names[k]]
            if state.shape[-1] != width:
                raise RuntimeError(f"hidden{k} has inconsistent hidden_size: got {state.shape[-1]}, expected {width}")
        if hx is not None:
            hx = hx.unsqueeze(0) if single else tuple(state.unsqueeze(0) for state in hx)
        _, states = self._run(input.unsqueeze(0), hx, None, None)
        return states.squeeze(0) if single else tuple(state.squeeze(0) for state in states)


class LSTMCell(RecurrentCell):
    """One step of an LSTM: torch.nn.LSTMCell, with the options of LSTM that make sense for one step."""

    title = "LSTMCell"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        proj_size: int = 0,
        **options: Unpack[LSTMOptions],
    ) -> None:
        super().__init__(
            Spec.of("lstm", input_size, hidden_size, bias=bool(bias), proj_size=proj_size, **options), device, dtype
        )


class GRUCell(RecurrentCell):
    """One step of a GRU: torch.nn.GRUCell, with the options of GRU that make sense for one step."""

    title = "GRUCell"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        **options: Unpack[GRUOptions],
    ) -> None:
        super().__init__(Spec.of("gru", input_size, hidden_size, bias=bool(bias), **options), device, dtype)


class RNNCell(RecurrentCell):
    """One step of a simple RNN: torch.nn.RNNCell, with the options of RNN that make sense for one step."""

    title = "RNNCell"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
        **options: Unpack[RNNOptions],
    ) -> None:
        spec = Spec.of("rnn", input_size, hidden_size, bias=bool(bias), nonlinearity=nonlinearity, **options)
        super().__init__(spec, device, dtype)


MODULES: dict[str, type[Recurrent]] = {"lstm": LSTM, "gru": GRU, "rnn": RNN}  # by the cell's name


def of(spec: Spec, device: Any = None, dtype: Any = None) -> Recurrent:
    """The module of a spec.

    >>> of(Spec.parse("gru(3, 4, 5; bidirectional)"))
    GRU(3, 4, 5; bidirectional)
    """
    kind = MODULES.get(spec.cell, Recurrent)
    if spec.definition.own and spec.definition is not getattr(kind, "definition", None):
        kind = Recurrent  # another declaration of that name followed
    module = kind.__new__(kind)
    Recurrent.__init__(module, spec, device, dtype)
    return module
