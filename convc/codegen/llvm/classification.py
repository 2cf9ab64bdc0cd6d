"""Soft-max, cross-entropy and what else looks at all channels of a pixel: rows are short, threads split them."""

from __future__ import annotations

from collections.abc import Callable

from convc.codegen.llvm.channels import channel_vectors
from convc.codegen.llvm.kernel import KernelBuilder
from convc.codegen.llvm.mathematics import exponential, logarithm
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.ir.graph import Value
from convc.ir.ops.activation import Maxout, MaxoutBackward
from convc.ir.ops.loss import SoftmaxCrossEntropy, SoftmaxCrossEntropyBackward
from convc.passes.layout import ImageLayout


def _fold(
    f: Function, layout: ImageLayout, lanes: int, start: float, scalar: Callable[[V, V], V],
    vector: Callable[[V, V], V], value: Callable[[Index, int], V],
) -> V:  # fmt: skip
    """Fold `value(channel, lanes)` over the real channels of a pixel to one number, in a fixed order."""
    full, rest = divmod(layout.channels, lanes)
    result = f.constant(start)
    if full:
        with f.loop(0, full, carried=[f.constant(start, lanes)]) as group:
            group.carried = [vector(group.carried[0], value(f.multiply(group.index, lanes), lanes))]
        for lane in range(lanes):
            result = scalar(result, f.extract(group.carried[0], lane))
    for channel in range(full * lanes, full * lanes + rest):
        result = scalar(result, value(channel, 1))
    return result


def _maximum(f: Function) -> Callable[[V, V], V]:
    return lambda left, right: f.select(f.compare("ugt", right, left), right, left)


def _sum(f: Function) -> Callable[[V, V], V]:
    return lambda left, right: f.binary("fadd", left, right)


def _lanes(k: KernelBuilder, layout: ImageLayout) -> int:
    return max(width for width in (1, 4, 8, 16) if width <= min(k.machine.lanes, max(1, layout.channels)))


class _Pixel:
    """The logits of one pixel: their place, maximum, and sum of exponentials around it."""

    def __init__(self, k: KernelBuilder, f: Function, layout: ImageLayout, logits: Value, unit: Index) -> None:
        self.f, self.layout, self.lanes = f, layout, _lanes(k, layout)
        self.base = f.address(k.pointer(logits), f.multiply(unit, layout.stored))
        self.highest = _fold(f, layout, self.lanes, float("-inf"), _maximum(f), _maximum(f), self.load)
        self.total = _fold(f, layout, self.lanes, 0.0, _sum(f), _sum(f), self.exponential)

    def load(self, channel: Index, lanes: int) -> V:
        return self.f.load(self.f.address(self.base, channel), lanes)

    def exponential(self, channel: Index, lanes: int) -> V:
        return exponential(self.f, self.f.binary("fsub", self.load(channel, lanes), self.f.splat(self.highest, lanes)))


def _label(f: Function, k: KernelBuilder, labels: Value, unit: Index) -> V:
    label = f.load(f.address(k.pointer(labels), unit, "i32"), 1, "i32")
    return f.emit("i64", f"zext i32 {label.ref} to i64")


def scratch_per_pixel(k: KernelBuilder) -> int:
    """One number per pixel, to be added up in order."""
    return 4 * k.plan.batch * k.image(k.kernel.anchor.operands[0]).pixels


def _pixels(k: KernelBuilder, f: Function, layout: ImageLayout) -> Index:
    return f.multiply(k.rows(f), layout.pixels)


def _add_up(k: KernelBuilder, layout: ImageLayout, mean: bool) -> Callable[[Function], None]:
    """The sum (or mean) of one number per pixel, by rank 0, in double precision and in order."""

    def body(f: Function) -> None:
        with f.when(f.equal(f.rank, 0)):
            pixels = _pixels(k, f, layout)
            zero = V("0.0", "double")
            with f.loop(0, pixels, carried=[zero]) as pixel:
                value = f.convert("fpext", f.load(f.address(k.scratch_pointer(), pixel.index)), "double")
                pixel.carried = [f.binary("fadd", pixel.carried[0], value)]
            total = pixel.carried[0]
            if mean:
                text = pixels if isinstance(pixels, int) else pixels.ref
                total = f.binary("fdiv", total, f.emit("double", f"sitofp i64 {text} to double"))
            f.store(f.convert("fptrunc", total, "float"), k.pointer(k.kernel.anchor.result))

    return body


