"""Reverse-mode differentiation: a walk from the loss back to the parameters over the ops' `vjp` rules.

Gradients are emitted into the same graph. Only what leads from a wanted value to the loss is visited, so frozen and
unused parameters cost nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from convc.ir.builder import Builder
from convc.ir.graph import Graph, Value
from convc.ir.ops.elementwise import Add


def differentiate(graph: Graph, loss: Value, wanted: Sequence[Value]) -> list[Value | None]:
    """Append d loss / d w for each wanted value; None where the loss does not depend on it."""
    carries: set[Value] = set(wanted)
    for node in graph.nodes:
        if any(operand in carries for operand in node.operands):
            carries.update(node.results)
    builder = Builder(graph)
    cotangents: dict[Value, Value] = {loss: builder.constant(1.0)}
    path = graph.ancestors([loss])
    for node in reversed([node for node in graph.nodes if node in path]):
        incoming = tuple(cotangents.get(result) for result in node.results)
        if all(value is None for value in incoming) or not any(operand in carries for operand in node.operands):
            continue
        with builder.at(node.location, node.label):
            outgoing = node.op.vjp(builder, node, incoming)
            for operand, cotangent in zip(node.operands, outgoing, strict=True):
                if cotangent is None or operand not in carries:
                    continue
                # A value that is used several times collects the sum of what its users send back.
                previous = cotangents.get(operand)
                cotangents[operand] = cotangent if previous is None else builder.add(Add(), previous, cotangent)
    return [cotangents.get(value) for value in wanted]
