"""Runs passes: times them, verifies the graph after each, dumps it, and holds each to what it logged."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from convc.ir.graph import Graph
from convc.ir.verify import verify
from convc.passes.base import Pass, PassLog
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
    """Runs a sequence of passes over a graph; with `dump`, each leaves its files there."""

    def __init__(
        self, passes: Iterable[Pass], *, check: bool = True, dump: Dump | None = None, watch: Watch | None = None
    ) -> None:
        self.passes = tuple(passes)
        self.check = check
        self.dump = dump
        self.watch = watch

    def run(self, graph: Graph) -> list[PassReport]:
        reports: list[PassReport] = []
        if self.dump is not None:
            self.dump.start(graph)
        for step in self.passes:
            before = graph.copy() if self.watch is not None else graph
            log, version, started = PassLog(), graph.version, time.perf_counter()
            step.run(graph, log)
            elapsed = (time.perf_counter() - started) * 1e3
            changed = graph.version != version
            lapse = "changed the graph and did not log it" if changed else "logged changes that it did not make"
            assert changed == bool(log.of("changed")), f"pass {step.name} {lapse}"
            if self.check:
                verify(graph)
            reports.append(PassReport(step.name, elapsed, log))
            if self.dump is not None:
                self.dump.add(step.name, log, graph)
            if self.watch is not None:
                self.watch(step, before, graph)
        return reports
