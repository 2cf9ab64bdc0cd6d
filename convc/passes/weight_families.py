"""Which tensors of weights are made of one another, number by number: all of a family lie alike in memory.

    %w' = sgd_update(%w, %g, %m, …)          %w, %g, %m, %w' are one family, and so are
    %s  = scale_weights(%w, %scale)          %w and %s

A gradient belongs to the family of its parameter, whether something updates it or not.
"""

from __future__ import annotations

from collections.abc import Iterator

from convc.ir.graph import Graph, Node, Value
from convc.ir.ops.binarize import Binarize
from convc.ir.ops.dropconnect import DropConnectTraining
from convc.ir.ops.round_to import RoundTo
from convc.ir.ops.sweep import MaxNorm, Sweep
from convc.ir.ops.units import ScaleWeights
from convc.passes.fusion import is_elementwise
from convc.passes.training import GRADIENT


class Families:
    """The tensors of two or more dimensions that have no rows, in families. `value in families` tells which these are.

    Equal shapes alone make no family; one op between two of them does.
    """

    def __init__(self, graph: Graph, batched: set[Value]) -> None:
        given = [parameter.value for parameter in graph.parameters.values()]
        made = [result for node in graph.nodes for result in node.results]
        self._parents = {v: v for v in (*given, *made) if v not in batched and v.type.rank >= 2}
        for node in graph.nodes:
            if _keeps_places(node):
                self._join(*(v for v in (*node.results, *node.operands) if v.shape == node.results[0].shape))
        for name, parameter in graph.parameters.items():
            related = (graph.updates.get(name), graph.outputs.get(GRADIENT + name))
            self._join(parameter.value, *(value for value in related if value is not None))

    def __contains__(self, value: Value) -> bool:
        return value in self._parents

    def __iter__(self) -> Iterator[Value]:
        return iter(self._parents)

    def of(self, value: Value) -> Value:
        """The one that stands for the family of a value."""
        while self._parents[value] is not value:
            # Every second link is shortened on the way, so that ways stay short.
            self._parents[value] = value = self._parents[self._parents[value]]
        return value

    def _join(self, *values: Value) -> None:
        first, *others = [value for value in values if value in self._parents] or [None]
        for other in others:
            if first is not None and other is not None:
                self._parents[self.of(other)] = self.of(first)


def _keeps_places(node: Node) -> bool:
    """Whether results are computed number by number from operands of the same shape."""
    kinds = (Sweep, MaxNorm, RoundTo, DropConnectTraining, ScaleWeights, Binarize)
    return is_elementwise(node) or isinstance(node.op, kinds)
