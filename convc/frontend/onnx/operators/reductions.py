"""Operators that look along axes: soft-max, means, sums and maxima."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from convc.frontend.onnx.forms import axis_as_channels, back_from_front, permuted, value_of
from convc.frontend.onnx.operators.windows import maximum_of_rows, mean_of_maps
from convc.frontend.onnx.site import Convert, Site
from convc.frontend.onnx.values import Tensor
from convc.ir.graph import Value
from convc.ir.op import Op
from convc.ir.ops.activation import Softmax
from convc.ir.ops.elementwise import Multiply
from convc.ir.ops.log_softmax import LogSoftmax
from convc.ir.ops.maps import SpatialSum
from convc.ir.types import Shape


def softmax(site: Site) -> Tensor:
    return _along_axis(site, Softmax())


def log_softmax(site: Site) -> Tensor:
    return _along_axis(site, LogSoftmax())


def _along_axis(site: Site, op: Op) -> Tensor:
    """Up to opset 12 all axes from `axis` on are one, from 13 on it is a single axis."""
    x = site.tensor()
    rank = len(x.shape) + 1
    axis = site.axis(site.integer("axis"), rank) - 1
    whole = x.shape
    if site.opset < 13:
        x = x.reshaped((*x.shape[:axis], math.prod(x.shape[axis:])))
    value, form = axis_as_channels(site, x, axis)
    return back_from_front(site, form.on(site.emit(op, value)), axis).reshaped(whole)


def reduction(kind: str) -> Convert:
    """ReduceMean, ReduceSum, ReduceMax, ReduceMin along any axes but the batch."""
    return lambda site: _reduced(site, _KINDS[kind])


def _reduced(site: Site, reduce: Callable[[Site, Tensor, Shape], Value]) -> Tensor:
    """The kept axes become channels, the others the pixels of their maps."""
    x = site.tensor()
    rank = len(x.shape) + 1
    given = site.integers("axes") if "axes" in site.attributes else site.whole_numbers(1, "the list of axes")
    if not given:
        if site.has("noop_with_empty_axes") and site.integer("noop_with_empty_axes"):
            return x
        site.refuse("reduces all axes, the batch among them", "axes")
    axes = sorted({site.axis(axis, rank, "axes") - 1 for axis in given})
    kept = [axis for axis in range(rank - 1) if axis not in axes]
    moved = permuted(site, x, (*kept, *axes))
    channels = math.prod(x.shape[axis] for axis in kept)
    row = x.shape if axes == [1, 2] and len(x.shape) == 3 else (channels, 1, x.size // channels)
    value = reduce(site, moved, row)
    if site.integer("keepdims"):
        shape = tuple(1 if axis in axes else extent for axis, extent in enumerate(x.shape))
    else:
        shape = tuple(x.shape[axis] for axis in kept)
    return Tensor(value, shape)


def _mean(site: Site, x: Tensor, row: Shape) -> Value:
    return mean_of_maps(site, value_of(site, x, row))


def _sum(site: Site, x: Tensor, row: Shape) -> Value:
    return site.emit(SpatialSum(), value_of(site, x, row))


def _minimum(site: Site, x: Tensor, row: Shape) -> Value:
    """−max(−x)."""
    minus = site.per_element(np.asarray(-1.0, np.float32), ())
    negative = x.on(site.emit(Multiply(), x.value, minus))
    return site.emit(Multiply(), maximum_of_rows(site, negative, row), minus)


_KINDS: dict[str, Callable[[Site, Tensor, Shape], Value]] = {
    "mean": _mean,
    "sum": _sum,
    "max": maximum_of_rows,
    "min": _minimum,
}
