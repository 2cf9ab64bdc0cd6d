"""Norms: of all gradients together, and of the weights of each unit. Squares are added up in double precision.

What is added up depends on shapes alone: gradients are cut into chunks of a fixed size, units belong to one thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from convc.codegen.llvm.kernel import KernelBuilder
from convc.codegen.llvm.register_tile import column_pieces
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.ir.graph import Value
from convc.ir.ops.sweep import MaxNorm
from convc.passes.fusion import resolve
from convc.passes.layout import WeightLayout
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


def scratch_gradient_norm(k: KernelBuilder) -> int:
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
    ranges = _ranges(k)
    lanes = k.machine.lanes
    step = 2 * lanes
    chunks = ranges[-1].chunk + -(-ranges[-1].size // _CHUNK)

    def square(f: Function, total: V, place: V, lanes: int) -> V:
        value = f.convert("fpext", f.load(place, lanes), "double")
        return f.fma(value, value, total)

    def parts(f: Function) -> None:
        start, stop = f.share(chunks)
        zero = _zeros(lanes)
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
                        square(f, total, f.address(place, number * lanes), lanes)
                        for number, total in enumerate(group.carried)
                    ]
                total = f.total(f.binary("fadd", *group.carried))
                f.store(total, f.address(k.scratch_pointer(), chunk.index, "double"))

    def combine(f: Function) -> None:
        with f.when(f.equal(f.rank, 0)):
            with f.loop(0, chunks, carried=[_zeros(1)]) as chunk:
                value = f.load(f.address(k.scratch_pointer(), chunk.index, "double"), 1, "double")
                chunk.carried = [f.binary("fadd", chunk.carried[0], value)]
            total = chunk.carried[0]
            for part in ranges:
                with f.loop(part.whole(step), part.size, carried=[total]) as element:
                    place = f.address(k.pointer(part.first), element.index)
                    element.carried = [square(f, element.carried[0], place, 1)]
                total = element.carried[0]
            root = f.intrinsic("llvm.sqrt.f64", "double", total)
            f.store(f.convert("fptrunc", root, "float"), k.pointer(k.kernel.anchor.result))

    k.phase("gradient_norm_parts", parts)
    k.phase("gradient_norm", combine)


def _zeros(lanes: int) -> V:
    return V("0.0", "double") if lanes == 1 else V("zeroinitializer", f"<{lanes} x double>")


# The norm of each unit's weights

# Places in memory: a first element, and nested loops over (extent, distance).
_Box = tuple[Index, list[tuple[int, int]]]
_Visit = Callable[[Index, list[V]], list[V]]


def _walk(f: Function, start: Index, loops: list[tuple[int, int]], carried: list[V], visit: _Visit) -> list[V]:
    """Visit the places of a box in order, carrying values from one to the next."""
    if not loops:
        return visit(start, carried)
    (extent, distance), *rest = loops
    with f.loop(0, extent, carried=carried) as loop:
        loop.carried = _walk(f, f.add(start, f.multiply(loop.index, distance)), rest, loop.carried, visit)
    return loop.carried


def lower_max_norm(k: KernelBuilder) -> None:
    op = k.op(MaxNorm)
    w, result = k.kernel.anchor.operands[0], k.kernel.anchor.result
    layout = k.layout(resolve(w))

    def bound(f: Function, boxes: list[_Box], lanes: int) -> None:
        """Bring a unit, or as many units side by side as there are lanes, down to the bound."""

        def add(place: Index, carried: list[V]) -> list[V]:
            value = f.convert("fpext", f.load(f.address(k.pointer(w), place), lanes), "double")
            return [f.fma(value, value, carried[0])]

        def scale(place: Index, carried: list[V]) -> list[V]:
            value = f.load(f.address(k.pointer(w), place), lanes)
            f.store(f.binary("fmul", value, factor), f.address(k.pointer(result), place))
            return []

        sums = [_zeros(lanes)]
        for start, loops in boxes:
            sums = _walk(f, start, loops, sums, add)
        norm = f.convert("fptrunc", f.unary("sqrt", sums[0]), "float")
        most = f.constant(op.bound, lanes)
        exceeds = f.compare("ogt", norm, most)
        factor = f.select(exceeds, f.binary("fdiv", most, norm), f.constant(1.0, lanes))
        for start, loops in boxes:
            _walk(f, start, loops, [], scale)

    def body(f: Function) -> None:
        if isinstance(layout, WeightLayout) and op.axis == 0:
            _packed_outputs(f, layout, k.machine.lanes, bound)
        elif isinstance(layout, WeightLayout):
            _packed_inputs(f, layout, bound)
        else:
            _plain_units(f, op, w.shape, bound)

    k.phase("max_norm", body)


_Bound = Callable[[Function, list[_Box], int], None]


def _packed_outputs(f: Function, layout: WeightLayout, lanes: int, bound: _Bound) -> None:
    """Units are columns of blocks: as many at once as fit a vector."""
    depth = layout.rows.size
    full, rest = divmod(layout.columns, layout.block)
    for first, count, width in ((0, full, layout.block), (full, 1 if rest else 0, rest)):
        if not count:
            continue
        start, stop = f.share(layout.groups * count)
        with f.loop(start, stop) as unit:
            group, block = f.divide(unit.index, count), f.remainder(unit.index, count)
            column = f.add(f.multiply(group, layout.columns), f.multiply(f.add(block, first), layout.block))
            base = f.multiply(column, depth)
            for piece in column_pieces(width, lanes):
                bound(f, [(f.add(base, piece.offset), [(depth, width)])], piece.lanes)


def _packed_inputs(f: Function, layout: WeightLayout, bound: _Bound) -> None:
    """Units are channels of the rows, across all blocks of a group: the outputs of a transposed convolution."""
    depth, rows = layout.rows.size, layout.rows
    full, rest = divmod(layout.columns, layout.block)
    start, stop = f.share(layout.groups * rows.channels)
    with f.loop(start, stop) as unit:
        group, channel = f.divide(unit.index, rows.channels), f.remainder(unit.index, rows.channels)
        base = f.multiply(group, layout.columns * depth)
        boxes: list[_Box] = []
        for first, count, width in ((0, full, layout.block), (full, 1 if rest else 0, rest)):
            if count:
                begin = f.sum(base, first * layout.block * depth, f.multiply(channel, width))
                boxes.append((begin, [(count, layout.block * depth), (rows.pixels, rows.stored * width), (width, 1)]))
        bound(f, boxes, 1)


def _plain_units(f: Function, op: MaxNorm, shape: tuple[int, ...], bound: _Bound) -> None:
    """Weights in logical order, which no layer reads."""
    inner = math.prod(shape[1:]) if op.axis == 0 else math.prod(shape[2:])
    units = shape[0] if op.axis == 0 else op.groups * shape[1]
    start, stop = f.share(units)
    with f.loop(start, stop) as unit:
        if op.axis == 0:
            bound(f, [(f.multiply(unit.index, inner), [(inner, 1)])], 1)
        else:
            group, output = f.divide(unit.index, shape[1]), f.remainder(unit.index, shape[1])
            inputs = shape[0] // op.groups
            base = f.add(f.multiply(group, inputs * shape[1] * inner), f.multiply(output, inner))
            bound(f, [(base, [(inputs, shape[1] * inner), (inner, 1)])], 1)
