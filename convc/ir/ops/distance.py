"""Losses that compare scores with targets directly: the multi-class hinge and the mean squared error."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from convc.ir.op import Array, Cotangents, Op, require
from convc.ir.ops.elementwise import Negate
from convc.ir.ops.loss import check_labels, check_targets
from convc.ir.types import DType, TensorType
from convc.lazy import dataclass

if TYPE_CHECKING:
    from convc.ir.builder import Builder
    from convc.ir.graph import Node


def _onehot(scores: Array, labels: Array) -> Array:
    """1 at each row's label, in the shape of the scores."""
    return np.moveaxis(np.eye(scores.shape[1], dtype=scores.dtype)[labels], -1, 1)


@dataclass(frozen=True)
class Hinge(Op):
    """scores, labels -> mean over rows of Σ_{j≠y} max(0, margin + s_j − s_y) (Weston & Watkins 1999)."""

    name: ClassVar[str] = "hinge"
    reduces_batch: ClassVar[bool] = True
    margin: float = 1.0

    def infer(self, scores: TensorType, labels: TensorType) -> TensorType:
        check_labels(scores, labels)
        require(self.margin >= 0, "a margin is not negative, as {} is", self.margin)
        return scores.with_shape(())

    def reference(self, scores: Array, labels: Array) -> Array:
        return self.violations(scores, labels).sum(1).mean()

    def violations(self, scores: Array, labels: Array) -> Array:
        """What each score lacks of being `margin` below the right one, which lacks nothing."""
        onehot = _onehot(scores, labels)
        right = (scores * onehot).sum(1, keepdims=True)
        return np.maximum(np.asarray(self.margin, scores.dtype) + scores - right, 0) * (1 - onehot)

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        # Each violation pulls its score down and the right one up by the same amount; on the kink nothing is pulled.
        (dloss,) = cotangents
        return b.add(HingeBackward(self.margin), dloss, *node.operands), None


@dataclass(frozen=True)
class HingeBackward(Op):
    """dloss, scores, labels -> the gradient of `hinge` by the scores."""

    name: ClassVar[str] = "hinge_backward"
    margin: float = 1.0

    def infer(self, dloss: TensorType, scores: TensorType, labels: TensorType) -> TensorType:
        check_labels(scores, labels)
        require(dloss.rank == 0, "the cotangent of a loss is a scalar, not {}", dloss)
        require(self.margin >= 0, "a margin is not negative, as {} is", self.margin)
        return scores.with_shape(scores.shape)

    def reference(self, dloss: Array, scores: Array, labels: Array) -> Array:
        violated = (Hinge(self.margin).violations(scores, labels) > 0).astype(scores.dtype)
        return (violated - _onehot(scores, labels) * violated.sum(1, keepdims=True)) * (dloss / labels.size)


@dataclass(frozen=True)
class MeanSquaredError(Op):
    """x, targets -> mean over all elements of (x − target)². Targets are x's shape, or labels taken as one-hot."""

    name: ClassVar[str] = "mse"
    reduces_batch: ClassVar[bool] = True

    def infer(self, x: TensorType, targets: TensorType) -> TensorType:
        check_targets(x, targets)
        return x.with_shape(())

    def reference(self, x: Array, targets: Array) -> Array:
        return ((x - _as_targets(x, targets)) ** 2).mean()

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        # d/dx of (x − t)²/n is 2(x − t)/n, and by t its negative. Labels have no gradient.
        (dloss,) = cotangents
        dx = b.add(MeanSquaredErrorBackward(), dloss, *node.operands)
        return dx, None if node.operands[1].type.dtype is DType.I32 else b.add(Negate(), dx)


@dataclass(frozen=True)
class MeanSquaredErrorBackward(Op):
    """dloss, x, targets -> dloss · 2(x − target)/elements."""

    name: ClassVar[str] = "mse_backward"

    def infer(self, dloss: TensorType, x: TensorType, targets: TensorType) -> TensorType:
        check_targets(x, targets)
        require(dloss.rank == 0, "the cotangent of a loss is a scalar, not {}", dloss)
        return x.with_shape(x.shape)

    def reference(self, dloss: Array, x: Array, targets: Array) -> Array:
        return (x - _as_targets(x, targets)) * (2 * dloss / x.size)


def _as_targets(x: Array, targets: Array) -> Array:
    return targets if np.issubdtype(targets.dtype, np.floating) else _onehot(x, targets)
