"""Activation functions. Their gradients are written with the element-wise vocabulary, so that they fuse like it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from convc.ir.op import Array, Cotangents, Op, require
from convc.ir.ops.elementwise import Absolute, Add, Elementwise, Greater, Multiply, Select, Subtract
from convc.ir.types import TensorType
from convc.lazy import dataclass

if TYPE_CHECKING:
    from convc.ir.builder import Builder
    from convc.ir.graph import Node, Value


@dataclass(frozen=True)
class Relu(Elementwise):
    """max(x, 0). NaN stays NaN, so that a diverged run is seen."""

    name: ClassVar[str] = "relu"

    def function(self, *operands: Array) -> Array:
        return np.maximum(operands[0], 0)

    def gradient(self, b: Builder, dy: Value, y: Value, *operands: Value) -> Cotangents:
        # y > 0 exactly where x > 0: reading y lets x be forgotten.
        zero = b.constant(0.0)
        return (b.add(Select(), b.add(Greater(), y, zero), dy, zero),)


@dataclass(frozen=True)
class LeakyRelu(Elementwise):
    """x where positive, else alpha·x."""

    name: ClassVar[str] = "leaky_relu"
    alpha: float = 0.01

    def function(self, *operands: Array) -> Array:
        (x,) = operands
        return np.where(x > 0, x, np.asarray(self.alpha, x.dtype) * x)

    def gradient(self, b: Builder, dy: Value, y: Value, *operands: Value) -> Cotangents:
        positive = b.add(Greater(), operands[0], b.constant(0.0))
        return (b.add(Select(), positive, dy, b.add(Multiply(), dy, b.constant(self.alpha))),)


@dataclass(frozen=True)
class Prelu(Elementwise):
    """x where positive, else slope·x with one learned slope per channel (He et al. 2015)."""

    name: ClassVar[str] = "prelu"
    arity: ClassVar[int] = 2

    def function(self, *operands: Array) -> Array:
        x, slope = operands
        return np.where(x > 0, x, slope * x)

    def gradient(self, b: Builder, dy: Value, y: Value, *operands: Value) -> Cotangents:
        x, slope = operands
        zero = b.constant(0.0)
        positive = b.add(Greater(), x, zero)
        dx = b.add(Select(), positive, dy, b.add(Multiply(), dy, slope))
        return dx, b.add(Select(), positive, zero, b.add(Multiply(), dy, x))


@dataclass(frozen=True)
class Elu(Elementwise):
    """x where positive, else alpha·(eˣ − 1)."""

    name: ClassVar[str] = "elu"
    alpha: float = 1.0

    def function(self, *operands: Array) -> Array:
        (x,) = operands
        return np.where(x > 0, x, np.asarray(self.alpha, x.dtype) * np.expm1(np.minimum(x, 0)))

    def gradient(self, b: Builder, dy: Value, y: Value, *operands: Value) -> Cotangents:
        # For x <= 0: d/dx alpha·(eˣ − 1) = alpha·eˣ = y + alpha.
        positive = b.add(Greater(), operands[0], b.constant(0.0))
        slope = b.add(Add(), y, b.constant(self.alpha))
        return (b.add(Select(), positive, dy, b.add(Multiply(), dy, slope)),)


@dataclass(frozen=True)
class Sigmoid(Elementwise):
    """1 / (1 + e⁻ˣ)."""

    name: ClassVar[str] = "sigmoid"

    def function(self, *operands: Array) -> Array:
        (x,) = operands
        small = np.exp(-np.abs(x))  # never overflows
        return np.where(x >= 0, 1, small) / (1 + small)

    def gradient(self, b: Builder, dy: Value, y: Value, *operands: Value) -> Cotangents:
        slope = b.add(Multiply(), y, b.add(Subtract(), b.constant(1.0), y))
        return (b.add(Multiply(), dy, slope),)


@dataclass(frozen=True)
class Tanh(Elementwise):
    name: ClassVar[str] = "tanh"
    compute = staticmethod(np.tanh)

    def gradient(self, b: Builder, dy: Value, y: Value, *operands: Value) -> Cotangents:
        slope = b.add(Subtract(), b.constant(1.0), b.add(Multiply(), y, y))
        return (b.add(Multiply(), dy, slope),)


@dataclass(frozen=True)
class Step(Elementwise):
    """1 where x > 0, else 0; the gradient is the straight-through estimator: 1 on |x| <= 1, else 0."""

    name: ClassVar[str] = "step"

    def function(self, *operands: Array) -> Array:
        (x,) = operands
        return (x > 0).astype(x.dtype)

    def gradient(self, b: Builder, dy: Value, y: Value, *operands: Value) -> Cotangents:
        outside = b.add(Greater(), b.add(Absolute(), operands[0]), b.constant(1.0))
        return (b.add(Select(), outside, b.constant(0.0), dy),)


@dataclass(frozen=True)
class Relu6(Elementwise):
    """min(max(x, 0), 6)."""

    name: ClassVar[str] = "relu6"

    def function(self, *operands: Array) -> Array:
        return np.minimum(np.maximum(operands[0], 0), 6)

    def gradient(self, b: Builder, dy: Value, y: Value, *operands: Value) -> Cotangents:
        zero = b.constant(0.0)
        low = b.add(Select(), b.add(Greater(), y, zero), dy, zero)
        return (b.add(Select(), b.add(Greater(), b.constant(6.0), y), low, zero),)


@dataclass(frozen=True)
class Softmax(Op):
    """eˣ / Σ eˣ along dimension 1."""

    name: ClassVar[str] = "softmax"

    def infer(self, x: TensorType) -> TensorType:
        require(x.rank >= 2, "soft-max needs a channel dimension, not {}", x)
        return x.with_shape(x.shape)

    def reference(self, x: Array) -> Array:
        e = np.exp(x - x.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        (dy,) = cotangents
        return (b.add(SoftmaxBackward(), dy, node.result),)


@dataclass(frozen=True)
class SoftmaxBackward(Op):
    """dy, y -> dx = y·(dy − Σ_k dy·y) along dimension 1."""

    name: ClassVar[str] = "softmax_backward"

    def infer(self, dy: TensorType, y: TensorType) -> TensorType:
        require(dy.rank >= 2 and dy.shape == y.shape, "the cotangent is {}, the soft-max {}", dy, y)
        return dy.with_shape(dy.shape)

    def reference(self, dy: Array, y: Array) -> Array:
        return y * (dy - (dy * y).sum(1, keepdims=True))


@dataclass(frozen=True)
class Maxout(Op):
    """The maximum over each group of `group` consecutive channels (Goodfellow et al. 2013)."""

    name: ClassVar[str] = "maxout"
    group: int = 2

    def infer(self, x: TensorType) -> TensorType:
        require(x.rank >= 2, "maxout needs a channel dimension, not {}", x)
        whole = self.group >= 1 and x.shape[1] % self.group == 0
        require(whole, "{} channels do not split into groups of {}", x.shape[1], self.group)
        return x.with_shape((x.shape[0], x.shape[1] // self.group, *x.shape[2:]))

    def reference(self, x: Array) -> Array:
        n, c, *rest = x.shape
        return x.reshape(n, c // self.group, self.group, *rest).max(2)

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        (dy,) = cotangents
        return (b.add(MaxoutBackward(self.group), dy, node.operands[0], node.result),)


@dataclass(frozen=True)
class MaxoutBackward(Op):
    """dy, x, y -> dx: the cotangent goes to the first maximum of each group."""

    name: ClassVar[str] = "maxout_backward"
    group: int = 2

    def infer(self, dy: TensorType, x: TensorType, y: TensorType) -> TensorType:
        expected = Maxout(self.group).infer(x)
        require(dy.shape == y.shape == expected.shape, "the cotangent is {}, maxout gives {}", dy, expected)
        return x.with_shape(x.shape)

    def reference(self, dy: Array, x: Array, y: Array) -> Array:
        n, c, *rest = x.shape
        grouped = x.reshape(n, c // self.group, self.group, *rest)
        first = np.expand_dims((grouped == y[:, :, None]).argmax(2), 2)
        dx = np.zeros_like(grouped)
        np.put_along_axis(dx, first, dy[:, :, None], 2)
        return dx.reshape(x.shape)
