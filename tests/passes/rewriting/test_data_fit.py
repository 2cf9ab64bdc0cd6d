"""Stacks fitted to outputs on images: exact derivatives, ReLUs kept open, never worse than the kernel alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from convc.ir.window import Pair, Sides
from convc.passes.rewriting import data_fit
from convc.passes.rewriting.composition import relative
from convc.passes.rewriting.data_fit import DataFit, fit_to_data, opened
from convc.passes.rewriting.kernel_fit import REPRESENTED
from convc.passes.rewriting.layer import Layer, Weights, run_layers
from convc.passes.rewriting.least_squares import Arrays, step
from convc.passes.rewriting.output_error import output_error
from convc.passes.rewriting.replacement import Samples
from convc.passes.rewriting.stack3x3 import Stack3x3
from convc.passes.rewriting.stack_form import stack_form, with_activations
from convc.passes.rewriting.stack_problem import StackProblem
from convc.passes.rewriting.unfolding import Unfolding
from tests.passes.rewriting.kernels import composition, planted
from tests.passes.rewriting.layers import convolution, random_inputs, random_weights, run_native

# Kernel, stride, padding, dilation.
GEOMETRIES: list[tuple[Pair, Pair, Sides, Pair]] = [
    ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    ((3, 3), (2, 2), (0, 1, 2, 0), (1, 1)),
    ((5, 3), (1, 3), (4, 0, 1, 2), (1, 2)),
]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_a_convolution_as_a_product(geometry: tuple[Pair, Pair, Sides, Pair], bias: bool) -> None:
    kernel, stride, padding, dilation = geometry
    layer = convolution(2, 4, kernel, (11, 12), stride, padding, dilation, bias=bias)
    form, weights = Unfolding(layer), random_weights(layer)
    x = random_inputs(layer).astype(np.float64)
    patches = form.patches(x.transpose(0, 2, 3, 1), bias)
    assert patches.shape[1] == form.columns + bias
    _, rows, columns = layer.output
    product = (patches @ form.matrix(weights).T).reshape(len(x), rows, columns, -1).transpose(0, 3, 1, 2)
    assert relative(product, layer.run(x, weights)) < 1e-12
    back = form.weights(form.matrix(weights))
    assert back.keys() == weights.keys()
    assert all(np.array_equal(back[name], weights[name]) for name in weights)
    other = np.random.default_rng(3).standard_normal((len(patches), form.columns))
    adjoint = np.vdot(form.images(other), x.transpose(0, 2, 3, 1))
    assert adjoint == pytest.approx(np.vdot(other, patches[:, : form.columns]))


def problem(relu: bool, pad: str = "each", stride: Pair = (1, 1)) -> tuple[StackProblem, Arrays]:
    old = convolution(2, 3, 7, (10, 11), stride)
    layers = stack_form(old, 4, "last", pad, bias=relu).layers  # type: ignore[arg-type]
    x = random_inputs(old)
    found = StackProblem.of(layers, relu, x, old.run(x, random_weights(old)))
    weights = [random_weights(layer, number) for number, layer in enumerate(layers)]
    return found, [form.matrix(own) / 5 for form, own in zip(found.forms, weights, strict=True)]


@pytest.mark.parametrize("stride", [(1, 1), (2, 3)])
@pytest.mark.parametrize("relu", [True, False])
def test_derivatives_by_all_weights(relu: bool, stride: Pair) -> None:
    found, arrays = problem(relu, stride=stride)
    draw = np.random.default_rng(1)
    point = found.at(arrays)
    directions = [draw.standard_normal(array.shape) for array in arrays]
    along = point.forward(directions)
    there = [
        found.at([a + sign * 1e-7 * d for a, d in zip(arrays, directions, strict=True)]).residual for sign in (1, -1)
    ]
    assert relative((there[0] - there[1]) / 2e-7, along) < 1e-4  # some ReLU may be that near its kink
    probe = draw.standard_normal(along.shape)
    assert np.vdot(probe, along) == pytest.approx(sum(map(np.vdot, point.backward(probe), directions)))


@pytest.mark.parametrize("relu", [True, False])
def test_the_residual_is_that_of_the_layers(relu: bool) -> None:
    found, arrays = problem(relu)
    layers = tuple(form.layer for form in found.forms)
    weights: list[Weights] = [form.weights(array) for form, array in zip(found.forms, arrays, strict=True)]
    x = random_inputs(convolution(2, 3, 7, (10, 11)))
    if relu:
        layers, weights = with_activations(layers), [own for one in weights for own in (one, {})][:-1]
    outputs = run_layers(layers, weights, x).transpose(0, 2, 3, 1).reshape(-1, 3)
    assert relative(found.at(arrays).residual + found.expected, outputs) < 1e-5


def test_the_last_layer_is_solved_at_once() -> None:
    found, arrays = problem(relu=True)
    change, used = step(found.at(arrays), [2], 1e-10, 50, 1e-8)
    assert used <= 2
    point = found.at([a + own for a, own in zip(arrays, change, strict=True)])
    before = found.at(arrays).backward(found.expected)[2]
    assert np.linalg.norm(point.backward(point.residual)[2]) < 1e-7 * np.linalg.norm(before)


def test_open_relus_cut_nothing_off() -> None:
    """With all padding in front of the first layer the stack is the linear one; else apart from the border."""
    for pad in ("first", "each"):
        found, arrays = problem(relu=True, pad=pad)
        linear = replace(found, relu=False).at(arrays).residual
        assert not np.allclose(found.at(arrays).residual, linear)
        raised = found.at(opened(found, arrays))
        assert all((patches >= 0).all() for patches in raised.patches[1:])
        moved = relative(raised.residual + found.expected, linear + found.expected)
        assert moved < 1e-12 if pad == "first" else moved > 0.01


def smooth_images(old: Layer, count: int, seed: int = 0) -> np.ndarray:
    """Neighbours are alike, as in photographs: to most directions of a kernel they are blind."""
    x = np.random.default_rng(seed).standard_normal((count, *old.input))
    for _ in range(3):
        for axis in (2, 3):
            x = (x + np.roll(x, 1, axis) + np.roll(x, -1, axis)) / 3
    return np.maximum(x, 0).astype(np.float32)


@pytest.mark.slow
def test_images_lead_further_than_the_kernel_alone() -> None:
    """A kernel that is no composition: on smooth images its outputs are nearly those of one, with ReLUs and padding."""
    old = convolution(2, 4, 5)
    weights, x = random_weights(old), smooth_images(old, 24)
    rule = Stack3x3(width=3)
    kernel = replace(rule, data=False).fit(old, weights, Samples(x))
    found = rule.fit(old, weights, Samples(x))
    assert kernel.report.weight_error > 0.1
    assert kernel.report.output is not None
    assert found.report.output is not None
    assert found.report.output.whole < 0.5 * kernel.report.output.whole
    assert "refined" in found.report.method
    (told,) = [note for note in found.report.notes if "18 images were fitted to; output errors on 6 others" in note]
    assert all(name in told for name in ("the kernel ", "the kernel, refined ", "ReLUs kept open "))
    # The report is about images that were not fitted to, and natively the stack does the same.
    unseen = smooth_images(old, 16, seed=1)
    error = relative(run_native(found.layers, found.weights, unseen), old.run(unseen, weights))
    assert error < 2 * found.report.output.whole


@pytest.mark.slow
def test_relus_kept_open_make_a_composition_exact() -> None:
    """On images whose like was seen, with all padding in front of the first layer."""
    old = convolution(2, 2, 5, (13, 14))
    weights = {"weight": composition(planted((2, 2, 2), 1)).astype(np.float32), "bias": np.ones(2, np.float32)}
    x = np.repeat(random_inputs(old, 1), 8, axis=0)
    rule = Stack3x3(width=2, pad="first")
    found = replace(rule, open=True).fit(old, weights, Samples(x)).report
    alone = replace(rule, data=False).fit(old, weights, Samples(x)).report.output
    assert alone is not None
    assert found.output is not None
    assert alone.whole > 0.2
    assert found.output.whole < 1e-5
    assert "ReLUs kept open" in found.method
    assert any("cut off nothing, or little" in note for note in found.notes)
    unasked = rule.fit(old, weights, Samples(x)).report
    assert "kept open" not in unasked.method
    assert any("open=yes takes them" in note for note in unasked.notes)
    assert unasked.tried["ReLUs kept open"] < 1e-5


def whole_fit(seed: int = 0, count: int = 9, keep_open: bool = False) -> tuple[DataFit, np.ndarray]:
    old = convolution(2, 2, 5, (7, 8))
    weights, x = random_weights(old), smooth_images(old, count)
    layers = stack_form(old, 3, "last", "each", bias=True).layers
    start = [{k: a / 4 for k, a in random_weights(layer, 7).items()} for layer in layers]

    def error(fitted: object, images: np.ndarray) -> float:
        own = [part for one in fitted for part in (one, {})][:-1]  # type: ignore[attr-defined]
        return output_error(old, weights, with_activations(layers), own, images).whole

    return fit_to_data(layers, start, True, x, lambda images: old.run(images, weights), error, keep_open, seed), x


@pytest.mark.parametrize("keep_open", [True, False])
def test_the_best_of_what_is_allowed_is_taken(keep_open: bool) -> None:
    found, x = whole_fit(keep_open=keep_open)
    assert len(found.held) == 2
    assert found.images == 7
    allowed = {name: error for name, error in found.tried.items() if keep_open or "open" not in name}
    assert len(allowed) == (4 if keep_open else 2)
    assert found.tried[found.chosen] == min(allowed.values())
    assert data_fit.OPEN in found.tried
    assert found.tried["the kernel, refined"] < found.tried["the kernel"]
    assert len(x) == 9


def test_a_single_image_serves_for_both() -> None:
    found, _ = whole_fit(count=1)
    assert (found.images, found.held.tolist()) == (1, [0])


@pytest.mark.slow
def test_the_seed_decides_and_nothing_else() -> None:
    one, same, other = (whole_fit(seed)[0] for seed in (1, 1, 2))
    assert one.tried == same.tried
    assert all(np.array_equal(a["weight"], b["weight"]) for a, b in zip(one.weights, same.weights, strict=True))
    assert one.held.tolist() != other.held.tolist()


def test_work_is_bounded_by_the_number_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_fit, "_WORK", 2e6)
    found, _ = whole_fit()
    assert 1 <= found.images < 7


@pytest.mark.parametrize(
    ("rule", "fitted", "why"),
    [
        (Stack3x3(width=3, relu=False), False, None),  # the composition is the kernel
        (Stack3x3(width=3, relu=False, data=True), True, "as asked"),
        (Stack3x3(width=2, relu=False), True, "no composition is the old kernel; data=no leaves that out"),
        (Stack3x3(width=3), True, "as the ReLUs between are not in the composition"),
        (Stack3x3(width=3, data=False), False, None),
    ],
    ids=str,
)
def test_images_are_used_where_they_help(rule: Stack3x3, fitted: bool, why: str | None) -> None:
    old = convolution(1, 4, 5, (7, 8))
    weights = {"weight": composition(planted((1, 3, 4), 3)).astype(np.float32), "bias": np.ones(4, np.float32)}
    report = rule.fit(old, weights, Samples(random_inputs(old))).report
    assert ("on images" in report.method) == fitted
    assert any("fitted to the outputs on images" in note for note in report.notes) == fitted
    assert why is None or any(why in note for note in report.notes)
    if not fitted:
        assert report.weight_error < REPRESENTED
    assert "on images" not in rule.fit(old, weights).report.method
