"""Which nodes become one kernel, which do not and why, and what a kernel has to store."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import convc
from convc.codegen.llvm.lowering import scratch_bytes
from convc.frontend import loads
from convc.ir.builder import Builder
from convc.ir.graph import Graph, Node, Value
from convc.ir.op import Op
from convc.ir.ops import Cast, Linear, LinearBackwardData
from convc.ir.ops.activation import LeakyRelu, Relu, Softmax
from convc.ir.ops.constant import Constant
from convc.ir.ops.conv import Conv2d
from convc.ir.ops.elementwise import Add, Greater, Multiply, Select
from convc.ir.ops.join import Concat, SliceChannels
from convc.ir.ops.local_response import LocalResponseNorm
from convc.ir.ops.maps import SpatialSum
from convc.ir.ops.resample import Upsample
from convc.ir.ops.shape import Flatten, Unflatten
from convc.ir.ops.update import SgdUpdate, Update
from convc.ir.types import DType, f32
from convc.passes.base import PassLog
from convc.passes.fusion import LONGEST_CHAIN, Fuse, Kernel, fuse, is_boolean, is_elementwise, is_immediate, resolve
from convc.passes.half_precision import HalfPrecision
from convc.passes.machine import Machine
from convc.passes.manager import PassManager
from convc.passes.pipeline import Recipe, pipeline
from convc.passes.planning import make_plan
from convc.passes.sections import Section, assign_sections
from tests.codegen.whole_net import lowered
from tests.passes.nets import Net, lenet
from tests.strategies import graphs

JOINED = "its operand is still in registers"


def fused(graph: Graph) -> tuple[list[Kernel], PassLog]:
    log = PassLog()
    return fuse(graph, log), log


def names(kernels: list[Kernel]) -> list[str]:
    return [f"{kernel.label} {kernel.name}" for kernel in kernels]


def lines(log: PassLog, kind: str) -> list[str]:
    return [f"{entry.before}: {entry.why}" for entry in log.of(kind)]


def image(batch: int = 2) -> tuple[Graph, Builder, Value]:
    graph = Graph("net")
    return graph, Builder(graph), graph.add_input("x", f32(batch, 4, 6, 6))


def conv(graph: Graph, x: Value, label: str) -> Value:
    builder = Builder(graph)
    weight = graph.add_parameter(f"{label}.weight", f32(x.shape[1], x.shape[1], 3, 3))
    with builder.at((), label):
        return builder.add(Conv2d(padding=(1, 1, 1, 1)), x, weight)


def add(graph: Graph, left: Value, right: Value, label: str = "add1") -> Value:
    builder = Builder(graph)
    with builder.at((), label):
        return builder.add(Add(), left, right)


def relu(graph: Graph, x: Value, label: str = "relu1") -> Value:
    builder = Builder(graph)
    with builder.at((), label):
        return builder.add(Relu(), x)


def test_kernels_of_a_training_step() -> None:
    kernels, log = fused(lowered(lenet(), "train", SgdUpdate(momentum=0.9)))
    assert names(kernels) == [
        "conv1 conv2d+relu",
        "pool1 max_pool",
        "conv2 conv2d+relu",
        "pool2 max_pool",
        "fc1 linear+relu",
        "fc2 linear",
        "loss1 softmax_cross_entropy",
        "loss1 count_correct",
        "loss1 softmax_cross_entropy_backward",
        "fc2 linear_backward_data+select",
        "fc2 linear_backward_weights+channel_sum+sgd_update",
        "fc1 linear_backward_data",
        "fc1 linear_backward_weights+channel_sum+sgd_update",
        "pool2 max_pool_backward+select",
        "conv2 conv2d_backward_data",
        "conv2 conv2d_backward_weights+channel_sum",
        "pool1 max_pool_backward+select",
        "conv1 conv2d_backward_weights+channel_sum",
        "conv1.weight 6 sgd_update",
    ]
    assert lines(log, "changed")[:2] == [
        f"conv2d(conv1), relu(relu1): {JOINED}",
        f"conv2d(conv2), relu(relu2): {JOINED}",
    ]
    assert log.of("missed") == []


def test_a_chain_of_activations_rides_along() -> None:
    graph = lowered(Net(3, 6, 6).conv(4, 3).bn().relu().dropout().fc(3).build(), "train")
    assert names(fused(graph)[0])[:2] == ["conv1 conv2d", "bn1 batch_norm_training+relu+dropout_training"]


def test_batch_norm_at_inference_is_prepared() -> None:
    kernels, _ = fused(lowered(Net(3, 6, 6).conv(4, 3).bn().relu().bn().build(), "infer"))
    assert names(kernels) == [
        "bn1 2 add+sqrt+div+sub+mul",
        "bn1 scale_weights",
        "bn2 add+sqrt+div+mul+sub",
        "conv1 conv2d+relu+mul+add",
    ]
    assert [kernel.section for kernel in kernels] == [Section.PREPARE] * 3 + [Section.FORWARD]


def test_norms_and_activations_ride_where_channels_are_joined() -> None:
    net = Net(5, 6, 6)
    net.value = Builder(net.graph).add(Concat(), net.value, net.value)
    graph = lowered(net.bn().relu().build(loss=False), "infer")
    assert [kernel.name for kernel in fused(graph)[0] if kernel.section is Section.FORWARD] == ["concat+mul+add+relu"]


@pytest.mark.parametrize(
    ("word", "op"),
    [("lrn", LocalResponseNorm()), ("upsample", Upsample()), ("slice", SliceChannels(1, 3)), ("sum", SpatialSum())],
)
def test_activations_ride_with_what_writes_every_pixel_once(word: str, op: Op) -> None:
    graph = lowered(Net(5, 6, 6).apply(word, op).relu().build(loss=False), "infer")
    assert names(fused(graph)[0]) == [f"{word}1 {op.name}+relu"]


def test_the_bias_of_a_transposed_convolution_rides_along() -> None:
    net = loads("net n { input 3x4x4 -> deconv 5 k=2 s=2 -> relu -> noise 0.1 -> fc 2 -> loss softmax }")
    kernels = names(fused(lowered(net.graph(2), "train"))[0])
    assert "deconv1 conv2d_backward_data+add+relu+noise_training" in kernels


def test_vectors_that_are_made_later_stay_out() -> None:
    graph, builder, x = image()
    y = conv(graph, x, "conv1")
    vector = builder.add(Relu(), graph.add_parameter("v", f32(y.shape[1])))
    graph.outputs["logits"] = builder.add(Add(), y, vector)
    graph.updates["v"] = graph.parameters["v"].value  # another one after every run
    kernels, log = fused(graph)
    assert len(kernels) == 3
    assert any("it also reads relu, which runs later" in line for line in lines(log, "missed"))


def test_vectors_that_are_prepared_exist_before_everything_else() -> None:
    graph, builder, x = image()
    y = conv(graph, x, "conv1")
    vector = builder.add(Relu(), graph.add_parameter("v", f32(y.shape[1])))
    graph.outputs["logits"] = builder.add(Add(), y, vector)
    kernels, log = fused(graph)
    assert [(kernel.section, kernel.name) for kernel in kernels] == [
        (Section.PREPARE, "relu"),
        (Section.FORWARD, "conv2d+add"),
    ]
    assert log.of("missed") == []


def test_what_only_the_chain_reads_is_computed_on_the_way() -> None:
    graph, builder, x = image()
    y = conv(graph, x, "conv1")
    scaled = builder.add(Multiply(), x, builder.constant(2.0))
    graph.outputs["logits"] = builder.add(Add(), y, scaled)
    kernels, log = fused(graph)
    assert names(kernels) == ["conv1 conv2d+mul+add"]
    assert "conv2d(conv1), mul: only the kernel reads it" in lines(log, "changed")
    graph.outputs["scaled"] = scaled
    kernels, log = fused(graph)
    assert [kernel.name for kernel in kernels] == ["conv2d", "mul+add"]
    assert log.of("missed") == []  # the sum is computed on the way, if on another one


def test_masks_come_along_with_what_only_the_chain_reads() -> None:
    graph, builder, x = image()
    other = graph.add_input("other", x.type)
    y = conv(graph, x, "conv1")
    mask = builder.add(Greater(), other, builder.constant(0.0))
    chosen = builder.add(Select(), mask, other, builder.constant(0.5))
    graph.outputs["logits"] = builder.add(Add(), y, chosen)
    (kernel,), _ = fused(graph)
    assert [node.op.name for node in kernel.chain] == ["greater", "select", "add"]
    assert other in kernel.reads


def test_only_the_end_of_a_chain_is_stored() -> None:
    graph, _, x = image()
    y = relu(graph, conv(graph, x, "conv1"))
    graph.outputs["logits"] = y
    (kernel,), _ = fused(graph)
    assert kernel.writes == (y,)
    assert kernel.reads == (x, graph.parameters["conv1.weight"].value)


def test_what_another_kernel_reads_is_stored_as_well() -> None:
    graph, _, x = image()
    first = conv(graph, x, "conv1")
    y = relu(graph, first)
    graph.outputs["logits"] = add(graph, conv(graph, y, "conv2"), conv(graph, first, "conv3"))
    kernels, _ = fused(graph)
    assert kernels[0].name == "conv2d+relu"
    assert kernels[0].writes == (first, y)


def test_outputs_are_stored() -> None:
    graph, _, x = image()
    first = conv(graph, x, "conv1")
    graph.outputs = {"early": first, "logits": relu(graph, first)}
    (kernel,), _ = fused(graph)
    assert set(kernel.writes) == set(graph.outputs.values())


def test_a_skip_connection_is_added_in_the_last_convolution() -> None:
    graph, _, x = image()
    inner = relu(graph, conv(graph, x, "conv1"))
    graph.outputs["logits"] = relu(graph, add(graph, conv(graph, inner, "conv2"), x), "relu2")
    kernels, log = fused(graph)
    assert names(kernels) == ["conv1 conv2d+relu", "conv2 conv2d+add+relu"]
    assert kernels[1].reads == (inner, graph.parameters["conv2.weight"].value, x)
    assert lines(log, "missed") == []


def test_a_sum_joins_the_later_of_two_convolutions() -> None:
    graph, _, x = image()
    left, right = conv(graph, x, "conv1"), conv(graph, x, "conv2")
    graph.outputs["logits"] = add(graph, left, right)
    kernels, log = fused(graph)
    assert names(kernels) == ["conv1 conv2d", "conv2 conv2d+add"]
    assert lines(log, "missed") == []
    assert lines(log, "changed") == [f"conv2d(conv2), add(add1): {JOINED}"]


def test_what_only_the_loss_needs_does_not_ride_along_forward() -> None:
    graph = Net(3, 4, 4).fc(5).build()
    builder = Builder(graph)
    with builder.at((), "scale"):
        logits = graph.outputs["logits"]
        graph.outputs["loss"] = builder.add(Softmax(), builder.add(Multiply(), logits, builder.constant(2.0)))
    del graph.outputs["correct"]
    kernels, log = fused(graph)
    assert [(kernel.section, kernel.name) for kernel in kernels] == [
        (Section.FORWARD, "linear"),
        (Section.GRADIENT, "mul"),
        (Section.GRADIENT, "softmax"),
    ]
    assert lines(log, "missed") == ["mul(scale): it runs in another part of the step than fc1"]


def test_nothing_rides_along_with_reductions_over_channels() -> None:
    graph, builder, x = image()
    graph.outputs["logits"] = relu(graph, builder.add(Softmax(), x))
    assert [kernel.name for kernel in fused(graph)[0]] == ["softmax", "relu"]


def test_views_cost_nothing_and_end_a_chain() -> None:
    graph, builder, x = image()
    y = conv(graph, x, "conv1")
    graph.outputs["logits"] = builder.add(Flatten(), y)
    (kernel,), _ = fused(graph)
    assert kernel.writes == (y,)
    assert resolve(graph.outputs["logits"]) is y


# Booleans


def test_a_mask_is_repeated_by_every_kernel_that_reads_it() -> None:
    net = Net(4, 6, 6).conv(4, 3, pad=1)
    before = net.value
    net.apply("prelu", LeakyRelu(0.1)).conv(4, 3, pad=1)
    net.value = add(net.graph, net.value, before)
    graph = lowered(net.fc(3).build(), "train")
    masks = [node for node in graph.nodes if is_boolean(node)]
    kernels, _ = fused(graph)
    assert masks
    for mask in masks:
        readers = {user for user, _ in mask.result.users}
        for kernel in kernels:
            if readers & set(kernel.nodes):
                assert mask in kernel.chain
                assert kernel.chain.index(mask) < min(
                    kernel.chain.index(reader) for reader in readers if reader in kernel.chain
                )


def test_what_a_mask_compares_is_stored_for_the_kernels_that_repeat_it() -> None:
    graph = lowered(Net(4, 6, 6).conv(4, 3, pad=1).relu().conv(4, 3).relu().fc(3).build(), "train")
    kernels, _ = fused(graph)
    stored = {value for kernel in kernels for value in kernel.writes}
    compared = [operand for node in graph.nodes if is_boolean(node) for operand in node.operands]
    assert [value for value in compared if not is_immediate(value)]
    assert all(resolve(value) in stored or is_immediate(value) for value in compared)


# Gradients and updates


def test_a_bias_gradient_rides_with_the_weight_gradient() -> None:
    graph = lowered(Net(3, 6, 6).conv(4, 3).relu().fc(3).build(), "train")
    kernels, log = fused(graph)
    assert [kernel.name for kernel in kernels if kernel.riders] == [
        "linear_backward_weights+channel_sum",
        "conv2d_backward_weights+channel_sum",
    ]
    assert [line for line in lines(log, "changed") if "channel_sum" in line] == [
        "linear_backward_weights(fc1), channel_sum(fc1): both read the same cotangent",
        "conv2d_backward_weights(conv1), channel_sum(conv1): both read the same cotangent",
    ]


def test_a_layer_used_twice_on_one_cotangent_has_one_bias_gradient() -> None:
    net = Net(4, batch=2)
    x = net.value
    left = net.fc(4).value
    builder = Builder(net.graph)
    with builder.at((), "fc1"):
        right = builder.add(left.producer.op, relu(net.graph, x), *left.producer.operands[1:])  # type: ignore[union-attr]
    net.value = add(net.graph, left, right)
    kernels, _ = fused(lowered(net.build(), "train"))
    assert [kernel.name for kernel in kernels if "weights" in kernel.name] == [
        "linear_backward_weights+channel_sum",
        "linear_backward_weights",
    ]


def test_equal_updates_form_one_sweep_and_others_another() -> None:
    graph = Net(3, 6, 6).conv(4, 3).bn().conv(3, 4).build()
    for l2, sweeps in ((0.0, [6]), (0.01, [2, 4])):
        kernels, _ = fused(lowered(graph, "train", SgdUpdate(l2=l2)))
        assert [len(kernel.nodes) for kernel in kernels if isinstance(kernel.anchor.op, Update)] == sweeps
        assert all(isinstance(kernel.anchor.op, Update) for kernel in kernels[-len(sweeps) :])


def test_an_update_rides_behind_the_last_reader_of_its_parameter() -> None:
    net = loads("net n { input 4x1x1 -> fc 6 -> relu -> fc 5 -> relu -> fc 3 -> loss softmax }")
    graph = lowered(net.graph(2), "train", SgdUpdate(momentum=0.9))
    # The gradient comes first, so that it has to wait.
    weights = next(n for n in graph.nodes if n.op.name == "linear_backward_weights" and n.label == "fc2")
    data = next(n for n in graph.nodes if n.op.name == "linear_backward_data" and n.label == "fc2")
    graph.nodes.remove(weights)
    graph.nodes.insert(graph.nodes.index(data), weights)
    kernels, _ = fused(graph)
    for index, kernel in enumerate(kernels):
        if kernel.update is not None:
            assert not any(kernel.update.operands[0] in later.reads for later in kernels[index + 1 :])
    assert sum(kernel.update is not None for kernel in kernels) == 3


def test_a_gradient_that_somebody_else_reads_is_stored() -> None:
    net = loads("net n { input 4x1x1 -> fc 6 -> relu -> fc 3 -> loss softmax }")
    kernels, log = fused(lowered(net.graph(2), "train", Recipe(SgdUpdate(), clip=1.0)))
    assert all(kernel.update is None for kernel in kernels)
    assert lines(log, "missed") == [
        "sgd_update(fc2.weight): gradient_norm reads the gradient, too",
        "sgd_update(fc1.weight): gradient_norm reads the gradient, too",
    ]


# Any net


def training_or_inference(graph: Graph, training: bool) -> Graph:
    return lowered(graph, "train", SgdUpdate(momentum=0.5)) if training else lowered(graph, "infer")


@given(graphs(), st.booleans())
def test_every_node_is_in_one_kernel(graph: Graph, training: bool) -> None:
    graph = training_or_inference(graph, training)
    kernels, _ = fused(graph)
    placed = [node for kernel in kernels for node in kernel.nodes if not is_boolean(node)]
    free = (Constant, Flatten, Unflatten)
    wanted = [node for node in assign_sections(graph) if not isinstance(node.op, free) and not is_boolean(node)]
    assert len(placed) == len(set(placed))
    assert set(placed) == set(wanted)


@given(graphs(), st.booleans())
def test_kernels_read_what_has_been_written(graph: Graph, training: bool) -> None:
    graph = training_or_inference(graph, training)
    kernels, _ = fused(graph)
    there = {*graph.inputs.values(), *(parameter.value for parameter in graph.parameters.values())}
    there |= {node.result for node in graph.nodes if isinstance(node.op, Constant)}
    for kernel in kernels:
        assert set(kernel.reads) <= there, kernel.name
        there |= set(kernel.writes)
        assert_chain_in_order(kernel)
    assert {resolve(value) for value in (*graph.outputs.values(), *graph.updates.values())} <= there
    assert not any(value.type.dtype is DType.BOOL for kernel in kernels for value in kernel.writes)


def assert_chain_in_order(kernel: Kernel) -> None:
    """Each node reads results of nodes before it, or what the kernel reads from memory."""
    known = {*kernel.reads}
    for node in kernel.nodes:
        for operand in node.operands:
            assert operand in known or resolve(operand) in known or is_immediate(operand), kernel.name
        known |= set(node.results)


@given(graphs())
def test_sections_run_on_their_own(graph: Graph) -> None:
    """Whatever a kernel reads is written by its own section or an earlier one."""
    graph = lowered(graph, "train", SgdUpdate(momentum=0.5))
    kernels, _ = fused(graph)
    section = {value: kernel.section for kernel in kernels for value in kernel.writes}
    for kernel in kernels:
        assert all(section.get(value, kernel.section) <= kernel.section for value in kernel.reads)
        assert len({assign_sections(graph)[node] for node in _own(kernel)}) == 1


def _own(kernel: Kernel) -> list[Node]:
    return [node for node in kernel.nodes if not is_boolean(node) and (is_elementwise(node) or node is kernel.anchor)]


def test_a_long_chain_is_cut_into_equal_pieces() -> None:
    net = loads("net n {\n input 2x4x4\n conv 3 k=1\n repeat 100 { relu -> tanh }\n fc 3\n}")
    graph = lowered(net.graph(2), "infer", None)
    log = PassLog()
    chains = [len(kernel.chain) for kernel in fuse(graph, log) if kernel.chain]
    assert sum(chains) == 200
    assert max(chains) == LONGEST_CHAIN
    assert any("operations already" in entry.why for entry in log.of("missed"))
    x = np.random.default_rng(0).random((2, 2, 4, 4)).astype(np.float32)
    with convc.compile(net, batch=2) as native, convc.compile(net, batch=2, target="reference") as reference:
        np.testing.assert_allclose(native(x), reference(x), rtol=1e-4, atol=1e-6)


def halves(rows: int) -> Graph:
    """Two layers in bfloat16 that share their weights, another with weights of its own, in training."""
    text = """
      net n {
        input 12x1x1
        flatten
        shared a { fc 12 -> relu }
        reuse a
        fc 5 -> loss softmax
      }"""
    graph = loads(text).graph(rows)
    types = HalfPrecision("bf16")
    PassManager(pipeline("train", recipe=Recipe(SgdUpdate(momentum=0.9)), types=types)).run(graph)
    return graph


def test_few_rows_cast_weights_themselves() -> None:
    graph, log = halves(rows=6), PassLog()
    kernels = fuse(graph, log, rows_of_tile=6)
    casting = [kernel for kernel in kernels if kernel.prologue]
    assert all(isinstance(kernel.anchor.op, (Linear, LinearBackwardData)) for kernel in casting)
    for kernel in casting:
        (cast,) = kernel.prologue
        assert cast.operands[0] in kernel.reads
        assert cast.result not in kernel.reads
        assert kernel.nodes[0] is cast
    everywhere = [value for kernel in kernels for value in kernel.writes]
    assert not {kernel.prologue[0].result for kernel in casting}.intersection(everywhere)
    assert len({kernel.prologue for kernel in casting}) == 2, "one cast for all readers of the shared weights"
    entries = [entry for entry in log.of("changed") if entry.rule == "prologue"]
    assert {entry.why for entry in entries} == {"read as often as a copy would be, and not stored"}


def test_many_rows_share_a_cast() -> None:
    graph, log = halves(rows=7), PassLog()
    kernels = fuse(graph, log, rows_of_tile=6)
    assert not any(kernel.prologue for kernel in kernels)
    entries = [entry for entry in log.of("missed") if entry.rule == "prologue"]
    assert {entry.why for entry in entries} == {"7 rows are several tiles, and each would cast all of it"}


def test_a_cast_that_others_read_is_stored() -> None:
    graph = halves(rows=6)
    weights = next(node for node in graph.nodes_of(Cast) if node.operands[0].type.rank == 2)
    graph.outputs["weights"] = weights.result
    kernels = fuse(graph, PassLog(), rows_of_tile=6)
    assert any(weights.result in kernel.writes for kernel in kernels)
    assert all(weights not in kernel.prologue for kernel in kernels)


def test_what_is_cast_on_the_way_counts_once() -> None:
    """Kernels that repeat a cast are no further kernels that were saved, nor is its result left out twice."""
    plan = make_plan(halves(rows=6), Machine("test", lanes=16, registers=32), scratch_bytes)
    log = PassLog()
    Fuse().run(plan, log)
    nodes = {node for kernel in plan.kernels for node in kernel.nodes if not is_boolean(node)}
    assert sum(len(kernel.prologue) for kernel in plan.kernels) > len({k.prologue for k in plan.kernels if k.prologue})
    assert log.metrics["kernels_before"] == len(nodes)
    stored = {value for kernel in plan.kernels for value in kernel.writes}
    kept = {value for node in nodes for value in node.results} - stored
    assert log.metrics["bytes_not_stored"] == sum(map(plan.bytes_of, kept))
