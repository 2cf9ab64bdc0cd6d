"""Pooling, forward and backward, vectorised over channels.

Backward, each window gives its cotangent to its first maximum (or shares it out evenly). Where windows do not overlap
and cover the image, every input pixel belongs to one window and is written once, with the chain applied on the spot.
Otherwise a thread takes whole images: it clears the image, adds window by window, and applies the chain in a second
sweep while the image is still in the cache.

The taps of a small window are written out, those of a large one (7x7 before a classifier) are loops: code must not grow
with the image that a global pool reads.
"""

from __future__ import annotations

from collections.abc import Callable
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
        (o - 1) * s + extent - p > size
        for o, s, extent, p, size in zip(
            (target.height, target.width), window.stride, window.extent, window.padding[:2],
            (source.height, source.width), strict=True,
        )
    ]  # fmt: skip
    return any(window.padding[:2]) or any(last)


_WRITTEN_OUT = 16  # taps of a window, at most
_ROW_WRITTEN_OUT = 8  # taps of one row of a larger window, at most

Carried = list[V]
# From a tap, the condition (i1) under which it exists, and what the tap before left, to what it leaves itself.
TapVisit = Callable[[Index, "V | None", Carried], Carried]


def _fold(
    f: Function, count: int, written_out: bool, start: Carried, body: Callable[[Index, Carried], Carried]
) -> Carried:
    """body(0, start), body(1, that), …: written out, or as a loop."""
    if written_out:
        for number in range(count):
            start = body(number, start)
        return start
    with f.loop(0, count, carried=start) as loop:
        loop.carried = body(loop.index, loop.carried)
    return loop.carried


