"""Soft-max, cross-entropy and what else looks at all channels of a pixel: rows are short, threads split them."""

from __future__ import annotations

from convc.codegen.llvm.channels import channel_vectors, masked
from convc.codegen.llvm.folding import add, add_up, fold, label_of, lanes_of, maximum, pixels_of
from convc.codegen.llvm.kernel import KernelBuilder
from convc.codegen.llvm.mathematics import exponential, logarithm
from convc.codegen.llvm.vocabulary import Function, Index, V
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
    logits, labels = k.kernel.anchor.operands
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
            f.store(loss, f.address(k.scratch_pointer(), unit.index))

    k.phase("cross_entropy_rows", rows)
    k.phase("mean_loss", add_up(k, layout, terms=1))


def lower_softmax_cross_entropy_backward(k: KernelBuilder) -> None:
    op = k.op(SoftmaxCrossEntropyBackward)
    dloss, logits, labels = k.kernel.anchor.operands
    layout = k.image(logits)

    def body(f: Function) -> None:
        pixels = pixels_of(k, f, layout)
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
                f.store(masked(f, p, real), f.address(into, channel))
            target = f.address(into, label_of(f, k, labels, unit.index))
            hit = f.binary("fmul", scale, f.constant(1 - op.smooth))
            f.store(f.binary("fsub", f.load(target), hit), target)

    k.phase("softmax_cross_entropy_backward", body)


def lower_count_correct(k: KernelBuilder) -> None:
    """A row counts when the label's logit is the first of the largest ones."""
    logits, labels = k.kernel.anchor.operands
    layout = k.image(logits)

    def rows(f: Function) -> None:
        start, stop = f.share(pixels_of(k, f, layout))
        with f.loop(start, stop) as unit:
            base = f.address(k.pointer(logits), f.multiply(unit.index, layout.stored))
            label = label_of(f, k, labels, unit.index)
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


def lower_softmax(k: KernelBuilder) -> None:
    (x,) = k.kernel.anchor.operands
    layout = k.image(x)

    def body(f: Function) -> None:
        start, stop = f.share(pixels_of(k, f, layout))
        with f.loop(start, stop) as unit:
            pixel = _Pixel(k, f, layout, x, unit.index)
            weight = f.binary("fdiv", f.constant(1.0), pixel.total)
            into = f.address(k.pointer(k.kernel.anchor.result), f.multiply(unit.index, layout.stored))
            for channel, lanes, real in channel_vectors(f, layout, k.machine.lanes):
                p = f.binary("fmul", pixel.exponential(channel, lanes), f.splat(weight, lanes))
                f.store(masked(f, p, real), f.address(into, channel))

    k.phase("softmax", body)


def lower_softmax_backward(k: KernelBuilder) -> None:
    dy, y = k.kernel.anchor.operands
    layout = k.image(y)

    def body(f: Function) -> None:
        start, stop = f.share(pixels_of(k, f, layout))
        with f.loop(start, stop) as unit:
            place = f.multiply(unit.index, layout.stored)
            cotangents, values = f.address(k.pointer(dy), place), f.address(k.pointer(y), place)

            def product(channel: Index, lanes: int) -> V:
                left, right = (f.load(f.address(base, channel), lanes) for base in (cotangents, values))
                return f.binary("fmul", left, right)

            total = fold(f, layout, lanes_of(k, layout), 0.0, add(f), add(f), product)
            into = f.address(k.pointer(k.kernel.anchor.result), place)
            for channel, lanes, _ in channel_vectors(f, layout, k.machine.lanes):
                cotangent, value = (f.load(f.address(base, channel), lanes) for base in (cotangents, values))
                difference = f.binary("fsub", cotangent, f.splat(total, lanes))
                f.store(f.binary("fmul", value, difference), f.address(into, channel))

    k.phase("softmax_backward", body)


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
