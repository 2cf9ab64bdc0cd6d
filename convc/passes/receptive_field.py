"""Receptive fields: which pixels of the input a value can see.

Position i of a value, per axis, reads the input pixels  offset + i·stride … offset + i·stride + size − 1.  Pixels
outside the image are padding. A window of extent e and stride s over a value (size, stride, offset) gives

    size' = size + (e − 1)·stride,   stride' = stride·s,   offset' = offset − padding·stride

(Araujo, Norris, Sim: "Computing receptive fields of convolutional neural networks", Distill 2019).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from convc.ir.graph import Graph, Node, Value
from convc.ir.ops.conv import Conv2d, Conv2dBackwardData
from convc.ir.ops.linear import Linear
from convc.ir.ops.pool import AvgPool, MaxPool
from convc.ir.ops.shape import Flatten
from convc.ir.window import Pair, Window


@dataclass(frozen=True)
class ReceptiveField:
    """Pixels of the input, (vertical, horizontal): extent, distance between neighbours, first pixel of position 0."""

    size: Pair = (1, 1)
    stride: Pair = (1, 1)
    offset: Pair = (0, 0)

    def through(self, window: Window) -> ReceptiveField:
        """The field of what a window computes from values with this field."""
        top, left = window.padding[:2]
        return ReceptiveField(
            _pair(s + (e - 1) * j for s, e, j in zip(self.size, window.extent, self.stride, strict=True)),
            _pair(j * s for j, s in zip(self.stride, window.stride, strict=True)),
            _pair(o - p * j for o, p, j in zip(self.offset, (top, left), self.stride, strict=True)),
        )

    def whole(self, size: Pair) -> ReceptiveField:
        """The field of something that reads all positions of an image of `size`."""
        return self.through(Window(size))

    def joined(self, other: ReceptiveField) -> ReceptiveField:
        """The smallest field that covers both, for values that are added or concatenated."""
        axes = list(zip(self.offset, self.size, other.offset, other.size, strict=True))
        offset = _pair(min(a, b) for a, _, b, _ in axes)
        end = _pair(max(a + m, b + n) for a, m, b, n in axes)
        stride = _pair(max(a, b) for a, b in zip(self.stride, other.stride, strict=True))
        return ReceptiveField(_pair(e - o for e, o in zip(end, offset, strict=True)), stride, offset)


def receptive_fields(graph: Graph) -> dict[Value, ReceptiveField]:
    """The field of every value that depends on an image input; values that see no pixel are left out.

    Left out as well is what an op computes whose reach over positions is not known here.
    """
    fields = {value: ReceptiveField() for value in graph.inputs.values() if value.type.rank == 4}
    unknown: set[Value] = set()
    for node in graph.nodes:
        # What is joined with something of unknown reach has an unknown reach.
        field = _field(node, fields) if unknown.isdisjoint(node.operands) else None
        if field is not None:
            fields.update((value, field) for value in node.results)
        elif any(operand in fields or operand in unknown for operand in node.operands):
            unknown.update(node.results)
    return fields


def _field(node: Node, fields: dict[Value, ReceptiveField]) -> ReceptiveField | None:
    seen = [operand for operand in node.operands if operand in fields]
    if not seen:
        return None
    source, op = seen[0], node.op
    if isinstance(op, (MaxPool, AvgPool)):
        return fields[source].through(op.window)
    if isinstance(op, Conv2d):
        weight = node.operands[1].shape
        return fields[source].through(op.window((weight[2], weight[3])))
    if isinstance(op, Conv2dBackwardData):
        # Without a stride it is a convolution with the filter turned around; with one, positions see unequal fields.
        if op.stride != (1, 1):
            return None
        weight = node.operands[1].shape
        window = op.window((weight[2], weight[3]))
        top, left = (extent - 1 - padding for extent, padding in zip(window.extent, op.padding[:2], strict=True))
        return fields[source].through(replace(window, padding=(top, left, 0, 0)))
    if isinstance(op, Flatten) and len(source.shape) == 4:
        return fields[source].whole((source.shape[2], source.shape[3]))
    positions = {operand.shape[2:] for operand in seen}
    if isinstance(op, Linear) or positions == {value.shape[2:] for value in node.results}:
        joined = fields[source]
        for operand in seen[1:]:
            joined = joined.joined(fields[operand])
        return joined
    return None


def _pair(numbers: Iterable[int]) -> Pair:
    vertical, horizontal = numbers
    return vertical, horizontal
