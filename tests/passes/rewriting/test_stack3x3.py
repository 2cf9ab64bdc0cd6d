"""Stacks of 3x3 in the place of a larger convolution: shapes, what is exact, and what is said of the rest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from convc.ir.ops.activation import Relu
from convc.ir.window import Pair, Sides
from convc.passes.rewriting.composition import kernel_error, kernel_of, relative
from convc.passes.rewriting.layer import Layer, run_layers
from convc.passes.rewriting.replacement import Samples
from convc.passes.rewriting.stack3x3 import Stack3x3
from convc.passes.rewriting.stack_form import stack_form
from tests.passes.rewriting.kernels import composition, planted
from tests.passes.rewriting.layers import convolution, fully_connected, random_inputs, random_weights, run_native

LINEAR = Stack3x3(relu=False)

# Kernel, stride, padding, dilation.
GEOMETRIES: list[tuple[int, Pair, Sides, Pair]] = [
    (5, (1, 1), (2, 2, 2, 2), (1, 1)),
    (7, (1, 1), (0, 0, 0, 0), (1, 1)),
    (7, (2, 2), (3, 3, 3, 3), (1, 1)),
    (7, (2, 2), (0, 1, 2, 5), (1, 1)),
    (9, (2, 3), (4, 1, 3, 2), (1, 1)),
    (11, (4, 4), (2, 2, 2, 2), (1, 1)),
    (5, (1, 2), (4, 4, 4, 4), (2, 2)),
]


@pytest.mark.parametrize("padding", ["each", "first"])
@pytest.mark.parametrize("where", ["last", "first"])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_a_stack_lies_over_the_window(geometry: tuple[int, Pair, Sides, Pair], where: str, padding: str) -> None:
    """Each size of image gives as many positions as before, and a kernel that is the same pixel for pixel."""
    size, stride, pads, dilation = geometry
    old = convolution(1, 1, size, (27, 31), stride, pads, dilation)
    rule = replace(LINEAR, width=1, stride=where, pad=padding)
    if rule.refusal(old) is not None:
        assert where == "first"
        assert dilation != (1, 1)
        return
    for rows in range(27, 32):
        image = convolution(1, 1, size, (rows, 31), stride, pads, dilation)
        assert rule.form(image)[-1].output == image.output
    # A single tap in the middle: each layer has one, too.
    middle = {"weight": np.zeros((1, 1, size, size)), "bias": np.zeros(1)}
    middle["weight"][:, :, size // 2, size // 2] = 1
    form = stack_form(old, 1, where, padding, bias=False)  # type: ignore[arg-type]
    taps = [{"weight": np.zeros((1, 1, 3, 3))} for _ in form.layers]
    for own in taps:
        own["weight"][:, :, 1, 1] = 1
    composed = kernel_of(form.layers, taps)
    assert kernel_error(composed, kernel_of([old], [middle])) == 0
    if dilation == (1, 1):
        assert composed.extent == form.extent
    if where == "last" or stride == (1, 1):
        assert form.extent == (size, size)


@pytest.mark.slow
@pytest.mark.parametrize("stride", [(1, 1), (2, 2)])
@pytest.mark.parametrize("padding", ["each", "first"])
def test_a_composition_is_recovered(padding: str, stride: Pair) -> None:
    """A 7x7 that is one: natively, too, and at the border where the first layer pads for all."""
    old = convolution(2, 2, 7, (15, 16), stride)
    kernel = composition(planted((2, 2, 2, 2), 5)).astype(np.float32)
    weights, x = {"weight": kernel, "bias": np.ones(2, np.float32)}, random_inputs(old)
    found = replace(LINEAR, pad=padding).fit(old, weights, Samples(x))
    report = found.report
    assert report.weight_error < 1e-5
    assert report.ranks == (2, 2)
    assert any("is a composition" in note for note in report.notes)
    assert report.output is not None
    assert report.output.interior is not None
    assert report.output.border is not None
    assert report.output.interior < 1e-5
    assert report.output_linear is None
    expected = old.run(x.astype(np.float64), weights)
    native = run_native(found.layers, found.weights, x)
    if padding == "first":
        assert report.output.whole < 1e-5
        assert relative(native, expected) < 1e-5
    else:
        assert report.output.border > 0.01
        assert any("near the border" in note for note in report.notes)
        assert relative(native, expected) == pytest.approx(report.output.whole, rel=1e-4)


def test_a_stride_on_the_first_layer_is_fitted_to_the_window_inside() -> None:
    old = convolution(2, 3, 5, (17, 18), (2, 2))
    weights, x = random_weights(old), random_inputs(old)
    found = replace(LINEAR, stride="first", pad="first", width=9).fit(old, weights, Samples(x))
    assert [layer.arguments.get("s") for layer in found.layers] == [2, None]
    assert found.macs[1] < sum(layer.macs for layer in replace(LINEAR, width=9).form(old))
    assert found.report.output is not None
    assert found.report.output.whole == pytest.approx(found.report.weight_error, rel=0.5, abs=1e-5)
    assert found.report.weight_error < 1e-5  # 9 · 9 combinations for 2 · 25 taps


def test_what_is_reported_with_activations_between() -> None:
    old = convolution(3, 4, 5)
    weights, x = random_weights(old), random_inputs(old)
    found = Stack3x3(pad="first", width=9, data=False).fit(old, weights, Samples(x))
    assert [type(layer.op) is Relu for layer in found.layers] == [False, True, False]
    assert found.layers == Stack3x3(pad="first", width=9).form(old)
    report = found.report
    assert report.output is not None
    assert report.output_linear is not None
    assert report.output_linear.whole < 1e-5
    expected = old.run(x.astype(np.float64), weights)
    assert report.output.whole == pytest.approx(
        relative(run_layers(found.layers, found.weights, x), expected), rel=1e-4
    )
    assert relative(run_native(found.layers, found.weights, x), expected) == pytest.approx(
        report.output.whole, rel=1e-4
    )


@pytest.mark.parametrize("size", [5, 7, 9, 11])
def test_weights_of_the_lecture(size: int) -> None:
    """9·C² for each of (k − 1)/2 layers in place of k²·C²; 7x7: 27 against 49."""
    old = convolution(8, 8, size, bias=False)
    layers = LINEAR.form(old)
    assert sum(layer.parameters for layer in layers) == 9 * (size - 1) // 2 * 64
    assert old.parameters == size**2 * 64
    assert all(not layer.bias for layer in layers)


def test_a_kernel_of_zeros_stays_one() -> None:
    old = convolution(2, 3, 5)
    weights = {name: np.zeros_like(array) for name, array in random_weights(old).items()}
    found = LINEAR.fit(old, weights, Samples(random_inputs(old)))
    assert found.report.weight_error == 0
    assert not any(array.any() for own in found.weights for array in own.values())


REFUSALS = {
    "fc": (LINEAR, fully_connected(4, 3), "not a convolution"),
    "groups": (LINEAR, convolution(4, 4, 5, groups=2), "2 groups do not mix channels"),
    "3x3": (LINEAR, convolution(4, 4, 3), "3x3, and stacks of 3x3 see 5x5"),
    "even": (LINEAR, convolution(4, 4, 6), "6x6"),
    "oblong": (LINEAR, convolution(4, 4, (5, 7)), "5x7"),
    "width": (Stack3x3(width=0), convolution(4, 4, 5), "width=0 leaves nothing"),
    "dilated": (Stack3x3(stride="first"), convolution(4, 4, 5, stride=(2, 2), dilation=(2, 2)), "stride=last"),
}


@pytest.mark.parametrize(("rule", "old", "why"), REFUSALS.values(), ids=REFUSALS)
def test_refusals_say_why(rule: Stack3x3, old: Layer, why: str) -> None:
    assert why in (rule.refusal(old) or "")


def test_the_seed_decides_and_nothing_else() -> None:
    old = convolution(1, 5, 5)
    weights = random_weights(old)
    one, same, other = (replace(LINEAR, width=2, seed=seed).fit(old, weights).weights for seed in (1, 1, 2))
    assert all(np.array_equal(a["weight"], b["weight"]) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one[0]["weight"], other[0]["weight"])
