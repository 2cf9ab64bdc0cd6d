"""Transform convolutions, gradient by the filters: the transpose of the forward algorithm as a map of its filters.

For each chunk of tiles:

    V  =  transform(tiles of the images),  P  =  transform(tiles of the cotangents)
    S +=  Vᵀ · P                              the sum over the chunk's tiles, for each value

and at the end dw = filter_gradient(S). Where S is small the tiles are divided into a fixed number of parts, each with
an S of its own, and threads take whole parts; these are added up in order at the end. Otherwise all threads share the
steps of each chunk, with barriers between them, and split tiles of S: what belongs to one sum is added by one thread,
in the order of the tiles. Either way results do not depend on how many threads there are.
"""

from __future__ import annotations

from dataclasses import replace

from convc.codegen.llvm.algorithms.chunks import Chunk, chunks, own_chunks, workspace_of
from convc.codegen.llvm.algorithms.tiles import TilePlace, TileView, each_tile, read_tile
from convc.codegen.llvm.algorithms.transform import Transform
from convc.codegen.llvm.algorithms.transform_convolution import Kind, clear, image_values, plan_of, result_values
from convc.codegen.llvm.algorithms.transform_filters import each_filter
from convc.codegen.llvm.gemm import Matrices, Product, multiply
from convc.codegen.llvm.kernel import KernelBuilder
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.ir.ops.conv import Conv2dBackwardWeights
from convc.passes.algorithms.problem import Problem
from convc.passes.algorithms.transform_plan import TransformPlan
from convc.passes.layout import ImageLayout, WeightLayout


def lower_transform_weight_gradient(k: KernelBuilder, kind: Kind) -> None:
    """conv2d's gradient by its filters."""
    op = k.op(Conv2dBackwardWeights)
    transform = kind(Problem.of(k.kernel.anchor))
    plan = plan_of(k, transform)
    target = k.kernel.anchor.result
    layout = k.layout(target)
    assert isinstance(layout, WeightLayout)
    k.phase("clear", lambda f: clear(f, k.scratch_pointer(), plan.zeros))
    k.phase(op.name, lambda f: _Emitter(k, f, plan, layout, transform).emit())

    def gradients(f: Function) -> None:
        sums = f.address(k.scratch_pointer(), plan.places.filters)
        for place in each_filter(f, plan, layout, k.pointer(target), sums):
            values = replace(place.values, terms=plan.parts, term=plan.part_floats)
            for r, row in transform.filter_gradient(f, values):
                for s, value in enumerate(row):
                    f.store(value, place.tap(f, r, s))

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
        if not plan.apart:
            with f.loop(0, plan.problem.groups) as group:
                for chunk in chunks(f, plan, total):
                    self._chunk(group.index, chunk, 0)
            return
        workspace = workspace_of(f, plan)
        with f.loop(*workspace.share(f, plan.parts)) as part, f.loop(0, plan.problem.groups) as group:
            tiles = f.portion(total, part.index, plan.parts)
            sums = f.multiply(part.index, plan.part_floats)
            # A part without tiles is a sum of nothing, which has to be written, too.
            for chunk in own_chunks(f, plan, workspace, tiles, at_least=1):
                self._chunk(group.index, chunk, sums)

    def _chunk(self, group: Index, chunk: Chunk, sums: Index) -> None:
        values, others = (self.f.address(start, chunk.space) for start in (self.values, self.others))
        for place in each_tile(self.f, self.plan.grid, chunk.slots):
            self._transform_tile(place, group, values, others)
        if not chunk.apart:
            self.k.barrier(self.f)
        self._multiply(group, chunk, values, others, sums)
        if not chunk.apart:
            self.k.barrier(self.f)

    def _transform_tile(self, place: TilePlace, group: Index, values: V, others: V) -> None:
        f, plan, transform = self.f, self.plan, self.transform
        lanes, whole = self.k.machine.lanes, transform.in_registers
        images = f.address(self.images, f.multiply(group, plan.inner))
        for rows, channel, width in read_tile(f, self.source, place, images, self.zeros, self.inner, lanes, whole):
            transform.image(f, rows, image_values(f, plan, values, place.slot, channel, width))
        cotangents = f.address(self.cotangents, f.multiply(group, plan.outputs))
        for rows, channel, width in read_tile(
            f, self.cotangent, place, cotangents, self.zeros, self.outer, lanes, whole
        ):
            transform.cotangent(f, rows, result_values(f, plan, others, place.slot, channel, width))

    def _multiply(self, group: Index, chunk: Chunk, v: V, p: V, sums: Index) -> None:
        """Into the sums that begin at `sums`, where those of earlier chunks are."""
        f, plan = self.f, self.plan
        target = f.address(self.sums, f.add(sums, f.multiply(group, plan.filter_floats)))
        image, cotangent, matrix = 0, 0, 0
        for products in plan.form.products:
            tile = plan.product_tile(products, self.layout.block, plan.inner)
            product = Product(
                plan.inner, plan.columns, chunk.count, tile, products.entries, chunk.later, plan.outputs, products.parts
            )
            rows, others = plan.image_row(products), plan.result_row(products)
            multiply(
                f, plan.machine, product,
                Matrices(
                    f.address(v, f.add(f.multiply(chunk.first, rows), image)), rows,
                    plan.image_entry(products), transposed=True, imaginary=plan.inner_stored,
                ),
                Matrices(
                    f.address(p, f.add(f.multiply(chunk.first, others), cotangent)), others,
                    plan.result_entry(products), imaginary=plan.columns,
                ),
                Matrices(f.address(target, matrix), 0, plan.filter_entry(products), packed=True),
                chunk.units(f, product),
            )  # fmt: skip
            image += products.entries * plan.image_entry(products)
            cotangent += products.entries * plan.result_entry(products)
            matrix += products.entries * plan.filter_entry(products)
