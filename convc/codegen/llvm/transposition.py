"""Filters with input and output channels exchanged, as gradients by the images read them.

    [group][block of k][r][s][c][k]  →  [group][block of c][r][s][k][c]

Squares of as many channels as a vector has lanes are turned in registers; what is left over goes number by number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.passes.layout import WeightLayout


def transpose(f: Function, rows: Sequence[V]) -> list[V]:
    """The columns of a square matrix given as rows: 2^n vectors with as many lanes.

    Blocks off the diagonal change places, of half the matrix first, then within each quarter, down to single numbers.
    """
    values, count = list(rows), len(rows)
    distance = count // 2
    while distance:
        upper = [lane + count - distance if lane & distance else lane for lane in range(count)]
        lower = [lane + count if lane & distance else lane + distance for lane in range(count)]
        for i in range(count):
            if not i & distance:
                first, second = values[i], values[i + distance]
                values[i], values[i + distance] = f.shuffle(first, second, upper), f.shuffle(first, second, lower)
        distance //= 2
    return values


# Taps (rows, columns) of filters, each at a constant distance from the one before.
Taps = tuple[Sequence[int], Sequence[int]]


def transpose_filters(
    f: Function, source: V, packed: WeightLayout, target: V, transposed: WeightLayout, lanes: int,
    wanted: Taps | None = None,
) -> None:  # fmt: skip
    """Write the filters, packed, into `target`; threads split (group, tap, output channel, or `lanes` of them).

    `wanted` are the taps r and s of the result in their order.
    """
    _Transposition(f, source, packed, target, transposed, lanes, wanted).emit()


class _Transposition:
    def __init__(
        self, f: Function, source: V, packed: WeightLayout, target: V, transposed: WeightLayout, lanes: int,
        wanted: Taps | None,
    ) -> None:  # fmt: skip
        self.f, self.source, self.target, self.lanes = f, source, target, lanes
        self.packed, self.transposed = packed, transposed
        self.taps = wanted or (range(packed.rows.height), range(packed.rows.width))
        self.outputs, self.channels = transposed.rows.channels, packed.rows.channels

    def emit(self) -> None:
        outputs, channels = (
            self._in_vectors(self.packed, self.outputs),
            self._in_vectors(self.transposed, self.channels),
        )
        if outputs and channels:
            self._squares(outputs, channels)
        else:
            outputs = channels = 0
        if channels < self.transposed.columns:
            self._single(0, outputs, channels)
        self._single(outputs, self.outputs, 0)
        self._clear_rows()

    def _in_vectors(self, layout: WeightLayout, real: int) -> int:
        """How many outputs, from the first on, lie in full vectors of neighbours."""
        if self.lanes == 1 or (layout.block % self.lanes and len(layout.blocks) > 1):
            return 0
        return real // self.lanes * self.lanes

    def _squares(self, outputs: int, channels: int) -> None:
        f, lanes = self.f, self.lanes
        for group, tap, number in self._units(outputs // lanes):
            k = f.multiply(number, lanes)
            with f.loop(0, channels, lanes) as c:
                place, width = self._packed(group, tap, c.index, k)
                rows = _load_rows(f, place, width, lanes, self.packed.pairs)
                place, width = self._transposed(group, tap, k, c.index)
                _store_rows(f, transpose(f, rows), place, width, self.transposed.pairs)

    def _single(self, first: int, stop: int, done: int) -> None:
        """Outputs `first` … stop − 1 and their channels from `done` on; zeros for channels that only pad."""
        f = self.f
        if first == stop:
            return
        for group, tap, number in self._units(stop - first):
            k = f.add(number, first)
            with f.loop(done, self.channels) as c:
                value = f.load(self._packed(group, tap, c.index, k)[0])
                f.store(value, self._transposed(group, tap, k, c.index)[0])
            with f.loop(self.channels, self.transposed.columns) as c:
                f.store(f.constant(0.0), self._transposed(group, tap, k, c.index)[0])

    def _clear_rows(self) -> None:
        """Zeros for output channels that only make up a pair."""
        f, spare = self.f, self.transposed.rows.stored - self.outputs
        if not spare:
            return
        for group, tap, number in self._units(spare):
            with f.loop(0, self.transposed.columns) as c:
                place, _ = self._transposed(group, tap, f.add(number, self.outputs), c.index)
                f.store(f.constant(0.0), place)

    def _units(self, count: int) -> Iterator[tuple[Index, Index, Index]]:
        """This thread's share of (group, tap of the result, number below `count`)."""
        f, taps = self.f, self.transposed.rows.pixels
        start, stop = f.share(self.packed.groups * taps * count)
        with f.loop(start, stop) as unit:
            number, rest = f.remainder(unit.index, count), f.divide(unit.index, count)
            yield f.divide(rest, taps), f.remainder(rest, taps), number

    def _packed(self, group: Index, tap: Index, c: Index, k: Index) -> tuple[V, Index]:
        """The address of a weight, and how far it is to the next channel."""
        f, (rows, columns) = self.f, self.taps
        r, s = _tap(f, rows, f.divide(tap, len(columns))), _tap(f, columns, f.remainder(tap, len(columns)))
        origin = f.add(f.multiply(r, self.packed.rows.width), s)
        place, width = weight_place(f, self.packed, group, origin, c, k)
        return f.address(self.source, place), width

    def _transposed(self, group: Index, tap: Index, k: Index, c: Index) -> tuple[V, Index]:
        """The address of a weight, and how far it is to the next output channel."""
        place, width = weight_place(self.f, self.transposed, group, tap, k, c)
        return self.f.address(self.target, place), width


def _load_rows(f: Function, place: V, width: Index, lanes: int, pairs: int) -> list[V]:
    """As many rows of a block as a vector has lanes."""
    rows: list[V] = []
    for n in range(0, lanes, pairs):
        loaded = f.load(f.address(place, f.multiply(width, n)), pairs * lanes)
        rows += [loaded] if pairs == 1 else [f.shuffle(loaded, loaded, range(i, 2 * lanes, 2)) for i in (0, 1)]
    return rows


def _store_rows(f: Function, rows: Sequence[V], place: V, width: Index, pairs: int) -> None:
    for n in range(0, len(rows), pairs):
        value = rows[n] if pairs == 1 else f.interleave(rows[n], rows[n + 1])
        f.store(value, f.address(place, f.multiply(width, n)))


def weight_place(
    f: Function, layout: WeightLayout, group: Index, tap: Index, channel: Index, output: Index
) -> tuple[Index, Index]:
    """The element of a weight, and the width of the block of outputs: so far it is to the next channel, and from one
    pair of channels to the next twice as far."""
    rows, pairs = layout.rows, layout.pairs
    first = f.multiply(f.divide(output, layout.block), layout.block)
    width = f.minimum(layout.block, f.subtract(layout.columns, first))
    second = f.remainder(channel, pairs)  # of a pair
    line = f.multiply(f.add(f.multiply(tap, rows.stored), f.subtract(channel, second)), width)
    matrix = f.multiply(group, layout.columns * rows.size)
    column = f.multiply(f.subtract(output, first), pairs)
    return f.sum(matrix, f.multiply(first, rows.size), line, column, second), width


def _tap(f: Function, taps: Sequence[int], number: Index) -> Index:
    return f.add(taps[0], f.multiply(number, taps[1] - taps[0] if len(taps) > 1 else 1))
