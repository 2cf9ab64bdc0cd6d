"""Images enlarged by a whole factor, and the gradient of that.

Half-pixel centres: position i of the result lies at (i + ½)/factor − ½ of the source. `nearest` takes the pixel there,
i // factor; `bilinear` mixes the two beside it on each axis; beyond the centres of the outermost pixels their values
hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from convc.ir.op import Array, Cost, Cotangents, Op, require, traffic
from convc.ir.types import TensorType
from convc.lazy import dataclass

if TYPE_CHECKING:
    from convc.ir.builder import Builder
    from convc.ir.graph import Node

MODES = ("nearest", "bilinear")


@dataclass(frozen=True)
class _Resampling(Op):
    factor: int = 2
    mode: str = "nearest"

    def check(self, x: TensorType) -> None:
        require(x.rank == 4, "only images (N, C, H, W) are resampled, not {}", x)
        require(self.factor >= 1, "images are enlarged by a factor of at least 1, not {}", self.factor)
        require(self.mode in MODES, "the mode is nearest or bilinear, not {}", self.mode)

    def weights(self, size: int) -> Array:
        """(size·factor, size): how much each position of the source counts in each of the result, along one axis."""
        matrix = np.zeros((size * self.factor, size))
        position = np.arange(size * self.factor)
        if self.mode == "nearest":
            matrix[position, position // self.factor] = 1
            return matrix
        place = np.clip((position + 0.5) / self.factor - 0.5, 0, size - 1)
        below = np.floor(place).astype(int)
        np.add.at(matrix, (position, below), 1 - (place - below))
        np.add.at(matrix, (position, np.minimum(below + 1, size - 1)), place - below)
        return matrix

    def cost(self, *operands: TensorType) -> Cost:
        results = self.result_types(*operands)
        large = max(t.size for t in (*operands, *results))
        return Cost((8 if self.mode == "bilinear" else 1) * large, traffic(*operands, *results))


@dataclass(frozen=True)
class Upsample(_Resampling):
    """(N, C, H, W) -> (N, C, factor·H, factor·W)."""

    name: ClassVar[str] = "upsample"

    def infer(self, x: TensorType) -> TensorType:
        self.check(x)
        n, c, height, width = x.shape
        return x.with_shape((n, c, height * self.factor, width * self.factor))

    def reference(self, x: Array) -> Array:
        down, across = (self.weights(size).astype(x.dtype) for size in x.shape[2:])
        return np.einsum("iu,ncuv,jv->ncij", down, x, across, optimize=True)

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        # Along each axis y = A·x, so dx = Aᵀ·dy.
        (dy,) = cotangents
        return (b.add(UpsampleBackward(self.factor, self.mode), dy),)


@dataclass(frozen=True)
class UpsampleBackward(_Resampling):
    """dy (N, C, factor·H, factor·W) -> dx (N, C, H, W): each pixel collects what it gave, times its weight."""

    name: ClassVar[str] = "upsample_backward"

    def infer(self, dy: TensorType) -> TensorType:
        self.check(dy)
        n, c, height, width = dy.shape
        whole = height % self.factor == 0 and width % self.factor == 0
        require(whole, "{}x{} is no image enlarged by {}", height, width, self.factor)
        return dy.with_shape((n, c, height // self.factor, width // self.factor))

    def reference(self, dy: Array) -> Array:
        down, across = (self.weights(size // self.factor).astype(dy.dtype) for size in dy.shape[2:])
        return np.einsum("iu,ncij,jv->ncuv", down, dy, across, optimize=True)

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        (ddx,) = cotangents
        return (b.add(Upsample(self.factor, self.mode), ddx),)
