"""Runs passes: times them, verifies the graph after each, holds each to what it logged, and dumps the graph."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from convc.ir.graph import Graph
from convc.lazy import dataclass
from convc.passes.account import Account
from convc.passes.base import Pass, PassLog
from convc.passes.collection import no_collection
from convc.passes.dump import Dump


@dataclass(frozen=True)
class PassReport:
    """One pass as it ran: milliseconds and log."""

    name: str
    milliseconds: float
    log: PassLog


# Called after every pass with the pass, the graph before and the graph after it; may raise.
Watch = Callable[[Pass, Graph, Graph], None]


class PassManager:
    """Runs a sequence of passes over a graph; with `dump`, each leaves its files there.

    With `check` each is held to its log (`verify-pass`), and the graph is verified after it (`verify-graph`).
    """

    def __init__(
        self, passes: Iterable[Pass], *, check: bool = True, dump: Dump | None = None, watch: Watch | None = None
    ) -> None:
        self.passes = tuple(passes)
        self.check = check
        self.dump = dump
        self.watch = watch

    @no_collection()
    def run(self, graph: Graph) -> list[PassReport]:
        reports: list[PassReport] = []
        if self.dump is not None:
            self.dump.start(graph)
        account = Account(graph) if self.check else None
        for step in self.passes:
            before = graph.copy() if self.watch is not None else graph
            log, started = PassLog(), time.perf_counter()
            step.run(graph, log)
            elapsed = (time.perf_counter() - started) * 1e3
            if account is not None:
                account.settle(step.name, log)
            reports.append(PassReport(step.name, elapsed, log))
            if self.dump is not None:
                self.dump.add(step.name, log, graph)
            if self.watch is not None:
                self.watch(step, before, graph)
        return reports
