"""THE EQUATIONS of every cell, written once.

At each step a cell is a function `cell(z, s, w, m, o)` that returns every value worth a name:

    z  pre-activations by name, W x + R h + b, made by `from_input` and `from_state`      (B, H) each
    s  the states of the step before: h (what the cell gave), c (its memory); `h_seen` is h as the
       recurrent weights see it, which differs from h only under recurrent dropout
    w  the cell's own arrays: peepholes, gains of a norm, the mask that drops the candidate
    m  the arithmetic: torch, numpy or symbols. Only + - * / and the functions of `Numpy` below are used
    o  the options, as a Spec gives them

The rest of the project is derived from these functions: the reference that autograd differentiates, the names in a
trace, the LaTeX, the diagrams. No other file contains a cell's arithmetic; which cells exist, `CELLS` tells.
Gates stand in PyTorch's order: i, f, g, o for the LSTM and r, u, n for the GRU (whose u PyTorch writes z, a letter
that here means a pre-activation).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = Any  # of torch, of numpy, or a symbol
Arrays = Mapping[str, Array]
Options = Any  # a Spec, or anything else with the options as attributes
NORM_EPSILON = 1e-5  # torch.nn.LayerNorm's default, and haste's


def lstm(z: Arrays, s: Arrays, w: Arrays, m: Any, o: Options) -> dict[str, Array]:
    """Hochreiter and Schmidhuber 1997 with the forget gate of Gers, Schmidhuber and Cummins 2000.

    Diagonal peepholes: Gers and Schmidhuber 2000; Sak, Senior and Beaufays 2014, eq. 1 to 5. Coupled gates: Greff et
    al. 2017 (f = 1 - i) and TensorFlow (i = 1 - f). Layer norm: Ba, Kiros and Hinton 2016, supplement.
    """
    sigma, act_g, act_h = (activation(m, name) for name in o.activations)

    def see(gate: str, c: Array = None) -> Array:  # the pre-activation with what the gate sees of the memory
        a = z[gate] + w["p_" + gate] * c if o.peephole == "diagonal" and c is not None else z[gate]
        return bounded(a, m, o)

    c = s["c"]
    if o.coupled != "i=1-f":
        i = sigma(see("i", c))
    if o.coupled != "f=1-i":
        f = sigma(see("f", c))
    if o.coupled == "f=1-i":
        f = 1 - i
    if o.coupled == "i=1-f":
        i = 1 - f
    g = act_g(see("g"))
    if "keep" in w:
        g = g * w["keep"]
    c = f * c + i * g
    if o.cell_clip:
        c = m.clip(c, -o.cell_clip, o.cell_clip)
    o_gate = sigma(see("o", c))
    h = o_gate * act_h(m.layer_norm(c) * w["gain_c"] + w["bias_c"] if o.layer_norm else c)
    return {"i": i, "f": f, "g": g, "c": c, "o": o_gate, "h": h}


def gru(z: Arrays, s: Arrays, w: Arrays, m: Any, o: Options) -> dict[str, Array]:
    """Cho et al. 2014. The reset gate acts before the recurrent weights there, and after them in cuDNN and PyTorch."""
    sigma, act_n = (activation(m, name) for name in o.activations)
    r = sigma(bounded(z["r"], m, o))
    u = sigma(bounded(z["u"], m, o))
    after = o.reset == "after"
    seen = r * z["nh"] if after else m.linear(r * s["h_seen"], w["R_n"], w.get("b_n"))
    n = act_n(bounded(z["n"] + seen, m, o))
    if "keep" in w:
        n = n * w["keep"]
    h = (1 - u) * n + u * s["h"]
    return {"r": r, "u": u, "n": n, "h": h}


def rnn(z: Arrays, s: Arrays, w: Arrays, m: Any, o: Options) -> dict[str, Array]:
    """Elman 1990."""
    h = activation(m, o.nonlinearity)(bounded(z["h"], m, o))
    return {"h": h}


def bounded(a: Array, m: Any, o: Options) -> Array:
    """What an activation is given: ONNX Runtime's clip bounds it after bias and peephole."""
    return m.clip(a, -o.preactivation_clip, o.preactivation_clip) if o.preactivation_clip else a


