"""Points at which a kernel with as many outputs as inputs, taken as a matrix of polynomials, is singular.

    W(z) = Σ_u w[:, :, u]·z_1^{u_1}·z_2^{u_2},    W(z)·v = 0

The points z of C² where det W(z) = 0 form a curve, with a vector v at each. Composition of kernels is multiplication of
such matrices, W = G·F, and the curve of W is those of F and of G together: det W = det G · det F. For most kernels the
curve of a factor is irreducible, so that following it from one point leads everywhere on it, and nowhere else (this is
how numerical algebraic geometry tells the components of a curve apart: Sommese, Wampler, "The Numerical Solution of
Systems of Polynomials Arising in Engineering and Science", 2005, chapter 15).

The curve is followed where it meets a line z = p + s·q whose point p wanders between random places with |z_1| = |z_2| =
1, by the tangent and Newton's method for (s, v).
"""

from __future__ import annotations

from cmath import isfinite
from collections.abc import Iterator
from math import sqrt

import numpy as np

from convc.lazy import dataclass

# A step may change s and v together by this much, or is made again at half the length.
_REACH = 0.1
# Points are kept when they are this far from the last one.
_APART = 0.3
# Powers of such numbers drown everything else in rounding.
_FAR = 4.0
_SHORTEST = 1e-6
_FAILURES = 20
_EXACT = 1e-12


@dataclass(frozen=True, eq=False)
class Points:
    """Points of a curve (count, 2) and the vectors there (count, C), of length 1."""

    places: np.ndarray
    vectors: np.ndarray


@dataclass(frozen=True, eq=False)
class _State:
    """A point of the curve on the line through a base, z = base + s·direction, its vector, and the matrix there with
    its derivatives by both coordinates."""

    s: complex
    vector: np.ndarray
    place: np.ndarray
    matrix: np.ndarray
    slopes: tuple[np.ndarray, np.ndarray]


