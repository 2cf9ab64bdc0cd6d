"""Checks that a graph is well-formed. Every `infer` is run again, so inference and checking cannot drift apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, MutableMapping

from convc.ir.diagnostic import CompileError, Diagnostic
from convc.ir.graph import Graph, Node, Value
from convc.ir.op import InferError
from convc.ir.types import TensorType

# Of nodes whose types were right: the op and the types of its operands and results.
Inferred = MutableMapping[Node, tuple[object, ...]]


def problems(graph: Graph, inferred: Inferred | None = None) -> list[Diagnostic]:
    """All violations: use before definition, wrong types, broken use lists, dangling outputs and updates.

    Who verifies a graph again and again passes the same `inferred`, empty at first: types are inferred anew only where
    the op or a type has changed.
    """
    found: list[Diagnostic] = []
    inferred = {} if inferred is None else inferred
    defined: set[Value] = {*graph.inputs.values(), *(p.value for p in graph.parameters.values())}

    # One table instead of a search per use: a value may have thousands of users.
    listed = Counter((value, user, index) for value in _values(graph) for user, index in value.users)

    def report(node: Node | None, message: str) -> None:
        place = f"{node.op.name} {node.label}".strip() if node else f"graph @{graph.name}"
        found.append(Diagnostic("verify-graph", f"{place}: {message}", node.span if node else None))

    for node in graph.nodes:
        for index, operand in enumerate(node.operands):
            if operand not in defined:
                report(node, f"operand {index} is used before it is defined, or belongs to another graph")
            if listed[operand, node, index] != 1:
                report(node, f"operand {index} does not list this use exactly once")
        facts = (node.op, *(value.type for value in (*node.operands, *node.results)))
        if inferred.get(node) != facts:
            mistake = _wrong_types(node)
            if mistake:
                report(node, mistake)
            else:
                inferred[node] = facts
        for index, value in enumerate(node.results):
            if value.producer is not node or value.index != index:
                report(node, f"result {index} does not point back to its node")
            if value in defined:
                report(node, f"result {index} is defined twice")
            defined.add(value)
    placed = set(graph.nodes)
    for value in defined:
        for user, index in value.users:
            if user not in placed:
                report(user, "uses a value of the graph but is not in it")
            elif index >= len(user.operands) or user.operands[index] is not value:
                report(user, f"is listed as a user of {value!r} but does not use it")
    for name in graph.inputs.keys() & graph.parameters.keys():
        report(None, f"{name} is an input and a parameter")
    for name, parameter in graph.parameters.items():
        if parameter.name != name:
            report(None, f"parameter {name} calls itself {parameter.name}")
    for name, value in graph.outputs.items():
        if value not in defined:
            report(None, f"output {name} is not a value of the graph")
    for name, value in graph.updates.items():
        if name not in graph.parameters:
            report(None, f"update of {name}, which is not a parameter")
        elif value not in defined:
            report(None, f"update of {name} is not a value of the graph")
        elif _logical(value.type) != _logical(graph.parameters[name].value.type):
            report(None, f"update of {name} is {value.type}, but the parameter {graph.parameters[name].value.type}")
    return found


def _wrong_types(node: Node) -> str:
    """What is wrong with the types of operands or results, or nothing."""
    try:
        expected = node.op.result_types(*(value.type for value in node.operands))
    except (InferError, ValueError, TypeError, IndexError, ArithmeticError) as error:
        return str(error) or type(error).__name__
    actual = tuple(_logical(value.type) for value in node.results)
    if actual == tuple(map(_logical, expected)):
        return ""
    return f"the result is {', '.join(map(str, actual))}, but should be {', '.join(map(str, expected))}"


def verify(graph: Graph, inferred: Inferred | None = None) -> None:
    """Raise one `CompileError` with all `problems` of the graph."""
    found = problems(graph, inferred)
    if found:
        raise CompileError(found)


def _values(graph: Graph) -> Iterator[Value]:
    """Every value that the graph mentions, each once."""
    mentioned = (value for node in graph.nodes for value in (*node.operands, *node.results))
    yield from dict.fromkeys((*graph.inputs.values(), *(p.value for p in graph.parameters.values()), *mentioned))


def _logical(type: TensorType) -> TensorType:
    return type.with_layout(None)
