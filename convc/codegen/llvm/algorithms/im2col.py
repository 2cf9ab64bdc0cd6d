"""Convolution as a product of matrices: patches of the images times filters (im2col), in all three directions.

    y  = P(x) · W       P: a row for each output, in it what the output is summed over (passes/algorithms/patches.py)
    dx = P'(dy) · Wᵀ    likewise, with the cotangents as images and turned filters; a product for each phase of a stride
    dw = P(x)ᵀ · dy

The other way to do the second is columns = dy·Wᵀ, whose overlaps are then added up (col2im). It multiplies as much, but
its sums have to be done before a chain can ride along, and the columns of neighbouring rows have to be in memory
together; P' needs neither, and outputs are written once.

A thread takes chunks of its own from patches to results, or whole parts of a gradient; or, where filters are larger
than the matrix, threads divide the products of each chunk (`PatchMatrix.apart`). Patches then pass through two buffers:
while threads multiply one chunk, those that are done gather the next, and a barrier stands between a chunk's patches
and its products. Convolutions that look at each pixel alone need no patches: images are the matrix.

Products that tile registers multiply (`multiplies_tiles`) have patches and filters of bfloat16 numbers, or of whole
numbers of 8 bits; where the latter have a zero other than 0, so do patches outside the image.
"""

from __future__ import annotations

from collections.abc import Sequence

from convc.codegen.llvm.algorithms.patches import gather, is_dense, output_pixel
from convc.codegen.llvm.algorithms.turned_filters import (
    in_tiles,
    scratch_of,
    turn_filters,
    turned_filters,
    weights_of,
)
from convc.codegen.llvm.algorithms.workspace import Workspace
from convc.codegen.llvm.amx import TileProduct
from convc.codegen.llvm.direct import clear_padding
from convc.codegen.llvm.gemm import Finish, Matrices, Place, Product, multiply, multiply_with
from convc.codegen.llvm.kernel import KernelBuilder, Spot
from convc.codegen.llvm.register_tile import Sums, column_pieces
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.codegen.llvm.weight_gradient import add_parts
from convc.codegen.llvm.whole_numbers import Whole
from convc.lazy import dataclass
from convc.passes.algorithms.patches import TILE_ROWS, PatchMatrix, in_place, patch_bytes, patch_matrices
from convc.passes.algorithms.problem import Problem
from convc.passes.layout import ImageLayout, WeightLayout
from convc.passes.tiling import Tile, even_split, most_rows

_MOST_ROWS = 16


