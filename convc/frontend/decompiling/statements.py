"""The statements of a text in the making: frozen, compared by what they say."""

from __future__ import annotations

from typing import Literal

from convc.lazy import dataclass

Arguments = tuple[tuple[str, "str | None"], ...]
CallArguments = tuple[tuple[str, str, "str | None"], ...]


@dataclass(frozen=True)
class Apply:
    """A layer. `arguments` are all of its own, defaults included; `extra` what every layer takes."""

    title: str
    arguments: Arguments
    extra: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Call:
    """A block; `arguments` are (parameter, text, default or None) for all of its parameters, required ones first."""

    block: str
    arguments: CallArguments
    extra: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Alias:
    """`as NAME` for the statement before it, or the beginning of the body."""

    name: str


@dataclass(frozen=True)
class From:
    name: str


@dataclass(frozen=True)
class Join:
    word: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Residual:
    body: Body
    skip: Body | Literal["identity", "auto"]


@dataclass(frozen=True)
class Concat:
    branches: tuple[Body, ...]


@dataclass(frozen=True)
class Aux:
    body: Body


@dataclass(frozen=True)
class Shared:
    name: str
    body: Body


@dataclass(frozen=True)
class Reuse:
    name: str


@dataclass(frozen=True)
class Repeat:
    count: int
    body: Body


Statement = Apply | Call | Alias | From | Join | Residual | Concat | Aux | Shared | Reuse | Repeat
Body = tuple[Statement, ...]


@dataclass(frozen=True)
class Block:
    """A definition; `parameters` with their defaults, None where there is none."""

    name: str
    parameters: tuple[tuple[str, str | None], ...]
    body: Body
