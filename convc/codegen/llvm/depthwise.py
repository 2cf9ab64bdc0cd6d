"""Convolutions of few channels in a group (depthwise: one), forward and backward by the data.

    y[a, b, k] = Σ_{r,s,c} x[a·sh + row_offset(r), b·sw + column_offset(s), group(k)·C + c] · w[r, s, c, k]

Vectors lie along the outputs k, across groups (passes/group_lanes.py). A tile is some pixels of a row by one vector:
a pixel of the image is read once for all outputs of the tile that a filter row takes it to, and shuffled once for each
of the C channels, so that a depthwise tile of m pixels does m·S multiply-adds for m + 2·S − 1 loads. The tiles of all
channels of some pixels come one after the other, so that images are read along memory.

The axes, their phases backward by the data, and how padding is skipped are those of `direct.py`. Backward by the data
channels and outputs change places; the filters of a depthwise convolution are their own transpose.
"""

from __future__ import annotations

from collections.abc import Callable

from convc.codegen.llvm.direct import Run, taps_inside, tile_runs
from convc.codegen.llvm.kernel import KernelBuilder, Spot
from convc.codegen.llvm.register_tile import Piece, column_pieces
from convc.codegen.llvm.transposition import weight_place
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.ir.graph import Value
from convc.ir.ops.conv import Conv2d, Conv2dBackwardData
from convc.lazy import dataclass
from convc.passes.algorithms.axes import Axis, backward_axes, forward_axis
from convc.passes.fusion import resolve
from convc.passes.group_lanes import lane_filters, most_pixels
from convc.passes.layout import ImageLayout, WeightLayout
from convc.passes.tiling import even_split

# Taps of a filter row whose weights stay in registers while the pixels of a tile pass by.
_MOST_TAPS = 4


