"""Registers whose width is not that of the instruction: `ld.u8`, `cvt` and `st` allow wider ones."""

from __future__ import annotations

from collections.abc import Callable

from tests.cuda_emulator.program import Program
from tests.cuda_emulator.ptx import Operand, size_of

TYPES = {f"{kind}{bits}" for kind in "bus" for bits in (8, 16, 32, 64)} | {
    "f32",
    "f64",
    "f16",
    "f16x2",
    "bf16",
    "bf16x2",
}


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


def narrow_source(program: Program, operand: Operand, type_name: str) -> int:
    """A source that may be in a wider register, of which the lower bits count."""
    bits, have = 8 * size_of(type_name), 8 * program.width(operand)
    if have <= bits:
        return program.source(operand, type_name)
    return _resized(program, program.source(operand, f"b{have}"), have, bits, "u")


def wide_target(program: Program, operand: Operand, type_name: str) -> tuple[int, Callable[[], None]]:
    """A place for a result that may go to a wider register, and what moves it there."""
    bits, have = 8 * size_of(type_name), 8 * program.width(operand)
    if have <= bits:
        return program.target(operand, type_name), lambda: None
    place = program.temporary(f"b{bits}")
    target = program.target(operand, f"b{have}")

    def move() -> None:
        _resized(program, place, bits, have, _signedness(type_name), target)

    return place, move
