"""Convolutions by Fourier transforms: overlap-save tiles of N x N pixels (Mathieu, Henaff & LeCun 2014; Vasilache et
al. 2015), whose outputs that wrap around nobody computes.

    Y  =  X · conj F     for every frequency: the spectra of tile, filter (where no tap is: zeros) and outputs

A tile of real numbers has a spectrum of N²/2 − 2 complex numbers and 4 real ones; the others are conjugates of these:

    rows      N real transforms of N numbers → N real columns' worth: X_0 and X_(N/2), which are real, and N/2 − 1 pairs
    columns   2 real transforms (of X_0 and X_(N/2)), N/2 − 1 complex ones

Rows and columns are loops over straight-line code; between them a tile waits in memory of its own thread. Back it is
the transpose of all that, with the inverse's factors W/N² put on the spectra of filters (see
passes/algorithms/fourier.py): powers of two, which round nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from convc.codegen.llvm.algorithms.codelet import apply
from convc.codegen.llvm.algorithms.transform import Rows, Values
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.lazy import dataclass
from convc.passes.algorithms.fft import fourier_form, taps_of
from convc.passes.algorithms.fourier import (
    Positions,
    Sign,
    complex_transform,
    complex_transform_back,
    real_transform,
    real_transform_back,
)
from convc.passes.algorithms.problem import Problem
from convc.passes.algorithms.transform_plan import Form

_REAL, _COMPLEX = 0, 1  # numbers of the products in the form


@dataclass(frozen=True)
class FourierTransform:
    """Tiles of `size` x `size` for a kernel with taps at these rows and columns."""

    size: int
    rows: Positions
    columns: Positions

    @classmethod
    def of(cls, size: int, problem: Problem) -> FourierTransform:
        return cls(size, *taps_of(problem))

    @property
    def form(self) -> Form:
        return fourier_form(self.size, self.rows, self.columns)

    @property
    def in_registers(self) -> bool:
        return False

    def image(self, f: Function, rows: Rows, values: Values) -> None:
        everything = tuple(range(self.size))
        _Plane(f, self.size, values).transform(rows, everything, everything, -1)

    def filter(self, f: Function, rows: Rows, values: Values) -> None:
        scale = f.constant(2 / self.size**2, values.lanes)
        _Plane(f, self.size, values, weighted=True).transform(
            lambda i: [f.binary("fmul", value, scale) for value in rows(i)], self.rows, self.columns, 1
        )

    def output(self, f: Function, values: Values) -> Iterator[tuple[Index, list[V]]]:
        return _Plane(f, self.size, values).transform_back(*self._outputs)

    def cotangent(self, f: Function, rows: Rows, values: Values) -> None:
        _Plane(f, self.size, values).transform(rows, *self._outputs, 1)

    def filter_gradient(self, f: Function, values: Values) -> Iterator[tuple[Index, list[V]]]:
        scale = f.constant(2 / self.size**2, values.lanes)
        for i, row in _Plane(f, self.size, values, weighted=True).transform_back(self.rows, self.columns):
            yield i, [f.binary("fmul", value, scale) for value in row]

    @property
    def _outputs(self) -> tuple[Positions, Positions]:
        rows, columns = self.form.outputs
        return tuple(range(rows)), tuple(range(columns))


class _Plane:
    """Two-dimensional transforms of one vector of channels. `weighted`: real frequencies count half."""

    def __init__(self, f: Function, size: int, values: Values, weighted: bool = False) -> None:
        self.f, self.size, self.values, self.weighted = f, size, values, weighted
        # One more in a row, so that the numbers of a column fall into different sets of the cache.
        self.row = (size + 1) * values.lanes
        self.tile = f.local("tile", size * self.row)

    def _place(self, row: Index, column: Index) -> V:
        f, lanes = self.f, self.values.lanes
        across = f.address(self.tile, f.multiply(column, lanes))
        return f.address(across, f.multiply(row, self.row))

    def transform(self, rows: Rows, down: Positions, across: Positions, sign: Sign) -> None:
        """Rows of numbers at the columns `across`, one for each of the rows `down`, the others zero → values."""
        f, size = self.f, self.size
        along_row = real_transform(size, across, sign)
        with f.loop(0, len(down)) as i:
            for j, value in enumerate(apply(f, along_row, rows(i.index))):
                f.store(value, self._place(i.index, j))
        along_column = real_transform(size, down, sign)
        with f.loop(0, 2) as column:
            held = [f.load(self._place(i, column.index), self.values.lanes) for i in range(len(down))]
            for k, value in enumerate(apply(f, along_column, held)):
                self._store_of_real(column.index, k, value)
        along_column = complex_transform(size, down, sign)
        with f.loop(1, size // 2) as pair:
            held = [f.load(place, self.values.lanes) for i in range(len(down)) for place in self._pair(i, pair.index)]
            for k, value in enumerate(apply(f, along_column, held)):
                self.values.store(f, _COMPLEX, self._entry(pair.index, k // 2), k % 2, value)

    def transform_back(self, down: Positions, across: Positions) -> Iterator[tuple[Index, list[V]]]:
        """Values → the rows `down` of numbers at the columns `across`: `transform` with sign −1 transposed."""
        f, size = self.f, self.size
        along_column = real_transform_back(size, down)
        with f.loop(0, 2) as column:
            held = [self._load_of_real(column.index, k) for k in range(size)]
            for i, value in enumerate(apply(f, along_column, held)):
                f.store(value, self._place(i, column.index))
        along_column = complex_transform_back(size, down)
        with f.loop(1, size // 2) as pair:
            held = [
                self.values.load(f, _COMPLEX, self._entry(pair.index, k), part) for k in range(size) for part in (0, 1)
            ]
            found = iter(apply(f, along_column, held))
            for i in range(len(down)):
                for place in self._pair(i, pair.index):
                    f.store(next(found), place)
        along_row = real_transform_back(size, across)
        with f.loop(0, len(down)) as i:
            yield (
                i.index,
                apply(f, along_row, [f.load(self._place(i.index, j), self.values.lanes) for j in range(size)]),
            )

    def _pair(self, row: int, pair: Index) -> tuple[V, V]:
        """Real and imaginary part of a number in a complex column."""
        real = self._place(row, self.f.multiply(pair, 2))
        return real, self.f.address(real, self.values.lanes)

    def _entry(self, pair: Index, k: int) -> Index:
        """The product that frequency k of a complex column takes part in: behind those of the real columns."""
        f, size = self.f, self.size
        return f.add(f.multiply(f.add(pair, -1), size), size - 2 + k)

    def _place_of_real(self, column: Index, k: int) -> tuple[int, Index, int]:
        """(products, entry, part) of number k in the spectrum of a real column: two are real, then come pairs."""
        f = self.f
        if k < 2:
            return _REAL, f.add(f.multiply(column, 2), k), 0
        return _COMPLEX, f.add(f.multiply(column, self.size // 2 - 1), k // 2 - 1), k % 2

    def _store_of_real(self, column: Index, k: int, value: V) -> None:
        self.values.store(self.f, *self._place_of_real(column, k), self._weighted(k, value))

    def _load_of_real(self, column: Index, k: int) -> V:
        return self._weighted(k, self.values.load(self.f, *self._place_of_real(column, k)))

    def _weighted(self, k: int, value: V) -> V:
        if self.weighted and k < 2:
            return self.f.binary("fmul", value, self.f.constant(0.5, value.lanes))
        return value
