"""Soft-max, cross-entropy and what else looks at all channels of a pixel: rows are short, threads split them."""

from __future__ import annotations

from collections.abc import Callable

from convc.codegen.llvm.channels import channel_vectors, masked
from convc.codegen.llvm.folding import add, add_up, fold, label_of, lanes_of, maximum, pixels_of
from convc.codegen.llvm.kernel import KernelBuilder
from convc.codegen.llvm.mathematics import exponential, logarithm
from convc.codegen.llvm.vocabulary import Function, Index, V, ref
from convc.ir.graph import Value
from convc.ir.ops.activation import Maxout, MaxoutBackward
from convc.ir.ops.loss import SoftmaxCrossEntropy, SoftmaxCrossEntropyBackward
from convc.passes.layout import ImageLayout


class _Pixel:
    """The logits of one pixel: their place, maximum, and sum of exponentials around it."""

    def __init__(self, k: KernelBuilder, f: Function, layout: ImageLayout, logits: Value, unit: Index) -> None:
        self.f, self.layout, self.lanes = f, layout, lanes_of(k, layout)
        self.base = f.address(k.pointer(logits), f.multiply(unit, layout.stored))
        self.highest = fold(f, layout, self.lanes, float("-inf"), maximum(f), maximum(f), self.load)
        self.total = fold(f, layout, self.lanes, 0.0, add(f), add(f), self.exponential)

    def load(self, channel: Index, lanes: int) -> V:
        return self.f.load(self.f.address(self.base, channel), lanes)

    def exponential(self, channel: Index, lanes: int) -> V:
        return exponential(self.f, self.f.binary("fsub", self.load(channel, lanes), self.f.splat(self.highest, lanes)))


def lower_softmax_cross_entropy(k: KernelBuilder) -> None:
    op = k.op(SoftmaxCrossEntropy)
    logits, labels, *weights = k.kernel.anchor.operands
    layout = k.image(logits)

    def rows(f: Function) -> None:
        start, stop = f.share(pixels_of(k, f, layout))
        with f.loop(start, stop) as unit:
            pixel = _Pixel(k, f, layout, logits, unit.index)
            # −Σ t·log p = log Σ e^(z − max) + max − (1 − smooth)·z_label − smooth/K · Σ z
            target = f.load(f.address(pixel.base, label_of(f, k, labels, unit.index)))
            loss = f.binary("fsub", pixel.highest, f.binary("fmul", f.constant(1 - op.smooth), target))
            if op.smooth:
                shifted = fold(f, layout, pixel.lanes, 0.0, add(f), add(f), pixel.load)
                loss = f.binary("fsub", loss, f.binary("fmul", f.constant(op.smooth / layout.channels), shifted))
            loss = f.binary("fadd", logarithm(f, pixel.total), loss)
            for table in weights:
                loss = f.binary("fmul", loss, _class_weight(k, f, table, labels, unit.index))
            f.store(loss, f.address(k.scratch_pointer(), unit.index))

    k.phase("cross_entropy_rows", rows)
    k.phase("mean_loss", add_up(k, layout, terms=1))


def lower_softmax_cross_entropy_backward(k: KernelBuilder) -> None:
    op = k.op(SoftmaxCrossEntropyBackward)
    dloss, logits, labels, *weights = k.kernel.anchor.operands
    layout = k.image(logits)

    def body(f: Function) -> None:
        pixels = pixels_of(k, f, layout)
        count = f.emit("float", f"sitofp i64 {pixels if isinstance(pixels, int) else pixels.ref} to float")
        mean = f.binary("fdiv", k.scalar(f, dloss), count)
        start, stop = f.share(pixels)
        with f.loop(start, stop) as unit:
            pixel = _Pixel(k, f, layout, logits, unit.index)
            scale = mean
            for table in weights:
                scale = f.binary("fmul", scale, _class_weight(k, f, table, labels, unit.index))
            weight = f.binary("fdiv", scale, pixel.total)
            into = f.address(k.pointer(k.kernel.anchor.result), f.multiply(unit.index, layout.stored))
            for channel, lanes, real in channel_vectors(f, layout, k.machine.lanes):
                p = f.binary("fmul", pixel.exponential(channel, lanes), f.splat(weight, lanes))
                if op.smooth:
                    share = f.binary("fmul", scale, f.constant(op.smooth / layout.channels))
                    p = f.binary("fsub", p, f.splat(share, lanes))
                f.store(masked(f, p, real), f.address(into, channel))
            target = f.address(into, label_of(f, k, labels, unit.index))
            hit = f.binary("fmul", scale, f.constant(1 - op.smooth))
            f.store(f.binary("fsub", f.load(target), hit), target)

    k.phase("softmax_cross_entropy_backward", body)


def _class_weight(k: KernelBuilder, f: Function, table: Value, labels: Value, unit: Index) -> V:
    """The weight of a pixel's class."""
    return f.load(f.address(k.pointer(table), label_of(f, k, labels, unit)))


def _largest(k: KernelBuilder, f: Function, targets: Value, unit: Index) -> V:
    """The first class of the largest target of a pixel."""
    layout = k.image(targets)
    base = f.address(k.pointer(targets), f.multiply(unit, layout.stored))
    start = [V("0", "i64"), f.load(base)]
    with f.loop(0, layout.channels, carried=start) as channel:
        value = f.load(f.address(base, channel.index))
        larger = f.compare("ogt", value, channel.carried[1])
        index = V(ref(channel.index), "i64")
        channel.carried = [f.select(larger, index, channel.carried[0]), f.select(larger, value, channel.carried[1])]
    return channel.carried[0]


