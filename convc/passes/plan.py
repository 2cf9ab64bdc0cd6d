"""The plan of a program: kernels in order, layouts, places in memory. What code generation works from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field

from convc.ir.graph import Graph, Value
from convc.ir.types import DType
from convc.lazy import dataclass
from convc.passes.fusion import Kernel, is_immediate, resolve
from convc.passes.layout import Layout
from convc.passes.machine import Machine
from convc.passes.manager import PassReport
from convc.passes.memory import MemoryPlan
from convc.passes.transformed_layout import TransformedLayout


def _no_scratch(kernel: Kernel, plan: Plan) -> int:
    return 0


@dataclass(eq=False)
class Plan:
    """A graph with everything decided: the passes of `planning.py` fill it in.

    `scratch_bytes` tells what a kernel wants beside its operands. `layouts` and `batched` (the values that have rows)
    come from `arrange`, `kernels` from `fuse`, `memory` from `memory`; `reports` say what each pass did.
    """

    graph: Graph
    machine: Machine
    scratch_bytes: Callable[[Kernel, Plan], int] = _no_scratch
    layouts: dict[Value, Layout] = field(default_factory=dict[Value, Layout])
    batched: set[Value] = field(default_factory=set[Value])
    kernels: list[Kernel] = field(default_factory=list[Kernel])
    memory: MemoryPlan = field(default_factory=MemoryPlan)
    reports: list[PassReport] = field(default_factory=list[PassReport])

    @property
    def batch(self) -> int:
        """The largest number of rows; kernels run for any number up to it."""
        return next((value.shape[0] for value in self.graph.inputs.values() if value.shape), 1)

    def layout(self, value: Value) -> Layout:
        return self.layouts[value]

    def bytes_of(self, value: Value) -> int:
        """What a value takes as it is stored, with all rows."""
        return self.layouts[value].size * self.element(value).bytes * (self.batch if value in self.batched else 1)

    def element(self, value: Value) -> DType:
        """The element type in which a value is stored: its own, but of transformed filters, which are sums."""
        dtype = value.type.dtype
        return dtype.accumulator if isinstance(self.layouts.get(value), TransformedLayout) else dtype

    def lies_like(self, value: Value, other: Value) -> bool:
        """Whether the same elements of two stored values lie at the same places."""
        same = self.layouts[value] == self.layouts[other]
        return same and (value in self.batched) == (other in self.batched)

    def dump(self) -> str:
        """The plan as text: also what the object cache is keyed by."""
        memory = self.memory
        last = f"arena {memory.arena_bytes} (bound {memory.bound_bytes}) persistent {memory.persistent_bytes}\n"
        return f"plan @{self.graph.name} batch={self.batch} machine={self.machine}\n{kernel_text(self)}{last}"


def kernel_text(plan: Plan) -> str:
    """The kernels in order: the nodes of each, what it reads and writes, and where that lies once it is placed."""
    numbers: dict[Value, str] = {}

    def name(value: Value) -> str:
        if is_immediate(value) and value.producer is not None:
            return str(value.producer.op)
        return f"%{value.name}" if value.name else numbers.setdefault(value, f"%{len(numbers) + 1}")

    def place(value: Value) -> str:
        value = resolve(value)
        slot = plan.memory.slots.get(value)
        where = f" @{slot.region}+{slot.offset}" if slot else ""
        rows = "rows of " if value in plan.batched else ""
        return f"{name(value)}: {value.type} {rows}{plan.layouts[value]}{where}"

    lines: list[str] = []
    for number, kernel in enumerate(plan.kernels):
        lines.append(f"kernel {number} [{kernel.section.name}] {kernel.name}")
        for node in kernel.nodes:
            operands = ", ".join(name(value) for value in node.operands)
            results = ", ".join(name(value) for value in node.results)
            lines.append(f"  {results} = {node.op}({operands})")
        lines += [f"  reads  {place(value)}" for value in kernel.reads]
        lines += [f"  writes {place(value)}" for value in kernel.writes]
        scratch = plan.memory.scratch.get(kernel)
        if scratch:
            lines.append(f"  scratch {scratch.bytes} @arena+{scratch.offset}")
    return "".join(f"{line}\n" for line in lines)
