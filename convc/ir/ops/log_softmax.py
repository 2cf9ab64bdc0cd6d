"""The logarithm of the soft-max, computed as such: the soft-max of an unlikely class may be 0, its logarithm not."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from convc.ir.op import Array, Cotangents, Op, require
from convc.ir.types import TensorType
from convc.lazy import dataclass

if TYPE_CHECKING:
    from convc.ir.builder import Builder
    from convc.ir.graph import Node


@dataclass(frozen=True)
class LogSoftmax(Op):
    """x − log Σ eˣ along dimension 1."""

    name: ClassVar[str] = "log_softmax"

    def infer(self, x: TensorType) -> TensorType:
        require(x.rank >= 2, "soft-max needs a channel dimension, not {}", x)
        return x.with_shape(x.shape)

    def reference(self, x: Array) -> Array:
        shifted = x - x.max(1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        (dy,) = cotangents
        return (b.add(LogSoftmaxBackward(), dy, node.result),)


@dataclass(frozen=True)
class LogSoftmaxBackward(Op):
    """dy, y -> dx = dy − eʸ·Σ_k dy along dimension 1.

    With y_i = x_i − log Σ eˣ: ∂y_k/∂x_i = [k = i] − e^y_i.
    """

    name: ClassVar[str] = "log_softmax_backward"

    def infer(self, dy: TensorType, y: TensorType) -> TensorType:
        require(dy.rank >= 2 and dy.shape == y.shape, "the cotangent is {}, the soft-max {}", dy, y)
        return dy.with_shape(dy.shape)

    def reference(self, dy: Array, y: Array) -> Array:
        return dy - np.exp(y) * dy.sum(1, keepdims=True)
