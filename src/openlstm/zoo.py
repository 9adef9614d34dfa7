"""Published cells beside LSTM, GRU and RNN, each written by `openlstm.cell` alone, with its source."""

from __future__ import annotations

from typing import Any

from .cells import CELLS, Option, activation
from .declare import cell

# The eight variants of Greff, Srivastava, Koutnik, Steunebrink and Schmidhuber 2017, "LSTM: A Search Space Odyssey",
# section 3. Each is the LSTM with peepholes with one thing changed.
_TITLES = CELLS["lstm"].titles


def _vanilla(z: Any, s: Any, w: Any, m: Any, without: str = "") -> dict[str, Any]:
    """The LSTM with peepholes, section 2, but for one gate, which is 1, or one activation, which is left out."""
    i = 1.0 if without == "i" else m.sigmoid(z["i"] + w["p_i"] * s["c"])
    f = 1.0 if without == "f" else m.sigmoid(z["f"] + w["p_f"] * s["c"])
    g = z["g"] if without == "input activation" else m.tanh(z["g"])
    c = g * i + s["c"] * f
    o = 1.0 if without == "o" else m.sigmoid(z["o"] + w["p_o"] * c)
    h = (c if without == "output activation" else m.tanh(c)) * o
    values = {"i": i, "f": f, "g": g, "c": c, "o": o, "h": h}
    return {name: value for name, value in values.items() if name != without}


def _peepholes(*gates: str) -> dict[str, Any]:
    """The declaration of a variant with these gates and the candidate."""
    order = [gate for gate in "ifgo" if gate in (*gates, "g")]
    return {
        "gates": order,
        "states": ("h", "c"),
        "vectors": {"weight_ch": [f"p_{gate}" for gate in gates]},
        "titles": {name: title for name, title in _TITLES.items() if name in (*order, "c", "h")},
    }


@cell(**_peepholes("f", "o"))
def NIG(z: Any, s: Any, w: Any, m: Any, o: Any) -> dict[str, Any]:
    """No input gate: i = 1."""
    return _vanilla(z, s, w, m, without="i")


@cell(**_peepholes("i", "o"))
def NFG(z: Any, s: Any, w: Any, m: Any, o: Any) -> dict[str, Any]:
    """No forget gate: f = 1. The LSTM of Hochreiter and Schmidhuber 1997, with peepholes."""
    return _vanilla(z, s, w, m, without="f")


@cell(**_peepholes("i", "f"))
def NOG(z: Any, s: Any, w: Any, m: Any, o: Any) -> dict[str, Any]:
    """No output gate: o = 1."""
    return _vanilla(z, s, w, m, without="o")


@cell(**_peepholes("i", "f", "o"))
def NIAF(z: Any, s: Any, w: Any, m: Any, o: Any) -> dict[str, Any]:
    """No input activation function: the candidate is linear."""
    return _vanilla(z, s, w, m, without="input activation")


@cell(**_peepholes("i", "f", "o"))
def NOAF(z: Any, s: Any, w: Any, m: Any, o: Any) -> dict[str, Any]:
    """No output activation function: h = c o."""
    return _vanilla(z, s, w, m, without="output activation")


@cell(**_peepholes("i", "o"))
def CIFG(z: Any, s: Any, w: Any, m: Any, o: Any) -> dict[str, Any]:
    """Coupled input and forget gate: f = 1 - i."""
    i = m.sigmoid(z["i"] + w["p_i"] * s["c"])
    f = 1 - i
    g = m.tanh(z["g"])
    c = g * i + s["c"] * f
    o_gate = m.sigmoid(z["o"] + w["p_o"] * c)
    return {"i": i, "f": f, "g": g, "c": c, "o": o_gate, "h": m.tanh(c) * o_gate}


@cell(("i", "f", "g", "o"), ("h", "c"), titles=_TITLES)
def NP(z: Any, s: Any, w: Any, m: Any, o: Any) -> dict[str, Any]:
    """No peepholes."""
    i, f, o_gate = (m.sigmoid(z[gate]) for gate in "ifo")
    g = m.tanh(z["g"])
    c = g * i + s["c"] * f
    return {"i": i, "f": f, "g": g, "c": c, "o": o_gate, "h": m.tanh(c) * o_gate}


