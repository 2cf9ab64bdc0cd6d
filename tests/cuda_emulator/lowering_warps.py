"""What a warp or a block does as one, to handlers: barriers, shuffles, votes, matrices."""

from __future__ import annotations

from collections.abc import Callable

from tests.cuda_emulator.lowering_memory import place_of_address
from tests.cuda_emulator.program import Program
from tests.cuda_emulator.ptx import Instruction, Operand, Register, Vector

# In the order of `BarrierMode` in runtime/scheduler.hpp.
BARRIER_MODES = ("sync", "arrive", "popc", "and", "or")


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
    where, base, offset = place_of_address(program, address, "shared")
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


WARPS: dict[str, Callable[[Program, Instruction], None]] = {
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
