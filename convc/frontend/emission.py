"""The graph under construction, and what the emitter of a layer may do with it."""

from __future__ import annotations

import math
from dataclasses import field
from typing import NoReturn, TypeVar

from convc.frontend.arguments import Bound, Report
from convc.frontend.expressions import OverBudget
from convc.frontend.hints import shape_text
from convc.frontend.kinds import InitialValue
from convc.frontend.limits import LIMITS, Limits, raised
from convc.ir.builder import Builder
from convc.ir.diagnostic import fail
from convc.ir.graph import Graph, Initializer, Node, Value
from convc.ir.op import InferError, Op
from convc.ir.span import Span
from convc.ir.types import Shape, TensorType
from convc.lazy import dataclass

T = TypeVar("T")


@dataclass(frozen=True)
class Layer:
    """One layer of an elaborated net. Shapes are those of one image: (C, H, W), or (F,) after `flatten` or `fc`.

    `input` is None for the layer `input`, `output` for a loss. `name` is the path that parameters and reports use;
    parts that share their parameters (`reuse`) appear once per use. `precision` is what the layer or a block around it
    asks for, None for that of the program.
    """

    name: str
    kind: str
    span: Span
    input: Shape | None
    output: Shape | None
    parameters: tuple[str, ...] = ()
    precision: str | None = None


@dataclass(frozen=True)
class Loss:
    """A loss and what it reads; `auxiliary` ones stand in `aux { }`."""

    value: Value
    logits: Value
    weight: float
    auxiliary: bool
    span: Span


@dataclass(frozen=True)
class Modifiers:
    """What `freeze=`, `lr=`, `decay=` and `precision=` of the layer and of the blocks around it come to."""

    frozen: bool = False
    lr: float = 1.0
    decay: float = 1.0
    precision: str | None = None

    def with_arguments(self, bound: Bound) -> Modifiers:
        values = bound.values
        return Modifiers(
            self.frozen or bool(values.get("freeze", False)),
            self.lr * _number(values.get("lr", 1.0)),
            self.decay * _number(values.get("decay", 1.0)),
            str(values["precision"]) if values.get("precision") is not None else self.precision,
        )


def _number(value: object) -> float:
    return value if isinstance(value, (int, float)) else 1.0


def _origins() -> dict[Value, tuple[Layer, Value | None]]:
    return {}


@dataclass
class Emission:
    """A forward graph being built."""

    graph: Graph
    batch: int
    limits: Limits
    layers: list[Layer] = field(default_factory=list[Layer])
    losses: list[Loss] = field(default_factory=list[Loss])
    labels: Value | None = None
    input_mean: tuple[float, ...] | None = None
    input_std: tuple[float, ...] | None = None
    parameter_elements: int = 0
    path_characters: int = 0
    # Where values come from: their layer, and what it read. And what `bn` reads, with a way to warn about it.
    producers: dict[Value, tuple[Layer, Value | None]] = field(default_factory=_origins)
    normalised: list[tuple[Value, Span, Report]] = field(default_factory=list["tuple[Value, Span, Report]"])

    def __post_init__(self) -> None:
        self.builder = _BudgetedBuilder(self.graph, self.limits)

    def check_size(self, shape: Shape, span: Span, what: str) -> None:
        """Refuse shapes (without the batch) beyond the limits, before anything of that size exists."""
        if any(extent > self.limits.extent for extent in shape):
            message = f"{what} {shape_text(shape)} has an extent beyond {self.limits.extent:,}"
            fail("budget-size", message, span, _limit("extent", self.limits))
        if math.prod(shape) > self.limits.elements:
            fail(
                "budget-size",
                f"{what} {shape_text(shape)} has {math.prod(shape):,} elements, more than {self.limits.elements:,}",
                span,
                _limit("elements", self.limits),
            )

    def add_layer(self, layer: Layer, before: Value | None, after: Value | None) -> None:
        """Enter a finished layer. Names are bounded in sum: a deep recursion makes each of them long."""
        self.path_characters += len(layer.name)
        if self.path_characters > self.limits.path_characters:
            raise OverBudget("path_characters", "the names of the layers are too long in sum", layer.span)
        self.layers.append(layer)
        if after is not None and after is not before:
            self.producers[after] = (layer, before)


