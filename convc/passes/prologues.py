"""Which casts kernels do as they read: the kernel has the cast in its prologue, and nobody stores the result."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from convc.ir.graph import Graph, Node, Value
from convc.ir.ops import Cast, Linear, LinearBackwardData
from convc.passes.base import PassLog
from convc.passes.sections import Section


def casts_of_weights(
    graph: Graph, sections: Mapping[Node, Section], kept: Collection[Value], rows_of_tile: int, log: PassLog
) -> frozenset[Node]:
    """The casts of parameters that only fully connected layers and their gradients by the images read.

    Every tile of rows casts the weights that it is multiplied with for itself: so where there is one tile only. What
    is `kept` is stored, and what is prepared is cast once for all runs.
    """
    found: set[Node] = set()
    for node in graph.nodes_of(Cast):
        source, section = node.operands[0], sections.get(node)
        if section in (None, Section.PREPARE) or node.result in kept:
            continue
        users = [(user, index) for user, index in node.result.users if user in sections]
        layers = all(isinstance(user.op, (Linear, LinearBackwardData)) and index == 1 for user, index in users)
        if not (users and layers) or source.producer is not None or source.type.rank != 2:
            continue
        rows = max(user.operands[0].shape[0] for user, _ in users)
        if rows > rows_of_tile:
            log.missed("prologue", node, f"{rows} rows are several tiles, and each would cast all of it")
            continue
        found.add(node)
        readers = tuple(user for user, _ in users)
        log.changed("prologue", (node, *readers), readers, "read as often as a copy would be, and not stored")
    return frozenset(found)
