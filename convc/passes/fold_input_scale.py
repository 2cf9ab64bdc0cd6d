"""Fold the normalisation of the input into the first convolution (inference).

    %1 = sub(%x, %m)            (constants,           %w' = %w · (1/s)                  (per input channel)
    %2 = div(%1, %s)             one per channel)  →  %b' = %b + Σ %w · (−m/s)          (over channels and taps)
    %3 = conv2d(%2, %w, %b)                           %3  = conv2d(%x, %w', %b')

Saves a pass over the images. Padding stands for the mean of the data: after the fold zeros would stand for the darkest
pixel, so a padded convolution takes a scale, but no shift; what comes before the scale stays. Equal up to rounding:
constants and weights are rounded once more, and where the shift is large against the images, the bias cancels what the
images sum up to.

In training the weights' gradient needs the normalised images anyway, and a bias that is summed up has no gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from convc.ir.builder import Builder
from convc.ir.graph import Graph, Node, Value
from convc.ir.ops.constant import Constant
from convc.ir.ops.conv import Conv2d
from convc.ir.ops.elementwise import Add, Divide, Multiply, Subtract
from convc.ir.ops.units import ScaleWeights, SumWeights
from convc.ir.span import union
from convc.lazy import dataclass
from convc.passes.base import Pass, PassLog

RULE = "fold"


@dataclass(frozen=True)
class FoldInputScale(Pass):
    """Folds `x·a + c` (constants per channel, written as sums, differences, products and quotients) into `conv2d`."""

    name: ClassVar[str] = "fold-input-scale"
    refused: ClassVar[Mapping[str, str]] = {"train": "it is for inference only"}

    def run(self, graph: Graph, log: PassLog) -> None:
        for x in graph.inputs.values():
            if x.type.rank == 4:
                _fold_input(graph, x, log)


@dataclass(frozen=True)
class _Affine:
    """x·scale + shift after `nodes`; one number per channel, in float64 until they become constants."""

    x: Value
    scale: np.ndarray
    shift: np.ndarray
    nodes: tuple[Node, ...] = ()

    @classmethod
    def of(cls, x: Value) -> _Affine:
        """x as it is."""
        return cls(x, np.ones(x.shape[1]), np.zeros(x.shape[1]))

    def then(self, node: Node, index: int) -> _Affine | None:
        """With one more node that reads the value as its operand `index`; None if that is not affine."""
        if len(node.operands) != 2:
            return None
        number = _per_channel(node.operands[1 - index], len(self.scale))
        if number is None or node.result.type != node.operands[index].type:
            return None
        scale, shift, nodes = self.scale, self.shift, (*self.nodes, node)
        if isinstance(node.op, Add):
            return _Affine(self.x, scale, shift + number, nodes)
        if isinstance(node.op, Multiply):
            return _Affine(self.x, scale * number, shift * number, nodes)
        if isinstance(node.op, Subtract) and index == 0:
            return _Affine(self.x, scale, shift - number, nodes)
        if isinstance(node.op, Divide) and index == 0 and np.all(number):
            return _Affine(self.x, scale / number, shift / number, nodes)
        return None


def _per_channel(value: Value, channels: int) -> np.ndarray | None:
    """The numbers of a constant that spreads over images, one per channel."""
    if value.producer is None or not isinstance(value.producer.op, Constant) or value.shape not in ((), (channels,)):
        return None
    return np.broadcast_to(value.producer.op.reference().astype(np.float64), (channels,))


def _fold_input(graph: Graph, x: Value, log: PassLog) -> None:
    """Fold all nodes between the input and a convolution, or as many of the last ones as can be."""
    # Those from the input on, and from each node behind it, as far as everything is affine.
    suffixes, value = [_Affine.of(x)], x
    while len(value.users) == 1 and not graph.is_result(value):
        user, index = value.users[0]
        longer = [after for affine in suffixes if (after := affine.then(user, index)) is not None]
        if len(longer) < len(suffixes):
            break
        value = user.result
        suffixes = [*longer, _Affine.of(value)]
    if len(suffixes) == 1:
        return
    why = _obstacle(graph, value)
    if why:
        log.missed(RULE, suffixes[0].nodes[-1], why)
        return
    ((conv, _),) = value.users
    assert isinstance(conv.op, Conv2d)
    for affine in suffixes[:-1]:
        if any(conv.op.padding) and np.any(affine.shift):
            why = f"{conv.label or conv.op.name} pads with zeros, which stand for the mean and would no longer do so"
            log.missed(RULE, affine.nodes[0], why)
            continue
        made = _fold(graph, affine, conv)
        log.changed(RULE, (*affine.nodes, conv), (made,), "a convolution is linear in its images")
        return


def _obstacle(graph: Graph, value: Value) -> str:
    """Why the value cannot be folded into what reads it."""
    if len(value.users) != 1 or graph.is_result(value):
        return f"{len(value.users) + graph.is_result(value)} users need the normalised images"
    reader, index = value.users[0]
    if not isinstance(reader.op, Conv2d) or index != 0:
        return f"{reader.label or reader.op.name} reads it, and that is no convolution"
    return ""


def _fold(graph: Graph, affine: _Affine, conv: Node) -> Node:
    op, (weight, *bias) = conv.op, conv.operands[1:]
    assert isinstance(op, Conv2d)
    equal, by_channel = bool(np.all(affine.scale == affine.scale[0])), ScaleWeights(1, op.groups)
    b = Builder(graph, before=conv)
    with b.at(union(*(node.location for node in affine.nodes)), conv.label):
        scaled, operands = weight, tuple(bias)
        if np.any(affine.scale != 1):
            scale = b.constant(affine.scale[0] if equal else affine.scale)
            scaled = b.add(Multiply() if equal else by_channel, weight, scale)
        if np.any(affine.shift):
            shift = b.add(SumWeights(), b.add(by_channel, weight, b.constant(affine.shift)))
            operands = (b.add(Add(), bias[0], shift) if bias else shift,)
    with b.at(union(*(node.location for node in (*affine.nodes, conv))), conv.label):
        made = b.add_node(op, affine.x, scaled, *operands)
    graph.replace_uses(conv.result, made.result)
    constants = [operand.producer for node in affine.nodes for operand in node.operands]
    graph.remove([conv, *affine.nodes])
    dead = {node for node in constants if node is not None and isinstance(node.op, Constant)}
    graph.remove([node for node in dead if not graph.is_live(node.result)])
    return made
