"""Winograd convolutions natively: every direction, kernel, tile, tier; shapes that fill neither tiles nor vectors."""

from __future__ import annotations

from typing import Any

import pytest

from convc.codegen.llvm.program import compile_step
from convc.codegen.llvm.target import host_target
from convc.ir.window import Sides
from convc.passes.algorithms.problem import CONVOLUTIONS, Direction
from convc.passes.algorithms.transform_plan import TransformPlan
from convc.passes.algorithms.winograd import WINOGRAD, Winograd
from convc.passes.machine import MACHINES
from tests.codegen.algorithms.convolutions import (
    CHAINS,
    DIRECTIONS,
    UNEVEN,
    Geometry,
    check,
    check_chain,
    lower_tiers,
    problem_of,
    with_changing_weights,
)
from tests.codegen.native_graph import single_op_graph
from tests.op_case import make_operands

SAME = (1, 1, 1, 1)


def same(rows: int, columns: int) -> Sides:
    """The padding by which results are as large as images."""
    return (rows // 2, columns // 2, rows // 2, columns // 2)


# One to three pixels beyond whole tiles of 2, 4 and 6; channels that leave lanes empty; borders of all kinds.
GEOMETRIES: dict[str, Geometry] = {
    "one_output": Geometry((1, 1, 3, 3), (1, 1, 3, 3)),
    "one_pixel": Geometry((3, 2, 1, 1), (3, 2, 3, 3), SAME),
    "whole_tiles": Geometry((1, 4, 14, 14), (8, 4, 3, 3)),
    "first_layer": Geometry((2, 3, 13, 7), (17, 3, 3, 3), SAME),
    "beyond_by_one": Geometry((1, 16, 13, 15), (1, 16, 3, 3), SAME),
    "beyond_by_three": Geometry((3, 1, 9, 17), (33, 1, 3, 3), (2, 2, 2, 2)),
    "asymmetric": Geometry((1, 7, 8, 5), (70, 7, 3, 3), (2, 0, 1, 2)),
    "padding_beyond_kernel": Geometry((1, 2, 4, 3), (5, 2, 3, 3), (3, 4, 5, 0)),
    "wide": Geometry((2, 70, 6, 9), (52, 70, 3, 3), SAME),
    "groups": Geometry((2, 6, 7, 8), (10, 3, 3, 3), SAME, groups=2),
    "depthwise": Geometry((1, 5, 6, 6), (5, 1, 3, 3), SAME, groups=5),
}


def of_5x5() -> dict[str, Geometry]:
    kernel, padding = (5, 5), same(5, 5)
    return {
        "one_pixel": Geometry((3, 2, 1, 1), (3, 2, *kernel), padding),
        "first_layer": Geometry((2, 3, 13, 9), (17, 3, *kernel), padding),
        "asymmetric": Geometry((1, 7, 11, 8), (36, 7, *kernel), (6, 0, 1, 4)),
        "wide": Geometry((2, 40, 10, 9), (36, 40, *kernel), padding),
        "groups": Geometry((2, 6, 9, 10), (10, 3, *kernel), padding, groups=2),
    }


def along_one_axis(taps: int) -> dict[str, Geometry]:
    row, column = (1, taps), (taps, 1)
    return {
        "row": Geometry((2, 5, 3, 15), (18, 5, *row), same(*row)),
        "column": Geometry((2, 40, 11, 3), (36, 40, *column), same(*column)),
        "one_output_of_a_row": Geometry((1, 1, 1, taps), (1, 1, *row)),
        "padded_row": Geometry((1, 7, 4, 9), (33, 7, *row), (1, taps, 2, 1)),
        "groups_column": Geometry((2, 6, 9, 4), (10, 3, *column), (taps - 1, 0, 0, 3), groups=2),
    }


def geometries_of(algorithm: Winograd) -> dict[str, Geometry]:
    """Kernels of all the sizes that an algorithm has, by name."""
    square = {3: GEOMETRIES, 5: of_5x5(), 7: {}}
    return square[algorithm.algorithm.taps] | along_one_axis(algorithm.algorithm.taps)


def cases(*names: str) -> list[Any]:
    """Every algorithm with its geometries, those of these names or all."""
    return [
        pytest.param(algorithm, geometry, id=f"{algorithm.name}-{name}")
        for algorithm in WINOGRAD
        for name, geometry in geometries_of(algorithm).items()
        if not names or name in names
    ]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("algorithm", "geometry"), cases())
