"""Element by element: activations, and arithmetic of tensors with tensors and constants."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from convc.frontend.hints import shape_text
from convc.frontend.onnx.forms import (
    axis_as_channels,
    back_from_front,
    broadcast,
    canonical,
    common_shape,
    rows_of,
    settled,
    value_of,
)
from convc.frontend.onnx.site import Convert, Site
from convc.frontend.onnx.values import Known, Tensor
from convc.ir.graph import Value
from convc.ir.op import Op
from convc.ir.ops.activation import Elu, LeakyRelu, Prelu, Relu, Relu6
from convc.ir.ops.elementwise import (
    Absolute,
    Add,
    Divide,
    Maximum,
    Minimum,
    Multiply,
    Sqrt,
)
from convc.ir.ops.maps import ScaleMaps

# Vectors beyond this are parameters that are not trained: constants travel in the graph's text.
_LARGEST_CONSTANT = 1 << 14


def unary(op: Op) -> Convert:
    """An op without attributes."""

    def convert(site: Site) -> Tensor:
        x = site.tensor()
        return x.on(site.emit(op, x.value))

    return convert


def _chain(site: Site, x: Value, *steps: tuple[Op, float]) -> Value:
    """Element-wise ops with a number as second operand, one after the other."""
    for op, number in steps:
        x = site.emit(op, x, site.per_element(np.asarray(number, np.float32), ()))
    return x


def leaky_relu(site: Site) -> Tensor:
    x = site.tensor()
    return x.on(site.emit(LeakyRelu(site.number("alpha")), x.value))


def elu(site: Site) -> Tensor:
    x = site.tensor()
    return x.on(site.emit(Elu(site.number("alpha")), x.value))


def selu(site: Site) -> Tensor:
    """gamma·elu(x): both pieces have the factor."""
    x = site.tensor()
    curved = site.emit(Elu(site.number("alpha")), x.value)
    return x.on(_chain(site, curved, (Multiply(), site.number("gamma"))))


def celu(site: Site) -> Tensor:
    """max(0, x) + min(0, alpha·(e^(x/alpha) − 1)) = alpha·elu(x/alpha)."""
    x, alpha = site.tensor(), site.number("alpha")
    if alpha <= 0:
        site.refuse(f"{alpha} is not positive", "alpha")
    scaled = _chain(site, x.value, (Divide(), alpha))
    return x.on(_chain(site, site.emit(Elu(1.0), scaled), (Multiply(), alpha)))


def hard_sigmoid(site: Site) -> Tensor:
    x = site.tensor()
    return x.on(_hard_sigmoid(site, x.value, site.number("alpha"), site.number("beta")))


def _hard_sigmoid(site: Site, x: Value, alpha: float, beta: float) -> Value:
    """max(0, min(1, alpha·x + beta))."""
    return _chain(site, x, (Multiply(), alpha), (Add(), beta), (Minimum(), 1.0), (Maximum(), 0.0))


def hard_swish(site: Site) -> Tensor:
    """x·hard_sigmoid(x) with alpha = 1/6 and beta = ½."""
    x = site.tensor()
    return x.on(site.emit(Multiply(), x.value, _hard_sigmoid(site, x.value, 1 / 6, 0.5)))


def softsign(site: Site) -> Tensor:
    """x / (1 + |x|)."""
    x = site.tensor()
    return x.on(site.emit(Divide(), x.value, _chain(site, site.emit(Absolute(), x.value), (Add(), 1.0))))


def reciprocal(site: Site) -> Tensor:
    x = site.tensor()
    return x.on(site.emit(Divide(), site.per_element(np.asarray(1.0, np.float32), ()), x.value))


def clip(site: Site) -> Tensor:
    """Bounds are attributes up to opset 10 and operands after; -inf, inf and the ends of float32 are no bounds."""
    x = site.tensor()
    largest = float(np.finfo(np.float32).max)
    bounds: list[float] = []
    for index, (name, open_end) in enumerate((("min", -math.inf), ("max", math.inf)), 1):
        value = open_end
        if site.opset < 11:
            value = float(site.attributes.get(name, open_end))
        else:
            array = site.constant(index, f"the bound `{name}`")
            if array is not None:
                if array.size != 1:
                    site.refuse(f"the bound `{name}` is {shape_text(array.shape)}, not a number")
                value = float(array.reshape(-1)[0])
        if math.isnan(value):
            site.refuse(f"the bound `{name}` is not a number")
        bounds.append(value)
    low, high = bounds
    if low == 0 and high >= largest:
        return x.on(site.emit(Relu(), x.value))
    if (low, high) == (0, 6):
        return x.on(site.emit(Relu6(), x.value))
    if low >= largest or high <= -largest:
        site.refuse(f"clips to {low} … {high}, which leaves no finite number")
    value = x.value
    if low > -largest:
        value = _chain(site, value, (Maximum(), low))
    if high < largest:
        value = _chain(site, value, (Minimum(), high))
    return x.on(value)


def power(site: Site) -> Tensor:
    """Constant exponents that are products, quotients or roots."""
    x = site.tensor()
    exponent = site.constant(1, "the exponent")
    if exponent is None or exponent.size != 1:
        site.refuse("only one constant exponent is supported")
    e = float(exponent.reshape(-1)[0])
    if e == 1:
        return x
    if e == 0.5:
        return x.on(site.emit(Sqrt(), x.value))
    if e not in (2, 3, 4):
        site.refuse(f"the exponent {e:g} is not supported; 0.5, 1, 2, 3 and 4 are")
    square = site.emit(Multiply(), x.value, x.value)
    if e == 2:
        return x.on(square)
    return x.on(site.emit(Multiply(), square, x.value if e == 3 else square))


def cast(site: Site) -> Tensor:
    """Between floating-point types: the program computes in float32 throughout."""
    from convc.frontend.onnx.tensors import type_name

    to = site.integer("to")
    if to not in (1, 10, 11, 16):
        site.refuse(f"a computed value becomes {type_name(to)}; only floating-point types are supported", "to")
    if to != 1:
        site.target.note_precision(type_name(to))
    return site.tensor()


def prelu(site: Site) -> Tensor:
    """One slope, one per channel, or one per element."""
    x = site.tensor()
    known = site.floats(1, "the slope")
    if known is None:
        site.refuse("has no slope")
    slope = _row_of(site, known.under(0), len(x.shape))
    if any(a not in (1, b) for a, b in zip(slope.shape, x.shape, strict=True)):
        site.refuse(f"slopes of {shape_text(known.under(0).shape)} do not spread to rows of {shape_text(x.shape)}")
    axes = [axis for axis, size in enumerate(slope.shape) if size > 1]
    if len(axes) > 1 or not x.shape:
        full = np.broadcast_to(slope, x.shape).reshape(-1)
        value = site.emit(Prelu(), rows_of(site, x), site.parameter("slope", known, full))
        return Tensor(value, x.shape)
    axis = axes[0] if axes else 0
    value, form = axis_as_channels(site, x, axis)
    vector = site.parameter("slope", known, np.broadcast_to(slope.reshape(-1), (value.shape[1],)))
    return back_from_front(site, form.on(site.emit(Prelu(), value, vector)), axis)


# Arithmetic


def binary(op: Op) -> Convert:
    """Two operands, of which one may be a constant, spread as numpy does it."""
    return lambda site: _folded(site, op)


def variadic(op: Op) -> Convert:
    """Any number of operands: Sum, Max, Min."""
    return lambda site: _folded(site, op)


def mean(site: Site) -> Tensor:
    total = _folded(site, Add())
    return total.on(_chain(site, total.value, (Multiply(), 1 / len(site.operands))))


def _folded(site: Site, op: Op) -> Tensor:
    if any(operand is None for operand in site.operands) or not site.operands:
        site.refuse("an operand is missing")
    total = site.operand(0)
    for index in range(1, len(site.operands)):
        total = _pair(site, op, total, site.operand(index))
    if not isinstance(total, Tensor):
        site.refuse("its operands are constants of types that are not computed with")
    return total


def _pair(site: Site, op: Op, left: Known | Tensor | None, right: Known | Tensor | None) -> Tensor:
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return _two_tensors(site, op, left, right)
    if isinstance(left, Tensor) and isinstance(right, Known):
        return _with_constant(site, left, right, lambda x, c: site.emit(op, x, c))
    if isinstance(left, Known) and isinstance(right, Tensor):
        return _with_constant(site, right, left, lambda x, c: site.emit(op, c, x))
    site.refuse("two of its operands are constants; only one is supported")


def _two_tensors(site: Site, op: Op, left: Tensor, right: Tensor) -> Tensor:
    shape = common_shape(site, [left.shape, right.shape])
    if isinstance(op, Multiply) and left.shape != right.shape and len(shape) == 3:
        # One factor for each map: squeeze and excitation.
        for maps, factors in ((left, right), (right, left)):
            if maps.shape == shape and factors.shape == (shape[0], 1, 1):
                scale = value_of(site, factors, factors.shape)
                return Tensor(site.emit(ScaleMaps(), value_of(site, maps, shape), scale), shape)
    left, right = broadcast(site, left, shape), broadcast(site, right, shape)
    if not left.lies_like(right):
        if left.is_plain and right.is_plain:
            right = settled(site, right, left.row)
        else:
            left, right = (settled(site, x, canonical(shape)) for x in (left, right))
    return left.on(site.emit(op, left.value, right.value))


def _row_of(site: Site, array: np.ndarray, rank: int) -> np.ndarray:
    """A constant as what it adds to one row of `rank` dimensions."""
    if array.ndim > rank + 1 or (array.ndim == rank + 1 and array.shape[0] != 1):
        batch = site.model.batch
        alike = array.ndim == rank + 1 and batch is not None and array.shape[0] == batch
        why = "differs from image to image of the batch" if alike else f"does not spread to N and {rank} dimensions"
        site.refuse(f"the constant of {shape_text(array.shape)} {why}")
    row = array[0] if array.ndim == rank + 1 else array
    return row.reshape((1,) * (rank - row.ndim) + row.shape)


def _with_constant(site: Site, x: Tensor, known: Known, apply: Callable[[Value, Value], Value]) -> Tensor:
    if known.depends_on_batch:
        site.refuse("its constant depends on the batch size")
    array = known.under(0)
    if array.dtype.kind != "f":
        site.refuse(f"its constant is {array.dtype}, its other operand float32")
    single = site.target.single(array, known.name or site.label)
    row = _row_of(site, single, len(x.shape))
    shape = common_shape(site, [x.shape, row.shape])
    axes = [axis for axis, size in enumerate(row.shape) if size > 1]
    if not axes:
        return x.on(apply(x.value, site.per_element(row, ())))
    x = broadcast(site, x, shape)
    if len(axes) > 1:
        full = np.broadcast_to(row, shape).reshape(-1)
        return Tensor(apply(rows_of(site, x), _vector(site, known, full)), shape)
    value, form = axis_as_channels(site, x, axes[0])
    return back_from_front(site, form.on(apply(value, _vector(site, known, row.reshape(-1)))), axes[0])


def _vector(site: Site, known: Known, array: np.ndarray) -> Value:
    if array.size > _LARGEST_CONSTANT:
        return site.parameter("constant", known, array, buffer=True)
    return site.per_element(array, array.shape, known.name)
