"""What a plan reports about kernels and memory adds up."""

from __future__ import annotations

from convc.ir.graph import Value
from convc.passes.machine import Machine
from convc.passes.manager import PassManager
from convc.passes.pipeline import pipeline
from convc.passes.plan import Plan
from convc.passes.plan_report import kernel_rows, memory_report
from convc.passes.planning import make_plan
from tests.passes.nets import lenet


def plan_of_lenet(scratch: int = 0) -> Plan:
    graph = lenet(batch=8)
    PassManager(pipeline("train")).run(graph)
    return make_plan(graph, Machine("test", lanes=16, registers=32), lambda kernel, plan: scratch)


def test_every_kernel_has_a_row() -> None:
    plan = plan_of_lenet()
    rows = kernel_rows(plan)
    assert [row.number for row in rows] == list(range(len(plan.kernels)))
    (forward,) = (row for row in rows if row.layer == "conv1" and row.section == "forward")
    assert forward.name.startswith("conv2d")
    assert forward.line == 2
    assert forward.flops >= 2 * 8 * 20 * 24 * 24 * 25
    assert forward.read_bytes >= 4 * 8 * 28 * 28
    assert {row.section for row in rows} <= {"forward", "gradient", "statistics", "update"}


def test_what_lives_at_the_peak_is_the_bound() -> None:
    for scratch in (0, 4096):
        report = memory_report(plan_of_lenet(scratch))
        assert report.peak_kernel is not None
        assert sum(tensor.bytes for tensor in report.live) <= report.bound_bytes <= report.arena_bytes
        # Up to the rounding of each tensor to a cache line.
        assert report.bound_bytes - sum(tensor.bytes for tensor in report.live) < 64 * (len(report.live) + 1)
        sizes = [tensor.bytes for tensor in report.live]
        assert sizes == sorted(sizes, reverse=True)
        assert ("scratch" in {tensor.type for tensor in report.live}) == bool(scratch)


def test_memory_over_time_has_a_number_for_every_kernel() -> None:
    plan = plan_of_lenet(4096)
    report = memory_report(plan)
    assert report.peak_kernel is not None
    assert len(report.timeline) == len(plan.kernels)
    assert max(report.timeline) == report.bound_bytes
    assert report.timeline[report.peak_kernel.number] == report.bound_bytes
    for live, row in zip(report.timeline, kernel_rows(plan), strict=True):
        # A kernel's own results live while it runs, and so does its scratch space.
        own = sum(plan.memory.slots[value].bytes for value in plan.kernels[row.number].writes if in_arena(plan, value))
        assert live >= own + row.scratch_bytes


def in_arena(plan: Plan, value: Value) -> bool:
    return plan.memory.slots[value].region == "arena"


def test_results_in_the_place_of_operands_are_listed() -> None:
    report = memory_report(plan_of_lenet())
    assert "relu1 <- relu1" in report.in_place
