"""Pooling and its gradients, channel by channel."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from convc.ir.op import Array, Cost, Cotangents, Op, require, traffic
from convc.ir.types import TensorType
from convc.ir.window import Pair, Sides, Window
from convc.lazy import dataclass

if TYPE_CHECKING:
    from convc.ir.builder import Builder
    from convc.ir.graph import Node


@dataclass(frozen=True)
class _Pooling(Op):
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Sides = (0, 0, 0, 0)
    ceil: bool = False
    dilation: Pair = field(default=(1, 1), kw_only=True)

    @property
    def window(self) -> Window:
        return Window(self.kernel, self.stride, self.padding, self.dilation, self.ceil)

    def pooled(self, x: TensorType) -> TensorType:
        require(x.rank == 4, "pooling reads images (N, C, H, W), not {}", x)
        return x.with_shape((*x.shape[:2], *self.outputs((x.shape[2], x.shape[3]))))

    def outputs(self, size: Pair) -> Pair:
        """Output rows and columns; raises `InferError` where the geometry is senseless or the window does not fit."""
        self.window.check()
        oh, ow = self.window.output_size(size)
        fits = oh > 0 and ow > 0
        window = self.window
        require(fits, "window {}x{} is larger than the padded input {}x{}", *window.extent, *window.padded(size))
        top, left, bottom, right = self.padding
        require(
            max(top, bottom) < self.kernel[0] and max(left, right) < self.kernel[1],
            "padding {} must be smaller than the window {}x{}, or a window could hold no pixel",
            self.padding,
            *self.kernel,
        )
        for axis, count in enumerate((oh, ow)):
            require(
                self.dilation[axis] <= size[axis] or _always_reads(window, axis, count, size[axis]),
                "with dilation {} a window {}x{} on {}x{} pixels could hold none of them",
                self.dilation,
                *self.kernel,
                *size,
            )
        return oh, ow

    def cost(self, *operands: TensorType) -> Cost:
        results = self.result_types(*operands)
        windows = min(t.size for t in (*operands, *results))
        return Cost(windows * self.kernel[0] * self.kernel[1], traffic(*operands, *results))


def _always_reads(window: Window, axis: int, count: int, size: int) -> bool:
    """Whether each window along an axis has a tap from 0 to before `size`: taps far apart may step over the image."""
    starts = np.arange(count)[:, None] * window.stride[axis] - window.padding[axis]
    taps = starts + np.arange(window.kernel[axis]) * window.dilation[axis]
    return bool(((taps >= 0) & (taps < size)).any(1).all())


@dataclass(frozen=True)
class MaxPool(_Pooling):
    """The largest value under each window; padding never wins."""

    name: ClassVar[str] = "max_pool"

    def infer(self, x: TensorType) -> TensorType:
        return self.pooled(x)

    def reference(self, x: Array) -> Array:
        return self.window.patches(x, fill=-np.inf).max((4, 5))

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        (dy,) = cotangents
        attributes = self.attributes
        return (b.add(MaxPoolBackward(**attributes), dy, node.operands[0], node.result),)


@dataclass(frozen=True)
class MaxPoolBackward(_Pooling):
    """dy, x, y -> dx: each window's cotangent goes to its first maximum in row-major order."""

    name: ClassVar[str] = "max_pool_backward"

    def infer(self, dy: TensorType, x: TensorType, y: TensorType) -> TensorType:
        require(dy.shape == y.shape == self.pooled(x).shape, "the cotangent is {}, the pool gives {}", dy, y)
        return x.with_shape(x.shape)

    def reference(self, dy: Array, x: Array, y: Array) -> Array:
        patches = self.window.patches(x, fill=-np.inf)
        taps = self.kernel[0] * self.kernel[1]
        flat = patches.reshape(*patches.shape[:4], taps)
        first = np.eye(taps, dtype=dy.dtype)[(flat == y[..., None]).argmax(-1)]
        return self.window.scatter((first * dy[..., None]).reshape(patches.shape), (x.shape[2], x.shape[3]))


@dataclass(frozen=True)
class AvgPool(_Pooling):
    """The mean under each window; padding counts in the divisor unless `count_padding` is off."""

    name: ClassVar[str] = "avg_pool"
    count_padding: bool = True

    def infer(self, x: TensorType) -> TensorType:
        return self.pooled(x).with_dtype(x.dtype.real)

    def reference(self, x: Array) -> Array:
        return self.window.patches(x).sum((4, 5)) / self.divisors((x.shape[2], x.shape[3])).astype(x.dtype)

    def divisors(self, size: Pair) -> Array:
        """(OH, OW): how many positions each window averages over.

        Declared padding counts (as in PyTorch); what a partial last window sees beyond it does not.
        """
        ones = np.ones((1, 1, *size))
        if self.count_padding:
            top, left, bottom, right = self.padding
            ones = np.pad(ones, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=1)
            window = Window(self.kernel, self.stride, dilation=self.dilation)
            output = self.window.output_size(size)
            missing = [
                max(0, (o - 1) * s + extent - p)
                for o, s, extent, p in zip(output, self.stride, window.extent, ones.shape[2:], strict=True)
            ]
            ones = np.pad(ones, ((0, 0), (0, 0), (0, missing[0]), (0, missing[1])))
            return window.view(ones, output).sum((4, 5))[0, 0]
        return self.window.patches(ones).sum((4, 5))[0, 0]

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        (dy,) = cotangents
        x = node.operands[0]
        return (b.add(AvgPoolBackward(size=(x.shape[2], x.shape[3]), **self.attributes), dy),)


@dataclass(frozen=True)
class AvgPoolBackward(_Pooling):
    """dy (N, C, OH, OW) -> dx (N, C, *size): each cotangent is spread evenly over its window."""

    name: ClassVar[str] = "avg_pool_backward"
    count_padding: bool = True
    size: Pair = (1, 1)

    @property
    def forward(self) -> AvgPool:
        return AvgPool(self.kernel, self.stride, self.padding, self.ceil, self.count_padding, dilation=self.dilation)

    def infer(self, dy: TensorType) -> TensorType:
        require(dy.rank == 4, "pooling reads images (N, C, H, W), not {}", dy)
        expected = self.outputs(self.size)
        require(dy.shape[2:] == expected, "the cotangent is {}, the pool gives {}", dy.shape[2:], expected)
        return dy.with_shape((*dy.shape[:2], *self.size))

    def reference(self, dy: Array) -> Array:
        share = dy / self.forward.divisors(self.size).astype(dy.dtype)
        patches = np.broadcast_to(share[..., None, None], (*dy.shape, *self.kernel))
        return self.window.scatter(patches, self.size)

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        (ddx,) = cotangents
        return (b.add(self.forward, ddx),)
