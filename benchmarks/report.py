"""What the measurements of this folder share: Markdown tables, JSON files, and whether a run counts."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convc.commands.output import json_text
from convc.runtime.benchmark import machine
from convc.runtime.benchmark.results import average_busy, is_quiet
from convc.runtime.benchmark.rounds import Pace

INTERRUPTED = 130  # the exit code after Ctrl-C


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table of GitHub-flavoured Markdown. The first `left` columns hold words, the others numbers."""
    rule = "|" + "---|" * left + "---:|" * (len(columns) - left)
    return "\n".join([f"| {' | '.join(columns)} |", rule, *(f"| {' | '.join(row)} |" for row in rows)])


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object as `convc`'s commands print it, indented; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(json.loads(json_text(content)), indent=1) + "\n", encoding="utf-8")


def verdict(value: float, accept: float, *, at_most: bool = False) -> str:
    """Whether a value reaches what is accepted: `met` or `missed`. With `at_most` small values are good."""
    return "met" if (value <= accept if at_most else value >= accept) else "missed"


def not_counting(busy: Sequence[float]) -> str | None:
    """The sentence that a report ends with if others kept the machine busy."""
    if is_quiet(busy):
        return None
    return f"THIS RUN DOES NOT COUNT: other work kept {average_busy(busy):.2f} cores busy."


@dataclass
class Run:
    """A run whose measurements are not of contestants that take turns (those have a `Report`): where it ran, and what
    others did in the pauses between measurements."""

    time: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    machine: dict[str, object] = field(default_factory=machine.describe)
    busy: list[float] = field(default_factory=list[float])
    interrupted: bool = False

    def pause(self) -> None:
        """Wait until threads have stopped spinning, then see what others do."""
        pace = Pace()
        time.sleep(pace.spinning)
        self.busy.append(machine.busy_cores(pace.listening))

    @contextmanager
    def kept(self) -> Iterator[None]:
        """A block that Ctrl-C ends, with what was measured until then."""
        try:
            yield
        except KeyboardInterrupt:
            self.interrupted = True

    def as_json(self) -> dict[str, Any]:
        """JSON's types, to go with the measurements."""
        return {
            "time": self.time,
            "machine": self.machine,
            "busy_cores": average_busy(self.busy),
            "counts": is_quiet(self.busy),
            "interrupted": self.interrupted,
        }

    def end(self) -> int:
        """Print whether the run counts; returns the exit code."""
        if sentence := not_counting(self.busy):
            print(f"\n{sentence}")
        return INTERRUPTED if self.interrupted else 0
