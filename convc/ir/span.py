"""Where a piece of program text stands. Spans travel from characters to IR nodes and on to kernels and profiles."""

from __future__ import annotations

from convc.lazy import dataclass


@dataclass(frozen=True, order=True)
class Span:
    """A stretch of text: 1-based lines and columns (in characters), the end exclusive."""

    file: str
    line: int
    column: int
    end_line: int
    end_column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"

    def to(self, other: Span) -> Span:
        """The span from the start of this one to the end of `other`."""
        return Span(self.file, self.line, self.column, other.end_line, other.end_column)


# A fused node stems from several places; an unfused one has a single span.
Location = tuple[Span, ...]


def union(*locations: Location) -> Location:
    """All spans of several nodes, each once, in order of first appearance."""
    return tuple(dict.fromkeys(span for location in locations for span in location))
