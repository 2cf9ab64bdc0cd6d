"""Transform convolutions, gradient by the filters: the transpose of the forward algorithm as a map of its filters.

For each chunk of tiles, done by all threads together, with barriers between the steps:

    V  =  transform(tiles of the images),  P  =  transform(tiles of the cotangents)
    S +=  Vᵀ · P                              the sum over the chunk's tiles, for each value

and at the end dw = filter_gradient(S). Threads split tiles of the result, so what belongs to one sum is added by one
thread, in the order of the tiles.
"""

from __future__ import annotations

from collections.abc import Sequence

from convc.codegen.llvm.algorithms.tiles import TilePlace, TileView, each_tile, read_tile
from convc.codegen.llvm.algorithms.transform import Transform
from convc.codegen.llvm.algorithms.transform_convolution import clear, plan_of, store_values
from convc.codegen.llvm.algorithms.transform_filters import each_filter
from convc.codegen.llvm.gemm import Matrices, Place, Product, multiply_with
from convc.codegen.llvm.kernel import KernelBuilder
from convc.codegen.llvm.register_tile import Sums
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.ir.ops.conv import Conv2dBackwardWeights
from convc.passes.algorithms.transform_plan import TransformPlan
from convc.passes.layout import ImageLayout, WeightLayout


def lower_transform_weight_gradient(k: KernelBuilder, transform: Transform) -> None:
    """conv2d's gradient by its filters."""
    op = k.op(Conv2dBackwardWeights)
    plan = plan_of(k, transform)
    target = k.kernel.anchor.result
    layout = k.layout(target)
    assert isinstance(layout, WeightLayout)
    k.phase("clear", lambda f: clear(f, k.scratch_pointer(), plan.zeros))
    k.phase(op.name, lambda f: _Emitter(k, f, plan, layout, transform).emit())

    def gradients(f: Function) -> None:
        sums = f.address(k.scratch_pointer(), plan.places.filters)
        for place in each_filter(f, plan, layout):
            values = [f.load(place.value(f, sums, n), place.lanes) for n in range(plan.form.filter_values)]
            for r, row in enumerate(transform.filter_gradient(f, values)):
                for s, value in enumerate(row):
                    f.store(value, place.tap(f, k.pointer(target), r, s))

    k.phase("filter_gradients", gradients)


class _Emitter:
    """Writes the phase that all chunks pass through."""

    def __init__(
        self, k: KernelBuilder, f: Function, plan: TransformPlan, layout: WeightLayout, transform: Transform
    ) -> None:
        self.k, self.f, self.plan, self.layout, self.transform = k, f, plan, layout, transform
        x, dy = k.kernel.anchor.operands
        self.source = TileView(plan.axis(0), plan.axis(1), k.image(x))
        self.cotangent = TileView(plan.output_axis(0), plan.output_axis(1), k.image(dy))
        self.images, self.cotangents = k.pointer(x), k.pointer(dy)
        self.zeros, places = k.scratch_pointer(), plan.places
        self.sums, self.values, self.others = (
            f.address(self.zeros, place) for place in (places.filters, places.images, places.results)
        )
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
            self._multiply(group.index, count, f.equal(chunk.index, 0))
            self.k.barrier(f)

    def _transform_tile(self, place: TilePlace, group: Index) -> None:
        f, plan, lanes = self.f, self.plan, self.k.machine.lanes
        images = f.address(self.images, f.multiply(group, plan.inner))
        for tile, channel in read_tile(f, self.source, place, images, self.zeros, self.inner, lanes):
            store_values(f, plan, self.values, place.slot, channel, self.transform.image(f, tile))
        cotangents = f.address(self.cotangents, f.multiply(group, plan.outputs))
        for tile, channel in read_tile(f, self.cotangent, place, cotangents, self.zeros, self.outer, lanes):
            row = f.address(self.others, f.add(f.multiply(place.slot, plan.result_row), channel))
            for number, value in enumerate(self.transform.cotangent(f, tile)):
                f.store(value, f.address(row, number * plan.result_entry))

    def _multiply(self, group: Index, count: Index, fresh: V) -> None:
        f, plan = self.f, self.plan
        tile = plan.product_tile(self.layout.block, plan.inner)
        image, cotangent, matrix = 0, 0, 0
        for products in plan.form.products:
            product = Product(plan.inner, plan.columns, count, tile, products.entries, real=plan.outputs)
            with f.loop(0, products.parts) as other, f.loop(0, products.parts) as part:
                panel = f.multiply(other.index, plan.depth(products) * plan.columns)
                sums = f.address(self.sums, f.sum(f.multiply(group, plan.filter_floats), panel, matrix))
                target = _Sums(f, sums, plan.filter_entry(products), plan.depth(products), fresh)
                first = f.multiply(part.index, plan.inner_stored)
                multiply_with(
                    f, plan.machine, product,
                    Matrices(
                        f.address(self.values, f.add(first, image)), plan.image_row(products),
                        plan.image_entry(products), transposed=True,
                    ),
                    Matrices(
                        f.address(self.others, f.add(f.multiply(other.index, plan.result_entry), cotangent)),
                        plan.result_row, products.parts * plan.result_entry,
                    ),
                    lambda place, sums, target=target, first=first: target.store(place, first, sums),
                    lambda place, target=target, first=first: target.load(place, first),
                )  # fmt: skip
            image += products.entries * plan.image_entry(products)
            cotangent += products.entries * products.parts * plan.result_entry
            matrix += products.entries * plan.filter_entry(products)


class _Sums:
    """S in memory, packed like U: the tiles of the sums over earlier chunks, or zeros where there are none yet."""

    def __init__(self, f: Function, base: V, entry: int, depth: int, fresh: V) -> None:
        self.f, self.base, self.entry, self.depth, self.fresh = f, base, entry, depth, fresh

    def _places(self, place: Place, first: Index) -> list[tuple[V, int]]:
        """(address, lanes) of the tile's vectors, row by row; `first` is the row of the matrix that is row 0."""
        f = self.f
        width = sum(piece.lanes for piece in place.pieces)
        row = f.multiply(f.add(place.row, first), width)
        corner = f.address(
            self.base, f.sum(f.multiply(place.entry, self.entry), f.multiply(place.column, self.depth), row)
        )
        return [
            (f.address(corner, m * width + piece.offset), piece.lanes)
            for m in range(place.rows)
            for piece in place.pieces
        ]

    def load(self, place: Place, first: Index) -> Sequence[V]:
        f = self.f
        # The first chunk starts from zero, whatever the memory holds.
        return [
            f.select(self.fresh, f.constant(0.0, lanes), f.load(address, lanes))
            for address, lanes in self._places(place, first)
        ]

    def store(self, place: Place, first: Index, sums: Sums) -> None:
        for (address, _), value in zip(self._places(place, first), sums.flat, strict=True):
            self.f.store(value, address)
