"""Emits nodes into a graph, with the place and the layer that they stem from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from convc.ir.graph import Graph, Node, Value
from convc.ir.op import Op
from convc.ir.span import Location


class Builder:
    """Appends nodes to `graph`; `at` sets location and label for the nodes of a `with` block."""

    def __init__(self, graph: Graph, before: Node | None = None) -> None:
        self.graph = graph
        self.before = before
        self.location: Location = ()
        self.label = ""

    @contextmanager
    def at(self, location: Location, label: str) -> Iterator[None]:
        previous = self.location, self.label
        self.location, self.label = location, label
        try:
            yield
        finally:
            self.location, self.label = previous

    def add(self, op: Op, *operands: Value | None) -> Value:
        """Append `op`; absent (None) trailing operands are left out. Returns its only result."""
        return self.add_node(op, *operands).result

    def add_node(self, op: Op, *operands: Value | None) -> Node:
        """Append `op` and return the node, for ops with several results."""
        node = Node(op, tuple(value for value in operands if value is not None), self.location, self.label)
        self.graph.insert(node, self.before)
        return node

    def constant(self, value: float | np.ndarray) -> Value:
        """A float32 constant (a scalar broadcasts over everything)."""
        from convc.ir.ops.constant import Constant

        return self.add(Constant.of(np.asarray(value, np.float32)))
