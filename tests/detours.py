"""Random nets with ways around in them, which the clean-ups undo."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from convc.ir.builder import Builder
from convc.ir.graph import Graph, Node, Value
from convc.ir.ops.activation import Relu, Relu6, Tanh
from convc.ir.ops.constant import Constant
from convc.ir.ops.conv import Conv2d
from convc.ir.ops.elementwise import Absolute, Add, Divide, Multiply, Negate, Sqrt, Subtract
from convc.ir.ops.join import Concat, InsertChannels, SliceChannels
from convc.ir.ops.pad import Pad
from convc.ir.ops.pool import AvgPool, MaxPool
from convc.ir.ops.random import Dropout, Noise
from convc.ir.ops.rearrange import Rearrange
from convc.ir.ops.resample import Upsample
from convc.ir.ops.shape import Flatten, Unflatten
from tests.strategies import Draw, graphs

Detour = Callable[[Builder, Value], Value]


def _rows(b: Builder, x: Value) -> Value:
    return b.add(Unflatten(x.shape[1:]), b.add(Flatten(), x)) if x.type.rank == 4 else b.add(Flatten(), x)


def _shuffled(b: Builder, x: Value) -> Value:
    size = x.type.size // x.shape[0]
    inner = b.add(Rearrange((x.shape[1], size // x.shape[1]), (1, 0), (size,)), x)
    return b.add(Rearrange((size // x.shape[1], x.shape[1]), (1, 0), x.shape[1:]), inner)


def _joined(b: Builder, x: Value) -> Value:
    both = b.add(Concat(), b.add(Concat(), b.add(Tanh(), x), x), x)
    return b.add(SliceChannels(0, x.shape[1]), b.add(SliceChannels(x.shape[1], x.shape[1]), both))


def _twice(b: Builder, x: Value) -> Value:
    half = b.constant(0.5)
    return b.add(Add(), b.add(Multiply(), b.add(Tanh(), x), half), b.add(Multiply(), b.add(Tanh(), x), b.constant(0.5)))


def _scaled(b: Builder, x: Value) -> Value:
    return b.add(Multiply(), x, b.add(Sqrt(), b.add(Add(), b.constant(3.0), b.constant(1.0))))


def _bordered(b: Builder, x: Value) -> Value:
    if x.type.rank != 4:
        return x
    wide = b.add(Pad((1, 1, 1, 0)), b.add(Pad((0, 0, 0, 1)), b.add(Relu(), x)))
    return b.add(MaxPool((3, 3), (1, 1), (0, 0, 0, 0)), b.add(Pad((0, 0, 0, 0)), wide))


# Ways around that the rules undo, each of the value's own shape.
DETOURS: dict[str, Detour] = {
    "add_zero": lambda b, x: b.add(Add(), b.constant(0.0), b.add(Subtract(), x, b.constant(0.0))),
    "one": lambda b, x: b.add(Divide(), b.add(Multiply(), x, b.constant(np.ones(x.shape[1]))), b.constant(1.0)),
    "negate": lambda b, x: b.add(Negate(), b.add(Negate(), x)),
    "positive": lambda b, x: b.add(Absolute(), b.add(Relu(), b.add(Relu(), x))),
    "clipped": lambda b, x: b.add(Relu6(), b.add(Relu6(), b.add(Relu(), x))),
    "nothing": lambda b, x: b.add(Noise(0.0, 3), b.add(Dropout(0.0, 3), x)),
    "channels": lambda b, x: b.add(InsertChannels(0, x.shape[1]), b.add(SliceChannels(0, x.shape[1]), x)),
    "upsample": lambda b, x: b.add(Upsample(1), x) if x.type.rank == 4 else x,
    "rows": _rows,
    "shuffled": _shuffled,
    "joined": _joined,
    "twice": _twice,
    "scaled": _scaled,
    "bordered": _bordered,
}


@st.composite
def detoured(draw: Draw) -> Graph:
    """A random net with ways around put into it, and borders outside of convolutions and pools."""
    graph = draw(graphs(max_layers=4))
    for node in list(graph.nodes):
        if isinstance(node.op, (Conv2d, AvgPool)) and draw(st.booleans()):
            node = _outside(graph, node)
        if isinstance(node.op, Constant) or node.result.type.rank < 2:
            continue
        name = draw(st.sampled_from(["", "", *DETOURS]))
        if name:
            _take(graph, node, DETOURS[name])
    return graph


def _outside(graph: Graph, node: Node) -> Node:
    """The node with its padding as a node of its own."""
    op = node.op
    assert isinstance(op, (Conv2d, AvgPool))
    if isinstance(op, AvgPool) and (op.ceil or not op.count_padding):
        return node
    b = Builder(graph, before=node)
    with b.at(node.location, node.label):
        border = b.add(Pad(op.padding), node.operands[0])
        made = b.add_node(replace(op, padding=(0, 0, 0, 0)), border, *node.operands[1:])
    graph.replace_uses(node.result, made.result)
    graph.remove([node])
    return made


def _take(graph: Graph, node: Node, detour: Detour) -> None:
    known = set(graph.nodes)
    place = graph.nodes.index(node) + 1
    b = Builder(graph, before=graph.nodes[place] if place < len(graph.nodes) else None)
    with b.at(node.location, node.label):
        value = detour(b, node.result)
    graph.replace_uses(node.result, value, only=lambda user: user in known)
    graph.outputs.update({name: value for name, output in graph.outputs.items() if output is node.result})
