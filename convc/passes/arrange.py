"""Give every value a layout, and insert `relayout` where a kernel needs another one than its operand has.

    %1 = flatten(%0)                     %1 = flatten(%0)          (a view: the features stay in NHWC order)
    %2 = softmax(%1)              →      %r = relayout(%1)
                                         %2 = softmax(%r)

Images are NHWC inside; the input arrives as NCHW and is rearranged first unless it has a single channel. Weights are
packed in the order in which their layer's kernel reads them; gradients and optimiser states lie like their parameter.

Fully connected layers and element-wise ops read a flattened image as it lies. Who cannot reads its natural twin, made
once, before the first reader. Booleans are never stored, so a twin of one is made from the twins of what it compares.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from convc.ir.builder import Builder
from convc.ir.graph import Graph, Node, Value
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
from convc.ir.ops.dropconnect import DropConnectTraining
from convc.ir.ops.sweep import Accumulate, MaxNorm, Sweep
from convc.ir.ops.update import Update
from convc.ir.printer import value_names
from convc.ir.types import DType
from convc.passes.base import PassLog, PlanPass
from convc.passes.fusion import is_boolean, is_elementwise, resolve
from convc.passes.layout import ImageLayout, Layout, PlanarLayout, ScalarLayout, VectorLayout, WeightLayout, padded
from convc.passes.tiling import choose_tile
from convc.passes.training import GRADIENT

if TYPE_CHECKING:
    from convc.passes.plan import Plan

_VIEWS = (Flatten, Unflatten)


def natural(value: Value, batched: bool) -> Layout:
    """The layout that a value has when nothing asks for another."""
    shape = value.shape[1:] if batched else value.shape
    if not shape:
        return ScalarLayout()
    return ImageLayout.of(shape) if batched or len(shape) == 3 else VectorLayout(shape[0])


def pixels_collapse(op: Conv2d | Conv2dBackwardData | Conv2dBackwardWeights, kernel: tuple[int, ...]) -> bool:
    """Whether a convolution looks at each pixel alone, so that an image is one long row."""
    return kernel == (1, 1) and op.stride == (1, 1) and op.padding == (0, 0, 0, 0)


def _parameters_of_gradients(graph: Graph) -> dict[Value, Value]:
    """The weights that each gradient belongs to, and each of the parts that several uses of a weight add up to."""
    found: dict[Value, Value] = {}
    for name, parameter in graph.parameters.items():
        gradient = graph.outputs.get(GRADIENT + name)
        pending = [gradient] if gradient is not None and parameter.value.type.rank > 1 else []
        while pending:
            related = pending.pop()
            found[related] = parameter.value
            masked = related.producer is not None and isinstance(related.producer.op, DropConnectTraining)
            if related.producer is not None and (masked or is_elementwise(related.producer)):
                pending += [o for o in related.producer.operands if o.shape == related.shape]
    return found


def _padding(value: Value, layout: Layout) -> int:
    """Channels that are stored beyond those that there are; element-wise results lie like what they are made of."""
    like_another = value.producer is not None and (is_elementwise(value.producer) or resolve(value) is not value)
    return 0 if like_another or not isinstance(layout, ImageLayout) else layout.stored - layout.channels


def _source(weights: Value) -> Value:
    """The weights as they are, where some are left out."""
    producer = weights.producer
    return producer.operands[0] if producer and isinstance(producer.op, DropConnectTraining) else weights


def _readers(weights: Value) -> list[Node]:
    """The nodes that read weights, whole or with some left out."""
    found = [user for user, _ in _source(weights).users]
    return found + [
        reader for user in found if isinstance(user.op, DropConnectTraining) for reader, _ in user.result.users
    ]


def _related(update: Node, op: Update) -> list[Value]:
    """What lies like the parameter of an update: states and results, the mean gradient, the bounded weights."""
    found = [*update.operands[2 : op.tensors], *update.results]
    mean = update.operands[1].producer
    if mean is not None and isinstance(mean.op, Accumulate):
        found += [mean.operands[0], mean.result]
    return found + [user.result for user, _ in update.results[0].users if isinstance(user.op, MaxNorm)]


@dataclass(frozen=True)
class Arrange(PlanPass):
    """Fills in the plan's layouts; changes the graph only by `relayout` nodes."""

    name: ClassVar[str] = "arrange"
    rewrites: ClassVar[bool] = True

    def run(self, plan: Plan, log: PassLog) -> None:
        _Arranger(plan, log).run()
        log.metrics |= {
            "relayouts": len(log.of("changed")),
            "padding_channels": sum(_padding(value, plan.layouts[value]) for value in plan.batched),
        }

    def show(self, plan: Plan) -> str:
        names = value_names(plan.graph)
        return "".join(f"layout {name}: {plan.layouts[value]}\n" for value, name in names.items())


