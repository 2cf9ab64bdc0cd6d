"""The folder in which passes leave what they did: numbered files, `03-fold.ir`, `03-fold.log`, `03-fold.diff`."""

from __future__ import annotations

import difflib
from pathlib import Path

from convc.ir.diagnostic import fail
from convc.ir.graph import Graph
from convc.ir.printer import print_ir
from convc.passes.base import PassLog


class Dump:
    """Writes into `folder`, which is made. Numbers count on from one pass to the next, whoever runs them.

    A pass that may change the graph leaves the graph and the difference to the one before, every pass its log.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._number = 0
        self._text = ""

    def start(self, graph: Graph) -> None:
        """`00-input.ir`: the graph that the first pass gets."""
        self._number, self._text = 0, print_ir(graph)
        self.write(f"{self._stem('input')}.ir", self._text)

    def add(self, name: str, log: PassLog, graph: Graph | None = None, decided: str = "") -> None:
        """The files of a pass that has run: `graph` is what it left, `decided` what it decided about the program."""
        self._number += 1
        stem = self._stem(name)
        lines = [str(entry) for entry in log.entries]
        lines += [f"metric {key} {value:g}" for key, value in log.metrics.items()]
        self.write(f"{stem}.log", "".join(f"{line}\n" for line in lines) + decided)
        if graph is not None:
            text = print_ir(graph)
            self.write(f"{stem}.ir", text)
            changes = difflib.unified_diff(self._text.splitlines(True), text.splitlines(True), "before", "after")
            self.write(f"{stem}.diff", "".join(changes))
            self._text = text

    def write(self, name: str, text: str) -> None:
        """A file of the folder. Error: `file-write`."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(text, encoding="utf-8")
        except OSError as error:
            fail("file-write", f"cannot write {error.filename or self.folder / name}: {error.strerror}")

    def _stem(self, name: str) -> str:
        return f"{self._number:02d}-{name}"
