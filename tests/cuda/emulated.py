"""A GPU that is the emulator of PTX: programs for CUDA run on it as they are, with every access checked."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

import numpy as np

from convc.codegen.cuda.kernel import Launch
from convc.ir.graph import Graph
from convc.passes.memory import Slot
from convc.passes.packing import ALIGNMENT
from convc.passes.planning import PLANNING
from convc.passes.sections import EVERYTHING
from convc.runtime.cuda import CudaExecutor, Place
from tests.codegen.guarded import SpreadMemory
from tests.cuda_emulator.counters import Counters
from tests.cuda_emulator.faults import Fault
from tests.cuda_emulator.launching import ALL_CHECKS, Checks, In, InOut, Module
from tests.cuda_emulator.nvrtc import compile_cuda
from tests.cuda_emulator.program import base_of
from tests.cuda_emulator.schedule import EVEN, Schedule

SCALARS = ("lr", "step", "seed", "rows", "seen")


@cache
def compiled(source: str, capability: int) -> Module:
    return Module(compile_cuda(source, f"sm_{capability}", ["-lineinfo"]))


@dataclass
class _Block:
    """What lies between two gaps: a window of the emulator's address space of its own."""

    start: int
    data: np.ndarray
    number: int


class EmulatedMemory:
    """Memory whose slots are checked one by one where gaps are between them."""

    def __init__(self, device: EmulatedDevice, region: str, size: int, slots: Sequence[Slot]) -> None:
        self._device = device
        spans: list[tuple[int, int]] = []
        for slot in sorted(set(slots), key=lambda slot: slot.offset):
            if spans and slot.offset - spans[-1][1] < ALIGNMENT:
                spans[-1] = spans[-1][0], max(spans[-1][1], slot.offset + slot.bytes)
            else:
                spans.append((slot.offset, slot.offset + slot.bytes))
        self.region = region
        self.blocks = [device.block(start, end - start) for start, end in spans or [(0, size)] if end > start]
        self.poison()

    def poison(self) -> None:
        """What nobody has written yet is NaN, but for what outlives a run, where sweeps pass over gaps."""
        for block in self.blocks:
            block.data.fill(0 if self.region == "persistent" else 0xFF)

    def find(self, offset: int) -> _Block:
        for block in self.blocks:
            if block.start <= offset < block.start + max(len(block.data), 1):
                return block
        raise AssertionError(f"nothing lies at {offset} of {self.region}")

    def address(self, offset: int) -> int:
        block = self.find(offset)
        return base_of(block.number) + offset - block.start

    def write(self, offset: int, data: np.ndarray) -> None:
        raw = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        block = self.find(offset)
        block.data[offset - block.start :][: len(raw)] = raw

    def read(self, offset: int, size: int) -> np.ndarray:
        block = self.find(offset)
        return block.data[offset - block.start :][:size].copy()

    def close(self) -> None:
        pass


@dataclass
class EmulatedDevice:
    """A GPU of a compute capability; launches run at once, under one schedule. `after` sees the counters of each."""

    capability: int = 80
    schedule: Schedule = EVEN
    checks: Checks = ALL_CHECKS
    count: bool = False
    after: Callable[[Launch, Counters], None] = lambda launch, counters: None
    blocks: list[_Block] = field(default_factory=list)
    memories: dict[str, EmulatedMemory] = field(default_factory=dict)

    def block(self, start: int, size: int) -> _Block:
        block = _Block(start, np.zeros(size, np.uint8), len(self.blocks))
        self.blocks.append(block)
        return block

    def allocate(self, region: str, size: int, slots: Sequence[Slot]) -> EmulatedMemory:
        self.memories[region] = EmulatedMemory(self, region, size, slots)
        return self.memories[region]

    def load(self, launches: Sequence[Launch]) -> list[Module]:
        return [compiled(launch.source, self.capability) for launch in launches]

    def launch(self, function: Module, grid: tuple[int, int, int], launch: Launch, arguments: Sequence[int]) -> None:
        written = {self._written(slot).number for slot in self._writable(launch)}
        memory = function.memory()
        # A module's own variables have the first windows.
        *addresses, rows = arguments
        places = [address + base_of(memory.first) - base_of(0) for address in addresses]
        for block in self.blocks:
            memory.add(InOut(block.data) if block.number in written else In(block.data))
        try:
            counters = function.launch(
                launch.name,
                grid,
                launch.threads,
                [*places, rows],
                launch.shared_bytes,
                schedule=self.schedule,
                checks=self.checks,
                count=self.count,
                memory=memory,
            )
        except Fault as fault:
            raise AssertionError(
                f"{fault}\n  in {launch.name} of {launch.kernel.name} ({launch.kernel.label})"
            ) from fault
        self.after(launch, counters)

    def capture(self, key: Hashable, start: Callable[[], None]) -> None:
        start()

    def read(self, places: Sequence[Place]) -> list[np.ndarray]:
        return [cast(EmulatedMemory, memory).read(offset, size) for memory, offset, size in places]

    def time(self, start: Callable[[], None]) -> float:
        started = time.perf_counter()
        start()
        return time.perf_counter() - started

    def _writable(self, launch: Launch) -> list[Slot]:
        """The places that the declarations of the parameters allow to write."""
        declared = launch.source.partition("#define PARAMETERS ")[2].partition("\n")[0].split(", ")
        return [
            slot
            for slot, parameter in zip(launch.arguments, declared, strict=False)
            if not parameter.startswith("const ")
        ]

    def _written(self, slot: Slot) -> _Block:
        return self.memories[slot.region].find(slot.offset)

    def close(self) -> None:
        self.blocks.clear()


def run_emulated(
    graph: Graph,
    named: dict[str, np.ndarray],
    device: EmulatedDevice | None = None,
    batch: int | None = None,
    spread: bool = True,
) -> dict[str, np.ndarray]:
    """The outputs of a graph on arrays by name; with `spread` every tensor has a window of memory of its own."""
    rows = len(named["x"])
    passes = (*PLANNING[:-1], SpreadMemory()) if spread else PLANNING
    chosen = device or EmulatedDevice()
    executor = CudaExecutor(
        graph, chosen.capability, lambda capability, plan: chosen, batch=batch or rows, passes=passes
    )
    return run_named(executor, graph, named)


def run_named(executor: CudaExecutor, graph: Graph, named: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs of a graph after a run on arrays by name; closes the executor."""
    rows = len(named["x"])
    for name, array in named.items():
        if name in graph.parameters:
            executor.write(name, array)
        elif name not in ("x", "labels", *SCALARS):
            executor.write_input(name, array)
    scalars: dict[str, Any] = {
        "lr": float(named.get("lr", 0.0)),
        "step": int(named.get("step", 1)),
        "seed": int(named.get("seed", 0)),
        "seen": int(named.get("seen", 0)),
    }
    executor.run(EVERYTHING, np.ascontiguousarray(named["x"]), named.get("labels"), **scalars)
    results = {name: executor.output(name, rows) for name in graph.outputs}
    results |= {name: executor.read(name) for name in graph.updates}
    executor.close()
    return results
