"""The worked examples of the lectures on convolutional networks, on the reference ops."""

from __future__ import annotations

import numpy as np
import pytest

from convc.ir.builder import Builder
from convc.ir.graph import Graph
from convc.ir.interpreter import run_reference
from convc.ir.op import InferError
from convc.ir.ops.activation import LeakyRelu
from convc.ir.ops.conv import Conv2d, Conv2dBackwardData, Conv2dBackwardWeights
from convc.ir.ops.linear import Linear
from convc.ir.ops.norm import BatchNorm, BatchNormTraining
from convc.ir.ops.pool import MaxPool
from convc.ir.ops.random import Dropout, DropoutTraining
from convc.ir.ops.reduce import ChannelSum
from convc.ir.ops.update import SgdUpdate
from convc.ir.types import f32
from convc.ir.window import Window

SAME = (1, 1, 1, 1)


def image(rows: list[list[float]]) -> np.ndarray:
    return np.array(rows, np.float64)[None, None]


@pytest.mark.parametrize(("stride", "size"), [(1, 5), (2, 3)])
def test_output_size_of_a_7x7_image(stride: int, size: int) -> None:
    window = Window((3, 3), (stride, stride))
    assert window.output_size((7, 7)) == (size, size)
    assert window.unused((7, 7)) == (0, 0)


def test_stride_3_does_not_fit_a_7x7_image() -> None:
    # "Cannot": a library that rounds down silently loses a row and a column.
    assert Window((3, 3), (3, 3)).unused((7, 7)) == (1, 1)


def test_output_size_with_padding() -> None:
    window = Window((5, 5), (3, 3), (2, 2, 2, 2))
    assert window.output_size((28, 31)) == (10, 11)
    assert window.unused((28, 31)) == (0, 0)
    assert Conv2d((3, 3), (2, 2, 2, 2)).infer(f32(1, 1, 28, 31), f32(1, 1, 5, 5)) == f32(1, 1, 10, 11)


def test_printed_convolution() -> None:
    x = image([[1, 2, 3, 0], [0, 1, 2, 3], [3, 0, 1, 2], [2, 3, 0, 1]])
    w = image([[2, 0, 1], [0, 1, 2], [1, 0, 2]])
    y = Conv2d(padding=SAME).reference(x, w)
    np.testing.assert_array_equal(y[0, 0], [[7, 12, 10, 2], [4, 15, 16, 10], [10, 6, 15, 6], [8, 10, 4, 3]])
    inner = Conv2d().reference(x, w)
    np.testing.assert_array_equal(inner[0, 0], [[15, 16], [6, 15]])
    np.testing.assert_array_equal(Conv2d().reference(x, w, np.array([3.0]))[0, 0], [[18, 19], [9, 18]])


def test_two_filters_forward_and_backward() -> None:
    x = np.arange(9.0).reshape(1, 1, 3, 3)
    w = np.stack([np.full((1, 2, 2), 1.0), np.full((1, 2, 2), 2.0)])
    y = Conv2d().reference(x, w, np.ones(2))
    np.testing.assert_array_equal(y[0], [[[9, 13], [21, 25]], [[17, 25], [41, 49]]])
    dout = np.ones_like(y)
    dw = Conv2dBackwardWeights(kernel=(2, 2)).reference(x, dout)
    np.testing.assert_array_equal(dw, np.broadcast_to([[8, 12], [20, 24]], (2, 1, 2, 2)))
    np.testing.assert_array_equal(ChannelSum().reference(dout), [4, 4])
    dx = Conv2dBackwardData(size=(3, 3)).reference(dout, w)
    np.testing.assert_array_equal(dx[0, 0], [[3, 6, 3], [6, 12, 6], [3, 6, 3]])


def test_the_same_through_the_graph() -> None:
    graph = Graph("net")
    x = graph.add_input("x", f32(1, 1, 3, 3))
    w = graph.add_parameter("w", f32(2, 1, 2, 2))
    bias = graph.add_parameter("b", f32(2))
    builder = Builder(graph)
    node = builder.add_node(Conv2d(), x, w, bias)
    dy = graph.add_parameter("dy", f32(1, 2, 2, 2))
    for name, gradient in zip(("dx", "dw", "db"), node.op.vjp(builder, node, (dy,)), strict=True):
        assert gradient is not None
        graph.outputs[name] = gradient
    found = run_reference(
        graph,
        {
            "x": np.arange(9.0).reshape(1, 1, 3, 3),
            "w": np.repeat([1.0, 2.0], 4).reshape(2, 1, 2, 2),
            "b": np.ones(2),
            "dy": np.ones((1, 2, 2, 2)),
        },
    )
    np.testing.assert_array_equal(found["dx"][0, 0], [[3, 6, 3], [6, 12, 6], [3, 6, 3]])
    np.testing.assert_array_equal(found["dw"][1, 0], [[8, 12], [20, 24]])
    np.testing.assert_array_equal(found["db"], [4, 4])


