"""The server: keeps the open files, and gives each request of an editor to the function that answers it.

Texts are sent whole at every change: a `.cnn` file has at most a megabyte, and what counts as a line end is then the
business of the lexer alone. Nothing that a text holds may stop the server: a defect is logged and answered by nothing.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any, TypeVar

from lsprotocol import types
from pygls import uris
from pygls.lsp.server import LanguageServer

from convc._version import __version__
from convc.commands.language_server.answers import completion_at, definition_at, diagnostics_of, symbols_of
from convc.commands.language_server.document import Document
from convc.commands.language_server.hover import hover_at
from convc.frontend.source import unsaved
from convc.ir.diagnostic import CompileError

# Seconds without a change before a text is checked again.
_PAUSE = 0.15
Answer = TypeVar("Answer")


class Server(LanguageServer):
    """The language server with its open documents, by URI."""

    def __init__(self) -> None:
        super().__init__("convc", __version__, text_document_sync_kind=types.TextDocumentSyncKind.Full)
        self.documents: dict[str, Document] = {}
        self.waiting: dict[str, asyncio.TimerHandle] = {}
        self.shut_down = False  # whether the editor said good-bye

    def document(self, uri: str) -> Document | None:
        """The current version of an open file."""
        return self.documents.get(uri)

    def take(self, uri: str) -> None:
        """Note the current text of a file."""
        text = self.workspace.get_text_document(uri).source
        encoding = str(getattr(self.workspace.position_encoding, "value", self.workspace.position_encoding) or "utf-16")
        self.documents[uri] = Document(_path(uri), text, encoding, self.documents.get(uri))

    def unsaved(self) -> dict[str, str]:
        return {document.path: document.text for document in self.documents.values()}

    def later(self, uri: str) -> None:
        """Publish the diagnostics of a file once its author pauses."""
        self.forget(uri)
        self.waiting[uri] = asyncio.get_running_loop().call_later(_PAUSE, self.publish, uri)

    def forget(self, uri: str) -> None:
        handle = self.waiting.pop(uri, None)
        if handle is not None:
            handle.cancel()

    def publish(self, uri: str) -> None:
        """Check a file, and those open ones that use it."""
        self.forget(uri)
        document = self.documents.get(uri)
        if document is None:
            return
        self._publish(uri, document)
        for other, user in list(self.documents.items()):
            if other != uri and self._uses(user, document):
                self.documents[other] = Document(user.path, user.text, user.encoding, user.older)
                self._publish(other, self.documents[other])

    @staticmethod
    def _uses(user: Document, used: Document) -> bool:
        names = [user.used_path(use) for use in (user.file.uses if user.file is not None else ())]
        if user.inspection.program is not None:
            names += user.inspection.program.files
        return os.path.realpath(used.path) in {os.path.realpath(name) for name in names if "\0" not in name}

    def _publish(self, uri: str, document: Document) -> None:
        with unsaved(self.unsaved()):
            found = self.guarded(lambda: diagnostics_of(document), [])
        version = self.workspace.get_text_document(uri).version
        self.text_document_publish_diagnostics(types.PublishDiagnosticsParams(uri, found, version))

    def ask(self, uri: str, answer: Callable[[Document], Answer], nothing: Answer) -> Answer:
        """What a function says about an open file; `nothing` where the file is not open."""
        document = self.documents.get(uri)
        if document is None:
            return nothing
        with unsaved(self.unsaved()):
            return self.guarded(lambda: answer(document), nothing)

    def guarded(self, answer: Callable[[], Answer], nothing: Answer) -> Answer:
        """An answer, or `nothing` and a line in the editor's log."""
        try:
            return answer()
        except Exception as error:
            text = f"convc {__version__}: internal error: {type(error).__name__}: {error}; please report it"
            self.window_log_message(types.LogMessageParams(types.MessageType.Error, text))
            return nothing


