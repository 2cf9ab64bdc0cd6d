"""Transform convolutions, forward and backward by the data (what they are: `passes/algorithms/transform_plan.py`).

Three steps for each chunk of tiles, done by all threads together, with barriers between them:

    V  =  transform(tiles of the images)      threads split tiles; vectors of channels
    M  =  V · U                               threads split (value, block of outputs, rows of tiles)
    y  =  inverse transform(M), the chain     threads split tiles; vectors of channels

Nothing that is summed up is split among threads, and how many chunks there are depends on the images only.

Backward by the data the cotangents are the images, and the filters are turned by 180° with channels exchanged.
"""

from __future__ import annotations

from dataclasses import replace

from convc.codegen.llvm.algorithms.tiles import TilePlace, TileView, each_tile, read_tile
from convc.codegen.llvm.algorithms.transform import Transform
from convc.codegen.llvm.algorithms.transform_filters import clear_padding_channels, each_filter
from convc.codegen.llvm.channels import channel_vectors
from convc.codegen.llvm.direct import clear_padding
from convc.codegen.llvm.gemm import Matrices, Product, multiply
from convc.codegen.llvm.kernel import KernelBuilder, Spot
from convc.codegen.llvm.transposition import transpose_filters
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.ir.graph import Value
from convc.ir.ops.conv import Conv2d, Conv2dBackwardData
from convc.passes.algorithms.problem import Problem
from convc.passes.algorithms.transform_plan import TransformPlan
from convc.passes.layout import ImageLayout, WeightLayout

# Chains up to this length are written out for every pixel of a whole tile; longer ones are code in a loop over pixels.
_LONGEST_WRITTEN_OUT = 4


def plan_of(k: KernelBuilder, transform: Transform) -> TransformPlan:
    return TransformPlan.of(Problem.of(k.kernel.anchor), k.machine, transform.form)


def scratch_transform_convolution(k: KernelBuilder, transform: Transform) -> int:
    return 4 * plan_of(k, transform).places.end


def lower_transform_convolution(k: KernelBuilder, transform: Transform) -> None:
    """conv2d or its gradient by the images, with bias and a chain."""
    op = k.op(Conv2d, Conv2dBackwardData)
    plan = plan_of(k, transform)
    images, weights = k.kernel.anchor.operands[:2]
    packed = k.layout(weights)
    assert isinstance(packed, WeightLayout)
    turned = isinstance(op, Conv2dBackwardData)
    layout = turned_layout(plan) if turned else packed
    if turned:
        k.phase(
            "transpose_filters",
            lambda f: transpose_filters(
                f,
                k.pointer(weights),
                packed,
                f.address(k.scratch_pointer(), plan.places.images),
                layout,
                k.machine.lanes,
            ),
        )

    def filters(f: Function) -> None:
        scratch = k.scratch_pointer()
        source = f.address(scratch, plan.places.images) if turned else k.pointer(weights)
        transform_filters(f, plan, layout, transform, source, scratch, turned)

    k.phase("transform_filters", filters)
    k.phase(op.name, lambda f: _Emitter(k, f, plan, layout, transform, images).emit())
    clear_padding(k, op.groups)


def turned_layout(plan: TransformPlan) -> WeightLayout:
    """The layout of the filters with channels exchanged: outputs are the input channels."""
    taps = plan.form.taps
    rows = ImageLayout(plan.inner, *taps, plan.inner)
    return WeightLayout(plan.outputs * plan.problem.groups, rows, plan.block, plan.problem.groups)


def transform_filters(
    f: Function, plan: TransformPlan, layout: WeightLayout, transform: Transform, source: V, scratch: V, turned: bool
) -> None:
    """U of all filters, and the zeros that tiles read beyond the borders."""
    clear(f, scratch, plan.zeros)
    target = f.address(scratch, plan.places.filters)
    order = -1 if turned else 1
    for place in each_filter(f, plan, layout):
        taps = [
            [f.load(place.tap(f, source, r, s), place.lanes) for s in range(plan.form.taps[1])[::order]]
            for r in range(plan.form.taps[0])[::order]
        ]
        for number, value in enumerate(transform.filter(f, taps)):
            f.store(value, place.value(f, target, number))
    clear_padding_channels(f, plan, layout, target)


def clear(f: Function, target: V, count: int) -> None:
    """Zeros, by the first thread."""
    with f.when(f.equal(f.rank, 0)), f.loop(0, count) as place:
        f.store(f.constant(0.0), f.address(target, place.index))


