"""A kernel as a composition of smaller ones, by least squares on their taps.

Minimises ‖f_n ∘ … ∘ f_1 − w‖ over all factors, in float64, for a given number of channels between them. The problem is
linear in each factor, but not in all, and has local minima. Hence several starts:

* taken apart without iteration (`splitting.py`), which finds a composition where there is one with no more channels
  between than at both ends;
* successive splitting: the rows of the first factor are the leading singular vectors of all windows of its size in w,
  and the rest of the kernel follows by division; the same from the last factor on;
* random factors, from a seed.

The most promising after a few sweeps of alternating least squares is refined by Levenberg–Marquardt until it stalls.
The residual is a local minimum: a smaller one may exist, unless it is zero. With about three times as many channels
between as at one end nearly every kernel is a composition, and the residual vanishes from any start. For numbers of
channels in between a composition may be missed.

Factors are determined up to an invertible matrix in each place between: S·f_i and f_{i+1}·S⁻¹ compose alike. What is
returned is balanced, equally large on both sides of each place and spread over its channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from convc.ir.window import Pair
from convc.lazy import dataclass
from convc.passes.rewriting.kernel_chain import KernelChain, Kernels
from convc.passes.rewriting.kernel_problem import KernelProblem
from convc.passes.rewriting.least_squares import Effort, minimize, step
from convc.passes.rewriting.splitting import divide_left, divide_right, split

TAPS = (3, 3)
# Relative errors below this are those of a composition, in numbers that were rounded to float32.
REPRESENTED = 1e-5
_SWEEPS = 8
_SEEDED = 2
# A start is enough by itself when it is this near.
_NEAR = 0.05
# Multiply-adds that a fit may take, and iterations of conjugate gradients whatever they cost.
_WORK = 5e11
_LEAST_ITERATIONS, _MOST_ITERATIONS = 60, 3000


@dataclass(frozen=True, eq=False)
class KernelFit:
    """Factors (float64), the first applied first, their relative error, and the start that it came from."""

    factors: Kernels
    error: float
    start: str


def fit_kernel(target: np.ndarray, width: int, steps: Sequence[Pair], seed: int = 0) -> KernelFit:
    """Factors 3x3 with `width` channels between whose composition, with taps `steps` apart, is near `target`.

    `target` (K, C, R, S) has the size of the composition and is not zero.
    """
    target = target.astype(np.float64)
    problem = KernelProblem.of(target, steps)
    draw = np.random.default_rng(seed)
    best: tuple[float, str, Kernels] | None = None
    for name, start in _starts(problem, width, draw):
        factors = _sweep(problem, start)
        error = problem.error(factors)
        if best is None or error < best[0]:
            best = error, name, factors
        if error < _NEAR:
            break
    assert best is not None
    work = int(np.clip(_WORK / _multiply_adds(problem, width), _LEAST_ITERATIONS, _MOST_ITERATIONS))
    found = minimize(problem, best[2], Effort(work=work, enough=1e-9))
    return KernelFit(_balanced(found.arrays, draw), found.error, best[1])


def _starts(problem: KernelProblem, width: int, draw: np.random.Generator) -> Iterator[tuple[str, Kernels]]:
    target, steps = problem.target, problem.steps
    if all(pair == (1, 1) for pair in steps):
        factors = split(target, width, draw)
        if factors is not None:
            yield "taken apart along the curve where the kernel is singular", factors
    yield "singular vectors of the windows, from the first layer on", _peel_first(target, width, steps)
    yield "singular vectors of the windows, from the last layer on", _peel_last(target, width, steps)
    sizes = [target.shape[1], *[width] * (len(steps) - 1), target.shape[0]]
    for number in range(_SEEDED):
        factors = [draw.standard_normal((outer, inner, *TAPS)) for inner, outer in pairwise(sizes)]
        size = np.linalg.norm(KernelChain.at(factors, steps).composed)
        share = (problem.scale / size) ** (1 / len(factors))
        yield f"random factors, number {number + 1}", [factor * share for factor in factors]


def _peel_first(target: np.ndarray, width: int, steps: Sequence[Pair]) -> Kernels:
    """The first factor is made of leading singular vectors, then the next one of what is left by division."""
    factors: Kernels = []
    base = (1, 1)
    for down, across in steps[1:]:
        apart = down // base[0], across // base[1]
        first = _leading_windows(target, width, apart)
        target, base = divide_right(target, first, apart), (down, across)
        factors.append(first)
    return [*factors, target]


def _peel_last(target: np.ndarray, width: int, steps: Sequence[Pair]) -> Kernels:
    factors: Kernels = []
    for apart in reversed(steps[1:]):
        coarse = target[:, :, :: apart[0], :: apart[1]]
        last = _leading_windows(coarse.swapaxes(0, 1), width, (1, 1)).swapaxes(0, 1)
        target = divide_left(target, last, apart)
        factors.append(last)
    return [target, *reversed(factors)]


def _leading_windows(taps: np.ndarray, width: int, apart: Pair) -> np.ndarray:
    """`width` orthonormal kernels (width, C, 3, 3) that hold most of all windows of taps (K, C, R, S) at distances
    `apart`; beyond the dimension of the space, zeros."""
    channels = taps.shape[1]
    windows = np.lib.stride_tricks.sliding_window_view(taps, TAPS, axis=(2, 3))[:, :, :: apart[0], :: apart[1]]
    rows = windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, channels * TAPS[0] * TAPS[1])
    _, vectors = np.linalg.eigh(rows.T @ rows)
    found = np.zeros((width, rows.shape[1]))
    kept = vectors[:, ::-1].T[:width]
    found[: len(kept)] = kept
    return found.reshape(width, channels, *TAPS)


def _sweep(problem: KernelProblem, factors: Kernels) -> Kernels:
    """Alternating least squares: each factor in turn, the others fixed, there and back."""
    count = len(factors)
    damping = 1e-10 * problem.scale**2
    factors = _level(factors)
    for _ in range(_SWEEPS):
        for index in (*range(count), *range(count - 2, 0, -1)):
            # With the others fixed the ends are solved by their preconditioner, in one iteration.
            iterations = 1 if index in (0, count - 1) else 10
            change, _ = step(problem.at(factors), [index], damping, iterations, 1e-3)
            factors = [factor + own for factor, own in zip(factors, change, strict=True)]
        factors = _level(factors)
    return factors


def _level(factors: Kernels) -> Kernels:
    """Equal norms."""
    norms = np.array([np.linalg.norm(factor) for factor in factors])
    if not norms.all():
        return factors
    common = np.exp(np.mean(np.log(norms)))
    return [factor * (common / norm) for factor, norm in zip(factors, norms, strict=True)]


def _balanced(factors: Kernels, draw: np.random.Generator) -> Kernels:
    """The same composition with equal Gram matrices on both sides of each place, turned so that all channels count."""
    factors = list(factors)
    for place in range(len(factors) - 1):
        first, second = factors[place], factors[place + 1]
        width = len(first)
        inner, before = np.linalg.qr(first.reshape(width, -1).T)
        outer, behind = np.linalg.qr(second.transpose(0, 2, 3, 1).reshape(-1, width))
        left, sizes, right = np.linalg.svd(behind @ before.T, full_matrices=False)
        turn = np.linalg.qr(draw.standard_normal((width, len(sizes))))[0] * np.sqrt(sizes)
        factors[place] = (turn @ right @ inner.T).reshape(first.shape)
        turned = outer @ left @ turn.T
        factors[place + 1] = turned.reshape(len(second), *second.shape[2:], width).transpose(0, 3, 1, 2)
    return _level(factors)


def _multiply_adds(problem: KernelProblem, width: int) -> float:
    """Of one iteration of conjugate gradients, roughly: four compositions."""
    filters, channels, *_ = problem.target.shape
    total, sizes = 0.0, [*[width] * (len(problem.steps) - 1), filters]
    extents = np.array([3, 3])
    for inner, outer, apart in zip(sizes[:-1], sizes[1:], problem.steps[1:], strict=True):
        total += 9 * outer * inner * channels * float(np.prod(extents))
        extents = extents + 2 * np.array(apart)
    return 4 * total
