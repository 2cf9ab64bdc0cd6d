"""From PTX instructions to handlers of the runtime: one function per family of opcodes.

Most opcodes are lane-wise, found in the table as they are written. The families below have forms of their own: memory,
conversions between registers of other widths, predicates, control flow, and what a warp does as one. An instruction may
become several: `ld.u8` into a register of 16 bits is a load and a conversion. What is not found raises `UnknownOpcode`.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.cuda_emulator.lanewise import HandlerSpec, lanewise
from tests.cuda_emulator.program import Program
from tests.cuda_emulator.ptx import (
    Address,
    Instruction,
    Kernel,
    Literal,
    Operand,
    Register,
    Symbol,
    Variable,
    Vector,
    size_of,
)

SHARED_BASE, LOCAL_BASE = 1 << 30, 1 << 32  # as in runtime/machine.hpp
# In the order of `BarrierMode` in runtime/scheduler.hpp.
BARRIER_MODES = ("sync", "arrive", "popc", "and", "or")

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
_TYPES = {f"{kind}{bits}" for kind in "bus" for bits in (8, 16, 32, 64)} | {
    "f32",
    "f64",
    "f16",
    "f16x2",
    "bf16",
    "bf16x2",
}


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
    end = Instruction("ret", (), kernel.instructions[-1].place)
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


def _signedness(type_name: str) -> str:
    return "s" if type_name[0] == "s" else "u"


def _resized(program: Program, place: int, from_bits: int, to_bits: int, kind: str, into: int | None = None) -> int:
    """The place of an integer in another width: cut off, or extended with zeros (`u`) or its sign (`s`)."""
    if from_bits == to_bits and into is None:
        return place
    into = program.temporary(f"b{to_bits}") if into is None else into
    if from_bits == to_bits:
        program.emit(f"mov.{to_bits}", (into, place))
    else:
        program.emit(f"cvt.{kind}{to_bits}.{kind}{from_bits}", (into, place))
    return into


def _narrow_source(program: Program, operand: Operand, type_name: str) -> int:
    """A source that may be in a wider register, of which the lower bits count."""
    bits, have = 8 * size_of(type_name), 8 * program.width(operand)
    if have <= bits:
        return program.source(operand, type_name)
    return _resized(program, program.source(operand, f"b{have}"), have, bits, "u")


def _wide_target(program: Program, operand: Operand, type_name: str) -> tuple[int, Callable[[], None]]:
    """A place for a result that may go to a wider register, and what moves it there."""
    bits, have = 8 * size_of(type_name), 8 * program.width(operand)
    if have <= bits:
        return program.target(operand, type_name), lambda: None
    place = program.temporary(f"b{bits}")
    target = program.target(operand, f"b{have}")

    def move() -> None:
        _resized(program, place, bits, have, _signedness(type_name), target)

    return place, move


def _lower_convert(program: Program, instruction: Instruction) -> None:
    spec = lanewise().get(instruction.opcode)
    if spec is None:
        raise program.unknown()
    if len(instruction.operands) != len(spec.types):
        raise program.error(f"{len(instruction.operands)} operands where {len(spec.types)} belong")
    sources = [_narrow_source(program, o, t) for o, t in zip(instruction.operands[1:], spec.types[1:], strict=True)]
    target, move = _wide_target(program, instruction.operands[0], spec.types[0])
    program.emit(spec.name, (target, *sources))
    move()


def _lower_move(program: Program, instruction: Instruction) -> None:
    type_name = instruction.parts[-1]
    target, source = instruction.operands
    if len(instruction.parts) != 2 or (type_name != "pred" and type_name not in _TYPES):
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
    if len(instruction.parts) != 2 or type_name not in _TYPES:
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


# Memory


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
    if type_name not in _TYPES:
        raise program.unknown()
    return space, count, type_name


def _address(program: Program, operand: Operand, space: str) -> tuple[str, int, int]:
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
    where, base, offset = _address(program, source, space)
    _touches(program, instruction, space, size_of(type_name))
    targets = [_wide_target(program, register, type_name) for register in registers]
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
    where, base, offset = _address(program, target, space)
    _touches(program, instruction, space, size_of(type_name))
    sources = [_narrow_source(program, value, type_name) for value in values]
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
    where, base, offset = _address(program, address, space)
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
    where, into, into_offset = _address(program, target, "shared")
    _, origin, origin_offset = _address(program, source, "global")
    filled = program.constant(number, "u32")
    if rest and isinstance(rest[0], Register) and program.type_of(rest[0]) == "pred":  # whether to ignore the source
        everything, filled = filled, program.temporary("u32")
        program.emit("select.32", (filled, program.constant(0, "u32"), everything, program.source(rest[0], "pred")))
    elif rest:
        filled = program.source(rest[0], "u32")
    program.emit(f"copy.{number}.{where}", (into, origin, filled), immediates=(into_offset, origin_offset))


# Control flow and barriers


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


def _lower_barrier(program: Program, instruction: Instruction) -> None:
    name, *parts = [part for part in instruction.parts if part != "cta"]
    aligned = name == "bar" or "aligned" in parts
    parts = [part for part in parts if part != "aligned"]
    if parts == ["warp", "sync"]:
        members = _members(program, instruction.operands[0])
        program.emit("warp_barrier", kind="collective", members=members)
        return
    operands = list(instruction.operands)
    mode, target, predicate = parts[0], program.always, program.always
    if mode == "red":
        mode = parts[1]
        type_name = "u32" if mode == "popc" else "pred"
        if parts[1:] != [mode, type_name] or mode not in BARRIER_MODES:
            raise program.unknown()
        target = program.target(operands.pop(0), type_name)
        predicate = program.source(operands.pop(), "pred")
    elif len(parts) != 1 or mode not in ("sync", "arrive"):
        raise program.unknown()
    number = program.source(operands[0], "u32")
    count = program.source(operands[1], "u32") if len(operands) > 1 else 0
    program.emit(
        "nothing",
        (number, count, target, predicate),
        kind="barrier",
        immediates=(BARRIER_MODES.index(mode), len(operands) > 1, aligned),
    )


# Warps as a whole


def _members(program: Program, operand: Operand) -> int:
    return program.source(operand, "b32")


def _everybody(program: Program) -> int:
    return program.constant(0xFFFFFFFF, "b32")


def _lower_shuffle(program: Program, instruction: Instruction) -> None:
    parts = instruction.parts
    if parts[1] != "sync" or parts[3:] != ["b32"]:
        raise program.unknown()
    target, value, b, c, members = instruction.operands
    result, in_range = target.parts if isinstance(target, Vector) else (target, Register("_"))
    program.emit(
        f"shuffle.{parts[2]}",
        (
            program.target(result, "b32"),
            program.target(in_range, "pred"),
            *(program.source(operand, "b32") for operand in (value, b, c)),
        ),
        kind="collective",
        members=_members(program, members),
    )


def _lower_vote(program: Program, instruction: Instruction) -> None:
    parts = instruction.parts
    if parts[1] != "sync" or parts[3:] != (["b32"] if parts[2] == "ballot" else ["pred"]):
        raise program.unknown()
    target, value, members = instruction.operands
    places = (program.target(target, parts[3]), program.source(value, "pred"))
    program.emit(f"vote.{parts[2]}", places, kind="collective", members=_members(program, members))


def _lower_match(program: Program, instruction: Instruction) -> None:
    _, mode, sync, *rest = instruction.parts
    if mode not in ("any", "all") or sync != "sync" or len(rest) != 1:
        raise program.unknown()
    target, value, members = instruction.operands
    result, same = target.parts if isinstance(target, Vector) else (target, Register("_"))
    places = (program.target(result, "b32"), program.source(value, rest[0]), program.target(same, "pred"))
    program.emit(f"match.{mode}.{rest[0]}", places, kind="collective", members=_members(program, members))


def _lower_reduction(program: Program, instruction: Instruction) -> None:
    _, sync, operation, type_name, *rest = [*instruction.parts, "", ""]
    if sync != "sync" or any(rest):
        raise program.unknown()
    target, value, members = instruction.operands
    places = (program.target(target, type_name), program.source(value, type_name))
    handler = f"reduce.{operation}.{type_name}"
    program.emit(handler, places, kind="collective", members=_members(program, members))


def _lower_active_mask(program: Program, instruction: Instruction) -> None:
    program.emit("active_mask", (program.target(instruction.operands[0], "b32"),))


def _lower_matrix_move(program: Program, instruction: Instruction) -> None:
    """ldmatrix and stmatrix."""
    name, *parts = instruction.parts
    transposed = "trans" in parts
    parts = [part for part in parts if part != "trans"]
    count = {"x1": 1, "x2": 2, "x4": 4}.get(parts[3] if len(parts) > 3 else "", 0)
    if parts[:3] != ["sync", "aligned", "m8n8"] or parts[4:] not in (["shared", "b16"], ["shared_cta", "b16"]):
        raise program.unknown()
    registers, address = instruction.operands if name == "ldmatrix" else reversed(instruction.operands)
    places = registers.parts if isinstance(registers, Vector) else (registers,)
    if len(places) != count:
        raise program.error(f"{len(places)} registers for {count} matrices")
    where, base, offset = _address(program, address, "shared")
    suffix = f"x{count}{'.trans' if transposed else ''}.{where}"
    if name == "ldmatrix":
        handler, operands = f"load_matrices.{suffix}", (*(program.target(o, "b32") for o in places), base)
    else:
        handler, operands = f"store_matrices.{suffix}", (base, *(program.source(o, "b32") for o in places))
    program.emit(handler, operands, kind="collective", immediates=(offset,), members=_everybody(program))


def _lower_matrix_product(program: Program, instruction: Instruction) -> None:
    parts = [part for part in instruction.parts[1:] if part != "satfinite"]
    if parts[:2] != ["sync", "aligned"] or parts[3:5] != ["row", "col"] or "satfinite" in instruction.parts:
        raise program.unknown()
    operands: list[int] = []
    for position, operand in enumerate(instruction.operands):
        registers = operand.parts if isinstance(operand, Vector) else (operand,)
        take = program.target if position == 0 else program.source
        operands += [take(register, "b32") for register in registers]
    handler = f"mma.{'.'.join([parts[2], *parts[5:]])}"
    program.emit(handler, tuple(operands), kind="collective", members=_everybody(program))


_FAMILIES: dict[str, Callable[[Program, Instruction], None]] = {
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
    "ld": _lower_load,
    "ldu": _lower_load,
    "st": _lower_store,
    "atom": _lower_atomic,
    "red": _lower_atomic,
    "cp": _lower_copy,
    "bra": _lower_branch,
    "brx": _lower_indexed_branch,
    "ret": _lower_exit,
    "exit": _lower_exit,
    "trap": _lower_trap,
    "membar": _lower_fence,
    "fence": _lower_fence,
    "prefetch": _lower_nothing,
    "nanosleep": _lower_nothing,
    "bar": _lower_barrier,
    "barrier": _lower_barrier,
    "shfl": _lower_shuffle,
    "vote": _lower_vote,
    "match": _lower_match,
    "redux": _lower_reduction,
    "activemask": _lower_active_mask,
    "ldmatrix": _lower_matrix_move,
    "stmatrix": _lower_matrix_move,
    "mma": _lower_matrix_product,
}
