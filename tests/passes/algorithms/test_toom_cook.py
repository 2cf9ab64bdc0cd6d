"""Toom-Cook algorithms: the bilinear identities hold exactly, and the programs are their matrices."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convc.passes.algorithms.straight_line import StraightLine
from convc.passes.algorithms.toom_cook import Matrix, ToomCook, derive, toom_cook, transposed
from convc.passes.algorithms.winograd import WINOGRAD

CHOSEN = [(1, 1), *((known.algorithm.outputs, known.algorithm.taps) for known in WINOGRAD)]


def unit(count: int, place: int) -> list[Any]:
    return [Fraction(number == place) for number in range(count)]


def products(left: list[Any], right: list[Any]) -> list[Any]:
    return [a * b for a, b in zip(left, right, strict=True)]


def check_identities(algorithm: ToomCook) -> None:
    """y_i = Σ_j g_j d_{i+j}, and its transpose: both are bilinear, so it is enough to try unit vectors."""
    m, r, n = algorithm.outputs, algorithm.taps, algorithm.points
    assert n == m + r - 1
    for pixel in range(n):
        image = algorithm.image.evaluate(unit(n, pixel))
        for tap in range(r):
            y = algorithm.output.evaluate(products(algorithm.filter.evaluate(unit(r, tap)), image))
            assert y == [int(i + tap == pixel) for i in range(m)]
        for output in range(m):
            gradient = algorithm.filter_gradient.evaluate(
                products(algorithm.cotangent.evaluate(unit(m, output)), image)
            )
            assert gradient == [int(output + j == pixel) for j in range(r)]


@pytest.mark.parametrize("form", CHOSEN, ids=str)
def test_the_chosen_algorithms_are_exact(form: tuple[int, int]) -> None:
    check_identities(toom_cook(*form))


@given(st.integers(1, 4), st.integers(1, 4), st.data())
def test_any_different_points_will_do(outputs: int, taps: int, data: st.DataObject) -> None:
    count = outputs + taps - 2
    rational = st.fractions(-3, 3, max_denominator=4)
    check_identities(derive(outputs, taps, data.draw(st.lists(rational, min_size=count, max_size=count, unique=True))))


@pytest.mark.parametrize("form", CHOSEN, ids=str)
def test_programs_are_their_matrices(form: tuple[int, int]) -> None:
    algorithm = toom_cook(*form)
    pairs: list[tuple[StraightLine, Matrix]] = [
        (algorithm.image, algorithm.interpolate),
        (algorithm.filter, algorithm.evaluate_filter),
        (algorithm.output, transposed(algorithm.evaluate_outputs)),
        (algorithm.cotangent, algorithm.evaluate_outputs),
        (algorithm.filter_gradient, transposed(algorithm.evaluate_filter)),
    ]
    for program, matrix in pairs:
        columns = [program.evaluate(unit(program.inputs, column)) for column in range(program.inputs)]
        assert transposed(tuple(tuple(column) for column in columns)) == matrix


def test_pairs_of_points_share_their_arithmetic() -> None:
    """Two multiply-adds for the even part, two for the odd one, one for each sign: what a careful hand would write."""
    counts = {form: (toom_cook(*form).image.operations, toom_cook(*form).output.operations) for form in CHOSEN}
    assert counts == {
        (1, 1): (0, 0),
        (2, 3): (4, 4),
        (4, 3): (12, 12),
        (6, 3): (24, 20),
        (2, 5): (12, 8),
        (4, 5): (24, 16),
        (2, 7): (24, 12),
    }


def test_a_single_tap_is_nothing_to_transform() -> None:
    algorithm = toom_cook(1, 1)
    assert algorithm.interpolate == algorithm.evaluate_filter == algorithm.evaluate_outputs == ((1,),)


@pytest.mark.parametrize("points", [(0, 1), (0, 1, 1), (0, 1, 2, 3)], ids=str)
def test_points_must_be_different_and_enough(points: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="takes 3 different points"):
        derive(2, 3, [Fraction(point) for point in points])