class Wanderer:
    """Somebody who walks on one component of the curve of taps (C, C, R, S), from where a generator puts them."""

    def __init__(self, taps: np.ndarray, draw: np.random.Generator) -> None:
        self._draw = draw
        self._size, _, *self._extent = taps.shape
        self._scale = float(np.linalg.norm(taps))
        self._taps = taps.astype(complex).reshape(self._size**2, -1)
        # The system of Newton's method; its last row but for the vector, and its corner, are zeros.
        self._system = np.zeros((self._size + 1, self._size + 1), complex)
        direction = draw.standard_normal(2) + 1j * draw.standard_normal(2)
        self._direction = direction / np.linalg.norm(direction)
        self._base = _torus(draw)
        self._state = self._start()
        self._places = [self._state.place] if self._state else []
        self._vectors = [self._state.vector] if self._state else []
        self._failures = 0

    def points(self, count: int) -> Points | None:
        """The first `count` points of the way, or None where none leads on. A longer way begins like a shorter one."""
        while self._state is not None and len(self._places) < count:
            # Where a way ends at a singular point, or runs to infinity, another one is taken from where it began.
            target, reached = _torus(self._draw), None
            for reached in self._walk(self._state, target):
                if reached is not None and self._is_new(reached):
                    self._places.append(reached.place)
                    self._vectors.append(reached.vector)
            if reached is not None:
                self._base, self._state = target, reached
                continue
            self._failures += 1
            if self._failures > _FAILURES:
                self._state = None
        if len(self._places) < count:
            return None
        return Points(np.array(self._places[:count]), np.array(self._vectors[:count]))

    def _is_new(self, state: _State) -> bool:
        far = np.linalg.norm(state.place - self._places[-1]) + np.linalg.norm(state.vector - self._vectors[-1])
        return bool(far > _APART)

    def _start(self) -> _State | None:
        """Newton's method from random places, until it converges to one that is not far."""
        for _ in range(50):
            s = complex(*self._draw.standard_normal(2)) / 2
            state = self._at(self._base, s, np.zeros(self._size, complex))
            vector = np.linalg.svd(state.matrix)[2][-1].conj()
            found = self._converge(self._base, self._at(self._base, s, vector), 30)
            if found is not None and np.abs(found.place).max() < _FAR / 2:
                return found
        return None

    def _walk(self, state: _State, target: np.ndarray) -> Iterator[_State | None]:
        """The points on the way to the line through `target`; None at the end if it does not get there."""
        done, length = 0.0, _REACH
        while done < 1:
            length = min(length, 1 - done)
            here, there = (self._base + part * (target - self._base) for part in (done, done + length))
            found = self._step(state, here, there)
            if found is None:
                length /= 2
                if length < _SHORTEST:
                    yield None
                    return
                continue
            if np.abs(found.place).max() > _FAR:
                yield None
                return
            done += length
            if _distance(state, found) < _REACH / 4:
                length *= 2
            state = found
            yield state

    def _step(self, state: _State, here: np.ndarray, there: np.ndarray) -> _State | None:
        """The point on the line through `there` that continues `state`; None if that is too far to be sure."""
        drift = there - here
        rest = -(drift[0] * state.slopes[0] + drift[1] * state.slopes[1]) @ state.vector
        guess = self._corrected(there, state, rest)
        if guess is None or _distance(state, guess) > _REACH:
            return None
        found = self._converge(there, guess, 3)
        return found if found is not None and _distance(state, found) < _REACH else None

    def _converge(self, base: np.ndarray, state: _State | None, rounds: int) -> _State | None:
        for _ in range(rounds):
            if state is None or np.abs(state.place).max() > 2 * _FAR:
                return None
            rest = state.matrix @ state.vector
            large = max(1.0, np.abs(state.place).max()) ** (self._extent[0] - 1)
            if _length(rest) <= _EXACT * self._scale * large:
                return state
            state = self._corrected(base, state, -rest)
        return None

    def _corrected(self, base: np.ndarray, state: _State, rest: np.ndarray) -> _State | None:
        """One step of Newton's method for W(base + s·direction)·vector = 0, with `rest` on the right-hand side and a
        change of the vector that is orthogonal to it."""
        size, system = self._size, self._system
        system[:size, :size] = state.matrix
        slope = self._direction[0] * state.slopes[0] + self._direction[1] * state.slopes[1]
        system[:size, size] = slope @ state.vector
        system[size, :size] = state.vector.conj()
        side = np.zeros(size + 1, complex)
        side[:size] = rest
        try:
            change = np.linalg.solve(system, side)
        except np.linalg.LinAlgError:
            return None
        vector = state.vector + change[:size]
        s = complex(state.s + change[size])
        return self._at(base, s, vector / _length(vector)) if isfinite(s) else None

    def _at(self, base: np.ndarray, s: complex, vector: np.ndarray) -> _State:
        place = base + s * self._direction
        rows, steep = _powers(complex(place[0]), self._extent[0])
        columns, tilted = _powers(complex(place[1]), self._extent[1])
        monomials = np.array([np.outer(*pair).ravel() for pair in ((rows, columns), (steep, columns), (rows, tilted))])
        matrix, *slopes = (monomials @ self._taps.T).reshape(3, self._size, self._size)
        return _State(s, vector, place, matrix, (slopes[0], slopes[1]))


def _powers(z: complex, count: int) -> tuple[list[complex], list[complex]]:
    """1, z, z², … and their derivatives."""
    powers = [1 + 0j]
    for _ in range(count - 1):
        powers.append(powers[-1] * z)
    return powers, [0j, *(number * power for number, power in enumerate(powers[:-1], 1))]


def _length(vector: np.ndarray) -> float:
    return sqrt(np.vdot(vector, vector).real)


def _distance(one: _State, other: _State) -> float:
    return abs(one.s - other.s) + _length(one.vector - other.vector)


def _torus(draw: np.random.Generator) -> np.ndarray:
    return np.exp(2j * np.pi * draw.random(2))
