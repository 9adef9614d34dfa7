"""Where the boxes and wires of a diagram go: boxes in columns from left to right, wires along right angles.

A box stands right of all its inputs. All wires from one box are one net: a trunk in each gap between columns, with a
branch to each box that it feeds, so that many edges are few lines (Sugiyama, Tagawa and Toda 1981, with trunks).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from statistics import fmean

Point = tuple[float, float]
GAP = 16.0  # between boxes, and between a box and a wire that passes it
TRACK = 13.0  # between trunks
PORT = 13.0  # between wires that enter one box
ON_TOP = 1000  # crossings that are better than two wires on one line


@dataclass(frozen=True)
class Net:
    """All wires from one box."""

    lines: list[tuple[Point, Point]] = field(default_factory=list)  # horizontal or vertical
    arrows: list[Point] = field(default_factory=list)  # where it enters boxes
    dots: list[Point] = field(default_factory=list)  # where it branches


@dataclass(frozen=True)
class Layout:
    """The picture's size, each box's left upper corner, and each box's net."""

    width: float
    height: float
    corners: list[Point]
    nets: list[Net]


def layered(sizes: Sequence[Point], inputs: Sequence[Sequence[int]], last: Collection[int] = ()) -> Layout:
    """Places boxes of `sizes` (width, height), each after its `inputs`. Those of `last` go into the last column.

    >>> result = layered([(20, 10), (20, 10)], [[], [0]])
    >>> result.corners, result.nets[0].arrows
    ([(0.0, 0.0), (46.0, 0.0)], [(46.0, 5.0)])
    """
    columns = _Columns(sizes, inputs, last)
    columns.order()
    columns.settle()
    return columns.draw()


def turned(layout: Layout) -> Layout:
    """The same from top to bottom: sizes were given as (height, width).

    >>> turned(layered([(20, 10), (20, 10)], [[], [0]])).corners
    [(0.0, 0.0), (0.0, 46.0)]
    """

    def turn(points: Iterable[Point]) -> list[Point]:
        return [(y, x) for x, y in points]

    nets = [Net([(a[::-1], b[::-1]) for a, b in net.lines], turn(net.arrows), turn(net.dots)) for net in layout.nets]
    return Layout(layout.height, layout.width, turn(layout.corners), nets)


