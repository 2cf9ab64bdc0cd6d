"""How much of the images a gradient by the filters takes at once, so that all its tiles find it in a cache."""

from __future__ import annotations

import math

from convc.codegen.llvm.register_tile import unroll_factor

# A part of the second-level cache. With fewer positions tiles would be loaded and stored too often.
_CHUNK_BYTES = 256 << 10
_FEWEST_POSITIONS = 128


def images_at_once(size: int) -> int:
    """How many images of `size` bytes, at least 1."""
    return max(1, _CHUNK_BYTES // size)


def positions_at_once(size: int) -> int:
    """How many positions of an image that take `size` bytes each."""
    return max(_CHUNK_BYTES // size, _FEWEST_POSITIONS)


def rows_at_once(height: int, width: int, size: int) -> int:
    """How many rows of an image whose positions take `size` bytes each: all of a small one."""
    positions = positions_at_once(size)
    bands = round(height * width / positions)
    return height if bands <= 1 else max(1, round(positions / width))


def equal_rows(pixels: int, size: int) -> int:
    """As how many rows to see an image of pixels one after the other, of `size` bytes each: 1 for a small one.

    Rows come as near as can be to what is taken at once, and are rather of a length that loops can be unrolled for.
    """
    wanted = positions_at_once(size)
    if pixels <= wanted:
        return 1
    lengths = [length for length in range(1, pixels + 1) if pixels % length == 0]
    return pixels // min(lengths, key=lambda length: (-unroll_factor(length), abs(math.log(length / wanted))))
