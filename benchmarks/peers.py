"""The rivals: one function for each, which makes a problem ready to be timed.

Each takes a `Problem` and the number of threads, and returns `call` and `read`. `call()` does the work once and is what
is timed. `read` turns its result into named arrays in openlstm's layout: y (T, B, O), the final states h and c
(L, B, n), gradients d <name>, or the loss; it is not timed. None stands for a problem that the peer has no form of.
A peer imports its library inside its function, so that its process loads no other one.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .problems import VOCABULARY, Problem

VARIANTS = ("variants", "cells")  # tasks of which most problems have a form that torch.nn has not
Arrays = dict[str, np.ndarray]
Ready = tuple[Callable[[], Any], Callable[[Any], Arrays]]


def openlstm(problem: Problem, threads: int) -> Ready | None:
    """This project's modules on its CPU engine. A variant takes its masks from the problem: the door below them."""
    import torch

    from openlstm import backends, nn

    torch.set_num_threads(threads)
    if backends.choose(problem.spec, torch.zeros(1)) is backends.reference:
        raise RuntimeError("openlstm's CPU engine does not run this, and its reference is no peer")
    if problem.task in VARIANTS:
        return _torch_function(problem, lambda *given: backends.layers(problem.spec, *given))
    return _torch_module(problem, nn.of(problem.spec))


def openlstm_compiled(problem: Problem, threads: int) -> Ready | None:
    """The same with a C++ compiler: what the engine would interpret is machine code."""
    if problem.task != "cells":
        return None
    from openlstm import compiled

    compiled.use_compiler()
    return openlstm(problem, threads)


def reference(problem: Problem, threads: int) -> Ready | None:
    """What every peer is compared with: the equations in float64, by torch operations. It is not timed."""
    import torch

    from openlstm import backends, nn

    torch.set_num_threads(threads)
    torch.set_default_dtype(torch.float64)
    if backends.choose(problem.spec, torch.zeros(1)) is not backends.reference:
        raise RuntimeError("another backend than the reference would make the numbers that all are compared with")
    if problem.task in VARIANTS:
        return _torch_function(problem, lambda *given: backends.layers(problem.spec, *given))
    return _torch_module(problem, nn.of(problem.spec))


def torch_nn(problem: Problem, threads: int) -> Ready | None:
    """torch.nn as it comes, on oneDNN."""
    import torch

    torch.set_num_threads(threads)
    spec = problem.spec
    if problem.task == "cells":
        return None
    if problem.task == "variants" and problem.form != "lstm" and not problem.form.startswith("lstm; proj_size"):
        return None
    kind = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}[spec.cell]
    options = {"proj_size": spec.proj_size} if spec.proj_size else {}
    return _torch_module(problem, kind(spec.input_size, spec.hidden_size[0], spec.num_layers, **options))


def torch_nn_without_onednn(problem: Problem, threads: int) -> Ready | None:
    """torch.nn with `torch.backends.mkldnn` switched off: its own loop over MKL's matrix products."""
    import torch

    torch.backends.mkldnn.set_flags(False)
    return torch_nn(problem, threads)


def _torch_module(problem: Problem, module: Any) -> Ready:
    """A module with torch.nn's interface, whosever it is."""
    import torch

    tensor, floating = torch.from_numpy, torch.get_default_dtype()
    module.load_state_dict({name: tensor(value).to(floating) for name, value in problem.parameters.items()})
    module.train(problem.gradient)
    if problem.task == "model":
        return _torch_model(problem, module)
    x = tensor(problem.x).to(floating).requires_grad_(problem.gradient)
    if problem.gradient:
        dy = tensor(problem.dy).to(floating)
        weights = dict(module.named_parameters())

        def train() -> Any:
            y, _ = module(x)
            return y, torch.autograd.grad((y * dy).sum(), (x, *weights.values()))

        return train, lambda result: _torch_gradients(result, list(weights))

    if problem.task == "streaming":
        chunks, states = itertools.cycle(x.split(1)), None

        def step() -> Any:
            nonlocal states
            with torch.no_grad():
                y, states = module(next(chunks), states)
            return y, states

        return step, _torch_outputs

    def infer() -> Any:
        with torch.no_grad():
            return module(x)

    return infer, _torch_outputs


def _torch_outputs(result: Any) -> Arrays:
    y, states = result
    states = states if isinstance(states, tuple) else (states,)
    return {"y": y.numpy(), **{name: state.numpy() for name, state in zip("hc", states, strict=False)}}


