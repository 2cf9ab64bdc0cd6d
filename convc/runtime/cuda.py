"""A graph on a GPU: its tensors in device memory, and the launches of a step in order.

What a GPU is, is said by `Device`: CuPy's is in `cupy_device.py`, the emulator of the tests is another one. A program
is planned and written without one; the device is opened when something is to be stored or run.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np

from convc.codegen.cuda.kernel import Launch
from convc.codegen.cuda.program import CudaStep, make_step
from convc.ir.graph import Graph, Value
from convc.ir.ops.constant import Constant
from convc.ir.rounding import stored as rounded_bits
from convc.ir.rounding import widened
from convc.passes.base import PlanPass
from convc.passes.dump import Dump
from convc.passes.fusion import is_immediate, resolve
from convc.passes.layout import ImageLayout, pack, unpack
from convc.passes.memory import Region, Slot
from convc.passes.plan import Plan
from convc.passes.planning import PLANNING
from convc.passes.sections import EVERYTHING, Section
from convc.passes.training import GRADIENT
from convc.runtime.choices import Choice
from convc.runtime.cuda_driver import ASKED
from convc.runtime.executor import Result
from convc.runtime.profile import Profile, make_profile

# seed, step, seen, rate, rows: `Scalars` in kernels/elementwise.cuh.
_SCALARS = struct.Struct("<qqqfi")


class Memory(Protocol):
    """A block of device memory. Offsets and sizes are in bytes."""

    def address(self, offset: int) -> int: ...

    def write(self, offset: int, data: np.ndarray) -> None:
        """Copy an array there, before all that is launched after; the array may be changed at once."""
        ...

    def close(self) -> None: ...


class Device(Protocol):
    """A GPU, or what stands for one."""

    @property
    def capability(self) -> int:
        """Its compute capability: 80 for sm_80."""
        ...

    def allocate(self, region: str, size: int, slots: Sequence[Slot]) -> Memory:
        """Memory of `size` bytes, zeroed. `slots` are the places that will be used."""
        ...

    def load(self, launches: Sequence[Launch]) -> Sequence[Any]:
        """For each launch what `launch` takes: its compiled entry point."""
        ...

    def launch(self, function: Any, grid: tuple[int, int, int], launch: Launch, arguments: Sequence[int]) -> None:
        """Start a kernel: addresses, then the number of rows, as its parameters say."""
        ...

    def capture(self, key: Hashable, start: Callable[[], None]) -> None:
        """Call `start`, which launches kernels; under an equal key always the same ones, with the same arguments.

        A device may record them, and repeat the record instead.
        """
        ...

    def read(self, places: Sequence[Place]) -> list[np.ndarray]:
        """Fresh copies as uint8, after all that was launched before: what waits for the device waits here, once."""
        ...

    def time(self, start: Callable[[], None]) -> float:
        """The seconds that the device takes for what `start` launches."""
        ...

    def close(self) -> None: ...


Place = tuple[Memory, int, int]  # so many bytes from an offset on


class CudaExecutor:
    """Runs a graph on a GPU. Implements `convc.runtime.executor.Executor`."""

    def __init__(
        self,
        graph: Graph,
        capability: int,
        open_device: Callable[[int, Plan], Device],
        *,
        batch: int,
        passes: Sequence[PlanPass] = PLANNING,
        dump: Dump | None = None,
        planned: Callable[[Plan], None] | None = None,
        architecture: Choice | None = None,
    ) -> None:
        """`capability` is that of the GPUs that are compiled for (80: sm_80), `open_device` gives one of them before
        the first run. `planned` is called with the plan before anything is compiled or allocated. `architecture` says
        why this one."""
        self.batch = batch
        self.graph = graph
        self.step: CudaStep = make_step(graph, capability, passes, dump)
        self.plan = self.step.plan
        if planned is not None:
            planned(self.plan)
        self.architecture = architecture or Choice("architecture", f"sm_{capability}", ASKED)
        self._open_device = open_device
        self._prepares = any(kernel.section is Section.PREPARE for kernel in self.plan.kernels)
        self._stale = self._prepares  # whether a parameter has been set since this was done last

    @property
    def cuda_step(self) -> CudaStep:
        return self.step

    @cached_property
    def _opened(self) -> _Opened:
        device = self._open_device(self.step.capability, self.plan)
        try:
            return _Opened(self.graph, self.step, device)
        except BaseException:
            # Of a program that does not fit nothing stays behind.
            device.close()
            raise

    @property
    def _memory(self) -> Mapping[Region, Memory]:
        return self._opened.memory

    # Tensors

    def _slot(self, value: Value) -> Slot:
        return self.plan.memory.slots[resolve(value)]

    def _fetch(self, *values: Value, rows: int | None = None) -> list[np.ndarray]:
        """The numbers of values as they lie in memory, float32; of batched ones the first rows, all by default."""
        places: list[Place] = []
        for value in values:
            slot = self._slot(value)
            size = slot.bytes
            if rows is not None and resolve(value) in self.plan.batched:
                size = slot.bytes // self.batch * rows
            places.append((self._memory[slot.region], slot.offset, size))
        elements = [self.plan.element(resolve(value)) for value in values]
        found = self._opened.device.read(places)
        return [
            widened(data.view("<u2"), element) if element.is_half else data.view("<f4")
            for data, element in zip(found, elements, strict=True)
        ]

    def _store(self, value: Value, array: np.ndarray) -> None:
        slot = self._slot(value)
        packed = _packed(self.plan, value, array)
        self._memory[slot.region].write(slot.offset, rounded_bits(packed, self.plan.element(resolve(value))))

    def _unpack(self, value: Value) -> np.ndarray:
        return unpack(self.plan.layout(resolve(value)), self._fetch(value)[0], value.shape)

    def read(self, name: str) -> np.ndarray:
        """A parameter, buffer or state in its logical shape."""
        return self._unpack(self.graph.parameters[name].value)

    def write(self, name: str, array: np.ndarray) -> None:
        self._store(self.graph.parameters[name].value, array)
        self._stale = self._prepares

    def fill(self, values: Mapping[str, Callable[[], np.ndarray]]) -> None:
        for name, value in values.items():
            self.write(name, value())

    def write_input(self, name: str, array: np.ndarray) -> None:
        """Set an input other than `x` and `labels`: fewer rows than the batch are allowed."""
        self._store(self.graph.inputs[name], array)

    def gradient(self, name: str) -> np.ndarray:
        return self._unpack(self.graph.outputs[GRADIENT + name])

    def output(self, name: str, rows: int) -> np.ndarray:
        """Any output of the last run, a fresh array; of a batched one the first `rows` rows."""
        value = self.graph.outputs[name]
        if is_immediate(value):
            return _constant(value)
        return self._shaped(value, self._fetch(value, rows=rows)[0], rows)

    def _shaped(self, value: Value, stored: np.ndarray, rows: int) -> np.ndarray:
        """A value in its logical shape, from what has been fetched of it."""
        layout = self.plan.layout(resolve(value))
        if resolve(value) not in self.plan.batched:
            return unpack(layout, stored, value.shape)
        stored = stored.reshape(rows, -1)
        if isinstance(layout, ImageLayout) and layout.pixels == 1:
            return stored[:, : layout.channels].reshape(rows, *value.shape[1:]).copy()
        index = layout.index_map()
        result = np.empty((rows, int(np.prod(value.shape[1:]))), np.float32)
        result[:, index[index >= 0]] = stored[:, index >= 0]
        return result.reshape(rows, *value.shape[1:])

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
        rows = self._bind(x, labels, lr, step, seed, seen)
        self._launch(sections | (Section.PREPARE if self._stale else Section(0)), rows)
        self._stale = False
        names = ["logits", *(("loss", "correct") if sections & Section.GRADIENT else ())]
        wanted = {name: self.graph.outputs[name] for name in names if name in self.graph.outputs}
        stored = [value for value in wanted.values() if not is_immediate(value)]
        # All at once, since this is where the host waits for the device.
        fetched = dict(zip(stored, self._fetch(*stored, rows=rows), strict=True))
        given = {
            name: self._shaped(value, fetched[value], rows) if value in fetched else _constant(value)
            for name, value in wanted.items()
        }
        numbers = {name: float(given[name].reshape(-1)[0]) for name in names[1:] if name in given}
        return Result(given["logits"], numbers.get("loss"), numbers.get("correct"))

    def _bind(self, x: np.ndarray, labels: np.ndarray | None, lr: float, step: int, seed: int, seen: int) -> int:
        """Send what a run is given; its number of rows."""
        rows = len(x)
        if "input" in self._memory:
            self._memory["input"].write(0, x)
        if labels is not None and "labels" in self._memory:
            self._memory["labels"].write(0, labels)
        scalars = _SCALARS.pack(seed, step, seen, np.float32(lr), rows)
        self._opened.scalars.write(0, np.frombuffer(scalars, np.uint8))
        return rows

    def _launch(self, sections: Section, rows: int) -> None:
        """Start all kernels of the sections, in order."""
        numbers = [n for n, launch in enumerate(self.step.launches) if launch.kernel.section & sections]
        self._opened.device.capture((sections, rows), partial(self._start, numbers, rows))

    def _start(self, numbers: Sequence[int], rows: int) -> None:
        opened = self._opened
        for number in numbers:
            launch = self.step.launches[number]
            arguments = [*opened.arguments(launch), rows]
            opened.device.launch(opened.functions[number], launch.grid(rows), launch, arguments)

    def profile(self, x: np.ndarray, labels: np.ndarray | None, rounds: int = 15) -> Profile:
        """Time every kernel of a whole step, but for those that run only when a parameter was set.

        Parameters, buffers and states are afterwards what they were before.
        """
        device, persistent = self._opened.device, self._memory["persistent"]
        slots = sorted(
            {slot for slot in self.plan.memory.slots.values() if slot.region == "persistent"},
            key=lambda slot: (slot.offset, slot.bytes),
        )
        before = device.read([(persistent, slot.offset, slot.bytes) for slot in slots])
        rows = self._bind(x, labels, 0.0, 1, 0, 0)
        self._launch(EVERYTHING | Section.PREPARE, rows)
        self._stale = False
        phases = [
            (number, launch.kernel, launch.name)
            for number, launch in enumerate(self.step.launches)
            if launch.kernel.section is not Section.PREPARE
        ]

        def run(first: int, last: int) -> float:
            if (first, last) == (0, len(self.step.launches)):
                return device.time(lambda: self._launch(EVERYTHING, rows))
            return device.time(lambda: self._start(range(first, last), rows))

        try:
            return make_profile(phases, rounds, run, len(self.step.launches))
        finally:
            for slot, data in zip(slots, before, strict=True):
                persistent.write(slot.offset, data)

    def artifact(self, kind: str) -> bytes | None:
        """The program as `cu`, `ptx` or `sass`: of each kernel, below a comment that names it; None for any other
        kind. It takes NVIDIA's compiler, but no GPU."""
        from convc.runtime.cuda_kernels import joined

        return joined(self.step, kind)

    def close(self) -> None:
        """Free the memory and the code."""
        opened = self.__dict__.pop("_opened", None)
        if opened is not None:
            opened.close()


