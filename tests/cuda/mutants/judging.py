"""Whether anybody notices that a kernel is broken: the emulator's checks, or the results of small graphs of one op."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from unittest.mock import patch

import numpy as np

from convc.codegen.cuda import tensor_core
from convc.codegen.cuda.kernel import Launch, source_text
from convc.codegen.cuda.nvrtc import CompilationError, compile
from convc.ir.interpreter import run_reference
from convc.ir.rounding import rounded
from convc.ir.types import DType
from convc.passes.planning import PLANNING
from convc.passes.sections import EVERYTHING
from convc.runtime.cuda import CudaExecutor
from tests.codegen.guarded import SpreadMemory
from tests.codegen.native_graph import case_arrays, single_op_graph
from tests.codegen.test_halves import EPSILON, halved
from tests.cuda.emulated import SCALARS, EmulatedDevice
from tests.cuda.mutants.rules import KernelMutant
from tests.cuda.test_ops import TOLERANCE
from tests.cuda_emulator.counters import Counters
from tests.cuda_emulator.launching import Module
from tests.cuda_emulator.schedule import EVEN, SCHEDULES, Schedule
from tests.op_case import OpCase

# TILE_M, TILE_N, PARTS.
Tile = tuple[int, int, int]
Change = Callable[[str], str]
# Faults that are about what comes first: these need the whole matrix of schedules, others its two ends.
TIMING = ("no barrier", "weak wait", "no wait", "no commit", "same stage", "other stage", "other step", "not stored")
# Instructions of warps, far more than any of the cases here takes.
_BUDGET = 200_000_000


def unchanged(source: str) -> str:
    return source


def applying(mutant: KernelMutant) -> Change:
    """What makes of the source of a launch the one with the mutant's file."""
    before, after = (text.strip("\n") for text in (source_text(mutant.file), mutant.text))
    return lambda source: source.replace(before, after)


class _Impatient(Module):
    """A loop that a mutant has made endless is to end soon."""

    def launch(self, *given: Any, **options: Any) -> Counters:
        return super().launch(*given, budget=_BUDGET, **options)


@dataclass
class _Device(EmulatedDevice):
    """Compiles what a change makes of sources, and can begin a run again with the memory of the first."""

    change: Change = unchanged
    counts: list[tuple[int, int]] = field(default_factory=list)
    _first: list[np.ndarray] | None = None
    _started: bool = False

    def load(self, launches: Sequence[Launch]) -> list[Any]:
        return [None for _ in launches]

    def begin(self, change: Change, schedule: Schedule, count: bool) -> None:
        self.change, self.schedule, self.count, self._started = change, schedule, count, False
        self.counts.clear()
        self.after = lambda launch, counters: self.counts.append((counters.bank_conflicts, counters.wasted_sectors))

    def launch(self, function: Any, grid: tuple[int, int, int], launch: Launch, arguments: Sequence[int]) -> None:
        if not self._started:
            self._started = True
            if self._first is None:
                self._first = [block.data.copy() for block in self.blocks]
            for block, data in zip(self.blocks, self._first, strict=True):
                block.data[:] = data
        module = _Impatient(ptx_of(self.change(launch.source), self.capability))
        super().launch(module, grid, launch, arguments)


@lru_cache(maxsize=500)
def ptx_of(source: str, capability: int) -> str:
    # PTX only: no assembler. A condition that is gone leaves variables that nobody reads, which is no error here.
    return compile(source, f"compute_{capability}", ["-w"]).ptx


@contextmanager
def _tiled(tile: Tile | None) -> Iterator[None]:
    """Products on tensor cores are made by a tile and in a number of parts that small ones would not choose."""
    if tile is None:
        yield
        return
    (chosen, *_) = (made for made in tensor_core.TILES if (made.tile_m, made.tile_n) == tile[:2])
    with patch.object(tensor_core, "_choose", lambda product, capability: (chosen, tile[2])):
        yield


