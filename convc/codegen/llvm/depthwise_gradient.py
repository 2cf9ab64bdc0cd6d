"""Gradient of convolutions of few channels in a group (depthwise: one) by their filters.

    dw[r,s,c,k] = Σ_{n,i,j} x[n, i·sh + r·dh − top, j·sw + s·dw − left, group(k)·C + c] · dy[n,i,j,k]

Vectors lie along the outputs k, across groups, as in `depthwise.py`: here both factors are vectors. A tile is some taps
and channels by one vector. Where registers hold the sums of all of them, one pass over the images makes the whole
gradient of these outputs, and that of the bias; else a tile is a filter row, or a part of one. Some positions at a time
share what they read of x.

Images are taken in chunks of rows that fit the second-level cache, each added to what the chunks before left in memory:
all tiles pass over a chunk before the next. The images are cut into a fixed number of parts, whose partial gradients
are added up in order, and threads split parts and tiles: results do not depend on how many threads there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from convc.codegen.llvm.control import maybe
from convc.codegen.llvm.depthwise import Group
from convc.codegen.llvm.kernel import KernelBuilder
from convc.codegen.llvm.register_tile import column_pieces
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.codegen.llvm.weight_gradient import add_parts, part_size, sum_cotangents
from convc.ir.ops.conv import Conv2dBackwardWeights
from convc.lazy import dataclass
from convc.passes.group_lanes import POSITIONS, gradient_tiles
from convc.passes.layout import ImageLayout, WeightLayout

_MOST_PARTS = 8
_CHUNK_BYTES = 256 << 10


@dataclass(frozen=True)
class Tile:
    """Taps and channels of one code: filter rows from a run-time one on, columns and channels known."""

    rows: range
    columns: range
    channels: range


@dataclass(frozen=True)
class Shape:
    """One convolution's geometry, as seen by this kernel."""

    op: Conv2dBackwardWeights
    source: ImageLayout
    cotangent: ImageLayout
    weights: WeightLayout
    group: Group
    tiles: tuple[Tile, ...]  # of one filter row, or of all

    @classmethod
    def of(cls, k: KernelBuilder) -> Shape:
        op, result = k.op(Conv2dBackwardWeights), k.kernel.anchor.result
        x, dy = k.kernel.anchor.operands
        weights = k.layout(result)
        assert isinstance(weights, WeightLayout)
        group = Group(result.shape[1], result.shape[0] // op.groups)
        rows, columns, channels = gradient_tiles(k.machine, op.kernel, group.channels)
        tiles = tuple(
            Tile(range(rows), range(op.kernel[1])[s : s + columns], range(group.channels)[c : c + channels])
            for s in range(0, op.kernel[1], columns)
            for c in range(0, group.channels, channels)
        )
        return cls(op, k.image(x), k.image(dy), weights, group, tiles)

    @property
    def whole(self) -> bool:
        """Whether one tile holds all taps and channels."""
        return len(self.tiles) == 1 and len(self.tiles[0].rows) == self.op.kernel[0]

    @property
    def units(self) -> int:
        """Pieces of work in one part."""
        return len(self.weights.blocks) * (self.op.kernel[0] // len(self.tiles[0].rows)) * len(self.tiles)

    def parts(self, batch: int) -> int:
        return min(_MOST_PARTS, batch)

    @property
    def chunk(self) -> int:
        """Rows of cotangents that stay in the cache, with those of x that meet them, while all tiles pass over them."""
        of_source = self.op.stride[0] * self.source.width * self.source.stored
        return max(1, _CHUNK_BYTES // (4 * (of_source + self.cotangent.width * self.cotangent.stored)))

    def reach(self, axis: int, tap: int) -> tuple[int, int]:
        """The positions along an axis (a range) whose tap lies inside the image."""
        size, count = ((self.source.height, self.cotangent.height), (self.source.width, self.cotangent.width))[axis]
        stride, offset = self.op.stride[axis], tap * self.op.dilation[axis] - self.op.padding[axis]
        low = max(0, -(offset // stride))
        return min(low, count), max(min(low, count), min(count, (size - 1 - offset) // stride + 1))

    def segments(self, axis: int, taps: range) -> Iterator[tuple[int, int, tuple[int, ...]]]:
        """Ranges of positions along an axis, each with the taps that reach all of it."""
        count = (self.cotangent.height, self.cotangent.width)[axis]
        reaches = {tap: self.reach(axis, tap) for tap in taps}
        for first, last in pairwise(sorted({0, count, *(edge for reach in reaches.values() for edge in reach)})):
            yield first, last, tuple(tap for tap, (low, high) in reaches.items() if low <= first and last <= high)


def scratch_depthwise_backward_weights(k: KernelBuilder) -> int:
    shape = Shape.of(k)
    parts = shape.parts(k.plan.batch)
    return 4 * parts * part_size(k, shape.weights) if parts > 1 else 0


def lower_depthwise_backward_weights(k: KernelBuilder) -> None:
    shape = Shape.of(k)
    parts = shape.parts(k.plan.batch)
    k.phase("depthwise_backward_weights", lambda f: _Emitter(k, f, shape, parts).emit())
    if parts > 1:
        k.phase("add_parts", lambda f: add_parts(k, f, parts, shape.weights))


@dataclass(frozen=True)
class _Place:
    """Where a vector of outputs lies, in values of the generated code."""

    source: V
    cotangent: V
    target: V
    bias: V | None
    width: int
    lanes: int


class _Emitter:
    def __init__(self, k: KernelBuilder, f: Function, shape: Shape, parts: int) -> None:
        self.k, self.f, self.s, self.parts = k, f, shape, parts
        self.x, self.dy = map(k.pointer, k.kernel.anchor.operands)
        self.bias: V | None = None
        rider = k.kernel.bias_gradient
        if parts == 1:
            self.target = k.pointer(k.kernel.anchor.result)
            self.bias = k.pointer(rider) if rider is not None else None
        else:
            self.target = k.scratch_pointer()
            self.bias = f.address(self.target, shape.weights.size) if rider is not None else None

    def emit(self) -> None:
        """Part by part, chunk by chunk, this thread's units."""
        f, s = self.f, self.s
        start, stop = f.share(self.parts * s.units)
        images = self.k.rows(f)
        in_part = f.divide(f.add(images, self.parts - 1), self.parts)
        height = s.cotangent.height
        chunks = -(-height // s.chunk)
        # Also a part without images stores its zeros.
        all_chunks = f.multiply(f.maximum(in_part, 1), chunks)
        with f.loop(f.divide(start, s.units), f.divide(f.add(stop, s.units - 1), s.units)) as part:
            before = f.multiply(part.index, s.units)
            low_unit = f.maximum(f.subtract(start, before), 0)
            high_unit = f.minimum(f.subtract(stop, before), s.units)
            with f.loop(0, all_chunks) as chunk:
                image = f.add(f.multiply(part.index, in_part), f.divide(chunk.index, chunks))
                low = f.multiply(f.remainder(chunk.index, chunks), s.chunk)
                # No rows of an image that the run does not have.
                exists = f.select(f.less(image, images), V(str(s.chunk), "i64"), V("0", "i64"))
                rows = low, f.minimum(f.add(low, exists), height)
                with f.loop(low_unit, high_unit) as unit:
                    self._unit(part.index, unit.index, image, rows, f.equal(chunk.index, 0))
        if self.bias is not None and not s.whole:
            sum_cotangents(self.k, f, s.cotangent, self.dy, self.bias, self.parts, self._part_size)

    @property
    def _part_size(self) -> int:
        return part_size(self.k, self.s.weights) if self.parts > 1 else 0

    def _unit(self, part: Index, inner: Index, image: Index, rows: tuple[Index, Index], fresh: V) -> None:
        """A block of outputs, a tile, a filter row where tiles have one: the block changes last."""
        f, s = self.f, self.s
        full, rest = divmod(s.weights.columns, s.weights.block)
        blocks, filter_rows = len(s.weights.blocks), s.op.kernel[0] // len(s.tiles[0].rows)
        filter_row, inner = f.remainder(inner, filter_rows), f.divide(inner, filter_rows)
        number, block = f.remainder(inner, len(s.tiles)), f.divide(inner, len(s.tiles))
        shift = f.multiply(part, self._part_size)
        for width, first, count in ((s.weights.block, 0, full), (rest, full, 1 if rest else 0)):
            if not count:
                continue
            condition = f.less(block, full) if first == 0 else f.equal(block, full)
            with maybe(f, None if count == blocks else condition):
                for piece in column_pieces(width, self.k.machine.lanes):
                    output = f.add(f.multiply(block, s.weights.block), piece.offset)
                    channel, matrix = s.group.first_channel(f, output), s.weights.block * s.weights.rows.size
                    place = _Place(
                        f.address(self.x, f.add(f.multiply(image, s.source.size), channel)),
                        f.address(self.dy, f.add(f.multiply(image, s.cotangent.size), output)),
                        f.address(self.target, f.sum(shift, f.multiply(block, matrix), piece.offset)),
                        f.address(self.bias, f.add(shift, output)) if self.bias is not None and s.whole else None,
                        width,
                        piece.lanes,
                    )
                    for index, tile in enumerate(s.tiles):
                        with maybe(f, f.equal(number, index) if len(s.tiles) > 1 else None):
                            self._tile(tile, place, filter_row, rows, fresh)

    def _tile(self, tile: Tile, place: _Place, filter_row: Index, rows: tuple[Index, Index], fresh: V) -> None:
        """The rows of a chunk for one tile; sums are in memory between chunks."""
        f, s = self.f, self.s
        line = s.op.kernel[1] * s.group.channels * place.width
        entries = [(r, column, c) for r in tile.rows for column in tile.columns for c in tile.channels]
        first = f.address(place.target, f.multiply(filter_row, line))
        targets = [
            f.address(first, r * line + (column * s.group.channels + c) * place.width) for r, column, c in entries
        ]
        if place.bias is not None:
            targets.append(place.bias)
        # The first chunk starts from zero, whatever the memory holds.
        zero = f.constant(0.0, place.lanes)
        sums = [f.select(fresh, zero, f.load(target, place.lanes)) for target in targets]
        for low, high, reached in self._row_segments(tile, filter_row):
            with f.loop(f.maximum(low, rows[0]), f.minimum(high, rows[1]), carried=sums) as row:
                sums = list(row.carried)
                self._row(tile, place, filter_row, row.index, reached, sums)
                row.carried = sums
            sums = list(row.carried)
        for value, target in zip(sums, targets, strict=True):
            f.store(value, target)

    def _row_segments(self, tile: Tile, filter_row: Index) -> Iterator[tuple[Index, Index, tuple[int, ...]]]:
        """Ranges of rows with the filter rows of the tile (numbers from its first) that reach all of them."""
        f, s = self.f, self.s
        if len(tile.rows) == s.op.kernel[0]:
            yield from s.segments(0, tile.rows)
            return
        reaches = [s.reach(0, r) for r in range(s.op.kernel[0])]
        if all(reach == reaches[0] for reach in reaches):
            yield *reaches[0], (0,)
            return
        stride = s.op.stride[0]
        offset = f.add(f.multiply(filter_row, s.op.dilation[0]), -s.op.padding[0])
        low = f.divide(f.add(f.maximum(f.subtract(0, offset), 0), stride - 1), stride)
        high = f.divide(f.maximum(f.add(f.subtract(s.source.height - 1, offset), stride), 0), stride)
        yield low, f.minimum(high, s.cotangent.height), (0,)

    def _row(
        self, tile: Tile, place: _Place, filter_row: Index, row: Index, reached: tuple[int, ...], sums: list[V]
    ) -> None:
        """One row of cotangents: ranges of columns with the taps that reach them, some positions at a time."""
        f, s = self.f, self.s
        dy = f.address(place.cotangent, f.multiply(row, s.cotangent.width * s.cotangent.stored))
        down = f.add(f.multiply(row, s.op.stride[0]), f.multiply(filter_row, s.op.dilation[0]))
        line = f.multiply(f.add(down, -s.op.padding[0]), s.source.width)
        x = f.address(place.source, f.multiply(f.add(line, -s.op.padding[1]), s.source.stored))
        for first, last, columns in s.segments(1, tile.columns):
            stop = last - (last - first) % POSITIONS
            for low, high, step in ((first, stop, POSITIONS), (stop, last, last - stop)):
                if low == high:
                    continue
                with f.loop(low, high, step, carried=list(sums)) as column:
                    sums[:] = column.carried
                    x_place = f.address(x, f.multiply(column.index, s.op.stride[1] * s.source.stored))
                    dy_place = f.address(dy, f.multiply(column.index, s.cotangent.stored))
                    self._positions(tile, place, x_place, dy_place, step, reached, columns, sums)
                    column.carried = list(sums)
                sums[:] = column.carried

    def _positions(
        self, tile: Tile, place: _Place, x: V, dy: V, count: int, rows: tuple[int, ...], columns: tuple[int, ...],
        sums: list[V],
    ) -> None:  # fmt: skip
        """Neighbouring positions: each pixel of x is read once, and meets the cotangents that taps take it to."""
        f, s = self.f, self.s
        cotangents = [f.load(f.address(dy, n * s.cotangent.stored), place.lanes) for n in range(count)]
        meetings: dict[int, list[tuple[int, int]]] = {}
        for column in columns:
            for n in range(count):
                meetings.setdefault(n * s.op.stride[1] + column * s.op.dilation[1], []).append((n, column))
        for r in rows:
            line = r * s.op.dilation[0] * s.source.width
            for pixel, met in sorted(meetings.items()):
                place_of_pixel = f.address(x, (line + pixel) * s.source.stored)
                for c in tile.channels:
                    factor = s.group.factor(f, place_of_pixel, place.lanes, c)
                    for n, column in met:
                        beside = (r * len(tile.columns) + column - tile.columns[0]) * len(tile.channels)
                        index = beside + c - tile.channels[0]
                        sums[index] = f.fma(factor, cotangents[n], sums[index])
        if place.bias is not None:
            for value in cotangents:
                sums[-1] = f.binary("fadd", sums[-1], value)
