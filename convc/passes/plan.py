"""The plan of a program: kernels in order, layouts, places in memory. What code generation works from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from convc.ir.graph import Graph, Value
from convc.passes.arrange import Arrange, Layouts
from convc.passes.base import PassLog
from convc.passes.fusion import Kernel, fuse, is_immediate, resolve
from convc.passes.layout import Layout
from convc.passes.machine import Machine
from convc.passes.memory import MemoryPlan, plan_memory


@dataclass
class Plan:
    """A graph with everything decided. `batch` is the largest number of rows; kernels run for any number up to it."""

    graph: Graph
    machine: Machine
    batch: int
    kernels: list[Kernel]
    layouts: Layouts
    batched: set[Value]
    memory: MemoryPlan
    logs: dict[str, PassLog]

    def layout(self, value: Value) -> Layout:
        return self.layouts[value]

    def dump(self) -> str:
        """The plan as text: also what the object cache is keyed by."""
        numbers: dict[Value, str] = {}

        def name(value: Value) -> str:
            if is_immediate(value) and value.producer is not None:
                return str(value.producer.op)
            return f"%{value.name}" if value.name else numbers.setdefault(value, f"%{len(numbers) + 1}")

        def place(value: Value) -> str:
            value = resolve(value)
            slot = self.memory.slots.get(value)
            where = f" @{slot.region}+{slot.offset}" if slot else ""
            rows = "rows of " if value in self.batched else ""
            return f"{name(value)}: {value.type} {rows}{self.layouts[value]}{where}"

        lines = [f"plan @{self.graph.name} batch={self.batch} machine={self.machine}"]
        for number, kernel in enumerate(self.kernels):
            lines.append(f"kernel {number} [{kernel.section.name}] {kernel.name}")
            for node in kernel.nodes:
                operands = ", ".join(name(value) for value in node.operands)
                results = ", ".join(name(value) for value in node.results)
                lines.append(f"  {results} = {node.op}({operands})")
            lines += [f"  reads  {place(value)}" for value in kernel.reads]
            lines += [f"  writes {place(value)}" for value in kernel.writes]
            scratch = self.memory.scratch.get(kernel)
            if scratch:
                lines.append(f"  scratch {scratch.bytes} @arena+{scratch.offset}")
        memory = self.memory
        lines.append(f"arena {memory.arena_bytes} (bound {memory.bound_bytes}) persistent {memory.persistent_bytes}")
        return "\n".join(lines) + "\n"


def make_plan(graph: Graph, machine: Machine, scratch: Callable[[Kernel, Plan], int]) -> Plan:
    """Arrange, fuse and place. The graph gains `relayout` nodes; `scratch` tells how many bytes a kernel wants."""
    logs = {name: PassLog() for name in ("arrange", "fuse")}
    arrange = Arrange(machine)
    arrange.run(graph, logs["arrange"])
    batched = graph.batched()
    batch = next((value.shape[0] for value in graph.inputs.values() if value.shape), 1)

    def size_of(value: Value) -> int:
        return arrange.layouts[value].size * 4 * (batch if value in batched else 1)

    kernels = fuse(graph, logs["fuse"])
    empty = MemoryPlan({}, {}, 0, 0, 0, 0)
    plan = Plan(graph, machine, batch, kernels, arrange.layouts, batched, empty, logs)
    plan.memory = plan_memory(graph, kernels, size_of, lambda kernel: scratch(kernel, plan))
    return plan
