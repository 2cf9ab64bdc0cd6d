"""Norms: of all gradients together, and of the weights of each unit. Squares are added up in double precision.

Whether all gradients are finite is found out in the same way. What is added up depends on shapes alone: gradients are
cut into chunks of a fixed size, units belong to one thread.
"""

from __future__ import annotations

from collections.abc import Callable

from convc.codegen.llvm.kernel import KernelBuilder
from convc.codegen.llvm.units import Box, double_zeros, each_unit, walk
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.ir.graph import Value
from convc.ir.ops.sweep import MaxNorm
from convc.lazy import dataclass
from convc.passes.fusion import resolve
from convc.passes.memory import Slot, aligned

_CHUNK = 8192  # elements that are added up to one number; a multiple of two vectors of every machine


# The norm of all gradients


@dataclass(frozen=True)
class _Range:
    """Consecutive elements in memory, from where `first` lies; `chunk` is the number of its first chunk."""

    first: Value
    size: int
    chunk: int

    def whole(self, step: int) -> int:
        """How many elements fill steps of vectors."""
        return self.size // step * step


def scratch_over_gradients(k: KernelBuilder) -> int:
    """One double per chunk, and one per range for what fills no vector; as many as if nothing were contiguous."""
    sizes = [k.layout(resolve(value)).size for value in k.kernel.anchor.operands]
    return 8 * sum((size + 16) // _CHUNK + 2 for size in sizes)


def _ranges(k: KernelBuilder) -> list[_Range]:
    """The operands in memory; neighbours (gradients of one sweep of updates) are one range, with zeros in the gaps."""
    slots = k.plan.memory.slots
    values = sorted((resolve(value) for value in k.kernel.anchor.operands), key=lambda v: _place(slots[v]))
    spans: list[tuple[Value, int, int]] = []  # first value, start, end
    for value in values:
        slot = slots[value]
        start, end = slot.offset, slot.offset + slot.bytes
        if spans and slot.region == slots[spans[-1][0]].region == "persistent" and start == aligned(spans[-1][2]):
            spans[-1] = spans[-1][0], spans[-1][1], end
        else:
            spans.append((value, start, end))
    found: list[_Range] = []
    chunk = 0
    for value, start, end in spans:
        size = (end - start) // 4
        found.append(_Range(value, size, chunk))
        chunk += -(-size // _CHUNK)
    return found


def _place(slot: Slot) -> tuple[str, int]:
    return slot.region, slot.offset


def lower_gradient_norm(k: KernelBuilder) -> None:
    def square(f: Function, total: V, place: V, lanes: int) -> V:
        value = f.convert("fpext", f.load(place, lanes), "double")
        return f.fma(value, value, total)

    def root(f: Function, total: V) -> V:
        return f.convert("fptrunc", f.intrinsic("llvm.sqrt.f64", "double", total), "float")

    _over_gradients(k, "double", square, root)


def lower_all_finite(k: KernelBuilder) -> None:
    """A number times zero is zero, and what is none is NaN, which no sum leaves again."""

    def nothing(f: Function, total: V, place: V, lanes: int) -> V:
        return f.fma(f.load(place, lanes), f.constant(0.0, lanes), total)

    def verdict(f: Function, total: V) -> V:
        zero = f.constant(0.0)
        return f.select(f.compare("oeq", total, zero), f.constant(1.0), zero)

    _over_gradients(k, "float", nothing, verdict)


def _over_gradients(
    k: KernelBuilder, element: str, add: Callable[[Function, V, V, int], V], result: Callable[[Function, V], V]
) -> None:
    """A sum of `element`s over all elements of all operands, and what is made of it. `add` puts to a sum what comes of
    the lanes at a place."""
    name = k.kernel.anchor.op.name
    assert not any(value.type.dtype.is_half for value in k.kernel.reads), "gradients of parameters are float32"
    ranges = _ranges(k)
    lanes = k.machine.lanes
    step = 2 * lanes
    chunks = ranges[-1].chunk + -(-ranges[-1].size // _CHUNK)

    def parts(f: Function) -> None:
        start, stop = f.share(chunks)
        zero = _zeros(f, element, lanes)
        for part in ranges:
            whole, base = part.whole(step), k.pointer(part.first)
            own = -(-part.size // _CHUNK)
            first, last = f.maximum(start, part.chunk), f.minimum(stop, part.chunk + own)
            with f.loop(first, last) as chunk:
                begin = f.multiply(f.subtract(chunk.index, part.chunk), _CHUNK)
                end = f.minimum(f.add(begin, _CHUNK), whole)
                with f.loop(begin, end, step, carried=[zero, zero]) as group:
                    place = f.address(base, group.index)
                    group.carried = [
                        add(f, total, f.address(place, number * lanes), lanes)
                        for number, total in enumerate(group.carried)
                    ]
                total = f.total(f.binary("fadd", *group.carried))
                f.store(total, f.address(k.scratch_pointer(), chunk.index, element))

    def combine(f: Function) -> None:
        with f.when(f.equal(f.rank, 0)):
            with f.loop(0, chunks, carried=[_zeros(f, element, 1)]) as chunk:
                value = f.load(f.address(k.scratch_pointer(), chunk.index, element), 1, element)
                chunk.carried = [f.binary("fadd", chunk.carried[0], value)]
            total = chunk.carried[0]
            for part in ranges:
                with f.loop(part.whole(step), part.size, carried=[total]) as rest:
                    place = f.address(k.pointer(part.first), rest.index)
                    rest.carried = [add(f, rest.carried[0], place, 1)]
                total = rest.carried[0]
            f.store(result(f, total), k.pointer(k.kernel.anchor.result))

    k.phase(f"{name}_parts", parts)
    k.phase(name, combine)


def _zeros(f: Function, element: str, lanes: int) -> V:
    return double_zeros(lanes) if element == "double" else f.constant(0.0, lanes)


# The norm of each unit's weights


def lower_max_norm(k: KernelBuilder) -> None:
    op = k.op(MaxNorm)
    w, result = k.kernel.anchor.operands[0], k.kernel.anchor.result
    layout = k.layout(resolve(w))

    def bound(f: Function, boxes: list[Box], lanes: int) -> None:
        """Bring a unit, or as many units side by side as there are lanes, down to the bound."""

        def add(place: Index, carried: list[V]) -> list[V]:
            value = f.convert("fpext", f.load(f.address(k.pointer(w), place), lanes), "double")
            return [f.fma(value, value, carried[0])]

        def scale(place: Index, carried: list[V]) -> list[V]:
            value = f.load(f.address(k.pointer(w), place), lanes)
            f.store(f.binary("fmul", value, factor), f.address(k.pointer(result), place))
            return []

        (total,) = walk(f, boxes, [double_zeros(lanes)], add)
        norm = f.convert("fptrunc", f.unary("sqrt", total), "float")
        most = f.constant(op.bound, lanes)
        exceeds = f.compare("ogt", norm, most)
        factor = f.select(exceeds, f.binary("fdiv", most, norm), f.constant(1.0, lanes))
        walk(f, boxes, [], scale)

    def body(f: Function) -> None:
        def visit(unit: Index, boxes: list[Box], lanes: int) -> None:
            bound(f, boxes, lanes)

        each_unit(f, layout, w.shape, op.axis, op.groups, k.machine.lanes, visit)

    k.phase("max_norm", body)
