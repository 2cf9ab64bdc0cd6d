"""What exporters write apart and the language has in one: biases that are added, borders before a convolution."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from convc.frontend.onnx.target import Target
from convc.ir.builder import Builder
from convc.ir.graph import Graph, Node, Value
from convc.ir.ops.constant import Constant
from convc.ir.ops.conv import Conv2d, Conv2dBackwardData
from convc.ir.ops.elementwise import Add, Multiply
from convc.ir.ops.linear import Linear
from convc.ir.ops.norm import BatchNorm
from convc.ir.ops.pad import Pad


def tidy(target: Target) -> None:
    """Rewrite the graph in place; it computes the same."""
    graph = target.graph
    for node in graph.nodes_of(Conv2d):
        _take_in_border(graph, node)
    for node in graph.nodes_of(Multiply, Add):
        _take_in_scale(target, node)
    for node in graph.nodes_of(Add):
        _take_in_bias(target, node)
    dead = set(graph.nodes) - graph.ancestors(graph.outputs.values())
    graph.remove(dead)
    _in_order_of_use(target)


def _take_in_border(graph: Graph, node: Node) -> None:
    """conv(pad(x)) with zeros is conv(x) with more padding."""
    border, conv = node.operands[0].producer, node.op
    if border is None or not isinstance(border.op, Pad) or not isinstance(conv, Conv2d):
        return
    if border.op.value != 0 or min(border.op.sides) < 0:
        return
    top, left, bottom, right = (a + b for a, b in zip(conv.padding, border.op.sides, strict=True))
    node.op = replace(conv, padding=(top, left, bottom, right))
    graph.set_operand(node, 0, border.operands[0])


def _take_in_scale(target: Target, node: Node) -> None:
    """bn(x)·s + t with constants per channel is bn(x) with other gamma and beta: Caffe has them as layers apart."""
    graph = target.graph
    for index in (0, 1):
        layer, vector = node.operands[index].producer, node.operands[1 - index]
        if layer is None or not isinstance(layer.op, BatchNorm) or len(layer.result.users) > 1:
            continue
        array = _vector(vector)
        shared = any(len(value.users) > 1 for value in layer.operands[1:3])
        if array is None or shared or any(value is layer.result for value in graph.outputs.values()):
            continue
        gamma, beta = (target.weights[str(value.name)] for value in layer.operands[1:3])
        if isinstance(node.op, Multiply):
            target.weights[str(layer.operands[1].name)] = gamma * array
            target.weights[str(layer.operands[2].name)] = beta * array
        else:
            target.weights[str(layer.operands[2].name)] = beta + array
        graph.replace_uses(node.result, layer.result)
        graph.remove([node])
        return


def _vector(value: Value) -> np.ndarray | None:
    """A constant per channel."""
    source = value.producer
    if source is None or not isinstance(source.op, Constant) or value.type.rank != 1:
        return None
    return np.asarray(source.op.reference(), np.float32)


def _take_in_bias(target: Target, node: Node) -> None:
    """conv(x, w) + constant per channel is conv(x, w, b)."""
    graph = target.graph
    for index in (0, 1):
        layer, vector = node.operands[index].producer, node.operands[1 - index]
        if layer is None or not isinstance(layer.op, (Conv2d, Linear, Conv2dBackwardData)):
            continue
        alone = len(layer.result.users) == 1 and not any(v is layer.result for v in graph.outputs.values())
        array = _vector(vector)
        if array is None or not alone or len(layer.operands) != 2:
            continue
        bias = target.parameter(f"{layer.label}.bias", "bias", target.origins.get(vector), array)
        if isinstance(layer.op, Conv2dBackwardData):
            # The gradient of a convolution has no bias: `deconv` adds it, too.
            graph.set_operand(node, 1 - index, bias)
            node.label = layer.label
            return
        builder = Builder(graph, before=layer)
        with builder.at(layer.location, layer.label):
            value = builder.add(layer.op, *layer.operands, bias)
        graph.replace_uses(node.result, value)
        graph.remove([node])
        graph.remove([layer])
        return


def _in_order_of_use(target: Target) -> None:
    """Parameters as the layers that read them; those that nobody reads go."""
    graph = target.graph
    names = {parameter.value: name for name, parameter in graph.parameters.items()}
    used: dict[Value, None] = {}
    for node in graph.nodes:
        used.update(dict.fromkeys(value for value in node.operands if value in names))
    graph.parameters = {names[value]: graph.parameters[names[value]] for value in used}
    target.weights = {name: target.weights[name] for name in graph.parameters}