def lower_softmax_cross_entropy(k: KernelBuilder) -> None:
    op = k.op(SoftmaxCrossEntropy)
    logits, labels = k.kernel.anchor.operands
    layout = k.image(logits)

    def rows(f: Function) -> None:
        start, stop = f.share(_pixels(k, f, layout))
        with f.loop(start, stop) as unit:
            pixel = _Pixel(k, f, layout, logits, unit.index)
            # −Σ t·log p = log Σ e^(z − max) + max − (1 − smooth)·z_label − smooth/K · Σ z
            target = f.load(f.address(pixel.base, _label(f, k, labels, unit.index)))
            loss = f.binary("fsub", pixel.highest, f.binary("fmul", f.constant(1 - op.smooth), target))
            if op.smooth:
                shifted = _fold(f, layout, pixel.lanes, 0.0, _sum(f), _sum(f), pixel.load)
                loss = f.binary("fsub", loss, f.binary("fmul", f.constant(op.smooth / layout.channels), shifted))
            loss = f.binary("fadd", logarithm(f, pixel.total), loss)
            f.store(loss, f.address(k.scratch_pointer(), unit.index))

    k.phase("cross_entropy_rows", rows)
    k.phase("mean_loss", _add_up(k, layout, mean=True))


def lower_softmax_cross_entropy_backward(k: KernelBuilder) -> None:
    op = k.op(SoftmaxCrossEntropyBackward)
    dloss, logits, labels = k.kernel.anchor.operands
    layout = k.image(logits)

    def body(f: Function) -> None:
        pixels = _pixels(k, f, layout)
        count = f.emit("float", f"sitofp i64 {pixels if isinstance(pixels, int) else pixels.ref} to float")
        scale = f.binary("fdiv", k.scalar(f, dloss), count)
        start, stop = f.share(pixels)
        with f.loop(start, stop) as unit:
            pixel = _Pixel(k, f, layout, logits, unit.index)
            weight = f.binary("fdiv", scale, pixel.total)
            into = f.address(k.pointer(k.kernel.anchor.result), f.multiply(unit.index, layout.stored))
            for channel, lanes, real in channel_vectors(f, layout, k.machine.lanes):
                p = f.binary("fmul", pixel.exponential(channel, lanes), f.splat(weight, lanes))
                if op.smooth:
                    share = f.binary("fmul", scale, f.constant(op.smooth / layout.channels))
                    p = f.binary("fsub", p, f.splat(share, lanes))
                if real < lanes:
                    mask = f.integers([lane < real for lane in range(lanes)], "i1")
                    p = f.select(mask, p, f.constant(0.0, lanes))
                f.store(p, f.address(into, channel))
            target = f.address(into, _label(f, k, labels, unit.index))
            hit = f.binary("fmul", scale, f.constant(1 - op.smooth))
            f.store(f.binary("fsub", f.load(target), hit), target)

    k.phase("softmax_cross_entropy_backward", body)


def lower_count_correct(k: KernelBuilder) -> None:
    """A row counts when the label's logit is the first of the largest ones."""
    logits, labels = k.kernel.anchor.operands
    layout = k.image(logits)

    def rows(f: Function) -> None:
        start, stop = f.share(_pixels(k, f, layout))
        with f.loop(start, stop) as unit:
            base = f.address(k.pointer(logits), f.multiply(unit.index, layout.stored))
            label = _label(f, k, labels, unit.index)
            target = f.load(f.address(base, label))
            none = V("0", "i64")
            with f.loop(0, layout.channels, carried=[none]) as channel:
                value = f.load(f.address(base, channel.index))
                index = channel.index if isinstance(channel.index, V) else V(str(channel.index), "i64")
                earlier = f.emit("i1", f"icmp slt i64 {index.ref}, {label.ref}")
                ties = f.binary("and", f.compare("oeq", value, target), earlier)
                # "not less or equal" counts NaN as beaten: a diverged net is never right.
                beaten = f.binary("or", f.compare("ugt", value, target), ties)
                counted = f.emit("i64", f"zext i1 {beaten.ref} to i64")
                channel.carried = [f.binary("add", channel.carried[0], counted)]
            hit = f.equal(channel.carried[0], 0)
            f.store(f.select(hit, f.constant(1.0), f.constant(0.0)), f.address(k.scratch_pointer(), unit.index))

    k.phase("correct_rows", rows)
    k.phase("count_correct", _add_up(k, layout, mean=False))


