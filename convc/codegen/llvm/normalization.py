"""Batch normalisation in training, forward and backward.

Statistics are gathered image by image, each image around its own mean (two sweeps over data that is in the cache), and
combined by the formula of Chan, Golub & LeVeque (1979): no cancellation, and the same bits for any number of threads,
because an image is never split. Threads then share the channels, for which they combine the images in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from convc.codegen.llvm.channels import channel_vectors, each_pixel, spot_at
from convc.codegen.llvm.kernel import KernelBuilder
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.ir.graph import Value
from convc.ir.ops.norm import BatchNorm, BatchNormBackward, BatchNormTraining
from convc.passes.layout import ImageLayout

# One round of a loop over pixels: offset of the pixel, sums so far -> sums.
Step = Callable[[Index, list[V]], list[V]]


def scratch_batch_norm(k: KernelBuilder) -> int:
    """Two numbers per image and channel, then four per channel."""
    layout = k.image(k.kernel.anchor.results[0])
    return 4 * layout.stored * (2 * k.plan.batch + 4)


def _count(f: Function, rows: Index, pixels: int) -> V:
    """rows · pixels as a float."""
    total = f.multiply(rows, pixels)
    return f.emit("float", f"sitofp i64 {total if isinstance(total, int) else total.ref} to float")


def _per_image(k: KernelBuilder, f: Function, layout: ImageLayout) -> Iterator[tuple[Index, Index, int, V]]:
    """For every image of this thread and every vector of channels: (row, channel, lanes, place of its two sums)."""
    start, stop = f.share(k.rows(f))
    with f.loop(start, stop) as image:
        for channel, lanes, _ in channel_vectors(f, layout, k.machine.lanes):
            sums = f.address(k.scratch_pointer(), f.add(f.multiply(image.index, 2 * layout.stored), channel))
            yield image.index, channel, lanes, sums


def _sweep(f: Function, layout: ImageLayout, count: int, lanes: int, step: Step) -> list[V]:
    """`count` sums over the pixels of an image."""
    start = [f.constant(0.0, lanes) for _ in range(count)]
    with f.loop(0, layout.pixels, carried=start) as pixel:
        pixel.carried = step(f.multiply(pixel.index, layout.stored), pixel.carried)
    return pixel.carried


def _load(f: Function, pointer: V, place: Index, lanes: int) -> V:
    return f.load(f.address(pointer, place), lanes)


def lower_batch_norm_training(k: KernelBuilder) -> None:
    op = k.op(BatchNormTraining)
    x, gamma, beta = k.kernel.anchor.operands
    _, mean, var, unbiased = k.kernel.anchor.results
    layout = k.image(x)
    stored = layout.stored

    def statistics(f: Function) -> None:
        for row, channel, lanes, sums in _per_image(k, f, layout):
            image = f.address(k.pointer(x), f.add(f.multiply(row, layout.size), channel))

            def add(place: Index, s: list[V]) -> list[V]:
                return [f.binary("fadd", s[0], _load(f, image, place, lanes))]

            (total,) = _sweep(f, layout, 1, lanes, add)
            own_mean = f.binary("fmul", total, f.constant(1 / layout.pixels, lanes))

            def square(place: Index, s: list[V]) -> list[V]:
                difference = f.binary("fsub", _load(f, image, place, lanes), own_mean)
                return [f.fma(difference, difference, s[0])]

            (squares,) = _sweep(f, layout, 1, lanes, square)
            f.store(own_mean, sums)
            f.store(squares, f.address(sums, stored))

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
        for row, channel, lanes, sums in _per_image(k, f, layout):
            base = f.add(f.multiply(row, layout.size), channel)
            image, cotangents = f.address(k.pointer(x), base), f.address(k.pointer(dy), base)
            centre = _load(f, k.pointer(mean), channel, lanes)

            def step(place: Index, s: list[V]) -> list[V]:
                difference = f.binary("fsub", _load(f, image, place, lanes), centre)
                cotangent = _load(f, cotangents, place, lanes)
                return [f.binary("fadd", s[0], cotangent), f.fma(cotangent, difference, s[1])]

            plain, weighted = _sweep(f, layout, 2, lanes, step)
            f.store(plain, sums)
            f.store(weighted, f.address(sums, stored))

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
