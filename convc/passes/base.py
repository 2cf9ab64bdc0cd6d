"""What a pass is, and what it has to say: every change with its reason, and every chance missed with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from convc.ir.graph import Graph, Node
from convc.ir.span import Location, union
from convc.lazy import dataclass

if TYPE_CHECKING:
    from convc.passes.plan import Plan

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
class AnyPass:
    """What passes over graphs and passes over plans have in common: fields of a subclass are its options."""

    name: ClassVar[str]
    # Modes and targets for which the pass cannot be used, with the reason.
    refused: ClassVar[Mapping[str, str]] = {}
    # The figures that its report may hold, each with what it tells.
    metrics: ClassVar[Mapping[str, str]] = {}

    @property
    def options(self) -> dict[str, Any]:
        return {option.name: getattr(self, option.name) for option in fields(self)}


@dataclass(frozen=True)
class Pass(AnyPass):
    """A graph rewrite: `run` changes the graph in place and logs why."""

    def run(self, graph: Graph, log: PassLog) -> None:
        raise AssertionError(f"{self.name} does nothing")

    def alters(self, graph: Graph) -> str | None:
        """Why the graph will compute something else than before, for passes that are meant to; None for all others."""
        return None


@dataclass(frozen=True)
class PlanPass(AnyPass):
    """Decides one thing about a program that will be compiled: `run` fills in a part of the plan and logs why."""

    refused: ClassVar[Mapping[str, str]] = {"reference": "the interpreter runs the graph as it is"}
    # Whether it changes the graph, too.
    rewrites: ClassVar[bool] = False

    def run(self, plan: Plan, log: PassLog) -> None:
        raise AssertionError(f"{self.name} decides nothing")

    def show(self, plan: Plan) -> str:
        """What has been decided, as text."""
        raise AssertionError(f"{self.name} shows nothing")
