"""Opcode patterns: one line of a table stands for many opcodes.

    add(.rn)[.ftz][.sat].{t:f16,f32}

stands for `add.f16`, `add.rn.ftz.f32` and so on. `{name:a,b}` is a choice, bound to its name; `[.x]` may be there or
not; `(.x)` may be there or not, and makes no difference to the meaning, so both spellings share a handler.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_PIECE = re.compile(r"\{(\w+):([^}]*)\}|\[(\.\w+)\]|\(((?:\.\w+)+(?:\|(?:\.\w+)+)*)\)|([^\[({]+)")


@dataclass(frozen=True)
class Expansion:
    """One of the opcodes: its spelling, the name of its handler, what is bound, which optional parts are there."""

    opcode: str
    handler: str
    bound: dict[str, str] = field(default_factory=dict)
    options: frozenset[str] = frozenset()


def expand(pattern: str) -> Iterator[Expansion]:
    """All opcodes of a pattern."""
    pieces = list(_PIECE.finditer(pattern))
    if "".join(piece[0] for piece in pieces) != pattern:
        raise ValueError(f"no pattern of opcodes: {pattern}")
    yield from _expand(pieces, Expansion("", ""))


def _expand(pieces: list[re.Match[str]], done: Expansion) -> Iterator[Expansion]:
    if not pieces:
        yield done
        return
    piece, *rest = pieces
    name, choices, option, ignored, literal = piece.groups()
    opcode, handler, bound, options = done.opcode, done.handler, done.bound, done.options
    if name:
        for choice in choices.split(","):
            yield from _expand(rest, Expansion(opcode + choice, handler + choice, {**bound, name: choice}, options))
    elif option:
        yield from _expand(rest, done)
        yield from _expand(rest, Expansion(opcode + option, handler + option, bound, options | {option[1:]}))
    elif ignored:
        yield from _expand(rest, done)
        for spelling in ignored.split("|"):
            yield from _expand(rest, Expansion(opcode + spelling, handler, bound, options))
    else:
        yield from _expand(rest, Expansion(opcode + literal, handler + literal, bound, options))
