"""Give every value a layout, and insert `relayout` where a kernel needs another one than its operand has.

    %1 = flatten(%0)                     %1 = flatten(%0)          (a view: the features stay in NHWC order)
    %2 = softmax(%1)              →      %r = relayout(%1)
                                         %2 = softmax(%r)

Images are NHWC inside; the input arrives as NCHW and is rearranged first, unless it has a single channel or all that
reads it are convolutions that can take it as it is. Weights are packed in the order in which their layer's kernel reads
them; gradients, optimiser states and weights computed from them lie like their parameter.

Filters that no run changes are transformed once, for convolutions that would transform them in every run.

Fully connected layers and element-wise ops read a flattened image as it lies. Who cannot reads its natural twin, made
once, before the first reader. Booleans are never stored, so a twin of one is made from the twins of what it compares.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from convc.ir.builder import Builder
from convc.ir.diagnostic import fail
from convc.ir.graph import Graph, Node, Value
from convc.ir.ops import (
    Concat,
    Constant,
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
from convc.ir.ops.cast import Cast
from convc.ir.ops.quantize import QuantizeWeights
from convc.ir.ops.sweep import MaxNorm
from convc.ir.ops.units import ScaleWeights, SumWeights
from convc.ir.printer import value_names
from convc.ir.types import DType
from convc.lazy import dataclass
from convc.passes.algorithms.direct import multiplies_pairs
from convc.passes.algorithms.patches import multiplies_tiles
from convc.passes.algorithms.problem import CONVOLUTIONS, Problem
from convc.passes.base import PassLog, PlanPass
from convc.passes.fusion import is_boolean, is_elementwise, resolve
from convc.passes.group_lanes import fits_lanes, lane_filters
from convc.passes.layout import ImageLayout, Layout, PlanarLayout, ScalarLayout, VectorLayout, WeightLayout, padded
from convc.passes.quantized_layout import QuantizedLayout
from convc.passes.sections import fixed_values
from convc.passes.tiling import choose_tile
from convc.passes.transformed_layout import TransformedLayout
from convc.passes.weight_families import Families

if TYPE_CHECKING:
    from convc.passes.plan import Plan

_VIEWS = (Flatten, Unflatten)


def natural(value: Value, batched: bool, multiple: int) -> Layout:
    """The layout that a value has when nothing asks for another; channels are padded to a multiple."""
    shape = value.shape[1:] if batched else value.shape
    if not shape:
        return ScalarLayout()
    return ImageLayout.of(shape, multiple) if batched or len(shape) == 3 else VectorLayout(shape[0], multiple)


def pixels_collapse(op: Conv2d | Conv2dBackwardData | Conv2dBackwardWeights, kernel: tuple[int, ...]) -> bool:
    """Whether a convolution looks at each pixel alone, so that an image is one long row."""
    return kernel == (1, 1) and op.stride == (1, 1) and op.padding == (0, 0, 0, 0)


def _constant_rows(graph: Graph, batched: set[Value]) -> set[Value]:
    """Constants that have rows, because they meet what has: a graph that holds them serves its own batch only."""
    found: set[Value] = set()
    for node in graph.nodes:
        if not (is_elementwise(node) or isinstance(node.op, Concat)) or batched.isdisjoint(node.operands):
            continue
        for operand in node.operands:
            if operand in batched or operand.type.rank < 2:
                continue
            if operand.producer is None or not isinstance(operand.producer.op, Constant):
                message = f"{node.op.name} of {node.label or graph.name} reads {operand.type} without a batch"
                fail("verify-graph", message, node.span)
            found.add(operand)
    return found


def _is_direct(node: Node) -> bool:
    return isinstance(node.op, CONVOLUTIONS) and node.op.algorithm in ("auto", "direct")


def _holds_groups_together(node: Node) -> bool:
    """Whether a kernel needs the filters of each group in one piece."""
    if isinstance(node.op, (ScaleWeights, SumWeights, MaxNorm)):
        return node.op.axis == 1
    return isinstance(node.op, CONVOLUTIONS) and not _is_direct(node)


def _padding(value: Value, layout: Layout) -> int:
    """Channels that are stored beyond those that there are; element-wise results lie like what they are made of."""
    like_another = value.producer is not None and (is_elementwise(value.producer) or resolve(value) is not value)
    return 0 if like_another or not isinstance(layout, ImageLayout) else layout.stored - layout.channels


@dataclass(frozen=True)
class Arrange(PlanPass):
    """Fills in the plan's layouts; changes the graph only by `relayout` nodes."""

    name: ClassVar[str] = "arrange"
    metrics: ClassVar[Mapping[str, str]] = {
        "relayouts": "tensors that are rearranged",
        "padding_channels": "channels that are stored as zeros, so that vectors need no masks",
    }
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
    """The work of one run: `twins` are the natural twins by value, `chosen` the layouts of families of weights, `fixed`
    what no run changes, `transformed` the filters that are transformed ahead, `paired` the
    weights that lie in pairs of rows, `quantized` the layouts of those of 8 bits, `apart` the families of filters whose
    groups lie apart."""

    def __init__(self, plan: Plan, log: PassLog) -> None:
        self.machine, self.graph, self.log, self.layouts = plan.machine, plan.graph, log, plan.layouts
        self.batched = plan.batched
        self.batched |= self.graph.batched()
        self.batched |= _constant_rows(self.graph, self.batched)
        self.twins: dict[Value, Value] = {}
        self.families = Families(self.graph, self.batched)
        self.chosen: dict[Value, WeightLayout] = {}
        self.fixed = fixed_values(self.graph)
        self.transformed: dict[tuple[Value, TransformedLayout], Value] = {}
        self.paired: dict[Value, Value] = {}
        self.quantized: dict[Value, QuantizedLayout] = {}
        self.apart = {
            self.families.of(value)
            for node in self.graph.nodes
            if _holds_groups_together(node)
            for value in (*node.operands, *node.results)
            if value in self.families
        }
        self.linear_readers = Counter(self._family(node.operands[1]) for node in self.graph.nodes_of(Linear))

    def run(self) -> None:
        for value in self.graph.inputs.values():
            self.layouts[value] = self._input(value)
        for parameter in self.graph.parameters.values():
            value = parameter.value
            if value.type.rank < 2:
                self.layouts[value] = self._natural(value, False)
        for node in list(self.graph.nodes):
            for index, operand in enumerate(node.operands):
                if operand in self.batched and self._wants_natural(node, index, operand):
                    self.graph.set_operand(node, index, self._twin(operand, node))
            self._weights(node)
            if isinstance(node.op, (Conv2d, Linear)) and node.operands[1].type.dtype is DType.QW8:
                self._quantized_weights(node)
            elif not self.machine.cuda:  # whose kernels read filters as they are
                self._rearranged_weights(node)
            for result in node.results:
                if result not in self.families:
                    self.layouts[result] = self._result(node, result)
        for value in self.families:
            self.layouts[value] = (
                self.quantized.get(value) or self._family_layout(value) or PlanarLayout(value.type.size)
            )

    def _natural(self, value: Value, batched: bool = True) -> Layout:
        return natural(value, batched, self.machine.channels)

    def _input(self, value: Value) -> Layout:
        if not value.shape:
            return ScalarLayout()
        row = value.shape[1:] or (1,)
        if len(row) not in (1, 3):
            return PlanarLayout(math.prod(row))
        image = ImageLayout.of(row, self.machine.channels)
        return image if image.stored == 1 else PlanarLayout(*row)

    def _wants_natural(self, node: Node, index: int, operand: Value) -> bool:
        layout = self.layouts[operand]
        if isinstance(node.op, (*_VIEWS, Relayout)) or operand.type.dtype is DType.I32:
            return False  # views share their operand's memory; labels are read in the order of the interface
        if layout == self._natural(operand):
            return False
        if isinstance(layout, PlanarLayout):
            return not all(self._reads_planes(user, position) for user, position in operand.users)
        if is_elementwise(node):
            # Equal orders stay as they are; mixed ones meet in the natural order.
            rows = {self.layouts[o] for o in node.operands if o.shape == operand.shape}
            vectors = any(o.type.rank == 1 for o in node.operands)
            return len(rows) > 1 or vectors
        if isinstance(node.op, Linear):
            # Weights fit one order of features: those of several layers, which may differ, fit the natural one.
            return self.linear_readers[self._family(node.operands[1])] > 1
        if isinstance(node.op, LinearBackwardWeights) and index == 0:
            weights = self._family_layout(node.result)
            return isinstance(weights, WeightLayout) and weights.rows != layout
        return True

    def _reads_planes(self, node: Node, index: int) -> bool:
        """Whether a kernel reads images channel by channel, as they are given, as well as pixel by pixel."""
        planes = isinstance(node.op, Conv2d) and _is_direct(node) and index == 0 and not self.machine.cuda
        return planes and not self._spans_groups(node)

    def _spans_groups(self, node: Node) -> bool:
        """Whether the vectors of a convolution span groups."""
        assert isinstance(node.op, CONVOLUTIONS)
        w = node.result if isinstance(node.op, Conv2dBackwardWeights) else node.operands[1]
        outputs, channels = w.shape[:2]
        together = w in self.families and self.families.of(w) not in self.apart and not self.machine.cuda
        return together and fits_lanes(self.machine, node.op.groups, channels, outputs // node.op.groups)

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
        self.layouts[twin] = self._natural(value)
        self.batched.add(twin)
        why = f"{node.op.name} reads {self.layouts[twin]}, its operand is {self.layouts[value]}"
        assert twin.producer is not None
        self.log.changed("relayout", (node,), (twin.producer,), why)
        return twin

    def _natural_operand(self, operand: Value, node: Node) -> Value:
        arranged = operand not in self.batched or self.layouts[operand] == self._natural(operand)
        return operand if arranged else self._twin(operand, node)

    def _weights(self, node: Node) -> None:
        """A family of weights takes the layout that the first reader of any of them wants."""
        if isinstance(node.op, CONVOLUTIONS):
            w = node.result if isinstance(node.op, Conv2dBackwardWeights) else node.operands[1]
            self._choose(w, self._filters(node, w.shape))
        elif isinstance(node.op, (Linear, LinearBackwardData)):
            x, w = node.operands[:2]
            rows = (
                self.layouts[x] if isinstance(node.op, Linear) else ImageLayout.of(w.shape[1:], self.machine.channels)
            )
            self._choose(w, self._matrix(w.shape[0], rows, x.shape[0]))
        elif isinstance(node.op, LinearBackwardWeights):
            x = node.operands[0]
            self._choose(node.result, self._matrix(node.result.shape[0], self.layouts[x], x.shape[0]))

    def _choose(self, weights: Value, layout: WeightLayout) -> None:
        self.chosen.setdefault(self._family(weights), layout)

    def _family(self, weights: Value) -> Value:
        """The family of weights; of those of 8 bits that of what they are made of."""
        made = weights.producer
        return self.families.of(
            made.operands[0] if made is not None and isinstance(made.op, QuantizeWeights) else weights
        )

    def _quantized_weights(self, node: Node) -> None:
        """How the weights of 8 bits lie that a product reads."""
        w = node.operands[1]
        layout = self._family_layout(w)
        assert isinstance(layout, WeightLayout)
        assert w.producer is not None
        assert isinstance(w.producer.op, QuantizeWeights), "whole numbers are made of float32 weights"
        parts = (layout.rows.pixels if w.type.rank == 4 else 1) if w.producer.op.zero else 0
        self.quantized[w] = QuantizedLayout(layout, parts)

    def _rearranged_weights(self, node: Node) -> None:
        """Let a product read weights in another order than that of their family, where its kernel wants one."""
        if self._multiplies_pairs(node):
            self._pair_rows(node)
        elif isinstance(node.op, Conv2d):
            self._prepare_filters(node)

    def _prepare_filters(self, node: Node) -> None:
        """Let a convolution read transformed filters, if its algorithm transforms them and no run changes them."""
        assert isinstance(node.op, Conv2d)
        w = node.operands[1]
        filters = self._family_layout(w)
        if w not in self.fixed or not isinstance(filters, WeightLayout):
            return
        layout = TransformedLayout.of(node.op.algorithm, Problem.of(node, self.fixed), filters, self.machine)
        if layout is None:
            return
        if (w, layout) not in self.transformed:
            builder = Builder(self.graph, before=node)
            with builder.at(node.location, node.label):
                twin = self.transformed[w, layout] = builder.add(Relayout(), w)
            self.layouts[twin] = layout
            assert twin.producer is not None
            why = f"no run changes the filters, and {layout.algorithm} transforms them"
            self.log.changed("prepare", (node,), (twin.producer,), why)
        self.graph.set_operand(node, 1, self.transformed[w, layout])

    def _multiplies_pairs(self, node: Node) -> bool:
        """Whether a kernel adds up products of bfloat16 numbers, of neighbouring channels, in pairs or in tiles."""
        if not isinstance(node.op, CONVOLUTIONS):
            return False
        images, other = node.operands[:2]
        if images.type.dtype is not other.type.dtype or not isinstance(self.layouts[images], ImageLayout):
            return False
        if node.op.algorithm == "im2col":
            return multiplies_tiles(Problem.of(node), self.machine)
        return _is_direct(node) and multiplies_pairs(Problem.of(node), self.machine)

    def _pair_rows(self, node: Node) -> None:
        """Let a product read weights whose rows lie in pairs; where they are cast, that is how the cast writes them."""
        w = node.operands[1]
        filters = self._family_layout(w)
        if not isinstance(filters, WeightLayout):
            return
        if w not in self.paired:
            builder, source = Builder(self.graph, before=node), w.producer
            casts = source is not None and isinstance(source.op, Cast) and source.operands[0] in self.families
            with builder.at(node.location, node.label):
                made = twin = builder.add(Relayout(), source.operands[0] if source is not None and casts else w)
                if source is not None and casts:
                    twin = builder.add(source.op, made)
            self.paired[w] = twin
            self.layouts[made] = self.layouts[twin] = filters.in_pairs()
            assert made.producer is not None
            why = "products of bf16 are added up two by two" if _is_direct(node) else "tiles of bf16 are multiplied"
            self.log.changed("pairs", (node,), (made.producer,), why)
        self.graph.set_operand(node, 1, self.paired[w])

    def _family_layout(self, weights: Value) -> Layout | None:
        return self.chosen.get(self._family(weights))

    def _filters(self, node: Node, shape: tuple[int, ...]) -> WeightLayout:
        """Filters (K, C/groups, R, S)."""
        op, (k, c, r, s) = node.op, shape
        assert isinstance(op, CONVOLUTIONS)
        if self.machine.cuda:
            stored = padded(c, self.machine.channels) if op.groups == 1 else c
            return WeightLayout(k, ImageLayout(c, r, s, stored), 1, op.groups)
        if self._spans_groups(node):
            return lane_filters(self.machine, k, c, (r, s))
        images = (
            node.result if isinstance(op, Conv2d) else node.operands[0 if isinstance(op, Conv2dBackwardData) else 1]
        )
        width = images.shape[2] * images.shape[3] if pixels_collapse(op, (r, s)) else images.shape[3]
        own = k // op.groups
        block = choose_tile(self.machine, width, own).block
        return WeightLayout(k, ImageLayout(c, r, s, c), min(block, padded(own)), op.groups)

    def _matrix(self, outputs: int, rows: Layout, images: int) -> WeightLayout:
        assert isinstance(rows, ImageLayout)
        block = 1 if self.machine.cuda else choose_tile(self.machine, images, outputs).block
        return WeightLayout(outputs, rows, min(block, padded(outputs)))

    def _result(self, node: Node, result: Value) -> Layout:
        op, batched = node.op, result in self.batched
        if isinstance(op, _VIEWS):
            return self.layouts[node.operands[0]]
        if isinstance(op, LinearBackwardData):
            weights = self._family_layout(node.operands[1])
            assert isinstance(weights, WeightLayout)
            return weights.rows
        if is_elementwise(node):
            same = [self.layouts[o] for o in node.operands if o.shape == result.shape and o in self.layouts]
            if same:
                return same[0]
        return self._natural(result, batched)
