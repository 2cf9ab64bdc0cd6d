"""All mutants, by the part of the compiler that they break."""

from __future__ import annotations

from tests.mutants.catalogue import algorithms, clean_ups, gradients, graphs, plans, training
from tests.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (
    *graphs.MUTANTS,
    *gradients.MUTANTS,
    *training.MUTANTS,
    *clean_ups.MUTANTS,
    *plans.MUTANTS,
    *algorithms.MUTANTS,
)
