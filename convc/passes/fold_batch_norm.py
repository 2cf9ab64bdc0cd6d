"""Fold batch norm into the layer before it (inference).

    %1 = conv2d(%x, %w, %b)                       s   = %γ / √(%σ² + ε)                 (per output channel)
    %2 = batch_norm(%1, %γ, %β, %μ, %σ²)    →     %w' = %w · s
                                                  %b' = %β + (%b − %μ) · s
                                                  %2  = conv2d(%x, %w', %b')

Saves one pass over the activations. Parameters keep their names and are set as before: s, %w' and %b' are computed from
them. Equal up to rounding: a weight is rounded once more, by half a unit in its last place.

For forward graphs, before `specialize`. In training the statistics are those of the batch, and nothing can be folded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from convc.ir.builder import Builder
from convc.ir.graph import Graph, Node, Value
from convc.ir.ops.conv import Conv2d, Conv2dBackwardData
from convc.ir.ops.elementwise import Add, Divide, Multiply, Sqrt, Subtract
from convc.ir.ops.linear import Linear
from convc.ir.ops.norm import BatchNorm
from convc.ir.span import union
from convc.passes.base import Pass, PassLog
from convc.passes.scaled_weights import scale_outputs

RULE = "fold"
_LAYERS = (Conv2d, Linear, Conv2dBackwardData)


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Folds `batch_norm` into the convolution, fully connected layer or transposed convolution that it alone reads."""

    name: ClassVar[str] = "fold-batch-norm"
    # Computed weights have no packed layout yet.
    refused: ClassVar[Mapping[str, str]] = {
        "train": "it is for inference only",
        "cpu": "native code cannot pack weights that are computed",
    }

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
    """The layer that the norm reads (and the addition of its bias, where that is a node of its own), and the bias; or
    why there is none."""
    x = norm.operands[0]
    layer, bias, nodes = x.producer, None, ()
    if layer is not None and isinstance(layer.op, Add) and layer.operands[1].shape == (x.shape[1],) != x.shape:
        nodes, bias, layer = (layer,), layer.operands[1], layer.operands[0].producer
    if layer is None or not isinstance(layer.op, _LAYERS):
        origin = x.producer.op.name if x.producer else f"the input {x.name}"
        return f"its input comes from {origin}, not from a convolution or fc"
    if isinstance(layer.op, Conv2dBackwardData) and layer.op.groups > 1:
        return f"the {layer.op.groups} groups of {layer.label or 'the deconv'} share a dimension of the weights"
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
    transposed = isinstance(layer.op, Conv2dBackwardData)
    b = Builder(graph, before=norm)
    with b.at(norm.location, norm.label):
        scale = b.add(Divide(), gamma, b.add(Sqrt(), b.add(Add(), var, b.constant(norm.op.eps))))
        # The outputs of a transposed convolution lie along dimension 1 of its weights, where vectors spread.
        scaled = b.add(Multiply(), weight, scale) if transposed else scale_outputs(b, weight, scale)
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
