"""What is done to all parameters alike, beside the update: the mean of gradients, their norm, the bound on weights."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from convc.ir.op import Array, Cost, Op, require, traffic
from convc.ir.ops.units import check_units, unit_parts
from convc.ir.types import TensorType
from convc.lazy import dataclass


@dataclass(frozen=True)
class Sweep(Op):
    """Base. Element by element over tensors of one shape; back ends treat all parameters with one pass over memory.

    The first `tensors` operands have the parameter's shape, the others are scalars.
    """

    @property
    def tensors(self) -> int:
        raise AssertionError(f"{type(self).__name__} does not say how many tensors it takes")

    def batched(self, operands: tuple[bool, ...]) -> tuple[bool, ...]:
        return (False,) * self.result_count


@dataclass(frozen=True)
class Accumulate(Sweep):
    """mean, gradient, rows, seen -> the mean gradient over `seen` rows before and `rows` rows now:

    (seen·mean + rows·gradient) / (seen + rows). Where none has been seen, what `mean` holds does not matter.
    """

    name: ClassVar[str] = "accumulate"

    @property
    def tensors(self) -> int:
        return 2

    def infer(self, mean: TensorType, gradient: TensorType, rows: TensorType, seen: TensorType) -> TensorType:
        require(mean.shape == gradient.shape, "the mean {} against the gradient {}", mean, gradient)
        require(rows.rank == 0 and seen.rank == 0, "counts of rows are scalars, not {} and {}", rows, seen)
        return mean

    def reference(self, mean: Array, gradient: Array, rows: Array, seen: Array) -> Array:
        total = int(seen) + int(rows)
        weight = gradient.dtype.type(int(rows) / total)
        if not int(seen):
            return weight * gradient
        return gradient.dtype.type(int(seen) / total) * mean + weight * gradient

    def cost(self, *operands: TensorType) -> Cost:
        return Cost(2 * operands[0].size, traffic(*operands[:2], operands[0]))


@dataclass(frozen=True)
class GradientNorm(Op):
    """Any number of tensors -> √ of the sum of the squares of all their elements."""

    name: ClassVar[str] = "gradient_norm"
    reduces_batch: ClassVar[bool] = True

    def infer(self, *operands: TensorType) -> TensorType:
        for tensor in operands:
            require(tensor.dtype.is_float, "a norm is taken of numbers, not of {}", tensor)
        return operands[0].with_shape(())

    def reference(self, *operands: Array) -> Array:
        total = sum(float(np.square(operand.astype(np.float64)).sum()) for operand in operands)
        return np.asarray(math.sqrt(total) if total == total else total, operands[0].dtype)

    def cost(self, *operands: TensorType) -> Cost:
        return Cost(2 * sum(tensor.size for tensor in operands), traffic(*operands))


@dataclass(frozen=True)
class MaxNorm(Op):
    """w -> w, the weights of every unit scaled down where their L2 norm exceeds `bound` (Srebro & Shraibman 2005).

    Units as `units.py` has them; the outputs of transposed convolutions lie along axis 1.
    """

    name: ClassVar[str] = "max_norm"
    bound: float = 3.0
    axis: int = 0
    groups: int = 1

    def infer(self, w: TensorType) -> TensorType:
        check_units(w, self.axis, self.groups)
        require(self.bound > 0, "the largest norm is positive, not {}", self.bound)
        return w.with_shape(w.shape)

    def reference(self, w: Array) -> Array:
        parts = unit_parts(w, self.groups)
        squares = np.square(parts.astype(np.float64)).sum((2, 3) if self.axis == 0 else (1, 3), keepdims=True)
        norms = np.sqrt(squares)
        factor = np.where(norms > self.bound, self.bound / np.maximum(norms, np.finfo(np.float64).tiny), 1.0)
        return (parts * factor.astype(w.dtype)).reshape(w.shape)

    def cost(self, *operands: TensorType) -> Cost:
        return Cost(3 * operands[0].size, 2 * operands[0].bytes)
