"""Kernels taken apart into 3x3 ones: exact derivatives, compositions found from a cold start, honest residuals."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest

from convc.ir.ops.conv import Conv2d
from convc.ir.window import Pair
from convc.passes.rewriting.composition import relative
from convc.passes.rewriting.curve import Wanderer
from convc.passes.rewriting.kernel_chain import KernelChain
from convc.passes.rewriting.kernel_fit import REPRESENTED, fit_kernel
from convc.passes.rewriting.kernel_problem import KernelProblem
from convc.passes.rewriting.least_squares import Effort, minimize, step
from convc.passes.rewriting.splitting import divide_left, divide_right, split
from tests.passes.rewriting.kernels import composition, planted

# Channels in, between and out, and the number of factors; the kernel of n factors has size 2·n + 1.
CASES = [
    *product([(1, 1, 1, 2), (1, 1, 1, 3), (2, 2, 2, 2)], [0, 1]),
    # Fewer channels between than at an end.
    ((4, 2, 5, 2), 1),
    # So many that nearly every kernel is a composition.
    *product([(1, 9, 4, 2), (2, 8, 5, 2)], [0, 1]),
]
SLOW = [
    *product([(1, 1, 1, 5), (2, 2, 2, 3), (3, 3, 3, 3), (4, 4, 4, 3), (6, 4, 9, 3), (9, 3, 5, 2)], [0, 1]),
    *product([(4, 2, 5, 2), (3, 12, 12, 3), (8, 8, 8, 3), (2, 2, 2, 5), (4, 4, 4, 4)], [0]),
]


def planted_kernel(case: tuple[int, int, int, int], seed: int) -> np.ndarray:
    channels, width, filters, count = case
    return composition(planted((channels, *[width] * (count - 1), filters), seed)).astype(np.float32)


@pytest.mark.parametrize(
    ("case", "seed"), [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)], ids=str
)
def test_a_composition_is_found(case: tuple[int, int, int, int], seed: int) -> None:
    """From the float32 taps alone, and as float32 factors again. The seeds of fit and plant differ."""
    channels, width, filters, count = case
    target = planted_kernel(case, seed)
    found = fit_kernel(target, width, [(1, 1)] * count, seed + 100)
    sizes = (channels, *[width] * (count - 1), filters)
    assert [factor.shape for factor in found.factors] == [(b, a, 3, 3) for a, b in pairwise(sizes)]
    assert found.error < 1e-6
    assert relative(composition([factor.astype(np.float32) for factor in found.factors]), target) < REPRESENTED


def test_the_residual_is_that_of_the_factors() -> None:
    target = np.random.default_rng(1).standard_normal((3, 1, 5, 5))
    found = fit_kernel(target, 2, [(1, 1)] * 2)
    assert found.error == pytest.approx(relative(composition(found.factors), target), rel=1e-6)
    assert 0.1 < found.error < 0.7
    again = fit_kernel(target, 2, [(1, 1)] * 2)
    assert all(np.array_equal(one, other) for one, other in zip(found.factors, again.factors, strict=True))


def test_more_channels_between_never_fit_much_worse() -> None:
    target = np.random.default_rng(0).standard_normal((2, 1, 5, 5))
    errors = [fit_kernel(target, width, [(1, 1)] * 2).error for width in (2, 3, 4, 6)]
    assert all(more < less + 0.02 for less, more in pairwise(errors))
    assert errors[-1] < REPRESENTED  # 6 · 9 combinations for 2 · 25 taps


def test_factors_are_balanced() -> None:
    """Equal norms, and no channel between is idle, even where most of them are not needed."""
    first, second = fit_kernel(planted_kernel((1, 9, 4, 2), 0), 15, [(1, 1)] * 2).factors
    assert np.linalg.norm(first) == pytest.approx(np.linalg.norm(second))
    rows, columns = first.reshape(15, -1), second.swapaxes(0, 1).reshape(15, -1)
    for sizes in (np.linalg.norm(rows, axis=1), np.linalg.norm(columns, axis=1)):
        assert sizes.min() > 0.1 * sizes.max()


STEPS: list[list[Pair]] = [[(1, 1)] * 3, [(1, 1), (2, 3), (2, 3)], [(1, 1), (2, 1)]]


@pytest.mark.parametrize("steps", STEPS, ids=str)
def test_derivatives_of_a_composition(steps: list[Pair]) -> None:
    sizes = (3, 4, 2, 5)[: len(steps) + 1]
    factors, directions = ([f.astype(np.float64) for f in planted(sizes, seed)] for seed in (0, 1))
    chain = KernelChain.at(factors, steps)
    along = chain.forward(directions)
    moved = [
        composition([f + sign * 1e-6 * d for f, d in zip(factors, directions, strict=True)], steps) for sign in (1, -1)
    ]
    assert relative((moved[0] - moved[1]) / 2e-6, along) < 1e-8
    taps = np.random.default_rng(2).standard_normal(along.shape)
    gradients = chain.backward(taps)
    assert np.vdot(taps, along) == pytest.approx(sum(map(np.vdot, gradients, directions)))


@pytest.mark.parametrize("steps", STEPS, ids=str)
def test_a_composition_is_what_the_convolutions_compute(steps: list[Pair]) -> None:
    sizes = (3, 4, 2, 5)[: len(steps) + 1]
    factors = [f.astype(np.float64) for f in planted(sizes, 0)]
    target = composition(factors, steps)
    image = x = np.random.default_rng(3).standard_normal((2, 3, 29, 31))
    for index, factor in enumerate(factors):
        x = Conv2d(steps[1] if index == 0 else (1, 1)).reference(x, factor)
    assert relative(Conv2d(steps[1]).reference(image, target), x) < 1e-12


@pytest.mark.parametrize("steps", STEPS, ids=str)
def test_division_by_either_factor(steps: list[Pair]) -> None:
    first, second = (f.astype(np.float64) for f in planted((3, 2, 4), 0))
    product = composition([first, second], [(1, 1), steps[1]])
    assert relative(divide_right(product, first, steps[1]), second) < 1e-8
    assert relative(divide_left(product, second, steps[1]), first) < 1e-8


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_step_of_alternating_least_squares_is_the_best_one(index: int) -> None:
    """Afterwards the gradient by that factor is zero, and the others are as they were."""
    draw = np.random.default_rng(5)
    target = draw.standard_normal((4, 3, 7, 7))
    problem = KernelProblem.of(target, [(1, 1)] * 3)
    factors = [f.astype(np.float64) for f in planted((3, 5, 5, 4), 2)]
    change, used = step(problem.at(factors), [index], 1e-12, 500, 1e-10)
    assert [bool(np.any(own)) for own in change] == [other == index for other in range(3)]
    if index != 1:
        assert used <= 2  # the ends are solved by their preconditioner
    point = problem.at([f + own for f, own in zip(factors, change, strict=True)])
    gradients = point.backward(point.residual)
    assert np.linalg.norm(gradients[index]) < 1e-6 * np.linalg.norm(problem.at(factors).backward(target)[index])


def test_a_search_never_leads_uphill() -> None:
    target = np.random.default_rng(6).standard_normal((3, 3, 7, 7))
    problem = KernelProblem.of(target, [(1, 1)] * 3)
    start = [f.astype(np.float64) for f in planted((3, 3, 3, 3), 0)]
    errors = [minimize(problem, start, Effort(steps=steps)).error for steps in (0, 1, 2, 5, 20)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0]


def test_wandering_stays_on_the_curve_of_a_factor() -> None:
    """At every point W(z)·v = 0, and all points lie on the curve of the same factor: here there are two."""
    first, second = (f.astype(np.float64) for f in planted((3, 3, 3), 4))
    taps = composition([first, second])

    def value(kernel: np.ndarray, place: np.ndarray) -> np.ndarray:
        return np.einsum("kcrs,r,s->kc", kernel, *(z ** np.arange(kernel.shape[2]) for z in place))

    seen: set[bool] = set()
    for seed in range(6):
        points = Wanderer(taps, np.random.default_rng(seed)).points(25)
        assert points is not None
        ends = [[], []]
        for place, vector in zip(points.places, points.vectors, strict=True):
            assert np.linalg.norm(value(taps, place) @ vector) < 1e-9
            ends[0].append(np.linalg.norm(value(first, place) @ vector) < 1e-8)
            ends[1].append(abs(np.linalg.det(value(second, place))) < 1e-8)
        assert all(ends[0]) != all(ends[1])
        seen.add(all(ends[0]))
    assert seen == {True, False}


def test_what_is_no_composition_is_not_taken_apart() -> None:
    target = np.random.default_rng(7).standard_normal((1, 1, 5, 5))
    assert split(target, 1, np.random.default_rng(0)) is None
    assert split(target, 2, np.random.default_rng(0)) is None  # no curve
