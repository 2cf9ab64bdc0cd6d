"""Loads, stores, atomics and asynchronous copies, to handlers."""

from __future__ import annotations

from collections.abc import Callable

from tests.cuda_emulator.program import Program
from tests.cuda_emulator.ptx import Address, Instruction, Literal, Operand, Register, Symbol, Vector, size_of
from tests.cuda_emulator.widths import TYPES, narrow_source, wide_target

# Modifiers of memory accesses that change nothing here: memory is coherent, and caches are not modelled.
_IGNORED = {
    *("weak", "relaxed", "acquire", "release", "acq_rel", "volatile", "sc"),
    *("cta", "cluster", "gpu", "sys"),
    *("nc", "ca", "cg", "cs", "lu", "cv", "wb", "wt", "noftz"),
    *(f"L2_{n}B" for n in (64, 128, 256)),
    *(
        f"{level}_{how}"
        for level in ("L1", "L2")
        for how in ("evict_last", "evict_first", "evict_normal", "no_allocate")
    ),
    "L1_evict_unchanged",
}
_SPACES = {"global": "global", "const": "global", "shared": "shared", "shared_cta": "shared", "local": "local"}


def _memory_parts(program: Program, parts: list[str]) -> tuple[str, int, str]:
    """Space (`generic` where none is named), length of the vector, type."""
    *modifiers, type_name = parts
    space, count = "generic", 1
    for word in modifiers:
        if word in _SPACES:
            space = _SPACES[word]
        elif word in ("param", "param_entry"):
            space = "param"
        elif word in ("v2", "v4", "v8"):
            count = int(word[1:])
        elif word not in _IGNORED:
            raise program.unknown()
    if type_name not in TYPES:
        raise program.unknown()
    return space, count, type_name


def place_of_address(program: Program, operand: Operand, space: str) -> tuple[str, int, int]:
    """Space with the width of its addresses, the place of the base, the offset."""
    if not isinstance(operand, Address):
        raise program.error(f"{operand} is no address")
    base, offset = operand.base, operand.offset
    if isinstance(base, Register):
        bits = 8 * program.width(base)
        if bits != 64 and space not in ("shared", "local"):
            raise program.error(f"an address of {bits} bits in {space} memory")
        return f"{space}{bits}", program.source(base, f"b{bits}"), offset
    value = program.address(base.name) if isinstance(base, Symbol) else 0
    if space == "generic" and isinstance(base, Symbol):
        raise program.error(f"a generic access to {base.name} by its name")
    return f"{space}64", program.constant(value, "u64"), offset


# Between blocks these order something.
_ORDERED = {"acquire", "release", "acq_rel", "volatile", "relaxed", "sc"}


def _touches(program: Program, instruction: Instruction, space: str, size: int) -> None:
    if space in ("shared", "generic"):
        program.granule = min(program.granule, size)
    if space in ("global", "generic"):
        program.global_granule = min(program.global_granule, size)
    if instruction.parts[0] in ("ld", "st") and _ORDERED & set(instruction.parts) and space != "shared":
        program.blocks_communicate = True


def _lower_load(program: Program, instruction: Instruction) -> None:
    space, count, type_name = _memory_parts(program, instruction.parts[1:])
    target, source = instruction.operands
    registers = target.parts if isinstance(target, Vector) else (target,)
    if len(registers) != count:
        raise program.error(f"{len(registers)} registers for a vector of {count}")
    where, base, offset = place_of_address(program, source, space)
    _touches(program, instruction, space, size_of(type_name))
    targets = [wide_target(program, register, type_name) for register in registers]
    handler = f"load.{where}.v{count}.b{8 * size_of(type_name)}"
    program.emit(handler, (*(place for place, _ in targets), base), immediates=(offset,))
    for _, move in targets:
        move()


def _lower_store(program: Program, instruction: Instruction) -> None:
    space, count, type_name = _memory_parts(program, instruction.parts[1:])
    target, source = instruction.operands
    values = source.parts if isinstance(source, Vector) else (source,)
    if len(values) != count:
        raise program.error(f"{len(values)} values for a vector of {count}")
    where, base, offset = place_of_address(program, target, space)
    _touches(program, instruction, space, size_of(type_name))
    sources = [narrow_source(program, value, type_name) for value in values]
    handler = f"store.{where}.v{count}.b{8 * size_of(type_name)}"
    program.emit(handler, (base, *sources), immediates=(offset,))


def _lower_atomic(program: Program, instruction: Instruction) -> None:
    """atom and red, which is an atom whose result nobody wants."""
    operations = [word for word in instruction.parts[1:-1] if word not in _IGNORED and word not in _SPACES]
    space, _, type_name = _memory_parts(program, [w for w in instruction.parts[1:] if w not in operations])
    if len(operations) != 1:
        raise program.unknown()
    operands = instruction.operands
    if instruction.parts[0] == "red":
        operands = (Register("_"), *operands)
    target, address, *values = operands
    where, base, offset = place_of_address(program, address, space)
    _touches(program, instruction, space, size_of(type_name))
    operation = operations[0]
    kind = "u" + type_name[1:] if operation == "add" and type_name[0] == "s" else type_name
    if operation in ("exch", "cas", "and", "or", "xor"):
        kind = f"b{8 * size_of(type_name)}"
    places = [program.source(value, type_name) for value in values]
    program.emit(
        f"atomic.{operation}.{where}.{kind}",
        (program.target(target, type_name), base, places[0], places[-1]),
        immediates=(offset,),
    )


def _lower_copy(program: Program, instruction: Instruction) -> None:
    """cp.async of bytes; bulk copies are unknown."""
    parts = instruction.parts
    if parts[1:2] != ["async"]:
        raise program.unknown()
    if parts[2:] == ["commit_group"]:
        program.emit("copy.commit")
    elif parts[2:] == ["wait_all"]:
        program.emit("copy.wait_all")
    elif parts[2:] == ["wait_group"] and isinstance(number := instruction.operands[0], Literal):
        program.emit("copy.wait_group", immediates=(int(number.text, 0),))
    elif parts[2] in ("ca", "cg") and parts[3] in ("shared", "shared_cta") and parts[4] == "global":
        _lower_copy_bytes(program, instruction)
    else:
        raise program.unknown()


def _lower_copy_bytes(program: Program, instruction: Instruction) -> None:
    target, source, size, *rest = instruction.operands
    if any(word not in _IGNORED for word in instruction.parts[5:]) or not isinstance(size, Literal) or len(rest) > 1:
        raise program.unknown()
    number = int(size.text, 0)
    if number not in ((16,) if instruction.parts[2] == "cg" else (4, 8, 16)):
        raise program.error(f"cp.async.{instruction.parts[2]} of {number} bytes")
    where, into, into_offset = place_of_address(program, target, "shared")
    _, origin, origin_offset = place_of_address(program, source, "global")
    filled = program.constant(number, "u32")
    if rest and isinstance(rest[0], Register) and program.type_of(rest[0]) == "pred":  # whether to ignore the source
        everything, filled = filled, program.temporary("u32")
        program.emit("select.32", (filled, program.constant(0, "u32"), everything, program.source(rest[0], "pred")))
    elif rest:
        filled = program.source(rest[0], "u32")
    program.emit(f"copy.{number}.{where}", (into, origin, filled), immediates=(into_offset, origin_offset))


MEMORY: dict[str, Callable[[Program, Instruction], None]] = {
    "ld": _lower_load,
    "ldu": _lower_load,
    "st": _lower_store,
    "atom": _lower_atomic,
    "red": _lower_atomic,
    "cp": _lower_copy,
}
