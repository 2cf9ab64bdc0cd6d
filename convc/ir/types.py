"""Types of values: element type, logical shape and, once planned, the physical layout."""

from __future__ import annotations

import math
from dataclasses import replace
from enum import Enum

import numpy as np

from convc.lazy import dataclass

Shape = tuple[int, ...]


class DType(Enum):
    """Element types. bf16 has no numpy twin: the reference interpreter holds it as rounded float32."""

    F32 = "f32"
    F64 = "f64"
    F16 = "f16"
    BF16 = "bf16"
    I32 = "i32"
    I64 = "i64"
    U8 = "u8"
    BOOL = "bool"

    @property
    def numpy(self) -> np.dtype:
        return np.dtype(_NUMPY[self])

    @property
    def bytes(self) -> int:
        return 2 if self is DType.BF16 else self.numpy.itemsize

    @property
    def is_float(self) -> bool:
        return self in (DType.F32, DType.F64, DType.F16, DType.BF16)

    @property
    def is_half(self) -> bool:
        """Whether it has 16 bits."""
        return self in (DType.F16, DType.BF16)

    @property
    def accumulator(self) -> DType:
        """The type in which its sums are held, and come out where they are sums over images."""
        return DType.F32 if self.is_half else self


_NUMPY = {
    DType.F32: "float32",
    DType.F64: "float64",
    DType.F16: "float16",
    DType.BF16: "float32",
    DType.I32: "int32",
    DType.I64: "int64",
    DType.U8: "uint8",
    DType.BOOL: "bool",
}


@dataclass(frozen=True)
class Layout:
    """How a tensor lies in memory: channels innermost (`nhwc`), padded with zeros to `channels` of them."""

    order: str
    channels: int

    def __str__(self) -> str:
        return f"{self.order}:{self.channels}"


@dataclass(frozen=True)
class TensorType:
    """`f32[64,20,24,24]`: logical shape, NCHW for images and OIHW for filters whatever the layout."""

    dtype: DType
    shape: Shape
    layout: Layout | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.size * self.dtype.bytes

    @property
    def rank(self) -> int:
        return len(self.shape)

    def with_shape(self, shape: Shape) -> TensorType:
        return TensorType(self.dtype, tuple(shape))

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(dtype, self.shape)

    def with_layout(self, layout: Layout | None) -> TensorType:
        return self if layout == self.layout else replace(self, layout=layout)

    def __str__(self) -> str:
        text = f"{self.dtype.value}[{','.join(map(str, self.shape))}]"
        return f"{text}{{{self.layout}}}" if self.layout else text


def f32(*shape: int) -> TensorType:
    """Shorthand for the commonest type."""
    return TensorType(DType.F32, shape)
