"""A kernel that is a composition, taken apart without iteration.

Let W = G∘F with M channels between, both unknown. At the points z of the curve of F there are vectors v with F(z)·v =
0, hence also W(z)·v = 0: they are found on W (`curve.py`). Each gives equations that are linear in the taps of F,

    Σ_{c,t} f[m, c, t]·z^t·v_c = 0        for every row m,

and enough of them leave exactly an M-dimensional space, which the rows of F span. Any basis will do, since G makes up
for it. Points on the curve of G leave nothing: that is how the two are told apart. Then G follows from W = G∘F, a
linear system. More factors are split off one after the other.

A kernel that is not square is made so: L∘W∘R = (L∘G)∘(F∘R) for fixed matrices L (M x K) and R (C x M) has the same M
channels between; with L∘G known, F follows from L∘W = (L∘G)∘F. This needs M ≤ min(C, K): with more channels between
than on one side there is no curve, and nothing is found.

Rounding is magnified by the condition of these systems, so a few steps of least squares follow each split. For a kernel
that is no composition None is returned, after a number of attempts.
"""

from __future__ import annotations

import numpy as np

from convc.ir.window import Pair
from convc.passes.rewriting.composition import compose, relative
from convc.passes.rewriting.curve import Points, Wanderer
from convc.passes.rewriting.kernel_chain import Kernels, dilate, shifted
from convc.passes.rewriting.kernel_problem import KernelProblem
from convc.passes.rewriting.least_squares import Effort, minimize

_SIZE = 3
# Attempts per factor: each finds the curve of a given factor with probability 1 / (number of factors).
_ATTEMPTS = 6
# Points for each unknown tap of a row, of which half a one would do if all were independent, since they are complex;
# and the largest singular value that counts as zero, as a part of the smallest that does not. A first look is cheap;
# neighbours on the way are nearly dependent, so that with 8 channels it must not ask for more than this.
_LOOKS = ((0.75, 0.8), (1.5, 0.1))
# The rows found have to divide the kernel up to this: then iteration does the rest.
_DIVIDES = 0.1
# What is left after that has to be noise: the start is better than others up to here.
_COMPOSED = 0.02
_POLISH = Effort(steps=20, work=600, enough=1e-9)


def split(taps: np.ndarray, width: int, draw: np.random.Generator) -> Kernels | None:
    """Factors 3x3 of taps (K, C, k, k), the first applied first, with `width` channels between; or None."""
    filters, channels, size, _ = taps.shape
    if size == 3:
        return [taps]
    if width > min(filters, channels):
        return None
    left, right = np.eye(filters), np.eye(channels)
    if width < filters:
        left = np.linalg.qr(draw.standard_normal((filters, width)))[0].T
    if width < channels:
        right = np.linalg.qr(draw.standard_normal((channels, width)))[0]
    square = np.einsum("mk,kcrs,cn->mnrs", left, taps, right, optimize=True)
    for _ in range(_ATTEMPTS * (size // 2)):
        first = _right_factor(square, draw)
        if first is None:
            continue
        second = divide_right(square, first)
        if relative(compose(second, first), square) > _DIVIDES:
            continue
        if width < channels:
            first = divide_left(np.tensordot(left, taps, 1), second)
        second = divide_right(taps, first)
        found = minimize(KernelProblem.of(taps, [(1, 1)] * 2), [first, second], _POLISH)
        if found.error < _COMPOSED:
            others = split(found.arrays[1], width, draw)
            return None if others is None else [found.arrays[0], *others]
    return None


def divide_right(taps: np.ndarray, first: np.ndarray, step: Pair = (1, 1)) -> np.ndarray:
    """The `second` whose composition with `first` is nearest to `taps`."""
    rows, columns = (
        (whole - own) // apart + 1 for whole, own, apart in zip(taps.shape[2:], first.shape[2:], step, strict=True)
    )
    design = shifted(first, (rows, columns), step)
    solution = solve(design, taps.reshape(len(taps), -1))
    return solution.reshape(len(taps), len(first), rows, columns)


def divide_left(taps: np.ndarray, second: np.ndarray, step: Pair = (1, 1)) -> np.ndarray:
    """The `first` whose composition with `second`, taps `step` apart, is nearest to `taps`."""
    return divide_right(taps.swapaxes(0, 1), dilate(second, step).swapaxes(0, 1)).swapaxes(0, 1)


def solve(design: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """X with X·design nearest to targets, by the normal equations; the smallest such X where there are several."""
    gram = design @ design.T
    gram += 1e-13 * np.trace(gram) / len(gram) * np.eye(len(gram))
    return np.linalg.solve(gram, design @ targets.T).T


def _right_factor(taps: np.ndarray, draw: np.random.Generator) -> np.ndarray | None:
    """F (M, M, 3, 3) of square taps, if the component of the curve that is met first is that of F."""
    width = len(taps)
    unknown = width * _SIZE**2
    wanderer = Wanderer(taps, draw)
    rows = np.zeros((0, unknown))
    for share, gap in _LOOKS:
        points = wanderer.points(int(np.ceil(share * unknown)) + 4)
        if points is None:
            return None
        _, sizes, rows = np.linalg.svd(_equations(points))
        if sizes[-width] > gap * sizes[-width - 1]:
            return None
    return rows[-width:].reshape(width, width, _SIZE, _SIZE)


def _equations(points: Points) -> np.ndarray:
    """A row of real numbers for each real and each imaginary part, of length 1 together; columns are (c, r, s)."""
    powers = np.arange(_SIZE)
    monomials = [points.places[:, axis, None] ** powers for axis in (0, 1)]
    rows = np.einsum("pc,pr,ps->pcrs", points.vectors, *monomials).reshape(len(points.places), -1)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return np.concatenate([rows.real, rows.imag])
