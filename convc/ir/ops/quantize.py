"""Numbers of 8 bits: multiples of a step, which products add up as whole numbers (Jacob et al., "Quantization and
training of neural networks for efficient integer-arithmetic-only inference", 2018).

    images    x ≈ (q − zero)·step       q = 0 … 255, one step and one zero for the tensor, as its type says (`Grid`)
    weights   w ≈ p·step[k]             p = −127 … 127, with the step max |w[k]| / 127 for each output k
    products  Σ x·w ≈ step·step[k]·Σ (q − zero)·p, where the sum is exact

The interpreter holds the numbers that are meant, as float32. In float64, where arithmetic is to be exact, nothing is
rounded. For inference: there is no gradient.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from convc.ir.op import Array, Cost, Op, require, traffic
from convc.ir.ops.elementwise import Elementwise
from convc.ir.types import DType, Grid, TensorType
from convc.lazy import dataclass

LARGEST = 127
# Products of a sum whose whole numbers are sure to fit 32 bits: 255·127 times so many.
MOST_PRODUCTS = (2**31 - 1) // (255 * LARGEST)


@dataclass(frozen=True)
class Quantize(Elementwise):
    """x -> x as q8: the nearest of the numbers (q − zero)·step, ties to even q; what lies beyond becomes the last one.

    A NaN becomes the least number.
    """

    name: ClassVar[str] = "quantize"
    step: float = 1.0
    zero: int = 0

    @property
    def grid(self) -> Grid:
        return Grid(self.step, self.zero)

    def infer(self, *operands: TensorType) -> TensorType:
        self.check_arity(operands)
        (x,) = operands
        self.grid.checked()
        if x.dtype is DType.F64:
            return x
        require(x.dtype is DType.F32, "a quantize takes f32, not {}", x)
        return x.with_grid(self.grid)

    def function(self, *operands: Array) -> Array:
        (x,) = operands
        return on_grid(x, self.grid)


def on_grid(x: Array, grid: Grid) -> Array:
    """float32 numbers rounded to those of a grid; arrays of float64 as they are."""
    if x.dtype != np.float32:
        return x
    step = np.float32(grid.step)
    low, high = np.float32(-grid.zero), np.float32(255 - grid.zero)
    whole = x * (np.float32(1) / step)
    whole = np.where(whole > low, whole, low)
    return np.rint(np.where(whole < high, whole, high)) * step


@dataclass(frozen=True)
class QuantizeWeights(Op):
    """w (K, …) -> w as qw8: for each output k the nearest multiples of max |w[k]| / 127, ties to even ones.

    `zero` is that of the images that are multiplied with them: what kernels have to subtract for it is computed with
    the weights.
    """

    name: ClassVar[str] = "quantize_weights"
    zero: int = 0

    def infer(self, w: TensorType) -> TensorType:
        require(w.rank >= 2, "weights have two or more dimensions, not {}", w)
        require(0 <= self.zero <= 255, "the zero of a q8 is one of 0 … 255, not {}", self.zero)
        if w.dtype is DType.F64:
            return w
        require(w.dtype is DType.F32, "quantize_weights takes f32, not {}", w)
        return w.with_dtype(DType.QW8)

    def reference(self, w: Array) -> Array:
        if w.dtype != np.float32:
            return w
        rows = w.reshape(len(w), -1)
        step, inverse = weight_steps(rows)
        return (np.rint(rows * inverse[:, None]) * step[:, None]).reshape(w.shape)

    def cost(self, *operands: TensorType) -> Cost:
        return Cost(4 * operands[0].size, traffic(*operands, *self.result_types(*operands)))


def stored_weights(w: Array) -> bytes:
    """float32 weights (K, …) as bytes: the step of each output, float32, then the whole numbers, one byte each.

    What they are multiples of is quantised to the same whole numbers again, also when outputs are scaled before.
    """
    rows = np.asarray(w, np.float32).reshape(len(w), -1)
    step, inverse = weight_steps(rows)
    return step.astype("<f4").tobytes() + np.rint(rows * inverse[:, None]).astype(np.int8).tobytes()


def weight_steps(rows: Array) -> tuple[Array, Array]:
    """(K, D) float32 -> for each output its step, and what weights are multiplied by to count steps (K, both)."""
    most = np.abs(rows).max(1, initial=np.float32(0))
    known = most > np.float32(TINY)
    step = np.where(known, most / np.float32(LARGEST), np.float32(0))
    inverse = np.where(known, np.float32(LARGEST) / np.where(known, most, np.float32(1)), np.float32(0))
    return step.astype(np.float32), inverse.astype(np.float32)


# Outputs whose weights are all smaller count as zeros: their steps would be denormal numbers.
TINY = 2.0**-100