def row_tile(k: KernelBuilder, block: int, rows: int) -> Tile:
    """The register tile for `rows` rows, where the columns of a block are given."""
    vectors = len(column_pieces(block, k.machine.lanes))
    tallest = even_split(max(1, rows), min(most_rows(k.machine, vectors), _MOST_ROWS))[0]
    return Tile(tallest, -(-block // k.machine.lanes), k.machine.lanes)


@dataclass(frozen=True)
class PatchProduct:
    """One matrix of patches times filters: the outputs of a convolution, or a phase of them."""

    matrix: PatchMatrix
    source: ImageLayout
    target: ImageLayout
    filters: WeightLayout
    whole: Whole | None = None

    @property
    def tiled(self) -> bool:
        return self.filters.pairs == 2 or self.whole is not None

    @property
    def own(self) -> int:
        """Outputs of a group."""
        return self.filters.outputs // self.filters.groups

    def product(self, k: KernelBuilder, rows: Index) -> Product:
        block = min(self.filters.block, self.filters.columns)
        return Product(
            rows, self.filters.columns, self.matrix.shape[1],
            row_tile(k, block, min(self.matrix.chunk, self.matrix.shape[0])), self.filters.groups, real=self.own,
        )  # fmt: skip

    def operands(self, patches: V, row: int, entry: int, filters: V) -> tuple[Matrices, Matrices]:
        group = self.filters.columns * self.filters.rows.size
        return Matrices(patches, row, entry), Matrices(filters, 0, group, packed=True)

    def finish(self, k: KernelBuilder, f: Function, first: Index) -> Finish:
        """What stores tiles of the rows from `first` on: chain, then the images of the result."""
        target, dense = self.target, is_dense(self.matrix)

        def finish(place: Place, sums: Sums) -> None:
            channel = f.add(f.multiply(place.entry, self.own), place.column)
            number = f.add(first, place.row)
            tile = f.add(f.multiply(number, target.stored), channel)
            for m in range(place.rows):
                image, pixel, base, beyond = 0, 0, tile, m * target.stored
                if k.needs_position or not dense:
                    image, pixel = output_pixel(f, self.matrix, target, f.add(number, m))
                if not dense:
                    base = f.sum(f.multiply(image, target.size), f.multiply(pixel, target.stored), channel)
                    beyond = 0
                for index, piece in enumerate(place.pieces):
                    real = piece.lanes
                    if isinstance(place.column, int):
                        real = max(0, min(real, self.own - place.column - piece.offset))
                    lane = f.add(channel, piece.offset)
                    spot = Spot(image, pixel, lane, base, beyond + piece.offset, piece.lanes, real)
                    k.finish(f, spot, sums.at(m, index))

        return finish

    def emit(self, k: KernelBuilder, f: Function, images: V, filters: V, bias: V | None, buffers: V | None) -> None:
        """The phase: chunk by chunk, or in one go where the images are the patches (`buffers` is None)."""
        matrix = self.matrix

        def begin(place: Place) -> Sequence[V]:
            assert bias is not None
            channel = f.add(f.multiply(place.entry, self.own), place.column)
            return [f.load(f.address(bias, f.add(channel, p.offset)), p.lanes) for p in place.pieces] * place.rows

        def chunk(first: Index, rows: Index, patches: V, row: int, entry: int) -> None:
            a, b = self.operands(patches, row, entry, filters)
            finish, start = self.finish(k, f, first), begin if bias is not None else None
            if self.tiled:
                tiles = TileProduct(rows, a.pointer, row, b.pointer, self.filters, finish, start, self.whole, bias)
                tiles.emit(f, k.machine, matrix.apart, cached=buffers is None)
                return
            product = self.product(k, rows)
            units = (0, product.units(f)) if matrix.apart else None
            multiply_with(f, k.machine, product, a, b, finish, start, units, cached=buffers is None)

        total = f.multiply(k.rows(f), matrix.outputs)
        if buffers is None:
            tall = TILE_ROWS if self.tiled else self.product(k, total).tile.rows
            first, stop = _whole_tiles(f, total, tall) if matrix.apart else (0, total)
            pixel = self.source.stored
            images = f.address(images, f.multiply(first, pixel))
            chunk(first, f.maximum(f.subtract(stop, first), 0), images, pixel, matrix.channels)
            return
        lanes = k.machine.lanes
        if matrix.apart:
            workspace = Workspace.of_thread(f, matrix.workspaces)
            patches = _own_buffer(f, matrix, buffers, workspace)
            for own in workspace.chunks(f, workspace.share(f, total)):
                gather(f, lanes, matrix, self.source, images, patches, own.start, (0, own.count))
                chunk(own.start, own.count, patches, matrix.row, matrix.entry)
            return
        with f.loop(0, total, matrix.chunk) as first:
            rows = f.minimum(f.subtract(total, first.index), matrix.chunk)
            patches = buffer_of(f, matrix, buffers, f.divide(first.index, matrix.chunk))
            gather(f, lanes, matrix, self.source, images, patches, first.index, f.share(rows))
            k.barrier(f)
            chunk(first.index, rows, patches, matrix.row, matrix.entry)


def _own_buffer(f: Function, matrix: PatchMatrix, buffers: V, workspace: Workspace) -> V:
    """Where this thread gathers patches."""
    return f.address(
        buffers, f.add(f.multiply(workspace.number, matrix.buffer), f.multiply(workspace.first, matrix.row))
    )


def _whole_tiles(f: Function, rows: Index, tall: int) -> tuple[Index, Index]:
    """This thread's share of the rows of a product: tiles of `tall` rows as a whole."""
    start, stop = f.share(f.divide(f.add(rows, tall - 1), tall))
    return f.multiply(start, tall), f.minimum(f.multiply(stop, tall), rows)


def buffer_of(f: Function, matrix: PatchMatrix, buffers: V, turn: Index) -> V:
    """One buffer and the other in turn."""
    return f.address(buffers, f.multiply(f.remainder(turn, 2), matrix.buffer))


# Forward


def scratch_im2col(k: KernelBuilder) -> int:
    return patch_bytes(Problem.of(k.kernel.anchor), in_tiles(k))


def lower_im2col(k: KernelBuilder) -> None:
    """conv2d with bias and a chain."""
    problem = Problem.of(k.kernel.anchor)
    x, w, *biases = k.kernel.anchor.operands
    (matrix,) = patch_matrices(problem, in_tiles(k))

    def body(f: Function) -> None:
        whole = Whole.of(k, x, w)
        product = PatchProduct(matrix, k.image(x), k.image(k.kernel.anchor.result), weights_of(k, w), whole)
        bias = k.pointer(biases[0]) if biases else None
        product.emit(k, f, k.pointer(x), k.pointer(w), bias, None if in_place(problem) else scratch_of(k))

    k.phase("im2col", body)
    clear_padding(k, problem.groups)


# Backward by the data


def scratch_im2col_backward_data(k: KernelBuilder) -> int:
    return (2 if in_tiles(k) else 4) * turned_filters(k)[-1].end + scratch_im2col(k)


def lower_im2col_backward_data(k: KernelBuilder) -> None:
    """Turns the filters, then multiplies, phase by phase of the stride."""
    problem = Problem.of(k.kernel.anchor)
    dy, w = k.kernel.anchor.operands
    everything = turned_filters(k)
    if everything[-1].end:
        turn_filters(k)
    for filters in everything:
        product = PatchProduct(filters.matrix, k.image(dy), k.image(k.kernel.anchor.result), filters.layout)

        def body(f: Function, product: PatchProduct = product, place: int = filters.place) -> None:
            if not product.filters.size:  # no tap meets this phase: sums of nothing, that read nothing
                product.emit(k, f, k.pointer(dy), k.pointer(w), None, None)
                return
            scratch = scratch_of(k)
            buffers = None if in_place(problem) else f.address(scratch, everything[-1].end)
            product.emit(k, f, k.pointer(dy), f.address(scratch, place), None, buffers)

        k.phase("im2col_backward_data", body)
    clear_padding(k, problem.groups)


# Backward by the filters


def scratch_im2col_backward_weights(k: KernelBuilder) -> int:
    (matrix,) = patch_matrices(Problem.of(k.kernel.anchor))
    parts = 4 * matrix.parts * weights_of(k, k.kernel.anchor.result).size if matrix.parts > 1 else 0
    return parts + patch_bytes(Problem.of(k.kernel.anchor))


def lower_im2col_backward_weights(k: KernelBuilder) -> None:
    """Chunk by chunk of the outputs, for all filter rows at once or for one after the other: sums meet in the gradient.

    The order of a sum is that of the outputs, or that within parts and then that of the parts, whoever does it.
    """
    problem = Problem.of(k.kernel.anchor)
    x, dy = k.kernel.anchor.operands
    source, cotangent = k.image(x), k.image(dy)
    (matrix,) = patch_matrices(problem)
    gradient = weights_of(k, k.kernel.anchor.result)
    strips = matrix.shape[1] // matrix.columns
    taps = len(matrix.down.taps) // strips
    tile = row_tile(k, min(gradient.block, gradient.columns), matrix.columns)

    def product(
        f: Function, target: V, patches: Matrices, rows: Index, first: Index, strip: Index, begun: bool | V
    ) -> None:
        """The gradient of a strip, with the outputs from `first` on."""
        whole = gradient.columns * gradient.rows.size
        b = Matrices(f.address(k.pointer(dy), f.multiply(first, cotangent.stored)), cotangent.stored, gradient.columns)
        c = Matrices(target, gradient.rows.size, whole, packed=True, first=f.multiply(strip, matrix.columns))
        shape = Product(matrix.columns, gradient.columns, rows, tile, gradient.groups, begun)
        units = (0, shape.units(f)) if matrix.apart else None
        multiply(f, k.machine, shape, patches, b, c, units, copied=True)

    def filter_rows(f: Function, strip: Index) -> tuple[Index, Index]:
        return f.multiply(strip, taps), f.multiply(f.add(strip, 1), taps)

    def images(f: Function, first: Index) -> Matrices:
        """The images from an output on, as the matrix of patches."""
        place = f.address(k.pointer(x), f.multiply(first, source.stored))
        return Matrices(place, source.stored, matrix.channels, transposed=True)

    def together(f: Function) -> None:
        total, target = f.multiply(k.rows(f), matrix.outputs), k.pointer(k.kernel.anchor.result)
        if in_place(problem):
            product(f, target, images(f, 0), total, 0, 0, False)
            return
        chunks = f.divide(f.add(total, matrix.chunk - 1), matrix.chunk)
        with f.loop(0, strips) as strip, f.loop(0, chunks) as number:
            first = f.multiply(number.index, matrix.chunk)
            rows = f.minimum(f.subtract(total, first), matrix.chunk)
            turn = f.add(f.multiply(strip.index, chunks), number.index)
            patches = buffer_of(f, matrix, k.scratch_pointer(), turn)
            taken = filter_rows(f, strip.index)
            gather(f, k.machine.lanes, matrix, source, k.pointer(x), patches, first, f.share(rows), taken)
            k.barrier(f)
            gathered = Matrices(patches, matrix.row, matrix.entry, transposed=True)
            product(f, target, gathered, rows, first, strip.index, f.less(0, number.index))

    def apart(f: Function) -> None:
        total, lanes = f.multiply(k.rows(f), matrix.outputs), k.machine.lanes
        buffers = f.address(k.scratch_pointer(), matrix.parts * gradient.size)
        workspace = Workspace.of_thread(f, matrix.workspaces)
        patches = _own_buffer(f, matrix, buffers, workspace)
        with f.loop(*(f.share(matrix.parts) if in_place(problem) else workspace.share(f, matrix.parts))) as part:
            first, last = f.portion(total, part.index, matrix.parts)
            target = f.address(k.scratch_pointer(), f.multiply(part.index, gradient.size))
            if in_place(problem):
                product(f, target, images(f, first), f.subtract(last, first), first, 0, False)
                return
            with f.loop(0, strips) as strip:
                # A part without images is a sum of nothing, which has to be written, too.
                for own in workspace.chunks(f, (first, last), at_least=1):
                    taken = filter_rows(f, strip.index)
                    gather(f, lanes, matrix, source, k.pointer(x), patches, own.start, (0, own.count), taken)
                    gathered = Matrices(patches, matrix.row, matrix.entry, transposed=True)
                    product(f, target, gathered, own.count, own.start, strip.index, own.later)

    k.phase("im2col_backward_weights", apart if matrix.apart else together)
    if matrix.parts > 1:
        k.phase("add_parts", lambda f: add_parts(k, f, matrix.parts, gradient))
