"""Convolution and its two gradients.

    y[n,k,i,j] = b[k] + Σ_{c,r,s} x[n, c, i·sh + r·dh − top, j·sw + s·dw − left] · w[k,c,r,s]

Everything that the compiler knows about convolution as mathematics is in this file. How it becomes machine code is
the back ends' business.
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from convc.ir.op import HIDDEN_DEFAULT, Array, Cost, Cotangents, Op, product_type, require, traffic
from convc.ir.types import TensorType
from convc.ir.window import Pair, Sides, Window
from convc.lazy import dataclass

if TYPE_CHECKING:
    from convc.ir.builder import Builder
    from convc.ir.graph import Node


# The ways to compute a convolution, by family: a file may name either. What each is: convc/passes/algorithms.
ALGORITHM_FAMILIES: dict[str, tuple[str, ...]] = {
    "direct": ("direct",),
    "im2col": ("im2col",),
    "winograd": (
        *("winograd_f2x3", "winograd_f4x3", "winograd_f6x3"),
        *("winograd_f2x5", "winograd_f4x5"),
        "winograd_f2x7",
    ),
    "fft": ("fft_8", "fft_16", "fft_32"),
    "strassen": ("strassen",),
}
ALGORITHM_WORDS: tuple[str, ...] = (
    "auto",
    *dict.fromkeys(word for family, names in ALGORITHM_FAMILIES.items() for word in (family, *names)),
)


@dataclass(frozen=True)
class _Convolution(Op):
    """What the three directions share: the window's geometry and the grouping of channels."""

    stride: Pair = (1, 1)
    padding: Sides = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    # How it is computed, not what: a family as a file asks for it, or what `choose-algorithms` has decided.
    algorithm: str = field(default="auto", kw_only=True, metadata=HIDDEN_DEFAULT)

    def window(self, kernel: Pair) -> Window:
        return Window(kernel, self.stride, self.padding, self.dilation)

    def outputs(self, kernel: tuple[int, ...], size: tuple[int, ...]) -> Pair:
        """Output rows and columns; raises `InferError` where the geometry is senseless or the kernel does not fit."""
        window, image = self.window((kernel[0], kernel[1])), (size[0], size[1])
        window.check()
        require(self.algorithm in ALGORITHM_WORDS, "there is no algorithm {}", self.algorithm)
        oh, ow = window.output_size(image)
        fits = oh > 0 and ow > 0
        require(fits, "kernel {}x{} is larger than the padded input {}x{}", *window.extent, *window.padded(image))
        return oh, ow

    def split(self, channels: int, what: str) -> int:
        """Channels per group."""
        whole = self.groups >= 1 and channels % self.groups == 0
        require(whole, "{} {} channels do not split into {} groups", channels, what, self.groups)
        return channels // self.groups

    @property
    def geometry(self) -> dict[str, object]:
        """The attributes that the gradients take over."""
        return {name: getattr(self, name) for name in ("stride", "padding", "dilation", "groups", "algorithm")}


