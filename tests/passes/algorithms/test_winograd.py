"""What the chooser is told of Winograd's algorithms: where they apply and why not, work, space, exactness."""

from __future__ import annotations

from dataclasses import replace

import pytest

from convc.ir.window import Pair
from convc.passes.algorithms.direct import Direct
from convc.passes.algorithms.problem import Direction, Problem
from convc.passes.algorithms.transform_plan import TileAxis, TransformPlan
from convc.passes.algorithms.winograd import WINOGRAD, Winograd, form_of
from convc.passes.machine import MACHINES

MACHINE = MACHINES["avx512"]
DIRECTIONS: tuple[Direction, ...] = ("forward", "backward_data", "backward_weights")
PROBLEM = Problem("forward", 8, 64, 64, (56, 56), (56, 56), (3, 3), padding=(1, 1, 1, 1))
CASES = [(algorithm, kernel) for algorithm in WINOGRAD for kernel in algorithm.errors]
OF_3X3 = WINOGRAD[:3]
# Times fewer products along an axis: m·r / (m + r − 1).
SAVED = {
    "winograd_f2x3": 6 / 4,
    "winograd_f4x3": 12 / 6,
    "winograd_f6x3": 18 / 8,
    "winograd_f2x5": 10 / 6,
    "winograd_f4x5": 20 / 8,
    "winograd_f2x7": 14 / 8,
}
ALL_KERNELS = [(rows, columns) for rows in range(1, 8) for columns in range(1, 8)]


def problem_with(kernel: Pair) -> Problem:
    down, across = (taps // 2 for taps in kernel)
    return replace(PROBLEM, kernel=kernel, padding=(down, across, down, across))


def each_case() -> pytest.MarkDecorator:
    names = ["{}-{}x{}".format(algorithm.name, *kernel) for algorithm, kernel in CASES]
    return pytest.mark.parametrize(("algorithm", "kernel"), CASES, ids=names)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"groups": 4}, None),
        ({"kernel": (1, 3)}, None),
        ({"kernel": (3, 1)}, None),
        ({"kernel": (1, 1)}, "the kernel is 1x1, and its tiles are made for 3x3 or 1x3 or 3x1"),
        ({"kernel": (3, 5)}, "the kernel is 3x5, and its tiles are made for 3x3 or 1x3 or 3x1"),
        ({"kernel": (5, 5)}, "the kernel is 5x5, and its tiles are made for 3x3 or 1x3 or 3x1"),
        ({"stride": (2, 1)}, "the stride is 2x1, and its tiles overlap by the stride of 1 only"),
        ({"dilation": (2, 2)}, "the dilation is 2x2, and its tiles hold neighbouring pixels"),
    ],
)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_obstacles(changes: dict[str, object], reason: str | None, direction: Direction) -> None:
    problem = replace(PROBLEM, direction=direction, **changes)  # type: ignore[arg-type]
    assert [algorithm.obstacle(problem) for algorithm in OF_3X3] == [reason] * 3


def test_every_algorithm_has_its_kernels() -> None:
    found = {a.name: {k for k in ALL_KERNELS if a.obstacle(problem_with(k)) is None} for a in WINOGRAD}
    of_3, of_5 = {(3, 3), (1, 3), (3, 1)}, {(5, 5), (1, 5), (5, 1)}
    assert found == {
        "winograd_f2x3": of_3,
        "winograd_f4x3": of_3,
        "winograd_f6x3": of_3,
        "winograd_f2x5": of_5,
        "winograd_f4x5": of_5,
        "winograd_f2x7": {(1, 7), (7, 1)},
    }


