"""Tensors brought into the form that an op reads: images, rows, a chosen axis in front, one shape for several."""

from __future__ import annotations

import math

import numpy as np

from convc.frontend.hints import shape_text
from convc.frontend.onnx.site import Site
from convc.frontend.onnx.values import Tensor, transposed
from convc.ir.graph import Value
from convc.ir.ops.maps import SpreadMaps
from convc.ir.ops.rearrange import Rearrange
from convc.ir.ops.shape import Flatten, Unflatten
from convc.ir.types import Shape


def canonical(shape: Shape) -> Shape:
    """How a row of any rank is held: (features,) or (C, H, W)."""
    if len(shape) <= 1:
        return shape or (1,)
    if len(shape) == 2:
        return shape[0], 1, shape[1]
    return shape[0], math.prod(shape[1:-1]), shape[-1]


def settled(site: Site, x: Tensor, row: Shape | None = None) -> Tensor:
    """The same tensor, plain, with rows of the shape `row` (default: the canonical one)."""
    row = canonical(x.shape) if row is None else row
    if not x.is_plain:
        return Tensor(site.emit(Rearrange(x.view, x.order, row), x.value), x.shape)
    value = x.value
    if x.row == row:
        return x
    if len(x.row) > 1:
        value = site.emit(Flatten(), value)
    if len(row) > 1:
        value = site.emit(Unflatten(row), value)
    return Tensor(value, x.shape)


def value_of(site: Site, x: Tensor, row: Shape) -> Value:
    """The tensor as a value with rows of the shape `row`."""
    return settled(site, x, row).value


def image_of(site: Site, x: Tensor) -> Value:
    """(N, C, H, W); images of one dimension are one row high."""
    if len(x.shape) not in (2, 3):
        site.refuse(f"reads images (N, C, H, W), not N x {shape_text(x.shape) or 'nothing'}")
    return value_of(site, x, canonical(x.shape))


def rows_of(site: Site, x: Tensor) -> Value:
    """(N, features)."""
    return value_of(site, x, (x.size,))


def permuted(site: Site, x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The axes of a row in another order, as far as possible without moving anything."""
    return transposed(x, axes, lambda tensor: settled(site, tensor))


def in_front(site: Site, x: Tensor, axis: int) -> Tensor:
    """The axis (of a row) first, the others in their order behind it."""
    others = tuple(other for other in range(len(x.shape)) if other != axis)
    return x if axis == 0 else permuted(site, x, (axis, *others))


def back_from_front(site: Site, x: Tensor, axis: int) -> Tensor:
    """Undoes `in_front`."""
    others = list(range(1, len(x.shape)))
    others.insert(axis, 0)
    return x if axis == 0 else permuted(site, x, tuple(others))


def axis_as_channels(site: Site, x: Tensor, axis: int) -> tuple[Value, Tensor]:
    """A value whose channels are one axis of a row, and the tensor of the same form that results are put into."""
    moved = in_front(site, x, axis)
    count = moved.shape[0]
    if moved.is_plain and moved.row[0] == count:
        return moved.value, moved
    moved = settled(site, moved, (count,) if count == moved.size else (count, 1, moved.size // count))
    return moved.value, moved


def broadcast(site: Site, x: Tensor, shape: Shape) -> Tensor:
    """The row spread to `shape`, of the same rank, as numpy does it: axes of extent 1 repeat."""
    if x.shape == shape:
        return x
    if len(x.shape) != len(shape) or any(a not in (1, b) for a, b in zip(x.shape, shape, strict=True)):
        site.refuse(f"rows of {shape_text(x.shape) or 'one number'} do not spread to {shape_text(shape)}")
    grown = [axis for axis, (a, b) in enumerate(zip(x.shape, shape, strict=True)) if a != b]
    kept = [axis for axis in range(len(shape)) if axis not in grown]
    maps = value_of(site, x, (x.size, 1, 1))
    size = math.prod(shape[axis] for axis in grown)
    if len(shape) == 3 and shape[0] == x.shape[0] == x.size:
        return Tensor(site.emit(SpreadMaps((shape[1], shape[2])), maps), shape)
    value = site.emit(SpreadMaps((1, size)), maps)
    # The value holds the kept axes before the grown ones.
    order = (*kept, *grown)
    held = Tensor(value, tuple(shape[axis] for axis in order))
    return permuted(site, held, tuple(order.index(axis) for axis in range(len(shape))))


def common_shape(site: Site, shapes: list[Shape]) -> Shape:
    """The shape that rows of equal rank spread to."""
    ranks = {len(shape) for shape in shapes}
    if len(ranks) > 1:
        texts = " and ".join("N" + "".join(f"x{size}" for size in shape) for shape in shapes)
        site.refuse(f"shapes {texts} differ in rank, so that the batch would meet another dimension")
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        site.refuse(f"rows of {' and '.join(shape_text(shape) or 'one number' for shape in shapes)} do not match")
