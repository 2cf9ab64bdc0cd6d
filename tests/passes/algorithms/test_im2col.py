"""What the chooser is told of im2col, and the matrix of patches as the lectures count it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from convc.ir.window import Pair, Window
from convc.passes.algorithms.im2col import Im2col, terms
from convc.passes.algorithms.patches import in_place, patch_bytes, patch_matrices
from convc.passes.algorithms.problem import Direction, Problem
from convc.passes.machine import MACHINES

MACHINE = MACHINES["avx512"]
DIRECTIONS: tuple[Direction, ...] = ("forward", "backward_data", "backward_weights")
PROBLEM = Problem("forward", 8, 64, 128, (56, 56), (56, 56), (3, 3), padding=(1, 1, 1, 1))


def problem_of(images: tuple[int, int, int, int], kernel: Pair, filters: int = 1, stride: Pair = (1, 1)) -> Problem:
    n, channels, height, width = images
    output = Window(kernel, stride).output_size((height, width))
    return Problem("forward", n, channels, filters, (height, width), output, kernel, stride)


@pytest.mark.parametrize(
    ("images", "kernel", "shape"),
    [
        ((1, 3, 7, 7), (5, 5), (9, 75)),
        ((10, 3, 7, 7), (5, 5), (90, 75)),
        ((1, 1, 9, 9), (3, 3), (49, 9)),
    ],
)
def test_the_matrices_of_the_lectures(images: tuple[int, int, int, int], kernel: Pair, shape: Pair) -> None:
    (matrix,) = patch_matrices(problem_of(images, kernel))
    assert matrix.shape == shape


def test_filters_are_a_matrix_of_one_row_each() -> None:
    """D x (K²C) · (K²C) x N: as many multiply-adds as the definition has."""
    problem = problem_of((10, 3, 7, 7), (5, 5), filters=20)
    (matrix,) = patch_matrices(problem)
    rows, columns = matrix.shape
    assert 2 * rows * columns * problem.filters == problem.flops


@pytest.mark.parametrize(
    ("stride", "dilation"), [((1, 1), (1, 1)), ((2, 2), (1, 1)), ((3, 2), (1, 1)), ((2, 4), (1, 2))]
)
def test_backward_by_the_data_every_product_is_done_once(stride: Pair, dilation: Pair) -> None:
    """Without padding each output of the convolution meets each tap: phases share the products among them."""
    window = Window((3, 3), stride, dilation=dilation)
    size = (31, 37)
    problem = Problem(
        "backward_data", 2, 5, 7, size, window.output_size(size), (3, 3), stride=stride, dilation=dilation
    )
    done = 0
    for matrix in patch_matrices(problem):
        reached = [
            sum(axis.reached(a, offset) for a in range(axis.count) for _, offset in axis.taps)
            for axis in (matrix.down, matrix.across)
        ]
        done += 2 * reached[0] * reached[1] * problem.batch * problem.filters * problem.channels
        # The gather steps from tap to tap by a constant.
        for axis in (matrix.down, matrix.across):
            steps = {after[1] - before[1] for before, after in zip(axis.taps, axis.taps[1:], strict=False)}
            assert len(steps) <= 1
            assert all(step > 0 for step in steps)
    assert done == problem.flops


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_nothing_is_copied_where_each_pixel_is_its_own_patch(direction: Direction) -> None:
    pointwise = replace(PROBLEM, direction=direction, kernel=(1, 1), padding=(0, 0, 0, 0))
    assert in_place(pointwise)
    assert patch_bytes(pointwise) == 0
    assert "gather patches" not in [stage.name for stage in Im2col().stages(pointwise, MACHINE)]
    for other in (PROBLEM, replace(pointwise, stride=(2, 2)), replace(pointwise, padding=(0, 1, 0, 0))):
        assert not in_place(other)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_scratch_space_does_not_grow_with_the_images(direction: Direction) -> None:
    problem = replace(PROBLEM, direction=direction)
    bytes_ = [Im2col().scratch_bytes(replace(problem, batch=batch), MACHINE) for batch in (8, 64, 4096)]
    assert len(set(bytes_)) == 1
    turned = problem.weight_bytes if direction == "backward_data" else 0
    assert bytes_[0] - turned <= 24 * MACHINE.l2_bytes
    small = replace(problem, batch=1, size=(4, 4), output=(4, 4))
    assert Im2col().scratch_bytes(small, MACHINE) < bytes_[0]


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_it_applies_to_everything_and_multiplies_borders_as_well(direction: Direction) -> None:
    for changes in (
        {},
        {"groups": 64},
        {"dilation": (2, 2), "output": (54, 54)},
        {"kernel": (1, 7), "output": (58, 52)},
    ):
        problem = replace(PROBLEM, direction=direction, **changes)  # type: ignore[arg-type]
        assert Im2col().obstacle(problem) is None
        products = sum(s.flops for s in Im2col().stages(problem, MACHINE) if s.kind == "product")
        outputs = problem.output if direction != "backward_data" else problem.size
        assert products * problem.output[0] * problem.output[1] == problem.flops * outputs[0] * outputs[1]


def test_errors_grow_with_the_terms_of_a_sum() -> None:
    assert [terms(replace(PROBLEM, direction=d)) for d in DIRECTIONS] == [576, 1152, 25088]
    errors = [Im2col().max_rel_error(replace(PROBLEM, direction=d)) for d in DIRECTIONS]
    assert errors == sorted(errors)
    assert errors[-1] < 2e-5
