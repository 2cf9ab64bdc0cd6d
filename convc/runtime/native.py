"""A compiled program in memory: machine code, its arena and its argument block."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from convc.codegen.llvm.kernel import (
    ARENA,
    CONTROL,
    FIRST,
    INPUT,
    LABELS,
    LAST,
    PERSISTENT,
    RATE,
    ROWS,
    SECTIONS,
    SEED,
    SEEN,
    STEP,
    WORDS,
)
from convc.codegen.llvm.program import CompiledStep, compile_step
from convc.codegen.llvm.vocabulary import MOST_INSTRUCTIONS
from convc.ir.graph import Graph, Value
from convc.ir.ops.constant import Constant
from convc.passes.base import PlanPass
from convc.passes.dump import Dump
from convc.passes.fusion import is_immediate, resolve
from convc.passes.layout import ImageLayout, pack, store, unpack
from convc.passes.memory import Region
from convc.passes.plan import Plan
from convc.passes.planning import PLANNING
from convc.passes.sections import EVERYTHING, Section
from convc.passes.training import GRADIENT
from convc.runtime.cores import compile_processes
from convc.runtime.executor import Result
from convc.runtime.pages import populate
from convc.runtime.parallel import run_all
from convc.runtime.profile import Profile, make_profile
from convc.runtime.threads import shared_pool

_ALL_PHASES = 1 << 30
_PAGES = 64 << 20  # bytes of memory that are asked for at a time


def _constant(value: Value) -> np.ndarray:
    assert value.producer is not None
    return np.asarray(value.producer.op.reference())


def _aligned(size: int, alignment: int = 64) -> tuple[np.ndarray, int]:
    """Zeroed memory of `size` bytes, and the address of its first aligned byte."""
    memory = np.zeros(size + alignment, np.uint8)
    return memory, -(-memory.ctypes.data // alignment) * alignment


class NativeExecutor:
    """Runs a graph as native code on a pool of threads. Implements `convc.runtime.executor.Executor`."""

    def __init__(
        self,
        graph: Graph,
        *,
        batch: int,
        threads: int | None = None,
        most_instructions: int = MOST_INSTRUCTIONS,
        passes: Sequence[PlanPass] = PLANNING,
        dump: Dump | None = None,
        planned: Callable[[Plan], None] | None = None,
    ) -> None:
        """`planned` is called with the plan, before anything is compiled or allocated."""
        self.batch = batch
        self.graph = graph
        self.step: CompiledStep = compile_step(
            graph,
            most_instructions=most_instructions,
            passes=passes,
            dump=dump,
            planned=planned,
            processes=compile_processes(),
        )
        self.plan = self.step.plan
        self._pool = shared_pool(threads)
        memory = self.plan.memory
        self._persistent, persistent = self._allocate("persistent", memory.persistent_bytes)
        self._arena, arena = self._allocate("arena", memory.arena_bytes)
        self._bases = {"persistent": persistent, "arena": arena}
        self._given: np.ndarray | None = None
        self._context = (ctypes.c_int64 * WORDS)()
        self._context[CONTROL] = self._pool.control
        self._context[PERSISTENT], self._context[ARENA] = persistent, arena
        self._address = ctypes.addressof(self._context)
        self._entry = self.step.library["step"]
        for node in graph.nodes_of(Constant):
            if not is_immediate(node.result):
                self._store(node.result, _constant(node.result))
        self._prepares = any(kernel.section is Section.PREPARE for kernel in self.plan.kernels)
        self._stale = self._prepares  # whether a parameter has been set since this was done last
        self._loss, self._correct = (self._scalar(graph.outputs.get(name)) for name in ("loss", "correct"))

    # Memory

    def _allocate(self, region: Region, size: int) -> tuple[np.ndarray, int]:
        """The memory of a region, and its address."""
        return _aligned(size)

    def _where(self, value: Value) -> tuple[int, int]:
        slot = self.plan.memory.slots[resolve(value)]
        # An output may be the input itself: then it is read where the caller left it.
        base = self._context[INPUT] if slot.region == "input" else self._bases[slot.region]
        return base + slot.offset, slot.bytes

    def stored(self, value: Value) -> np.ndarray:
        """A view of a value as it lies in memory, in its layout."""
        address, size = self._where(value)
        return np.ctypeslib.as_array((ctypes.c_float * (size // 4)).from_address(address))

    def _scalar(self, value: Value | None) -> ctypes.c_float | float | None:
        if value is None:
            return None
        if is_immediate(value):
            return float(_constant(value))
        return ctypes.c_float.from_address(self._where(value)[0])

    def read(self, name: str) -> np.ndarray:
        """A parameter, buffer or state in its logical shape."""
        return self._unpack(self.graph.parameters[name].value)

    def write(self, name: str, array: np.ndarray) -> None:
        self._store(self.graph.parameters[name].value, array)
        self._stale = self._prepares

    def fill(self, values: Mapping[str, Callable[[], np.ndarray]]) -> None:
        """Set each to the array that its function gives; the memory that runs need is touched meanwhile.

        As many threads do this as will run the program. Large arrays come first, so that none is left over at the end.
        """

        def fill_one(name: str) -> None:
            self.write(name, values[name]())

        memory = self.plan.memory
        sizes = {"persistent": memory.lasting_bytes, "arena": memory.arena_bytes}
        pages = [
            partial(populate, self._bases[region] + start, min(_PAGES, size - start))
            for region, size in sizes.items()
            for start in range(0, size, _PAGES)
        ]
        names = sorted(values, key=lambda name: -self.graph.parameters[name].value.type.size)
        run_all([*pages, *(partial(fill_one, name) for name in names)], self._pool.threads)

    def write_input(self, name: str, array: np.ndarray) -> None:
        """Set an input other than `x` and `labels`: fewer rows than the batch are allowed."""
        self._store(self.graph.inputs[name], array)

    def _store(self, value: Value, array: np.ndarray) -> None:
        layout, stored = self.plan.layouts[value], self.stored(value)
        if value in self.plan.batched:
            stored.reshape(self.batch, -1)[: len(array)] = np.stack([pack(layout, row) for row in array])
        else:
            store(layout, array, stored)

    def output(self, name: str, rows: int) -> np.ndarray:
        """Any output of the last run, a fresh array; of a batched one the first `rows` rows."""
        value = self.graph.outputs[name]
        if is_immediate(value):
            return _constant(value)
        return self._rows(value, rows) if value in self.plan.batched else self._unpack(value)

    def gradient(self, name: str) -> np.ndarray:
        """The gradient of the last run with `Section.GRADIENT` and without `Section.UPDATE`, which may use it up."""
        return self._unpack(self.graph.outputs[GRADIENT + name])

    def _unpack(self, value: Value) -> np.ndarray:
        return unpack(self.plan.layouts[resolve(value)], self.stored(value), value.shape)

    # Running

    def run(
        self,
        sections: Section,
        x: np.ndarray,
        labels: np.ndarray | None,
        *,
        lr: float = 0.0,
        step: int = 1,
        seed: int = 0,
        seen: int = 0,
    ) -> Result:
        """Run the sections on the rows of x (float32, contiguous, at most `batch` rows)."""
        rows = self._bind(sections, x, labels, lr, step, seed, seen)
        self._pool.launch(self._entry, self._address)
        self._stale = False
        loss = correct = None
        if sections & Section.GRADIENT:
            loss, correct = (self._number(value) for value in (self._loss, self._correct))
        return Result(self.output("logits", rows), loss, correct)

    @staticmethod
    def _number(value: ctypes.c_float | float | None) -> float | None:
        return value.value if isinstance(value, ctypes.c_float) else value

    def _bind(
        self,
        sections: Section,
        x: np.ndarray,
        labels: np.ndarray | None,
        lr: float,
        step: int,
        seed: int,
        seen: int = 0,
    ) -> int:
        context = self._context
        context[SECTIONS], context[ROWS] = int(sections | (Section.PREPARE if self._stale else 0)), len(x)
        self._given = x  # `output` may be asked for it
        context[INPUT] = x.ctypes.data
        context[LABELS] = 0 if labels is None else labels.ctypes.data
        context[SEED], context[STEP], context[SEEN] = seed, step, seen
        ctypes.c_float.from_address(self._address + 8 * RATE).value = lr
        context[FIRST], context[LAST] = 0, _ALL_PHASES
        return len(x)

    def _rows(self, value: Value, rows: int) -> np.ndarray:
        """A fresh array of the first rows of a batched value."""
        layout = self.plan.layouts[resolve(value)]
        stored = self.stored(value).reshape(self.batch, -1)[:rows]
        shape = (rows, *value.shape[1:])
        if isinstance(layout, ImageLayout) and layout.pixels == 1:
            return stored[:, : layout.channels].reshape(shape).copy()
        index = layout.index_map()
        result = np.empty((rows, int(np.prod(value.shape[1:]))), np.float32)
        result[:, index[index >= 0]] = stored[:, index >= 0]
        return result.reshape(shape)

    def profile(
        self, x: np.ndarray, labels: np.ndarray | None, rounds: int = 15, clock: Callable[[], float] = time.perf_counter
    ) -> Profile:
        """Time every kernel of a whole step, but for those that run only when a parameter was set.

        Parameters, buffers and states are afterwards what they were before. On one thread `clock` may be
        `time.thread_time`, for which other processes do not count.
        """
        before = self._persistent.copy()
        self._bind(EVERYTHING, x, labels, 0.0, 1, 0)

        def run(first: int, last: int) -> float:
            self._context[FIRST], self._context[LAST] = first, last
            started = clock()
            self._pool.launch(self._entry, self._address)
            return clock() - started

        run(0, _ALL_PHASES)
        self._context[SECTIONS] = int(EVERYTHING)
        phases = [
            (number, phase.kernel, phase.function)
            for number, phase in enumerate(self.step.phases)
            if phase.kernel.section is not Section.PREPARE
        ]
        profile = make_profile(phases, rounds, run, _ALL_PHASES)
        self._persistent[:] = before
        return profile

    def artifact(self, kind: str) -> bytes | None:
        """The program as `llvm` (before LLVM's passes), `asm` or `obj`; None for any other kind."""
        if kind == "llvm":
            return self.step.module.text.encode()
        if kind == "asm":
            return self.step.assembly().encode()
        return self.step.object_file() if kind == "obj" else None

    def poison(self) -> None:
        """Fill the arena with NaN, so that a kernel that reads what nobody has written is found out (for tests)."""
        self._arena.fill(0xFF)

    def close(self) -> None:
        """Unload the code and free the memory."""
        self.step.library.close()
        self._arena = self._persistent = np.zeros(0, np.uint8)
        self._given = None
