"""What could stand at a cursor: words of the language from the checker's tables, and names of the file.

One source of truth: layers, settings, their arguments and choices come from `layers` and `setting_kinds`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Literal

from convc.frontend import syntax
from convc.frontend.arguments import REQUIRED, Parameter
from convc.frontend.bindings import Bindings, NameKind
from convc.frontend.cursor import Cursor
from convc.frontend.expressions import FUNCTIONS, is_number, literal
from convc.frontend.kinds import BOOLEAN, IDENTIFIER, InitialValue
from convc.frontend.layers import BY_WORD, COMMON, LayerKind
from convc.frontend.parser import ITEM_WORDS
from convc.frontend.setting_kinds import BY_WORD as SETTINGS
from convc.frontend.setting_kinds import PIPELINES, SettingKind
from convc.frontend.statement_parser import STATEMENT_WORDS
from convc.lazy import dataclass

_Table = Mapping[str, Mapping[str | None, LayerKind]] | Mapping[str, Mapping[str | None, SettingKind]]
ProposalKind = Literal["layer", "statement", "setting", "argument", "choice", "function", "item"] | NameKind

_STATEMENTS = {
    "let": "a constant: let n = 3",
    "assert": 'a condition that has to hold: assert in == 3 "need colours"',
    "repeat": "a body several times: repeat 3 { … }",
    "for": "a body for each value: for c in [64, 128] { … }",
    "if": "a body where a condition holds: if s == 1 { … } else { … }",
    "as": "names the current value: as trunk",
    "from": "makes a named value the current one",
    "add": "adds named values to the current one",
    "mul": "multiplies the current value by named ones",
    "concat": "joins on channels: concat a, b or concat { branch { … } branch { … } }",
    "residual": "a body whose input is added to its output: residual { … } skip auto",
    "aux": "a side branch that ends in a loss: aux { … loss softmax weight=0.3 }",
    "shared": "a part that can be run again: shared tower { … }",
    "reuse": "runs a shared part again",
    "skip": "what a residual adds: skip identity, skip auto or skip { … }",
    "else": "what happens where the condition does not hold",
    "branch": "one branch of a concat: branch { … }",
}
_ITEMS = {
    "net": "a network: net NAME { input 1x28x28 … }",
    "block": "a part to be called like a layer: block NAME(c, s=1) { … }",
    "let": "a constant of the file",
    "use": 'brings in the blocks and nets of another file: use "blocks.cnn"',
    "train": "how the net is trained: train { data mnist … }",
    "search": "settings to be tried: search random 30 { … }",
}
assert set(_STATEMENTS) == set(STATEMENT_WORDS)
assert set(_ITEMS) == set(ITEM_WORDS)


@dataclass(frozen=True)
class Proposal:
    """A word that could stand at the cursor; `insert` is what is typed where that is more than the word."""

    word: str
    kind: ProposalKind
    detail: str = ""
    insert: str | None = None


def proposals(cursor: Cursor, bindings: Bindings, line: int, column: int) -> list[Proposal]:
    """Everything that could be typed at a place of a file with these names. An editor filters by the typed letters."""
    if cursor.comment or cursor.string:
        return []
    found = list(_proposals(cursor, bindings, line, column))
    return list({(proposal.word, proposal.kind): proposal for proposal in found}.values())


def _proposals(cursor: Cursor, bindings: Bindings, line: int, column: int) -> Iterator[Proposal]:
    around = cursor.bodies[-1][0] if cursor.bodies and cursor.bodies[-1] else None
    if not cursor.bodies:
        yield from _top(cursor, bindings, line, column)
    elif around in PIPELINES and cursor.inside("train"):
        kinds: _Table = {kind.word: {None: kind} for kind in PIPELINES[around]}
        yield from _applied(cursor, kinds, (), bindings, line, column)
    elif around == "train":
        yield from _applied(cursor, SETTINGS, (), bindings, line, column)
        if cursor.head is None:
            yield from (Proposal(word, "setting", insert=word + " { ") for word in PIPELINES)
    elif around == "search":
        if cursor.head is None:
            yield from (Proposal(path, "setting") for path in _paths())
    else:
        yield from _statement(cursor, around, bindings, line, column)


def _top(cursor: Cursor, bindings: Bindings, line: int, column: int) -> Iterator[Proposal]:
    if cursor.head is None:
        yield from (Proposal(word, "item", text) for word, text in _ITEMS.items())
    elif cursor.head == "search" and len(cursor.words) == 1:
        yield from (Proposal(word, "choice") for word in ("grid", "random", "bayes"))
    elif "=" in cursor.words:
        yield from _values(bindings, line, column)


def _statement(cursor: Cursor, around: str | None, bindings: Bindings, line: int, column: int) -> Iterator[Proposal]:
    head, words = cursor.head, cursor.words
    if head is None:
        if around == "concat":
            yield Proposal("branch", "statement", _STATEMENTS["branch"])
            return
        for word, variants in BY_WORD.items():
            yield Proposal(word, "layer", " / ".join(kind.doc for kind in variants.values()))
        yield from (Proposal(word, "statement", text) for word, text in _STATEMENTS.items())
        yield from _named(bindings, ("block",), line, column)
    elif head in BY_WORD:
        yield from _applied(cursor, BY_WORD, COMMON, bindings, line, column)
    elif words[-1] in ("from", "add", "mul", "concat", ","):
        yield from _named(bindings, ("value",), line, column)
    elif words[-1] == "reuse":
        yield from _named(bindings, ("shared",), line, column)
    elif words[-1] == "skip":
        yield from (Proposal(word, "choice") for word in ("identity", "auto"))
    elif head in ("let", "assert", "repeat", "for", "if"):
        yield from _values(bindings, line, column)
    elif head not in STATEMENT_WORDS:
        yield from _block_arguments(cursor, bindings, line, column)


def _block_arguments(cursor: Cursor, bindings: Bindings, line: int, column: int) -> Iterator[Proposal]:
    if cursor.key is None:
        for binding in bindings.introduced:
            if binding.kind == "block" and binding.name == cursor.head and isinstance(binding.node, syntax.Definition):
                for parameter in binding.node.parameters:
                    yield Proposal(parameter.name, "argument", f"of block {binding.name}", parameter.name + "=")
        yield from _keys(cursor, COMMON)
    yield from _values(bindings, line, column)


# Layers and settings with their arguments


def _applied(
    cursor: Cursor,
    table: _Table,
    common: Sequence[Parameter],
    bindings: Bindings,
    line: int,
    column: int,
) -> Iterator[Proposal]:
    head, words = cursor.head, cursor.words
    if head is None:
        for word, variants in table.items():
            yield Proposal(word, "setting", " / ".join(kind.doc for kind in variants.values()))
        return
    variants = table.get(head)
    if variants is None:
        return
    if None not in variants and len(words) == 1:
        yield from (Proposal(str(word), "choice", kind.doc) for word, kind in variants.items())
        return
    kind = variants.get(None) or variants.get(words[1] if len(words) > 1 else None)
    if kind is None:
        return
    parameters = (*kind.parameters, *common)
    if cursor.key is not None:
        parameter = next((p for p in parameters if cursor.key in (p.key, p.long)), None)
        if parameter is not None:
            yield from _choices(parameter)
            if parameter.kind is IDENTIFIER:
                return
    else:
        positional = next((p for p in parameters if p.positional), None)
        given = [word for word in words[1 if None in variants else 2 :] if word not in "=(),"]
        if positional is not None and not given:
            yield from _choices(positional)
        yield from _keys(cursor, parameters)
    yield from _values(bindings, line, column)


def _keys(cursor: Cursor, parameters: Iterable[Parameter]) -> Iterator[Proposal]:
    """Keys that have not been given yet."""
    words = cursor.words
    given = {word for word, after in pairwise(words) if after == "="}
    for parameter in parameters:
        if parameter.keyword and parameter.key not in given and parameter.long not in given:
            yield Proposal(parameter.key, "argument", argument_text(parameter), parameter.key + "=")


def _choices(parameter: Parameter) -> Iterator[Proposal]:
    kind = parameter.kind
    words = ("yes", "no") if kind is BOOLEAN else (*kind.words, *map(str, kind.numbers))
    yield from (Proposal(word, "choice", f"for {parameter.key}: {parameter.doc}") for word in words)
    yield from (Proposal(word, "choice", kind.description, word + "(") for word in kind.calls)


def argument_text(parameter: Parameter) -> str:
    """What an argument takes, in one line: `k=: the kernel size; a whole number …, required`."""
    return f"{parameter.doc}; {parameter.kind.description}{default_text(parameter)}"


def default_text(parameter: Parameter) -> str:
    """The default of an argument behind a comma, in the language's spelling."""
    value = parameter.default
    if value is REQUIRED:
        return ", required"
    if value is None:
        return ""
    if isinstance(value, InitialValue):
        return f", by default {value.kind}"
    if isinstance(value, tuple):
        items = tuple(item for item in value if is_number(item))
        return f", by default {items[0] if len(set(items)) == 1 else literal(items)}" if items else ""
    if isinstance(value, str):
        return f", by default {value}"
    return f", by default {literal(value)}" if isinstance(value, (bool, int, float)) else f", by default {value}"


def _paths() -> Iterator[str]:
    """Settings as `search` and `--set` address them."""
    for word, variants in SETTINGS.items():
        for kind in variants.values():
            yield from (f"{word}.{p.key}" for p in kind.parameters if p.keyword)
            if any(p.positional for p in kind.parameters):
                yield word


# Names of the file


def _values(bindings: Bindings, line: int, column: int) -> Iterator[Proposal]:
    yield from _named(bindings, ("let", "parameter", "loop"), line, column)
    yield Proposal("in", "function", "the number of channels of the current value")
    yield from (Proposal(word, "function", insert=word + "(") for word in FUNCTIONS)


def _named(bindings: Bindings, kinds: Sequence[NameKind], line: int, column: int) -> Iterator[Proposal]:
    for binding in bindings.introduced:
        if binding.kind in kinds and binding.visible_at(line, column):
            yield Proposal(binding.name, binding.kind, f"line {binding.span.line}")
