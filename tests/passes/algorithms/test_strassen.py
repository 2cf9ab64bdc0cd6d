"""Strassen's algorithm as programs of block sums, exactly; and what the chooser is told of it."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from convc.passes.algorithms import strassen
from convc.passes.algorithms.im2col import Im2col
from convc.passes.algorithms.problem import Direction, Problem
from convc.passes.algorithms.strassen import LEFT, RESULT, RIGHT, Split, Strassen, levels_of, strassen_plans
from convc.passes.machine import MACHINES

MACHINE = MACHINES["avx512"]
DIRECTIONS: tuple[Direction, ...] = ("forward", "backward_data", "backward_weights")
PROBLEM = Problem("forward", 8, 64, 128, (28, 28), (28, 28), (3, 3), padding=(1, 1, 1, 1))
POINTWISE = replace(PROBLEM, kernel=(1, 1), padding=(0, 0, 0, 0))


def units(count: int) -> list[list[Fraction]]:
    return [[Fraction(row == column) for row in range(count)] for column in range(count)]


def test_seven_products_are_the_product_of_two_by_two_blocks() -> None:
    """The bilinear identity, exactly: for all entries of A and B at once, without assuming that blocks commute."""
    left = np.array([LEFT.evaluate(unit) for unit in units(4)]).T  # (7, 4)
    right = np.array([RIGHT.evaluate(unit) for unit in units(4)]).T
    result = np.array([RESULT.evaluate(unit) for unit in units(7)]).T  # (4, 7)
    found = np.einsum("ki,ia,ib->kab", result, left, right)
    for k in range(4):
        for a in range(4):
            for b in range(4):
                row, column, inner = k // 2, k % 2, a % 2
                wanted = a // 2 == row and b % 2 == column and b // 2 == inner
                assert found[k, a, b] == int(wanted)


def test_fifteen_additions() -> None:
    assert len(LEFT.outputs) == len(RIGHT.outputs) == RESULT.inputs == 7
    assert (LEFT.operations, RIGHT.operations, RESULT.operations) == (4, 4, 7)


@pytest.mark.parametrize(("size", "parts", "unit"), [(64, 2, 4), (37, 2, 4), (33, 4, 1), (33, 4, 4), (5, 4, 4)])
def test_parts_cover_everything_and_ranges_are_all_or_nothing(size: int, parts: int, unit: int) -> None:
    split = Split(size, parts, unit)
    assert split.part % unit == 0
    assert split.part * parts >= size > (split.part - unit) * parts
    covered = 0
    for low, high in split.ranges(size - 1):
        for part in range(parts):
            inside = [split.inside(part, place) for place in range(low, high)]
            assert len(set(inside)) == 1
            covered += sum(inside)
            # The border is not inside a range either.
            assert not part * split.part + low < size - 1 < part * split.part + high - 1
    assert covered == size


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"groups": 2}, None),
        ({"stride": (2, 2), "output": (14, 14)}, None),
        ({"channels": 3}, {
            "forward": "the matrices are 6272x27 by 27x128, too small to be halved",
            "backward_data": "the matrices are 6272x1152 by 1152x3, too small to be halved",
            "backward_weights": "the matrices are 27x6272 by 6272x128, too small to be halved",
        }),
        ({"groups": 64}, {
            "forward": "the matrices are 6272x9 by 9x2, too small to be halved",
            "backward_data": "the matrices are 6272x18 by 18x1, too small to be halved",
            "backward_weights": "the matrices are 9x6272 by 6272x2, too small to be halved",
        }),
    ],
)  # fmt: skip
def test_obstacles(changes: dict[str, object], reason: dict[str, str] | None, direction: Direction) -> None:
    problem = replace(PROBLEM, direction=direction, **changes)  # type: ignore[arg-type]
    assert Strassen().obstacle(problem) == (reason and reason[direction])


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_each_level_saves_an_eighth(direction: Direction, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = replace(POINTWISE, direction=direction)
    for levels in (1, 2):
        monkeypatch.setattr(strassen, "_LARGE_QUARTER", 16 if levels == 2 else 512)
        assert levels_of(problem) == levels
        products = [
            sum(stage.flops for stage in algorithm.stages(problem, MACHINE) if stage.kind == "product")
            for algorithm in (Strassen(), Im2col())
        ]
        assert products[0] * 8**levels == products[1] * 7**levels
        (plan,) = strassen_plans(problem)
        assert plan.products == 7**levels


def test_two_levels_only_for_large_matrices() -> None:
    assert levels_of(replace(POINTWISE, channels=2048, filters=2048)) == 2
    assert [levels_of(replace(POINTWISE, batch=1, channels=c, filters=c)) for c in (16, 32, 1024, 2048)] == [0, 1, 1, 1]


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_scratch_space_does_not_grow_with_the_images(direction: Direction) -> None:
    problem = replace(PROBLEM, direction=direction)
    sizes = {Strassen().scratch_bytes(replace(problem, batch=batch), MACHINE) for batch in (8, 64, 4096)}
    assert len(sizes) == 1


def test_errors_grow_with_levels() -> None:
    assert Strassen().max_rel_error(PROBLEM) == pytest.approx(2 * Im2col().max_rel_error(PROBLEM))
    large = replace(POINTWISE, channels=2048, filters=2048)
    assert Strassen().max_rel_error(large) == pytest.approx(4e-7 * math.sqrt(16 + 2048))
