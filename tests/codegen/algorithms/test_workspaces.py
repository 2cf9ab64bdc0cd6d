"""Threads with chunks of their own: fewer and more threads than workspaces, and parts of a gradient without images."""

from __future__ import annotations

import pytest

from convc.codegen.llvm.program import machine_of
from convc.codegen.llvm.target import host_target
from convc.passes.algorithms.patches import patch_matrices
from convc.passes.algorithms.problem import Direction
from convc.passes.algorithms.table import BY_NAME
from convc.passes.algorithms.workspaces import Workspaces
from tests.codegen.algorithms.convolutions import DIRECTIONS, Geometry, check, problem_of
from tests.codegen.native_graph import single_op_graph
from tests.op_case import make_operands

GEOMETRIES = {
    "3x3": Geometry((16, 8, 18, 18), (8, 8, 3, 3), (1, 1, 1, 1)),
    "1x1": Geometry((16, 8, 18, 18), (8, 8, 1, 1)),
}
ALGORITHMS = [("3x3", name) for name in ("direct", "im2col", "winograd_f4x3", "fft_8")]
ALGORITHMS += [("1x1", "direct"), ("1x1", "im2col")]
SHARING, TOO_MANY = 9, 64


@pytest.mark.parametrize("rows", [16, 1])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("geometry", "algorithm"), ALGORITHMS)
def test_any_number_of_threads(geometry: str, algorithm: str, direction: Direction, rows: int) -> None:
    case = GEOMETRIES[geometry].case(direction, algorithm)
    check(case, BY_NAME[algorithm], rows, threads=(2, 3, SHARING, TOO_MANY))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_these_are_such_cases(direction: Direction) -> None:
    """Threads are apart, nine of them share workspaces, 64 are too many for some; and one image has fewer tiles than
    there are parts."""
    for algorithm in ("im2col", "winograd_f4x3", "fft_8"):
        case = GEOMETRIES["3x3"].case(direction, algorithm)
        problem = problem_of(single_op_graph(case, make_operands(case))[0])
        if algorithm == "im2col":
            (plan,) = patch_matrices(problem)
        else:
            plan = BY_NAME[algorithm].transform_plan(problem, machine_of(host_target()))
            assert plan is not None
            assert direction != "backward_weights" or plan.tiles < plan.parts
        assert plan.apart
        assert 1 < plan.workspaces.count < SHARING <= plan.workspaces.threads
        assert algorithm != "fft_8" or plan.workspaces.threads < TOO_MANY
        assert direction != "backward_weights" or plan.parts > 1


def test_workspaces() -> None:
    assert Workspaces.of(1000, 100) == Workspaces(8, 100)
    assert Workspaces.of(250, 100) == Workspaces(3, 100)
    assert Workspaces.of(1000, 100, fitting=2) == Workspaces(2, 100)
    assert Workspaces.of(0, 100) == Workspaces(1, 100)
    assert Workspaces(3, 100).threads == 36
    assert Workspaces(3, 4).threads == 3
