"""One number per feature map, (N, C, 1, 1), against whole maps: weighing them, summing them, spreading over them.

Squeeze-and-excitation (Hu et al. 2018) weighs maps this way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from convc.ir.op import Array, Cost, Cotangents, Op, require, traffic
from convc.ir.ops.elementwise import Multiply
from convc.ir.types import TensorType
from convc.ir.window import Pair
from convc.lazy import dataclass

if TYPE_CHECKING:
    from convc.ir.builder import Builder
    from convc.ir.graph import Node


@dataclass(frozen=True)
class ScaleMaps(Op):
    """x (N, C, H, W), scale (N, C, 1, 1) -> x·scale, one factor for each map of each image."""

    name: ClassVar[str] = "scale_maps"

    def infer(self, x: TensorType, scale: TensorType) -> TensorType:
        require(x.rank == 4, "feature maps are images (N, C, H, W), not {}", x)
        fits = scale.shape == (*x.shape[:2], 1, 1)
        require(fits, "the maps of {} need one factor each, not {}", x, scale)
        return x.with_shape(x.shape)

    def reference(self, x: Array, scale: Array) -> Array:
        return x * scale

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        # y[n,c,i,j] = x[n,c,i,j]·s[n,c]: dx is dy·s, and s collects dy·x from all positions of its map.
        (dy,) = cotangents
        x, scale = node.operands
        return b.add(ScaleMaps(), dy, scale), b.add(SpatialSum(), b.add(Multiply(), dy, x))


@dataclass(frozen=True)
class SpatialSum(Op):
    """(N, C, H, W) -> (N, C, 1, 1): the sum of each map."""

    name: ClassVar[str] = "spatial_sum"

    def infer(self, x: TensorType) -> TensorType:
        require(x.rank == 4, "feature maps are images (N, C, H, W), not {}", x)
        return x.with_shape((*x.shape[:2], 1, 1))

    def reference(self, x: Array) -> Array:
        return x.sum((2, 3), keepdims=True)

    def cost(self, *operands: TensorType) -> Cost:
        return Cost(operands[0].size, traffic(*operands, *self.result_types(*operands)))

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        (dy,) = cotangents
        x = node.operands[0]
        return (b.add(SpreadMaps((x.shape[2], x.shape[3])), dy),)


@dataclass(frozen=True)
class SpreadMaps(Op):
    """(N, C, 1, 1) -> (N, C, *size): maps of one value each."""

    name: ClassVar[str] = "spread_maps"
    size: Pair = (1, 1)

    def infer(self, x: TensorType) -> TensorType:
        require(x.rank == 4 and x.shape[2:] == (1, 1), "only maps of one pixel (N, C, 1, 1) are spread, not {}", x)
        require(min(self.size) >= 1, "maps of {}x{} pixels hold nothing", *self.size)
        return x.with_shape((*x.shape[:2], *self.size))

    def reference(self, x: Array) -> Array:
        return np.broadcast_to(x, (*x.shape[:2], *self.size))

    def cost(self, *operands: TensorType) -> Cost:
        return Cost(0, traffic(*operands, *self.result_types(*operands)))

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        (dy,) = cotangents
        return (b.add(SpatialSum(), dy),)
