"""Singular values and what keeping some of them means.

The best approximation of rank r of a matrix, in the Frobenius norm, keeps its r largest singular values, and its error
is the root of the sum of the squares of the others (Eckart and Young, "The approximation of one matrix by another of
lower rank", Psychometrika 1936).
"""

from __future__ import annotations

import numpy as np

from convc.lazy import dataclass


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The squares of singular values, largest first."""

    squares: np.ndarray

    @property
    def full(self) -> int:
        return len(self.squares)

    def energy(self, rank: int) -> float:
        """The part of the squared norm that the first `rank` singular values have; 1 for a matrix of zeros."""
        total = self.squares.sum()
        return float(self.squares[:rank].sum() / total) if total else 1.0

    def error(self, rank: int) -> float:
        """The relative error, in the Frobenius norm, of keeping `rank` of them."""
        total = self.squares.sum()
        return float(np.sqrt(self.squares[rank:].sum() / total)) if total else 0.0

    def rank_for(self, energy: float) -> int:
        """The smallest rank, at least 1, whose energy is at least `energy`."""
        missing = np.append(np.cumsum(self.squares[::-1])[::-1], 0.0)  # what ranks 0, 1, … leave out
        return max(1, int(np.argmax(missing <= (1 - energy) * missing[0])))


@dataclass(frozen=True)
class Decision:
    """A rank and why it is this one."""

    rank: int
    why: str
