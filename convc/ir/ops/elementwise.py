"""Arithmetic element by element: the small vocabulary from which activations, updates and their gradients are made.

Operands are of the result's shape, or scalars, or per-channel vectors (C,) that spread along dimension 1. The back ends
fuse chains of these ops into the kernels before and after them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from convc.ir.op import Array, Cotangents, Op, require
from convc.ir.types import DType, Shape, TensorType
from convc.lazy import dataclass

if TYPE_CHECKING:
    from convc.ir.builder import Builder
    from convc.ir.graph import Node, Value


def broadcast_shape(*operands: TensorType) -> Shape:
    """The common shape of element-wise operands; raises `InferError` when there is none."""
    shape = max((t.shape for t in operands), key=len)
    for t in operands:
        spreads = t.rank == 0 or (t.rank == 1 and len(shape) >= 2 and t.shape[0] == shape[1])
        require(t.shape == shape or spreads, "shapes {} and {} do not match", list(t.shape), list(shape))
    return shape


def common_type(*operands: TensorType) -> DType:
    """The element type of a result. Booleans choose and do not count, nor do scalars and vectors beside tensors."""
    numbers = [t for t in operands if t.dtype is not DType.BOOL] or list(operands)
    rank = max(t.rank for t in numbers)
    types = {t.dtype.real: t for t in numbers if t.rank == rank}
    require(len(types) == 1, "element types differ: {}", " and ".join(map(str, types.values())))
    return next(iter(types))


def spread(array: Array, rank: int) -> Array:
    """A per-channel vector (C,) as (1, C, 1, …) of the given rank; everything else unchanged."""
    array = np.asarray(array)
    return array.reshape(1, -1, *(1,) * (rank - 2)) if array.ndim == 1 and rank >= 2 else array


@dataclass(frozen=True)
class Elementwise(Op):
    """Base: one function of numpy scalars, applied everywhere."""

    compute: ClassVar[Callable[..., Array]]
    arity: ClassVar[int] = 1

    def infer(self, *operands: TensorType) -> TensorType:
        self.check_arity(operands)
        return TensorType(common_type(*operands), broadcast_shape(*operands))

    def check_arity(self, operands: tuple[TensorType, ...]) -> None:
        require(len(operands) == self.arity, "{} takes {} operands, not {}", self.name, self.arity, len(operands))

    def reference(self, *operands: Array) -> Array:
        rank = max(np.ndim(operand) for operand in operands)
        return np.asarray(self.function(*(spread(operand, rank) for operand in operands)))

    def function(self, *operands: Array) -> Array:
        return type(self).compute(*operands)

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        (dy,) = cotangents
        assert dy is not None
        gradients = self.gradient(b, dy, node.result, *node.operands)
        return tuple(
            None if gradient is None else unspread(b, gradient, operand)
            for gradient, operand in zip(gradients, node.operands, strict=True)
        )

    def gradient(self, b: Builder, dy: Value, y: Value, *operands: Value) -> Cotangents:
        """One gradient of the result's shape per operand (`vjp` sums it where the operand was spread)."""
        return (None,) * len(operands)


def unspread(b: Builder, gradient: Value, operand: Value) -> Value:
    """Sum a gradient over the positions that a smaller operand was spread to."""
    from convc.ir.ops.reduce import ChannelSum, Sum

    if gradient.shape == operand.shape:
        return gradient
    return b.add(Sum() if operand.type.rank == 0 else ChannelSum(), gradient)


@dataclass(frozen=True)
class Add(Elementwise):
    name: ClassVar[str] = "add"
    arity: ClassVar[int] = 2
    compute = staticmethod(np.add)

    def gradient(self, b: Builder, dy: Value, y: Value, *operands: Value) -> Cotangents:
        return dy, dy


@dataclass(frozen=True)
class Subtract(Elementwise):
    name: ClassVar[str] = "sub"
    arity: ClassVar[int] = 2
    compute = staticmethod(np.subtract)

    def gradient(self, b: Builder, dy: Value, y: Value, *operands: Value) -> Cotangents:
        return dy, b.add(Negate(), dy)


@dataclass(frozen=True)
class Multiply(Elementwise):
    name: ClassVar[str] = "mul"
    arity: ClassVar[int] = 2
    compute = staticmethod(np.multiply)

    def gradient(self, b: Builder, dy: Value, y: Value, *operands: Value) -> Cotangents:
        left, right = operands
        return b.add(Multiply(), dy, right), b.add(Multiply(), dy, left)


