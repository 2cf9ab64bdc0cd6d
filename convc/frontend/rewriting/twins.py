"""Which groups of runs keep the name of their block, and what the twins of the others are called."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import chain, count
from string import ascii_lowercase

from convc.frontend import syntax
from convc.frontend.rewriting.decisions import Decision, Decisions, Edit, Group, Plan, Unrolled
from convc.lazy import dataclass


@dataclass(frozen=True)
class Twins:
    """`names` of all groups. The text of those in `in_place` stands where the block stood; `copies` are written anew.
    The other groups need no text: they call what is there."""

    names: Mapping[Group, str]
    in_place: tuple[Group, ...]
    copies: tuple[Group, ...]


def name_groups(plan: Plan, is_fixed: Callable[[syntax.Definition], bool], is_free: Callable[[str], bool]) -> Twins:
    """Decide which group is written where.

    The text of a block that `is_fixed` cannot be changed: others need it, or it stands in another file.
    """
    blocks = list(dict.fromkeys(group.block for group in plan.groups))
    alone = {group for block in blocks if not is_fixed(block) for group in _single(plan.of(block))}
    same = _unchanged(plan, alone)
    in_place = [
        alone_or_first
        for block in blocks
        if not is_fixed(block) and same.isdisjoint(plan.of(block))
        for alone_or_first in plan.of(block)[:1]
    ]
    keep = {*same, *in_place}
    names: dict[Group, str] = {}
    for group in plan.groups:
        if group in keep:
            names[group] = group.block.name
        else:
            adjective = _adjective(plan, group)
            taken = set(names.values())
            names[group] = _free_name(
                f"{group.block.name}_{adjective}", lambda name, taken=taken: is_free(name) and name not in taken
            )
    copies = tuple(group for group in plan.groups if group not in keep)
    return Twins(names, tuple(in_place), copies)


def _single(groups: list[Group]) -> list[Group]:
    return groups if len(groups) == 1 else []


def _unchanged(plan: Plan, alone: set[Group]) -> set[Group]:
    """Groups whose text is that of their block: nothing in it is edited, and what it calls keeps its name.

    A group that is `alone` keeps the name of its block whatever is edited in it.
    """
    found = {group for group, own in plan.groups.items() if all(not _is_edit(decision) for decision in own.values())}
    while True:
        fitting = {
            group
            for group in found
            if all(called in found or called in alone for called in _called(plan.groups[group]))
        }
        if fitting == found:
            return found
        found = fitting


def _is_edit(decision: Decision) -> bool:
    return isinstance(decision, (Edit, Unrolled))


def _called(decisions: Decisions) -> list[Group]:
    return [decision for decision in decisions.values() if isinstance(decision, Group)]


def _adjective(plan: Plan, group: Group) -> str:
    """That of the first edit in the group or in what it calls."""
    pending, seen = [group], {group}
    while pending:
        for decision in _flat(plan.groups[pending.pop(0)]):
            if isinstance(decision, Edit):
                return decision.adjective
            if isinstance(decision, Group) and decision not in seen:
                seen.add(decision)
                pending.append(decision)
    return "again"


def _flat(decisions: Decisions) -> Iterable[Decision]:
    return chain.from_iterable(
        chain.from_iterable(_flat(part.decisions) for part in decision.parts)
        if isinstance(decision, Unrolled)
        else (decision,)
        for decision in decisions.values()
    )


def _free_name(wanted: str, is_free: Callable[[str], bool]) -> str:
    """The wanted name, else with a letter behind it: numbers count the calls of a block."""
    if is_free(wanted):
        return wanted
    letters = (letter * length for length in count(1) for letter in ascii_lowercase)
    return next(name for mark in letters if is_free(name := f"{wanted}_{mark}"))
