"""Strassen's algorithm natively: every direction, one level and two, sizes that do not halve; products are counted."""

from __future__ import annotations

import ctypes
import mmap
from dataclasses import replace

import pytest

from convc.codegen.llvm.object_cache import CACHE_VARIABLE
from convc.codegen.llvm.program import compile_step
from convc.codegen.llvm.vocabulary import Function, V
from convc.passes.algorithms import strassen
from convc.passes.algorithms.problem import CONVOLUTIONS, Direction
from convc.passes.algorithms.strassen import Strassen, levels_of
from tests.codegen.algorithms.convolutions import (
    CHAINS,
    DIRECTIONS,
    Geometry,
    check,
    check_chain,
    lower_tiers,
    problem_of,
)
from tests.codegen.native_graph import run_natively, single_op_graph
from tests.op_case import make_operands

ALGORITHM = Strassen()
SAME = (1, 1, 1, 1)

# More outputs than a chunk has where the name says so; sizes that leave something in the last blocks.
GEOMETRIES: dict[str, Geometry] = {
    "pointwise": Geometry((2, 64, 8, 8), (64, 64, 1, 1)),
    "pointwise, odd": Geometry((3, 37, 7, 11), (53, 37, 1, 1)),
    "pointwise, chunks": Geometry((3, 70, 15, 17), (37, 70, 1, 1)),
    "pointwise, groups": Geometry((2, 66, 9, 8), (70, 33, 1, 1), groups=2),
    "odd": Geometry((3, 33, 9, 7), (38, 33, 3, 3), SAME),
    "strided": Geometry((3, 35, 17, 15), (44, 35, 3, 3), (1, 0, 1, 2), stride=(2, 1)),
    "dilated groups": Geometry((2, 66, 9, 8), (70, 33, 3, 3), (2, 2, 2, 2), groups=2, dilation=(2, 2)),
    "row, chunks": Geometry((4, 36, 9, 16), (33, 36, 1, 7), (0, 3, 0, 3)),
    "filter rows apart, chunks": Geometry((4, 120, 15, 15), (33, 120, 3, 3), SAME),
}


@pytest.fixture
def two_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two levels for matrices that are large enough for quarters of 8."""
    monkeypatch.setattr(strassen, "_LARGE_QUARTER", 8)
    monkeypatch.setenv(CACHE_VARIABLE, "off")  # the cache does not know of this


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_one_level(name: str, direction: Direction) -> None:
    check(GEOMETRIES[name].case(direction, "strassen"), ALGORITHM)


@pytest.mark.slow
@pytest.mark.usefixtures("two_levels")
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", ["pointwise, odd", "strided", "dilated groups", "filter rows apart, chunks"])
def test_two_levels(name: str, direction: Direction) -> None:
    case = GEOMETRIES[name].case(direction, "strassen")
    assert levels_of(problem_of(single_op_graph(case, make_operands(case))[0])) == 2
    check(case, ALGORITHM)


@pytest.mark.slow
@pytest.mark.parametrize("tier", lower_tiers())
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", ["pointwise, odd", "strided", "filter rows apart, chunks"])
def test_lower_tiers(name: str, direction: Direction, tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVC_CPU", tier)
    check(GEOMETRIES[name].case(direction, "strassen"), ALGORITHM)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", ["pointwise, chunks", "filter rows apart, chunks"])
def test_fewer_images_than_the_batch(name: str, direction: Direction) -> None:
    geometry = GEOMETRIES[name]
    check(geometry.case(direction, "strassen"), ALGORITHM, rows=geometry.images[0] - 1, threads=(2, 3))


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("direction", DIRECTIONS[:2])
def test_chain(direction: Direction, chain: str) -> None:
    check_chain(direction, ALGORITHM, chain, Geometry((2, 34, 7, 9), (37, 34, 3, 3), SAME))


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", ["pointwise, groups", "strided", "filter rows apart, chunks"])
def test_scratch_space_is_what_the_chooser_is_told(name: str, direction: Direction) -> None:
    case = GEOMETRIES[name].case(direction, "strassen")
    graph, _ = single_op_graph(case, make_operands(case))
    problem = problem_of(graph)
    step = compile_step(graph)
    (kernel,) = (kernel for kernel in step.plan.kernels if isinstance(kernel.anchor.op, CONVOLUTIONS))
    assert step.plan.memory.scratch[kernel].bytes == ALGORITHM.scratch_bytes(problem, step.plan.machine)
    step.library.close()


class Multiplications:
    """How many products of numbers compiled code has added up, counted while it runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Graphs run in a forked child, which shares this memory.
        self._count = ctypes.c_int64.from_buffer(mmap.mmap(-1, mmap.PAGESIZE))
        place = V(f"inttoptr (i64 {ctypes.addressof(self._count)} to ptr)", "ptr")
        fma = Function.fma

        def counting(f: Function, left: V, right: V, addend: V) -> V:
            before = f.load(place, 1, "i64")
            f.store(f.emit("i64", f"add i64 {before.ref}, {addend.lanes}"), place)
            return fma(f, left, right, addend)

        monkeypatch.setattr(Function, "fma", counting)
        monkeypatch.setenv(CACHE_VARIABLE, "off")

    def of(self, geometry: Geometry, direction: Direction, algorithm: str) -> int:
        self._count.value = 0
        graph, named = single_op_graph(*(lambda case: (case, make_operands(case)))(geometry.case(direction, algorithm)))
        run_natively(graph, named, threads=1)
        assert self._count.value > 0
        return self._count.value


# All three sizes of the matrices are multiples of 16, so that nothing is filled up.
EVEN = (Geometry((2, 64, 8, 8), (64, 64, 1, 1)), Geometry((2, 32, 10, 10), (48, 32, 3, 3)))


@pytest.mark.parametrize("geometry", EVEN, ids=["pointwise", "3x3"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_seven_products_for_eight(geometry: Geometry, direction: Direction, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = Multiplications(monkeypatch)
    plain = counter.of(geometry, direction, "im2col")
    assert counter.of(geometry, direction, "strassen") * 8 == plain * 7


@pytest.mark.usefixtures("two_levels")
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_seven_times_seven_products_for_eight_times_eight(
    direction: Direction, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = Multiplications(monkeypatch)
    plain = counter.of(EVEN[0], direction, "im2col")
    assert counter.of(EVEN[0], direction, "strassen") * 64 == plain * 49


def test_a_changed_scheme_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The counter counts what runs: half the images, half the products."""
    counter = Multiplications(monkeypatch)
    whole = counter.of(EVEN[0], "forward", "strassen")
    assert counter.of(replace(EVEN[0], images=(1, 64, 8, 8)), "forward", "strassen") * 2 == whole
