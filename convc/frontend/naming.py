"""Paths of layers. Every body counts its children per printed word from 1: `basic2.res1.conv1`."""

from __future__ import annotations

from convc.ir.diagnostic import Note, fail
from convc.ir.span import Span

# Bodies that the language itself puts into paths; no block may be called so.
RESERVED = ("res",)


class Naming:
    """The children of one body."""

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.counts: dict[str, int] = {}
        self.taken: dict[str, Span] = {}

    def number(self, word: str) -> int:
        """The next number of a word."""
        self.counts[word] = self.counts.get(word, 0) + 1
        return self.counts[word]

    def child(self, word: str, span: Span, name: str | None = None) -> str:
        """The path of the next child called `word`; a `name` replaces the numbered one, which is still consumed."""
        automatic = numbered(word, self.number(word))
        return self.claim(name if name is not None else automatic, span)

    def claim(self, component: str, span: Span) -> str:
        """The path of a child with exactly this name, which has to be free in this body."""
        first = self.taken.get(component)
        if first is not None:
            fail(
                "name-duplicate",
                f"two parts of this body are called `{component}`",
                span,
                hint="names are unique in their body; without `name=` parts are numbered",
                notes=(Note("the first one is here", first),),
            )
        self.taken[component] = span
        return self.prefix + component


def numbered(word: str, number: int) -> str:
    """`conv1`; after a word that ends in a digit an underscore keeps them apart: `relu6_1`."""
    return f"{word}_{number}" if word[-1].isdigit() else f"{word}{number}"
