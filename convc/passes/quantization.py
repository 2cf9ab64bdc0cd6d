"""Compute products in whole numbers of 8 bits, at inference.

    %1 = conv2d(%x, %w, %b)          %q = quantize(%x) {step=…, zero=…} : q8;  %p = quantize_weights(%w) : qw8
    %2 = relu(%1)                →   %1 = conv2d(%q, %p, %b) : f32;  %2 = relu(%1);  %r = quantize(%2) : q8
    %3 = conv2d(%2, …)               %3 = conv2d(%r, …)

Convolutions and fully connected layers multiply q8 images by qw8 weights; their sums are exact, and become float32
before anything else happens to them. What a product reads is stored as q8, once for all its readers: sums of residual
blocks and average pools read it, too. Max-pools, joined channels and flattened images hand q8 on, so that all that
meets there has one step. The steps of images come from ranges that were measured (`Observe`), those of weights from the
weights.

What stays float32 says why: layers that are named, grouped convolutions, single channels and outputs, and all that is
no product.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import field
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import ClassVar

import numpy as np

from convc.ir.builder import Builder
from convc.ir.graph import Graph, Node, Value
from convc.ir.ops import AvgPool, Cast, Concat, Conv2d, Conv2dBackwardData, Flatten, Linear, MaxPool, Unflatten
from convc.ir.ops.elementwise import Elementwise
from convc.ir.ops.quantize import MOST_PRODUCTS, Quantize, QuantizeWeights
from convc.ir.types import DType, Grid
from convc.lazy import dataclass
from convc.passes.base import Pass, PassLog

# (lowest, highest) value of what a name stands for.
Ranges = Mapping[str, tuple[float, float]]
RANGE = "range:"
_PRODUCTS = (Conv2d, Linear, Conv2dBackwardData)
# Their results are among their operands' numbers, so that these stay what they are.
_HAND_ON = (MaxPool, Concat, Flatten, Unflatten)
# What may read q8 and compute with what it stands for.
_READ_WHOLE = (Elementwise, AvgPool)


def grid_of(low: float, high: float) -> Grid:
    """The 256 numbers for a range, which is widened to hold 0."""
    low, high = min(0.0, low), max(0.0, high)
    step = float(np.float32((high - low) / 255))
    if not 2.0**-100 < step < 2.0**100:
        return Grid(1.0)
    return Grid(step, round(-low / step))


class _Selection:
    """Which products of a graph are computed in whole numbers, and what they read.

    `products` are their nodes, `refused` the others with the reason. `webs` maps every value that is stored as q8 to
    the one that stands for all that have one step; `sources` are those that are float32 before.
    """

    def __init__(self, graph: Graph, fp32: tuple[str, ...], layers: Mapping[str, str]) -> None:
        self.products: list[Node] = []
        self.refused: dict[Node, str] = {}
        self._webs: dict[Value, Value] = {}
        for node in graph.nodes_of(*_PRODUCTS):
            why = _obstacle(node)
            if any(fnmatchcase(node.label, pattern) for pattern in fp32):
                why = "asked for"
            elif node.label in layers:
                why = f"`precision={layers[node.label]}` is asked for; beside int8 there is float32 only"
            if why is None:
                self.products.append(node)
                self._add(node.operands[0])
            else:
                self.refused[node] = why
        self.sources = tuple(value for value in self._webs if not self._handed_on(value))

    def __contains__(self, value: Value) -> bool:
        return value in self._webs

    def web(self, value: Value) -> Value:
        while self._webs[value] is not value:
            value = self._webs[value]
        return value

    def names(self) -> dict[Value, str]:
        """A name for each source: that of its layer, with a number where a layer has several."""
        found: dict[Value, str] = {}
        counts: dict[str, int] = {}
        for value in self.sources:
            node = value.producer
            name = (value.name or "") if node is None else node.label or node.op.name
            counts[name] = counts.get(name, 0) + 1
            found[value] = name if counts[name] == 1 else f"{name}#{counts[name]}"
        return found

    def _add(self, value: Value) -> None:
        if value in self._webs:
            return
        self._webs[value] = value
        if self._handed_on(value):
            assert value.producer is not None
            for operand in value.producer.operands:
                self._add(operand)
                self._webs[self.web(operand)] = self.web(value)

    @staticmethod
    def _handed_on(value: Value) -> bool:
        return value.producer is not None and isinstance(value.producer.op, _HAND_ON)


def _obstacle(node: Node) -> str | None:
    """Why a product stays float32."""
    x, w = node.operands[:2]
    if isinstance(node.op, Conv2dBackwardData):
        return "a transposed convolution has no kernel for whole numbers"
    if x.type.dtype is not DType.F32 or w.type.dtype is not DType.F32:
        return f"it reads {x.type.dtype.value}"
    terms = math.prod(w.shape[1:])
    if terms > MOST_PRODUCTS:
        return f"a sum of {terms:,} products may not fit 32 bits"
    if w.shape[0] == 1:
        return "a single output fills no vector"
    if isinstance(node.op, Conv2d):
        if node.op.groups > 1:
            return "the channels of a group are multiplied in float32"
        if x.shape[1] == 1:
            return "a single channel has no neighbours to be multiplied with"
        if node.op.algorithm not in ("auto", "direct"):
            return f"`{node.op.algorithm}` is asked for, and computes in float32"
        return None
    while x.producer is not None and isinstance(x.producer.op, (Flatten, Unflatten)):
        x = x.producer.operands[0]
    channels, *size = x.shape[1:]
    if channels == 1 and math.prod(size) % 4:
        return f"{math.prod(size)} features are no multiple of four"
    return None


@dataclass(frozen=True)
class Observe(Pass):
    """Makes outputs of what `quantize-products` asks ranges of: `range:NAME`. The options are those of that pass."""

    name: ClassVar[str] = "observe"
    refused: ClassVar[Mapping[str, str]] = {"train": "it is for inference only"}
    metrics: ClassVar[Mapping[str, str]] = {"observed": "values whose ranges are asked for"}
    fp32: tuple[str, ...] = ()
    layers: tuple[tuple[str, str], ...] = ()

    def run(self, graph: Graph, log: PassLog) -> None:
        names = _Selection(graph, self.fp32, dict(self.layers)).names()
        for value, name in names.items():
            graph.outputs[RANGE + name] = value
            place = value.producer or value.users[0][0]
            log.changed("range", (place,), (place,), f"{name} is to be stored as q8")
        log.metrics |= {"observed": len(names)}


@dataclass(frozen=True)
class QuantizeProducts(Pass):
    """Inserts quantisations by the rules above.

    `ranges` are those that were measured, by the names of `Observe`. Layers whose names match a pattern of `fp32`
    (shell wildcards), and those that `layers` gives that precision, stay in float32.
    """

    name: ClassVar[str] = "quantize-products"
    refused: ClassVar[Mapping[str, str]] = {"train": "it is for inference only"}
    metrics: ClassVar[Mapping[str, str]] = {
        "whole": "products in whole numbers of 8 bits",
        "single": "products in float32",
        "quantized": "tensors that are quantised",
    }
    ranges: Ranges = field(default_factory=dict[str, tuple[float, float]])
    fp32: tuple[str, ...] = ()
    layers: tuple[tuple[str, str], ...] = ()

    def alters(self, graph: Graph) -> str | None:
        return "8 bits round to 256 numbers"

    def run(self, graph: Graph, log: PassLog) -> None:
        selection = _Selection(graph, self.fp32, dict(self.layers))
        names = selection.names()
        unknown = {selection.web(value) for value, name in names.items() if name not in self.ranges}
        missing = ", ".join(name for name in names.values() if name not in self.ranges)
        grids = dict(self._grids(selection, names, unknown))
        for node, why in selection.refused.items():
            log.missed("precision", node, why)
        work = _Quantizer(graph, selection, grids, log)
        nodes: list[Node | None] = [*graph.nodes, None]
        for node, following in pairwise(nodes):
            assert node is not None
            work.visit(node, following, f"no range of {missing} was measured")
        work.results()
        log.metrics |= {
            "whole": work.products,
            "single": len(selection.refused) + len(selection.products) - work.products,
            "quantized": sum(selection.web(value) in grids for value in selection.sources),
        }

    def _grids(
        self, selection: _Selection, names: Mapping[Value, str], unknown: set[Value]
    ) -> Iterator[tuple[Value, Grid]]:
        """The grid of each web whose ranges are all known."""
        found: dict[Value, tuple[float, float]] = {}
        for value, name in names.items():
            web = selection.web(value)
            if web not in unknown:
                low, high = found.get(web, (0.0, 0.0))
                found[web] = min(low, self.ranges[name][0]), max(high, self.ranges[name][1])
        return ((web, grid_of(*found)) for web, found in found.items())


class _Quantizer:
    def __init__(self, graph: Graph, selection: _Selection, grids: Mapping[Value, Grid], log: PassLog) -> None:
        self.graph, self.selection, self.grids, self.log = graph, selection, grids, log
        self.whole: dict[Value, Value] = {}  # the q8 twin of a value, or itself where it has become q8
        self.weights: dict[tuple[Value, int], Value] = {}
        self.cast: dict[Value, Value] = {}
        self.products = 0
        for value in graph.inputs.values():
            self._quantize(value, next(iter(graph.nodes), None))

    def visit(self, node: Node, following: Node | None, unknown: str) -> None:
        """Nodes in order: what a node reads has been visited."""
        in_web = any(result in self.selection and self._grid(result) for result in node.results)
        if in_web and isinstance(node.op, _HAND_ON):
            for index, operand in enumerate(node.operands):
                self.graph.set_operand(node, index, self.whole[operand])
            self._retype(node)
            self.whole[node.result] = node.result
            return
        if node in self.selection.products:
            if self.selection.web(node.operands[0]) in self.grids:
                self._product(node)
            else:
                self.log.missed("precision", node, unknown)
        else:
            self._reads(node)
        for result in node.results:
            self._quantize(result, following)

    def _grid(self, value: Value) -> Grid | None:
        return self.grids.get(self.selection.web(value)) if value in self.selection else None

    def _quantize(self, value: Value, before: Node | None) -> None:
        """The q8 twin of a source, behind what makes it."""
        grid = self._grid(value)
        if grid is None or value not in self.selection.sources:
            return
        builder, source = Builder(self.graph, before=before), value.producer
        with builder.at(source.location if source else (), source.label if source else ""):
            self.whole[value] = builder.add(Quantize(grid.step, grid.zero), value)

    def _product(self, node: Node) -> None:
        x, w = node.operands[:2]
        whole, grid = self.whole[x], self.whole[x].type.grid
        assert grid is not None
        if (w, grid.zero) not in self.weights:
            builder = Builder(self.graph, before=node)
            with builder.at(node.location, node.label):
                self.weights[w, grid.zero] = builder.add(QuantizeWeights(grid.zero), w)
        self.graph.set_operand(node, 0, whole)
        self.graph.set_operand(node, 1, self.weights[w, grid.zero])
        self._retype(node)
        self.products += 1
        self.log.changed("precision", (node,), (node,), f"{node.op.name} of q8 from {grid.low:.4g} to {grid.high:.4g}")

    def _reads(self, node: Node) -> None:
        """What is no product of whole numbers reads q8 where it can, so that float32 need not be stored."""
        for index, operand in enumerate(node.operands):
            whole = self.whole.get(operand)
            if whole is None or isinstance(node.op, Quantize):
                continue
            if isinstance(node.op, _READ_WHOLE):
                self.graph.set_operand(node, index, whole)
            elif whole is operand:
                self.graph.set_operand(node, index, self._real(operand, node))

    def _real(self, value: Value, node: Node | None) -> Value:
        """The float32 numbers that a value stands for which has become q8, for a node (None: for the caller)."""
        if value not in self.cast:
            builder, place = Builder(self.graph, before=node), node or value.producer
            with builder.at(place.location if place else (), place.label if place else ""):
                self.cast[value] = builder.add(Cast(DType.F32.value), value)
        return self.cast[value]

    def results(self) -> None:
        """What the caller reads is float32."""
        for name, value in self.graph.outputs.items():
            if value.type.dtype.is_whole:
                self.graph.outputs[name] = self._real(value, None)

    def _retype(self, node: Node) -> None:
        for result, type in zip(node.results, node.op.result_types(*(o.type for o in node.operands)), strict=True):
            result.type = type
