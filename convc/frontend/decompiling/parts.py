"""The statements of a net while its structure is found: mutable, with values instead of names."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from convc.frontend.decompiling.statements import CallArguments
from convc.frontend.decompiling.steps import PLAIN, Step
from convc.frontend.emission import Modifiers
from convc.lazy import dataclass

Kind = Literal["start", "layer", "join", "from", "residual", "concat", "aux", "shared", "reuse", "block"]


@dataclass(eq=False)
class Part:
    """One statement. `component` is its name in the paths of the graph, `alias` what `as` calls its result.

    `sources` are the parts whose results a join or a `from` names. `bodies` are body and skip of a residual, the
    branches of a concat, or the one body of the others; `start`, the first part of a body that has names of its own,
    stands for the value that the body begins with and is no statement unless it has an alias. `projects` marks a skip
    that is what `skip auto` inserts. `modifiers` are those of the call of a block.
    """

    kind: Kind
    component: str = ""
    step: Step | None = None
    sources: list[Part] = field(default_factory=list["Part"])
    bodies: list[list[Part]] = field(default_factory=list["list[Part]"])
    alias: str | None = None
    projects: bool = False
    modifiers: Modifiers = PLAIN
    taken: frozenset[str] = frozenset()  # aliases that were taken before a shared part
    call: tuple[str, CallArguments] | None = None  # of a block: its name and its arguments

    @property
    def word(self) -> str:
        """What its result is called, if it needs a name."""
        return self.step.word if self.step else self.kind


def signature(parts: list[Part]) -> tuple[object, ...]:
    """Equal for bodies that read the same: what tells whether a shared part is run again."""
    return tuple(
        (
            part.kind,
            part.component,
            part.alias,
            (part.step.title, tuple(part.step.arguments.items()), part.step.modifiers) if part.step else None,
            tuple(source.alias for source in part.sources),
            tuple(map(signature, part.bodies)),
            part.projects,
        )
        for part in parts
    )