def from_input(x: Array, weight: Array, bias: Array | None, gain: Array | None, m: Any) -> Array:
    """W x + b_ih of all gates, for all steps at once: (T, B, I) to (T, B, G*H). With layer norm LN(W x) * gain + b."""
    if gain is None:
        return m.linear(x, weight, bias)
    z = m.layer_norm(m.linear(x, weight, None)) * gain
    return z if bias is None else z + bias


def from_state(h: Array, weight: Array, bias: Array | None, gain: Array | None, m: Any) -> Array:
    """R h + b_hh of all gates, for one step: (B, P) to (B, G*H). The same form as from the input."""
    return from_input(h, weight, bias, gain, m)


def from_memory(c: Array, weight: Array, m: Any) -> Array:
    """P c of all gates, for one step: (B, H) to (B, G*H). With a dense peephole x, h and c go through every gate."""
    return m.linear(c, weight, None)


def project(h: Array, weights: Arrays, clip: float, m: Any) -> tuple[Array, Array | None]:
    """r = W_hr h, which recurs, and p = W_hp h, which only goes out: Sak, Senior and Beaufays 2014, eq. 12 and 13.

    Kaldi and TFLite add biases. The clip is TensorFlow's proj_clip: on r, which is fed back clipped.
    """
    r = m.linear(h, weights["weight_hr"], weights.get("bias_hr"))
    if clip:
        r = m.clip(r, -clip, clip)
    return r, m.linear(h, weights["weight_hp"], weights.get("bias_hp")) if "weight_hp" in weights else None


def zoneout(new: Array, old: Array, keep: Array | float) -> Array:
    """A part of the units keeps its old state: Krueger et al. 2016. `keep` is a 0/1 mask, or its expectation."""
    return keep * old + (1 - keep) * new


@dataclass(frozen=True)
class Option:
    """What one option of a cell may be: `choices`, or a number of at least 0, or (`many`) that many activations.

    One activation is a text, more are a tuple.
    """

    default: Any
    choices: tuple[Any, ...] = ()
    many: int = 0
    help: str = ""  # what it is, for people


@dataclass(frozen=True)
class Cell:
    """A cell's equations and what cannot be read off them. The functions take the options."""

    equations: Callable[..., dict[str, Array]]
    gates: Callable[[Options], tuple[str, ...]]  # with a row block each in W, R and b
    states: tuple[str, ...] = ("h",)  # h, the output, comes first
    titles: Mapping[str, str] = field(default_factory=dict)  # what the field calls the values
    options: Mapping[str, Option] = field(default_factory=dict)
    vectors: Callable[[Options], dict[str, tuple[str, ...]]] = lambda o: {}  # parameter: the (H,) vectors stacked in it
    matrices: Callable[[Options], dict[str, tuple[str, ...]]] = lambda o: {}  # the same of (H, H), as w[...]
    alone: Callable[[Options], tuple[str, ...]] = lambda o: ()  # gates k without rows in R: z["k"] is W x + b
    apart: Callable[[Options], tuple[str, ...]] = lambda o: ()  # gates k whose R h + b comes apart, as z["kh"]
    inside: Callable[[Options], tuple[str, ...]] = lambda o: ()  # gates k that apply w["R_k"], w["b_k"] themselves
    dense: Callable[[Options], bool] = lambda o: False  # do all gates see all of the memory
    candidate: str = ""  # what recurrent_dropout_on="candidate" drops
    initial: Mapping[str, float] = field(default_factory=dict)  # state: its value before the first step, if not 0
    initial_bias: Callable[[Options], dict[str, float | None]] = lambda o: {}  # gate: the stored bias to begin with
    advised: Callable[[Options], dict[str, Any]] = lambda o: {}  # options that training is better with
    refuse: Callable[[Options], str | None] = lambda o: None  # why these options do not go together
    projects: bool = True  # does proj_size make sense
    # Of a cell that @openlstm.cell declared: what tells its equations from others, and what refuses options.
    digest: Callable[[Options], str] | None = None
    check: Callable[[Options], None] = lambda o: None

    @property
    def own(self) -> bool:
        """Was it declared by @openlstm.cell."""
        return self.digest is not None


