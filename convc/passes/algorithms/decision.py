"""Which algorithm computes a convolution, and what speaks for and against each of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from convc.lazy import dataclass
from convc.passes.algorithms.algorithm import Algorithm
from convc.passes.algorithms.patches import multiplies_tiles
from convc.passes.algorithms.prediction import Predictor, predict
from convc.passes.algorithms.problem import Problem
from convc.passes.algorithms.table import ALGORITHMS
from convc.passes.machine import Machine

# Seconds by problem and name of the algorithm, measured on one thread or many: only compared with each other.
Measured = Mapping[tuple[Problem, str], float]

# An algorithm that rounds more often has to be predicted this much faster than the direct one: predictions err.
MARGIN = 1.1
PLAIN = "direct"


@dataclass(frozen=True)
class Candidate:
    """One algorithm for one problem. `reason` says why it is not possible, why it was not chosen, or why it was.

    Times in seconds: `predicted` for one core, `measured` as measured, None where it was not. `scratch_bytes` and
    `max_rel_error` as in `Algorithm`.
    """

    algorithm: str
    applicable: bool
    reason: str
    predicted: float | None = None
    measured: float | None = None
    scratch_bytes: int | None = None
    max_rel_error: float | None = None


@dataclass(frozen=True)
class Limits:
    """What an algorithm may take: bytes of scratch space (None: any) and the largest relative error."""

    scratch_bytes: int | None = None
    max_rel_error: float = 1e-4


_UNLIMITED = Limits()


@dataclass(frozen=True)
class Decision:
    """What was chosen for a problem and why, what the model alone would have chosen, and all candidates."""

    problem: Problem
    chosen: str
    why: str
    predicted_choice: str
    candidates: tuple[Candidate, ...]

    @property
    def regret(self) -> float | None:
        """How much longer the model's choice takes than the best measured, as a fraction; None without measurement."""
        times = {c.algorithm: c.measured for c in self.candidates if c.applicable and c.measured is not None}
        if len(times) < 2 or self.predicted_choice not in times:
            return None
        return times[self.predicted_choice] / min(times.values()) - 1

    def candidate(self, name: str) -> Candidate:
        return next(candidate for candidate in self.candidates if candidate.algorithm == name)


def obstacle_of(algorithm: Algorithm, problem: Problem, machine: Machine) -> str | None:
    """Why an algorithm cannot compute a problem; None where it can."""
    tiled = algorithm.name == "im2col" and multiplies_tiles(problem, machine)
    if problem.dtype.is_whole and algorithm.name != PLAIN and not tiled:
        return "it does not add up whole numbers of 8 bits"
    return algorithm.obstacle(problem)


