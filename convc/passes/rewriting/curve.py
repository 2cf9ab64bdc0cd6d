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

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

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


def follow(taps: np.ndarray, count: int, draw: np.random.Generator) -> Points | None:
    """`count` points of one component of the curve of taps (C, C, R, S); None where no way leads on."""
    direction = draw.standard_normal(2) + 1j * draw.standard_normal(2)
    walker = _Walker(taps, direction / np.linalg.norm(direction))
    home = _torus(draw)
    if not walker.start(home, draw):
        return None
    places, vectors = [walker.place(home)], [walker.vector]
    failures = 0
    while len(places) < count:
        # Where a way ends at a singular point, or runs to infinity, another one is taken from where it began.
        kept, target = walker.state, _torus(draw)
        for place in walker.walk(home, target):
            if np.linalg.norm(place - places[-1]) + np.linalg.norm(walker.vector - vectors[-1]) > _APART:
                places.append(place)
                vectors.append(walker.vector)
        if walker.arrived:
            home = target
            continue
        walker.state = kept
        failures += 1
        if failures > _FAILURES:
            return None
    return Points(np.array(places[:count]), np.array(vectors[:count]))


class _Walker:
    """A point of the curve on a line: z = base + s·direction, with its vector."""

    def __init__(self, taps: np.ndarray, direction: np.ndarray) -> None:
        self.taps = taps.astype(complex)
        self.direction = direction
        self.s = 0j
        self.vector = np.zeros(taps.shape[1], complex)
        self.arrived = False
        self.scale = float(np.linalg.norm(taps))
        self.powers = np.arange(taps.shape[2]), np.arange(taps.shape[3])

    def place(self, base: np.ndarray) -> np.ndarray:
        return base + self.s * self.direction

    def start(self, base: np.ndarray, draw: np.random.Generator) -> bool:
        """Newton's method from random places, until it converges to one that is not far."""
        for _ in range(50):
            self.s = complex(*draw.standard_normal(2)) / 2
            value, _, _ = self._evaluate(self.place(base))
            self.vector = np.linalg.svd(value)[2][-1].conj()
            if self._converge(base, 30) and np.abs(self.place(base)).max() < _FAR / 2:
                return True
        return False

    def walk(self, base: np.ndarray, target: np.ndarray) -> Iterator[np.ndarray]:
        """Go from the line through `base` to that through `target`, giving the places on the way; `arrived` tells
        afterwards whether that succeeded."""
        self.arrived = False
        done, length = 0.0, _REACH
        while done < 1:
            length = min(length, 1 - done)
            here, there = (base + part * (target - base) for part in (done, done + length))
            moved = self._move(here, there)
            if moved is None:
                length /= 2
                if length < _SHORTEST:
                    return
                continue
            done += length
            if moved < _REACH / 4:
                length *= 2
            place = self.place(there)
            if np.abs(place).max() > _FAR:
                return
            yield place
        self.arrived = True

    @property
    def state(self) -> tuple[complex, np.ndarray]:
        return self.s, self.vector

    @state.setter
    def state(self, state: tuple[complex, np.ndarray]) -> None:
        self.s, self.vector = state

    def _move(self, base: np.ndarray, there: np.ndarray) -> float | None:
        """Go to the line through `there`: how far s and the vector moved; None, and nothing changed, if too far."""
        before = self.state
        _, first, second = self._evaluate(self.place(base))
        drift = there - base
        self._advance(base, -(drift[0] * first + drift[1] * second) @ self.vector)
        moved = self._distance(before)
        if moved < _REACH and self._converge(there, 3):
            moved = self._distance(before)
            if moved < _REACH:
                return moved
        self.state = before
        return None

    def _distance(self, before: tuple[complex, np.ndarray]) -> float:
        return abs(self.s - before[0]) + float(np.linalg.norm(self.vector - before[1]))

    def _converge(self, base: np.ndarray, rounds: int) -> bool:
        for _ in range(rounds):
            place = self.place(base)
            value, _, _ = self._evaluate(place)
            rest = value @ self.vector
            if np.linalg.norm(rest) <= _EXACT * self.scale * max(1.0, np.abs(place).max()) ** (len(self.powers[0]) - 1):
                return True
            self._advance(base, -rest)
            if not np.isfinite(self.s) or np.abs(self.place(base)).max() > 2 * _FAR:
                return False
        return False

    def _advance(self, base: np.ndarray, rest: np.ndarray) -> None:
        """One step of Newton's method for W(base + s·direction)·vector = 0, with `rest` on the right-hand side and a
        change of the vector that is orthogonal to it."""
        value, first, second = self._evaluate(self.place(base))
        size = len(self.vector)
        system = np.zeros((size + 1, size + 1), complex)
        system[:size, :size] = value
        system[:size, size] = (self.direction[0] * first + self.direction[1] * second) @ self.vector
        system[size, :size] = self.vector.conj()
        try:
            change = np.linalg.solve(system, np.append(rest, 0))
        except np.linalg.LinAlgError:
            self.s = complex(np.inf)
            return
        self.s += change[size]
        self.vector = self.vector + change[:size]
        self.vector /= np.linalg.norm(self.vector)

    def _evaluate(self, place: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The matrix and its derivatives by both coordinates."""
        (rows, slopes), (columns, tilts) = (
            (z**powers, powers * z ** np.maximum(powers - 1, 0)) for z, powers in zip(place, self.powers, strict=True)
        )
        across = self.taps @ columns
        return across @ rows, across @ slopes, (self.taps @ tilts) @ rows


def _torus(draw: np.random.Generator) -> np.ndarray:
    return np.exp(2j * np.pi * draw.random(2))
