"""Modules and launches: the interface of the emulator.

    module = Module(ptx)
    y = np.empty(100, np.float32)
    module.launch("scale", grid=1, block=128, args=[In(x), Out(y), 2.0, 100])

A launch raises `Fault` where a check finds something. What it leaves in outputs is what the PTX computes.
"""

from __future__ import annotations

import ctypes
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tests.cuda_emulator.counters import Counters
from tests.cuda_emulator.faults import CHECKS, EmulationError, Fault
from tests.cuda_emulator.library import library
from tests.cuda_emulator.lowering import translate
from tests.cuda_emulator.program import INSTRUCTION, Program, base_of
from tests.cuda_emulator.ptx import Parameter, parse
from tests.cuda_emulator.schedule import EVEN, LANDINGS, LANES, ORDERS, Schedule

# Shared memory that a block may have, in KiB, by architecture (CUDA C++ Programming Guide, technical specifications).
_SHARED_KIB = {
    70: 96,
    75: 64,
    80: 163,
    86: 99,
    87: 163,
    89: 99,
    90: 227,
    100: 227,
    103: 227,
    110: 227,
    120: 99,
    121: 99,
}
_MOST_THREADS = 1024


@dataclass(frozen=True)
class In:
    """An array that the kernel must not write. `shift` moves it that many bytes off alignment to 256 bytes."""

    array: np.ndarray
    shift: int = 0


@dataclass(frozen=True)
class Out:
    """An array that the kernel writes; it begins as NaN, or all ones, so what is not written shows."""

    array: np.ndarray
    shift: int = 0


@dataclass(frozen=True)
class InOut:
    """An array that the kernel reads and writes."""

    array: np.ndarray
    shift: int = 0


Buffer = In | Out | InOut
Argument = Buffer | int | float | np.generic | bytes


@dataclass(frozen=True)
class Checks:
    """Checks that can be left out, to see what results alone tell. The others always run.

    `races`: accesses of a block's threads to shared memory that nothing orders. `blocks`: what one block writes and
    another one touches; kernels with fences, volatile accesses and the like are taken to know what they do. `copies`:
    shared memory to which a cp.async is on its way. `initialised`: shared memory that is read before it is written.
    """

    races: bool = True
    blocks: bool = True
    copies: bool = True
    initialised: bool = True


ALL_CHECKS = Checks()
NO_CHECKS = Checks(races=False, blocks=False, copies=False, initialised=False)


class _Buffer(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
        ("base", ctypes.c_uint64),
        ("writable", ctypes.c_uint32),
        ("unused", ctypes.c_uint32),
    ]


class _Launch(ctypes.Structure):
    """Mirrors `Launch` in runtime/machine.hpp."""

    _fields_ = [
        *((name, ctypes.c_uint64) for name in ("code", "instructions", "targets", "image", "image_bytes")),
        *((name, ctypes.c_uint64) for name in ("parameters", "parameter_bytes", "buffers", "buffer_count")),
        *((name, ctypes.c_uint64) for name in ("executions", "budget")),
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        *((name, ctypes.c_uint32) for name in ("shared_bytes", "local_bytes", "granule_bits", "global_bits")),
        ("special", ctypes.c_uint32 * 12),
        ("lane_special", ctypes.c_uint32 * 3),
        *((name, ctypes.c_uint32) for name in ("lanes", "warps", "blocks", "quantum", "random_quantum")),
        *((name, ctypes.c_uint32) for name in ("resident", "landing", "seed")),
        *(
            (name, ctypes.c_uint32)
            for name in ("check_races", "check_blocks", "check_copies", "check_initialised", "count")
        ),
        ("fault", ctypes.c_uint32),
        ("fault_block", ctypes.c_uint32 * 3),
        ("fault_thread", ctypes.c_uint32 * 3),
        ("fault_pc", ctypes.c_uint64),
        ("fault_text", ctypes.c_char * 256),
        ("shadows", ctypes.c_uint64),
    ]


