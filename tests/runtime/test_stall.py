"""When the rate falls, and when a training ends."""

from __future__ import annotations

import math
import random

import pytest

from convc.frontend import EarlyStop, Schedule
from convc.runtime.stall import Plateau, Stall, Stopping, make_plateau, make_stopping


def scales(plateau: Plateau, losses: list[float], rate: float = 0.1) -> list[float]:
    """The rate after each epoch, in units of the first one."""
    stall, scale, found = Stall(), 1.0, []
    for loss in losses:
        if plateau.after_epoch(stall, loss, rate * scale) is not None:
            scale *= plateau.factor
        found.append(scale)
    return found


def reduce_on_plateau(losses: list[float], factor: float, patience: int, rate: float) -> list[float]:
    """PyTorch's ReduceLROnPlateau with its defaults, written after the description in its manual."""
    best, bad, first, found = math.inf, 0, rate, []
    for loss in losses:
        if loss < best * (1 - 1e-4):
            best, bad = loss, 0
        else:
            bad += 1
        if bad > patience:
            if rate - rate * factor > 1e-8:
                rate *= factor
            bad = 0
        found.append(rate / first)
    return found


def test_the_rate_falls_after_patience_and_one_epochs() -> None:
    """As PyTorch 2: patience=2 forgives two epochs without progress and acts on the third."""
    plateau = Plateau(0.5, 2, "validation loss")
    losses = [1.0, 0.9, 0.9, 0.95, 0.9, 0.9, 0.9, 0.9, 0.5, 0.6]
    assert scales(plateau, losses) == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]


def test_progress_has_to_be_more_than_a_ten_thousandth() -> None:
    plateau = Plateau(0.1, 0, "validation loss")
    assert scales(plateau, [1.0, 1.0 - 1e-5]) == [1, 0.1]
    assert scales(plateau, [1.0, 1.0 - 2e-4]) == [1, 1]


def test_rates_are_not_reduced_by_next_to_nothing() -> None:
    plateau = Plateau(0.1, 0, "validation loss")
    assert scales(plateau, [1.0] * 4, rate=1e-7) == [1, 0.1, 0.1, 0.1]


@pytest.mark.parametrize("patience", [0, 1, 3])
def test_plateau_is_that_of_pytorch(patience: int) -> None:
    generator = random.Random(patience)
    for _ in range(50):
        losses = [generator.choice([1.0, 0.99995, 0.9998, 0.9, generator.random(), 0.0]) for _ in range(40)]
        found = scales(Plateau(0.3, patience, "validation loss"), losses)
        assert found == pytest.approx(reduce_on_plateau(losses, 0.3, patience, 0.1), rel=1e-12)


def test_what_is_not_finite_is_no_progress() -> None:
    stall, plateau = Stall(), Plateau(0.1, 1, "validation loss")
    assert plateau.after_epoch(stall, math.nan, 0.1) is None
    assert stall.best is None
    reason = plateau.after_epoch(stall, math.inf, 0.1)
    assert reason == "validation loss has not fallen below inf for 2 epochs (patience 1)"
    assert plateau.after_epoch(stall, 7.0, 0.01) is None
    assert stall.best == 7.0
    assert stops_after(Stopping("val_loss", 2, 0.0), [math.inf, math.nan]) == 2
    assert stops_after(Stopping("val_loss", 2, 0.0), [math.inf, 1.0, math.nan, math.inf]) == 4


def test_the_reason_has_the_figures() -> None:
    stall, plateau = Stall(), Plateau(0.1, 1, "training loss")
    for loss in (0.5, 0.25, 0.3):
        assert plateau.after_epoch(stall, loss, 0.1) is None
    expected = "training loss has not fallen below 0.2500 for 2 epochs (patience 1)"
    assert plateau.after_epoch(stall, 0.26, 0.1) == expected


def stops_after(stopping: Stopping, values: list[float]) -> int | None:
    stall = Stall()
    for epoch, value in enumerate(values, 1):
        stopping.after_epoch(stall, value, value)
        if stopping.reason(stall) is not None:
            return epoch
    return None


def test_a_training_stops_after_patience_epochs() -> None:
    assert stops_after(Stopping("val_loss", 2, 0.0), [1.0, 0.9, 0.95, 0.9, 0.1]) == 4
    assert stops_after(Stopping("val_loss", 2, 0.0), [1.0, 0.9, 0.95, 0.89, 0.9, 0.88]) is None
    assert stops_after(Stopping("val_accuracy", 1, 0.0), [0.5, 0.6, 0.6, 0.7]) == 3


def test_progress_is_more_than_delta() -> None:
    assert stops_after(Stopping("val_loss", 1, 0.25), [1.0, 0.75]) == 2
    assert stops_after(Stopping("val_loss", 1, 0.25), [1.0, 0.5]) is None
    # Measured from the best value, so that a slow rise counts once it adds up.
    assert stops_after(Stopping("val_accuracy", 2, 0.25), [0.25, 0.375, 0.625, 0.75]) is None


def test_reasons_for_people() -> None:
    stall = Stall()
    stopping = Stopping("val_accuracy", 1, 0.005)
    for accuracy in (0.98, 0.984):
        stopping.after_epoch(stall, 0.1, accuracy)
    expected = "validation accuracy has not risen above 98.00 % by more than 0.005 for 1 epoch (patience 1)"
    assert stopping.reason(stall) == expected


def test_a_best_value_by_another_rule_counts_for_nothing() -> None:
    stall = Stall()
    for value in (0.1, 0.1):
        Stopping("val_loss", 1, 0.0).after_epoch(stall, value, 0.5)
    other = Stopping("val_accuracy", 1, 0.0)
    assert other.reason(stall) is None
    other.after_epoch(stall, 0.1, 0.5)
    assert (stall.best, stall.epochs) == (0.5, 0)
    # More patience goes on with what was seen.
    patient = Stopping("val_accuracy", 3, 0.0)
    for _ in range(2):
        patient.after_epoch(stall, 0.1, 0.5)
    assert patient.reason(stall) is None
    assert other.reason(stall) is not None


def test_made_of_settings() -> None:
    assert make_plateau(Schedule("cosine"), validation=True) is None
    plateau = make_plateau(Schedule("plateau", factor=0.2, patience=7), validation=False)
    assert plateau == Plateau(0.2, 7, "training loss")
    assert make_stopping(None) is None
    assert make_stopping(EarlyStop("val_loss", 3, 0.5)) == Stopping("val_loss", 3, 0.5)
