"""Orders of features: flattened images, several readers that want different orders, weights and layers used twice.

Inside, a flattened image keeps channels innermost, while the interface and the interpreter number features channel by
channel. Every net here has images of more than one pixel where it flattens, so that a mix-up shows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from convc.ir.builder import Builder
from convc.ir.graph import Graph, Value
from convc.ir.ops.activation import Maxout, Prelu, Relu, Softmax
from convc.ir.ops.conv import Conv2d
from convc.ir.ops.elementwise import Add, Divide, Multiply, Subtract
from convc.ir.ops.linear import Linear
from convc.ir.ops.norm import BatchNorm
from convc.ir.ops.shape import Flatten, Unflatten
from convc.ir.ops.update import SgdUpdate
from convc.ir.types import f32
from tests.codegen.whole_net import arrays_for, assert_agrees, assert_same_bits, lowered, run_natively
from tests.passes.nets import Net

pytestmark = pytest.mark.slow

BATCH = 5
OPTIMIZER = SgdUpdate(momentum=0.9, nesterov=True, l2=0.01)


def image(*shape: int) -> Net:
    return Net(*(shape or (3, 2, 3)), batch=BATCH)


def features(channels: int = 5) -> Net:
    """A convolution's result, (channels, 2, 3), flattened."""
    return image().conv(channels, 1).apply("flatten", Flatten())


def join(net: Net, left: Value, right: Value) -> Net:
    net.value = Builder(net.graph).add(Add(), left, right)
    return net


def again(net: Net, layer: str, x: Value) -> Value:
    """Run a layer that exists once more, with the same parameters and under the same name."""
    builder = Builder(net.graph)
    weight, bias = (net.graph.parameters[f"{layer}.{name}"].value for name in ("weight", "bias"))
    with builder.at((), layer):
        if weight.type.rank == 4:
            return builder.add(Conv2d(padding=(1, 1, 1, 1)), x, weight, bias)
        return builder.add(Linear(), x if x.type.rank == 2 else builder.add(Flatten(), x), weight, bias)


def bn(net: Net, frozen: bool) -> Net:
    channels = net.value.shape[1]
    names = ("gamma", "beta", "mean", "var")
    return net.apply("bn", BatchNorm(frozen=frozen), *((name, (channels,), name) for name in names))


def sum_with_itself() -> Graph:
    net = features()
    return join(net, net.value, net.value).build()


# Several readers


def two_fc_of_one_image() -> Graph:
    net = features()
    flat = net.value
    left = net.fc(6).value
    net.value = flat
    return join(net, left, net.fc(6).value).build()


def fc_beside_bn() -> Graph:
    """The first reader takes the features as they lie, the second one wants them in order."""
    net = features()
    flat = net.value
    left = net.fc(6).value
    net.value = flat
    return join(net, left, net.bn().fc(6).value).build()


def bn_beside_fc() -> Graph:
    net = features()
    flat = net.value
    left = net.bn().fc(6).value
    net.value = flat
    return join(net, left, net.fc(6).value).build()


def features_plus_what_fc_makes_of_them() -> Graph:
    net = features(2)
    flat = net.value
    return join(net, flat, net.fc(12).value).fc(4).build()


def relu_read_in_both_orders() -> Graph:
    """The mask of the gradient compares features as they lie; one of its two cotangents comes in order."""
    net = features(2).relu()
    flat = net.value
    return join(net, flat, net.fc(12).value).build()


def dropout_of_flat_and_of_image() -> Graph:
    """One mask is drawn while the features lie as an image, the other one while they lie in order."""
    net = features(2).dropout()
    flat = net.value
    return join(net, flat, net.fc(12).dropout().value).dropout().fc(3).build()


# Images made of features


def unfolded() -> Net:
    net = image().fc(12)
    net.value = Builder(net.graph).add(Unflatten((3, 2, 2)), net.value)
    return net


# The same weights twice


def shared_conv_in_a_row() -> Graph:
    net = image(3, 5, 5).conv(3, 3, pad=1).relu()
    net.value = again(net, "conv1", net.value)
    return net.fc(4).build()


def shared_conv_side_by_side() -> Graph:
    """Both uses get the same cotangent."""
    net = image(3, 5, 5)
    x = net.value
    left = net.conv(3, 3, pad=1).value
    return join(net, left, again(net, "conv1", Builder(net.graph).add(Relu(), x))).fc(4).build()


def shared_conv_on_two_sizes() -> Graph:
    net = image(8, 20, 20).conv(8, 3, pad=1).relu().pool(7)
    net.value = again(net, "conv1", net.value)
    return net.fc(4).build()


def shared_fc_in_a_row() -> Graph:
    net = image(6).fc(6).relu()
    net.value = again(net, "fc1", net.value)
    return net.build()


def shared_fc_side_by_side() -> Graph:
    net = image(6)
    x = net.value
    left = net.fc(6).value
    return join(net, left, again(net, "fc1", Builder(net.graph).add(Relu(), x))).build()


def shared_fc_on_an_image_then_on_features() -> Graph:
    net = features(2).fc(12).relu()
    net.value = again(net, "fc1", net.value)
    return net.build()


def shared_fc_on_features_then_on_an_image() -> Graph:
    net = image(12).fc(12).relu()
    net.value = Builder(net.graph).add(Unflatten((3, 2, 2)), net.value)
    net.value = again(net, "fc1", net.conv(3, 1).value)
    return net.build()


