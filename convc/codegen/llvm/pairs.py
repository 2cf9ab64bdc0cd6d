"""Weights with their rows in pairs, as products of bfloat16 numbers read them (`WeightLayout.pairs`).

    [block of outputs][row][output]  →  [block of outputs][pair of rows][output][2]

The cast from float32 rides in the epilogue, so that parameters are read once, and written in half the space.
"""

from __future__ import annotations

from convc.codegen.llvm.kernel import KernelBuilder, Spot
from convc.codegen.llvm.register_tile import column_pieces
from convc.codegen.llvm.units import column_blocks
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.passes.fusion import resolve
from convc.passes.layout import WeightLayout


def lower_pairs(k: KernelBuilder) -> None:
    """Threads share the pairs of rows of all blocks."""
    (w,) = k.kernel.anchor.operands
    source, target = k.layout(resolve(w)), k.layout(k.kernel.anchor.result)
    assert isinstance(source, WeightLayout)
    assert isinstance(target, WeightLayout)
    pairs = target.rows.size // 2

    def body(f: Function) -> None:
        for first, count, width in column_blocks(target):
            with f.loop(*f.share(target.groups * count * pairs)) as unit:
                block, pair = f.divide(unit.index, pairs), f.remainder(unit.index, pairs)
                group = f.divide(block, count) if target.groups > 1 else 0
                column = f.multiply(f.add(f.remainder(block, count), first), target.block)
                before = f.add(f.multiply(group, target.columns), column)
                row, second = _rows_of(f, source, target, pair)
                given = f.add(f.multiply(before, source.rows.size), f.multiply(row, width))
                place = f.add(f.multiply(before, target.rows.size), f.multiply(pair, 2 * width))
                panel = f.address(k.pointer(w), given)
                for piece in column_pieces(width, k.machine.lanes):
                    vector = f.address(panel, piece.offset)
                    rows = f.load(vector, piece.lanes), _second(f, vector, width, piece.lanes, second)
                    lanes = 2 * piece.lanes
                    k.finish(f, Spot(0, 0, 0, place, 2 * piece.offset, lanes, lanes), f.interleave(*rows))

    k.phase("pairs", body)


def _rows_of(f: Function, source: WeightLayout, target: WeightLayout, pair: Index) -> tuple[Index, V | None]:
    """The first row of a pair, and whether there is a second one (None: always)."""
    if source.rows.size == target.rows.size:
        return f.multiply(pair, 2), None
    in_tap = target.rows.stored // 2
    channel = f.multiply(f.remainder(pair, in_tap), 2)
    row = f.add(f.multiply(f.divide(pair, in_tap), source.rows.stored), channel)
    return row, f.less(f.add(channel, 1), source.rows.stored)


def _second(f: Function, first: V, width: int, lanes: int, exists: V | None) -> V:
    """The vector of the second row, zeros where there is none."""
    if exists is None:
        return f.load(f.address(first, width), lanes)
    distance = f.select(exists, V(str(width), "i64"), V("0", "i64"))
    return f.select(exists, f.load(f.address(first, distance), lanes), f.constant(0.0, lanes))
