"""What a training step keeps for its backward pass, and which of it is best computed again.

A model to choose by, at the level of nodes: what lives when, if some values are dropped after their last use in the
forward pass and computed again before their first use in the backward pass (Chen, Xu, Zhang & Guestrin 2016). What a
program really takes is told by its memory plan.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import accumulate

from convc.ir.graph import Graph, Node, Value
from convc.ir.op import Op
from convc.ir.ops import (
    BatchMoments,
    BatchNorm,
    BatchNormTraining,
    Constant,
    Conv2d,
    Conv2dBackwardData,
    Flatten,
    Greater,
    Linear,
    Unflatten,
)
from convc.ir.ops.elementwise import Elementwise
from convc.ir.ops.random import Draw
from convc.lazy import dataclass
from convc.passes.fusion import EPILOGUE_ANCHORS
from convc.passes.in_place import LAST_READ_IN_PLACE
from convc.passes.sections import backward_start, prepared
from convc.passes.training import GRADIENT

# These take many operations for each element that they make.
PRODUCTS: tuple[type[Op], ...] = (Conv2d, Conv2dBackwardData)
# Never done again: weights with several readers are packed in another order, statistics are added up in the kernel of
# another layer, and sums round in another way. What these give is small anyway.
_ONCE: tuple[type[Op], ...] = (Linear, BatchMoments)
# Not stored: they share their operand's memory, or are part of the code that reads them.
TRANSPARENT: tuple[type[Op], ...] = (Flatten, Unflatten, Greater)
# How many operations a processor does while it moves a byte from or to memory (docs/performance-log.md: 228 GFLOP/s,
# 33 GB/s).
_OPERATIONS_PER_BYTE = 7
_MOST_PEAKS = 16
# By how much of the peak a choice aims to lower it.
_STEP = 0.05


def again(node: Node) -> tuple[Op, tuple[Value, ...]]:
    """The op and operands that give a node's first result once more. Batch norm takes the statistics that it found."""
    if isinstance(node.op, BatchNormTraining):
        return BatchNorm(node.op.eps), (*node.operands, node.results[1], node.results[2])
    return node.op, node.operands


@dataclass(frozen=True)
class Lives:
    """What lives when, for a choice of values to compute again.

    By value of the forward pass: `dropped` is the last position of the forward pass that reads it, `wanted` where it
    has to be there again (for what is computed again from it, too), `end` the last position that reads it. `bytes` has
    what lives at each position.
    """

    dropped: dict[Value, int]
    wanted: dict[Value, int]
    end: dict[Value, int]
    bytes: list[int]

    @property
    def peak(self) -> int:
        return max(self.bytes)


@dataclass(frozen=True)
class Choice:
    """`values` to compute again, in the order in which they were chosen, and those that turned out better `saved`."""

    values: tuple[Value, ...] = ()
    saved: frozenset[Value] = frozenset()


