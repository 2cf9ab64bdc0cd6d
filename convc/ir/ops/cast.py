"""From one element type to another."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from convc.ir.op import Array, Cotangents, require
from convc.ir.ops.elementwise import Elementwise
from convc.ir.rounding import rounded
from convc.ir.types import DType, TensorType
from convc.lazy import dataclass

if TYPE_CHECKING:
    from convc.ir.builder import Builder
    from convc.ir.graph import Node, Value

_DTYPES = {dtype.value: dtype for dtype in (DType.F32, DType.F16, DType.BF16)}


@dataclass(frozen=True)
class Cast(Elementwise):
    """x -> x with elements of `dtype` ("f32", "f16", "bf16"), rounded to the nearest, ties to even.

    Numbers beyond the largest one become infinite (IEEE 754-2019, 4.3.1). The gradient is the cotangent in the type of
    x. In float64, where arithmetic is to be exact, nothing is rounded.
    """

    name: ClassVar[str] = "cast"
    dtype: str = "f16"

    def infer(self, *operands: TensorType) -> TensorType:
        self.check_arity(operands)
        require(self.dtype in _DTYPES, "there is no cast to {}", self.dtype)
        if operands[0].dtype is DType.F64:
            return operands[0]
        require(operands[0].dtype.real in _DTYPES.values(), "a cast takes f32, f16, bf16 or q8, not {}", operands[0])
        return operands[0].with_dtype(_DTYPES[self.dtype])

    def function(self, *operands: Array) -> Array:
        return rounded(operands[0], _DTYPES[self.dtype])

    def vjp(self, b: Builder, node: Node, cotangents: Cotangents) -> Cotangents:
        (dy,) = cotangents
        assert dy is not None
        return (cast(b, dy, node.operands[0].type.dtype),)


def cast(b: Builder, value: Value, dtype: DType) -> Value:
    """The value in an element type: itself where it has that one."""
    return value if value.type.dtype is dtype else b.add(Cast(dtype.value), value)
