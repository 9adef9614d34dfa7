"""What traced values say of a unit: how long it remembers, how often its gates are open or shut, is it dead.

What is a gate and what is memory is read off the equations, so that every cell has its measures.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .derivative import Graph
from .spec import Spec
from .symbols import Sym, evaluate
from .words import counted

if TYPE_CHECKING:
    from .tracing import Floats, Trace

OPEN, SHUT = 0.9, 0.1  # a gate beyond them is saturated: Karpathy, Johnson and Fei-Fei 2015
DEAD = 1e-3  # a unit whose h never leaves so narrow a band says nothing to the next layer
LONGEST = 5  # units with the longest memory that a summary names


@dataclass(frozen=True)
class Roles:
    """What the named values of a cell are: gates (always within 0 and 1), and the shares of each state that stay.

    `stays`: for each state whose new value is a multiple of the old one plus something, that multiple. All gates count
    as given: how they depend on the state is not followed.
    """

    gates: tuple[str, ...]
    stays: Mapping[str, Sym]
    values: Mapping[str, Sym]

    @property
    def memory(self) -> str:
        """The state that remembers: c, or the last one of which something stays, or ""."""
        return "c" if "c" in self.stays else list(self.stays)[-1] if self.stays else ""


@functools.lru_cache(maxsize=256)
def roles(spec: Spec) -> Roles:
    """The roles of a variant's values.

    >>> found = roles(Spec.of("lstm", 1, 1))
    >>> found.gates, found.memory, found.stays["c"] is found.values["f"]
    (('i', 'f', 'o'), 'c', True)
    >>> roles(Spec.of("rnn", 1, 1)).memory
    ''
    """
    graph = Graph(spec)
    gates = tuple(name for name, value in graph.values.items() if _within_one(value))
    stays = {state: _share(graph.new[state], previous) for state, previous in graph.previous.items()}
    return Roles(gates, {state: share for state, share in stays.items() if share is not None}, graph.values)


def _within_one(node: Sym) -> bool:
    if node.op == "clip":
        low, high = (part.args[0] for part in node.args[1:])
        return bool(low >= 0 and high <= 1)
    one_less = node.op == "-" and node.args[0] is Sym("number", 1.0)
    return node.op == "sigmoid" or (one_less and _within_one(node.args[1]))


def _share(node: Sym, old: Sym) -> Sym | None:
    """By what the old value is multiplied in a sum of products. None: it does not occur there."""
    if node is old:
        return Sym("number", 1.0)
    if node.op == "clip":  # inside its bounds
        return _share(node.args[0], old)
    if node.op in ("+", "-", "*", "/"):
        left, right = (_share(part, old) for part in node.args)
        if node.op == "+":
            return left if right is None else right if left is None else left + right
        if node.op == "-":
            return left if right is None else -right if left is None else left - right
        if node.op == "*" and (left is None) != (right is None):
            return left * node.args[1] if left is not None else node.args[0] * right  # type: ignore[no-any-return]
        if node.op == "/" and left is not None and right is None:
            return left / node.args[1]  # type: ignore[no-any-return]
    return None


def half_life(stays: Floats) -> Floats:
    """Steps until half of a memory is gone, from the share that stays at each step: (..., units) to (units,).

    The shares are averaged as they act, by their product. Infinite where nothing is lost. NaN counts as no step.

    >>> half_life(np.array([[0.5, 1.0], [0.5, 1.0]]))
    array([ 1., inf])
    """
    flat = np.asarray(stays, np.float64).reshape(-1, np.shape(stays)[-1])
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = np.log(np.maximum(np.abs(flat), 1e-300))
        count = np.sum(~np.isnan(rate), 0)
        mean = np.nansum(rate, 0) / np.where(count, count, np.nan)
        found = np.log(0.5) / mean
    return np.where(mean >= 0, np.inf, found)


def match(values: Floats, on: Any) -> Floats:
    """How exactly each unit is on where a pattern is: the correlation of (..., units) with booleans (...), -1 to 1.

    1: one value inside the pattern and another, lower one outside; -1: higher outside. Steps with NaN are left out. 0
    where a unit or the pattern never changes.

    >>> match(np.array([[0.0, 1], [1, 0], [1, 0], [0, 0]]), [False, True, True, False])
    array([ 1.        , -0.57735027])
    """
    pattern = np.asarray(on, bool)
    flat = np.asarray(values, np.float64)
    if flat.shape[:-1] != pattern.shape:
        raise ValueError(f"The pattern has the shape {pattern.shape}: expected {flat.shape[:-1]}, one for each step")
    flat, marks = flat.reshape(-1, flat.shape[-1]), pattern.reshape(-1, 1).astype(np.float64)
    here = ~np.isnan(flat)
    count = np.maximum(here.sum(0), 1)
    a = np.where(here, flat, 0.0)
    a = np.where(here, a - a.sum(0) / count, 0.0)
    b = np.where(here, marks, 0.0)
    b = np.where(here, b - b.sum(0) / count, 0.0)
    size = np.sqrt((a * a).sum(0) * (b * b).sum(0))
    # Rounding leaves something of a unit that never changes.
    flat_lines = (a * a).sum(0) <= 1e-14 * np.where(here, flat * flat, 0.0).sum(0)
    return np.where((size > 0) & ~flat_lines, (a * b).sum(0) / np.where(size > 0, size, 1.0), 0.0)


def units(trace: Trace) -> list[dict[str, Any]]:
    """One entry for each unit: layer, reverse, unit, half_life, dead, swing, and open and shut by gate.

    `half_life`: steps until half of the memory is gone; NaN where the cell has none, or the trace does not hold what
    it needs. `swing`: the standard deviation of the output. `dead`: does the output stay within 0.001. `open`, `shut`:
    the share of steps at which a gate is above 0.9, or below 0.1.
    """
    found: list[dict[str, Any]] = []
    spec, known = trace.spec, roles(trace.spec)
    for walk in spec.walks:
        try:
            named = trace.names(walk.layer, walk.reverse)
        except KeyError:
            continue  # it was not kept
        width = max(array.shape[-1] for array in named.values())
        numbers = trace.numbers(width)
        life = np.full(width, np.nan)
        if known.memory:
            given = {value: named[name] for name, value in known.values.items() if name in named}
            try:
                stays = evaluate({"": known.stays[known.memory]}, given)[""]
                life = half_life(np.broadcast_to(stays, (*next(iter(named.values())).shape[:2], width)))
            except KeyError:  # a value was not kept
                pass
        flat = {name: array.reshape(-1, array.shape[-1]) for name, array in named.items()}
        out = flat.get("h")
        with np.errstate(invalid="ignore"):
            swing = np.full(width, np.nan) if out is None else np.nanstd(out, 0)
            band = np.full(width, np.nan) if out is None else np.nanmax(out, 0) - np.nanmin(out, 0)
        gates = [name for name in known.gates if name in flat]
        steps = {name: np.maximum(1, np.sum(~np.isnan(flat[name]), 0)) for name in gates}
        opened = {name: np.sum(flat[name] > OPEN, 0) / steps[name] for name in gates}
        shut = {name: np.sum(flat[name] < SHUT, 0) / steps[name] for name in gates}
        for k, number in enumerate(numbers):
            found.append(
                {
                    "layer": walk.layer,
                    "reverse": walk.reverse,
                    "unit": int(number),
                    "half_life": float(life[k]),
                    "dead": bool(band[k] <= DEAD),
                    "swing": float(swing[k]),
                    "open": {name: float(opened[name][k]) for name in gates},
                    "shut": {name: float(shut[name][k]) for name in gates},
                }
            )
    return found


@dataclass(frozen=True)
class Summary:
    """What all units do. str() gives it as text.

    `units`: as `measures.units` gives them. `longest`: those of the longest memory first; without any, empty.
    """

    spec: Spec
    steps: int
    units: Sequence[Mapping[str, Any]]

    @property
    def longest(self) -> list[Mapping[str, Any]]:
        """Units whose memory has a length, the longest first."""
        some = [unit for unit in self.units if not np.isnan(unit["half_life"])]
        return sorted(some, key=lambda unit: -unit["half_life"])

    @property
    def dead(self) -> list[Mapping[str, Any]]:
        """Units whose output never moves."""
        return [unit for unit in self.units if unit["dead"]]

    def __str__(self) -> str:
        titles = self.spec.definition.titles
        lines = [f"{self.spec}: {counted(len(self.units), 'unit')} over {counted(self.steps, 'step')}"]
        for walk in self.spec.walks:
            own = [u for u in self.units if (u["layer"], u["reverse"]) == (walk.layer, walk.reverse)]
            if not own:
                continue
            direction = ", reversed" if walk.reverse else ", forward" if self.spec.bidirectional else ""
            dead = [str(unit["unit"]) for unit in own if unit["dead"]]
            lines += ["", f"layer {walk.layer}{direction}: {counted(len(own), 'unit')}, dead: {_some(dead) or 'none'}"]
            gates = list(own[0]["open"])
            rows = [["gate", f"above {OPEN:g}", f"below {SHUT:g}", "units always open", "always shut"]]
            for gate in gates:
                opened, shut = (np.array([unit[kind][gate] for unit in own]) for kind in ("open", "shut"))
                name = f"{gate}  {titles.get(gate, '')}".rstrip()
                always = [str(np.sum(share == 1)) for share in (opened, shut)]
                rows.append([name, f"{opened.mean():.1%}", f"{shut.mean():.1%}", *always])
            if gates:
                widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
                for row in rows:
                    cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
                    lines.append("  " + "  ".join(cells))
            lives = np.array([unit["half_life"] for unit in own])
            if not np.isnan(lives).all():
                low, middle, high = (_steps(np.nanquantile(lives, q, method="nearest")) for q in (0.1, 0.5, 0.9))
                lines.append(
                    f"  half of the memory is gone after {counted(middle, 'step')} (a tenth of units: {low}, {high})"
                )
        if self.longest:
            lines += ["", "longest memory"]
            for unit in self.longest[:LONGEST]:
                where = f"layer {unit['layer']}{' reversed' if unit['reverse'] else ''} unit {unit['unit']}"
                lines.append(f"  {where}: {counted(_steps(unit['half_life']), 'step')} until half is gone")
        return "\n".join(lines)


def _steps(number: float) -> str:
    return "infinitely many" if np.isinf(number) else f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _some(texts: Sequence[str], most: int = 12) -> str:
    more = f", and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def summary(trace: Trace) -> Summary:
    """The measures of all units of a trace."""
    return Summary(trace.spec, int(trace.x.shape[0]), units(trace))


def find(trace: Trace, on: Any, name: str = "") -> list[dict[str, Any]]:
    """All units, those first that are on most exactly where a pattern is: layer, reverse, unit, match.

    on: booleans (T, B), or (T,) for all sequences. name: of which value; the memory, or h where there is none, if left
    out. A unit that is exactly off there, with a match of -1, ranks as high as one that is on.
    """
    name = name or roles(trace.spec).memory or "h"
    pattern = np.asarray(on, bool)
    if pattern.ndim == 1 and len(pattern) == trace.x.shape[0]:
        pattern = np.broadcast_to(pattern[:, None], trace.x.shape[:2])
    found: list[dict[str, Any]] = []
    for walk in trace.spec.walks:
        array = trace.arrays.get(name + walk.suffix)
        if array is None:
            continue
        for number, score in zip(trace.numbers(array.shape[-1]), match(array, pattern), strict=True):
            where = {"layer": walk.layer, "reverse": walk.reverse, "unit": int(number)}
            found.append({**where, "match": float(score)})
    if not found:
        raise KeyError(f"no '{name}' in this trace: it has {', '.join(trace.arrays)}")
    return sorted(found, key=lambda unit: -abs(unit["match"]))