def lower_softmax(k: KernelBuilder) -> None:
    (x,) = k.kernel.anchor.operands
    layout = k.image(x)

    def body(f: Function) -> None:
        start, stop = f.share(_pixels(k, f, layout))
        with f.loop(start, stop) as unit:
            pixel = _Pixel(k, f, layout, x, unit.index)
            weight = f.binary("fdiv", f.constant(1.0), pixel.total)
            into = f.address(k.pointer(k.kernel.anchor.result), f.multiply(unit.index, layout.stored))
            for channel, lanes, real in channel_vectors(f, layout, k.machine.lanes):
                p = f.binary("fmul", pixel.exponential(channel, lanes), f.splat(weight, lanes))
                f.store(_masked(f, p, real), f.address(into, channel))

    k.phase("softmax", body)


def lower_softmax_backward(k: KernelBuilder) -> None:
    dy, y = k.kernel.anchor.operands
    layout = k.image(y)

    def body(f: Function) -> None:
        start, stop = f.share(_pixels(k, f, layout))
        with f.loop(start, stop) as unit:
            place = f.multiply(unit.index, layout.stored)
            cotangents, values = f.address(k.pointer(dy), place), f.address(k.pointer(y), place)

            def product(channel: Index, lanes: int) -> V:
                left, right = (f.load(f.address(base, channel), lanes) for base in (cotangents, values))
                return f.binary("fmul", left, right)

            total = _fold(f, layout, _lanes(k, layout), 0.0, _sum(f), _sum(f), product)
            into = f.address(k.pointer(k.kernel.anchor.result), place)
            for channel, lanes, _ in channel_vectors(f, layout, k.machine.lanes):
                cotangent, value = (f.load(f.address(base, channel), lanes) for base in (cotangents, values))
                difference = f.binary("fsub", cotangent, f.splat(total, lanes))
                f.store(f.binary("fmul", value, difference), f.address(into, channel))

    k.phase("softmax_backward", body)


def _masked(f: Function, value: V, real: int) -> V:
    if real == value.lanes:
        return value
    mask = f.integers([lane < real for lane in range(value.lanes)], "i1")
    return f.select(mask, value, f.constant(0.0, value.lanes))


def lower_maxout(k: KernelBuilder) -> None:
    """One number at a time: groups of channels lie across vectors."""
    op = k.op(Maxout)
    (x,) = k.kernel.anchor.operands
    source, target = k.image(x), k.image(k.kernel.anchor.result)

    def body(f: Function) -> None:
        start, stop = f.share(_pixels(k, f, target))
        with f.loop(start, stop) as unit:
            base = f.address(k.pointer(x), f.multiply(unit.index, source.stored))
            into = f.address(k.pointer(k.kernel.anchor.result), f.multiply(unit.index, target.stored))
            with f.loop(0, target.channels) as channel:
                group = f.address(base, f.multiply(channel.index, op.group))
                best = f.load(group)
                for member in range(1, op.group):
                    best = _maximum(f)(best, f.load(f.address(group, member)))
                f.store(best, f.address(into, channel.index))
            for lane in range(target.channels, target.stored):
                f.store(f.constant(0.0), f.address(into, lane))

    k.phase("maxout", body)


def lower_maxout_backward(k: KernelBuilder) -> None:
    op = k.op(MaxoutBackward)
    dy, x, y = k.kernel.anchor.operands
    source, target = k.image(x), k.image(y)

    def body(f: Function) -> None:
        start, stop = f.share(_pixels(k, f, target))
        with f.loop(start, stop) as unit:
            here = f.multiply(unit.index, target.stored)
            base = f.address(k.pointer(x), f.multiply(unit.index, source.stored))
            into = f.address(k.pointer(k.kernel.anchor.result), f.multiply(unit.index, source.stored))
            with f.loop(0, target.channels) as channel:
                place = f.add(here, channel.index)
                cotangent = f.load(f.address(k.pointer(dy), place))
                best = f.load(f.address(k.pointer(y), place))
                first = f.multiply(channel.index, op.group)
                open_ = V("true", "i1")
                for member in range(op.group):
                    index = f.add(first, member)
                    hit = f.binary("and", f.compare("oeq", f.load(f.address(base, index)), best), open_)
                    f.store(f.select(hit, cotangent, f.constant(0.0)), f.address(into, index))
                    open_ = f.binary("and", open_, f.binary("xor", hit, V("true", "i1")))
            for lane in range(source.channels, source.stored):
                f.store(f.constant(0.0), f.address(into, lane))

    k.phase("maxout_backward", body)
