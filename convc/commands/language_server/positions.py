"""Places in a text, as the compiler counts (lines and characters from 1) and as editors do (from 0, in code units)."""

from __future__ import annotations

from functools import cached_property

from lsprotocol import types

from convc.frontend.lexer import normalise
from convc.ir.diagnostic import source_lines
from convc.ir.span import Span
from convc.lazy import dataclass

# Code units of a character beyond ASCII, by encoding; UTF-16 is what editors use unless they agree on another one.
_ENCODERS = {"utf-8": ("utf-8", 1), "utf-16": ("utf-16-le", 2), "utf-32": ("utf-32-le", 4)}


@dataclass(frozen=True)
class Places:
    """Converts places of one text."""

    text: str
    encoding: str = "utf-16"

    @cached_property
    def lines(self) -> list[str]:
        return source_lines(self.text)

    @cached_property
    def plain(self) -> str:
        """The text with line feeds only, which `offset` counts in."""
        return normalise(self.text)

    def _units(self, text: str) -> int:
        if text.isascii():
            return len(text)
        codec, size = _ENCODERS.get(self.encoding, _ENCODERS["utf-16"])
        return len(text.encode(codec, "surrogatepass")) // size

    def position(self, line: int, column: int) -> types.Position:
        """The editor's position of a line and column; places behind the end move to it."""
        line = min(max(line, 1), len(self.lines))
        return types.Position(line - 1, self._units(self.lines[line - 1][: column - 1]))

    def range(self, span: Span) -> types.Range:
        return types.Range(self.position(span.line, span.column), self.position(span.end_line, span.end_column))

    def place(self, position: types.Position) -> tuple[int, int]:
        """The line and column of an editor's position."""
        if position.line >= len(self.lines):
            return len(self.lines), len(self.lines[-1]) + 1
        text, column, units = self.lines[position.line], 0, 0
        while column < len(text) and units < position.character:
            units += self._units(text[column])
            column += 1
        return position.line + 1, column + 1

    def offset(self, line: int, column: int) -> int:
        """The index in `plain` of a line and column."""
        return sum(len(text) + 1 for text in self.lines[: line - 1]) + column - 1

    @property
    def whole(self) -> types.Range:
        return types.Range(types.Position(0, 0), self.position(len(self.lines), len(self.lines[-1]) + 1))
