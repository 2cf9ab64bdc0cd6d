"""Learning rates over time."""

from __future__ import annotations

import math

import pytest

from convc.frontend import Quantity, Schedule
from convc.frontend.schedule import Segment


def rates(schedule: Schedule, epochs: int, steps_per_epoch: int = 10) -> list[float]:
    """The rate of the first update of every epoch."""
    return [schedule.rate(float(epoch), epoch * steps_per_epoch, steps_per_epoch, epochs) for epoch in range(epochs)]


def test_constant() -> None:
    assert rates(Schedule(base=0.3), 3) == [0.3] * 3


def test_absolute_rates() -> None:
    segments = (Segment(0.1, Quantity(2, "e")), Segment(0.01, Quantity(1, "e")), Segment(0.001, None))
    assert rates(Schedule("rates", segments=segments), 5) == [0.1, 0.1, 0.01, 0.001, 0.001]


def test_absolute_rates_hold_the_last_one() -> None:
    assert rates(Schedule("rates", segments=(Segment(0.1, Quantity(1, "e")),)), 3) == [0.1] * 3


def test_rates_in_steps_and_mixed() -> None:
    schedule = Schedule(
        "rates", segments=(Segment(1.0, Quantity(15, "s")), Segment(0.5, Quantity(1, "e")), Segment(0.1, None))
    )
    assert rates(schedule, 4) == [1.0, 1.0, 0.5, 0.1]
    assert schedule.rate(1.4, 14, 10, 4) == 1.0
    assert schedule.rate(1.5, 15, 10, 4) == 0.5


def test_boundaries_are_exact_for_any_number_of_steps() -> None:
    schedule = Schedule("rates", segments=(Segment(1.0, Quantity(3, "e")), Segment(0.1, None)))
    for steps in (3, 7, 938):
        assert schedule.rate(2 + (steps - 1) / steps, 3 * steps - 1, steps, 9) == 1.0
        assert schedule.rate(3.0, 3 * steps, steps, 9) == 0.1


def test_step() -> None:
    assert rates(Schedule("step", base=1.0, every=Quantity(2, "e"), gamma=0.5), 5) == [1.0, 1.0, 0.5, 0.5, 0.25]
    assert rates(Schedule("step", base=1.0, every=Quantity(20, "s"), gamma=0.5), 5) == [1.0, 1.0, 0.5, 0.5, 0.25]


def test_cosine() -> None:
    schedule = Schedule("cosine", base=1.0, floor=0.2)
    assert schedule.rate(0.0, 0, 10, 4) == 1.0
    assert schedule.rate(2.0, 20, 10, 4) == pytest.approx(0.6)
    assert schedule.rate(1.0, 10, 10, 4) == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)
    assert schedule.rate(4.0, 40, 10, 4) == pytest.approx(0.2)
    assert schedule.rate(9.0, 90, 10, 4) == pytest.approx(0.2)


def test_warmup_rises_to_the_schedule() -> None:
    schedule = Schedule("cosine", base=1.0, warmup=Quantity(1, "e"))
    values = [schedule.rate(step / 10, step, 10, 5) for step in range(11)]
    assert values == sorted(values)
    assert values[0] == pytest.approx(1 / 11)
    assert values[10] == 1.0


def test_poly() -> None:
    schedule = Schedule("poly", base=1.0, power=2.0)
    assert schedule.rate(1.0, 10, 10, 4) == pytest.approx(0.75**2)
    assert schedule.rate(5.0, 50, 10, 4) == 0.0


def test_one_cycle() -> None:
    schedule = Schedule("onecycle", maximum=1.0)
    assert schedule.rate(0.0, 0, 10, 10) == pytest.approx(1 / 25)
    assert schedule.rate(3.0, 30, 10, 10) == pytest.approx(1.0)
    assert schedule.rate(10.0, 100, 10, 10) == pytest.approx(4e-6)
    assert schedule.absolute
