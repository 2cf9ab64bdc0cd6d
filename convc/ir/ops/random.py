"""Noise in training, averaged out at test: dropout, and Gaussian noise.

The random bits come from `convc.ir.philox`: the backward pass draws the same mask again instead of storing it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from convc.ir.op import Array, Cost, Cotangents, Op, require, traffic
from convc.ir.philox import gaussian, random_words
from convc.ir.types import TensorType
from convc.lazy import dataclass

if TYPE_CHECKING:
    from convc.ir.builder import Builder
    from convc.ir.graph import Node


@dataclass(frozen=True)
class Dropout(Op):
    """What the front end emits: nothing at inference; `specialize` makes it `dropout_training` for training."""

    name: ClassVar[str] = "dropout"
    rate: float = 0.5
    stream: int = 0

    def infer(self, x: TensorType) -> TensorType:
        check_rate(self.rate)
        return x.with_shape(x.shape)

    def reference(self, x: Array) -> Array:
        return x

    def cost(self, *operands: TensorType) -> Cost:
        return Cost(0, 0)


@dataclass(frozen=True)
class Draw(Op):
    """Base. x, seed, step -> y, element by element, with random bits that depend on the element's place.

    A fourth operand tells how many rows of the same update came before those of x: an update of several batches draws
    what one of a single large batch would.
    """

    def infer(self, x: TensorType, seed: TensorType, step: TensorType, seen: TensorType | None = None) -> TensorType:
        require(seed.rank == 0 and step.rank == 0, "seed and step are scalars, not {} and {}", seed, step)
        require(seen is None or seen.rank == 0, "the number of rows before is a scalar, not {}", seen)
        self.check()
        return x.with_shape(x.shape)

    def words(self, x: Array, stream: int, seed: Array, step: Array, seen: Array | None) -> tuple[Array, ...]:
        """Four words of random bits per element of x."""
        before = 0 if seen is None else int(seen) * math.prod(x.shape[1:])
        return random_words(x.shape, int(seed), stream, int(step), before)

    def check(self) -> None:
        """Raises `InferError` for senseless attributes."""

    def cost(self, *operands: TensorType) -> Cost:
        return Cost(40 * operands[0].size, traffic(operands[0], operands[0]))


def check_rate(rate: float) -> None:
    """Raises `InferError` unless values can be dropped with this probability."""
    require(0 <= rate < 1, "a dropout rate lies in [0, 1), not {}", rate)


def _check_deviation(std: float) -> None:
    require(0 <= std < math.inf, "a standard deviation is not negative, and finite, not {}", std)


def drop_threshold(rate: float) -> int:
    """What is dropped with probability `rate` is what has 32 random bits below this number."""
    return min(round(rate * 2**32), 2**32 - 1)


@dataclass(frozen=True)
class DropoutTraining(Draw):
    """x, seed, step -> x/(1 − rate) where the element's random bits are at least rate·2³², else 0."""

    name: ClassVar[str] = "dropout_training"
    rate: float = 0.5
    stream: int = 0

    @property
    def threshold(self) -> int:
        """Elements whose 32 random bits are below this are dropped."""
        return drop_threshold(self.rate)

    def check(self) -> None:
        check_rate(self.rate)

    def reference(self, x: Array, seed: Array, step: Array, seen: Array | None = None) -> Array:
        bits, *_ = self.words(x, self.stream, seed, step, seen)
        return np.where(bits >= self.threshold, x * np.asarray(1 / (1 - self.rate), x.dtype), 0).astype(x.dtype)

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        (dy,) = cotangents
        return b.add(self, dy, *node.operands[1:]), *(None for _ in node.operands[1:])


@dataclass(frozen=True)
class Noise(Op):
    """What the front end emits: nothing at inference; `specialize` makes it `noise_training` for training."""

    name: ClassVar[str] = "noise"
    std: float = 0.1
    stream: int = 0

    def infer(self, x: TensorType) -> TensorType:
        _check_deviation(self.std)
        return x.with_shape(x.shape)

    def reference(self, x: Array) -> Array:
        return x

    def cost(self, *operands: TensorType) -> Cost:
        return Cost(0, 0)


@dataclass(frozen=True)
class NoiseTraining(Draw):
    """x, seed, step -> x + std·z, z standard normal, drawn from the element's random bits."""

    name: ClassVar[str] = "noise_training"
    std: float = 0.1
    stream: int = 0

    def check(self) -> None:
        _check_deviation(self.std)

    def reference(self, x: Array, seed: Array, step: Array, seen: Array | None = None) -> Array:
        first, second, *_ = self.words(x, self.stream, seed, step, seen)
        return (x + self.std * gaussian(first, second)).astype(x.dtype)

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        # The noise does not depend on x.
        (dy,) = cotangents
        return dy, *(None for _ in node.operands[1:])
