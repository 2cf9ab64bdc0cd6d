"""Weights unit by unit, whatever their layout: where the weights of a unit lie, and loops over them."""

from __future__ import annotations

import math
from collections.abc import Callable

from convc.codegen.llvm.register_tile import column_pieces
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.ir.types import Shape
from convc.passes.layout import Layout, WeightLayout
from convc.passes.machine import split_lanes

# Places in memory: a first element, and nested loops over (extent, distance).
Box = tuple[Index, list[tuple[int, int]]]
# Called with the number of a unit, its places, and how many units lie side by side: a vector at each place.
UnitVisit = Callable[[Index, list[Box], int], None]
PlaceVisit = Callable[[Index, list[V]], list[V]]
# Called with the number of an output, that of a row of the reduction, a place, and the lanes of a vector of outputs.
RowVisit = Callable[[Index, Index, Index, int], None]


def double_zeros(lanes: int) -> V:
    """What a sum in double precision starts from."""
    return V("0.0", "double") if lanes == 1 else V("zeroinitializer", f"<{lanes} x double>")


def walk(f: Function, boxes: list[Box], carried: list[V], visit: PlaceVisit) -> list[V]:
    """Visit all places in order, carrying values from one to the next."""
    for start, loops in boxes:
        carried = _walk(f, start, loops, carried, visit)
    return carried


def _walk(f: Function, start: Index, loops: list[tuple[int, int]], carried: list[V], visit: PlaceVisit) -> list[V]:
    if not loops:
        return visit(start, carried)
    (extent, distance), *rest = loops
    with f.loop(0, extent, carried=carried) as loop:
        loop.carried = _walk(f, f.add(start, f.multiply(loop.index, distance)), rest, loop.carried, visit)
    return loop.carried


def each_unit(f: Function, layout: Layout, shape: Shape, axis: int, groups: int, lanes: int, visit: UnitVisit) -> None:
    """Visit this thread's share of the units (see `convc.ir.ops.units`) of weights of a shape."""
    if isinstance(layout, WeightLayout) and axis == 0:
        _packed_outputs(f, layout, lanes, visit)
    elif isinstance(layout, WeightLayout):
        assert layout.groups == groups, "inputs have as many groups as the layer that reads them"
        _packed_inputs(f, layout, shape[1], visit)
    else:
        _plain_units(f, shape, axis, groups, visit)


def column_blocks(layout: WeightLayout) -> list[tuple[int, int, int]]:
    """(first, count, width) of the blocks of columns of a group that are equally wide: full ones, and the rest."""
    full, rest = divmod(layout.columns, layout.block)
    kinds = [(0, full, layout.block), (full, 1 if rest else 0, rest)]
    return [kind for kind in kinds if kind[1]]


def each_row(f: Function, layout: WeightLayout, lanes: int, visit: RowVisit) -> None:
    """Visit every vector of packed weights, row by row, padding included; threads share the rows."""
    depth, own = layout.rows.size, layout.outputs // layout.groups
    for first, count, width in column_blocks(layout):
        start, stop = f.share(layout.groups * count * depth)
        with f.loop(start, stop) as unit:
            block, row = f.divide(unit.index, depth), f.remainder(unit.index, depth)
            group = f.divide(block, count) if layout.groups > 1 else 0
            column = f.multiply(f.add(f.remainder(block, count), first), layout.block)
            panel = f.sum(f.multiply(group, layout.columns * depth), f.multiply(column, depth), f.multiply(row, width))
            output = f.add(f.multiply(group, own), column)
            for piece in column_pieces(width, lanes):
                visit(f.add(output, piece.offset), row, f.add(panel, piece.offset), piece.lanes)


# What is done with a vector of weights: its place, the logical number of its first, how far apart the next are, lanes.
WeightVisit = Callable[[Index, Index, int, int], None]


