"""A convolution as a product of matrices, in float64: patches times weights.

`patches` has a row for each position of each image and a column for each (tap row, tap column, channel), with a last
column of ones where the layer has a bias; a matrix of weights has the filters as rows and the same columns. Images are
(N, H, W, C).
"""

from __future__ import annotations

from functools import cached_property
from itertools import product
from math import prod

import numpy as np

from convc.ir.ops.conv import Conv2d
from convc.ir.types import Shape
from convc.lazy import dataclass
from convc.passes.rewriting.layer import Layer, Weights


@dataclass(frozen=True)
class Unfolding:
    """The geometry of a convolution without groups."""

    layer: Layer

    @property
    def columns(self) -> int:
        """Those of the taps, without that of the bias."""
        return prod(self._weight[1:])

    def patches(self, images: np.ndarray, bias: bool) -> np.ndarray:
        """(N·OH·OW, columns), and a column of ones with `bias`."""
        count, height, width, channels = images.shape
        top, left, bottom, right = self._op.padding
        padded = np.zeros((count, height + top + bottom, width + left + right, channels))
        padded[:, top : top + height, left : left + width] = images
        _, rows, across = self._output
        result = np.empty((count, rows, across, self.columns + bias))
        for index, window in enumerate(self._windows):
            result[..., index * channels : (index + 1) * channels] = padded[window]
        if bias:
            result[..., -1] = 1
        return result.reshape(-1, result.shape[-1])

    def images(self, patches: np.ndarray) -> np.ndarray:
        """The adjoint of `patches` without a bias: what lies on the same pixel is added up; padding is dropped."""
        channels, height, width = self.layer.input
        top, left, bottom, right = self._op.padding
        _, rows, across = self._output
        parts = patches.reshape(-1, rows, across, self.columns)
        padded = np.zeros((len(parts), height + top + bottom, width + left + right, channels))
        for index, window in enumerate(self._windows):
            padded[window] += parts[..., index * channels : (index + 1) * channels]
        return padded[:, top : top + height, left : left + width]

    def matrix(self, weights: Weights) -> np.ndarray:
        """Parameters as checkpoints have them in this form."""
        taps = weights["weight"].astype(np.float64).transpose(0, 2, 3, 1).reshape(len(weights["weight"]), -1)
        return np.column_stack([taps, weights["bias"]]) if self.layer.bias else taps

    def weights(self, matrix: np.ndarray) -> Weights:
        """The way back, in float32."""
        filters, channels, rows, across = self._weight
        taps = matrix[:, : self.columns].reshape(filters, rows, across, channels).transpose(0, 3, 1, 2)
        found = {"weight": np.ascontiguousarray(taps, np.float32)}
        return found | ({"bias": matrix[:, -1].astype(np.float32)} if self.layer.bias else {})

    @property
    def _op(self) -> Conv2d:
        assert isinstance(self.layer.op, Conv2d)
        return self.layer.op

    @property
    def _weight(self) -> tuple[int, int, int, int]:
        assert self.layer.weight is not None
        filters, channels, rows, across = self.layer.weight
        return filters, channels, rows, across

    @cached_property
    def _output(self) -> Shape:
        return self.layer.output

    @cached_property
    def _windows(self) -> list[tuple[slice, slice, slice]]:
        """What each tap reads of the padded images."""
        _, _, height, width = self._weight
        _, rows, across = self._output
        (down, right), (far, wide) = self._op.stride, self._op.dilation
        return [
            (
                slice(None),
                slice(r * far, r * far + (rows - 1) * down + 1, down),
                slice(s * wide, s * wide + (across - 1) * right + 1, right),
            )
            for r, s in product(range(height), range(width))
        ]
