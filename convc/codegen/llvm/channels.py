"""Loops over pixels and vectors of channels: the skeleton of everything that is not a product."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from convc.codegen.llvm.kernel import KernelBuilder, Spot
from convc.codegen.llvm.register_tile import Piece, column_pieces
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.passes.layout import ImageLayout
from convc.passes.machine import Machine, split_lanes


def channel_vectors(f: Function, layout: ImageLayout, lanes: int) -> Iterator[tuple[Index, int, int]]:
    """(first channel, lanes, real lanes) of each vector of a pixel, for code that treats them one after the other.

    Full vectors without padding share one loop; the rest, and vectors with padding lanes, are written out.
    """
    full = layout.channels // lanes
    if full > 1:
        with f.loop(0, full) as group:
            yield f.multiply(group.index, lanes), lanes, lanes
    elif full:
        yield 0, lanes, lanes
    first = full * lanes
    for piece in split_lanes(layout.stored - first, lanes):
        yield first, piece, max(0, min(piece, layout.channels - first))
        first += piece


def channel_groups(
    f: Function, layout: ImageLayout, machine: Machine, sums: int
) -> Iterator[tuple[Index, tuple[Piece, ...]]]:
    """(first channel, vectors) of groups of neighbouring channels, for sweeps over pixels that keep `sums` vectors for
    each vector of channels in registers: a group reads whole lines of memory, one after the other.

    Full groups share one loop, the rest is written out.
    """
    width = max(1, machine.registers // (2 * sums)) * machine.lanes
    full, rest = divmod(layout.stored, width)
    if full > 1:
        with f.loop(0, full) as group:
            yield f.multiply(group.index, width), column_pieces(width, machine.lanes)
    elif full:
        yield 0, column_pieces(width, machine.lanes)
    if rest:
        yield full * width, column_pieces(rest, machine.lanes)


def each_pixel(
    k: KernelBuilder, f: Function, layout: ImageLayout, visit: Callable[[Index, Index, Index, int, int], None]
) -> None:
    """Call `visit(row, pixel, channel, lanes, real)` for every vector of every pixel of this thread's share."""
    start, stop = f.share(f.multiply(k.rows(f), layout.pixels))
    with f.loop(start, stop) as unit:
        row, pixel = f.divide(unit.index, layout.pixels), f.remainder(unit.index, layout.pixels)
        for channel, lanes, real in channel_vectors(f, layout, k.machine.lanes):
            visit(row, pixel, channel, lanes, real)


def spot_at(f: Function, layout: ImageLayout, row: Index, pixel: Index, channel: Index, lanes: int, real: int) -> Spot:
    """The spot of a vector given where it is."""
    base = f.sum(f.multiply(row, layout.size), f.multiply(pixel, layout.stored))
    if isinstance(channel, int):
        return Spot(row, pixel, channel, base, channel, lanes, real)
    return Spot(row, pixel, channel, f.add(base, channel), 0, lanes, real)


def masked(f: Function, value: V, real: int) -> V:
    """The vector with zeros in the lanes beyond the `real` ones."""
    if real == value.lanes:
        return value
    mask = f.integers([lane < real for lane in range(value.lanes)], "i1")
    return f.select(mask, value, f.constant(0.0, value.lanes))


# Up to so many channels are written out one after the other.
_WRITTEN_OUT = 4


def each_channel(f: Function, layout: ImageLayout, pixels: Sequence[V], move: Callable[[Index], None]) -> None:
    """Call `move(channel)` for the channels of a pixel, one number at a time, and put zeros behind them.

    `pixels` are where the pixel lies in each of the tensors that are written.
    """
    if layout.channels <= _WRITTEN_OUT:
        for channel in range(layout.channels):
            move(channel)
    else:
        with f.loop(0, layout.channels) as channel:
            move(channel.index)
    for lane in range(layout.channels, layout.stored):
        for pixel in pixels:
            f.store(f.constant(0.0), f.address(pixel, lane))
