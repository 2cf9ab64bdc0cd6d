"""The multi-class hinge and the mean squared error: row by row, then one sum in a fixed order."""

from __future__ import annotations

from collections.abc import Callable

from convc.codegen.llvm.channels import channel_vectors, masked
from convc.codegen.llvm.folding import add, add_up, fold, label_of, lanes_of, pixels_of
from convc.codegen.llvm.kernel import KernelBuilder
from convc.codegen.llvm.vocabulary import Function, Index, V, ref
from convc.ir.graph import Value
from convc.ir.ops.distance import Hinge, HingeBackward
from convc.ir.types import DType
from convc.lazy import dataclass
from convc.passes.layout import ImageLayout


@dataclass(frozen=True)
class _Pixel:
    """The scores of one pixel, and what they are compared with: a label, or numbers of the same shape."""

    k: KernelBuilder
    f: Function
    layout: ImageLayout
    base: V
    label: V | None
    targets: V | None

    @classmethod
    def at(cls, k: KernelBuilder, f: Function, scores: Value, targets: Value, unit: Index) -> _Pixel:
        layout = k.image(scores)
        place = f.multiply(unit, layout.stored)
        base = f.address(k.pointer(scores), place)
        if targets.type.dtype is DType.I32:
            return cls(k, f, layout, base, label_of(f, k, targets, unit), None)
        return cls(k, f, layout, base, None, f.address(k.pointer(targets), place))

    def score(self, channel: Index, lanes: int) -> V:
        return self.f.load(self.f.address(self.base, channel), lanes)

    def is_label(self, channel: Index, lanes: int) -> V:
        """Which of these channels is the label (i1)."""
        f = self.f
        assert self.label is not None
        classes = f.splat(V(ref(channel), "i64"), lanes)
        if lanes > 1:
            classes = f.binary("add", classes, f.integers(range(lanes), "i64"))
        return f.compare("eq", classes, f.splat(self.label, lanes))

    def difference(self, channel: Index, lanes: int) -> V:
        """Score minus target."""
        f, score = self.f, self.score(channel, lanes)
        if self.targets is not None:
            target = f.load(f.address(self.targets, channel), lanes)
        else:
            target = f.select(self.is_label(channel, lanes), f.constant(1.0, lanes), f.constant(0.0, lanes))
        return f.binary("fsub", score, target)

    def total(self, term: Callable[[Index, int], V]) -> V:
        """Σ term(channel, lanes) over the real channels."""
        return fold(self.f, self.layout, lanes_of(self.k, self.layout), 0.0, add(self.f), add(self.f), term)


class _Violations:
    """What the other scores of a pixel lack of being `margin` below the right one."""

    def __init__(self, pixel: _Pixel, margin: float) -> None:
        f = pixel.f
        assert pixel.label is not None
        self.pixel = pixel
        right = f.load(f.address(pixel.base, pixel.label))
        # margin + s_j − s_y, with the two that do not depend on j taken together.
        self.offset = f.binary("fsub", f.constant(margin), right)

    def amount(self, channel: Index, lanes: int) -> V:
        f, zero = self.pixel.f, self.pixel.f.constant(0.0, lanes)
        lack = f.binary("fadd", self.pixel.score(channel, lanes), f.splat(self.offset, lanes))
        # "Less or equal" is false for NaN, which passes: a diverged run is seen.
        violation = f.select(f.compare("ole", lack, zero), zero, lack)
        return f.select(self.pixel.is_label(channel, lanes), zero, violation)

    def exists(self, channel: Index, lanes: int) -> V:
        """1 where there is a violation, else 0."""
        f, zero = self.pixel.f, self.pixel.f.constant(0.0, lanes)
        return f.select(f.compare("une", self.amount(channel, lanes), zero), f.constant(1.0, lanes), zero)


def _lower_loss(k: KernelBuilder, name: str, terms: int, loss: Callable[[_Pixel], V]) -> None:
    """One number per pixel, then their sum divided by pixels · `terms`."""
    scores, targets = k.kernel.anchor.operands
    layout = k.image(scores)

    def rows(f: Function) -> None:
        start, stop = f.share(pixels_of(k, f, layout))
        with f.loop(start, stop) as unit:
            pixel = _Pixel.at(k, f, scores, targets, unit.index)
            f.store(loss(pixel), f.address(k.scratch_pointer(), unit.index))

    k.phase(f"{name}_rows", rows)
    k.phase("mean_loss", add_up(k, layout, terms))


def _lower_gradient(
    k: KernelBuilder, factor: float, terms: int, prepare: Callable[[_Pixel], Callable[[Index, int], V]]
) -> None:
    """`prepare(pixel)(channel, lanes)` times factor · dloss / (pixels · terms)."""
    dloss, scores, targets = k.kernel.anchor.operands
    layout, result = k.image(scores), k.kernel.anchor.result

    def body(f: Function) -> None:
        pixels = pixels_of(k, f, layout)
        count = f.emit("float", f"sitofp i64 {ref(f.multiply(pixels, terms))} to float")
        scale = f.binary("fdiv", f.binary("fmul", k.scalar(f, dloss), f.constant(factor)), count)
        start, stop = f.share(pixels)
        with f.loop(start, stop) as unit:
            slope = prepare(_Pixel.at(k, f, scores, targets, unit.index))
            into = f.address(k.pointer(result), f.multiply(unit.index, layout.stored))
            for channel, lanes, real in channel_vectors(f, layout, k.machine.lanes):
                value = f.binary("fmul", slope(channel, lanes), f.splat(scale, lanes))
                f.store(masked(f, value, real), f.address(into, channel))

    k.phase(k.kernel.anchor.op.name, body)


def lower_hinge(k: KernelBuilder) -> None:
    op = k.op(Hinge)
    _lower_loss(k, op.name, 1, lambda pixel: pixel.total(_Violations(pixel, op.margin).amount))


def lower_hinge_backward(k: KernelBuilder) -> None:
    """A violation's own slope is 1; the right score's is minus their number."""
    op = k.op(HingeBackward)

    def prepare(pixel: _Pixel) -> Callable[[Index, int], V]:
        f, violations = pixel.f, _Violations(pixel, op.margin)
        pull = f.negate(pixel.total(violations.exists))

        def slope(channel: Index, lanes: int) -> V:
            right = pixel.is_label(channel, lanes)
            return f.select(right, f.splat(pull, lanes), violations.exists(channel, lanes))

        return slope

    _lower_gradient(k, 1.0, 1, prepare)


def lower_mse(k: KernelBuilder) -> None:
    def square(pixel: _Pixel) -> Callable[[Index, int], V]:
        def term(channel: Index, lanes: int) -> V:
            difference = pixel.difference(channel, lanes)
            return pixel.f.binary("fmul", difference, difference)

        return term

    channels = k.image(k.kernel.anchor.operands[0]).channels
    _lower_loss(k, "mse", channels, lambda pixel: pixel.total(square(pixel)))


def lower_mse_backward(k: KernelBuilder) -> None:
    channels = k.image(k.kernel.anchor.operands[1]).channels
    _lower_gradient(k, 2.0, channels, lambda pixel: pixel.difference)