def _lstm_refuses(o: Options) -> str | None:
    if o.coupled == "f=1-i" and o.forget_bias is not None:
        return "forget_bias needs a forget gate with weights of its own, but coupled='f=1-i' has none. Leave one out"
    return None


def _gru_refuses(o: Options) -> str | None:
    if o.layer_norm and o.reset == "before":
        return "layer_norm is not defined for reset='before': expected reset='after'"
    return None


_BOUNDED = "Bound of what the activations are given; 0: none."
_LSTM_GATES = {None: ("i", "f", "g", "o"), "f=1-i": ("i", "g", "o"), "i=1-f": ("f", "g", "o")}

CELLS: dict[str, Cell] = {
    "lstm": Cell(
        equations=lstm,
        states=("h", "c"),
        titles={
            "i": "input gate",
            "f": "forget gate",
            "g": "candidate",
            "c": "memory cell",
            "o": "output gate",
            "h": "hidden state",
        },
        gates=lambda o: _LSTM_GATES[o.coupled],
        options={
            "peephole": Option(
                None, (None, "diagonal", "dense"), help="Gates see the memory: that of their unit, or all."
            ),
            "coupled": Option(None, (None, "f=1-i", "i=1-f"), help="Input and forget gate are one."),
            "activations": Option(
                ("sigmoid", "tanh", "tanh"), many=3, help="Functions of the gates, the candidate and the output."
            ),
            "cell_clip": Option(0.0, help="Bound of the memory; 0: none."),
            "preactivation_clip": Option(0.0, help=_BOUNDED),
            "forget_bias": Option(None, help="Bias of the forget gate, to begin with."),
        },
        vectors=lambda o: {
            **(
                {"weight_ch": tuple("p_" + k for k in _LSTM_GATES[o.coupled] if k != "g")}
                if o.peephole == "diagonal"
                else {}
            ),
            **({"norm_c": ("gain_c",), "norm_c_bias": ("bias_c",)} if o.layer_norm else {}),
        },
        dense=lambda o: o.peephole == "dense",
        candidate="g",
        initial_bias=lambda o: {"f": o.forget_bias},
        # Jozefowicz, Zaremba and Sutskever 2015: a gate that is open at first lets gradients through.
        advised=lambda o: {"forget_bias": 1.0} if "f" in _LSTM_GATES[o.coupled] else {},
        refuse=_lstm_refuses,
    ),
    "gru": Cell(
        equations=gru,
        gates=lambda o: ("r", "u", "n"),
        titles={"r": "reset gate", "u": "update gate", "n": "candidate", "h": "hidden state"},
        options={
            "reset": Option(
                "after", ("after", "before"), help="The reset gate acts after or before the recurrent weights."
            ),
            "activations": Option(("sigmoid", "tanh"), many=2, help="Functions of the gates and the candidate."),
            "preactivation_clip": Option(0.0, help=_BOUNDED),
        },
        apart=lambda o: ("n",) if o.reset == "after" else (),
        inside=lambda o: ("n",) if o.reset == "before" else (),
        candidate="n",
        refuse=_gru_refuses,
        projects=False,
    ),
    "rnn": Cell(
        equations=rnn,
        gates=lambda o: ("h",),
        titles={"h": "hidden state"},
        options={
            "nonlinearity": Option("tanh", many=1, help="Function of the state."),
            "preactivation_clip": Option(0.0, help=_BOUNDED),
        },
    ),
}

BUILT_IN = tuple(CELLS)  # what the command line offers: others are there once their module is imported
OLDER: dict[str, list[Cell]] = {}  # declarations that another of the same name followed: their modules go on with them

