"""Transform convolutions, forward and backward by the data (what they are: `passes/algorithms/transform_plan.py`).

Three steps for each chunk of tiles:

    V  =  transform(tiles of the images)      vectors of channels
    M  =  V · U                               (value, block of outputs, rows of tiles)
    y  =  inverse transform(M), the chain     vectors of channels

A thread takes chunks of its own through all three, so that what it writes stays in its caches; or, where filters are
larger than the tiles, all threads share each step of a chunk, with barriers between them (`TransformPlan.apart`).

Nothing that is summed up is split among threads, and how many chunks there are depends on the images only.

Backward by the data the cotangents are the images, and the filters are turned by 180° with channels exchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from convc.codegen.llvm.algorithms.chunks import Chunk, chunks
from convc.codegen.llvm.algorithms.tiles import TilePlace, TileView, each_tile, read_tile
from convc.codegen.llvm.algorithms.transform import EntryPlaces, Transform, Values
from convc.codegen.llvm.algorithms.transform_filters import FilterPlace, each_filter
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
from convc.passes.fusion import resolve
from convc.passes.layout import ImageLayout, WeightLayout
from convc.passes.transformed_layout import TransformedLayout

# Chains up to this length are written out for every pixel of a whole tile; longer ones are code in a loop over pixels.
_LONGEST_WRITTEN_OUT = 4

Kind = Callable[[Problem], Transform]
"""A kind of transform convolution: its transforms for the kernel of a problem."""


def problem_of(k: KernelBuilder) -> Problem:
    """The problem of the anchor; filters that are transformed already are prepared."""
    node = k.kernel.anchor
    second = node.operands[1]
    return Problem.of(node, [second] if isinstance(k.layout(resolve(second)), TransformedLayout) else ())


def plan_of(k: KernelBuilder, transform: Transform) -> TransformPlan:
    return TransformPlan.of(problem_of(k), k.machine, transform.form)


def scratch_transform_convolution(k: KernelBuilder, kind: Kind) -> int:
    return 4 * plan_of(k, kind(problem_of(k))).places.end


def lower_transform_filters(k: KernelBuilder, kinds: Mapping[str, Kind]) -> None:
    """relayout of filters: their transforms, by the kind of convolution that will read them."""
    (weights,) = k.kernel.anchor.operands
    source, target = k.layout(resolve(weights)), k.layout(k.kernel.anchor.result)
    assert isinstance(source, WeightLayout)
    assert isinstance(target, TransformedLayout)
    transform = kinds[target.algorithm](target.problem)
    plan = TransformPlan.of(target.problem, k.machine, transform.form)

    def body(f: Function) -> None:
        transform_filters(
            f, plan, source, transform, k.pointer(weights), k.pointer(k.kernel.anchor.result), turned=False
        )

    k.phase("transform_filters", body)


def lower_transform_convolution(k: KernelBuilder, kind: Kind) -> None:
    """conv2d or its gradient by the images, with bias and a chain."""
    op = k.op(Conv2d, Conv2dBackwardData)
    transform = kind(problem_of(k))
    plan = plan_of(k, transform)
    images, weights = k.kernel.anchor.operands[:2]
    packed = k.layout(resolve(weights))
    if isinstance(packed, TransformedLayout):
        k.phase(op.name, lambda f: _Emitter(k, f, plan, packed.filters, transform, images).emit())
        clear_padding(k, op.groups)
        return
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
    rows = ImageLayout(plan.inner, *plan.problem.kernel, plan.inner)
    return WeightLayout(plan.outputs * plan.problem.groups, rows, plan.block, plan.problem.groups)


def transform_filters(
    f: Function, plan: TransformPlan, layout: WeightLayout, transform: Transform, source: V, scratch: V, turned: bool
) -> None:
    """Zeros that tiles read beyond the borders, then U of all filters, from the address `scratch` on."""
    clear(f, scratch, plan.zeros)
    height, width = plan.problem.kernel
    for place in each_filter(f, plan, layout, source, f.address(scratch, plan.places.filters)):

        def row(i: Index, place: FilterPlace = place) -> list[V]:
            if turned:
                return [f.load(place.tap(f, f.subtract(height - 1, i), s), place.lanes) for s in reversed(range(width))]
            return [f.load(place.tap(f, i, s), place.lanes) for s in range(width)]

        transform.filter(f, row, place.values)


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
        self.zeros = k.pointer(k.kernel.anchor.operands[1]) if plan.problem.prepared else scratch
        self.filters = f.address(self.zeros, places.filters)
        self.values, self.results = f.address(scratch, places.images), f.address(scratch, places.results)
        # Channels of one group of the convolution, as vectors see them.
        self.inner = ImageLayout(plan.inner, 1, 1, plan.inner_stored)
        self.outer = ImageLayout(plan.outputs, 1, 1, plan.columns)

    def emit(self) -> None:
        f, plan = self.f, self.plan
        total = f.multiply(self.k.rows(f), plan.tiles)
        with f.loop(0, plan.problem.groups) as group:
            for chunk in chunks(f, plan, total):
                values, results = (f.address(start, chunk.space) for start in (self.values, self.results))
                for place in each_tile(f, plan.grid, chunk.slots):
                    self._transform_tile(place, group.index, values)
                if not chunk.apart:
                    self.k.barrier(f)
                self._multiply(group.index, chunk, values, results)
                if not chunk.apart:
                    self.k.barrier(f)
                for place in each_tile(f, plan.grid, chunk.slots):
                    self._inverse_tile(place, group.index, results)

    def _transform_tile(self, place: TilePlace, group: Index, values: V) -> None:
        f, plan, transform = self.f, self.plan, self.transform
        images = f.address(self.images, f.multiply(group, plan.inner))
        for rows, channel, lanes in read_tile(
            f, self.source, place, images, self.zeros, self.inner, self.k.machine.lanes, transform.in_registers
        ):
            transform.image(f, rows, image_values(f, plan, values, place.slot, channel, lanes))

    def _multiply(self, group: Index, chunk: Chunk, v: V, m: V) -> None:
        f, plan = self.f, self.plan
        filters = f.address(self.filters, f.multiply(group, plan.filter_floats))
        image, matrix, result = 0, 0, 0
        for products in plan.form.products:
            tile = plan.product_tile(products, self.layout.block, plan.chunk)
            product = Product(
                chunk.count, plan.columns, plan.inner, tile, products.entries, real=plan.outputs, parts=products.parts
            )
            rows, results = plan.image_row(products), plan.result_row(products)
            multiply(
                f, plan.machine, product,
                Matrices(
                    f.address(v, f.add(f.multiply(chunk.first, rows), image)), rows,
                    plan.image_entry(products), imaginary=plan.inner_stored,
                ),
                Matrices(f.address(filters, matrix), 0, plan.filter_entry(products), packed=True),
                Matrices(
                    f.address(m, f.add(f.multiply(chunk.first, results), result)), results,
                    plan.result_entry(products), imaginary=plan.columns,
                ),
                chunk.units(f, product),
            )  # fmt: skip
            image += products.entries * plan.image_entry(products)
            matrix += products.entries * plan.filter_entry(products)
            result += products.entries * plan.result_entry(products)

    def _inverse_tile(self, place: TilePlace, group: Index, results: V) -> None:
        f, plan = self.f, self.plan
        first_channel = f.multiply(group, plan.outputs)
        short = not self.k.needs_position and len(self.k.kernel.chain) <= _LONGEST_WRITTEN_OUT
        base = self.target.offset(f, place)
        for whole in self.target.cases(f, place) if short and self.transform.in_registers else (False,):
            for channel, lanes, real in channel_vectors(f, self.outer, self.k.machine.lanes):
                values = result_values(f, plan, results, place.slot, channel, lanes)
                channel = f.add(first_channel, channel)
                spot = Spot(place.image, 0, channel, f.add(base, channel), 0, lanes, real)
                if whole:
                    self._finish_whole(spot, self._outputs(values, channel))
                else:
                    self._finish_partial(place, spot, self._outputs(values, channel))

    def _outputs(self, values: Values, channel: Index) -> Iterator[tuple[Index, list[V]]]:
        """Rows of outputs with their bias."""
        f = self.f
        bias = None if self.bias is None else f.load(f.address(self.bias, channel), values.lanes)
        for i, row in self.transform.output(f, values):
            yield i, row if bias is None else [f.binary("fadd", value, bias) for value in row]

    def _finish_whole(self, spot: Spot, rows: Iterable[tuple[Index, list[V]]]) -> None:
        for i, row in rows:
            assert isinstance(i, int)
            for j, value in enumerate(row):
                self.k.finish(self.f, replace(spot, extra=self.target.beyond(i, j)), value)

    def _finish_partial(self, place: TilePlace, spot: Spot, rows: Iterable[tuple[Index, list[V]]]) -> None:
        """The outputs that exist, one by one in a loop: they wait in memory."""
        f, view = self.f, self.target
        together = self.transform.in_registers
        row_floats = view.columns.extent * spot.lanes
        waiting = f.local("outputs", (view.rows.extent if together else 1) * row_floats)
        top, left = view.corner(f, view.rows, place.row), view.corner(f, view.columns, place.column)
        down, across = f.subtract(view.rows.size, top), f.subtract(view.columns.size, left)
        pixel = f.add(f.multiply(top, view.columns.size), left)
        across = f.minimum(across, view.columns.extent)
        for i, row in rows:
            line = f.address(waiting, f.multiply(i, row_floats)) if together else waiting
            for j, value in enumerate(row):
                f.store(value, f.address(line, j * spot.lanes))
            if not together:
                with f.when(f.less(i, down)):
                    self._finish_row(line, replace(spot, pixel=pixel), i, across)
        if together:
            with f.loop(0, f.minimum(down, view.rows.extent)) as row:
                line = f.address(waiting, f.multiply(row.index, row_floats))
                self._finish_row(line, replace(spot, pixel=pixel), row.index, across)

    def _finish_row(self, line: V, spot: Spot, i: Index, count: Index) -> None:
        """`count` outputs of row `i` of a tile, which lie at `line`; `spot` is the tile's first pixel."""
        f, view = self.f, self.target
        with f.loop(0, count) as j:
            beyond = f.add(f.multiply(i, view.columns.size), j.index)
            base = f.add(spot.base, f.multiply(beyond, view.layout.stored))
            value = f.load(f.address(line, f.multiply(j.index, spot.lanes)), spot.lanes)
            self.k.finish(f, replace(spot, pixel=f.add(spot.pixel, beyond), base=base), value)


def image_values(f: Function, plan: TransformPlan, values: V, slot: Index, channel: Index, lanes: int) -> Values:
    """Where a tile's values lie in V."""
    places: list[EntryPlaces] = []
    for products in plan.form.products:
        first = f.address(values, f.add(f.multiply(slot, plan.image_row(products)), channel))
        places.append(EntryPlaces(first, plan.image_entry(products), plan.inner_stored))
        values = f.address(values, products.entries * plan.image_entry(products))
    return Values(tuple(places), lanes)


def result_values(f: Function, plan: TransformPlan, values: V, slot: Index, channel: Index, lanes: int) -> Values:
    """Where a tile's values lie in M, or in P."""
    places: list[EntryPlaces] = []
    for products in plan.form.products:
        first = f.address(values, f.add(f.multiply(slot, plan.result_row(products)), channel))
        places.append(EntryPlaces(first, plan.result_entry(products), plan.columns))
        values = f.address(values, products.entries * plan.result_entry(products))
    return Values(tuple(places), lanes)
