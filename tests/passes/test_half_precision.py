"""Casts by policy: what computes in 16 bits, what stays float32, and how few casts that takes."""

from __future__ import annotations

import numpy as np
import pytest

from convc.frontend import loads
from convc.ir.builder import Builder
from convc.ir.graph import Graph
from convc.ir.interpreter import run_reference
from convc.ir.ops import (
    Add,
    BatchNormTraining,
    Cast,
    ChannelSum,
    Concat,
    Constant,
    Conv2d,
    Conv2dBackwardData,
    Conv2dBackwardWeights,
    Linear,
    MaxPool,
    Relu,
    SoftmaxCrossEntropy,
)
from convc.ir.ops.update import SgdUpdate, Update
from convc.ir.printer import print_ir
from convc.ir.types import DType, f32
from convc.ir.verify import verify
from convc.passes.base import Mode, PassLog
from convc.passes.fold_constants import FoldConstants
from convc.passes.half_precision import HalfPrecision, Precision
from convc.passes.manager import PassManager
from convc.passes.pipeline import Recipe, pipeline
from convc.passes.specialize import Specialize
from tests.strategies import random_arrays

NET = """
net n {
  input 3x12x12
  conv 8 k=3 pad=1 -> bn -> relu as fine
  residual { conv 8 k=3 pad=1 -> bn -> relu -> conv 8 k=3 pad=1 -> bn } -> relu
  pool max 2 -> deconv 4 k=2 s=2 -> concat fine -> dropout 0.2
  pool avg global -> fc 30 -> relu -> fc 5
  loss softmax
}
"""


def half(text: str, mode: Mode, kind: Precision = "bf16", fp32: tuple[str, ...] = ()) -> Graph:
    graph = loads(text).graph(4)
    PassManager(pipeline(mode, recipe=Recipe(SgdUpdate(momentum=0.9)), types=HalfPrecision(kind, fp32))).run(graph)
    return graph


def types(graph: Graph, *kinds: type) -> set[DType]:
    return {result.type.dtype for node in graph.nodes_of(*kinds) for result in node.results[:1]}


@pytest.mark.parametrize(("kind", "dtype"), [("bf16", DType.BF16), ("fp16", DType.F16)])
def test_who_computes_in_what(kind: Precision, dtype: DType) -> None:
    graph = half(NET, "train", kind)
    assert types(graph, Conv2d, Conv2dBackwardData, Linear, MaxPool, Relu, BatchNormTraining) == {dtype}
    assert types(graph, SoftmaxCrossEntropy, Conv2dBackwardWeights, ChannelSum, Update) == {DType.F32}
    for node in graph.nodes_of(BatchNormTraining):
        assert {result.type.dtype for result in node.results[1:]} == {DType.F32}
    assert all(parameter.value.type.dtype is DType.F32 for parameter in graph.parameters.values())
    results = (*graph.outputs.values(), *graph.updates.values())
    assert {value.type.dtype for value in results} == {DType.F32}


def test_a_value_is_cast_once() -> None:
    graph = half(NET, "train")
    sources = [(node.operands[0], node.op) for node in graph.nodes_of(Cast)]
    assert len(sources) == len(set(sources))
    weights = [p.value for name, p in graph.parameters.items() if name.endswith(".weight") and "bn" not in name]
    forward = [source for source, op in sources if op == Cast("bf16")]
    # Weights, images, and the gradient of the loss; everything between has 16 bits already.
    assert set(weights) < set(forward)
    assert len(forward) == len(weights) + 2
    back = [source for source, op in sources if op == Cast("f32")]
    assert [source.producer.label for source in back if source.producer] == ["fc2"]


def test_layers_that_stay_single() -> None:
    graph = half(NET, "infer", fp32=("conv1", "fc*"))
    found = {node.label: node.result.type.dtype for node in graph.nodes_of(Conv2d, Linear)}
    assert found["conv1"] is DType.F32
    assert {found[name] for name in ("fc1", "fc2")} == {DType.F32}
    assert {found[name] for name in ("res1.conv1", "res1.conv2")} == {DType.BF16}


def test_back_and_forth_is_not_cast() -> None:
    """What is cast for one reader is read as it was by another that wants float32."""
    graph = half("net n { input 2x4x4 -> conv 3 k=1 -> conv 3 k=1 -> fc 2 -> loss softmax }", "infer", fp32=("conv2",))
    single = next(node for node in graph.nodes_of(Conv2d) if node.label == "conv2")
    assert single.result.type.dtype is DType.F32
    for node in graph.nodes_of(Cast):
        source = node.operands[0].producer
        assert source is None or not isinstance(source.op, Cast)


