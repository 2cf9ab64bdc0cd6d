"""The numbers of operations that are written down are those of the programs."""

from __future__ import annotations

import pytest

from convc.passes.algorithms.fft import FFT, derived_operations, operations
from convc.passes.algorithms.operation_counts import FOURIER_COUNTS, WINOGRAD_COUNTS
from convc.passes.algorithms.toom_cook import toom_cook
from convc.passes.algorithms.winograd import WINOGRAD


@pytest.mark.parametrize("form", WINOGRAD_COUNTS)
def test_winograd(form: tuple[int, int]) -> None:
    algorithm, counts = toom_cook(*form), WINOGRAD_COUNTS[form]
    assert counts == tuple(getattr(algorithm, name).operations for name in counts._fields)


def test_all_forms_of_winograd_are_there() -> None:
    assert {(1, 1), *((one.outputs, one.taps) for one in WINOGRAD)} == WINOGRAD_COUNTS.keys()


@pytest.mark.parametrize(("size", "numbers"), [(size, n) for size, counts in FOURIER_COUNTS.items() for n in counts])
def test_fourier(size: int, numbers: int) -> None:
    positions = tuple(range(numbers))
    assert operations(size, positions, positions) == derived_operations(size, positions, positions)


def test_all_common_fourier_transforms_are_there() -> None:
    for algorithm in FFT:
        wanted = {algorithm.size, *(n for taps in (1, 3, 5, 7) for n in (taps, algorithm.size - taps + 1))}
        assert wanted == FOURIER_COUNTS[algorithm.size].keys()


def test_others_are_derived() -> None:
    for down, across in (((0, 2), (0, 2)), ((0,), (0, 1, 2)), ((0, 1), (0, 1, 2)), (tuple(range(9)),) * 2):
        assert operations(16, down, across) == derived_operations(16, down, across)
