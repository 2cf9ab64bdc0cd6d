"""Programs whose every buffer lies against an inaccessible page: a kernel that leaves its operands dies, and is named.

    inaccessible page | canary … buffer | inaccessible page | canary … buffer | inaccessible page       side="after"
    inaccessible page | buffer … canary | inaccessible page | buffer … canary | inaccessible page       side="before"

Parameters, images, labels, results, gradients and scratch space all lie so; nothing shares a place over time, but for
what is computed in place and what one loop sweeps over. Buffers keep their alignment, so up to 63 bytes may lie between
the end of one and its page. What is not buffer holds a pattern that is NaN as a number: a changed canary is a write
outside of all buffers, and a read outside shows as NaN in the results. So does what a kernel should have written, and
has not: all memory begins as NaN.

A run that is `forked` happens in a child, with which the memory is shared; its death is an AssertionError here that
names the kernel. To fork takes as long as many a test, so most run in the process of the test: a kernel that leaves its
operands ends that, and pytest (with workers) and Python's fault handler say which test it was.
"""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import os
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np

from convc.codegen.llvm.kernel import FIRST, LAST
from convc.ir.graph import Graph
from convc.ir.ops.sweep import Sweep
from convc.passes.base import PassLog
from convc.passes.fusion import resolve
from convc.passes.memory import PlanMemory, Region, Slot, gradient_blocks
from convc.passes.packing import ALIGNMENT, aligned
from convc.passes.plan import Plan
from convc.passes.planning import PLANNING
from convc.passes.sections import Section
from convc.passes.verify_memory import name_of
from convc.runtime.executor import Result
from convc.runtime.native import NativeExecutor
from convc.runtime.threads import ThreadPool

Side = Literal["after", "before"]
PAGE = mmap.PAGESIZE
_NAN = 0xFF  # of every byte
_PROT_NONE = 0
_LIBC = ctypes.CDLL(None, use_errno=True)
_SECONDS = 120  # after which a child that hangs is killed


def _pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


def _spread(sizes: Iterable[int], side: Side) -> tuple[list[int], int]:
    """Offsets of buffers with an inaccessible page before the first and after each, and the size of it all."""
    offsets: list[int] = []
    end = PAGE
    for size in sizes:
        slack = _pages(size) - aligned(size)
        offsets.append(end + (slack if side == "after" else 0))
        end += _pages(size) + PAGE
    return offsets, end


@dataclass(frozen=True)
class SpreadMemory(PlanMemory):
    """As `memory`, but every buffer has pages of its own."""

    side: Side = "after"

    def run(self, plan: Plan, log: PassLog) -> None:
        super().run(plan, log)
        memory = plan.memory
        # The arena: one place for each buffer and each scratch space, and for gradients that one loop sweeps over.
        swept = gradient_blocks(plan)
        places = [buffer.values for buffer in memory.buffers if not any(buffer.values[0] in block for block in swept)]
        sizes = [_extent([memory.slots[value] for value in values]) for values in (*places, *swept)]
        offsets, memory.arena_bytes = _spread([*sizes, *(slot.bytes for slot in memory.scratch.values())], self.side)
        for values, offset in zip((*places, *swept), offsets, strict=False):
            start = memory.slots[values[0]].offset
            for value in values:
                slot = memory.slots[value]
                memory.slots[value] = replace(slot, offset=offset + slot.offset - start)
        for kernel, offset in zip(memory.scratch, offsets[len(sizes) :], strict=True):
            memory.scratch[kernel] = replace(memory.scratch[kernel], offset=offset)
        # What outlives a run: one place for each block that a single loop sweeps over.
        blocks = _blocks(plan)
        offsets, memory.persistent_bytes = _spread((_extent(block) for block in blocks), self.side)
        moved = {
            slot: replace(slot, offset=offset + slot.offset - block[0].offset)
            for block, offset in zip(blocks, offsets, strict=True)
            for slot in block
        }
        memory.slots = {value: moved.get(slot, slot) for value, slot in memory.slots.items()}


def _blocks(plan: Plan) -> list[list[Slot]]:
    """The places of what outlives a run, in order; those that kernels sweep over as one are one block."""
    slots = sorted({slot for slot in plan.memory.slots.values() if slot.region == "persistent"}, key=lambda s: s.offset)
    follows: set[Slot] = set()
    for kernel in plan.kernels:
        if isinstance(kernel.anchor.op, Sweep):
            for position in range(kernel.anchor.op.tensors):
                swept = [
                    plan.memory.slots[resolve(node.operands[position])] for node in (kernel.anchor, *kernel.riders)
                ]
                follows |= set(sorted(swept, key=lambda slot: slot.offset)[1:])
    blocks: list[list[Slot]] = []
    for slot in slots:
        if slot in follows:
            blocks[-1].append(slot)
        else:
            blocks.append([slot])
    return blocks


def _extent(block: list[Slot]) -> int:
    return block[-1].offset + block[-1].bytes - block[0].offset