# ONNX's activation functions under its names in lower case, with its defaults of alpha and beta. What a function of
# this table is written in, an arithmetic must have.
ACTIVATIONS: dict[str, tuple[Callable[..., Array], tuple[float, ...]]] = {
    "sigmoid": (lambda m, x: m.sigmoid(x), ()),
    "tanh": (lambda m, x: m.tanh(x), ()),
    "relu": (lambda m, x: m.relu(x), ()),
    "linear": (lambda m, x: x, ()),
    "affine": (lambda m, x, alpha, beta: alpha * x + beta, (1.0, 0.0)),
    "leaky_relu": (lambda m, x, alpha: m.relu(x) + alpha * m.negative(x), (0.01,)),
    "thresholded_relu": (lambda m, x, alpha: x * m.step(x - alpha), (1.0,)),
    "scaled_tanh": (lambda m, x, alpha, beta: alpha * m.tanh(beta * x), (1.0, 1.0)),
    "hard_sigmoid": (lambda m, x, alpha, beta: m.clip(alpha * x + beta, 0, 1), (0.2, 0.5)),
    "elu": (lambda m, x, alpha: m.relu(x) + alpha * m.expm1(m.negative(x)), (1.0,)),
    "softsign": (lambda m, x: x / (1 + m.abs(x)), ()),
    "softplus": (lambda m, x: m.softplus(x), ()),
}


def activation(m: Any, name: str) -> Callable[[Array], Array]:
    """The function that a name stands for: "tanh", or with its constants "leaky_relu:0.2", "hard_sigmoid:0.25:0.5".

    >>> activation(Numpy, "leaky_relu:0.5")(np.array([-2.0, 2.0]))
    array([-1.,  2.])
    """
    word, *given = name.split(":")
    function, constants = ACTIVATIONS[word]
    constants = tuple(float(text) for text in given) + constants[len(given) :]
    return lambda x: function(m, x, *constants)


class Numpy:
    """The arithmetic of numpy, which is also the list of what an arithmetic must have."""

    tanh = staticmethod(np.tanh)
    exp = staticmethod(np.exp)
    expm1 = staticmethod(np.expm1)
    log = staticmethod(np.log)
    maximum = staticmethod(np.maximum)
    minimum = staticmethod(np.minimum)
    abs = staticmethod(np.abs)
    clip = staticmethod(np.clip)

    @staticmethod
    def sigmoid(x: Array) -> Array:
        """1 / (1 + exp(-x)), without overflow, to full relative precision."""
        return np.exp(-np.logaddexp(0, -x))

    @staticmethod
    def relu(x: Array) -> Array:
        """The larger of x and 0."""
        return np.maximum(x, 0)

    @staticmethod
    def negative(x: Array) -> Array:
        """The smaller of x and 0. Its slope at 0 is 1, and that of `relu` is 0, so that of their sum is 1."""
        return np.minimum(x, 0)

    @staticmethod
    def step(x: Array) -> Array:
        """1 where x > 0, else 0."""
        return (x > 0) * np.ones_like(x)

    @staticmethod
    def softplus(x: Array) -> Array:
        """log(1 + exp(x)), without overflow."""
        return np.logaddexp(0, x)

    @staticmethod
    def linear(x: Array, weight: Array, bias: Array | None) -> Array:
        """x W' + b: (..., I), (O, I) and (O,) to (..., O)."""
        return x @ weight.T if bias is None else x @ weight.T + bias

    @staticmethod
    def layer_norm(x: Array) -> Array:
        """(x - mean) / sqrt(variance + epsilon) over the last dimension."""
        d = x - x.mean(-1, keepdims=True)
        return d / np.sqrt((d * d).mean(-1, keepdims=True) + NORM_EPSILON)

    @staticmethod
    def join(r: Array, p: Array) -> Array:
        """[r; p]: side by side along the last dimension."""
        return np.concatenate((r, p), -1)
