"""A stand-in for CuPy and NVIDIA's driver: the parts that convc uses, on the emulator of PTX.

Streams are as lazy as they may be: nothing that is put on one happens before somebody waits for it. So a buffer that is
used again too early, or read too soon, gives wrong numbers here, too. What a machine is like is said by `Machine`.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from convc.codegen.cuda.nvrtc import CompilationError
from convc.runtime import cuda_driver
from tests.cuda.emulated import compiled
from tests.cuda_emulator.launching import InOut
from tests.cuda_emulator.program import base_of

_WINDOW = base_of(1) - base_of(0)
NO_DEVICE, INSUFFICIENT_DRIVER, OUT_OF_MEMORY = "cudaErrorNoDevice", "cudaErrorInsufficientDriver", "OutOfMemory"


@dataclass
class Machine:
    """A computer. `cuda` is what its driver runs (None: there is no driver), `built` what CuPy was built for (None:
    there is no CuPy); `compute` its GPU's compute capability, `memory` the GPU's bytes. `refuses` is the error that
    CuPy finds no way around. What happens is counted."""

    cuda: tuple[int, int] | None = (13, 0)
    built: int | None = 13020
    compute: tuple[int, int] = (8, 0)
    devices: int = 1
    starts: int = 0  # what cuInit returns
    memory: int = 1 << 30
    refuses: str | None = None
    nvrtc: bool = True
    captures: bool = True
    pinned: bool = True
    kernels_fail: bool = False
    launches: int = 0
    graphs: int = 0  # launches of graphs
    waits: int = 0
    options: list[tuple[str, ...]] = field(default_factory=list)
    opt_in: list[int] = field(default_factory=list)  # dynamic shared memory beyond what needs no asking
    buffers: list[np.ndarray] = field(default_factory=list)
    taken: int = 0

    @property
    def capability(self) -> int:
        return 10 * self.compute[0] + self.compute[1]


_CAPTURING = "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing"
_NO_NVRTC = "CuPy failed to load libnvrtc.so.13: OSError: libnvrtc.so.13: cannot open shared object file"


class CUDARuntimeError(RuntimeError):
    pass


class CUDADriverError(RuntimeError):
    pass


class OutOfMemoryError(MemoryError):
    pass


class CompileException(Exception):
    pass


class Stream:
    """A queue. While it is being recorded, work goes into the record."""

    def __init__(self, machine: Machine, non_blocking: bool = False) -> None:
        assert non_blocking, "other work of this process would wait for ours"
        self.machine = machine
        self.queue: list[Callable[[], None]] = []
        self.record: list[Callable[[], None]] | None = None

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def put(self, action: Callable[[], None], launch: bool = False) -> None:
        if self.record is not None and not launch:
            raise CUDARuntimeError(_CAPTURING)
        (self.queue if self.record is None else self.record).append(action)

    def synchronize(self) -> None:
        if self.record is not None:
            raise CUDARuntimeError(_CAPTURING)
        self.machine.waits += 1
        queue, self.queue = self.queue, []
        for action in queue:
            action()

    def begin_capture(self) -> None:
        if not self.machine.captures:
            raise CUDARuntimeError("cudaErrorNotSupported: operation not supported")
        self.record = []

    def end_capture(self) -> Graph:
        record, self.record = self.record, None
        assert record is not None
        return Graph(self.machine, record)


@dataclass
class Graph:
    machine: Machine
    record: list[Callable[[], None]]

    def launch(self, stream: Stream) -> None:
        self.machine.graphs += 1
        for action in self.record:
            stream.put(action, launch=True)


class MemoryPointer:
    def __init__(self, machine: Machine, window: int, offset: int = 0) -> None:
        self.machine, self.window, self.offset = machine, window, offset

    def __add__(self, offset: int) -> MemoryPointer:
        return MemoryPointer(self.machine, self.window, self.offset + offset)

    @property
    def ptr(self) -> int:
        return base_of(self.window) + self.offset

    def _bytes(self, size: int) -> np.ndarray:
        data = self.machine.buffers[self.window]
        assert self.offset + size <= len(data), "beyond the end of a block"
        return data[self.offset : self.offset + size]

    def memset_async(self, value: int, size: int, stream: Stream) -> None:
        stream.put(lambda: self._bytes(size).fill(value))

    def copy_from_host_async(self, address: int, size: int, stream: Stream) -> None:
        host = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        stream.put(lambda: np.copyto(self._bytes(size), host))

    def copy_to_host_async(self, address: int, size: int, stream: Stream) -> None:
        host = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        stream.put(lambda: np.copyto(host, self._bytes(size)))


class RawKernel:
    def __init__(self, machine: Machine, module: RawModule, name: str) -> None:
        self.machine, self.module, self.name = machine, module, name
        self._most_shared = 48 << 10

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        return self._most_shared

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size: int) -> None:
        self.machine.opt_in.append(size)
        self._most_shared = size

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], *, shared_mem: int, stream: Stream
    ) -> None:
        assert shared_mem <= self._most_shared, "CUDA refuses to start this"
        # As CuPy does: Python's numbers are 64 bits, numpy's what they are.
        passed = [np.int64(argument) if isinstance(argument, int) else argument for argument in args]
        stream.put(partial(self._run, grid, block, passed, shared_mem), launch=True)

    def _run(self, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], shared: int) -> None:
        if self.machine.kernels_fail:
            raise CUDARuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")
        self.machine.launches += 1
        module = self.module.module
        memory = module.memory()
        # A module's own variables have the first windows of the address space.
        shift = base_of(memory.first) - base_of(0)
        passed = [argument + shift if isinstance(argument, np.int64) else argument for argument in args]
        for data in self.machine.buffers:
            memory.add(InOut(data))
        module.launch(self.name, grid, block, passed, shared, memory=memory)


class RawModule:
    def __init__(self, machine: Machine, *, code: str, options: tuple[str, ...]) -> None:
        machine.options.append(options)
        self.machine, self.code = machine, code

    def compile(self) -> None:
        try:
            self.module = compiled(self.code, self.machine.capability)
        except CompilationError as error:
            raise CompileException(error.log) from error

    def get_function(self, name: str) -> RawKernel:
        return RawKernel(self.machine, self, name)


class Event:
    def __init__(self) -> None:
        self.time = -1.0

    def record(self, stream: Stream) -> None:
        def mark() -> None:
            # A clock of launches: what was started between two events took so many milliseconds.
            self.time = float(stream.machine.launches)

        stream.put(mark)


def _alloc(machine: Machine, size: int) -> MemoryPointer:
    if machine.taken + size > machine.memory:
        raise OutOfMemoryError(f"Out of memory allocating {size} bytes")
    machine.taken += size
    assert size < _WINDOW
    machine.buffers.append(np.full(size, 0xFF, np.uint8))  # memory comes with what others have left there
    return MemoryPointer(machine, len(machine.buffers) - 1)


def _alloc_pinned(machine: Machine, size: int) -> bytearray:
    if not machine.pinned:
        raise CUDARuntimeError("cudaErrorMemoryAllocation: out of memory")
    return bytearray(size)


def _device_count(machine: Machine) -> int:
    if machine.refuses is not None:
        raise CUDARuntimeError(f"{machine.refuses}: no")
    return machine.devices


def _nvrtc_version(machine: Machine) -> tuple[int, int]:
    if not machine.nvrtc:
        raise RuntimeError(_NO_NVRTC)
    return 13, 0


def make_cupy(machine: Machine) -> ModuleType:
    """The module `cupy` as it is on a machine."""
    cupy = ModuleType("cupy")
    pool = SimpleNamespace(free_all_blocks=lambda: None)
    runtime = SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        runtimeGetVersion=lambda: machine.built,
        getDeviceCount=lambda: _device_count(machine),
        memGetInfo=lambda: (machine.memory - machine.taken, machine.memory),
    )
    cuda = SimpleNamespace(
        runtime=runtime,
        driver=SimpleNamespace(CUDADriverError=CUDADriverError),
        compiler=SimpleNamespace(CompileException=CompileException),
        memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        nvrtc=SimpleNamespace(getVersion=lambda: _nvrtc_version(machine)),
        alloc=partial(_alloc, machine),
        alloc_pinned_memory=partial(_alloc_pinned, machine),
        Stream=partial(Stream, machine),
        Event=Event,
        get_elapsed_time=lambda first, last: last.time - first.time,
    )
    given = {
        "__spec__": ModuleSpec("cupy", None),
        "__version__": "14.2.0",
        "cuda": cuda,
        "RawModule": partial(RawModule, machine),
        "get_default_memory_pool": lambda: pool,
        "get_default_pinned_memory_pool": lambda: pool,
    }
    for name, value in given.items():
        setattr(cupy, name, value)
    return cupy


class FakeDriver:
    """libcuda.so.1, as far as it is asked."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def cuDriverGetVersion(self, version: Any) -> int:
        assert self.machine.cuda is not None
        version._obj.value = 1000 * self.machine.cuda[0] + 10 * self.machine.cuda[1]
        return 0

    def cuInit(self, flags: int) -> int:
        return self.machine.starts

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self.machine.devices
        return 0

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:
        device._obj.value = ordinal
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:
        name.value = b"Emulated GPU"
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:
        value._obj.value = self.machine.compute[attribute - 75]
        return 0

    def cuDeviceTotalMem_v2(self, size: Any, device: Any) -> int:
        size._obj.value = self.machine.memory
        return 0

    def cuGetErrorString(self, code: int, text: Any) -> int:
        text._obj.value = {803: b"system has unsupported display driver / cuda driver combination"}[code]
        return 0


def install(patch: pytest.MonkeyPatch, machine: Machine | None = None) -> Machine:
    """Have this process believe that it is on such a machine."""
    machine = machine or Machine()
    patch.setitem(sys.modules, "cupy", None if machine.built is None else make_cupy(machine))
    patch.setattr(cuda_driver, "load", lambda: None if machine.cuda is None else FakeDriver(machine))
    return machine
