"""The shape of a `.cnn` text for the formatter: words, brackets and braces, with every comment and the breaks of lines.

A body holds entries; an entry is a chain of segments with `->` between them; a segment is a statement. A comment goes
where it can be written again: a line of its own, the end of an entry, or in front of the next word.
"""

from __future__ import annotations

from dataclasses import field
from functools import cached_property

from convc.lazy import dataclass


@dataclass(frozen=True)
class Comment:
    """`column`: where it stood; `own_line`: whether nothing stood before it."""

    text: str
    column: int
    own_line: bool


@dataclass(frozen=True)
class Word:
    """One token, and whether a space stands before it."""

    text: str
    space: bool

    @property
    def flat(self) -> str:
        return " " + self.text if self.space else self.text


@dataclass
class Item:
    """What stands between two commas. `leading` are the comments before it, `trailing` that at the end of its line."""

    parts: list[Part] = field(default_factory=list["Part"])
    leading: list[Comment] = field(default_factory=list[Comment])
    trailing: Comment | None = None
    begins_line: bool = False

    @cached_property
    def flat(self) -> str | None:
        return None if self.leading or self.trailing else flat(self.parts)


@dataclass
class Brackets:
    """`( )` or `[ ]`. `expanded`: a line ended after the opening one. `closing`: comments after the last item."""

    opener: str
    space: bool
    items: list[Item] = field(default_factory=list[Item])
    opening: Comment | None = None
    closing: list[Comment] = field(default_factory=list[Comment])
    expanded: bool = False
    tuple_of_one: bool = False

    @property
    def closer(self) -> str:
        return ",)" if self.tuple_of_one else ")" if self.opener == "(" else "]"

    @property
    def start(self) -> str:
        return " " + self.opener if self.space else self.opener

    @cached_property
    def flat(self) -> str | None:
        """All on one line; None where comments or the author forbid it."""
        items = [item.flat for item in self.items]
        if (self.expanded and items) or self.opening or self.closing or None in items:
            return None
        return self.start + ", ".join(str(item) for item in items) + self.closer


@dataclass
class Braces:
    """`{ }`. `broken`: it reached over several lines."""

    entries: list[Entry] = field(default_factory=list["Entry"])
    opening: Comment | None = None
    broken: bool = False

    @cached_property
    def flat(self) -> str | None:
        if not self.entries and self.opening is None:
            return " { }"
        entries = [entry.flat if isinstance(entry, Chain) else None for entry in self.entries]
        if self.broken or self.opening or None in entries:
            return None
        return f" {{ {' '.join(str(entry) for entry in entries)} }}"


Part = Word | Brackets | Braces | Comment


@dataclass
class Segment:
    """A statement in its chain. `breaks`: its arrow stood at the end of a line. `comments` stand before the arrow."""

    parts: list[Part]
    breaks: bool = False
    comments: list[Comment] = field(default_factory=list[Comment])

    @cached_property
    def flat(self) -> str | None:
        return flat(self.parts)


@dataclass
class Chain:
    """Statements with `->` between them. `gap`: an empty line stood before it."""

    segments: list[Segment]
    gap: bool
    trailing: Comment | None = None

    @cached_property
    def flat(self) -> str | None:
        segments = [None if segment.breaks or segment.comments else segment.flat for segment in self.segments]
        return None if self.trailing or None in segments else " -> ".join(str(segment) for segment in segments)


@dataclass
class Remark:
    """A comment on a line of its own."""

    comment: Comment
    gap: bool


Entry = Chain | Remark


def flat(parts: list[Part]) -> str | None:
    """Parts on one line, or None where that cannot be."""
    texts = [None if isinstance(part, Comment) else part.flat for part in parts]
    return None if None in texts else "".join(str(text) for text in texts)
