"""A composition of kernels as a function of each of them, with derivatives.

    w = f_n ∘ … ∘ f_2 ∘ f_1,    w[u] = Σ f_n[t_n]·…·f_1[t_1]  over  t_1 + p_2·t_2 + … + p_n·t_n = u

where the products are those of matrices of channels, and p_i is the distance of the taps of f_i in the grid of the
input, the product of the strides before it. It is linear in each factor: dw = Σ_i (f_n ∘ … f_{i+1}) ∘ df_i ∘ (f_{i-1} …
∘ f_1), and the adjoints are correlations with the same products.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convc.ir.window import Pair
from convc.lazy import dataclass
from convc.passes.rewriting.composition import compose

Kernels = list[np.ndarray]  # one (outputs, inputs, R, S) per factor, the first applied first


@dataclass(frozen=True, eq=False)
class KernelChain:
    """The factors at one point. `prefixes[i]` is the composition of those before factor i, `suffixes[i]` of those after
    it, both on the grid of the input; None where there are none."""

    factors: Kernels
    steps: tuple[Pair, ...]
    prefixes: list[np.ndarray | None]
    suffixes: list[np.ndarray | None]
    composed: np.ndarray

    @classmethod
    def at(cls, factors: Kernels, steps: Sequence[Pair]) -> KernelChain:
        prefixes: list[np.ndarray | None] = [None]
        for factor, step in zip(factors, steps, strict=True):
            before = prefixes[-1]
            prefixes.append(factor if before is None else compose(factor, before, step))
        suffixes: list[np.ndarray | None] = [None]
        for factor, step in zip(factors[:0:-1], tuple(steps)[:0:-1], strict=True):
            behind, spread = suffixes[-1], dilate(factor, step)
            suffixes.append(spread if behind is None else compose(behind, spread))
        composed = prefixes.pop()
        assert composed is not None
        return cls(factors, tuple(steps), prefixes, suffixes[::-1], composed)

    def forward(self, directions: Kernels) -> np.ndarray:
        """The derivative of the composition along a direction."""
        result = directions[0]
        for index in range(1, len(self.factors)):
            before, step = self.prefixes[index], self.steps[index]
            assert before is not None
            result = compose(self.factors[index], result, step) + compose(directions[index], before, step)
        return result

    def backward(self, taps: np.ndarray) -> Kernels:
        """The adjoint of `forward`: the gradient of ⟨taps, composition⟩ by each factor."""
        result: Kernels = []
        for index in range(len(self.factors) - 1, 0, -1):
            before, step = self.prefixes[index], self.steps[index]
            assert before is not None
            result.append(by_second(taps, before, self.factors[index].shape, step))
            taps = by_first(taps, self.factors[index], before.shape, step)
        return [taps, *reversed(result)]


def dilate(taps: np.ndarray, step: Pair) -> np.ndarray:
    """Zeros between the taps, so that they lie `step` apart."""
    if step == (1, 1):
        return taps
    k, c, rows, columns = taps.shape
    result = np.zeros((k, c, step[0] * (rows - 1) + 1, step[1] * (columns - 1) + 1), taps.dtype)
    result[:, :, :: step[0], :: step[1]] = taps
    return result


def by_second(taps: np.ndarray, first: np.ndarray, shape: tuple[int, ...], step: Pair = (1, 1)) -> np.ndarray:
    """The gradient of ⟨taps, compose(second, first, step)⟩ by `second`, which has this shape."""
    k, m, rows, columns = shape
    height, width = first.shape[2:]
    flat = first.reshape(m, -1).T
    result = np.empty(shape, taps.dtype)
    for r in range(rows):
        for s in range(columns):
            window = taps[:, :, r * step[0] : r * step[0] + height, s * step[1] : s * step[1] + width]
            result[:, :, r, s] = window.reshape(k, -1) @ flat
    return result


def by_first(taps: np.ndarray, second: np.ndarray, shape: tuple[int, ...], step: Pair = (1, 1)) -> np.ndarray:
    """The gradient of ⟨taps, compose(second, first, step)⟩ by `first`, which has this shape."""
    k, m, rows, columns = second.shape
    height, width = shape[2:]
    result = np.zeros((m, shape[1] * height * width), taps.dtype)
    for r in range(rows):
        for s in range(columns):
            window = taps[:, :, r * step[0] : r * step[0] + height, s * step[1] : s * step[1] + width]
            result += second[:, :, r, s].T @ window.reshape(k, -1)
    return result.reshape(shape)


def shifted(kernel: np.ndarray, taps: Pair, step: Pair = (1, 1)) -> np.ndarray:
    """`kernel` (M, C, R, S) moved to the place of each of `taps` taps, `step` apart: a matrix with a row for each
    (m, r, s) and a column for each tap of the composition."""
    m, c, height, width = kernel.shape
    rows, columns = taps
    whole = height + step[0] * (rows - 1), width + step[1] * (columns - 1)
    result = np.zeros((m, rows, columns, c, *whole), kernel.dtype)
    for r in range(rows):
        for s in range(columns):
            result[:, r, s, :, r * step[0] : r * step[0] + height, s * step[1] : s * step[1] + width] = kernel
    return result.reshape(m * rows * columns, -1)
