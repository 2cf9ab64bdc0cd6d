"""Weights of one bit: the mean size of each output's weights, with their signs. Sums are in double precision."""

from __future__ import annotations

import math

from convc.codegen.llvm.kernel import KernelBuilder
from convc.codegen.llvm.units import Box, double_zeros, each_unit, walk
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.passes.fusion import resolve
from convc.passes.layout import Layout, WeightLayout

# −0 as an integer without sign: all that is larger is below zero, numbers that comparisons take for zero included.
_MINUS_ZERO = 1 << 31


def lower_binarize(k: KernelBuilder) -> None:
    w, result = resolve(k.kernel.anchor.operands[0]), k.kernel.anchor.result
    layout, count = k.layout(w), math.prod(w.shape[1:])

    def body(f: Function) -> None:
        def visit(unit: Index, boxes: list[Box], lanes: int) -> None:
            real, padding = _parts(f, layout, boxes)

            def add(place: Index, carried: list[V]) -> list[V]:
                size = f.unary("fabs", f.load(f.address(k.pointer(w), place), lanes))
                return [f.binary("fadd", carried[0], f.convert("fpext", size, "double"))]

            (total,) = walk(f, real, [double_zeros(lanes)], add)
            many = f.splat(V(str(float(count)), "double"), lanes)
            mean = f.convert("fptrunc", f.binary("fdiv", total, many), "float")
            opposite = f.negate(mean)

            def sign(place: Index, carried: list[V]) -> list[V]:
                bits = f.convert("bitcast", f.load(f.address(k.pointer(w), place), lanes), "i32")
                below = f.compare("ugt", bits, f.splat(V(str(_MINUS_ZERO), "i32"), lanes))
                f.store(f.select(below, opposite, mean), f.address(k.pointer(result), place))
                return []

            def clear(place: Index, carried: list[V]) -> list[V]:
                f.store(f.constant(0.0, lanes), f.address(k.pointer(result), place))
                return []

            walk(f, real, [], sign)
            walk(f, padding, [], clear)

        each_unit(f, layout, w.shape, 0, 1, k.machine.lanes, visit)

    k.phase("binarize", body)


def _parts(f: Function, layout: Layout, boxes: list[Box]) -> tuple[list[Box], list[Box]]:
    """The places of a unit's weights, and those of its padding: the last channels of every pixel."""
    if not isinstance(layout, WeightLayout) or layout.rows.stored == layout.rows.channels:
        return boxes, []
    rows = layout.rows
    ((start, [(_, width)]),) = boxes
    pixels, padding = (rows.pixels, rows.stored * width), rows.stored - rows.channels
    behind = f.add(start, rows.channels * width)
    return [(start, [pixels, (rows.channels, width)])], [(behind, [pixels, (padding, width)])]
