"""Sliding windows: output sizes, and the strided views that give convolution and pooling their reference meaning."""

from __future__ import annotations

import numpy as np

from convc.ir.op import require
from convc.lazy import dataclass

Pair = tuple[int, int]
Sides = tuple[int, int, int, int]  # top, left, bottom, right


@dataclass(frozen=True)
class Window:
    """A kernel of `kernel` taps moving over an image; all pairs are (vertical, horizontal)."""

    kernel: Pair
    stride: Pair = (1, 1)
    padding: Sides = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    ceil: bool = False

    def check(self) -> None:
        """Raise `InferError` for a geometry that means nothing, such as a stride of 0."""
        for what, sizes in (("kernel", self.kernel), ("stride", self.stride), ("dilation", self.dilation)):
            require(min(sizes) >= 1, "the {} must be at least 1, not {}", what, sizes)
        require(min(self.padding) >= 0, "the padding must not be negative: {}", self.padding)

    @property
    def extent(self) -> Pair:
        """Rows and columns from the first tap to the last, inclusive."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))  # type: ignore[return-value]

    def padded(self, size: Pair) -> Pair:
        top, left, bottom, right = self.padding
        return size[0] + top + bottom, size[1] + left + right

    def output_size(self, size: Pair) -> Pair:
        """Floor((H + pads - dilation·(k-1) - 1)/s) + 1 per axis; not positive when the window does not fit.

        With `ceil` a last partial window counts if it starts inside the input or its top/left padding.
        """
        result: list[int] = []
        for axis in (0, 1):
            span = self.padded(size)[axis] - self.extent[axis]
            stride = self.stride[axis]
            count = span // stride + 1
            if self.ceil and span % stride and span >= 0 and count * stride < size[axis] + self.padding[axis]:
                count += 1
            result.append(count if span >= 0 else 0)
        return result[0], result[1]

    def unused(self, size: Pair) -> Pair:
        """Rows and columns of *real* pixels at the bottom and right that no window reads."""
        output = self.output_size(size)
        reach = [(o - 1) * s + e for o, s, e in zip(output, self.stride, self.extent, strict=True)]
        return (
            max(0, size[0] + self.padding[0] - reach[0]),
            max(0, size[1] + self.padding[1] - reach[1]),
        )

    def pad(self, x: np.ndarray, fill: float = 0.0) -> np.ndarray:
        """(N, C, H, W) with the padding around it, and what a partial last window needs beyond."""
        size = (x.shape[2], x.shape[3])
        output = self.output_size(size)
        pads = [(0, 0), (0, 0)]
        for axis in (0, 1):
            before = self.padding[axis]
            reach = (output[axis] - 1) * self.stride[axis] + self.extent[axis]
            pads.append((before, max(self.padding[axis + 2], reach - before - size[axis])))
        return np.pad(x, pads, constant_values=fill)

    def patches(self, x: np.ndarray, fill: float = 0.0) -> np.ndarray:
        """A view (N, C, OH, OW, KH, KW) of what each window reads from x (N, C, H, W)."""
        return self.view(self.pad(x, fill), self.output_size((x.shape[2], x.shape[3])))

    def view(self, padded: np.ndarray, output: Pair) -> np.ndarray:
        """The windows over an image that is padded already; writes through it reach `padded`."""
        n, c, down, across = padded.strides
        (sh, sw), (dh, dw) = self.stride, self.dilation
        shape = (*padded.shape[:2], *output, *self.kernel)
        strides = (n, c, down * sh, across * sw, down * dh, across * dw)
        return np.lib.stride_tricks.as_strided(padded, shape, strides)

    def scatter(self, patches: np.ndarray, size: Pair) -> np.ndarray:
        """The adjoint of `patches`: adds (N, C, OH, OW, KH, KW) back into a fresh (N, C, H, W)."""
        n, c, oh, ow = patches.shape[:4]
        padded = self.pad(np.zeros((n, c, *size), patches.dtype))
        (sh, sw), (dh, dw) = self.stride, self.dilation
        for r in range(self.kernel[0]):
            for s in range(self.kernel[1]):
                rows = slice(r * dh, r * dh + (oh - 1) * sh + 1, sh)
                columns = slice(s * dw, s * dw + (ow - 1) * sw + 1, sw)
                padded[:, :, rows, columns] += patches[..., r, s]
        top, left = self.padding[:2]
        return np.ascontiguousarray(padded[:, :, top : top + size[0], left : left + size[1]])
