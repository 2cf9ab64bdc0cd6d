"""What takes the place of a layer, in numbers: the language's arguments with all defaults filled in."""

from __future__ import annotations

from collections.abc import Mapping

from convc.lazy import dataclass

Argument = int | bool | tuple[int, ...]


@dataclass(frozen=True)
class NewLayer:
    """A layer by its word and arguments.

    `arguments` of a `conv` are filters, k, s, dil (pairs), pad (top, left, bottom, right), groups and bias, of an `fc`
    outputs and bias; an activation has none. `channels` is how many channels (or features) it reads.
    """

    word: str
    channels: int
    arguments: Mapping[str, Argument]

    @property
    def has_parameters(self) -> bool:
        return bool(self.arguments)


@dataclass(frozen=True)
class Substitute:
    """`layers`, one behind the other, in the place of `old`; input and output have the same shapes.

    `adjective` names twins of blocks (`basic_factorized`). `chosen` says that inner widths are numbers which somebody
    chose or found for this layer, and not the width that the old layer happens to have.
    """

    old: NewLayer
    layers: tuple[NewLayer, ...]
    adjective: str
    chosen: bool = False