def shared_fc_on_one_flat_image_twice() -> Graph:
    net = features(2)
    flat = net.value
    left = net.fc(12).value
    return join(net, left, again(net, "fc1", Builder(net.graph).add(Relu(), flat))).build()


# Inputs, and nets with little in them


def normalised_input() -> Graph:
    net = image()
    builder = Builder(net.graph)
    mean, deviation = (builder.constant(np.array(values)) for values in ([0.5, 0.25, -1.0], [2.0, 0.5, 1.5]))
    net.value = builder.add(Divide(), builder.add(Subtract(), net.value, mean), deviation)
    return net.conv(4, 2).relu().fc(3).build()


def parameters_that_nothing_reads() -> Graph:
    net = image(4).fc(3)
    net.graph.add_parameter("spare.weight", f32(2, 3, 1, 1))
    net.graph.add_parameter("spare.bias", f32(3), role="bias")
    return net.build()


def scaled_by_a_vector() -> Graph:
    """A vector of parameters meets features and images."""
    net = features(2)
    vector = net.graph.add_parameter("scale", f32(12))
    net.value = Builder(net.graph).add(Multiply(), net.value, vector)
    return net.fc(3).build()


def flat_input_before_loss() -> Graph:
    return image().apply("flatten", Flatten()).dropout().build()


CASES: dict[str, Callable[[], Graph]] = {
    "flat-loss": lambda: features().build(),
    "flat-fc": lambda: features().fc(4).build(),
    "flat-relu": lambda: features().relu().fc(4).build(),
    "flat-relu-loss": lambda: features().relu().build(),
    "flat-bn": lambda: features().bn().fc(4).build(),
    "flat-bn-loss": lambda: features().bn().relu().build(),
    "flat-frozen-bn": lambda: bn(features(), frozen=True).relu().fc(3).build(),
    "flat-dropout": lambda: features().dropout().fc(4).build(),
    "flat-dropout-loss": lambda: features().dropout().relu().build(),
    "flat-softmax": lambda: features().apply("softmax", Softmax()).fc(4).build(),
    "flat-maxout": lambda: features().apply("maxout", Maxout(2)).fc(4).build(),
    "flat-prelu": lambda: features().apply("prelu", Prelu(), ("slope", (30,), "slope")).fc(4).build(),
    "unfolded-conv": lambda: unfolded().conv(4, 2).fc(3).build(),
    "unfolded-relu-dropout-pool": lambda: unfolded().relu().dropout().pool(2).fc(3).build(),
    "unfolded-bn-flatten": lambda: unfolded().bn().relu().apply("flatten", Flatten()).fc(3).build(),
    "unfolded-fc": lambda: unfolded().fc(3).build(),
    "unfolded-loss": lambda: unfolded().build(),
    "one-colour": lambda: image(1, 6, 5).conv(4, 3).relu().fc(3).build(),
    "one-colour-fc": lambda: image(1, 6, 5).fc(3).build(),
    "three-colours-fc": lambda: image(3, 6, 5).fc(3).build(),
    "rank-2": lambda: image(7).fc(6).relu().fc(3).build(),
    "one-feature": lambda: image(1).fc(6).relu().fc(3).build(),
    "loss-of-dropout": lambda: image(4).dropout().build(),
    "loss-of-input": lambda: image(4).build(),
    "loss-of-one-pixel": lambda: image(3, 4, 4).conv(3, 3).relu().conv(4, 2).build(),
    "loss-of-pixels": lambda: image(3, 4, 4).conv(5, 3).build(),
    "frozen-bn": lambda: bn(image(3, 4, 4).conv(6, 3), frozen=True).relu().fc(3).build(),
}
for named in (
    sum_with_itself,
    two_fc_of_one_image,
    fc_beside_bn,
    bn_beside_fc,
    features_plus_what_fc_makes_of_them,
    relu_read_in_both_orders,
    dropout_of_flat_and_of_image,
    shared_conv_in_a_row,
    shared_conv_side_by_side,
    shared_conv_on_two_sizes,
    shared_fc_in_a_row,
    shared_fc_side_by_side,
    shared_fc_on_an_image_then_on_features,
    shared_fc_on_features_then_on_an_image,
    shared_fc_on_one_flat_image_twice,
    normalised_input,
    parameters_that_nothing_reads,
    scaled_by_a_vector,
    flat_input_before_loss,
):
    CASES[named.__name__] = named


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_training(case: Callable[[], Graph]) -> None:
    graph = lowered(case(), "train", OPTIMIZER)
    for rows in (BATCH, 3):
        arrays = arrays_for(graph, rows)
        single = run_natively(graph, arrays)
        assert_agrees(graph, arrays, single)
        assert_same_bits(single, run_natively(graph, arrays, threads=2))


@pytest.mark.parametrize("case", [fc_beside_bn, shared_fc_on_an_image_then_on_features, parameters_that_nothing_reads])
def test_gradients_without_an_optimiser(case: Callable[[], Graph]) -> None:
    graph = lowered(case(), "train")
    arrays = arrays_for(graph, BATCH)
    assert_agrees(graph, arrays, run_natively(graph, arrays))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_inference(case: Callable[[], Graph]) -> None:
    graph = lowered(case(), "infer")
    arrays = arrays_for(graph, 3)
    assert_agrees(graph, arrays, run_natively(graph, arrays, threads=2))
