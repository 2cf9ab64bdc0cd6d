"""What the chooser is told of convolutions by Fourier transforms: where they apply, work, space, exactness."""

from __future__ import annotations

from dataclasses import replace

import pytest

from convc.passes.algorithms.direct import Direct
from convc.passes.algorithms.fft import FFT, Fft
from convc.passes.algorithms.problem import Direction, Problem
from convc.passes.algorithms.transform_plan import Products, TransformPlan
from convc.passes.machine import MACHINES, Machine

MACHINE = MACHINES["avx512"]
DIRECTIONS: tuple[Direction, ...] = ("forward", "backward_data", "backward_weights")
PROBLEM = Problem("forward", 8, 64, 64, (56, 56), (56, 56), (7, 7), padding=(3, 3, 3, 3))


def too_large(kernel: str, size: int) -> str:
    return f"the kernel reaches over {kernel} pixels, and the tiles have {size}x{size}"


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({}, (None, None, None)),
        ({"kernel": (1, 1)}, (None, None, None)),
        ({"kernel": (8, 1)}, (None, None, None)),
        ({"groups": 4}, (None, None, None)),
        ({"kernel": (1, 9)}, (too_large("1x9", 8), None, None)),
        ({"kernel": (3, 3), "dilation": (1, 8)}, (too_large("3x17", 8), too_large("3x17", 16), None)),
        ({"kernel": (32, 32)}, (too_large("32x32", 8), too_large("32x32", 16), None)),
        ({"kernel": (33, 1)}, tuple(too_large("33x1", size) for size in (8, 16, 32))),
        ({"stride": (2, 1)}, ("the stride is 2x1, and products of spectra give the outputs of all pixels",) * 3),
    ],
)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_obstacles(changes: dict[str, object], reasons: tuple[str | None, ...], direction: Direction) -> None:
    problem = replace(PROBLEM, direction=direction, **changes)  # type: ignore[arg-type]
    assert tuple(algorithm.obstacle(problem) for algorithm in FFT) == reasons


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("algorithm", FFT[1:], ids=lambda a: a.name)
def test_products(algorithm: Fft, direction: Direction) -> None:
    """(size − 6)² outputs of a tile take 4 real products and size²/2 − 2 complex ones, each of four real ones."""
    size = algorithm.size
    outputs = (3 * (size - 6), 2 * (size - 6))
    problem = replace(PROBLEM, direction=direction, size=outputs, output=outputs)
    (product,) = (stage for stage in algorithm.stages(problem, MACHINE) if stage.kind == "product")
    per_tile = product.flops / (8 * 6 * 64 * 64)
    assert per_tile == 2 * (4 + 4 * (size**2 / 2 - 2))
    transforms = [stage.flops for stage in algorithm.stages(problem, MACHINE) if stage.kind == "transform"]
    assert len(transforms) == 3
    assert all(0 < flops < product.flops for flops in transforms)


def test_transforms_of_few_taps_cost_less() -> None:
    def of_filters(kernel: int) -> int:
        problem = replace(PROBLEM, kernel=(kernel, kernel))
        return next(stage.flops for stage in FFT[1].stages(problem, MACHINE) if stage.name == "transform filters")

    assert of_filters(1) < of_filters(3) < of_filters(7) < of_filters(16)


def test_values_of_a_tile_are_as_many_as_its_pixels() -> None:
    for algorithm in FFT:
        form = algorithm.form(PROBLEM)
        assert form.values == algorithm.size**2
        assert form.outputs == (algorithm.size - 6, algorithm.size - 6)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("algorithm", FFT, ids=lambda a: a.name)
def test_scratch_space_does_not_grow_with_the_images(algorithm: Fft, direction: Direction) -> None:
    problem = replace(PROBLEM, direction=direction)
    for channels in (3, 64):
        one, many = (
            algorithm.scratch_bytes(replace(problem, channels=channels, filters=channels, batch=batch), MACHINE)
            for batch in (64, 512)
        )
        assert many <= 1.2 * one
        plan = TransformPlan.of(replace(problem, channels=channels, filters=channels), MACHINE, algorithm.form(problem))
        assert many <= 4 * plan.filter_floats + 2 * 16 * MACHINE.l2_bytes + (1 << 20)


def test_exactness() -> None:
    errors = [algorithm.max_rel_error(PROBLEM) for algorithm in FFT]
    assert len(set(errors)) == 1
    assert errors[0] < Direct().max_rel_error(PROBLEM) < 1e-4
    assert FFT[0].max_rel_error(replace(PROBLEM, channels=512)) > 2 * errors[0]
    tiles = replace(PROBLEM, direction="backward_weights")
    assert FFT[0].max_rel_error(tiles) > FFT[2].max_rel_error(tiles)  # more tiles are added up


@pytest.mark.parametrize(
    ("machine", "block", "of_complex"),
    [
        (MACHINES["avx512"], 64, 32),
        (MACHINES["avx512"], 48, 16),  # the blocks of the layout are not cut across
        (MACHINES["avx512"], 16, 16),
        (MACHINES["avx2"], 32, 8),
        (MACHINES["baseline"], 12, 4),
    ],
)
def test_complex_numbers_have_narrower_blocks(machine: Machine, block: int, of_complex: int) -> None:
    plan = TransformPlan.of(PROBLEM, machine, FFT[1].form(PROBLEM))
    assert plan.product_block(Products(1), block) == block
    assert plan.product_block(Products(1, parts=2), block) == of_complex
    tile = plan.product_tile(Products(1, parts=2), block, 100)
    sums = tile.rows * tile.vectors * 2
    assert sums + tile.vectors * 2 < machine.registers
