"""Bring what can be written in several ways into one form, the one with the least to do.

    %1 = pad(%x) {sides=(1,1,1,1)}
    %2 = conv2d(%1, %w) {padding=(0,0,0,0)}     →     %1 = conv2d(%x, %w) {padding=(1,1,1,1)}
    %3 = relu(%2)                                     %2 = relu(%1)
    %4 = relu(%3)

Rules are exact: the same bits in float32, apart from the sign of zero, and the same gradients. They are applied until
none fits; a chance that a rule misses is logged once, in the end.
"""

from __future__ import annotations

from dataclasses import field
from typing import ClassVar

from convc.ir.builder import Builder
from convc.ir.graph import Graph, Node, Value
from convc.ir.op import Op
from convc.ir.span import union
from convc.lazy import dataclass
from convc.passes.base import Pass, PassLog
from convc.passes.canonical.identities import IDENTITIES
from convc.passes.canonical.rule import Missed, Rewrite, Rule
from convc.passes.canonical.shapes import SHAPES
from convc.passes.canonical.windows import WINDOWS

RULES: tuple[Rule, ...] = (*IDENTITIES, *SHAPES, *WINDOWS)


@dataclass(frozen=True)
class Canonicalize(Pass):
    """Applies `RULES`, the first that fits, to every node until nothing changes."""

    name: ClassVar[str] = "canonicalize"

    def run(self, graph: Graph, log: PassLog) -> None:
        _Canonicalizer(graph, log).run()


_BY_OP: dict[type[Op], list[Rule]] = {op: [rule for rule in RULES if op in rule.ops] for r in RULES for op in r.ops}


@dataclass
class _Canonicalizer:
    """The work of one run: `missed` are the chances that the present round has missed."""

    graph: Graph
    log: PassLog
    missed: list[tuple[Rule, Node, str]] = field(default_factory=list[tuple[Rule, Node, str]])

    def run(self) -> None:
        while self._round():
            pass
        for rule, node, why in self.missed:
            self.log.missed(rule.name, node, why)

    def _round(self) -> bool:
        """Whether a rule fitted anywhere. Nodes come before their users, so chains shrink from the front."""
        self.missed.clear()
        removed: set[Node] = set()
        for node in list(self.graph.nodes):
            if node not in removed:
                removed |= self._visit(node)
        return bool(removed)

    def _visit(self, node: Node) -> set[Node]:
        """The nodes that went away."""
        for rule in _BY_OP.get(type(node.op), ()):
            finding = rule.find(node)
            if isinstance(finding, Value) and finding.producer is None and self.graph.is_result(node.result):
                finding = Missed("a result of the graph is computed, not handed through")
            if isinstance(finding, Missed):
                self.missed.append((rule, node, finding.why))
            elif finding is not None:
                return self._apply(rule, node, finding)
        return set()

    def _apply(self, rule: Rule, node: Node, finding: Rewrite | Value) -> set[Node]:
        replaced: tuple[Node, ...] = (node,)
        made: tuple[Node, ...] = ()
        if isinstance(finding, Rewrite):
            kept = {value.producer for value in finding.operands}
            producers = dict.fromkeys(value.producer for value in node.operands if value.producer not in kept)
            replaced = (*(p for p in producers if p is not None and self._read_only_by(node, p)), node)
            builder = Builder(self.graph, before=node)
            with builder.at(union(*(each.location for each in replaced)), node.label):
                made = (builder.add_node(finding.op, *finding.operands),)
            finding = made[0].result
        self.graph.replace_uses(node.result, finding)
        self.log.changed(rule.name, replaced, made, rule.why)
        return self._remove(node)

    def _remove(self, node: Node) -> set[Node]:
        """Drop a node, and what only it has read."""
        removed: set[Node] = set()
        pending = [node]
        while pending:
            dead = pending.pop()
            if dead in removed or any(self.graph.is_live(value) for value in dead.results):
                continue
            removed.add(dead)
            self.graph.remove([dead])
            pending += [value.producer for value in dead.operands if value.producer is not None]
        return removed

    def _read_only_by(self, node: Node, producer: Node) -> bool:
        return all(user is node for user, _ in producer.result.users) and not self.graph.is_result(producer.result)
