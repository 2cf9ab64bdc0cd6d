"""What bodies can see while their structure is found: values by the parts that deliver them, and names for some."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import field

from convc.frontend.decompiling.parts import Part
from convc.frontend.decompiling.steps import JOINS
from convc.frontend.expression_parser import OPERATOR_WORDS
from convc.ir.graph import Value
from convc.lazy import dataclass

WORD = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")
RESERVED = frozenset((*OPERATOR_WORDS, "skip", "branch"))  # what names nothing
LONGEST = 60  # characters of a name that is made up


@dataclass
class _Frame:
    """One body. `closed`: it sees nothing of the bodies around it, as that of a block.

    `start` is the value that it begins with and the part that stands for it, in bodies that may run elsewhere.
    `outer`: names from outside are preferred to one for the start.
    """

    parts: dict[Value, Part] = field(default_factory=dict[Value, Part])
    closed: bool = False
    start: tuple[Value, Part] | None = None
    outer: bool = False

    def begins_with(self, value: Value) -> bool:
        return self.start is not None and self.start[0] is value


class Scopes:
    """The bodies around a statement, innermost last, and the names that are taken in them."""

    def __init__(self) -> None:
        self.frames = [_Frame(closed=True)]
        self.used: set[str] = set()

    @contextmanager
    def body(self) -> Iterator[None]:
        """A body that sees the bodies around it."""
        self.frames.append(_Frame())
        yield
        self.frames.pop()

    @contextmanager
    def own(self, value: Value, start: Part, *, closed: bool, outer: bool = False) -> Iterator[None]:
        """A body that begins with `value`, wherever it runs."""
        self.frames.append(_Frame(closed=closed, start=(value, start), outer=outer))
        used, self.used = self.used, set[str]() if closed else self.used
        yield
        self.used = used
        self.frames.pop()

    def bind(self, value: Value, part: Part) -> None:
        """`part` of the innermost body delivers `value`."""
        self.frames[-1].parts[value] = part

    def visible(self, value: Value) -> bool:
        for frame in reversed(self.frames):
            if value in frame.parts or frame.begins_with(value):
                return True
            if frame.closed:
                return False
        return False

    def find(self, value: Value) -> Part:
        """The part whose result a visible value is; it gets a name."""
        starts: list[Part] = []
        for frame in reversed(self.frames):
            part = frame.parts.get(value)
            if frame.start is not None and frame.begins_with(value):
                starts.append(frame.start[1])
                if part is None and not frame.outer:
                    part = frame.start[1]
            if part is not None:
                return self._called(part)
            if frame.closed:
                break
        if starts:
            return self._called(starts[0])
        raise AssertionError("a body reads what it cannot see")

    def _called(self, part: Part) -> Part:
        if part.alias is None:
            part.alias = self.unused(_base(part), self.used)
        return part

    @staticmethod
    def unused(base: str, taken: set[str]) -> str:
        """A name like `base` that is not taken; it is, from now on."""
        base = base[:LONGEST]
        name, number = base, 1
        while name in taken or name in RESERVED:
            number += 1
            name = f"{base}_{number}"
        taken.add(name)
        return name


def _base(part: Part) -> str:
    """What the result of a part would be called, were it the only one."""
    if part.kind == "start":
        return "start"
    if part.kind == "join" and part.component in ("", part.word):
        return JOINS[part.word]
    return part.component if WORD.fullmatch(part.component) else part.word
