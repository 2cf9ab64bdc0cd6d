"""Answers in the protocol's types: diagnostics, completion, definitions, outline."""

from __future__ import annotations

import os

from lsprotocol import types
from pygls import uris

from convc.commands.language_server.document import Document
from convc.commands.language_server.positions import Places
from convc.frontend.bindings import covers
from convc.frontend.completion import proposals
from convc.frontend.cursor import cursor_at
from convc.frontend.source import read_source
from convc.ir.diagnostic import CompileError, Diagnostic
from convc.ir.span import Span

_COMPLETIONS = {
    "layer": types.CompletionItemKind.Class,
    "statement": types.CompletionItemKind.Keyword,
    "item": types.CompletionItemKind.Keyword,
    "setting": types.CompletionItemKind.Property,
    "argument": types.CompletionItemKind.Field,
    "choice": types.CompletionItemKind.EnumMember,
    "function": types.CompletionItemKind.Function,
    "let": types.CompletionItemKind.Constant,
    "parameter": types.CompletionItemKind.Variable,
    "loop": types.CompletionItemKind.Variable,
    "value": types.CompletionItemKind.Variable,
    "shared": types.CompletionItemKind.Module,
    "block": types.CompletionItemKind.Function,
    "net": types.CompletionItemKind.Module,
}
_SYMBOLS = {
    "let": types.SymbolKind.Constant,
    "value": types.SymbolKind.Variable,
    "shared": types.SymbolKind.Module,
    "parameter": types.SymbolKind.TypeParameter,
}
# What there is, and what there is nothing wrong with: editors fade it out.
_UNNECESSARY = ("unused-", "redundant-")


# Diagnostics


def diagnostics_of(document: Document) -> list[types.Diagnostic]:
    """Everything that the checker says about a file; what lies in a file that it uses is shown at the `use`."""
    return [_diagnostic(document, found) for found in document.inspection.diagnostics]


def _diagnostic(document: Document, found: Diagnostic) -> types.Diagnostic:
    message, span = found.message, found.span
    if span is not None and span.file != document.path:
        message = f"{span}: {message}"
        span = _leading_here(document, found)
    if found.hint:
        message += f"\nhint: {found.hint}"
    message += "".join(f"\n{note.message}" for note in found.notes if note.span is None)
    related = [
        types.DiagnosticRelatedInformation(_location(document, note.span), note.message)
        for note in found.notes
        if note.span is not None
    ]
    if found.span is not None and found.span.file != document.path:
        related.insert(0, types.DiagnosticRelatedInformation(_location(document, found.span), found.message))
    return types.Diagnostic(
        range=document.places.range(span or Span(document.path, 1, 1, 1, 1)),
        message=message,
        severity=types.DiagnosticSeverity.Error if found.severity == "error" else types.DiagnosticSeverity.Warning,
        code=found.code,
        source="convc",
        related_information=related or None,
        tags=[types.DiagnosticTag.Unnecessary] if found.code.startswith(_UNNECESSARY) else None,
    )


def _leading_here(document: Document, found: Diagnostic) -> Span | None:
    """The place in this file from which a diagnostic in another one follows: a call, else the first `use`."""
    for note in reversed(found.notes):
        if note.span is not None and note.span.file == document.path:
            return note.span
    uses = document.file.uses if document.file is not None else ()
    direct = [use for use in uses if found.span is not None and document.used_path(use) == found.span.file]
    return next((use.path_span for use in (*direct, *uses)), None)


def _location(document: Document, span: Span) -> types.Location:
    uri = uris.from_fs_path(os.path.abspath(span.file)) or span.file
    return types.Location(uri, _places_of(document, span.file).range(span))


def _places_of(document: Document, path: str) -> Places:
    if path == document.path:
        return document.places
    try:
        return Places(read_source(path).text, document.encoding)
    except CompileError:
        return Places("", document.encoding)


# Completion


def completion_at(document: Document, line: int, column: int) -> list[types.CompletionItem]:
    cursor = cursor_at(document.places.plain, document.places.offset(line, column))
    if cursor.string and cursor.words[-1:] == ("use",):
        return _paths(document, cursor.typed)
    return [
        types.CompletionItem(
            label=proposal.word,
            kind=_COMPLETIONS[proposal.kind],
            detail=proposal.detail or None,
            insert_text=proposal.insert,
            # The language's words and the file's names before functions.
            sort_text=f"{int(proposal.kind == 'function')}{proposal.word}",
        )
        for proposal in proposals(cursor, document.bindings, line, column)
    ]


def _paths(document: Document, typed: str) -> list[types.CompletionItem]:
    """Files that `use` could name."""
    folder = os.path.join(os.path.dirname(document.path), os.path.dirname(typed))
    try:
        names = sorted(entry.name + "/" * entry.is_dir() for entry in os.scandir(folder or "."))
    except OSError:
        return []
    own = os.path.basename(document.path)
    fitting = [n for n in names if n != own and not n.startswith(".") and n.endswith((".cnn", "/"))]
    return [types.CompletionItem(label=name, kind=types.CompletionItemKind.File) for name in fitting[:200]]


# Definitions


def definition_at(document: Document, line: int, column: int) -> types.Location | None:
    """Where the name at a place is introduced, or the file that a `use` names."""
    binding = document.bindings.at(line, column)
    if binding is not None:
        return _location(document, binding.span)
    for use in document.file.uses if document.file is not None else ():
        path = document.used_path(use)
        if covers(use.path_span, line, column) and os.path.isfile(path):
            return _location(document, Span(path, 1, 1, 1, 1))
    return None


# Outline


def symbols_of(document: Document) -> list[types.DocumentSymbol]:
    """Nets and blocks with the names in them, constants, `train` and `search`."""
    file = document.file
    if file is None:
        return []
    inner: dict[int, list[types.DocumentSymbol]] = {}
    top: list[tuple[Span, types.DocumentSymbol]] = []
    for binding in document.bindings.introduced:
        if binding.kind not in _SYMBOLS or binding.span.file != document.path:
            continue
        symbol = _symbol(document, binding.name, _SYMBOLS[binding.kind], binding.span, binding.span)
        if binding.owner is None:
            top.append((binding.span, symbol))
        elif binding.kind != "parameter":
            inner.setdefault(id(binding.owner), []).append(symbol)
    for definition in file.definitions:
        kind = types.SymbolKind.Class if definition.kind == "net" else types.SymbolKind.Function
        symbol = _symbol(document, definition.name, kind, definition.span, definition.name_span)
        symbol.detail, symbol.children = definition.kind, inner.get(id(definition), [])
        top.append((definition.span, symbol))
    for word, items in (("train", file.trains), ("search", file.searches)):
        for item in items:
            first = Span(item.span.file, item.span.line, item.span.column, item.span.line, item.span.column + len(word))
            top.append((item.span, _symbol(document, word, types.SymbolKind.Object, item.span, first)))
    return [symbol for _, symbol in sorted(top, key=lambda pair: pair[0])]


def _symbol(document: Document, name: str, kind: types.SymbolKind, whole: Span, selected: Span) -> types.DocumentSymbol:
    places = document.places
    return types.DocumentSymbol(name=name, kind=kind, range=places.range(whole), selection_range=places.range(selected))
