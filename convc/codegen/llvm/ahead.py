"""Fetching ahead: while tiles pass over images that lie in a cache, the images after these are brought there.

Large images come from memory, and a tile that is the first to read them waits. Each tile therefore asks for some cache
lines of what is next, spread over its loop: asked for in one burst, they would wait for each other.
"""

from __future__ import annotations

from collections.abc import Sequence

from convc.codegen.llvm.narrow import memory_type
from convc.codegen.llvm.vocabulary import ALIGN, LINE_BYTES, Function, Index, V
from convc.lazy import dataclass

_MOST = 8  # lines that a tile asks for in a round of its innermost loop


@dataclass(frozen=True)
class Stream:
    """Images that a loop over images, rows and positions reads: elements between two of each, and those of a position.

    What is to be fetched lies `distance` elements behind what is read.
    """

    pointer: V
    image: int
    row: int
    position: int
    width: int
    distance: int

    @property
    def line(self) -> int:
        """Elements of a cache line."""
        return LINE_BYTES // ALIGN[memory_type(self.pointer.pointee)]

    @property
    def lines(self) -> int:
        """Cache lines of a position."""
        return -(-self.width // self.line)


class Ahead:
    """What one of `tiles` tiles fetches; `tile` is its number, of which each has another.

    `image`, `row` and `positions` are called inside the loops, with their indices, and `fetch` for each of the
    positions that the innermost loop takes in a round.
    """

    def __init__(self, f: Function, streams: Sequence[Stream], tile: Index, tiles: int, round: int) -> None:
        self.f, self.round = f, round
        one, other = streams
        assert one.line == other.line
        of_position = one.lines + other.lines
        wanted = round * of_position
        count = min(-(-wanted // tiles), _MOST)
        self._steps: list[tuple[Index, Index, Index]] = []  # from one image, row, position to the next
        self._places: list[V] = []
        for number in range(count):
            line = f.add(f.multiply(tile, count), number)
            beside, line_there = f.divide(line, of_position), f.remainder(line, of_position)
            of_one = f.less(line_there, one.lines)

            def pick(first: Index, second: Index, of_one: V = of_one) -> Index:
                return _pick(f, of_one, first, second)

            position = pick(one.position, other.position)
            line_there = pick(line_there, f.subtract(line_there, one.lines))
            distance = f.sum(
                pick(one.distance, other.distance), f.multiply(beside, position), f.multiply(line_there, one.line)
            )
            # Who has nothing to fetch asks for what it reads.
            distance = _pick(f, f.less(line, wanted), distance, 0)
            self._places.append(f.address(f.select(of_one, one.pointer, other.pointer), distance))
            self._steps.append((pick(one.image, other.image), pick(one.row, other.row), position))

    def image(self, index: Index) -> None:
        self._of_image = self._moved(self._places, 0, index)

    def row(self, index: Index) -> None:
        self._of_row = self._moved(self._of_image, 1, index)

    def positions(self, index: Index) -> None:
        """A round of the innermost loop, which begins at this position."""
        self._here = self._moved(self._of_row, 2, index)

    def fetch(self, step: int) -> None:
        """The share of one position of the round."""
        for place in self._here[step :: self.round]:
            self.f.prefetch(place)

    def _moved(self, places: Sequence[V], level: int, index: Index) -> list[V]:
        f = self.f
        return [
            f.address(place, f.multiply(index, steps[level])) for place, steps in zip(places, self._steps, strict=True)
        ]


def _pick(f: Function, condition: V, yes: Index, no: Index) -> Index:
    if isinstance(yes, int) and yes == no:
        return yes
    first, second = (V(str(value), "i64") if isinstance(value, int) else value for value in (yes, no))
    return f.select(condition, first, second)
