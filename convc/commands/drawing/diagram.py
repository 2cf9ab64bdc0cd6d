"""What a drawing of a net consists of: boxes of layers, in groups that are the blocks of the text.

An activation, a normalisation or a dropout behind a layer shares its box. The bodies of `residual` and `concat` are no
groups: their paths show as paths. A block has one way in and one way out, so a group can be laid out by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field

from convc.ir.graph import Graph, Node
from convc.ir.op import Op
from convc.ir.ops.conv import Conv2d, Conv2dBackwardData
from convc.ir.ops.elementwise import Add, Multiply
from convc.ir.ops.join import Concat
from convc.ir.ops.linear import Linear
from convc.ir.ops.loss import CountCorrect
from convc.ir.ops.maps import ScaleMaps
from convc.ir.ops.pool import AvgPool, MaxPool
from convc.ir.ops.random import Dropout
from convc.ir.window import Pair
from convc.lazy import dataclass
from convc.passes.summary import Layer, layer_uses

# Bodies of statements have a part in the path of a layer, but are no blocks.
_BODY = re.compile(r"(res|skip|concat|branch)\d+")
_JOINS = (Add, Multiply, Concat, ScaleMaps)
_COLLAPSED = "block"


@dataclass(eq=False)
class Box:
    """Layers drawn as one. `lines` are what they say, `kind` the word of the first, `layers` their rows."""

    lines: list[str]
    kind: str
    shape: tuple[int, ...]
    layers: list[Layer] = field(default_factory=list[Layer])


@dataclass(eq=False)
class Group:
    """A block: boxes and groups, and the edges between them. The ends of an edge are items, or None for the outside."""

    title: str
    items: list[Item] = field(default_factory=list["Item"])
    edges: list[tuple[Item | None, Item | None]] = field(default_factory=list[tuple["Item | None", "Item | None"]])


Item = Box | Group
# Names from the outside inwards, each with the number of its use: a shared part is drawn wherever it is used.
Path = tuple[tuple[str, int], ...]


def diagram(graph: Graph, layers: Sequence[Layer], depth: int | None = None) -> Group:
    """The whole net as a group. `layers` are the rows of `summarize`; groups deeper than `depth` become boxes."""
    boxes, edges, paths = _boxes(graph, layers)
    _merge(boxes, edges, paths)
    if depth is not None:
        boxes, edges, paths = _collapse(boxes, edges, paths, depth)
    return _nest(graph.name, boxes, edges, paths)


Edges = dict[tuple[Box, Box], None]


def _boxes(graph: Graph, layers: Sequence[Layer]) -> tuple[list[Box], Edges, dict[Box, Path]]:
    """A box for each use of a layer, and who reads whom."""
    boxes: list[Box] = []
    edges: Edges = {}
    paths = _Paths()
    home: dict[Node, Box] = {}
    rows = iter(layers)
    row = next(rows, None)
    source: Box | None = None
    if row is not None and row.kind == "input":
        source = Box([f"input {_sizes(row.output)}"], "input", row.output, [row])
        boxes.append(source)
        paths.add(source, [])
        row = next(rows, None)
    for name, nodes in layer_uses(graph):
        if source is not None and name == source.layers[0].name:
            home.update((node, source) for node in nodes)  # the mean and the deviation of the images
            continue
        if row is None or name != row.name:
            continue  # what the compiler adds, such as the sum of several losses
        *path, short = name.split(".")
        box = Box([_describe(short, row, nodes)], row.kind, row.output, [row])
        boxes.append(box)
        paths.add(box, [part for part in path if not _BODY.fullmatch(part)])
        home.update((node, box) for node in nodes)
        for node in nodes:
            if isinstance(node.op, CountCorrect):
                continue
            for operand in node.operands:
                origin = (
                    home.get(operand.producer) if operand.producer else _reads(source, operand is graph.inputs["x"])
                )
                if origin is not None and origin is not box:
                    edges[origin, box] = None
        row = next(rows, None)
    return boxes, edges, paths.of


class _Paths:
    """Tells the uses of a part apart by what lies between them."""

    def __init__(self) -> None:
        self.of: dict[Box, Path] = {}
        self._last: Path = ()
        self._uses: dict[tuple[Path, str], int] = {}

    def add(self, box: Box, names: Sequence[str]) -> None:
        path: Path = ()
        for depth, name in enumerate(names):
            # Still within the group of the box before?
            if self._last[:depth] == path and self._last[depth : depth + 1] and self._last[depth][0] == name:
                path = self._last[: depth + 1]
            else:
                use = self._uses[path, name] = self._uses.get((path, name), 0) + 1
                path = (*path, (name, use))
        self.of[box] = self._last = path


def _reads(source: Box | None, images: bool) -> Box | None:
    return source if images else None


def _describe(short: str, row: Layer, nodes: Iterable[Node]) -> str:
    """`conv1 64 7x7 /2`: the name, what it makes, and how."""
    op = next((node.op for node in nodes if isinstance(node.op, tuple(_DETAILS))), None)
    if op is None:
        return short
    node = next(node for node in nodes if node.op is op)
    return f"{short}  {_DETAILS[type(op)](op, node)}"


def _window(kernel: Pair, stride: Pair) -> str:
    step = "" if stride == (1, 1) else f" /{stride[0]}" if stride[0] == stride[1] else f" /{stride[0]}x{stride[1]}"
    return f"{kernel[0]}x{kernel[1]}{step}"


def _convolution(op: Op, node: Node) -> str:
    assert isinstance(op, (Conv2d, Conv2dBackwardData))
    weight = node.operands[1].shape
    groups = "" if op.groups == 1 else " depthwise" if op.groups == weight[0] else f" in {op.groups} groups"
    return f"{node.result.shape[1]} {_window((weight[2], weight[3]), op.stride)}{groups}"


def _pool(op: Op, node: Node) -> str:
    assert isinstance(op, (MaxPool, AvgPool))
    word = "max" if isinstance(op, MaxPool) else "avg"
    if op.window.kernel == node.operands[0].shape[2:]:
        return f"{word} global"
    return f"{word} {_window(op.window.kernel, op.window.stride)}"


def _dropout(op: Op, node: Node) -> str:
    assert isinstance(op, Dropout)
    return f"{op.rate:g}"


_DETAILS: Mapping[type[Op], Callable[[Op, Node], str]] = {
    Conv2d: _convolution,
    Conv2dBackwardData: _convolution,
    MaxPool: _pool,
    AvgPool: _pool,
    Linear: lambda op, node: f"{node.result.shape[1]}",
    Dropout: _dropout,
}


def _merge(boxes: list[Box], edges: Edges, paths: dict[Box, Path]) -> None:
    """Put what follows a layer and only changes its values into the layer's box."""
    followers = {"relu", "relu6", "leaky", "prelu", "elu", "sigmoid", "tanh", "linear", "step", "bn", "lrn"}
    followers |= {"dropout", "noise", "flatten", "softmax"}
    readers: dict[Box, list[Box]] = {}
    read: dict[Box, list[Box]] = {}
    for origin, box in edges:
        readers.setdefault(origin, []).append(box)
        read.setdefault(box, []).append(origin)
    into: dict[Box, Box] = {}
    for box in list(boxes):
        origins = read.get(box, [])
        if box.kind not in followers or len(origins) != 1:
            continue
        origin = origins[0]
        host = into.get(origin, origin)
        if len(readers[origin]) > 1 or paths[host] != paths[box] or host.kind == "input":
            continue
        into[box] = host
        host.lines += box.lines
        host.layers += box.layers
        host.shape = box.shape
        boxes.remove(box)
    moved = [(into.get(origin, origin), into.get(box, box)) for origin, box in edges]
    edges.clear()
    edges.update((edge, None) for edge in moved if edge[0] is not edge[1])


