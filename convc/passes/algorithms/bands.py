"""How much of the images a direct gradient by the filters takes at once, so that all its tiles find it in a cache."""

from __future__ import annotations

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