def _torch_gradients(result: Any, weights: list[str]) -> Arrays:
    y, (dx, *gradients) = result
    found = {f"d {name}": gradient.numpy() for name, gradient in zip(weights, gradients, strict=True)}
    return {"y": y.detach().numpy(), "d x": dx.numpy(), **_compared(found)}


def _compared(gradients: Arrays) -> Arrays:
    """Those of all weights. That by weight_hh alone would say nothing of a single step from a state of zeros."""
    return {name: value for name, value in gradients.items() if name.startswith("d weight")}


def _torch_model(problem: Problem, module: Any) -> Ready:
    """One whole training step. Compared are the losses of some steps: they depend on every gradient before."""
    import torch

    given = {name: torch.from_numpy(value) for name, value in problem.model.items()}
    floating = torch.get_default_dtype()
    embedding = torch.nn.Embedding.from_pretrained(given["embedding"].to(floating).clone(), freeze=False)
    linear = torch.nn.Linear(problem.spec.output_size(), VOCABULARY)
    with torch.no_grad():
        linear.weight.copy_(given["weight"])
        linear.bias.zero_()
    parameters = [*embedding.parameters(), *module.parameters(), *linear.parameters()]
    optimizer = torch.optim.Adam(parameters, 1e-3)

    def step() -> Any:
        y, _ = module(embedding(given["words"]))
        loss = torch.nn.functional.cross_entropy(linear(y).flatten(0, 1), given["targets"].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return step, lambda loss: {"loss": loss.detach().numpy().copy()}


def _torch_function(problem: Problem, forward: Callable[..., Any]) -> Ready:
    """A function of x, parameters, states, lengths, resets and masks, as the backends of openlstm are."""
    import torch

    floating = torch.get_default_dtype()
    x, dy = (torch.from_numpy(value).to(floating) for value in (problem.x, problem.dy))
    parameters = {name: torch.from_numpy(value).to(floating) for name, value in problem.parameters.items()}
    masks = {name: torch.from_numpy(value).to(floating) for name, value in problem.masks.items()}
    sizes = {n + w.suffix: size for w in problem.spec.walks for n, size in problem.spec.state_sizes(w).items()}
    states = {name: torch.zeros(problem.shape.batch, size) for name, size in sizes.items()}
    for name, value in problem.spec.begins.items():
        states[name].fill_(value)
    wanted = [x, *parameters.values()]
    for value in wanted:
        value.requires_grad_(problem.gradient)

    def train() -> Any:
        y, _ = forward(x, parameters, states, None, None, masks)
        return y, torch.autograd.grad((y * dy).sum(), wanted)

    def infer() -> Any:
        with torch.no_grad():
            return forward(x, parameters, states, None, None, masks)

    def outputs(result: Any) -> Arrays:
        y, final = result
        states = {
            letter: torch.stack([final[letter + walk.suffix] for walk in problem.spec.walks]).numpy()
            for letter in problem.spec.definition.states
        }
        return {"y": y.numpy(), **states}

    if problem.gradient:
        return train, lambda result: _torch_gradients(result, list(parameters))
    return infer, outputs


def torch_compile(problem: Problem, threads: int) -> Ready | None:
    """torch.compile of openlstm's reference, whose loop over steps is unrolled. Only training is compared."""
    import torch

    from openlstm.backends import reference

    torch.set_num_threads(threads)
    if problem.task not in VARIANTS or not problem.gradient:
        return None
    torch._dynamo.reset()  # one variant must not make the next one's sizes dynamic
    spec = problem.spec
    return _torch_function(
        problem, torch.compile(lambda *given: reference.forward(spec, *given), fullgraph=True, dynamic=False)
    )


def python_loop(problem: Problem, threads: int) -> Ready | None:
    """openlstm's reference in float32: torch's operations, step by step. Only training is compared."""
    import torch

    from openlstm.backends import reference

    torch.set_num_threads(threads)
    if problem.task not in VARIANTS or not problem.gradient:
        return None
    return _torch_function(problem, lambda *given: reference.forward(problem.spec, *given))


def torchrecurrent(problem: Problem, threads: int) -> Ready | None:
    """torchrecurrent, of whose cells one is a form that openlstm has: the diagonal peephole. A Python loop."""
    import torch
    from torchrecurrent import PeepholeLSTM

    torch.set_num_threads(threads)
    spec = problem.spec
    if problem.form != "lstm; peephole=diagonal":
        return None
    module = PeepholeLSTM(spec.input_size, spec.hidden_size[0], spec.num_layers)

    def own(name: str) -> str:
        name, _, layer = name.rpartition("_l")
        return f"cells.{layer}." + name.replace("weight_ch", "weight_ph")

    module.load_state_dict({own(name): torch.from_numpy(value) for name, value in problem.parameters.items()})

    def forward(x: Any, parameters: Any, states: Any, *_: Any) -> Any:
        given = {own(name): value for name, value in parameters.items()}
        y, final = torch.func.functional_call(module, given, (x,))
        h, c = final
        return y, dict(zip(states, (state for pair in zip(h, c, strict=True) for state in pair), strict=True))

    return _torch_function(problem, forward)


def onnx_runtime(problem: Problem, threads: int) -> Ready | None:
    """ONNX Runtime's own LSTM, GRU and RNN."""
    import onnxruntime

    from .foreign import onnx_model, onnx_states

    if problem.task not in ("inference", "streaming"):
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(onnx_model(problem), options, providers=["CPUExecutionProvider"])
    return _numpy_network(problem, onnx_states(problem), lambda feeds: session.run(None, feeds))


def openvino(problem: Problem, threads: int) -> Ready | None:
    """OpenVINO's CPU plugin on the same ONNX model, in float32."""
    import openvino

    from .foreign import onnx_model, onnx_states

    if problem.task not in ("inference", "streaming"):
        return None
    core = openvino.Core()
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",  # where there is bfloat16 it would be taken
    }
    compiled = core.compile_model(core.read_model(onnx_model(problem)), "CPU", options)
    request = compiled.create_infer_request()
    outputs = range(len(compiled.outputs))

    def run(feeds: Arrays) -> list[np.ndarray]:
        found = request.infer(feeds, share_inputs=True)
        return [found[k] for k in outputs]

    return _numpy_network(problem, onnx_states(problem), run)


