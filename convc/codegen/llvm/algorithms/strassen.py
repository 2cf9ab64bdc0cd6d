"""Strassen's algorithm on patches times filters, in all three directions (passes/algorithms/strassen.py).

For each chunk of patches, all threads together and with barriers between the steps:

    patches   gathered as for im2col
    sums      of the blocks of the patches (and of the cotangents, for a gradient by the filters): 7 of each, or 49
    products  of sums, as one batch
    result    sums of products, chain, store

The sums of the filters are made once for all chunks. For a gradient by the filters products are summed over all chunks,
and only then put together, because what makes a result of products is linear.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from convc.codegen.llvm.algorithms.codelet import apply
from convc.codegen.llvm.algorithms.patches import gather, output_pixel
from convc.codegen.llvm.algorithms.turned_filters import turn_filters, turned_filters, weights_of
from convc.codegen.llvm.control import maybe
from convc.codegen.llvm.direct import clear_padding
from convc.codegen.llvm.gemm import Matrices, Product, multiply
from convc.codegen.llvm.kernel import KernelBuilder, Spot
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.ir.graph import Value
from convc.lazy import dataclass
from convc.passes.algorithms.problem import Problem
from convc.passes.algorithms.straight_line import StraightLine
from convc.passes.algorithms.strassen import LEFT, RESULT, RIGHT, Split, StrassenPlan, strassen_plans
from convc.passes.layout import ImageLayout, WeightLayout
from convc.passes.machine import split_lanes
from convc.passes.tiling import choose_tile

Block = tuple[int, int]
"""Which block of a matrix: (row, column)."""


def scratch_strassen(k: KernelBuilder) -> int:
    problem = Problem.of(k.kernel.anchor)
    turned = turned_filters(k)[-1].end if problem.direction == "backward_data" else 0
    return 4 * (turned + max(plan.places[-1] for plan in strassen_plans(problem)))


def lower_strassen(k: KernelBuilder) -> None:
    """conv2d with bias and a chain."""
    problem = Problem.of(k.kernel.anchor)
    x, w, *biases = k.kernel.anchor.operands
    (plan,) = strassen_plans(problem)
    filters = weights_of(k, w)
    k.phase("add_filters", lambda f: _Strassen(k, f, plan, 0).add_filters(k.pointer(w), filters))
    k.phase("strassen", lambda f: _Strassen(k, f, plan, 0).outputs(x, biases[0] if biases else None))
    clear_padding(k, problem.groups)


def lower_strassen_backward_data(k: KernelBuilder) -> None:
    """Turns the filters; then phase by phase of the stride."""
    problem = Problem.of(k.kernel.anchor)
    turn_filters(k)
    everything = turned_filters(k)
    for plan, filters in zip(strassen_plans(problem), everything, strict=True):

        def add(
            f: Function, plan: StrassenPlan = plan, place: int = filters.place, layout: WeightLayout = filters.layout
        ) -> None:
            emitter = _Strassen(k, f, plan, everything[-1].end)
            emitter.add_filters(f.address(k.scratch_pointer(), place), layout)

        def body(f: Function, plan: StrassenPlan = plan) -> None:
            _Strassen(k, f, plan, everything[-1].end).outputs(k.kernel.anchor.operands[0], None)

        k.phase("add_filters", add)
        k.phase("strassen_backward_data", body)
    clear_padding(k, problem.groups)


def lower_strassen_backward_weights(k: KernelBuilder) -> None:
    (plan,) = strassen_plans(Problem.of(k.kernel.anchor))
    k.phase("strassen_backward_weights", lambda f: _Strassen(k, f, plan, 0).gradient())


class _Strassen:
    """Writes the steps of one product; its scratch space begins `place` floats into that of the kernel."""

    def __init__(self, k: KernelBuilder, f: Function, plan: StrassenPlan, place: int) -> None:
        self.k, self.f, self.plan = k, f, plan
        self.patches, self.left, self.right, self.results = (
            f.address(k.scratch_pointer(), place + part) for part in plan.places[:4]
        )

    # Steps

    def add_filters(self, source: V, layout: WeightLayout) -> None:
        """Sums of the blocks of packed filters, packed: [group][product][block of columns][row][column]."""
        f, p = self.f, self.plan
        packed, sums = _Packed(layout.rows.size, layout.columns, layout.block), self._sums_of_filters()
        start, stop = f.share(p.matrix.groups * p.across.part)
        with f.loop(start, stop) as unit:
            group, row = f.divide(unit.index, p.across.part), f.remainder(unit.index, p.across.part)
            filters = f.address(source, f.multiply(group, packed.size))
            target = f.address(self.right, f.multiply(group, p.products * p.right_entry))
            rows = [self._row(f.add(row, q * p.across.part), p.across.size if q else None) for q in range(p.parts)]
            for low, high in p.columns.ranges():
                lanes = packed.lanes(low, high, p.columns.part, sums, most=self.k.machine.lanes)
                for column in _each_vector(f, low, high, lanes):

                    def block(place: Block, low: int = low, column: Index = column, lanes: int = lanes) -> V:
                        if not p.columns.inside(place[1], low):
                            return f.constant(0.0, lanes)
                        line, exists = rows[place[0]]
                        across = f.add(column, place[1] * p.columns.part)
                        value = f.load(f.address(filters, packed.place(f, line, across)), lanes)
                        return value if exists is None else f.select(exists, value, f.constant(0.0, lanes))

                    into = f.address(target, sums.place(f, row, column))
                    for number, value in self._products(RIGHT, block):
                        f.store(value, f.address(into, number * p.right_entry))

    def outputs(self, images: Value, bias: Value | None) -> None:
        """Forward, or backward by the data: chunks of the outputs, group by group."""
        f, p = self.f, self.plan
        layout = self.k.image(images)
        total = f.multiply(self.k.rows(f), p.matrix.outputs)
        with f.loop(0, p.matrix.groups) as group, f.loop(0, total, p.matrix.chunk) as first:
            count = f.minimum(f.subtract(total, first.index), p.matrix.chunk)
            source, row = self._patches(images, layout, group.index, first.index, count, None)
            self._add_rows(LEFT, source, row, count, p.across, self.left, p.left_row, p.left_entry)
            self.k.barrier(f)
            filters = f.address(self.right, f.multiply(group.index, p.products * p.right_entry))
            tile = choose_tile(self.k.machine, p.rows, p.columns.part)
            product = Product(_halved(f, count, p.parts), p.columns.part, p.across.part, tile, p.products)
            left = Matrices(self.left, p.left_row, p.left_entry)
            right = Matrices(filters, 0, p.right_entry, packed=True)
            multiply(f, self.k.machine, product, left, right, Matrices(self.results, p.columns.part, p.result_entry))
            self.k.barrier(f)
            self._store_outputs(group.index, first.index, count, bias)

    def gradient(self) -> None:
        """By the filters: all chunks of a strip of its rows, then the strip itself."""
        f, p = self.f, self.plan
        x, dy = self.k.kernel.anchor.operands
        images, cotangents = self.k.image(x), self.k.image(dy)
        total = f.multiply(self.k.rows(f), p.matrix.outputs)
        strips = p.matrix.shape[1] // p.matrix.columns
        taps = len(p.matrix.down.taps) // strips
        with f.loop(0, p.matrix.groups) as group, f.loop(0, strips) as strip:
            with f.loop(0, total, p.matrix.chunk) as first:
                count = f.minimum(f.subtract(total, first.index), p.matrix.chunk)
                filter_rows = f.multiply(strip.index, taps), f.multiply(f.add(strip.index, 1), taps)
                source, row = self._patches(x, images, group.index, first.index, count, filter_rows)
                self._add_rows(LEFT, source, row, count, p.across, self.left, p.left_row, p.left_entry, turned=True)
                channel = f.multiply(group.index, p.outputs)
                place = f.add(f.multiply(first.index, cotangents.stored), channel)
                vectors = f.address(self.k.pointer(dy), place)
                self._add_rows(
                    RIGHT, vectors, cotangents.stored, count, p.columns, self.right, p.right_row, p.right_entry
                )
                self.k.barrier(f)
                tile = choose_tile(self.k.machine, p.across.part, p.columns.part)
                depth, begun = _halved(f, count, p.parts), f.less(0, first.index)
                product = Product(p.across.part, p.columns.part, depth, tile, p.products, begun)
                left = Matrices(self.left, p.left_row, p.left_entry, transposed=True)
                right = Matrices(self.right, p.right_row, p.right_entry)
                multiply(
                    f, self.k.machine, product, left, right, Matrices(self.results, p.columns.part, p.result_entry)
                )
                # Patches of the next chunk do not disturb, but sums of them would.
                self.k.barrier(f)
            self._store_gradient(group.index, strip.index)

    # Parts of steps

    def _patches(
        self, images: Value, layout: ImageLayout, group: Index, first: Index, count: Index,
        filter_rows: tuple[Index, Index] | None,
    ) -> tuple[V, int]:  # fmt: skip
        """The rows of a chunk, and how far they are apart: copied, unless the images are the patches."""
        f, p, source = self.f, self.plan, self.k.pointer(images)
        if not p.copied:
            channel = f.multiply(group, p.matrix.channels)
            return f.address(source, f.add(f.multiply(first, layout.stored), channel)), layout.stored
        lanes = self.k.machine.lanes
        gather(f, lanes, p.matrix, layout, source, self.patches, first, f.share(count), filter_rows, group)
        self.k.barrier(f)
        return self.patches, p.matrix.row

    def _add_rows(
        self, program: StraightLine, source: V, source_row: int, count: Index, columns: Split, target: V, row: int,
        entry: int, turned: bool = False,
    ) -> None:  # fmt: skip
        """[product][row of a block][column of a block] of a matrix of `count` rows, or of that matrix turned."""
        f, p = self.f, self.plan
        start, stop = f.share(_halved(f, count, p.parts))
        with f.loop(start, stop) as unit:
            first = f.multiply(unit.index, p.parts)
            rows = [self._row(f.add(first, q), count if q else None) for q in range(p.parts)]
            lines = [(f.address(source, f.multiply(line, source_row)), exists) for line, exists in rows]
            into = f.address(target, f.multiply(unit.index, row))
            for low, high in columns.ranges():
                for column, lanes in _vectors(f, low, high, self.k.machine.lanes):

                    def block(place: Block, low: int = low, column: Index = column, lanes: int = lanes) -> V:
                        line, part = (place[1], place[0]) if turned else place
                        if not columns.inside(part, low):
                            return f.constant(0.0, lanes)
                        start, exists = lines[line]
                        value = f.load(f.address(start, f.add(column, part * columns.part)), lanes)
                        return value if exists is None else f.select(exists, value, f.constant(0.0, lanes))

                    for number, value in self._products(program, block):
                        f.store(value, f.address(into, f.add(column, number * entry)))

    def _store_outputs(self, group: Index, first: Index, count: Index, bias: Value | None) -> None:
        f, p = self.f, self.plan
        target = self.k.image(self.k.kernel.anchor.result)
        start, stop = f.share(_halved(f, count, p.parts))
        with f.loop(start, stop) as unit:
            products = f.address(self.results, f.multiply(unit.index, p.columns.part))
            rows = [f.add(f.multiply(unit.index, p.parts), q) for q in range(p.parts)]
            pixels = [output_pixel(f, p.matrix, target, f.add(first, row)) for row in rows]
            bases = [f.add(f.multiply(i, target.size), f.multiply(pixel, target.stored)) for i, pixel in pixels]
            for low, high in p.columns.ranges(p.outputs):
                for column, lanes in _vectors(f, low, high, self.k.machine.lanes):
                    blocks = self._blocks(products, column, lanes)
                    for q, row in enumerate(rows):
                        with maybe(f, f.less(row, count) if q else None):
                            for part in range(p.parts):
                                place = part * p.columns.part
                                if place + low < p.stored:
                                    real = lanes if place + low < p.outputs else 0
                                    channel = f.sum(f.multiply(group, p.outputs), column, place)
                                    value = blocks[q, part] if real else f.constant(0.0, lanes)
                                    if bias is not None and real:
                                        loaded = f.load(f.address(self.k.pointer(bias), channel), lanes)
                                        value = f.binary("fadd", value, loaded)
                                    image, pixel = pixels[q]
                                    base = f.add(bases[q], channel)
                                    self.k.finish(f, Spot(image, pixel, channel, base, 0, lanes, real), value)

    def _store_gradient(self, group: Index, strip: Index) -> None:
        f, p = self.f, self.plan
        result = self.k.kernel.anchor.result
        layout = weights_of(self.k, result)
        packed = _Packed(layout.rows.size, layout.columns, layout.block)
        target = f.address(self.k.pointer(result), f.multiply(group, packed.size))
        start, stop = f.share(p.across.part)
        with f.loop(start, stop) as unit:
            products = f.address(self.results, f.multiply(unit.index, p.columns.part))
            for low, high in p.columns.ranges(p.outputs):
                lanes = packed.lanes(low, high, p.columns.part, most=self.k.machine.lanes)
                for column in _each_vector(f, low, high, lanes):
                    blocks = self._blocks(products, column, lanes)
                    for q in range(p.parts):
                        row = f.add(unit.index, q * p.across.part)
                        with maybe(f, None if p.across.even or not q else f.less(row, p.across.size)):
                            for part in range(p.parts):
                                place = part * p.columns.part
                                if place + low < p.stored:
                                    value = blocks[q, part] if place + low < p.outputs else f.constant(0.0, lanes)
                                    line = f.add(row, f.multiply(strip, p.across.size))
                                    into = packed.place(f, line, f.add(column, place))
                                    f.store(value, f.address(target, into))

    def _row(self, number: Index, end: Index | None) -> tuple[Index, V | None]:
        """(row to read, whether it exists): what lies beyond the end is read from elsewhere and counts as zero."""
        if end is None:
            return number, None
        f = self.f
        return f.minimum(number, f.subtract(end, 1)), f.less(number, end)

    def _sums_of_filters(self) -> _Packed:
        p = self.plan
        block = choose_tile(self.k.machine, p.rows, p.columns.part).block
        return _Packed(p.across.part, p.columns.part, min(block, p.columns.part))

    # Algebra: two levels are one applied to blocks of blocks

    def _products(self, program: StraightLine, block: Callable[[Block], V]) -> Iterator[tuple[int, V]]:
        """The factor of each product, given the blocks of an operand."""
        if self.plan.levels == 1:
            yield from enumerate(apply(self.f, program, [block(place) for place in _BLOCKS]))
            return
        inner = [apply(self.f, program, [block((2 * a + c, 2 * b + d)) for a, b in _BLOCKS]) for c, d in _BLOCKS]
        for number, values in enumerate(zip(*inner, strict=True)):
            for last, value in enumerate(apply(self.f, program, values)):
                yield number * len(program.outputs) + last, value

    def _blocks(self, products: V, column: Index, lanes: int) -> dict[Block, V]:
        """The blocks of the result, given where the products' elements begin."""
        f, p = self.f, self.plan
        loaded = [f.load(f.address(products, f.add(column, n * p.result_entry)), lanes) for n in range(p.products)]
        if p.levels == 1:
            return dict(zip(_BLOCKS, apply(f, RESULT, loaded), strict=True))
        size = RESULT.inputs
        inner = [apply(f, RESULT, loaded[n * size : (n + 1) * size]) for n in range(size)]
        found: dict[Block, V] = {}
        for (c, d), values in zip(_BLOCKS, zip(*inner, strict=True), strict=True):
            for (a, b), value in zip(_BLOCKS, apply(f, RESULT, values), strict=True):
                found[2 * a + c, 2 * b + d] = value
        return found