def lower_count_correct(k: KernelBuilder) -> None:
    """A row counts when the label's logit is the first of the largest ones."""
    logits, labels = k.kernel.anchor.operands
    layout = k.image(logits)

    def rows(f: Function) -> None:
        start, stop = f.share(pixels_of(k, f, layout))
        with f.loop(start, stop) as unit:
            base = f.address(k.pointer(logits), f.multiply(unit.index, layout.stored))
            numeric = labels.type.dtype.is_float
            label = _largest(k, f, labels, unit.index) if numeric else label_of(f, k, labels, unit.index)
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
    k.phase("count_correct", add_up(k, layout))


# What stands at a channel, given as vectors: (channel, lanes) -> value.
_Values = Callable[[Index, int], V]


def lower_softmax(k: KernelBuilder) -> None:
    def values(f: Function, pixel: _Pixel) -> _Values:
        weight = f.binary("fdiv", f.constant(1.0), pixel.total)
        return lambda channel, lanes: f.binary("fmul", pixel.exponential(channel, lanes), f.splat(weight, lanes))

    _lower_pixels(k, "softmax", values)


def lower_log_softmax(k: KernelBuilder) -> None:
    def values(f: Function, pixel: _Pixel) -> _Values:
        logarithms = logarithm(f, pixel.total)

        def value(channel: Index, lanes: int) -> V:
            # In this order nothing is lost where the logits are far from zero.
            shifted = f.binary("fsub", pixel.load(channel, lanes), f.splat(pixel.highest, lanes))
            return f.binary("fsub", shifted, f.splat(logarithms, lanes))

        return value

    _lower_pixels(k, "log_softmax", values)


def _lower_pixels(k: KernelBuilder, name: str, values: Callable[[Function, _Pixel], _Values]) -> None:
    """One value per channel, made of what the pixel's soft-max is made of."""
    (x,) = k.kernel.anchor.operands
    layout = k.image(x)

    def body(f: Function) -> None:
        start, stop = f.share(pixels_of(k, f, layout))
        with f.loop(start, stop) as unit:
            value = values(f, _Pixel(k, f, layout, x, unit.index))
            into = f.address(k.pointer(k.kernel.anchor.result), f.multiply(unit.index, layout.stored))
            for channel, lanes, real in channel_vectors(f, layout, k.machine.lanes):
                f.store(masked(f, value(channel, lanes), real), f.address(into, channel))

    k.phase(name, body)


def lower_softmax_backward(k: KernelBuilder) -> None:
    """dx = y·(dy − Σ dy·y)."""

    def gradient(f: Function, cotangent: V, value: V, total: V) -> V:
        return f.binary("fmul", value, f.binary("fsub", cotangent, total))

    _lower_pixels_backward(k, "softmax_backward", lambda f, cotangent, y: f.binary("fmul", cotangent, y), gradient)


def lower_log_softmax_backward(k: KernelBuilder) -> None:
    """dx = dy − exp(y)·Σ dy."""

    def gradient(f: Function, cotangent: V, value: V, total: V) -> V:
        return f.binary("fsub", cotangent, f.binary("fmul", exponential(f, value), total))

    _lower_pixels_backward(k, "log_softmax_backward", lambda f, cotangent, y: cotangent, gradient)


def _lower_pixels_backward(
    k: KernelBuilder,
    name: str,
    summand: Callable[[Function, V, V], V],
    gradient: Callable[[Function, V, V, V], V],
) -> None:
    """Per pixel the sum of `summand(dy, y)` over the channels, then `gradient(dy, y, sum)` at each of them."""
    dy, y = k.kernel.anchor.operands
    layout = k.image(y)

    def body(f: Function) -> None:
        start, stop = f.share(pixels_of(k, f, layout))
        with f.loop(start, stop) as unit:
            place = f.multiply(unit.index, layout.stored)
            cotangents, values = f.address(k.pointer(dy), place), f.address(k.pointer(y), place)

            def pair(channel: Index, lanes: int) -> tuple[V, V]:
                left, right = (f.load(f.address(base, channel), lanes) for base in (cotangents, values))
                return left, right

            def added(channel: Index, lanes: int) -> V:
                return summand(f, *pair(channel, lanes))

            total = fold(f, layout, lanes_of(k, layout), 0.0, add(f), add(f), added)
            into = f.address(k.pointer(k.kernel.anchor.result), place)
            for channel, lanes, real in channel_vectors(f, layout, k.machine.lanes):
                value = gradient(f, *pair(channel, lanes), f.splat(total, lanes))
                f.store(masked(f, value, real), f.address(into, channel))

    k.phase(name, body)


def lower_maxout(k: KernelBuilder) -> None:
    """One number at a time: groups of channels lie across vectors."""
    op = k.op(Maxout)
    (x,) = k.kernel.anchor.operands
    source, target = k.image(x), k.image(k.kernel.anchor.result)

    def body(f: Function) -> None:
        start, stop = f.share(pixels_of(k, f, target))
        with f.loop(start, stop) as unit:
            base = f.address(k.pointer(x), f.multiply(unit.index, source.stored))
            into = f.address(k.pointer(k.kernel.anchor.result), f.multiply(unit.index, target.stored))
            with f.loop(0, target.channels) as channel:
                group = f.address(base, f.multiply(channel.index, op.group))
                best = f.load(group)
                for member in range(1, op.group):
                    best = maximum(f)(best, f.load(f.address(group, member)))
                f.store(best, f.address(into, channel.index))
            for lane in range(target.channels, target.stored):
                f.store(f.constant(0.0), f.address(into, lane))

    k.phase("maxout", body)


def lower_maxout_backward(k: KernelBuilder) -> None:
    op = k.op(MaxoutBackward)
    dy, x, y = k.kernel.anchor.operands
    source, target = k.image(x), k.image(y)

    def body(f: Function) -> None:
        start, stop = f.share(pixels_of(k, f, target))
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
