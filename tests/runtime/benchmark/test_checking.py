"""What counts as the same net."""

from __future__ import annotations

import numpy as np
import pytest

from convc.runtime.benchmark.checking import compare

LOGITS = np.linspace(-2, 4, 12).reshape(3, 4)
LOSSES = np.array([2.3, 2.2990, 2.2975, 2.2950])


def test_rounding_is_no_difference() -> None:
    found = compare((LOGITS * (1 + 1e-6)).astype(np.float32), LOGITS, "infer")
    assert found.problem is None
    assert found.deviation == pytest.approx(1e-6, rel=0.3)


@pytest.mark.parametrize(
    ("numbers", "problem"),
    [
        (LOGITS.T, "shape"),
        (LOGITS + 0.01, r"differ from ours by 2.5e-03 of the largest"),
        (np.full_like(LOGITS, np.nan), "not finite"),
    ],
)
def test_other_logits(numbers: np.ndarray, problem: str) -> None:
    found = compare(numbers, LOGITS, "infer").problem
    assert found is not None
    assert problem in found


def test_ours_have_to_be_numbers() -> None:
    assert compare(LOGITS, LOGITS * np.inf, "infer").problem == "not comparable: our logits are not finite"


def test_another_update_shows_in_the_fall_of_the_loss() -> None:
    assert compare(LOSSES + 1e-6, LOSSES, "train").problem is None
    slower = LOSSES[0] + (LOSSES - LOSSES[0]) * 0.9  # all within the tolerance of a loss
    found = compare(slower, LOSSES, "train")
    assert found.deviation is not None
    assert found.deviation < 1e-3
    assert found.problem is not None
    assert "in 3 steps its loss falls by 4.50e-03, ours by 5.00e-03" in found.problem


def test_a_fall_within_rounding_tells_nothing() -> None:
    flat = np.array([2.3, 2.3, 2.3])
    assert compare(flat - np.array([0, 0, 2e-6]), flat, "train").problem is None
