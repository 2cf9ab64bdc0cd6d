"""Compute some of the forward pass again in the backward pass, so that a training step fits into less memory.

    %y = relu(%x)                             %y = relu(%x)                    (dropped when %z is there)
    %z = conv2d(%y, %w)                       %z = conv2d(%y, %w)
    …                                  →      …
    %dw = conv2d_backward_weights(%y, %dz)    %y' = relu(%x)
                                              %dw = conv2d_backward_weights(%y', %dz)

Values that free most memory for their work are chosen first, and no more than needed (`activations.py`). Batch norm is
done again with the statistics that it found, so they are averaged once; dropout draws the same mask. So gradients are
the same, bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar, Literal

from convc.ir.builder import Builder
from convc.ir.diagnostic import fail
from convc.ir.graph import Graph, Node, Value
from convc.ir.sizes import format_bytes
from convc.lazy import dataclass
from convc.passes.activations import PRODUCTS, TRANSPARENT, Activations, Choice, again, work_of
from convc.passes.algorithms.problem import CONVOLUTIONS, Problem
from convc.passes.algorithms.table import BY_NAME
from convc.passes.base import Pass, PassLog
from convc.passes.live_bytes import parameter_bytes
from convc.passes.machine import MACHINES, Machine, Tier
from convc.passes.memory import SMALLER_BATCH
from convc.passes.sections import backward_start
from convc.passes.training import GRADIENT

_TRIES = 8
# So many choices may follow each other that do not lower the peak of the model.
_PATIENCE = 12
# What is smaller than this share of all that lives at the peak is not worth a line in the log.
_WORTH_SAYING = 0.01


def estimate(graph: Graph) -> int:
    """Bytes that a training step takes, judged by its nodes: parameters, states, gradients, and what lives at once."""
    gradients = [value for name, value in graph.outputs.items() if name.startswith(GRADIENT)]
    return parameter_bytes(graph) + sum(value.type.bytes for value in gradients) + Activations(graph).lives(()).peak


@dataclass(frozen=True)
class Recomputation:
    """A value that is computed again: its layer, op and line, its bytes, and the operations of doing it once more."""

    layer: str
    op: str
    line: int | None
    bytes: int
    flops: int


@dataclass(frozen=True)
class Recompute(Pass):
    """Brings a training step down to `memory` bytes (0: no bound).

    Without a bound it does what is cheap, in steps that make more than `large` bytes: it spends up to `spare` of the
    work of all convolutions (0: none).

    `products` says whether convolutions are done again, too: where nothing else suffices, always, or never. `tier` is
    the processor that the step is for, `measure` tells what a graph takes.
    Leaves a `Recomputation` for each value among the log's findings. Error: `budget-memory`.
    """

    name: ClassVar[str] = "recompute"
    metrics: ClassVar[Mapping[str, str]] = {
        "bytes_before": "what the step took",
        "bytes": "what it takes now",
        "values": "results that are computed again",
        "flops": "the arithmetic of that",
    }
    refused: ClassVar[Mapping[str, str]] = {
        "infer": "inference keeps nothing for a backward pass",
        "reference": "the interpreter plans no memory",
    }
    memory: int = 0
    spare: float = 0.0
    large: int = 512 << 20
    products: Literal["needed", "always", "never"] = "needed"
    tier: Tier = "avx512"
    measure: Callable[[Graph], int] = estimate

    def run(self, graph: Graph, log: PassLog) -> None:
        if not self.memory:
            if self.spare and _made_bytes(graph) > self.large:
                activations = self._activations(graph)
                chosen = _cheapest(activations, self.spare)
                self._repeat(graph, activations, chosen, log)
            return
        before = after = self.measure(graph.copy())
        activations = self._activations(graph)
        chosen: Sequence[Value] = ()
        if before > self.memory:
            chosen, after = self._fit(graph, activations, before)
        self._report_kept(activations, chosen, log)
        log.metrics |= {"bytes_before": before, "bytes": after}
        self._repeat(graph, activations, chosen, log)

    def _activations(self, graph: Graph) -> Activations:
        return Activations(graph, lambda node: _scratch(node, MACHINES[self.tier]))

    def _repeat(self, graph: Graph, activations: Activations, chosen: Sequence[Value], log: PassLog) -> None:
        """Have the values computed again."""
        flops = 0
        for node, copy in repeat(graph, activations.start, _places(activations, chosen)):
            found = _describe(node)
            flops += found.flops
            log.findings.append(found)
            why = f"{format_bytes(found.bytes)} less to keep, for {found.flops:,} operations"
            log.changed("recompute", (node,), (copy,), why)
        log.metrics |= {"values": len(log.findings), "flops": flops}

    def _fit(self, graph: Graph, activations: Activations, before: int) -> tuple[list[Value], int]:
        """The values to compute again, and what the step takes then."""
        few = 0
        totals = [before]
        for chosen in _choices(activations, _STAGES[self.products]):
            totals.append(self._measured(graph, activations, chosen))
            if totals[-1] <= self.memory:
                return self._fewest(graph, activations, chosen, few, totals[-1])
            few = len(chosen)
        least = min(totals)
        fail(
            "budget-memory",
            f"a training step of {graph.name} takes {format_bytes(least)} ({least} bytes) at least, however much is "
            f"computed again; the budget is {format_bytes(self.memory)}",
            hint=SMALLER_BATCH,
        )

    def _fewest(
        self, graph: Graph, activations: Activations, chosen: Sequence[Value], few: int, total: int
    ) -> tuple[list[Value], int]:
        """As few of the values as suffice: more than the first `few`, in the order in which they were chosen."""
        many = len(chosen)
        while many - few > 1:
            middle = (few + many) // 2
            taken = self._measured(graph, activations, chosen[:middle])
            if taken <= self.memory:
                many, total = middle, taken
            else:
                few = middle
        return list(chosen[:many]), total

    def _measured(self, graph: Graph, activations: Activations, chosen: Sequence[Value]) -> int:
        """What the step takes if these values are computed again."""
        trial = graph.copy()
        repeat(trial, activations.start, _places(activations, chosen))
        return self.measure(trial)

    def _report_kept(self, activations: Activations, chosen: Sequence[Value], log: PassLog) -> None:
        """Say why the large values that are still kept are kept."""
        lives = activations.lives(chosen)
        for value in lives.wanted:
            if value in chosen or value.type.bytes < _WORTH_SAYING * lives.peak:
                continue
            node = _producer(value)
            if value in activations.kept:
                why = "it is an output"
            elif not activations.can_repeat(value):
                why = "what this layer makes is not made again"
            elif isinstance(node.op, PRODUCTS) and self.products == "never":
                why = "convolutions are not done again"
            else:
                why = "it fits without"
            log.missed("recompute", node, why)


_STAGES = {"needed": (False, True), "always": (True,), "never": (False,)}


def _choices(activations: Activations, stages: Sequence[bool]) -> Iterator[Sequence[Value]]:
    """Values to compute again, for lower and lower peaks of the model; the same whatever the budget is."""
    choice = Choice()
    for products in stages:
        found = list(_lower(activations, choice, products))
        choice = found[-1] if found else choice
        # Plans take time: some of the choices have to do, the last of them always.
        step = max(1, -(-len(found) // _TRIES))
        yield from (choice.values for choice in found[(len(found) - 1) % step :: step])


def _made_bytes(graph: Graph) -> int:
    """What all nodes before the backward pass make: hardly less than what lives at the peak."""
    ahead = graph.nodes[: backward_start(graph)]
    return sum(value.type.bytes for node in ahead if not isinstance(node.op, TRANSPARENT) for value in node.results)


def _cheapest(activations: Activations, share: float) -> Sequence[Value]:
    """The values, convolutions left out, that lower the peak of the model most for that share of the work of all
    convolutions."""
    room = share * sum(work_of(node.result) for node in activations.nodes if isinstance(node.op, CONVOLUTIONS))
    best: Sequence[Value] = ()
    for choice in _lower(activations, Choice(), products=False):
        if sum(map(work_of, choice.values)) > room:
            break
        best = choice.values
    return best


def _lower(activations: Activations, choice: Choice, products: bool) -> Iterator[Choice]:
    """Choices after this one, each with a lower peak of the model."""
    lowest, idle = activations.lives(choice.values).peak, 0
    while idle < _PATIENCE:
        following = activations.choose(choice, products)
        if following is None:
            return
        choice, idle = following, idle + 1
        peak = activations.lives(choice.values).peak
        if peak < lowest:
            lowest, idle = peak, 0
            yield choice


def _scratch(node: Node, machine: Machine) -> int:
    """What a convolution takes beside its operands and its result."""
    if not isinstance(node.op, CONVOLUTIONS):
        return 0
    algorithm = BY_NAME.get(node.op.algorithm, BY_NAME["direct"])
    return algorithm.scratch_bytes(Problem.of(node), machine)


def _producer(value: Value) -> Node:
    assert value.producer is not None
    return value.producer


def _places(activations: Activations, values: Sequence[Value]) -> dict[int, int]:
    """For the nodes that make these values, if they are wanted in the backward pass: before which node copies stand."""
    wanted = activations.lives(values).wanted
    return {activations.position[_producer(value)]: wanted[value] for value in values if value in wanted}


def _describe(node: Node) -> Recomputation:
    op, operands = again(node)
    flops = op.cost(*(value.type for value in operands)).flops
    line = node.span.line if node.span else None
    return Recomputation(node.label, node.op.name, line, node.results[0].type.bytes, flops)


def repeat(graph: Graph, start: int, places: Mapping[int, int]) -> list[tuple[Node, Node]]:
    """Let the backward pass, the nodes from number `start` on, read copies of forward nodes' first results.

    `places` tells which nodes are copied, and before which node each copy stands. Returns the nodes and their copies.
    """
    nodes = list(graph.nodes)
    copies: dict[Value, Value] = {}

    def fresh(value: Value, builder: Builder) -> Value:
        """What to read in the place of a value: its copy, a view of the copy that it is a view of, or itself."""
        producer = value.producer
        if value in copies or producer is None or not isinstance(producer.op, TRANSPARENT):
            return copies.get(value, value)
        operands = tuple(fresh(operand, builder) for operand in producer.operands)
        if operands == producer.operands:
            return value
        with builder.at(producer.location, producer.label):
            return builder.add(producer.op, *operands)

    pairs: list[tuple[Node, Node]] = []
    for number in sorted(places):
        node, builder = nodes[number], Builder(graph, before=nodes[places[number]])
        op, operands = again(node)
        operands = [fresh(operand, builder) for operand in operands]
        with builder.at(node.location, node.label):
            copy = builder.add_node(op, *operands)
        copies[node.results[0]] = copy.results[0]
        pairs.append((node, copy))
    for user in nodes[start:]:
        if isinstance(user.op, TRANSPARENT):
            continue  # whoever reads it is given another
        builder = Builder(graph, before=user)
        for index, operand in enumerate(user.operands):
            replacement = fresh(operand, builder)
            if replacement is not operand:
                graph.set_operand(user, index, replacement)
    for node in reversed(nodes):
        if isinstance(node.op, TRANSPARENT) and not graph.is_live(node.result):
            graph.remove([node])
    return pairs
