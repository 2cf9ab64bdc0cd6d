"""What a plan comes to, for people: its kernels, and what fills the memory at the worst moment."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, groupby

from convc.ir.graph import Value
from convc.passes.fusion import Kernel, resolve
from convc.passes.memory import aligned
from convc.passes.plan import Plan


@dataclass(frozen=True)
class KernelRow:
    """One kernel. Flops and bytes are those of the logical tensors for a whole batch, each touched once."""

    number: int
    name: str
    layer: str
    line: int | None
    section: str
    flops: int
    read_bytes: int
    written_bytes: int
    scratch_bytes: int


@dataclass(frozen=True)
class LiveTensor:
    """Something in the arena: the layer that made it, its logical type, bytes as stored."""

    layer: str
    type: str
    bytes: int


@dataclass(frozen=True)
class MemoryReport:
    """`arena_bytes` is what a step takes, `bound_bytes` what lives at the peak, `persistent_bytes` outlives steps.

    `timeline` has the bytes that live during each kernel.
    """

    arena_bytes: int
    bound_bytes: int
    persistent_bytes: int
    peak_kernel: KernelRow | None
    live: tuple[LiveTensor, ...]
    timeline: tuple[int, ...] = ()


def kernel_rows(plan: Plan) -> tuple[KernelRow, ...]:
    """The kernels in the order in which they run."""
    return tuple(_row(plan, number) for number in range(len(plan.kernels)))


def memory_report(plan: Plan) -> MemoryReport:
    """Sizes, and the tensors that live during the kernel with the most of them, largest first."""
    memory = plan.memory
    if not plan.kernels:
        return MemoryReport(memory.arena_bytes, memory.bound_bytes, memory.persistent_bytes, None, ())
    live = [
        LiveTensor(value.producer.label if value.producer else value.name or "", str(value.type), slot.bytes)
        for value, slot in memory.slots.items()
        if slot.region == "arena" and _lives(plan, value, memory.peak)
    ]
    scratch = memory.scratch.get(plan.kernels[memory.peak])
    if scratch:
        live.append(LiveTensor(plan.kernels[memory.peak].label, "scratch", scratch.bytes))
    live.sort(key=lambda tensor: -tensor.bytes)
    return MemoryReport(
        memory.arena_bytes,
        memory.bound_bytes,
        memory.persistent_bytes,
        _row(plan, memory.peak),
        tuple(live),
        _timeline(plan),
    )


def _timeline(plan: Plan) -> tuple[int, ...]:
    """The bytes in the arena that live during each kernel."""
    count = len(plan.kernels)
    kept = {resolve(output) for output in plan.graph.outputs.values()}
    spans: dict[Value, list[int]] = {}
    change = [0] * (count + 1)
    for number, kernel in enumerate(plan.kernels):
        for value in (*kernel.writes, *kernel.reads):
            slot = plan.memory.slots.get(value)
            if slot is not None and slot.region == "arena":
                spans.setdefault(value, [number, number])[1] = count - 1 if value in kept else number
        scratch = plan.memory.scratch.get(kernel)
        if scratch is not None:
            change[number] += aligned(scratch.bytes)
            change[number + 1] -= aligned(scratch.bytes)
    for value, (first, last) in spans.items():
        change[first] += aligned(plan.memory.slots[value].bytes)
        change[last + 1] -= aligned(plan.memory.slots[value].bytes)
    return tuple(accumulate(change[:count]))


def _row(plan: Plan, number: int) -> KernelRow:
    kernel = plan.kernels[number]
    costs = [node.op.cost(*(operand.type for operand in node.operands)) for node in kernel.nodes]
    spans = kernel.location
    scratch = plan.memory.scratch.get(kernel)
    return KernelRow(
        number=number,
        name=_name(kernel),
        layer=kernel.label,
        line=spans[0].line if spans else None,
        section=(kernel.section.name or "").lower(),
        flops=sum(cost.flops for cost in costs),
        read_bytes=sum(value.type.bytes for value in kernel.reads),
        written_bytes=sum(value.type.bytes for value in kernel.writes),
        scratch_bytes=scratch.bytes if scratch else 0,
    )


def _name(kernel: Kernel) -> str:
    """The kernel's name, with `4 x adam_update` for what is repeated."""
    runs = [(word, len(list(group))) for word, group in groupby(kernel.name.split("+"))]
    return "+".join(word if count == 1 else f"{count} x {word}" for word, count in runs)


def _lives(plan: Plan, value: Value, moment: int) -> bool:
    """Whether a value is needed during kernel `moment`: written by then, and read then or later, or an output."""
    uses = [number for number, kernel in enumerate(plan.kernels) if value in kernel.reads or value in kernel.writes]
    if not uses or uses[0] > moment:
        return False
    kept = {resolve(output) for output in plan.graph.outputs.values()}
    return uses[-1] >= moment or value in kept