class Activations:
    """The values of a training graph that have memory of their own within a step, by the sizes of their types.

    `start` is the position of the first node of the backward pass. `scratch` tells what a node takes while it runs.
    """

    def __init__(self, graph: Graph, scratch: Callable[[Node], int] = lambda node: 0) -> None:
        self.nodes = list(graph.nodes)
        self.position = {node: number for number, node in enumerate(self.nodes)}
        self.start = backward_start(graph)
        gradients = {value for name, value in graph.outputs.items() if name.startswith(GRADIENT)}
        self.kept = {_whole(value) for value in graph.outputs.values() if value not in gradients}
        lasting = {*graph.inputs.values(), *gradients, *graph.updates.values()}
        self._outside = lasting | {parameter.value for parameter in graph.parameters.values()}
        self._outside |= {value for node in prepared(graph) for value in node.results}
        self.readers: dict[Value, list[int]] = {}
        for number, node in enumerate(self.nodes):
            if isinstance(node.op, (*TRANSPARENT, Constant)):
                continue
            for value in node.results:
                if value not in self._outside:
                    self.readers[value] = []
            for value in self._stored(node.operands):
                self.readers[value].append(number)
        self._leads = self._find_leads()
        self._needed: dict[Value, list[Value]] = {}
        self.bytes = {value: value.type.bytes for value in self.readers}
        self.birth = {value: self.position[_producer(value)] for value in self.readers}
        self._overwritten = {
            value: {number for number in numbers if self._overwrites(number, value)}
            for value, numbers in self.readers.items()
        }
        # What would live if nothing were computed again; scratch space is there in any case.
        self._kept_lives = self._without_copies()
        self._change = [0] * (len(self.nodes) + 1)
        for number, node in enumerate(self.nodes):
            self._change[number] += scratch(node)
            self._change[number + 1] -= scratch(node)
        for value, numbers in self.readers.items():
            last = self._kept_lives.end.get(value, max(numbers, default=self.birth[value]))
            self._occupy(self._change, value, self.birth[value], last)

    def _without_copies(self) -> Lives:
        """The lives of the values of the forward pass if nothing is computed again."""
        dropped, wanted, end = dict[Value, int](), dict[Value, int](), dict[Value, int]()
        for value, readers in self.readers.items():
            if self.birth[value] >= self.start:
                continue
            late = [reader for reader in readers if reader >= self.start]
            dropped[value] = max((reader for reader in readers if reader < self.start), default=self.birth[value])
            end[value] = len(self.nodes) - 1 if value in self.kept else max([dropped[value], *late])
            if late:
                wanted[value] = min(self._leads[reader] for reader in late)
        return Lives(dropped, wanted, end, [])

    def _find_leads(self) -> list[int]:
        """For every node the first of the kernel that it will probably be part of.

        A mask for a cotangent rides along with what makes the cotangent, if its operand is there before.
        """
        leads = list(range(len(self.nodes)))
        for number in range(self.start, len(self.nodes)):
            if isinstance(self.nodes[number].op, (Elementwise, Draw)):
                made = [value.producer for value in self.nodes[number].operands if value in self.readers]
                latest = max((self.position[node] for node in made if node is not None), default=0)
                if latest >= self.start and isinstance(self.nodes[latest].op, (Elementwise, Draw, *EPILOGUE_ANCHORS)):
                    leads[number] = leads[latest]
        return leads

    def _stored(self, values: Collection[Value]) -> list[Value]:
        """What has memory of its own among values, or behind them where they are views or booleans."""
        found: dict[Value, None] = {}
        pending = list(values)
        while pending:
            value = pending.pop()
            if value.producer is not None and isinstance(value.producer.op, TRANSPARENT):
                pending += value.producer.operands
            elif value in self.readers:
                found[value] = None
        return list(found)

    def _sources(self, value: Value) -> list[Value]:
        """What has to be there when a value is computed again."""
        if value not in self._needed:
            self._needed[value] = self._stored(again(_producer(value))[1])
        return self._needed[value]

    # Judging a choice

    def lives(self, chosen: Collection[Value]) -> Lives:
        """What lives when the `chosen` values are computed again."""
        before, change = self._kept_lives, list(self._change)
        wanted, end = dict(before.wanted), dict(before.end)
        # Where copies read a value, and whether each is made element by element.
        wishes: dict[Value, list[tuple[int, bool]]] = {}
        # The last of the forward pass comes first: what it wants is wanted before.
        for value in sorted(chosen, key=self.birth.__getitem__, reverse=True):
            asked = wishes.pop(value, [])
            copies = {place for place, _ in asked}
            if copies:
                wanted[value] = min(before.wanted.get(value, len(self.nodes)), *copies)
                end[value] = max(end[value], *copies)
            elif value not in wanted:
                continue
            self._occupy(change, value, self.birth[value], before.end[value], -1)
            self._occupy(change, value, self.birth[value], before.dropped[value])
            # What only one chain of copies reads never leaves the registers.
            inside = value not in before.wanted and len(copies) == 1 and all(elementwise for _, elementwise in asked)
            if not inside:
                self._occupy(change, value, wanted[value], end[value])
            elementwise = isinstance(_producer(value).op, (Elementwise, Draw))
            for source in self._sources(value):
                wishes.setdefault(source, []).append((wanted[value], elementwise))
        for value, asked in wishes.items():
            places = [place for place, _ in asked]
            wanted[value] = min(before.wanted.get(value, len(self.nodes)), *places)
            if max(places) > end[value]:
                self._occupy(change, value, self.birth[value], end[value], -1)
                end[value] = max(places)
                self._occupy(change, value, self.birth[value], end[value])
        return Lives(before.dropped, wanted, end, list(accumulate(change))[:-1])

    def _occupy(self, change: list[int], value: Value, first: int, last: int, times: int = 1) -> None:
        size = times * self.bytes[value]
        change[first] += size
        change[last if last > first and last in self._overwritten[value] else last + 1] -= size

    def _overwrites(self, number: int, value: Value) -> bool:
        """Whether a node's result may take the place of an operand that dies."""
        node = self.nodes[number]
        free = isinstance(node.op, (Elementwise, Draw)) or any(
            node.operands[position] is value for position in LAST_READ_IN_PLACE.get(type(node.op), ())
        )
        return free and node.results[0].type.bytes == self.bytes[value]

    # Choosing

    def choose(self, choice: Choice, products: bool) -> Choice | None:
        """A choice that lets less live at the highest peak, or at a lower one where nothing helps against the highest:
        that may be a trick of the model. None if nothing helps anywhere. With `products` convolutions may be done
        again, too.
        """
        lives = self.lives(choice.values)
        for moment in _peaks(lives.bytes):
            candidates = self._candidates(choice, lives, moment, products)
            if candidates:
                found = dict.fromkeys(choice.values)
                excess = int(_STEP * lives.bytes[moment])
                # Each changes what the others free, so only the best of them are taken on this judgement.
                for gain, members in candidates[: 1 + len(candidates) // 4]:
                    found |= dict.fromkeys(members)
                    excess -= gain
                    if excess <= 0:
                        break
                return Choice(tuple(found), choice.saved)
            saved = self._better_saved(choice, lives, moment)
            if saved is not None:
                return Choice(tuple(value for value in choice.values if value is not saved), choice.saved | {saved})
        return None

    def _better_saved(self, choice: Choice, lives: Lives, moment: int) -> Value | None:
        """A value that had better be saved: it lives at a moment because it has been computed again, and with it others
        that are there for nothing else. So checkpoints arise along a chain of residual sums.
        """
        best: tuple[int, Value] | None = None
        chosen = set(choice.values)
        for value in choice.values:
            if value in lives.wanted and lives.wanted[value] <= moment <= lives.end[value]:
                left = self.lives(chosen - {value}).bytes[moment]
                if left < lives.bytes[moment] and (best is None or left < best[0]):
                    best = left, value
        return best[1] if best is not None else None

    def _candidates(self, choice: Choice, lives: Lives, moment: int, products: bool) -> list[tuple[int, list[Value]]]:
        """What computing values again frees at a moment, and all that has to be computed for it, the best first."""
        found: list[tuple[float, int, int, list[Value]]] = []
        chosen = set(choice.values)
        for value, wanted in lives.wanted.items():
            if not lives.dropped[value] < moment < wanted or value in chosen:
                continue
            if value not in choice.saved and self.can_repeat(value, products):
                gain, members = self._closure(value, chosen, lives, moment, products)
                if gain > 0 and not choice.saved & {*members}:
                    work = sum(work_of(member) for member in members)
                    found.append((-gain / max(1, work), self.birth[value], gain, members))
        return [(gain, members) for _, _, gain, members in sorted(found, key=lambda entry: entry[:2])]

    def can_repeat(self, value: Value, products: bool = True) -> bool:
        """Whether a value may be computed again."""
        if value.index or value in self.kept or isinstance(_producer(value).op, _ONCE):
            return False
        return products or not isinstance(_producer(value).op, PRODUCTS)

    def _closure(
        self, value: Value, chosen: Collection[Value], lives: Lives, moment: int, products: bool
    ) -> tuple[int, list[Value]]:
        """Bytes that are free at a moment if a value is computed again, and what has to be computed again with it.

        What is not there at that moment is computed again as well, or kept where that is too much work.
        """
        members: dict[Value, None] = {}
        kept_longer: set[Value] = set()
        pending = [value]
        while pending:
            member = pending.pop()
            members[member] = None
            for source in self._sources(member):
                if source in members or source in chosen or lives.end[source] >= moment:
                    continue
                if self.can_repeat(source, products):
                    pending.append(source)
                else:
                    kept_longer.add(source)
        freed = [member for member in members if lives.end[member] >= moment]
        gain = sum(self.bytes[member] for member in freed) - sum(self.bytes[source] for source in kept_longer)
        return gain, sorted(members, key=self.birth.__getitem__)


def _producer(value: Value) -> Node:
    assert value.producer is not None
    return value.producer


def _whole(value: Value) -> Value:
    """The value that a view shows."""
    while value.producer is not None and isinstance(value.producer.op, (Flatten, Unflatten)):
        value = value.producer.operands[0]
    return value


def _peaks(live: list[int]) -> list[int]:
    """The positions at which most lives, highest first: the local maxima."""
    padded = [0, *live, 0]
    tops = [i for i, size in enumerate(live) if padded[i] <= size and padded[i + 2] < size]
    return sorted(tops, key=lambda i: -live[i])[:_MOST_PEAKS]


def work_of(value: Value) -> int:
    """Operations, and as many more as could be done while the operands are read and the result is written."""
    op, operands = again(_producer(value))
    cost = op.cost(*(operand.type for operand in operands))
    return cost.flops + _OPERATIONS_PER_BYTE * cost.bytes
