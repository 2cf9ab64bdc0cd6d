"""Scalars of 16 bits that a register tile multiplies in float32: widened a vector at a time, ahead of their use.

    row 0 of the tile in memory:  a  b  c …        widened:  a  b  c …   on the stack, from where a multiply-add
    row 1                      :  a' b' c'…   →              a' b' c'…   spreads them as it would those in float32

One by one each would take a conversion and a shuffle, for as few as two products. Widening is exact, so the bits of a
result do not depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from convc.codegen.llvm.register_tile import ScalarPlace
from convc.codegen.llvm.vocabulary import Function, V

_VECTORS = 4  # that are widened of each row at a time
_FEWEST = 4  # scalars side by side that are a vector
_MOST = 32  # places on the stack of a tile whose scalars all lie side by side


def is_widened_ahead(source: V, apart: int, count: int) -> bool:
    """Whether `count` scalars of a row, so far apart in memory, are to be widened on the stack."""
    return source.pointee in ("half", "bfloat") and apart == 1 and count >= _FEWEST


class Stretch:
    """Scalars of the `rows` of a tile that lie on the stack, those of a row side by side."""

    def __init__(self, f: Function, lanes: int, rows: Sequence[int]) -> None:
        self.f, self.lanes, self.rows = f, lanes, tuple(rows)
        self.apart = _VECTORS * lanes
        self.place = f.local("stretch", (1 + max(self.rows)) * self.apart)

    def cuts(self, count: int) -> Iterator[tuple[int, int, int]]:
        """`count` scalars of a row in stretches: where equal ones begin and end, and how long each is."""
        whole = count - count % self.apart
        if whole:
            yield 0, whole, self.apart
        if whole < count:
            yield whole, count, count - whole

    def widen(self, source: V, distance: int, count: int) -> None:
        """The first `count` scalars of each row: those of row m begin m·`distance` elements beyond `source`."""
        for row in self.rows:
            _widen(self.f, self.lanes, (source, row * distance), (self.place, row * self.apart), count)


def scalars_ahead(
    f: Function, lanes: int, source: V, places: Mapping[int, int], number: int = 0
) -> Callable[[int], ScalarPlace]:
    """The scalars of the rows of a tile, which lie at `places` beyond `source`: those that lie side by side in memory
    are widened on the stack. `number` tells apart what is in use at the same time."""
    known = {row: (source, place) for row, place in places.items()}
    if source.pointee == "half" and not f.converts_half:
        return known.__getitem__  # vectors that overlap, of a few numbers, are then no gain (docs/performance-log.md)
    for run in _runs(places):
        if is_widened_ahead(source, 1, len(run)):
            base = _MOST * number
            stack = f.local("scalars", base + _MOST)
            _widen(f, lanes, (source, places[run[0]]), (stack, base + run[0]), len(run))
            known |= {row: (stack, base + row) for row in run}
    return known.__getitem__


def _runs(places: Mapping[int, int]) -> list[list[int]]:
    """Rows one after the other whose scalars lie side by side."""
    runs: list[list[int]] = []
    for row, place in places.items():
        if runs and row == runs[-1][-1] + 1 < _MOST and place == places[runs[-1][-1]] + 1:
            runs[-1].append(row)
        else:
            runs.append([row])
    return runs


def _widen(f: Function, lanes: int, source: ScalarPlace, target: ScalarPlace, count: int) -> None:
    """`count` scalars by vectors, the last of which overlaps the one before it where they do not come out even."""
    size = min(lanes, 1 << (count.bit_length() - 1))
    for first in {min(offset, count - size): None for offset in range(0, count, size)}:
        value = f.load(f.address(source[0], source[1] + first), size)
        f.store(value, f.address(target[0], target[1] + first))
