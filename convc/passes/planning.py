"""From a graph to a plan: the passes that decide how a program is laid out, in their order."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cache

from convc.ir.graph import Graph
from convc.passes.account import Account
from convc.passes.arrange import Arrange
from convc.passes.base import PassLog, PlanPass
from convc.passes.collection import no_collection
from convc.passes.dump import Dump
from convc.passes.fusion import Fuse, Kernel
from convc.passes.machine import Machine
from convc.passes.manager import PassReport
from convc.passes.memory import PlanMemory
from convc.passes.plan import Plan
from convc.passes.schedule import Schedule
from convc.passes.verify_plan import verify_plan

PLANNING: tuple[PlanPass, ...] = (
    Arrange(),  # first: kernels are grown on the graph that has its `relayout` nodes
    Fuse(),  # what is never stored needs no place
    Schedule(),  # lifetimes depend on the order
    PlanMemory(),  # last: everything that has a place is known
)


@no_collection()
def make_plan(
    graph: Graph,
    machine: Machine,
    scratch: Callable[[Kernel, Plan], int],
    passes: Sequence[PlanPass] = PLANNING,
    dump: Dump | None = None,
) -> Plan:
    """Run the passes. The graph gains `relayout` nodes; `scratch` tells how many bytes a kernel wants."""
    # Layouts are settled before there are kernels, so that the answer for one stays the same.
    plan = Plan(graph, machine, cache(scratch))
    account = Account(graph)
    for step in passes:
        log, started = PassLog(), time.perf_counter()
        step.run(plan, log)
        elapsed = (time.perf_counter() - started) * 1e3
        account.settle(step.name, log, rewrites=step.rewrites, decides=True)
        plan.reports.append(PassReport(step.name, elapsed, log))
        if dump is not None:
            dump.add(step.name, log, graph if step.rewrites else None, step.show(plan))
    verify_plan(plan)
    return plan
