"""What a convolution with a large kernel costs beside what could stand in its place: stacks of 3x3 and the like.

    conv 64 k=7 pad=3        49·C² weights, sees 7x7
    conv 64 k=3 pad=1 -> relu -> conv 64 k=3 pad=1 -> relu -> conv 64 k=3 pad=1
                             27·C² weights, sees 7x7, two more non-linearities

Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition" (2015), section 2.3;
Szegedy et al., "Rethinking the Inception architecture for computer vision" (2016), section 3; He et al., "Deep residual
learning for image recognition" (2016), figure 5 for the bottleneck.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from convc.ir.graph import Graph
from convc.ir.ops.activation import Relu
from convc.ir.ops.conv import Conv2d
from convc.ir.span import Span
from convc.ir.window import Pair
from convc.lazy import dataclass
from convc.passes.base import Mode
from convc.passes.receptive_field import ReceptiveField
from convc.passes.rewriting.layer import Layer
from convc.passes.rewriting.matching import candidates, first_layers
from convc.passes.rewriting.table import Request
from convc.passes.rewriting.timing import Model

# What replaces a layer has to be so much faster to be worth a change of the net.
MARGIN = 1.1
# Layers with fewer channels have none to spare for a narrow place.
FEW = 32
_LARGE = 5


class Measure(Protocol):
    """Seconds of layers for a batch in a mode, None where nobody measured."""

    def __call__(self, layers: Sequence[Layer], batch: int, mode: Mode, *, first: bool = False) -> float | None: ...


@dataclass(frozen=True)
class Figures:
    """Layers, one behind the other. `macs` are for one image, `activation_bytes` what training keeps of a batch,
    `activations` the non-linearities between; times are seconds for a batch."""

    layers: tuple[Layer, ...]
    parameters: int
    macs: int
    activation_bytes: int
    receptive_field: Pair
    activations: int
    predicted: dict[Mode, float]
    measured: dict[Mode, float | None]

    def seconds(self, mode: Mode) -> float:
        """As measured if it was, else as predicted."""
        return self.measured[mode] or self.predicted[mode]


@dataclass(frozen=True)
class Variant:
    """What a request would make of a layer; `why` it cannot where `figures` is None."""

    request: Request
    figures: Figures | None
    why: str | None = None


@dataclass(frozen=True)
class LayerAnalysis:
    """A convolution with its alternatives. `recommended` is None where it had better stay as it is."""

    path: str
    span: Span | None
    old: Figures
    variants: tuple[Variant, ...]
    recommended: Variant | None
    reason: str


def analyze(
    graph: Graph, requests: Sequence[Request], batch: int, model: Model, measure: Measure | None = None
) -> tuple[LayerAnalysis, ...]:
    """Every convolution of a forward graph that a request means; those without a pattern mean kernels from 5x5 on."""
    first = first_layers(graph)
    found: list[LayerAnalysis] = []
    for path, node in candidates(graph).items():
        if not isinstance(node.op, Conv2d):
            continue
        layer = Layer.of(node)
        meant = [request for request in requests if _means(request, path, layer)]
        if not meant:
            continue
        old = figures([layer], batch, model, measure, first=path in first)
        variants: list[Variant] = []
        for request in meant:
            why = request.rule.refusal(layer)
            form = () if why is not None else request.rule.form(layer)
            if why is not None:
                variants.append(Variant(request, None, why))
            elif all(form != variant.figures.layers for variant in variants if variant.figures is not None):
                variants.append(Variant(request, figures(form, batch, model, measure, first=path in first)))
        recommended, reason = _recommend(layer, old, variants)
        found.append(LayerAnalysis(path, node.span, old, tuple(variants), recommended, reason))
    return tuple(found)


def figures(
    layers: Sequence[Layer], batch: int, model: Model, measure: Measure | None = None, *, first: bool = False
) -> Figures:
    """What layers cost that stand one behind the other; see `problems` for `first`."""
    field = ReceptiveField()
    for layer in layers:
        if isinstance(layer.op, Conv2d) and layer.weight is not None:
            field = field.through(layer.op.window((layer.weight[2], layer.weight[3])))
    modes: tuple[Mode, ...] = ("infer", "train")
    return Figures(
        layers=tuple(layers),
        parameters=sum(layer.parameters for layer in layers),
        macs=sum(layer.macs for layer in layers),
        # An activation function writes over its input.
        activation_bytes=4 * batch * sum(math.prod(layer.output) for layer in layers if layer.weight is not None),
        receptive_field=field.size,
        activations=sum(isinstance(layer.op, Relu) for layer in layers),
        predicted={mode: model.predicted(layers, batch, mode, first=first) for mode in modes},
        measured={mode: None if measure is None else measure(layers, batch, mode, first=first) for mode in modes},
    )


def _means(request: Request, path: str, layer: Layer) -> bool:
    if request.patterns:
        return request.wants(path)
    return layer.weight is not None and min(layer.weight[2:]) >= _LARGE


def _recommend(layer: Layer, old: Figures, variants: Sequence[Variant]) -> tuple[Variant | None, str]:
    """The first variant that nothing speaks against, in the order in which they were asked for."""
    objections: list[str] = []
    for variant in variants:
        objection = variant.why if variant.figures is None else _objection(layer, old, variant.figures)
        if objection is None and variant.figures is not None:
            return variant, _gains(old, variant.figures)
        objections.append(f"{variant.request.text}: {objection}")
    return None, "; ".join(objections)


def _objection(layer: Layer, old: Figures, new: Figures) -> str | None:
    """Why a layer had better not be replaced, as far as costs can tell."""
    if new.parameters >= old.parameters:
        return f"{100 * (new.parameters / old.parameters - 1):.0f} % more weights"
    if any(mine < theirs for mine, theirs in zip(new.receptive_field, old.receptive_field, strict=True)):
        return f"sees only {new.receptive_field[0]}x{new.receptive_field[1]}"
    assert layer.weight is not None
    ends = min(layer.weight[0], layer.input[0])
    narrow = min((inner.weight[0] for inner in new.layers if inner.weight is not None), default=ends)
    if narrow < ends < FEW:
        return f"{ends} channels are too few to be squeezed into {narrow}"
    ratio = old.seconds("train") / new.seconds("train")
    if ratio < MARGIN:
        saved = f"{100 * (1 - new.parameters / old.parameters):.0f} % fewer weights"
        return f"{saved}, but {_word(old, new)} {ratio:.2f} times as fast in training"
    return None


def _gains(old: Figures, new: Figures) -> str:
    """`45 % fewer weights, 1.81 times fewer multiply-adds, predicted 1.6 times as fast in training, …`."""
    work = old.macs / new.macs
    parts = [
        f"{100 * (1 - new.parameters / old.parameters):.0f} % fewer weights",
        f"{work:.2f} times fewer multiply-adds" if work >= 1 else f"{1 / work:.2f} times the multiply-adds",
        f"{_word(old, new)} {old.seconds('train') / new.seconds('train'):.2f} times as fast in training",
    ]
    if new.activations:
        parts.append(f"{new.activations} more non-linearit{'y' if new.activations == 1 else 'ies'}")
    return ", ".join(parts)


def _word(old: Figures, new: Figures) -> str:
    known = old.measured["train"] is not None and new.measured["train"] is not None
    return "measured" if known else "predicted"
