"""DropConnect: dropout of weights (Wan, Zeiler, Zhang, LeCun & Fergus 2013), one mask for all rows of an update."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from convc.ir.op import Array, Cost, Cotangents, Op, require, traffic
from convc.ir.ops.random import check_rate, drop_threshold
from convc.ir.philox import random_bits
from convc.ir.types import TensorType
from convc.lazy import dataclass

if TYPE_CHECKING:
    from convc.ir.builder import Builder
    from convc.ir.graph import Node


@dataclass(frozen=True)
class DropConnect(Op):
    """What the front end emits: nothing at inference; `specialize` makes it `drop_connect_training` for training."""

    name: ClassVar[str] = "drop_connect"
    rate: float = 0.5
    stream: int = 0

    def infer(self, w: TensorType) -> TensorType:
        check_rate(self.rate)
        return w.with_shape(w.shape)

    def reference(self, w: Array) -> Array:
        return w

    def cost(self, *operands: TensorType) -> Cost:
        return Cost(0, 0)


@dataclass(frozen=True)
class DropConnectTraining(Op):
    """w, seed, step -> w/(1 − rate) where the weight's random bits are at least rate·2³², else 0."""

    name: ClassVar[str] = "drop_connect_training"
    rate: float = 0.5
    stream: int = 0

    @property
    def threshold(self) -> int:
        """Weights whose 32 random bits are below this are dropped."""
        return drop_threshold(self.rate)

    def infer(self, w: TensorType, seed: TensorType, step: TensorType) -> TensorType:
        require(seed.rank == 0 and step.rank == 0, "seed and step are scalars, not {} and {}", seed, step)
        check_rate(self.rate)
        return w.with_shape(w.shape)

    def reference(self, w: Array, seed: Array, step: Array) -> Array:
        bits = random_bits(w.shape, int(seed), self.stream, int(step))
        return np.where(bits >= self.threshold, w * np.asarray(1 / (1 - self.rate), w.dtype), 0).astype(w.dtype)

    def cost(self, *operands: TensorType) -> Cost:
        return Cost(40 * operands[0].size, traffic(operands[0], operands[0]))

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        # y = m ⊙ w, so dw = m ⊙ dy: the same mask, drawn again.
        (dy,) = cotangents
        return b.add(self, dy, *node.operands[1:]), None, None
