"""Least squares for the factors of a kernel: a composition less its target, as a function of all factors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from convc.ir.window import Pair
from convc.lazy import dataclass
from convc.passes.rewriting.kernel_chain import KernelChain, Kernels, shifted
from convc.passes.rewriting.least_squares import Arrays, Precondition


@dataclass(frozen=True, eq=False)
class KernelPoint:
    """The composition at some factors, less the target: a `Linearization`."""

    chain: KernelChain
    residual: np.ndarray

    def forward(self, directions: Arrays) -> np.ndarray:
        return self.chain.forward(directions)

    def backward(self, residual: np.ndarray) -> Arrays:
        return self.chain.backward(residual)

    def precondition(self, damping: float) -> Precondition:
        """The first and the last factor exactly, with the others fixed; those between as if taps did not overlap."""
        last, first = (np.linalg.inv(gram + damping * np.eye(len(gram))) for gram in self._ends)

        def apply(arrays: Arrays) -> Arrays:
            head, *middle, tail = arrays
            result = [(head.swapaxes(0, 1).reshape(head.shape[1], -1) @ first).reshape(head.swapaxes(0, 1).shape)]
            result[0] = result[0].swapaxes(0, 1)
            for array, (left, right) in zip(middle, self._middles, strict=True):
                turned = np.tensordot(left[1].T, array, 1).transpose(0, 2, 3, 1) @ right[1]
                turned /= (left[0][:, None] * right[0] + damping)[:, None, None, :]
                result.append(np.tensordot(left[1], (turned @ right[1].T).transpose(0, 3, 1, 2), 1))
            return [*result, (tail.reshape(len(tail), -1) @ last).reshape(tail.shape)]

        return apply

    @cached_property
    def _ends(self) -> tuple[np.ndarray, np.ndarray]:
        before, behind = self.chain.prefixes[-1], self.chain.suffixes[0]
        assert before is not None
        assert behind is not None
        head, tail = self.chain.factors[0].shape, self.chain.factors[-1].shape
        last = shifted(before, (tail[2], tail[3]), self.chain.steps[-1])
        first = shifted(behind.swapaxes(0, 1), (head[2], head[3]))
        return last @ last.T, first @ first.T

    @cached_property
    def _middles(self) -> list[tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]]:
        """Eigenvalues and vectors of the Gram matrices of what is behind and before each factor between."""
        found: list[tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]] = []
        for before, behind in zip(self.chain.prefixes[1:-1], self.chain.suffixes[1:-1], strict=True):
            assert before is not None
            assert behind is not None
            left = np.einsum("kmrs,kprs->mp", behind, behind, optimize=True)
            right = np.einsum("mcrs,pcrs->mp", before, before, optimize=True)
            found.append((_eigen(left), _eigen(right)))
        return found


def _eigen(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, vectors = np.linalg.eigh(matrix)
    return values, vectors


@dataclass(frozen=True, eq=False)
class KernelProblem:
    """‖f_n ∘ … ∘ f_1 − target‖, with the taps of factor i `steps[i]` apart in the grid of the first."""

    target: np.ndarray
    steps: tuple[Pair, ...]
    scale: float

    @classmethod
    def of(cls, target: np.ndarray, steps: Sequence[Pair]) -> KernelProblem:
        return cls(target, tuple(steps), float(np.linalg.norm(target)))

    def at(self, arrays: Arrays) -> KernelPoint:
        chain = KernelChain.at(arrays, self.steps)
        return KernelPoint(chain, chain.composed - self.target)

    def error(self, arrays: Kernels) -> float:
        return float(np.linalg.norm(self.at(arrays).residual)) / self.scale
