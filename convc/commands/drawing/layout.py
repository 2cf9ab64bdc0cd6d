"""Where the boxes of a diagram go: layers from top to bottom, few crossings, straight lines.

The method of Sugiyama, Tagawa and Toda ("Methods for visual understanding of hierarchical system structures", 1981),
one group after the other, the innermost first: rows by the longest way from the top, an order within rows by the places
of neighbours, then the columns: each item wants to stand below the mean of its neighbours, and keeps its distance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from itertools import pairwise

from convc.commands.drawing.diagram import Box, Group, Item
from convc.lazy import dataclass

CHARACTER = 7.3  # width in pixels of a monospaced character of 12 pixels
LINE = 16.0
_PADDING = 10.0
_BETWEEN = 22.0  # boxes of a row
_ROWS = 26.0
_MARGIN = 14.0  # inside a group
_TITLE = 22.0
_SWEEPS = 8

Point = tuple[float, float]


@dataclass
class Placed:
    """An item with its upper left corner and size, in the coordinates of the group around it."""

    item: Item
    x: float
    y: float
    width: float
    height: float
    inside: Layout | None = None


@dataclass
class Layout:
    """A group laid out: its size, items, a line for each edge; `way_in`, `way_out`: where lines cross its border."""

    group: Group
    width: float
    height: float
    items: list[Placed]
    lines: list[list[Point]]
    way_in: float
    way_out: float


@dataclass(eq=False)
class _Vertex:
    """An item, a bend of a line, or a border; it reaches from x − `left` to x + `right`."""

    row: int
    left: float = 0.0
    right: float = 0.0
    height: float = 0.0
    # Where lines arrive and leave, relative to x.
    enter: float = 0.0
    leave: float = 0.0
    x: float = 0.0
    above: list[_Vertex] = field(default_factory=list["_Vertex"])
    below: list[_Vertex] = field(default_factory=list["_Vertex"])


def layout(group: Group, outermost: bool = True) -> Layout:
    """Lay out a group and all groups within."""
    inner: dict[Item, Layout] = {item: layout(item, outermost=False) for item in group.items if isinstance(item, Group)}
    vertices = {item: _vertex(item, inner.get(item)) for item in group.items}
    top, bottom = _Vertex(0), _Vertex(0)
    ends = [(vertices.get(a, top) if a else top, vertices.get(b, bottom) if b else bottom) for a, b in group.edges]
    _assign_rows(list(vertices.values()), top, bottom, ends)
    chains = [_chain(start, end) for start, end in ends]
    everything = dict.fromkeys([top, *vertices.values(), bottom])
    everything.update(dict.fromkeys(vertex for chain in chains for vertex in chain))
    rows = _rows(list(everything))
    _order(rows)
    _columns(rows)
    return _result(group, rows, vertices, inner, chains, (top, bottom), outermost)


def _vertex(item: Item, inner: Layout | None) -> _Vertex:
    if inner is not None:
        # Lines meet a group where they meet what is in it.
        middle = inner.way_in
        return _Vertex(0, middle, inner.width - middle, inner.height, 0.0, inner.way_out - middle)
    assert isinstance(item, Box)
    width = max(len(line) for line in texts(item)) * CHARACTER + 2 * _PADDING
    return _Vertex(0, width / 2, width / 2, len(texts(item)) * LINE + _PADDING)


def texts(box: Box) -> list[str]:
    """The lines of a box: its layers, and the shape of their result."""
    shape = "x".join(map(str, box.shape))
    return [*box.lines, shape] if shape and box.kind != "input" else box.lines


def _assign_rows(
    vertices: Sequence[_Vertex], top: _Vertex, bottom: _Vertex, ends: Sequence[tuple[_Vertex, _Vertex]]
) -> None:
    """Row 0 is the upper border; every line leads downwards. `vertices` are in an order in which it does."""
    readers: dict[_Vertex, list[_Vertex]] = {}
    for start, end in ends:
        readers.setdefault(start, []).append(end)
    for vertex in vertices:
        vertex.row = 1
    for vertex in (top, *vertices):
        for reader in readers.get(vertex, []):
            reader.row = max(reader.row, vertex.row + 1)
    bottom.row = max((vertex.row for vertex in vertices), default=0) + 1


def _chain(start: _Vertex, end: _Vertex) -> list[_Vertex]:
    """From start to end with a bend in each row between."""
    bends = [_Vertex(row, 3.0, 3.0) for row in range(start.row + 1, end.row)]
    chain = [start, *bends, end]
    for upper, lower in pairwise(chain):
        upper.below.append(lower)
        lower.above.append(upper)
    return chain


def _rows(vertices: Sequence[_Vertex]) -> list[list[_Vertex]]:
    rows: list[list[_Vertex]] = [[] for _ in range(max(vertex.row for vertex in vertices) + 1)]
    for vertex in vertices:
        rows[vertex.row].append(vertex)
    return rows


def _order(rows: list[list[_Vertex]]) -> None:
    """Sort each row by the mean place of the neighbours above, then below, and keep the order with fewest crossings."""
    best, least = [list(row) for row in rows], _crossings(rows)
    for sweep in range(_SWEEPS):
        if least == 0:
            break
        downwards = sweep % 2 == 0
        for row in rows[1:] if downwards else reversed(rows[:-1]):
            place = {vertex: index for neighbours in rows for index, vertex in enumerate(neighbours)}
            row.sort(key=lambda vertex: _mean(vertex.above if downwards else vertex.below, place, place[vertex]))
        crossings = _crossings(rows)
        if crossings < least:
            best, least = [list(row) for row in rows], crossings
    rows[:] = best


def _mean(neighbours: Sequence[_Vertex], place: Mapping[_Vertex, int], otherwise: float) -> float:
    return sum(place[vertex] for vertex in neighbours) / len(neighbours) if neighbours else otherwise


def _crossings(rows: Sequence[Sequence[_Vertex]]) -> int:
    total = 0
    for upper, lower in pairwise(rows):
        place = {vertex: index for index, vertex in enumerate(lower)}
        lines = [(index, place[below]) for index, vertex in enumerate(upper) for below in vertex.below]
        total += sum((a - c) * (b - d) < 0 for i, (a, b) in enumerate(lines) for c, d in lines[i + 1 :])
    return total


def _columns(rows: Sequence[Sequence[_Vertex]]) -> None:
    """Move every vertex towards the mean of its neighbours as far as the others of its row let it."""
    for row in rows:
        _settle(row, [0.0] * len(row))
    for sweep in range(2 * _SWEEPS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wishes: list[float] = []
            for vertex in row:
                places = [upper.x + upper.leave for upper in vertex.above]
                places += [lower.x + lower.enter - vertex.leave for lower in vertex.below]
                wishes.append(sum(places) / len(places) if places else vertex.x)
            _settle(row, wishes)


def _settle(row: Sequence[_Vertex], wishes: Sequence[float]) -> None:
    """The places nearest to the wishes (least squares) with nothing overlapping: pool adjacent violators."""
    offsets = [0.0]
    for left, right in pairwise(row):
        offsets.append(offsets[-1] + left.right + _BETWEEN + right.left)
    pools: list[tuple[float, int]] = []  # mean, count
    for wish, offset in zip(wishes, offsets, strict=True):
        mean, count = wish - offset, 1
        while pools and pools[-1][0] > mean:
            other, others = pools.pop()
            mean, count = (mean * count + other * others) / (count + others), count + others
        pools.append((mean, count))
    means = [mean for mean, count in pools for _ in range(count)]
    for vertex, mean, offset in zip(row, means, offsets, strict=True):
        vertex.x = mean + offset


def _result(
    group: Group,
    rows: Sequence[Sequence[_Vertex]],
    vertices: Mapping[Item, _Vertex],
    inner: Mapping[Item, Layout],
    chains: Sequence[Sequence[_Vertex]],
    borders: tuple[_Vertex, _Vertex],
    outermost: bool,
) -> Layout:
    """Numbers from the upper left corner, with room around and for the title."""
    title = len(group.title) * CHARACTER + 2 * _MARGIN
    solid = [vertex for row in rows for vertex in row if vertex not in borders] or list(borders)
    left = min(vertex.x - vertex.left for vertex in solid) - _MARGIN
    width = max(max(vertex.x + vertex.right for vertex in solid) + _MARGIN - left, title)
    heights = [max((vertex.height for vertex in row), default=0.0) for row in rows]
    tops: list[float] = []
    y = _TITLE - (_ROWS if rows and outermost else _ROWS / 2)
    for height in heights:
        tops.append(y)
        y += height + _ROWS
    height = tops[-1] + (0 if not outermost else _MARGIN - _ROWS)
    placed = {
        item: Placed(
            item,
            vertex.x - vertex.left - left,
            tops[vertex.row],
            vertex.left + vertex.right,
            vertex.height,
            inner.get(item),
        )
        for item, vertex in vertices.items()
    }
    top, bottom = borders
    starts = {top: 0.0} | {vertex: tops[vertex.row] + vertex.height for vertex in vertices.values()}
    stops = {bottom: height} | {vertex: tops[vertex.row] for vertex in vertices.values()}
    lines: list[list[Point]] = []
    for chain in chains:
        start, *bends, end = chain
        line = [(start.x + start.leave - left, starts[start])]
        for bend in bends:
            # A bend runs along the whole height of its row.
            line += [(bend.x - left, tops[bend.row]), (bend.x - left, tops[bend.row] + heights[bend.row])]
        lines.append([*line, (end.x + end.enter - left, stops[end])])
    return Layout(group, width, height, list(placed.values()), lines, top.x - left, bottom.x - left)
