"""What is done with modules from outside: swap them inside a model, trace a run, write them to a file and read them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from . import file
from .arguments import Keep, State
from .nn import MODULES, Recurrent, RecurrentCell, of
from .spec import Spec
from .tracing import Some, Trace, all_names, chosen

TORCH_LAYERS: dict[type[nn.Module], str] = {nn.LSTM: "lstm", nn.GRU: "gru", nn.RNN: "rnn"}  # the cell of each
_SHARED = ("bias", "batch_first", "dropout", "bidirectional")  # attributes that all three have, and a Spec too


def spec_of(module: nn.Module) -> Spec | None:
    """The spec of a module of openlstm, or of a torch.nn.LSTM, GRU or RNN; None for any other."""
    if isinstance(module, Recurrent):
        return module.spec
    for kind, cell in TORCH_LAYERS.items():
        if isinstance(module, kind):
            layer: Any = module
            names = [*_SHARED, "proj_size", *(["nonlinearity"] if cell == "rnn" else [])]
            options = {name: getattr(layer, name) for name in names}
            return Spec.of(cell, layer.input_size, layer.hidden_size, layer.num_layers, **options)
    return None


def accelerate(model: nn.Module, undo: bool = False) -> nn.Module:
    """Swaps every torch.nn.LSTM, GRU and RNN inside a model, in place, for openlstm's; `undo=True` swaps them back.

    Parameters stay the same objects, so optimizers, shared weights and state_dicts go on working; so do buffers, hooks,
    attributes and the training mode. A model that is itself such a layer cannot be changed in place: use what is
    returned, which else is the model. What may compute something else, a subclass of torch's layers or a layer with a
    forward of its own, is left as it is, with a warning. torch.jit.script and torch.fx take torch's layers only.
    Errors: ValueError where one layer cannot be swapped, before any is.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.LSTM(3, 4))
    >>> accelerate(model)[1]
    LSTM(3, 4)
    >>> accelerate(model, undo=True)[1]
    LSTM(3, 4)
    """
    others: dict[nn.Module, nn.Module] = {}
    for name, module in model.named_modules():
        if isinstance(module, tuple(TORCH_LAYERS)) if not undo else "_accelerated" in vars(module):
            where = f"'{name}'" if name else "the model"
            if type(module) not in (MODULES.values() if undo else TORCH_LAYERS) or "forward" in vars(module):
                warnings.warn(
                    f"{where} is a {type(module).__name__}, whose forward may be another than that of the plain layer: "
                    "it is left as it is",
                    stacklevel=2,
                )
                continue
            try:
                others[module] = convert(module, undo)
            except (ValueError, TypeError) as error:
                raise ValueError(f"{where} cannot be swapped: {error}") from None
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child in others:
                parent._modules[name] = others[child]
    return others.get(model, model)


def convert(module: nn.Module, undo: bool = False) -> Any:
    """The same layer as a module of openlstm, or of torch.nn, with the same parameters, hooks, attributes and mode.

    Errors: ValueError where torch.nn does not have what its options say.
    """
    spec = spec_of(module)
    assert spec is not None
    unknown = f"torch.nn has no {spec}. Set what it does not have back first"
    if spec.cell == "rnn" and spec.nonlinearity not in ("tanh", "relu"):
        raise ValueError(unknown)
    with warnings.catch_warnings():  # about dropout on one layer: it was said when the module was made
        warnings.simplefilter("ignore")
        ours = of(spec, device="meta")
        names = [*_SHARED, *(["proj_size"] if spec.cell == "lstm" else ["nonlinearity"] if spec.cell == "rnn" else [])]
        kind = next(kind for kind, cell in TORCH_LAYERS.items() if cell == spec.cell)
        options = {name: getattr(spec, name) for name in names}
        torchs: Any = kind(spec.input_size, spec.hidden_size[0], spec.num_layers, **options, device="meta")
    if spec_of(torchs) != spec:
        raise ValueError(unknown)
    one, other = (ours, torchs) if undo else (torchs, ours)
    # Its own are what makes it this kind of layer. All else goes over, the dictionaries of parameters and hooks too.
    own = vars(one).keys() - vars(nn.Module()).keys() | {"_accelerated"}
    other.__dict__.update({name: value for name, value in vars(module).items() if name not in own})
    if undo:
        torchs._init_flat_weights()
    else:
        ours.__dict__["_accelerated"] = True
    return other


def trace(
    module: nn.Module,
    input: Tensor | PackedSequence | None = None,
    hx: State = None,
    *,
    lengths: Tensor | Sequence[int] | None = None,
    reset: Tensor | None = None,
    names: str | Iterable[str] | None = None,
    layers: Some = None,
    steps: Some = None,
    sequences: Some = None,
    units: Some = None,
    gradients: bool = False,
) -> Any:
    """Every pre-activation, gate, memory and output of a run, by name: a `Trace` of a layer's run on an input.

    The values are the ones that this run computed with, also in training, where masks are drawn. The module is a layer
    of openlstm or a torch.nn.LSTM, GRU or RNN; input, hx, lengths and reset are those of its forward.

    Without an input: a context for any model that has openlstm's layers or cells inside. What they compute while it is
    open is traced, whoever calls them: `with openlstm.trace(model) as run: model(x)`, then run["encoder"] is the trace
    of the last run of the layer of that name, and run.traces has all. With `gradients=True` traces also have the
    derivatives of the loss by every value, once backward has run.

    names, layers, steps, sequences, units: what to keep, as `Trace.select` takes it, so that memory is bounded.
    Errors: TypeError, ValueError, KeyError, IndexError.

    >>> t = trace(nn.LSTM(3, 4), torch.zeros(7, 2, 3))
    >>> list(t)
    ['z_i_l0', 'z_f_l0', 'z_g_l0', 'z_o_l0', 'i_l0', 'f_l0', 'g_l0', 'c_l0', 'o_l0', 'h_l0']
    >>> t["c"].shape, t.dims
    ((7, 2, 4), ('time', 'batch', 'unit'))
    >>> model = accelerate(nn.Sequential(nn.Linear(3, 3), nn.LSTM(3, 4)))
    >>> with trace(model, names="c", gradients=True) as run:
    ...     model(torch.zeros(7, 2, 3))[0].sum().backward()
    >>> run["1"].gradients["c_l0"].shape
    (7, 2, 4)
    """
    given = {"names": names, "layers": layers, "steps": steps, "sequences": sequences, "units": units}
    # What can be read once only is read for every layer and run.
    options = {what: tuple(some) if isinstance(some, Iterator) else some for what, some in given.items()}
    if input is None:
        if hx is not None or lengths is not None or reset is not None:
            raise TypeError("trace has hx, lengths or reset, but no input: give it, or none of them for a context")
        return Watch(module, options, gradients)
    if gradients:
        raise ValueError("gradients=True needs a loss: open a context, `with openlstm.trace(model, gradients=True)`")
    layer: Any = module
    if not isinstance(module, Recurrent) or isinstance(module, RecurrentCell):
        if type(module) not in TORCH_LAYERS:
            raise TypeError(
                f"trace takes a recurrent layer of openlstm or torch.nn, got {type(module).__name__}. "
                "Give one that is inside this model, or leave out the input and open a context: "
                "`with openlstm.trace(model) as run`"
            )
        layer = convert(module)
    with torch.no_grad(), Watch(layer, options, False) as run:
        layer(input, hx, lengths=lengths, reset=reset)
    return run[""]


class Watch:
    """The context that `trace` opens. `traces`: by the name of a layer in the model, one for each of its runs."""

    def __init__(self, model: nn.Module, options: Mapping[str, Any], gradients: bool) -> None:
        self._layers = {name: module for name, module in model.named_modules() if isinstance(module, Recurrent)}
        self._names = {module: name for name, module in self._layers.items()}
        self._options, self._gradients = options, gradients
        self._runs: dict[str, list[tuple[Trace, Keep, Tensor | None]]] = {name: [] for name in self._layers}
        if not self._layers:
            others = any(isinstance(module, tuple(TORCH_LAYERS)) for module in model.modules())
            more = ": call openlstm.accelerate(model) first, which swaps torch's" if others else ""
            raise TypeError(f"{type(model).__name__} has no recurrent layer of openlstm{more}")
        self._kept: dict[Spec, frozenset[str] | None] = {}
        for module in self._layers.values():
            self.keep(module.spec)  # what is wrong is said now

    def __enter__(self) -> Watch:
        for name, module in self._layers.items():
            if "_watch" in vars(module):
                raise RuntimeError(f"'{name}' is traced already: leave that context first")
        for module in self._layers.values():
            module.__dict__["_watch"] = self
        return self

    def __exit__(self, *error: object) -> None:
        for module in self._layers.values():
            module.__dict__.pop("_watch", None)

    def __getitem__(self, name: str) -> Trace:
        """The trace of the last run of the layer of that name; "" is a model that is itself one."""
        if name not in self._layers:
            raise KeyError(f"no layer '{name}' in this model: expected one of {', '.join(map(repr, self._layers))}")
        if not self._runs[name]:
            raise KeyError(f"the layer '{name}' has not run while it was traced")
        return self._trace(*self._runs[name][-1])

    @property
    def traces(self) -> dict[str, list[Trace]]:
        """The traces of all runs."""
        return {name: [self._trace(*run) for run in runs] for name, runs in self._runs.items()}

    def _trace(self, trace: Trace, keep: Keep, order: Tensor | None) -> Trace:
        if not keep.slopes:
            return trace
        slopes = {name: _numpy(keep.slopes[name], order) for name in trace.arrays}
        return replace(trace, gradients={name: trace.part(slope) for name, slope in slopes.items()})

    # What the layers call.

    def keep(self, spec: Spec) -> Keep:
        """What a run of this spec shall keep."""
        if spec not in self._kept:
            asked = self._options["names"], self._options["layers"]
            every = asked == (None, None)
            self._kept[spec] = None if every else frozenset(chosen(spec, all_names(spec), *asked))
        return Keep(self._kept[spec], self._gradients)

    def take(
        self,
        module: Recurrent,
        x: Tensor,
        initial: Mapping[str, Tensor],
        keep: Keep,
        output: Tensor,
        packed: PackedSequence | None,
    ) -> None:
        """Puts down what a run has kept."""
        # A PackedSequence is computed longest first; here its sequences stand as they were packed.
        order = None if packed is None else packed.unsorted_indices
        trace = Trace(
            module.spec,
            _numpy(x, order).copy(),  # whoever called may write there again
            {name: _numpy(state, order, 0).copy() for name, state in initial.items()},
            {name: _numpy(keep.values[name], order) for name in all_names(module.spec) if name in keep.values},
            _numpy(output, order).copy(),
        )
        some = {what: self._options[what] for what in ("steps", "sequences", "units")}
        if any(choice is not None for choice in some.values()):
            trace = trace.select(**some)
        for array in trace.arrays.values():
            array.flags.writeable = False  # backward may still read it
        self._runs[self._names[module]].append((trace, keep if self._gradients else Keep(), order))


def _numpy(tensor: Tensor, order: Tensor | None = None, batch_dim: int = 1) -> Any:
    """As an array on the CPU, of a type that numpy has, with the sequences in another order."""
    tensor = tensor.detach() if order is None else tensor.detach().index_select(batch_dim, order)
    tensor = tensor.cpu()
    return (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).numpy()


def save(module: Recurrent, path: str | os.PathLike[str]) -> None:
    """Writes a module to one safetensors file with its spec inside, whole or not at all.

    Errors: TypeError for what is no layer of openlstm, ValueError for one whose parameters are not those of its spec.
    """
    if not isinstance(module, Recurrent) or isinstance(module, RecurrentCell):
        kind = type(module)
        own = ": it has a method save of its own" if hasattr(kind, "save") else ""
        raise TypeError(f"save takes a recurrent layer of openlstm, got {kind.__module__}.{kind.__qualname__}{own}")
    state = module.state_dict()
    if state.keys() != module.spec.parameters.keys():
        more = ", ".join(sorted(state.keys() ^ module.spec.parameters.keys()))
        raise ValueError(
            f"save writes the parameters of {module.spec} alone, but this module differs in {more}. Remove what "
            "computes its parameters first (torch.nn.utils.parametrize.remove_parametrizations and the like), or write "
            "its state_dict by hand"
        )
    file.write(path, state, {"spec": module.spec.key})


def load(path: str | os.PathLike[str], device: Any = "cpu") -> Recurrent:
    """The module that `save` wrote. Nothing in the file is executed. Errors: FileNotFoundError, ValueError."""
    tensors, metadata = file.read(path, "torch")
    if "task" in metadata:
        raise ValueError(
            f"'{path}' is a trained model, not layers alone: openlstm.train.load reads it, with its layers as parts"
        )
    spec = file.read_spec(path, metadata)
    file.match(path, spec, tensors)
    module = of(spec, device="meta")
    module.load_state_dict(tensors, assign=True)
    return module.to(device)