def _path(uri: str) -> str:
    path = uris.to_fs_path(uri)
    return path if path and "\0" not in path else uri


def make_server() -> Server:
    """A server with all its features, not yet started."""
    server = Server()
    for feature, options, handler in _FEATURES:
        server.feature(feature, options)(_bound(server, handler))
    return server


def _bound(server: Server, handler: Callable[[Server, Any], object]) -> Callable[[Any], object]:
    def handle(params: Any) -> object:
        return handler(server, params)

    return handle


def _shut_down(server: Server, _params: Any) -> None:
    server.shut_down = True


def _opened(server: Server, params: types.DidOpenTextDocumentParams) -> None:
    server.take(params.text_document.uri)
    server.publish(params.text_document.uri)


def _changed(server: Server, params: types.DidChangeTextDocumentParams) -> None:
    server.take(params.text_document.uri)
    server.later(params.text_document.uri)


def _saved(server: Server, params: types.DidSaveTextDocumentParams) -> None:
    if params.text_document.uri in server.documents:
        server.take(params.text_document.uri)
        server.publish(params.text_document.uri)


def _closed(server: Server, params: types.DidCloseTextDocumentParams) -> None:
    uri = params.text_document.uri
    server.forget(uri)
    server.documents.pop(uri, None)
    server.text_document_publish_diagnostics(types.PublishDiagnosticsParams(uri, []))


def _hover(server: Server, params: types.HoverParams) -> types.Hover | None:
    def answer(document: Document) -> types.Hover | None:
        found = hover_at(document, *document.places.place(params.position))
        if found is None:
            return None
        text, span = found
        return types.Hover(types.MarkupContent(types.MarkupKind.Markdown, text), document.places.range(span))

    return server.ask(params.text_document.uri, answer, None)


def _completion(server: Server, params: types.CompletionParams) -> list[types.CompletionItem]:
    def answer(document: Document) -> list[types.CompletionItem]:
        return completion_at(document, *document.places.place(params.position))

    return server.ask(params.text_document.uri, answer, [])


def _definition(server: Server, params: types.DefinitionParams) -> types.Location | None:
    def answer(document: Document) -> types.Location | None:
        return definition_at(document, *document.places.place(params.position))

    return server.ask(params.text_document.uri, answer, None)


def _symbols(server: Server, params: types.DocumentSymbolParams) -> list[types.DocumentSymbol]:
    return server.ask(params.text_document.uri, symbols_of, [])


def _formatting(server: Server, params: types.DocumentFormattingParams) -> list[types.TextEdit]:
    """One edit of the whole text; none where it does not parse or is in order already."""

    def answer(document: Document) -> list[types.TextEdit]:
        from convc.frontend.formatter import format_text

        try:
            text = format_text(document.text, document.path)
        except CompileError:
            return []
        return [] if text == document.text else [types.TextEdit(document.places.whole, text)]

    return server.ask(params.text_document.uri, answer, [])


_FEATURES: tuple[tuple[str, Any, Callable[[Server, Any], object]], ...] = (
    (types.SHUTDOWN, None, _shut_down),
    (types.TEXT_DOCUMENT_DID_OPEN, None, _opened),
    (types.TEXT_DOCUMENT_DID_CHANGE, None, _changed),
    (types.TEXT_DOCUMENT_DID_SAVE, None, _saved),
    (types.TEXT_DOCUMENT_DID_CLOSE, None, _closed),
    (types.TEXT_DOCUMENT_HOVER, None, _hover),
    (types.TEXT_DOCUMENT_COMPLETION, types.CompletionOptions(trigger_characters=["=", " ", '"']), _completion),
    (types.TEXT_DOCUMENT_DEFINITION, None, _definition),
    (types.TEXT_DOCUMENT_DOCUMENT_SYMBOL, None, _symbols),
    (types.TEXT_DOCUMENT_FORMATTING, None, _formatting),
)
