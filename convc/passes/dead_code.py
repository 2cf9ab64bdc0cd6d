"""Remove what nobody reads.

%1 = conv2d(%x, %w)
%2 = relu(%1)            →    %1 = conv2d(%x, %w)
return %1                     return %1
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from convc.ir.graph import Graph, total_cost
from convc.lazy import dataclass
from convc.passes.base import Pass, PassLog


@dataclass(frozen=True)
class DeadCode(Pass):
    """Keeps the nodes that outputs and updates depend on. Parameters stay: they belong to the checkpoint."""

    name: ClassVar[str] = "dead-code"
    metrics: ClassVar[Mapping[str, str]] = {
        "saved_nodes": "operations that are gone",
        "saved_flops": "and their arithmetic",
        "saved_bytes": "and their operands and results",
    }

    def run(self, graph: Graph, log: PassLog) -> None:
        needed = graph.ancestors((*graph.outputs.values(), *graph.updates.values()))
        dead = [node for node in graph.nodes if node not in needed]
        for node in dead:
            log.changed("remove", (node,), (), why="no output and no update depends on it")
        graph.remove(dead)
        saved = total_cost(dead)
        log.metrics |= {"saved_nodes": len(dead), "saved_flops": saved.flops, "saved_bytes": saved.bytes}
