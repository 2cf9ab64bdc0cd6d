"""Which layouts values get, and where tensors are rearranged: as seldom as their readers allow."""

from __future__ import annotations

from convc.ir.builder import Builder
from convc.ir.graph import Graph
from convc.ir.ops.elementwise import Add
from convc.ir.ops.linear import Linear
from convc.ir.ops.shape import Flatten, Relayout
from convc.ir.ops.update import SgdUpdate
from convc.ir.verify import verify
from convc.passes.arrange import Arrange
from convc.passes.base import PassLog
from convc.passes.fusion import is_boolean
from convc.passes.layout import ImageLayout, PlanarLayout, WeightLayout
from convc.passes.machine import Machine
from convc.passes.plan import Plan
from tests.codegen.whole_net import lowered
from tests.passes.nets import Net

MACHINE = Machine("test", lanes=16, registers=32)


def arranged(graph: Graph) -> tuple[Plan, PassLog]:
    """The plan after the pass has run on `graph`, and what it said."""
    plan, log = Plan(graph, MACHINE), PassLog()
    Arrange().run(plan, log)
    verify(graph)
    return plan, log


def train(net: Net) -> Graph:
    return lowered(net.build(), "train", SgdUpdate(momentum=0.9))


def relayouts(graph: Graph) -> list[str]:
    return [node.label for node in graph.nodes_of(Relayout)]


def test_colours_are_rearranged_once_and_grey_is_not() -> None:
    graph = train(Net(3, 6, 6).conv(4, 3).relu().fc(3))
    plan, log = arranged(graph)
    assert plan.layouts[graph.inputs["x"]] == PlanarLayout(3, 6, 6)
    assert relayouts(graph) == ["conv1"]
    (entry,) = log.of("changed")
    assert (entry.before, entry.after) == ("conv2d(conv1)", "relayout(conv1)")
    assert entry.why == "conv2d reads nhwc(6,6,3/4), its operand is nchw(3,6,6)"
    grey = train(Net(1, 6, 6).conv(4, 3).relu().fc(3))
    arranged(grey)
    assert relayouts(grey) == []


def test_fully_connected_layers_read_an_image_as_it_lies() -> None:
    graph = train(Net(1, 6, 6).conv(5, 3).apply("flatten", Flatten()).relu().dropout().fc(3))
    plan, _ = arranged(graph)
    assert relayouts(graph) == []
    weights = plan.layouts[graph.parameters["fc1.weight"].value]
    assert isinstance(weights, WeightLayout)
    assert weights.rows == ImageLayout.of((5, 4, 4))


def test_one_twin_serves_all_that_want_the_natural_order() -> None:
    net = Net(1, 6, 6).conv(5, 3).apply("flatten", Flatten())
    flat = net.value
    left = net.bn().value
    net.value = flat
    right = net.bn().value
    net.value = Builder(net.graph).add(Add(), left, right)
    graph = lowered(net.fc(3).build(), "train")
    arranged(graph)
    sources = [node.operands[0] for node in graph.nodes_of(Relayout)]
    assert len(sources) == len(set(sources))
    assert relayouts(graph)[0] == "bn1"


def test_readers_that_came_before_keep_what_they_read() -> None:
    net = Net(1, 6, 6).conv(5, 3).apply("flatten", Flatten())
    flat = net.value
    left = net.fc(6).value
    net.value = flat
    net.value = Builder(net.graph).add(Add(), left, net.bn().fc(6).value)
    graph = lowered(net.build(), "train")
    arranged(graph)
    (first, _) = graph.nodes_of(Linear)
    assert first.operands[0].producer is not None
    assert isinstance(first.operands[0].producer.op, Flatten)


def test_booleans_are_made_again_not_rearranged() -> None:
    graph = train(Net(1, 6, 6).conv(5, 3).apply("flatten", Flatten()).relu())
    arranged(graph)
    moved = [node.operands[0].producer for node in graph.nodes_of(Relayout)]
    assert moved
    assert not any(node is not None and is_boolean(node) for node in moved)


def test_gradients_and_states_lie_like_their_parameter() -> None:
    graph = train(Net(3, 6, 6).conv(4, 3).relu().fc(3))
    plan, _ = arranged(graph)
    for name, parameter in graph.parameters.items():
        if parameter.trainable:
            layout = plan.layouts[parameter.value]
            assert plan.layouts[graph.outputs[f"grad.{name}"]] == layout
            assert plan.layouts[graph.parameters[f"{name}.momentum"].value] == layout
            assert plan.layouts[graph.updates[name]] == layout
