"""What stands in the place of one layer, the rules that make it, and what they say about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, ClassVar

import numpy as np

from convc.lazy import dataclass
from convc.passes.rewriting.layer import Layer, Weights


@dataclass(frozen=True, eq=False)
class Samples:
    """Activations of the old layer: its inputs, float32 (N, C, H, W) or (N, D).

    They come from a trained net and real images (`activations.py`); random ones fit the layer to images that it never
    sees.
    """

    x: np.ndarray


@dataclass(frozen=True)
class OutputError:
    """How far outputs moved: ‖new − old‖ / ‖old‖ over all elements, over positions whose old window lies inside the
    image (`interior`), and over the others (`border`); None where there are no such positions."""

    whole: float
    interior: float | None
    border: float | None


@dataclass(frozen=True)
class FitReport:
    """What a fit gave.

    `method` says in words how the weights were found and whether that is exact. `ranks` are the inner widths that were
    chosen: one for two factors, two for a bottleneck, all inner channels of a stack. `kept_energy` is the part of the
    squared Frobenius norm that was kept where singular values were cut off. `weight_error` is ‖composed − old‖ / ‖old‖
    of the kernels, without activations between and apart from the border. `output` is measured on samples;
    `output_linear` is the same without the ReLUs between, where there are any. `tried` are the output errors of all
    weights that were compared by them, over all positions. `notes` are choices made, and what is not exact, each with
    its reason.
    """

    method: str
    ranks: tuple[int, ...]
    weight_error: float
    kept_energy: float | None = None
    output: OutputError | None = None
    output_linear: OutputError | None = None
    tried: Mapping[str, float] = field(default_factory=dict[str, float])
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Replacement:
    """Layers, one behind the other, that take the place of `old`.

    `weights` has an entry per layer, float32, empty for activations.
    """

    rule: str
    old: Layer
    layers: tuple[Layer, ...]
    weights: tuple[Weights, ...]
    report: FitReport

    @property
    def parameters(self) -> tuple[int, int]:
        """Before and after."""
        return self.old.parameters, sum(layer.parameters for layer in self.layers)

    @property
    def macs(self) -> tuple[int, int]:
        """Before and after, for one image."""
        return self.old.macs, sum(layer.macs for layer in self.layers)


@dataclass(frozen=True)
class Rule:
    """A way to replace a layer. Fields of a subclass are its options, as those of a pass are."""

    name: ClassVar[str]

    def refusal(self, old: Layer, weights: Weights | None = None) -> str | None:
        """Why the layer cannot be replaced with these options; None if it can.

        Without weights an option that reads them (`energy=`) is a reason.
        """
        raise AssertionError(f"{self.name} refuses nothing and accepts nothing")

    def form(self, old: Layer, weights: Weights | None = None) -> tuple[Layer, ...]:
        """The new layers of a layer that is not refused."""
        raise AssertionError(f"{self.name} makes nothing")

    def fit(self, old: Layer, weights: Weights, samples: Samples | None = None) -> Replacement:
        """The new layers with weights that come as near to the old layer as the form allows, and how near."""
        raise AssertionError(f"{self.name} fits nothing")

    @property
    def needs_samples(self) -> bool:
        """Whether what was asked for takes samples."""
        return False

    @property
    def options(self) -> Mapping[str, Any]:
        return dict(vars(self))
