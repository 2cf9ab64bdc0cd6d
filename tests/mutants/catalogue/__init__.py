"""All mutants, by the part of the compiler that they break."""

from __future__ import annotations

from tests.mutants.catalogue import (
    algorithms,
    clean_ups,
    gradients,
    graphs,
    loss_scaling,
    plans,
    quantization,
    training,
)
from tests.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (
    *graphs.MUTANTS,
    *gradients.MUTANTS,
    *training.MUTANTS,
    *loss_scaling.MUTANTS,
    *quantization.MUTANTS,
    *clean_ups.MUTANTS,
    *plans.MUTANTS,
    *algorithms.MUTANTS,
)
