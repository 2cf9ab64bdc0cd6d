"""What the formatter must know of tokens beyond their text: the roles that they have in the syntax tree.

`-` is a sign or a difference, `(` opens a call or an argument, `in` is a value or a keyword: the parser has decided
that already, and its tree says where each of them stands.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field

from convc.frontend import syntax
from convc.frontend.lexer import Token
from convc.ir.span import Span
from convc.lazy import dataclass

Place = tuple[int, int]


def _places() -> set[Place]:
    return set()


@dataclass(frozen=True)
class Roles:
    """Places (line, column) where tokens with these roles begin."""

    signs: set[Place] = field(default_factory=_places)  # `-` and `+` before one operand
    keys: set[Place] = field(default_factory=_places)  # of `key=value`
    callees: set[Place] = field(default_factory=_places)  # names whose parenthesis, where it touches, belongs to them
    definitions: set[Place] = field(default_factory=_places)  # names of nets and blocks
    values: set[Place] = field(default_factory=_places)  # names that stand for a value, and may be indexed
    entries: set[Place] = field(default_factory=_places)  # where an item of a file or an axis of a search begins
    spaced: set[Place] = field(default_factory=_places)  # statements whose arguments are separated by spaces


def place(token: Token) -> Place:
    """Where a token begins."""
    return _start(token.span)


def roles(file: syntax.File) -> Roles:
    """The roles of the tokens that `file` was made of."""
    found = Roles()
    for item in (*file.uses, *file.lets, *file.definitions, *file.trains, *file.searches):
        found.entries.add(_start(item.span))
    for node in nodes(file):
        match node:
            case syntax.Unary():
                found.signs.add(_start(node.span))
            case syntax.Argument() if node.key is not None:
                found.keys.add(_start(node.span))
            case syntax.Call():
                found.callees.add(_start(node.function_span))
            case syntax.Apply():
                found.callees.add(_start(node.word_span))
                found.spaced.add(_start(node.span))
            case syntax.Join():
                found.spaced.add(_start(node.span))
            case syntax.Setting() if not node.segments:
                found.spaced.add(_start(node.span))
            case syntax.Definition():
                found.definitions.add(_start(node.name_span))
            case syntax.Name() | syntax.Channels() | syntax.Boolean() | syntax.Reference():
                found.values.add(_start(node.span))
            case syntax.Axis():
                found.entries.add(_start(node.span))
            case _:
                pass
    return found


def nodes(tree: syntax.File | syntax.Node) -> Iterator[syntax.Node]:
    """Every node of a tree. Walked with a stack: sums may be thousands of terms long, and so nodes deep."""
    pending: list[object] = [tree]
    while pending:
        item = pending.pop()
        if isinstance(item, tuple):
            pending.extend(item)  # type: ignore[arg-type]
        elif isinstance(item, syntax.Node):
            yield item
            pending.extend(getattr(item, name) for name in item.fields if not name.endswith("span"))


def _start(span: Span) -> Place:
    return span.line, span.column