class _Emitter:
    """Writes the phase that all chunks pass through."""

    def __init__(
        self, k: KernelBuilder, f: Function, plan: TransformPlan, layout: WeightLayout, transform: Transform,
        images: Value,
    ) -> None:  # fmt: skip
        self.k, self.f, self.plan, self.layout, self.transform = k, f, plan, layout, transform
        result = k.kernel.anchor.result
        self.source = TileView(plan.axis(0), plan.axis(1), k.image(images))
        self.target = TileView(plan.output_axis(0), plan.output_axis(1), k.image(result))
        self.images = k.pointer(images)
        bias = k.kernel.anchor.operands[2:]
        self.bias = k.pointer(bias[0]) if bias else None
        scratch, places = k.scratch_pointer(), plan.places
        self.zeros = scratch
        self.filters, self.values, self.results = (
            f.address(scratch, place) for place in (places.filters, places.images, places.results)
        )
        # Channels of one group of the convolution, as vectors see them.
        self.inner = ImageLayout(plan.inner, 1, 1, plan.inner_stored)
        self.outer = ImageLayout(plan.outputs, 1, 1, plan.columns)

    def emit(self) -> None:
        f, plan = self.f, self.plan
        total = f.multiply(self.k.rows(f), plan.tiles)
        with f.loop(0, plan.problem.groups) as group, f.loop(0, total, plan.chunk) as chunk:
            count = f.minimum(f.subtract(total, chunk.index), plan.chunk)
            for place in each_tile(f, plan.grid, chunk.index, count):
                self._transform_tile(place, group.index)
            self.k.barrier(f)
            self._multiply(group.index, count)
            self.k.barrier(f)
            for place in each_tile(f, plan.grid, chunk.index, count):
                self._inverse_tile(place, group.index)

    def _transform_tile(self, place: TilePlace, group: Index) -> None:
        f, plan = self.f, self.plan
        images = f.address(self.images, f.multiply(group, plan.inner))
        for tile, channel in read_tile(f, self.source, place, images, self.zeros, self.inner, self.k.machine.lanes):
            store_values(f, plan, self.values, place.slot, channel, self.transform.image(f, tile))

    def _multiply(self, group: Index, count: Index) -> None:
        f, plan = self.f, self.plan
        tile = plan.product_tile(self.layout.block, plan.chunk)
        filters = f.address(self.filters, f.multiply(group, plan.filter_floats))
        value, image, matrix = 0, 0, 0
        for products in plan.form.products:
            depth = plan.depth(products)
            product = Product(count, plan.columns, depth, tile, products.entries, real=plan.outputs)
            with f.loop(0, products.parts) as part:
                multiply(
                    f, plan.machine, product,
                    Matrices(f.address(self.values, image), plan.image_row(products), plan.image_entry(products)),
                    Matrices(
                        f.address(filters, f.add(matrix, f.multiply(part.index, depth * plan.columns))),
                        0, plan.filter_entry(products), packed=True,
                    ),
                    Matrices(
                        f.address(self.results, f.add(value, f.multiply(part.index, plan.result_entry))),
                        plan.result_row, products.parts * plan.result_entry,
                    ),
                )  # fmt: skip
            value += products.entries * products.parts * plan.result_entry
            image += products.entries * plan.image_entry(products)
            matrix += products.entries * plan.filter_entry(products)

    def _inverse_tile(self, place: TilePlace, group: Index) -> None:
        f, plan = self.f, self.plan
        first_channel = f.multiply(group, plan.outputs)
        written_out = not self.k.needs_position and len(self.k.kernel.chain) <= _LONGEST_WRITTEN_OUT
        base = self.target.offset(f, place)
        for whole in self.target.cases(f, place) if written_out else (False,):
            for channel, lanes, real in channel_vectors(f, self.outer, self.k.machine.lanes):
                slots = [self._result(place.slot, channel, number) for number in range(plan.form.values)]
                tile = self.transform.output(f, [f.load(slot, lanes) for slot in slots])
                channel = f.add(first_channel, channel)
                if self.bias is not None:
                    bias = f.load(f.address(self.bias, channel), lanes)
                    tile = [[f.binary("fadd", value, bias) for value in row] for row in tile]
                spot = Spot(place.image, 0, channel, f.add(base, channel), 0, lanes, real)
                if whole:
                    self._finish_whole(spot, tile)
                else:
                    self._finish_partial(place, spot, tile, slots)

    def _result(self, slot: Index, channel: Index, number: int) -> V:
        f, plan = self.f, self.plan
        place = f.address(self.results, f.add(f.multiply(slot, plan.result_row), channel))
        return f.address(place, number * plan.result_entry)

    def _finish_whole(self, spot: Spot, tile: list[list[V]]) -> None:
        for i, row in enumerate(tile):
            for j, value in enumerate(row):
                self.k.finish(self.f, replace(spot, extra=self.target.beyond(i, j)), value)

    def _finish_partial(self, place: TilePlace, spot: Spot, tile: list[list[V]], slots: list[V]) -> None:
        """The outputs that exist, one by one: they wait where the products were, which nobody needs any more."""
        f, (rows, columns) = self.f, (self.target.rows, self.target.columns)
        for slot, value in zip(slots, (value for row in tile for value in row), strict=False):
            f.store(value, slot)
        top, left = self.target.corner(f, rows, place.row), self.target.corner(f, columns, place.column)
        down = f.minimum(f.subtract(rows.size, top), rows.extent)
        across = f.minimum(f.subtract(columns.size, left), columns.extent)
        with f.loop(0, down) as i, f.loop(0, across) as j:
            number = f.add(f.multiply(i.index, columns.extent), j.index)
            value = f.load(f.address(slots[0], f.multiply(number, self.plan.result_entry)), spot.lanes)
            beyond = f.add(f.multiply(i.index, columns.size), j.index)
            pixel = f.sum(f.multiply(top, columns.size), left, beyond)
            base = f.add(spot.base, f.multiply(beyond, self.target.layout.stored))
            self.k.finish(f, replace(spot, pixel=pixel, base=base), value)


def store_values(
    f: Function, plan: TransformPlan, values: V, slot: Index, channel: Index, transformed: list[V]
) -> None:
    """A vector of channels of a tile's values into V."""
    vectors = iter(transformed)
    first = 0
    for products in plan.form.products:
        row = f.address(values, f.add(f.multiply(slot, plan.image_row(products)), channel))
        for entry in range(products.entries):
            for part in range(products.parts):
                f.store(
                    next(vectors), f.address(row, first + entry * plan.image_entry(products) + part * plan.inner_stored)
                )
        first += products.entries * plan.image_entry(products)
