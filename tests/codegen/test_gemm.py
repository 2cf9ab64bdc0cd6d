"""The product of matrices against numpy: sizes around every edge of a tile, all forms of the operands, any threads."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from convc.codegen.llvm.gemm import Matrices, Place, Product, multiply, multiply_with
from convc.codegen.llvm.kernel import context_word
from convc.codegen.llvm.program import machine_of
from convc.codegen.llvm.register_tile import Sums
from convc.codegen.llvm.target import host_target
from convc.codegen.llvm.vocabulary import Function, Index
from convc.passes.tiling import Tile, choose_tile
from tests.codegen.single_phase import SinglePhase
from tests.codegen.test_ops import available_tiers


@dataclass(frozen=True)
class Case:
    """One product; `spare` elements lie between the rows of A, B and C, which nobody may touch in C."""

    rows: int
    columns: int
    depth: int
    batch: int = 1
    spare: int = 0
    packed: bool = False  # B
    packed_result: bool = False
    transposed: bool = False
    accumulate: bool = False
    dynamic: bool = False  # rows, depth and batch are known at run time only
    complex: bool = False

    def __str__(self) -> str:
        names = ("packed", "packed_result", "transposed", "accumulate", "dynamic", "complex")
        flags = [name for name in names if getattr(self, name)]
        return "-".join([f"{self.batch}x{self.rows}x{self.columns}x{self.depth}+{self.spare}", *flags])


_SIZES = [(1, 1, 1), (1, 4, 3), (13, 20, 7), (14, 32, 8), (29, 33, 5), (31, 68, 12), (70, 17, 27), (7, 100, 64)]
CASES = [
    *(Case(m, n, k) for m, n, k in _SIZES),
    *(Case(m, n, k, 3, 5, dynamic=True) for m, n, k in _SIZES),
    *(Case(m, n, k, 2, 4, packed=True, dynamic=True, accumulate=True) for m, n, k in _SIZES),
    *(Case(m, n, k, 2, 3, transposed=True, dynamic=k % 2 == 1) for m, n, k in _SIZES),
    Case(9, 20, 300, 2, transposed=True, dynamic=True),
    Case(31, 68, 256, 2, transposed=True, accumulate=True),
    Case(1900, 68, 140, 2, transposed=True, dynamic=True),
    Case(31, 68, 9, 2, packed_result=True, dynamic=True),
    Case(31, 17, 200, 2, packed_result=True, transposed=True),
    Case(5, 8, 0, 2, dynamic=True),
    Case(5, 8, 0, 2, dynamic=True, transposed=True),
    *(Case(m, n, k, 2, 5, complex=True, dynamic=True) for m, n, k in _SIZES),
    *(Case(m, n, k, 2, packed=True, accumulate=True, complex=True) for m, n, k in _SIZES[3:]),
    *(Case(m, n, k, 2, packed_result=True, transposed=True, complex=True) for m, n, k in _SIZES[3:]),
    Case(31, 17, 200, 2, packed_result=True, transposed=True, complex=True, dynamic=True),
]


def _pack(b: np.ndarray, block: int) -> np.ndarray:
    """[entry][block of columns][row][part][column of the block]."""
    blocks = [_parts(b[..., first : first + block]) for first in range(0, b.shape[2], block)]
    return np.concatenate([part.reshape(len(b), -1) for part in blocks], axis=1)


def _parts(matrices: np.ndarray) -> np.ndarray:
    """Real parts of rows, then imaginary ones."""
    return np.concatenate([np.real(matrices), np.imag(matrices)], -1) if np.iscomplexobj(matrices) else matrices


def _check(case: Case, tier: str, *more_threads: int) -> None:
    """C is exact to rounding, nothing lies between its rows, and other numbers of threads give the same bits."""
    target = host_target(tier)
    machine = machine_of(target)
    tile = choose_tile(machine, 64, case.columns)
    draw = np.random.default_rng(case.rows * 1000 + case.columns)
    parts = 2 if case.complex else 1

    def matrices(rows: int, columns: int) -> np.ndarray:
        numbers = draw.standard_normal((case.batch, rows, columns * parts)).astype(np.float32)
        return numbers.view(np.complex64) if case.complex else numbers

    a, b, c = matrices(case.rows, case.depth), matrices(case.depth, case.columns), matrices(case.rows, case.columns)
    stored = [_parts(a.transpose(0, 2, 1) if case.transposed else a), _parts(b), _parts(c)]
    wide: list[np.ndarray] = [np.full((*m.shape[:2], m.shape[2] + case.spare), np.nan, np.float32) for m in stored]
    for whole, part in zip(wide, stored, strict=True):
        whole[:, :, : part.shape[2]] = part
    if not case.accumulate:
        wide[2][:] = np.nan
    entries = [m[0].size for m in wide]
    block = min(tile.block, case.columns)
    if case.packed:
        wide[1] = _pack(b, block)
        entries[1] = wide[1].shape[1]
    if case.packed_result:
        wide[2] = np.full((case.batch, case.rows * case.columns * parts), np.nan, np.float32)

    def body(f: Function) -> None:
        sizes: list[Index] = [case.rows, case.depth, case.batch]
        if case.dynamic:
            sizes = [context_word(f, word) for word in range(3)]
        product = Product(
            sizes[0], case.columns, sizes[1], tile, sizes[2], case.accumulate, parts=2 if case.complex else 1
        )
        rows = [m.shape[-1] for m in wide]
        apart = [m.shape[-1] // parts for m in stored]
        left = Matrices(f.pointers[0], rows[0], entries[0], transposed=case.transposed, imaginary=apart[0])
        right = Matrices(f.pointers[1], 0 if case.packed else rows[1], entries[1], case.packed, imaginary=apart[1])
        result = Matrices(
            f.pointers[2], 0 if case.packed_result else rows[2], entries[2], case.packed_result, imaginary=apart[2]
        )
        multiply(f, machine, product, left, right, result)

    phase = SinglePhase(target, 3, body)
    found: list[np.ndarray] = []
    for threads in (1, *more_threads):
        found.append(wide[2].copy())
        phase.run([*wide[:2], found[-1]], [case.rows, case.depth, case.batch], threads)
    exact = a.astype(np.complex128) @ b.astype(np.complex128) + (c if case.accumulate else 0)
    exact = exact if case.complex else exact.real
    if case.packed_result:
        np.testing.assert_allclose(found[0], _pack(exact, block), atol=1e-4, rtol=1e-5)
    else:
        np.testing.assert_allclose(found[0][:, :, : case.columns * parts], _parts(exact), atol=1e-4, rtol=1e-5)
        assert np.isnan(found[0][:, :, case.columns * parts :]).all()
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_products(case: Case) -> None:
    _check(case, available_tiers()[0], 2, 3, 50)


def test_every_number_of_rows() -> None:
    """The same code for each of them: whole tiles, and every rest."""
    target = host_target()
    machine = machine_of(target)
    tile = choose_tile(machine, 8, 36)
    most, depth, columns = 3 * tile.rows, 5, 36

    def body(f: Function) -> None:
        product = Product(context_word(f, 0), columns, depth, tile)
        a, b, c = (Matrices(pointer, row) for pointer, row in zip(f.pointers, (depth, columns, columns), strict=True))
        multiply(f, machine, product, a, b, c)

    phase = SinglePhase(target, 3, body)
    draw = np.random.default_rng(1)
    a = draw.standard_normal((most, depth)).astype(np.float32)
    b = draw.standard_normal((depth, columns)).astype(np.float32)
    for rows in range(most + 1):
        c = np.full((most, columns), np.nan, np.float32)
        phase.run([a, b, c], [rows], 3)
        np.testing.assert_allclose(c[:rows], a[:rows].astype(np.float64) @ b, atol=1e-4)
        assert np.isnan(c[rows:]).all()


@pytest.mark.parametrize("tier", available_tiers()[1:])
@pytest.mark.parametrize("case", CASES[::5], ids=str)
def test_other_tiers(case: Case, tier: str) -> None:
    _check(case, tier, 2)


def test_callbacks_see_every_element_once_and_know_the_padding() -> None:
    """Sums start at 3; what comes back is stored through the callback; the last block's column is a Python integer."""
    target = host_target()
    machine = machine_of(target)
    rows, columns, real, depth = 23, 72, 69, 6
    tile = replace(choose_tile(machine, 8, columns), vectors=1)
    columns_seen: list[Index] = []
    draw = np.random.default_rng(0)
    a = draw.standard_normal((rows, depth)).astype(np.float32)
    b = draw.standard_normal((depth, columns)).astype(np.float32)
    c = np.zeros((rows, columns), np.float32)

    def body(f: Function) -> None:
        def begin(place: Place) -> list:
            return [f.constant(3.0, p.lanes) for _ in range(place.rows) for p in place.pieces]

        def finish(place: Place, sums: Sums) -> None:
            columns_seen.append(place.column)
            for m in range(place.rows):
                for number, p in enumerate(place.pieces):
                    where = f.address(f.pointers[2], f.add(f.multiply(f.add(place.row, m), columns), place.column))
                    where = f.address(where, p.offset)
                    f.store(f.binary("fadd", f.load(where, p.lanes), sums.at(m, number)), where)

        product = Product(context_word(f, 0), columns, depth, tile, real=real)
        multiply_with(
            f, machine, product, Matrices(f.pointers[0], depth), Matrices(f.pointers[1], columns), finish, begin
        )

    SinglePhase(target, 3, body).run([a, b, c], [rows], 2)
    np.testing.assert_allclose(c, a.astype(np.float64) @ b + 3, atol=1e-4)
    assert any(isinstance(column, int) and column + tile.block >= columns for column in columns_seen)


