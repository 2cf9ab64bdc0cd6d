"""How many operations the transforms of common tiles take.

Each is the length of a straight-line program, whose derivation takes milliseconds: too long for a program that only
wants to know which algorithm is the fastest. So they stand here; `tests/passes/algorithms/test_operation_counts.py`
derives them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class WinogradCounts(NamedTuple):
    """Of one-dimensional transforms, by what they transform."""

    image: int
    filter: int
    output: int
    cotangent: int
    filter_gradient: int


# By outputs and taps.
WINOGRAD_COUNTS: Mapping[tuple[int, int], WinogradCounts] = {
    (1, 1): WinogradCounts(0, 0, 0, 0, 0),
    (2, 3): WinogradCounts(4, 5, 4, 2, 5),
    (4, 3): WinogradCounts(12, 8, 12, 8, 10),
    (6, 3): WinogradCounts(24, 13, 20, 18, 15),
    (2, 5): WinogradCounts(12, 12, 8, 4, 14),
    (4, 5): WinogradCounts(24, 19, 16, 12, 21),
    (2, 7): WinogradCounts(24, 25, 12, 6, 27),
}

# Of two-dimensional transforms of real numbers, by size: where n x n numbers, the first ones of the first rows, differ
# from zero. Those are all of a tile, kernels of 1x1 to 7x7, and the outputs that a tile has with these.
FOURIER_COUNTS: Mapping[int, Mapping[int, int]] = {
    8: {1: 3, 2: 78, 3: 123, 4: 168, 5: 204, 6: 260, 7: 306, 8: 356},
    16: {1: 3, 3: 507, 5: 798, 7: 1052, 10: 1368, 12: 1596, 14: 1816, 16: 2052},
    32: {1: 3, 3: 1995, 5: 3190, 7: 4092, 26: 9252, 28: 9780, 30: 10324, 32: 10884},
}
