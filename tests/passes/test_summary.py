"""The table of layers: weight counts of the lectures, known totals, and memory that adds up."""

from __future__ import annotations

import pytest

from convc.ir.builder import Builder
from convc.ir.graph import Graph
from convc.ir.ops.activation import Relu
from convc.ir.ops.conv import Conv2dBackwardData
from convc.ir.ops.elementwise import Add, Exp
from convc.ir.ops.linear import Linear
from convc.ir.ops.update import AdamUpdate, SgdUpdate
from convc.ir.types import f32
from convc.passes.live_bytes import peak_bytes
from convc.passes.summary import Layer, summarize
from tests.passes.nets import Net, lenet, vgg16


def layers_of(graph: Graph) -> dict[str, Layer]:
    kinds = {node.label: node.label.rstrip("0123456789") for node in graph.nodes}
    return {layer.name: layer for layer in summarize(graph, kinds=kinds).layers}


def test_dense_sparse_and_shared_weights() -> None:
    """Lecture: a 4x4 input, a 2x2 kernel, stride 2: dense 16x4 = 64 weights, sparse 16, shared 4."""
    (conv,) = summarize(Net(1, 4, 4).conv(1, 2, s=2, bias=False).build(loss=False)).layers
    assert (conv.dense_weights, conv.sparse_weights, conv.params) == (64, 16, 4)


def test_connections_to_padding_do_not_count() -> None:
    (conv,) = summarize(Net(1, 1, 1).conv(1, 3, pad=1, bias=False).build(loss=False)).layers
    assert (conv.dense_weights, conv.sparse_weights, conv.params) == (1, 1, 9)


def test_groups_cut_connections() -> None:
    whole = summarize(Net(4, 5, 5).conv(8, 3).build(loss=False)).layers[0]
    split = summarize(Net(4, 5, 5).conv(8, 3, groups=4).build(loss=False)).layers[0]
    assert split.sparse_weights * 4 == whole.sparse_weights == 8 * 4 * 9 * 9
    assert split.macs * 4 == whole.macs


def test_transposed_convolutions_connect_what_the_convolution_does() -> None:
    op = Conv2dBackwardData(stride=(2, 2), size=(8, 6))
    layer = layers_of(Net(5, 4, 3).apply("deconv", op, ("weight", (5, 2, 2, 2), "weight")).build(loss=False))["deconv1"]
    assert (layer.params, layer.output) == (40, (2, 8, 6))
    assert layer.macs == layer.sparse_weights == 5 * 4 * 3 * 2 * 2 * 2
    assert layer.dense_weights == 5 * 4 * 3 * 2 * 8 * 6


def test_parameters_of_ten_5x5_filters() -> None:
    """Lecture: 10 filters of 5x5 over 32x32x3 with padding 2: 760 parameters."""
    (conv,) = summarize(Net(3, 32, 32).conv(10, 5, pad=2).build(loss=False)).layers
    assert (conv.params, conv.output) == (760, (10, 32, 32))


def test_small_filters_save_parameters() -> None:
    """Lecture: 49C² for one 7x7, 27C² for three 3x3, and the same receptive field."""
    channels = 6
    single = summarize(Net(channels, 20, 20).conv(channels, 7, bias=False).build(loss=False))
    stack = Net(channels, 20, 20)
    for _ in range(3):
        stack.conv(channels, 3, bias=False)
    several = summarize(stack.build(loss=False))
    assert (single.params, several.params) == (49 * channels**2, 27 * channels**2)
    assert single.layers[-1].receptive_field == several.layers[-1].receptive_field


def test_vgg16() -> None:
    """138 M parameters, 15.5 G multiplications; memory and parameters per layer as the course tabulates them."""
    summary = summarize(vgg16())
    layers = {layer.name: layer for layer in summary.layers}
    assert summary.params == 138_357_544
    assert summary.macs == 15_470_264_320
    assert layers["conv1"].activation_bytes == 4 * 224 * 224 * 64
    assert layers["conv2"].params - 64 == 3 * 3 * 64 * 64
    assert layers["pool5"].output == (512, 7, 7)
    assert layers["fc1"].params - 4096 == 7 * 7 * 512 * 4096 == 102_760_448
    stored = sum(layer.activation_bytes for layer in summary.layers if layer.kind in ("conv2d", "max_pool", "linear"))
    assert stored == 4 * 15_087_080