@dataclass(frozen=True)
class Conv2d(_Convolution):
    """2-D cross-correlation of NCHW images with KCRS filters.

    Operands: x (N, C, H, W); w (K, C/groups, R, S); optional b (K). Result: (N, K, OH, OW).
    """

    name: ClassVar[str] = "conv2d"

    def infer(self, x: TensorType, w: TensorType, b: TensorType | None = None) -> TensorType:
        require(x.rank == 4, "a convolution reads images (N, C, H, W), not {}", x)
        require(w.rank == 4, "filters have the shape (K, C/groups, R, S), not {}", w)
        dtype = product_type(x, w, "images {} against filters {}")
        n, c, height, width = x.shape
        k, c_group, *kernel = w.shape
        fits = c == c_group * self.groups
        require(fits, "{} input channels, but the filter reads {} x {} groups", c, c_group, self.groups)
        self.split(k, "output")
        require(b is None or b.shape == (k,), "the bias must have {} elements, not {}", k, b)
        return TensorType(dtype, (n, k, *self.outputs(tuple(kernel), (height, width))))

    def reference(self, x: Array, w: Array, b: Array | None = None) -> Array:
        k, c_group, r, s = w.shape
        patches = self.window((r, s)).patches(x)
        n, _, oh, ow = patches.shape[:4]
        patches = patches.reshape(n, self.groups, c_group, oh, ow, r, s)
        filters = w.reshape(self.groups, k // self.groups, c_group, r, s)
        y = np.einsum("ngcijrs,gkcrs->ngkij", patches, filters, optimize=True).reshape(n, k, oh, ow)
        return y if b is None else y + b[:, None, None]

    def cost(self, *operands: TensorType) -> Cost:
        y = self.result_types(*operands)[0]
        w = operands[1]
        return Cost(flops=2 * y.size * (w.size // w.shape[0]), bytes=traffic(*operands, y))

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        # L depends on x only through y:  dx[n,c,u,v] = Σ dy[n,k,i,j] · w[k,c,r,s] over i·sh + r·dh − top = u, likewise
        # v: a convolution of dy, spread by the stride, with the filters turned by 180°. For dw the batch and the
        # positions are the reduction axes: dw[k,c,r,s] = Σ_{n,i,j} dy[n,k,i,j] · x[n, c, i·sh + r·dh − top, …].
        # Both are ops of their own, because their kernels, layouts and algorithm choice are their own.
        from convc.ir.ops.reduce import ChannelSum

        (dy,) = cotangents
        x, w = node.operands[:2]
        dx = b.add(Conv2dBackwardData(size=(x.shape[2], x.shape[3]), **self.geometry), dy, w)  # type: ignore[arg-type]
        dw = b.add(Conv2dBackwardWeights(kernel=(w.shape[2], w.shape[3]), **self.geometry), x, dy)  # type: ignore[arg-type]
        return (dx, dw) if len(node.operands) == 2 else (dx, dw, b.add(ChannelSum(), dy))


@dataclass(frozen=True)
class Conv2dBackwardData(_Convolution):
    """Gradient of `conv2d` by its images (also: transposed convolution). dy (N, K, OH, OW), w -> (N, C, *size)."""

    name: ClassVar[str] = "conv2d_backward_data"
    size: Pair = (1, 1)

    def infer(self, dy: TensorType, w: TensorType) -> TensorType:
        require(dy.rank == 4 and w.rank == 4, "images and filters have four dimensions, not {} and {}", dy, w)
        require(dy.dtype is w.dtype, "images {} against filters {}", dy, w)
        n, k = dy.shape[:2]
        require(k == w.shape[0], "{} channels, but {} filters", k, w.shape[0])
        self.split(k, "output")
        expected = self.outputs(w.shape[2:], self.size)
        require(dy.shape[2:] == expected, "the cotangent is {}, but the convolution gives {}", dy.shape[2:], expected)
        return dy.with_shape((n, w.shape[1] * self.groups, *self.size))

    def reference(self, dy: Array, w: Array) -> Array:
        k, c_group, r, s = w.shape
        n, _, oh, ow = dy.shape
        cotangents = dy.reshape(n, self.groups, k // self.groups, oh, ow)
        filters = w.reshape(self.groups, k // self.groups, c_group, r, s)
        patches = np.einsum("ngkij,gkcrs->ngcijrs", cotangents, filters, optimize=True)
        return self.window((r, s)).scatter(patches.reshape(n, self.groups * c_group, oh, ow, r, s), self.size)

    def cost(self, *operands: TensorType) -> Cost:
        dy, w = operands
        flops = 2 * dy.size * (w.size // w.shape[0])
        return Cost(flops, traffic(*operands, *self.result_types(*operands)))

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        # The op is linear in dy and in w, and the adjoint of conv2d in its first operand.
        (ddx,) = cotangents
        dy, w = node.operands
        geometry = self.geometry
        return (
            b.add(Conv2d(**geometry), ddx, w),  # type: ignore[arg-type]
            b.add(Conv2dBackwardWeights(kernel=(w.shape[2], w.shape[3]), **geometry), ddx, dy),  # type: ignore[arg-type]
        )


@dataclass(frozen=True)
class Conv2dBackwardWeights(_Convolution):
    """Gradient of `conv2d` by its filters. x (N, C, H, W), dy (N, K, OH, OW) -> (K, C/groups, *kernel)."""

    name: ClassVar[str] = "conv2d_backward_weights"
    reduces_batch: ClassVar[bool] = True
    kernel: Pair = (1, 1)

    def infer(self, x: TensorType, dy: TensorType) -> TensorType:
        require(x.rank == 4 and dy.rank == 4, "images have four dimensions, not {} and {}", x, dy)
        require(x.shape[0] == dy.shape[0], "{} images against {}", x.shape[0], dy.shape[0])
        require(x.dtype is dy.dtype, "images {} against cotangents {}", x, dy)
        self.split(dy.shape[1], "output")
        expected = self.outputs(self.kernel, x.shape[2:])
        require(dy.shape[2:] == expected, "the cotangent is {}, but the convolution gives {}", dy.shape[2:], expected)
        gradient = x.with_shape((dy.shape[1], self.split(x.shape[1], "input"), *self.kernel))
        return gradient.with_dtype(x.dtype.accumulator)

    def reference(self, x: Array, dy: Array) -> Array:
        patches = self.window(self.kernel).patches(x)
        n, c, oh, ow, r, s = patches.shape
        patches = patches.reshape(n, self.groups, c // self.groups, oh, ow, r, s)
        cotangents = dy.reshape(n, self.groups, dy.shape[1] // self.groups, oh, ow)
        dw = np.einsum("ngcijrs,ngkij->gkcrs", patches, cotangents, optimize=True)
        return dw.reshape(dy.shape[1], c // self.groups, r, s)

    def cost(self, *operands: TensorType) -> Cost:
        x, dy = operands
        (dw,) = self.result_types(*operands)
        return Cost(2 * dy.size * (dw.size // dw.shape[0]), traffic(x, dy, dw))

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        # Linear in x and in dy: by x it is backward data with dw's cotangent as the filter, by dy a convolution.
        (ddw,) = cotangents
        x, dy = node.operands
        geometry = self.geometry
        return (
            b.add(Conv2dBackwardData(size=(x.shape[2], x.shape[3]), **geometry), dy, ddw),  # type: ignore[arg-type]
            b.add(Conv2d(**geometry), x, ddw),  # type: ignore[arg-type]
        )
