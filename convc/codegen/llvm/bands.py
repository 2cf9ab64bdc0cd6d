"""As how many rows a gradient by the filters of a 1x1 convolution sees an image, whose rows are all alike to it."""

from __future__ import annotations

import math

from convc.codegen.llvm.register_tile import unroll_factor
from convc.passes.algorithms.bands import positions_at_once


def equal_rows(pixels: int, size: int) -> int:
    """As how many rows to see an image of pixels one after the other, of `size` bytes each: 1 for a small one.

    Rows come as near as can be to what is taken at once, and are rather of a length that loops can be unrolled for.
    """
    wanted = positions_at_once(size)
    if pixels <= wanted:
        return 1
    lengths = [length for length in range(1, pixels + 1) if pixels % length == 0]
    return pixels // min(lengths, key=lambda length: (-unroll_factor(length), abs(math.log(length / wanted))))
