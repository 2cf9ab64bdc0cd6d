"""Where a cursor stands in a text that is being typed: inside which bodies, behind which words of a statement.

Half a statement does not parse, so this reads characters only: strings, comments, brackets, separators.
"""

from __future__ import annotations

import re

from convc.lazy import dataclass

_PIECE = re.compile(
    r'(?P<string>"(?:[^"\\\n]|\\[^\n])*"?)|(?P<comment>\#[^\n]*)|(?P<arrow>->)|(?P<word>[A-Za-z_][A-Za-z_0-9]*)'
    r"|(?P<newline>\n)|(?P<blank>[ \t\f]+)|(?P<number>[0-9.][A-Za-z_0-9.]*)|(?P<sign>.)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Cursor:
    """`bodies` are the first words of the statements around, the outermost first (`("net", "residual")`); `words` the
    pieces of the statement before the cursor, without the unfinished word `typed`. In a `string`, `typed` is what
    stands between its quote and the cursor. `comment`: nothing can be completed here."""

    bodies: tuple[tuple[str, ...], ...]
    words: tuple[str, ...]
    typed: str
    string: bool = False
    comment: bool = False

    @property
    def head(self) -> str | None:
        """The word that the statement begins with."""
        return self.words[0] if self.words else None

    @property
    def key(self) -> str | None:
        """The key of the argument whose value is typed: `pad` in `conv 8 k=3 pad=`."""
        return self.words[-2] if len(self.words) > 2 and self.words[-1] == "=" else None

    def inside(self, word: str) -> bool:
        return any(body[:1] == (word,) for body in self.bodies)


def cursor_at(text: str, offset: int) -> Cursor:
    """Read the text up to an offset."""
    bodies: list[tuple[str, ...]] = []
    brackets = 0
    words: list[str] = []
    kind, last, end = "newline", "", 0
    for match in _PIECE.finditer(text, 0, offset):
        kind, last, end = str(match.lastgroup), match.group(), match.end()
        if kind in ("blank", "comment") or (kind == "newline" and brackets):
            continue
        if kind in ("newline", "arrow"):
            words, brackets = ([] if kind == "arrow" or not _continues(words) else words), 0
        elif last == "{":
            bodies.append(tuple(words))
            words, brackets = [], 0
        elif last == "}":
            words, brackets = [], 0
            if bodies:
                bodies.pop()
        else:
            brackets = max(0, brackets + (last in "([") - (last in ")]"))
            words.append(last)
    around = tuple(bodies)
    if end < offset or kind == "comment":
        return Cursor(around, tuple(words), "", comment=kind == "comment")
    if kind == "string" and (len(last) == 1 or not last.endswith('"')):
        return Cursor(around, tuple(words[:-1]), last[1:], string=True)
    if kind in ("word", "number") and words:
        return Cursor(around, tuple(words[:-1]), last)
    return Cursor(around, tuple(words), "")


def _continues(words: list[str]) -> bool:
    """Whether the next line goes on with the statement: its brace may stand there."""
    return bool(words) and words[-1] in ("else",)
