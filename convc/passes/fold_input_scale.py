"""Fold the normalisation of the input into the first convolution (inference).

    %1 = sub(%x, %m)            (constants,           %w' = %w · (1/s)                  (per input channel)
    %2 = div(%1, %s)             one per channel)  →  %b' = %b + Σ %w · (−m/s)          (over channels and taps)
    %3 = conv2d(%2, %w, %b)                           %3  = conv2d(%x, %w', %b')

Saves a pass over the images. Padding stands for the mean of the data: after the fold zeros would stand for the darkest
pixel, so a padded convolution takes a scale, but no shift. Equal up to rounding: constants and weights are rounded once
more, and where the shift is large against the images, the bias cancels what the images sum up to.

In training the weights' gradient needs the normalised images anyway, and a bias that is summed up has no gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from convc.ir.builder import Builder
from convc.ir.graph import Graph, Node, Value
from convc.ir.ops.constant import Constant
from convc.ir.ops.conv import Conv2d
from convc.ir.ops.elementwise import Add, Divide, Multiply, Subtract
from convc.ir.ops.reduce import ChannelSum
from convc.ir.span import union
from convc.passes.base import Pass, PassLog

RULE = "fold"


@dataclass(frozen=True)
class FoldInputScale(Pass):
    """Folds `x·a + c` (constants per channel, written as sums, differences, products and quotients) into `conv2d`."""

    name: ClassVar[str] = "fold-input-scale"
    # Computed weights have no packed layout yet.
    refused: ClassVar[Mapping[str, str]] = {
        "train": "it is for inference only",
        "cpu": "native code cannot pack weights that are computed",
    }

    def run(self, graph: Graph, log: PassLog) -> None:
        for x in graph.inputs.values():
            if x.type.rank == 4:
                _fold_input(graph, x, log)


@dataclass(frozen=True)
class _Affine:
    """x·scale + shift after `nodes`; one number per channel, in float64 until they become constants."""

    scale: np.ndarray
    shift: np.ndarray
    nodes: tuple[Node, ...] = ()

    def then(self, node: Node, index: int) -> _Affine | None:
        """With one more node that reads the value as its operand `index`; None if that is not affine."""
        if len(node.operands) != 2:
            return None
        number = _per_channel(node.operands[1 - index], len(self.scale))
        if number is None or node.result.type != node.operands[index].type:
            return None
        scale, shift, nodes = self.scale, self.shift, (*self.nodes, node)
        if isinstance(node.op, Add):
            return _Affine(scale, shift + number, nodes)
        if isinstance(node.op, Multiply):
            return _Affine(scale * number, shift * number, nodes)
        if isinstance(node.op, Subtract) and index == 0:
            return _Affine(scale, shift - number, nodes)
        if isinstance(node.op, Divide) and index == 0 and np.all(number):
            return _Affine(scale / number, shift / number, nodes)
        return None


def _per_channel(value: Value, channels: int) -> np.ndarray | None:
    """The numbers of a constant that spreads over images, one per channel."""
    if value.producer is None or not isinstance(value.producer.op, Constant) or value.shape not in ((), (channels,)):
        return None
    return np.broadcast_to(value.producer.op.reference().astype(np.float64), (channels,))


def _fold_input(graph: Graph, x: Value, log: PassLog) -> None:
    channels = x.shape[1]
    affine, value = _Affine(np.ones(channels), np.zeros(channels)), x
    while len(value.users) == 1 and not graph.is_result(value):
        user, index = value.users[0]
        longer = affine.then(user, index)
        if longer is None:
            break
        affine, value = longer, user.result
    if not affine.nodes:
        return
    why = _obstacle(graph, affine, value)
    if why:
        log.missed(RULE, affine.nodes[-1], why)
        return
    ((conv, _),) = value.users
    made = _fold(graph, x, affine, conv)
    log.changed(RULE, (*affine.nodes, conv), (made,), "a convolution without padding is linear in its images")


def _obstacle(graph: Graph, affine: _Affine, value: Value) -> str:
    """Why the value cannot be folded into what reads it."""
    if len(value.users) != 1 or graph.is_result(value):
        return f"{len(value.users) + graph.is_result(value)} users need the normalised images"
    reader, index = value.users[0]
    op, name = reader.op, reader.label or reader.op.name
    if not isinstance(op, Conv2d) or index != 0:
        return f"{name} reads it, and that is no convolution"
    if any(op.padding) and np.any(affine.shift):
        return f"{name} pads with zeros, which stand for the mean and would no longer do so"
    if op.groups > 1 and np.any(affine.scale != affine.scale[0]):
        return f"the {op.groups} groups of {name} share a dimension of the weights, and the channels' scales differ"
    return ""


def _fold(graph: Graph, x: Value, affine: _Affine, conv: Node) -> Node:
    op, (weight, *bias) = conv.op, conv.operands[1:]
    assert isinstance(op, Conv2d)
    equal = bool(np.all(affine.scale == affine.scale[0]))
    b = Builder(graph, before=conv)
    with b.at(union(*(node.location for node in affine.nodes)), conv.label):
        scaled, operands = weight, tuple(bias)
        if np.any(affine.scale != 1):
            scaled = b.add(Multiply(), weight, b.constant(affine.scale[0] if equal else affine.scale))
        if np.any(affine.shift):
            # An image of the shift alone, as large as the window, meets each weight once: (1, K, 1, 1), then (K).
            r, s = op.window((weight.shape[2], weight.shape[3])).extent
            plane = np.broadcast_to(affine.shift[:, None, None], (1, x.shape[1], r, s)).astype(np.float32)
            shift = b.add(
                ChannelSum(), b.add(Conv2d(dilation=op.dilation, groups=op.groups), b.constant(plane), weight)
            )
            operands = (b.add(Add(), bias[0], shift) if bias else shift,)
    with b.at(union(*(node.location for node in (*affine.nodes, conv))), conv.label):
        made = b.add_node(op, x, scaled, *operands)
    graph.replace_uses(conv.result, made.result)
    constants = [operand.producer for node in affine.nodes for operand in node.operands]
    graph.remove([conv, *affine.nodes])
    dead = {node for node in constants if node is not None and isinstance(node.op, Constant)}
    graph.remove([node for node in dead if not graph.is_live(node.result)])
    return made