def _collapse(
    boxes: list[Box], edges: Edges, paths: dict[Box, Path], depth: int
) -> tuple[list[Box], Edges, dict[Box, Path]]:
    """One box for each group that lies deeper than `depth`."""
    whole: dict[Path, Box] = {}
    place: dict[Box, Box] = {}
    for box in boxes:
        path = paths[box]
        if len(path) <= depth:
            place[box] = box
            continue
        head = path[: depth + 1]
        if head not in whole:
            whole[head] = Box([head[-1][0]], _COLLAPSED, box.shape)
        whole[head].layers += box.layers
        whole[head].shape = box.shape
        place[box] = whole[head]
    kept = list(dict.fromkeys(place.values()))
    joined: Edges = {(place[a], place[b]): None for a, b in edges if place[a] is not place[b]}
    return kept, joined, {box: paths.get(box, ()) for box in kept} | {box: head[:-1] for head, box in whole.items()}


def _nest(title: str, boxes: Iterable[Box], edges: Iterable[tuple[Box, Box]], paths: Mapping[Box, Path]) -> Group:
    """Groups by path; an edge belongs to the innermost group around both ends, and passes through all others."""
    root = Group(title)
    groups: dict[Path, Group] = {(): root}

    def group(path: Path) -> Group:
        if path not in groups:
            groups[path] = Group(path[-1][0])
            group(path[:-1]).items.append(groups[path])
        return groups[path]

    for box in boxes:
        group(paths[box]).items.append(box)
    for origin, box in edges:
        start, end = paths[origin], paths[box]
        common = 0
        while common < min(len(start), len(end)) and start[common] == end[common]:
            common += 1
        inner: Item = origin
        for length in range(len(start), common, -1):
            _add(groups[start[:length]].edges, (inner, None))
            inner = groups[start[:length]]
        outer: Item = box
        for length in range(len(end), common, -1):
            _add(groups[end[:length]].edges, (None, outer))
            outer = groups[end[:length]]
        _add(groups[start[:common]].edges, (inner, outer))
    return root


def _add(edges: list[tuple[Item | None, Item | None]], edge: tuple[Item | None, Item | None]) -> None:
    if edge not in edges:
        edges.append(edge)


def _sizes(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
