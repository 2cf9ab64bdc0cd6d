"""The inner loop of every product: scalars of one operand spread over vectors of the other, sums kept in registers.

    for t in reduction:  for m in rows:  for v in pieces:  sum[m, v] += a[m, t] · b[t, v]

Direct convolution, its two gradients and fully connected layers differ only in where a[m, t] and b[t, v] lie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from convc.codegen.llvm.vocabulary import Function, V
from convc.lazy import dataclass
from convc.passes.machine import split_lanes

# Where a scalar lies: a base address in registers and a constant number of elements beyond it.
ScalarPlace = tuple[V, int]


@dataclass(frozen=True)
class Piece:
    """`lanes` adjacent columns, the first of them `offset` columns into the block."""

    offset: int
    lanes: int


def column_pieces(width: int, lanes: int) -> tuple[Piece, ...]:
    """A block of `width` columns as vectors."""
    pieces: list[Piece] = []
    offset = 0
    for piece in split_lanes(width, lanes):
        pieces.append(Piece(offset, piece))
        offset += piece
    return tuple(pieces)


class Sums:
    """The accumulators of a tile, row by row; `flat` is the form in which loops carry them."""

    def __init__(self, rows: int, pieces: Sequence[Piece], flat: Sequence[V]) -> None:
        self.rows = rows
        self.pieces = tuple(pieces)
        self.flat = list(flat)

    @classmethod
    def zeros(cls, f: Function, rows: int, pieces: Sequence[Piece], whole: bool = False) -> Sums:
        """Of float, or of `whole` numbers of 32 bits."""
        zeros = [f.integers([0] * p.lanes) if whole else f.constant(0.0, p.lanes) for p in pieces]
        return cls(rows, pieces, zeros * rows)

    def at(self, row: int, piece: int) -> V:
        return self.flat[row * len(self.pieces) + piece]

    def multiply_add(
        self, f: Function, columns: V, columns_offset: int, scalar: Callable[[int], ScalarPlace], active: Sequence[int],
        imaginary: int | None = None,
    ) -> None:  # fmt: skip
        """One step of the reduction: load the row of columns at `columns + columns_offset` and add its products with
        the scalars of the `active` rows.

        With complex numbers the imaginary part of a scalar lies `imaginary` elements behind the real one, and the first
        half of the pieces are real parts, the others imaginary ones.
        """
        loaded = [f.load(f.address(columns, columns_offset + p.offset), p.lanes) for p in self.pieces]
        for row in active:
            base, offset = scalar(row)
            first, value = row * len(self.pieces), f.load(f.address(base, offset))
            for number, piece in enumerate(self.pieces):
                self._add_product(f, first + number, f.splat(value, piece.lanes), loaded[number])
            if imaginary is not None:
                self._add_turned(f, first, f.load(f.address(base, offset + imaginary)), loaded)

    def add_pairs(
        self, f: Function, columns: V, columns_offset: int, scalar: Callable[[int], ScalarPlace], active: Sequence[int],
        apart: int = 0,
    ) -> None:  # fmt: skip
        """Two steps of the reduction, of bfloat numbers: the two scalars of a row of the tile lie side by side, and so
        do the columns of two rows (`WeightLayout.pairs`), unless the second row is so far `apart` from the first."""
        loaded = [
            _pair_of_rows(f, f.address(columns, columns_offset + (p.offset if apart else 2 * p.offset)), p.lanes, apart)
            for p in self.pieces
        ]
        for row in active:
            base, offset = scalar(row)
            both = f.load(f.address(base, offset), 1, "i32")
            for number, piece in enumerate(self.pieces):
                index = row * len(self.pieces) + number
                self.flat[index] = f.dot_pairs(
                    f.bits(f.splat(both, piece.lanes), "bfloat"), loaded[number], self.flat[index]
                )

    def add_quads(
        self, f: Function, columns: V, columns_offset: int, scalar: Callable[[int], ScalarPlace], active: Sequence[int]
    ) -> None:
        """Four steps of the reduction, of whole numbers: the four scalars of a row of the tile lie side by side, and so
        do the columns of four rows (`QuantizedLayout`)."""
        loaded = [f.load(f.address(columns, columns_offset + 4 * p.offset), p.lanes, "i32") for p in self.pieces]
        for row in active:
            base, offset = scalar(row)
            four = f.load(f.address(base, offset), 1, "i32")
            for number, piece in enumerate(self.pieces):
                index = row * len(self.pieces) + number
                self.flat[index] = f.dot_quads(f.splat(four, piece.lanes), loaded[number], self.flat[index])

    def add_whole(self, f: Function, columns: V, active: Sequence[int]) -> None:
        """Add a row of whole numbers of 32 bits to each of the `active` rows."""
        loaded = [f.load(f.address(columns, p.offset, "i32"), p.lanes, "i32") for p in self.pieces]
        for row in active:
            for number in range(len(self.pieces)):
                index = row * len(self.pieces) + number
                self.flat[index] = f.binary("add", self.flat[index], loaded[number])

    def _add_turned(self, f: Function, first: int, value: V, loaded: Sequence[V]) -> None:
        """Products with `value` times i."""
        half = len(loaded) // 2
        for number, piece in enumerate(self.pieces[:half]):
            spread = f.splat(value, piece.lanes)
            self._add_product(f, first + number, f.negate(spread), loaded[half + number])
            self._add_product(f, first + half + number, spread, loaded[number])

    def _add_product(self, f: Function, index: int, factor: V, vector: V) -> None:
        self.flat[index] = f.fma(factor, vector, self.flat[index])


def _pair_of_rows(f: Function, place: V, lanes: int, apart: int) -> V:
    if not apart:
        return f.load(place, 2 * lanes, "bfloat")
    rows = f.load(place, lanes, "i16"), f.load(f.address(place, apart), lanes, "i16")
    return f.bits(f.interleave(*rows), "bfloat")


def unroll_factor(count: int, most: int = 4) -> int:
    """The largest divisor of `count` up to `most`, 1 for none (a remainder loop costs more than a shorter body)."""
    return next(factor for factor in range(min(most, max(count, 1)), 0, -1) if count % factor == 0)
