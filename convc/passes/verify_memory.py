"""Checks where a plan puts things, by running its kernels on a model of memory (`memory_model.py`).

The kernels run with all the sections that a program is asked for: each value that a kernel reads must be whole at its
place, and so must every result when a run is over.
"""

from __future__ import annotations

from collections.abc import Iterator

from convc.ir.diagnostic import Diagnostic
from convc.ir.graph import Node, Value
from convc.ir.ops.constant import Constant
from convc.ir.ops.loss_scaling import MoveScale
from convc.ir.ops.round_to import RoundTo
from convc.ir.ops.sweep import MaxNorm, Sweep
from convc.lazy import dataclass
from convc.passes.fusion import Kernel, is_immediate, resolve
from convc.passes.in_place import elementwise_operands
from convc.passes.memory import Slot, on_demand_values, overlap
from convc.passes.memory_model import MemoryModel
from convc.passes.packing import ALIGNMENT
from convc.passes.plan import Plan
from convc.passes.sections import BATCH, EVERYTHING, Section, section_of

# What a program is asked for, one after the other; the first run prepares, and each finds what the one before has left.
_RUNS = (
    EVERYTHING | Section.PREPARE,
    Section.FORWARD,
    Section.FORWARD | Section.GRADIENT,
    Section.FORWARD | Section.GRADIENT | Section.STATISTICS,
    BATCH,
    EVERYTHING,
    Section.FORWARD,
)


class Findings:
    """The problems of a plan, each once, in words that name kernels and values."""

    def __init__(self, plan: Plan) -> None:
        self._numbers = {kernel: number for number, kernel in enumerate(plan.kernels)}
        self._found: dict[Diagnostic, None] = {}

    def add(self, message: str, kernel: Kernel | None = None, node: Node | None = None) -> None:
        place = f"kernel {self._numbers[kernel]} ({kernel.name} {kernel.label}): " if kernel else ""
        blamed = node or (kernel.anchor if kernel else None)
        self._found[Diagnostic("verify-plan", place + message, blamed.span if blamed else None)] = None

    def all(self) -> list[Diagnostic]:
        return list(self._found)


def stored_values(plan: Plan) -> list[Value]:
    """Every value that has a place, or should have one."""
    graph = plan.graph
    touched = [value for kernel in plan.kernels for value in (*kernel.reads, *kernel.writes)]
    lasting = [parameter.value for parameter in graph.parameters.values()]
    given = map(resolve, (*graph.outputs.values(), *graph.updates.values()))
    values = dict.fromkeys((*given, *touched, *lasting))
    return [value for value in values if not is_immediate(value) and not _in_context(plan, value)]


def _in_context(plan: Plan, value: Value) -> bool:
    """Scalar inputs are passed with the call."""
    return value.producer is None and value.type.rank == 0 and value.name in plan.graph.inputs


def name_of(value: Value) -> str:
    """How a message calls a value."""
    if value.name or value.producer is None:
        return f"%{value.name}"
    return f"{value.producer.op.name}({value.producer.label})" + (f":{value.index}" if value.index else "")