def _over_taps(
    f: Function,
    window: Window,
    source: ImageLayout,
    target: ImageLayout,
    pixel: Index,
    visit: TapVisit,
    start: Carried,
) -> Carried:
    """Visit the source pixel under each tap of an output pixel's window, in row-major order.

    Conditions are None when every window lies inside the image. Where the taps are written out the first of them is
    handed nothing, else `start`.
    """
    row, column = f.divide(pixel, target.width), f.remainder(pixel, target.width)
    top = f.add(f.multiply(row, window.stride[0]), -window.padding[0])
    left = f.add(f.multiply(column, window.stride[1]), -window.padding[1])
    guarded = _partial(window, source, target)
    taps = window.kernel[0] * window.kernel[1]
    small = taps <= _WRITTEN_OUT

    def in_row(r: Index, carried: Carried) -> Carried:
        u = f.add(top, f.multiply(r, window.dilation[0]))

        def at(s: Index, carried: Carried) -> Carried:
            v = f.add(left, f.multiply(s, window.dilation[1]))
            condition = None
            if guarded:
                # One unsigned comparison per axis tests both ends.
                down = f.emit("i1", f"icmp ult i64 {_text(u)}, {source.height}")
                across = f.emit("i1", f"icmp ult i64 {_text(v)}, {source.width}")
                condition = f.binary("and", down, across)
            return visit(f.add(f.multiply(u, source.width), v), condition, carried)

        return _fold(f, window.kernel[1], small or window.kernel[1] <= _ROW_WRITTEN_OUT, carried, at)

    return _fold(f, window.kernel[0], small, [] if small else start, in_row)


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

        def take(place: Index, condition: V | None, before: Carried) -> Carried:
            spot = f.add(base, f.multiply(place, source.stored))
            value = _guarded_load(f, k.pointer(x), spot, lanes, condition, start)
            if not before:
                return [value]
            (total,) = before
            if maximum:
                # `value > total` or unordered: a NaN enters, but a later number that is larger may replace it. The loss
                # is not finite either way in training; comparing twice per tap would cost a third of the kernel.
                return [f.select(f.compare("ugt", value, total), value, total)]
            return [f.binary("fadd", total, value)]

        (total,) = _over_taps(f, op.window, source, target, pixel, take, [start])
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

    def shares(
        f: Function, row: Index, pixel: Index, channel: Index, lanes: int, give: Callable[[Index, V | None, V], None]
    ) -> None:
        """Call `give` with each tap of a window, its condition, and what the window gives to it."""
        place = f.sum(f.multiply(row, target.size), f.multiply(pixel, target.stored), channel)
        cotangent = f.load(f.address(k.pointer(dy), place), lanes)
        if isinstance(op, AvgPoolBackward):
            share = f.binary("fmul", cotangent, _reciprocal(f, op.forward, source, target, pixel, lanes))

            def evenly(tap: Index, condition: V | None, before: Carried) -> Carried:
                give(tap, condition, share)
                return before

            _over_taps(f, window, source, target, pixel, evenly, [])
            return
        best, zero = f.load(f.address(k.pointer(operands[2]), place), lanes), f.constant(0.0, lanes)

        def to_the_first_maximum(tap: Index, condition: V | None, before: Carried) -> Carried:
            where = f.sum(f.multiply(row, source.size), f.multiply(tap, source.stored), channel)
            value = _guarded_load(f, k.pointer(operands[1]), where, lanes, condition, f.constant(float("-inf"), lanes))
            here = f.compare("oeq", value, best)
            if condition is not None:
                here = f.binary("and", here, f.splat(condition, lanes))
            taken = here
            if before:
                here = f.binary("and", here, f.binary("xor", before[0], _truth(True, lanes)))
                taken = f.binary("or", before[0], here)
            give(tap, condition, f.select(here, cotangent, zero))
            return [taken]

        _over_taps(f, window, source, target, pixel, to_the_first_maximum, [_truth(False, lanes)])

    def direct(f: Function) -> None:
        def visit(row: Index, pixel: Index, channel: Index, lanes: int, real: int) -> None:
            def give(tap: Index, condition: V | None, share: V) -> None:
                k.finish(f, spot_at(f, source, row, tap, channel, lanes, real), share)

            shares(f, row, pixel, channel, lanes, give)

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
                    shares(f, row, pixel.index, channel, lanes, partial(_add, f, source, place, channel))
            with f.loop(0, source.pixels) as pixel:
                for channel, lanes, real in channel_vectors(f, source, k.machine.lanes):
                    spot = spot_at(f, source, row, pixel.index, channel, lanes, real)
                    k.finish(f, spot, f.load(f.address(into, f.add(spot.base, spot.extra)), lanes))

    k.phase(op.name, direct if _covers(window, source, target) else scatter)


def _add(f: Function, source: ImageLayout, image: V, channel: Index, tap: Index, condition: V | None, share: V) -> None:
    """Add a window's share to what a pixel of the image has already."""
    with maybe(f, condition):
        spot = f.address(image, f.add(f.multiply(tap, source.stored), channel))
        f.store(f.binary("fadd", f.load(spot, share.lanes), share), spot)


def _covers(window: Window, source: ImageLayout, target: ImageLayout) -> bool:
    """Whether every source pixel lies under exactly one window."""
    covered = (target.height * window.kernel[0], target.width * window.kernel[1])
    fits = covered == (source.height, source.width) and window.dilation == (1, 1)
    return fits and window.stride == window.kernel and not _partial(window, source, target)


def scratch_pool_backward(k: KernelBuilder) -> int:
    """The sums of overlapping windows, before the chain."""
    op = k.op(MaxPoolBackward, AvgPoolBackward)
    source = k.image(k.kernel.anchor.results[0])
    target = k.image(k.kernel.anchor.operands[0])
    return 0 if _covers(op.window, source, target) else 4 * k.plan.batch * source.size


def _truth(value: bool, lanes: int) -> V:
    word = "true" if value else "false"
    return V(word, "i1") if lanes == 1 else V(f"splat (i1 {word})", f"<{lanes} x i1>")
