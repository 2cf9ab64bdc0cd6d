"""Direct convolution, forward and backward by the data: no im2col, no halo, no multiplication by padding.

Both directions are the same loop nest. An output pixel is the sum over taps (r, s) and input channels of
input[a·step + row_offset(r), b·step + column_offset(s), c] · weights[r, s, c, ·]; forward the step is the stride and
the offset r·dilation − padding; backward by the data the "input" is the cotangent, outputs are handled by phases
(u mod stride, v mod stride), and within a phase the step is 1 and the offset (u + padding − r·dilation)/stride.

What falls outside the image is skipped exactly: rows by run-time bounds of the loop over r, columns at compile time,
because the place of a tile within the row says which of its pixels a tap reaches. Tiles away from the border have all
taps for all pixels, and where the layout allows run over a whole filter row as one loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import groupby

from convc.codegen.llvm.kernel import KernelBuilder, Spot
from convc.codegen.llvm.moments import Lines, combine
from convc.codegen.llvm.register_tile import Piece, Sums, column_pieces, unroll_factor
from convc.codegen.llvm.transposition import transpose_filters
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.codegen.llvm.whole_numbers import Whole
from convc.codegen.llvm.wide_scalars import Stretch, is_widened_ahead
from convc.ir.graph import Value
from convc.ir.ops.conv import Conv2d, Conv2dBackwardData
from convc.lazy import dataclass
from convc.passes.algorithms.axes import Axis, backward_axes, forward_axis
from convc.passes.arrange import pixels_collapse
from convc.passes.fusion import resolve
from convc.passes.layout import ImageLayout, Layout, PlanarLayout, WeightLayout
from convc.passes.quantized_layout import TOGETHER, QuantizedLayout
from convc.passes.tiling import choose_tile, even_split, most_rows

_MOST_PIXELS = 16
# What rows of images may take of the second-level cache, while one block of weights after the other passes by.
_SHARE_OF_CACHE = 0.5
# An image that is one row of pixels is cut where it is larger than this part of the cache.
_SHARE_OF_ROW = 0.25
_SHORTEST_ROW = 24


@dataclass(frozen=True)
class Run:
    """`tiles` adjacent tiles of `pixels` outputs from `first` on, each reached by the same taps:
    `active[s]` are the pixels of a tile that tap number s reaches."""

    first: int
    pixels: int
    tiles: int
    active: tuple[tuple[int, ...], ...]


def tile_runs(axis: Axis, most: int) -> list[Run]:
    """Cut a row into tiles and group neighbours that need the same code."""
    tiles: list[tuple[int, int, tuple[tuple[int, ...], ...]]] = []
    first = 0
    for pixels in even_split(axis.count, most):
        active = tuple(tuple(m for m in range(pixels) if axis.reached(first + m, offset)) for _, offset in axis.taps)
        tiles.append((first, pixels, active))
        first += pixels
    runs: list[Run] = []
    for (pixels, active), group in groupby(tiles, key=lambda tile: tile[1:]):
        members = list(group)
        runs.append(Run(members[0][0], pixels, len(members), active))
    return runs


def taps_inside(f: Function, axis: Axis, output: Index) -> tuple[Index, Index]:
    """Bounds of the numbers t of the axis's taps that the image has: 0 <= output·stride + offset t < limit."""
    count, first_offset, step = len(axis.taps), axis.taps[0][1], axis.distances[1]
    if axis.always_inside:
        return 0, count
    start = f.add(f.multiply(output, axis.stride), first_offset)
    if step > 0:
        under, over = f.subtract(0, start), f.subtract(axis.limit - 1, start)
    else:
        under, over = f.subtract(start, axis.limit - 1), start
    size = abs(step)
    low = f.divide(f.add(f.maximum(under, 0), size - 1), size)
    high = f.divide(f.maximum(f.add(over, size), 0), size)
    high = f.minimum(high, count)
    return f.minimum(low, high), high


