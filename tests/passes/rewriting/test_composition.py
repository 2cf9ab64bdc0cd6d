"""The composed kernel of a chain computes what the chain does, wherever no window meets a border."""

from __future__ import annotations

import numpy as np
import pytest

from convc.passes.rewriting.composition import Kernel, compose, kernel_error, kernel_of
from convc.passes.rewriting.layer import Layer, run_layers
from tests.passes.rewriting.layers import convolution, fully_connected, random_weights

NOTHING = (0, 0, 0, 0)


def behind(first: Layer, filters: int, kernel: tuple[int, int], **geometry: object) -> Layer:
    """A convolution that reads what another one gives."""
    channels, *size = first.output
    return convolution(channels, filters, kernel, (size[0], size[1]), bias=False, **geometry)  # type: ignore[arg-type]


def chain(*geometries: dict[str, object]) -> list[Layer]:
    first = convolution(2, 4, (3, 2), (25, 27), bias=False, **{"padding": NOTHING} | geometries[0])  # type: ignore[arg-type]
    layers = [first]
    for number, geometry in enumerate(geometries[1:]):
        layers.append(behind(layers[-1], 4, (2, 3) if number else (3, 3), **{"padding": NOTHING} | geometry))
    return layers


def applied(kernel: Kernel, x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """y[i] = Σ_t taps[t]·x[i·stride + start + t], by hand; NaN where a tap lies outside."""
    y = np.full((len(x), len(kernel.taps), *shape), np.nan)
    for row, column in np.ndindex(*shape):
        top, left = (i * s + b for i, s, b in zip((row, column), kernel.stride, kernel.start, strict=True))
        bottom, right = top + kernel.extent[0], left + kernel.extent[1]
        if min(top, left) >= 0 and bottom <= x.shape[2] and right <= x.shape[3]:
            y[:, :, row, column] = np.einsum("ncrs,kcrs->nk", x[:, :, top:bottom, left:right], kernel.taps)
    return y


CHAINS: dict[str, tuple[dict[str, object], ...]] = {
    "one": ({},),
    "two": ({}, {}),
    "three": ({}, {}, {}),
    "first steps": ({"stride": (2, 1)}, {}),
    "second steps": ({}, {"stride": (1, 2)}),
    "all step": ({"stride": (2, 1)}, {"stride": (1, 2)}, {}),
    "first dilated": ({"dilation": (1, 2)}, {}),
    "second dilated": ({}, {"dilation": (2, 1)}),
    "steps and dilated": ({"stride": (1, 2)}, {"dilation": (2, 1)}, {}),
    "groups": ({"groups": 2}, {"groups": 2}),
    "first padded": ({"padding": (2, 1, 0, 3)}, {}),
    "second padded": ({"stride": (2, 1)}, {"padding": (1, 2, 1, 0)}),
    "all padded": ({"stride": (1, 2), "padding": (1, 0, 1, 1)}, {"padding": (1, 1, 1, 1)}, {"padding": (0, 1, 1, 1)}),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_is_one_kernel(name: str) -> None:
    layers = chain(*CHAINS[name])
    weights = [random_weights(layer, seed) for seed, layer in enumerate(layers)]
    x = np.random.default_rng(1).standard_normal((2, *layers[0].input))
    expected = run_layers(layers, weights, x)
    actual = applied(kernel_of(layers, weights), x, expected.shape[2:])
    inside = ~np.isnan(actual)
    assert inside.mean() > 0.3
    # A later layer that pads reads zeros where earlier ones would have had values: only what lies inside is the same.
    edge = 4 if "padded" in name else 0
    middle = (slice(None), slice(None), slice(edge, expected.shape[2] - edge), slice(edge, expected.shape[3] - edge))
    if not edge:
        assert inside.all()
    assert inside[middle].any()
    assert actual[middle][inside[middle]] == pytest.approx(expected[middle][inside[middle]], rel=1e-5, abs=1e-5)


def test_fully_connected_layers_multiply() -> None:
    layers = [fully_connected(5, 4, bias=False), fully_connected(4, 3, bias=False)]
    weights = [random_weights(layer) for layer in layers]
    kernel = kernel_of(layers, weights)
    product = weights[1]["weight"].astype(np.float64) @ weights[0]["weight"]
    assert kernel.taps[:, :, 0, 0] == pytest.approx(product)
    assert kernel.extent == (1, 1)


def test_composing_is_a_convolution_of_taps() -> None:
    first, second = np.zeros((1, 1, 2, 2)), np.zeros((1, 1, 2, 3))
    first[0, 0, 1, 0], second[0, 0, 0, 2] = 2.0, 3.0
    composed = compose(second, first, (4, 5))
    assert composed.shape == (1, 1, 2 + 4, 2 + 5 * 2)
    assert np.argwhere(composed).tolist() == [[0, 0, 1, 10]]
    assert composed.sum() == 6


def test_errors_compare_taps_at_the_pixels_that_they_read() -> None:
    taps = np.ones((1, 1, 3, 3))
    wide = np.pad(taps, ((0, 0), (0, 0), (1, 1), (1, 1)))
    assert kernel_error(Kernel(wide, (-2, -2), (1, 1)), Kernel(taps, (-1, -1), (1, 1))) == 0
    assert kernel_error(Kernel(wide, (-1, -2), (1, 1)), Kernel(taps, (-1, -1), (1, 1))) > 0.5