def test_constants_are_not_stored_in_16_bits() -> None:
    graph = Graph("g")
    b = Builder(graph)
    x, w = graph.add_input("x", f32(2, 3, 4, 4)), graph.add_parameter("w", f32(3, 3, 1, 1))
    constant = b.add(Constant((0.1,), (2, 3, 4, 4)))
    graph.outputs = {"logits": b.add(Add(), b.add(Conv2d(), x, w), constant)}
    PassManager([HalfPrecision("bf16"), FoldConstants()]).run(graph)
    assert types(graph, Add) == {DType.BF16}
    assert types(graph, Constant) == {DType.F32}
    arrays = random_arrays(graph, 0)
    exact = np.einsum("nchw,kcrs->nkhw", arrays["x"], arrays["w"]) + np.float32(0.1)
    np.testing.assert_allclose(run_reference(graph, arrays)["logits"], exact, rtol=0, atol=0.05)


def kinds_of(graph: Graph) -> dict[str, str]:
    """The element types of products, by layer."""
    products = graph.nodes_of(Conv2d, Conv2dBackwardData, Linear)
    return {node.label: node.operands[0].type.dtype.value for node in products}


def test_layers_may_differ() -> None:
    graph, log = loads(NET).graph(2), PassLog()
    PassManager([Specialize("train")]).run(graph)
    asked = HalfPrecision("bf16", ("fc*",), (("conv1", "fp16"), ("res1.conv2", "fp32"), ("fc2", "fp16")))
    assert asked.kinds == ("fp16", "bf16")
    asked.run(graph, log)
    verify(graph)
    assert kinds_of(graph) == {
        "conv1": "f16", "res1.conv1": "bf16", "res1.conv2": "f32", "deconv1": "bf16", "fc1": "f32", "fc2": "f32",
    }  # fmt: skip
    assert "conv2d(conv1): conv2d in f16: asked for" in [f"{e.before}: {e.why}" for e in log.of("changed")]
    # `fine` is f16, what it is joined with bf16.
    (concat,) = graph.nodes_of(Concat)
    assert {operand.type.dtype for operand in concat.operands} == {DType.F32}
    reasons = {entry.why for entry in log.of("missed") if entry.before.startswith("concat(")}
    assert reasons == {"its operands are of both kinds"}


def test_a_layer_alone_may_have_16_bits() -> None:
    graph = loads(NET).graph(2)
    PassManager([Specialize("train")]).run(graph)
    asked = HalfPrecision("fp32", (), (("res1.conv1", "bf16"), ("pool1", "bf16"), ("loss1", "fp16")))
    PassManager([asked]).run(graph)
    assert {label for label, kind in kinds_of(graph).items() if kind == "bf16"} == {"res1.conv1"}
    assert types(graph, MaxPool) == {DType.BF16}
    assert types(graph, SoftmaxCrossEntropy) == {DType.F32}


def test_nothing_asked_for_nothing_done() -> None:
    graph = loads(NET).graph(2)
    before = print_ir(graph)
    PassManager([HalfPrecision("fp32")]).run(graph)
    assert print_ir(graph) == before
    assert HalfPrecision("fp32").alters(graph) is None


def test_the_log_says_what_ran_in_what_and_why() -> None:
    graph, log = loads(NET).graph(2), PassLog()
    PassManager([Specialize("train")]).run(graph)
    HalfPrecision("bf16", ("conv1",)).run(graph, log)
    assert [f"{entry.before}: {entry.why}" for entry in log.of("changed")] == [
        f"{op}({label}): {op} in bf16: products are added up in f32"
        for label, op in (
            ("res1.conv1", "conv2d"),
            ("res1.conv2", "conv2d"),
            ("deconv1", "conv2d_backward_data"),
            ("fc1", "linear"),
            ("fc2", "linear"),
        )
    ]
    missed = {entry.before: entry.why for entry in log.of("missed")}
    assert missed["conv2d(conv1)"] == "asked for"
    assert missed["softmax_cross_entropy(loss1)"] == "softmax_cross_entropy needs the digits"
    assert log.metrics["half"] > log.metrics["single"] > 0
    assert log.metrics["casts"] == len(list(graph.nodes_of(Cast)))