@dataclass(frozen=True)
class Source:
    """Images as they are read: how far apart neighbouring rows, pixels and channels lie, and one image and the next."""

    size: int
    row: int
    pixel: int
    channel: int

    @classmethod
    def of(cls, layout: Layout, height: int, width: int) -> Source:
        """Of images so large. The input may lie channel by channel, everything else lies pixel by pixel."""
        if isinstance(layout, PlanarLayout):
            return cls(layout.size, width, 1, height * width)
        assert isinstance(layout, ImageLayout)
        return cls(layout.size, width * layout.stored, layout.stored, 1)


@dataclass(frozen=True)
class Direct:
    """One phase of one group (a loop runs over the groups): geometry, layouts, which channels are read and written."""

    rows: Axis
    columns: Axis
    source: Source
    target: ImageLayout
    weights: WeightLayout
    group: Index
    whole: Whole | None = None

    @property
    def channels(self) -> int:
        """Channels that an output is summed over, with the one of zeros that makes their number even for pairs."""
        return self.weights.rows.stored

    @property
    def element_bytes(self) -> int:
        return 4 // self.together

    @property
    def together(self) -> int:
        """Channels that are multiplied at a time."""
        return self.weights.pairs if self.whole is None else TOGETHER


def lower_conv2d(k: KernelBuilder) -> None:
    """conv2d with bias and a chain."""
    op = k.op(Conv2d)
    x, w = k.kernel.anchor.operands[:2]
    bias = k.kernel.anchor.operands[2] if len(k.kernel.anchor.operands) == 3 else None
    y = k.kernel.anchor.result
    target, weights = k.image(y), k.layout(w)
    if isinstance(weights, QuantizedLayout):
        weights = weights.panels
    assert isinstance(weights, WeightLayout)
    kernel, (height, width) = (w.shape[2], w.shape[3]), x.shape[2:]
    if pixels_collapse(op, kernel):
        target, (height, width) = _as_rows(k, target, x.shape[1])
    source = Source.of(k.layout(resolve(x)), height, width)
    top, left = op.padding[:2]
    rows = forward_axis(height, target.height, kernel[0], op.stride[0], top, op.dilation[0])
    columns = forward_axis(width, target.width, kernel[1], op.stride[1], left, op.dilation[1])

    lines = _lines_of_moments(k)

    def body(f: Function) -> None:
        with f.loop(0, op.groups) as group:
            direct = Direct(rows, columns, source, target, weights, group.index, Whole.of(k, x, w))
            pointers = k.pointer(x), k.pointer(w), None if bias is None else k.pointer(bias)
            _Emitter(k, f, direct, *pointers, moments=lines).emit()

    k.phase("conv2d", body)
    clear_padding(k, op.groups)
    if lines is not None:
        combine(k, lines, k.kernel.riders[0].results)


def scratch_conv2d(k: KernelBuilder) -> int:
    """What is kept of each row of the result, where batch norm follows."""
    lines = _lines_of_moments(k)
    return 4 * lines.numbers(k.plan.batch) if lines is not None else 0


def _lines_of_moments(k: KernelBuilder) -> Lines | None:
    """The rows that this kernel takes results in, if it also takes their moments."""
    if not k.kernel.riders:
        return None
    op = k.op(Conv2d)
    x, w = k.kernel.anchor.operands[:2]
    target = k.image(k.kernel.anchor.result)
    if pixels_collapse(op, (w.shape[2], w.shape[3])):
        target = _as_rows(k, target, x.shape[1])[0]
    return Lines.rows(target)


