"""What a statement can see while a net is elaborated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, replace
from enum import Enum, auto

from convc.frontend import syntax
from convc.frontend.emission import Modifiers
from convc.frontend.expressions import Constant, Scope
from convc.frontend.naming import Naming
from convc.ir.diagnostic import Note
from convc.ir.graph import Value
from convc.ir.span import Span
from convc.lazy import dataclass


class Missing(Enum):
    """Why there is no current value."""

    START = auto()  # before `input`
    ENDED = auto()  # after a loss
    UNKNOWN = auto()  # after an error, which has been reported


START, ENDED, UNKNOWN = Missing.START, Missing.ENDED, Missing.UNKNOWN
Current = Value | Missing


class Values:
    """Named values (`as`), those of enclosing bodies included. A name may hold one value per index."""

    def __init__(self, parent: Values | None = None) -> None:
        self.parent = parent
        self.table: dict[tuple[str, Constant | None], tuple[Current, Span]] = {}
        self.vague: set[str] = set()  # names that were given an index which nobody knows

    def bind(self, name: str, index: Constant | None, value: Current, span: Span) -> None:
        self.table[name, index] = (value, span)

    def find(self, name: str, index: Constant | None) -> tuple[Current, Span] | None:
        """The value and where it was named."""
        scope: Values | None = self
        while scope is not None:
            if (name, index) in scope.table:
                return scope.table[name, index]
            scope = scope.parent
        return None

    def is_vague(self, name: str) -> bool:
        """Whether the name may well stand for a value, under an index that an earlier error hides."""
        return name in self.vague or (self.parent is not None and self.parent.is_vague(name))

    def names(self) -> set[str]:
        """All names in sight."""
        return {name for name, _ in self.table} | (self.parent.names() if self.parent else set())

    def indices(self, name: str) -> list[Constant | None]:
        """The indices under which a name is known."""
        own = [index for known, index in self.table if known == name]
        return own + (self.parent.indices(name) if self.parent else [])


@dataclass(frozen=True)
class Iteration:
    """One run of a loop's body, from 0 of `count`; `values` are those of all runs of a `for`, empty for a `repeat`."""

    number: int
    count: int
    values: Sequence[Constant] = ()


@dataclass(frozen=True)
class Link:
    """One step of the way to a statement: a block's call, an iteration of a loop, or a shared part run again.

    `statement` is what was carried out at `span`.
    """

    text: str
    statement: syntax.Statement
    parent: Link | None
    iteration: Iteration | None = None

    @property
    def span(self) -> Span:
        return self.statement.span

    def notes(self) -> tuple[Note, ...]:
        """Innermost first; the middle of a long chain is left out."""
        links: list[Note] = []
        link: Link | None = self
        while link is not None:
            text, place, count = link.text, link.span, 0
            while link is not None and (link.text, link.span) == (text, place):
                count += 1
                link = link.parent
            links.append(Note(text if count == 1 else f"{text} ({count} times)", place))
        if len(links) > 8:
            links[6:-1] = [Note(f"… {len(links) - 7} more …")]
        return tuple(links)


@dataclass
class Shared:
    """A `shared` part: its body with everything that its definition saw, so that it can be run again."""

    statement: syntax.Shared
    path: str
    context: Context
    runs: int = 1


@dataclass(frozen=True)
class Context:
    """Where a statement stands. A context is never changed; bodies get a changed copy."""

    naming: Naming
    scope: Scope
    values: Values
    modifiers: Modifiers = field(default_factory=Modifiers)
    chain: Link | None = None
    auxiliary: bool = False
    uses: int = 0  # how often the parameters of this body have been run before
    unsure: bool = False  # the way here depends on what is not known; blocks are not entered, or it might never end

    def inside(self, prefix: str) -> Context:
        """The context of a body with names and values of its own."""
        return replace(self, naming=Naming(prefix), scope=Scope(self.scope), values=Values(self.values))

    def nested(self, link: Link | None = None) -> Context:
        """The context of the body of a loop or an `if`: only its constants end with it."""
        return replace(self, scope=Scope(self.scope), chain=link or self.chain)

    def linked(self, text: str, statement: syntax.Statement) -> Link:
        return Link(text, statement, self.chain)