@cell(
    ("i", "f", "g", "o"),
    ("h", "c", "i", "f", "o"),
    vectors={"weight_ch": ("p_i", "p_f", "p_o")},
    matrices={"weight_gh": [f"R_{gate}{source}" for gate in "ifo" for source in "ifo"]},
    titles=_TITLES,
)
def FGR(z: Any, s: Any, w: Any, m: Any, o: Any) -> dict[str, Any]:
    """Full gate recurrence: each gate sees all gates of the step before, by nine matrices more."""

    def gate(name: str, c: Any) -> Any:
        seen = z[name] + w[f"p_{name}"] * c
        for source in "ifo":
            seen = seen + m.linear(s[source], w[f"R_{name}{source}"], None)
        return m.sigmoid(seen)

    i, f, g = gate("i", s["c"]), gate("f", s["c"]), m.tanh(z["g"])
    c = g * i + s["c"] * f
    o_gate = gate("o", c)
    return {"i": i, "f": f, "g": g, "c": c, "o": o_gate, "h": m.tanh(c) * o_gate}


@cell(
    ("f", "g"),
    ("h", "c"),
    options={"beta": Option(1.0, help="By how much less is written than would be kept.")},
    titles={"f": "forget gate", "g": "candidate", "c": "memory cell", "h": "hidden state"},
)
def JANET(z: Any, s: Any, w: Any, m: Any, o: Any) -> dict[str, Any]:
    """Van der Westhuizen and Lasenby 2018, "The unreasonable effectiveness of the forget gate", eq. 5; beta is 1."""
    f = m.sigmoid(z["f"])
    g = m.tanh(z["g"])
    c = f * s["c"] + (1 - m.sigmoid(z["f"] - o.beta)) * g
    return {"f": f, "g": g, "c": c, "h": c}


@cell(
    ("f", "n"),
    inside=("n",),
    titles={"f": "forget gate", "n": "candidate", "h": "hidden state"},
)
def MGU(z: Any, s: Any, w: Any, m: Any, o: Any) -> dict[str, Any]:
    """Zhou, Wu, Zhang and Zhou 2016, "Minimal gated unit for recurrent neural networks", eq. 7."""
    f = m.sigmoid(z["f"])
    n = m.tanh(z["n"] + m.linear(f * s["h_seen"], w["R_n"], w.get("b_n")))
    return {"f": f, "n": n, "h": (1 - f) * s["h"] + f * n}


@cell(
    ("h",),
    alone=("h",),
    vectors={"weight_u": ("u",)},
    options={"nonlinearity": Option("relu", many=1, help="Function of the state.")},
    titles={"h": "hidden state"},
)
def IndRNN(z: Any, s: Any, w: Any, m: Any, o: Any) -> dict[str, Any]:
    """Li, Li, Cook, Zhu and Gao 2018, "Independently recurrent neural network", eq. 3: each unit sees itself alone."""
    return {"h": activation(m, o.nonlinearity)(z["h"] + w["u"] * s["h"])}


@cell(
    ("i", "f", "g", "o"),
    ("h", "c", "n", "m"),
    initial={"m": -1e30},
    options={"forget_gate": Option("sigmoid", ("sigmoid", "exp"), help="Function of the forget gate.")},
    titles={
        "i": "input gate",
        "f": "forget gate",
        "g": "candidate",
        "o": "output gate",
        "c": "memory cell",
        "n": "normaliser",
        "m": "stabiliser",
        "h": "hidden state",
    },
)
def SLSTM(z: Any, s: Any, w: Any, m: Any, o: Any) -> dict[str, Any]:
    """Beck et al. 2024, "xLSTM", eq. 8 to 17, with one head: exponential gates, a normaliser and a stabiliser.

    The paper has two forget gates, the sigmoid and exp. The stabiliser begins so low that the first step takes z["i"]
    alone, as the authors' code does by a special case.
    """
    log_f = z["f"] if o.forget_gate == "exp" else -m.softplus(-z["f"])
    stabiliser = m.maximum(log_f + s["m"], z["i"])
    i = m.exp(z["i"] - stabiliser)
    f = m.exp(log_f + s["m"] - stabiliser)
    g = m.tanh(z["g"])
    o_gate = m.sigmoid(z["o"])
    c = f * s["c"] + i * g
    n = f * s["n"] + i
    return {"i": i, "f": f, "g": g, "o": o_gate, "c": c, "n": n, "m": stabiliser, "h": o_gate * c / n}


@cell(
    ("r", "u", "n"),
    apart=("n",),
    titles={"r": "reset gate", "u": "update gate", "n": "candidate", "h": "hidden state"},
    candidate="n",
)
def OwnGRU(z: Any, s: Any, w: Any, m: Any, o: Any) -> dict[str, Any]:
    """The GRU as torch.nn has it, which openlstm has too: here to compare the two."""
    r, u = m.sigmoid(z["r"]), m.sigmoid(z["u"])
    n = m.tanh(z["n"] + r * z["nh"])
    if "keep" in w:
        n = n * w["keep"]
    return {"r": r, "u": u, "n": n, "h": (1 - u) * n + u * s["h"]}
