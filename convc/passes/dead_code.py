"""Remove what nobody reads.

%1 = conv2d(%x, %w)
%2 = relu(%1)            →    %1 = conv2d(%x, %w)
return %1                     return %1
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from convc.ir.graph import Graph
from convc.passes.base import Pass, PassLog


@dataclass(frozen=True)
class DeadCode(Pass):
    """Keeps the nodes that outputs and updates depend on. Parameters stay: they belong to the checkpoint."""

    name: ClassVar[str] = "dead-code"

    def run(self, graph: Graph, log: PassLog) -> None:
        needed = graph.ancestors((*graph.outputs.values(), *graph.updates.values()))
        dead = [node for node in graph.nodes if node not in needed]
        if dead:
            for node in dead:
                log.changed("remove", (node,), (), why="no output and no update depends on it")
            graph.remove(dead)
