"""What docs/precision.md says of sums in float16: errors by steps, small products, large ones."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.half_sums import UNIT, Doubles, chunked, operands


def errors(kind: str, steps: int) -> tuple[Doubles, Doubles]:
    x, w = operands(kind, 64, np.random.default_rng(2))
    exact = np.asarray((x * w).sum(0))
    return chunked(x, w, steps) - exact, exact


@pytest.mark.parametrize("steps", [2, 4, 8])
def test_random_errors_grow_with_the_root_of_the_steps(steps: int) -> None:
    error, exact = errors("normal", steps)
    expected = 0.42 * np.sqrt((steps + 1) / 2) * UNIT
    assert np.sqrt((error**2).mean() / (exact**2).mean()) == pytest.approx(expected, rel=0.1)


def test_float32_sums_lose_next_to_nothing() -> None:
    error, exact = errors("gradients of 2^-14", 0)
    assert np.abs(error).max() < 0.01 * UNIT * np.abs(exact).max()


def test_small_products_are_lost() -> None:
    error, exact = errors("gradients of 2^-14", 2)
    assert np.abs(error).max() > 2 * UNIT * np.abs(exact).max()


def test_products_of_256_overflow() -> None:
    large = np.full((4, 1), 256.0)
    with np.errstate(over="ignore"):
        assert np.isinf(chunked(large, large, 4)[0])
    assert chunked(large, large, 0)[0] == 4 * 65536
