"""The elements of each row in another order: transposition, shuffled channels, depth to space.

All of these are one thing: unfold, exchange axes, fold again.

    channel shuffle, 2 groups    view=(2, C/2, H·W)    order=(1, 0, 2)    shape=(C, H, W)
    depth to space by 2 (DCR)    view=(2, 2, C, H, W)  order=(2, 3, 0, 4, 1)    shape=(C, 2·H, 2·W)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from convc.ir.op import Array, Cost, Cotangents, Op, require, traffic
from convc.ir.types import Shape, TensorType
from convc.lazy import dataclass

if TYPE_CHECKING:
    from convc.ir.builder import Builder
    from convc.ir.graph import Node


@dataclass(frozen=True)
class Rearrange(Op):
    """(N, …) -> (N, *shape): each row unfolded to `view`, its axes put into `order`, and folded to `shape`.

    Axis i of the unfolded result is axis order[i] of `view`, as in numpy's transpose. The batch has no part in it.
    """

    name: ClassVar[str] = "rearrange"
    view: Shape = (1,)
    order: tuple[int, ...] = (0,)
    shape: Shape = (1,)

    def infer(self, x: TensorType) -> TensorType:
        require(x.rank >= 2, "there is nothing to rearrange in {}", x)
        row = math.prod(x.shape[1:])
        fits = min((*self.view, *self.shape), default=1) >= 1 and math.prod(self.view) == row
        require(fits, "the rows of {} do not unfold to {}", x, list(self.view))
        axes = list(range(len(self.view)))
        require(sorted(self.order) == axes, "{} is no order of {} axes", list(self.order), len(axes))
        require(math.prod(self.shape) == row, "{} elements do not fold to {}", row, list(self.shape))
        return x.with_shape((x.shape[0], *self.shape))

    def reference(self, x: Array) -> Array:
        n = len(x)
        return x.reshape(n, *self.view).transpose(0, *(axis + 1 for axis in self.order)).reshape(n, *self.shape)

    def cost(self, *operands: TensorType) -> Cost:
        return Cost(0, traffic(*operands, *self.result_types(*operands)))

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        # Every element appears once in the result: its gradient is carried back to where it came from.
        (dy,) = cotangents
        moved = tuple(self.view[axis] for axis in self.order)
        back = tuple(self.order.index(axis) for axis in range(len(self.order)))
        return (b.add(Rearrange(moved, back, node.operands[0].shape[1:]), dy),)
