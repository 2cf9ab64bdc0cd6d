"""Local response normalisation: windows over the channels of a pixel.

Squares go to a small buffer with zeros on both sides, from which a window is a sum of vectors loaded at neighbouring
lanes: no window asks where the channels end. Pixels are dealt out in a fixed number of parts. The buffer of a part
holds a few pixels: a load that spans two stores waits until both have reached the cache, so the squares of other pixels
are stored in between.
"""

from __future__ import annotations

from collections.abc import Iterator

from convc.codegen.llvm.channels import channel_vectors, masked, spot_at
from convc.codegen.llvm.kernel import KernelBuilder
from convc.codegen.llvm.mathematics import exponential, logarithm
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.ir.graph import Value
from convc.ir.ops.local_response import LocalResponseNorm, LocalResponseNormBackward
from convc.passes.layout import ImageLayout

_PARTS = 64
_GROUP = 4  # pixels whose squares are stored before windows of the first of them are loaded
_GROUP_FLOATS = 4096  # of a buffer, where that is more than one pixel
_MOST_WRITTEN_OUT = 16  # taps of a window that are added without a loop


class _Channels:
    """The channels of a pixel between zeros: margins are the longer side of a window."""

    def __init__(self, op: LocalResponseNorm | LocalResponseNormBackward, layout: ImageLayout) -> None:
        self.layout = layout
        # A window beyond the ends of the channels adds nothing.
        self.before, self.after = min(op.before, layout.channels), min(op.after, layout.channels)
        self.margin = max(self.before, self.after)

    @property
    def size(self) -> int:
        """Elements that a pixel takes in a buffer."""
        return self.layout.stored + 2 * self.margin

    @property
    def group(self) -> int:
        """Pixels of a buffer."""
        return max(1, min(_GROUP, _GROUP_FLOATS // self.size))

    def clear_margins(self, f: Function, buffer: V) -> None:
        if self.margin:
            with f.loop(0, self.group) as pixel, f.loop(0, self.margin) as element:
                below = f.add(f.multiply(pixel.index, self.size), element.index)
                for place in (below, f.add(below, self.margin + self.layout.stored)):
                    f.store(f.constant(0.0), f.address(buffer, place))

    def at(self, f: Function, buffer: V, channel: Index) -> V:
        """Where a channel is kept."""
        return f.address(buffer, f.add(channel, self.margin))

    def window(self, f: Function, buffer: V, channel: Index, lanes: int, before: int, after: int) -> V:
        """Σ of the channels c − before … c + after, for `lanes` neighbouring c."""
        start = f.add(channel, self.margin - before)
        taps = before + 1 + after
        if taps <= _MOST_WRITTEN_OUT:
            first = f.address(buffer, start)
            return _tree(f, [f.load(f.address(first, tap), lanes) for tap in range(taps)])
        with f.loop(0, taps, carried=[f.constant(0.0, lanes)]) as tap:
            value = f.load(f.address(buffer, f.add(start, tap.index)), lanes)
            tap.carried = [f.binary("fadd", tap.carried[0], value)]
        return tap.carried[0]


def _tree(f: Function, values: list[V]) -> V:
    """The sum, added in pairs: additions that do not wait for each other."""
    while len(values) > 1:
        pairs = [f.binary("fadd", left, right) for left, right in zip(values[::2], values[1::2], strict=False)]
        values = pairs + values[len(values) & ~1 :]
    return values[0]


def scratch_local_response(k: KernelBuilder) -> int:
    """For each part squares; backward also powers of the denominators, and what the gradient's windows add up."""
    op = k.op(LocalResponseNorm, LocalResponseNormBackward)
    buffers = 3 if isinstance(op, LocalResponseNormBackward) else 1
    channels = _Channels(op, k.image(k.kernel.anchor.operands[-1]))
    return 4 * _PARTS * buffers * channels.group * channels.size


def lower_local_response(k: KernelBuilder) -> None:
    """lrn and lrn_backward with a chain."""
    op = k.op(LocalResponseNorm, LocalResponseNormBackward)
    operands = k.kernel.anchor.operands
    layout = k.image(operands[-1])
    channels = _Channels(op, layout)
    backward = isinstance(op, LocalResponseNormBackward)

    def body(f: Function) -> None:
        pixels = f.multiply(k.rows(f), layout.pixels)
        in_part = f.divide(f.add(pixels, _PARTS - 1), _PARTS)
        start, stop = f.share(_PARTS)
        whole = channels.group * channels.size
        with f.loop(start, stop) as part:
            buffers = [
                f.address(k.scratch_pointer(), f.multiply(f.add(part.index, _PARTS * number), whole))
                for number in range(3 if backward else 1)
            ]
            for buffer in buffers:
                channels.clear_margins(f, buffer)
            first = f.minimum(f.multiply(part.index, in_part), pixels)
            last = f.minimum(f.add(first, in_part), pixels)
            with f.loop(first, last, channels.group) as group:
                count = f.minimum(f.subtract(last, group.index), channels.group)
                for pixel, (squares, *_) in _each(f, channels, buffers, group.index, count):
                    _squares(k, f, channels, operands[-1], squares, pixel)
                if backward:
                    for pixel, places in _each(f, channels, buffers, group.index, count):
                        _shares(k, f, channels, places, pixel)
                for pixel, places in _each(f, channels, buffers, group.index, count):
                    _results(k, f, channels, places, pixel)

    k.phase(op.name, body)


def _each(
    f: Function, channels: _Channels, buffers: list[V], first: Index, count: Index
) -> Iterator[tuple[Index, list[V]]]:
    """The pixels of a group, each with its places in the buffers."""
    with f.loop(0, count) as number:
        place = f.multiply(number.index, channels.size)
        yield f.add(first, number.index), [f.address(buffer, place) for buffer in buffers]


def _load(k: KernelBuilder, f: Function, layout: ImageLayout, value: Value, place: tuple[Index, Index, int]) -> V:
    """`lanes` channels of a pixel of an operand."""
    pixel, channel, lanes = place
    return f.load(f.address(k.pointer(value), f.add(f.multiply(pixel, layout.stored), channel)), lanes)


def _squares(k: KernelBuilder, f: Function, channels: _Channels, x: Value, squares: V, pixel: Index) -> None:
    for channel, lanes, _ in channel_vectors(f, channels.layout, k.machine.lanes):
        value = _load(k, f, channels.layout, x, (pixel, channel, lanes))
        f.store(f.binary("fmul", value, value), channels.at(f, squares, channel))


def _denominator(k: KernelBuilder, f: Function, channels: _Channels, squares: V, channel: Index, lanes: int) -> V:
    """k + alpha/size · Σ x² over the windows of `lanes` channels."""
    op = k.op(LocalResponseNorm, LocalResponseNormBackward)
    total = channels.window(f, squares, channel, lanes, channels.before, channels.after)
    return f.fma(total, f.constant(op.alpha / op.size, lanes), f.constant(op.k, lanes))


def _power(f: Function, denominator: V, beta: float) -> V:
    """d^−beta: for quarters up to 1 by roots, each of them exact to the last bit, else by logarithms."""
    quarters = 4 * beta
    if quarters in (1, 2, 3, 4):
        # d^(1 − beta) / d
        root = f.unary("sqrt", denominator)
        fourth = f.unary("sqrt", root)
        numerators = f.binary("fmul", root, fourth), root, fourth, f.constant(1.0, denominator.lanes)
        return f.binary("fdiv", numerators[int(quarters) - 1], denominator)
    exponent = f.binary("fmul", logarithm(f, denominator), f.constant(-beta, denominator.lanes))
    return exponential(f, exponent)


def _shares(k: KernelBuilder, f: Function, channels: _Channels, buffers: list[V], pixel: Index) -> None:
    """Backward: d^−β into the second buffer, dy·x·d^(−β−1) into the third."""
    squares, powers, shares = buffers
    beta = k.op(LocalResponseNormBackward).beta
    dy, x = k.kernel.anchor.operands
    for channel, lanes, real in channel_vectors(f, channels.layout, k.machine.lanes):
        d = _denominator(k, f, channels, squares, channel, lanes)
        power = _power(f, d, beta)
        f.store(power, channels.at(f, powers, channel))
        cotangent, value = (_load(k, f, channels.layout, v, (pixel, channel, lanes)) for v in (dy, x))
        share = f.binary("fmul", f.binary("fmul", cotangent, value), f.binary("fdiv", power, d))
        f.store(masked(f, share, real), channels.at(f, shares, channel))


def _results(k: KernelBuilder, f: Function, channels: _Channels, buffers: list[V], pixel: Index) -> None:
    op, layout = k.op(LocalResponseNorm, LocalResponseNormBackward), channels.layout
    operands = k.kernel.anchor.operands
    row, inner = f.divide(pixel, layout.pixels), f.remainder(pixel, layout.pixels)
    for channel, lanes, real in channel_vectors(f, layout, k.machine.lanes):
        value = _load(k, f, layout, operands[0], (pixel, channel, lanes))
        if isinstance(op, LocalResponseNorm):
            power = _power(f, _denominator(k, f, channels, buffers[0], channel, lanes), op.beta)
            result = f.binary("fmul", value, power)
        else:
            # i lies in the windows of the channels that lie in the window of i turned around.
            total = channels.window(f, buffers[2], channel, lanes, channels.after, channels.before)
            x = _load(k, f, layout, operands[1], (pixel, channel, lanes))
            factor = f.constant(-2 * op.alpha * op.beta / op.size, lanes)
            correction = f.binary("fmul", f.binary("fmul", factor, x), total)
            result = f.fma(value, f.load(channels.at(f, buffers[1], channel), lanes), correction)
        k.finish(f, spot_at(f, layout, row, inner, channel, lanes, real), masked(f, result, real))