@dataclass(frozen=True)
class Divide(Elementwise):
    name: ClassVar[str] = "div"
    arity: ClassVar[int] = 2
    compute = staticmethod(np.divide)

    def gradient(self, b: Builder, dy: Value, y: Value, *operands: Value) -> Cotangents:
        # d(l/r) = dl/r − y·dr/r
        _, right = operands
        dl = b.add(Divide(), dy, right)
        return dl, b.add(Negate(), b.add(Multiply(), dl, y))


@dataclass(frozen=True)
class Maximum(Elementwise):
    """The larger one; where equal the gradient goes to the first."""

    name: ClassVar[str] = "max"
    arity: ClassVar[int] = 2
    compute = staticmethod(np.maximum)

    def gradient(self, b: Builder, dy: Value, y: Value, *operands: Value) -> Cotangents:
        left, right = operands
        second, zero = b.add(Greater(), right, left), b.constant(0.0)
        return b.add(Select(), second, zero, dy), b.add(Select(), second, dy, zero)


@dataclass(frozen=True)
class Minimum(Elementwise):
    """The smaller one; where equal the gradient goes to the first."""

    name: ClassVar[str] = "min"
    arity: ClassVar[int] = 2
    compute = staticmethod(np.minimum)

    def gradient(self, b: Builder, dy: Value, y: Value, *operands: Value) -> Cotangents:
        left, right = operands
        second, zero = b.add(Greater(), left, right), b.constant(0.0)
        return b.add(Select(), second, zero, dy), b.add(Select(), second, dy, zero)


@dataclass(frozen=True)
class Greater(Elementwise):
    """left > right, as bool (never stored: back ends recompute it where it is used)."""

    name: ClassVar[str] = "greater"
    arity: ClassVar[int] = 2
    compute = staticmethod(np.greater)

    def infer(self, *operands: TensorType) -> TensorType:
        self.check_arity(operands)
        return TensorType(DType.BOOL, broadcast_shape(*operands))


@dataclass(frozen=True)
class Select(Elementwise):
    """condition, a, b -> a where the condition holds, else b."""

    name: ClassVar[str] = "select"
    arity: ClassVar[int] = 3

    def infer(self, *operands: TensorType) -> TensorType:
        self.check_arity(operands)
        require(operands[0].dtype is DType.BOOL, "the condition must be bool, not {}", operands[0])
        return TensorType(common_type(*operands[1:]), broadcast_shape(*operands))

    def function(self, *operands: Array) -> Array:
        condition, a, b = operands
        return np.where(condition, a, b)

    def gradient(self, b: Builder, dy: Value, y: Value, *operands: Value) -> Cotangents:
        condition, zero = operands[0], b.constant(0.0)
        return None, b.add(Select(), condition, dy, zero), b.add(Select(), condition, zero, dy)


@dataclass(frozen=True)
class Negate(Elementwise):
    name: ClassVar[str] = "neg"
    compute = staticmethod(np.negative)

    def gradient(self, b: Builder, dy: Value, y: Value, *operands: Value) -> Cotangents:
        return (b.add(Negate(), dy),)


@dataclass(frozen=True)
class Absolute(Elementwise):
    name: ClassVar[str] = "abs"
    compute = staticmethod(np.abs)

    def gradient(self, b: Builder, dy: Value, y: Value, *operands: Value) -> Cotangents:
        return (b.add(Multiply(), dy, b.add(Sign(), operands[0])),)


@dataclass(frozen=True)
class Sign(Elementwise):
    """−1, 0 or 1; its gradient is zero."""

    name: ClassVar[str] = "sign"
    compute = staticmethod(np.sign)


@dataclass(frozen=True)
class Exp(Elementwise):
    name: ClassVar[str] = "exp"
    compute = staticmethod(np.exp)

    def gradient(self, b: Builder, dy: Value, y: Value, *operands: Value) -> Cotangents:
        return (b.add(Multiply(), dy, y),)


@dataclass(frozen=True)
class Sqrt(Elementwise):
    name: ClassVar[str] = "sqrt"
    compute = staticmethod(np.sqrt)

    def gradient(self, b: Builder, dy: Value, y: Value, *operands: Value) -> Cotangents:
        return (b.add(Divide(), b.add(Multiply(), dy, b.constant(0.5)), y),)


@dataclass(frozen=True)
class RunningAverage(Elementwise):
    """old, new -> (1 − momentum)·old + momentum·new: `momentum` weights the new value, as in PyTorch."""

    name: ClassVar[str] = "running_average"
    arity: ClassVar[int] = 2
    momentum: float = 0.1

    def function(self, *operands: Array) -> Array:
        old, new = operands
        m = np.asarray(self.momentum, old.dtype)
        return (1 - m) * old + m * new
