"""Mean and variance per channel of batched values, in two stages.

*Lines* (images, or rows of them) are taken by one thread each. A line is read block by block, each block around its
own mean (two sweeps over data that is in the nearest cache), and blocks are combined by the formula of Chan, Golub &
LeVeque (1979): no cancellation, one pass over memory, and the same bits for any number of threads. Then threads share
the channels, for which they combine the lines in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from convc.codegen.llvm.channels import channel_groups
from convc.codegen.llvm.kernel import KernelBuilder
from convc.codegen.llvm.register_tile import Piece
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.ir.graph import Value
from convc.lazy import dataclass
from convc.passes.layout import ImageLayout

_BLOCK_BYTES = 16 << 10  # of the channels of a group, in a block of pixels

# What a round of a loop over pixels does with a vector of channels: its number, the pixel's offset, its sums -> sums.
Step = Callable[[int, Index, Sequence[V]], Sequence[V]]


@dataclass(frozen=True)
class Lines:
    """Equally long pieces of images, `of_image` of each; `layout` is that of one. Two numbers per channel are kept."""

    layout: ImageLayout
    of_image: int = 1

    @classmethod
    def rows(cls, layout: ImageLayout) -> Lines:
        """The rows of images."""
        return cls(ImageLayout(layout.channels, 1, layout.width, layout.stored), layout.height)

    def numbers(self, batch: int) -> int:
        """How many numbers are kept."""
        return 2 * self.layout.stored * batch * self.of_image

    def measure(self, k: KernelBuilder, f: Function, values: V, kept: V, line: Index) -> None:
        """Mean and sum of squared differences from it of a line, for all channels."""
        stored = self.layout.stored
        for channel, pieces in channel_groups(f, self.layout, k.machine, 2):
            place = f.address(kept, f.add(f.multiply(line, 2 * stored), channel))
            start = f.address(values, f.add(f.multiply(line, self.layout.size), channel))
            for piece, (mean, squares) in zip(pieces, _statistics(f, self.layout, start, pieces), strict=True):
                f.store(mean, f.address(place, piece.offset))
                f.store(squares, f.address(place, stored + piece.offset))


def sweep(
    f: Function, layout: ImageLayout, pixels: tuple[Index, Index], pieces: tuple[Piece, ...], sums: int, step: Step
) -> Sequence[Sequence[V]]:
    """`sums` sums for each vector of channels, over a range of an image's pixels."""
    start = [f.constant(0.0, piece.lanes) for piece in pieces for _ in range(sums)]
    with f.loop(*pixels, carried=start) as pixel:
        base, carried = f.multiply(pixel.index, layout.stored), pixel.carried
        pixel.carried = []
        for number, piece in enumerate(pieces):
            own = carried[number * sums : (number + 1) * sums]
            pixel.carried += step(number, f.add(base, piece.offset), own)
    return [pixel.carried[first : first + sums] for first in range(0, len(pixel.carried), sums)]


def load_at(f: Function, pointer: V, place: Index, lanes: int) -> V:
    return f.load(f.address(pointer, place), lanes)


def count_as_float(f: Function, rows: Index, pixels: int) -> V:
    """rows · pixels as a float."""
    total = f.multiply(rows, pixels)
    return f.emit("float", f"sitofp i64 {total if isinstance(total, int) else total.ref} to float")


