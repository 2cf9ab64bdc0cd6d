"""Filters and their transforms in memory: the loop over all of them, a vector of output channels at a time."""

from __future__ import annotations

from collections.abc import Iterator

from convc.codegen.llvm.algorithms.transform import EntryPlaces, Values
from convc.codegen.llvm.control import maybe
from convc.codegen.llvm.register_tile import Piece, column_pieces
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.lazy import dataclass
from convc.passes.algorithms.transform_plan import TransformPlan
from convc.passes.layout import WeightLayout


@dataclass(frozen=True)
class FilterPlace:
    """A vector of `lanes` filters that read one channel: `first` is the address of its first tap, `row` and `column`
    are how far it is to the others; `values` is where its transform lies."""

    first: V
    row: int
    column: int
    values: Values
    lanes: int

    def tap(self, f: Function, row: Index, column: int) -> V:
        """The address of a tap."""
        return f.address(f.address(self.first, f.multiply(row, self.row)), column * self.column)


def each_filter(f: Function, plan: TransformPlan, layout: WeightLayout, taps: V, values: V) -> Iterator[FilterPlace]:
    """This thread's share of all filters, whose taps, packed by `layout`, and values begin at these addresses.

    Values lie in blocks of outputs as products want them: [group][entry][block][channel in][part][output of the block].
    """
    blocks, inner = len(layout.blocks), plan.inner
    full = layout.columns // layout.block
    start, stop = f.share(layout.groups * inner * blocks)
    with f.loop(start, stop) as unit:
        # Channels innermost: neighbours in memory, for the taps as for each of the values.
        channel, rest = f.remainder(unit.index, inner), f.divide(unit.index, inner)
        block, group = f.remainder(rest, blocks), f.divide(rest, blocks)
        packed = f.address(taps, f.multiply(group, layout.columns * layout.rows.size))
        transformed = f.address(values, f.multiply(group, plan.filter_floats))
        for width in dict.fromkeys(layout.blocks):
            both = 0 < full < blocks
            condition = (f.less(block, full) if width == layout.block else f.equal(block, full)) if both else None
            with maybe(f, condition):
                first = f.multiply(block, layout.block)
                for piece in column_pieces(width, plan.machine.lanes):
                    yield _vector(f, plan, layout, packed, transformed, channel, first, width, piece)


def _vector(
    f: Function, plan: TransformPlan, layout: WeightLayout, packed: V, transformed: V, channel: Index, first: Index,
    width: int, piece: Piece,
) -> FilterPlace:  # fmt: skip
    """A piece of the block of `width` outputs from `first` on."""
    rows = layout.rows
    tap = f.sum(f.multiply(first, rows.size), f.multiply(channel, width), piece.offset)
    places: list[EntryPlaces] = []
    before = 0
    for products in plan.form.products:
        # Where products have narrower blocks than the layout of filters, this one is cut up.
        block = plan.product_block(products, layout.block)
        start = piece.offset // block * block
        block = min(block, width - start)
        panel = f.multiply(f.add(first, start), plan.inner * products.parts)
        line = f.multiply(channel, block * products.parts)
        place = f.sum(panel, line, before + piece.offset - start)
        places.append(EntryPlaces(f.address(transformed, place), plan.filter_entry(products), block))
        before += products.entries * plan.filter_entry(products)
    column = rows.channels * width
    values = Values(tuple(places), piece.lanes)
    return FilterPlace(f.address(packed, tap), rows.width * column, column, values, piece.lanes)