class _Arranger:
    """The work of one run: `twins` are the natural twins by value, `parameters` the parameter that a gradient, or a
    part of one, belongs to."""

    def __init__(self, plan: Plan, log: PassLog) -> None:
        self.machine, self.graph, self.log, self.layouts = plan.machine, plan.graph, log, plan.layouts
        self.batched = plan.batched
        self.batched |= self.graph.batched()
        self.twins: dict[Value, Value] = {}
        self.parameters = _parameters_of_gradients(self.graph)

    def run(self) -> None:
        for value in self.graph.inputs.values():
            self.layouts[value] = self._input(value)
        for parameter in self.graph.parameters.values():
            value = parameter.value
            if value.type.rank < 2:
                self.layouts[value] = VectorLayout(value.shape[0]) if value.shape else ScalarLayout()
        for node in list(self.graph.nodes):
            for index, operand in enumerate(node.operands):
                if operand in self.batched and self._wants_natural(node, index, operand):
                    self.graph.set_operand(node, index, self._twin(operand, node))
            self._weights(node)
            for result in node.results:
                if not self._awaits_reader(node):
                    self.layouts[result] = self._result(node, result)
        self._like_parameters()

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
        if isinstance(node.op, (*_VIEWS, Relayout)) or operand.type.dtype is DType.I32:
            return False  # views share their operand's memory; labels are read in the order of the interface
        if layout == natural(operand, True):
            return False
        if isinstance(layout, PlanarLayout):
            return True
        if is_elementwise(node):
            # Equal orders stay as they are; mixed ones meet in the natural order.
            rows = {self.layouts[o] for o in node.operands if o.shape == operand.shape}
            vectors = any(o.type.rank == 1 for o in node.operands)
            return len(rows) > 1 or vectors
        if isinstance(node.op, Linear):
            # Weights fit one order of features: those of several layers, which may differ, fit the natural one.
            return sum(isinstance(user.op, Linear) for user in _readers(node.operands[1])) > 1
        if isinstance(node.op, LinearBackwardWeights) and index == 0:
            weights = self.layouts.get(self.parameters.get(node.result, node.result))
            return isinstance(weights, WeightLayout) and weights.rows != layout
        return True

    def _twin(self, value: Value, node: Node) -> Value:
        """The same tensor in the natural order, made before `node` unless an earlier reader has asked for it."""
        if value in self.twins:
            return self.twins[value]
        builder, source = Builder(self.graph, before=node), value.producer
        with builder.at(node.location, node.label):
            if source is not None and is_boolean(source):
                twin = builder.add(source.op, *(self._natural_operand(o, node) for o in source.operands))
            else:
                twin = builder.add(Relayout(), value)
        self.twins[value] = twin
        self.layouts[twin] = natural(value, True)
        self.batched.add(twin)
        why = f"{node.op.name} reads {self.layouts[twin]}, its operand is {self.layouts[value]}"
        assert twin.producer is not None
        self.log.changed("relayout", (node,), (twin.producer,), why)
        return twin

    def _natural_operand(self, operand: Value, node: Node) -> Value:
        arranged = operand not in self.batched or self.layouts[operand] == natural(operand, True)
        return operand if arranged else self._twin(operand, node)

    @staticmethod
    def _awaits_reader(node: Node) -> bool:
        """Whether weights, some left out, get their layout when they are read: that of the weights themselves."""
        return isinstance(node.op, DropConnectTraining) and any(isinstance(u.op, Linear) for u, _ in node.result.users)

    def _weights(self, node: Node) -> None:
        """Weights take the layout that their first reader wants."""
        if isinstance(node.op, (Conv2d, Conv2dBackwardData)):
            w = node.operands[1]
            images = node.result if isinstance(node.op, Conv2d) else node.operands[0]
            self.layouts.setdefault(w, self._filters(node.op, w.shape, images))
        elif isinstance(node.op, (Linear, LinearBackwardData)):
            x, w = node.operands[:2]
            rows = self.layouts[x] if isinstance(node.op, Linear) else ImageLayout.of(w.shape[1:])
            source = _source(w)
            self.layouts.setdefault(source, self._matrix(w.shape[0], rows, x.shape[0]))
            self.layouts[w] = self.layouts[source]

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

    def _result(self, node: Node, result: Value) -> Layout:
        op, batched = node.op, result in self.batched
        if isinstance(op, _VIEWS):
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
        if isinstance(op, DropConnectTraining):
            like = self.parameters.get(result, node.operands[0])
            return self.layouts.get(like, PlanarLayout(result.type.size))
        if isinstance(op, (Sweep, MaxNorm)):
            if result.type.rank < 2:
                return natural(result, False)
            return self.layouts.get(node.operands[0], PlanarLayout(result.type.size))
        if is_elementwise(node):
            same = [self.layouts[o] for o in node.operands if o.shape == result.shape and o in self.layouts]
            if same:
                return same[0]
        return natural(result, batched) if result.type.rank < 2 or batched else PlanarLayout(result.type.size)

    def _like_parameters(self) -> None:
        """Gradients, updates and states of weights take the layout of their parameter."""
        for parameter in self.graph.parameters.values():
            value = parameter.value
            if value.type.rank < 2:
                continue
            layout = self.layouts.setdefault(value, PlanarLayout(value.type.size))
            for update, _ in value.users:
                if isinstance(update.op, Update) and update.operands[0] is value:
                    for related in _related(update, update.op):
                        self.layouts[related] = layout
        for related, value in self.parameters.items():
            self.layouts[related] = self.layouts[value]
