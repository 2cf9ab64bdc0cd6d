"""Two positions (or images) of a gradient by weights at a time: x[p, c]·dy[p, k] + x[q, c]·dy[q, k], in bfloat16.

    channels of pixel p:  a  b  c …
    channels of pixel q:  a' b' c'…    →    (a, a') (b, b') (c, c') …  on the stack, where scalars can be read

Scalars that the instruction takes together lie a pixel apart in memory. So the channels of both pixels are loaded as
vectors, interleaved, and stored on the stack: what has just been stored comes back at once. Columns are interleaved in
registers.
"""

from __future__ import annotations

from collections.abc import Sequence

from convc.codegen.llvm.register_tile import Sums
from convc.codegen.llvm.vocabulary import Function, V, vector

_PAIRS = 16  # of a vector
_ONES = 0x3F803F80  # a pair of ones


def add_positions(
    f: Function, sums: Sums, pixels: tuple[V, V], columns: V, apart: int, channels: int, rows: Sequence[int], place: int
) -> None:
    """Add the products of the first `channels` of two pixels with two rows of columns, the second of which lies so many
    elements `apart` from the first, to the sums of `rows`: those from `channels` on have ones for scalars.

    `place` tells apart what is in use at the same time.
    """
    first, second = (_masked(f, pixel, channels) for pixel in pixels)
    pairs = f.bits(f.interleave(first, second), "i32")
    if any(row >= channels for row in rows):
        pairs = f.binary("or", pairs, f.integers([_ONES if lane >= channels else 0 for lane in range(_PAIRS)]))
    stack = f.address(f.local("pairs", _PAIRS * (place + 1)), _PAIRS * place)
    f.store(pairs, stack)
    sums.add_pairs(f, columns, 0, lambda row: (stack, row), rows, apart)


def _masked(f: Function, pixel: V, channels: int) -> V:
    """The first numbers of a vector; what lies behind them is not read."""
    type = vector("i16", _PAIRS)
    if channels == _PAIRS:
        return f.load(pixel, _PAIRS, "i16")
    mask = f.integers([lane < channels for lane in range(_PAIRS)], "i1")
    return f.intrinsic(
        f"llvm.masked.load.v{_PAIRS}i16.p0", type, V(pixel.ref, "ptr"), V("2", "i32"), mask, V("zeroinitializer", type)
    )