def test_geometry(geometry: Geometry, algorithm: Winograd, direction: Direction) -> None:
    check(geometry.case(direction, algorithm.name), algorithm)


@pytest.mark.slow
@pytest.mark.parametrize("tier", lower_tiers())
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("algorithm", "geometry"), cases("first_layer", "wide", "groups", "column"))
def test_lower_tiers(
    geometry: Geometry, algorithm: Winograd, direction: Direction, tier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVC_CPU", tier)
    check(geometry.case(direction, algorithm.name), algorithm)


# More tiles than a chunk has, the last chunk smaller than the others.
CHUNKS: dict[str, Geometry] = {
    "winograd_f2x3": Geometry((3, 9, 49, 47), (8, 9, 3, 3), SAME),
    "winograd_f4x3": Geometry((3, 33, 35, 38), (40, 33, 3, 3), SAME),
    "winograd_f6x3": Geometry((3, 40, 31, 43), (56, 40, 3, 3), SAME),
    "winograd_f2x5": Geometry((3, 33, 19, 18), (40, 33, 5, 5), same(5, 5)),
    "winograd_f4x5": Geometry((3, 40, 21, 29), (56, 40, 5, 5), same(5, 5)),
    "winograd_f2x7": Geometry((3, 40, 17, 46), (56, 40, 1, 7), same(1, 7)),
}


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("algorithm", WINOGRAD, ids=lambda a: a.name)
def test_chunks_of_tiles_and_fewer_images_than_the_batch(algorithm: Winograd, direction: Direction) -> None:
    rows = 2
    case = CHUNKS[algorithm.name].case(direction, algorithm.name)
    graph, _ = single_op_graph(case, make_operands(case))
    plan = TransformPlan.of(problem_of(graph), MACHINES[host_target().tier], algorithm.form(problem_of(graph)))
    assert plan.chunk < rows * plan.tiles
    check(case, algorithm, rows, threads=(2, 3))


# Results that fill no tiles, from kernels with more taps than 3.
CHAINED: dict[int, Geometry] = {
    5: Geometry((2, 5, 7, 9), (6, 5, 5, 5), same(5, 5)),
    7: Geometry((2, 5, 7, 5), (6, 5, 7, 1), same(7, 1)),
}


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("direction", DIRECTIONS[:2])
@pytest.mark.parametrize("algorithm", WINOGRAD, ids=lambda a: a.name)
def test_chain(algorithm: Winograd, direction: Direction, chain: str) -> None:
    check_chain(direction, algorithm, chain, CHAINED.get(algorithm.algorithm.taps, UNEVEN))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_without_bias(direction: Direction) -> None:
    check(GEOMETRIES["asymmetric"].case(direction, "winograd_f4x3", bias=False), WINOGRAD[1])


@pytest.mark.parametrize("prepared", [True, False])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("algorithm", "geometry"), cases("wide", "column"))
def test_scratch_space_is_what_the_chooser_is_told(
    algorithm: Winograd, geometry: Geometry, direction: Direction, prepared: bool
) -> None:
    case = geometry.case(direction, algorithm.name)
    graph, _ = single_op_graph(case, make_operands(case))
    graph = graph if prepared else with_changing_weights(graph)
    problem = problem_of(graph)
    assert problem.prepared == (prepared and direction == "forward")
    step = compile_step(graph)
    (kernel,) = (kernel for kernel in step.plan.kernels if isinstance(kernel.anchor.op, CONVOLUTIONS))
    assert step.plan.memory.scratch[kernel].bytes == algorithm.scratch_bytes(problem, step.plan.machine)
    step.library.close()
