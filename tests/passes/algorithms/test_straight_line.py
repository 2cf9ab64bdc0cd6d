"""Straight-line programs: equal to their matrix in exact arithmetic, nothing computed twice."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convc.passes.algorithms.root2 import Root2
from convc.passes.algorithms.straight_line import Builder, StraightLine, Term, of_matrix, transposed

rationals = st.fractions(-4, 4, max_denominator=3)
roots = st.builds(Root2, rationals, rationals)
# Few different values, so that rows and columns often agree up to signs.
entries = st.sampled_from(
    [Fraction(0), *(sign * Fraction(n, d) for sign in (1, -1) for n, d in ((1, 1), (2, 1), (1, 2)))]
)


@st.composite
def matrices(draw: st.DrawFn) -> list[list[Any]]:
    columns = draw(st.integers(1, 6))
    row = st.lists(entries, min_size=columns, max_size=columns).filter(any)
    return draw(st.lists(row, min_size=1, max_size=6))


def product(matrix: list[list[Any]], values: list[Any]) -> list[Any]:
    return [sum((a * x for a, x in zip(row, values, strict=True)), Fraction(0)) for row in matrix]


@given(matrices(), st.data())
def test_the_program_of_a_matrix_multiplies_by_it(matrix: list[list[Any]], data: st.DataObject) -> None:
    count = len(matrix[0])
    values = data.draw(st.lists(roots, min_size=count, max_size=count))
    program = of_matrix(matrix)
    assert program.evaluate(values) == product(matrix, values)
    naive = sum(2 * sum(1 for value in row if value) - 1 for row in matrix)
    assert program.operations <= naive
    assert len(set(program.steps)) == len(program.steps)


@pytest.mark.parametrize(
    ("matrix", "operations"),
    [
        ([[1, 1], [1, -1]], 2),
        ([[0, 1], [1, 0]], 0),  # outputs in another order
        ([[1, 1, 1], [1, 1, -1]], 3),  # x0 + x1 once
        ([[1, 2], [3, 6]], 2),  # three times the first row
        ([[1, 2, 4, 8], [1, -2, 4, -8], [2, 0, 8, 0]], 5),  # even and odd parts; the even part twice, and doubled
        ([[1, 1, 0], [1, -1, 0], [4, 4, 1], [8, -8, 1]], 4),  # sums and differences of columns
    ],
)
def test_what_is_shared_is_computed_once(matrix: list[list[int]], operations: int) -> None:
    exact = [[Fraction(value) for value in row] for row in matrix]
    program = of_matrix(exact)
    assert program.operations == operations
    values = [Fraction(3), Fraction(5), Fraction(7), Fraction(11)][: len(matrix[0])]
    assert program.evaluate(values) == product(exact, values)


@given(matrices())
def test_a_transposed_program_multiplies_by_the_transposed_matrix(matrix: list[list[Any]]) -> None:
    reached = [
        list(column) for column in zip(*matrix, strict=True) if any(column)
    ]  # an input that nothing reads is no sum
    program = of_matrix([list(row) for row in zip(*reached, strict=True)])
    turned = transposed(program)
    for number, unit in enumerate(range(len(matrix))):
        values = [Fraction(position == unit) for position in range(len(matrix))]
        assert turned.evaluate(values) == [column[number] for column in reached]


def test_differences_are_taken_so_that_nothing_is_negated() -> None:
    builder = Builder(2)
    x, y = builder.inputs
    difference = builder.subtract(x, y)
    last = builder.add(difference, y.times(Fraction(3)))
    program = builder.build([-difference, last])
    assert program.operations == len(program.steps) == 2
    assert program.evaluate([5, 3]) == [-2, 11]
    both = builder.build([-difference, difference])  # one of them has to be
    assert both.evaluate([5, 3]) == [-2, 2]
    total = builder.build([-builder.add(x, y)])  # −x − y takes two instructions as well
    assert (total.operations, total.evaluate([5, 3])) == (2, [-8])


def test_a_builder_knows_sums_and_their_multiples_again() -> None:
    builder = Builder(2)
    x, y = builder.inputs
    total = builder.add(x, y.times(Fraction(2)))
    assert builder.add(y.times(Fraction(6)), x.times(Fraction(3))) == Term(Fraction(3), total.value)
    assert builder.subtract(-x, y.times(Fraction(2))) == Term(Fraction(-1), total.value)
    assert builder.add(total, total) == Term(Fraction(2), total.value)
    program = builder.build([total, x])
    assert program == StraightLine(2, ((Term(Fraction(1), 0), Term(Fraction(2), 1)),), (2, 0))
    assert program.evaluate([10, 1]) == [12, 10]


@given(roots, roots, roots)
def test_numbers_with_a_root_are_a_field(a: Root2, b: Root2, c: Root2) -> None:
    assert (a + b) * c == c * b + c * a
    assert a - b == -(b - a)
    assert float(a * b) == pytest.approx(float(a) * float(b), abs=1e-12)
    if b != 0:
        assert a / b * b == a
        assert 1 / b * b == 1 == Fraction(1)


def test_numbers_without_a_root_are_rational() -> None:
    root = Root2(Fraction(0), Fraction(1))
    assert root * root == 2
    assert hash(root * root) == hash(Fraction(2)) == hash(2)
    assert root not in {Fraction(2), 2}
    assert root != "root"
    assert str(1 / root) == "0 + 1/2·√2"
