"""What losses and soft-max are made of: folding the channels of a pixel, labels, and sums over pixels in order."""

from __future__ import annotations

from collections.abc import Callable

from convc.codegen.llvm.kernel import KernelBuilder
from convc.codegen.llvm.vocabulary import Function, Index, V, ref
from convc.ir.graph import Value
from convc.passes.layout import ImageLayout


def fold(
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


def maximum(f: Function) -> Callable[[V, V], V]:
    return lambda left, right: f.select(f.compare("ugt", right, left), right, left)


def add(f: Function) -> Callable[[V, V], V]:
    return lambda left, right: f.binary("fadd", left, right)


def lanes_of(k: KernelBuilder, layout: ImageLayout) -> int:
    """The width of vectors in which the real channels of a pixel are folded."""
    return max(width for width in (1, 4, 8, 16) if width <= min(k.machine.lanes, max(1, layout.channels)))


def label_of(f: Function, k: KernelBuilder, labels: Value, unit: Index) -> V:
    """The class of a pixel, as a 64-bit integer."""
    label = f.load(f.address(k.pointer(labels), unit, "i32"), 1, "i32")
    return f.emit("i64", f"zext i32 {label.ref} to i64")


def scratch_per_pixel(k: KernelBuilder) -> int:
    """One number per pixel, to be added up in order."""
    return 4 * k.plan.batch * k.image(k.kernel.anchor.operands[0]).pixels


def pixels_of(k: KernelBuilder, f: Function, layout: ImageLayout) -> Index:
    """How many pixels this run has in all."""
    return f.multiply(k.rows(f), layout.pixels)


def add_up(k: KernelBuilder, layout: ImageLayout, terms: int = 0) -> Callable[[Function], None]:
    """The sum of one number per pixel, by rank 0, in double precision and in order; or the mean, where each number is
    itself a sum of `terms`."""

    def body(f: Function) -> None:
        with f.when(f.equal(f.rank, 0)):
            pixels = pixels_of(k, f, layout)
            zero = V("0.0", "double")
            with f.loop(0, pixels, carried=[zero]) as pixel:
                value = f.convert("fpext", f.load(f.address(k.scratch_pointer(), pixel.index)), "double")
                pixel.carried = [f.binary("fadd", pixel.carried[0], value)]
            total = pixel.carried[0]
            if terms:
                count = f.multiply(pixels, terms)
                total = f.binary("fdiv", total, f.emit("double", f"sitofp i64 {ref(count)} to double"))
            f.store(f.convert("fptrunc", total, "float"), k.pointer(k.kernel.anchor.result))

    return body
