"""What recognition finds: one step for every layer or join, in the order of the graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from convc.frontend.arguments import Parameter as Argument
from convc.frontend.emission import Modifiers
from convc.frontend.kinds import InitialValue
from convc.frontend.layers import BY_WORD, LayerKind
from convc.ir.graph import Node, Value
from convc.lazy import dataclass

JOINS = {"add": "sum", "mul": "product", "concat": "joined"}  # and what their results are called


PLAIN = Modifiers()


@dataclass(eq=False)
class Step:
    """One statement to be. `reads` begins with what has to be the current value; a loss has no `result`.

    `arguments` are texts in the order of the layer's signature, defaults written out; None stands for what cannot be
    written, the default of a pool's stride. `path` are the components of the layer's name; `keep` says that the name
    has a meaning, for checkpoints or for the random numbers of a layer.
    """

    title: str
    node: Node
    reads: tuple[Value, ...]
    result: Value | None
    arguments: Mapping[str, str | None] = field(default_factory=dict[str, "str | None"])
    parameters: tuple[str, ...] = ()
    modifiers: Modifiers = PLAIN
    path: tuple[str, ...] = ()
    keep: bool = False

    @property
    def word(self) -> str:
        return self.title.split()[0]

    @property
    def is_loss(self) -> bool:
        return self.word == "loss"


def kind_of(title: str) -> LayerKind:
    """The row of the table of layers: `pool max`."""
    word, _, variant = title.partition(" ")
    return BY_WORD[word][variant or None]


def texts(title: str, given: Mapping[str, object]) -> dict[str, str | None]:
    """All arguments of a layer as text, those that are not given by their defaults."""
    return {p.key: argument_text(p, given.get(p.key, p.default)) for p in kind_of(title).parameters}


def default_text(argument: Argument) -> str | None:
    return argument_text(argument, argument.default)


def argument_text(argument: Argument, value: object) -> str | None:
    """A bound argument as the language writes it; None for one that has no text."""
    match value:
        case None:
            return None
        case InitialValue(kind, number):
            return f"{kind}({number_text(number)})" if kind in argument.kind.calls else kind
        case tuple():
            return _tuple(argument, value)  # type: ignore[reportUnknownArgumentType]
        case _:
            return scalar_text(value)


def scalar_text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else number_text(value)


def number_text(value: object) -> str:
    """The shortest text that gives back the number; whole numbers without a point."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return repr(value)


def _tuple(argument: Argument, value: tuple[object, ...]) -> str:
    items = [number_text(item) for item in value]
    if argument.key == "shape":
        return "x".join(items)
    if argument.key in ("mean", "std"):
        return items[0] if len(items) == 1 else f"[{', '.join(items)}]"
    if len(items) == 4 and items[:2] == items[2:]:
        items = items[:2]
    if len(set(items)) == 1:
        return items[0]
    return "x".join(items) if len(items) == 2 else f"({', '.join(items)})"