class _BudgetedBuilder(Builder):
    """A builder that refuses to make a graph larger than the limit."""

    def __init__(self, graph: Graph, limits: Limits) -> None:
        super().__init__(graph)
        self.limits = limits
        self.size = 0

    def add_node(self, op: Op, *operands: Value | None) -> Node:
        self.size += 1 + len(operands)
        if self.size > self.limits.nodes:
            message = f"the graph would have more than {self.limits.nodes:,} operations and operands"
            raise OverBudget("nodes", message, self.location[0])
        return super().add_node(op, *operands)


def _limit(name: str, limits: Limits) -> str | None:
    """The hint that a limit can be changed, where it is lower than it could be."""
    most = LIMITS[name].metadata["most"]
    return raised(name) if most is None or getattr(limits, name) < most else None


@dataclass
class Site:
    """One application of a layer, as its emitter sees it."""

    emission: Emission
    title: str
    word: str
    path: str
    span: Span
    bound: Bound
    current: Value | None
    modifiers: Modifiers
    auxiliary: bool
    uses: int  # how often the same parameters have been run before
    warn: Report
    parameters: list[str] = field(default_factory=list[str])

    # Arguments

    def get(self, key: str, kind: type[T]) -> T:
        """A bound argument; signatures guarantee the type."""
        value = self.bound.values[key]
        assert isinstance(value, kind), f"{self.word} {key}={value!r}"
        return value

    def number(self, key: str) -> float:
        value = self.bound.values[key]
        assert isinstance(value, (int, float))
        return float(value)

    def place(self, *keys: str) -> Span:
        """Where the first of the arguments stands that was given, else the layer."""
        return next((self.bound.spans[key] for key in keys if key in self.bound.spans), self.span)

    # Values

    @property
    def x(self) -> Value:
        """The current value."""
        assert self.current is not None
        return self.current

    def image(self) -> Value:
        """The current value, which has to have rows and columns."""
        if self.x.type.rank != 4:
            features = self.x.shape[1]
            self.refuse(
                f"{self.title} reads images CxHxW, but the current value has {features} features, no rows and columns",
                hint=f"{self.title} stands before `flatten` and `fc`",
            )
        return self.x

    def refuse(self, message: str, *keys: str, hint: str | None = None) -> NoReturn:
        """A shape error at the first of the arguments that was given."""
        fail(f"shape-{self.word}", message, self.place(*keys), hint)

    def emit(self, op: Op, *operands: Value | None) -> Value:
        """Append an op; what it cannot take is a shape error at the layer."""
        builder = self.emission.builder
        with builder.at((self.span,), self.path):
            try:
                value = builder.add(op, *operands)
            except InferError as error:
                self.refuse(str(error))
        self.emission.check_size(value.shape[1:], self.span, f"the result of {self.title},")
        return value

    def constant(self, values: float | tuple[float, ...]) -> Value:
        """A scalar, or a vector over channels."""
        import numpy as np

        with self.emission.builder.at((self.span,), self.path):
            return self.emission.builder.constant(np.asarray(values, np.float32))

    def parameter(self, role: str, shape: Shape, initial: Initializer, *, buffer: bool = False) -> Value:
        """A parameter of this layer, or the existing one where the layer is reused."""
        name = f"{self.path}.{role}"
        graph, emission = self.emission.graph, self.emission
        self.parameters.append(name)
        existing = graph.parameters.get(name)
        if existing is not None:
            if existing.value.shape != shape:
                has = shape_text(existing.value.shape)
                self.refuse(f"the shared parameter {name} is {has}, but this use needs {shape_text(shape)}")
            return existing.value
        emission.check_size(shape, self.span, f"the parameter {name},")
        emission.parameter_elements += math.prod(shape)
        if emission.parameter_elements > emission.limits.parameter_elements:
            message = f"all parameters together have more than {emission.limits.parameter_elements:,} elements"
            fail("budget-size", message, self.span, raised("parameter_elements"))
        return graph.add_parameter(
            name,
            TensorType(self.x.type.dtype, shape),
            role=role,
            trainable=not buffer,
            frozen=self.modifiers.frozen,
            initial=initial,
            lr=self.modifiers.lr,
            decay=self.modifiers.decay,
            span=self.span,
        )

    def initializer(self, fan_in: int, fan_out: int) -> Initializer:
        """What `init=` says, with the fans of the weights."""
        initial = self.get("init", InitialValue)
        return Initializer(initial.kind, initial.value, fan_in, fan_out)
