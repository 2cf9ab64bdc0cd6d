"""What the chooser is told of Winograd's algorithms: where they apply and why not, work, space, exactness."""

from __future__ import annotations

from dataclasses import replace

import pytest

from convc.passes.algorithms.direct import Direct
from convc.passes.algorithms.problem import Direction, Problem
from convc.passes.algorithms.transform_plan import TileAxis, TransformPlan
from convc.passes.algorithms.winograd import WINOGRAD, Winograd
from convc.passes.machine import MACHINES

MACHINE = MACHINES["avx512"]
DIRECTIONS: tuple[Direction, ...] = ("forward", "backward_data", "backward_weights")
PROBLEM = Problem("forward", 8, 64, 64, (56, 56), (56, 56), (3, 3), padding=(1, 1, 1, 1))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"groups": 4}, None),
        ({"kernel": (5, 5)}, "the kernel is 5x5, and its tiles are made for 3x3"),
        ({"kernel": (1, 3)}, "the kernel is 1x3, and its tiles are made for 3x3"),
        ({"stride": (2, 1)}, "the stride is 2x1, and its tiles overlap by the stride of 1 only"),
        ({"dilation": (2, 2)}, "the dilation is 2x2, and its tiles hold neighbouring pixels"),
    ],
)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_obstacles(changes: dict[str, object], reason: str | None, direction: Direction) -> None:
    problem = replace(PROBLEM, direction=direction, **changes)  # type: ignore[arg-type]
    assert [algorithm.obstacle(problem) for algorithm in WINOGRAD] == [reason] * 3


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("algorithm", "saved"), [*zip(WINOGRAD, (2.25, 4.0, 5.0625), strict=True)])
def test_products_are_saved(algorithm: Winograd, saved: float, direction: Direction) -> None:
    """9·m² products for m² outputs by the definition, (m + 2)² here: on images of whole tiles exactly that ratio."""
    problem = replace(PROBLEM, direction=direction, size=(48, 48), output=(48, 48))
    (product,) = (stage for stage in algorithm.stages(problem, MACHINE) if stage.kind == "product")
    assert problem.flops / product.flops == saved
    transforms = [stage.flops for stage in algorithm.stages(problem, MACHINE) if stage.kind == "transform"]
    assert len(transforms) == 3
    assert all(0 < flops < product.flops for flops in transforms)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("algorithm", WINOGRAD, ids=lambda a: a.name)
def test_scratch_space_is_bounded(algorithm: Winograd, direction: Direction) -> None:
    """The transformed filters and 16 second-level caches, or the turned filters, however many images there are."""
    problem = replace(PROBLEM, direction=direction)
    for channels in (3, 64, 512):
        large = replace(problem, channels=channels, filters=channels, batch=512)
        plan = TransformPlan.of(large, MACHINE, algorithm.form)
        chunk = max(16 * MACHINE.l2_bytes, large.weight_bytes) + (64 << 10)
        assert algorithm.scratch_bytes(large, MACHINE) <= 4 * plan.filter_floats + chunk
    small = replace(problem, batch=1, size=(7, 7), output=(7, 7))
    assert algorithm.scratch_bytes(small, MACHINE) < algorithm.scratch_bytes(problem, MACHINE)


def test_larger_tiles_are_less_exact() -> None:
    errors = [algorithm.max_rel_error(PROBLEM) for algorithm in WINOGRAD]
    assert errors == sorted(errors)
    assert errors[0] < Direct().max_rel_error(PROBLEM)
    assert errors[2] < 1e-4
    assert WINOGRAD[1].max_rel_error(replace(PROBLEM, channels=512)) > 2 * errors[1]


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