class Bench:
    """A graph of one op, planned once, that runs as often as there are mutants of its kernels."""

    def __init__(
        self,
        case: OpCase,
        dtype: DType = DType.F32,
        capability: int = 80,
        infinite: bool = False,
        tile: Tile | None = None,
    ) -> None:
        self.name = f"{case}{' of infinity' if infinite else ''}{f' by {tile[0]}x{tile[1]}' if tile else ''}"
        self.name += "" if dtype is DType.F32 else f", {dtype.value}, sm_{capability}"
        self.capability = capability
        self.graph, named = single_op_graph(case, case_arrays(case))
        if infinite:
            # The middle of the first image: what has nothing to do with it stays finite.
            for name in self.graph.inputs:
                if named[name].ndim == 4:
                    height, width = named[name].shape[2:]
                    named[name][0, :, height // 2, width // 2] = np.inf
        self.tolerance = TOLERANCE
        if dtype is DType.F32:
            exact = {name: a.astype(np.float64) if a.dtype == np.float32 else a for name, a in named.items()}
        else:
            halved(self.graph, case, dtype)
            named = {name: rounded(a, dtype) if a.dtype == np.float32 else a for name, a in named.items()}
            exact, self.tolerance = named, 2 * EPSILON[dtype]
        with np.errstate(invalid="ignore"):
            self.named, self.expected = named, run_reference(self.graph.copy(), exact)
        self._device = _Device(capability)
        self._right: set[Schedule] = set()
        with _tiled(tile):
            self._executor = CudaExecutor(
                self.graph,
                capability,
                lambda *_: self._device,
                batch=len(named["x"]),
                passes=(*PLANNING[:-1], SpreadMemory()),
            )

    @property
    def launches(self) -> tuple[Launch, ...]:
        return self._executor.step.launches

    def uses(self, file: str) -> bool:
        return any(source_text(file).strip("\n") in launch.source for launch in self.launches)

    def complaint(self, change: Change, schedule: Schedule = EVEN) -> str | None:
        """What is wrong with the changed kernels under a schedule; None where nothing is."""
        try:
            self._run(change, schedule)
        except AssertionError as error:
            return str(error).partition("\n")[0]
        for name, reference in self.expected.items():
            value, finite = self._found[name], np.isfinite(reference)
            if not np.array_equal(np.isfinite(value), finite):
                return f"{name} is not finite where it should be, or the other way round"
            scale = max(float(np.abs(reference[finite]).max(initial=0.0)), 0.1)
            error = float(np.abs(value[finite] - reference[finite]).max(initial=0.0)) / scale
            if not error <= self.tolerance:
                return f"{name} is off by {error:.1e}"
        return self._complaint_about_padding()

    def assert_right(self, schedule: Schedule) -> None:
        """What is said of a mutant is said of what has been changed: nothing is wrong with the kernels as they are."""
        if schedule not in self._right:
            complaint = self.complaint(unchanged, schedule)
            assert complaint is None, f"{self.name} without any mutant: {complaint}"
            self._right.add(schedule)

    def _complaint_about_padding(self) -> str | None:
        """Padding is zero in every tensor that has any: whoever reads it relies on that."""
        plan = self._executor.plan
        for value in plan.memory.slots:
            index = plan.layout(value).index_map()
            if (index >= 0).all():
                continue
            stored = self._executor._fetch(value)[0].reshape(-1, len(index))
            if stored[:, index < 0].any():
                return f"padding of {plan.layout(value)} is not zero"
        return None

    def _run(self, change: Change, schedule: Schedule, count: bool = False) -> None:
        self._device.begin(change, schedule, count)
        executor, named = self._executor, self.named
        for name, array in named.items():
            if name in self.graph.parameters:
                executor.write(name, array)
            elif name not in ("x", "labels", *SCALARS):
                executor.write_input(name, array)
        numbers = {name: named[name].item() for name in SCALARS if name in named and name != "rows"}
        executor.run(EVERYTHING, np.ascontiguousarray(named["x"]), named.get("labels"), **numbers)
        rows = len(named["x"])
        self._found = {name: executor.output(name, rows) for name in self.graph.outputs}
        self._found |= {name: executor.read(name) for name in self.graph.updates}

    def bank_conflicts(self, change: Change) -> int:
        """Wavefronts of shared memory beyond those that it takes without conflicts."""
        self._run(change, EVEN, count=True)
        return sum(conflicts for conflicts, _ in self._device.counts)

    def notices(self, change: Change) -> bool:
        """Whether the change makes other instructions at all."""
        return any(
            ptx_of(change(launch.source), self.capability) != ptx_of(launch.source, self.capability)
            for launch in self.launches
            if change(launch.source) != launch.source
        )


@dataclass(frozen=True)
class Verdict:
    """How a mutant fared: `killed`, `survived`, the `same code` in all cases, or `refused` by the compiler.

    `by` says what noticed, or how many cases did not.
    """

    mutant: KernelMutant
    fate: str
    by: str


def judge(mutant: KernelMutant, benches: Sequence[Bench], schedules: Sequence[Schedule] = SCHEDULES) -> Verdict:
    """Run the cases, first all of them under the first schedule, until one notices."""
    change = applying(mutant)
    reached: list[Bench] = []
    for number, schedule in enumerate(schedules):
        if number and mutant.rule not in TIMING and schedule is not schedules[-1]:
            continue
        for bench in reached if number else benches:
            try:
                if not number and not bench.notices(change):
                    continue
            except CompilationError as error:
                return Verdict(mutant, "refused", str(error).strip().splitlines()[-1])
            if not number:
                reached.append(bench)
            complaint = bench.complaint(change, schedule)
            if complaint is not None:
                bench.assert_right(schedule)
                return Verdict(mutant, "killed", f"{bench.name} ({schedule}): {complaint}")
            if mutant.rule == "no swizzle" and not number:
                before, after = bench.bank_conflicts(unchanged), bench.bank_conflicts(change)
                if after > before:
                    return Verdict(mutant, "killed", f"{bench.name}: {after} bank conflicts instead of {before}")
    fate = "survived" if reached else "same code"
    return Verdict(mutant, fate, f"{len(reached)} of {len(benches)} cases, {len(schedules)} schedules")
