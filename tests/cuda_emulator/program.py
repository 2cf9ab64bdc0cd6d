"""A kernel as the runtime executes it: registers have places in a register file, instructions name handlers.

The register file of a warp begins with what is constant: numbers of the text, addresses of variables, special
registers. `Program.image` is that file as every warp finds it; registers begin as all ones, which is no number.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np

from tests.cuda_emulator.faults import EmulationError, UnknownOpcode
from tests.cuda_emulator.memory_table import handler_numbers
from tests.cuda_emulator.ptx import (
    Instruction,
    Kernel,
    Literal,
    Negated,
    Operand,
    Place,
    Register,
    Symbol,
    Variable,
    size_of,
)

LANES = 32
WINDOW_BITS = 36
# In the order of `Kind` in runtime/machine.hpp.
KINDS = ("plain", "branch", "indexed branch", "exit", "collective", "barrier")
# Mirrors `Instruction` there.
INSTRUCTION = np.dtype(
    [
        ("handler", "u8"),
        ("immediate", "i8", 3),
        ("kind", "u4"),
        ("guard", "u4"),
        ("negated", "u4"),
        ("target", "u4"),
        ("operand", "u4", 16),
    ]
)
SPECIAL = tuple(f"%{name}.{axis}" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz")
LANE_SPECIAL = ("%laneid", "%warpid", "%dynamic_smem_size")
_LANE_MASKS = {
    "%lanemask_eq": lambda lane: 1 << lane,
    "%lanemask_lt": lambda lane: (1 << lane) - 1,
    "%lanemask_le": lambda lane: (2 << lane) - 1,
    "%lanemask_ge": lambda lane: 0xFFFFFFFF & ~((1 << lane) - 1),
    "%lanemask_gt": lambda lane: 0xFFFFFFFF & ~((2 << lane) - 1),
}


def base_of(window: int) -> int:
    """The address of a buffer on the device: in the middle of a window of 64 GiB of its own."""
    return (window + 1 << WINDOW_BITS) + (1 << WINDOW_BITS - 1)


@dataclass
class _Pending:
    """An instruction whose branch target is not yet known."""

    record: dict[str, object]
    place: Place
    opcode: str
    labels: list[str] = field(default_factory=list)


class Program:
    """What a kernel becomes. `module_variables` are those of the module, in the windows that begin at 0."""

    def __init__(self, kernel: Kernel, module_variables: list[Variable]) -> None:
        self.kernel = kernel
        self.places: list[Place] = []
        self.opcodes: list[str] = []
        self.variables = [v for v in module_variables if v.space in ("global", "const")]
        self.granule = 4  # bytes: the smallest access to shared memory
        self.global_granule = 4  # and to global memory
        self.blocks_communicate = False  # by fences, or accesses that are ordered
        self._pending: list[_Pending] = []
        self._starts: list[int] = []  # of each PTX instruction
        self._bytes = 0
        self._fills: list[tuple[int, bytes]] = []
        self._named: dict[str, int] = {}
        self._constants: dict[bytes | tuple[bytes, ...], int] = {}
        self._instruction: Instruction | None = None
        self._addresses: dict[str, int] = {}
        self._lay_out(module_variables)
        self.always = self._fill(struct.pack("<I", 0xFFFFFFFF))
        self.special = [self._named_place(name, 4) for name in SPECIAL]
        self.lane_special = [self._named_place(name, 4) for name in LANE_SPECIAL]
        for name, mask in _LANE_MASKS.items():
            self._named[name] = self._fill(b"".join(struct.pack("<I", mask(lane)) for lane in range(LANES)))
        self._named["WARP_SZ"] = self.constant(LANES, "u32")
        self._guard = (self.always, 0)

    # Variables

    def _lay_out(self, module_variables: list[Variable]) -> None:
        """Offsets of shared and local variables, addresses of the others."""
        for window, variable in enumerate(self.variables):
            self._addresses[variable.name] = base_of(window)
        ends = {"shared": 0, "local": 0}
        dynamic: list[Variable] = []
        for variable in (*module_variables, *self.kernel.variables):
            if variable.space not in ends:
                continue
            if variable.bytes is None:
                dynamic.append(variable)
                continue
            offset = -(-ends[variable.space] // variable.alignment) * variable.alignment
            self._addresses[variable.name] = offset
            ends[variable.space] = offset + variable.bytes
        # All names of dynamic shared memory mean the same bytes, behind those of the static variables.
        alignment = max((v.alignment for v in dynamic), default=1)
        self.static_shared = ends["shared"]
        self.dynamic_offset = (
            -(-ends["shared"] // max(alignment, 16)) * max(alignment, 16) if dynamic else ends["shared"]
        )
        for variable in dynamic:
            self._addresses[variable.name] = self.dynamic_offset
        self.local_bytes = -(-ends["local"] // 16) * 16

    def address(self, name: str) -> int:
        """Of a variable, in its state space; of a parameter, among the parameters."""
        for parameter in self.kernel.parameters:
            if parameter.name == name:
                return parameter.offset
        if name not in self._addresses:
            raise self.error(f"nothing is called {name}")
        return self._addresses[name]

    # Places in the register file

    def error(self, what: str) -> EmulationError:
        return EmulationError(f"{what}\n  {self._instruction.place if self._instruction else self.kernel.name}")

    def unknown(self) -> UnknownOpcode:
        """The tables have no such instruction."""
        assert self._instruction is not None
        return UnknownOpcode(f"unknown opcode {self._instruction.opcode}\n  {self._instruction.place}")

    def _reserve(self, size: int) -> int:
        """Room for a register of that many bytes a lane; 0 stands for a predicate."""
        offset = self._bytes
        self._bytes += -(-max(size * LANES, 4) // 64) * 64
        return offset

    def _fill(self, data: bytes) -> int:
        offset = self._reserve(-(-len(data) // LANES) if len(data) > 4 else 0)
        self._fills.append((offset, data))
        return offset

    def _named_place(self, name: str, size: int) -> int:
        if name not in self._named:
            self._named[name] = self._reserve(size)
        return self._named[name]

    def constant(self, value: int, type_name: str) -> int:
        """The place of a whole number, or of the bits of any number, in all lanes."""
        size = size_of(type_name)
        data = (value & (1 << 8 * size) - 1).to_bytes(size, "little") * LANES
        if data not in self._constants:
            self._constants[data] = self._fill(data)
        return self._constants[data]

    def temporary(self, type_name: str) -> int:
        """A fresh register; `pred` for a predicate."""
        return self._reserve(0 if type_name == "pred" else size_of(type_name))

    def type_of(self, register: Register) -> str:
        """The declared type of a register."""
        if register.name in self.kernel.registers:
            return self.kernel.registers[register.name]
        if register.name in self._named and register.name[0] in "%W":
            return "u32"
        raise self.error(f"no register is called {register.name}, or it is special and not emulated")

    def width(self, operand: Operand) -> int:
        """Bytes of a register; 0 for what takes the width of the instruction."""
        if not isinstance(operand, Register) or operand.name == "_":
            return 0
        declared = self.type_of(operand)
        return 0 if declared == "pred" else size_of(declared)

    def source(self, operand: Operand, type_name: str) -> int:
        """The place of an operand that is read as a value of this type."""
        if type_name == "pred":
            return self._predicate(operand)
        if isinstance(operand, Literal):
            return self.constant(self.literal(operand.text, type_name), type_name)
        if isinstance(operand, Symbol):
            return self.constant(self.address(operand.name), type_name)
        return self._register(operand, type_name)

    def target(self, operand: Operand, type_name: str) -> int:
        """The place of an operand that is written; `_` is a register that nobody reads."""
        if isinstance(operand, Register) and operand.name == "_":
            return self.temporary(type_name)
        return self._register(operand, type_name)

    def _register(self, operand: Operand, type_name: str) -> int:
        if not isinstance(operand, Register):
            raise self.error(f"{operand} cannot stand here")
        declared = self.type_of(operand)
        sizes = [0 if t == "pred" else size_of(t) for t in (declared, type_name)]
        if sizes[0] != sizes[1]:
            raise self.error(f"{operand.name} is a register of type .{declared}, and is used as .{type_name}")
        return self._named_place(operand.name, sizes[0])

    def _predicate(self, operand: Operand) -> int:
        if isinstance(operand, Negated):
            place = self.temporary("pred")
            source = self._register(operand.register, "pred")
            self.emit("predicate.not", (place, source, source))
            return place
        if isinstance(operand, Literal):
            return self.always if int(operand.text, 0) else self._fill(b"\0\0\0\0")
        return self._register(operand, "pred")

    def literal(self, text: str, type_name: str) -> int:
        """The bits of a number in the text, for an operand of this type."""
        if text[:2] in ("0f", "0F"):
            bits = int(text[2:], 16)
            if type_name == "f64":
                return int(np.float64(np.uint32(bits).view(np.float32)).view(np.uint64))
            return bits
        if text[:2] in ("0d", "0D"):
            return int(text[2:], 16)
        if type_name in ("f32", "f64") and ("." in text or "e" in text):
            value = float(text)
            return int.from_bytes(struct.pack("<f" if type_name == "f32" else "<d", value), "little")
        return int(text.rstrip("U"), 0)

    # Instructions

    def begin(self, instruction: Instruction) -> None:
        """What is emitted from now on does the work of this instruction."""
        self._instruction = instruction
        self._starts.append(len(self._pending))
        self._guard = (self.always, 0)
        if instruction.guard is not None:
            self._guard = (
                self._register(Register(instruction.guard), "pred"),
                0xFFFFFFFF if instruction.negated else 0,
            )

    def emit(
        self,
        handler: str,
        operands: tuple[int, ...] = (),
        *,
        kind: str = "plain",
        immediates: tuple[int, ...] = (),
        labels: list[str] | None = None,
        members: int | None = None,
    ) -> None:
        """One instruction of the runtime. `members` is the place of a collective's member mask."""
        assert self._instruction is not None
        numbers = handler_numbers()
        if handler not in numbers:
            raise self.unknown()
        places = [*operands, *[0] * (16 - len(operands))]
        if members is not None:
            places[15] = members
        record: dict[str, object] = {
            "handler": numbers[handler],
            "immediate": [*immediates, *[0] * (3 - len(immediates))],
            "kind": KINDS.index(kind),
            "guard": self._guard[0],
            "negated": self._guard[1],
            "target": 0,
            "operand": places,
        }
        self._pending.append(_Pending(record, self._instruction.place, self._instruction.opcode, labels or []))

    def finish(self) -> None:
        """Resolves labels. An end is added: a kernel may run off its last instruction."""
        self._starts.append(len(self._pending))
        self.targets: list[int] = []
        self.code = np.zeros(len(self._pending), INSTRUCTION)
        for k, pending in enumerate(self._pending):
            for name, value in pending.record.items():
                self.code[name][k] = value
            if pending.labels:
                found = [self._label(label, pending) for label in pending.labels]
                if KINDS[int(self.code["kind"][k])] == "branch":
                    self.code["target"][k] = found[0]
                else:
                    self.code["target"][k] = len(self.targets)
                    self.targets += found
            self.places.append(pending.place)
            self.opcodes.append(pending.opcode)
        image = np.full(self._bytes, 0xFF, np.uint8)
        for offset, data in self._fills:
            image[offset : offset + len(data)] = np.frombuffer(data, np.uint8)
        self.image = image

    def _label(self, name: str, pending: _Pending) -> int:
        if name not in self.kernel.labels:
            raise EmulationError(f"no label {name}\n  {pending.place}")
        return self._starts[self.kernel.labels[name]]
