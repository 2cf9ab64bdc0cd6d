"""What a pass is, and what it has to say: every change with its reason, and every chance missed with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

from convc.ir.graph import Graph, Node
from convc.ir.span import Location, union

Mode = Literal["infer", "train"]


def describe(*nodes: Node) -> str:
    """`conv2d(conv1), relu(relu1)`: how logs name nodes."""
    return ", ".join(f"{node.op.name}({node.label})" if node.label else node.op.name for node in nodes)


@dataclass(frozen=True)
class Entry:
    """One line of a pass's log."""

    kind: Literal["changed", "missed"]
    rule: str
    before: str
    after: str
    why: str
    location: Location

    def __str__(self) -> str:
        arrow = f" -> {self.after}" if self.kind == "changed" else ""
        place = f"  {self.location[0].file}:{self.location[0].line}" if self.location else ""
        return f"{self.kind} {self.rule}  {self.before}{arrow}  why: {self.why}{place}"


class OutOfFuel(Exception):
    """A pass has made as many changes as it may: whoever gave it fuel catches this."""


@dataclass
class PassLog:
    """What a pass did and did not do, and figures that it wants to report.

    `findings` are what a report can show besides: objects of a type that the pass documents. `fuel` is how many changes
    the pass may make, for who looks for the one that is wrong. A change is logged when it is complete, so that the
    graph is whole where a pass runs out of fuel.
    """

    entries: list[Entry] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    findings: list[object] = field(default_factory=list[object])
    fuel: int | None = None

    def changed(self, rule: str, before: tuple[Node, ...], after: tuple[Node, ...], why: str) -> None:
        location = union(*(node.location for node in before))
        self.entries.append(Entry("changed", rule, describe(*before), describe(*after) or "nothing", why, location))
        if self.fuel is not None and len(self.of("changed")) >= self.fuel:
            raise OutOfFuel

    def missed(self, rule: str, node: Node, why: str) -> None:
        self.entries.append(Entry("missed", rule, describe(node), "", why, node.location))

    def of(self, kind: str) -> list[Entry]:
        return [entry for entry in self.entries if entry.kind == kind]


@dataclass(frozen=True)
class Pass:
    """A graph rewrite. Fields of a subclass are its options; `run` changes the graph in place and logs why."""

    name: ClassVar[str]
    # Modes and targets for which the pass cannot be used, with the reason.
    refused: ClassVar[Mapping[str, str]] = {}

    def run(self, graph: Graph, log: PassLog) -> None:
        raise AssertionError(f"{self.name} does nothing")

    def alters(self, graph: Graph) -> str | None:
        """Why the graph will compute something else than before, for passes that are meant to; None for all others."""
        return None

    @property
    def options(self) -> dict[str, Any]:
        return {option.name: getattr(self, option.name) for option in fields(self)}
