"""Batch normalisation in training, forward and backward. Its statistics are those of `moments.py`, image by image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from convc.codegen.llvm.channels import channel_groups, each_pixel, spot_at
from convc.codegen.llvm.kernel import KernelBuilder
from convc.codegen.llvm.moments import Lines, combine_lines, count_as_float, load_at, shared_vectors, sweep
from convc.codegen.llvm.register_tile import Piece
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.ir.graph import Value
from convc.ir.ops.norm import BatchNorm, BatchNormBackward, BatchNormTraining
from convc.passes.layout import ImageLayout


def scratch_batch_norm(k: KernelBuilder) -> int:
    """Two numbers per image and channel, then four per channel."""
    layout = k.image(k.kernel.anchor.results[0])
    return 4 * layout.stored * (2 * k.plan.batch + 4)


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


def lower_batch_norm_training(k: KernelBuilder) -> None:
    op = k.op(BatchNormTraining)
    x, gamma, beta = k.kernel.anchor.operands
    _, mean, var, unbiased = k.kernel.anchor.results
    layout = k.image(x)
    stored = layout.stored

    lines = Lines(layout)

    def statistics(f: Function) -> None:
        with f.loop(*f.share(k.rows(f))) as image:
            lines.measure(k, f, k.pointer(x), k.scratch_pointer(), image.index)

    def combine(f: Function) -> None:
        for channel, variance in combine_lines(k, f, lines, k.scratch_pointer(), (mean, var, unbiased)):
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
        for channel, lanes in shared_vectors(k, f, layout):
            scale = _scale(k, f, load_at(f, k.pointer(var), channel, lanes), gamma, channel, op.eps)
            f.store(scale, f.address(k.scratch_pointer(), channel))

    k.phase("batch_norm_scales", scales)
    k.phase("batch_norm", lambda f: _normalise(k, f, k.scratch_pointer(), x, mean, beta))


def _scale(k: KernelBuilder, f: Function, variance: V, gamma: Value, channel: Index, eps: float) -> V:
    """γ/√(σ² + ε) of the channels of a vector."""
    return f.binary("fmul", _inverse_deviation(f, variance, eps), load_at(f, k.pointer(gamma), channel, variance.lanes))


def _normalise(k: KernelBuilder, f: Function, scales: V, x: Value, mean: Value, beta: Value) -> None:
    """(x − mean)·scale + beta, and the chain. (x·scale + shift would cancel.)"""
    layout = k.image(x)

    def visit(row: Index, pixel: Index, channel: Index, lanes: int, real: int) -> None:
        spot = spot_at(f, layout, row, pixel, channel, lanes, real)
        value = f.load(f.address(f.address(k.pointer(x), spot.base), spot.extra), lanes)
        centred = f.binary("fsub", value, load_at(f, k.pointer(mean), channel, lanes))
        scale = load_at(f, scales, channel, lanes)
        k.finish(f, spot, f.fma(centred, scale, load_at(f, k.pointer(beta), channel, lanes)))

    each_pixel(k, f, layout, visit)


def _inverse_deviation(f: Function, variance: V, eps: float) -> V:
    root = f.unary("sqrt", f.binary("fadd", variance, f.constant(eps, variance.lanes)))
    return f.binary("fdiv", f.constant(1.0, variance.lanes), root)


def _coefficients(k: KernelBuilder, f: Function, stored: int) -> V:
    """Per-channel numbers that one phase leaves to the next, behind the sums of the images."""
    return f.address(k.scratch_pointer(), 2 * k.plan.batch * stored)


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
            centres = [load_at(f, k.pointer(mean), f.add(channel, piece.offset), piece.lanes) for piece in pieces]

            def step(number: int, place: Index, s: Sequence[V]) -> Sequence[V]:
                lanes = pieces[number].lanes
                difference = f.binary("fsub", load_at(f, image, place, lanes), centres[number])
                cotangent = load_at(f, cotangents, place, lanes)
                return [f.binary("fadd", s[0], cotangent), f.fma(cotangent, difference, s[1])]

            both = sweep(f, layout, (0, layout.pixels), pieces, 2, step)
            for piece, (plain, weighted) in zip(pieces, both, strict=True):
                f.store(plain, f.address(sums, piece.offset))
                f.store(weighted, f.address(sums, stored + piece.offset))

    def combine(f: Function) -> None:
        rows = k.rows(f)
        count = count_as_float(f, rows, layout.pixels)
        for channel, lanes in shared_vectors(k, f, layout):
            sums = f.address(k.scratch_pointer(), channel)
            zero = f.constant(0.0, lanes)
            with f.loop(0, rows, carried=[zero, zero]) as image:
                place = f.multiply(image.index, 2 * stored)
                image.carried = [
                    f.binary("fadd", image.carried[0], load_at(f, sums, place, lanes)),
                    f.binary("fadd", image.carried[1], load_at(f, sums, f.add(place, stored), lanes)),
                ]
            plain, weighted = image.carried
            inverse = _inverse_deviation(f, load_at(f, k.pointer(var), channel, lanes), op.eps)
            gradient = f.binary("fmul", weighted, inverse)  # Σ dy·x̂
            f.store(plain, f.address(k.pointer(dbeta), channel))
            f.store(gradient, f.address(k.pointer(dgamma), channel))
            # dx = a·dy + b·(x − mean) + c  with  a = γ·s,  b = −a·s·dγ/m,  c = −a·dβ/m
            share = f.splat(f.binary("fdiv", f.constant(1.0), count), lanes)
            a = f.binary("fmul", inverse, load_at(f, k.pointer(gamma), channel, lanes))
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

            a, b, c = (load_at(f, coefficients, f.add(channel, number * stored), lanes) for number in range(3))
            centred = f.binary("fsub", here(x), load_at(f, k.pointer(mean), channel, lanes))
            k.finish(f, spot, f.fma(a, here(dy), f.fma(b, centred, c)))

        each_pixel(k, f, layout, visit)

    k.phase("batch_norm_sums", sums_of_images)
    k.phase("combine_sums", combine)
    k.phase("batch_norm_backward", gradient)
