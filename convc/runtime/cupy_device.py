# CuPy is optional: where it is not installed, its names are unknown to the type checker.
# pyright: reportMissingImports=false
"""A GPU through CuPy: it compiles kernels (NVRTC), owns memory, starts kernels on a stream of its own.

CuPy is imported when a device is opened. It is given the same texts that `convc.codegen.cuda.nvrtc` compiles on
machines without a GPU, with the same options. Kernels of a step are recorded as a CUDA graph and started as one, unless
`CONVC_CUDA_GRAPHS=0`.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import numpy as np

from convc.codegen.cuda.architectures import SHARED_PER_BLOCK
from convc.codegen.cuda.kernel import Launch
from convc.codegen.cuda.nvrtc import CompilationError
from convc.ir.diagnostic import CompileError, Note, fail
from convc.ir.sizes import format_bytes
from convc.passes.memory import Slot
from convc.passes.plan import Plan
from convc.runtime.cores import compile_processes
from convc.runtime.cuda import Place
from convc.runtime.cuda_driver import OLDEST_CUDA, FoundGpu, extra_for, require_gpu

GRAPHS_VARIABLE = "CONVC_CUDA_GRAPHS"
# CuPy adds -ftz=true and the architecture itself.
OPTIONS = ("-std=c++17",)
# Records of different numbers of rows that are kept: those that were made last.
_MOST_GRAPHS = 16
# Bytes that are copied between waits where a tensor is set or read, through memory of the host that cannot be swapped.
CHUNK = 16 << 20
# What every run is given has such memory of its own, so that copies need not wait for each other.
_GIVEN = ("input", "labels", "scalars")


def open_device(capability: int, plan: Plan) -> CupyDevice:
    """The GPU here, for a program of a compute capability (80: sm_80) with this plan.

    Errors: `missing-driver`, `missing-cupy`, `mismatched-cupy`, `missing-nvrtc`, `unsupported-gpu`,
    `value-architecture`; later `budget-device-memory`, `failed-cuda-compile`, `failed-gpu`.
    """
    found, cupy = find_usable(f"sm_{capability}")
    return CupyDevice(cupy, found, plan)


def find_usable(arch: str | None = None) -> tuple[FoundGpu, Any]:
    """The GPU here, which runs what was compiled for `arch`, and CuPy. Errors: those of `open_device`."""
    try:
        found = require_gpu(arch)
    except CompileError as error:
        raise _with_cupy_missing(error) from None
    return found, require_cupy(found)


def require_cupy(found: FoundGpu) -> Any:
    """CuPy, ready to use this GPU. Errors: `missing-cupy`, `mismatched-cupy`, `missing-driver`, `missing-nvrtc`."""
    try:
        import cupy
    except ImportError as error:
        notes = () if isinstance(error, ModuleNotFoundError) else (Note(str(error).strip().partition("\n")[0]),)
        message = f"programs for GPUs run through CuPy, and it is not installed ({found.name} is here)"
        fail("missing-cupy", message, hint=extra_for(found.cuda), notes=notes)
    built = cupy.cuda.runtime.runtimeGetVersion() // 1000
    if built > found.cuda[0] or built < OLDEST_CUDA:
        message = f"CuPy {cupy.__version__} is built for CUDA {built}, and the driver here runs {_dotted(found.cuda)}"
        hint = f"pip uninstall cupy-cuda{built}x, then {extra_for(found.cuda)}; or install a newer driver"
        fail("mismatched-cupy", message, hint=hint)
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        message = f"CuPy {cupy.__version__} cannot use {found.name}: {error}"
        hint = f"the driver runs CUDA {_dotted(found.cuda)}: install a newer one, or an older CuPy"
        fail("missing-driver" if "InsufficientDriver" in str(error) else "failed-gpu", message, hint=hint)
    try:
        cupy.cuda.nvrtc.getVersion()
    except (RuntimeError, OSError, ImportError, AttributeError) as error:
        name = "nvidia-cuda-nvrtc" if built > 12 else f"nvidia-cuda-nvrtc-cu{built}"
        message = f"CuPy does not find NVIDIA's compiler NVRTC for CUDA {built}"
        fail("missing-nvrtc", message, hint=f"pip install {name}", notes=(Note(str(error).partition("\n")[0]),))
    return cupy


def versions() -> dict[str, str]:
    """Versions of what makes and runs the code of a GPU. Errors: those of `open_device`."""
    _, cupy = find_usable()
    return {"cupy": cupy.__version__, "nvrtc": _dotted(cupy.cuda.nvrtc.getVersion())}


class CupyMemory:
    """A block of device memory, with memory of the host for what is sent there."""

    def __init__(self, device: CupyDevice, size: int, given: bool) -> None:
        self._device, self._size = device, size
        with device.stream:  # CuPy's pool reuses blocks in the order of a stream
            self._pointer: Any = device.cupy.cuda.alloc(max(1, size))
        self._pointer.memset_async(0, max(1, size), device.stream)
        self._staging = device.pinned(size) if given and size else None
        self._sent = -1  # when the staging was last used, counted in waits of the device

    def address(self, offset: int) -> int:
        return int(self._pointer.ptr) + offset

    def write(self, offset: int, data: np.ndarray) -> None:
        raw = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        if self._staging is not None:
            if self._sent == self._device.waits:
                self._device.wait()  # what was sent before may still be on its way
            self._send(offset, raw, self._staging)
            self._sent = self._device.waits
            return
        for start in range(0, len(raw), CHUNK):
            self._send(offset + start, raw[start : start + CHUNK], self._device.chunk)
            self._device.wait()

    def _send(self, offset: int, raw: np.ndarray, staging: np.ndarray) -> None:
        staging[: len(raw)] = raw
        (self._pointer + offset).copy_from_host_async(staging.ctypes.data, len(raw), self._device.stream)

    def fetch(self, offset: int, staging: np.ndarray) -> None:
        """Start to copy what lies at `offset` into memory of the host; it is there after the next wait."""
        (self._pointer + offset).copy_to_host_async(staging.ctypes.data, len(staging), self._device.stream)

    def close(self) -> None:
        self._device.wait()
        self._pointer = self._staging = None


class CupyDevice:
    """Implements `convc.runtime.cuda.Device`."""

    def __init__(self, cupy: Any, found: FoundGpu, plan: Plan) -> None:
        self.cupy, self.found, self._plan = cupy, found, plan
        self.waits = 0
        with self._translated():
            self.stream = cupy.cuda.Stream(non_blocking=True)
            self._pins: list[Any] = []
            self.chunk = self.pinned(CHUNK)
        self._graphs: dict[Hashable, Any] = {}
        self._started: set[Hashable] = set()
        self._records = os.environ.get(GRAPHS_VARIABLE, "1").lower() not in ("0", "off", "no", "false")

    @property
    def capability(self) -> int:
        return self.found.capability

    # Memory

    def pinned(self, size: int) -> np.ndarray:
        """Memory of the host that the device reads and writes by itself; where there is none left, any."""
        try:
            pin = self.cupy.cuda.alloc_pinned_memory(size)
        except self.cupy.cuda.runtime.CUDARuntimeError:
            return np.empty(size, np.uint8)
        self._pins.append(pin)
        return np.frombuffer(pin, np.uint8, size)

    def allocate(self, region: str, size: int, slots: Sequence[Slot]) -> CupyMemory:
        """Error: `budget-device-memory`."""
        try:
            with self._translated():
                return CupyMemory(self, size, region in _GIVEN)
        except self.cupy.cuda.memory.OutOfMemoryError:
            self._out_of_memory()

    def _out_of_memory(self) -> NoReturn:
        plan, memory = self._plan, self._plan.memory
        given = sum(plan.bytes_of(value) for name, value in plan.graph.inputs.items() if name in ("x", "labels"))
        total = memory.arena_bytes + memory.persistent_bytes + given
        free, whole = self.cupy.cuda.runtime.memGetInfo()
        notes = [Note(f"{format_bytes(memory.persistent_bytes)} for parameters, states and what else outlives a run")]
        if plan.kernels:
            peak = plan.kernels[memory.peak]
            line = f", line {peak.location[0].line}" if peak.location else ""
            notes.insert(0, Note(
                f"{format_bytes(memory.arena_bytes)} for what lives within a run; most lives during kernel "
                f"{memory.peak}, {peak.name} of {peak.label}{line}"
            ))  # fmt: skip
        fail(
            "budget-device-memory",
            f"the program of {plan.graph.name} takes {format_bytes(total)}, and {self.found.name} has "
            f"{format_bytes(free)} of {format_bytes(whole)} left",
            hint=f"a smaller --batch (--fit {_as_size(free)} finds the largest), or for training --memory "
            f"{_as_size(free)}, which computes activations again; other processes on the GPU take memory, too",
            notes=tuple(notes),
        )

    def read(self, places: Sequence[Place]) -> list[np.ndarray]:
        results = [np.empty(size, np.uint8) for _, _, size in places]
        waiting: list[tuple[np.ndarray, np.ndarray]] = []
        used = 0

        def collect() -> None:
            nonlocal used
            self.wait()
            for target, staging in waiting:
                target[:] = staging
            waiting.clear()
            used = 0

        with self._translated():
            for (memory, offset, size), result in zip(places, results, strict=True):
                assert isinstance(memory, CupyMemory)
                start = 0
                while start < size:
                    if used == CHUNK:
                        collect()
                    count = min(size - start, CHUNK - used)
                    staging = self.chunk[used : used + count]
                    memory.fetch(offset + start, staging)
                    waiting.append((result[start : start + count], staging))
                    start, used = start + count, used + count
            collect()
        return results

    def wait(self) -> None:
        """Wait for all that was started. Error: `failed-gpu`."""
        with self._translated():
            self.stream.synchronize()
        self.waits += 1

    # Kernels

    def load(self, launches: Sequence[Launch]) -> list[Any]:
        """Compile the sources, several at a time; CuPy keeps what it has compiled. Error: `failed-cuda-compile`."""
        modules = {
            source: self.cupy.RawModule(code=source, options=OPTIONS)
            for source in dict.fromkeys(launch.source for launch in launches)
        }
        with warnings.catch_warnings(), self._translated():
            # Nothing here includes a header of the toolkit.
            warnings.filterwarnings("ignore", message="CUDA path could not be detected")
            with ThreadPoolExecutor(max(1, min(compile_processes(), len(modules)))) as pool:
                for done in [pool.submit(module.compile) for module in modules.values()]:
                    done.result()
        kernels: dict[tuple[str, str], Any] = {}
        shared: dict[tuple[str, str], int] = {}
        for launch in launches:
            key = launch.source, launch.name
            if key not in kernels:
                kernels[key] = modules[launch.source].get_function(launch.name)
            shared[key] = max(shared.get(key, 0), launch.shared_bytes)
        with self._translated():
            for key, size in shared.items():
                if size > SHARED_PER_BLOCK:
                    kernels[key].max_dynamic_shared_size_bytes = size
        return [kernels[launch.source, launch.name] for launch in launches]

    def launch(self, function: Any, grid: tuple[int, int, int], launch: Launch, arguments: Sequence[int]) -> None:
        *addresses, rows = arguments
        block = launch.threads, 1, 1
        with self._translated():
            function(grid, block, (*addresses, np.int32(rows)), shared_mem=launch.shared_bytes, stream=self.stream)

    def capture(self, key: Hashable, start: Callable[[], None]) -> None:
        """Kernels run as they are the first time, when the driver loads their code; then they are recorded."""
        if not self._records or key not in self._started:
            self._started.add(key)
            start()
            return
        if key not in self._graphs:
            if len(self._graphs) >= _MOST_GRAPHS:
                del self._graphs[next(iter(self._graphs))]
            try:
                self._graphs[key] = self._record(start)
            except (RuntimeError, CompileError) as error:
                self._records = False
                why = error.diagnostics[0].message if isinstance(error, CompileError) else str(error)
                print(f"CUDA graphs are not used, kernels are started one by one: {why}", file=sys.stderr)
                start()
                return
        with self._translated():
            self._graphs[key].launch(stream=self.stream)

    def _record(self, start: Callable[[], None]) -> Any:
        self.stream.begin_capture()
        try:
            start()
        except BaseException:
            # The stream is of no use before the record has ended, which then fails, too.
            with suppress(RuntimeError):
                self.stream.end_capture()
            raise
        return self.stream.end_capture()

    def time(self, start: Callable[[], None]) -> float:
        with self._translated():
            first, last = (self.cupy.cuda.Event() for _ in range(2))
            first.record(self.stream)
            start()
            last.record(self.stream)
            self.wait()
            return self.cupy.cuda.get_elapsed_time(first, last) / 1e3

    def close(self) -> None:
        self.wait()
        self._graphs.clear()
        self._pins.clear()
        self.chunk = np.zeros(0, np.uint8)
        # Others on this GPU have a use for what CuPy's pools would keep.
        self.cupy.get_default_memory_pool().free_all_blocks()
        self.cupy.get_default_pinned_memory_pool().free_all_blocks()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """What CuPy raises as errors of ours: `failed-cuda-compile`, `failed-gpu`, `budget-device-memory`."""
        cuda = self.cupy.cuda
        try:
            yield
        except cuda.compiler.CompileException as error:
            raise CompilationError(str(error), architecture=self.found.architecture) from error
        except (cuda.runtime.CUDARuntimeError, cuda.driver.CUDADriverError) as error:
            if "OutOfMemory" in str(error) or "MemoryAllocation" in str(error) or "OUT_OF_MEMORY" in str(error):
                self._out_of_memory()
            hint = f"{GRAPHS_VARIABLE}=0 CUDA_LAUNCH_BLOCKING=1 shows which kernel it was; please report it"
            fail("failed-gpu", f"{self.found.name} reports {error}", hint=hint)


def _with_cupy_missing(error: CompileError) -> CompileError:
    """The error, with a word on CuPy where that is missing as well."""
    from dataclasses import replace
    from importlib.util import find_spec

    first = error.diagnostics[0]
    if first.code != "missing-driver" or find_spec("cupy") is not None:
        return error
    note = Note("CuPy is not installed either: pip install 'convc[cuda13]', or 'convc[cuda12]' for drivers before 580")
    return CompileError([replace(first, notes=(*first.notes, note))])


def _as_size(size: int) -> str:
    """A number of bytes as `--fit` takes it, rounded down."""
    return f"{size >> 20}MiB"


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