@dataclass
class Memory:
    """Buffers with addresses on the device, for arguments that hold pointers: structures, tables of pointers.

    `first` windows of the address space are a module's own variables.
    """

    buffers: list[Buffer] = field(default_factory=list)
    first: int = 0

    def add(self, buffer: Buffer) -> int:
        """The address of a buffer."""
        array = buffer.array
        if not array.flags.c_contiguous:
            raise EmulationError("an array that is not contiguous")
        if not isinstance(buffer, In):
            if not array.flags.writeable:
                raise EmulationError("an output that numpy may not write")
            if isinstance(buffer, Out):
                array.view(np.uint8).reshape(-1)[:] = 0xFF
        self.buffers.append(buffer)
        return base_of(self.first + len(self.buffers) - 1) + buffer.shift


class Module:
    """PTX, ready to be launched. Errors: `UnknownOpcode` and `EmulationError`, with the line."""

    def __init__(self, ptx: str) -> None:
        self.text = parse(ptx)
        self.programs = {name: translate(kernel, self.text.variables) for name, kernel in self.text.kernels.items()}
        self._variables: dict[str, np.ndarray] = {}
        for variable in self.text.variables:
            if variable.space in ("global", "const"):
                data = variable.initial.ljust(variable.bytes or 0, b"\0")
                self._variables[variable.name] = np.frombuffer(bytearray(data), np.uint8)

    def memory(self) -> Memory:
        """An address space; buffers of the module's own variables come before those that are added."""
        return Memory(first=len(self._variables))

    def variable(self, name: str) -> np.ndarray:
        """The bytes of a `__device__` or `__constant__` variable."""
        return self._variables[name]

    def launch(
        self,
        kernel: str,
        grid: int | Sequence[int],
        block: int | Sequence[int],
        args: Sequence[Argument],
        shared_bytes: int = 0,
        *,
        schedule: Schedule = EVEN,
        checks: Checks = ALL_CHECKS,
        count: bool = False,
        memory: Memory | None = None,
        budget: int = 2_000_000_000,
    ) -> Counters:
        """Runs a kernel to its end. `shared_bytes` is dynamic shared memory; `count` counts transactions of memory.

        Errors: `Fault`, and `EmulationError` for a launch that CUDA would refuse.
        """
        if kernel not in self.programs:
            raise EmulationError(f"no kernel {kernel}; there are {', '.join(self.programs)}")
        program = self.programs[kernel]
        memory = self.memory() if memory is None else memory
        parameters = self._pack(program, args, memory)
        launch = self._prepare(program, _extents(grid), _extents(block), shared_bytes)
        code = program.code.copy()
        executions = np.zeros((len(code), 4), np.uint64)
        targets = np.array(program.targets or [0], np.uint32)
        packed = np.frombuffer(parameters or b"\0", np.uint8)
        buffers = self._buffers(memory)
        launch.code, launch.instructions = code.ctypes.data, len(code)
        launch.targets = targets.ctypes.data
        launch.image, launch.image_bytes = program.image.ctypes.data, program.image.nbytes
        launch.parameters, launch.parameter_bytes = packed.ctypes.data, len(parameters)
        launch.buffers, launch.buffer_count = ctypes.addressof(buffers), len(buffers)
        launch.executions, launch.budget = executions.ctypes.data, budget
        _set_schedule(launch, schedule)
        launch.check_races, launch.check_copies = checks.races, checks.copies
        launch.check_blocks = checks.blocks and not program.blocks_communicate
        launch.check_initialised, launch.count = checks.initialised, count
        native = library()
        if native.launch_bytes() != ctypes.sizeof(_Launch) or native.instruction_bytes() != INSTRUCTION.itemsize:
            raise EmulationError("launching.py and machine.hpp describe different structures")
        if native.emulate(ctypes.byref(launch)):
            raise _fault(program, launch)
        # The last instruction is the end that `translate` has added.
        return Counters(program.places[:-1], program.opcodes[:-1], executions[:-1])

    def _pack(self, program: Program, args: Sequence[Argument], memory: Memory) -> bytes:
        parameters = program.kernel.parameters
        if len(parameters) != len(args):
            raise EmulationError(f"{len(args)} arguments for {len(parameters)} parameters of {program.kernel.name}")
        packed = b""
        for parameter, argument in zip(parameters, args, strict=True):
            packed = packed.ljust(parameter.offset, b"\0") + _packed(parameter, argument, memory)
        return packed

    def _prepare(self, program: Program, grid: list[int], block: list[int], shared_bytes: int) -> _Launch:
        threads = block[0] * block[1] * block[2]
        most = program.kernel.max_threads or _MOST_THREADS
        if not 0 < threads <= min(most, _MOST_THREADS) or block[2] > 64:
            raise EmulationError(f"a block of {block}; {program.kernel.name} may have {most} threads")
        if not all(0 < extent < 1 << (31 if axis == 0 else 16) for axis, extent in enumerate(grid)):
            raise EmulationError(f"a grid of {grid}")
        shared = program.dynamic_offset + shared_bytes
        architecture = int(re.sub(r"\D", "", self.text.target) or 0)
        if program.static_shared > 48 * 1024 or shared > _SHARED_KIB.get(architecture, 227) * 1024:
            raise EmulationError(f"{shared} bytes of shared memory, {program.static_shared} of them static")
        launch = _Launch(shared_bytes=shared, local_bytes=program.local_bytes)
        launch.grid[:], launch.block[:] = grid, block
        launch.granule_bits = program.granule.bit_length() - 1
        launch.global_bits = program.global_granule.bit_length() - 1
        launch.special[:], launch.lane_special[:] = program.special, program.lane_special
        return launch

    def _buffers(self, memory: Memory) -> ctypes.Array[_Buffer]:
        writable = {v.name: v.space == "global" for v in self.text.variables}
        found = [
            _Buffer(array.ctypes.data, array.nbytes, base_of(window), writable[name])
            for window, (name, array) in enumerate(self._variables.items())
        ]
        for window, buffer in enumerate(memory.buffers, len(found)):
            array = buffer.array
            base = base_of(window) + buffer.shift
            found.append(_Buffer(array.ctypes.data, array.nbytes, base, not isinstance(buffer, In)))
        return (_Buffer * len(found))(*found)


