"""Constants."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from convc.ir.op import Array, Cost, InferError, Op, require
from convc.ir.types import DType, Shape, TensorType
from convc.lazy import dataclass


@dataclass(frozen=True)
class Constant(Op):
    """A tensor known when compiling: `values` in row-major order, or a single value that fills the shape."""

    name: ClassVar[str] = "constant"
    values: tuple[float | int | bool, ...] = (0.0,)
    shape: Shape = ()
    dtype: str = "f32"

    def __post_init__(self) -> None:
        # Equal constants have equal fields: the numbers are those that the element type can hold.
        require(self.dtype in _DTYPES, "there is no element type {}", self.dtype)
        try:
            with np.errstate(over="ignore"):
                held = np.asarray(self.values, DType(self.dtype).numpy)
        except (OverflowError, ValueError, TypeError):
            held = np.zeros(0)
        exact = DType(self.dtype).is_float or held.tolist() == list(self.values)
        if held.shape != (len(self.values),) or not exact:
            raise InferError(f"the values of a constant do not fit into {self.dtype}")
        object.__setattr__(self, "values", tuple(held.tolist()))

    @classmethod
    def of(cls, array: Array) -> Constant:
        """The constant that holds a float64, float32, float16, int32, int64, uint8 or bool array."""
        array = np.ascontiguousarray(array).reshape(array.shape)
        kinds = {dtype.numpy: dtype for dtype in DType if dtype is not DType.BF16 and not dtype.is_whole}
        flat = array.ravel()
        # Bits are compared, not numbers: 0.0 and -0.0 are not the same constant.
        if flat.size and np.all(flat.view(np.uint8).reshape(flat.size, -1) == flat[:1].view(np.uint8)):
            flat = flat[:1]
        return cls(tuple(flat.tolist()), array.shape, kinds[array.dtype].value)

    def infer(self) -> TensorType:
        count = math.prod(self.shape)
        require(min(self.shape, default=0) >= 0, "a shape holds no negative sizes: {}", self.shape)
        require(len(self.values) in (1, count), "{} values for the shape {}", len(self.values), self.shape)
        return TensorType(DType(self.dtype), self.shape)

    def reference(self) -> Array:
        data = np.asarray(self.values, DType(self.dtype).numpy)
        return np.full(self.shape, data[0]) if len(self.values) == 1 else data.reshape(self.shape)

    def cost(self, *operands: TensorType) -> Cost:
        return Cost(0, 0)


_DTYPES = {dtype.value for dtype in DType if not dtype.is_whole}
