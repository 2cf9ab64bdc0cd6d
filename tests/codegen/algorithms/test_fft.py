"""Convolutions by Fourier transforms natively: every direction, tile and tier; kernels and images of many shapes."""

from __future__ import annotations

import re

import pytest

from convc.codegen.llvm.program import compile_step
from convc.codegen.llvm.target import host_target
from convc.passes.algorithms.fft import FFT, Fft
from convc.passes.algorithms.problem import CONVOLUTIONS, Direction
from convc.passes.algorithms.transform_plan import TransformPlan
from convc.passes.machine import MACHINES
from tests.codegen.algorithms.convolutions import (
    CHAINS,
    DIRECTIONS,
    Geometry,
    check,
    check_chain,
    lower_tiers,
    problem_of,
    with_changing_weights,
)
from tests.codegen.native_graph import single_op_graph
from tests.op_case import make_operands

# Tiles and borders of all kinds; channels that leave lanes empty.
GEOMETRIES: dict[str, Geometry] = {
    "one_by_one": Geometry((2, 3, 5, 6), (5, 3, 1, 1)),
    "one_pixel": Geometry((3, 2, 1, 1), (3, 2, 3, 3), (1, 1, 1, 1)),
    "whole_tiles": Geometry((1, 4, 14, 20), (8, 4, 3, 3)),
    "one_channel": Geometry((2, 1, 12, 9), (1, 1, 5, 5), (2, 2, 2, 2)),
    "first_layer": Geometry((1, 3, 11, 37), (40, 3, 7, 7), (3, 3, 3, 3)),
    "wide": Geometry((1, 40, 9, 10), (36, 40, 5, 5), (2, 2, 2, 2)),
    "row": Geometry((1, 5, 9, 13), (6, 5, 1, 7), (0, 0, 3, 3)),
    "column": Geometry((1, 7, 17, 5), (17, 7, 8, 1)),
    "asymmetric": Geometry((1, 4, 12, 30), (3, 4, 7, 5), (2, 0, 1, 5)),
    "padding_beyond_kernel": Geometry((1, 2, 4, 3), (5, 2, 2, 2), (3, 4, 5, 0)),
    "dilated": Geometry((2, 5, 14, 11), (6, 5, 3, 2), (2, 1, 0, 3), dilation=(2, 5)),
    "even": Geometry((1, 6, 10, 9), (9, 6, 4, 6), (1, 2, 3, 2)),
    "groups": Geometry((2, 6, 9, 8), (10, 3, 3, 3), (1, 1, 1, 1), groups=2),
}
# These are for tiles that kernels of 9 and more fit.
LARGE: dict[str, Geometry] = {
    "eleven": Geometry((1, 3, 23, 19), (8, 3, 11, 11), (5, 5, 5, 5)),
    "as_large_as_a_tile": Geometry((1, 2, 17, 20), (4, 2, 16, 16), (0, 1, 2, 0)),
}
# Compiling takes the time: what is the same for all sizes of tiles is tested quickly with one of them.
_QUICK = {
    8: ("one_by_one", "one_channel", "first_layer", "wide", "row", "padding_beyond_kernel", "dilated", "groups"),
    16: ("one_pixel", "asymmetric", "even", "eleven", "as_large_as_a_tile"),
    32: ("first_layer", "eleven"),
}


def _cases() -> list[object]:
    found: list[object] = []
    for algorithm in FFT:
        geometries = GEOMETRIES if algorithm.size == 8 else GEOMETRIES | LARGE
        for name, geometry in geometries.items():
            marks = [] if name in _QUICK[algorithm.size] else [pytest.mark.slow]
            found.append(pytest.param(geometry, algorithm, id=f"{name}-{algorithm.size}", marks=marks))
    return found


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("geometry", "algorithm"), _cases())
def test_geometry(geometry: Geometry, algorithm: Fft, direction: Direction) -> None:
    check(geometry.case(direction, algorithm.name), algorithm)


@pytest.mark.slow
@pytest.mark.parametrize("tier", lower_tiers())
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("algorithm", FFT, ids=lambda a: a.name)
@pytest.mark.parametrize("geometry", ["first_layer", "wide", "groups"])
def test_lower_tiers(
    geometry: str, algorithm: Fft, direction: Direction, tier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVC_CPU", tier)
    check(GEOMETRIES[geometry].case(direction, algorithm.name), algorithm)


# More tiles than a chunk has, the last chunk smaller than the others.
CHUNKS: dict[str, Geometry] = {
    "fft_8": Geometry((3, 33, 35, 38), (40, 33, 3, 3), (1, 1, 1, 1)),
    "fft_16": Geometry((3, 33, 41, 48), (40, 33, 9, 1), (4, 4, 0, 0)),
    "fft_32": Geometry((3, 20, 60, 40), (24, 20, 25, 1), (12, 12, 0, 0)),
}


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("algorithm", FFT, ids=lambda a: a.name)
def test_chunks_of_tiles_and_fewer_images_than_the_batch(algorithm: Fft, direction: Direction) -> None:
    rows = 2
    case = CHUNKS[algorithm.name].case(direction, algorithm.name)
    graph, _ = single_op_graph(case, make_operands(case))
    problem = problem_of(graph)
    plan = TransformPlan.of(problem, MACHINES[host_target().tier], algorithm.form(problem))
    assert plan.chunk < rows * plan.tiles
    check(case, algorithm, rows, threads=(2, 3))


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("direction", DIRECTIONS[:2])
@pytest.mark.parametrize("algorithm", FFT[:1], ids=lambda a: a.name)
def test_chain(algorithm: Fft, direction: Direction, chain: str) -> None:
    check_chain(direction, algorithm, chain)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_without_bias(direction: Direction) -> None:
    check(GEOMETRIES["asymmetric"].case(direction, "fft_16", bias=False), FFT[1])


@pytest.mark.parametrize("prepared", [True, False])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("algorithm", FFT, ids=lambda a: a.name)
def test_scratch_space_and_code_size(algorithm: Fft, direction: Direction, prepared: bool) -> None:
    """Scratch space is what the chooser is told; code is loops over rows and columns, not whole tiles written out."""
    case = Geometry((2, 64, 30, 30), (64, 64, 7, 7), (3, 3, 3, 3)).case(direction, algorithm.name)
    graph, _ = single_op_graph(case, make_operands(case))
    graph = graph if prepared else with_changing_weights(graph)
    problem = problem_of(graph)
    assert problem.prepared == (prepared and direction == "forward")
    step = compile_step(graph)
    (kernel,) = (kernel for kernel in step.plan.kernels if isinstance(kernel.anchor.op, CONVOLUTIONS))
    assert step.plan.memory.scratch[kernel].bytes == algorithm.scratch_bytes(problem, step.plan.machine)
    instructions = len(re.findall(r"^  ", step.module.text, re.MULTILINE))
    assert instructions < 6000 + 600 * algorithm.size
    step.library.close()
