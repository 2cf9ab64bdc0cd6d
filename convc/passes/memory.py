"""Where everything lies: one arena for what lives within a step, one block for what outlives it.

    kernel 0 writes %1 (64 KiB)                       %1 @arena+0
    kernel 1 reads %1, writes %2 (32 KiB)      →      %2 @arena+65536
    kernel 2 reads %2, writes %3 (64 KiB)             %3 @arena+0          (%1 is not needed any more)

Values of a step get offsets by best fit over their lifetimes (from the kernel that writes a value to the last one that
reads it). Parameters, gradients, optimiser states, buffers and constants are laid out one after the other, and those
of one optimiser sweep in the same order in each of their blocks, so that a sweep is a single loop over memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from convc.ir.graph import Graph, Value
from convc.ir.ops.constant import Constant
from convc.ir.ops.sweep import MaxNorm, Sweep
from convc.passes.base import PassLog, PlanPass
from convc.passes.fusion import Kernel, is_immediate, resolve
from convc.passes.training import GRADIENT

if TYPE_CHECKING:
    from convc.passes.plan import Plan

ALIGNMENT = 64
Region = Literal["arena", "persistent", "input", "labels"]


@dataclass(frozen=True)
class Slot:
    """A place in memory: `offset` bytes into its region."""

    region: Region
    offset: int
    bytes: int


@dataclass(frozen=True)
class Interval:
    """A need for `bytes` from kernel `first` to kernel `last`, inclusive."""

    key: object
    bytes: int
    first: int
    last: int


@dataclass
class MemoryPlan:
    """Slots of values and of the kernels' scratch space, and the sizes of the regions.

    `bound_bytes` is what lives at once at the worst moment: no plan takes less.
    """

    slots: dict[Value, Slot] = field(default_factory=dict[Value, Slot])
    scratch: dict[Kernel, Slot] = field(default_factory=dict[Kernel, Slot])
    arena_bytes: int = 0
    persistent_bytes: int = 0
    bound_bytes: int = 0
    peak: int = 0  # index of the kernel during which most is live


@dataclass(frozen=True)
class PlanMemory(PlanPass):
    """Places every value that kernels read or write."""

    name: ClassVar[str] = "memory"

    def run(self, plan: Plan, log: PassLog) -> None:
        plan.memory = plan_memory(
            plan.graph, plan.kernels, plan.bytes_of, lambda kernel: plan.scratch_bytes(kernel, plan)
        )
        sizes = plan.memory
        log.metrics |= {
            "arena_bytes": sizes.arena_bytes,
            "bound_bytes": sizes.bound_bytes,
            "persistent_bytes": sizes.persistent_bytes,
        }

    def show(self, plan: Plan) -> str:
        return plan.dump()


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def pack_intervals(intervals: Iterable[Interval]) -> tuple[dict[object, int], int]:
    """Offsets such that intervals that overlap in time do not overlap in space; and the total size.

    Greedy by size, each into the tightest gap among those placed (Pisarchyk & Lee 2020).
    """
    placed: list[tuple[int, Interval]] = []
    offsets: dict[object, int] = {}
    total = 0
    for interval in sorted(intervals, key=lambda i: (-i.bytes, i.first)):
        size = aligned(interval.bytes)
        position, best, tightest = 0, None, None
        for offset, other in placed:
            if other.last < interval.first or interval.last < other.first:
                continue
            gap = offset - position
            if gap >= size and (tightest is None or gap < tightest):
                best, tightest = position, gap
            position = max(position, offset + aligned(other.bytes))
        chosen = position if best is None else best
        offsets[interval.key] = chosen
        total = max(total, chosen + size)
        placed.append((chosen, interval))
        placed.sort(key=lambda entry: entry[0])
    return offsets, total


def plan_memory(
    graph: Graph, kernels: list[Kernel], size_of: Callable[[Value], int], scratch_of: Callable[[Kernel], int]
) -> MemoryPlan:
    """Place all values; `size_of` and `scratch_of` give bytes."""
    slots, persistent = _persistent(graph, kernels, size_of)
    for name, value in graph.inputs.items():
        if name in ("x", "labels"):
            slots[value] = Slot("labels" if name == "labels" else "input", 0, size_of(value))
    end = len(kernels)
    kept = {resolve(value) for value in graph.outputs.values()}
    lifetimes: dict[Value, list[int]] = {}
    for index, kernel in enumerate(kernels):
        for value in (*kernel.writes, *kernel.reads):
            if value not in slots and not _is_scalar_input(graph, value):
                lifetimes.setdefault(value, [index, index])[1] = end if value in kept else index
    intervals = [Interval(value, size_of(value), first, last) for value, (first, last) in lifetimes.items()]
    intervals += [
        Interval(kernel, scratch_of(kernel), index, index) for index, kernel in enumerate(kernels) if scratch_of(kernel)
    ]
    offsets, total = pack_intervals(intervals)
    slots |= {i.key: Slot("arena", offsets[i.key], i.bytes) for i in intervals if isinstance(i.key, Value)}
    scratch = {i.key: Slot("arena", offsets[i.key], i.bytes) for i in intervals if isinstance(i.key, Kernel)}
    live = [sum(aligned(i.bytes) for i in intervals if i.first <= k <= i.last) for k in range(end)]
    bound = max(live, default=0)
    return MemoryPlan(slots, scratch, total, persistent, bound, live.index(bound) if live else 0)


def _is_scalar_input(graph: Graph, value: Value) -> bool:
    return value.producer is None and value.name in graph.inputs


def _persistent(graph: Graph, kernels: list[Kernel], size_of: Callable[[Value], int]) -> tuple[dict[Value, Slot], int]:
    slots: dict[Value, Slot] = {}
    offset = 0

    def place(value: Value) -> None:
        nonlocal offset
        value = resolve(value)
        if value not in slots and not is_immediate(value):
            slots[value] = Slot("persistent", offset, size_of(value))
            offset += aligned(size_of(value))

    # An updated parameter is written where it lies: nothing reads the old value after the update.
    home = {value: graph.parameters[name].value for name, value in graph.updates.items()}
    for value, parameter in list(home.items()):
        if value.producer is not None and isinstance(value.producer.op, MaxNorm):
            home[value.producer.operands[0]] = parameter
    for kernel in kernels:
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
    for name, value in graph.outputs.items():
        if name.startswith(GRADIENT):
            place(value)
    for node in graph.nodes_of(Constant):
        place(node.result)
    for value, parameter in home.items():
        slots[value] = slots[parameter]
    return slots, offset