def test_rows_of_a_small_net() -> None:
    layers = layers_of(lenet(batch=8))
    assert list(layers) == [
        "conv1", "relu1", "pool1", "conv2", "relu2", "pool2", "flatten1", "fc1", "relu3", "fc2", "loss1",
    ]  # fmt: skip
    conv = layers["conv2"]
    assert (conv.kind, conv.line, conv.input, conv.output) == ("conv", 5, (20, 12, 12), (50, 8, 8))
    assert (conv.params, conv.macs, conv.activation_bytes) == (25_050, 50 * 64 * 500, 4 * 8 * 50 * 64)
    assert conv.receptive_field is not None
    assert (conv.receptive_field.size, conv.receptive_field.stride) == ((14, 14), (2, 2))
    assert (layers["fc1"].dense_weights, layers["fc1"].sparse_weights) == (400_000, 400_000)
    assert (layers["relu1"].params, layers["relu1"].macs, layers["relu1"].dense_weights) == (0, 0, 0)
    assert (layers["loss1"].kind, layers["loss1"].input, layers["loss1"].output) == ("loss", (10,), ())


def test_fc_flattens_in_its_own_row() -> None:
    layers = layers_of(Net(2, 3, 3).fc(4).build(loss=False))
    assert list(layers) == ["fc1"]
    assert (layers["fc1"].kind, layers["fc1"].input, layers["fc1"].output) == ("fc", (2, 3, 3), (4,))


def test_buffers_are_no_parameters() -> None:
    summary = summarize(Net(3, 6, 6).conv(5, 3, bias=False).bn().relu().build(loss=False))
    assert {layer.name: layer.params for layer in summary.layers} == {"conv1": 135, "bn1": 10, "relu1": 0}
    assert summary.params == 145


def test_parameters_used_twice_count_once() -> None:
    graph = Graph("g")
    builder, x = Builder(graph), graph.add_input("x", f32(1, 3))
    weight = graph.add_parameter("w", f32(3, 3))
    value = x
    for label in ("fc1", "fc2"):
        with builder.at((), label):
            value = builder.add(Linear(), value, weight)
    graph.outputs["logits"] = value
    summary = summarize(graph)
    assert [layer.params for layer in summary.layers] == [9, 0]
    assert summary.params == 9


def test_a_shared_layer_has_a_row_for_each_use() -> None:
    graph = Graph("g")
    builder, value = Builder(graph), graph.add_input("x", f32(1, 3))
    weight = graph.add_parameter("w", f32(3, 3))
    for label, op, *operands in (("a", Linear(), weight), ("b", Exp()), ("a", Linear(), weight)):
        with builder.at((), label):
            value = builder.add(op, value, *operands)
    graph.outputs["logits"] = value
    rows = summarize(graph).layers
    assert [(row.name, row.params, row.macs, row.activation_bytes) for row in rows] == [
        ("a", 9, 9, 12), ("b", 0, 0, 0), ("a", 0, 9, 12),
    ]  # fmt: skip


def test_work_does_not_depend_on_the_batch_but_memory_does() -> None:
    one, many = summarize(lenet(batch=1)), summarize(lenet(batch=64))
    assert one.macs == many.macs
    assert one.params == many.params == 431_080
    # The loss is one number whatever the batch.
    assert many.activation_bytes - 4 == 64 * (one.activation_bytes - 4)
    assert many.inference_bytes > one.inference_bytes


def test_training_takes_the_states_of_the_optimiser() -> None:
    graph = lenet()
    plain = summarize(graph, SgdUpdate()).training_bytes
    momentum = summarize(graph, SgdUpdate(momentum=0.9)).training_bytes
    adam = summarize(graph, AdamUpdate()).training_bytes
    assert plain is not None
    assert momentum is not None
    assert adam is not None
    assert momentum - plain == 4 * 431_080
    assert adam - plain == 2 * 4 * 431_080


def test_the_graph_is_left_alone_and_needs_no_loss() -> None:
    graph = Net(1, 8, 8).conv(2, 3).bn().dropout().fc(3).build(loss=False)
    before = str(graph)
    summary = summarize(graph)
    assert str(graph) == before
    assert summary.training_bytes is None


def test_inference_keeps_two_tensors_of_a_chain() -> None:
    net = Net(1, 10, 10)
    for _ in range(5):
        net.conv(1, 3, pad=1)
    assert peak_bytes(net.build(loss=False)) == 2 * 400


def test_elementwise_results_take_the_place_of_what_dies() -> None:
    graph = Graph("g")
    builder, x = Builder(graph), graph.add_input("x", f32(1, 100))
    first = builder.add(Relu(), x)
    graph.outputs["logits"] = builder.add(Relu(), first)
    assert peak_bytes(graph) == 400
    graph.outputs["logits"] = builder.add(Add(), graph.outputs["logits"], x)
    assert peak_bytes(graph) == 800


@pytest.mark.parametrize("batch", [1, 3])
def test_outputs_live_to_the_end(batch: int) -> None:
    graph = Graph("g")
    builder, x = Builder(graph), graph.add_input("x", f32(batch, 10))
    graph.outputs["early"] = builder.add(Relu(), x)
    graph.outputs["logits"] = builder.add(Relu(), graph.outputs["early"])
    assert peak_bytes(graph) == 2 * 40 * batch
