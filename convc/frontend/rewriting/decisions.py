"""Where one text can serve all runs of a body, and where it takes several.

    block basic(c) { conv c k=3 -> relu }          # a, b and c call it; only the layer of b is to be replaced
    net n { … basic(8) -> basic(8) -> basic(8) }   # so b calls a twin of it

All runs of a block begin in one group. A group is divided where its runs need different texts: for a layer, for a loop
that has to be unrolled, or because they call a block whose runs are in different groups. That goes on until nothing
changes, so blocks that call themselves are no exception. What a run does not carry out fits any text; but where a group
is divided, the runs in which nothing is replaced keep to themselves, and so to the text that is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from convc.frontend import syntax
from convc.frontend.rewriting.frames import Frames, Loop, LoopRuns, Run
from convc.lazy import dataclass


@dataclass(frozen=True)
class Edit:
    """What a layer's statement becomes. `adjective` is for the name of a twin of the block around it."""

    text: str
    adjective: str


@dataclass(frozen=True)
class Group:
    """Some runs of a block that share one text."""

    block: syntax.Definition
    number: int


@dataclass(frozen=True)
class Part:
    """Iterations from `start` to before `stop` of an unrolled loop; `stop` is None for all the rest."""

    start: int
    stop: int | None
    header: str | None
    body: frozenset[tuple[syntax.Statement, Decision]]

    @property
    def decisions(self) -> Decisions:
        return dict(self.body)


@dataclass(frozen=True)
class Unrolled:
    """A loop in several parts."""

    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Whole:
    """A loop that stays one."""


Decision = Edit | Group | Whole | Unrolled | None  # None: a layer that stays as it is
Decisions = Mapping[syntax.Statement, Decision]
# Writes the head of some iterations of a loop, `repeat 2`; None where the body alone will do.
Header = Callable[[Loop, LoopRuns, int, int | None], str | None]


@dataclass(frozen=True)
class Plan:
    """What is to be written for the net, and for each group of runs of each block; and which runs these are."""

    net: Decisions
    groups: Mapping[Group, Decisions]
    runs: Mapping[Group, tuple[Run, ...]]

    def of(self, block: syntax.Definition) -> list[Group]:
        return [group for group in self.groups if group.block is block]


def decide(frames: Frames, edits: Mapping[int, Edit], header: Header) -> Plan:
    """Divide the runs of blocks and unroll loops as far as needed; `edits` are by the identity of an execution."""
    return _Divider(frames, edits, header).run()


class _Divider:
    def __init__(self, frames: Frames, edits: Mapping[int, Edit], header: Header) -> None:
        self.frames, self.edits, self.header = frames, edits, header
        self.groups: dict[syntax.Definition, list[list[Run]]] = {
            block: [list(runs)] for block, runs in frames.blocks.items()
        }
        self.number: dict[Run, Group] = {}
        self.touched: set[Run] = set()
        for run in reversed(frames.runs):
            inner = [*run.calls.values(), *(one for loop in run.loops.values() for one in loop.runs.values())]
            if any(id(layer) in edits for layer in run.layers.values()) or not self.touched.isdisjoint(inner):
                self.touched.add(run)

    def run(self) -> Plan:
        while True:
            self._enumerate()
            divided = {
                block: [part for group in groups for part in self._divide(group)]
                for block, groups in self.groups.items()
            }
            stable = all(len(divided[block]) == len(groups) for block, groups in self.groups.items())
            self.groups = divided
            if stable:
                break
        merged: dict[Group, Decisions] = {}
        members: dict[Group, tuple[Run, ...]] = {}
        for groups in self.groups.values():
            for runs in groups:
                found = self._merge([self._decisions(run) for run in runs])
                assert found is not None
                merged[self.number[runs[0]]] = found
                members[self.number[runs[0]]] = tuple(runs)
        return Plan(self._decisions(self.frames.net), merged, members)

    def _enumerate(self) -> None:
        for block, groups in self.groups.items():
            for number, runs in enumerate(groups):
                self.number.update(dict.fromkeys(runs, Group(block, number)))

    def _divide(self, runs: Sequence[Run]) -> list[list[Run]]:
        """Runs that fit together, each in the first group that it fits into."""
        decisions = {run: self._decisions(run) for run in runs}
        if self._merge(list(decisions.values())) is not None:
            return [list(runs)]
        untouched = [run for run in runs if run not in self.touched]
        found: list[tuple[dict[syntax.Statement, Decision], list[Run]]] = []
        for run in runs:
            if run not in self.touched:
                continue
            own = decisions[run]
            for common, members in found:
                if _fit(common, own):
                    common.update(own)
                    members.append(run)
                    break
            else:
                found.append((dict(own), [run]))
        groups = [members for _, members in found]
        return [untouched, *groups] if untouched else groups

    def _decisions(self, run: Run) -> Decisions:
        found: dict[syntax.Statement, Decision] = {
            statement: self.edits.get(id(execution)) for statement, execution in run.layers.items()
        }
        found.update((call, self.number[inner]) for call, inner in run.calls.items())
        for loop, runs in run.loops.items():
            iterations = {number: self._decisions(inner) for number, inner in runs.runs.items()}
            common = self._merge(list(iterations.values()))
            if common is not None:
                found[loop] = Whole()
                found.update(common)
            else:
                found[loop] = self._unroll(loop, runs, iterations)
        return found

    @staticmethod
    def _merge(decisions: Sequence[Decisions]) -> Decisions | None:
        common: dict[syntax.Statement, Decision] = {}
        for own in decisions:
            if not _fit(common, own):
                return None
            common.update(own)
        return common

    def _unroll(self, loop: Loop, runs: LoopRuns, iterations: Mapping[int, Decisions]) -> Unrolled:
        """Neighbouring iterations stay together as long as they fit."""
        parts: list[tuple[int, dict[syntax.Statement, Decision]]] = []
        for number in range(runs.whole.count):
            own = iterations.get(number, {})
            if parts and _fit(parts[-1][1], own):
                parts[-1][1].update(own)
            else:
                parts.append((number, dict(own)))
        stops: list[int | None] = [start for start, _ in parts[1:]]
        return Unrolled(
            tuple(
                Part(start, stop, self.header(loop, runs, start, stop), frozenset(common.items()))
                for (start, common), stop in zip(parts, [*stops, None], strict=True)
            )
        )


def _fit(one: Decisions, other: Decisions) -> bool:
    """Whether one text serves both."""
    small, large = (one, other) if len(one) < len(other) else (other, one)
    return all(large.get(statement, decision) == decision for statement, decision in small.items())
