"""Receptive fields: which pixels of the input a value can see.

Position i of a value, per axis, reads input pixels from  first + i·stride  to  last + i·stride; pixels outside the
image are padding. For a window of extent e and stride s over such a value

    first' = first − padding·stride,   last' = last + (e − 1 − padding)·stride,   stride' = stride·s

(Araujo, Norris, Sim: "Computing receptive fields of convolutional neural networks", Distill 2019). What enlarges images
has the stride turned over: position i of a transposed convolution reads the positions of its source from
⌈(i + padding − e + 1)/s⌉ to ⌊(i + padding)/s⌋, so that

    first' = first + (padding − e + 1)/s·stride,   last' = last + padding/s·stride,   stride' = stride/s

The roundings depend on i, so these are bounds, and fractions: no position reads beyond them. What is enlarged after it
was made smaller may see less, because it moves in steps of several pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from math import ceil, floor

from convc.ir.graph import Graph, Node, Value
from convc.ir.ops.conv import Conv2d, Conv2dBackwardData
from convc.ir.ops.linear import Linear
from convc.ir.ops.maps import ScaleMaps
from convc.ir.ops.pool import AvgPool, MaxPool
from convc.ir.ops.resample import Upsample
from convc.ir.ops.shape import Flatten
from convc.ir.window import Pair, Window
from convc.lazy import dataclass

Number = int | Fraction


@dataclass(frozen=True)
class Axis:
    """Bounds of what position 0 reads, and how far the next position is moved, all in pixels of the input."""

    first: Number = 0
    last: Number = 0
    stride: Number = 1

    def through(self, before: int, after: int, stride: int = 1) -> Axis:
        """What reads positions i·stride − before … i·stride + after of this."""
        return Axis(_whole(self.first - before * self.stride), self.last + after * self.stride, self.stride * stride)

    def enlarged(self, before: Fraction, after: Fraction, factor: int) -> Axis:
        """What reads positions i/factor − before … i/factor + after of this, rounded inwards."""
        return Axis(
            _whole(self.first - before * self.stride),
            _whole(self.last + after * self.stride),
            _whole(Fraction(self.stride) / factor),
        )

    def joined(self, other: Axis) -> Axis:
        return Axis(min(self.first, other.first), max(self.last, other.last), max(self.stride, other.stride))


@dataclass(frozen=True)
class ReceptiveField:
    """Pixels of the input, (vertical, horizontal): extent, distance between neighbours, first pixel of position 0.

    The stride is a fraction behind layers that enlarge; the extent is then a bound, in most nets what the
    position that sees most sees.
    """

    vertical: Axis = Axis()
    horizontal: Axis = Axis()

    @property
    def size(self) -> Pair:
        return _size(self.vertical), _size(self.horizontal)

    @property
    def stride(self) -> tuple[Number, Number]:
        return self.vertical.stride, self.horizontal.stride

    @property
    def offset(self) -> Pair:
        return ceil(self.vertical.first), ceil(self.horizontal.first)

    def through(self, window: Window) -> ReceptiveField:
        """The field of what a window computes from values with this field."""
        return self._each(
            axis.through(padding, extent - 1 - padding, stride)
            for axis, padding, extent, stride in zip(
                self._axes, window.padding[:2], window.extent, window.stride, strict=True
            )
        )

    def spread(self, window: Window) -> ReceptiveField:
        """The field of a transposed convolution: what the window would have computed these values from."""
        return self._each(
            axis.enlarged(Fraction(extent - 1 - padding, stride), Fraction(padding, stride), stride)
            for axis, padding, extent, stride in zip(
                self._axes, window.padding[:2], window.extent, window.stride, strict=True
            )
        )

    def upsampled(self, op: Upsample) -> ReceptiveField:
        """Position i lies at (i + ½)/factor − ½; `bilinear` reads the positions on both sides of it."""
        factor = op.factor
        if op.mode == "nearest":
            before, after = Fraction(factor - 1, factor), Fraction(0)
        else:
            centre = Fraction(1, 2 * factor) - Fraction(1, 2)
            # The farthest that a position lies from a neighbour which counts: less than 1, in halves of 1/factor.
            reach = Fraction(factor - 1, factor) if factor % 2 else Fraction(2 * factor - 1, 2 * factor)
            before, after = reach - centre, reach + centre
        return self._each(axis.enlarged(before, after, factor) for axis in self._axes)

    def whole(self, size: Pair) -> ReceptiveField:
        """The field of something that reads all positions of an image of `size`."""
        return self.through(Window(size))

    def joined(self, other: ReceptiveField) -> ReceptiveField:
        """The smallest field that covers both, for values that are added or concatenated."""
        return self._each(a.joined(b) for a, b in zip(self._axes, other._axes, strict=True))

    @property
    def _axes(self) -> tuple[Axis, Axis]:
        return self.vertical, self.horizontal

    @staticmethod
    def _each(axes: Iterable[Axis]) -> ReceptiveField:
        return ReceptiveField(*axes)


def receptive_fields(graph: Graph) -> dict[Value, ReceptiveField]:
    """The field of every value that depends on an image input; values that see no pixel are left out.

    Left out as well is what an op computes whose reach over positions is not known here. One value per map, as
    squeeze-and-excitation has it, reaches all positions alike; it is joined as it stands, whatever the stride.
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
    if isinstance(op, (Conv2d, Conv2dBackwardData)):
        weight = node.operands[1].shape
        window = op.window((weight[2], weight[3]))
        return fields[source].through(window) if isinstance(op, Conv2d) else fields[source].spread(window)
    if isinstance(op, Upsample):
        return fields[source].upsampled(op)
    if isinstance(op, Flatten) and len(source.shape) == 4:
        return fields[source].whole((source.shape[2], source.shape[3]))
    positions = {operand.shape[2:] for operand in seen}
    if isinstance(op, (Linear, ScaleMaps)) or positions == {value.shape[2:] for value in node.results}:
        joined = fields[source]
        for operand in seen[1:]:
            other = fields[operand]
            if operand.shape[2:] != source.shape[2:]:
                stride = fields[source].stride
                other = ReceptiveField(
                    Axis(other.vertical.first, other.vertical.last, stride[0]),
                    Axis(other.horizontal.first, other.horizontal.last, stride[1]),
                )
            joined = joined.joined(other)
        return joined
    return None


def _size(axis: Axis) -> int:
    return floor(axis.last - axis.first) + 1


def _whole(number: Number) -> Number:
    """Fractions only where they are needed: whole numbers are quicker and print as such."""
    return int(number) if number == int(number) else number
