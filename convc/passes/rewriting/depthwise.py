"""A convolution as a depthwise and a pointwise one, from its trained weights.

    conv K k=(R, S)    →    conv m·C k=(R, S) groups=C bias=no  ->  conv K k=1

The composition is w[k,c] = Σ_{j<m} point[k, c·m + j]·depth[c·m + j]: for each input channel c the matrix of filters by
taps, K x (R·S), as a product of rank m, the depth multiplier. The singular value decomposition of each channel's matrix
gives the best one, exact at m = min(K, R·S). (Guo, Li, Lin, Chen, Dong: "Network decoupling: from regular to depthwise
separable convolutions", 2018.) The depthwise layer has the stride, padding and dilation of the old one. Without a rank
it is 1, as in MobileNet.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from convc.ir.ops.conv import Conv2d
from convc.lazy import dataclass
from convc.passes.rewriting.layer import Layer
from convc.passes.rewriting.ranked import Decision, Factors, RankedRule, Ranks
from convc.passes.rewriting.spectrum import Spectrum


@dataclass(frozen=True)
class DepthwiseSeparable(RankedRule):
    """k x k → depthwise k x k and 1 x 1; the rank is the depth multiplier, the same for all channels."""

    name: ClassVar[str] = "depthwise"

    def unfit(self, old: Layer) -> str | None:
        if not isinstance(old.op, Conv2d):
            return "it is not a convolution"
        if old.op.groups > 1:
            return f"it has {old.op.groups} groups already"
        return "its kernel 1x1 mixes channels only" if old.weight and old.weight[2:] == (1, 1) else None

    def full_ranks(self, old: Layer) -> Ranks:
        assert old.weight is not None
        filters, _, rows, columns = old.weight
        return (min(filters, rows * columns),)

    def usual(self, old: Layer) -> Decision:
        return Decision((1,), "one depthwise filter per channel, as nothing was asked for")

    def layers(self, old: Layer, ranks: Ranks) -> tuple[Layer, ...]:
        (rank,) = ranks
        assert isinstance(old.op, Conv2d)
        assert old.weight is not None
        filters, channels, *kernel = old.weight
        window = Conv2d(old.op.stride, old.op.padding, old.op.dilation, groups=channels)
        first = Layer(window, old.input, (rank * channels, 1, *kernel))
        return first, Layer(Conv2d(), first.output, (filters, rank * channels, 1, 1), old.bias)

    def take_apart(self, old: Layer, weight: np.ndarray) -> Factors:
        filters, channels, *kernel = weight.shape
        matrices = weight.transpose(1, 0, 2, 3).reshape(channels, filters, -1)
        u, sigma, v = np.linalg.svd(matrices, full_matrices=False)

        def cut(rank: int) -> tuple[np.ndarray, ...]:
            share = np.sqrt(sigma[:, :rank])
            depth = (share[:, :, None] * v[:, :rank]).reshape(channels * rank, 1, *kernel)
            point = (u[:, :, :rank] * share[:, None, :]).transpose(1, 0, 2)
            return depth, point.reshape(filters, channels * rank, 1, 1)

        return Factors.of(Spectrum(np.sum(sigma**2, axis=0)), cut)

    def method(self, old: Layer) -> str:
        assert old.weight is not None
        filters, channels, rows, columns = old.weight
        return f"singular values of the {filters} x {rows * columns} taps of each of {channels} channels"
