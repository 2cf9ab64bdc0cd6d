"""Losses: means over the rows given (and over pixels, where labels are (N, H, W))."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from convc.ir.op import Array, Cotangents, Op, require
from convc.ir.types import DType, TensorType
from convc.lazy import dataclass

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


def check_targets(x: TensorType, targets: TensorType) -> None:
    """Raises `InferError` unless the targets are labels for x, or numbers of its shape."""
    require(x.rank in (2, 4) and x.size >= 1, "a loss reads (N, K) or (N, K, H, W), not {}", x)
    if targets.dtype is DType.I32:
        check_labels(x, targets)
    else:
        fits = targets.dtype.is_float and targets.shape == x.shape
        require(fits, "targets are {}, but {} asks for its own shape, or for integer labels", targets, x)


def _check_weights(logits: TensorType, weights: TensorType | None) -> None:
    fits = weights is None or (weights.dtype.is_float and weights.shape == logits.shape[1:2])
    require(fits, "the weights of the classes are {}, but the logits {}", weights, logits)


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Op):
    """logits, labels -> mean over rows of −Σ_k t_k·log softmax(logits)_k, t = (1 − smooth)·onehot + smooth/K.

    With a third operand (K,) every row counts with the weight of its label; the mean is still over the rows.
    """

    name: ClassVar[str] = "softmax_cross_entropy"
    reduces_batch: ClassVar[bool] = True
    smooth: float = 0.0

    def infer(self, logits: TensorType, labels: TensorType, weights: TensorType | None = None) -> TensorType:
        check_labels(logits, labels)
        _check_weights(logits, weights)
        return logits.with_shape(())

    def reference(self, logits: Array, labels: Array, weights: Array | None = None) -> Array:
        shifted = logits - logits.max(1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        rows = -(log_p * self.targets(logits, labels)).sum(1)
        return (rows if weights is None else rows * weights[labels]).mean()

    def targets(self, logits: Array, labels: Array) -> Array:
        """The distribution that the soft-max shall match, in the shape of the logits."""
        classes = logits.shape[1]
        onehot = np.moveaxis(np.eye(classes, dtype=logits.dtype)[labels], -1, 1)
        smooth = np.asarray(self.smooth, logits.dtype)
        return (1 - smooth) * onehot + smooth / classes

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        # d/dz_k of −Σ_j t_j·log p_j is p_k·Σ_j t_j − t_k = p_k − t_k, since the targets sum to one.
        # The weight of a label is a factor of its row.
        (dloss,) = cotangents
        dlogits = b.add(SoftmaxCrossEntropyBackward(self.smooth), dloss, *node.operands)
        return dlogits, *(None for _ in node.operands[1:])


@dataclass(frozen=True)
class SoftmaxCrossEntropyBackward(Op):
    """dloss, logits, labels -> dloss·(softmax(logits) − targets)/rows, times the weights of the labels if given."""

    name: ClassVar[str] = "softmax_cross_entropy_backward"
    smooth: float = 0.0

    def infer(
        self, dloss: TensorType, logits: TensorType, labels: TensorType, weights: TensorType | None = None
    ) -> TensorType:
        check_labels(logits, labels)
        _check_weights(logits, weights)
        require(dloss.rank == 0, "the cotangent of a loss is a scalar, not {}", dloss)
        return logits.with_shape(logits.shape)

    def reference(self, dloss: Array, logits: Array, labels: Array, weights: Array | None = None) -> Array:
        e = np.exp(logits - logits.max(1, keepdims=True))
        targets = SoftmaxCrossEntropy(self.smooth).targets(logits, labels)
        gradient = (e / e.sum(1, keepdims=True) - targets) * (dloss / labels.size)
        return gradient if weights is None else gradient * np.expand_dims(weights[labels], 1)


@dataclass(frozen=True)
class CountCorrect(Op):
    """logits, labels -> how many rows have their (first) largest logit at the label, as a float.

    Targets of the logits' shape stand for the (first) class that they are largest at.
    """

    name: ClassVar[str] = "count_correct"
    reduces_batch: ClassVar[bool] = True

    def infer(self, logits: TensorType, labels: TensorType) -> TensorType:
        check_targets(logits, labels)
        return logits.with_shape(())

    def reference(self, logits: Array, labels: Array) -> Array:
        if np.issubdtype(labels.dtype, np.floating):
            labels = labels.argmax(1)
        return np.asarray((logits.argmax(1) == labels).sum(), logits.dtype)
