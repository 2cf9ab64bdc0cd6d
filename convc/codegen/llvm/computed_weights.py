"""Weights that are computed: scaled unit by unit, and summed up unit by unit. Sums are in double precision."""

from __future__ import annotations

from convc.codegen.llvm.kernel import KernelBuilder
from convc.codegen.llvm.units import Box, double_zeros, each_row, each_unit, walk
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.ir.ops.units import ScaleWeights, SumWeights
from convc.passes.fusion import resolve
from convc.passes.layout import VectorLayout, WeightLayout


def lower_scale_weights(k: KernelBuilder) -> None:
    op = k.op(ScaleWeights)
    w, scale = k.kernel.anchor.operands
    result, layout = k.kernel.anchor.result, k.layout(resolve(w))

    def multiply(f: Function, place: Index, factor: V, lanes: int) -> None:
        value = f.load(f.address(k.pointer(w), place), lanes)
        f.store(f.binary("fmul", value, factor), f.address(k.pointer(result), place))

    def packed(f: Function, layout: WeightLayout) -> None:
        assert op.axis == 0 or op.groups == layout.groups, "inputs have as many groups as the layer that reads them"
        rows = layout.rows

        def visit(output: Index, row: Index, place: Index, lanes: int) -> None:
            if op.axis == 0:
                # Scales are padded like outputs, with zeros.
                factor = f.load(f.address(k.pointer(scale), output), lanes)
            else:
                channel, pixel = f.remainder(row, rows.stored), f.divide(row, rows.stored)
                # Of a filter all taps of a channel are one unit, of a matrix every feature is.
                unit = channel if w.type.rank == 4 else f.add(f.multiply(channel, rows.pixels), pixel)
                group = f.divide(output, layout.outputs // layout.groups)
                number = f.add(f.multiply(group, w.shape[1]), unit)
                factor = f.splat(_real(f, k.pointer(scale), number, channel, layout), lanes)
            multiply(f, place, factor, lanes)

        each_row(f, layout, k.machine.lanes, visit)

    def plain(f: Function) -> None:
        def visit(unit: Index, boxes: list[Box], lanes: int) -> None:
            factor = f.load(f.address(k.pointer(scale), unit))

            def move(place: Index, carried: list[V]) -> list[V]:
                multiply(f, place, factor, lanes)
                return []

            walk(f, boxes, [], move)

        each_unit(f, layout, w.shape, op.axis, op.groups, 1, visit)

    k.phase("scale_weights", lambda f: packed(f, layout) if isinstance(layout, WeightLayout) else plain(f))


def _real(f: Function, pointer: V, number: Index, channel: Index, layout: WeightLayout) -> V:
    """A number of a vector; 0 for rows that are padding, which the vector knows nothing of."""
    if layout.rows.stored == layout.rows.channels:
        return f.load(f.address(pointer, number))
    inside = f.less(channel, layout.rows.channels)
    last = layout.groups * layout.rows.channels * layout.rows.pixels - 1
    return f.select(inside, f.load(f.address(pointer, f.minimum(number, last))), f.constant(0.0))


def lower_sum_weights(k: KernelBuilder) -> None:
    op = k.op(SumWeights)
    (w,) = k.kernel.anchor.operands
    result, layout = k.kernel.anchor.result, k.layout(resolve(w))
    target = k.layout(result)
    assert isinstance(target, VectorLayout)

    def body(f: Function) -> None:
        def visit(unit: Index, boxes: list[Box], lanes: int) -> None:
            def add(place: Index, carried: list[V]) -> list[V]:
                value = f.convert("fpext", f.load(f.address(k.pointer(w), place), lanes), "double")
                return [f.binary("fadd", carried[0], value)]

            (total,) = walk(f, boxes, [double_zeros(lanes)], add)
            f.store(f.convert("fptrunc", total, "float"), f.address(k.pointer(result), unit))

        each_unit(f, layout, w.shape, op.axis, op.groups, k.machine.lanes, visit)
        with f.when(f.equal(f.rank, 0)):
            for lane in range(target.channels, target.size):
                f.store(f.constant(0.0), f.address(k.pointer(result), lane))

    k.phase("sum_weights", body)
