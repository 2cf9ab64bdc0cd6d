"""Norms of all gradients together, and whether all of them are finite: one sum per chunk, then the sum of these.

What is added up, and in which order, depends on shapes and on the places of tensors alone.
"""

from __future__ import annotations

from convc.codegen.cuda.kernel import THREADS, KernelBuilder, Work
from convc.codegen.cuda.narrow import NarrowBuilder
from convc.ir.graph import Value
from convc.ir.ops.loss_scaling import AllFinite
from convc.ir.ops.sweep import GradientNorm
from convc.lazy import dataclass
from convc.passes.fusion import resolve
from convc.passes.memory import Slot
from convc.passes.packing import ALIGNMENT, aligned

# Numbers that a block adds up, as long as there are no more than so many chunks; more for larger nets.
_CHUNK = 8192
_MOST_CHUNKS = 4096
_SUM_BYTES = 8


@dataclass(frozen=True)
class _Range:
    """`size` consecutive numbers in memory, from where `first` lies."""

    first: Value
    size: int


def scratch_over_gradients(k: KernelBuilder) -> int:
    """A double for every chunk; as many as if no two tensors were neighbours."""
    values = [resolve(value) for value in k.anchor.operands]
    # Between neighbours there may be gaps, which count then.
    sizes = [aligned(k.bytes_of(value)) // 4 for value in values]
    return _SUM_BYTES * sum(-(-size // _CHUNK) for size in sizes)


def _ranges(k: KernelBuilder) -> list[_Range]:
    """The operands in memory; neighbours (gradients of one sweep of updates) are one range."""
    slots = k.plan.memory.slots
    values = sorted((resolve(value) for value in k.anchor.operands), key=lambda value: _place(slots[value]))
    spans: list[tuple[Value, int, int]] = []  # first value, start, end
    for value in values:
        slot = slots[value]
        start, end = slot.offset, slot.offset + slot.bytes
        if spans and slot.region == slots[spans[-1][0]].region and start == _next(slot, spans[-1][2]):
            spans[-1] = spans[-1][0], spans[-1][1], end
        else:
            spans.append((value, start, end))
    return [_Range(value, (end - start) // 4) for value, start, end in spans]


def _place(slot: Slot) -> tuple[str, int]:
    return slot.region, slot.offset


def _next(slot: Slot, end: int) -> int:
    """Where the neighbour of what ends there begins. Gaps are zeros in what outlives a run, and anything elsewhere."""
    return aligned(end) if slot.region == "persistent" else end


def lower_gradient_norm(k: KernelBuilder) -> None:
    k.op(GradientNorm)
    _over_gradients(k, "norm_squares.cuh", 2)


def lower_all_finite(k: KernelBuilder) -> None:
    k.op(AllFinite)
    _over_gradients(k, "norm_finite.cuh", 2)


def _over_gradients(k: KernelBuilder, rule: str, flops: int) -> None:
    """A sum over all numbers of all operands by a rule, and what it makes of that: `flops` for each number."""
    assert all(k.element(value) == "float" for value in k.kernel.reads), "gradients of parameters are float32"
    name, result = k.anchor.op.name, k.anchor.results[0]
    ranges = _ranges(k)
    total = sum(part.size for part in ranges)
    chunk = max(_CHUNK, -(-total // _MOST_CHUNKS))
    chunk = -(-chunk // (ALIGNMENT // 4)) * (ALIGNMENT // 4)
    counts = [-(-part.size // chunk) for part in ranges]
    chunks = sum(counts)
    narrow = NarrowBuilder(k, [part.first for part in ranges])
    lines = ["__device__ __forceinline__ const float* chunk_of(PARAMETERS, int chunk, i64& count) {"]
    for part, count in zip(ranges, counts, strict=True):
        last = part is ranges[-1]
        lines += [
            f"  {'' if last else f'if (chunk < {count}) '}{{",
            f"    count = {part.size}LL - (i64)chunk * CHUNK;",
            f"    return {narrow.name(part.first)} + (i64)chunk * CHUNK;",
            "  }",
            *([] if last else [f"  chunk -= {count};"]),
        ]
    lines.append("}")
    narrow.launch(
        ["block_total.cuh", rule, "norm_parts.cu"],
        lambda rows: (chunks, 1, 1),
        constants={"CHUNK": chunk},
        text="\n".join(lines),
        name=f"{name}_parts",
        work=Work(flops * total, 4 * total + _SUM_BYTES * chunks),
    )
    end = NarrowBuilder(k, [result])
    end.launch(
        ["block_total.cuh", rule, "norm.cu"],
        lambda rows: (1, 1, 1),
        threads=THREADS,
        constants={"CHUNKS": chunks},
        names={"RESULT": result},
        name=name,
        work=Work(chunks, _SUM_BYTES * chunks + 4),
    )
