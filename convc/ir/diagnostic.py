"""What the compiler tells a user about a problem: one shape of message, one renderer.

lenet.cnn:3:10: error[shape-conv]: kernel 7x7 is larger than the padded input 5x5
  3 |   conv 50 k=7 -> relu
    |           ^^^
  hint: pad=1 or a kernel of at most 5
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, NoReturn

from convc.ir.span import Span
from convc.lazy import dataclass

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Note:
    """A remark beside a diagnostic, such as one link of a chain of instantiations."""

    message: str
    span: Span | None = None


@dataclass(frozen=True)
class Diagnostic:
    """One problem. `code` is a stable kebab word listed in docs/diagnostics.md."""

    code: str
    message: str
    span: Span | None = None
    notes: tuple[Note, ...] = ()
    hint: str | None = None
    severity: Severity = "error"


class CompileError(Exception):
    """Bad input, with everything a user needs to mend it; `str()` is the rendered message."""

    def __init__(self, diagnostics: Iterable[Diagnostic], sources: Mapping[str, str] | None = None) -> None:
        self.diagnostics = tuple(diagnostics)
        self.sources = dict(sources or {})
        super().__init__(self.diagnostics)

    def __str__(self) -> str:
        return render(self.diagnostics, self.sources)


def fail(
    code: str, message: str, span: Span | None = None, hint: str | None = None, notes: tuple[Note, ...] = ()
) -> NoReturn:
    """Raise a `CompileError` of one diagnostic."""
    raise CompileError([Diagnostic(code, message, span, notes, hint)])


@contextmanager
def with_sources(sources: Mapping[str, str]) -> Iterator[None]:
    """Give the errors of the body the texts that they point into, as far as they have none themselves."""
    try:
        yield
    except CompileError as error:
        error.sources = {**sources, **error.sources}
        raise


def similar(word: str, known: Iterable[str]) -> str | None:
    """A hint that names the known word that was probably meant."""
    import difflib

    near = difflib.get_close_matches(word, list(known), 1)
    return f"did you mean `{near[0]}`?" if near else None


def render(diagnostics: Iterable[Diagnostic], sources: Mapping[str, str] | None = None) -> str:
    """The text of `diagnostics`; source lines are shown for files that `sources` (file name -> text) holds."""
    # Each text is divided once: a megabyte of text may have thousands of diagnostics.
    lines = _Lines(sources or {})
    return "\n".join(_render_one(diagnostic, lines) for diagnostic in diagnostics)


class _Lines(dict[str, list[str]]):
    """The lines of each source text by the name of its file, divided when they are first asked for."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        super().__init__()
        self.sources = sources

    def __missing__(self, file: str) -> list[str]:
        text = self.sources.get(file)
        self[file] = lines = [] if text is None else source_lines(text)
        return lines


def printable(text: str) -> str:
    """`text` with control characters and marks of writing direction as `\\x1b` and the like.

    Names of files, classes and tensors come from elsewhere and must not steer the terminal that shows them.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if _harmless(character) else _escaped(character) for character in text)


def _harmless(character: str) -> bool:
    return character in "\n\t" or not (character < " " or "\x7f" <= character < "\xa0" or character in _DIRECTIONS)


def _escaped(character: str) -> str:
    return f"\\x{ord(character):02x}" if ord(character) < 256 else f"\\u{ord(character):04x}"


# Marks, embeddings, overrides and isolates: they reorder what stands beside them.
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def _render_one(diagnostic: Diagnostic, sources: _Lines) -> str:
    place = f"{diagnostic.span}: " if diagnostic.span else ""
    lines = [f"{place}{diagnostic.severity}[{diagnostic.code}]: {diagnostic.message}"]
    lines += _excerpt(diagnostic.span, sources)
    for note in diagnostic.notes:
        where = f"{note.span}: " if note.span else ""
        lines.append(f"  note: {where}{note.message}")
    if diagnostic.hint:
        lines.append(f"  hint: {diagnostic.hint}")
    return printable("\n".join(lines))


def source_lines(text: str) -> list[str]:
    """The lines of a source text; LF, CRLF and CR end a line, nothing else does. A byte-order mark is no part of it."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")


# How much of a long line is shown, and how much of that before the caret: a message has to fit on one screen.
_SHOWN, _BEFORE = 140, 60


def _excerpt(span: Span | None, sources: _Lines) -> list[str]:
    if span is None:
        return []
    lines = sources[span.file]
    if not 1 <= span.line <= len(lines):
        return []
    text = lines[span.line - 1]
    end = span.end_column if span.end_line == span.line else len(text) + 1
    number = str(span.line)
    start = max(0, span.column - 1 - _BEFORE) if len(text) > _SHOWN else 0
    stop = start + _SHOWN
    # A tab counts as one character and is shown as one space: the caret stands right whatever its width elsewhere.
    shown = "".join(c if c != "\t" and _harmless(c) else " " for c in text[start:stop])
    before = shown[: span.column - 1 - start]
    marked = shown[len(before) : max(end - 1 - start, len(before))]
    first, last = "…" if start else "", "…" if stop < len(text) else ""
    indent = " " * (len(first) + _cells(before))
    return [f"  {number} | {first}{shown}{last}", f"  {' ' * len(number)} | {indent}{'^' * max(1, _cells(marked))}"]


def _cells(text: str) -> int:
    """How many columns of a terminal a text takes: wide characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    import unicodedata

    return sum(
        0 if unicodedata.combining(c) or unicodedata.category(c) in ("Mn", "Me", "Cf")
        else 2 if unicodedata.east_asian_width(c) in "WF"
        else 1
        for c in text
    )  # fmt: skip
