"""Batch normalisation (Ioffe & Szegedy 2015), per feature map or, after fc, per node.

    training    x̂ = (x − μ)/√(σ² + ε),  y = γ·x̂ + β     with μ, σ² (biased) over the batch and all positions
    inference   y = γ/√(σ² + ε)·x + (β − γ·μ/√(σ² + ε))  with the running statistics

`batch_norm` is what the front end emits; the pass `specialize` replaces it by the form that the mode needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from convc.ir.op import Array, Cost, Cotangents, Op, require, traffic
from convc.ir.ops.elementwise import spread
from convc.ir.types import TensorType
from convc.lazy import dataclass

if TYPE_CHECKING:
    from convc.ir.builder import Builder
    from convc.ir.graph import Node


def _check(x: TensorType, *vectors: TensorType) -> TensorType:
    require(x.rank >= 2, "batch norm needs a channel dimension, not {}", x)
    for vector in vectors:
        require(vector.shape == (x.shape[1],), "{} channels, but a parameter is {}", x.shape[1], vector)
    return x.with_shape(x.shape)


def _axes(x: Array) -> tuple[int, ...]:
    return (0, *range(2, x.ndim))


def _moments(x: Array) -> tuple[Array, Array, Array]:
    """Mean, biased and unbiased variance. A single value has no unbiased variance; its biased one (0) is used."""
    mean, var = x.mean(_axes(x)), x.var(_axes(x))
    count = x.size // x.shape[1]
    return mean, var, var * (count / max(count - 1, 1))


def _normalise(x: Array, gamma: Array, beta: Array, mean: Array, var: Array, eps: float) -> Array:
    """γ·(x − μ)/√(σ² + ε) + β."""
    normalised = (x - spread(mean, x.ndim)) / spread(np.sqrt(var + np.asarray(eps, var.dtype)), x.ndim)
    return normalised * spread(gamma, x.ndim) + spread(beta, x.ndim)


@dataclass(frozen=True)
class BatchNorm(Op):
    """x, gamma, beta, running mean, running variance -> y; the meaning here is that of inference.

    In a training step it stands where `batch_norm_training` is done again with the statistics that it has found.
    `frozen` layers keep and use their running statistics in training, too.
    """

    name: ClassVar[str] = "batch_norm"
    eps: float = 1e-5
    momentum: float = 0.1
    frozen: bool = False

    def infer(
        self, x: TensorType, gamma: TensorType, beta: TensorType, mean: TensorType, var: TensorType
    ) -> TensorType:
        return _check(x, gamma, beta, mean, var)

    def reference(self, x: Array, gamma: Array, beta: Array, mean: Array, var: Array) -> Array:
        return _normalise(x, gamma, beta, mean, var, self.eps)

    def cost(self, *operands: TensorType) -> Cost:
        return Cost(flops=3 * operands[0].size, bytes=traffic(*operands, operands[0]))


@dataclass(frozen=True)
class BatchNormTraining(Op):
    """x, gamma, beta -> y, batch mean, biased batch variance, unbiased batch variance."""

    name: ClassVar[str] = "batch_norm_training"
    eps: float = 1e-5

    @property
    def result_count(self) -> int:
        return 4

    def batched(self, operands: tuple[bool, ...]) -> tuple[bool, ...]:
        return True, False, False, False

    def infer(self, x: TensorType, gamma: TensorType, beta: TensorType) -> tuple[TensorType, ...]:
        y = _check(x, gamma, beta)
        return y, gamma, gamma, gamma

    def reference(self, x: Array, gamma: Array, beta: Array) -> tuple[Array, ...]:
        mean, var, unbiased = _moments(x)
        return _normalise(x, gamma, beta, mean, var, self.eps), mean, var, unbiased

    def cost(self, *operands: TensorType) -> Cost:
        x = operands[0]
        return Cost(flops=7 * x.size, bytes=2 * traffic(x) + traffic(*self.result_types(*operands)))

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        # With m values per channel, x̂ as above and s = 1/√(σ² + ε):
        #   dβ = Σ dy,  dγ = Σ dy·x̂,  dx = γ·s·(dy − dβ/m − x̂·dγ/m)
        # because μ and σ² depend on x, too. The statistics themselves are never differentiated further.
        dy = cotangents[0]
        require(dy is not None, "the statistics of {} are not differentiable", self.name)
        x, gamma = node.operands[:2]
        backward = b.add_node(BatchNormBackward(self.eps), dy, x, gamma, node.results[1], node.results[2])
        return backward.results


@dataclass(frozen=True)
class BatchMoments(Op):
    """x -> batch mean, biased batch variance, unbiased batch variance: the statistics of `batch_norm_training`.

    Passes put it beside the op that makes x, whose kernel computes it along the way.
    """

    name: ClassVar[str] = "batch_moments"
    reduces_batch: ClassVar[bool] = True

    @property
    def result_count(self) -> int:
        return 3

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:
        _check(x)
        return (TensorType(x.dtype.accumulator, (x.shape[1],)),) * 3

    def reference(self, x: Array) -> tuple[Array, ...]:
        return _moments(x)

    def cost(self, *operands: TensorType) -> Cost:
        x = operands[0]
        return Cost(flops=4 * x.size, bytes=traffic(x, *self.infer(x)))


@dataclass(frozen=True)
class BatchNormBackward(Op):
    """dy, x, gamma, batch mean, biased variance -> dx, dgamma, dbeta."""

    name: ClassVar[str] = "batch_norm_backward"
    eps: float = 1e-5

    @property
    def result_count(self) -> int:
        return 3

    def batched(self, operands: tuple[bool, ...]) -> tuple[bool, ...]:
        return True, False, False

    def infer(
        self, dy: TensorType, x: TensorType, gamma: TensorType, mean: TensorType, var: TensorType
    ) -> tuple[TensorType, ...]:
        require(dy.shape == x.shape, "the cotangent is {}, the input {}", dy, x)
        return _check(x, gamma, mean, var), gamma, gamma

    def reference(self, dy: Array, x: Array, gamma: Array, mean: Array, var: Array) -> tuple[Array, ...]:
        scale = 1 / np.sqrt(var + np.asarray(self.eps, var.dtype))
        normalised = (x - spread(mean, x.ndim)) * spread(scale, x.ndim)
        dbeta = dy.sum(_axes(x))
        dgamma = (dy * normalised).sum(_axes(x))
        count = x.size // x.shape[1]
        inner = dy - spread(dbeta / count, x.ndim) - normalised * spread(dgamma / count, x.ndim)
        return inner * spread(gamma * scale, x.ndim), dgamma, dbeta

    def cost(self, *operands: TensorType) -> Cost:
        x = operands[1]
        return Cost(flops=11 * x.size, bytes=2 * traffic(*operands) + traffic(*self.result_types(*operands)))
