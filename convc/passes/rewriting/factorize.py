"""A k x k convolution as a row of taps and a column of taps, from its trained weights.

    conv K k=(R, S)    →    conv r k=(1, S) bias=no  ->  conv K k=(R, 1)          (order=horizontal)
                            conv r k=(R, 1) bias=no  ->  conv K k=(1, S)          (order=vertical)

Two such layers compute w[k,c,i,j] = Σ_m column[k,m,i]·row[m,c,j]: the matrix with rows (c, j) and columns (k, i), the
(in·kw) x (out·kh) unfolding of the kernel, as a product through r inner channels. The singular value decomposition
gives the best one in the Frobenius norm (Eckart–Young), exact at rank min(in·kw, out·kh); vertical first it is
(in·kh) x (out·kw). (Jaderberg, Vedaldi, Zisserman: "Speeding up convolutional neural networks with low rank
expansions", 2014, scheme 2; Denton et al.: "Exploiting linear structure within convolutional networks", 2014.)

The first layer has the stride, padding and dilation of its axis, the second those of the other. It has no bias, so that
what it gives for a row of padding is zero, and nothing is lost at the border. Without a rank the inner width is the
number of filters, as in the lectures: 6C² weights in place of 9C².
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from convc.ir.ops.conv import Conv2d
from convc.lazy import dataclass
from convc.passes.rewriting.layer import Layer
from convc.passes.rewriting.ranked import Decision, Factors, RankedRule, Ranks
from convc.passes.rewriting.spectrum import Spectrum


@dataclass(frozen=True)
class Factorize(RankedRule):
    """k x k → 1 x k and k x 1; `order` says which of them is first."""

    name: ClassVar[str] = "factorize"
    order: Literal["horizontal", "vertical"] = "horizontal"

    def unfit(self, old: Layer) -> str | None:
        if not isinstance(old.op, Conv2d):
            return "it is not a convolution"
        if old.op.groups > 1:
            return f"its {old.op.groups} groups do not mix channels, as the inner ones would"
        _, _, rows, columns = _shape(old)
        if min(rows, columns) == 1:
            return f"its kernel {rows}x{columns} is one row or column already"
        return None

    def full_ranks(self, old: Layer) -> Ranks:
        filters, channels, rows, columns = _shape(old)
        first, second = (columns, rows) if self.order == "horizontal" else (rows, columns)
        return (min(channels * first, filters * second),)

    def usual(self, old: Layer) -> Decision:
        (full,) = self.full_ranks(old)
        return Decision((min(_shape(old)[0], full),), "as many inner channels as filters, as nothing was asked for")

    def layers(self, old: Layer, ranks: Ranks) -> tuple[Layer, ...]:
        (rank,) = ranks
        assert isinstance(old.op, Conv2d)
        filters, channels, rows, columns = _shape(old)
        (down, across), (top, left, bottom, right), (far, wide) = old.op.stride, old.op.padding, old.op.dilation
        row = Conv2d((1, across), (0, left, 0, right), (1, wide))
        column = Conv2d((down, 1), (top, 0, bottom, 0), (far, 1))
        if self.order == "horizontal":
            first = Layer(row, old.input, (rank, channels, 1, columns))
            return first, Layer(column, first.output, (filters, rank, rows, 1), old.bias)
        first = Layer(column, old.input, (rank, channels, rows, 1))
        return first, Layer(row, first.output, (filters, rank, 1, columns), old.bias)

    def take_apart(self, old: Layer, weight: np.ndarray) -> Factors:
        # (c, taps of the first) x (k, taps of the second)
        horizontal = self.order == "horizontal"
        unfolded = weight.transpose((1, 3, 0, 2) if horizontal else (1, 2, 0, 3))
        channels, near, filters, far = unfolded.shape
        u, sigma, v = np.linalg.svd(unfolded.reshape(channels * near, filters * far), full_matrices=False)

        def cut(rank: int) -> tuple[np.ndarray, ...]:
            # The singular values are shared out evenly, so that both layers learn at the same pace afterwards.
            share = np.sqrt(sigma[:rank])
            first = (u[:, :rank] * share).T.reshape(rank, channels, near)
            second = (v[:rank].T * share).reshape(filters, far, rank).transpose(0, 2, 1)
            if horizontal:
                return first[:, :, None, :], second[:, :, :, None]
            return first[:, :, :, None], second[:, :, None, :]

        return Factors.of(Spectrum(sigma**2), cut)

    def method(self, old: Layer) -> str:
        filters, channels, rows, columns = _shape(old)
        first, second = (columns, rows) if self.order == "horizontal" else (rows, columns)
        return f"singular values of the {channels * first} x {filters * second} unfolding"


def _shape(old: Layer) -> tuple[int, int, int, int]:
    assert old.weight is not None
    filters, channels, rows, columns = old.weight
    return filters, channels, rows, columns
