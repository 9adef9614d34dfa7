"""What the native core runs: one step of a variant, forward and backward, as a short list of instructions.

`step.Step` is run on symbols (`derivative.py`), and both graphs are cut into sections (`sections.py`). So every variant
has its kernels, and none is written by hand.

Three things make it fast. What depends on the input alone runs ahead, many steps at once (`before`); what only the
input's gradient needs runs behind (`after`). A product adds to the array that holds the rest of its sum. And backward
reads the values that have a name, recomputing what lies between them, so that little is kept.
"""

from __future__ import annotations

from .derivative import Graph, operands
from .sections import Block, Lowering, Outer, Program
from .spec import Spec
from .symbols import Sym


def forward(spec: Spec, masks: frozenset[str], keep: frozenset[str] = frozenset(), ragged: bool = False) -> Program:
    """The values and states of one step; those under the names in `keep` are stored at every step.

    Its arrays: x, y and y2 (the parts of the output), `<state>_prev`, mask_<kind>, kept names, and own ones. `ragged`:
    the core fills `<state>_prev` itself, where sequences begin and end in the batch.
    """
    graph, program = Graph(spec, masks), Program()
    low = Lowering(graph, program)
    low.at[graph.x] = low.array("x", "I")
    for node in graph.order:
        if node.op == "name" and node.args[0].startswith("mask_"):
            low.at[node] = low.array(node.args[0], graph.width(node))
    stores: list[tuple[Sym, int]] = []
    for name, node in zip(("y", "y2"), graph.outputs, strict=False):
        stores.append((node, low.array(name, graph.width(node))))
    kept = {node: low.array(name, graph.width(node)) for node, name in graph.names.items() if name in keep}
    program.kept = tuple(program.arrays[k].name for k in kept.values())
    stores += kept.items()
    for name, node in graph.new.items():
        out = next((to for value, to in stores if value is node), -1)
        if out < 0:
            out = low.array(name + "_new", graph.width(node), "pair")
            stores.append((node, out))
        previous = name + "_prev"
        width = graph.width(node)
        if ragged:
            place = low.array(previous, width, "time" if previous in keep else "pair")
            program.kept += (previous,) if previous in keep else ()
        else:
            place = low.array(previous, width, "before" if program.arrays[out].kind == "time" else "carry", out)
        low.at[graph.previous[name]] = place
        program.states.append((place, out))
    ahead = [node for node in graph.order if graph.ahead(node)]
    inner = [node for node in graph.order if not graph.ahead(node)]
    boundary = dict.fromkeys(
        part for node in inner for part in operands(node) if part in set(ahead) and part is not graph.x
    )
    before: list[tuple[Sym, int]] = []
    for node in dict.fromkeys([*boundary, *(node for node, _ in stores if graph.ahead(node))]):
        place = kept.get(node, -1)
        if (whole := graph.sums.get(node)) in kept:
            place = kept[whole]
        before.append(
            (node, place if place >= 0 else low.array(f"ahead {len(program.arrays)}", graph.width(node), "chunk"))
        )
    program.before = low.lower(before, (), "chunk")
    low.at |= dict(before)
    low.dirty |= {low.root(place) for place, _ in program.states}
    program.loop = low.lower([(node, to) for node, to in stores if dict(before).get(node) != to], (), "pair")
    return program


