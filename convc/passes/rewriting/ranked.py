"""What the rules that cut singular values off have in common: how a rank is asked for, found, and reported."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable

import numpy as np

from convc.lazy import dataclass
from convc.passes.rewriting.layer import Layer, Weights
from convc.passes.rewriting.measure import Fitted, measured
from convc.passes.rewriting.replacement import Replacement, Rule, Samples
from convc.passes.rewriting.spectrum import Spectrum

Ranks = tuple[int, ...]  # inner widths: one between two layers, two between three


@dataclass(frozen=True)
class Decision:
    """Ranks, and why they are these."""

    ranks: Ranks
    why: str


@dataclass(frozen=True, eq=False)
class Factors:
    """Trained weights taken apart, in float64.

    `ranks_for` are the smallest ranks that keep a part of the squared norm, `energy` what ranks keep, `cut` the weights
    of each new layer.
    """

    ranks_for: Callable[[float], Ranks]
    energy: Callable[[Ranks], float]
    cut: Callable[[Ranks], tuple[np.ndarray, ...]]

    @classmethod
    def of(cls, spectrum: Spectrum, cut: Callable[[int], tuple[np.ndarray, ...]]) -> Factors:
        """Two factors of a singular value decomposition."""
        return cls(
            lambda energy: (spectrum.rank_for(energy),),
            lambda ranks: spectrum.energy(ranks[0]),
            lambda ranks: cut(ranks[0]),
        )


@dataclass(frozen=True)
class RankedRule(Rule, ABC):
    """Replaces a layer by linear ones through narrow places.

    At most one of `rank`, `energy` (the smallest rank that keeps this part of the squared norm) and `speedup` (the
    largest rank with so many times fewer multiply-adds) is given; without any of them the rule has a usual rank. The
    bias goes to the last layer, so that what is between is zero outside the image, as the composition has it: the new
    layers compute the composed kernel at the border, too.
    """

    rank: int | None = None
    energy: float | None = None
    speedup: float | None = None

    @abstractmethod
    def unfit(self, old: Layer) -> str | None:
        """Why the rule has nothing to offer for a layer, whatever the rank."""

    @abstractmethod
    def full_ranks(self, old: Layer) -> Ranks:
        """The ranks at which the new layers are exact."""

    @abstractmethod
    def usual(self, old: Layer) -> Decision:
        """What is taken when nothing is asked for."""

    @abstractmethod
    def layers(self, old: Layer, ranks: Ranks) -> tuple[Layer, ...]:
        """The new layers with these widths between."""

    @abstractmethod
    def take_apart(self, old: Layer, weight: np.ndarray) -> Factors:
        """`weight` is float64."""

    @abstractmethod
    def method(self, old: Layer) -> str:
        """What is decomposed, in words."""

    def refusal(self, old: Layer, weights: Weights | None = None) -> str | None:
        why = self._senseless() or self.unfit(old)
        if why is None and self.energy is not None and weights is None:
            why = f"energy={self.energy:g} is read off trained weights, and none are given"
        if why is None and self.speedup is not None:
            most = old.macs / self._macs(old, 1)
            if most < self.speedup:
                why = f"speedup={self.speedup:g} is out of reach: rank 1 takes {most:.2f} times fewer multiply-adds"
        return why

    def form(self, old: Layer, weights: Weights | None = None) -> tuple[Layer, ...]:
        factors = None if weights is None else self.take_apart(old, weights["weight"].astype(np.float64))
        return self.layers(old, self._decide(old, factors).ranks)

    def fit(self, old: Layer, weights: Weights, samples: Samples | None = None) -> Replacement:
        factors = self.take_apart(old, weights["weight"].astype(np.float64))
        decision, full = self._decide(old, factors), self.full_ranks(old)
        arrays = [{"weight": array.astype(np.float32)} for array in factors.cut(decision.ranks)]
        if old.bias:
            arrays[-1]["bias"] = np.asarray(weights["bias"], np.float32)
        chosen = f"rank {_text(decision.ranks)} of {_text(full)}: {decision.why}"
        return measured(
            self.name,
            Fitted(
                old,
                weights,
                self.layers(old, decision.ranks),
                arrays,
                method=self.method(old) + (", exact up to rounding" if decision.ranks == full else ""),
                ranks=decision.ranks,
                kept_energy=factors.energy(decision.ranks),
                notes=(chosen,),
            ),
            samples,
        )

    def _senseless(self) -> str | None:
        """What is wrong with the options themselves."""
        options = {"rank": self.rank, "energy": self.energy, "speedup": self.speedup}
        given = [f"{key}={value:g}" for key, value in options.items() if value is not None]
        if len(given) > 1:
            return f"{' and '.join(given)} are several answers to one question: give one of them"
        if self.rank is not None and self.rank < 1:
            return f"rank={self.rank} keeps nothing: it is at least 1"
        if self.energy is not None and not 0 < self.energy <= 1:
            return f"energy={self.energy:g} is a part of the whole: above 0, at most 1"
        if self.speedup is not None and not 0 < self.speedup < math.inf:
            return f"speedup={self.speedup:g} is a factor above 0"
        return None

    def _decide(self, old: Layer, factors: Factors | None) -> Decision:
        full = self.full_ranks(old)
        if self.rank is not None:
            if self.rank <= max(full):
                return Decision(_capped(self.rank, full), "as asked")
            return Decision(full, f"rank={self.rank} was asked for, and more than the full rank adds nothing")
        if self.energy is not None:
            assert factors is not None, "refused without weights"
            return Decision(factors.ranks_for(self.energy), f"the smallest that keeps energy={self.energy:g}")
        if self.speedup is not None:
            ranks, speedup = range(1, max(full) + 1), self.speedup
            fitting = bisect_right(ranks, old.macs, key=lambda rank: self._macs(old, rank) * speedup)
            return Decision(_capped(fitting, full), f"the largest with {speedup:g} times fewer multiply-adds")
        return self.usual(old)

    def _macs(self, old: Layer, rank: int) -> int:
        return sum(layer.macs for layer in self.layers(old, _capped(rank, self.full_ranks(old))))


def _capped(rank: int, full: Ranks) -> Ranks:
    return tuple(min(rank, most) for most in full)


def _text(ranks: Ranks) -> str:
    return ", ".join(map(str, ranks))
