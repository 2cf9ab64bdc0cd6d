"""Pooling, forward and backward, vectorised over channels.

Backward, each window gives its cotangent to its first maximum (or shares it out evenly). Where windows do not overlap
and cover the image, every input pixel belongs to one window and is written once, with the chain applied on the spot.
Otherwise a thread takes whole images, and windows add to rows of the image that lie in the cache: a row is cleared
before the first window that reaches it, and the chain applied after the last one.

Windows that see padding have code of their own, so that the others ask nothing. The taps of a small window are written
out, those of a large one (7x7 before a classifier) are loops: code must not grow with the image that a global pool
reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from convc.codegen.llvm.channels import channel_vectors, each_pixel, spot_at
from convc.codegen.llvm.control import maybe
from convc.codegen.llvm.kernel import KernelBuilder
from convc.codegen.llvm.vocabulary import Function, Index, V, ref
from convc.ir.ops.pool import AvgPool, AvgPoolBackward, MaxPool, MaxPoolBackward
from convc.ir.window import Window
from convc.lazy import dataclass
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


@dataclass(frozen=True)
class _Spot:
    """The window of an output pixel: its first row and column, which may lie outside; whether taps must ask."""

    top: Index
    left: Index
    guarded: bool


def _spots(f: Function, window: Window, source: ImageLayout, target: ImageLayout, pixel: Index) -> Iterator[_Spot]:
    """The window of an output pixel, once for each kind of code that it may need."""
    row, column = f.divide(pixel, target.width), f.remainder(pixel, target.width)
    top = f.add(f.multiply(row, window.stride[0]), -window.padding[0])
    left = f.add(f.multiply(column, window.stride[1]), -window.padding[1])
    if not _partial(window, source, target):
        yield _Spot(top, left, guarded=False)
        return
    sizes, corner = (source.height, source.width), (top, left)
    places = [max(0, size - extent + 1) for size, extent in zip(sizes, window.extent, strict=True)]
    # One unsigned comparison per axis tests both ends.
    whole = f.binary("and", *(f.emit("i1", f"icmp ult i64 {ref(c)}, {n}") for c, n in zip(corner, places, strict=True)))
    if all(places):
        with f.when(whole):
            yield _Spot(top, left, guarded=False)
    with f.when(f.binary("xor", whole, V("true", "i1"))):
        yield _Spot(top, left, guarded=True)


def _over_taps(
    f: Function, window: Window, source: ImageLayout, spot: _Spot, visit: TapVisit, start: Carried
) -> Carried:
    """Visit the source pixel under each tap of a window, in row-major order.

    Conditions are None when the window lies inside the image. Where the taps are written out the first of them is
    handed nothing, else `start`.
    """
    taps = window.kernel[0] * window.kernel[1]
    small = taps <= _WRITTEN_OUT

    def in_row(r: Index, carried: Carried) -> Carried:
        u = f.add(spot.top, f.multiply(r, window.dilation[0]))

        def at(s: Index, carried: Carried) -> Carried:
            v = f.add(spot.left, f.multiply(s, window.dilation[1]))
            condition = None
            if spot.guarded:
                down = f.emit("i1", f"icmp ult i64 {ref(u)}, {source.height}")
                across = f.emit("i1", f"icmp ult i64 {ref(v)}, {source.width}")
                condition = f.binary("and", down, across)
            return visit(f.add(f.multiply(u, source.width), v), condition, carried)

        return _fold(f, window.kernel[1], small or window.kernel[1] <= _ROW_WRITTEN_OUT, carried, at)

    return _fold(f, window.kernel[0], small, [] if small else start, in_row)


def _guarded_load(f: Function, pointer: V, place: Index, lanes: int, condition: V | None, default: V) -> V:
    """What lies at `place`, or `default` where the condition fails; never reads outside the tensor."""
    if condition is None:
        return f.load(f.address(pointer, place), lanes)
    safe = f.select(condition, V(ref(place), "i64"), V("0", "i64"))
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

        for window in _spots(f, op.window, source, target, pixel):
            (total,) = _over_taps(f, op.window, source, window, take, [start])
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

            for spot in _spots(f, window, source, target, pixel):
                _over_taps(f, window, source, spot, evenly, [])
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

        for spot in _spots(f, window, source, target, pixel):
            _over_taps(f, window, source, spot, to_the_first_maximum, [_truth(False, lanes)])

    def direct(f: Function) -> None:
        def visit(row: Index, pixel: Index, channel: Index, lanes: int, real: int) -> None:
            def give(tap: Index, condition: V | None, share: V) -> None:
                k.finish(f, spot_at(f, source, row, tap, channel, lanes, real), share)

            shares(f, row, pixel, channel, lanes, give)

        each_pixel(k, f, target, visit)

    def scatter(f: Function) -> None:
        start, stop = f.share(k.rows(f))
        live, floats = _live_rows(window, source), source.width * source.stored
        with f.loop(start, stop) as image:
            row = image.index
            rows = f.address(k.scratch_pointer(), f.multiply(row, live * floats))

            def clear(first: Index, last: Index) -> None:
                with f.loop(first, last) as line:
                    into = f.address(rows, f.multiply(f.remainder(line.index, live), floats))
                    _clear(f, into, floats, k.machine.lanes)

            def finish(first: Index, last: Index) -> None:
                with f.loop(first, last) as line, f.loop(0, source.width) as column:
                    pixel = f.add(f.multiply(line.index, source.width), column.index)
                    here = f.add(f.multiply(f.remainder(line.index, live), source.width), column.index)
                    place = f.address(rows, f.multiply(here, source.stored))
                    for channel, lanes, real in channel_vectors(f, source, k.machine.lanes):
                        spot = spot_at(f, source, row, pixel, channel, lanes, real)
                        k.finish(f, spot, f.load(f.address(place, channel), lanes))

            def inside(line: Index) -> Index:
                return f.minimum(f.maximum(line, 0), source.height)

            def give(channel: Index, tap: Index, condition: V | None, share: V) -> None:
                with maybe(f, condition):
                    here = f.remainder(tap, live * source.width)
                    place = f.address(rows, f.add(f.multiply(here, source.stored), channel))
                    f.store(f.binary("fadd", f.load(place, share.lanes), share), place)

            # Rows from `top` on are not done; those up to `ready` are cleared.
            ahead = max(window.extent[0], window.stride[0])
            clear(0, inside(ahead - window.padding[0]))
            with f.loop(0, target.height) as line:
                top = f.add(f.multiply(line.index, window.stride[0]), -window.padding[0])
                following = f.add(top, window.stride[0])
                with f.loop(0, target.width) as column:
                    pixel = f.add(f.multiply(line.index, target.width), column.index)
                    for channel, lanes, _ in channel_vectors(f, source, k.machine.lanes):
                        shares(f, row, pixel, channel, lanes, partial(give, channel))
                finish(inside(top), inside(following))
                clear(inside(f.add(top, ahead)), inside(f.add(following, ahead)))
            # What is behind the last window's first row: no more than is cleared, and rows that no window reaches.
            left = target.height * window.stride[0] - window.padding[0]
            done, ready = (min(max(bound, 0), source.height) for bound in (left, left + ahead))
            finish(done, ready)
            with f.loop(ready, source.height) as line:
                clear(line.index, f.add(line.index, 1))
                finish(line.index, f.add(line.index, 1))

    k.phase(op.name, direct if _covers(window, source, target) else scatter)


def _clear(f: Function, place: V, floats: int, lanes: int) -> None:
    whole = floats // lanes * lanes
    for first, last, width in ((0, whole, lanes), (whole, floats, 1)):
        if first < last:
            with f.loop(first, last, width) as element:
                f.store(f.constant(0.0, width), f.address(place, element.index))


def _live_rows(window: Window, source: ImageLayout) -> int:
    """Rows of an image that are cleared and not done: those that a row of windows reaches, or passes over."""
    return min(source.height, max(window.extent[0], window.stride[0]))


def _covers(window: Window, source: ImageLayout, target: ImageLayout) -> bool:
    """Whether every source pixel lies under exactly one window."""
    covered = (target.height * window.kernel[0], target.width * window.kernel[1])
    fits = covered == (source.height, source.width) and window.dilation == (1, 1)
    return fits and window.stride == window.kernel and not _partial(window, source, target)


def scratch_pool_backward(k: KernelBuilder) -> int:
    """Rows of the sums of overlapping windows, for each image, before the chain."""
    op = k.op(MaxPoolBackward, AvgPoolBackward)
    source = k.image(k.kernel.anchor.results[0])
    target = k.image(k.kernel.anchor.operands[0])
    if _covers(op.window, source, target):
        return 0
    return 4 * k.plan.batch * _live_rows(op.window, source) * source.width * source.stored


def _truth(value: bool, lanes: int) -> V:
    word = "true" if value else "false"
    return V(word, "i1") if lanes == 1 else V(f"splat (i1 {word})", f"<{lanes} x i1>")
