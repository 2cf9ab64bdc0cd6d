"""im2col natively: every geometry that the table of op cases has, and what is cut into chunks, strips and phases."""

from __future__ import annotations

from dataclasses import replace

import pytest

from convc.codegen.llvm.program import compile_step
from convc.ir.ops import Conv2d, Conv2dBackwardData, Conv2dBackwardWeights
from convc.passes.algorithms.im2col import Im2col
from convc.passes.algorithms.patches import patch_matrices
from convc.passes.algorithms.problem import CONVOLUTIONS, Direction
from tests.codegen.algorithms.convolutions import (
    CHAINS,
    DIRECTIONS,
    Geometry,
    check,
    check_chain,
    lower_tiers,
    problem_of,
)
from tests.codegen.native_graph import single_op_graph
from tests.op_case import OpCase, make_operands
from tests.op_cases import cases_of

ALGORITHM = Im2col()
CASES = cases_of(Conv2d, Conv2dBackwardData, Conv2dBackwardWeights)


def by_im2col(case: OpCase) -> OpCase:
    return replace(case, op=replace(case.op, algorithm="im2col"))  # type: ignore[call-arg]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_op_cases(case: OpCase) -> None:
    check(by_im2col(case), ALGORITHM)


@pytest.mark.slow
@pytest.mark.parametrize("tier", lower_tiers())
@pytest.mark.parametrize("case", CASES[::4], ids=str)
def test_lower_tiers(case: OpCase, tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVC_CPU", tier)
    check(by_im2col(case), ALGORITHM)


# More outputs than a chunk has, the last chunk smaller than the others.
CHUNKS: dict[str, Geometry] = {
    "several chunks": Geometry((3, 70, 9, 16), (20, 70, 3, 3), (1, 1, 1, 1)),
    "filter rows apart": Geometry((3, 120, 16, 16), (33, 120, 3, 3), (1, 1, 1, 1)),
    "strided": Geometry((3, 65, 25, 23), (68, 65, 5, 5), (2, 1, 2, 3), stride=(2, 1)),
    "dilated groups": Geometry((3, 64, 21, 19), (96, 32, 3, 3), (2, 2, 2, 2), groups=2, dilation=(2, 2)),
    "row": Geometry((3, 96, 9, 24), (17, 96, 1, 7), (0, 3, 0, 3)),
    "depthwise": Geometry((3, 70, 21, 21), (70, 1, 5, 5), (2, 2, 2, 2), groups=70),
    "pointwise": Geometry((3, 70, 17, 17), (33, 70, 1, 1)),
    "pointwise, strided": Geometry((3, 37, 41, 37), (33, 37, 1, 1), stride=(3, 2)),
}


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", CHUNKS)
def test_chunks_of_patches_and_fewer_images_than_the_batch(name: str, direction: Direction) -> None:
    case = CHUNKS[name].case(direction, "im2col")
    if name != "pointwise" and direction != "backward_weights":
        problem = problem_of(single_op_graph(case, make_operands(case))[0])
        matrices = patch_matrices(problem)
        assert all(matrix.chunk < 2 * matrix.outputs for matrix in matrices if matrix.columns > 500)
    check(case, ALGORITHM, rows=2, threads=(2, 3))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_no_tap_meets_any_pixel(direction: Direction) -> None:
    """The only column is padding away from every tap: nothing but zeros."""
    check(
        Geometry((2, 6, 18, 1), (9, 2, 1, 1), (2, 2, 1, 3), groups=3, stride=(3, 3)).case(direction, "im2col"),
        ALGORITHM,
    )


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("direction", DIRECTIONS[:2])
def test_chain(direction: Direction, chain: str) -> None:
    check_chain(direction, ALGORITHM, chain)


@pytest.mark.parametrize("name", ["several chunks", "filter rows apart", "strided", "depthwise"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_scratch_space_is_what_the_chooser_is_told(name: str, direction: Direction) -> None:
    case = CHUNKS[name].case(direction, "im2col")
    graph, _ = single_op_graph(case, make_operands(case))
    problem = problem_of(graph)
    step = compile_step(graph)
    (kernel,) = (kernel for kernel in step.plan.kernels if isinstance(kernel.anchor.op, CONVOLUTIONS))
    assert step.plan.memory.scratch[kernel].bytes == ALGORITHM.scratch_bytes(problem, step.plan.machine)
    step.library.close()
