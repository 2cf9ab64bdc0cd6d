"""Compute in numbers of 16 bits where that pays, and keep float32 where it matters.

    %1 = conv2d(%x, %w, %b)                %xh = cast(%x) {dtype="bf16"};  %wh = cast(%w) {dtype="bf16"}
    %2 = relu(%1)                     →    %1 = conv2d(%xh, %wh, %b) : bf16;  %2 = relu(%1) : bf16
    %3 = softmax_cross_entropy(%2, …)      %f = cast(%2) {dtype="f32"};  %3 = softmax_cross_entropy(%f, …)

Convolutions, transposed convolutions and fully connected layers take 16 bits and give 16 bits; their sums are float32.
Losses and soft-max take float32. Everything between follows its operands: 16 bits where one of them has 16, so that
activations are stored in half the space; what is computed on the way is float32 in registers. Scalars, vectors
per channel (biases, batch norm) and parameters stay float32, and a parameter is cast where it is used, as often as it
is updated. A value is cast once for all its readers. Gradients follow: see `vjp` of the ops; those of parameters come
out as float32 sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import ClassVar, Literal, get_args

from convc.ir.builder import Builder
from convc.ir.graph import Graph, Node, Value
from convc.ir.op import Op
from convc.ir.ops import (
    AvgPool,
    BatchNorm,
    BatchNormTraining,
    Cast,
    Concat,
    Conv2d,
    Conv2dBackwardData,
    Flatten,
    Linear,
    LocalResponseNorm,
    Maxout,
    MaxPool,
    Pad,
    Rearrange,
    ScaleMaps,
    SliceChannels,
    SpatialSum,
    SpreadMaps,
    Unflatten,
    Upsample,
)
from convc.ir.ops.elementwise import Elementwise
from convc.ir.ops.random import Draw
from convc.ir.types import DType
from convc.lazy import dataclass
from convc.passes.base import Pass, PassLog

Precision = Literal["fp32", "fp16", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
HALVES: Mapping[str, DType] = {"fp16": DType.F16, "bf16": DType.BF16}
_TYPES: Mapping[str, DType] = {"fp32": DType.F32, **HALVES}

# Products: most of the arithmetic, added up in float32.
_PRODUCTS = (Conv2d, Conv2dBackwardData, Linear)
# These compute each result from few operands, or choose among them.
_FOLLOWERS: tuple[type[Op], ...] = (
    MaxPool,
    AvgPool,
    BatchNorm,
    BatchNormTraining,
    LocalResponseNorm,
    Maxout,
    Concat,
    SliceChannels,
    Pad,
    Rearrange,
    Upsample,
    Flatten,
    Unflatten,
    ScaleMaps,
    SpatialSum,
    SpreadMaps,
)


@dataclass(frozen=True)
class HalfPrecision(Pass):
    """Insert casts by the rules above.

    `kind` is the precision of what `layers` does not name: pairs of a layer's name and its precision. Layers whose
    names match a pattern of `fp32` (shell wildcards) compute in float32, whatever else is said.
    """

    name: ClassVar[str] = "half-precision"
    metrics: ClassVar[Mapping[str, str]] = {
        "half": "operations in 16 bits",
        "single": "operations in float32",
        "casts": "tensors that are cast",
    }
    kind: Precision = "bf16"
    fp32: tuple[str, ...] = ()
    layers: tuple[tuple[str, Precision], ...] = ()

    @property
    def kinds(self) -> tuple[Precision, ...]:
        """The precisions of 16 bits that are asked for anywhere."""
        asked = {self.kind, *(kind for _, kind in self.layers)}
        return tuple(kind for kind in PRECISIONS if kind in asked and kind in HALVES)

    def alters(self, graph: Graph) -> str | None:
        return f"{' and '.join(self.kinds)} round to fewer digits" if self.kinds else None

    def run(self, graph: Graph, log: PassLog) -> None:
        caster = _Caster(graph, self, log)
        for node in list(graph.nodes):
            caster.visit(node)
        caster.results()
        log.metrics |= {"half": caster.half, "single": caster.single, "casts": len(caster.casts)}


class _Caster:
    def __init__(self, graph: Graph, asked: HalfPrecision, log: PassLog) -> None:
        self.graph, self.fp32, self.log = graph, asked.fp32, log
        self.dtype, self.layers = _TYPES[asked.kind], {name: _TYPES[kind] for name, kind in asked.layers}
        self.casts: dict[tuple[Value, DType], Value] = {}
        self.half = self.single = 0

    def visit(self, node: Node) -> None:
        wanted, why = self._wanted(node)
        if wanted is None:
            return
        for index, operand in enumerate(node.operands):
            if operand.type.dtype.is_half or (operand.type.dtype is DType.F32 and self._is_tensor(node, index)):
                self.graph.set_operand(node, index, self._cast(operand, wanted, node))
        self._retype(node)
        if wanted.is_half:
            self.half += 1
            if isinstance(node.op, _PRODUCTS):
                self.log.changed("precision", (node,), (node,), f"{node.op.name} in {wanted.value}: {why}")
        else:
            self.single += 1
            if not isinstance(node.op, Elementwise):
                self.log.missed("precision", node, why)

    def _wanted(self, node: Node) -> tuple[DType | None, str]:
        """The element type of a node's tensors, and why; None for what has none, or computes parameters."""
        if isinstance(node.op, Cast) or not any(operand.type.dtype.is_float for operand in node.operands):
            return None, ""
        halves = {operand.type.dtype for operand in node.operands if operand.type.dtype.is_half}
        own = self.layers.get(node.label)
        if any(fnmatchcase(node.label, pattern) for pattern in self.fp32):
            own = DType.F32
        product, follows = isinstance(node.op, _PRODUCTS), isinstance(node.op, (Elementwise, Draw, *_FOLLOWERS))
        if own is not None and (product or follows):
            return own, "asked for"
        if product and (self.dtype.is_half or halves):
            return self.dtype, "products are added up in f32"
        if not halves:
            return None, ""
        if follows and len(halves) == 1:
            return halves.pop(), "follows its operands"
        return DType.F32, "its operands are of both kinds" if follows else f"{node.op.name} needs the digits"

    def _is_tensor(self, node: Node, index: int) -> bool:
        """Whether an operand is one of those that set the element type: no bias, statistic or scalar."""
        if isinstance(node.op, _PRODUCTS):
            return index < 2
        if isinstance(node.op, Concat):
            return True
        return index == 0 or node.operands[index].type.rank == max(o.type.rank for o in node.operands) > 1

    def _cast(self, value: Value, dtype: DType, node: Node | None) -> Value:
        """The value in an element type, made before `node` (None: at the end) unless an earlier reader has asked."""
        if value.type.dtype is dtype:
            return value
        source = value.producer
        if source is not None and isinstance(source.op, Cast) and source.operands[0].type.dtype is dtype:
            return source.operands[0]  # back to where it came from, without what the cast dropped
        key = value, dtype
        if key not in self.casts:
            builder, place = Builder(self.graph, before=node), node or source
            with builder.at(place.location if place else (), place.label if place else ""):
                self.casts[key] = builder.add(Cast(dtype.value), value)
        return self.casts[key]

    def _retype(self, node: Node) -> None:
        for result, type in zip(node.results, node.op.result_types(*(o.type for o in node.operands)), strict=True):
            result.type = type

    def results(self) -> None:
        """What the caller reads, and what outlives a step, is float32."""
        for table in (self.graph.outputs, self.graph.updates):
            for name, value in table.items():
                if value.type.dtype.is_half:
                    table[name] = self._cast(value, DType.F32, None)
