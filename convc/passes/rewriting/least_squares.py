"""Nonlinear least squares over several arrays: Levenberg–Marquardt with conjugate gradients inside.

A step minimises ‖r + J·d‖² + λ‖d‖² over the arrays that it may change; λ falls while steps succeed. With a single array
of a function that is linear in each, and λ nearly 0, that is a step of alternating least squares. (Nocedal and Wright,
"Numerical Optimization", 2006, sections 7.1 and 10.3.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np

from convc.lazy import dataclass

Arrays = list[np.ndarray]
Precondition = Callable[[Arrays], Arrays]


class Linearization(Protocol):
    """The residuals of a problem at a point and their derivatives."""

    @property
    def residual(self) -> np.ndarray: ...

    def forward(self, directions: Arrays) -> np.ndarray:
        """J·d."""
        ...

    def backward(self, residual: np.ndarray) -> Arrays:
        """Jᵀ·r."""
        ...

    def precondition(self, damping: float) -> Precondition:
        """An approximate inverse of JᵀJ + damping, symmetric and positive, array by array."""
        ...


class Problem(Protocol):
    """Residuals as a function of arrays. `scale` is the norm that errors are relative to."""

    @property
    def scale(self) -> float: ...

    def at(self, arrays: Arrays) -> Linearization: ...


@dataclass(frozen=True)
class Effort:
    """When to stop: after so many steps, or when one gains less than `stalled` of the error, or below `enough`.

    `inner` bounds the iterations of conjugate gradients in a step, `work` those of all steps together.
    """

    steps: int = 100
    inner: int = 60
    work: int = 3000
    stalled: float = 1e-4
    enough: float = 1e-10


@dataclass(frozen=True, eq=False)
class Found:
    """Where a search ended: the relative error there, and how many iterations of conjugate gradients it took."""

    arrays: Arrays
    error: float
    work: int


def minimize(problem: Problem, start: Arrays, effort: Effort) -> Found:
    """Levenberg–Marquardt from `start`; the error never grows."""
    arrays, point = start, problem.at(start)
    error, work = _error(point, problem), 0
    everything = range(len(start))
    damping = 1e-3 * _curvature(point, start)
    least, most = 1e-12 * damping, 1e6 * damping
    for _ in range(effort.steps):
        if error < effort.enough or work >= effort.work:
            break
        inner = min(effort.inner, effort.work - work)
        direction, used = step(point, everything, damping, inner, min(0.1, error) * 0.1)
        work += used
        moved = [array + change for array, change in zip(arrays, direction, strict=True)]
        there = problem.at(moved)
        reached = _error(there, problem)
        if not reached < error:
            damping *= 8
            if damping > most:
                break
            continue
        gain = error - reached
        arrays, point, error = moved, there, reached
        damping = max(damping / 4, least)
        if gain < effort.stalled * error:
            break
    return Found(arrays, error, work)


def step(
    point: Linearization, changing: Iterable[int], damping: float, iterations: int, tolerance: float
) -> tuple[Arrays, int]:
    """The change of the arrays `changing` that a linearised problem asks for, zeros for the others, by preconditioned
    conjugate gradients; and the number of iterations. `tolerance` is that of the preconditioned gradient."""
    chosen = set(changing)
    precondition = point.precondition(damping)

    def only(arrays: Arrays) -> Arrays:
        return [array if index in chosen else np.zeros_like(array) for index, array in enumerate(arrays)]

    rest = only([-array for array in point.backward(point.residual)])
    found = [np.zeros_like(array) for array in rest]
    way = ready = only(precondition(rest))
    size = first = _dot(rest, ready)
    used = 0
    while used < iterations and size > tolerance**2 * first:
        used += 1
        image = only(_sum(point.backward(point.forward(way)), way, damping))
        length = size / _dot(way, image)
        found = _sum(found, way, length)
        rest = _sum(rest, image, -length)
        ready = only(precondition(rest))
        before, size = size, _dot(rest, ready)
        way = _sum(ready, way, size / before)
    return found, used


def _error(point: Linearization, problem: Problem) -> float:
    return float(np.linalg.norm(point.residual)) / problem.scale


def _curvature(point: Linearization, arrays: Sequence[np.ndarray]) -> float:
    """A typical element of the diagonal of JᵀJ: what it is along the arrays themselves."""
    along = float(np.linalg.norm(point.forward(list(arrays)))) ** 2
    return along / max(_dot(arrays, arrays), np.finfo(np.float64).tiny)


def _dot(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
    return sum(float(np.vdot(a, b)) for a, b in zip(one, other, strict=True))


def _sum(one: Arrays, other: Arrays, factor: float) -> Arrays:
    return [a + factor * b for a, b in zip(one, other, strict=True)]
