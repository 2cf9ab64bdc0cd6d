"""The numpy references themselves, against loops that say the definition once more, and against PyTorch where it is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from convc.ir.ops.conv import Conv2d, Conv2dBackwardData, Conv2dBackwardWeights
from convc.ir.ops.loss import CountCorrect, SoftmaxCrossEntropy, SoftmaxCrossEntropyBackward
from convc.ir.ops.pool import AvgPool, MaxPool, MaxPoolBackward
from convc.ir.ops.update import AdamUpdate
from tests.op_cases import OpCase, cases_of, make_operands

SMALL_CONVOLUTIONS = [case for case in cases_of(Conv2d) if not case.wide]
POOLS = [case for case in cases_of(MaxPool, AvgPool) if not case.wide]


@pytest.mark.parametrize("case", SMALL_CONVOLUTIONS, ids=str)
def test_convolution_is_the_sum_of_its_definition(case: OpCase) -> None:
    op = case.op
    assert isinstance(op, Conv2d)
    x, w, *bias = make_operands(case, np.float64)
    y = op.reference(x, w, *bias)
    top, left, _, _ = op.padding
    k_group, c_group = w.shape[0] // op.groups, w.shape[1]
    generator = np.random.default_rng(0)
    positions = list(np.ndindex(y.shape))
    for index in generator.permutation(len(positions))[:60]:
        n, k, i, j = positions[index]
        total = bias[0][k] if bias else 0.0
        for c, r, s in np.ndindex(w.shape[1:]):
            u, v = i * op.stride[0] + r * op.dilation[0] - top, j * op.stride[1] + s * op.dilation[1] - left
            if 0 <= u < x.shape[2] and 0 <= v < x.shape[3]:
                total += x[n, k // k_group * c_group + c, u, v] * w[k, c, r, s]
        assert y[n, k, i, j] == pytest.approx(total, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("case", SMALL_CONVOLUTIONS, ids=str)
def test_the_three_directions_are_adjoint(case: OpCase) -> None:
    # <conv(x, w), dy> = <x, backward_data(dy, w)> = <w, backward_weights(x, dy)>
    op = case.op
    assert isinstance(op, Conv2d)
    x, w = make_operands(case, np.float64)[:2]
    y = op.reference(x, w)
    dy = np.random.default_rng(0).standard_normal(y.shape)
    dx = Conv2dBackwardData(size=x.shape[2:], **op.geometry).reference(dy, w)  # type: ignore[arg-type]
    dw = Conv2dBackwardWeights(kernel=w.shape[2:], **op.geometry).reference(x, dy)  # type: ignore[arg-type]
    product = float((y * dy).sum())
    assert float((x * dx).sum()) == pytest.approx(product, rel=1e-9)
    assert float((w * dw).sum()) == pytest.approx(product, rel=1e-9)


@pytest.mark.parametrize("case", POOLS, ids=str)
def test_pools_look_at_the_pixels_under_the_window(case: OpCase) -> None:
    op = case.op
    assert isinstance(op, (MaxPool, AvgPool))
    (x,) = make_operands(case, np.float64)
    y = op.reference(x)
    (top, left, bottom, right), height, width = op.padding, x.shape[2], x.shape[3]
    for i, j in itertools.product(range(y.shape[2]), range(y.shape[3])):
        up, across = i * op.stride[0] - top, j * op.stride[1] - left
        taps_down = [up + r * op.dilation[0] for r in range(op.kernel[0])]
        taps_across = [across + s * op.dilation[1] for s in range(op.kernel[1])]
        rows = [u for u in taps_down if 0 <= u < height]
        columns = [v for v in taps_across if 0 <= v < width]
        window = x[:, :, rows][:, :, :, columns]
        if isinstance(op, MaxPool):
            expected = window.max((2, 3))
        elif op.count_padding:
            counted_rows = sum(u < height + bottom for u in taps_down)
            counted_columns = sum(v < width + right for v in taps_across)
            expected = window.sum((2, 3)) / (counted_rows * counted_columns)
        else:
            expected = window.mean((2, 3))
        np.testing.assert_allclose(y[:, :, i, j], expected, rtol=1e-12, atol=1e-12)


def test_ties_in_max_pool_go_to_the_first_in_row_order() -> None:
    op = MaxPool((2, 2), (2, 2))
    x = np.array([[1.0, 2.0, 5.0, 5.0], [2.0, 2.0, 5.0, 5.0]])[None, None]
    dx = MaxPoolBackward((2, 2), (2, 2)).reference(np.array([[[[3.0, 7.0]]]]), x, op.reference(x))
    np.testing.assert_array_equal(dx[0, 0], [[0, 3, 7, 0], [0, 0, 0, 0]])


def test_gradients_of_overlapping_windows_add_up() -> None:
    op = MaxPool((1, 3), (1, 1))
    x = np.array([[[[0.0, 9.0, 1.0, 2.0, 3.0]]]])
    dx = MaxPoolBackward((1, 3), (1, 1)).reference(np.array([[[[1.0, 2.0, 4.0]]]]), x, op.reference(x))
    np.testing.assert_array_equal(dx.ravel(), [0, 3, 0, 0, 4])


def test_nan_is_not_swallowed() -> None:
    x = np.array([[[[1.0, np.nan], [2.0, 3.0]]]])
    assert np.isnan(MaxPool((2, 2)).reference(x)).all()
    from convc.ir.ops.activation import Relu

    assert np.isnan(Relu().reference(np.array([np.nan]))).all()


def test_cross_entropy_of_huge_logits_is_finite() -> None:
    logits = np.array([[1e4, -1e4, 0.0]], np.float32)
    assert SoftmaxCrossEntropy().reference(logits, np.array([0])) == 0
    assert SoftmaxCrossEntropy().reference(logits, np.array([1])) == pytest.approx(2e4)
    gradient = SoftmaxCrossEntropyBackward().reference(np.float32(1), logits, np.array([1]))
    np.testing.assert_array_equal(gradient, [[1, -1, 0]])


def test_cross_entropy_of_equal_logits_is_the_logarithm_of_the_classes() -> None:
    for smooth in (0.0, 0.125):
        loss = SoftmaxCrossEntropy(smooth).reference(np.zeros((5, 7)), np.arange(5))
        assert loss == pytest.approx(np.log(7))


def test_count_correct_takes_the_first_of_equal_logits() -> None:
    logits = np.array([[1.0, 1.0], [0.0, 2.0], [3.0, 2.0]], np.float32)
    assert CountCorrect().reference(logits, np.array([0, 1, 1], np.int32)) == 2
    assert CountCorrect().reference(logits, np.array([1, 1, 0], np.int32)) == 2


def test_adam_first_step_has_the_size_of_the_learning_rate() -> None:
    theta, gradient, zero = np.array([1.0, 1.0]), np.array([3.0, -0.01]), np.zeros(2)
    moved, mean, square = AdamUpdate().reference(theta, gradient, zero, zero, np.asarray(0.1), np.asarray(1))
    np.testing.assert_allclose(theta - moved, [0.1, -0.1], rtol=1e-5)
    np.testing.assert_allclose(mean, 0.1 * gradient)
    np.testing.assert_allclose(square, 0.001 * gradient**2)


@pytest.mark.parametrize("case", SMALL_CONVOLUTIONS, ids=str)
def test_convolutions_against_pytorch(case: OpCase) -> None:
    torch = pytest.importorskip("torch")
    op = case.op
    assert isinstance(op, Conv2d)
    top, left, bottom, right = op.padding
    x, w, *bias = (torch.tensor(array, requires_grad=True) for array in make_operands(case, np.float64))
    padded = torch.nn.functional.pad(x, (left, right, top, bottom))
    y = torch.nn.functional.conv2d(padded, w, *bias, stride=op.stride, dilation=op.dilation, groups=op.groups)
    dy = np.random.default_rng(0).standard_normal(tuple(y.shape))
    y.backward(torch.tensor(dy))
    arrays = make_operands(case, np.float64)
    np.testing.assert_allclose(op.reference(*arrays), y.detach().numpy(), rtol=1e-9, atol=1e-9)
    dx = Conv2dBackwardData(size=arrays[0].shape[2:], **op.geometry).reference(dy, arrays[1])  # type: ignore[arg-type]
    np.testing.assert_allclose(dx, x.grad.numpy(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", POOLS, ids=str)
def test_pools_against_pytorch(case: OpCase) -> None:
    torch = pytest.importorskip("torch")
    op = case.op
    assert isinstance(op, (MaxPool, AvgPool))
    top, left, bottom, right = op.padding
    if (top, left) != (bottom, right) or max(top, left) * 2 > min(op.kernel):
        pytest.skip("PyTorch has no such padding")
    x = torch.tensor(make_operands(case, np.float64)[0])
    if isinstance(op, MaxPool):
        y = torch.nn.functional.max_pool2d(x, op.kernel, op.stride, (top, left), op.dilation, ceil_mode=op.ceil)
    elif op.dilation != (1, 1):
        pytest.skip("PyTorch has no such pool")
    else:
        y = torch.nn.functional.avg_pool2d(
            x, op.kernel, op.stride, (top, left), ceil_mode=op.ceil, count_include_pad=op.count_padding
        )
    np.testing.assert_allclose(op.reference(x.numpy()), y.numpy(), rtol=1e-12, atol=1e-12)