@pytest.mark.parametrize(
    ("images", "kernel", "shape"),
    [((1, 3, 7, 7), 5, (9, 75)), ((10, 3, 7, 7), 5, (90, 75)), ((1, 1, 9, 9), 3, (49, 9))],
)
def test_shapes_of_im2col(images: tuple[int, ...], kernel: int, shape: tuple[int, int]) -> None:
    x = np.arange(float(np.prod(images))).reshape(images)
    patches = Window((kernel, kernel)).patches(x)
    columns = patches.transpose(0, 2, 3, 1, 4, 5).reshape(-1, images[1] * kernel * kernel)
    assert columns.shape == shape


def test_convolution_is_one_matrix_product() -> None:
    # D x (K²C) · (K²C) x N = D x N
    generator = np.random.default_rng(0)
    x, w = generator.standard_normal((2, 3, 7, 7)), generator.standard_normal((4, 3, 5, 5))
    columns = Window((5, 5)).patches(x).transpose(1, 4, 5, 0, 2, 3).reshape(75, -1)
    product = (w.reshape(4, 75) @ columns).reshape(4, 2, 3, 3).swapaxes(0, 1)
    np.testing.assert_allclose(Conv2d().reference(x, w), product, rtol=1e-12, atol=1e-12)


def test_vertical_edge_filter() -> None:
    step = image([[0, 0, 0, 100, 100, 100]] * 3)
    edge = image([[-1, 0, 1]] * 3)
    np.testing.assert_array_equal(Conv2d().reference(step, edge).ravel(), [0, 300, 300, 0])


def test_parameters_of_ten_5x5_filters() -> None:
    x, w, b = f32(1, 3, 32, 32), f32(10, 3, 5, 5), f32(10)
    assert Conv2d(padding=(2, 2, 2, 2)).infer(x, w, b) == f32(1, 10, 32, 32)
    assert w.size + b.size == 760


@pytest.mark.parametrize("c", [1, 8, 64])
def test_stacks_of_small_filters(c: int) -> None:
    large, small = f32(c, c, 7, 7).size, f32(c, c, 3, 3).size
    assert (large, 3 * small) == (49 * c * c, 27 * c * c)
    assert (f32(c, c, 5, 5).size, 2 * small) == (25 * c * c, 18 * c * c)
    assert f32(c, c, 1, 3).size + f32(c, c, 3, 1).size == 6 * c * c
    if c % 2 == 0:
        half = c // 2
        bottleneck = f32(half, c, 1, 1).size + f32(half, half, 3, 3).size + f32(c, half, 1, 1).size
        assert bottleneck == 3.25 * c * c
    # Three 3x3 see as far as one 7x7.
    size = (7, 7)
    for _ in range(3):
        size = Window((3, 3)).output_size(size)
    assert size == Window((7, 7)).output_size((7, 7)) == (1, 1)


def test_convolution_as_a_sparse_matrix_with_shared_weights() -> None:
    # 4x4 image, 2x2 kernel, stride 2: dense 16 x 4 = 64 weights, 16 of them not zero, 4 different ones.
    op, w = Conv2d(stride=(2, 2)), image([[1, 2], [3, 4]])
    dense = np.stack([op.reference(unit.reshape(1, 1, 4, 4), w).ravel() for unit in np.eye(16)])
    assert dense.size == 64
    assert np.count_nonzero(dense) == 16
    assert set(dense[dense != 0]) == {1, 2, 3, 4}
    x = np.random.default_rng(0).standard_normal((1, 1, 4, 4))
    np.testing.assert_allclose(Linear().reference(x.reshape(1, 16), dense.T), op.reference(x, w).reshape(1, 4))


