"""Gradients by the filters that are summed in parts: each part of the images has sums of its own, added up at the end.

Threads then take whole parts, so each reads what it has written itself, and nobody waits. The number of parts is fixed
by the problem, lest the order of the sum depend on the threads.
"""

from __future__ import annotations

_FEWEST, _MOST = 4, 32
_MOST_FLOATS = 2 << 20  # of all parts


def parts_of(moved: int, gradient: int) -> int:
    """A power of two, given the floats of what the sums are made from and of the gradient.

    1 where adding up the parts would move as much memory as making them does, or where they would take too much of it.
    """
    fitting = min(min(moved, _MOST_FLOATS) // max(gradient, 1), _MOST)
    return 1 << (fitting.bit_length() - 1) if fitting >= _FEWEST else 1