class _Opened:
    """What a program has on a device: memory, entry points, and what differs from run to run."""

    def __init__(self, graph: Graph, step: CudaStep, device: Device) -> None:
        self.device = device
        plan, memory = step.plan, step.plan.memory
        self.functions = device.load(step.launches)
        sizes: dict[Region, int] = {"persistent": memory.persistent_bytes, "arena": memory.arena_bytes}
        for name, value in graph.inputs.items():
            if name in ("x", "labels"):
                sizes["labels" if name == "labels" else "input"] = plan.bytes_of(value)
        slots = {*memory.slots.values(), *memory.scratch.values()}
        self.memory: dict[Region, Memory] = {
            region: device.allocate(region, size, [slot for slot in slots if slot.region == region])
            for region, size in sizes.items()
        }
        self.scalars = device.allocate("scalars", _SCALARS.size, [])
        for node in graph.nodes_of(Constant):
            slot = memory.slots.get(resolve(node.result))
            if slot is not None and not is_immediate(node.result):
                packed = _packed(plan, node.result, _constant(node.result))
                self.memory[slot.region].write(slot.offset, rounded_bits(packed, plan.element(node.result)))

    def arguments(self, launch: Launch) -> list[int]:
        """The addresses that a launch is given, but for the number of rows."""
        places = [self.memory[slot.region].address(slot.offset) for slot in launch.arguments]
        return [*places, self.scalars.address(0)]

    def close(self) -> None:
        for memory in (*self.memory.values(), self.scalars):
            memory.close()
        self.device.close()


def _packed(plan: Plan, value: Value, array: np.ndarray) -> np.ndarray:
    """An array as the value lies in memory, float32."""
    layout, array = plan.layout(resolve(value)), np.asarray(array, np.float32)
    if resolve(value) in plan.batched:
        return np.stack([pack(layout, row) for row in array])
    return pack(layout, array)


def _constant(value: Value) -> np.ndarray:
    assert value.producer is not None
    return np.asarray(value.producer.op.reference())
