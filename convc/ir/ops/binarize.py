"""Weights of one bit: the sign of each, and one number per output (Rastegari, Ordonez, Redmon & Farhadi 2016)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from convc.ir.op import Array, Cost, Cotangents, Op, traffic
from convc.ir.ops.units import check_units
from convc.ir.types import TensorType
from convc.lazy import dataclass

if TYPE_CHECKING:
    from convc.ir.builder import Builder
    from convc.ir.graph import Node


@dataclass(frozen=True)
class Binarize(Op):
    """w (K, …) -> αₖ·sign(w), with αₖ the mean of |w| over the weights of output k, and sign(0) = 1.

    Of all αₖ·b with b of −1 and 1 this is the nearest to w (XNOR-Net's binary-weight networks).

    Its derivative is zero almost everywhere, so that w would never move. The gradient is the straight-through
    estimator (Bengio, Léonard & Courville 2013): the cotangent goes to w as if the op did nothing, where |w| <= 1, and
    is 0 elsewhere, so that weights whose sign is settled do not grow without end (Courbariaux et al. 2015, 2016). αₖ
    counts as no function of w there, and no factor either: XNOR-Net's αₖ and 1/n are left out, as the result as a whole
    stands for w.
    """

    name: ClassVar[str] = "binarize"

    def infer(self, w: TensorType) -> TensorType:
        check_units(w, 0, 1)
        return w.with_shape(w.shape)

    def reference(self, w: Array) -> Array:
        # Added up in float64, as native code does: the order of a sum shows in its last bits only, which are dropped.
        sizes = np.abs(w.astype(np.float64)).reshape(len(w), -1)
        means = (sizes.sum(1) / math.prod(w.shape[1:])).astype(w.dtype).reshape(-1, *(1,) * (w.ndim - 1))
        return np.where(w < 0, -means, means)

    def cost(self, *operands: TensorType) -> Cost:
        return Cost(3 * operands[0].size, traffic(operands[0], operands[0]))

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        from convc.ir.ops.elementwise import Absolute, Greater, Select

        (dy,) = cotangents
        outside = b.add(Greater(), b.add(Absolute(), node.operands[0]), b.constant(1.0))
        return (b.add(Select(), outside, b.constant(0.0), dy),)
