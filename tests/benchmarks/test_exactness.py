"""The errors that are compared with what algorithms promise."""

from __future__ import annotations

from benchmarks import exactness
from convc.passes.algorithms.problem import Problem
from convc.passes.algorithms.table import BY_NAME


def test_errors_are_measured_in_all_directions() -> None:
    """Small problems: errors of float32, and larger ones for an algorithm that is known to be less exact."""
    for direction in exactness.DIRECTIONS:
        problem = Problem(direction, 1, 3, 3, (7, 7), (7, 7), (3, 3), padding=(1, 1, 1, 1))
        direct, winograd = (exactness.largest_error(problem, name, draws=3) for name in ("direct", "winograd_f6x3"))
        assert 1e-9 < direct < winograd
        assert direct < BY_NAME["direct"].max_rel_error(problem)
        assert winograd < BY_NAME["winograd_f6x3"].max_rel_error(problem)
