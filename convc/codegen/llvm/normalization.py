"""Batch normalisation in training, forward and backward.

Statistics are gathered block by block of an image's pixels, each block around its own mean (two sweeps over data that
is in the nearest cache), and combined by the formula of Chan, Golub & LeVeque (1979): no cancellation, one pass over
memory, and the same bits for any number of threads, because an image is never split. Threads then share the channels,
for which they combine the images in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from convc.codegen.llvm.channels import channel_groups, each_pixel, spot_at
from convc.codegen.llvm.kernel import KernelBuilder
from convc.codegen.llvm.register_tile import Piece
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.ir.graph import Value
from convc.ir.ops.norm import BatchNorm, BatchNormBackward, BatchNormTraining
from convc.passes.layout import ImageLayout

_BLOCK_BYTES = 16 << 10  # of the channels of a group, in a block of pixels

# What a round of a loop over pixels does with a vector of channels: its number, the pixel's offset, its sums -> sums.
Step = Callable[[int, Index, Sequence[V]], Sequence[V]]


def scratch_batch_norm(k: KernelBuilder) -> int:
    """Two numbers per image and channel, then four per channel."""
    layout = k.image(k.kernel.anchor.results[0])
    return 4 * layout.stored * (2 * k.plan.batch + 4)


def _count(f: Function, rows: Index, pixels: int) -> V:
    """rows · pixels as a float."""
    total = f.multiply(rows, pixels)
    return f.emit("float", f"sitofp i64 {total if isinstance(total, int) else total.ref} to float")


def _per_image(
    k: KernelBuilder, f: Function, layout: ImageLayout, sums: int
) -> Iterator[tuple[Index, Index, tuple[Piece, ...], V]]:
    """For every image of this thread and every group of channels, each vector of which needs `sums` sums: (row, first
    channel, vectors, place of two numbers for each channel)."""
    start, stop = f.share(k.rows(f))
    with f.loop(start, stop) as image:
        for channel, pieces in channel_groups(f, layout, k.machine, sums):
            place = f.address(k.scratch_pointer(), f.add(f.multiply(image.index, 2 * layout.stored), channel))
            yield image.index, channel, pieces, place


def _sweep(
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


def _load(f: Function, pointer: V, place: Index, lanes: int) -> V:
    return f.load(f.address(pointer, place), lanes)


def lower_batch_norm_training(k: KernelBuilder) -> None:
    op = k.op(BatchNormTraining)
    x, gamma, beta = k.kernel.anchor.operands
    _, mean, var, unbiased = k.kernel.anchor.results
    layout = k.image(x)
    stored = layout.stored

    def statistics(f: Function) -> None:
        for row, channel, pieces, place in _per_image(k, f, layout, 2):
            image = f.address(k.pointer(x), f.add(f.multiply(row, layout.size), channel))
            for piece, (own_mean, squares) in zip(pieces, _statistics(f, layout, image, pieces), strict=True):
                f.store(own_mean, f.address(place, piece.offset))
                f.store(squares, f.address(place, stored + piece.offset))

    def combine(f: Function) -> None:
        # mean = Σ meanᵢ / images;  M₂ = Σ M₂ᵢ + pixels · Σ (meanᵢ − mean)², for images of equally many pixels.
        rows = k.rows(f)
        images, count = _count(f, rows, 1), _count(f, rows, layout.pixels)
        for channel, lanes in _shared_vectors(k, f, layout):
            sums = f.address(k.scratch_pointer(), channel)
            zero = f.constant(0.0, lanes)
            with f.loop(0, rows, carried=[zero]) as image:
                own = _load(f, sums, f.multiply(image.index, 2 * stored), lanes)
                image.carried = [f.binary("fadd", image.carried[0], own)]
            centre = f.binary("fdiv", image.carried[0], f.splat(images, lanes))
            with f.loop(0, rows, carried=[zero, zero]) as image:
                place = f.multiply(image.index, 2 * stored)
                difference = f.binary("fsub", _load(f, sums, place, lanes), centre)
                between = f.fma(difference, difference, image.carried[0])
                within = f.binary("fadd", image.carried[1], _load(f, sums, f.add(place, stored), lanes))
                image.carried = [between, within]
            between, within = image.carried
            squares = f.fma(between, f.constant(float(layout.pixels), lanes), within)
            variance = f.binary("fdiv", squares, f.splat(count, lanes))
            one = f.constant(1.0)
            fewer = f.binary("fsub", count, one)
            fewer = f.select(f.compare("olt", fewer, one), one, fewer)
            correction = f.splat(f.binary("fdiv", count, fewer), lanes)
            f.store(centre, f.address(k.pointer(mean), channel))
            f.store(variance, f.address(k.pointer(var), channel))
            f.store(f.binary("fmul", variance, correction), f.address(k.pointer(unbiased), channel))
            scale = _scale(k, f, variance, gamma, channel, op.eps)
            f.store(scale, f.address(_coefficients(k, f, stored), channel))

    def normalise(f: Function) -> None:
        _normalise(k, f, _coefficients(k, f, stored), x, mean, beta)

    k.phase("batch_statistics", statistics)
    k.phase("combine_statistics", combine)
    k.phase("batch_norm_training", normalise)


def _statistics(f: Function, layout: ImageLayout, image: V, pieces: tuple[Piece, ...]) -> Sequence[Sequence[V]]:
    """Mean and sum of squared differences from it, of all pixels of an image, for each vector of a group."""
    size = min(layout.pixels, max(1, _BLOCK_BYTES // (4 * sum(piece.lanes for piece in pieces))))

    def of_block(first: Index, count: int) -> Sequence[Sequence[V]]:
        block = first, f.add(first, count)

        def add(number: int, place: Index, s: Sequence[V]) -> Sequence[V]:
            return [f.binary("fadd", s[0], _load(f, image, place, pieces[number].lanes))]

        share = 1 / count
        means = [
            f.binary("fmul", total, f.constant(share, total.lanes))
            for (total,) in _sweep(f, layout, block, pieces, 1, add)
        ]

        def square(number: int, place: Index, s: Sequence[V]) -> Sequence[V]:
            difference = f.binary("fsub", _load(f, image, place, pieces[number].lanes), means[number])
            return [f.fma(difference, difference, s[0])]

        squares = _sweep(f, layout, block, pieces, 1, square)
        return [(mean, total) for mean, (total,) in zip(means, squares, strict=True)]

    def both(so_far: Sequence[Sequence[V]], first: Index, count: int) -> Sequence[Sequence[V]]:
        """With the block that begins at `first`, as many pixels as are in `so_far`."""
        before, own = _count(f, first, 1), f.constant(float(count))
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


def scratch_batch_norm_again(k: KernelBuilder) -> int:
    """A number per channel."""
    return 4 * k.image(k.kernel.anchor.results[0]).stored


def lower_batch_norm(k: KernelBuilder) -> None:
    """Statistics that are known: the same arithmetic as in training, so that it may be done again with equal bits."""
    op = k.op(BatchNorm)
    x, gamma, beta, mean, var = k.kernel.anchor.operands
    layout = k.image(x)

    def scales(f: Function) -> None:
        for channel, lanes in _shared_vectors(k, f, layout):
            scale = _scale(k, f, _load(f, k.pointer(var), channel, lanes), gamma, channel, op.eps)
            f.store(scale, f.address(k.scratch_pointer(), channel))

    k.phase("batch_norm_scales", scales)
    k.phase("batch_norm", lambda f: _normalise(k, f, k.scratch_pointer(), x, mean, beta))


def _scale(k: KernelBuilder, f: Function, variance: V, gamma: Value, channel: Index, eps: float) -> V:
    """γ/√(σ² + ε) of the channels of a vector."""
    return f.binary("fmul", _inverse_deviation(f, variance, eps), _load(f, k.pointer(gamma), channel, variance.lanes))


def _normalise(k: KernelBuilder, f: Function, scales: V, x: Value, mean: Value, beta: Value) -> None:
    """(x − mean)·scale + beta, and the chain. (x·scale + shift would cancel.)"""
    layout = k.image(x)

    def visit(row: Index, pixel: Index, channel: Index, lanes: int, real: int) -> None:
        spot = spot_at(f, layout, row, pixel, channel, lanes, real)
        value = f.load(f.address(f.address(k.pointer(x), spot.base), spot.extra), lanes)
        centred = f.binary("fsub", value, _load(f, k.pointer(mean), channel, lanes))
        scale = _load(f, scales, channel, lanes)
        k.finish(f, spot, f.fma(centred, scale, _load(f, k.pointer(beta), channel, lanes)))

    each_pixel(k, f, layout, visit)


def _inverse_deviation(f: Function, variance: V, eps: float) -> V:
    root = f.unary("sqrt", f.binary("fadd", variance, f.constant(eps, variance.lanes)))
    return f.binary("fdiv", f.constant(1.0, variance.lanes), root)


def _coefficients(k: KernelBuilder, f: Function, stored: int) -> V:
    """Per-channel numbers that one phase leaves to the next, behind the sums of the images."""
    return f.address(k.scratch_pointer(), 2 * k.plan.batch * stored)


def _shared_vectors(k: KernelBuilder, f: Function, layout: ImageLayout) -> Iterator[tuple[Index, int]]:
    """(channel, lanes) of this thread's share of the channels: groups of four (or one)."""
    lanes = 4 if layout.stored % 4 == 0 else 1
    start, stop = f.share(layout.stored // lanes)
    with f.loop(start, stop) as group:
        yield f.multiply(group.index, lanes), lanes


def lower_batch_norm_backward(k: KernelBuilder) -> None:
    op = k.op(BatchNormBackward)
    dy, x, gamma, mean, var = k.kernel.anchor.operands
    _, dgamma, dbeta = k.kernel.anchor.results
    layout = k.image(x)
    stored = layout.stored

    def sums_of_images(f: Function) -> None:
        for row, channel, pieces, sums in _per_image(k, f, layout, 3):
            base = f.add(f.multiply(row, layout.size), channel)
            image, cotangents = f.address(k.pointer(x), base), f.address(k.pointer(dy), base)
            centres = [_load(f, k.pointer(mean), f.add(channel, piece.offset), piece.lanes) for piece in pieces]

            def step(number: int, place: Index, s: Sequence[V]) -> Sequence[V]:
                lanes = pieces[number].lanes
                difference = f.binary("fsub", _load(f, image, place, lanes), centres[number])
                cotangent = _load(f, cotangents, place, lanes)
                return [f.binary("fadd", s[0], cotangent), f.fma(cotangent, difference, s[1])]

            both = _sweep(f, layout, (0, layout.pixels), pieces, 2, step)
            for piece, (plain, weighted) in zip(pieces, both, strict=True):
                f.store(plain, f.address(sums, piece.offset))
                f.store(weighted, f.address(sums, stored + piece.offset))

    def combine(f: Function) -> None:
        rows = k.rows(f)
        count = _count(f, rows, layout.pixels)
        for channel, lanes in _shared_vectors(k, f, layout):
            sums = f.address(k.scratch_pointer(), channel)
            zero = f.constant(0.0, lanes)
            with f.loop(0, rows, carried=[zero, zero]) as image:
                place = f.multiply(image.index, 2 * stored)
                image.carried = [
                    f.binary("fadd", image.carried[0], _load(f, sums, place, lanes)),
                    f.binary("fadd", image.carried[1], _load(f, sums, f.add(place, stored), lanes)),
                ]
            plain, weighted = image.carried
            inverse = _inverse_deviation(f, _load(f, k.pointer(var), channel, lanes), op.eps)
            gradient = f.binary("fmul", weighted, inverse)  # Σ dy·x̂
            f.store(plain, f.address(k.pointer(dbeta), channel))
            f.store(gradient, f.address(k.pointer(dgamma), channel))
            # dx = a·dy + b·(x − mean) + c  with  a = γ·s,  b = −a·s·dγ/m,  c = −a·dβ/m
            share = f.splat(f.binary("fdiv", f.constant(1.0), count), lanes)
            a = f.binary("fmul", inverse, _load(f, k.pointer(gamma), channel, lanes))
            minus = f.negate(f.binary("fmul", a, share))
            b = f.binary("fmul", f.binary("fmul", minus, inverse), gradient)
            c = f.binary("fmul", minus, plain)
            coefficients = _coefficients(k, f, stored)
            for number, value in enumerate((a, b, c)):
                f.store(value, f.address(coefficients, f.add(channel, number * stored)))

    def gradient(f: Function) -> None:
        coefficients = _coefficients(k, f, stored)

        def visit(row: Index, pixel: Index, channel: Index, lanes: int, real: int) -> None:
            spot = spot_at(f, layout, row, pixel, channel, lanes, real)

            def here(value: Value) -> V:
                return f.load(f.address(f.address(k.pointer(value), spot.base), spot.extra), lanes)

            a, b, c = (_load(f, coefficients, f.add(channel, number * stored), lanes) for number in range(3))
            centred = f.binary("fsub", here(x), _load(f, k.pointer(mean), channel, lanes))
            k.finish(f, spot, f.fma(a, here(dy), f.fma(b, centred, c)))

        each_pixel(k, f, layout, visit)

    k.phase("batch_norm_sums", sums_of_images)
    k.phase("combine_sums", combine)
    k.phase("batch_norm_backward", gradient)
