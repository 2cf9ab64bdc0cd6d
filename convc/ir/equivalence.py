"""Whether two graphs are the same up to names, numbering, and the order of independent nodes.

From the outputs backwards, node by node: operands are ordered, so there is at most one way in which two graphs can
correspond, and nothing has to be searched. What no output depends on is compared as a multiset.

Random streams are names, too: `dropout` and its like take theirs from the path of their layer. They may differ between
the graphs, but only one to one: two layers that draw the same numbers in one graph do so in the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import field, replace
from typing import Any

from convc.ir.graph import Graph, Initializer, Node, Parameter, Value
from convc.ir.op import Op
from convc.lazy import dataclass


@dataclass
class Match:
    """How two graphs correspond. `difference` is the first thing in which they do not, None if they are equal.

    `parameters` maps names of the first graph to names of the second; complete only without a difference.
    """

    difference: str | None = None
    parameters: dict[str, str] = field(default_factory=dict[str, str])


def difference(first: Graph, second: Graph, *, ordered: bool = True) -> str | None:
    """What tells two graphs apart, in words; None where they are equal up to names. See `match`."""
    return match(first, second, ordered=ordered).difference


def match(first: Graph, second: Graph, *, ordered: bool = True) -> Match:
    """The correspondence of two graphs.

    Equal are: types of inputs, names and values of outputs and updates, ops with their attributes, and of parameters
    shape, role, initialiser (as far as it has an influence), rates, what is trained and frozen; with `ordered` also
    their order. Inputs correspond by their order, a single output to the single output whatever they are called.
    """
    return _Matcher(first, second, ordered).run()


class _Different(Exception):
    pass


class _Matcher:
    def __init__(self, first: Graph, second: Graph, ordered: bool) -> None:
        self.first, self.second, self.ordered = first, second, ordered
        self.values: dict[Value, Value] = {}
        self.taken: dict[Value, Value] = {}
        self.streams: tuple[dict[int, int], dict[int, int]] = ({}, {})
        self.owners = tuple({p.value: p for p in graph.parameters.values()} for graph in (first, second))
        self.parameters: dict[str, str] = {}

    def run(self) -> Match:
        try:
            self._inputs()
            self._roots()
            self._unused_parameters()
            self._order()
            self._dead_nodes()
        except _Different as error:
            return Match(str(error), self.parameters)
        return Match(None, self.parameters)

    def _inputs(self) -> None:
        ours, theirs = list(self.first.inputs.items()), list(self.second.inputs.items())
        if [value.type for _, value in ours] != [value.type for _, value in theirs]:
            texts = (", ".join(f"{name}: {value.type}" for name, value in side) or "none" for side in (ours, theirs))
            raise _Different("inputs: {} and {}".format(*texts))
        for (_, left), (_, right) in zip(ours, theirs, strict=True):
            self._pair(left, right)

    def _roots(self) -> None:
        ours, theirs = self.first.outputs, self.second.outputs
        if len(ours) == len(theirs) == 1:
            self._walk(next(iter(ours.values())), next(iter(theirs.values())))
        elif ours.keys() != theirs.keys():
            raise _Different(f"outputs: {', '.join(ours) or 'none'} and {', '.join(theirs) or 'none'}")
        else:
            for name, value in ours.items():
                self._walk(value, theirs[name])
        if len(self.first.updates) != len(self.second.updates):
            raise _Different(f"{len(self.first.updates)} and {len(self.second.updates)} updates")
        for name, value in self.first.updates.items():
            twin = self.parameters.get(name, name)
            if twin not in self.second.updates:
                raise _Different(f"update of {name}: {twin} has none")
            self._walk(value, self.second.updates[twin])

    def _walk(self, left: Value, right: Value) -> None:
        pending = [(left, right)]
        while pending:
            a, b = pending.pop()
            if self._known(a, b):
                continue
            if a.producer is None or b.producer is None:
                self._leaves(a, b)
                continue
            self._nodes(a.producer, b.producer, a.index, b.index)
            for one, other in zip(a.producer.results, b.producer.results, strict=True):
                self._pair(one, other)
            pending += zip(a.producer.operands, b.producer.operands, strict=True)

    def _known(self, left: Value, right: Value) -> bool:
        if left not in self.values and right not in self.taken:
            return False
        if self.values.get(left) is not right:
            raise _Different(f"{left!r} is read where the other graph reads {right!r}")
        return True

    def _pair(self, left: Value, right: Value) -> None:
        if not self._known(left, right):
            self.values[left], self.taken[right] = right, left

    def _leaves(self, left: Value, right: Value) -> None:
        """Two values without producers: parameters (inputs are paired before)."""
        one, other = self.owners[0].get(left), self.owners[1].get(right)
        if one is None or other is None:
            raise _Different(f"{left!r} and {right!r}")
        self._pair(left, right)
        self._parameter(one, other)

    def _parameter(self, one: Parameter, other: Parameter) -> None:
        for name, (a, b) in _facts(one, other).items():
            if a != b:
                raise _Different(f"{name} of parameter {one.name}: {a} and {b}")
        self.parameters[one.name] = other.name

    def _nodes(self, one: Node, other: Node, *indices: int) -> None:
        if _plain(one.op) != _plain(other.op):
            raise _Different(f"{one.label or one.op.name}: {one.op} and {other.op}")
        if len(one.operands) != len(other.operands) or indices[0] != indices[1]:
            raise _Different(f"{one.label or one.op.name}: {len(one.operands)} and {len(other.operands)} operands")
        if "stream" in one.op.attributes:
            there, back = self.streams
            a, b = one.op.attributes["stream"], other.op.attributes["stream"]
            if there.setdefault(a, b) != b or back.setdefault(b, a) != a:
                raise _Different(f"{one.label or one.op.name}: random streams that correspond to several")

    def _unused_parameters(self) -> None:
        """What no output depends on corresponds in the order of the graphs."""
        found = set(self.parameters.values())
        ours = [p for name, p in self.first.parameters.items() if name not in self.parameters]
        theirs = [p for name, p in self.second.parameters.items() if name not in found]
        if len(ours) != len(theirs):
            raise _Different(f"{len(self.first.parameters)} and {len(self.second.parameters)} parameters")
        for one, other in zip(ours, theirs, strict=True):
            self._parameter(one, other)
            self._pair(one.value, other.value)

    def _order(self) -> None:
        if self.ordered and [self.parameters[name] for name in self.first.parameters] != list(self.second.parameters):
            raise _Different("the order of the parameters")

    def _dead_nodes(self) -> None:
        """Nodes that no output depends on, by what they compute."""
        table: dict[Hashable, int] = {}
        numbers: dict[Value, int] = {}
        counts: list[Counter[int]] = []
        for left, right in self.values.items():
            numbers[left] = numbers[right] = table.setdefault(("paired", id(left)), len(table))
        for graph in (self.first, self.second):
            count: Counter[int] = Counter()
            for node in graph.nodes:
                if node.results[0] in numbers:
                    continue
                key = (_plain(node.op), tuple(numbers[operand] for operand in node.operands))
                count[table.setdefault(key, len(table))] += 1
                for value in node.results:
                    numbers[value] = table.setdefault((key, value.index), len(table))
            counts.append(count)
        if counts[0] != counts[1]:
            raise _Different("nodes that no output depends on")


def _plain(op: Any) -> Op:
    """An op without the number of its random stream."""
    return replace(op, stream=0) if "stream" in op.attributes else op


def _facts(one: Parameter, other: Parameter) -> dict[str, tuple[object, object]]:
    pairs = {name: (getattr(one, name), getattr(other, name)) for name in _METADATA}
    pairs["type"] = (str(one.value.type), str(other.value.type))
    pairs["initialiser"] = (effective_initial(one.initial), effective_initial(other.initial))
    return pairs


_METADATA = ("role", "trainable", "frozen", "lr", "decay")
_FANS = {"he": ("fan_in",), "xavier": ("fan_in", "fan_out")}


def effective_initial(initial: Initializer) -> Initializer:
    """An initialiser without the fans that its kind does not look at."""
    fans = _FANS.get(initial.kind, ())
    return Initializer(
        initial.kind,
        initial.value,
        initial.fan_in if "fan_in" in fans else 1,
        initial.fan_out if "fan_out" in fans else 1,
    )
