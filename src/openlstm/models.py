"""What is done with modules from outside: swap them inside a model, trace a run, write them to a file and read them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from . import file
from .arguments import State
from .nn import MODULES, Recurrent, RecurrentCell, of
from .spec import Spec
from .tracing import Trace

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
    with warnings.catch_warnings():  # about dropout on one layer: it was said when the module was made
        warnings.simplefilter("ignore")
        ours = of(spec, device="meta")
        names = [*_SHARED, *(["proj_size"] if spec.cell == "lstm" else ["nonlinearity"] if spec.cell == "rnn" else [])]
        kind = next(kind for kind, cell in TORCH_LAYERS.items() if cell == spec.cell)
        options = {name: getattr(spec, name) for name in names}
        torchs: Any = kind(spec.input_size, spec.hidden_size[0], spec.num_layers, **options, device="meta")
    if spec_of(torchs) != spec:
        raise ValueError(f"torch.nn has no {spec}. Set what it does not have back first")
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
    input: Tensor | PackedSequence,
    hx: State = None,
    *,
    lengths: Tensor | Sequence[int] | None = None,
    reset: Tensor | None = None,
) -> Trace:
    """Every pre-activation, gate, memory and output of one run, by name.

    The values are the ones that this run computed with, also in training, where masks are drawn. Arguments are those of
    the module's forward; the module is one of openlstm or a torch.nn.LSTM, GRU or RNN.

    >>> t = trace(nn.LSTM(3, 4), torch.zeros(7, 2, 3))
    >>> list(t)
    ['z_i_l0', 'z_f_l0', 'z_g_l0', 'z_o_l0', 'i_l0', 'f_l0', 'g_l0', 'c_l0', 'o_l0', 'h_l0']
    >>> t["c"].shape, t.dims
    ((7, 2, 4), ('time', 'batch', 'unit'))
    """
    layer: Any = module
    if not isinstance(module, Recurrent) or isinstance(module, RecurrentCell):
        if type(module) not in TORCH_LAYERS:
            raise TypeError(
                f"trace takes a recurrent layer of openlstm or torch.nn, got {type(module).__name__}. "
                "Give one that is inside this model, and whole layers instead of cells"
            )
        layer = convert(module)
    record: dict[str, Any] = {}
    with torch.no_grad():
        layer(input, hx, lengths=lengths, reset=reset, _record=record)
    # A PackedSequence is computed longest first; here its sequences stand as they were packed.
    order = input.unsorted_indices if isinstance(input, PackedSequence) else None

    def array(tensor: Tensor, batch_dim: int = 1) -> Any:
        return _numpy(tensor if order is None else tensor.index_select(batch_dim, order))

    return Trace(
        layer.spec,
        array(record["x"]),
        {name: array(state, 0) for name, state in record["initial"].items()},
        {name: array(tensor) for name, tensor in record["values"].items()},
        array(record["output"]),
    )


def _numpy(tensor: Tensor) -> Any:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).numpy().copy()


def save(module: Recurrent, path: str | os.PathLike[str]) -> None:
    """Writes a module to one safetensors file with its spec inside, whole or not at all.

    Errors: TypeError for what is no layer of openlstm, ValueError for one whose parameters are not those of its spec.
    """
    if not isinstance(module, Recurrent) or isinstance(module, RecurrentCell):
        raise TypeError(f"save takes an LSTM, GRU or RNN of openlstm, got {type(module).__name__}")
    state = module.state_dict()
    if state.keys() != module.spec.parameters.keys():
        more = ", ".join(sorted(state.keys() ^ module.spec.parameters.keys()))
        raise ValueError(
            f"save writes the parameters of {module.spec} alone, but this module differs in {more}. Remove what "
            "computes its parameters first (torch.nn.utils.parametrize.remove_parametrizations and the like), or write "
            "its state_dict by hand"
        )
    file.write(path, state, {"spec": str(module.spec)})


def load(path: str | os.PathLike[str], device: Any = "cpu") -> Recurrent:
    """The module that `save` wrote. Nothing in the file is executed. Errors: FileNotFoundError, ValueError."""
    tensors, metadata = file.read(path, "torch")
    spec = file.read_spec(path, metadata)
    file.match(path, spec, tensors)
    module = of(spec, device="meta")
    module.load_state_dict(tensors, assign=True)
    return module.to(device)