def each_weight(f: Function, layout: Layout, lanes: int, visit: WeightVisit) -> None:
    """Visit every vector of a parameter in any layout, padding included, with the logical numbers of its elements."""
    if isinstance(layout, WeightLayout):
        rows, features = layout.rows, layout.rows.channels * layout.rows.pixels

        def packed(output: Index, row: Index, place: Index, count: int) -> None:
            pixel, channel = f.divide(row, rows.stored), f.remainder(row, rows.stored)
            feature = f.add(f.multiply(channel, rows.pixels), pixel)
            visit(place, f.add(f.multiply(output, features), feature), features, count)

        each_row(f, layout, lanes, packed)
        return
    groups = layout.size // lanes
    start, stop = f.share(groups)
    if groups:
        with f.loop(start, stop) as group:
            place = f.multiply(group.index, lanes)
            visit(place, place, 1, lanes)
    with f.when(f.equal(f.rank, 0)):
        first = groups * lanes
        for piece in split_lanes(layout.size - first, lanes // 2 if lanes > 4 else 1):
            visit(first, first, 1, piece)
            first += piece


def _packed_outputs(f: Function, layout: WeightLayout, lanes: int, visit: UnitVisit) -> None:
    """Units are columns of blocks: as many at once as fit a vector."""
    depth, own = layout.rows.size, layout.outputs // layout.groups
    for first, count, width in column_blocks(layout):
        start, stop = f.share(layout.groups * count)
        with f.loop(start, stop) as unit:
            group, block = f.divide(unit.index, count), f.remainder(unit.index, count)
            column = f.multiply(f.add(block, first), layout.block)
            base = f.multiply(f.add(f.multiply(group, layout.columns), column), depth)
            number = f.add(f.multiply(group, own), column)
            for piece in column_pieces(width, lanes):
                visit(f.add(number, piece.offset), [(f.add(base, piece.offset), [(depth, width)])], piece.lanes)


def _packed_inputs(f: Function, layout: WeightLayout, inputs: int, visit: UnitVisit) -> None:
    """Units are rows across all blocks of a group: all taps of a channel, or a feature of a fully connected layer."""
    depth, rows = layout.rows.size, layout.rows
    taps = rows.pixels if inputs == rows.channels else 1
    start, stop = f.share(layout.groups * inputs)
    with f.loop(start, stop) as unit:
        group, feature = f.divide(unit.index, inputs), f.remainder(unit.index, inputs)
        base = f.multiply(group, layout.columns * depth)
        row = feature if taps > 1 else row_of(f, layout, feature)
        boxes: list[Box] = []
        for first, count, width in column_blocks(layout):
            begin = f.sum(base, first * layout.block * depth, f.multiply(row, width))
            boxes.append((begin, [(count, layout.block * depth), (taps, rows.stored * width), (width, 1)]))
        visit(unit.index, boxes, 1)


def row_of(f: Function, layout: WeightLayout, feature: Index) -> Index:
    """The row of the reduction that holds a feature, counted in the logical order (channel, pixel)."""
    rows = layout.rows
    channel, pixel = f.divide(feature, rows.pixels), f.remainder(feature, rows.pixels)
    return f.add(f.multiply(pixel, rows.stored), channel)


def _plain_units(f: Function, shape: Shape, axis: int, groups: int, visit: UnitVisit) -> None:
    """Weights in logical order, which no layer reads."""
    inner = math.prod(shape[1:]) if axis == 0 else math.prod(shape[2:])
    units = shape[0] if axis == 0 else groups * shape[1]
    start, stop = f.share(units)
    with f.loop(start, stop) as unit:
        if axis == 0:
            boxes: list[Box] = [(f.multiply(unit.index, inner), [(inner, 1)])]
        else:
            group, output = f.divide(unit.index, shape[1]), f.remainder(unit.index, shape[1])
            outputs = shape[0] // groups
            base = f.add(f.multiply(group, outputs * shape[1] * inner), f.multiply(output, inner))
            boxes = [(base, [(outputs, shape[1] * inner), (inner, 1)])]
        visit(unit.index, boxes, 1)
