"""The function that all threads run: the phases of a program in order, with barriers where they are needed.

    void step(ptr context, i64 rank, i64 parties)

Each phase is guarded by the sections and the range of phases that the caller asks for. A barrier stands before a phase
only if it touches memory that an earlier one, since the last barrier, has written (or read, if it writes). The phases
that prepare stand in front, in a block of their own: most runs pass by it, and by its barriers.
"""

from __future__ import annotations

from convc.codegen.llvm.kernel import BARRIER, CONTROL, FIRST, LAST, REGION_WORDS, SECTIONS, context_word
from convc.codegen.llvm.vocabulary import Function
from convc.lazy import dataclass
from convc.passes.fusion import Kernel
from convc.passes.memory import Slot
from convc.passes.plan import Plan
from convc.passes.sections import Section


@dataclass(frozen=True)
class Call:
    """One phase of one kernel."""

    kernel: Kernel
    function: Function
    arguments: tuple[Slot, ...]


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


def make_step(plan: Plan, calls: list[Call], name: str = "step") -> Function:
    """The step that makes the calls."""
    f = Function(name, 0, f"@{plan.graph.name}, {len(calls)} phases")
    f.exported = True
    # It only tests and calls: to optimise that takes a tenth of the time that LLVM has for the whole program.
    f.attributes += " optnone"
    control, sections = context_word(f, CONTROL, "ptr"), context_word(f, SECTIONS)
    first, last = context_word(f, FIRST), context_word(f, LAST)
    bases = {region: context_word(f, word, "ptr") for region, word in REGION_WORDS.items()}
    slots, scratch = plan.memory.slots, plan.memory.scratch

    def barrier() -> None:
        f.call(BARRIER, control)

    def emit(numbered: list[tuple[int, Call]]) -> None:
        hazards, previous = _Hazards(), None
        for number, call in numbered:
            kernel = call.kernel
            reads = [slots[value] for value in kernel.reads if value in slots]
            writes = [slots[value] for value in kernel.writes] + ([scratch[kernel]] if kernel in scratch else [])
            # Phases of one kernel talk through scratch space and results, in ways that only the kernel knows.
            if kernel is previous or hazards.conflict(reads, writes):
                barrier()
                hazards = _Hazards()
            hazards.add(reads, writes)
            previous = kernel
            wanted = f.emit("i64", f"and i64 {sections.ref}, {int(kernel.section)}")
            enabled = f.binary("and", f.less(0, wanted), f.less(first, number + 1))
            with f.when(f.binary("and", enabled, f.less(number, last))):
                pointers = [f.address(bases[slot.region], slot.offset, "i8") for slot in call.arguments]
                f.declarations[call.function.name] = call.function.prototype()
                text = "".join(f", ptr {pointer.ref}" for pointer in pointers)
                f.do(f"call void @{call.function.name}(ptr %context, i64 %rank, i64 %parties{text})")

    numbered = list(enumerate(calls))
    preparing = [entry for entry in numbered if entry[1].kernel.section is Section.PREPARE]
    assert preparing == numbered[: len(preparing)], "what prepares comes first"
    if preparing:
        wanted = f.emit("i64", f"and i64 {sections.ref}, {int(Section.PREPARE)}")
        with f.when(f.less(0, wanted)):
            emit(preparing)
            barrier()
    emit(numbered[len(preparing) :])
    return f