class GuardedMemory:
    """Memory that a forked child shares, NaN but for the gaps within a block, of which loops that sweep over several
    tensors expect zeros. Pages without a slot are inaccessible."""

    def __init__(self, slots: Iterable[Slot], size: int) -> None:
        self.bytes = np.frombuffer(mmap.mmap(-1, max(_pages(size), PAGE)), np.uint8)
        self.address = self.bytes.ctypes.data
        self._slots = sorted(set(slots), key=lambda slot: slot.offset)
        self.bytes.fill(_NAN)
        used = np.zeros(len(self.bytes) // PAGE, np.bool_)
        for slot in self._slots:
            used[slot.offset // PAGE : _pages(slot.offset + slot.bytes) // PAGE] = True
        self._blocks = self._find_blocks()
        for start, end in self._blocks:
            self.bytes[start:end] = 0
        self.poison()
        for page in np.flatnonzero(~used):
            if _LIBC.mprotect(ctypes.c_void_p(self.address + int(page) * PAGE), ctypes.c_size_t(PAGE), _PROT_NONE):
                raise OSError(ctypes.get_errno(), "mprotect")

    def _find_blocks(self) -> list[tuple[int, int]]:
        """Start and end of what lies between two inaccessible pages."""
        blocks: list[tuple[int, int]] = []
        for slot in self._slots:
            end = slot.offset + slot.bytes
            if blocks and slot.offset - blocks[-1][1] < ALIGNMENT:
                blocks[-1] = blocks[-1][0], max(end, blocks[-1][1])
            else:
                blocks.append((slot.offset, end))
        return blocks

    def poison(self) -> None:
        """NaN in all slots."""
        for slot in self._slots:
            self.bytes[slot.offset : slot.offset + slot.bytes] = _NAN

    def strays(self) -> list[int]:
        """Offsets of the blocks beside which somebody has written."""
        beside = ((s, self.bytes[s // PAGE * PAGE : s], self.bytes[e : _pages(e)]) for s, e in self._blocks)
        return [start for start, *canaries in beside if any((canary != _NAN).any() for canary in canaries)]


def guarded_copy(array: np.ndarray, side: Side) -> np.ndarray:
    """A copy whose elements begin or end at an inaccessible page."""
    offset = PAGE + (_pages(array.nbytes) - array.nbytes if side == "after" else 0)
    size = 2 * PAGE + _pages(max(array.nbytes, 1))
    memory = GuardedMemory([Slot("input", offset, array.nbytes)], size)
    copy = memory.bytes[offset : offset + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


class _ForkedPool:
    """Launches in a forked child. `died` is called after its death, and says whose fault it was."""

    def __init__(self, pool: ThreadPool, died: Callable[[], str]) -> None:
        self.pool, self.control, self._died = pool, pool.control, died

    def launch(self, function: int, argument: int) -> None:
        if not survives(lambda: self.pool.launch(function, argument)):
            raise AssertionError(self._died())


def survives(run: Callable[[], None]) -> bool:
    """Whether a forked child that runs it comes to its end; an AssertionError for a child that hangs."""
    child = os.fork()
    if child == 0:
        faulthandler.disable()  # of many deaths one is looked for
        signal.alarm(_SECONDS)
        code = 1
        try:
            run()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) != signal.SIGALRM, "the kernels hang"
        return False
    assert os.WEXITSTATUS(status) == 0, "the launch failed"
    return True


class GuardedExecutor(NativeExecutor):
    """Runs a graph with guards on one side of every buffer."""

    def __init__(
        self, graph: Graph, *, batch: int, threads: int | None = None, side: Side = "after", forked: bool = True
    ) -> None:
        self._side: Side = side
        self._guarded: dict[Region, GuardedMemory] = {}
        super().__init__(graph, batch=batch, threads=threads, passes=(*PLANNING[:-1], SpreadMemory(side=side)))
        if forked:
            self._pool = cast(ThreadPool, _ForkedPool(self._pool, self._culprit))

    def _allocate(self, region: Region, size: int) -> tuple[np.ndarray, int]:
        memory = self.plan.memory
        slots = [slot for slot in (*memory.slots.values(), *memory.scratch.values()) if slot.region == region]
        self._guarded[region] = found = GuardedMemory(slots, size)
        return found.bytes, found.address

    def run(self, sections: Section, x: np.ndarray, labels: np.ndarray | None, **scalars: Any) -> Result:
        """As usual; where runs are forked, an AssertionError that names the kernel which leaves its operands."""
        near = None if labels is None else guarded_copy(labels, self._side)
        result = super().run(sections, guarded_copy(x, self._side), near, **scalars)
        for region, memory in self._guarded.items():
            for offset in memory.strays():
                raise AssertionError(f"somebody has written beside {self._owner(region, offset)}")
        return result

    def poison(self) -> None:
        self._guarded["arena"].poison()

    def close(self) -> None:
        self._guarded.clear()
        super().close()

    def _owner(self, region: Region, offset: int) -> str:
        memory = self.plan.memory
        values = [name_of(v) for v, slot in memory.slots.items() if (slot.region, slot.offset) == (region, offset)]
        kernels = [str(k.label) for k, slot in memory.scratch.items() if (region, slot.offset) == ("arena", offset)]
        return " and ".join((*values, *(f"the scratch space of {kernel}" for kernel in kernels)))

    def _culprit(self) -> str:
        """The phase that dies when the phases run one by one, each in a child of its own."""
        assert isinstance(self._pool, _ForkedPool)
        pool = self._pool.pool
        for number, phase in enumerate(self.step.phases):
            self._context[FIRST], self._context[LAST] = number, number + 1
            if not survives(lambda: pool.launch(self._entry, self._address)):
                kernel = phase.kernel
                return f"{kernel.name} {kernel.label}, phase {phase.function}, left its operands ({self._side} them)"
        return "the kernels left their operands, but none does so alone"
