"""Fold batch norm into the layer before it (inference).

    %1 = conv2d(%x, %w, %b)                       s   = %γ / √(%σ² + ε)                 (per output channel)
    %2 = batch_norm(%1, %γ, %β, %μ, %σ²)    →     %w' = %w · s
                                                  %b' = %β + (%b − %μ) · s
                                                  %2  = conv2d(%x, %w', %b')

Saves the arithmetic of the norm. Parameters keep their names and are set as before: s, %w' and %b' are computed from
them, natively once after any was set, into memory of their own: the layer's weights take twice the space. Equal up to
rounding: a weight is rounded once more, by half a unit in its last place.

For forward graphs, before `specialize`. In training the statistics are those of the batch, and nothing can be folded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from convc.ir.builder import Builder
from convc.ir.graph import Graph, Node, Value
from convc.ir.ops.conv import Conv2d, Conv2dBackwardData
from convc.ir.ops.elementwise import Add, Divide, Multiply, Sqrt, Subtract
from convc.ir.ops.linear import Linear
from convc.ir.ops.norm import BatchNorm
from convc.ir.ops.random import Dropout, Noise
from convc.ir.ops.units import ScaleWeights
from convc.ir.span import union
from convc.lazy import dataclass
from convc.passes.base import Pass, PassLog

RULE = "fold"
_LAYERS = (Conv2d, Linear, Conv2dBackwardData)


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Folds `batch_norm` into the convolution, fully connected layer or transposed convolution that it alone reads."""

    name: ClassVar[str] = "fold-batch-norm"
    refused: ClassVar[Mapping[str, str]] = {"train": "it is for inference only"}

    def run(self, graph: Graph, log: PassLog) -> None:
        for norm in graph.nodes_of(BatchNorm):
            found = _layer(graph, norm)
            if isinstance(found, str):
                log.missed(RULE, norm, found)
                continue
            nodes, bias = found
            made = _fold(graph, norm, nodes, bias)
            log.changed(RULE, (*nodes, norm), (made,), "the statistics are constant at inference")


def _layer(graph: Graph, norm: Node) -> tuple[tuple[Node, ...], Value | None] | str:
    """The layer that the norm reads (and what is between them: the addition of its bias, where that is a node of its
    own, and what does nothing at inference), and the bias; or why there is none."""
    x, bias, nodes = norm.operands[0], None, tuple[Node, ...]()
    while x.producer is not None and isinstance(x.producer.op, (Dropout, Noise)):
        x, nodes = x.producer.operands[0], (x.producer, *nodes)
    if x.producer is not None and isinstance(x.producer.op, Add):
        inner, added = x.producer.operands
        if added.shape == (x.shape[1],) != x.shape:
            x, bias, nodes = inner, added, (x.producer, *nodes)
    layer = x.producer
    if layer is None or not isinstance(layer.op, _LAYERS):
        origin = layer.op.name if layer is not None else f"the input {x.name}"
        return f"its input comes from {origin}, not from a convolution or fc"
    if len(layer.operands) > 2:
        if bias is not None:
            return f"{layer.label or layer.op.name} has a bias already, and another is added to it"
        bias = layer.operands[2]
    nodes = (layer, *nodes)
    for node in nodes:
        name = node.label or node.op.name
        if len(node.result.users) > 1:
            return f"{name} has {len(node.result.users)} users that need it unnormalised"
        if graph.is_result(node.result):
            return f"{name} is an output, too"
    return nodes, bias


def _fold(graph: Graph, norm: Node, nodes: tuple[Node, ...], bias: Value | None) -> Node:
    assert isinstance(norm.op, BatchNorm)
    _, gamma, beta, mean, var = norm.operands
    layer = nodes[0]
    x, weight = layer.operands[:2]
    # The outputs of a transposed convolution lie along dimension 1 of its weights.
    transposed = isinstance(layer.op, Conv2dBackwardData)
    units = ScaleWeights(1, layer.op.groups) if isinstance(layer.op, Conv2dBackwardData) else ScaleWeights()
    b = Builder(graph, before=norm)
    with b.at(norm.location, norm.label):
        scale = b.add(Divide(), gamma, b.add(Sqrt(), b.add(Add(), var, b.constant(norm.op.eps))))
        scaled = b.add(units, weight, scale)
        if bias is None:
            shift = b.add(Subtract(), beta, b.add(Multiply(), mean, scale))
        else:
            shift = b.add(Add(), beta, b.add(Multiply(), b.add(Subtract(), bias, mean), scale))
    with b.at(union(*(node.location for node in (*nodes, norm))), layer.label):
        made = b.add_node(layer.op, x, scaled, None if transposed else shift)
        if transposed:
            made = b.add_node(Add(), made.result, shift)
    graph.replace_uses(norm.result, made.result)
    graph.remove([norm, *nodes])
    return made