def test_a_range_of_units_is_all_that_is_done() -> None:
    target = host_target()
    machine = machine_of(target)
    tile = Tile(3, 1, 4)
    a, b = np.ones((8, 2), np.float32), np.ones((2, 8), np.float32)
    c = np.zeros((8, 8), np.float32)

    def body(f: Function) -> None:
        operands = (Matrices(f.pointers[0], 2), Matrices(f.pointers[1], 8), Matrices(f.pointers[2], 8))
        multiply(f, machine, Product(8, 8, 2, tile), *operands, units=(1, 5))

    SinglePhase(target, 3, body).run([a, b, c])
    expected = np.zeros((8, 8), np.float32)
    expected[3:, :4] = 2  # two of the three tiles of rows of the first block, two of the second
    expected[:6, 4:] = 2
    np.testing.assert_array_equal(c, expected)


def test_parts_of_packed_matrices() -> None:
    """Some rows of the blocks of B, into some rows of the blocks of C."""
    target = host_target()
    tile = Tile(4, 1, 4)
    rows, columns, depth, height_b, height_c = 7, 12, 5, 9, 11
    draw = np.random.default_rng(2)
    a, b = (draw.standard_normal(shape).astype(np.float32) for shape in ((rows, depth), (1, height_b, columns)))
    c = np.full((1, height_c, columns), np.nan, np.float32)

    def body(f: Function) -> None:
        left = Matrices(f.pointers[0], depth)
        right = Matrices(f.pointers[1], height_b, packed=True, first=context_word(f, 0))
        result = Matrices(f.pointers[2], height_c, packed=True, first=3)
        multiply(f, machine_of(target), Product(rows, columns, depth, tile), left, right, result)

    stored = _pack(c, 4)
    SinglePhase(target, 3, body).run([a, _pack(b, 4), stored], [2])
    c[0, 3 : 3 + rows] = a.astype(np.float64) @ b[0, 2 : 2 + depth]
    np.testing.assert_allclose(stored, _pack(c, 4), atol=1e-5)
