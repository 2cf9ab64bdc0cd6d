"""The same graph for another number of images. Ops do not know the batch, so only types change."""

from __future__ import annotations

from convc.ir.graph import Graph, Node, Value
from convc.ir.types import TensorType


def rebatch(graph: Graph, batch: int) -> Graph:
    """A copy of a graph whose inputs of rank 1 or more have `batch` rows; all other types follow from them."""
    twin = Graph(graph.name)
    twins: dict[Value, Value] = {}
    for name, value in graph.inputs.items():
        shape = (batch, *value.shape[1:]) if value.shape else ()
        twins[value] = twin.add_input(name, TensorType(value.type.dtype, shape))
    for name, parameter in graph.parameters.items():
        metadata = {key: item for key, item in vars(parameter).items() if key not in ("name", "value")}
        twins[parameter.value] = twin.add_parameter(name, parameter.value.type, **metadata)
    for node in graph.nodes:
        clone = Node(node.op, tuple(twins[value] for value in node.operands), node.location, node.label)
        twin.insert(clone)
        twins.update(zip(node.results, clone.results, strict=True))
    twin.outputs = {name: twins[value] for name, value in graph.outputs.items()}
    twin.updates = {name: twins[value] for name, value in graph.updates.items()}
    return twin
