"""Reading `.cnn` text from disk: every way in which that can fail is a diagnostic."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from convc.frontend.limits import DEFAULT_LIMITS, Limits
from convc.ir.diagnostic import Diagnostic, fail
from convc.ir.span import Span
from convc.lazy import dataclass

_NONE: Mapping[str, str] = {}
# What Linux takes (PATH_MAX).
_LONGEST = 4096


@dataclass(frozen=True)
class Source:
    """Text with the name under which diagnostics show it."""

    name: str
    text: str


# Texts that are newer than their files, by the path without links: those that an editor holds.
_UNSAVED: ContextVar[Mapping[str, str]] = ContextVar("unsaved", default=_NONE)


@contextmanager
def unsaved(texts: Mapping[str, str]) -> Iterator[None]:
    """Let the body read these texts in place of the files of these paths."""
    token = _UNSAVED.set({os.path.realpath(path): text for path, text in texts.items() if "\0" not in path})
    try:
        yield
    finally:
        _UNSAVED.reset(token)


def read_source(path: str | os.PathLike[str], span: Span | None = None, limits: Limits = DEFAULT_LIMITS) -> Source:
    """The text of a file; `span` is the place that asked for it. Raises `file-…` errors.

    A user may name a pipe (`convc check <(generator)`), a file may not `use` one: it could block for ever.
    """
    name = os.fspath(path)
    if "\0" in name:
        fail("file-missing", "a file name cannot hold a NUL character", span)
    if len(name) > _LONGEST:
        fail("file-missing", f"{name[:40]}… is too long for the name of a file ({len(name)} characters)", span)
    newer = _UNSAVED.get()
    if newer and os.path.realpath(name) in newer:
        return Source(name, newer[os.path.realpath(name)])
    try:
        if span is not None and os.path.exists(name) and not os.path.isdir(name) and not os.path.isfile(name):
            fail("file-unreadable", f"{name} is not a regular file", span)
        with open(name, "rb") as file:
            data = file.read(limits.source_bytes + 1)
    except FileNotFoundError:
        fail("file-missing", f"{name} does not exist", span, hint=_similar(name))
    except IsADirectoryError:
        fail("file-directory", f"{name} is a folder, not a .cnn file", span)
    except OSError as error:
        fail("file-unreadable", f"{name} cannot be read: {error.strerror or error}", span)
    return decode_source(name, data, span, limits)


def decode_source(name: str, data: bytes, span: Span | None = None, limits: Limits = DEFAULT_LIMITS) -> Source:
    """The text that bytes hold; raises `file-too-large` and `file-encoding`."""
    if len(data) > limits.source_bytes:
        fail("file-too-large", f"{name} is larger than {limits.source_bytes} bytes, the limit of a .cnn file", span)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"{name} is not UTF-8 text: byte 0x{data[error.start]:02x} in line {line}"
        fail("file-encoding", message, span, hint="save the file as UTF-8")
    return Source(name, text)


def sources_of(diagnostics: Iterable[Diagnostic]) -> dict[str, str]:
    """The texts of the files that diagnostics point into, as far as they can be read: for the renderer."""
    found: dict[str, str] = {}
    for diagnostic in diagnostics:
        for span in (diagnostic.span, *(note.span for note in diagnostic.notes)):
            if span is not None and span.file not in found:
                try:
                    found[span.file] = Path(span.file).read_text(encoding="utf-8")
                except (OSError, ValueError):
                    continue
    return found


def _similar(name: str) -> str | None:
    from convc.frontend.hints import closest

    folder, base = os.path.split(name)
    try:
        near = closest(base, [entry for entry in os.listdir(folder or ".") if entry.endswith(".cnn")])
    except OSError:
        return None
    return f"did you mean {os.path.join(folder, near)}?" if near else None