@pytest.mark.parametrize("direction", DIRECTIONS)
@each_case()
def test_products_are_saved(algorithm: Winograd, kernel: Pair, direction: Direction) -> None:
    """m·r products for m outputs by the definition, m + r − 1 here, along each axis that has taps: on images of whole
    tiles exactly that ratio."""
    saved = 1.0
    for taps in kernel:
        saved *= SAVED[algorithm.name] if taps > 1 else 1.0
    problem = replace(problem_with(kernel), direction=direction, size=(48, 48), output=(48, 48))
    (product,) = (stage for stage in algorithm.stages(problem, MACHINE) if stage.kind == "product")
    assert problem.flops / product.flops == pytest.approx(saved, rel=1e-12)
    transforms = [stage.flops for stage in algorithm.stages(problem, MACHINE) if stage.kind == "transform"]
    assert len(transforms) == 3
    assert all(0 < flops < product.flops for flops in transforms)


@each_case()
def test_what_is_not_transformed_costs_nothing(algorithm: Winograd, kernel: Pair) -> None:
    """Along one axis a tile costs what its one line does; along both as many lines as there are, twice."""
    one, problem = algorithm.algorithm, problem_with(kernel)
    tiles = 8 * 64 * algorithm.transform_plan(problem, MACHINE).tiles
    lines = 2 * one.points if min(kernel) > 1 else 1
    images = next(stage for stage in algorithm.stages(problem, MACHINE) if stage.name == "transform images")
    assert images.flops == 2 * tiles * lines * one.image.operations
    assert form_of(algorithm.axes(problem)).values == one.points ** (2 if min(kernel) > 1 else 1)


@pytest.mark.parametrize("direction", DIRECTIONS)
@each_case()
def test_scratch_space_is_bounded(algorithm: Winograd, kernel: Pair, direction: Direction) -> None:
    """The transformed filters, or 8 MiB of sums, and 16 second-level caches for each of two threads, or the turned
    filters, however many images there are."""
    problem = replace(problem_with(kernel), direction=direction)
    for channels in (3, 64, 512):
        large = replace(problem, channels=channels, filters=channels, batch=512)
        plan = TransformPlan.of(large, MACHINE, algorithm.form(large))
        chunk = max(2 * 16 * MACHINE.l2_bytes, large.weight_bytes) + (128 << 10)
        assert algorithm.scratch_bytes(large, MACHINE) <= max(4 * plan.filter_floats, 8 << 20) + chunk
    small = replace(problem, batch=1, size=(7, 7), output=(7, 7))
    assert algorithm.scratch_bytes(small, MACHINE) < algorithm.scratch_bytes(problem, MACHINE)


def test_larger_tiles_are_less_exact() -> None:
    errors = [algorithm.max_rel_error(PROBLEM) for algorithm in OF_3X3]
    assert errors == sorted(errors)
    assert errors[0] < Direct().max_rel_error(PROBLEM)
    assert errors[2] < 1e-4
    assert WINOGRAD[1].max_rel_error(replace(PROBLEM, channels=512)) > 2 * errors[1]


@pytest.mark.parametrize("algorithm", WINOGRAD[:-1], ids=lambda a: a.name)
def test_one_axis_is_more_exact_than_two(algorithm: Winograd) -> None:
    taps = algorithm.algorithm.taps
    row, column, square = (
        algorithm.max_rel_error(problem_with(kernel)) for kernel in ((1, taps), (taps, 1), (taps, taps))
    )
    assert row == column < square


@pytest.mark.parametrize(
    ("axis", "inside"),
    [
        (TileAxis(4, 4, 6, 1, 16), range(1, 3)),  # padding on both sides
        (TileAxis(4, 4, 6, 0, 18), range(4)),  # none
        (TileAxis(1, 4, 6, 1, 3), range(1, 1)),  # one tile, larger than the image
        (TileAxis(3, 4, 4, 0, 9), range(2)),  # outputs: the last tile is partial
        (TileAxis(3, 2, 4, -1, 9), range(3)),  # the image begins before the first tile
        (TileAxis(4, 2, 4, 3, 2), range(2, 2)),  # no tile has all its pixels
    ],
)
def test_tiles_all_of_whose_pixels_exist(axis: TileAxis, inside: range) -> None:
    whole = [
        tile
        for tile in range(axis.count)
        if tile * axis.step - axis.before >= 0 and tile * axis.step - axis.before + axis.extent <= axis.size
    ]
    assert list(axis.inside) == list(inside) == whole