def _extents(given: int | Sequence[int]) -> list[int]:
    extents = [given] if isinstance(given, int) else list(given)
    return [*extents, *[1] * (3 - len(extents))]


def _packed(parameter: Parameter, argument: Argument, memory: Memory) -> bytes:
    if isinstance(argument, Buffer):
        if parameter.bytes != 8:
            raise EmulationError(f"an array for {parameter.name}, which has {parameter.bytes} bytes")
        return struct.pack("<Q", memory.add(argument))
    if isinstance(argument, bytes | np.generic):
        data = bytes(argument) if isinstance(argument, bytes) else argument.tobytes()
        if len(data) != parameter.bytes:
            raise EmulationError(f"{len(data)} bytes for {parameter.name}, which has {parameter.bytes}")
        return data
    if parameter.type in ("f32", "f64"):
        return struct.pack("<f" if parameter.type == "f32" else "<d", argument)
    if isinstance(argument, float):
        raise EmulationError(f"a float for {parameter.name}, which is .{parameter.type}; say np.float32 if it is one")
    return (argument & (1 << 8 * parameter.bytes) - 1).to_bytes(parameter.bytes, "little")


def _set_schedule(launch: _Launch, schedule: Schedule) -> None:
    launch.lanes, launch.warps = LANES.index(schedule.lanes), ORDERS.index(schedule.warps)
    launch.blocks, launch.quantum = ORDERS.index(schedule.blocks), schedule.quantum or 0
    launch.random_quantum, launch.resident = schedule.jitter, schedule.resident
    launch.landing, launch.seed = LANDINGS.index(schedule.copies), schedule.seed


def _fault(program: Program, launch: _Launch) -> Fault:
    text = launch.fault_text.decode()
    # The runtime names other instructions by their number.
    text = re.sub(r"\bpc(\d+)\b", lambda found: f"line {program.places[int(found[1])].line}", text)
    place = program.places[launch.fault_pc]
    return Fault(
        CHECKS[launch.fault],
        text,
        block=tuple(launch.fault_block),
        thread=tuple(launch.fault_thread),
        line=place.line,
        instruction=str(place),
    )
