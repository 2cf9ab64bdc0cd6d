"""What the memory pass says about results in the place of operands: who takes whose place, who does not, and why."""

from __future__ import annotations

import pytest

from convc.frontend import loads
from convc.ir.ops.update import SgdUpdate
from convc.passes.base import Mode
from convc.passes.machine import Machine
from convc.passes.memory import PlanMemory
from convc.passes.plan import Plan
from convc.passes.planning import PLANNING, make_plan
from tests.codegen.whole_net import lowered

MACHINE = Machine("test", lanes=16, registers=32)
LAST = "it is read here for the last time, then written"
AGAIN = "is read again by"

# A net, the mode, and the log.
CASES: dict[str, tuple[str, Mode, list[str]]] = {
    "a residual sum": (
        "input 3x6x6 -> conv 5 k=3\n  residual { conv 6 k=1\n    conv 5 k=1 }\n  relu -> fc 2",
        "infer",
        [f"changed in-place  relu(relu1) -> conv2d(conv1)  why: {LAST}  n.cnn:5"],
    ),
    "a sum with what the convolution reads": (
        "input 3x6x6 -> conv 5 k=3\n  residual { conv 5 k=1 }\n  fc 2",
        "infer",
        ["missed in-place  add(res1.add)  why: conv2d reads other elements of conv2d(conv1), too  n.cnn:3"],
    ),
    "two users": (
        "input 3x6x6 -> conv 5 k=3 as y\n  sigmoid -> conv 5 k=1\n  add y\n  tanh as z\n  conv 5 k=1 -> add z -> fc 2",
        "infer",
        [
            f"changed in-place  tanh(tanh1) -> conv2d(conv1)  why: {LAST}  n.cnn:5",
            "missed in-place  add(add)  why: conv2d reads other elements of tanh(tanh1), too  n.cnn:6",
        ],
    ),
    "batch norm": (
        "input 3x6x6 -> conv 5 k=3\n  bn\n  conv 4 k=1\n  pool avg global -> fc 2",
        "train",
        [
            f"missed in-place  batch_norm_training(bn1)  why: conv2d(conv1) {AGAIN} batch_norm_backward(bn1)  n.cnn:3",
            f"changed in-place  batch_norm_backward(bn1) -> conv2d_backward_data(conv2)  why: {LAST}  n.cnn:3",
        ],
    ),
    "an output": (
        "input 3x6x6 -> conv 5 k=3\n  relu",
        "train",
        ["missed in-place  softmax_cross_entropy_backward(loss1)  why: relu(relu1) is an output  n.cnn:4"],
    ),
}


def plan_of(body: str, mode: Mode, in_place: bool = True) -> Plan:
    graph = lowered(loads(f"net n {{\n  {body}\n  loss softmax\n}}\n", file="n.cnn").graph(4), mode, SgdUpdate())
    passes = [PlanMemory(in_place=in_place) if step.name == "memory" else step for step in PLANNING]
    return make_plan(graph, MACHINE, lambda kernel, plan: 0, passes)


@pytest.mark.parametrize("case", CASES)
def test_log(case: str) -> None:
    body, mode, expected = CASES[case]
    plan = plan_of(body, mode)
    (log,) = (report.log for report in plan.reports if report.name == "memory")
    entries = [str(entry) for entry in log.entries if "in-place" in entry.rule]
    assert [entry for entry in expected if entry not in entries] == [], "\n".join(entries)
    changed = [entry for entry in log.of("changed") if entry.rule == "in-place"]
    assert len(changed) == sum(len(buffer.values) - 1 for buffer in plan.memory.buffers)
    assert log.metrics["in_place_bytes"] == sum(b.bytes * (len(b.values) - 1) for b in plan.memory.buffers)


@pytest.mark.parametrize("case", CASES)
def test_switched_off(case: str) -> None:
    body, mode, _ = CASES[case]
    plan = plan_of(body, mode, in_place=False)
    (log,) = (report.log for report in plan.reports if report.name == "memory")
    assert log.of("changed") == []
    assert all(len(buffer.values) == 1 for buffer in plan.memory.buffers)
    assert plan.memory.bound_bytes >= plan_of(body, mode).memory.bound_bytes
