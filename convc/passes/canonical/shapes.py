"""Changes of shape and of order on top of each other, and channels joined and cut."""

from __future__ import annotations

import math

from convc.ir.graph import Node, Value
from convc.ir.ops.join import Concat, SliceChannels
from convc.ir.ops.rearrange import Rearrange
from convc.ir.ops.shape import Flatten, Unflatten
from convc.ir.types import Shape
from convc.passes.canonical.rule import Finding, Missed, Rewrite, Rule, source

_VIEWS = (Flatten, Unflatten)


def view_of_view(node: Node) -> Finding:
    """Views keep all elements in their order: the last one alone decides the shape."""
    if node.operands[0].type == node.result.type:
        return node.operands[0]
    inner = source(node, _VIEWS)
    return inner.operands[0] if inner and inner.operands[0].type == node.result.type else None


def keeps_the_order(node: Node) -> Finding:
    """A rearrangement that only moves axes of one element is a view."""
    assert isinstance(node.op, Rearrange)
    moving = [axis for axis in node.op.order if node.op.view[axis] > 1]
    return _view(node.operands[0], node.op.shape) if moving == sorted(moving) else None


def _view(x: Value, shape: Shape) -> Finding:
    if x.shape[1:] == shape:
        return x
    if len(shape) == 1:
        return Rewrite(Flatten(), (x,))
    return Rewrite(Unflatten(shape), (x,)) if x.type.rank == 2 else None


def rearrange_of_rearrange(node: Node) -> Finding:
    inner = source(node, Rearrange)
    if inner is None:
        return None
    first, second = inner.op, node.op
    assert isinstance(first, Rearrange)
    assert isinstance(second, Rearrange)
    pieces = common_pieces(tuple(first.view[axis] for axis in first.order), second.view)
    if pieces is None:
        return Missed(f"{list(second.view)} unfolds across the axes that {inner.label or inner.op.name} has moved")
    of_first, of_second = pieces
    # Number the pieces as they lie in the operand, so that both orders speak of the same axes.
    split = dict(zip(first.order, of_first, strict=True))
    starts = {axis: sum(len(split[before]) for before in range(axis)) for axis in split}
    moved = [starts[axis] + piece for axis in first.order for piece in range(len(split[axis]))]
    taken = [sum(map(len, of_second[:axis])) + piece for axis in second.order for piece in range(len(of_second[axis]))]
    view = tuple(size for axis in range(len(first.view)) for size in split[axis])
    view, order = fewest_axes(view, tuple(moved[place] for place in taken))
    return Rewrite(Rearrange(view, order, second.shape), inner.operands)


def common_pieces(left: Shape, right: Shape) -> tuple[list[list[int]], list[list[int]]] | None:
    """Both shapes (of equally many elements) split so that they have the same pieces: (6, 4), (2, 12) -> [[2, 3], [4]],
    [[2], [3, 4]]. None where an axis would have to be split unevenly, as in (2, 3), (3, 2)."""
    split: tuple[list[list[int]], list[list[int]]] = ([[] for _ in left], [[] for _ in right])
    rest, place = (list(left), list(right)), [0, 0]
    while True:
        for side in (0, 1):
            while place[side] < len(rest[side]) and rest[side][place[side]] == 1:
                place[side] += 1
        if place[0] == len(left):
            return split
        sizes = rest[0][place[0]], rest[1][place[1]]
        if max(sizes) % min(sizes):
            return None
        for side in (0, 1):
            split[side][place[side]].append(min(sizes))
            rest[side][place[side]] //= min(sizes)


def fewest_axes(view: Shape, order: tuple[int, ...]) -> tuple[Shape, tuple[int, ...]]:
    """The same rearrangement with axes that stay side by side as one: (2, 3, 4), (1, 2, 0) -> (2, 12), (1, 0)."""
    runs: list[list[int]] = []
    for axis in order:
        if runs and runs[-1][-1] + 1 == axis:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    places = {run[0]: number for number, run in enumerate(sorted(runs))}
    joined = tuple(math.prod(view[axis] for axis in run) for run in sorted(runs))
    return joined or (1,), tuple(places[run[0]] for run in runs) or (0,)


def concat_of_concat(node: Node) -> Finding:
    """Only where nothing else reads the inner one: it would be made anyway, and its channels copied twice."""
    inner = [operand.producer for operand in node.operands if operand.producer]
    inner = [producer for producer in inner if isinstance(producer.op, Concat)]
    single = [producer for producer in inner if len(producer.result.users) == 1]
    if not single:
        return Missed(f"{inner[0].label or 'the inner concat'} has other users, too") if inner else None
    operands: list[Value] = []
    for operand in node.operands:
        operands += operand.producer.operands if operand.producer in single else (operand,)
    return Rewrite(Concat(), tuple(operands))


def slice_of_slice(node: Node) -> Finding:
    inner, op = source(node, SliceChannels), node.op
    if inner is None:
        return None
    assert isinstance(op, SliceChannels)
    assert isinstance(inner.op, SliceChannels)
    return Rewrite(SliceChannels(inner.op.start + op.start, op.count), inner.operands)


def slice_of_concat(node: Node) -> Finding:
    inner, op = source(node, Concat), node.op
    if inner is None:
        return None
    assert isinstance(op, SliceChannels)
    start = 0
    for operand in inner.operands:
        count = operand.shape[1]
        if start <= op.start and op.stop <= start + count:
            return Rewrite(SliceChannels(op.start - start, op.count), (operand,))
        start += count
    return Missed("it takes channels of several operands of the concat")


SHAPES = (
    Rule("view_of_view", _VIEWS, view_of_view, "views keep the elements in their order"),
    Rule("rearrange_in_order", (Rearrange,), keeps_the_order, "the elements keep their order"),
    Rule("rearrange_of_rearrange", (Rearrange,), rearrange_of_rearrange, "both orders are one"),
    Rule("concat_of_concat", (Concat,), concat_of_concat, "channels are joined once"),
    Rule("slice_of_slice", (SliceChannels,), slice_of_slice, "channels are cut once"),
    Rule("slice_of_concat", (SliceChannels,), slice_of_concat, "all these channels come from one operand"),
)
