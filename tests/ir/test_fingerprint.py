"""Fingerprints tell graphs apart that print differently, and no others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given

from convc.ir.builder import Builder
from convc.ir.fingerprint import fingerprint
from convc.ir.graph import Graph, Value
from convc.ir.ops.activation import LeakyRelu, Relu
from convc.ir.ops.constant import Constant
from convc.ir.ops.elementwise import Add, Multiply
from convc.ir.printer import print_ir
from convc.ir.span import Span
from convc.ir.types import DType, TensorType, f32
from tests.strategies import graphs


def net() -> Graph:
    graph = Graph("net")
    x = graph.add_input("x", f32(2, 3))
    w = graph.add_parameter("w", f32(3))
    graph.add_parameter("m", f32(3), role="mean", trainable=False)
    b = Builder(graph)
    with b.at((Span("n.cnn", 2, 1, 2, 5),), "layer1"):
        first = b.add(LeakyRelu(0.25), b.add(Multiply(), x, w))
    graph.outputs["y"] = b.add(Add(), first, b.constant(0.0))
    graph.outputs["z"] = b.add(Relu(), x)
    graph.updates["m"] = w
    return graph


def set_op(index: int, op: object) -> Callable[[Graph], object]:
    return lambda graph: setattr(graph.nodes[index], "op", op)


def change_parameter(**changes: object) -> Callable[[Graph], object]:
    return lambda graph: graph.parameters.update(w=replace(graph.parameters["w"], **changes))  # type: ignore[arg-type]


def reorder(graph: Graph) -> None:
    nodes = graph.nodes
    nodes[3], nodes[4] = nodes[4], nodes[3]


def drop(graph: Graph) -> None:
    del graph.outputs["z"]
    graph.remove([graph.nodes[4]])


CHANGES: dict[str, Callable[[Graph], object]] = {
    "another op": set_op(4, LeakyRelu(0.5)),
    "an attribute": set_op(1, LeakyRelu(0.5)),
    "a constant": set_op(2, Constant((1.0,))),
    "the sign of a zero": set_op(2, Constant((-0.0,))),
    "an operand": lambda graph: graph.set_operand(graph.nodes[3], 0, graph.inputs["x"]),
    "two operands swapped": lambda graph: setattr(graph.nodes[3], "operands", graph.nodes[3].operands[::-1]),
    "the order": reorder,
    "one node less": drop,
    "one node more": lambda graph: Builder(graph).add(Relu(), graph.inputs["x"]),
    "a label": lambda graph: setattr(graph.nodes[0], "label", "layer2"),
    "a place": lambda graph: setattr(graph.nodes[0], "location", (Span("n.cnn", 3, 1, 3, 5),)),
    "a type": lambda graph: setattr(graph.nodes[0].result, "type", TensorType(DType.F16, (2, 3))),
    "the type of an input": lambda graph: setattr(graph.inputs["x"], "type", f32(4, 3)),
    "another input": lambda graph: graph.add_input("labels", f32(2)),
    "another parameter": lambda graph: graph.add_parameter("v", f32(3)),
    "a parameter less": lambda graph: graph.updates.clear() or graph.remove_parameter("m"),
    "a parameter frozen": change_parameter(frozen=True),
    "a rate": change_parameter(lr=0.5),
    "the place of a parameter": change_parameter(span=Span("n.cnn", 2, 1, 2, 5)),
    "an output": lambda graph: graph.outputs.update(z=graph.nodes[0].result),
    "an output less": lambda graph: graph.outputs.pop("z"),
    "the order of outputs": lambda graph: graph.outputs.update(y=graph.outputs.pop("y")),
    "an update": lambda graph: graph.updates.update(m=graph.parameters["m"].value),
    "the name": lambda graph: setattr(graph, "name", "other"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_shows(name: str) -> None:
    graph, other = net(), net()
    before = fingerprint(graph)
    CHANGES[name](graph)
    assert print_ir(graph) != print_ir(other), "the test itself: the text is the judge"
    assert fingerprint(graph) != before
    assert before == fingerprint(other)


def test_what_does_not_print_is_not_compared() -> None:
    graph = net()
    before = fingerprint(graph)
    node = graph.nodes[0]
    twin = Builder(graph, before=node)
    with twin.at(node.location, node.label):
        graph.replace_uses(node.result, twin.add(Multiply(), *node.operands))
    graph.remove([node])
    assert fingerprint(graph) == before


def test_a_broken_graph_has_one() -> None:
    graph = net()
    before = fingerprint(graph)
    graph.outputs["z"] = Value(f32(2))
    assert fingerprint(graph) != before
    assert before != "something else"


@given(graphs())
def test_copies_are_equal(graph: Graph) -> None:
    assert fingerprint(graph) == fingerprint(graph.copy())