_BLOCKS: tuple[Block, ...] = ((0, 0), (0, 1), (1, 0), (1, 1))


@dataclass(frozen=True)
class _Packed:
    """A matrix in blocks of columns, [block][row][column of the block]; the last block is narrower."""

    rows: int
    columns: int
    block: int

    @property
    def size(self) -> int:
        return self.rows * self.columns

    def place(self, f: Function, row: Index, column: Index) -> Index:
        first = f.multiply(f.divide(column, self.block), self.block)
        width = f.minimum(self.block, f.subtract(self.columns, first))
        return f.sum(f.multiply(first, self.rows), f.multiply(row, width), f.subtract(column, first))

    def lanes(self, low: int, high: int, part: int, other: _Packed | None = None, most: int = 1) -> int:
        """The widest vectors that columns low … high, and those `part` further, have and no block cuts."""
        sizes = [low, high, part, self.block, self.columns]
        if other is not None:
            sizes += [other.block, other.columns]
        return next(lanes for lanes in (16, 8, 4, 1) if lanes <= most and all(size % lanes == 0 for size in sizes))


def _halved(f: Function, count: Index, parts: int) -> Index:
    """Rows of a block."""
    return f.divide(f.add(count, parts - 1), parts)


def _each_vector(f: Function, low: int, high: int, lanes: int) -> Iterator[Index]:
    with f.loop(low, high, lanes) as column:
        yield column.index


def _vectors(f: Function, low: int, high: int, lanes: int) -> Iterator[tuple[Index, int]]:
    """(first, lanes) of vectors from low to high: full ones in a loop, then the rest."""
    whole = (high - low) // lanes
    if whole:
        with f.loop(low, low + whole * lanes, lanes) as column:
            yield column.index, lanes
    place = low + whole * lanes
    for width in split_lanes(high - place, lanes):
        yield place, width
        place += width
