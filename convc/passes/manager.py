"""Runs passes: times them, verifies the graph after each, dumps it, and holds each to what it logged."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from convc.ir.graph import Graph
from convc.ir.printer import print_ir
from convc.ir.verify import verify
from convc.passes.base import Pass, PassLog


@dataclass(frozen=True)
class PassReport:
    """One pass as it ran: milliseconds and log."""

    name: str
    milliseconds: float
    log: PassLog


# Called after every pass with the pass, the graph before and the graph after it; may raise.
Watch = Callable[[Pass, Graph, Graph], None]


class PassManager:
    """Runs a sequence of passes over a graph.

    With `dump_dir`, writes `00-input.ir`, then per pass `NN-name.ir`, `.log` and a unified `.diff`.
    """

    def __init__(
        self, passes: Iterable[Pass], *, check: bool = True, dump_dir: Path | None = None, watch: Watch | None = None
    ) -> None:
        self.passes = tuple(passes)
        self.check = check
        self.dump_dir = dump_dir
        self.watch = watch

    def run(self, graph: Graph) -> list[PassReport]:
        reports: list[PassReport] = []
        text = self._dump(0, "input", graph, None, "")
        for number, step in enumerate(self.passes, start=1):
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
            text = self._dump(number, step.name, graph, log, text)
            if self.watch is not None:
                self.watch(step, before, graph)
        return reports

    def _dump(self, number: int, name: str, graph: Graph, log: PassLog | None, previous: str) -> str:
        if self.dump_dir is None:
            return ""
        self.dump_dir.mkdir(parents=True, exist_ok=True)
        stem = self.dump_dir / f"{number:02d}-{name}"
        text = print_ir(graph)
        stem.with_suffix(".ir").write_text(text)
        if log is not None:
            stem.with_suffix(".log").write_text("".join(f"{entry}\n" for entry in log.entries))
            lines = difflib.unified_diff(previous.splitlines(True), text.splitlines(True), "before", "after")
            stem.with_suffix(".diff").write_text("".join(lines))
        return text
