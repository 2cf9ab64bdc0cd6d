"""No kernel touches memory outside of its operands, nor leaves results unwritten.

Behind every buffer lies an inaccessible page in all tests that run a graph by `native_graph.run_natively`: each op,
each algorithm in each direction, each tier. Here it lies in front, whole nets have both, and the guards are tested.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import convc
from convc.ir.graph import Graph
from convc.ir.ops.elementwise import Elementwise
from convc.ir.ops.update import SgdUpdate
from convc.passes.algorithms.algorithm import Algorithm
from convc.passes.algorithms.problem import Direction
from convc.passes.algorithms.table import ALGORITHMS
from convc.passes.base import Mode
from convc.passes.choose_algorithms import ChooseAlgorithms
from convc.passes.manager import PassManager
from convc.passes.memory import Region, Slot
from convc.passes.pipeline import Recipe, pipeline
from tests.codegen import guarded
from tests.codegen.algorithms.convolutions import DIRECTIONS, Geometry, problem_of
from tests.codegen.guarded import GuardedExecutor, GuardedMemory, Side, survives
from tests.codegen.native_graph import case_arrays, run_natively, single_op_graph
from tests.codegen.test_ops import NATIVE
from tests.codegen.whole_net import arrays_for, assert_same_bits
from tests.codegen.whole_net import run_natively as run_net
from tests.op_case import OpCase, make_operands

pytestmark = pytest.mark.slow

NETS = Path(__file__).parents[2] / "benchmarks" / "nets"

# What an element-wise kernel reads lies where it writes, so one side tells all.
REACHING = [case for case in NATIVE if not isinstance(case.op, Elementwise)]

GEOMETRIES: dict[str, Geometry] = {
    "same": Geometry((2, 5, 9, 7), (6, 5, 3, 3), (1, 1, 1, 1)),
    "valid": Geometry((1, 17, 8, 11), (33, 17, 3, 3)),
    "uneven_padding": Geometry((3, 3, 6, 13), (18, 3, 3, 3), (2, 0, 1, 3)),
    "row": Geometry((2, 3, 5, 11), (7, 3, 1, 5), (0, 2, 0, 2)),
    "strided": Geometry((2, 3, 15, 17), (20, 3, 7, 7), (3, 3, 3, 3), stride=(2, 2)),
    "dilated": Geometry((2, 4, 11, 9), (5, 4, 3, 3), (2, 2, 2, 2), dilation=(2, 2)),
    "groups": Geometry((1, 6, 7, 8), (10, 3, 3, 3), (1, 1, 1, 1), groups=2),
    "matrix": Geometry((3, 64, 16, 17), (80, 64, 1, 1)),
    "1x7": Geometry((2, 5, 6, 11), (7, 5, 1, 7), (0, 3, 0, 3)),
    "5x1": Geometry((2, 5, 9, 6), (7, 5, 5, 1), (2, 0, 2, 0)),
}


def assert_whole(results: dict[str, np.ndarray]) -> None:
    for name, array in results.items():
        assert np.isfinite(array).all(), f"{name} is unwritten in places, or made of what nobody has written"


# Every kernel


@pytest.mark.slow
@pytest.mark.parametrize("case", REACHING, ids=str)
def test_no_op_reaches_before_its_operands(case: OpCase) -> None:
    arrays = case_arrays(case)
    graph, named = single_op_graph(case, arrays)
    assert_whole(run_natively(graph, named, threads=2, side="before"))


@pytest.mark.slow
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda algorithm: algorithm.name)
def test_no_algorithm_reaches_before_its_operands(algorithm: Algorithm, direction: Direction) -> None:
    tried = 0
    for geometry in GEOMETRIES.values():
        case = geometry.case(direction, algorithm.name)
        graph, named = single_op_graph(case, make_operands(case, np.float32))
        if algorithm.obstacle(problem_of(graph)) is None:
            assert_whole(run_natively(graph, named, threads=3, side="before"))
            tried += 1
    assert tried


# Whole nets


def step_of(name: str, mode: Mode, batch: int) -> Graph:
    graph = convc.load(NETS / f"{name}.cnn").graph(batch)
    recipe = Recipe(SgdUpdate(momentum=0.9, l2=1e-4)) if mode == "train" else Recipe()
    PassManager(pipeline(mode, recipe=recipe, choose=ChooseAlgorithms())).run(graph)
    return graph


@pytest.mark.slow
@pytest.mark.parametrize("side", ["after", "before"])
@pytest.mark.parametrize("mode", ["infer", "train"])
@pytest.mark.parametrize("name", ["lenet", "simple", "cifar_resnet20"])
def test_whole_nets(name: str, mode: Mode, side: Side) -> None:
    """The same bits as with memory as it is planned, of a batch that is not full."""
    graph = step_of(name, mode, batch=5)
    arrays = arrays_for(graph, rows=3)
    found = run_net(graph, arrays, threads=2, guards=side)
    assert_whole(found)
    assert_same_bits(found, run_net(graph, arrays, threads=2))


# The guards themselves


class Misplaced(GuardedExecutor):
    """Kernels get a place for the arena that is `shift` bytes off."""

    shift = 0

    def _allocate(self, region: Region, size: int) -> tuple[np.ndarray, int]:
        memory, address = super()._allocate(region, size)
        return memory, address + (self.shift if region == "arena" else 0)


PRIME = next(case for case in NATIVE if str(case) == "conv2d/prime")


@pytest.mark.parametrize(
    ("side", "shift", "message"),
    [
        ("after", 64, r"conv2d .*, phase \w+, left its operands \(after them\)"),
        ("before", -64, r"conv2d .*, phase \w+, left its operands \(before them\)"),
        ("after", -64, r"somebody has written beside conv2d"),
        ("before", 64, r"somebody has written beside conv2d"),
    ],
)
def test_a_kernel_that_leaves_its_operands_is_named(
    side: Side, shift: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Misplaced, "shift", shift)
    monkeypatch.setattr("tests.codegen.native_graph.GuardedExecutor", Misplaced)
    graph, named = single_op_graph(PRIME, case_arrays(PRIME))
    with pytest.raises(AssertionError, match=message):
        run_natively(graph, named, threads=2, side=side, forked=True)


def test_what_nobody_writes_is_not_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded._ForkedPool, "launch", lambda *_: None)  # pyright: ignore[reportPrivateUsage]
    graph, named = single_op_graph(PRIME, case_arrays(PRIME))
    assert np.isnan(run_natively(graph, named, forked=True)["logits"]).all()


def test_guards_are_inaccessible_and_slots_are_not() -> None:
    slot = Slot("arena", guarded.PAGE + 64, 128)
    memory = GuardedMemory([slot], 3 * guarded.PAGE)

    def touch(offset: int) -> bool:
        return survives(lambda: memory.bytes.__setitem__(offset, 1))

    assert touch(slot.offset)
    assert memory.strays() == []
    assert not touch(guarded.PAGE - 1)
    assert not touch(2 * guarded.PAGE)
    assert touch(slot.offset + slot.bytes)
    assert memory.strays() == [slot.offset]
