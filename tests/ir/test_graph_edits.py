"""Edits of a graph: the order of nodes after any sequence of them, the names of results, and that neither searches."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convc.ir.builder import Builder
from convc.ir.graph import Graph, Node, Value
from convc.ir.ops.activation import Relu
from convc.ir.results import Results
from convc.ir.types import f32
from convc.ir.verify import verify

# One edit: what is done, to which of the nodes, and before which one.
Edit = tuple[str, int, int]
EDITS = st.lists(
    st.tuples(st.sampled_from(["append", "insert", "insert", "remove", "move", "read"]), st.integers(0), st.integers(0))
)


def empty() -> tuple[Graph, Value]:
    graph = Graph("g")
    return graph, graph.add_input("x", f32(1))


def relu(x: Value) -> Node:
    return Node(Relu(), (x,), (), "")


@given(EDITS)
def test_any_edits_are_those_of_a_list(edits: list[Edit]) -> None:
    graph, x = empty()
    model: list[Node] = []
    for what, which, where in edits:
        if what == "read":
            assert graph.nodes == model
        elif what == "append" or not model:
            model.append(relu(x))
            graph.insert(model[-1])
        elif what == "insert":
            node, before = relu(x), model[where % len(model)]
            graph.insert(node, before)
            model.insert(model.index(before), node)
        else:
            node = model.pop(which % len(model))
            graph.remove([node])
            if what == "move":
                before = model[where % len(model)] if model else None
                graph.insert(node, before)
                model.insert(len(model) if before is None else model.index(before), node)
    assert graph.nodes == model
    assert sorted(map(id, model)) == sorted(id(user) for user, _ in x.users)
    verify(graph)


def test_what_is_gone_is_no_place() -> None:
    graph, x = empty()
    gone = relu(x)
    graph.insert(gone)
    graph.remove([gone])
    with pytest.raises(ValueError, match="no longer in the graph"):
        graph.insert(relu(x), gone)
    assert graph.nodes == []
    graph.insert(relu(x), gone)
    with pytest.raises(ValueError, match="not in the graph"):
        _ = graph.nodes


def test_thousands_of_edits_look_at_each_node_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order is worked out when it is asked for, not at each of the edits."""
    graph, x = empty()
    b = Builder(graph)
    for _ in range(100):
        b.add(Relu(), x)
    counted: list[int] = []
    in_order = Graph._in_order
    monkeypatch.setattr(Graph, "_in_order", lambda self: counted.append(1) or in_order(self))
    for node in list(graph.nodes):
        twin = Builder(graph, before=node).add(Relu(), x)
        graph.replace_uses(node.result, twin)
        graph.remove([node])
    assert not counted
    assert len(graph.nodes) == 100
    assert len(counted) == 1


TABLE_EDITS = st.lists(
    st.tuples(st.sampled_from(["set", "delete", "replace", "assign"]), st.sampled_from("abc"), st.integers(0, 2))
)


@given(TABLE_EDITS)
def test_results_know_their_names(edits: list[tuple[str, str, int]]) -> None:
    graph, _ = empty()
    values = [Value(f32(1), str(number)) for number in range(3)]
    model: dict[str, Value] = {}
    for what, name, number in edits:
        if what == "set":
            graph.outputs[name] = model[name] = values[number]
        elif what == "delete":
            graph.outputs.pop(name, None)
            model.pop(name, None)
        elif what == "replace":
            old, new = values[number], values[(number + 1) % 3]
            graph.replace_uses(old, new)
            model = {key: new if value is old else value for key, value in model.items()}
        else:
            graph.outputs = graph.outputs | {name: values[number]}
            model = model | {name: values[number]}
        assert graph.outputs == model
        assert list(graph.outputs) == list(model)
        for value in values:
            assert set(graph.outputs.names_of(value)) == {key for key, other in model.items() if other is value}
            assert graph.is_result(value) == (value in model.values())


def test_results_are_a_dictionary() -> None:
    values = [Value(f32(1), str(number)) for number in range(2)]
    results = Results({"a": values[0]})
    results |= {"b": values[1], "a": values[1]}
    assert list(results.items()) == [("a", values[1]), ("b", values[1])]
    assert list(results.values()) == [values[1]] * 2
    assert results.names_of(values[0]) == ()
    assert repr(results) == repr(dict(results))
