"""Numbers of 16 bits in numpy, which knows one of the two kinds only: both are held as float32 that was rounded."""

from __future__ import annotations

import numpy as np

from convc.ir.types import DType

_Array = np.ndarray


def stored(array: _Array, dtype: DType) -> _Array:
    """As rows of bits in memory: uint16 of f16 and bf16, little-endian; everything else as float32."""
    if dtype is DType.F16:
        with np.errstate(over="ignore"):
            return np.asarray(array, np.float32).astype("<f2").view("<u2")
    if dtype is DType.BF16:
        bits = rounded(np.ascontiguousarray(array, np.float32), dtype).view("<u4") >> 16
        return bits.astype("<u2").reshape(np.shape(array))
    return np.asarray(array, "<f4", order="C")


def widened(bits: _Array, dtype: DType) -> _Array:
    """The float32 numbers that `stored` bits of f16 or bf16 are."""
    if dtype is DType.F16:
        return bits.view("<f2").astype(np.float32)
    return (bits.astype("<u4") << 16).view("<f4").astype(np.float32, copy=False)


def rounded(array: _Array, dtype: DType) -> _Array:
    """The nearest numbers of a type, ties to even, beyond the largest one infinite; arrays of float64 are left as exact
    as they are, and so is everything but f16 and bf16."""
    if array.dtype != np.float32 or dtype not in (DType.F16, DType.BF16):
        return array
    if dtype is DType.F16:
        with np.errstate(over="ignore"):
            return array.astype(np.float16).astype(np.float32)
    # The upper half of the bits; what is dropped carries into it. A NaN stays one.
    bits = array.view(np.uint32) if array.ndim else np.atleast_1d(array).view(np.uint32)
    nearest = bits + (np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1)))
    kept = np.where(np.isnan(array), bits | np.uint32(0x400000), nearest) & np.uint32(0xFFFF0000)
    return kept.astype(np.uint32).view(np.float32).reshape(array.shape)