def test_batch_norm_identity_at_inference() -> None:
    generator = np.random.default_rng(0)
    z = generator.standard_normal((4, 3, 5, 6))
    gamma, beta, mean = generator.standard_normal((3, 3))
    var, eps = generator.uniform(0.5, 2, 3), 1e-3
    y = BatchNorm(eps).reference(z, gamma, beta, mean, var)
    for c in range(3):
        scale = gamma[c] / np.sqrt(var[c] + eps)
        np.testing.assert_allclose(y[:, c], scale * z[:, c] + (beta[c] - scale * mean[c]), rtol=1e-12)
        direct = gamma[c] * (z[:, c] - mean[c]) / np.sqrt(var[c] + eps) + beta[c]
        np.testing.assert_allclose(y[:, c], direct, rtol=1e-9, atol=1e-12)


def test_batch_norm_statistics_run_over_images_and_positions() -> None:
    z = np.random.default_rng(0).standard_normal((4, 3, 5, 6))
    y, mean, var, unbiased = BatchNormTraining(0.0).reference(z, np.ones(3), np.zeros(3))
    count = 4 * 5 * 6
    for c in range(3):
        values = z[:, c].ravel()
        assert mean[c] == pytest.approx(values.sum() / count)
        assert var[c] == pytest.approx(((values - mean[c]) ** 2).sum() / count)
        assert unbiased[c] == pytest.approx(((values - mean[c]) ** 2).sum() / (count - 1))
    np.testing.assert_allclose(y.mean((0, 2, 3)), 0, atol=1e-12)
    np.testing.assert_allclose(y.var((0, 2, 3)), 1)
    # Population statistics of the batch itself make both forms agree.
    inference = BatchNorm(0.0).reference(z, np.ones(3), np.zeros(3), mean, var)
    np.testing.assert_allclose(inference, y, rtol=1e-9, atol=1e-12)


def update(op: SgdUpdate, theta: np.ndarray, gradient: np.ndarray, rho: float) -> np.ndarray:
    return op.reference(theta, gradient, np.asarray(rho), np.asarray(1))[0]


RHO, LAMBDA = 0.125, 0.25


def test_l2_shrinks_and_l1_shifts() -> None:
    theta, gradient = np.array([2.0, -1.0, 0.0]), np.array([0.5, 0.25, 1.0])
    ridge = update(SgdUpdate(l2=LAMBDA), theta, gradient, RHO)
    np.testing.assert_allclose(ridge, (1 - 2 * RHO * LAMBDA) * theta - RHO * gradient)
    lasso = update(SgdUpdate(l1=LAMBDA), theta, gradient, RHO)
    np.testing.assert_allclose(lasso, theta - RHO * gradient - RHO * LAMBDA * np.sign(theta))
    elastic = update(SgdUpdate(l1=LAMBDA, l2=LAMBDA), theta, gradient, RHO)
    np.testing.assert_allclose(elastic, ridge + lasso - (theta - RHO * gradient))


def test_momentum_and_nesterov() -> None:
    theta, velocity, gradient = np.array([1.0]), np.array([0.5]), np.array([0.25])
    rate, step = np.asarray(RHO), np.asarray(2)
    moved, kept = SgdUpdate(momentum=0.5).reference(theta, gradient, velocity, rate, step)
    assert kept == 0.5 * velocity + gradient
    assert moved == theta - RHO * kept
    ahead, _ = SgdUpdate(momentum=0.5, nesterov=True).reference(theta, gradient, velocity, rate, step)
    assert ahead == theta - RHO * (gradient + 0.5 * kept)


def test_dropout_is_scaled_in_training_and_nothing_at_inference() -> None:
    x = np.ones((1000, 10))
    np.testing.assert_array_equal(Dropout(0.5).reference(x), x)
    y = DropoutTraining(0.2).reference(x, np.asarray(0), np.asarray(1))
    assert set(np.unique(y)) == {0, 1.25}
    assert y.mean() == pytest.approx(1, abs=0.02)


def test_leaky_relu_slope() -> None:
    np.testing.assert_allclose(LeakyRelu().reference(np.array([-2.0, 3.0])), [-0.02, 3])


def test_lenet_sizes() -> None:
    # 28 -> 24 -> 12 -> 8 -> 4: the classic chain, and what follows flattens to 50 · 4 · 4 = 800.
    value = f32(1, 1, 28, 28)
    for channels in (20, 50):
        value = Conv2d().infer(value, f32(channels, value.shape[1], 5, 5))
        value = MaxPool((2, 2), (2, 2)).infer(value)
    assert value == f32(1, 50, 4, 4)


def test_a_kernel_must_fit() -> None:
    with pytest.raises(InferError, match="kernel 7x7 is larger than the padded input 5x5"):
        Conv2d().infer(f32(1, 1, 5, 5), f32(1, 1, 7, 7))
