"""A short name for what a net computes, by which a run and its continuation are compared."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from convc.ir.graph import Graph
from convc.ir.printer import print_ir


def net_digest(forward: Graph) -> str:
    """SHA-256 over the structure, attributes, shapes and parameters of a graph; not over where in a file they stand.

    Graphs to be compared have to be elaborated for the same batch.
    """
    graph = forward.copy()
    graph.name = ""
    for node in graph.nodes:
        node.location = ()
    for name, parameter in graph.parameters.items():
        graph.parameters[name] = replace(parameter, span=None)
    return hashlib.sha256(print_ir(graph).encode()).hexdigest()
