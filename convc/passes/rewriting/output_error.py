"""How far the outputs of a layer move on real activations, in the interior and at the border apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from convc.ir.ops.activation import Relu
from convc.ir.ops.conv import Conv2d
from convc.ir.window import Pair
from convc.passes.rewriting.layer import Layer, Weights, run_layers
from convc.passes.rewriting.replacement import OutputError

# Elements of activations and patches that are computed at a time.
_ELEMENTS = 1 << 24


def output_error(
    old: Layer, weights: Weights, layers: Sequence[Layer], fitted: Sequence[Weights], x: np.ndarray
) -> OutputError:
    """Of `layers` in the place of `old`, on the layer's inputs x (N, …), by the reference rules of the ops.

    A position is interior when neither the old window nor what the new layers see of the input reaches over the border.
    """
    inside = interior(old, layers)
    differences, squares = np.zeros(2), np.zeros(2)
    rows = max(1, _ELEMENTS // _largest((old, *layers)))
    for start in range(0, len(x), rows):
        part = x[start : start + rows].astype(np.float32)
        expected = old.run(part, weights).astype(np.float64)
        actual = run_layers(layers, fitted, part)
        for index, mask in enumerate((inside, ~inside)):
            differences[index] += np.sum((actual - expected)[..., mask] ** 2)
            squares[index] += np.sum(expected[..., mask] ** 2)
    parts = [
        _ratio(differences[index], squares[index]) if mask.any() and old.output[1:] else None
        for index, mask in enumerate((inside, ~inside))
    ]
    return OutputError(_ratio(differences.sum(), squares.sum()), *parts)


def without_activations(
    layers: Iterable[Layer], weights: Iterable[Weights]
) -> tuple[tuple[Layer, ...], tuple[Weights, ...]]:
    """The same layers without the ReLUs between them."""
    kept = [(layer, own) for layer, own in zip(layers, weights, strict=True) if not isinstance(layer.op, Relu)]
    return tuple(layer for layer, _ in kept), tuple(own for _, own in kept)


def interior(old: Layer, layers: Iterable[Layer]) -> np.ndarray:
    """Booleans over the positions (OH, OW) of the output; a single one for rows."""
    if len(old.output) == 1:
        return np.asarray(True)
    bounds = [_reach([old]), _reach(layers)]
    axes: list[np.ndarray] = []
    for axis in (0, 1):
        positions = np.arange(old.output[1 + axis])
        within = np.ones(len(positions), bool)
        for starts, ends, strides in bounds:
            within &= positions * strides[axis] + starts[axis] >= 0
            within &= positions * strides[axis] + ends[axis] < old.input[1 + axis]
        axes.append(within)
    return axes[0][:, None] & axes[1][None, :]


def _reach(layers: Iterable[Layer]) -> tuple[Pair, Pair, Pair]:
    """The first and last pixel that position 0 sees through the layers, and the distance to the next position's."""
    first, last, stride = (0, 0), (0, 0), (1, 1)
    for layer in layers:
        if isinstance(layer.op, Conv2d) and layer.weight is not None:
            window = layer.op.window((layer.weight[2], layer.weight[3]))
            first, last, stride = zip(
                *(
                    (low - pad * step, high + (extent - 1 - pad) * step, step * own)
                    for low, high, step, pad, extent, own in zip(
                        first, last, stride, window.padding[:2], window.extent, window.stride, strict=True
                    )
                ),
                strict=True,
            )
    return first, last, stride


def _largest(layers: Iterable[Layer]) -> int:
    """Elements of the patches that the reference rule of a layer lays out for one image, of the largest."""
    sizes = [1]
    for layer in layers:
        if isinstance(layer.op, Conv2d) and layer.weight is not None:
            sizes.append(int(np.prod([*layer.output[1:], layer.input[0], *layer.weight[2:]])))
    return max(sizes)


def _ratio(differences: float, squares: float) -> float:
    return float(np.sqrt(differences / squares)) if squares else float(np.sqrt(differences))
