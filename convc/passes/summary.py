"""A net layer by layer: shapes, parameters, work, memory, receptive field, and what weight sharing saves.

A convolution is a fully connected layer most of whose weights are zero (its connections are sparse) and many of whose
weights are equal (they are shared). With a 4x4 input and a 2x2 kernel of stride 2 the dense layer has 64 weights, 16·4;
16 of them are connections, and these share 4 values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from convc.ir.graph import Graph, Node, Value
from convc.ir.ops.constant import Constant
from convc.ir.ops.conv import Conv2d, Conv2dBackwardData
from convc.ir.ops.elementwise import Elementwise
from convc.ir.ops.linear import Linear
from convc.ir.ops.loss import CountCorrect
from convc.ir.ops.random import Dropout, Noise
from convc.ir.ops.shape import Flatten, Unflatten
from convc.ir.ops.update import Update
from convc.ir.types import Shape
from convc.ir.window import Window
from convc.lazy import dataclass
from convc.passes.live_bytes import parameter_bytes, peak_bytes
from convc.passes.manager import PassManager
from convc.passes.pipeline import Recipe, pipeline
from convc.passes.receptive_field import ReceptiveField, receptive_fields

# The nodes that layers with weights are about; in a forward graph a gradient by the data is a transposed convolution.
_WEIGHTED = (Conv2d, Conv2dBackwardData, Linear)


@dataclass(frozen=True)
class Layer:
    """One layer. Shapes are those of one image.

    `params` are trainable ones, counted where they are first used; `macs` are multiplications with a weight, for one
    image. `activation_bytes` is what the result takes for the whole batch: nothing where it is written over the layer's
    own input, as that of an activation function is, so that the sum is what a forward pass leaves behind.
    `dense_weights` and `sparse_weights` leave out biases and connections to padding; 0 without weights.
    """

    name: str
    kind: str
    line: int | None
    input: Shape
    output: Shape
    params: int
    macs: int
    activation_bytes: int
    receptive_field: ReceptiveField | None
    dense_weights: int
    sparse_weights: int


@dataclass(frozen=True)
class Summary:
    """All layers in order, and the memory that training and inference need at `batch` (see `live_bytes`)."""

    net: str
    batch: int
    layers: tuple[Layer, ...]
    params: int
    training_bytes: int | None
    inference_bytes: int

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    @property
    def activation_bytes(self) -> int:
        return sum(layer.activation_bytes for layer in self.layers)


def summarize(
    graph: Graph,
    optimizer: Update | Recipe | None = None,
    kinds: Mapping[str, str] | None = None,
    lines: Mapping[str, int] | None = None,
) -> Summary:
    """Analyse a forward graph as the front end makes it; the graph is left as it is.

    `kinds` are the layers by name, each with its word (`conv1`: `conv`); without it every label is a layer. `lines` are
    those of layers that become no node, such as `input`. `training_bytes` includes gradients and the states of
    `optimizer`, of a recipe also mean gradients; it is None for a net without a loss.
    """
    (batch,) = {value.shape[0] for value in graph.inputs.values() if value.type.rank > 0} or {1}
    return Summary(
        net=graph.name,
        batch=batch,
        layers=layer_rows(graph, kinds, lines),
        params=sum(p.value.type.size for p in graph.parameters.values() if p.trainable),
        training_bytes=_training_bytes(graph, optimizer) if "loss" in graph.outputs else None,
        inference_bytes=_inference_bytes(graph),
    )


def layer_rows(
    graph: Graph, kinds: Mapping[str, str] | None = None, lines: Mapping[str, int] | None = None
) -> tuple[Layer, ...]:
    """The layers alone, see `summarize`."""
    fields = receptive_fields(graph)
    batched = graph.batched()
    counted: set[str] = set()
    layers: list[Layer] = []
    inputs = [name for name, kind in (kinds or {}).items() if kind == "input"]
    for name in inputs:
        layers.append(_input(name, (lines or {}).get(name), graph.inputs["x"], fields))
    for name, nodes in layer_uses(graph):
        if (kinds is not None and name not in kinds) or name in inputs:
            continue
        kind = kinds[name] if kinds else _main(nodes).op.name
        layers.append(_layer(name, kind, nodes, graph, batched, fields, counted))
    return tuple(layers)


def layer_uses(graph: Graph) -> list[tuple[str, list[Node]]]:
    """The nodes of each layer of a forward graph, by its path, in order; a shared layer is there once per use.

    Constants and what carries no label belong to no layer.
    """
    uses: list[tuple[str, list[Node]]] = []
    for node in graph.nodes:
        if not node.label or isinstance(node.op, Constant):
            continue
        if not uses or uses[-1][0] != node.label:
            uses.append((node.label, []))
        uses[-1][1].append(node)
    return uses


def _main(nodes: list[Node]) -> Node:
    """The node that a layer is about: `fc` may flatten first."""
    return next((node for node in nodes if isinstance(node.op, _WEIGHTED)), nodes[0])


def _input(name: str, line: int | None, x: Value, fields: dict[Value, ReceptiveField]) -> Layer:
    """The images themselves; their mean is subtracted in their place."""
    shape = x.shape[1:]
    return Layer(name, "input", line, shape, shape, 0, 0, x.type.bytes, fields.get(x), 0, 0)


def _layer(
    name: str,
    kind: str,
    nodes: list[Node],
    graph: Graph,
    batched: set[Value],
    fields: dict[Value, ReceptiveField],
    counted: set[str],
) -> Layer:
    own = {result for node in nodes for result in node.results}
    sources = [operand for node in nodes for operand in node.operands if operand in batched and operand not in own]
    result = next((node for node in reversed(nodes) if not isinstance(node.op, CountCorrect)), nodes[-1]).results[0]
    names = [p for node in nodes for operand in node.operands if (p := _parameter(operand, graph)) and p not in counted]
    counted.update(names)
    params = sum(p.value.type.size for p in map(graph.parameters.__getitem__, dict.fromkeys(names)) if p.trainable)
    weighted = [_weights(node) for node in nodes]
    return Layer(
        name=name,
        kind=kind,
        line=span.line if (span := nodes[0].span) else None,
        input=sources[0].shape[1:] if sources else (),
        output=result.shape[1:] if result in batched else result.shape,
        params=params,
        macs=sum(_macs(node) for node in nodes),
        activation_bytes=0 if _in_place(result, batched) else result.type.bytes,
        receptive_field=fields.get(result),
        dense_weights=sum(dense for dense, _ in weighted),
        sparse_weights=sum(sparse for _, sparse in weighted),
    )


def _in_place(result: Value, batched: set[Value]) -> bool:
    """Whether a result takes the place of an operand that nobody else reads, or only shows it in another shape."""
    node = result.producer
    if node is None or isinstance(node.op, (Flatten, Unflatten)):
        return True
    return isinstance(node.op, (Elementwise, Dropout, Noise)) and any(
        operand in batched and operand.type.bytes == result.type.bytes and len(operand.users) == 1
        for operand in node.operands
    )


def _parameter(value: Value, graph: Graph) -> str | None:
    return value.name if value.name in graph.parameters else None


def _macs(node: Node) -> int:
    """Multiply-adds with weights for one image."""
    if not isinstance(node.op, _WEIGHTED):
        return 0
    weight = node.operands[1].shape
    if isinstance(node.op, Conv2dBackwardData):
        return math.prod(node.operands[0].shape[1:]) * math.prod(weight[1:])
    return math.prod(node.result.shape[1:]) * math.prod(weight[1:])


def _weights(node: Node) -> tuple[int, int]:
    """(weights of the fully connected layer between the same values, connections that are there)."""
    if not isinstance(node.op, _WEIGHTED):
        return 0, 0
    x, weight = node.operands[0].shape[1:], node.operands[1].shape
    dense = math.prod(x) * math.prod(node.result.shape[1:])
    if isinstance(node.op, Linear):
        return dense, dense
    window = node.op.window((weight[2], weight[3]))
    # A transposed convolution connects what the convolution does whose gradient it is.
    image = node.result.shape[1:] if isinstance(node.op, Conv2dBackwardData) else x
    connections = math.prod(_taps_inside(window, axis, (image[1], image[2])) for axis in (0, 1))
    return dense, weight[0] * weight[1] * connections


def _taps_inside(window: Window, axis: int, size: tuple[int, int]) -> int:
    """How often a tap of the window meets a real pixel along one axis, over all positions."""
    starts = range(
        -window.padding[axis],
        -window.padding[axis] + window.output_size(size)[axis] * window.stride[axis],
        window.stride[axis],
    )
    taps = range(0, window.extent[axis], window.dilation[axis])
    return sum(0 <= start + tap < size[axis] for start in starts for tap in taps)


def _inference_bytes(graph: Graph) -> int:
    twin = graph.copy()
    PassManager(pipeline("infer"), check=False).run(twin)
    return parameter_bytes(twin) + peak_bytes(twin)


def _training_bytes(graph: Graph, optimizer: Update | Recipe | None) -> int:
    twin = graph.copy()
    recipe = optimizer if isinstance(optimizer, Recipe) else Recipe(optimizer)
    PassManager(pipeline("train", recipe=recipe), check=False).run(twin)
    return parameter_bytes(twin) + peak_bytes(twin)
