"""Fully connected layers and their two gradients:  y = x·wᵀ + b."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from convc.ir.op import Array, Cost, Cotangents, Op, product_type, require, traffic
from convc.ir.types import TensorType
from convc.lazy import dataclass

if TYPE_CHECKING:
    from convc.ir.builder import Builder
    from convc.ir.graph import Node


@dataclass(frozen=True)
class Linear(Op):
    """x (N, D), w (O, D), optional b (O) -> (N, O)."""

    name: ClassVar[str] = "linear"

    def infer(self, x: TensorType, w: TensorType, b: TensorType | None = None) -> TensorType:
        require(x.rank == 2, "a fully connected layer reads rows (N, D), not {}", x)
        require(w.rank == 2 and w.shape[1] == x.shape[1], "{} features, but the weights are {}", x.shape[1], w)
        dtype = product_type(x, w, "rows {} against weights {}")
        require(b is None or b.shape == w.shape[:1], "the bias must have {} elements, not {}", w.shape[0], b)
        return TensorType(dtype, (x.shape[0], w.shape[0]))

    def reference(self, x: Array, w: Array, b: Array | None = None) -> Array:
        y = x @ w.T
        return y if b is None else y + b

    def cost(self, *operands: TensorType) -> Cost:
        x, w = operands[:2]
        return Cost(2 * x.shape[0] * w.size, traffic(*operands, *self.result_types(*operands)))

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        from convc.ir.ops.reduce import ChannelSum

        # y[n,o] = b[o] + Σ_d x[n,d]·w[o,d], so
        # dx[n,d] = Σ_o dy[n,o]·w[o,d],  dw[o,d] = Σ_n dy[n,o]·x[n,d],  db[o] = Σ_n dy[n,o].
        (dy,) = cotangents
        x, w = node.operands[:2]
        dx = b.add(LinearBackwardData(), dy, w)
        dw = b.add(LinearBackwardWeights(), x, dy)
        return (dx, dw) if len(node.operands) == 2 else (dx, dw, b.add(ChannelSum(), dy))


@dataclass(frozen=True)
class LinearBackwardData(Op):
    """dy (N, O), w (O, D) -> dx (N, D) = dy·w."""

    name: ClassVar[str] = "linear_backward_data"

    def infer(self, dy: TensorType, w: TensorType) -> TensorType:
        require(dy.rank == 2 and w.rank == 2, "rows and weights have two dimensions, not {} and {}", dy, w)
        require(dy.shape[1] == w.shape[0], "{} features, but the weights are {}", dy.shape[1], w)
        require(dy.dtype is w.dtype, "rows {} against weights {}", dy, w)
        return dy.with_shape((dy.shape[0], w.shape[1]))

    def reference(self, dy: Array, w: Array) -> Array:
        return dy @ w

    def cost(self, *operands: TensorType) -> Cost:
        dy, w = operands
        return Cost(2 * dy.shape[0] * w.size, traffic(dy, w, *self.result_types(*operands)))

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        (ddx,) = cotangents
        dy, w = node.operands
        return b.add(Linear(), ddx, w), b.add(LinearBackwardWeights(), ddx, dy)


@dataclass(frozen=True)
class LinearBackwardWeights(Op):
    """x (N, D), dy (N, O) -> dw (O, D) = dyᵀ·x."""

    name: ClassVar[str] = "linear_backward_weights"
    reduces_batch: ClassVar[bool] = True

    def infer(self, x: TensorType, dy: TensorType) -> TensorType:
        require(x.rank == 2 and dy.rank == 2, "rows have two dimensions, not {} and {}", x, dy)
        require(x.shape[0] == dy.shape[0], "{} rows against {}", x.shape[0], dy.shape[0])
        require(x.dtype is dy.dtype, "rows {} against cotangents {}", x, dy)
        return x.with_shape((dy.shape[1], x.shape[1])).with_dtype(x.dtype.accumulator)

    def reference(self, x: Array, dy: Array) -> Array:
        return dy.T @ x

    def cost(self, *operands: TensorType) -> Cost:
        x, dy = operands
        (dw,) = self.result_types(*operands)
        return Cost(2 * x.shape[0] * dw.size, traffic(x, dy, dw))

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        (ddw,) = cotangents
        x, dy = node.operands
        return b.add(LinearBackwardData(), dy, ddw), b.add(Linear(), x, ddw)