def shared_vectors(k: KernelBuilder, f: Function, layout: ImageLayout) -> Iterator[tuple[Index, int]]:
    """(channel, lanes) of this thread's share of the channels: groups of four (or one)."""
    lanes = 4 if layout.stored % 4 == 0 else 1
    start, stop = f.share(layout.stored // lanes)
    with f.loop(start, stop) as group:
        yield f.multiply(group.index, lanes), lanes


def _statistics(f: Function, layout: ImageLayout, image: V, pieces: tuple[Piece, ...]) -> Sequence[Sequence[V]]:
    """Mean and sum of squared differences from it, of all pixels of an image, for each vector of a group."""
    size = min(layout.pixels, max(1, _BLOCK_BYTES // (4 * sum(piece.lanes for piece in pieces))))

    def of_block(first: Index, count: int) -> Sequence[Sequence[V]]:
        block = first, f.add(first, count)

        def add(number: int, place: Index, s: Sequence[V]) -> Sequence[V]:
            return [f.binary("fadd", s[0], load_at(f, image, place, pieces[number].lanes))]

        share = 1 / count
        means = [
            f.binary("fmul", total, f.constant(share, total.lanes))
            for (total,) in sweep(f, layout, block, pieces, 1, add)
        ]

        def square(number: int, place: Index, s: Sequence[V]) -> Sequence[V]:
            difference = f.binary("fsub", load_at(f, image, place, pieces[number].lanes), means[number])
            return [f.fma(difference, difference, s[0])]

        squares = sweep(f, layout, block, pieces, 1, square)
        return [(mean, total) for mean, (total,) in zip(means, squares, strict=True)]

    def both(so_far: Sequence[Sequence[V]], first: Index, count: int) -> Sequence[Sequence[V]]:
        """With the block that begins at `first`, as many pixels as are in `so_far`."""
        before, own = count_as_float(f, first, 1), f.constant(float(count))
        share = f.binary("fdiv", own, f.binary("fadd", before, own))
        between = f.binary("fmul", before, share)
        result: list[Sequence[V]] = []
        for (mean, squares), (own_mean, own_squares) in zip(so_far, of_block(first, count), strict=True):
            difference = f.binary("fsub", own_mean, mean)
            moved = f.fma(difference, f.splat(share, mean.lanes), mean)
            apart = f.binary("fmul", f.binary("fmul", difference, difference), f.splat(between, mean.lanes))
            result.append((moved, f.binary("fadd", f.binary("fadd", squares, own_squares), apart)))
        return result

    whole, rest = divmod(layout.pixels, size)
    so_far = of_block(0, size)
    if whole > 1:
        with f.loop(1, whole, carried=[value for pair in so_far for value in pair]) as block:
            pairs = list(zip(block.carried[::2], block.carried[1::2], strict=True))
            block.carried = [value for pair in both(pairs, f.multiply(block.index, size), size) for value in pair]
        so_far = list(zip(block.carried[::2], block.carried[1::2], strict=True))
    return both(so_far, whole * size, rest) if rest else so_far


def combine_lines(
    k: KernelBuilder, f: Function, lines: Lines, kept: V, moments: Sequence[Value]
) -> Iterator[tuple[Index, V]]:
    """Store mean, biased and unbiased variance of this thread's channels; yields (channel, biased variances).

    mean = Σ meanᵢ / lines;  M₂ = Σ M₂ᵢ + pixels · Σ (meanᵢ − mean)², for lines of equally many pixels.
    """
    mean, var, unbiased = moments
    stored, pixels = lines.layout.stored, lines.layout.pixels
    number = f.multiply(k.rows(f), lines.of_image)
    parts, count = count_as_float(f, number, 1), count_as_float(f, number, pixels)
    for channel, lanes in shared_vectors(k, f, lines.layout):
        sums = f.address(kept, channel)
        zero = f.constant(0.0, lanes)
        with f.loop(0, number, carried=[zero]) as line:
            own = load_at(f, sums, f.multiply(line.index, 2 * stored), lanes)
            line.carried = [f.binary("fadd", line.carried[0], own)]
        centre = f.binary("fdiv", line.carried[0], f.splat(parts, lanes))
        with f.loop(0, number, carried=[zero, zero]) as line:
            place = f.multiply(line.index, 2 * stored)
            difference = f.binary("fsub", load_at(f, sums, place, lanes), centre)
            between = f.fma(difference, difference, line.carried[0])
            within = f.binary("fadd", line.carried[1], load_at(f, sums, f.add(place, stored), lanes))
            line.carried = [between, within]
        between, within = line.carried
        squares = f.fma(between, f.constant(float(pixels), lanes), within)
        variance = f.binary("fdiv", squares, f.splat(count, lanes))
        one = f.constant(1.0)
        fewer = f.binary("fsub", count, one)
        fewer = f.select(f.compare("olt", fewer, one), one, fewer)
        correction = f.splat(f.binary("fdiv", count, fewer), lanes)
        f.store(centre, f.address(k.pointer(mean), channel))
        f.store(variance, f.address(k.pointer(var), channel))
        f.store(f.binary("fmul", variance, correction), f.address(k.pointer(unbiased), channel))
        yield channel, variance


def scratch_batch_moments(k: KernelBuilder) -> int:
    return 4 * Lines(k.image(k.kernel.anchor.operands[0])).numbers(k.plan.batch)


def lower_batch_moments(k: KernelBuilder) -> None:
    """In a kernel of its own: image by image."""
    (x,) = k.kernel.anchor.operands
    lines = Lines(k.image(x))

    def statistics(f: Function) -> None:
        with f.loop(*f.share(k.rows(f))) as image:
            lines.measure(k, f, k.pointer(x), k.scratch_pointer(), image.index)

    k.phase("batch_statistics", statistics)
    combine(k, lines, k.kernel.anchor.results)


def combine(k: KernelBuilder, lines: Lines, moments: Sequence[Value]) -> None:
    """The phase that makes moments of what is kept at the start of scratch space."""

    def body(f: Function) -> None:
        for _ in combine_lines(k, f, lines, k.scratch_pointer(), moments):
            pass

    k.phase("combine_statistics", body)
