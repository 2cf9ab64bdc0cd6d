"""The graph: values, nodes, parameters. One type from the elaborated network to the planned training step.

Nodes are kept in an order in which every operand precedes its user. `networkx()` gives the same structure as a
multigraph (an `add(x, x)` has two edges) for analyses that want graph algorithms; nothing else touches networkx.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar

from convc.ir.op import Cost, Op
from convc.ir.results import Results
from convc.ir.span import Location, Span
from convc.ir.types import TensorType
from convc.lazy import dataclass

if TYPE_CHECKING:
    import networkx

OpType = TypeVar("OpType", bound=Op)


class Value:
    """A tensor in the graph: an input, a parameter, or a result of a node. Compared by identity."""

    __slots__ = ("index", "name", "producer", "type", "users")

    def __init__(self, type: TensorType, name: str | None = None, producer: Node | None = None, index: int = 0) -> None:
        self.type = type
        self.name = name
        self.producer = producer
        self.index = index
        self.users: list[tuple[Node, int]] = []

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape

    def __repr__(self) -> str:
        return f"<{self.name or (self.producer.label if self.producer else 'value')}: {self.type}>"


class Node:
    """One application of an op. `label` is the layer it stems from (`basic2.res1.conv1`), `location` its spans."""

    __slots__ = ("label", "location", "op", "operands", "results")

    def __init__(self, op: Op, operands: tuple[Value, ...], location: Location, label: str) -> None:
        self.op = op
        self.operands = operands
        self.location = location
        self.label = label
        types = op.result_types(*(value.type for value in operands))
        self.results = tuple(Value(type, producer=self, index=index) for index, type in enumerate(types))

    @property
    def result(self) -> Value:
        """The only result."""
        (value,) = self.results
        return value

    @property
    def span(self) -> Span | None:
        return self.location[0] if self.location else None

    @property
    def cost(self) -> Cost:
        """What one run of it takes."""
        return self.op.cost(*(value.type for value in self.operands))

    def __repr__(self) -> str:
        return f"<{self.op.name} {self.label}>"


def total_cost(nodes: Iterable[Node]) -> Cost:
    """What one run of all of them takes, each by itself."""
    return sum((node.cost for node in nodes), start=Cost(0, 0))


@dataclass(frozen=True)
class Initializer:
    """How a parameter starts: a kind of `convc.runtime.initial` and its argument, with the fans that scale it."""

    kind: str = "zeros"
    value: float = 0.0
    fan_in: int = 1
    fan_out: int = 1


@dataclass(frozen=True)
class Parameter:
    """What is known about a parameter beyond its type. Names are the interface of checkpoints.

    `role` is weight, bias, gamma, beta, slope, mean, var, state (of the optimiser) or accumulator (of gradients).
    Buffers (`mean`, `var`), states and accumulators are not trainable. `lr` and `decay` multiply the learning rate and
    the weight decay.
    """

    name: str
    value: Value
    role: str = "weight"
    trainable: bool = True
    frozen: bool = False
    initial: Initializer = Initializer()
    lr: float = 1.0
    decay: float = 1.0
    span: Span | None = None


class Graph:
    """A program over tensors.

    `outputs` are named values. `updates` maps a parameter's name to the value that it takes after a run, so that a
    training step (new weights, optimiser state, running statistics) is a graph like any other.

    Placing a node before another and removing one take constant time: both are noted, and carried out together when
    `nodes` is read next.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.inputs: dict[str, Value] = {}
        self.parameters: dict[str, Parameter] = {}
        self._nodes: list[Node] = []
        self._ahead: dict[Node, list[Node]] = {}  # what is to be placed before a node, in order
        self._removed: set[Node] = set()
        self._outputs = Results()
        self._updates = Results()

    @property
    def outputs(self) -> Results:
        return self._outputs

    @outputs.setter
    def outputs(self, entries: Mapping[str, Value]) -> None:
        self._outputs = Results(entries)

    @property
    def updates(self) -> Results:
        return self._updates

    @updates.setter
    def updates(self, entries: Mapping[str, Value]) -> None:
        self._updates = Results(entries)

    @property
    def nodes(self) -> list[Node]:
        """All nodes, every operand before its user."""
        if self._ahead or self._removed:
            self._nodes = self._in_order()
        return self._nodes

    def _in_order(self) -> list[Node]:
        """The nodes with what was noted carried out."""
        order: list[Node] = []
        for node in self._nodes:
            pending = [node]
            while pending:
                ahead = self._ahead.pop(pending[-1], None)
                if ahead:
                    pending += reversed(ahead)
                    continue
                following = pending.pop()
                if following not in self._removed:
                    order.append(following)
        homeless = list(self._ahead)
        self._ahead, self._removed = {}, set()
        if homeless:
            raise ValueError(f"nodes were placed before {homeless}, which are not in the graph")
        return order

    # Building

    def add_input(self, name: str, type: TensorType) -> Value:
        value = Value(type, name)
        self.inputs[name] = value
        return value

    def add_parameter(self, name: str, type: TensorType, **metadata: object) -> Value:
        """Declare a parameter; `metadata` are the fields of `Parameter`."""
        if name in self.parameters:
            raise ValueError(f"parameter {name} exists already")
        value = Value(type, name)
        self.parameters[name] = Parameter(name, value, **metadata)  # type: ignore[arg-type]
        return value

    def insert(self, node: Node, before: Node | None = None) -> None:
        """Place a node (at the end, or before another) and register it with the values that it uses."""
        if before in self._removed:
            raise ValueError(f"{before} is no longer in the graph")
        if node in self._removed:
            self._nodes = self._in_order()  # it comes back at another place
        if before is None:
            self._nodes.append(node)
        else:
            self._ahead.setdefault(before, []).append(node)
        for index, operand in enumerate(node.operands):
            operand.users.append((node, index))

    # Rewriting

    def replace_uses(self, old: Value, new: Value, only: Callable[[Node], bool] | None = None) -> None:
        """Let every user of `old` (or those that `only` accepts), the outputs and the updates use `new` instead."""
        for node, index in list(old.users):
            if only is None or only(node):
                self.set_operand(node, index, new)
        if only is None:
            for table in (self.outputs, self.updates):
                table.update(dict.fromkeys(table.names_of(old), new))

    def set_operand(self, node: Node, index: int, value: Value) -> None:
        node.operands[index].users.remove((node, index))
        node.operands = (*node.operands[:index], value, *node.operands[index + 1 :])
        value.users.append((node, index))

    def set_op(self, node: Node, op: Op) -> None:
        """Give a node another op of the same result types on the same operands: the same thing, done another way."""
        node.op = op

    def remove(self, nodes: Iterable[Node]) -> None:
        """Drop nodes whose results nobody uses any more."""
        doomed = set(nodes)
        if not doomed:
            return
        for node in doomed:
            for index, operand in enumerate(node.operands):
                operand.users.remove((node, index))
        self._removed |= doomed

    def remove_parameter(self, name: str) -> None:
        assert not self.parameters[name].value.users, f"{name} is in use"
        del self.parameters[name]

    # Asking

    def nodes_of(self, *kinds: type[OpType]) -> Iterator[Node]:
        """Nodes whose op is of one of the kinds (over a copy: the graph may be changed on the way)."""
        return (node for node in list(self.nodes) if isinstance(node.op, kinds))

    def is_live(self, value: Value) -> bool:
        """Whether a node, an output or an update reads the value."""
        return bool(value.users) or self.is_result(value)

    def is_result(self, value: Value) -> bool:
        """Whether the value is an output or an update."""
        return bool(self.outputs.names_of(value) or self.updates.names_of(value))

    def ancestors(self, values: Iterable[Value]) -> set[Node]:
        """All nodes that `values` depend on."""
        found: set[Node] = set()
        pending = [value.producer for value in values]
        while pending:
            node = pending.pop()
            if node is not None and node not in found:
                found.add(node)
                pending.extend(operand.producer for operand in node.operands)
        return found

    def batched(self) -> set[Value]:
        """The values whose leading dimension is the batch: inputs of rank >= 1 and what follows from them."""
        found = {value for value in self.inputs.values() if value.type.rank > 0}
        for node in self.nodes:
            flags = node.op.batched(tuple(operand in found for operand in node.operands))
            found.update(value for value, flag in zip(node.results, flags, strict=True) if flag)
        return found

    def networkx(self) -> networkx.MultiDiGraph:
        """The nodes as a multigraph; an edge is one use and carries the operand's position."""
        import networkx

        graph = networkx.MultiDiGraph(name=self.name)
        graph.add_nodes_from(self.nodes)
        for node in self.nodes:
            for index, operand in enumerate(node.operands):
                if operand.producer is not None:
                    graph.add_edge(operand.producer, node, operand=index, value=operand)
        return graph

    def __eq__(self, other: object) -> bool:
        """Equal when they print the same: names, types, attributes, structure and spans."""
        from convc.ir.printer import print_ir

        return isinstance(other, Graph) and print_ir(self) == print_ir(other)

    __hash__ = object.__hash__

    def __str__(self) -> str:
        from convc.ir.printer import print_ir

        return print_ir(self)

    def copy(self) -> Graph:
        """A graph of fresh nodes and values that prints the same."""
        twin = Graph(self.name)
        twins: dict[Value, Value] = {}
        for name, value in self.inputs.items():
            twins[value] = twin.add_input(name, value.type)
        for name, parameter in self.parameters.items():
            metadata = {key: item for key, item in vars(parameter).items() if key not in ("name", "value")}
            twins[parameter.value] = twin.add_parameter(name, parameter.value.type, **metadata)
        for node in self.nodes:
            clone = Node(node.op, tuple(twins[value] for value in node.operands), node.location, node.label)
            twin.insert(clone)
            for old, new in zip(node.results, clone.results, strict=True):
                new.type = old.type
                twins[old] = new
        twin.outputs = {name: twins[value] for name, value in self.outputs.items()}
        twin.updates = {name: twins[value] for name, value in self.updates.items()}
        return twin
