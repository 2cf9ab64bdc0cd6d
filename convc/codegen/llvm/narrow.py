"""Numbers of 16 and of 8 bits between memory and registers, where everything is float32.

`half` is IEEE 754 binary16, `bfloat` the upper half of a float. Rounding is to the nearest number, ties to the even
one; what is too large becomes infinite, a NaN stays one. Processors without instructions for `half` compute
with integers, and so do all for `bfloat`: the bits are the same everywhere, also where denormal floats are flushed to
zero.

A `Grid` says what numbers the 8 bits stand for: multiples of a step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from convc.ir.types import Grid

if TYPE_CHECKING:
    from convc.codegen.llvm.vocabulary import Function, V

# What memory holds: numbers of an LLVM type, or of a grid.
Kind = str | Grid
# A float whose last place is 1, and its bits.
_ROUNDS, _ROUNDS_BITS = 1.5 * 2.0**23, 0x4B400000


def memory_type(kind: Kind) -> str:
    """What LLVM shall load and store."""
    return "i8" if isinstance(kind, Grid) else "i16" if kind == "bfloat" else kind


def widened(f: Function, value: V, kind: Kind) -> V:
    """What has been loaded of memory of a kind, as float."""
    if isinstance(kind, Grid):
        return _from_grid(f, value, kind)
    if kind == "bfloat":
        return f.convert("bitcast", f.binary("shl", f.convert("zext", value, "i32"), _of(f, 16, value)), "float")
    if kind != "half":
        return value
    if f.converts_half:
        return f.convert("fpext", value, "float")
    bits = f.convert("zext", f.convert("bitcast", value, "i16"), "i32")
    sign = f.binary("shl", f.binary("and", bits, _of(f, 0x8000, bits)), _of(f, 16, bits))
    size = f.binary("and", bits, _of(f, 0x7FFF, bits))
    shifted = f.binary("shl", size, _of(f, 13, bits))
    # Exponents are biased by 15 here and by 127 there; the largest says infinite or NaN in both.
    normal = f.binary("add", shifted, _of(f, (127 - 15) << 23, bits))
    special = f.binary("or", shifted, _of(f, 0xFF << 23, bits))
    small = f.binary("fmul", f.convert("uitofp", size, "float"), f.constant(2.0**-24, value.lanes))
    number = f.select(f.compare("uge", size, _of(f, 0x7C00, bits)), special, normal)
    number = f.select(f.compare("ult", size, _of(f, 0x400, bits)), f.convert("bitcast", small, "i32"), number)
    return f.convert("bitcast", f.binary("or", number, sign), "float")


def rounded(f: Function, value: V, kind: Kind) -> V:
    """A float as it is stored to memory of a kind."""
    if isinstance(kind, Grid):
        return _to_grid(f, value, kind)
    if kind == "half":
        return f.convert("fptrunc", value, "half") if f.converts_half else _rounded_to_half(f, value)
    if kind != "bfloat":
        return value
    bits = f.convert("bitcast", value, "i32")
    odd = f.binary("and", f.binary("lshr", bits, _of(f, 16, bits)), _of(f, 1, bits))
    nearest = f.binary("add", bits, f.binary("add", odd, _of(f, 0x7FFF, bits)))
    # The sum could carry a NaN into the sign, or drop all that makes it one.
    quiet = f.binary("or", bits, _of(f, 0x400000, bits))
    kept = f.select(f.compare("uno", value, value), quiet, nearest)
    return f.convert("trunc", f.binary("lshr", kept, _of(f, 16, bits)), "i16")


def _from_grid(f: Function, value: V, grid: Grid) -> V:
    whole = f.convert("zext", value, "i32")
    if grid.zero:
        whole = f.binary("sub", whole, _of(f, grid.zero, whole))
    return f.binary("fmul", f.convert("sitofp", whole, "float"), f.constant(grid.step, value.lanes))


def _to_grid(f: Function, value: V, grid: Grid) -> V:
    """As `on_grid` of convc/ir/ops/quantize.py."""
    low, high = f.constant(-grid.zero, value.lanes), f.constant(255 - grid.zero, value.lanes)
    whole = f.binary("fmul", value, f.constant(float(np.float32(1) / np.float32(grid.step)), value.lanes))
    whole = f.select(f.compare("ogt", whole, low), whole, low)
    whole = f.select(f.compare("olt", whole, high), whole, high)
    nearest = to_whole(f, whole)
    if grid.zero:
        nearest = f.binary("add", nearest, _of(f, grid.zero, nearest))
    return f.convert("trunc", nearest, "i8")


def to_whole(f: Function, value: V) -> V:
    """Small floats as the nearest i32, ties to even: adding this number leaves it in the lowest bits."""
    bits = f.convert("bitcast", f.binary("fadd", value, f.constant(_ROUNDS, value.lanes)), "i32")
    return f.binary("sub", bits, _of(f, _ROUNDS_BITS, bits))


def _rounded_to_half(f: Function, value: V) -> V:
    bits = f.convert("bitcast", value, "i32")
    sign = f.binary("and", f.binary("lshr", bits, _of(f, 16, bits)), _of(f, 0x8000, bits))
    size = f.binary("and", bits, _of(f, 0x7FFFFFFF, bits))
    odd = f.binary("and", f.binary("lshr", size, _of(f, 13, bits)), _of(f, 1, bits))
    bias = f.binary("add", odd, _of(f, 0xFFF - ((127 - 15) << 23), bits))
    normal = f.binary("lshr", f.binary("add", size, bias), _of(f, 13, bits))
    # Beside 0.5 the last place of a float is worth as much as that of the denormal halves: adding it rounds.
    half = 0x3F000000
    beside = f.binary("fadd", f.convert("bitcast", size, "float"), f.constant(0.5, value.lanes))
    denormal = f.binary("sub", f.convert("bitcast", beside, "i32"), _of(f, half, bits))
    number = f.select(f.compare("ult", size, _of(f, 113 << 23, bits)), denormal, normal)
    number = f.select(f.compare("uge", size, _of(f, (127 + 16) << 23, bits)), _of(f, 0x7C00, bits), number)
    number = f.select(f.compare("ugt", size, _of(f, 0xFF << 23, bits)), _of(f, 0x7E00, bits), number)
    return f.convert("bitcast", f.convert("trunc", f.binary("or", number, sign), "i16"), "half")


def _of(f: Function, number: int, like: V) -> V:
    """An integer in as many lanes."""
    return f.integers([number] * like.lanes)
