"""Images enlarged by a whole factor, and the gradient, vectorised over channels.

Both directions gather: every pixel of the result is written once, by one thread, from the pixels that it depends on.
Places are integers (halves of a pixel of the enlarged image), so that no rounding moves a pixel to its neighbour.
"""

from __future__ import annotations

from convc.codegen.llvm.channels import each_pixel, spot_at
from convc.codegen.llvm.kernel import KernelBuilder
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.ir.ops.resample import Upsample, UpsampleBackward
from convc.lazy import dataclass


def _number(f: Function, index: Index, scale: float) -> V:
    """index · scale as a float."""
    if isinstance(index, int):
        return f.constant(index * scale)
    return f.binary("fmul", f.convert("sitofp", index, "float"), f.constant(scale))


@dataclass(frozen=True)
class _Axis:
    """One axis of the image: `size` pixels of the small one."""

    f: Function
    factor: int
    bilinear: bool
    size: int

    def sources(self, position: Index) -> list[tuple[Index, V | None]]:
        """The pixels of the small image that a position of the large one mixes, and their weights."""
        f = self.f
        if not self.bilinear:
            return [(f.divide(position, self.factor), None)]
        # (i + ½)/factor − ½ = (2i + 1 − factor)/(2·factor); one pixel more keeps the quotient from being negative.
        doubled = f.add(f.multiply(position, 2), 1 + self.factor)
        below = f.add(f.divide(doubled, 2 * self.factor), -1)
        upper = _number(f, f.remainder(doubled, 2 * self.factor), 1 / (2 * self.factor))
        lower = f.binary("fsub", f.constant(1.0), upper)
        return [(f.maximum(below, 0), lower), (f.minimum(f.add(below, 1), self.size - 1), upper)]

    def users(self, pixel: Index) -> tuple[Index, Index]:
        """The range of positions of the large image that may mix in a pixel of the small one."""
        f, first = self.f, self.f.multiply(pixel, self.factor)
        if not self.bilinear:
            return first, f.add(first, self.factor)
        start = f.maximum(f.add(first, -((self.factor + 1) // 2)), 0)
        stop = f.minimum(f.add(first, (3 * self.factor + 1) // 2), self.size * self.factor)
        return start, stop

    def weight(self, position: Index, pixel: Index) -> V | None:
        """How much the pixel counts at a position of the large image."""
        if not self.bilinear:
            return None
        f, zero = self.f, self.f.constant(0.0)
        total: V = zero
        for place, weight in self.sources(position):
            same = f.equal(place, pixel)
            assert weight is not None
            total = f.binary("fadd", total, f.select(same, weight, zero))
        return total


def _axes(f: Function, op: Upsample | UpsampleBackward, height: int, width: int) -> tuple[_Axis, _Axis]:
    """Vertical and horizontal axis of a small image of that size."""
    bilinear = op.mode == "bilinear"
    return _Axis(f, op.factor, bilinear, height), _Axis(f, op.factor, bilinear, width)


def lower_upsample(k: KernelBuilder) -> None:
    """One pixel of the source, or the mean of four, with a chain."""
    op = k.op(Upsample)
    x, y = k.kernel.anchor.operands[0], k.kernel.anchor.results[0]
    source, target = k.image(x), k.image(y)

    def body(f: Function) -> None:
        down, across = _axes(f, op, source.height, source.width)

        def visit(row: Index, pixel: Index, channel: Index, lanes: int, real: int) -> None:
            base = f.address(k.pointer(x), f.add(f.multiply(row, source.size), channel))

            def line(vertical: Index) -> V:
                """The mix of a row's pixels."""
                start = f.multiply(vertical, source.width)
                terms = [
                    (f.load(f.address(base, f.multiply(f.add(start, place), source.stored)), lanes), weight)
                    for place, weight in across.sources(f.remainder(pixel, target.width))
                ]
                return _mix(f, terms)

            terms = [(line(place), weight) for place, weight in down.sources(f.divide(pixel, target.width))]
            k.finish(f, spot_at(f, target, row, pixel, channel, lanes, real), _mix(f, terms))

        each_pixel(k, f, target, visit)

    k.phase("upsample", body)


def _mix(f: Function, terms: list[tuple[V, V | None]]) -> V:
    """Σ weight·value; a single value without a weight is itself."""
    total: V | None = None
    for value, weight in terms:
        if weight is None:
            return value
        spread = f.splat(weight, value.lanes)
        total = f.binary("fmul", value, spread) if total is None else f.fma(value, spread, total)
    assert total is not None
    return total


def lower_upsample_backward(k: KernelBuilder) -> None:
    """Each pixel adds up, in order, the cotangents of those that it was mixed into, with a chain."""
    op = k.op(UpsampleBackward)
    dy, dx = k.kernel.anchor.operands[0], k.kernel.anchor.results[0]
    source, target = k.image(dy), k.image(dx)

    def body(f: Function) -> None:
        down, across = _axes(f, op, target.height, target.width)

        def visit(row: Index, pixel: Index, channel: Index, lanes: int, real: int) -> None:
            base = f.address(k.pointer(dy), f.add(f.multiply(row, source.size), channel))
            vertical, horizontal = f.divide(pixel, target.width), f.remainder(pixel, target.width)
            zero = f.constant(0.0, lanes)
            with f.loop(*down.users(vertical), carried=[zero]) as i:
                first = f.multiply(i.index, source.width)
                with f.loop(*across.users(horizontal), carried=[zero]) as j:
                    place = f.multiply(f.add(first, j.index), source.stored)
                    value = f.load(f.address(base, place), lanes)
                    j.carried = [_add(f, j.carried[0], value, across.weight(j.index, horizontal))]
                i.carried = [_add(f, i.carried[0], j.carried[0], down.weight(i.index, vertical))]
            k.finish(f, spot_at(f, target, row, pixel, channel, lanes, real), i.carried[0])

        each_pixel(k, f, target, visit)

    k.phase("upsample_backward", body)


def _add(f: Function, total: V, value: V, weight: V | None) -> V:
    if weight is None:
        return f.binary("fadd", total, value)
    return f.fma(value, f.splat(weight, value.lanes), total)
