"""Pooling, forward and backward, vectorised over channels.

Backward, each window gives its cotangent to its first maximum (or shares it out evenly). Where windows do not overlap
and cover the image, every input pixel belongs to one window and is written once, with the chain applied on the spot.
Otherwise a thread takes whole images: it clears the image, adds window by window, and applies the chain in a second
sweep while the image is still in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from convc.codegen.llvm.channels import channel_vectors, each_pixel, spot_at
from convc.codegen.llvm.control import maybe
from convc.codegen.llvm.kernel import KernelBuilder
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.ir.ops.pool import AvgPool, AvgPoolBackward, MaxPool, MaxPoolBackward
from convc.ir.window import Window
from convc.passes.layout import ImageLayout


def _partial(window: Window, source: ImageLayout, target: ImageLayout) -> bool:
    """Whether some window sees padding."""
    last = [
        (o - 1) * s + k - p > size
        for o, s, k, p, size in zip(
            (target.height, target.width), window.stride, window.kernel, window.padding[:2],
            (source.height, source.width), strict=True,
        )
    ]  # fmt: skip
    return any(window.padding[:2]) or any(last)


def _taps(
    f: Function, window: Window, source: ImageLayout, target: ImageLayout, pixel: Index
) -> Iterator[tuple[Index, V | None]]:
    """For an output pixel: the source pixel under each tap, and the condition (i1) under which it exists.

    Conditions are None when every window lies inside the image.
    """
    row, column = f.divide(pixel, target.width), f.remainder(pixel, target.width)
    top = f.add(f.multiply(row, window.stride[0]), -window.padding[0])
    left = f.add(f.multiply(column, window.stride[1]), -window.padding[1])
    guarded = _partial(window, source, target)
    for r in range(window.kernel[0]):
        for s in range(window.kernel[1]):
            u, v = f.add(top, r), f.add(left, s)
            condition = None
            if guarded:
                # One unsigned comparison per axis tests both ends.
                down = f.emit("i1", f"icmp ult i64 {_text(u)}, {source.height}")
                across = f.emit("i1", f"icmp ult i64 {_text(v)}, {source.width}")
                condition = f.binary("and", down, across)
            yield f.add(f.multiply(u, source.width), v), condition


def _text(index: Index) -> str:
    return str(index) if isinstance(index, int) else index.ref


def _guarded_load(f: Function, pointer: V, place: Index, lanes: int, condition: V | None, default: V) -> V:
    """What lies at `place`, or `default` where the condition fails; never reads outside the tensor."""
    if condition is None:
        return f.load(f.address(pointer, place), lanes)
    safe = f.select(condition, V(_text(place), "i64"), V("0", "i64"))
    return f.select(
        f.splat(condition, lanes) if lanes > 1 else condition, f.load(f.address(pointer, safe), lanes), default
    )


def lower_pool(k: KernelBuilder) -> None:
    """max_pool and avg_pool with a chain."""
    op = k.op(MaxPool, AvgPool)
    x, y = k.kernel.anchor.operands[0], k.kernel.anchor.results[0]
    source, target = k.image(x), k.image(y)
    maximum = isinstance(op, MaxPool)

    def visit(f: Function, row: Index, pixel: Index, channel: Index, lanes: int, real: int) -> None:
        base = f.add(f.multiply(row, source.size), channel)
        start = f.constant(float("-inf") if maximum else 0.0, lanes)
        total: V | None = None
        for place, condition in _taps(f, op.window, source, target, pixel):
            value = _guarded_load(
                f, k.pointer(x), f.add(base, f.multiply(place, source.stored)), lanes, condition, start
            )
            if total is None:
                total = value
            elif maximum:
                # `value > total` or unordered: a NaN enters, but a later number that is larger may replace it. The loss
                # is not finite either way in training; comparing twice per tap would cost a third of the kernel.
                total = f.select(f.compare("ugt", value, total), value, total)
            else:
                total = f.binary("fadd", total, value)
        assert total is not None
        if isinstance(op, AvgPool):
            total = f.binary("fmul", total, _reciprocal(f, op, source, target, pixel, lanes))
        k.finish(f, spot_at(f, target, row, pixel, channel, lanes, real), total)

    def body(f: Function) -> None:
        each_pixel(k, f, target, partial(visit, f))

    k.phase(op.name, body)


def _reciprocal(f: Function, op: AvgPool, source: ImageLayout, target: ImageLayout, pixel: Index, lanes: int) -> V:
    """1 / divisor of a window. Divisors that differ are products of a row's and a column's count."""
    divisors = op.divisors((source.height, source.width))
    if (divisors == divisors[0, 0]).all():
        return f.constant(1.0 / float(divisors[0, 0]), lanes)
    rows, columns = divisors[:, 0] / divisors[0, 0], divisors[0, :]
    down = _lookup(f, [1.0 / float(value) for value in rows], f.divide(pixel, target.width))
    across = _lookup(f, [1.0 / float(value) for value in columns], f.remainder(pixel, target.width))
    return f.splat(f.binary("fmul", down, across), lanes)


def _lookup(f: Function, values: list[float], index: Index) -> V:
    """values[index] by selects: only the first and last few entries differ from the common one."""
    common = max(set(values), key=values.count)
    result = f.constant(common)
    for position, value in enumerate(values):
        if value != common:
            result = f.select(f.equal(index, position), f.constant(value), result)
    return result


def lower_pool_backward(k: KernelBuilder) -> None:
    """max_pool_backward and avg_pool_backward with a chain."""
    op = k.op(MaxPoolBackward, AvgPoolBackward)
    operands, dx = k.kernel.anchor.operands, k.kernel.anchor.results[0]
    dy = operands[0]
    source, target = k.image(dx), k.image(dy)
    window = op.window

    def shares(f: Function, row: Index, pixel: Index, channel: Index, lanes: int) -> Callable[[Index, V | None], V]:
        """What a window gives to each of its taps, asked in order."""
        place = f.sum(f.multiply(row, target.size), f.multiply(pixel, target.stored), channel)
        cotangent = f.load(f.address(k.pointer(dy), place), lanes)
        zero = f.constant(0.0, lanes)
        if isinstance(op, AvgPoolBackward):
            share = f.binary("fmul", cotangent, _reciprocal(f, op.forward, source, target, pixel, lanes))
            return lambda tap, condition: share
        best = f.load(f.address(k.pointer(operands[2]), place), lanes)
        taken: list[V] = []

        def first_maximum(tap: Index, condition: V | None) -> V:
            where = f.sum(f.multiply(row, source.size), f.multiply(tap, source.stored), channel)
            value = _guarded_load(f, k.pointer(operands[1]), where, lanes, condition, f.constant(float("-inf"), lanes))
            here = f.compare("oeq", value, best)
            if condition is not None:
                here = f.binary("and", here, f.splat(condition, lanes))
            if taken:
                here = f.binary("and", here, f.binary("xor", taken[-1], _true(lanes)))
                taken.append(f.binary("or", taken[-1], here))
            else:
                taken.append(here)
            return f.select(here, cotangent, zero)

        return first_maximum

    def direct(f: Function) -> None:
        def visit(row: Index, pixel: Index, channel: Index, lanes: int, real: int) -> None:
            share = shares(f, row, pixel, channel, lanes)
            for tap, condition in _taps(f, window, source, target, pixel):
                k.finish(f, spot_at(f, source, row, tap, channel, lanes, real), share(tap, condition))

        each_pixel(k, f, target, visit)

    def scatter(f: Function) -> None:
        start, stop = f.share(k.rows(f))
        into = k.scratch_pointer()
        with f.loop(start, stop) as image:
            row = image.index
            place = f.address(into, f.multiply(row, source.size))
            for channel, lanes, _ in channel_vectors(f, source, k.machine.lanes):
                with f.loop(0, source.pixels) as pixel:
                    spot = f.add(f.multiply(pixel.index, source.stored), channel)
                    f.store(f.constant(0.0, lanes), f.address(place, spot))
            with f.loop(0, target.pixels) as pixel:
                for channel, lanes, _ in channel_vectors(f, source, k.machine.lanes):
                    share = shares(f, row, pixel.index, channel, lanes)
                    for tap, condition in _taps(f, window, source, target, pixel.index):
                        given = share(tap, condition)
                        with maybe(f, condition):
                            spot = f.address(place, f.add(f.multiply(tap, source.stored), channel))
                            f.store(f.binary("fadd", f.load(spot, lanes), given), spot)
            with f.loop(0, source.pixels) as pixel:
                for channel, lanes, real in channel_vectors(f, source, k.machine.lanes):
                    spot = spot_at(f, source, row, pixel.index, channel, lanes, real)
                    k.finish(f, spot, f.load(f.address(into, f.add(spot.base, spot.extra)), lanes))

    k.phase(op.name, direct if _covers(window, source, target) else scatter)


def _covers(window: Window, source: ImageLayout, target: ImageLayout) -> bool:
    """Whether every source pixel lies under exactly one window."""
    covered = (target.height * window.kernel[0], target.width * window.kernel[1])
    fits = covered == (source.height, source.width)
    return fits and window.stride == window.kernel and not _partial(window, source, target)


def scratch_pool_backward(k: KernelBuilder) -> int:
    """The sums of overlapping windows, before the chain."""
    op = k.op(MaxPoolBackward, AvgPoolBackward)
    source = k.image(k.kernel.anchor.results[0])
    target = k.image(k.kernel.anchor.operands[0])
    return 0 if _covers(op.window, source, target) else 4 * k.plan.batch * source.size


def _true(lanes: int) -> V:
    return V("true", "i1") if lanes == 1 else V("splat (i1 true)", f"<{lanes} x i1>")
