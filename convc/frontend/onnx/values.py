"""What the names of a model stand for while it is read: tensors of the graph under construction, and known arrays.

The batch is no part of a tensor's shape. Reshapes and transpositions are not carried out but kept beside the value, so
that those that undo each other (a channel-last model, a channel shuffle) cost nothing or a single `rearrange`.

What is known (weights, and all arithmetic with shapes) is known under two batch sizes at once where it depends on the
batch: a shape that a node asks for fits every batch exactly when it fits both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from convc.ir.graph import Value
from convc.ir.types import Shape
from convc.lazy import dataclass

# Two numbers of images that are unlikely to be anything else in a model.
BATCHES = (7919, 7927)


@dataclass(frozen=True, eq=False)
class Known:
    """An array that is known before the program runs: one, or one for each of `BATCHES`.

    `name` is that of the initialiser it stems from, which its parameter keeps.
    """

    arrays: tuple[np.ndarray, ...]
    name: str | None = None

    @classmethod
    def of(cls, array: object, name: str | None = None) -> Known:
        return cls((np.asarray(array),), name)

    def under(self, batch: int) -> np.ndarray:
        """The array under BATCHES[batch]."""
        return self.arrays[batch if len(self.arrays) > 1 else 0]

    @property
    def depends_on_batch(self) -> bool:
        return len(self.arrays) > 1


def combine(arrays: list[np.ndarray], name: str | None = None) -> Known:
    """One array per batch; equal ones do not depend on it."""
    first = arrays[0]
    equal = all(a.shape == first.shape and a.dtype == first.dtype and np.array_equal(a, first) for a in arrays[1:])
    return Known((first,) if equal else tuple(arrays), name)


@dataclass(frozen=True, eq=False)
class Tensor:
    """A value of rank 2 or 4, seen as rows of `shape`: its row unfolded to `view`, with its axes in `order`.

    Plain tensors have no `order`: their elements lie as those of the value.
    """

    value: Value
    shape: Shape
    view: Shape = ()
    order: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Elements of one row."""
        return math.prod(self.shape)

    @property
    def is_plain(self) -> bool:
        return not self.order

    @property
    def row(self) -> Shape:
        """The shape of one row of the value itself."""
        return self.value.shape[1:]

    def reshaped(self, shape: Shape) -> Tensor:
        """The same elements in the same order."""
        assert math.prod(shape) == self.size
        return replace(self, shape=shape)

    def on(self, value: Value) -> Tensor:
        """Another value of the same form in place of this one: the result of an element-wise op."""
        assert value.shape == self.value.shape
        return replace(self, value=value)

    def lies_like(self, other: Tensor) -> bool:
        """Whether equal positions of the two values are equal elements."""
        mine, theirs = (self.shape, self.row, self.view, self.order), (other.shape, other.row, other.view, other.order)
        return mine == theirs


def transposed(x: Tensor, axes: tuple[int, ...], settle: Callable[[Tensor], Tensor]) -> Tensor:
    """The axes of a row's shape in another order. `settle` makes a tensor plain, for shapes that cut across axes."""
    view, order = (x.view, x.order) if x.order else ((x.size,), (0,))
    pieces = _common_pieces([view[axis] for axis in order], x.shape)
    if pieces is None:
        x = settle(x)
        view, order = (x.size,), (0,)
        pieces = _common_pieces([x.size], x.shape)
        assert pieces is not None
    # Number the pieces as they lie in the value, then read them in the order of the result.
    numbers: dict[tuple[int, int], int] = {}
    extents: list[int] = []
    for axis in range(len(view)):
        position = order.index(axis)
        for index, (source, _, extent) in enumerate(pieces):
            if source == position:
                numbers[source, index] = len(extents)
                extents.append(extent)
    new_order = [
        numbers[source, index]
        for axis in axes
        for index, (source, target, _) in enumerate(pieces)
        if target == axis
    ]  # fmt: skip
    shape = tuple(x.shape[axis] for axis in axes)
    return Tensor(x.value, shape, *_merged(tuple(extents), tuple(new_order)))


def _common_pieces(left: list[int], right: Shape) -> list[tuple[int, int, int]] | None:
    """Cut two factorisations of one number into common factors: (axis of left, axis of right, extent), or None."""
    pieces: list[tuple[int, int, int]] = []
    i = j = 0
    p, s = (left[0] if left else 1), (right[0] if right else 1)
    while True:
        while p == 1 and i + 1 < len(left):
            i += 1
            p = left[i]
        while s == 1 and j + 1 < len(right):
            j += 1
            s = right[j]
        if p == 1 or s == 1:
            return pieces
        extent = min(p, s)
        if max(p, s) % extent:
            return None
        pieces.append((i, j, extent))
        p, s = p // extent, s // extent


def _merged(view: Shape, order: tuple[int, ...]) -> tuple[Shape, tuple[int, ...]]:
    """The same rearrangement with as few axes as possible; ((), ()) where nothing moves."""
    runs: list[list[int]] = []
    for axis in order:
        if runs and runs[-1][-1] + 1 == axis:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    if len(runs) <= 1:
        return (), ()
    sorted_runs = sorted(runs)
    extents = tuple(math.prod(view[axis] for axis in run) for run in sorted_runs)
    return extents, tuple(sorted_runs.index(run) for run in runs)
