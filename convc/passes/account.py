"""Holds passes to what they say: a graph is sound after each, and has changed when, and only when, the log says so."""

from __future__ import annotations

from dataclasses import replace

from convc.ir.diagnostic import CompileError, Note, fail
from convc.ir.fingerprint import fingerprint
from convc.ir.graph import Graph
from convc.ir.verify import Inferred, verify
from convc.passes.base import PassLog


class Account:
    """Watches a graph from now on. `settle` is called after each pass; errors are defects of convc."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._before = fingerprint(graph)
        self._inferred: Inferred = {}

    def settle(self, name: str, log: PassLog, *, rewrites: bool = True, decides: bool = False) -> None:
        """Compare what the pass `name` has left with what it has logged.

        A pass that `rewrites` may change the graph; of one that also `decides` something about the program, not every
        change that it logs is one of the graph. Errors: `verify-pass`, `verify-graph`.
        """
        after = fingerprint(self._graph)
        changed, logged = after != self._before, bool(log.of("changed"))
        self._before = after
        if changed and not rewrites:
            _defect(f"the pass `{name}` changed the graph, which it has no business with")
        if changed and not logged:
            _defect(f"the pass `{name}` changed the graph and did not log it")
        if logged and not changed and not decides:
            _defect(f"the pass `{name}` logged changes that it did not make")
        if not rewrites:
            return
        try:
            verify(self._graph, self._inferred)
        except CompileError as error:
            note = Note(f"the pass `{name}` has left it so")
            blamed = [replace(found, notes=(*found.notes, note)) for found in error.diagnostics]
            raise CompileError(blamed, error.sources) from None


def _defect(message: str) -> None:
    fail("verify-pass", message, hint="a defect of convc: please report it, with the file and the command")
