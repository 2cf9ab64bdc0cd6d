"""Channels moved between images: parts joined, cut out, or set between zeros.

Parts begin at any lane, because only the ends of tensors are padded. They are written from the first to the last, so
that the padding of one may be stored where the next one then lies: a rest of channels is one vector, not single lanes.
"""

from __future__ import annotations

from collections.abc import Iterator

from convc.codegen.llvm.channels import channel_vectors, each_pixel, spot_at
from convc.codegen.llvm.kernel import KernelBuilder
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.ir.ops.join import InsertChannels, SliceChannels
from convc.passes.layout import ImageLayout
from convc.passes.machine import split_lanes


def _copy(f: Function, layout: ImageLayout, lanes: int, source: V, target: V, room: int) -> None:
    """All channels of a pixel; what is stored beyond them, at most `room` elements in all, is zero."""
    for channel, width, real in channel_vectors(f, layout, lanes):
        if real == width or (isinstance(channel, int) and channel + width <= room):
            f.store(f.load(f.address(source, channel), width), f.address(target, channel))
        else:
            for lane in range(real):
                place = f.add(channel, lane)
                f.store(f.load(f.address(source, place)), f.address(target, place))


def _clear(f: Function, target: V, start: int, stop: int, lanes: int) -> None:
    """Zeros from element `start` to before `stop`."""
    full = (stop - start) // lanes
    if full:
        with f.loop(0, full) as group:
            place = f.add(f.multiply(group.index, lanes), start)
            f.store(f.constant(0.0, lanes), f.address(target, place))
    for lane in range(start + full * lanes, stop):
        f.store(f.constant(0.0), f.address(target, lane))


def lower_concat(k: KernelBuilder) -> None:
    """The parts one after the other, pixel by pixel, with a chain.

    A chain may write over what it reads, so that with one nothing is stored where a later part lies.
    """
    parts, target = k.kernel.anchor.operands, k.image(k.kernel.anchor.result)

    def body(f: Function) -> None:
        start, stop = f.share(f.multiply(k.rows(f), target.pixels))
        with f.loop(start, stop) as unit:
            pixels = [f.address(k.pointer(value), f.multiply(unit.index, target.stored)) for value in k.kernel.writes]
            row, pixel = f.divide(unit.index, target.pixels), f.remainder(unit.index, target.pixels)
            first = 0
            for part in parts:
                source = k.image(part)
                base = f.address(k.pointer(part), f.multiply(unit.index, source.stored))
                if k.has_chain:
                    for channel, lanes in _exact_vectors(f, source.channels, k.machine.lanes):
                        spot = spot_at(f, target, row, pixel, f.add(channel, first), lanes, lanes)
                        k.finish(f, spot, f.load(f.address(base, channel), lanes))
                else:
                    _copy(f, source, k.machine.lanes, base, f.address(pixels[0], first), target.stored - first)
                first += source.channels
            for place in pixels:
                _clear(f, place, target.channels, target.stored, k.machine.lanes)

    k.phase("concat", body)


def _exact_vectors(f: Function, channels: int, lanes: int) -> Iterator[tuple[Index, int]]:
    """(first channel, lanes) of vectors that cover so many channels and no more."""
    full = channels // lanes
    if full:
        with f.loop(0, full) as group:
            yield f.multiply(group.index, lanes), lanes
    first = full * lanes
    for piece in split_lanes(channels - first, lanes):
        yield first, piece
        first += piece


def lower_insert_channels(k: KernelBuilder) -> None:
    """Zeros, the operand, zeros: pixel by pixel."""
    op = k.op(InsertChannels)
    (x,) = k.kernel.anchor.operands
    source, target = k.image(x), k.image(k.kernel.anchor.result)

    def body(f: Function) -> None:
        start, stop = f.share(f.multiply(k.rows(f), target.pixels))
        with f.loop(start, stop) as pixel:
            into = f.address(k.pointer(k.kernel.anchor.result), f.multiply(pixel.index, target.stored))
            base = f.address(k.pointer(x), f.multiply(pixel.index, source.stored))
            _clear(f, into, 0, op.start, k.machine.lanes)
            _copy(f, source, k.machine.lanes, base, f.address(into, op.start), target.stored - op.start)
            _clear(f, into, op.start + source.channels, target.stored, k.machine.lanes)

    k.phase("insert_channels", body)


def lower_slice_channels(k: KernelBuilder) -> None:
    """Vectors of the result, loaded from wherever they begin, with a chain."""
    op = k.op(SliceChannels)
    (x,) = k.kernel.anchor.operands
    source, target = k.image(x), k.image(k.kernel.anchor.result)

    def body(f: Function) -> None:
        def visit(row: Index, pixel: Index, channel: Index, lanes: int, real: int) -> None:
            base = f.add(f.multiply(row, source.size), f.multiply(pixel, source.stored))
            first, late = f.add(channel, op.start), 0
            if isinstance(first, int):
                # A vector that would reach beyond the pixel begins earlier, and its lanes move down.
                late = max(0, first + lanes - source.stored)
            value = f.load(f.address(k.pointer(x), f.sum(base, first, -late)), lanes)
            if real < lanes:
                kept = [lane + late if lane < real else lanes for lane in range(lanes)]
                value = f.shuffle(value, f.constant(0.0, lanes), kept)
            k.finish(f, spot_at(f, target, row, pixel, channel, lanes, real), value)

        each_pixel(k, f, target, visit)

    k.phase("slice_channels", body)
