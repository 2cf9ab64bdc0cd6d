"""The function that all threads run: the phases of a program in order, with barriers where they are needed.

    void step(ptr context, i64 rank, i64 parties)

Each phase is guarded by the sections and the range of phases that the caller asks for. A barrier stands before a group
of phases only if it touches memory that an earlier one, since the last barrier, has written (or read, if it writes).
A chain (see `convc.passes.schedule`) runs block of images by block of images when the whole of it is asked for and
there are images enough for the threads; else its phases run one by one on the whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from convc.codegen.llvm.kernel import CONTROL, FIRST, LAST, REGION_WORDS, ROWS, SECTIONS, context_word
from convc.codegen.llvm.vocabulary import Function, Index, V, ref
from convc.ir.graph import Value
from convc.passes.fusion import Kernel
from convc.passes.memory import Slot
from convc.passes.plan import Plan
from convc.passes.schedule import Group

BARRIER = "convc_barrier"


@dataclass(frozen=True)
class Argument:
    """A pointer that a phase takes: a place, and how far apart the images of a batched value lie (else 0)."""

    slot: Slot
    row_bytes: int


@dataclass(frozen=True)
class Call:
    """One phase of one kernel."""

    kernel: Kernel
    function: Function
    arguments: tuple[Argument, ...]

    @property
    def local(self) -> bool:
        """Whether it can run on some of the images alone."""
        return self.function.scratch_row is not None


class _Hazards:
    """Which memory has been touched since the last barrier."""

    def __init__(self) -> None:
        self.read: list[Slot] = []
        self.written: list[Slot] = []

    def conflict(self, reads: list[Slot], writes: list[Slot]) -> bool:
        return _overlap(reads, self.written) or _overlap(writes, self.written) or _overlap(writes, self.read)

    def add(self, reads: list[Slot], writes: list[Slot]) -> None:
        self.read += reads
        self.written += writes


def _overlap(left: list[Slot], right: list[Slot]) -> bool:
    return any(
        a.region == b.region and a.offset < b.offset + b.bytes and b.offset < a.offset + a.bytes
        for a in left
        for b in right
    )


def make_step(plan: Plan, groups: list[tuple[Group, list[Call]]]) -> Function:
    """The step of a plan whose groups have been lowered to calls."""
    count = sum(len(calls) for _, calls in groups)
    emitter = _Emitter(plan, Function("step", 0, f"@{plan.graph.name}, {count} phases"))
    for group, calls in groups:
        emitter.group(group, calls)
    return emitter.f


class _Emitter:
    def __init__(self, plan: Plan, f: Function) -> None:
        self.plan, self.f = plan, f
        self.control = context_word(f, CONTROL, "ptr")
        self.sections, self.rows = context_word(f, SECTIONS), context_word(f, ROWS)
        self.first, self.last = context_word(f, FIRST), context_word(f, LAST)
        self.bases = {region: context_word(f, word, "ptr") for region, word in REGION_WORDS.items()}
        self.hazards = _Hazards()
        self.number = 0

    def group(self, group: Group, calls: list[Call]) -> None:
        reads = [slot for call in calls for slot in self._slots(call.kernel.reads)]
        writes = [slot for call in calls for slot in (*self._slots(call.kernel.writes), *self._scratch(call.kernel))]
        if self.hazards.conflict(reads, writes):
            self._barrier()
            self.hazards = _Hazards()
        self.hazards.add(reads, writes)
        if group.images:
            once = [call for call in calls if not call.local]
            self._in_turn(once)
            if once:
                self._barrier()
            self._chain(group, [call for call in calls if call.local])
        else:
            self._in_turn(calls)

    def _slots(self, values: tuple[Value, ...]) -> list[Slot]:
        return [self.plan.memory.slots[value] for value in values if value in self.plan.memory.slots]

    def _scratch(self, kernel: Kernel) -> list[Slot]:
        return [self.plan.memory.scratch[kernel]] if kernel in self.plan.memory.scratch else []

    def _barrier(self) -> None:
        self.f.do(f"call void @{BARRIER}(ptr {self.control.ref})")

    def _in_turn(self, calls: list[Call]) -> None:
        """Phases one by one on all images; those of one kernel talk through memory in ways that only it knows."""
        f = self.f
        for position, call in enumerate(calls):
            if position:
                self._barrier()
            with f.when(self._enabled(call.kernel, self.number, self.number + 1)):
                self._call(call, f.rank, f.parties, self.rows, 0)
            self.number += 1

    def _chain(self, group: Group, calls: list[Call]) -> None:
        f = self.f
        first, last = self.number, self.number + len(calls)
        whole = f.binary("and", f.less(self.first, first + 1), f.less(last - 1, self.last))
        plenty = f.less(f.multiply(f.parties, 2), f.add(self.rows, 1))
        chained = f.binary("and", whole, plenty)
        with f.when(f.binary("and", chained, self._enabled(calls[0].kernel, first, last))):
            start, stop = f.share(self.rows)
            with f.loop(start, stop, group.images) as block:
                images = f.minimum(f.subtract(stop, block.index), group.images)
                for call in calls:
                    self._call(call, 0, 1, images, block.index)
        with f.when(f.binary("xor", chained, V("true", "i1"))):
            self._in_turn(calls)

    def _enabled(self, kernel: Kernel, first: int, last: int) -> V:
        """Whether the section is asked for, and some of the phases from `first` to `last`."""
        f = self.f
        wanted = f.less(0, f.emit("i64", f"and i64 {self.sections.ref}, {int(kernel.section)}"))
        return f.binary("and", wanted, f.binary("and", f.less(self.first, last), f.less(first, self.last)))

    def _call(self, call: Call, rank: Index, parties: Index, rows: Index, image: Index) -> None:
        f = self.f
        pointers: list[str] = []
        for argument in call.arguments:
            place = f.address(self.bases[argument.slot.region], argument.slot.offset, "i8")
            pointers.append(f", ptr {f.address(place, f.multiply(image, argument.row_bytes), 'i8').ref}")
        numbers = f"i64 {ref(rank)}, i64 {ref(parties)}, i64 {ref(rows)}"
        f.do(f"call void @{call.function.name}(ptr {f.context.ref}, {numbers}{''.join(pointers)})")
