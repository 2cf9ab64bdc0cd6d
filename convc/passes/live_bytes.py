"""How much memory a run of a graph needs, judged by the order of its nodes alone.

An estimate to plan with before anything is compiled: tensors without padding or halo, element-wise results in the place
of an operand that dies there, changes of shape for nothing. What is prepared once for all runs lives as long as they
do. What a program really takes is in its memory report.
"""

from __future__ import annotations

from itertools import accumulate

from convc.ir.graph import Graph, Node, Value
from convc.ir.ops.constant import Constant
from convc.ir.ops.elementwise import Elementwise, Greater
from convc.ir.ops.loss_scaling import Unscale
from convc.ir.ops.round_to import RoundTo
from convc.ir.ops.shape import Flatten, Unflatten
from convc.ir.ops.sweep import MaxNorm, Sweep
from convc.passes.sections import prepared


def parameter_bytes(graph: Graph) -> int:
    """Bytes of the parameters, buffers and optimiser states."""
    return sum(parameter.value.type.bytes for parameter in graph.parameters.values())


def peak_bytes(graph: Graph) -> int:
    """The most bytes of inputs and results that live at once. Outputs live to the end, parameters do not count."""
    end = len(graph.nodes)
    position = {node: index for index, node in enumerate(graph.nodes)}
    kept = {*graph.outputs.values(), *graph.updates.values()}

    def last_use(value: Value) -> int:
        return end if value in kept else max((position[user] for user, _ in value.users), default=-1)

    # Values that share memory share a root; a root lives from its definition to the last use of any of them.
    root: dict[Value, Value | None] = {parameter.value: None for parameter in graph.parameters.values()}
    root |= {value: value for value in graph.inputs.values()}
    birth: dict[Value, int] = dict.fromkeys(graph.inputs.values(), 0)
    death: dict[Value, int] = {value: max(0, last_use(value)) for value in graph.inputs.values()}
    prepares = prepared(graph)
    for index, node in enumerate(graph.nodes):
        for value in node.results:
            if node in prepares:
                lasts = value in kept or any(user not in prepares for user, _ in value.users)
                root[value] = value if lasts else None
                if lasts:
                    birth[value], death[value] = 0, end
                continue
            place = root[value] = _place(node, value, index, root, death)
            if place is value:
                birth[value] = index
            if place is not None:
                death[place] = max(death.get(place, index), last_use(value))
    change = [0] * (end + 2)
    for place, start in birth.items():
        change[start] += place.type.bytes
        change[death[place] + 1] -= place.type.bytes
    return max(accumulate(change))


def _place(
    node: Node, value: Value, index: int, root: dict[Value, Value | None], death: dict[Value, int]
) -> Value | None:
    """Whose memory a result takes: None where it needs none, another value's, or its own."""
    if isinstance(node.op, Unscale):
        return root[node.operands[0]]
    if isinstance(node.op, (Constant, Greater, Sweep, MaxNorm, RoundTo)):
        return None  # folded into the code; recomputed where it is used; written over the parameter
    if isinstance(node.op, (Flatten, Unflatten)):
        return root[node.operands[0]]
    if isinstance(node.op, Elementwise):
        for operand in node.operands:
            place = root[operand]
            if place is not None and death[place] == index and place.type.bytes == value.type.bytes:
                return place
    return value