class Impossible(Exception):
    """None of the wanted algorithms can compute the problem; `reasons` by name."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {reason}" for name, reason in reasons.items()))
        self.reasons = reasons


def is_wanted(algorithm: Algorithm, wanted: str) -> bool:
    """Whether `wanted` (auto, a family, or a name) includes an algorithm."""
    return wanted in ("auto", algorithm.family, algorithm.name)


def decide(
    problem: Problem,
    machine: Machine,
    constants: Predictor,
    limits: Limits = _UNLIMITED,
    measured: Measured | None = None,
    wanted: str = "auto",
    algorithms: Sequence[Algorithm] = ALGORITHMS,
) -> Decision:
    """The fastest of the wanted algorithms that apply: as measured where there are measurements, else as predicted.

    A family or a name that is asked for may exceed the limits where nothing of it keeps them. Raises `Impossible`.
    """
    found = [_candidate(algorithm, problem, machine, constants, limits, measured or {}) for algorithm in algorithms]
    inside = [c for a, c in zip(algorithms, found, strict=True) if c.applicable and is_wanted(a, wanted)]
    if not inside:
        # A limit is what we keep by ourselves; what somebody asks for by name he gets, if it is possible at all.
        free = [_candidate(a, problem, machine, constants, _NO_LIMITS, measured or {}) for a in algorithms]
        inside = [c for a, c in zip(algorithms, free, strict=True) if c.applicable and is_wanted(a, wanted)]
        if not inside:
            raise Impossible({a.name: c.reason for a, c in zip(algorithms, free, strict=True) if is_wanted(a, wanted)})
        found = [next((c for c in inside if c.algorithm == old.algorithm), old) for old in found]
    predicted = _best_predicted(inside)
    timed = [candidate for candidate in inside if candidate.measured is not None]
    # One time alone says nothing about the others.
    measurable = len(timed) > 1 or len(timed) == len(inside)
    chosen = min(timed, key=lambda c: _time(c, True)) if measurable else predicted
    why = _why(chosen, inside, wanted)
    candidates = tuple(
        candidate
        if not candidate.applicable
        else replace(candidate, reason=why if candidate is chosen else _why_not(candidate, chosen, wanted))
        for candidate in found
    )
    return Decision(problem, chosen.algorithm, why, predicted.algorithm, candidates)


_NO_LIMITS = Limits(None, float("inf"))


def _candidate(
    algorithm: Algorithm, problem: Problem, machine: Machine, constants: Predictor, limits: Limits, measured: Measured
) -> Candidate:
    obstacle = obstacle_of(algorithm, problem, machine)
    if obstacle is not None:
        return Candidate(algorithm.name, False, obstacle)
    scratch, error = algorithm.scratch_bytes(problem, machine), algorithm.max_rel_error(problem)
    reason = ""
    if error > limits.max_rel_error:
        reason = f"error class {error:.0e} above the budget of {limits.max_rel_error:.0e}"
    elif limits.scratch_bytes is not None and scratch > limits.scratch_bytes:
        reason = f"scratch of {_mebibytes(scratch)} above the budget of {_mebibytes(limits.scratch_bytes)}"
    seconds = predict(algorithm, problem, machine, constants)
    timed = measured.get((problem, algorithm.name))
    return Candidate(algorithm.name, not reason, reason, seconds, timed, scratch, error)


def _best_predicted(candidates: list[Candidate]) -> Candidate:
    best = min(candidates, key=lambda c: c.predicted or 0.0)
    plain = next((c for c in candidates if c.algorithm == PLAIN), None)
    if plain is not None and (plain.predicted or 0.0) < MARGIN * (best.predicted or 0.0):
        return plain
    return best


def _time(candidate: Candidate, measured: bool) -> float:
    return (candidate.measured if measured else candidate.predicted) or 0.0


def _why(chosen: Candidate, inside: list[Candidate], wanted: str) -> str:
    asked = "" if wanted == "auto" else f"asked for ({wanted}), "
    measured = chosen.measured is not None and any(c.measured is not None for c in inside if c is not chosen)
    others = [c for c in inside if c is not chosen and (not measured or c.measured is not None)]
    if not others:
        return asked.rstrip(", ") or "nothing else applies"
    word = "measured" if measured else "predicted"
    second = min(others, key=lambda c: _time(c, measured))
    ratio = _time(second, measured) / max(_time(chosen, measured), 1e-12)
    if ratio < 1:
        return f"{asked}{word} {1 / ratio:.2f}x as long as {second.algorithm}: less than the margin of {MARGIN:g}"
    return f"{asked}{word} fastest, {second.algorithm} takes {ratio:.2f}x as long"


def _why_not(candidate: Candidate, chosen: Candidate, wanted: str) -> str:
    measured = chosen.measured is not None and candidate.measured is not None
    ratio = _time(candidate, measured) / max(_time(chosen, measured), 1e-12)
    word = "measured" if measured else "predicted"
    asked = "" if wanted == "auto" else f", and {wanted} was asked for"
    return f"{word} {ratio:.2f}x as long as {chosen.algorithm}{asked}"


def _mebibytes(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"
