"""Every cell and option once more, from the papers' formulas: one sequence, one step, one unit after the other.

In numpy and float64, with nothing of the library's own arithmetic or tables: `spec` is only read. It is slow and plain
on purpose. What each part stands on:

- LSTM, peepholes, projections: Sak, Senior and Beaufays 2014, eq. 1 to 6, 12 and 13; clips as TensorFlow's LSTMCell.
- GRU: Cho et al. 2014 (reset before); torch.nn.GRU's documentation (reset after).
- Layer norm: Ba, Kiros and Hinton 2016, eq. 20 to 22 of the supplement. Zoneout: Krueger et al. 2016, eq. 3 and 4.
- Activations: ONNX's operator LSTM and the functions of their names.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

# The order of the blocks in W, R and b. A peephole's vectors stand in the same order, without the candidate's.
GATES = {
    ("lstm", None): "ifgo",
    ("lstm", "f=1-i"): "igo",
    ("lstm", "i=1-f"): "fgo",
    ("gru", None): "run",
    ("rnn", None): "h",
}


def forward(spec, x, parameters, states, lengths=None, reset=None, masks=None):
    """Output (T, B, O), final states, and every named value of every step, NaN past an end."""
    time, batch, _ = x.shape
    masks = masks or {}
    ends = [time] * batch if lengths is None else [int(n) for n in lengths]
    begins = np.zeros((time, batch), bool) if reset is None else reset
    final, named = {}, {}
    for layer, size in enumerate(spec.hidden_size):
        outputs = []
        for suffix in (f"_l{layer}", f"_l{layer}_reverse") if spec.bidirectional else (f"_l{layer}",):
            p = own(parameters, suffix)
            width = (spec.proj_size or size) + spec.nonrecurrent_proj_size
            y = np.zeros((time, batch, width))
            for b in range(batch):
                initial = {name: values[b] for name, values in own(states, suffix).items()}
                state = initial
                # A sequence is cut at its resets, and every piece is run as if it were alone.
                cuts = [0, *(t for t in range(1, ends[b]) if begins[t, b]), ends[b]]
                pieces = [range(a, z) for a, z in itertools.pairwise(cuts)]
                if suffix.endswith("_reverse"):
                    pieces = [piece[::-1] for piece in pieces[::-1]]
                for piece in pieces:
                    state = initial
                    for t in piece:
                        mask = masks_of(spec, own(masks, suffix), t, b)
                        y[t, b], state, values = step(spec, size, p, x[t, b], state, mask)
                        for name, value in values.items():
                            shape = (time, batch, len(value))
                            named.setdefault(name + suffix, np.full(shape, np.nan))[t, b] = value
                for name, value in state.items():
                    final.setdefault(name + suffix, np.zeros((batch, len(value))))[b] = value
            outputs.append(y)
        y = np.concatenate(outputs, -1)
        if f"dropout_l{layer + 1}" in masks:
            y = y * masks[f"dropout_l{layer + 1}"]
        x = x + y if spec.residual and layer > 0 else y
    return x, final, named


def own(arrays, suffix):
    """Those of one layer and direction, without the ending of their names."""
    return {name[: -len(suffix)]: array for name, array in arrays.items() if name.endswith(suffix)}


def masks_of(spec, masks, t, b):
    """What one step of one sequence has of the masks. Zoneout has its expectation where there is none."""
    at = {"recurrent": lambda mask: mask[b], "weight": lambda mask: mask}
    here = {name: at.get(name, lambda mask: mask[t, b])(mask) for name, mask in masks.items() if name != "dropout"}
    for state in "hc":
        rate = getattr(spec, "zoneout_" + state)
        if rate and "zoneout_" + state not in here:
            here["zoneout_" + state] = rate
    return here


def step(spec, size, p, x, state, mask):
    """The output, the new state and all named values of one layer at one step."""
    gates = GATES[spec.cell, spec.coupled if spec.cell == "lstm" else None]
    W, R = p["weight_ih"], p["weight_hh"] * mask.get("weight", 1.0)
    b_ih, b_hh = p.get("bias_ih", np.zeros(len(W))), p.get("bias_hh", np.zeros(len(W)))
    h_old = state["h"]
    h_seen = h_old * mask.get("recurrent", 1.0)
    if spec.layer_norm:
        from_x = p["norm_ih"] * normalise(W @ x) + b_ih
        from_h = p["norm_hh"] * normalise(R @ h_seen) + b_hh
    else:
        from_x = W @ x + b_ih
        from_h = R @ h_seen + b_hh
    a = {k: from_x[n * size : (n + 1) * size] for n, k in enumerate(gates)}
    u = {k: from_h[n * size : (n + 1) * size] for n, k in enumerate(gates)}
    drop = mask.get("candidate", np.ones(size))

    if spec.cell == "lstm":
        z = {k: a[k] + u[k] for k in gates}
        if spec.peephole == "dense":
            for n, k in enumerate(gates):
                z[k] = z[k] + p["weight_ch"][n * size : (n + 1) * size] @ state["c"]
        values, new = lstm(spec, size, p, z, state["c"], drop)
    elif spec.cell == "gru":
        z, values, new = gru(spec, size, a, u, R, b_hh, h_old, h_seen, drop)
    else:
        z = {"h": a["h"] + u["h"]}
        limit = spec.preactivation_clip or math.inf
        values = {"h": np.array([function(spec.nonlinearity, min(max(v, -limit), limit)) for v in z["h"]])}
        new = {"h": values["h"]}

    recurs, extra = "h", np.zeros(0)
    if spec.proj_size:
        recurs = "r"
        m = new["h"]
        new["h"] = p["weight_hr"] @ m + (p["bias_hr"] if spec.proj_bias else 0)
        if spec.proj_clip:
            new["h"] = np.minimum(np.maximum(new["h"], -spec.proj_clip), spec.proj_clip)
        values["r"] = new["h"]
        if spec.nonrecurrent_proj_size:
            values["p"] = extra = p["weight_hp"] @ m + (p["bias_hp"] if spec.proj_bias else 0)
    for name, shown in (("h", recurs), ("c", "c")):
        if "zoneout_" + name in mask:
            d = mask["zoneout_" + name]
            values[shown + "_new"] = new[name]
            values[shown] = new[name] = d * state[name] + (1 - d) * new[name]
    return np.concatenate([new["h"], extra]), new, values | {"z_" + k: value for k, value in z.items()}


def lstm(spec, size, p, z, c_old, drop):
    """The block of an LSTM, unit by unit."""
    f_name, g_name, h_name = spec.activations
    order = [k for k in ("i", "f", "o") if k in z]
    limit = spec.preactivation_clip or math.inf
    c, values = np.zeros(size), {k: np.zeros(size) for k in "ifgo"}

    def gate(k, n, memory):
        peephole = p["weight_ch"][order.index(k) * size + n] * memory if spec.peephole == "diagonal" else 0.0
        return function(f_name, min(max(z[k][n] + peephole, -limit), limit))

    for n in range(size):
        if spec.coupled == "f=1-i":
            i = gate("i", n, c_old[n])
            f = 1 - i
        elif spec.coupled == "i=1-f":
            f = gate("f", n, c_old[n])
            i = 1 - f
        else:
            i, f = gate("i", n, c_old[n]), gate("f", n, c_old[n])
        g = function(g_name, min(max(z["g"][n], -limit), limit)) * drop[n]
        c[n] = c_old[n] * f + g * i
        if spec.cell_clip:
            c[n] = min(max(c[n], -spec.cell_clip), spec.cell_clip)
        o = gate("o", n, c[n])
        for k, value in zip("ifgo", (i, f, g, o), strict=True):
            values[k][n] = value
    shown = p["norm_c"] * normalise(c) + p["norm_c_bias"] if spec.layer_norm else c
    h = np.array([values["o"][n] * function(h_name, shown[n]) for n in range(size)])
    return values | {"c": c, "h": h}, {"h": h, "c": c}


def gru(spec, size, a, u, R, b_hh, h_old, h_seen, drop):
    """The block of a GRU. a: W x + b_ih, u: R h + b_hh, by gate."""
    f_name, n_name = spec.activations
    limit = spec.preactivation_clip or math.inf
    z = {"r": a["r"] + u["r"], "u": a["u"] + u["u"], "n": a["n"]}
    r, update = (np.array([function(f_name, min(max(v, -limit), limit)) for v in z[k]]) for k in "ru")
    if spec.reset == "before":
        total = a["n"] + R[2 * size :] @ (r * h_seen) + b_hh[2 * size :]
    else:
        z["nh"] = u["n"]
        total = a["n"] + r * u["n"]
    n = np.array([function(n_name, min(max(v, -limit), limit)) for v in total]) * drop
    h = update * h_old + (1 - update) * n
    return z, {"r": r, "u": update, "n": n, "h": h}, {"h": h}


def normalise(v):
    """Mean 0 and variance 1, but for an epsilon of 1e-5."""
    mean = sum(v) / len(v)
    variance = sum((n - mean) ** 2 for n in v) / len(v)
    return (v - mean) / math.sqrt(variance + 0.00001)


def function(name, x):
    """An activation of ONNX's list, of one number."""
    word, *constants = name.split(":")
    given = [float(text) for text in constants]

    def constant(place, default):
        return given[place] if place < len(given) else default

    if word == "sigmoid":
        return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))
    if word == "tanh":
        return math.tanh(x)
    if word == "relu":
        return max(0.0, x)
    if word == "linear":
        return x
    if word == "affine":
        return constant(0, 1.0) * x + constant(1, 0.0)
    if word == "leaky_relu":
        return x if x >= 0 else constant(0, 0.01) * x
    if word == "thresholded_relu":
        return x if x > constant(0, 1.0) else 0.0
    if word == "scaled_tanh":
        return constant(0, 1.0) * math.tanh(constant(1, 1.0) * x)
    if word == "hard_sigmoid":
        return max(0.0, min(1.0, constant(0, 0.2) * x + constant(1, 0.5)))
    if word == "elu":
        return x if x >= 0 else constant(0, 1.0) * (math.exp(x) - 1)
    if word == "softsign":
        return x / (1 + abs(x))
    if word == "softplus":
        return max(0.0, x) + math.log(1 + math.exp(-abs(x)))
    raise AssertionError(f"no formula for {name}")