class MemoryChecker:
    """Reports to `findings`. `places` looks at the places, `runs` runs a plan whose parts and places fit."""

    def __init__(self, plan: Plan, findings: Findings) -> None:
        self.plan, self.graph, self.memory, self.report = plan, plan.graph, plan.memory, findings.add
        # Kernels with the numbers of their sections, since flags compare slowly, and with what they read from memory.
        self._kernels = [
            (kernel, int(kernel.section), [value for value in kernel.reads if not _in_context(plan, value)])
            for kernel in plan.kernels
        ]

    def places(self) -> None:
        """Every value has one, of its size and within its region; what a kernel touches at once lies apart."""
        sizes = {"arena": self.memory.arena_bytes, "persistent": self.memory.persistent_bytes}
        for value in stored_values(self.plan):
            slot = self.memory.slots.get(value)
            if slot is None:
                self.report(f"{name_of(value)} has no place")
            elif value in self.plan.layouts and slot.bytes != self.plan.bytes_of(value):
                self.report(f"{name_of(value)} has {slot.bytes} bytes, but takes {self.plan.bytes_of(value)}")
        for kernel in self.plan.kernels:
            slot, needed = self.memory.scratch.get(kernel), self.plan.scratch_bytes(kernel, self.plan)
            if needed != (slot.bytes if slot else 0):
                self.report(f"has {slot.bytes if slot else 0} bytes of scratch space, but takes {needed}", kernel)
        for slot in {*self.memory.slots.values(), *self.memory.scratch.values()}:
            if slot.offset % ALIGNMENT or slot.offset < 0:
                self.report(f"{slot} is not aligned to {ALIGNMENT} bytes")
            if slot.region in sizes and slot.offset + slot.bytes > sizes[slot.region]:
                self.report(f"{slot} ends beyond the {sizes[slot.region]} bytes of its region")
        for kernel in self.plan.kernels:
            self._apart(kernel)
        if self.memory.bound_bytes > self.memory.arena_bytes:
            self.report(f"{self.memory.bound_bytes} bytes live at once in {self.memory.arena_bytes}")

    def runs(self) -> None:
        """Every value is where it is read, when it is read."""
        model, slots = MemoryModel(), self.memory.slots
        given = [parameter.value for parameter in self.graph.parameters.values()]
        given += [node.result for node in self.graph.nodes_of(Constant)]
        given += self.graph.inputs.values()
        for value in given:
            if value in slots:
                model.write(slots[value], value)
        for sections in _RUNS:
            model.clear("arena")
            self._run(model, sections)
            self._results(model, sections)
            for name, value in self.graph.updates.items():
                parameter = self.graph.parameters[name].value
                if model.holds(slots[parameter], resolve(value)):
                    model.write(slots[parameter], parameter)
        self._stale()

    def _run(self, model: MemoryModel, sections: Section) -> None:
        slots, asked = self.memory.slots, int(sections)
        for kernel, section, reads in self._kernels:
            if not section & asked:
                continue
            for value in reads:
                if not model.holds(slots[value], value):
                    self._missing(model, slots[value], f"reads {name_of(value)}", sections, kernel)
            if kernel in self.memory.scratch:
                model.erase(self.memory.scratch[kernel])
            for value in kernel.writes_in(sections):
                model.write(slots[value], value)

    def _missing(
        self, model: MemoryModel, slot: Slot, what: str, sections: Section, kernel: Kernel | None = None
    ) -> None:
        instead = model.instead(slot)
        there = f"holds {name_of(instead)}" if instead is not None else "nobody has written"
        asked = "everything" if sections & EVERYTHING == EVERYTHING else sections.name or str(int(sections))
        self.report(f"{what}, whose place {there} (asked for {asked})", kernel)

    def _results(self, model: MemoryModel, sections: Section) -> None:
        """What the caller reads after a run is there."""
        slots = self.memory.slots
        used_up = set(on_demand_values(self.plan)) if sections & Section.UPDATE else set[Value]()
        for name, value in self.graph.outputs.items():
            wanted, stored = Section.FORWARD if name == "logits" else Section.GRADIENT, resolve(value)
            given = is_immediate(stored) or _in_context(self.plan, stored)
            if not wanted & sections or given or stored in used_up:
                continue
            if not model.holds(slots[stored], stored):
                self._missing(model, slots[stored], f"output {name} is {name_of(stored)}", sections)
        for name, value in self.graph.updates.items():
            parameter, stored = self.graph.parameters[name], resolve(value)
            place = slots[parameter.value]
            if section_of(parameter) & sections and not model.holds(place, stored):
                self._missing(model, place, f"{name} is updated by {name_of(stored)}", sections)

    def _apart(self, kernel: Kernel) -> None:
        """What a kernel touches lies apart, unless it may write a result over an operand."""
        slots = self.memory.slots
        read = [_Touched(slots[value], value) for value in kernel.reads if value in slots]
        written = [_Touched(slots[value], value, True) for value in kernel.writes if value in slots]
        scratch = [_Touched(self.memory.scratch[kernel], None, True)] if kernel in self.memory.scratch else []
        for one, other in _meetings([*read, *written, *scratch]):
            if one.value is None or other.value is None:
                value = one.value or other.value
                self.report(f"has its scratch space where {name_of(value) if value else 'it'} lies", kernel)
            elif one.written and other.written:
                self.report(f"writes {name_of(one.value)} and {name_of(other.value)} to one place", kernel)
            elif one.written or other.written:
                result, operand = (one, other) if one.written else (other, one)
                self._over(kernel, result, operand)

    def _over(self, kernel: Kernel, result: _Touched, operand: _Touched) -> None:
        """What is written over an operand lies exactly there, and the operand is read element by element."""
        assert result.value is not None
        assert operand.value is not None
        if isinstance(kernel.anchor.op, (Sweep, MaxNorm, MoveScale, RoundTo)):
            free = set(result.value.producer.operands if result.value.producer else ())
        else:
            free = elementwise_operands(kernel, self.plan.machine)
            free |= set(kernel.update.operands) if kernel.update else set()
        names = f"{name_of(result.value)} over"
        if result.slot != operand.slot:
            self.report(f"writes {names} a part of {name_of(operand.value)}", kernel)
        elif operand.value not in free or not self.plan.lies_like(result.value, operand.value):
            self.report(f"writes {names} {name_of(operand.value)}, which it still reads", kernel)

    def _stale(self) -> None:
        """What is prepared once may not depend on anything that a run changes."""
        moving = {*self.graph.inputs.values(), *(self.graph.parameters[name].value for name in self.graph.updates)}
        moving |= {v for kernel in self.plan.kernels if kernel.section is not Section.PREPARE for v in kernel.writes}
        for kernel in self.plan.kernels:
            for value in kernel.reads if kernel.section is Section.PREPARE else ():
                if value in moving:
                    self.report(f"is prepared once, but reads {name_of(value)}, which changes", kernel)


@dataclass(frozen=True)
class _Touched:
    """A place that a kernel reads or writes, and the value there; None for scratch space."""

    slot: Slot
    value: Value | None
    written: bool = False


def _meetings(touched: list[_Touched]) -> Iterator[tuple[_Touched, _Touched]]:
    """All pairs that share a byte; those that read alone may."""
    active: list[_Touched] = []
    for one in sorted(touched, key=lambda entry: (entry.slot.region, entry.slot.offset)):
        active = [other for other in active if overlap(other.slot, one.slot)]
        yield from ((other, one) for other in active)
        active.append(one)
