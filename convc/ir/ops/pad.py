"""Borders around images, added or cut off."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from convc.ir.op import Array, Cost, Cotangents, Op, require, traffic
from convc.ir.types import TensorType
from convc.ir.window import Sides
from convc.lazy import dataclass

if TYPE_CHECKING:
    from convc.ir.builder import Builder
    from convc.ir.graph import Node


@dataclass(frozen=True)
class Pad(Op):
    """(N, C, H, W) with `sides` (top, left, bottom, right) rows and columns of `value` around it.

    A negative side cuts off that many rows or columns.
    """

    name: ClassVar[str] = "pad"
    sides: Sides = (0, 0, 0, 0)
    value: float = 0.0

    def infer(self, x: TensorType) -> TensorType:
        require(x.rank == 4, "only images (N, C, H, W) have borders, not {}", x)
        require(math.isfinite(self.value), "a border holds a finite number, not {}", self.value)
        top, left, bottom, right = self.sides
        height, width = x.shape[2] + top + bottom, x.shape[3] + left + right
        # Each cut lies within the image, so that a border never shows on the other side of it.
        cut = max(-top, 0) + max(-bottom, 0) < max(x.shape[2], 1) and max(-left, 0) + max(-right, 0) < max(
            x.shape[3], 1
        )
        require(cut, "{} would leave nothing of {}x{} pixels", self.sides, *x.shape[2:])
        return x.with_shape((*x.shape[:2], height, width))

    def reference(self, x: Array) -> Array:
        top, left, bottom, right = self.sides
        height, width = x.shape[2:]
        kept = x[:, :, max(-top, 0) : height - max(-bottom, 0), max(-left, 0) : width - max(-right, 0)]
        pads = ((0, 0), (0, 0), (max(top, 0), max(bottom, 0)), (max(left, 0), max(right, 0)))
        return np.pad(kept, pads, constant_values=np.asarray(self.value, x.dtype))

    def cost(self, *operands: TensorType) -> Cost:
        return Cost(0, traffic(*operands, *self.result_types(*operands)))

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        # What was added is cut off, and what was cut off had no influence: zeros.
        (dy,) = cotangents
        top, left, bottom, right = self.sides
        return (b.add(Pad((-top, -left, -bottom, -right)), dy),)
