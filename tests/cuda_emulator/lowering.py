"""From PTX instructions to handlers of the runtime: one function per family of opcodes.

Most opcodes are lane-wise, found in the table as they are written. The families below have forms of their own: memory,
conversions between registers of other widths, predicates, control flow, and what a warp does as one. An instruction may
become several: `ld.u8` into a register of 16 bits is a load and a conversion. What is not found raises `UnknownOpcode`.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.cuda_emulator.lanewise import HandlerSpec, lanewise
from tests.cuda_emulator.lowering_memory import MEMORY
from tests.cuda_emulator.lowering_warps import WARPS
from tests.cuda_emulator.program import Program
from tests.cuda_emulator.ptx import (
    Instruction,
    Kernel,
    Literal,
    Operand,
    Place,
    Symbol,
    Variable,
    Vector,
    size_of,
)
from tests.cuda_emulator.widths import TYPES, narrow_source, wide_target

SHARED_BASE, LOCAL_BASE = 1 << 30, 1 << 32  # as in runtime/machine.hpp


def translate(kernel: Kernel, variables: list[Variable]) -> Program:
    """Error: `UnknownOpcode`, `EmulationError`; both name the line."""
    program = Program(kernel, variables)
    for instruction in kernel.instructions:
        program.begin(instruction)
        family = _FAMILIES.get(instruction.parts[0])
        if family is None:
            _lower_lanewise(program, instruction)
        else:
            family(program, instruction)
    end = Instruction("ret", (), kernel.instructions[-1].place if kernel.instructions else Place(0, kernel.name))
    program.begin(end)
    _lower_exit(program, end)
    program.finish()
    return program


def _lower_lanewise(program: Program, instruction: Instruction) -> None:
    spec = lanewise().get(instruction.opcode)
    if spec is None:
        raise program.unknown()
    _emit(program, spec, instruction.operands)


def _emit(program: Program, spec: HandlerSpec, operands: tuple[Operand, ...], immediates: tuple[int, ...] = ()) -> None:
    if len(operands) != len(spec.types):
        raise program.error(f"{len(operands)} operands where {len(spec.types)} belong")
    sources = [program.source(o, t) for o, t in zip(operands[1:], spec.types[1:], strict=True)]
    program.emit(spec.name, (program.target(operands[0], spec.types[0]), *sources), immediates=immediates)


# Moves and conversions


def _lower_convert(program: Program, instruction: Instruction) -> None:
    spec = lanewise().get(instruction.opcode)
    if spec is None:
        raise program.unknown()
    if len(instruction.operands) != len(spec.types):
        raise program.error(f"{len(instruction.operands)} operands where {len(spec.types)} belong")
    sources = [narrow_source(program, o, t) for o, t in zip(instruction.operands[1:], spec.types[1:], strict=True)]
    target, move = wide_target(program, instruction.operands[0], spec.types[0])
    program.emit(spec.name, (target, *sources))
    move()


def _lower_move(program: Program, instruction: Instruction) -> None:
    type_name = instruction.parts[-1]
    target, source = instruction.operands
    if len(instruction.parts) != 2 or (type_name != "pred" and type_name not in TYPES):
        raise program.unknown()
    if type_name == "pred":
        place = program.source(source, "pred")
        program.emit("predicate.mov", (program.target(target, "pred"), place, place))
        return
    bits = 8 * size_of(type_name)
    if isinstance(source, Vector):
        part = bits // len(source.parts)
        places = [program.source(o, f"b{part}") for o in source.parts]
        program.emit(f"pack.{bits}.{part}", (program.target(target, type_name), *places))
    elif isinstance(target, Vector):
        part = bits // len(target.parts)
        places = [program.target(o, f"b{part}") for o in target.parts]
        program.emit(f"unpack.{bits}.{part}", (*places, program.source(source, type_name)))
    else:
        program.emit(f"mov.{bits}", (program.target(target, type_name), program.source(source, type_name)))


def _lower_generic_address(program: Program, instruction: Instruction) -> None:
    """cvta: shared and local memory have windows in the generic address space, global memory is itself."""
    _, *rest = instruction.parts
    back = rest[0] == "to"
    space, type_name = rest[-2].replace("shared_cta", "shared"), rest[-1]
    offset = {"shared": SHARED_BASE, "local": LOCAL_BASE, "global": 0, "const": 0}.get(space)
    if offset is None or type_name != "u64":
        raise program.unknown()
    target, source = instruction.operands
    amount = program.constant(-offset if back else offset, "s64")
    program.emit("add.s64", (program.target(target, "b64"), program.source(source, "b64"), amount))


# Predicates


def _comparison(program: Program, name: str, type_name: str, ftz: bool, a: Operand, b: Operand) -> int:
    """The place of a fresh predicate."""
    if type_name[0] in "ub":
        name = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}.get(name, name)
    spec = lanewise().get(f"compare.{name}{'.ftz' if ftz else ''}.{type_name}")
    if spec is None or (type_name[0] == "b" and type_name != "bf16" and name not in ("eq", "ne")):
        raise program.unknown()
    place = program.temporary("pred")
    program.emit(spec.name, (place, program.source(a, type_name), program.source(b, type_name)))
    return place


def _combined(program: Program, instruction: Instruction, type_name: str) -> tuple[int, int | None, str | None]:
    """The comparison of `setp` and `set`: its place, and with which predicate and how it is to be combined."""
    parts = instruction.parts
    middle = parts[2 : -1 if parts[0] == "setp" else -2]
    combine = next((word for word in middle if word in ("and", "or", "xor")), None)
    if any(word not in ("and", "or", "xor", "ftz") for word in middle):
        raise program.unknown()
    _, a, b, *rest = instruction.operands
    found = _comparison(program, parts[1], type_name, "ftz" in middle, a, b)
    return found, program.source(rest[0], "pred") if combine else None, combine


def _lower_set_predicate(program: Program, instruction: Instruction) -> None:
    target = instruction.operands[0]
    found, other, combine = _combined(program, instruction, instruction.parts[-1])
    targets = target.parts if isinstance(target, Vector) else (target,)
    inverse = program.temporary("pred")
    if len(targets) == 2:
        program.emit("predicate.not", (inverse, found, found))
    for register, value in zip(targets, (found, inverse), strict=False):
        place = program.target(register, "pred")
        if combine and other is not None:
            program.emit(f"predicate.{combine}", (place, value, other))
        else:
            program.emit("predicate.mov", (place, value, value))


def _lower_set(program: Program, instruction: Instruction) -> None:
    if instruction.opcode in lanewise():
        _lower_lanewise(program, instruction)
        return
    *_, result, type_name = instruction.parts
    found, other, combine = _combined(program, instruction, type_name)
    if combine and other is not None:
        program.emit(f"predicate.{combine}", (found, found, other))
    if result not in ("u32", "s32", "f32"):
        raise program.unknown()
    yes = program.constant(0x3F800000 if result == "f32" else 0xFFFFFFFF, "b32")
    place = program.target(instruction.operands[0], "b32")
    program.emit("select.32", (place, yes, program.constant(0, "b32"), found))


def _lower_select(program: Program, instruction: Instruction) -> None:
    type_name = instruction.parts[-1]
    if len(instruction.parts) != 2 or type_name not in TYPES:
        raise program.unknown()
    target, a, b, p = instruction.operands
    sources = (program.source(a, type_name), program.source(b, type_name), program.source(p, "pred"))
    program.emit(f"select.{8 * size_of(type_name)}", (program.target(target, type_name), *sources))


def _lower_logic(program: Program, instruction: Instruction) -> None:
    """and, or, xor, not: of predicates, or as the table has them."""
    if instruction.parts[-1] != "pred":
        _lower_lanewise(program, instruction)
        return
    sources = [program.source(o, "pred") for o in instruction.operands[1:]]
    target = program.target(instruction.operands[0], "pred")
    program.emit(f"predicate.{instruction.parts[0]}", (target, sources[0], sources[-1]))


def _lower_lop3(program: Program, instruction: Instruction) -> None:
    table = instruction.operands[-1]
    if instruction.opcode != "lop3.b32" or not isinstance(table, Literal):
        raise program.unknown()
    _emit(program, lanewise()["lop3.b32"], instruction.operands[:-1], (int(table.text, 0),))


# Control flow


def _lower_branch(program: Program, instruction: Instruction) -> None:
    (target,) = instruction.operands
    if instruction.opcode not in ("bra", "bra.uni") or not isinstance(target, Symbol):
        raise program.unknown()
    program.emit("nothing", kind="branch", labels=[target.name])


def _lower_indexed_branch(program: Program, instruction: Instruction) -> None:
    index, targets = instruction.operands
    if not isinstance(targets, Symbol) or targets.name not in program.kernel.target_lists:
        raise program.unknown()
    labels = program.kernel.target_lists[targets.name]
    place = program.source(index, "u32")
    program.emit("nothing", (place,), kind="indexed branch", labels=labels, immediates=(len(labels),))


def _lower_exit(program: Program, instruction: Instruction) -> None:
    program.emit("nothing", kind="exit")


def _lower_nothing(program: Program, instruction: Instruction) -> None:
    """Prefetches and sleeps are about time."""
    program.emit("nothing")


def _lower_fence(program: Program, instruction: Instruction) -> None:
    """Orders what is in order here."""
    program.blocks_communicate |= "cta" not in instruction.parts
    program.emit("nothing")


def _lower_trap(program: Program, instruction: Instruction) -> None:
    program.emit("trap")


_FAMILIES: dict[str, Callable[[Program, Instruction], None]] = {
    **MEMORY,
    **WARPS,
    "cvt": _lower_convert,
    "mov": _lower_move,
    "cvta": _lower_generic_address,
    "setp": _lower_set_predicate,
    "set": _lower_set,
    "selp": _lower_select,
    "and": _lower_logic,
    "or": _lower_logic,
    "xor": _lower_logic,
    "not": _lower_logic,
    "lop3": _lower_lop3,
    "bra": _lower_branch,
    "brx": _lower_indexed_branch,
    "ret": _lower_exit,
    "exit": _lower_exit,
    "trap": _lower_trap,
    "membar": _lower_fence,
    "fence": _lower_fence,
    "prefetch": _lower_nothing,
    "nanosleep": _lower_nothing,
}
