"""Arithmetic that is done while a model is read: on constants, and on shapes.

Exporters compute the shape of a `Reshape` in a dozen nodes. All of them are here, in numpy, with the meaning that ONNX
gives them; what a node makes is bounded before it is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from convc.frontend.onnx.site import Site
from convc.frontend.onnx.tensors import numpy_type, type_name
from convc.ir.types import Shape

Array = np.ndarray
Fold = Callable[..., "Array | tuple[Array, ...]"]

_LARGEST = 1 << 30  # bytes of one result


def _bounded(site: Site, shape: Shape, dtype: np.dtype) -> None:
    if min(shape, default=0) < 0:
        site.refuse(f"makes a constant of the shape {list(shape)}")
    if math.prod(shape) * dtype.itemsize > _LARGEST:
        site.refuse(f"makes a constant of {math.prod(shape):,} elements, more than fit into {_LARGEST >> 20} MiB")


def _elementwise(function: Callable[..., Array]) -> Fold:
    def fold(site: Site, *operands: Array) -> Array:
        _bounded(site, np.broadcast_shapes(*(a.shape for a in operands)), operands[0].dtype)
        with np.errstate(all="ignore"):
            return np.asarray(function(*operands))

    return fold


def _typed(function: Callable[..., Array]) -> Fold:
    """An element-wise function whose result has the type of the first operand."""
    inner = _elementwise(function)

    def fold(site: Site, *operands: Array) -> Array:
        result = inner(site, *operands)
        assert isinstance(result, np.ndarray)
        return result.astype(operands[0].dtype, copy=False)

    return fold


def _divide(left: Array, right: Array) -> Array:
    """Integers are cut towards zero, as in C."""
    if left.dtype.kind not in "iu":
        return left / right
    if (right == 0).any():
        raise ZeroDivisionError
    quotient = np.abs(left) // np.abs(right)
    return np.where((left < 0) != (right < 0), -quotient, quotient)


def _remainder(site: Site, left: Array, right: Array) -> Array:
    if left.dtype.kind in "iu" and (right == 0).any():
        raise ZeroDivisionError
    return np.asarray(np.fmod(left, right) if site.integer("fmod") else np.mod(left, right))


def _variadic(function: Callable[[Array, Array], Array]) -> Fold:
    step = _typed(function)

    def fold(site: Site, *operands: Array) -> Array:
        total = operands[0]
        for other in operands[1:]:
            result = step(site, total, other)
            assert isinstance(result, np.ndarray)
            total = result
        return total

    return fold


def _cast(site: Site, x: Array) -> Array:
    dtype = numpy_type(site.integer("to"))
    if dtype is None:
        site.refuse(f"{type_name(site.integer('to'))} is not supported", "to")
    with np.errstate(all="ignore"):
        return x.astype(dtype)


def _shape(site: Site, x: Array) -> Array:
    start = site.integer("start") if site.has("start") else 0
    end = site.integer("end") if site.has("end") else x.ndim
    return np.array(x.shape, np.int64)[start:end]


def _gather(site: Site, x: Array, index: Array) -> Array:
    axis = site.integer("axis")
    if not -x.ndim <= axis < x.ndim:
        site.refuse(f"{axis} is no axis of a tensor of {x.ndim} dimensions", "axis")
    axis %= x.ndim
    _bounded(site, (*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]), x.dtype)
    return np.take(x, index.astype(np.int64), axis=axis)


def _slice(site: Site, x: Array, *operands: Array | None) -> Array:
    if site.opset < 10:
        starts, ends = site.integers("starts"), site.integers("ends")
        axes, steps = site.integers("axes"), None
    else:
        lists = [tuple(int(v) for v in a.reshape(-1)) if a is not None else None for a in operands]
        starts, ends, axes, steps = (*lists, None, None, None, None)[:4]
    starts, ends = starts or (), ends or ()
    axes = tuple(range(len(starts))) if axes is None else axes
    steps = (1,) * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        site.refuse("its lists of starts, ends, axes and steps do not fit")
    index: list[slice] = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        # Backwards, an end before the first element is written as a very small number, never as -1.
        stop = None if step < 0 and end < -x.shape[axis] else end
        index[axis] = slice(start, stop, step)
    return x[tuple(index)]


def _axes(site: Site, operands: tuple[Array | None, ...]) -> tuple[int, ...] | None:
    if "axes" in site.attributes:
        return site.integers("axes")
    given = operands[0] if operands else None
    return None if given is None else tuple(int(axis) for axis in given.reshape(-1))


def _squeeze(site: Site, x: Array, *rest: Array | None) -> Array:
    axes = _axes(site, rest)
    return np.squeeze(x) if axes is None else np.squeeze(x, axes)


def _unsqueeze(site: Site, x: Array, *rest: Array | None) -> Array:
    axes = _axes(site, rest)
    if axes is None:
        site.refuse("has no list of axes")
    return np.expand_dims(x, axes)


def _concat(site: Site, *operands: Array) -> Array:
    return np.concatenate(operands, site.integer("axis"))


def _reshape(site: Site, x: Array, shape: Array) -> Array:
    zero = site.has("allowzero") and site.integer("allowzero")
    dims = [int(d) if d or zero else x.shape[i] for i, d in enumerate(shape.reshape(-1))]
    return x.reshape(dims)


def _flatten(site: Site, x: Array) -> Array:
    axis = site.integer("axis")
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _transpose(site: Site, x: Array) -> Array:
    return x.transpose(site.integers("perm"))


def _constant_of_shape(site: Site, shape: Array) -> Array:
    value = site.attributes.get("value")
    fill = np.zeros(1, np.float32) if value is None else np.asarray(value)
    dims = tuple(int(d) for d in shape.reshape(-1))
    if fill.size != 1:
        site.refuse("is no single number", "value")
    _bounded(site, dims, fill.dtype)
    return np.broadcast_to(fill.reshape(()), dims)


def _range(site: Site, start: Array, stop: Array, step: Array) -> Array:
    a, b, c = (x.reshape(-1)[0] for x in (start, stop, step))
    if c == 0:
        raise ZeroDivisionError
    count = max(math.ceil((float(b) - float(a)) / float(c)), 0)
    _bounded(site, (count,), start.dtype)
    return a + np.arange(count, dtype=start.dtype) * c


def _expand(site: Site, x: Array, shape: Array) -> Array:
    dims = np.broadcast_shapes(x.shape, tuple(int(d) for d in shape.reshape(-1)))
    _bounded(site, dims, x.dtype)
    return np.broadcast_to(x, dims)


def _tile(site: Site, x: Array, repeats: Array) -> Array:
    times = tuple(int(r) for r in repeats.reshape(-1))
    _bounded(site, tuple(a * b for a, b in zip(x.shape, times, strict=True)), x.dtype)
    return np.tile(x, times)


def _split(site: Site, x: Array, *rest: Array | None) -> tuple[Array, ...]:
    many = len(site.node.output)
    axis = site.integer("axis")
    sizes = site.integers("split")
    if sizes is None and rest and rest[0] is not None:
        sizes = tuple(int(size) for size in rest[0].reshape(-1))
    if sizes is None:
        largest = -(-x.shape[axis] // many)
        sizes = (*(largest,) * (many - 1), x.shape[axis] - largest * (many - 1))
    if len(sizes) != many or sum(sizes) != x.shape[axis] or min(sizes) < 0:
        site.refuse(f"parts of {list(sizes)} do not make up {x.shape[axis]}")
    return tuple(np.split(x, np.cumsum(sizes)[:-1], axis))


def _reduce(function: Callable[..., Any]) -> Fold:
    def fold(site: Site, x: Array, *rest: Array | None) -> Array:
        axes = _axes(site, rest)
        if not axes and site.has("noop_with_empty_axes") and site.integer("noop_with_empty_axes"):
            return x
        result = function(x, axis=axes or None, keepdims=bool(site.integer("keepdims")))
        return np.asarray(result).astype(x.dtype, copy=False)

    return fold


def _matmul(site: Site, left: Array, right: Array) -> Array:
    if left.ndim != 2 or right.ndim != 2:
        site.refuse("multiplies constants that are no matrices")
    _bounded(site, (left.shape[0], right.shape[1]), left.dtype)
    return left @ right


def _where(condition: Array, yes: Array, no: Array) -> Array:
    return np.where(condition, yes, no)


FOLDS: dict[str, Fold] = {
    "Abs": _typed(np.abs),
    "Add": _typed(np.add),
    "And": _elementwise(np.logical_and),
    "Cast": _cast,
    "Ceil": _typed(np.ceil),
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Div": _typed(_divide),
    "Equal": _elementwise(np.equal),
    "Exp": _typed(np.exp),
    "Expand": _expand,
    "Flatten": _flatten,
    "Floor": _typed(np.floor),
    "Gather": _gather,
    "Greater": _elementwise(np.greater),
    "GreaterOrEqual": _elementwise(np.greater_equal),
    "Identity": lambda site, x: x,
    "Less": _elementwise(np.less),
    "LessOrEqual": _elementwise(np.less_equal),
    "Log": _typed(np.log),
    "MatMul": _matmul,
    "Max": _variadic(np.maximum),
    "Min": _variadic(np.minimum),
    "Mod": _remainder,
    "Mul": _typed(np.multiply),
    "Neg": _typed(np.negative),
    "Not": _elementwise(np.logical_not),
    "Or": _elementwise(np.logical_or),
    "Pow": _typed(np.power),
    "Range": _range,
    "Reciprocal": _typed(np.reciprocal),
    "ReduceMax": _reduce(np.max),
    "ReduceMean": _reduce(np.mean),
    "ReduceMin": _reduce(np.min),
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "Reshape": _reshape,
    "Round": _typed(np.round),
    "Shape": _shape,
    "Size": lambda site, x: np.asarray(x.size, np.int64),
    "Slice": _slice,
    "Split": _split,
    "Sqrt": _typed(np.sqrt),
    "Squeeze": _squeeze,
    "Sub": _typed(np.subtract),
    "Sum": _variadic(np.add),
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _elementwise(_where),
}
# What numpy says of operands that do not fit.
FAILURES = (ValueError, IndexError, TypeError, ZeroDivisionError, OverflowError, AttributeError)
