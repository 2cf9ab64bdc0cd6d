"""Kernels that are compositions, and random ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from convc.ir.window import Pair
from convc.passes.rewriting.kernel_chain import KernelChain, Kernels


def planted(sizes: Sequence[int], seed: int) -> Kernels:
    """3x3 factors between these numbers of channels, as trained weights are: float32."""
    draw = np.random.default_rng([seed, *sizes])
    return [
        (draw.standard_normal((outer, inner, 3, 3)) / np.sqrt(9 * inner)).astype(np.float32)
        for inner, outer in pairwise(sizes)
    ]


def composition(factors: Kernels, steps: Sequence[Pair] | None = None) -> np.ndarray:
    """In float64."""
    return KernelChain.at([factor.astype(np.float64) for factor in factors], steps or [(1, 1)] * len(factors)).composed
