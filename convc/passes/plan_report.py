"""What a plan comes to, for people: its kernels, and what fills the memory at the worst moment."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby, pairwise

from convc.ir.graph import Value
from convc.lazy import dataclass
from convc.passes.fusion import Kernel
from convc.passes.lifetimes import Buffer
from convc.passes.manager import PassReport
from convc.passes.plan import Plan
from convc.passes.recompute import Recomputation
from convc.passes.sections import EVERYTHING


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
    """`arena_bytes` is what a step takes, `bound_bytes` what lives at the peak, `persistent_bytes` outlives steps
    (gradients that are stored on demand only left out).

    `timeline` has the bytes that live during each kernel. `in_place` are the results that lie in the place of an
    operand, each as `layer <- layer of the operand`; `recomputed` the values that the backward pass makes again.
    """

    arena_bytes: int
    bound_bytes: int
    persistent_bytes: int
    peak_kernel: KernelRow | None
    live: tuple[LiveTensor, ...]
    timeline: tuple[int, ...] = ()
    in_place: tuple[str, ...] = ()
    recomputed: tuple[Recomputation, ...] = ()


def kernel_rows(plan: Plan) -> tuple[KernelRow, ...]:
    """The kernels in the order in which they run."""
    return tuple(_row(plan, number) for number in range(len(plan.kernels)))


def memory_report(plan: Plan, passes: Iterable[PassReport] = ()) -> MemoryReport:
    """Sizes, and the tensors that live during the kernel with the most of them, largest first.

    `passes` are the reports of those that made the graph.
    """
    memory = plan.memory
    if not plan.kernels:
        return MemoryReport(memory.arena_bytes, memory.bound_bytes, memory.lasting_bytes, None, ())
    live = [_live_tensor(plan, buffer) for buffer in memory.buffers if buffer.first <= memory.peak <= buffer.last]
    scratch = memory.scratch.get(plan.kernels[memory.peak])
    if scratch:
        live.append(LiveTensor(plan.kernels[memory.peak].label, "scratch", scratch.bytes))
    live.sort(key=lambda tensor: -tensor.bytes)
    return MemoryReport(
        memory.arena_bytes,
        memory.bound_bytes,
        memory.lasting_bytes,
        _row(plan, memory.peak),
        tuple(live),
        memory.live,
        tuple(
            f"{_label(after)} <- {_label(before)}"
            for buffer in memory.buffers
            for before, after in pairwise(buffer.values)
        ),
        tuple(finding for report in passes for finding in report.log.findings if isinstance(finding, Recomputation)),
    )


def _live_tensor(plan: Plan, buffer: Buffer) -> LiveTensor:
    """What a buffer holds at the peak: where a result takes the place of an operand, the result."""
    value = buffer.at(plan.memory.peak)
    return LiveTensor(_label(value), str(value.type), plan.memory.slots[value].bytes)


def _label(value: Value) -> str:
    return value.producer.label if value.producer else value.name or ""


def _row(plan: Plan, number: int) -> KernelRow:
    kernel = plan.kernels[number]
    costs = [node.cost for node in kernel.nodes]
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
        written_bytes=sum(value.type.bytes for value in kernel.writes_in(EVERYTHING)),
        scratch_bytes=scratch.bytes if scratch else 0,
    )


def _name(kernel: Kernel) -> str:
    """The kernel's name, with `4 x adam_update` for what is repeated."""
    runs = [(word, len(list(group))) for word, group in groupby(kernel.name.split("+"))]
    return "+".join(word if count == 1 else f"{count} x {word}" for word, count in runs)
