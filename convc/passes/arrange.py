"""Give every value a layout, and insert `relayout` where a kernel needs another one than its operand has.

    %1 = flatten(%0)                     %1 = flatten(%0)          (a view: the features stay in NHWC order)
    %2 = softmax(%1)              →      %r = relayout(%1)
                                         %2 = softmax(%r)

Images are NHWC inside; the input arrives as NCHW and is rearranged first unless it has a single channel. Weights are
packed in the order in which their layer's kernel reads them; gradients and optimiser states lie like their parameter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from convc.ir.builder import Builder
from convc.ir.graph import Graph, Node, Value
from convc.ir.op import Op
from convc.ir.ops import (
    Conv2d,
    Conv2dBackwardData,
    Conv2dBackwardWeights,
    Flatten,
    Linear,
    LinearBackwardData,
    LinearBackwardWeights,
    Relayout,
    Unflatten,
)
from convc.ir.ops.update import Update
from convc.ir.types import DType
from convc.passes.base import Pass, PassLog
from convc.passes.fusion import is_elementwise
from convc.passes.layout import ImageLayout, Layout, PlanarLayout, ScalarLayout, VectorLayout, WeightLayout, padded
from convc.passes.machine import Machine
from convc.passes.tiling import choose_tile
from convc.passes.training import GRADIENT

Layouts = dict[Value, Layout]
# Ops that read a flattened image in any order of its features, as long as their weights are packed alike.
_ORDER_FREE: tuple[type[Op], ...] = (Linear, LinearBackwardData, LinearBackwardWeights, Flatten, Relayout)


def natural(value: Value, batched: bool) -> Layout:
    """The layout that a value has when nothing asks for another."""
    shape = value.shape[1:] if batched else value.shape
    if not shape:
        return ScalarLayout()
    return ImageLayout.of(shape) if batched or len(shape) == 3 else VectorLayout(shape[0])


def pixels_collapse(op: Conv2d | Conv2dBackwardData | Conv2dBackwardWeights, kernel: tuple[int, ...]) -> bool:
    """Whether a convolution looks at each pixel alone, so that an image is one long row."""
    return kernel == (1, 1) and op.stride == (1, 1) and op.padding == (0, 0, 0, 0)


@dataclass(frozen=True)
class Arrange(Pass):
    """Fills `layouts` (value -> layout) for the machine; changes the graph only by `relayout` nodes."""

    name: ClassVar[str] = "arrange"
    machine: Machine
    layouts: Layouts = field(default_factory=dict)

    def run(self, graph: Graph, log: PassLog) -> None:
        batched = graph.batched()
        for value in graph.inputs.values():
            self.layouts[value] = self._input(value)
        for parameter in graph.parameters.values():
            value = parameter.value
            if value.type.rank < 2:
                self.layouts[value] = VectorLayout(value.shape[0]) if value.shape else ScalarLayout()
        for node in list(graph.nodes):
            for index, operand in enumerate(node.operands):
                if operand in batched and self._wants_natural(node, index, operand):
                    batched.add(self._insert(graph, node, index, log))
            self._weights(node)
            for result in node.results:
                self.layouts[result] = self._result(node, result, result in batched)
        self._like_parameters(graph)

    def _input(self, value: Value) -> Layout:
        if not value.shape:
            return ScalarLayout()
        row = value.shape[1:] or (1,)
        if len(row) not in (1, 3):
            return PlanarLayout(math.prod(row))
        image = ImageLayout.of(row)
        return image if image.stored == 1 else PlanarLayout(*row)

    def _wants_natural(self, node: Node, index: int, operand: Value) -> bool:
        layout = self.layouts[operand]
        if operand.type.dtype is DType.I32 or layout == natural(operand, True):
            return False  # labels are read in the order of the interface
        if isinstance(layout, PlanarLayout):
            return not isinstance(node.op, Relayout)
        if isinstance(node.op, Unflatten):
            return layout != ImageLayout.of(node.op.shape)
        if is_elementwise(node):
            # Equal orders stay as they are; mixed ones meet in the natural order.
            rows = {self.layouts[o] for o in node.operands if o.shape == operand.shape}
            vectors = any(o.type.rank == 1 for o in node.operands)
            return len(rows) > 1 or vectors
        return not isinstance(node.op, _ORDER_FREE)

    def _insert(self, graph: Graph, node: Node, index: int, log: PassLog) -> Value:
        operand = node.operands[index]
        builder = Builder(graph, before=node)
        with builder.at(node.location, node.label):
            value = builder.add(Relayout(), operand)
        self.layouts[value] = natural(value, True)
        # Later readers of the same value find the natural order, too.
        graph.replace_uses(
            operand, value, only=lambda user: user is not value.producer and not isinstance(user.op, Flatten)
        )
        log.changed(
            "relayout",
            (node,),
            (),
            f"{node.op.name} reads {self.layouts[value]}, its operand is {self.layouts[operand]}",
        )
        return value

    def _weights(self, node: Node) -> None:
        """Weights take the layout that their first reader wants."""
        if isinstance(node.op, (Conv2d, Conv2dBackwardData)):
            w = node.operands[1]
            images = node.result if isinstance(node.op, Conv2d) else node.operands[0]
            self.layouts.setdefault(w, self._filters(node.op, w.shape, images))
        elif isinstance(node.op, (Linear, LinearBackwardData)):
            x, w = node.operands[:2]
            rows = self.layouts[x] if isinstance(node.op, Linear) else ImageLayout.of(w.shape[1:])
            self.layouts.setdefault(w, self._matrix(w.shape[0], rows, x.shape[0]))

    def _filters(
        self, op: Conv2d | Conv2dBackwardData | Conv2dBackwardWeights, shape: tuple[int, ...], images: Value
    ) -> WeightLayout:
        """Filters (K, C/groups, R, S); `images` is what the forward convolution gives."""
        k, c, r, s = shape
        width = images.shape[2] * images.shape[3] if pixels_collapse(op, (r, s)) else images.shape[3]
        own = k // op.groups
        block = choose_tile(self.machine, width, own).block
        return WeightLayout(k, ImageLayout(c, r, s, c), min(block, padded(own)), op.groups)

    def _matrix(self, outputs: int, rows: Layout, images: int) -> WeightLayout:
        assert isinstance(rows, ImageLayout)
        block = choose_tile(self.machine, images, outputs).block
        return WeightLayout(outputs, rows, min(block, padded(outputs)))

    def _result(self, node: Node, result: Value, batched: bool) -> Layout:
        op = node.op
        if isinstance(op, Flatten):
            return self.layouts[node.operands[0]]
        if isinstance(op, Conv2dBackwardWeights):
            return self._filters(op, result.shape, node.operands[1])
        if isinstance(op, LinearBackwardWeights):
            x = node.operands[0]
            return self._matrix(result.shape[0], self.layouts[x], x.shape[0])
        if isinstance(op, LinearBackwardData):
            weights = self.layouts[node.operands[1]]
            assert isinstance(weights, WeightLayout)
            return weights.rows
        if isinstance(op, Update):
            return (
                self.layouts.get(node.operands[0], natural(result, batched))
                if result.type.rank > 1
                else natural(result, False)
            )
        if is_elementwise(node):
            same = [self.layouts[o] for o in node.operands if o.shape == result.shape and o in self.layouts]
            if same:
                return same[0]
        return natural(result, batched) if result.type.rank < 2 or batched else PlanarLayout(result.type.size)

    def _like_parameters(self, graph: Graph) -> None:
        """Gradients, updates and states of weights take the layout of their parameter."""
        for name, parameter in graph.parameters.items():
            value = parameter.value
            if value.type.rank < 2:
                continue
            layout = self.layouts.setdefault(value, PlanarLayout(value.type.size))
            for update, _ in value.users:
                if isinstance(update.op, Update) and update.operands[0] is value:
                    for related in (*update.operands[2:-2], *update.results):
                        self.layouts[related] = layout
            gradient = graph.outputs.get(GRADIENT + name)
            pending = [gradient] if gradient is not None else []
            while pending:
                related = pending.pop()
                self.layouts[related] = layout
                if related.producer is not None and is_elementwise(related.producer):
                    pending += [o for o in related.producer.operands if o.shape == related.shape]
