"""openlstm opens the LSTM: every form of it, its equations readable, fast, and visible inside.

The names below are loaded on first use, so that this import, and what needs no torch, does not load torch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import convert as convert
    from . import draw as draw
    from . import train as train
    from . import zoo as zoo
    from .backends import backend as backend
    from .backends import explain as explain
    from .cells import Option as Option
    from .compiled import use_compiler as use_compiler
    from .declare import cell as cell
    from .description import describe as describe
    from .models import accelerate as accelerate
    from .models import load as load
    from .models import save as save
    from .models import trace as trace
    from .nn import GRU as GRU
    from .nn import LSTM as LSTM
    from .nn import RNN as RNN
    from .nn import GRUCell as GRUCell
    from .nn import LSTMCell as LSTMCell
    from .nn import RNNCell as RNNCell
    from .spec import Spec as Spec
    from .stream import Stream as Stream

__version__ = version("openlstm")

_HOME = {
    **dict.fromkeys(("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"), "nn"),
    **dict.fromkeys(("accelerate", "trace", "load", "save"), "models"),
    **dict.fromkeys(("backend", "explain"), "backends"),
    "Option": "cells",
    "cell": "declare",
    "use_compiler": "compiled",
    "describe": "description",
    "Spec": "spec",
    "Stream": "stream",
}
_MODULES = ("convert", "draw", "train", "zoo")  # that are used by their name
__all__ = sorted((*_HOME, *_MODULES))


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module("." + name, __name__)
    if name not in _HOME:
        raise AttributeError(f"module 'openlstm' has no attribute '{name}'")
    try:
        value = getattr(import_module("." + _HOME[name], __name__), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError(f"openlstm.{name} needs torch: install it with pip install 'openlstm[torch]'") from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_MODULES})
