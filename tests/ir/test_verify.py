"""The verifier: what the builder makes is sound, and each kind of damage is seen and named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given

from convc.ir.builder import Builder
from convc.ir.diagnostic import CompileError
from convc.ir.graph import Graph, Node, Parameter, Value
from convc.ir.ops.activation import Maxout, Relu
from convc.ir.ops.conv import Conv2d
from convc.ir.ops.elementwise import Add
from convc.ir.ops.linear import Linear
from convc.ir.ops.norm import BatchNormTraining
from convc.ir.ops.pool import MaxPool
from convc.ir.ops.shape import Flatten, Unflatten
from convc.ir.span import Span
from convc.ir.types import DType, Layout, TensorType, f32
from convc.ir.verify import problems, verify
from tests.strategies import graphs


def sound() -> Graph:
    """conv, batch norm, add, flatten, fc: nodes 0 to 4."""
    graph = Graph("net")
    x = graph.add_input("x", f32(2, 3, 5, 5))
    graph.add_input("y", f32(2, 3, 5, 5))
    conv = graph.add_parameter("conv.weight", f32(4, 3, 3, 3))
    gamma = graph.add_parameter("bn.gamma", f32(4))
    mean = graph.add_parameter("bn.mean", f32(4), role="mean", trainable=False)
    weight = graph.add_parameter("fc.weight", f32(10, 36))
    b = Builder(graph)
    with b.at((Span("net.cnn", 3, 3, 3, 7),), "conv"):
        value = b.add(Conv2d(), x, conv)
    norm = b.add_node(BatchNormTraining(), value, gamma, mean)
    value = b.add(Add(), norm.results[0], norm.results[0])
    value = b.add(Linear(), b.add(Flatten(), value), weight)
    graph.outputs["logits"] = value
    graph.updates["bn.mean"] = norm.results[1]
    return graph


def set_attribute(graph: Graph, index: int, op: object) -> None:
    graph.nodes[index].op = op  # type: ignore[assignment]


def retype(value: Value, type: TensorType) -> None:
    value.type = type


def forget_use(graph: Graph) -> None:
    graph.nodes[2].operands[0].users.pop()


def foreign_operand(graph: Graph) -> None:
    graph.set_operand(graph.nodes[0], 0, Graph("other").add_input("x", f32(2, 3, 5, 5)))


def foreign_result_of_removed_node(graph: Graph) -> None:
    extra = Node(Relu(), (graph.inputs["x"],), (), "")
    graph.set_operand(graph.nodes[0], 0, extra.result)


def unplaced_user(graph: Graph) -> None:
    node = Node(Relu(), (graph.inputs["x"],), (), "ghost")
    graph.inputs["x"].users.append((node, 0))


def bypass_set_operand(graph: Graph) -> None:
    node = graph.nodes[0]
    node.operands = (graph.inputs["y"], node.operands[1])


def rename_parameter(graph: Graph) -> None:
    graph.parameters["other"] = graph.parameters.pop("fc.weight")


def same_name_twice(graph: Graph) -> None:
    graph.inputs["fc.weight"] = Value(f32(2), "fc.weight")


def steal_result(graph: Graph) -> None:
    graph.nodes[1].results = (graph.nodes[0].result, *graph.nodes[1].results[1:])


def replace_parameter(graph: Graph) -> None:
    old = graph.parameters["bn.gamma"]
    graph.parameters["bn.gamma"] = Parameter(old.name, Value(old.value.type, old.name))


# What is done to the graph, and words that the report must hold.
CORRUPTIONS: dict[str, tuple[Callable[[Graph], object], str]] = {
    "order": (lambda g: g.nodes.reverse(), "used before it is defined"),
    "two nodes swapped": (
        lambda g: g.nodes.__setitem__(slice(0, 2), [g.nodes[1], g.nodes[0]]),
        "batch_norm_training: operand 0 is used before",
    ),
    "node missing": (lambda g: g.nodes.pop(0), "conv2d conv: uses a value of the graph but is not in it"),
    "node twice": (lambda g: g.nodes.append(g.nodes[4]), "result 0 is defined twice"),
    "wrong shape": (lambda g: retype(g.nodes[0].result, f32(2, 4, 3, 4)), "the result is f32[2,4,3,4], but should be"),
    "wrong element type": (
        lambda g: retype(g.nodes[0].result, TensorType(DType.F16, (2, 4, 3, 3))),
        "f16[2,4,3,3], but should be f32[2,4,3,3]",
    ),
    "wrong input": (lambda g: retype(g.inputs["x"], f32(2, 4, 5, 5)), "4 input channels"),
    "wrong parameter": (lambda g: retype(g.parameters["fc.weight"].value, f32(10, 35)), "36 features"),
    "wrong attribute": (lambda g: set_attribute(g, 0, Conv2d(stride=(2, 2))), "but should be f32[2,4,2,2]"),
    "senseless attribute": (lambda g: set_attribute(g, 0, Conv2d(stride=(0, 1))), "stride must be at least 1"),
    "kernel too large": (lambda g: set_attribute(g, 0, Conv2d(dilation=(3, 3))), "larger than the padded input"),
    "other op": (lambda g: set_attribute(g, 3, Unflatten((4, 9))), "does not unfold"),
    "op with other operands": (lambda g: set_attribute(g, 2, Relu()), "relu takes 1 operands, not 2"),
    "op with other results": (lambda g: set_attribute(g, 1, Relu()), "relu takes 1 operands, not 3"),
    "image op on rows": (lambda g: set_attribute(g, 4, MaxPool()), "max_pool takes 1 operands"),
    "groups of channels": (lambda g: set_attribute(g, 3, Maxout(3)), "4 channels do not split"),
    "use not listed": (forget_use, "operand 1 does not list this use exactly once"),
    "use listed twice": (
        lambda g: g.nodes[2].operands[0].users.append((g.nodes[2], 0)),
        "operand 0 does not list this use exactly once",
    ),
    "use at a wrong place": (
        lambda g: g.inputs["y"].users.append((g.nodes[0], 0)),
        "is listed as a user of <y: f32[2,3,5,5]> but does not use it",
    ),
    "use beyond the operands": (lambda g: g.inputs["y"].users.append((g.nodes[0], 7)), "but does not use it"),
    "operand set by hand": (bypass_set_operand, "does not list this use"),
    "operand of another graph": (foreign_operand, "belongs to another graph"),
    "operand of no graph": (foreign_result_of_removed_node, "operand 0 is used before it is defined"),
    "user outside": (unplaced_user, "relu ghost: uses a value of the graph but is not in it"),
    "parameter replaced": (replace_parameter, "operand 1 is used before it is defined"),
    "parameter renamed": (rename_parameter, "parameter other calls itself fc.weight"),
    "name of input and parameter": (same_name_twice, "fc.weight is an input and a parameter"),
    "result without producer": (lambda g: setattr(g.nodes[0].result, "producer", None), "does not point back"),
    "result with another index": (lambda g: setattr(g.nodes[1].results[2], "index", 1), "result 2 does not point back"),
    "result of another node": (steal_result, "result 0 does not point back"),
    "results missing": (lambda g: setattr(g.nodes[1], "results", g.nodes[1].results[:3]), "but should be"),
    "output elsewhere": (lambda g: g.outputs.update(logits=Value(f32(2))), "output logits is not a value of the graph"),
    "update of nothing": (lambda g: g.updates.update(nobody=g.inputs["x"]), "nobody, which is not a parameter"),
    "update elsewhere": (lambda g: g.updates.update({"bn.mean": Value(f32(4))}), "update of bn.mean is not a value"),
    "update of another type": (
        lambda g: g.updates.update({"bn.mean": g.inputs["x"]}),
        "update of bn.mean is f32[2,3,5,5], but the parameter f32[4]",
    ),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_damage_is_seen(name: str) -> None:
    graph = sound()
    damage, words = CORRUPTIONS[name]
    damage(graph)
    with pytest.raises(CompileError) as caught:
        verify(graph)
    assert words in str(caught.value)
    assert {diagnostic.code for diagnostic in caught.value.diagnostics} == {"verify-graph"}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_damage_is_seen_after_the_graph_was_found_sound(name: str) -> None:
    graph, inferred = sound(), dict[Node, tuple[object, ...]]()
    verify(graph, inferred)
    assert len(inferred) == len(graph.nodes)
    CORRUPTIONS[name][0](graph)
    assert problems(graph, inferred) == problems(graph) != []


def test_sound_graph() -> None:
    assert problems(sound()) == []
    assert problems(Graph("empty")) == []


def test_all_problems_are_reported_with_their_places() -> None:
    graph = sound()
    graph.nodes[0].result.type = f32(2, 4, 3, 4)
    graph.outputs["loss"] = Value(f32())
    found = problems(graph)
    assert len(found) >= 3
    assert found[0].span == Span("net.cnn", 3, 3, 3, 7)
    assert found[0].message.startswith("conv2d conv: ")


def test_layouts_are_not_the_business_of_inference() -> None:
    graph = sound()
    graph.nodes[0].result.type = graph.nodes[0].result.type.with_layout(Layout("nhwc", 16))
    assert problems(graph) == []


def test_many_uses_of_one_value_cost_linear_time() -> None:
    graph = Graph("wide")
    x = graph.add_input("x", f32(1, 1))
    b = Builder(graph)
    for _ in range(5000):
        b.add(Add(), x, x)
    # A quadratic search would take minutes here.
    assert problems(graph) == []


@given(graphs())
def test_random_graphs_are_sound(graph: Graph) -> None:
    verify(graph)
    verify(graph.copy())
