"""Rounding to numbers of 16 bits, to the nearest or at random (Gupta, Agrawal, Gopalakrishnan & Narayanan 2015).

    3.6 becomes 4 in 60 % of draws, and 3 in 40 %: the mean of the results is what was rounded

Where weights have no float32 copy, updates smaller than half a unit in the last place would be lost each time; rounded
at random they are kept on average.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from convc.ir.op import Array, Cost, Op, require, traffic
from convc.ir.philox import random_bits
from convc.ir.rounding import rounded
from convc.ir.types import DType, TensorType
from convc.lazy import dataclass

HalfName = Literal["f16", "bf16"]
Rounding = Literal["nearest", "stochastic"]
# Of a float32's 23 bits of fraction those that a type has no room for.
DROPPED_BITS = {DType.F16: 13, DType.BF16: 16}
# Below this f16 has multiples of 2⁻²⁴ only.
SMALLEST_NORMAL = 2.0**-14
SMALLEST_STEP = 2.0**-24
TOO_LARGE = 2.0**16


@dataclass(frozen=True)
class RoundTo(Op):
    """x, seed, step -> x, every number one that `dtype` has, beside the exact one; in the element type of x.

    Stochastic rounding goes up with the probability that is the distance from the number below, in units of the last
    place; the random bits depend on seed, stream, step and the element's place, and on nothing else.
    """

    name: ClassVar[str] = "round_to"
    dtype: str = "bf16"
    rounding: str = "stochastic"
    stream: int = 0

    @property
    def target(self) -> DType:
        return DType(self.dtype)

    def infer(self, x: TensorType, seed: TensorType, step: TensorType) -> TensorType:
        require(x.dtype.is_float, "{} is not rounded", x)
        require(seed.rank == 0 and step.rank == 0, "seed and step are scalars, not {} and {}", seed, step)
        require(self.target.is_half, "numbers are rounded to f16 or bf16, not to {}", self.dtype)
        require(self.rounding in ("nearest", "stochastic"), "there is no rounding {}", self.rounding)
        return x.with_shape(x.shape)

    def reference(self, x: Array, seed: Array, step: Array) -> Array:
        if x.dtype != np.float32:
            return x  # as exact as all of a float64 run
        if self.rounding == "nearest":
            return rounded(x, self.target)
        return round_at_random(x, self.target, random_bits(x.shape, int(seed), self.stream, int(step)))

    def cost(self, *operands: TensorType) -> Cost:
        return Cost(40 * operands[0].size, traffic(operands[0], operands[0]))


def round_at_random(x: Array, dtype: DType, words: Array) -> Array:
    """float32 numbers rounded by 32 random bits each."""
    dropped = DROPPED_BITS[dtype]
    mask = np.uint32((1 << dropped) - 1)
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32).reshape(x.shape)
    # What is dropped carries into what is kept as often as it is large. Sign and magnitude are apart, so that this is
    # so on both sides of zero.
    kept = ((bits + (words & mask)) & ~mask).view(np.float32)
    if dtype is DType.F16:
        size = np.abs(x)
        chance = (words & mask).astype(np.float32) * np.float32(2.0**-dropped)
        small = np.floor(np.float32(1 / SMALLEST_STEP) * size + chance) * np.float32(SMALLEST_STEP)
        kept = np.where(size < SMALLEST_NORMAL, np.copysign(small.astype(np.float32), x), kept)
        kept = np.where(np.abs(kept) >= TOO_LARGE, np.copysign(np.float32(np.inf), x), kept)
    return np.where(np.isfinite(x), kept, x).astype(np.float32)