def backward_data_weights(k: KernelBuilder) -> WeightLayout:
    """The layout of the transposed filters: outputs are the input channels, rows (r, s, output channel)."""
    op = k.op(Conv2dBackwardData)
    w, dx = k.kernel.anchor.operands[1], k.kernel.anchor.result
    out_channels, c_group, r, s = w.shape
    width = dx.shape[2] * dx.shape[3] if pixels_collapse(op, (r, s)) else -(-dx.shape[3] // op.stride[1])
    block = choose_tile(k.machine, width, c_group).block
    own = out_channels // op.groups
    layout = WeightLayout(c_group * op.groups, ImageLayout(own, r, s, own), 1 << 30, op.groups)
    layout = replace(layout, block=min(block, layout.columns))
    packed = k.layout(w)
    return layout.in_pairs() if isinstance(packed, WeightLayout) and packed.pairs == 2 else layout


def scratch_backward_data(k: KernelBuilder) -> int:
    layout = backward_data_weights(k)
    return layout.size * 4 // layout.pairs


def _turned_filters(k: KernelBuilder, layout: WeightLayout) -> V:
    """Where they lie: float32, or bfloat16 in pairs."""
    place = k.scratch_pointer()
    return V(place.ref, place.type, "bfloat") if layout.pairs == 2 else place


def lower_conv2d_backward_data(k: KernelBuilder) -> None:
    """Transposes the filters into scratch space, then runs the phases of the stride."""
    op = k.op(Conv2dBackwardData)
    dy, w = k.kernel.anchor.operands
    dx = k.kernel.anchor.result
    packed, transposed = k.layout(w), backward_data_weights(k)
    assert isinstance(packed, WeightLayout)

    def transpose(f: Function) -> None:
        transpose_filters(f, k.pointer(w), packed, _turned_filters(k, transposed), transposed, k.machine.lanes)

    k.phase("transpose_filters", transpose)
    target = k.image(dx)
    kernel, (height, width) = (w.shape[2], w.shape[3]), dy.shape[2:]
    if pixels_collapse(op, kernel):
        target, (height, width) = _as_rows(k, target, dy.shape[1])
    source = Source.of(k.image(dy), height, width)
    top, left = op.padding[:2]
    down = list(backward_axes(target.height, height, kernel[0], op.stride[0], top, op.dilation[0]))
    across = list(backward_axes(target.width, width, kernel[1], op.stride[1], left, op.dilation[1]))

    def body(f: Function) -> None:
        for rows in down:
            for columns in across:
                with f.loop(0, op.groups) as group:
                    direct = Direct(rows, columns, source, target, transposed, group.index)
                    _Emitter(k, f, direct, k.pointer(dy), _turned_filters(k, transposed), None).emit()

    k.phase("conv2d_backward_data", body)
    clear_padding(k, op.groups)


def clear_padding(k: KernelBuilder, groups: int) -> None:
    """Groups write exactly their own channels, so the padding lanes after the last one are cleared apart."""
    for value in k.kernel.images:
        layout = k.image(value)
        if groups > 1 and layout.stored > layout.channels:
            k.phase("clear_padding", lambda f, value=value: _clear_lanes(k, f, value))


def _clear_lanes(k: KernelBuilder, f: Function, value: Value) -> None:
    layout = k.image(value)
    start, stop = f.share(f.multiply(k.rows(f), layout.pixels))
    with f.loop(start, stop) as pixel:
        place = f.address(k.pointer(value), f.multiply(pixel.index, layout.stored))
        for lane in range(layout.channels, layout.stored):
            f.store(f.constant(0.0), f.address(place, lane))


def _as_rows(k: KernelBuilder, layout: ImageLayout, channels: int) -> tuple[ImageLayout, tuple[int, int]]:
    """An image of pixels that are computed one by one from so many `channels`, in rows as long as the cache likes."""
    most = max(_SHORTEST_ROW, int(_SHARE_OF_ROW * k.machine.l2_bytes) // (4 * channels))
    lengths = [n for n in range(_SHORTEST_ROW, min(most, layout.pixels) + 1) if layout.pixels % n == 0]
    width = layout.pixels if layout.pixels <= most or not lengths else lengths[-1]
    height = layout.pixels // width
    return ImageLayout(layout.channels, height, width, layout.stored), (height, width)


class _Emitter:
    """Writes the loop nest of one phase of one group."""

    def __init__(
        self, k: KernelBuilder, f: Function, d: Direct, source: V, weights: V, bias: V | None,
        moments: Lines | None = None,
    ) -> None:  # fmt: skip
        self.k, self.f, self.d, self.moments = k, f, d, moments
        self.source, self.weights, self.bias = source, weights, bias
        own = d.weights.outputs // d.weights.groups
        self.first_channel = f.multiply(d.group, own)
        self.own_channels = own
        self.source_channel = f.multiply(d.group, d.channels * d.source.channel)
        vectors = len(column_pieces(min(d.weights.block, d.weights.columns), k.machine.lanes))
        self.runs = tile_runs(d.columns, min(most_rows(k.machine, vectors), _MOST_PIXELS))

    def emit(self) -> None:
        f, d = self.f, self.d
        units = f.multiply(self.k.rows(f), d.rows.count)
        start, stop = f.share(units)
        full, rest = divmod(d.weights.columns, d.weights.block)
        if full and not rest and d.weights.columns != self.own_channels:
            full, rest = full - 1, d.weights.block  # the block with padding lanes gets code of its own
        with f.loop(start, stop, self._rows_at_a_time()) as chunk:
            end = f.minimum(stop, f.add(chunk.index, self._rows_at_a_time()))
            self._blocks(full, rest, lambda block, width: self._all_rows(chunk.index, end, block, width))
            if self.moments is not None:
                results = self.k.pointer(self.k.kernel.anchor.result)
                with f.loop(chunk.index, end) as row:
                    self.moments.measure(self.k, f, results, self.k.scratch_pointer(), row.index)

    def _rows_at_a_time(self) -> int:
        """Rows of outputs that all blocks are computed for before the next rows begin.

        Either so many that what they are computed from stays in the cache, and the weights pass by once for each such
        chunk; or all, and the images pass by once for each block; whichever moves less.
        """
        d, cache = self.d, self.k.machine.l2_bytes
        everything = self.k.plan.batch * d.rows.count
        row = d.element_bytes * d.rows.stride * d.columns.limit * d.channels
        again = 4 * d.target.width * d.target.stored if self.moments is not None else 0  # read for their moments
        rows = max(1, int(_SHARE_OF_CACHE * cache) // (row + again))
        chunks, images = -(-everything // rows), everything * row
        weights = d.element_bytes * d.weights.columns * d.weights.rows.size
        if weights <= _SHARE_OF_CACHE * cache:
            return rows
        return rows if images + 2 * chunks * weights <= images * len(d.weights.blocks) + weights else everything

    def _blocks(self, full: int, rest: int, visit: Callable[[Index, int], None]) -> None:
        if full:
            with self.f.loop(0, full) as block:
                visit(block.index, self.d.weights.block)
        if rest:
            visit(full, rest)

    def _all_rows(self, start: Index, stop: Index, block: Index, width: int) -> None:
        with self.f.loop(start, stop) as unit:
            self._row(unit.index, block, width)

    def _row(self, unit: Index, block: Index, width: int) -> None:
        """All tiles of one row of outputs, for one block of channels."""
        f, d = self.f, self.d
        image, row = f.divide(unit, d.rows.count), f.remainder(unit, d.rows.count)
        pieces = column_pieces(width, self.k.machine.lanes)
        for run in self.runs:
            with f.loop(0, run.tiles) as tile:
                first = f.add(run.first, f.multiply(tile.index, run.pixels))
                self._tile(run, image, row, first, block, pieces, width)

    def _tile(
        self, run: Run, image: Index, row: Index, first: Index, block: Index, pieces: tuple[Piece, ...], width: int
    ) -> None:
        f, d = self.f, self.d
        channel = f.add(self.first_channel, f.multiply(block, d.weights.block))
        sums = Sums.zeros(f, run.pixels, pieces, whole=d.whole is not None)
        if self.bias is not None and d.whole is None:
            loaded = [f.load(f.address(self.bias, f.add(channel, p.offset)), p.lanes) for p in pieces]
            sums.flat = loaded * run.pixels
        panel = f.address(
            self.weights,
            f.add(
                f.multiply(d.group, d.weights.columns * d.weights.rows.size),
                f.multiply(block, d.weights.block * d.weights.rows.size),
            ),
        )
        # The address of the pixel that tap offset 0 reads for the tile's first output.
        pixel = f.add(
            f.multiply(image, d.source.size),
            f.add(
                f.multiply(f.multiply(row, d.rows.stride), d.source.row),
                f.add(f.multiply(f.multiply(first, d.columns.stride), d.source.pixel), self.source_channel),
            ),
        )
        corner = f.address(self.source, pixel)
        spots = list(self._spots(run, image, row, first, channel, block, pieces))
        self.k.approach(f, spots)
        if d.rows.taps and any(run.active):
            self._taps(run, row, corner, panel, sums, width, channel)
        if d.whole is not None:
            sums.flat = d.whole.results(f, sums, channel, self.bias)
        for number, spot in enumerate(spots):
            self.k.finish(f, spot, sums.flat[number])

    def _taps(self, run: Run, row: Index, corner: V, panel: V, sums: Sums, width: int, channel: Index) -> None:
        """The loop over filter rows; which of them the image has depends on the row of the output."""
        f, d = self.f, self.d
        (first_tap, first_offset), (tap_step, offset_step) = d.rows.taps[0], d.rows.distances
        low, high = taps_inside(f, d.rows, row)
        line = d.source.row
        filter_row = d.weights.rows.width * d.channels * width
        with f.loop(low, high, carried=sums.flat) as tap:
            sums.flat = tap.carried
            source = f.address(corner, f.add(first_offset * line, f.multiply(tap.index, offset_step * line)))
            filters = f.address(panel, f.add(first_tap * filter_row, f.multiply(tap.index, tap_step * filter_row)))
            self._filter_row(run, source, filters, sums, width)
            if d.whole is not None:
                first = f.multiply(f.add(first_tap, f.multiply(tap.index, tap_step)), d.weights.rows.width)
                for (column, _), active in zip(d.columns.taps, run.active, strict=True):
                    d.whole.add_part(f, sums, f.add(first, column), channel, active)
            tap.carried = sums.flat
        sums.flat = tap.carried

    def _filter_row(self, run: Run, source: V, filters: V, sums: Sums, width: int) -> None:
        """One filter row: all its taps, all channels."""
        d = self.d
        everyone = tuple(range(run.pixels))
        taps = d.columns.taps
        adjacent = all(t[1] - taps[0][1] == t[0] - taps[0][0] == i for i, t in enumerate(taps))
        in_one_run = d.source.channel == 1 and d.channels == d.source.pixel
        if adjacent and in_one_run and all(active == everyone for active in run.active):
            # Neighbouring taps are neighbours in memory, too: the filter row is one run of taps x channels.
            self._channels(source, taps[0][1], filters, taps[0][0], len(taps) * d.channels, everyone, sums, width)
            return
        reached = [(tap, offset, active) for (tap, offset), active in zip(taps, run.active, strict=True) if active]
        for active, group in groupby(reached, key=lambda reach: reach[2]):
            self._taps_of_row([(tap, offset) for tap, offset, _ in group], source, filters, active, sums, width)

    def _taps_of_row(
        self, taps: list[tuple[int, int]], source: V, filters: V, active: tuple[int, ...], sums: Sums, width: int
    ) -> None:
        """Taps that reach the same pixels.

        Of few channels in a loop: neighbouring taps share pixels, and LLVM would keep more of these than there are
        registers.
        """
        f, d = self.f, self.d
        (tap, offset), count = taps[0], len(taps)
        tap_step, offset_step = (taps[1][0] - tap, taps[1][1] - offset) if count > 1 else (1, 1)
        regular = all(taps[i] == (tap + i * tap_step, offset + i * offset_step) for i in range(count))
        if not regular or not self._written_out(d.channels // d.together, active):
            for tap, offset in taps:
                self._channels(source, offset, filters, tap, d.channels, active, sums, width)
            return
        with f.loop(0, count, carried=sums.flat) as number:
            sums.flat = number.carried
            pixels = f.address(source, f.multiply(number.index, offset_step * d.source.pixel))
            rows = f.address(filters, f.multiply(number.index, tap_step * d.channels * width))
            self._channels(pixels, offset, rows, tap, d.channels, active, sums, width)
            number.carried = sums.flat
        sums.flat = number.carried

    @staticmethod
    def _written_out(count: int, active: tuple[int, ...]) -> bool:
        """Whether all steps of a sum in `count` steps are written out."""
        return count * len(active) <= 64

    def _channels(
        self, source: V, offset: int, filters: V, tap: int, count: int, active: tuple[int, ...], sums: Sums, width: int
    ) -> None:
        """The products of `count` channels of the `active` pixels, one or two or four at a time."""
        f, d = self.f, self.d
        pixel, channel = d.columns.stride * d.source.pixel, d.source.channel
        start, columns = offset * d.source.pixel, tap * d.channels * width
        if d.together > 1 or not is_widened_ahead(source, channel, count):
            self._steps((source, start, pixel, channel), f.address(filters, columns), count, active, sums, width)
            return
        stretch = Stretch(f, self.k.machine.lanes, active)
        for first, last, length in stretch.cuts(count):
            with f.loop(first, last, length, carried=sums.flat) as loop:
                sums.flat = loop.carried
                stretch.widen(f.address(source, f.add(loop.index, start)), pixel, length)
                rows = f.address(filters, f.add(f.multiply(loop.index, width), columns))
                self._steps((stretch.place, 0, stretch.apart, 1), rows, length, active, sums, width)
                loop.carried = sums.flat
            sums.flat = loop.carried

    def _steps(
        self, places: tuple[V, int, int, int], filters: V, count: int, active: tuple[int, ...], sums: Sums, width: int
    ) -> None:
        """`places` are where scalars lie: an address, how far beyond it the first one is, and how far pixels and
        channels are from each other."""
        f, d = self.f, self.d
        source, start, pixel, channel = places
        together = d.together
        add = {1: sums.multiply_add, 2: sums.add_pairs, TOGETHER: sums.add_quads}[together]
        unroll = (
            count // together
            if self._written_out(count // together, active)
            else unroll_factor(count // together, 5 if len(active) * len(sums.pieces) <= 16 else 4)
        )
        unroll *= together
        with f.loop(0, count, unroll, carried=sums.flat) as loop:
            sums.flat = loop.carried
            scalars = f.address(source, f.multiply(loop.index, channel))
            rows = f.address(filters, f.multiply(loop.index, width))
            for step in range(0, unroll, together):
                first = start + step * channel
                add(f, rows, step * width, lambda m, first=first: (scalars, first + m * pixel), active)
            loop.carried = sums.flat
        sums.flat = loop.carried

    def _spots(
        self, run: Run, image: Index, row: Index, first: Index, channel: Index, block: Index, pieces: tuple[Piece, ...]
    ) -> Iterator[Spot]:
        """Where the vectors of a tile's results are, in the order of its sums."""
        f, d = self.f, self.d
        target_row = f.add(d.rows.first, f.multiply(row, d.rows.step))
        target_column = f.add(d.columns.first, f.multiply(first, d.columns.step))
        pixel = f.add(f.multiply(target_row, d.target.width), target_column)
        base = f.sum(f.multiply(image, d.target.size), f.multiply(pixel, d.target.stored), channel)
        for m in range(run.pixels):
            for piece in pieces:
                real = piece.lanes
                if isinstance(block, int):
                    real = max(0, min(piece.lanes, self.own_channels - block * d.weights.block - piece.offset))
                yield Spot(
                    image,
                    f.add(pixel, m * d.columns.step) if self.k.needs_position else 0,
                    f.add(channel, piece.offset),
                    base,
                    m * d.columns.step * d.target.stored + piece.offset,
                    piece.lanes,
                    real,
                )
