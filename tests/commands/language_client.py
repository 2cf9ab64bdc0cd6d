"""A minimal client of the language server protocol: JSON-RPC over the pipes of a `convc lsp` of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


class LanguageClient:
    """Starts a server, sends requests and waits for their answers; notifications are kept until asked for."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "convc", "lsp", "--stdio"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=folder)
        self.folder = folder
        self.number = 0
        self.kept: list[dict[str, Any]] = []
        self.opened: set[str] = set()

    def send(self, message: dict[str, Any]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        assert self.process.stdin is not None
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self.process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        length = 0
        while (line := self.process.stdout.readline()) != b"\r\n":
            assert line, "the server ended: " + (self.process.stderr.read().decode() if self.process.stderr else "")
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return json.loads(self.process.stdout.read(length))

    def request(self, method: str, params: Any = None) -> Any:
        self.number += 1
        self.send({"id": self.number, "method": method, "params": params})
        while True:
            message = self.receive()
            if message.get("id") == self.number and "method" not in message:
                assert "error" not in message, message
                return message["result"]
            self.kept.append(message)

    def notify(self, method: str, params: Any = None) -> None:
        self.send({"method": method, "params": params})

    # What editors do

    def start(self, encodings: list[str] | None = None) -> dict[str, Any]:
        general = {"general": {"positionEncodings": encodings}} if encodings else {}
        answer = self.request("initialize", {"processId": None, "rootUri": None, "capabilities": general})
        self.notify("initialized", {})
        return answer

    def uri(self, name: str) -> str:
        return (self.folder / name).as_uri()

    def open(self, name: str, text: str) -> None:
        document = {"uri": self.uri(name), "languageId": "cnn", "version": 1, "text": text}
        self.notify("textDocument/didOpen", {"textDocument": document})
        self.opened.add(self.uri(name))

    def change(self, name: str, text: str, version: int) -> None:
        document = {"uri": self.uri(name), "version": version}
        self.notify("textDocument/didChange", {"textDocument": document, "contentChanges": [{"text": text}]})

    def diagnostics(self, name: str) -> list[dict[str, Any]]:
        """The next diagnostics that are published for a file."""
        while True:
            for message in self.kept:
                published = message.get("method") == "textDocument/publishDiagnostics"
                if published and message["params"]["uri"] == self.uri(name):
                    self.kept.remove(message)
                    return message["params"]["diagnostics"]
            self.kept.append(self.receive())

    def at(self, method: str, name: str, line: int, character: int) -> Any:
        """A request about a place; both numbers count from 0."""
        position = {"line": line, "character": character}
        return self.request(f"textDocument/{method}", {"textDocument": {"uri": self.uri(name)}, "position": position})

    def close_all(self) -> None:
        """Close every file, and wait until the server has done so."""
        for uri in self.opened:
            self.notify("textDocument/didClose", {"textDocument": {"uri": uri}})
        self.opened.clear()
        self.at("hover", "closed.cnn", 0, 0)

    def stop(self) -> int:
        self.request("shutdown")
        self.notify("exit")
        return self.process.wait(30)

    def logged(self) -> list[str]:
        """What the server wrote into the editor's log: its own defects."""
        return [m["params"]["message"] for m in self.kept if m.get("method") == "window/logMessage"]
