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


def test_halves_round_at_other_places() -> None:
    found = compare(LOGITS + 0.01, LOGITS, "infer", "bf16")
    assert found.problem is None
    assert found.deviation == pytest.approx(2.5e-3)
    assert "differ from ours by 2.5e-01" in str(compare(LOGITS + 1, LOGITS, "infer", "bf16").problem)
    moved = LOSSES + np.array([0, 2e-3, -2e-3, 4e-3])
    assert compare(moved, LOSSES, "train", "bf16").problem is None
    assert "wrong step" in str(compare(moved, LOSSES, "train").problem)


def test_ours_have_to_be_numbers() -> None:
    assert compare(LOGITS, LOGITS * np.inf, "infer").problem == "not comparable: our logits are not finite"


def test_another_update_shows_in_the_fall_of_the_loss() -> None:
    assert compare(LOSSES + 1e-6, LOSSES, "train").problem is None
    slower = LOSSES[0] + (LOSSES - LOSSES[0]) * 0.9
    found = compare(slower, LOSSES, "train")
    assert found.deviation == 0
    assert found.problem is not None
    assert "in a step its loss falls by 9.00e-04, ours by 1.00e-03" in found.problem
    momentum = LOSSES - np.array([0, 0, 0, 3e-3])
    assert "in 3 steps its loss falls by 8.00e-03" in str(compare(momentum, LOSSES, "train").problem)


def test_the_first_loss_is_that_of_the_net() -> None:
    problem = compare(LOSSES + 0.01, LOSSES, "train").problem
    assert problem is not None
    assert "first loss differs from ours by 4.3e-03" in problem


def test_rounding_grows_with_the_steps() -> None:
    """ResNet-50 on eight images, by our chosen algorithms and by our direct ones."""
    chosen = np.array([8.534522, 6.329321, 5.000468, 4.066699, 3.317208])
    direct = np.array([8.534520, 6.329720, 5.008058, 4.081593, 3.399548])
    found = compare(chosen, direct, "train")
    assert found.problem is None
    assert found.deviation == pytest.approx(2.3e-7, rel=0.05)


def test_a_fall_within_rounding_tells_nothing() -> None:
    flat = np.array([2.3, 2.3, 2.3])
    assert compare(flat - np.array([0, 0, 2e-6]), flat, "train").problem is None
