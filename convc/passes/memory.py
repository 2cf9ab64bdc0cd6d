"""Where everything lies: one arena for what lives within a step, one block for what outlives it.

    kernel 0 writes %1 (64 KiB)                       %1 @arena+0
    kernel 1 reads %1, writes %2 (32 KiB)      →      %2 @arena+65536
    kernel 2 reads %2, writes %3 (64 KiB)             %3 @arena+0          (%1 is not needed any more)
    kernel 3: %4 = relu(%3)                           %4 @arena+0          (in the place of %3, which dies)

Values of a step live from the kernel that writes them to the last one that reads them (`lifetimes.py`); results take
the place of operands where they may (`in_place.py`), and what remains is packed (`packing.py`). Parameters, optimiser
states, buffers and constants are laid out one after the other, and those of one optimiser sweep in the same order in
each of their blocks, so that a sweep is a single loop over memory. The gradients of a sweep are a block, too, and it
lies in the arena where it may.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import TYPE_CHECKING, ClassVar, Literal

from convc.ir.diagnostic import fail
from convc.ir.graph import Graph, Value
from convc.ir.ops.constant import Constant
from convc.ir.ops.loss_scaling import Unscale
from convc.ir.ops.round_to import RoundTo
from convc.ir.ops.sweep import MaxNorm, Sweep
from convc.ir.sizes import format_bytes
from convc.lazy import dataclass
from convc.passes.base import PassLog, PlanPass
from convc.passes.fusion import Kernel, is_immediate, resolve
from convc.passes.in_place import in_place_pairs, report_in_place
from convc.passes.lifetimes import Buffer, Needs, find_buffers, live_bytes
from convc.passes.packing import ALIGNMENT, Interval, aligned, pack_intervals
from convc.passes.sections import Section
from convc.passes.training import GRADIENT

if TYPE_CHECKING:
    from convc.passes.plan import Plan

SMALLER_BATCH = (
    "a smaller batch takes less (`--fit` finds the largest), and so does less scratch space (`--scratch 16MiB`)"
)
Region = Literal["arena", "persistent", "input", "labels"]


@dataclass(frozen=True)
class Slot:
    """A place in memory: `offset` bytes into its region."""

    region: Region
    offset: int
    bytes: int


def overlap(one: Slot, other: Slot) -> bool:
    """Whether two places share a byte."""
    apart = one.offset + one.bytes <= other.offset or other.offset + other.bytes <= one.offset
    return one.region == other.region and not apart


@dataclass
class MemoryPlan:
    """Slots of values and of the kernels' scratch space, and the sizes of the regions.

    `buffers` are the places of the arena with the values that follow each other in them. `live[k]` is what lives during
    kernel k, `bound_bytes` the largest of these: no plan takes less; `peak` is the kernel during which it lives.
    The last `on_demand_bytes` of what outlives a step hold gradients that runs with updates use up as they compute
    them. Nobody touches these pages before somebody asks for gradients alone, so the system does not provide them.
    """

    slots: dict[Value, Slot] = field(default_factory=dict[Value, Slot])
    scratch: dict[Kernel, Slot] = field(default_factory=dict[Kernel, Slot])
    arena_bytes: int = 0
    persistent_bytes: int = 0
    on_demand_bytes: int = 0
    buffers: tuple[Buffer, ...] = ()
    live: tuple[int, ...] = ()

    @property
    def bound_bytes(self) -> int:
        return max(self.live, default=0)

    @property
    def peak(self) -> int:
        return self.live.index(self.bound_bytes) if self.live else 0

    @property
    def total_bytes(self) -> int:
        """All that a program holds: what lives within a step, and what outlives it."""
        return self.arena_bytes + self.lasting_bytes

    @property
    def lasting_bytes(self) -> int:
        """What outlives a step, without what is there on demand only."""
        return self.persistent_bytes - self.on_demand_bytes


@dataclass(frozen=True)
class PlanMemory(PlanPass):
    """Places every value that kernels read or write; with `in_place`, results over operands that die.

    Error: `budget-memory` for a program that takes more than `limit` bytes (0: no limit).
    """

    name: ClassVar[str] = "memory"
    metrics: ClassVar[Mapping[str, str]] = {
        "arena_bytes": "memory for what lives within a run",
        "bound_bytes": "what lives at once at the worst moment",
        "persistent_bytes": "parameters, states, and all else that outlives a run",
        "on_demand_bytes": "gradients among these that take memory only once they are asked for without an update",
        "in_place_bytes": "results that took the place of an operand",
    }
    in_place: bool = True
    limit: int = 0

    def run(self, plan: Plan, log: PassLog) -> None:
        plan.memory = plan_memory(plan, self.in_place)
        if self.limit and plan.memory.total_bytes > self.limit:
            within, lasting = format_bytes(plan.memory.arena_bytes), format_bytes(plan.memory.lasting_bytes)
            fail(
                "budget-memory",
                f"the program of {plan.graph.name} takes {format_bytes(plan.memory.total_bytes)}, {within} of them for "
                f"what lives within a run and {lasting} for what outlives it; the budget is {format_bytes(self.limit)}",
                hint=SMALLER_BATCH,
            )
        report_in_place(plan, log)
        sizes = plan.memory
        log.metrics |= {
            "arena_bytes": sizes.arena_bytes,
            "bound_bytes": sizes.bound_bytes,
            "persistent_bytes": sizes.persistent_bytes,
            "on_demand_bytes": sizes.on_demand_bytes,
        }

    def show(self, plan: Plan) -> str:
        return plan.dump()


def arena_needs(plan: Plan, in_place: bool = True) -> list[Needs]:
    """What each kernel of a plan does to the arena."""
    lasting, _ = lasting_slots(plan)
    outside = {*lasting, *plan.graph.inputs.values()}

    def inside(values: Iterable[Value]) -> tuple[Value, ...]:
        return tuple(value for value in values if value not in outside)

    apart = outside.union(*gradient_blocks(plan))

    def pairs(kernel: Kernel) -> tuple[tuple[Value, Value], ...]:
        found = in_place_pairs(kernel, plan) if in_place else ()
        return tuple((written, read) for written, read in found if not {written, read} & apart)

    return [
        Needs(inside(kernel.reads), inside(kernel.writes), pairs(kernel), aligned(plan.scratch_bytes(kernel, plan)))
        for kernel in plan.kernels
    ]


def kept_values(graph: Graph) -> set[Value]:
    """What is read after a run: it lives to the end."""
    return {resolve(value) for value in graph.outputs.values()}


def plan_memory(plan: Plan, in_place: bool = True) -> MemoryPlan:
    """Place all values of a plan that has kernels and layouts."""
    slots, persistent = lasting_slots(plan)
    for name, value in plan.graph.inputs.items():
        if name in ("x", "labels"):
            slots[value] = Slot("labels" if name == "labels" else "input", 0, plan.bytes_of(value))
    needs = arena_needs(plan, in_place)
    sizes = {value: aligned(plan.bytes_of(value)) for kernel in needs for value in kernel.writes}
    buffers = find_buffers(needs, sizes, kept_values(plan.graph))
    swept = _offsets_of_blocks(plan)
    intervals = [
        Interval(buffer, buffer.bytes, buffer.first, buffer.last, swept.get(buffer.values[0])) for buffer in buffers
    ]
    intervals += [Interval(i, kernel.scratch, i, i) for i, kernel in enumerate(needs) if kernel.scratch]
    offsets, total = pack_intervals(intervals)
    for buffer in buffers:
        for value in buffer.values:
            slots[value] = Slot("arena", offsets[buffer], plan.bytes_of(value))
    scratch = {
        plan.kernels[index]: Slot("arena", offsets[index], plan.scratch_bytes(plan.kernels[index], plan))
        for index, kernel in enumerate(needs)
        if kernel.scratch
    }
    on_demand = sum(aligned(plan.bytes_of(value)) for value in on_demand_values(plan))
    return MemoryPlan(slots, scratch, total, persistent, on_demand, tuple(buffers), tuple(live_bytes(needs, buffers)))


def prepared_values(plan: Plan) -> list[Value]:
    """What runs find prepared; what only prepares something else need not outlive it."""
    wanted = {value for kernel in plan.kernels if kernel.section is not Section.PREPARE for value in kernel.reads}
    wanted |= kept_values(plan.graph)
    made = [value for kernel in plan.kernels if kernel.section is Section.PREPARE for value in kernel.writes]
    return [value for value in made if value in wanted]


def on_demand_values(plan: Plan) -> list[Value]:
    """The gradients that are stored in runs that do not update only."""
    return [kernel.anchor.result for kernel in plan.kernels if kernel.update is not None]


def gradient_blocks(plan: Plan) -> list[list[Value]]:
    """The gradients that lie within the arena: for each sweep those that it reads, in its order.

    Their places are of use to others until they are computed, which is after most of the step. Between neighbours there
    must be no gaps, in which sweeps expect zeros. Gradients that are divided by the scale of a loss, where they lie,
    and those that only some runs store outlive a step.
    """
    graph = plan.graph
    scaled = [value for node in graph.nodes_of(Unscale) for value in (resolve(node.operands[0]), node.result)]
    kept = {*scaled, *on_demand_values(plan)}
    made = {value for kernel in plan.kernels if kernel.section is Section.GRADIENT for value in kernel.writes}
    free = {resolve(value) for name, value in graph.outputs.items() if name.startswith(GRADIENT)} & made - kept
    blocks: list[list[Value]] = []
    for kernel in plan.kernels:
        if not isinstance(kernel.anchor.op, Sweep):
            continue
        for position in range(kernel.anchor.op.tensors):
            block = [resolve(node.operands[position]) for node in (kernel.anchor, *kernel.riders)]
            fits = free.issuperset(block) and len({*block}) == len(block)
            if fits and all(plan.bytes_of(value) % ALIGNMENT == 0 for value in block[:-1]):
                blocks.append(block)
                free.difference_update(block)
    return blocks


def _offsets_of_blocks(plan: Plan) -> dict[Value, int]:
    """Where gradients lie, as parts of one block of the arena: each of theirs apart from the next."""
    offsets: dict[Value, int] = {}
    offset = 0
    for block in gradient_blocks(plan):
        for value in block:
            offsets[value] = offset
            offset += aligned(plan.bytes_of(value))
        offset += ALIGNMENT
    return offsets


def lasting_slots(plan: Plan) -> tuple[dict[Value, Slot], int]:
    """The slots of what outlives a step, those of gradients on demand last, and their size."""
    graph, kernels, size_of = plan.graph, plan.kernels, plan.bytes_of
    within = set[Value]().union(*gradient_blocks(plan))
    slots: dict[Value, Slot] = {}
    offset = 0

    def place(value: Value) -> None:
        nonlocal offset
        value = resolve(value)
        if value not in slots and value not in within and not is_immediate(value):
            slots[value] = Slot("persistent", offset, size_of(value))
            offset += aligned(size_of(value))

    # An updated parameter is written where it lies: nothing reads the old value after the update.
    home = {value: graph.parameters[name].value for name, value in graph.updates.items()}
    for value, parameter in list(home.items()):
        while value.producer is not None and isinstance(value.producer.op, (MaxNorm, RoundTo)):
            value = value.producer.operands[0]
            home[value] = parameter
    # Gradients are divided by the scale of a loss where they lie.
    home |= {node.result: resolve(node.operands[0]) for node in graph.nodes_of(Unscale)}
    # Last what is unscaled: the updates, which know all that lies between, say in which order gradients lie.
    for kernel in sorted(kernels, key=lambda kernel: isinstance(kernel.anchor.op, Unscale)):
        if isinstance(kernel.anchor.op, Sweep):
            for position in range(kernel.anchor.op.tensors):
                for node in (kernel.anchor, *kernel.riders):
                    operand = resolve(node.operands[position])
                    place(home.get(operand, operand))
    for parameter in graph.parameters.values():
        place(parameter.value)
    for name, value in graph.inputs.items():
        if name not in ("x", "labels") and value.shape:
            place(value)  # further inputs are set like parameters
    on_demand = on_demand_values(plan)
    for name, value in graph.outputs.items():
        if name.startswith(GRADIENT) and value not in on_demand:
            place(home.get(value, value))
    for node in graph.nodes_of(Constant):
        place(node.result)
    for value in prepared_values(plan):
        place(value)
    for value in on_demand:
        place(value)
    for value, owner in home.items():
        if owner in slots:
            slots[value] = slots[owner]
    return slots, offset
