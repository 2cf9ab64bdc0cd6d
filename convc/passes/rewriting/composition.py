"""The one linear layer that a chain of linear layers is: the composition of its kernels.

    y[i] = Σ_t a[t]·x[p·i + t + start]        (a layer that reads x, or the composition of several)
    z[j] = Σ_v b[v]·y[s·j + d·v − pad]        (the next one: stride s, dilation d)

    z[j] = Σ_v Σ_t b[v]·a[t]·x[p·s·j + (t + p·d·v) + (start − p·pad)]

so taps add up as t + p·d·v, summed over the channels between; strides multiply. This is what the chain computes where
no window reaches over the border. At the border it is exact as well as long as only the first layer of a chain pads,
or values outside the image would be zero anyway; where a later layer pads, it reads zeros in place of the values that
the earlier ones would have there.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from convc.ir.ops.conv import Conv2d
from convc.ir.ops.linear import Linear
from convc.ir.window import Pair
from convc.lazy import dataclass
from convc.passes.rewriting.layer import Layer, Weights


@dataclass(frozen=True, eq=False)
class Kernel:
    """A linear layer on the grid of its input: taps (K, C, R, S), dilation and groups spelled out as zeros.

    Position i reads from i·stride + start on, per axis.
    """

    taps: np.ndarray
    start: Pair
    stride: Pair

    @property
    def extent(self) -> Pair:
        return self.taps.shape[2], self.taps.shape[3]

    def embedded(self, start: Pair, extent: Pair) -> np.ndarray:
        """The taps in a larger window, with zeros around them."""
        offset = [mine - theirs for mine, theirs in zip(self.start, start, strict=True)]
        pads = [(before, whole - before - own) for before, whole, own in zip(offset, extent, self.extent, strict=True)]
        return np.pad(self.taps, [(0, 0), (0, 0), *pads])


def compose(second: np.ndarray, first: np.ndarray, step: Pair = (1, 1)) -> np.ndarray:
    """Taps of `second` (K, M, R', S'), `step` apart, behind those of `first` (M, C, R, S): (K, C, …)."""
    k, m, rows, columns = second.shape
    _, c, height, width = first.shape
    flat = first.reshape(m, -1)
    result = np.zeros((k, c, height + step[0] * (rows - 1), width + step[1] * (columns - 1)), first.dtype)
    for r in range(rows):
        for s in range(columns):
            part = (second[:, :, r, s] @ flat).reshape(k, c, height, width)
            result[:, :, r * step[0] : r * step[0] + height, s * step[1] : s * step[1] + width] += part
    return result


def kernel_of(layers: Iterable[Layer], weights: Iterable[Weights]) -> Kernel:
    """The composition of convolutions, or of fully connected layers (as 1x1 kernels), in float64."""
    result: Kernel | None = None
    for layer, own in zip(layers, weights, strict=True):
        taps = _dense(layer, own["weight"].astype(np.float64))
        stride, padding, dilation = (1, 1), (0, 0), (1, 1)
        if isinstance(layer.op, Conv2d):
            stride, padding, dilation = layer.op.stride, layer.op.padding[:2], layer.op.dilation
        if result is None:
            unit = np.ones((1, 1, 1, 1))
            spread = compose(taps.reshape(-1, 1, *taps.shape[2:]), unit, dilation)
            taps = spread.reshape(*taps.shape[:2], *spread.shape[2:])
            result = Kernel(taps, (-padding[0], -padding[1]), stride)
            continue
        steps = result.stride[0] * dilation[0], result.stride[1] * dilation[1]
        result = Kernel(
            compose(taps, result.taps, steps),
            (result.start[0] - result.stride[0] * padding[0], result.start[1] - result.stride[1] * padding[1]),
            (result.stride[0] * stride[0], result.stride[1] * stride[1]),
        )
    assert result is not None
    return result


def kernel_error(new: Kernel, old: Kernel) -> float:
    """‖new − old‖ / ‖old‖ (Frobenius) with each tap at the pixel that it reads; ‖new‖ where the old one is zero."""
    assert new.stride == old.stride, f"strides {new.stride} and {old.stride}"
    start = min(new.start[0], old.start[0]), min(new.start[1], old.start[1])
    extent = tuple(
        max(kernel.start[axis] + kernel.extent[axis] for kernel in (new, old)) - start[axis] for axis in (0, 1)
    )
    expected = old.embedded(start, (extent[0], extent[1]))
    return relative(new.embedded(start, (extent[0], extent[1])), expected)


def relative(actual: np.ndarray, expected: np.ndarray) -> float:
    """‖actual − expected‖ / ‖expected‖ over all elements; ‖actual‖ where nothing is expected."""
    scale = np.linalg.norm(expected.astype(np.float64))
    return float(np.linalg.norm(actual.astype(np.float64) - expected) / (scale or 1.0))


def _dense(layer: Layer, weight: np.ndarray) -> np.ndarray:
    """Weights (K, C, R, S) over all input channels: zeros between groups."""
    if isinstance(layer.op, Linear):
        return weight[:, :, None, None]
    assert isinstance(layer.op, Conv2d)
    groups = layer.op.groups
    if groups == 1:
        return weight
    k, c, *kernel = weight.shape
    dense = np.zeros((groups, k // groups, groups, c, *kernel))
    for group in range(groups):
        dense[group, :, group] = weight.reshape(groups, k // groups, c, *kernel)[group]
    return dense.reshape(k, groups * c, *kernel)
