"""Gradient of convolution by its filters.

    dw[r,s,c,k] = Σ_{n,i,j} x[n, i·sh + r·dh − top, j·sw + s·dw − left, c] · dy[n,i,j,k]

A register tile holds some rows (r, s, c) by a block of outputs k while loops run over all positions: scalars from x,
vectors from dy, both read in place. The gradient comes out packed like the weights. Images are taken in chunks that
fit the second-level cache, large ones in bands of rows, each of which is added to what those before left in memory.

Two kinds of tiles. With channels enough, a tile holds channels of one tap (r, s), and the positions that the tap
reaches are bounds of loops. With few channels (first layers) a tile spans the taps of a filter row, or all of them;
positions near the border, which only some of its rows reach, get code of their own.

Where the processor adds up products of bfloat16 numbers two at a time, tiles of one tap take two positions of a row at
once (`position_pairs.py`), and the last of an odd number in float32.

The bias gradient is one more row of a tile whose tap reaches every position; its scalar is 1.

Threads split tiles, not sums, so results do not depend on their number. Where there are too few tiles, or where the
gradient is much smaller than the images, these are cut into a fixed number of parts, whose partial gradients are added
up in order.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from convc.codegen.llvm.ahead import Ahead
from convc.codegen.llvm.control import maybe
from convc.codegen.llvm.kernel import KernelBuilder
from convc.codegen.llvm.position_pairs import add_positions
from convc.codegen.llvm.register_tile import ScalarPlace, Sums, column_pieces, unroll_factor
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.codegen.llvm.weight_gradient_shape import Row, Shape
from convc.codegen.llvm.wide_scalars import scalars_ahead
from convc.lazy import dataclass
from convc.passes.layout import ImageLayout, WeightLayout
from convc.passes.tiling import even_split


def part_size(k: KernelBuilder, weights: WeightLayout) -> int:
    """Floats of one partial result: the gradient, and the bias gradient behind it."""
    return weights.size + sum(k.layout(rider.result).size for rider in k.kernel.riders)


def scratch_backward_weights(k: KernelBuilder) -> int:
    shape = Shape.of(k)
    parts = shape.parts(k.plan.batch)
    return parts * part_size(k, shape.weights) * 4 if parts > 1 else 0


def lower_conv2d_backward_weights(k: KernelBuilder) -> None:
    shape = Shape.of(k)
    parts = shape.parts(k.plan.batch)
    k.phase("conv2d_backward_weights", lambda f: _Emitter(k, f, shape, parts).emit())
    if parts > 1:
        k.phase("add_parts", lambda f: add_parts(k, f, parts, shape.weights))


def add_parts(k: KernelBuilder, f: Function, parts: int, weights: WeightLayout) -> None:
    """The gradients: target[i] = part 0[i] + part 1[i] + …, in order; the parts lie in scratch space."""
    first, size_of_part = 0, part_size(k, weights)
    for target in (k.kernel.anchor.result, *(rider.result for rider in k.kernel.riders)):
        size = k.layout(target).size
        lanes = 4 if size % 4 == 0 else 1
        start, stop = f.share(size // lanes)
        with f.loop(start, stop) as position:
            place = f.multiply(position.index, lanes)
            source = f.address(k.scratch_pointer(), f.add(place, first))
            total = f.load(source, lanes)
            for part in range(1, parts):
                total = f.binary("fadd", total, f.load(f.address(source, part * size_of_part), lanes))
            f.store(total, f.address(k.pointer(target), place))
        first += size


def sum_cotangents(
    k: KernelBuilder, f: Function, cotangent: ImageLayout, dy: V, target: V, parts: int, distance: int
) -> None:
    """The bias gradient in a sweep of its own, split by parts and channels; those of parts lie at a `distance`."""
    rows = k.rows(f)
    in_part = f.divide(f.add(rows, parts - 1), parts)
    lanes = 4 if cotangent.stored % 4 == 0 else 1
    vectors = cotangent.stored // lanes
    start, stop = f.share(parts * vectors)
    with f.loop(start, stop) as unit:
        part, channel = f.divide(unit.index, vectors), f.multiply(f.remainder(unit.index, vectors), lanes)
        first = f.minimum(f.multiply(part, in_part), rows)
        last = f.minimum(f.add(first, in_part), rows)
        pixels = cotangent.pixels
        start_sum = [f.constant(0.0, lanes)]
        with f.loop(f.multiply(first, pixels), f.multiply(last, pixels), carried=start_sum) as pixel:
            place = f.add(f.multiply(pixel.index, cotangent.stored), channel)
            value = f.load(f.address(dy, place), lanes)
            pixel.carried = [f.binary("fadd", pixel.carried[0], value)]
        f.store(pixel.carried[0], f.address(target, f.add(f.multiply(part, distance), channel)))


@dataclass(frozen=True)
class _Place:
    """Where a tile lies, in values of the generated code."""

    scalars: V  # x, shifted by tap and channel
    vectors: V  # dy, shifted to the block of outputs
    target: V  # the tile's first row of the gradient
    bias_target: V | None
    rows: tuple[Index, Index]
    columns: tuple[Index, Index]
    width: int


class _Emitter:
    def __init__(self, k: KernelBuilder, f: Function, shape: Shape, parts: int) -> None:
        self.k, self.f, self.s, self.parts = k, f, shape, parts
        x, dy = k.kernel.anchor.operands
        self.x, self.dy = k.pointer(x), k.pointer(dy)
        self.bias = k.kernel.bias_gradient
        self.bias_tap = shape.tap_everywhere()
        self.ahead: Ahead | None = None
        self.lines: tuple[Index, Index] | None = None  # the rows of the band; None where it is all of them
        if parts == 1:
            self.weights_target = k.pointer(k.kernel.anchor.result)
            self.bias_target = k.pointer(self.bias) if self.bias is not None else None
        else:
            self.weights_target = k.scratch_pointer()
            self.bias_target = f.address(k.scratch_pointer(), shape.weights.size) if self.bias is not None else None

    def emit(self) -> None:
        """Part by part (usually one), chunk by chunk, this thread's units."""
        f, s = self.f, self.s
        start, stop = f.share(self.parts * s.units)
        rows = self.k.rows(f)
        in_part = f.divide(f.add(rows, self.parts - 1), self.parts)
        height = s.cotangent.height
        fetches = s.fetches and (s.band < height or s.chunk < self.k.plan.batch)
        with (
            f.loop(0, in_part, s.chunk) as chunk,
            f.loop(0, height, s.band) as band,
            f.loop(start, stop) as unit,
        ):
            if s.band < height:
                self.lines = band.index, f.minimum(f.add(band.index, s.band), height)
            part, inner = f.divide(unit.index, s.units), f.remainder(unit.index, s.units)
            first = f.minimum(f.add(f.multiply(part, in_part), chunk.index), rows)
            end = f.minimum(f.multiply(f.add(part, 1), in_part), rows)
            images = first, f.minimum(f.add(first, s.chunk), end)
            if fetches:
                self.ahead = Ahead(f, s.streams(self.x, self.dy), inner, s.units, s.round)
            self._unit(part, inner, images, f.equal(f.add(chunk.index, band.index), 0))
        if self.bias_target is not None and self.bias_tap is None:
            distance = part_size(self.k, s.weights) if self.parts > 1 else 0
            sum_cotangents(self.k, f, s.cotangent, self.dy, self.bias_target, self.parts, distance)
        elif self.bias is not None:
            self._clear_bias_padding()

    def _clear_bias_padding(self) -> None:
        """Groups store their own outputs only; the norm of all gradients reads what lies behind the last one, too."""
        f, s = self.f, self.s
        assert self.bias is not None
        assert self.bias_target is not None
        padding = range(s.weights.outputs, self.k.layout(self.bias).size) if s.op.groups > 1 else ()
        if padding:
            with f.when(f.equal(f.rank, 0)), f.loop(0, self.parts) as part:
                bias = f.address(self.bias_target, f.multiply(part.index, part_size(self.k, s.weights)))
                for channel in padding:
                    f.store(f.constant(0.0), f.address(bias, channel))

    def _unit(self, part: Index, inner: Index, images: tuple[Index, Index], fresh: V) -> None:
        f, s = self.f, self.s
        full, rest = divmod(s.weights.columns, s.weights.block)
        blocks = full + (1 if rest else 0)
        block, inner = f.remainder(inner, blocks), f.divide(inner, blocks)
        group, inner = f.remainder(inner, s.op.groups), f.divide(inner, s.op.groups)
        for width, first_block, count in ((s.weights.block, 0, full), (rest, full, 1 if rest else 0)):
            if count:
                condition = (
                    None if count == blocks else (f.less(block, full) if first_block == 0 else f.equal(block, full))
                )
                with maybe(f, condition):
                    self._block(part, group, block, width, inner, images, fresh)

    def _block(
        self, part: Index, group: Index, block: Index, width: int, inner: Index, images: tuple[Index, Index], fresh: V
    ) -> None:
        f, s = self.f, self.s
        channel = f.add(f.multiply(group, s.weights.outputs // s.op.groups), f.multiply(block, s.weights.block))
        vectors = f.address(self.dy, channel)
        scalars = f.address(self.x, f.multiply(group, s.channels))
        offset = f.sum(
            f.multiply(part, part_size(self.k, s.weights)) if self.parts > 1 else 0,
            f.multiply(group, s.weights.columns * s.weights.rows.size),
            f.multiply(block, s.weights.block * s.weights.rows.size),
        )
        target = f.address(self.weights_target, offset)
        bias_target = None
        if self.bias_target is not None:
            shift = f.multiply(part, part_size(self.k, s.weights)) if self.parts > 1 else 0
            bias_target = f.address(self.bias_target, f.add(shift, channel))
        if s.merged:
            self._merged(scalars, vectors, target, bias_target, width, inner, images, fresh)
        else:
            self._single_tap(scalars, vectors, target, bias_target, width, inner, images, fresh)

    def _single_tap(
        self, scalars: V, vectors: V, target: V, bias_target: V | None, width: int, inner: Index,
        images: tuple[Index, Index], fresh: V,
    ) -> None:  # fmt: skip
        """Tiles of channels of one tap; tap and first channel are known at run time only."""
        f, s = self.f, self.s
        runs = even_split(s.channels, s.most)
        tile, inner = f.remainder(inner, len(runs)), f.divide(inner, len(runs))
        tap_s, tap_r = f.remainder(inner, s.kernel[1]), f.divide(inner, s.kernel[1])
        larger = sum(run == runs[0] for run in runs)
        for count, condition, base in (
            (runs[0], None if larger == len(runs) else f.less(tile, larger), 0),
            (runs[-1], f.less(larger - 1, tile), larger * (runs[0] - runs[-1])),
        ):
            if base == 0 and count != runs[0]:
                continue
            with maybe(f, condition):
                first_channel = f.add(base, f.multiply(tile, count))
                tap = f.add(f.multiply(tap_r, s.kernel[1]), tap_s)
                row = f.add(f.multiply(tap, s.channels), first_channel)
                place = _Place(
                    f.address(scalars, f.add(self._tap_offset(tap_r, tap_s), first_channel)),
                    vectors,
                    f.address(target, f.multiply(row, width)),
                    bias_target,
                    self._in_band(self._inside(0, tap_r)),
                    self._inside(1, tap_s),
                    width,
                )
                tile_rows = tuple((0, 0, c) for c in range(count))
                rides = None
                if self.bias is not None and self.bias_tap is not None and count == runs[0]:
                    here = f.equal(tap, self.bias_tap[0] * s.kernel[1] + self.bias_tap[1])
                    rides = f.binary("and", here, f.equal(first_channel, 0))
                self._tile(tile_rows, place, images, fresh, rides)
            if larger == len(runs):
                break

    def _merged(
        self, scalars: V, vectors: V, target: V, bias_target: V | None, width: int, inner: Index,
        images: tuple[Index, Index], fresh: V,
    ) -> None:  # fmt: skip
        """Tiles over the taps of a filter row (or of the whole filter); each tile has code of its own."""
        f, s = self.f, self.s
        tiles = s.merged_tiles()
        number, tap_r = f.remainder(inner, len(tiles)), f.divide(inner, len(tiles))
        for index, rows in enumerate(tiles):
            with maybe(f, f.equal(number, index) if len(tiles) > 1 else None):
                place = _Place(
                    f.address(scalars, self._tap_offset(tap_r, 0)),
                    vectors,
                    f.address(target, f.multiply(tap_r, s.kernel[1] * s.channels * width)),
                    bias_target,
                    self._in_band((0, s.cotangent.height) if s.all_rows_merged else self._inside(0, tap_r)),
                    (0, s.cotangent.width),
                    width,
                )
                rides = None
                if self.bias is not None and self.bias_tap is not None:
                    r, tap_s = self.bias_tap if s.all_rows_merged else (0, self.bias_tap[1])
                    if (r, tap_s, 0) in rows:
                        rides = f.equal(tap_r, 0 if s.all_rows_merged else self.bias_tap[0])
                self._tile(rows, place, images, fresh, rides)

    def _tap_offset(self, r: Index, column: Index) -> Index:
        """Elements from the pixel at (i·sh, j·sw) to what tap (r, s) reads."""
        f, s = self.f, self.s
        down = f.add(f.multiply(r, s.op.dilation[0]), -s.op.padding[0])
        across = f.add(f.multiply(column, s.op.dilation[1]), -s.op.padding[1])
        return f.multiply(f.add(f.multiply(down, s.source.width), across), s.source.stored)

    def _in_band(self, rows: tuple[Index, Index]) -> tuple[Index, Index]:
        """What the band has of the rows."""
        if self.lines is None:
            return rows
        low, high = self.f.maximum(rows[0], self.lines[0]), self.f.minimum(rows[1], self.lines[1])
        return low, self.f.maximum(low, high)

    def _inside(self, axis: int, tap: Index) -> tuple[Index, Index]:
        """Bounds of the positions that a tap, known at run time, reaches."""
        f, s = self.f, self.s
        size, count = ((s.source.height, s.cotangent.height), (s.source.width, s.cotangent.width))[axis]
        if all(s.reach(axis, t) == (0, count) for t in range(s.kernel[axis])):
            return 0, count
        stride = s.op.stride[axis]
        offset = f.add(f.multiply(tap, s.op.dilation[axis]), -s.op.padding[axis])
        low = f.divide(f.add(f.maximum(f.subtract(0, offset), 0), stride - 1), stride)
        high = f.divide(f.maximum(f.add(f.subtract(size - 1, offset), stride), 0), stride)
        high = f.minimum(high, count)
        return f.minimum(low, high), high

    def _tile(
        self, rows: tuple[Row, ...], place: _Place, images: tuple[Index, Index], fresh: V, rides: V | None
    ) -> None:
        """All positions of the images for one tile. `rides` (i1) tells whether the bias row's sums count."""
        f, s = self.f, self.s
        pieces = column_pieces(place.width, self.k.machine.lanes)
        count = len(rows) + (1 if rides is not None else 0)
        places = [((r * s.kernel[1] + column) * s.channels + c) * place.width for r, column, c in rows]

        def stored(m: int, offset: int) -> V:
            if m < len(rows):
                return f.address(place.target, places[m] + offset)
            assert place.bias_target is not None
            return f.address(place.bias_target, offset)

        # The first chunk starts from zero, whatever the memory holds.
        start: list[V] = []
        for m in range(count):
            for p in pieces:
                zero = f.constant(0.0, p.lanes)
                start.append(f.select(fresh, zero, f.load(stored(m, p.offset), p.lanes)))
        sums = Sums(count, pieces, start)
        with f.loop(*images, carried=sums.flat) as image:
            sums.flat = image.carried
            x_image = f.address(place.scalars, f.multiply(image.index, s.source.size))
            dy_image = f.address(place.vectors, f.multiply(image.index, s.cotangent.size))
            if self.ahead is not None:
                self.ahead.image(image.index)
            with f.loop(*place.rows, carried=sums.flat) as row:
                sums.flat = row.carried
                line = s.op.stride[0] * s.source.width * s.source.stored
                x_row = f.address(x_image, f.multiply(row.index, line))
                dy_row = f.address(dy_image, f.multiply(row.index, s.cotangent.width * s.cotangent.stored))
                if self.ahead is not None:
                    self.ahead.row(row.index)
                for first, last, active in self._segments(rows, place, count):
                    self._positions(rows, x_row, dy_row, first, last, active, sums)
                row.carried = sums.flat
            sums.flat = row.carried
            image.carried = sums.flat
        sums.flat = image.carried
        for m in range(count):
            with maybe(f, rides if m == len(rows) else None):
                for number, p in enumerate(pieces):
                    f.store(sums.at(m, number), stored(m, p.offset))

    def _segments(self, rows: tuple[Row, ...], place: _Place, count: int) -> list[tuple[Index, Index, list[int]]]:
        """Ranges of columns, each with the rows that the image has for all of it; the bias row is always there."""
        everyone = list(range(count))
        s = self.s
        if not s.merged:
            return [(*place.columns, everyone)]
        reaches = [s.reach(1, row[1]) for row in rows]
        borders = sorted({0, s.cotangent.width, *(edge for reach in reaches for edge in reach)})
        segments: list[tuple[Index, Index, list[int]]] = []
        for first, last in pairwise(borders):
            active = [m for m, (low, high) in enumerate(reaches) if low <= first and last <= high]
            active += everyone[len(rows) :]
            if active:
                segments.append((first, last, active))
        return segments

    def _positions(
        self, rows: tuple[Row, ...], x_row: V, dy_row: V, first: Index, last: Index, active: list[int], sums: Sums
    ) -> None:
        f, s = self.f, self.s
        taps = [m for m in active if m < len(rows)]
        bias = [m for m in active if m >= len(rows)]
        offsets = [
            (r * s.op.dilation[0] * s.source.width + column * s.op.dilation[1]) * s.source.stored + c
            for r, column, c in rows
        ]
        if s.positions_at_once == 2:
            first = self._pairs_of_positions(x_row, dy_row, first, last, len(taps), active, sums)
        known = isinstance(first, int) and isinstance(last, int)
        unroll = unroll_factor(last - first) if known else 1  # type: ignore[operator]
        with f.loop(first, last, unroll, carried=sums.flat) as column:
            sums.flat = column.carried
            x_pixel = f.address(x_row, f.multiply(column.index, s.op.stride[1] * s.source.stored))
            dy_pixel = f.address(dy_row, f.multiply(column.index, s.cotangent.stored))
            fetches = self.ahead if s.positions_at_once == 1 else None
            if fetches is not None:
                fetches.positions(column.index)
            for step in range(unroll):
                if fetches is not None:
                    fetches.fetch(step)
                beside = step * s.op.stride[1] * s.source.stored
                places = [beside + offset for offset in offsets]
                scalars = scalars_ahead(f, self.k.machine.lanes, x_pixel, {m: places[m] for m in taps}, step)
                self._position(scalars, dy_pixel, step * s.cotangent.stored, taps, bias, sums)
            column.carried = sums.flat
        sums.flat = column.carried

    def _pairs_of_positions(
        self, x_row: V, dy_row: V, first: Index, last: Index, channels: int, active: list[int], sums: Sums
    ) -> Index:
        """Two positions at a time; returns the first one that is left."""
        f, s = self.f, self.s
        rounds = f.divide(f.subtract(last, first), 2)
        end = f.add(first, f.multiply(rounds, 2))
        unroll = unroll_factor(rounds, 2) if isinstance(rounds, int) else 1
        across = s.op.stride[1] * s.source.stored
        with f.loop(first, end, 2 * unroll, carried=sums.flat) as column:
            sums.flat = column.carried
            x_pixel = f.address(x_row, f.multiply(column.index, across))
            dy_pixel = f.address(dy_row, f.multiply(column.index, s.cotangent.stored))
            if self.ahead is not None:
                self.ahead.positions(column.index)
            for step in range(0, 2 * unroll, 2):
                if self.ahead is not None:
                    self.ahead.fetch(step)
                    self.ahead.fetch(step + 1)
                pixels = f.address(x_pixel, step * across), f.address(x_pixel, (step + 1) * across)
                columns = f.address(dy_pixel, step * s.cotangent.stored)
                add_positions(f, sums, pixels, columns, s.cotangent.stored, channels, active, step // 2)
            column.carried = sums.flat
        sums.flat = column.carried
        return end

    def _position(
        self, scalars: Callable[[int], ScalarPlace], dy_pixel: V, beside: int, taps: list[int], bias: list[int],
        sums: Sums,
    ) -> None:  # fmt: skip
        """One position: products with the scalars of the taps, and the bias row's plain sums."""
        f = self.f
        if taps:
            sums.multiply_add(f, dy_pixel, beside, scalars, taps)
        for m in bias:
            for number, piece in enumerate(sums.pieces):
                index = m * len(sums.pieces) + number
                value = f.load(f.address(dy_pixel, beside + piece.offset), piece.lanes)
                sums.flat[index] = f.binary("fadd", sums.flat[index], value)
