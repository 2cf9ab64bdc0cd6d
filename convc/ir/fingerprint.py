"""What a graph consists of, to tell whether it has changed. Two are equal where the texts of the graphs are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import cache
from operator import attrgetter

from convc.ir.graph import Graph, Parameter, Value
from convc.ir.op import Op
from convc.lazy import dataclass


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """The ops in order, and `rest`: everything else that the text of a graph shows, comparable.

    Taking one costs a walk over the graph, comparing two hardly anything: what a pass leaves alone is the same object.
    """

    ops: tuple[Op, ...]
    rest: tuple[object, ...]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Fingerprint):
            return NotImplemented
        return len(self.ops) == len(other.ops) and self.rest == other.rest and all(map(_same_op, self.ops, other.ops))

    __hash__ = None  # type: ignore[assignment]


def fingerprint(graph: Graph) -> Fingerprint:
    """The present state of a graph; of a broken one, too."""
    numbers: dict[Value, int] = {}

    def number(values: Iterable[Value]) -> tuple[int | None, ...]:
        return tuple(map(numbers.get, values))

    for value in (*graph.inputs.values(), *(parameter.value for parameter in graph.parameters.values())):
        numbers.setdefault(value, len(numbers))
    nodes: list[object] = []
    for node in graph.nodes:
        operands = number(node.operands)
        for result in node.results:
            numbers.setdefault(result, len(numbers))
        nodes.append((operands, number(node.results), _types(node.results), node.label, node.location))
    rest = (
        graph.name,
        tuple(graph.inputs),
        _types(graph.inputs.values()),
        tuple((name, *_facts(parameter)) for name, parameter in graph.parameters.items()),
        nodes,
        *((tuple(table), number(table.values())) for table in (graph.outputs, graph.updates)),
    )
    return Fingerprint(tuple(node.op for node in graph.nodes), rest)


def _same_op(one: Op, other: Op) -> bool:
    """Compared as they are written: 0.0 and -0.0 are equal numbers, and different constants."""
    return one is other or (type(one) is type(other) and repr(one) == repr(other))


def _types(values: Iterable[Value]) -> tuple[object, ...]:
    return tuple([value.type for value in values])


def _facts(parameter: Parameter) -> tuple[object, ...]:
    return (*_own_facts()(parameter), parameter.value.type)


@cache
def _own_facts() -> Callable[[Parameter], tuple[object, ...]]:
    """Gives all fields of a parameter but its value."""
    return attrgetter(*(field.name for field in fields(Parameter) if field.name != "value"))
