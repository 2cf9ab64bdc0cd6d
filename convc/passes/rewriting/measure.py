"""A fit with everything measured that is said about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field

from convc.ir.ops.activation import Relu
from convc.lazy import dataclass
from convc.passes.rewriting.composition import kernel_error, kernel_of
from convc.passes.rewriting.layer import Layer, Weights
from convc.passes.rewriting.output_error import output_error, without_activations
from convc.passes.rewriting.replacement import FitReport, Replacement, Samples


@dataclass(frozen=True, eq=False)
class Fitted:
    """New layers with their weights, float32, and what the rule has to say about them: see `FitReport`."""

    old: Layer
    weights: Weights
    layers: Sequence[Layer]
    fitted: Sequence[Weights]
    method: str
    ranks: tuple[int, ...]
    kept_energy: float | None = None
    tried: Mapping[str, float] = field(default_factory=dict[str, float])
    notes: tuple[str, ...] = ()


def measured(rule: str, found: Fitted, samples: Samples | None) -> Replacement:
    """The replacement, and how far kernel and, on samples, outputs are off, both for the weights as stored."""
    layers, fitted = tuple(found.layers), tuple(found.fitted)
    linear, plain = without_activations(layers, fitted)
    weight_error = kernel_error(kernel_of(linear, plain), kernel_of([found.old], [found.weights]))
    output = output_linear = None
    if samples is not None:
        output = output_error(found.old, found.weights, layers, fitted, samples.x)
        if any(isinstance(layer.op, Relu) for layer in layers):
            output_linear = output_error(found.old, found.weights, linear, plain, samples.x)
    report = FitReport(
        method=found.method,
        ranks=found.ranks,
        weight_error=weight_error,
        kept_energy=found.kept_energy,
        output=output,
        output_linear=output_linear,
        tried=found.tried,
        notes=found.notes,
    )
    return Replacement(rule, found.old, layers, fitted, report)
