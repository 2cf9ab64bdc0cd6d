"""Compute equal things once.

    %1 = relu(%x)  loc("n.cnn":3)
    %2 = relu(%x)  loc("n.cnn":4)     →     %1 = relu(%x)  loc("n.cnn":3, "n.cnn":4)
    %3 = add(%1, %2)                        %2 = add(%1, %1)

Equal are nodes of one op with equal attributes and the same operands, in the same order. A random draw is a function
of its operands and its stream like any other; gradients, and new values of parameters and optimiser states, stay
separate tensors. Removing leaves every number bit for bit as it was.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import ClassVar

import numpy as np

from convc.ir.graph import Graph, Node
from convc.ir.op import Op
from convc.ir.ops.constant import Constant
from convc.ir.ops.loss_scaling import Unscale
from convc.ir.ops.sweep import Sweep
from convc.ir.span import union
from convc.ir.types import DType
from convc.lazy import dataclass
from convc.passes.base import Pass, PassLog
from convc.passes.training import GRADIENT

RULE = "merge"


@dataclass(frozen=True)
class CommonSubexpressions(Pass):
    """Merges equal nodes into the first of them, which then stems from all their places."""

    name: ClassVar[str] = "cse"

    def run(self, graph: Graph, log: PassLog) -> None:
        updated = set(graph.updates.values())
        # One sweep reads all gradients: each lies in the place of its parameter.
        gradients = {value for name, value in graph.outputs.items() if name.startswith(GRADIENT)}
        gradients |= {node.operands[0] for node in graph.nodes_of(Unscale)}
        groups: dict[Hashable, list[Node]] = {}
        for node in list(graph.nodes):
            # Operands are merged before their users are looked at, so equal chains have equal keys all along.
            key = (_attributes(node.op), node.operands)
            group = groups.setdefault(key, [])
            if group and (isinstance(node.op, Sweep) or not updated.isdisjoint((*node.results, *group[0].results))):
                log.missed(RULE, node, "the new value of a parameter, or of a state, is a tensor of its own")
                continue
            if group and not (gradients.isdisjoint(group[0].results) or gradients.isdisjoint(node.results)):
                log.missed(RULE, node, "the gradient of each parameter is a tensor of its own")
                continue
            group.append(node)
            if len(group) > 1:
                for old, new in zip(node.results, group[0].results, strict=True):
                    graph.replace_uses(old, new)
                    if old in gradients:
                        gradients.add(new)
        for first, *others in groups.values():
            if others:
                log.changed(RULE, (first, *others), (first,), "equal op, attributes and operands")
                first.location = union(first.location, *(node.location for node in others))
        graph.remove([node for _, *others in groups.values() for node in others])


def _attributes(op: Op) -> Hashable:
    """Equal for ops that compute the same bits: 0.0 and -0.0 are equal numbers, but not equal constants."""
    if isinstance(op, Constant):
        return op.shape, op.dtype, np.asarray(op.values, DType(op.dtype).numpy).tobytes()
    return type(op), repr(op)
