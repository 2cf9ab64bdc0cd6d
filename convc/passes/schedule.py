"""Choose an order of the kernels in which less memory is needed at the worst moment.

    %dz = conv2d_backward_data(%dy, %w)                %dw = conv2d_backward_weights(%x, %dy)     (%x dies)
    %dw = conv2d_backward_weights(%x, %dy)     →       %dz = conv2d_backward_data(%dy, %w)        (takes its place)

Kernels run in the order in which they come as long as they stay under a limit; where the next one would not, those go
first that are ready and give back more than they take, such as the weight gradient that reads an activation for the
last time. (List scheduling, with the old order as the priority.) The lowest limit that this reaches is found by
bisection. Where next to nothing is gained the order stays: neighbours of the old order share what is in the caches.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from convc.ir.graph import Value
from convc.ir.ops.update import Update
from convc.lazy import dataclass
from convc.passes.base import PassLog, PlanPass, describe
from convc.passes.lifetimes import Needs, find_buffers, live_bytes
from convc.passes.memory import arena_needs, kept_values, lasting_slots
from convc.passes.packing import aligned
from convc.passes.sections import Section

if TYPE_CHECKING:
    from convc.passes.plan import Plan

_TRIES = 8
# A gain that is a smaller share of the peak is not worth another order.
_LEAST_GAIN = 0.002


@dataclass(frozen=True)
class Schedule(PlanPass):
    """Orders the kernels by what they need of the arena."""

    name: ClassVar[str] = "schedule"
    metrics: ClassVar[Mapping[str, str]] = {
        "bytes_before": "what lives at the worst moment in the old order",
        "bytes": "and in the new one",
        "moved": "kernels that run earlier",
    }

    def run(self, plan: Plan, log: PassLog) -> None:
        scheduler = _Scheduler(plan)
        order, peak = scheduler.best()
        _report(plan, order, log)
        log.metrics |= {
            "bytes_before": scheduler.peak(range(len(order))),
            "bytes": peak,
            "moved": len(log.of("changed")),
        }
        plan.kernels = [plan.kernels[index] for index in order]

    def show(self, plan: Plan) -> str:
        return "".join(f"{number}: {kernel.name} {kernel.label}\n" for number, kernel in enumerate(plan.kernels))


def dependencies(plan: Plan) -> list[set[int]]:
    """For every kernel the earlier ones that it has to wait for: who writes what it reads, and who reads what it
    updates where it lies. What prepares comes first, in its order."""
    slots, _ = lasting_slots(plan)
    found: list[set[int]] = []
    writer: dict[Value, int] = {}
    readers: dict[object, set[int]] = {}
    prepared: set[int] = set()  # the last kernel that prepares
    for index, kernel in enumerate(plan.kernels):
        waits = {writer[value] for value in kernel.reads if value in writer}
        for value in kernel.writes:
            waits |= readers.get(slots.get(value), set())
        found.append(waits - {index} | prepared)
        if kernel.section is Section.PREPARE:
            prepared = {index}
        for value in kernel.writes:
            writer[value] = index
        for value in kernel.reads:
            if value in slots:
                readers.setdefault(slots[value], set()).add(index)
    return found


class _Scheduler:
    """What the kernels of a plan need and wait for; `under` orders them, `peak` judges an order."""

    def __init__(self, plan: Plan) -> None:
        self.needs = arena_needs(plan)
        self.kept = kept_values(plan.graph)
        self.sizes = {value: aligned(plan.bytes_of(value)) for kernel in self.needs for value in kernel.writes}
        self.waits = dependencies(plan)
        self.followers: list[list[int]] = [[] for _ in self.needs]
        for index, earlier in enumerate(self.waits):
            for other in earlier:
                self.followers[other].append(index)
        self.readers: dict[Value, list[int]] = {}
        for index, kernel in enumerate(self.needs):
            for value in kernel.reads:
                self.readers.setdefault(value, []).append(index)

    def peak(self, order: Sequence[int]) -> int:
        """The most bytes that live at once."""
        needs = [self.needs[index] for index in order]
        return max(live_bytes(needs, find_buffers(needs, self.sizes, self.kept)), default=0)

    def best(self) -> tuple[Sequence[int], int]:
        """The best order that was found, and its peak; the old one unless another is better by enough."""
        order: Sequence[int] = range(len(self.needs))
        before = found = self.peak(order)
        least, wanted = max(map(self._alone, self.needs), default=0), int(before * (1 - _LEAST_GAIN))
        if least > wanted:
            return order, before
        limits = [least, wanted]  # as low as it can be, and as few moves as possible
        for number in range(_TRIES):
            limit = limits[number] if number < len(limits) else (least + found) // 2
            candidate = self.under(limit)
            peak = self.peak(candidate)
            if peak <= wanted and peak < found:
                order, found = candidate, peak
            elif number >= len(limits):
                least = limit + 1
            if number + 1 >= len(limits) and (found == before or least >= found):
                break
        if found == before:
            return order, before
        # What was reached with a lower limit may take fewer moves with this one.
        fewer = self.under(found)
        return (fewer if self.peak(fewer) <= found else order), found

    def _alone(self, kernel: Needs) -> int:
        """What a kernel needs whatever else lives: a part of it, since results may take the place of operands."""
        return sum(self.sizes[value] for value in kernel.reads) + kernel.scratch

    def under(self, limit: int) -> list[int]:
        """An order that tries to stay under `limit` bytes."""
        return _Run(self, limit).order()


class _Run:
    """One pass of list scheduling. `left` counts the readers of each value that have not run, `live` bytes."""

    def __init__(self, scheduler: _Scheduler, limit: int) -> None:
        self.all, self.limit = scheduler, limit
        self.live = 0
        self.left = {value: len(readers) for value, readers in scheduler.readers.items()}
        self.waiting = [len(earlier) for earlier in scheduler.waits]
        self.done = [False] * len(scheduler.needs)
        self.ready: list[int] = []  # a heap: the first in the old order comes first
        self.releasing: set[int] = set()  # those of them that give back at least what they take
        for index, count in enumerate(self.waiting):
            if not count:
                self._admit(index)

    def order(self) -> list[int]:
        found: list[int] = []
        while len(found) < len(self.done):
            index = self._next()
            found.append(index)
            self._execute(index)
        return found

    def _next(self) -> int:
        while self.done[self.ready[0]]:
            heapq.heappop(self.ready)
        first = self.ready[0]
        room = max(self.limit - self.live, self._demand(first))
        if first in self.releasing or self.live + self._demand(first) <= self.limit:
            return first
        fitting = [(self._change(index), index) for index in self.releasing if self._demand(index) <= room]
        return min(fitting)[1] if fitting else first

    def _execute(self, index: int) -> None:
        self.live += self._change(index)
        self.done[index] = True
        self.releasing.discard(index)
        for value in self.all.needs[index].reads:
            self.left[value] -= 1
            if self.left[value] == 1:
                # Whoever is left gives it back.
                self._consider(next(reader for reader in self.all.readers[value] if not self.done[reader]))
        for follower in self.all.followers[index]:
            self.waiting[follower] -= 1
            if not self.waiting[follower]:
                self._admit(follower)

    def _admit(self, index: int) -> None:
        heapq.heappush(self.ready, index)
        self._consider(index)

    def _consider(self, index: int) -> None:
        kernel = self.all.needs[index]
        sink = bool(kernel.reads) and not kernel.writes
        if not self.waiting[index] and not self.done[index] and (sink or self._change(index) < 0):
            self.releasing.add(index)

    def _change(self, index: int) -> int:
        """By how much a kernel changes what lives."""
        kernel = self.all.needs[index]
        return sum(self.all.sizes[value] for value in kernel.writes) - sum(
            self.all.sizes[value] for value in kernel.reads if self._dies(value)
        )

    def _demand(self, index: int) -> int:
        """What a kernel needs, while it runs, beside what lives before."""
        kernel = self.all.needs[index]
        shared = {written: read for written, read in kernel.over if self._dies(read)}
        shared = {read: written for written, read in shared.items()}  # each place is taken once
        needed = sum(self.all.sizes[value] for value in kernel.writes) + kernel.scratch
        return needed - sum(self.all.sizes[written] for written in shared.values())

    def _dies(self, value: Value) -> bool:
        return self.left[value] == 1 and value not in self.all.kept


def _report(plan: Plan, order: Sequence[int], log: PassLog) -> None:
    """Log the kernels that run before others which used to come first, and the updates that stay where they are."""
    done: set[int] = set()
    first = 0
    for index in order:
        while first in done:
            first += 1
        if index != first:
            anchor, passed = plan.kernels[index].anchor, plan.kernels[first].anchor
            why = f"it reads something for the last time, and {describe(passed)} needs room"
            log.changed("earlier", (anchor,), (anchor,), why)
        done.add(index)
    for kernel in plan.kernels:
        if isinstance(kernel.anchor.op, Update) and kernel.riders:
            why = f"one loop updates {1 + len(kernel.riders)} parameters, and their gradients outlive the step anyway"
            log.missed("early-update", kernel.anchor, why)
