"""Types of values: element type, logical shape and, once planned, the physical layout."""

from __future__ import annotations

import math
from dataclasses import replace
from enum import Enum

import numpy as np

from convc.lazy import dataclass

Shape = tuple[int, ...]


class DType(Enum):
    """Element types.

    bf16 has no numpy twin: the reference interpreter holds it as rounded float32. q8 and qw8 are whole numbers of 8
    bits that stand for multiples of a step, which it holds as float32, too: of q8 the type says the step (`Grid`), of
    qw8, weights with a step for each output, memory does.
    """

    F32 = "f32"
    F64 = "f64"
    F16 = "f16"
    BF16 = "bf16"
    I32 = "i32"
    I64 = "i64"
    U8 = "u8"
    Q8 = "q8"
    QW8 = "qw8"
    BOOL = "bool"

    @property
    def numpy(self) -> np.dtype:
        return np.dtype(_NUMPY[self])

    @property
    def bytes(self) -> int:
        return _BYTES[self]

    @property
    def is_float(self) -> bool:
        return self in (DType.F32, DType.F64, DType.F16, DType.BF16)

    @property
    def is_half(self) -> bool:
        """Whether it has 16 bits."""
        return self in (DType.F16, DType.BF16)

    @property
    def is_whole(self) -> bool:
        """Whether it has 8 bits, which stand for multiples of a step."""
        return self in (DType.Q8, DType.QW8)

    @property
    def accumulator(self) -> DType:
        """The type in which its sums are held, and come out where they are sums over images."""
        return DType.F32 if self.is_half else self.real

    @property
    def real(self) -> DType:
        """The type of what is computed of it, element by element or as sums of products."""
        return DType.F32 if self.is_whole else self


_NUMPY = {
    DType.F32: "float32",
    DType.F64: "float64",
    DType.F16: "float16",
    DType.BF16: "float32",
    DType.I32: "int32",
    DType.I64: "int64",
    DType.U8: "uint8",
    DType.Q8: "float32",
    DType.QW8: "float32",
    DType.BOOL: "bool",
}
# Some are narrower than their numpy twin.
_BYTES = {dtype: dtype.numpy.itemsize for dtype in DType} | {DType.BF16: 2, DType.Q8: 1, DType.QW8: 1}


@dataclass(frozen=True)
class Grid:
    """The numbers that a q8 stands for: q is (q − `zero`)·`step`. `zero` is 0 itself, so that padding is exact."""

    step: float
    zero: int = 0

    @property
    def low(self) -> float:
        """The least of them."""
        return -self.zero * self.step

    @property
    def high(self) -> float:
        """The largest of them."""
        return (255 - self.zero) * self.step

    def checked(self) -> Grid:
        """Itself; raises `ValueError` where it is none, as numbers of float32."""
        step = float(np.float32(self.step))
        if not (0 < step < math.inf and 1 / step < float(np.finfo(np.float32).max)):
            raise ValueError(f"a step is a number above 0, not {self.step!r}")
        if not 0 <= self.zero <= 255:
            raise ValueError(f"the zero of a q8 is one of 0 … 255, not {self.zero}")
        return self

    def __str__(self) -> str:
        return f"<{self.step!r}:{self.zero}>"


@dataclass(frozen=True)
class Layout:
    """How a tensor lies in memory: channels innermost (`nhwc`), padded with zeros to `channels` of them."""

    order: str
    channels: int

    def __str__(self) -> str:
        return f"{self.order}:{self.channels}"


@dataclass(frozen=True)
class TensorType:
    """`f32[64,20,24,24]`: logical shape, NCHW for images and OIHW for filters whatever the layout. Of q8 elements a
    `grid` says what they stand for: `q8<0.0123:0>[64,20,24,24]`."""

    dtype: DType
    shape: Shape
    layout: Layout | None = None
    grid: Grid | None = None

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
        return TensorType(self.dtype, tuple(shape), grid=self.grid)

    def with_dtype(self, dtype: DType) -> TensorType:
        """The type of equally many elements of another type; of q8, `with_grid` says what they stand for."""
        return self if dtype is self.dtype and self.layout is None else TensorType(dtype, self.shape)

    def with_grid(self, grid: Grid) -> TensorType:
        """The type of equally many q8 elements that stand for the numbers of a grid."""
        return TensorType(DType.Q8, self.shape, grid=grid)

    def with_layout(self, layout: Layout | None) -> TensorType:
        return self if layout == self.layout else replace(self, layout=layout)

    def __str__(self) -> str:
        text = f"{self.dtype.value}{self.grid or ''}[{','.join(map(str, self.shape))}]"
        return f"{text}{{{self.layout}}}" if self.layout else text


def f32(*shape: int) -> TensorType:
    """Shorthand for the commonest type."""
    return TensorType(DType.F32, shape)
