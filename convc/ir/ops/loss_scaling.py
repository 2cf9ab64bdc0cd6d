"""Losses that are scaled, so that small gradients do not vanish in 16 bits (Micikevicius et al., "Mixed precision
training", 2018): the loss times a factor, gradients divided by it, whether all of them are finite, and the next factor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from convc.ir.op import Array, Cost, Cotangents, Op, require, traffic
from convc.ir.ops.elementwise import Elementwise, Multiply
from convc.ir.ops.sweep import Sweep
from convc.ir.types import TensorType
from convc.lazy import dataclass

if TYPE_CHECKING:
    from convc.ir.builder import Builder
    from convc.ir.graph import Value

# Dynamic scaling keeps between these: without a scale nothing is left to give, and beyond it nothing is to be won.
LEAST_SCALE, MOST_SCALE = 1.0, 2.0**24


@dataclass(frozen=True)
class ScaleLoss(Elementwise):
    """loss, scale -> loss·scale, two scalars. The scale is no part of what is differentiated."""

    name: ClassVar[str] = "scale_loss"
    arity: ClassVar[int] = 2
    compute = staticmethod(np.multiply)

    def infer(self, *operands: TensorType) -> TensorType:
        self.check_arity(operands)
        loss, scale = operands
        require(loss.rank == 0 and scale.rank == 0, "a loss and its scale are scalars, not {} and {}", loss, scale)
        return super().infer(*operands)

    def gradient(self, b: Builder, dy: Value, y: Value, *operands: Value) -> Cotangents:
        return b.add(Multiply(), dy, operands[1]), None


@dataclass(frozen=True)
class Unscale(Sweep):
    """gradient, scale -> gradient / scale. It takes the place of the gradient."""

    name: ClassVar[str] = "unscale"

    @property
    def tensors(self) -> int:
        return 1

    def infer(self, gradient: TensorType, scale: TensorType) -> TensorType:
        require(gradient.dtype.is_float, "a gradient has numbers, not {}", gradient)
        require(scale.rank == 0, "a scale is a scalar, not {}", scale)
        return gradient

    def reference(self, gradient: Array, scale: Array) -> Array:
        return np.asarray(gradient / scale.astype(gradient.dtype))

    def cost(self, *operands: TensorType) -> Cost:
        return Cost(operands[0].size, traffic(operands[0], operands[0]))


@dataclass(frozen=True)
class AllFinite(Op):
    """Any number of tensors -> 1 if no element of them is infinite or NaN, else 0."""

    name: ClassVar[str] = "all_finite"
    reduces_batch: ClassVar[bool] = True

    def infer(self, *operands: TensorType) -> TensorType:
        for tensor in operands:
            require(tensor.dtype.is_float, "only numbers can be infinite, and not {}", tensor)
        return operands[0].with_shape(())

    def reference(self, *operands: Array) -> Array:
        return np.asarray(all(np.isfinite(operand).all() for operand in operands), operands[0].dtype)

    def cost(self, *operands: TensorType) -> Cost:
        return Cost(sum(tensor.size for tensor in operands), traffic(*operands))


@dataclass(frozen=True)
class MoveScale(Op):
    """scale, good, skipped, ok -> the scale of the next update, and the counts of updates: scalars all.

    ok = 1: good + 1; the `interval`th good update in a row multiplies the scale by `growth`, up to 2^24, and begins to
    count anew. ok = 0: the scale is multiplied by `backoff`, down to 1, good is 0, and one more is skipped. With both
    factors 1 a scale stays what it is, whatever it is.
    """

    name: ClassVar[str] = "move_scale"
    growth: float = 2.0
    backoff: float = 0.5
    interval: int = 2000

    @property
    def result_count(self) -> int:
        return 3

    @property
    def is_dynamic(self) -> bool:
        """Whether the scale ever falls."""
        return self.backoff != 1

    def infer(self, scale: TensorType, good: TensorType, skipped: TensorType, ok: TensorType) -> tuple[TensorType, ...]:
        for operand in (scale, good, skipped, ok):
            require(operand.rank == 0 and operand.dtype.is_float, "scale and counts are scalars, not {}", operand)
        fits = self.growth >= 1 >= self.backoff > 0
        require(fits, "growth {} and backoff {}: 1 lies between them", self.growth, self.backoff)
        require(self.interval >= 1, "an interval is at least 1, not {}", self.interval)
        return scale, good, skipped

    def reference(self, scale: Array, good: Array, skipped: Array, ok: Array) -> tuple[Array, ...]:
        kind = scale.dtype.type
        if not ok:
            smaller = max(min(scale, kind(LEAST_SCALE)), scale * kind(self.backoff))
            return np.asarray(smaller), np.zeros_like(good), np.asarray(skipped + 1)
        if good + 1 < self.interval:
            return scale, np.asarray(good + 1), skipped
        larger = min(max(scale, kind(MOST_SCALE)), scale * kind(self.growth))
        return np.asarray(larger), np.zeros_like(good), skipped
