"""Losses: means over the rows given (and over pixels, where labels are (N, H, W))."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from convc.ir.op import Array, Cotangents, Op, require
from convc.ir.types import DType, TensorType

if TYPE_CHECKING:
    from convc.ir.builder import Builder
    from convc.ir.graph import Node


def label_type(logits: TensorType) -> TensorType:
    """The class labels that belong to logits (N, K) or (N, K, H, W)."""
    return TensorType(DType.I32, (logits.shape[0], *logits.shape[2:]))


def check_labels(logits: TensorType, labels: TensorType) -> None:
    """Raises `InferError` unless the labels are class numbers for the rows (and pixels) of the logits."""
    require(logits.rank in (2, 4), "a loss reads (N, K) or (N, K, H, W), not {}", logits)
    expected = label_type(logits)
    require(logits.shape[1] >= 1, "there are no classes in {}", logits)
    require(labels.with_layout(None) == expected, "labels are {}, but the logits ask for {}", labels, expected)


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Op):
    """logits, labels -> mean over rows of −Σ_k t_k·log softmax(logits)_k, t = (1 − smooth)·onehot + smooth/K."""

    name: ClassVar[str] = "softmax_cross_entropy"
    reduces_batch: ClassVar[bool] = True
    smooth: float = 0.0

    def infer(self, logits: TensorType, labels: TensorType) -> TensorType:
        check_labels(logits, labels)
        return logits.with_shape(())

    def reference(self, logits: Array, labels: Array) -> Array:
        shifted = logits - logits.max(1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        return -(log_p * self.targets(logits, labels)).sum(1).mean()

    def targets(self, logits: Array, labels: Array) -> Array:
        """The distribution that the soft-max shall match, in the shape of the logits."""
        classes = logits.shape[1]
        onehot = np.moveaxis(np.eye(classes, dtype=logits.dtype)[labels], -1, 1)
        smooth = np.asarray(self.smooth, logits.dtype)
        return (1 - smooth) * onehot + smooth / classes

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        # d/dz_k of −Σ_j t_j·log p_j is p_k·Σ_j t_j − t_k = p_k − t_k, since the targets sum to one.
        (dloss,) = cotangents
        logits, labels = node.operands
        return b.add(SoftmaxCrossEntropyBackward(self.smooth), dloss, logits, labels), None


@dataclass(frozen=True)
class SoftmaxCrossEntropyBackward(Op):
    """dloss, logits, labels -> dloss·(softmax(logits) − targets)/rows."""

    name: ClassVar[str] = "softmax_cross_entropy_backward"
    smooth: float = 0.0

    def infer(self, dloss: TensorType, logits: TensorType, labels: TensorType) -> TensorType:
        check_labels(logits, labels)
        require(dloss.rank == 0, "the cotangent of a loss is a scalar, not {}", dloss)
        return logits.with_shape(logits.shape)

    def reference(self, dloss: Array, logits: Array, labels: Array) -> Array:
        e = np.exp(logits - logits.max(1, keepdims=True))
        targets = SoftmaxCrossEntropy(self.smooth).targets(logits, labels)
        return (e / e.sum(1, keepdims=True) - targets) * (dloss / labels.size)


@dataclass(frozen=True)
class CountCorrect(Op):
    """logits, labels -> how many rows have their (first) largest logit at the label, as a float."""

    name: ClassVar[str] = "count_correct"
    reduces_batch: ClassVar[bool] = True

    def infer(self, logits: TensorType, labels: TensorType) -> TensorType:
        check_labels(logits, labels)
        return logits.with_shape(())

    def reference(self, logits: Array, labels: Array) -> Array:
        return np.asarray((logits.argmax(1) == labels).sum(), logits.dtype)
