"""Sums: over everything but the channels, and over everything."""

from __future__ import annotations

from typing import ClassVar

from convc.ir.op import Array, Op, require
from convc.ir.types import TensorType
from convc.lazy import dataclass


@dataclass(frozen=True)
class ChannelSum(Op):
    """(N, C, …) -> (C,): the gradient of whatever was spread along the channels."""

    name: ClassVar[str] = "channel_sum"
    reduces_batch: ClassVar[bool] = True

    def infer(self, x: TensorType) -> TensorType:
        require(x.rank >= 2, "there are no channels in {}", x)
        return TensorType(x.dtype.accumulator, (x.shape[1],))

    def reference(self, x: Array) -> Array:
        return x.sum(axis=(0, *range(2, x.ndim)))


@dataclass(frozen=True)
class Sum(Op):
    """The sum of all elements, a scalar."""

    name: ClassVar[str] = "sum"
    reduces_batch: ClassVar[bool] = True

    def infer(self, x: TensorType) -> TensorType:
        return TensorType(x.dtype.accumulator, ())

    def reference(self, x: Array) -> Array:
        return x.sum()
