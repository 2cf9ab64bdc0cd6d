"""Edits of a source text at the places of its syntax; everything else stays as it is, comments included."""

from __future__ import annotations

from dataclasses import field

from convc.frontend.lexer import normalise
from convc.ir.span import Span
from convc.lazy import dataclass


@dataclass
class Editor:
    """Replacements in one text, applied together. They do not overlap."""

    text: str
    edits: list[tuple[int, int, str]] = field(default_factory=list[tuple[int, int, str]])

    def __post_init__(self) -> None:
        self.text = normalise(self.text)
        self.starts = [0]
        for line in self.text.split("\n"):
            self.starts.append(self.starts[-1] + len(line) + 1)

    def bounds(self, span: Span) -> tuple[int, int]:
        """Offsets of the first character of a span and of the one behind it."""
        return self.starts[span.line - 1] + span.column - 1, self.starts[span.end_line - 1] + span.end_column - 1

    def slice(self, span: Span) -> str:
        start, end = self.bounds(span)
        return self.text[start:end]

    def replace(self, span: Span, text: str) -> None:
        self.edits.append((*self.bounds(span), text))

    def insert(self, offset: int, text: str) -> None:
        self.edits.append((offset, offset, text))

    def result(self, start: int = 0, end: int | None = None) -> str:
        """The edited text between two offsets of the original."""
        end = len(self.text) if end is None else end
        pieces: list[str] = []
        position = start
        for first, last, text in sorted(self.edits, key=lambda edit: edit[:2]):
            if first < start or last > end:
                continue
            pieces += [self.text[position:first], text]
            position = last
        return "".join([*pieces, self.text[position:end]])
