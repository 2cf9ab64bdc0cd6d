"""Equality up to names: what it lets pass, and every kind of difference that it finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given

from convc.frontend import loads
from convc.ir.equivalence import difference, match
from convc.ir.graph import Graph, Initializer
from convc.ir.parser import parse_ir
from convc.ir.printer import print_ir
from tests.strategies import graphs


def graph(body: str, batch: int = 2) -> Graph:
    return loads(f"net n {{ input 2x6x6 -> {body} }}").graph(batch)


BODY = "conv 2 k=3 pad=1 as a -> bn -> dropout 0.5 -> tanh -> dropout 0.5 -> add a -> fc 3 -> loss softmax"


@given(graphs())
def test_a_graph_equals_its_copy(original: Graph) -> None:
    found = match(original, original.copy())
    assert found.difference is None
    assert found.parameters == {name: name for name in original.parameters}


def test_names_places_and_numbers_do_not_count() -> None:
    other = graph(BODY.replace("pad=1", "pad=1 name=c").replace("fc 3", "fc 3 name=f"))
    found = match(graph(BODY), other)
    assert found.difference is None
    assert found.parameters["conv1.weight"] == "c.weight"


def test_the_order_of_independent_nodes_does_not_count() -> None:
    first = graph("as x -> relu as r -> from x -> tanh -> add r")
    second = graph("as x -> tanh as t -> from x -> relu as r -> from t -> add r")
    assert [node.op.name for node in first.nodes] != [node.op.name for node in second.nodes]
    assert difference(first, second) is None


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (BODY.replace("fc 3", "fc 4"), "type of parameter fc1."),
        (BODY.replace("tanh", "relu"), "tanh1: "),
        (BODY.replace("dropout 0.5", "dropout 0.25", 1), "dropout1: "),
        (BODY.replace("add a", "mul a"), "add: "),
        (BODY.replace("add a", "concat a"), "fc1.weight"),
        (BODY.replace("fc 3", "fc 3 bias=no"), "operands"),
        (BODY.replace("fc 3", "fc 3 lr=0.5"), "lr of parameter fc1."),
        (BODY.replace("fc 3", "fc 3 decay=0"), "decay of parameter fc1."),
        (BODY.replace("fc 3", "fc 3 freeze=yes"), "frozen of parameter fc1."),
        (BODY.replace("fc 3", "fc 3 init=xavier"), "initialiser of parameter fc1.weight"),
        (BODY.replace(" -> loss softmax", ""), "inputs"),
        (BODY.replace("as a", "as a -> relu as dead -> from a"), "no output depends"),
    ],
)
def test_differences(changed: str, told: str) -> None:
    assert told in str(difference(graph(BODY), graph(changed)))
    assert difference(graph(changed), graph(BODY)) is not None


def test_batch_sizes_are_types() -> None:
    assert "inputs" in str(difference(graph(BODY), graph(BODY, 3)))


def test_which_value_is_read_counts() -> None:
    first = graph("relu as a -> relu as b -> add a")
    second = graph("relu as a -> relu as b -> add b")
    assert "is read where" in str(difference(first, second))


def test_streams_correspond_one_to_one() -> None:
    first = graph("dropout 0.5 as a -> dropout 0.5 -> add a")
    assert difference(first, graph("dropout 0.5 name=x as a -> dropout 0.5 -> add a")) is None
    second = first.copy()
    for node in second.nodes[:2]:
        node.op = replace(node.op, stream=1)
    assert "streams" in str(difference(first, second))
    assert "streams" in str(difference(second, first))


def test_the_order_of_parameters_counts_if_wanted() -> None:
    first, second = graph(BODY), graph(BODY)
    second.parameters = dict(reversed(second.parameters.items()))
    assert difference(first, second) == "the order of the parameters"
    assert difference(first, second, ordered=False) is None


def test_fans_count_only_where_they_matter() -> None:
    def started(initial: Initializer) -> Graph:
        result = graph("fc 3")
        result.parameters["fc1.weight"] = replace(result.parameters["fc1.weight"], initial=initial)
        return result

    assert difference(started(Initializer("gauss", 0.1, 5, 5)), started(Initializer("gauss", 0.1, 6, 6))) is None
    assert difference(started(Initializer("he", 0.0, 5, 5)), started(Initializer("he", 0.0, 5, 6))) is None
    assert difference(started(Initializer("he", 0.0, 5, 5)), started(Initializer("he", 0.0, 6, 5))) is not None
    assert difference(started(Initializer("xavier", 0.0, 5, 5)), started(Initializer("xavier", 0.0, 5, 6))) is not None


def swapped(change: Callable[[Graph], None]) -> str | None:
    first = graph(BODY)
    second = parse_ir(print_ir(first))
    change(second)
    return difference(first, second)


def test_outputs_and_updates_count() -> None:
    def rename(other: Graph) -> None:
        other.outputs["score"] = other.outputs.pop("logits")

    def exchange(other: Graph) -> None:
        other.outputs["loss"], other.outputs["correct"] = other.outputs["correct"], other.outputs["loss"]

    def update(other: Graph) -> None:
        other.updates["fc1.bias"] = other.parameters["fc1.bias"].value

    assert str(swapped(rename)).startswith("outputs")
    assert swapped(exchange) is not None
    assert "0 and 1 updates" in str(swapped(update))
