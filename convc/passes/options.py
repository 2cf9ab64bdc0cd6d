"""Fields of frozen dataclasses as options of a command line: `rank=24`, `relu=yes`, `order=vertical`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from convc.ir.diagnostic import similar
from convc.lazy import dataclass


class UnknownOption(Exception):
    """There is no such option; the message goes on behind `the pass `."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class BadOption(Exception):
    """A value that an option does not take."""


@dataclass(frozen=True)
class Option:
    """A field. `takes` says what it is in words; None for what no command line can say."""

    name: str
    default: Any
    takes: str | None


def options_of(kind: type[Any]) -> tuple[Option, ...]:
    """The options of a dataclass, in order."""
    hints = get_type_hints(kind)
    return tuple(Option(entry.name, entry.default, _words(hints[entry.name])) for entry in fields(kind))


def read_options(kind: type[Any], name: str, items: Iterable[str]) -> dict[str, Any]:
    """The fields that items `option=value` give. Raises `UnknownOption` and `BadOption`, which call it `name`."""
    values: dict[str, Any] = {}
    hints = get_type_hints(kind)
    entries = [entry.name for entry in fields(kind)]
    for item in filter(None, (part.strip() for part in items)):
        key, equals, value = (part.strip() for part in item.partition("="))
        if key not in entries or not equals:
            hint = known(key, entries) if entries else f"`{name}` has no options"
            raise UnknownOption(f"`{name}` has no option `{key}`", hint)
        values[key] = _converted(name, key, hints[key], value)
    return values


def known(word: str, words: Iterable[str]) -> str:
    """What was probably meant, or all that there is."""
    names = list(words)
    return similar(word, names) or f"there are {', '.join(names)}"


def _converted(name: str, key: str, hint: Any, text: str) -> Any:
    takes = _words(hint)
    if takes is None:
        raise BadOption(f"the option `{key}` of `{name}` cannot be given here")
    for kind in _alternatives(hint):
        try:
            return _READERS[kind](text) if kind in _READERS else _literal(kind, text)
        except ValueError:
            continue
    raise BadOption(f"the option `{key}` of `{name}` takes {takes}, not `{text}`")


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The types that a field may have, without None: what is left out is None already."""
    if get_origin(hint) in (Union, UnionType):
        return tuple(kind for kind in get_args(hint) if kind is not type(None))
    return (hint,)


def _words(hint: Any) -> str | None:
    found: list[str] = []
    for kind in _alternatives(hint):
        if get_origin(kind) is Literal:
            found += [str(word) for word in get_args(kind)]
        elif kind in _TAKES:
            found.append(_TAKES[kind])
    return " or ".join(found) or None


def _literal(kind: Any, text: str) -> Any:
    if get_origin(kind) is Literal and text in get_args(kind):
        return text
    raise ValueError


def _boolean(text: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError
    return text == "yes"


_TAKES = {bool: "yes or no", int: "a whole number", float: "a number", str: "a word"}
_READERS: dict[Any, Any] = {bool: _boolean, int: int, float: float, str: str}
