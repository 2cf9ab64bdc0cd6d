"""Filters and their transforms in memory: the loop over all of them, a vector of output channels at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from convc.codegen.llvm.control import maybe
from convc.codegen.llvm.register_tile import column_pieces
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.passes.algorithms.transform_plan import Products, TransformPlan
from convc.passes.layout import WeightLayout


@dataclass(frozen=True)
class FilterPlace:
    """A vector of `lanes` filters that read one channel: where their first tap lies among the weights and how far the
    others are from it; the same of their values after the transform."""

    packed: Index
    taps: tuple[tuple[int, ...], ...]
    transformed: Index
    values: tuple[Index, ...]
    lanes: int

    def tap(self, f: Function, weights: V, row: int, column: int) -> V:
        """The address of a tap."""
        return f.address(f.address(weights, self.packed), self.taps[row][column])

    def value(self, f: Function, values: V, number: int) -> V:
        """The address of a filter value."""
        return f.address(f.address(values, self.transformed), self.values[number])


def each_filter(f: Function, plan: TransformPlan, layout: WeightLayout) -> Iterator[FilterPlace]:
    """This thread's share of all filters.

    Their values lie like `layout` in blocks of outputs: [group][entry][part out][block][part in][channel in][outputs].
    """
    blocks, inner = len(layout.blocks), plan.inner
    full = layout.columns // layout.block
    start, stop = f.share(layout.groups * inner * blocks)
    with f.loop(start, stop) as unit:
        block, rest = f.remainder(unit.index, blocks), f.divide(unit.index, blocks)
        channel, group = f.remainder(rest, inner), f.divide(rest, inner)
        for width in dict.fromkeys(layout.blocks):
            both = 0 < full < blocks
            condition = (f.less(block, full) if width == layout.block else f.equal(block, full)) if both else None
            with maybe(f, condition):
                yield from _vectors(f, plan, layout, group, block, channel, width)


def _vectors(
    f: Function, plan: TransformPlan, layout: WeightLayout, group: Index, block: Index, channel: Index, width: int
) -> Iterator[FilterPlace]:
    rows = layout.rows
    line = f.multiply(channel, width)
    packed = f.sum(f.multiply(group, layout.columns * rows.size), f.multiply(block, layout.block * rows.size), line)
    transformed = f.add(f.multiply(group, plan.filter_floats), line)
    taps = tuple(
        tuple((r * rows.width + s) * rows.channels * width for s in range(rows.width)) for r in range(rows.height)
    )
    values: list[Index] = []
    for products, panel in _panels(plan):
        for part in range(products.parts):
            inside = part * plan.inner_stored * width
            values.append(f.add(f.multiply(block, layout.block * plan.depth(products)), panel + inside))
    for piece in column_pieces(width, plan.machine.lanes):
        yield FilterPlace(
            f.add(packed, piece.offset), taps, f.add(transformed, piece.offset), tuple(values), piece.lanes
        )


def _panels(plan: TransformPlan) -> Iterator[tuple[Products, int]]:
    """Where the matrices lie: one for each entry and part of the result, which reads all parts and channels."""
    first = 0
    for products in plan.form.products:
        size = plan.depth(products) * plan.columns
        for panel in range(products.entries * products.parts):
            yield products, first + panel * size
        first += products.entries * plan.filter_entry(products)


def clear_padding_channels(f: Function, plan: TransformPlan, layout: WeightLayout, values: V) -> None:
    """Zeros for the channels that only pad: between parts of complex products they are multiplied like the others."""
    missing = plan.inner_stored - plan.inner
    first = 0
    for products in plan.form.products:
        panels, size = products.entries * products.parts, plan.depth(products) * plan.columns
        if missing and products.parts > 1:
            start, stop = f.share(layout.groups * panels)
            with f.loop(start, stop) as unit:
                group, panel = f.divide(unit.index, panels), f.remainder(unit.index, panels)
                place = f.sum(f.multiply(group, plan.filter_floats), f.multiply(panel, size), first)
                for number, width in enumerate(layout.blocks):
                    for part in range(products.parts):
                        row = (
                            number * layout.block * plan.depth(products)
                            + (part * plan.inner_stored + plan.inner) * width
                        )
                        with f.loop(0, missing * width) as lane:
                            f.store(f.constant(0.0), f.address(values, f.sum(place, row, lane.index)))
        first += products.entries * plan.filter_entry(products)