@dataclass(frozen=True)
class Group:
    """A group: each of its `outputs` is a sum over its `channels`."""

    channels: int
    outputs: int

    def first_channel(self, f: Function, output: Index) -> Index:
        """The first channel that a vector of outputs, `output` the first of them, reads."""
        return f.multiply(f.divide(output, self.outputs), self.channels)

    def factor(self, f: Function, place: V, lanes: int, c: int) -> V:
        """What a vector of outputs is multiplied by: channel number c of the group that each of them belongs to."""
        read = lanes // self.outputs * self.channels
        channels = f.load(place, read)
        if self.channels == self.outputs == 1 or read == 1:
            return f.splat(channels, lanes)
        return f.shuffle(channels, channels, [lane // self.outputs * self.channels + c for lane in range(lanes)])


@dataclass(frozen=True)
class Phase:
    """Outputs at the places of two axes: geometry and layouts."""

    rows: Axis
    columns: Axis
    source: ImageLayout
    target: ImageLayout
    weights: WeightLayout
    group: Group


def lower_depthwise(k: KernelBuilder) -> None:
    """conv2d with bias and a chain."""
    op, operands = k.op(Conv2d), k.kernel.anchor.operands
    x, w = operands[:2]
    source, target, weights = k.image(resolve(x)), k.image(k.kernel.anchor.result), k.layout(w)
    assert isinstance(weights, WeightLayout)
    top, left = op.padding[:2]
    rows = forward_axis(source.height, target.height, w.shape[2], op.stride[0], top, op.dilation[0])
    columns = forward_axis(source.width, target.width, w.shape[3], op.stride[1], left, op.dilation[1])
    phase = Phase(rows, columns, source, target, weights, Group(w.shape[1], w.shape[0] // op.groups))

    def body(f: Function) -> None:
        bias = k.pointer(operands[2]) if len(operands) == 3 else None
        _Emitter(k, f, phase, k.pointer(x), k.pointer(w), bias).emit()

    k.phase("depthwise", body)


def scratch_depthwise_backward_data(k: KernelBuilder) -> int:
    w = k.kernel.anchor.operands[1]
    group, transposed = _transposed(k, w)
    return 0 if group == Group(1, 1) else 4 * transposed.size


def _transposed(k: KernelBuilder, w: Value) -> tuple[Group, WeightLayout]:
    """Groups whose outputs are channels of the images x, and filters for them."""
    op = k.op(Conv2dBackwardData)
    group = Group(w.shape[0] // op.groups, w.shape[1])
    return group, lane_filters(k.machine, op.groups * group.outputs, group.channels, (w.shape[2], w.shape[3]))


def lower_depthwise_backward_data(k: KernelBuilder) -> None:
    """Exchanges channels and outputs of the filters where groups have several, then runs the phases of the stride."""
    op = k.op(Conv2dBackwardData)
    dy, w = k.kernel.anchor.operands
    source, target, packed = k.image(resolve(dy)), k.image(k.kernel.anchor.result), k.layout(w)
    assert isinstance(packed, WeightLayout)
    group, weights = _transposed(k, w)
    in_place = group == Group(1, 1)
    if not in_place:
        k.phase("transpose_filters", lambda f: _transpose(f, k.pointer(w), packed, k.scratch_pointer(), weights, group))
    top, left = op.padding[:2]
    down = list(backward_axes(target.height, source.height, w.shape[2], op.stride[0], top, op.dilation[0]))
    across = list(backward_axes(target.width, source.width, w.shape[3], op.stride[1], left, op.dilation[1]))

    def body(f: Function) -> None:
        filters = k.pointer(w) if in_place else k.scratch_pointer()
        for rows in down:
            for columns in across:
                _Emitter(k, f, Phase(rows, columns, source, target, weights, group), k.pointer(dy), filters).emit()

    k.phase("depthwise_backward_data", body)


def _transpose(f: Function, source: V, packed: WeightLayout, target: V, weights: WeightLayout, group: Group) -> None:
    """weights[c of group g, tap, k] = packed[k of group g, tap, c]; zeros for what only pads."""
    taps = weights.rows.pixels
    for first, last in ((0, weights.outputs), (weights.outputs, weights.columns)):
        start, stop = f.share(taps * (last - first))
        with f.loop(start, stop) as unit:
            output, tap = f.add(first, f.divide(unit.index, taps)), f.remainder(unit.index, taps)
            number, channel = f.divide(output, group.outputs), f.remainder(output, group.outputs)
            for own in range(group.channels):
                value = f.constant(0.0)
                if first < weights.outputs:
                    from_output = f.add(f.multiply(number, group.channels), own)
                    place, _ = weight_place(f, packed, 0, tap, channel, from_output)
                    value = f.load(f.address(source, place))
                place, _ = weight_place(f, weights, 0, tap, own, output)
                f.store(value, f.address(target, place))


class _Emitter:
    """Writes the loop nest of one phase."""

    def __init__(
        self, k: KernelBuilder, f: Function, phase: Phase, source: V, weights: V, bias: V | None = None
    ) -> None:
        self.k, self.f, self.p = k, f, phase
        self.source, self.weights, self.bias = source, weights, bias
        self.runs = tile_runs(phase.columns, most_pixels(k.machine))

    def emit(self) -> None:
        f, rows = self.f, self.p.rows
        start, stop = f.share(f.multiply(self.k.rows(f), rows.count))
        with f.loop(start, stop) as unit:
            image, row = f.divide(unit.index, rows.count), f.remainder(unit.index, rows.count)
            filter_rows = taps_inside(f, rows, row) if rows.taps else (0, 0)
            for run in self.runs:
                with f.loop(0, run.tiles) as tile:
                    first = f.add(run.first, f.multiply(tile.index, run.pixels))
                    self._all_channels(run, image, row, first, filter_rows)

    def _all_channels(self, run: Run, image: Index, row: Index, first: Index, filter_rows: tuple[Index, Index]) -> None:
        """The tiles of some pixels, one after the other."""
        f, p = self.f, self.p
        line = f.multiply(f.multiply(row, p.rows.stride), p.source.width)
        pixel = f.add(line, f.multiply(first, p.columns.stride))
        corner = f.address(self.source, f.add(f.multiply(image, p.source.size), f.multiply(pixel, p.source.stored)))
        target_row = f.add(p.rows.first, f.multiply(row, p.rows.step))
        target_column = f.add(p.columns.first, f.multiply(first, p.columns.step))
        target = f.add(f.multiply(target_row, p.target.width), target_column)

        def visit(block: Index, width: int) -> None:
            panel = f.address(self.weights, f.multiply(block, p.weights.block * p.weights.rows.size))
            for piece in column_pieces(width, self.k.machine.lanes):
                output = f.add(f.multiply(block, p.weights.block), piece.offset)
                real = piece.lanes
                if isinstance(block, int):
                    real = max(0, min(piece.lanes, p.weights.outputs - block * p.weights.block - piece.offset))
                start = f.constant(0.0, piece.lanes)
                if self.bias is not None:
                    start = f.load(f.address(self.bias, output), piece.lanes)
                sums = [start] * run.pixels
                if p.rows.taps and any(run.active):
                    source = f.address(corner, p.group.first_channel(f, output))
                    sums = self._taps(run, source, f.address(panel, piece.offset), width, piece, filter_rows, sums)
                self._finish(run, image, target, output, piece.lanes, real, sums)

        self._blocks(visit)

    def _blocks(self, visit: Callable[[Index, int], None]) -> None:
        weights = self.p.weights
        full, rest = divmod(weights.columns, weights.block)
        if full and not rest and weights.columns != weights.outputs:
            full, rest = full - 1, weights.block  # the block with padding lanes gets code of its own
        if full:
            with self.f.loop(0, full) as block:
                visit(block.index, weights.block)
        if rest:
            visit(full, rest)

    def _taps(
        self, run: Run, source: V, panel: V, width: int, piece: Piece, filter_rows: tuple[Index, Index], sums: list[V]
    ) -> list[V]:
        """The loop over filter rows, whose bounds the row of outputs has set."""
        f, p = self.f, self.p
        (first_tap, first_offset), (tap_step, offset_step) = p.rows.taps[0], p.rows.distances
        line, filter_row = p.source.width * p.source.stored, p.weights.rows.width * p.group.channels * width
        with f.loop(*filter_rows, carried=sums) as tap:
            pixels = f.address(source, f.add(first_offset * line, f.multiply(tap.index, offset_step * line)))
            filters = f.address(panel, f.add(first_tap * filter_row, f.multiply(tap.index, tap_step * filter_row)))
            tap.carried = self._filter_row(run, pixels, filters, width, piece.lanes, list(tap.carried))
        return tap.carried

    def _filter_row(self, run: Run, source: V, filters: V, width: int, lanes: int, sums: list[V]) -> list[V]:
        """Some taps at a time: their weights stay while the pixels that they reach pass by, each read once."""
        f, p = self.f, self.p
        reached = [(tap, offset, active) for (tap, offset), active in zip(p.columns.taps, run.active, strict=True)]
        first = 0
        for count in even_split(len(reached), _MOST_TAPS):
            taps = reached[first : first + count]
            first += count
            meetings: dict[int, list[tuple[int, int]]] = {}
            for tap, offset, active in taps:
                for m in active:
                    meetings.setdefault(m * p.columns.stride + offset, []).append((m, tap))
            for c in range(p.group.channels):
                weights = {
                    tap: f.load(f.address(filters, (tap * p.group.channels + c) * width), lanes)
                    for tap, _, active in taps
                    if active
                }
                for pixel, met in sorted(meetings.items()):
                    factor = p.group.factor(f, f.address(source, pixel * p.source.stored), lanes, c)
                    for m, tap in met:
                        sums[m] = f.fma(factor, weights[tap], sums[m])
        return sums

    def _finish(
        self, run: Run, image: Index, pixel: Index, output: Index, lanes: int, real: int, sums: list[V]
    ) -> None:
        f, p = self.f, self.p
        base = f.sum(f.multiply(image, p.target.size), f.multiply(pixel, p.target.stored), output)
        for m, value in enumerate(sums):
            beside = m * p.columns.step
            place = f.add(pixel, beside) if self.k.needs_position else 0
            self.k.finish(f, Spot(image, place, output, base, beside * p.target.stored, lanes, real), value)