def backward(
    spec: Spec,
    masks: frozenset[str],
    ragged: bool,
    of_input: bool = True,
    of_weights: bool = True,
    slopes: frozenset[str] = frozenset(),
) -> Program:
    """The derivatives of one step. `kept` are the arrays that it wants of forward.

    Its arrays: those, dy and dy2, `carry_<state>` (the derivative by the new state), `d_<state>_prev`, dx, `slope
    <name>` (the derivative by a named value in `slopes`), and own ones.
    """
    graph, program = Graph(spec, masks), Program()
    low = Lowering(graph, program)
    seeds: dict[Sym, Sym] = {}
    for name, node in zip(("dy", "dy2"), graph.outputs, strict=False):
        seeds[node] = Sym("name", name)
        low.at[seeds[node]] = low.array(name, graph.width(node))
    carries = {name: Sym("name", "carry_" + name) for name in graph.new}
    for name, node in graph.new.items():
        out = low.array(f"d_{name}_prev", graph.width(node), "pair")
        carry = low.array("carry_" + name, graph.width(node), "pair" if ragged else "carry", -1 if ragged else out)
        low.at[carries[name]] = carry
        program.states.append((carry, out))
        graph.widths[carries[name]] = graph.width(node)
        seeds[node] = seeds[node] + carries[name] if node in seeds else carries[name]
    for node, place in low.at.items():
        graph.widths[node] = program.arrays[place].width
    found = graph.adjoints(seeds)
    zero = Sym("number", 0.0)

    inner = [node for node in graph.order if not graph.ahead(node)]
    boundary = {part for node in inner for part in operands(node) if graph.ahead(part)}
    boundary |= {node for node in seeds if graph.ahead(node)}  # their derivatives come in the loop
    loop: list[tuple[Sym, int]] = []
    after: list[tuple[Sym, int]] = []
    adjoint_at: dict[Sym, int] = {}
    stored = [node for node in graph.order if node in found and (node in graph.linears or node in boundary)]
    behind = [node for node in stored if graph.ahead(node) and node not in boundary]
    for node in (*(node for node in stored if node not in behind), *behind):  # equal ones are stored in the loop
        value = found[node]
        if value not in adjoint_at and node is not graph.x:
            adjoint_at[value] = low.array(f"d {graph.names.get(node, node)}", graph.width(node))
            (after if node in behind else loop).append((value, adjoint_at[value]))
    for (_, out), name in zip(program.states, graph.new, strict=True):
        loop.append((found.get(graph.previous[name], zero), out))
    for name in sorted(slopes):
        node = graph.values[name]
        loop.append((found.get(node, zero), low.array(f"slope {name}", graph.width(node))))
    if of_input:
        after.append((found[graph.x], low.array("dx", "I")))
    sums: dict[bool, list[tuple[Sym, int]]] = {False: [], True: []}
    for node in graph.order:
        if node.op == "parameter" and node in found and of_weights:
            users = [user for user in graph.order if node in operands(user)]
            to = low.array(f"sum {node}", graph.width(node))
            program.vectors.append((Block(*node.args), to))
            sums[all(graph.ahead(user) for user in users)].append((found[node], to))

    # What forward must keep: the values with a name at which recomputing can begin.
    sources = [node.args[0] for node in graph.linears]
    wanted = dict.fromkeys(sources)
    seen: set[Sym] = set()

    def need(node: Sym) -> None:
        if node in seen or node in low.at or node.op in ("number", "parameter"):
            return
        seen.add(node)
        if node in graph.names or node.op == "name":
            wanted[node] = None
        else:
            for part in operands(node):
                need(part)

    for value, _ in [*loop, *after, *sums[False], *sums[True]]:
        need(value)
    names: list[str] = []
    outputs = dict(zip(graph.outputs, ("y", "y2"), strict=False))
    for node in graph.order:
        if node not in wanted or node in low.at:
            continue
        name = node.args[0] if node.op == "name" else outputs.get(node) or graph.names[node]
        before = next((s for s, previous in graph.previous.items() if previous is node), None)
        if before is None or ragged:
            low.at[node] = low.array(name, graph.width(node))
            names.append(name)
        else:
            new = graph.new[before]
            if new not in low.at:
                names.append(outputs.get(new) or graph.names[new])
                low.at[new] = low.array(names[-1], graph.width(new))
            low.at[node] = low.array(name, graph.width(node), "before", low.at[new])
    program.kept = tuple(names)

    places = dict(low.at)
    low.dirty = {low.root(place) for place, _ in program.states}
    program.loop = low.lower(loop, sums[False], "pair")
    # A pair or a temporary of the loop is gone afterwards: a state's derivative may be equal to another value.
    stay = {value: to for value, to in loop if program.arrays[to].kind == "time"}
    low.at = places | stay | {node: place for node, place in low.at.items() if node.op == "parameter"}
    program.after = low.lower(after, sums[True], "chunk")
    low.at |= dict(after)
    for node in (node for node in graph.linears if node in found and of_weights):
        weight, bias = node.args[1:]
        adjoint = adjoint_at[found[node]]
        program.outer.append(Outer(Block(*weight.args), adjoint, places[node.args[0]]))
        if bias is not None:
            program.sums.append((Block(*bias.args), adjoint))
    return program