def _numpy_network(problem: Problem, states: Arrays, run: Callable[[Arrays], list[np.ndarray]]) -> Ready:
    """A network from x and states to y and states, on numpy arrays."""
    names = list(states)
    size = 1 if problem.task == "streaming" else len(problem.x)
    chunks = itertools.cycle([problem.x[t : t + size] for t in range(0, len(problem.x), size)])
    carried = dict(states)

    def call() -> Any:
        y, *final = run({"x": next(chunks), **carried})
        if problem.task == "streaming":
            carried.update(zip(names, final, strict=True))
        return y, final

    def read(result: Any) -> Arrays:
        y, final = result
        named = dict(zip(names, final, strict=True))
        letters = dict.fromkeys(name[0] for name in names)
        return {
            "y": np.array(y).reshape(size, *problem.x.shape[1:2], -1),
            **{k: np.concatenate([value for name, value in named.items() if name[0] == k]) for k in letters},
        }

    return call, read


def jax_scan(problem: Problem, threads: int) -> Ready | None:
    """JAX: lax.scan over steps under jit, with the input's products of all steps made before it."""
    from .foreign import jax_ready

    return jax_ready(problem) if problem.task in ("inference", "training", "streaming") else None


def keras(problem: Problem, threads: int) -> Ready | None:
    """Keras 3 on JAX. The call is under jit, as in `predict`, but without what `predict` does around it."""
    os.environ["KERAS_BACKEND"] = "jax"
    from .foreign import keras_ready

    return keras_ready(problem) if problem.task in ("inference", "streaming") else None


class Peer(NamedTuple):
    """A rival: its function, and the packages that it needs, as pip knows them."""

    title: str
    ready: Callable[[Problem, int], Ready | None]
    packages: tuple[str, ...]


PEERS = {
    "openlstm": Peer("openlstm", openlstm, ("openlstm", "torch")),
    "torch": Peer("torch.nn", torch_nn, ("torch",)),
    "torch-loop": Peer("torch.nn, no oneDNN", torch_nn_without_onednn, ("torch",)),
    "onnxruntime": Peer("ONNX Runtime", onnx_runtime, ("onnxruntime", "onnx")),
    "openvino": Peer("OpenVINO", openvino, ("openvino", "onnx")),
    "jax": Peer("JAX scan", jax_scan, ("jax",)),
    "keras": Peer("Keras on JAX", keras, ("keras", "jax")),
    "openlstm-compiled": Peer("openlstm, compiled", openlstm_compiled, ("openlstm", "torch")),
    "python-loop": Peer("Python loop", python_loop, ("openlstm", "torch")),
    "torch-compile": Peer("torch.compile", torch_compile, ("openlstm", "torch")),
    "torchrecurrent": Peer("torchrecurrent", torchrecurrent, ("torchrecurrent", "torch")),
}
