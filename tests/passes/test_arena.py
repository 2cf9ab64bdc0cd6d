"""The nine nets that speed is measured on: the arena takes hardly more than what lives at once."""

from __future__ import annotations

from pathlib import Path

import pytest

import convc
from convc.codegen.llvm.lowering import scratch_bytes
from convc.ir.ops.update import SgdUpdate
from convc.passes.base import Mode
from convc.passes.choose_algorithms import ChooseAlgorithms
from convc.passes.machine import MACHINES
from convc.passes.manager import PassManager
from convc.passes.pipeline import pipeline
from convc.passes.plan import Plan
from convc.passes.planning import make_plan

NETS = sorted((Path(__file__).parents[2] / "benchmarks" / "nets").glob("*.cnn"))


def plan_of(path: Path, mode: Mode) -> Plan:
    """As a program has it, scratch space of the chosen algorithms included."""
    net = convc.load(path)
    graph = net.graph(net.settings.batch)
    PassManager(pipeline(mode, SgdUpdate(momentum=0.9), choose=ChooseAlgorithms())).run(graph)
    return make_plan(graph, MACHINES["avx512"], scratch_bytes)


def test_there_are_nine() -> None:
    assert len(NETS) == 9


@pytest.mark.parametrize("mode", ["infer", "train"])
@pytest.mark.parametrize("path", NETS, ids=lambda path: path.stem)
def test_arena_is_close_to_the_bound(path: Path, mode: Mode) -> None:
    memory = plan_of(path, mode).memory
    assert memory.bound_bytes <= memory.arena_bytes <= 1.05 * memory.bound_bytes
