"""Channels side by side: joining the feature maps of several values, and cutting some of them out again."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from convc.ir.op import Array, Cost, Cotangents, Op, require, traffic
from convc.ir.types import TensorType
from convc.lazy import dataclass

if TYPE_CHECKING:
    from convc.ir.builder import Builder
    from convc.ir.graph import Node, Value


@dataclass(frozen=True)
class Concat(Op):
    """(N, C₁, …), (N, C₂, …), … -> (N, C₁ + C₂ + …, …): channels of equal images, in the order of the operands."""

    name: ClassVar[str] = "concat"

    def infer(self, *operands: TensorType) -> TensorType:
        require(len(operands) >= 2, "concat joins at least 2 values, not {}", len(operands))
        first = operands[0]
        for x in operands:
            require(x.rank >= 2, "concat joins channels, and there are none in {}", x)
            alike = (x.dtype, x.grid) == (first.dtype, first.grid)
            fits = alike and (x.shape[0], x.shape[2:]) == (first.shape[0], first.shape[2:])
            require(fits, "concat joins channels of images of one size, not {} and {}", first, x)
        return first.with_shape((first.shape[0], sum(x.shape[1] for x in operands), *first.shape[2:]))

    def reference(self, *operands: Array) -> Array:
        return np.concatenate(operands, 1)

    def cost(self, *operands: TensorType) -> Cost:
        return Cost(0, traffic(*operands, *self.result_types(*operands)))

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        # Every element of an operand appears once in the result: its gradient is that element's cotangent.
        (dy,) = cotangents
        gradients: list[Value | None] = []
        start = 0
        for operand in node.operands:
            gradients.append(b.add(SliceChannels(start, operand.shape[1]), dy))
            start += operand.shape[1]
        return tuple(gradients)


@dataclass(frozen=True)
class SliceChannels(Op):
    """(N, C, …) -> (N, count, …): the channels start … start + count − 1."""

    name: ClassVar[str] = "slice_channels"
    start: int = 0
    count: int = 1

    def infer(self, x: TensorType) -> TensorType:
        require(x.rank >= 2, "there are no channels in {}", x)
        fits = self.start >= 0 and self.count >= 1 and self.start + self.count <= x.shape[1]
        require(fits, "channels {} to {} are not among the {} of {}", self.start, self.stop - 1, x.shape[1], x)
        return x.with_shape((x.shape[0], self.count, *x.shape[2:]))

    @property
    def stop(self) -> int:
        """The channel after the last one."""
        return self.start + self.count

    def reference(self, x: Array) -> Array:
        return x[:, self.start : self.stop]

    def cost(self, *operands: TensorType) -> Cost:
        (y,) = self.result_types(*operands)
        return Cost(0, traffic(y, y))

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        # Channels that were cut off have no influence: zeros around the cotangent.
        (dy,) = cotangents
        return (b.add(InsertChannels(self.start, node.operands[0].shape[1]), dy),)


@dataclass(frozen=True)
class InsertChannels(Op):
    """(N, C, …) -> (N, channels, …): zeros, but for the operand's channels from `start` on."""

    name: ClassVar[str] = "insert_channels"
    start: int = 0
    channels: int = 1

    def infer(self, x: TensorType) -> TensorType:
        require(x.rank >= 2, "there are no channels in {}", x)
        fits = self.start >= 0 and self.start + x.shape[1] <= self.channels
        require(fits, "{} channels from {} on do not fit into {}", x.shape[1], self.start, self.channels)
        return x.with_shape((x.shape[0], self.channels, *x.shape[2:]))

    def reference(self, x: Array) -> Array:
        y = np.zeros((len(x), self.channels, *x.shape[2:]), x.dtype)
        y[:, self.start : self.start + x.shape[1]] = x
        return y

    def cost(self, *operands: TensorType) -> Cost:
        return Cost(0, traffic(*operands, *self.result_types(*operands)))

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        (dy,) = cotangents
        return (b.add(SliceChannels(self.start, node.operands[0].shape[1]), dy),)
