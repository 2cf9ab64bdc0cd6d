"""Changes of shape, and of the order in memory, that leave the elements alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from convc.ir.op import Array, Cost, Cotangents, Op, require
from convc.ir.types import Shape, TensorType
from convc.lazy import dataclass

if TYPE_CHECKING:
    from convc.ir.builder import Builder
    from convc.ir.graph import Node


@dataclass(frozen=True)
class Flatten(Op):
    """(N, C, H, W) -> (N, C·H·W), in NCHW order whatever the layout."""

    name: ClassVar[str] = "flatten"

    def infer(self, x: TensorType) -> TensorType:
        require(x.rank >= 2, "nothing to flatten in {}", x)
        return x.with_shape((x.shape[0], math.prod(x.shape[1:])))

    def reference(self, x: Array) -> Array:
        return x.reshape(len(x), -1)

    def cost(self, *operands: TensorType) -> Cost:
        return Cost(0, 0)

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        (dy,) = cotangents
        return (b.add(Unflatten(node.operands[0].shape[1:]), dy),)


@dataclass(frozen=True)
class Unflatten(Op):
    """(N, C·H·W) -> (N, *shape), the inverse of `flatten`."""

    name: ClassVar[str] = "unflatten"
    shape: Shape = (1,)

    def infer(self, x: TensorType) -> TensorType:
        fits = x.rank == 2 and x.shape[1] == math.prod(self.shape) and min(self.shape, default=1) >= 0
        require(fits, "{} does not unfold to {}", x, self.shape)
        return x.with_shape((x.shape[0], *self.shape))

    def reference(self, x: Array) -> Array:
        return x.reshape(len(x), *self.shape)

    def cost(self, *operands: TensorType) -> Cost:
        return Cost(0, 0)

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        (dy,) = cotangents
        return (b.add(Flatten(), dy),)


@dataclass(frozen=True)
class Relayout(Op):
    """The same tensor in the layout that is natural for its shape (inserted by the pass `arrange`)."""

    name: ClassVar[str] = "relayout"

    def infer(self, x: TensorType) -> TensorType:
        return x.with_shape(x.shape)

    def reference(self, x: Array) -> Array:
        return x

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        return cotangents
