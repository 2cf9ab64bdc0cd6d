"""Elements carried to other places: rearranged axes, and borders around images."""

from __future__ import annotations

import math

from convc.codegen.llvm.channels import each_channel, each_pixel, spot_at
from convc.codegen.llvm.kernel import KernelBuilder
from convc.codegen.llvm.vocabulary import Function, Index, V, ref
from convc.ir.ops.pad import Pad
from convc.ir.ops.rearrange import Rearrange
from convc.lazy import dataclass
from convc.passes.layout import ImageLayout


@dataclass(frozen=True)
class _Axis:
    """An axis of the unfolded row: its extent, and its stride in the logical order of source and result."""

    extent: int
    source: int
    target: int


def _axes(op: Rearrange) -> list[_Axis]:
    """In the order of the result."""
    found: list[_Axis] = []
    for position, axis in enumerate(op.order):
        after = math.prod(op.view[other] for other in op.order[position + 1 :])
        found.append(_Axis(op.view[axis], math.prod(op.view[axis + 1 :]), after))
    return [axis for axis in found if axis.extent > 1]


def lower_rearrange(k: KernelBuilder) -> None:
    """Element by element. What depends on the pixel alone is computed once for all its channels."""
    op = k.op(Rearrange)
    (x,) = k.kernel.anchor.operands
    source, target = k.image(x), k.image(k.kernel.anchor.result)
    axes = _axes(op)
    # The source's address is a sum over axes where each of them counts channels or lies within a feature map.
    weights = [_weight(source, axis.source, axis.extent) for axis in axes]
    direct = all(weight is not None for weight in weights)
    steps = [
        weight if direct and weight is not None else axis.source for weight, axis in zip(weights, axes, strict=True)
    ]

    def body(f: Function) -> None:
        start, stop = f.share(f.multiply(k.rows(f), target.pixels))
        with f.loop(start, stop) as unit:
            row, pixel = f.divide(unit.index, target.pixels), f.remainder(unit.index, target.pixels)
            base = f.address(k.pointer(x), f.multiply(row, source.size))
            into = f.address(k.pointer(k.kernel.anchor.result), f.multiply(unit.index, target.stored))
            parts = list(zip(axes, steps, strict=True))
            fixed: Index = 0
            for axis, step in parts:
                if _within_map(target, axis):
                    fixed = f.add(fixed, f.multiply(_digit(f, pixel, axis.target, axis.extent), step))

            def move(channel: Index) -> None:
                place = fixed
                for axis, step in parts:
                    if _within_map(target, axis):
                        continue
                    if axis.target % target.pixels == 0:
                        digit = _digit(f, channel, axis.target // target.pixels, axis.extent)
                    else:
                        element = f.add(f.multiply(channel, target.pixels), pixel)
                        digit = _digit(f, element, axis.target, axis.extent)
                    place = f.add(place, f.multiply(digit, step))
                if not direct:
                    inside, own = f.remainder(place, source.pixels), f.divide(place, source.pixels)
                    place = f.add(f.multiply(inside, source.stored), own)
                f.store(f.load(f.address(base, place)), f.address(into, channel))

            each_channel(f, target, [into], move)

    k.phase("rearrange", body)


def _weight(layout: ImageLayout, stride: int, extent: int) -> int | None:
    """How far one step along an axis is in memory; None where steps differ."""
    if stride % layout.pixels == 0:
        return stride // layout.pixels
    return stride * layout.stored if layout.pixels % (stride * extent) == 0 else None


def _within_map(layout: ImageLayout, axis: _Axis) -> bool:
    """Whether the pixel alone says where one is along the axis."""
    return axis.target % layout.pixels != 0 and layout.pixels % (axis.target * axis.extent) == 0


def _digit(f: Function, index: Index, stride: int, extent: int) -> Index:
    return f.remainder(f.divide(index, stride), extent)


def lower_pad(k: KernelBuilder) -> None:
    """A pixel of the source or the border's value, with a chain."""
    op = k.op(Pad)
    (x,) = k.kernel.anchor.operands
    source, target = k.image(x), k.image(k.kernel.anchor.result)
    top, left, _, _ = op.sides
    bordered = max(op.sides) > 0

    def body(f: Function) -> None:
        def visit(row: Index, pixel: Index, channel: Index, lanes: int, real: int) -> None:
            down = f.add(f.divide(pixel, target.width), -top)
            across = f.add(f.remainder(pixel, target.width), -left)
            place = f.add(f.multiply(down, source.width), across)
            inside: V | None = None
            if bordered:
                # One unsigned comparison per axis tests both ends; outside, the first pixel is read and forgotten.
                rows = f.emit("i1", f"icmp ult i64 {ref(down)}, {source.height}")
                columns = f.emit("i1", f"icmp ult i64 {ref(across)}, {source.width}")
                inside = f.binary("and", rows, columns)
                place = f.select(inside, V(ref(place), "i64"), V("0", "i64"))
            element = f.sum(f.multiply(row, source.size), f.multiply(place, source.stored), channel)
            value = f.load(f.address(k.pointer(x), element), lanes)
            if inside is not None:
                border = f.integers([1 if lane < real else 0 for lane in range(lanes)], "i1") if real < lanes else None
                outside = f.constant(op.value, lanes)
                if border is not None:
                    outside = f.select(border, outside, f.constant(0.0, lanes))
                value = f.select(f.splat(inside, lanes) if lanes > 1 else inside, value, outside)
            k.finish(f, spot_at(f, target, row, pixel, channel, lanes, real), value)

        each_pixel(k, f, target, visit)

    k.phase("pad", body)
