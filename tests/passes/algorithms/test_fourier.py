"""Fourier transforms as straight-line programs, against the definition in extended precision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from convc.passes.algorithms.fourier import (
    complex_transform,
    complex_transform_back,
    cosine,
    real_transform,
    real_transform_back,
)
from convc.passes.algorithms.straight_line import StraightLine, transposed

SIZES = (2, 4, 8, 16, 32)
POSITIONS = [
    (size, positions)
    for size in SIZES
    for positions in {tuple(range(size)), tuple(range(0, size, 3)), (size - 1,), (0,), tuple(range(size // 2 + 1))}
]


def definition(size: int, positions: Sequence[int], sign: int) -> npt.NDArray[np.clongdouble]:
    """ω^(jk) for all k and the positions j."""
    turns = np.outer(np.arange(size), positions) % size
    angles = turns.astype(np.longdouble) * (2 * np.arccos(np.longdouble(-1)) / size)
    return np.cos(angles) + 1j * sign * np.sin(angles)


def matrix(program: StraightLine) -> np.ndarray:
    """What the program multiplies by."""
    return np.array([program.evaluate(list(unit)) for unit in np.eye(program.inputs)], np.longdouble).T


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(("size", "positions"), POSITIONS)
def test_complex_numbers(size: int, positions: tuple[int, ...], sign: int) -> None:
    exact = definition(size, positions, sign)
    expected = np.empty((2 * size, 2 * len(positions)), np.longdouble)
    expected[::2, ::2], expected[::2, 1::2] = exact.real, -exact.imag
    expected[1::2, ::2], expected[1::2, 1::2] = exact.imag, exact.real
    program = complex_transform(size, positions, sign)  # type: ignore[arg-type]
    np.testing.assert_allclose(matrix(program), expected, rtol=0, atol=1e-15)
    np.testing.assert_allclose(matrix(transposed(program)), expected.T, rtol=0, atol=1e-15)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(("size", "positions"), POSITIONS)
def test_real_numbers(size: int, positions: tuple[int, ...], sign: int) -> None:
    exact = definition(size, positions, sign)
    rows = [exact[0].real, exact[size // 2].real]
    for k in range(1, size // 2):
        rows += [exact[k].real, exact[k].imag]
    program = real_transform(size, positions, sign)  # type: ignore[arg-type]
    np.testing.assert_allclose(matrix(program), rows, rtol=0, atol=1e-15)
    np.testing.assert_allclose(matrix(transposed(program)), np.transpose(rows), rtol=0, atol=1e-15)


@pytest.mark.parametrize(("size", "positions"), POSITIONS)
def test_back_again(size: int, positions: tuple[int, ...]) -> None:
    """Back from the spectrum of numbers come `size` times the numbers; those that nobody asks for may be anything."""
    everything = tuple(range(size))
    real = np.random.default_rng(size).standard_normal(size)
    spectrum = real_transform(size, everything).evaluate(list(real))
    weighted = [value if number < 2 else 2 * value for number, value in enumerate(spectrum)]
    found = np.array(real_transform_back(size, positions).evaluate(weighted))
    np.testing.assert_allclose(found, size * real[list(positions)], rtol=0, atol=1e-13)
    parts = np.random.default_rng(size).standard_normal(2 * size)
    spectrum = complex_transform(size, everything).evaluate(list(parts))
    found = np.array(complex_transform_back(size, positions).evaluate(spectrum))
    expected = parts.reshape(size, 2)[list(positions)].reshape(-1)
    np.testing.assert_allclose(found, size * expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("size", "of_real", "of_complex"), [(4, 6, 16), (8, 20, 52), (16, 58, 144), (32, 156, 372)])
def test_operations(size: int, of_real: int, of_complex: int) -> None:
    """Split radix takes 4·N·lg N − 6·N + 8 additions and multiplications; multiply-adds do two of them at once."""
    everything = tuple(range(size))
    assert of_complex <= 4 * size * (size.bit_length() - 1) - 6 * size + 8
    for program, operations in (
        (real_transform(size, everything), of_real),
        (complex_transform(size, everything), of_complex),
    ):
        assert program.operations == transposed(program).operations == operations
        assert not any(len(step) == 1 for step in program.steps), "multiplications of their own"


@pytest.mark.parametrize("size", [4, 8, 16, 32])
def test_factors_mirror_each_other(size: int) -> None:
    values = [cosine(k, size) for k in range(-size, 2 * size)]
    assert len({abs(value) for value in values}) == size // 4 + 1
    assert values[size] == 1
    assert values[size + size // 4] == 0
