"""A fully connected layer through a narrow one, from its trained weights.

    fc O    →    fc r bias=no  ->  fc O

The product of the two matrices is the best approximation of rank r of the old one (Eckart–Young), exact at rank
min(O, D); it has r·(O + D) weights in place of O·D. (Denton et al. 2014, section 3.2; Xue, Li, Gong: "Restructuring of
deep neural network acoustic models with singular value decomposition", 2013.) Without a rank it is the largest that
halves the multiply-adds.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from convc.ir.ops.linear import Linear
from convc.lazy import dataclass
from convc.passes.rewriting.layer import Layer
from convc.passes.rewriting.ranked import Decision, Factors, RankedRule, Ranks
from convc.passes.rewriting.spectrum import Spectrum


@dataclass(frozen=True)
class LowRank(RankedRule):
    """fc → fc, fc."""

    name: ClassVar[str] = "low-rank"

    def unfit(self, old: Layer) -> str | None:
        if not isinstance(old.op, Linear):
            return "it is not a fully connected layer"
        return "it is as narrow as can be already" if self.full_ranks(old) == (1,) else None

    def full_ranks(self, old: Layer) -> Ranks:
        assert old.weight is not None
        return (min(old.weight),)

    def usual(self, old: Layer) -> Decision:
        assert old.weight is not None
        outputs, features = old.weight
        half = max(1, outputs * features // (2 * (outputs + features)))
        return Decision((half,), "half the multiply-adds, as nothing was asked for")

    def layers(self, old: Layer, ranks: Ranks) -> tuple[Layer, ...]:
        (rank,) = ranks
        assert old.weight is not None
        outputs, features = old.weight
        first = Layer(Linear(), old.input, (rank, features))
        return first, Layer(Linear(), first.output, (outputs, rank), old.bias)

    def take_apart(self, old: Layer, weight: np.ndarray) -> Factors:
        u, sigma, v = np.linalg.svd(weight, full_matrices=False)

        def cut(rank: int) -> tuple[np.ndarray, ...]:
            share = np.sqrt(sigma[:rank])
            return share[:, None] * v[:rank], u[:, :rank] * share

        return Factors.of(Spectrum(sigma**2), cut)

    def method(self, old: Layer) -> str:
        assert old.weight is not None
        return f"singular values of the {old.weight[0]} x {old.weight[1]} weights"
