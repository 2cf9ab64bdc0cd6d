"""Arguments as they were written, and texts for new arguments that come to given numbers.

A new argument can often be written in several ways: as a number, or by an expression of the old layer (`s=s`, `conv c`)
that has the right value. In a block or a loop a way counts only if it is right in all runs of the statement.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from convc.frontend import syntax
from convc.frontend.expressions import Constant
from convc.frontend.lexer import tokenize
from convc.frontend.rewriting.substitute import Argument
from convc.frontend.rewriting.tracing import Execution
from convc.frontend.source import Source
from convc.frontend.token_roles import nodes
from convc.ir.span import Span
from convc.lazy import dataclass

Slice = Callable[[Span], str]
# Texts that are right, with what speaks against each: the smallest is taken.
Ways = Mapping[str, int]

_ATOMS = (syntax.Number, syntax.Name, syntax.Call, syntax.Index, syntax.Channels, syntax.Sequence, syntax.Dimensions)
NATURAL, PLAIN, ACCIDENTAL = 0, 1, 2


@dataclass(frozen=True)
class Written:
    """An argument in the text. `value` is what its expression came to in one run, None for a word such as `same`."""

    argument: syntax.Argument
    value: Constant | None
    slice: Slice

    @property
    def text(self) -> str:
        """The whole argument, with its key."""
        return oneline(self.slice(self.argument.span))

    @property
    def expression(self) -> syntax.Expression:
        return self.argument.value

    def part(self, index: int) -> tuple[str, Constant] | None:
        """The text and value of one number of a pair or of four sides; a single number stands for all of them."""
        value, expression = self.value, self.expression
        if not isinstance(value, tuple):
            return None if value is None else (self._text(expression), value)
        if not isinstance(expression, syntax.Sequence) or len(expression.items) != len(value):
            return None
        place = index % len(value)
        return self._text(expression.items[place]), value[place]

    def _text(self, expression: syntax.Expression) -> str:
        text = oneline(self.slice(expression.span))
        return text if isinstance(expression, _ATOMS) or " " not in text else f"({text})"

    @property
    def reads_channels(self) -> bool:
        """Whether `in` occurs, which means something else one layer further on."""
        return any(isinstance(node, syntax.Channels) for node in nodes(self.expression))


def written_arguments(execution: Execution, slice: Slice) -> dict[str, Written]:
    """The arguments of a layer's statement by key, in their order."""
    kind = execution.kind
    positional = [parameter for parameter in kind.signature if parameter.positional]
    keys = {key: p for p in kind.signature for key in (p.key, p.long) if key is not None}
    found: dict[str, Written] = {}
    for index, argument in enumerate(execution.statement.arguments):
        parameter = positional[index] if argument.key is None else keys[argument.key]
        accepted, name = parameter.kind, argument.value
        word = isinstance(name, syntax.Name) and (accepted.identifier or name.name in accepted.words)
        value = None if word else execution.values.get(index)
        found[parameter.key] = Written(argument, value, slice)
    return found


def number_ways(number: int, old: Written | None, index: int, *, usual: int | None, inner: bool = False) -> Ways:
    """Ways to write one number. `usual` is the default, which an expression has by accident as likely as not.

    `inner`: the number was chosen for this layer, so that an equal expression is an accident, too.
    """
    ways = {str(number): PLAIN}
    part = None if old is None else old.part(index)
    if part is not None and part[1] == number and not isinstance(part[1], bool) and not part[0].isdigit():
        ways[part[0]] = ACCIDENTAL if inner or number == usual else NATURAL
    return ways


def boolean_ways(value: bool, old: Written | None) -> Ways:
    ways = {"yes" if value else "no": PLAIN}
    if old is not None and old.value is value:
        ways[old.text.partition("=")[2].strip()] = NATURAL
    return ways


def best(alternatives: Sequence[Ways]) -> str | None:
    """The best text among those that are right in all runs; None if there is none."""
    common = [text for text in alternatives[0] if all(text in ways for ways in alternatives)]
    return min(common, key=lambda text: sum(ways[text] for ways in alternatives), default=None)


def joined(texts: Sequence[str]) -> str:
    """`3`, `1x3`, `(1, s)`: one number, a pair, or four sides, as short as they can be written."""
    if len(set(texts)) == 1:
        return texts[0]
    if len(texts) == 4 and texts[:2] == texts[2:]:
        texts = texts[:2]
    numbers = all(text.isdigit() for text in texts)
    return "x".join(texts) if numbers and len(texts) == 2 else f"({', '.join(texts)})"


def same_window(new: Mapping[str, Argument], old: Mapping[str, Argument]) -> bool:
    """Whether two layers move the same window over their images."""
    return all(new.get(key) == old.get(key) for key in ("k", "s", "pad", "dil"))


def oneline(text: str) -> str:
    """An argument on one line, without the comments that stood in it."""
    if "\n" not in text and "#" not in text:
        return text
    pieces: list[str] = []
    for token in tokenize(Source("<argument>", text)):
        pieces.append(token.text if token.touching or not pieces else f" {token.text}")
    return "".join(pieces).strip()
