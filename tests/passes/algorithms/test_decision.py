"""How one algorithm is chosen among many: a table of algorithms with made-up costs, so that nothing else has a part."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from convc.passes.algorithms.algorithm import Algorithm, Stage
from convc.passes.algorithms.decision import Decision, Impossible, Limits, decide
from convc.passes.algorithms.prediction import Constants
from convc.passes.algorithms.problem import Problem
from convc.passes.machine import MACHINES, Machine

PROBLEM = Problem("forward", 1, 4, 4, (8, 8), (8, 8), (3, 3), padding=(1, 1, 1, 1))
# One GFLOP takes one second, and nothing else takes time.
CONSTANTS = Constants(1.0, 1.0, 1e9, 1e9, 0.0)
MACHINE = MACHINES["avx512"]
NO_LIMIT_BUT_ERROR = Limits()


@dataclass(frozen=True)
class Fake(Algorithm):
    name: str
    family: str
    seconds: float
    scratch: int = 0
    error: float = 1e-6
    why: str | None = None

    def obstacle(self, problem: Problem) -> str | None:
        return self.why

    def stages(self, problem: Problem, machine: Machine) -> tuple[Stage, ...]:
        return (Stage("all", "product", int(self.seconds * 1e9), 0),)

    def scratch_bytes(self, problem: Problem, machine: Machine) -> int:
        return self.scratch

    def max_rel_error(self, problem: Problem) -> float:
        return self.error


DIRECT = Fake("direct", "direct", 10.0)
FAST = Fake("fast_2", "fast", 5.0, scratch=1000, error=1e-5)
FASTER = Fake("fast_4", "fast", 3.0, scratch=5000, error=5e-4)
NEVER = Fake("never", "never", 1.0, why="the moon is full")


def choice(
    wanted: str = "auto",
    limits: Limits = NO_LIMIT_BUT_ERROR,
    measured: dict[str, float] | None = None,
    algorithms: tuple[Fake, ...] = (DIRECT, FAST, FASTER, NEVER),
) -> Decision:
    times = {(PROBLEM, name): seconds for name, seconds in (measured or {}).items()}
    return decide(PROBLEM, MACHINE, CONSTANTS, limits, times, wanted, algorithms)


class TestDecisions:
    def test_the_fastest_within_the_error_budget(self) -> None:
        found = choice()
        assert found.chosen == "fast_2"
        assert found.candidate("fast_4").reason == "error class 5e-04 above the budget of 1e-04"
        assert not found.candidate("fast_4").applicable
        assert found.candidate("never").reason == "the moon is full"
        assert found.candidate("never").predicted is None
        assert found.candidate("direct").reason == "predicted 2.00x as long as fast_2"
        assert found.why == "predicted fastest, direct takes 2.00x as long"

    def test_a_larger_error_budget(self) -> None:
        assert choice(limits=Limits(None, 1e-3)).chosen == "fast_4"

    def test_a_budget_of_scratch_space(self) -> None:
        found = choice(limits=Limits(999, 1e-3))
        assert found.chosen == "direct"
        assert found.candidate("fast_2").reason == "scratch of 0.0 MiB above the budget of 0.0 MiB"

    def test_a_lead_within_the_margin_is_none(self) -> None:
        close = (DIRECT, replace(FAST, seconds=9.5))
        found = choice(algorithms=close)
        assert found.chosen == found.predicted_choice == "direct"
        assert "less than the margin of 1.1" in found.why

    def test_measurements_decide(self) -> None:
        found = choice(measured={"direct": 1.0, "fast_2": 2.0})
        assert found.chosen == "direct"
        assert found.predicted_choice == "fast_2"
        assert found.regret == pytest.approx(1.0)
        assert found.candidate("fast_2").reason == "measured 2.00x as long as direct"

    def test_no_regret_without_measurements(self) -> None:
        assert choice().regret is None
        assert choice(measured={"fast_2": 1.0}).regret is None

    def test_one_measurement_alone_decides_nothing(self) -> None:
        assert choice(measured={"direct": 1e-9}).chosen == "fast_2"

    def test_a_family_that_is_asked_for(self) -> None:
        found = choice("fast")
        assert found.chosen == "fast_2"
        assert found.why.startswith("asked for (fast)")
        assert "fast was asked for" in found.candidate("direct").reason

    def test_what_is_asked_for_by_name_may_exceed_limits(self) -> None:
        found = choice("fast_4")
        assert found.chosen == "fast_4"
        assert found.candidate("fast_4").applicable

    def test_what_is_impossible_stays_so(self) -> None:
        with pytest.raises(Impossible) as raised:
            choice("never")
        assert raised.value.reasons == {"never": "the moon is full"}


def test_a_stage_takes_the_longer_of_arithmetic_and_traffic() -> None:
    constants = Constants(100.0, 50.0, 10.0, 1.0, 2.0)
    assert constants.seconds(Stage("a", "product", 10**9, 0)) == pytest.approx(0.01 + 2e-6)
    assert constants.seconds(Stage("a", "product", 10**9, 0, efficiency=0.5)) == pytest.approx(0.02 + 2e-6)
    assert constants.seconds(Stage("a", "transform", 10**9, 0)) == pytest.approx(0.02 + 2e-6)
    assert constants.seconds(Stage("a", "copy", 0, 10**9)) == pytest.approx(1 + 2e-6)
    assert constants.seconds(Stage("a", "copy", 0, 10**9, resident=True)) == pytest.approx(0.1 + 2e-6)
