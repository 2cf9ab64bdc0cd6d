"""Whole nets against engines that others wrote. The interpreter shares its ops' definitions with us, these do not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from convc.ir.builder import Builder
from convc.ir.graph import Graph
from convc.ir.ops.activation import Tanh
from convc.ir.ops.conv import Conv2d
from convc.ir.ops.elementwise import Add
from convc.ir.ops.loss import SoftmaxCrossEntropy
from convc.ir.ops.pool import AvgPool, MaxPool
from tests.codegen.engines import onnx_logits, torch_step
from tests.codegen.whole_net import arrays_for, lowered, run_natively
from tests.passes.nets import Net, lenet

BATCH = 6


def plain() -> Graph:
    return lenet(BATCH)


def residual() -> Graph:
    """Batch norm, a skip connection, groups, stride, dilation, uneven padding, both kinds of pooling."""
    net = Net(3, 13, 11, batch=BATCH).conv(12, 3, pad=1, bias=False).bn().relu()
    skip = net.value
    net.conv(12, 3, pad=1, groups=3).bn()
    net.value = Builder(net.graph).add(Add(), net.value, skip)
    net.relu().apply("pool", MaxPool((3, 3), (2, 2), (1, 1, 1, 1)))
    geometry = Conv2d((1, 2), (2, 0, 1, 1), (2, 1))
    net.apply("conv", geometry, ("weight", (10, 12, 3, 2), "weight"), ("bias", (10,), "bias"))
    net.apply("tanh", Tanh()).apply("pool", AvgPool((2, 2), (1, 1), (1, 1, 1, 1)))
    return net.fc(9).bn().relu().fc(7).build()


def smoothed() -> Graph:
    net = Net(5, batch=BATCH).fc(20).apply("tanh", Tanh()).fc(4)
    graph = net.build()
    graph.outputs["loss"] = Builder(graph).add(
        SoftmaxCrossEntropy(0.125), graph.outputs["logits"], graph.inputs["labels"]
    )
    return graph


NETS = [plain, residual, smoothed]


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("rows", [BATCH, 4])
def test_inference_agrees_with_onnx_runtime(net: Callable[[], Graph], rows: int) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    graph = lowered(net(), "infer")
    arrays = arrays_for(graph, rows)
    expected = onnx_logits(net(), arrays)
    np.testing.assert_allclose(run_natively(graph, arrays)["logits"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("net", NETS)
def test_training_agrees_with_pytorch(net: Callable[[], Graph]) -> None:
    pytest.importorskip("torch")
    graph = lowered(net(), "train")
    arrays = arrays_for(graph, BATCH)
    actual = run_natively(graph, arrays)
    for name, expected in torch_step(net(), arrays).items():
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(actual[name], expected, rtol=0, atol=1e-5 * scale, err_msg=name)
