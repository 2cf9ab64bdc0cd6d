"""A k x k convolution as a stack of 3x3 convolutions.

    conv K k=7 pad=3    →    conv W k=3 pad=1 -> relu -> conv W k=3 pad=1 -> relu -> conv K k=3 pad=1

(k − 1)/2 of them see the same pixels, with 27C² weights in place of 49C², and with non-linearities between (Simonyan
and Zisserman, "Very deep convolutional networks for large-scale image recognition", 2015, section 2.3).

What is exact: without ReLUs (`relu=no`) a stack computes the composition of its kernels, so the weights are fitted to
have the old kernel as their composition (`kernel_fit.py`), and one that is a composition is found. With as many
channels between as there are filters that is the exception: most kernels are none, and the residual says how far off
the nearest one that was found is. What is not exact: with `pad=each` later layers read zeros beyond the border of their
input, in place of what a window reaching there would give, so that outputs near the border differ even where the
kernels agree; `pad=first` pads for all of them in front of the first, costs some arithmetic at the border, and has no
such error. And with ReLUs between the stack is not linear at all. The report has the errors of the outputs, with ReLUs
and without, interior and border apart.

With images (`--eval`) the stack is fitted to the outputs of the old layer on them, with its ReLUs and padding
(`data_fit.py`), unless it is the old kernel already and has no ReLUs; `data=yes` asks for that in any case, `data=no`
for the kernel alone. `open=yes` allows ReLUs that hidden biases keep open: the net computes what it did, but has no
more non-linearities than before, and may be hard to train on.

A stride goes to the last layer, where the composition is that of the old window; on the first (`stride=first`) there is
less to compute, and the stack sees more pixels than the old window: 11x11 for 7x7 with stride 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from convc.ir.ops.conv import Conv2d
from convc.lazy import dataclass
from convc.passes.rewriting.data_fit import OPEN, DataFit, fit_to_data
from convc.passes.rewriting.kernel_chain import Kernels
from convc.passes.rewriting.kernel_fit import REPRESENTED, KernelFit, fit_kernel
from convc.passes.rewriting.layer import Layer, Weights
from convc.passes.rewriting.measure import Fitted, measured
from convc.passes.rewriting.output_error import output_error
from convc.passes.rewriting.replacement import Replacement, Rule, Samples
from convc.passes.rewriting.stack_form import Padding, StackForm, Where, stack_form, with_activations


@dataclass(frozen=True)
class Stack3x3(Rule):
    """k x k → 3 x 3, 3 x 3, …

    `width` is the number of channels between, by default that of the filters. `stride` is where a stride goes, `relu`
    whether there are ReLUs between, `pad` where the padding goes. `data` is whether to fit to outputs on samples; None
    leaves that to the rule. `open` allows that fit to keep ReLUs open. `seed` is that of the random starts, and of the
    choice of samples.
    """

    name: ClassVar[str] = "stack3x3"
    width: int | None = None
    stride: Where = "last"
    relu: bool = True
    pad: Padding = "each"
    data: bool | None = None
    open: bool = False
    seed: int | None = None

    def refusal(self, old: Layer, weights: Weights | None = None) -> str | None:
        if not isinstance(old.op, Conv2d) or old.weight is None:
            return "it is not a convolution"
        rows, columns = old.weight[2:]
        if old.op.groups > 1:
            return f"its {old.op.groups} groups do not mix channels, as those of a stack would"
        if rows != columns or rows % 2 == 0 or rows < 5:
            return f"its kernel is {rows}x{columns}, and stacks of 3x3 see 5x5, 7x7, 9x9, …"
        if self.width is not None and self.width < 1:
            return f"width={self.width} leaves nothing between: it is at least 1"
        if self.stride == "first" and old.op.stride != (1, 1) and old.op.dilation != (1, 1):
            return "with a dilation its stride goes to the last layer: stride=last"
        return None

    def form(self, old: Layer, weights: Weights | None = None) -> tuple[Layer, ...]:
        layers = self._form(old).layers
        return with_activations(layers) if self.relu else layers

    def fit(self, old: Layer, weights: Weights, samples: Samples | None = None) -> Replacement:
        form = self._form(old)
        kernel = embedded(weights["weight"].astype(np.float64), form)
        width = self._width(old)
        if kernel.any():
            found = fit_kernel(kernel, width, form.steps, self.seed or 0)
        else:
            found = KernelFit([np.zeros(layer.shapes["weight"]) for layer in form.layers], 0.0, "zeros")
        arrays = _parameters(form, found.factors, weights)
        method = f"least squares on the composed kernel, alternating, from {found.start}"
        notes = [*self._choices(old), _residual(found)]
        tried: dict[str, float] = {}
        wanted, why = self._wants_data(found, samples)
        if wanted and samples is not None and kernel.any():
            fit = self._fit_to_data(form, arrays, old, weights, samples)
            tried, arrays, samples = fit.tried, fit.weights, Samples(samples.x[fit.held])
            method += f"; then on the outputs on images: {fit.chosen}"
            notes += [why, *_tried(fit)]
        elif why:
            notes.append(why)
        return measured(
            self.name,
            Fitted(
                old,
                weights,
                self.form(old),
                self._between(arrays),
                method=method,
                ranks=(width,) * (len(form.layers) - 1),
                tried=tried,
                notes=(*notes, *self._inexact(old, wanted)),
            ),
            samples,
        )

    @property
    def needs_samples(self) -> bool:
        return self.data is True

    def _wants_data(self, found: KernelFit, samples: Samples | None) -> tuple[bool, str]:
        """Whether to fit to samples, and why."""
        represented = found.error <= REPRESENTED
        if samples is None or (self.data is None and represented and not self.relu):
            return False, ""
        if self.data is not None:
            return self.data, "fitted to the outputs on images, as asked" if self.data else ""
        reason = "the ReLUs between are not in the composition" if self.relu else "no composition is the old kernel"
        return True, f"fitted to the outputs on images, too, as {reason}; data=no leaves that out"

    def _fit_to_data(
        self, form: StackForm, start: list[Weights], old: Layer, weights: Weights, samples: Samples
    ) -> DataFit:
        def error(fitted: Sequence[Weights], x: np.ndarray) -> float:
            return output_error(old, weights, self.form(old), self._between(fitted), x).whole

        def outputs(x: np.ndarray) -> np.ndarray:
            return np.concatenate([old.run(x[index : index + 1], weights) for index in range(len(x))])

        return fit_to_data(form.layers, start, self.relu, samples.x, outputs, error, self.open, self.seed or 0)

    def _form(self, old: Layer) -> StackForm:
        return stack_form(old, self._width(old), self.stride, self.pad, bias=self.relu)

    def _width(self, old: Layer) -> int:
        assert old.weight is not None
        return self.width or old.weight[0]

    def _between(self, arrays: Sequence[Weights]) -> list[Weights]:
        """With an empty entry for each ReLU."""
        if not self.relu:
            return list(arrays)
        return [own for array in arrays for own in (array, {})][:-1]

    def _choices(self, old: Layer) -> list[str]:
        assert isinstance(old.op, Conv2d)
        notes: list[str] = []
        if self.width is None:
            notes.append(f"{self._width(old)} channels between, as many as filters, as nothing was asked for")
        if old.op.stride != (1, 1):
            notes.append(
                "the stride is on the last layer: the same pixels are seen; stride=first computes less"
                if self.stride == "last"
                else "the stride is on the first layer: more pixels are seen than by the old window"
            )
        return notes

    def _inexact(self, old: Layer, fitted: bool) -> list[str]:
        assert isinstance(old.op, Conv2d)
        notes: list[str] = []
        if any(old.op.padding) and self.pad == "each":
            notes.append("near the border outputs differ, because every layer pads for itself; pad=first avoids that")
        if self.relu and not fitted:
            notes.append("the ReLUs between are not in the composition that was fitted: train the net on")
        return notes


def embedded(weight: np.ndarray, form: StackForm) -> np.ndarray:
    """The old kernel in the middle of what the stack sees."""
    size = weight.shape[2:]
    sides = [(first, whole - first - own) for first, whole, own in zip(form.offset, form.extent, size, strict=True)]
    return np.pad(weight, [(0, 0), (0, 0), *sides])


def _residual(found: KernelFit) -> str:
    if found.error <= REPRESENTED:
        return f"the old kernel is a composition: residual {found.error:.1e}"
    return f"no composition as wide as this is the old kernel: residual {found.error:.3g}, a local minimum"


def _parameters(form: StackForm, factors: Kernels, weights: Weights) -> list[Weights]:
    """The factors as parameters; only the last layer has a bias that is not zero."""
    result: list[Weights] = []
    for layer, factor in zip(form.layers, factors, strict=True):
        own = {"weight": factor.astype(np.float32)}
        if layer.bias:
            own["bias"] = np.zeros(len(factor), np.float32)
        result.append(own)
    if "bias" in weights:
        result[-1] = {**result[-1], "bias": np.asarray(weights["bias"], np.float32)}
    return result


def _tried(fit: DataFit) -> list[str]:
    errors = ", ".join(f"{name} {error:.3g}" for name, error in fit.tried.items())
    notes = [f"{fit.images} images were fitted to; output errors on {len(fit.held)} others: {errors}"]
    if fit.chosen.startswith(OPEN):
        notes.append(
            "the ReLUs between cut off nothing, or little, on such images; from there it may be hard to train on"
        )
    elif fit.tried.get(OPEN, np.inf) < fit.tried[fit.chosen]:
        notes.append("ReLUs kept open are nearer, but it may be hard to train on from there: open=yes takes them")
    return notes