class _Columns:
    """The work: boxes have the numbers given, and after them come the places where a net passes a column."""

    def __init__(self, sizes: Sequence[Point], inputs: Sequence[Sequence[int]], last: Collection[int]) -> None:
        self.sizes, self.boxes = [(float(w), float(h)) for w, h in sizes], len(sizes)
        depth: list[int] = []
        for places in inputs:
            depth.append(1 + max((depth[k] for k in places), default=-1))
        for k in last:
            depth[k] = max(depth)
        self.columns: list[list[int]] = [[] for _ in range(1 + max(depth))]
        self.links: list[list[tuple[int, int]]] = [[] for _ in self.columns]  # from each column to the next
        self.net = list(range(self.boxes))
        for k, d in enumerate(depth):
            self.columns[d].append(k)
        for source in range(self.boxes):
            feeds = [k for k, places in enumerate(inputs) for place in places if place == source]
            here = source
            for d in range(depth[source], max((depth[k] for k in feeds), default=0)):
                self.links[d] += [(here, k) for k in feeds if depth[k] == d + 1]
                if any(depth[k] > d + 1 for k in feeds):
                    self.net.append(source)
                    self.sizes.append((0.0, 0.0))
                    self.links[d].append((here, len(self.net) - 1))
                    here = len(self.net) - 1
                    self.columns[d + 1].append(here)
        self.y = [0.0] * len(self.net)  # of centres
        self.out: list[float] = []  # where nets leave: at the centre, or near it where a wire is straight then

    def _crossings(self, columns: list[list[int]]) -> int:
        place = {k: i for column in columns for i, k in enumerate(column)}
        pairs = (pair for links in self.links for pair in combinations(links, 2))
        return sum((place[a] - place[c]) * (place[b] - place[d]) < 0 for (a, b), (c, d) in pairs)

    def order(self) -> None:
        """Fewer crossings: each box at the mean place of what it is joined to, then exchanges of neighbours."""
        columns = [list(column) for column in self.columns]
        best, least = columns, self._crossings(columns)
        for sweep in range(16):
            columns = [list(column) for column in columns]
            forward = sweep % 2 == 0
            for d in range(1, len(columns)) if forward else range(len(columns) - 2, -1, -1):
                links = self.links[d - 1] if forward else [(b, a) for a, b in self.links[d]]
                other = {k: i / len(columns[d - 1]) for i, k in enumerate(columns[d - 1])} if forward else {
                    k: i / len(columns[d + 1]) for i, k in enumerate(columns[d + 1])
                }  # fmt: skip
                now = {k: i / len(columns[d]) for i, k in enumerate(columns[d])}
                mean = {k: fmean([other[a] for a, b in links if b == k] or [now[k]]) for k in columns[d]}
                columns[d].sort(key=lambda k: mean[k])
            if (count := self._crossings(columns)) < least:
                best, least = columns, count
        self.columns = best
        improved = True
        while improved:
            improved = False
            for column in self.columns:
                for i in range(len(column) - 1):
                    column[i], column[i + 1] = column[i + 1], column[i]
                    if (count := self._crossings(self.columns)) < least:
                        least, improved = count, True
                    else:
                        column[i], column[i + 1] = column[i + 1], column[i]

    def settle(self) -> None:
        """Heights: as near to what each is joined to as the order and the sizes allow, wires that pass straight."""
        fed = [sum(b == k for links in self.links for _, b in links) for k in range(len(self.net))]
        joined: list[list[tuple[int, float]]] = [[] for _ in self.net]
        for links in self.links:
            for a, b in links:
                # A straight wire matters most to a box that has no other.
                weight = 8.0 if min(a, b) >= self.boxes else 4.0 if fed[b] == 1 else 1.0
                joined[a].append((b, weight))
                joined[b].append((a, weight))
        for column in self.columns:
            self._space(column, [0.0] * len(column), [1.0] * len(column))
        for sweep in range(90):
            if sweep in (50, 70):  # the boxes have their places: now wires that pass are made straight, and stay so
                self._straighten()
            for column in self.columns if sweep % 2 else self.columns[::-1]:
                wished, weights = [], []
                for k in column:
                    weight = sum(w for _, w in joined[k])
                    stays = not weight or (k >= self.boxes and sweep >= 50)
                    wished.append(self.y[k] if stays else sum(w * self.y[other] for other, w in joined[k]) / weight)
                    weights.append(1e6 if stays and weight else weight or 0.1)
                self._space(column, wished, weights)
        self._straighten()
        self.out = list(self.y)
        for links in self.links:
            for a in {a for a, _ in links if a < self.boxes}:
                aims = [self.y[b] for source, b in links if source == a and (b >= self.boxes or fed[b] == 1)]
                aim = min(aims, key=lambda y, own=self.y[a]: abs(y - own), default=self.y[a])  # type: ignore[misc]
                if abs(aim - self.y[a]) <= self.sizes[a][1] / 2 - 6:
                    self.out[a] = aim

    def _straighten(self) -> None:
        """Puts the places where a net passes columns on one height, as far along as what is above and below allows."""
        columns = {k: column for column in self.columns for k in column}
        for source in range(self.boxes):
            run: list[int] = []
            low, high, before = -1e9, 1e9, self.y[source]
            for k in [k for k in range(self.boxes, len(self.net)) if self.net[k] == source]:
                column, i = columns[k], columns[k].index(k)
                above = self.y[column[i - 1]] + self.sizes[column[i - 1]][1] / 2 + GAP if i else -1e9
                below = self.y[column[i + 1]] - self.sizes[column[i + 1]][1] / 2 - GAP if i + 1 < len(column) else 1e9
                if max(low, above) > min(high, below):
                    run, low, high, before = [], -1e9, 1e9, self.y[run[-1]] if run else before
                if above > below:  # rounding: it stands where it can
                    continue
                run, low, high = [*run, k], max(low, above), min(high, below)
                for passed in run:
                    self.y[passed] = min(max(before, low), high)

    def _space(self, column: list[int], wished: list[float], weights: list[float]) -> None:
        """The nearest heights to the wished ones, by weight, with boxes apart: isotonic regression."""
        apart = [0.0]
        for a, b in pairwise(column):
            apart.append(apart[-1] + (self.sizes[a][1] + self.sizes[b][1]) / 2 + GAP)
        pools: list[tuple[float, float, int]] = []  # mean, weight, how many
        for wish, weight, offset in zip(wished, weights, apart, strict=True):
            pool = (wish - offset, weight, 1)
            while pools and pools[-1][0] >= pool[0]:
                mean, w, n = pools.pop()
                pool = ((mean * w + pool[0] * pool[1]) / (w + pool[1]), w + pool[1], n + pool[2])
            pools.append(pool)
        means = [mean for mean, _, n in pools for _ in range(n)]
        for k, mean, offset in zip(column, means, apart, strict=True):
            self.y[k] = mean + offset

    def _ports(self, d: int) -> list[tuple[int, int, float]]:
        """The links into column d + 1 with the height at which each enters: its source's own where that fits."""
        found = []
        for k in self.columns[d + 1]:
            sources = sorted((a for a, b in self.links[d] if b == k), key=lambda a: self.out[a])
            room = max(0.0, self.sizes[k][1] / 2 - 5)
            n, low = len(sources), self.y[k] - room
            step = min(PORT, 2 * room / max(1, n - 1))
            heights: list[float] = []
            for i, a in enumerate(sources):
                least = heights[-1] + step if heights else low
                heights.append(min(max(self.out[a], least), low + 2 * room - (n - 1 - i) * step))
            for a, y in zip(sources, heights, strict=True):
                # A wire that is nearly straight is made so: a small step in it would look like a slip.
                straight = abs(y - self.out[a]) < 3 and abs(self.out[a] - self.y[k]) <= self.sizes[k][1] / 2 - 2
                found.append((a, k, self.out[a] if straight else y))
        return found

    def _apart(self, ports: list[tuple[int, int, float]]) -> list[tuple[int, int, float]]:
        """The same with entries moved a little where another net leaves a box on the same height."""
        found = []
        for a, k, y in ports:
            room = self.sizes[k][1] / 2 - 3
            taken = [self.out[other] for other in {p[0] for p in ports} - {a}]
            taken += [height for other, to, height in ports if to == k and other != a]
            tries = [y + move for step in (0.0, 4.0, 6.0, 8.0, 10.0) for move in (step, -step)]
            free = (t for t in tries if abs(t - self.y[k]) <= room and all(abs(t - other) >= 4 for other in taken))
            found.append((a, k, next(free, y)) if room > 0 else (a, k, y))
        return found

    def draw(self) -> Layout:
        """Columns, trunks and wires, moved so that the picture begins at 0, 0."""
        top = min(self.y[k] - self.sizes[k][1] / 2 for k in range(len(self.net)))
        self.y, self.out = [y - top for y in self.y], [y - top for y in self.out]
        nets = [Net() for _ in range(self.boxes)]
        x, left = 0.0, [0.0] * len(self.net)
        for d, column in enumerate(self.columns):
            for k in column:
                left[k] = x
            end = x + max(self.sizes[k][0] for k in column)
            for k in column:
                if k >= self.boxes:
                    nets[self.net[k]].lines.append(((x, self.y[k]), (end, self.y[k])))
            if d + 1 == len(self.columns):
                break
            ports = self._ports(d)
            tracks, on_top = self._tracks(ports)
            if on_top:
                ports = self._apart(ports)
                tracks, _ = self._tracks(ports)
            x = end + 2 * TRACK + TRACK * max(0, len(tracks) - 1)
            at = {a: end + TRACK * (i + 0.75) for i, a in enumerate(tracks)}
            for a in {a for a, _, _ in ports}:
                self._wire(nets[self.net[a]], a, left[a] + self.sizes[a][0], at.get(a, end), x, ports)
        bottom = max(self.y[k] + self.sizes[k][1] / 2 for k in range(len(self.net)))
        corners = [(left[k], self.y[k] - self.sizes[k][1] / 2) for k in range(self.boxes)]
        return Layout(end, bottom, corners, nets)

    def _wire(
        self, net: Net, a: int, start: float, trunk: float, end: float, ports: list[tuple[int, int, float]]
    ) -> None:
        own = self.out[a]
        branches = [(k, y) for source, k, y in ports if source == a]
        heights = sorted({own, *(y for _, y in branches)})
        if len(heights) == 1:
            trunk = start
        else:
            net.lines.append(((start, own), (trunk, own)))
            net.lines.append(((trunk, heights[0]), (trunk, heights[-1])))
        for k, y in branches:
            net.lines.append(((trunk, y), (end, y)))
            if k < self.boxes:
                net.arrows.append((end, y))
        leaving = [own, *(y for _, y in branches)]
        for y in heights if trunk != start else ():
            ways = leaving.count(y) + (y > heights[0]) + (y < heights[-1])
            if ways > 2:
                net.dots.append((trunk, y))

    def _tracks(self, ports: list[tuple[int, int, float]]) -> tuple[list[int], bool]:
        """The order of the trunks in a gap, from left to right, with few crossings; and do wires lie on each other."""
        nets = {a: [y for source, _, y in ports if source == a] for a, _, _ in ports}
        bent = [a for a in nets if any(y != self.out[a] for y in nets[a])]
        spans = {a: (min(self.out[a], *nets[a]), max(self.out[a], *nets[a])) for a in bent}

        def cost(order: list[int]) -> int:
            total = 0
            for a, b in combinations(order, 2):  # a's trunk is left of b's
                total += ON_TOP * sum(abs(self.out[b] - y) < 4 for y in nets[a])
                total += sum(spans[b][0] < y < spans[b][1] for y in nets[a])
                total += spans[a][0] < self.out[b] < spans[a][1]
            return total

        order = sorted(bent, key=lambda a: self.out[a])
        improved = True
        while improved:
            improved = False
            for i, j in combinations(range(len(order)), 2):
                other = [*order[:i], order[j], *order[i + 1 : j], order[i], *order[j + 1 :]]
                if cost(other) < cost(order):
                    order, improved = other, True
        return order, cost(order) >= ON_TOP
