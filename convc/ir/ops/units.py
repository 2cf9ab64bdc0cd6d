"""Weights unit by unit: scaling those of each unit by a number, and summing them. Weights are computed this way.

A unit is an index of dimension `axis`: the outputs of a layer lie along axis 0, its inputs along axis 1. Groups of a
convolution share dimension 1, so that along axis 1 each of the `groups` has units of its own: unit g·C + c are the
weights [k, c, …] of the outputs k of group g.
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


def check_units(w: TensorType, axis: int, groups: int) -> int:
    """How many units weights have; raises `InferError` where the question is senseless."""
    require(w.rank >= 2, "units have weights of two or more dimensions, not {}", w)
    require(axis in (0, 1), "the units of weights lie along axis 0 or 1, not {}", axis)
    fits = groups >= 1 and (groups == 1 or (axis == 1 and w.shape[0] % groups == 0))
    require(fits, "{} groups do not divide {} along axis {}", groups, w, axis)
    return groups * w.shape[axis]


def unit_parts(w: Array, groups: int) -> Array:
    """Weights as (groups, outputs of a group, inputs, everything else)."""
    return w.reshape(groups, w.shape[0] // groups, w.shape[1], -1)


def _spread(vector: Array, axis: int, groups: int) -> Array:
    """One number per unit, against `unit_parts`."""
    return vector.reshape(1, -1, 1, 1) if axis == 0 else vector.reshape(groups, 1, -1, 1)


@dataclass(frozen=True)
class ScaleWeights(Op):
    """w, scale (one number per unit) -> w, the weights of each unit times its number."""

    name: ClassVar[str] = "scale_weights"
    axis: int = 0
    groups: int = 1

    def infer(self, w: TensorType, scale: TensorType) -> TensorType:
        units = check_units(w, self.axis, self.groups)
        require(scale.shape == (units,), "{} units need one factor each, not {}", units, scale)
        return w.with_shape(w.shape)

    def reference(self, w: Array, scale: Array) -> Array:
        return (unit_parts(w, self.groups) * _spread(scale, self.axis, self.groups)).reshape(w.shape)

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        # y[i] = w[i]·s[u(i)]: dw is dy scaled likewise, and s[u] collects dy·w from all weights of its unit.
        from convc.ir.ops.elementwise import Multiply

        (dy,) = cotangents
        assert dy is not None
        w, scale = node.operands
        sums = SumWeights(self.axis, self.groups)
        return b.add(self, dy, scale), b.add(sums, b.add(Multiply(), dy, w))


@dataclass(frozen=True)
class SumWeights(Op):
    """w -> the sum of the weights of each unit."""

    name: ClassVar[str] = "sum_weights"
    axis: int = 0
    groups: int = 1

    def infer(self, w: TensorType) -> TensorType:
        return w.with_shape((check_units(w, self.axis, self.groups),))

    def reference(self, w: Array) -> Array:
        return unit_parts(w, self.groups).sum((2, 3) if self.axis == 0 else (1, 3)).ravel()

    def cost(self, *operands: TensorType) -> Cost:
        return Cost(operands[0].size, traffic(*operands, *self.result_types(*operands)))

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        # Every weight of a unit gets the unit's cotangent.
        from convc.ir.ops.constant import Constant

        (dy,) = cotangents
        ones = b.add(Constant.of(np.ones(node.operands[0].shape, np.float32)))
        return (b.add(ScaleWeights(self.axis, self.groups), ones, dy),)
