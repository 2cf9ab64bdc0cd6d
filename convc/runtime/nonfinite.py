"""Find out which op first made an infinity or a NaN of finite numbers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from convc.ir.graph import Graph, Node, Value
from convc.ir.rounding import rounded
from convc.lazy import dataclass


@dataclass(frozen=True)
class Origin:
    """Where a computation left the finite numbers: a node, or an input or parameter that was not finite before."""

    node: Node | None
    source: str | None = None

    def __str__(self) -> str:
        if self.node is None:
            return f"{self.source} itself"
        return f"{self.node.op.name} of {self.node.label}" if self.node.label else self.node.op.name


def find_origin(graph: Graph, arrays: Mapping[str, np.ndarray]) -> Origin | None:
    """The first place in the order of the graph where a value is not finite; None if all are.

    Runs the ops' reference rules in the precision of `arrays` (inputs and parameters by name), like the interpreter.
    """
    values: dict[Value, np.ndarray] = {}
    sources = {**graph.inputs, **{name: parameter.value for name, parameter in graph.parameters.items()}}
    for name, value in sources.items():
        values[value] = np.asarray(arrays[name])
        if not np.isfinite(values[value]).all():
            return Origin(None, name)
    remaining = {value: len(value.users) for node in graph.nodes for value in (*node.operands, *node.results)}
    for node in graph.nodes:
        with np.errstate(all="ignore"):
            results = node.op.reference(*(values[value] for value in node.operands))
        for value, array in zip(node.results, results if isinstance(results, tuple) else (results,), strict=True):
            values[value] = rounded(np.asarray(array), value.type.dtype)
            if not np.isfinite(values[value]).all():
                return Origin(node)
        for value in node.operands:
            remaining[value] -= 1
            if not remaining[value]:
                values.pop(value, None)
    return None
