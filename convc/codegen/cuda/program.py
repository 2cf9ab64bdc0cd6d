"""From a graph to the launches of a step: the plan of a GPU, and the sources that it needs."""

from __future__ import annotations

from collections.abc import Sequence

from convc.codegen.cuda.kernel import Launch
from convc.codegen.cuda.lowering import UNAVAILABLE, launches, scratch_bytes
from convc.ir.diagnostic import fail
from convc.ir.graph import Graph
from convc.lazy import dataclass
from convc.passes.base import PlanPass
from convc.passes.dump import Dump
from convc.passes.layout import CHANNELS
from convc.passes.machine import Machine
from convc.passes.plan import Plan
from convc.passes.planning import PLANNING, make_plan

# Tensor cores multiply runs of so many numbers of 16 bits.
_CHANNELS_OF_HALVES = 8


@dataclass(frozen=True)
class CudaStep:
    """A plan and the launches that carry it out, in order, for GPUs of one compute capability (80: sm_80)."""

    plan: Plan
    capability: int
    launches: tuple[Launch, ...]

    @property
    def sources(self) -> tuple[str, ...]:
        """The different texts of the launches, in the order of their first use."""
        return tuple(dict.fromkeys(launch.source for launch in self.launches))


def machine_for(graph: Graph, capability: int) -> Machine:
    """A GPU as plans see it. Where any tensor has 16 bits, channels are padded to what tensor cores take."""
    values = (result for node in graph.nodes for result in node.results)
    halves = any(value.type.dtype.is_half for value in values)
    return gpu_machine(capability, halves)


def gpu_machine(capability: int, halves: bool) -> Machine:
    """A GPU for programs with or without tensors of 16 bits."""
    channels = _CHANNELS_OF_HALVES if halves else CHANNELS
    return Machine(f"sm_{capability}", 1, 255, capability=capability, channels=channels)


def plan_step(graph: Graph, capability: int, passes: Sequence[PlanPass] = PLANNING, dump: Dump | None = None) -> Plan:
    """What `make_step` works from; `graph` gains `relayout` nodes. Error: `unavailable-op`."""
    for node in graph.nodes_of(*UNAVAILABLE):
        fail("unavailable-op", f"{node.op.name} of {node.label} has no form on a GPU", node.span)
    return make_plan(graph, machine_for(graph, capability), scratch_bytes, passes, dump)


def make_step(
    graph: Graph, capability: int, passes: Sequence[PlanPass] = PLANNING, dump: Dump | None = None
) -> CudaStep:
    """Plan by `passes` and write the sources; `graph` gains `relayout` nodes. Nothing is compiled."""
    plan = plan_step(graph, capability, passes, dump)
    return CudaStep(plan, capability, launches(plan))
