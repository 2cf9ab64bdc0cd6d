"""The table of single convolutions."""

from __future__ import annotations

import re

import pytest

from benchmarks import convolutions
from convc.passes.algorithms.table import BY_NAME


@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_compares_with_its_first_algorithm(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"direct": 4e-6, "winograd_f2x3": 2e-6}
    monkeypatch.setattr(convolutions, "measure", lambda problem, algorithm, *_: seconds[algorithm])
    problem = convolutions.problem_of("2x3x7", "backward_data")
    assert problem.flops == 2 * 9 * 2 * 3 * 3 * 49
    assert convolutions.problem_of("2x3x7", "forward", (4, 4)).padding == (1, 1, 2, 2)
    uneven = convolutions.problem_of("2x3:5x7", "forward", (1, 3))
    assert (uneven.channels, uneven.filters, uneven.padding) == (3, 5, (0, 1, 0, 1))
    direct, winograd = convolutions.row(problem, [BY_NAME["direct"], BY_NAME["winograd_f2x3"]], threads)
    assert re.fullmatch(r"0\.00 ms, 4 GFLOP/s, 1\.00x \(\d+\.\d\d\)", direct)
    assert "8 GFLOP/s, 2.00x" in winograd
