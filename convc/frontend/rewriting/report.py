"""What was done to the text: which blocks were edited or got a twin, which loops were unrolled, and why."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Literal

from convc.frontend import syntax
from convc.frontend.hints import plural
from convc.frontend.rewriting.decisions import Decisions, Edit, Plan, Unrolled
from convc.frontend.rewriting.frames import Run
from convc.frontend.rewriting.twins import Twins
from convc.ir.span import Span
from convc.lazy import dataclass

_SHOWN = 4


@dataclass(frozen=True)
class Action:
    """`what` was edited in place, copied, or unrolled, and `why`; `span` is where it stands in the old text."""

    kind: Literal["edited", "copied", "unrolled"]
    what: str
    why: str
    span: Span

    def __str__(self) -> str:
        return f"{self.kind} {self.what}, line {self.span.line}: {self.why}"


def actions(plan: Plan, twins: Twins, net: Run, definition: syntax.Definition) -> tuple[Action, ...]:
    """In the order: the net, then the blocks."""
    found: list[Action] = []
    if any(isinstance(decision, Edit) for decision in plan.net.values()):
        found.append(Action("edited", f"net {definition.name}", "its own statements", definition.name_span))
    found += _unrolled(plan.net)
    for group, decisions in plan.groups.items():
        block, count = group.block, len(plan.runs[group])
        total = sum(len(plan.runs[other]) for other in plan.of(block))
        if group in twins.copies:
            why = f"for {count} of {plural(total, 'call')}, the others need other layers"
            if count == total:
                why = "its text belongs to another file, or to other nets as well"
            found.append(Action("copied", f"block {block.name} as {twins.names[group]}", why, block.name_span))
        elif group in twins.in_place and any(isinstance(decision, Edit) for decision in decisions.values()):
            why = f"the same layers in all of {plural(count, 'call')}"
            if count < total:
                why = f"for {count} of {plural(total, 'call')}, the others call a copy"
            found.append(Action("edited", f"block {block.name}", why, block.name_span))
        if group in twins.copies or group in twins.in_place:
            found += _unrolled(decisions)
    return tuple(found)


def _unrolled(decisions: Decisions) -> Iterator[Action]:
    for statement, decision in decisions.items():
        if isinstance(decision, Unrolled):
            why = f"into {plural(len(decision.parts), 'part')}, as its iterations need different layers"
            yield Action("unrolled", "the loop", why, statement.span)
            for part in decision.parts:
                yield from _unrolled(part.decisions)


def layer_list(runs: Sequence[Run], replaced: Collection[str]) -> str:
    """The replaced layers in some runs of a block, the first few by name."""
    paths = [path for run in runs for path in _paths(run) if path in replaced]
    shown = ", ".join(paths[:_SHOWN])
    return f"{shown} and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else shown


def _paths(run: Run) -> Iterator[str]:
    yield from (execution.path for execution in run.layers.values())
    for loop in run.loops.values():
        for inner in loop.runs.values():
            yield from _paths(inner)
    for inner in run.calls.values():
        yield from _paths(inner)
