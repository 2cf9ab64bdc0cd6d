"""Offsets for what is needed for a time only: intervals that meet in time lie apart in space.

To find the smallest memory is NP-hard (dynamic storage allocation). Greedy orders come close, and which of them does
best depends on the net, so several are tried until one takes hardly more than what lives at once. An order that fails
is repaired: the intervals that came to lie beyond that move to the front (squeaky wheel optimisation, Joslin &
Clements 1999).

Some intervals may be parts of a block, whose places in it are given. The block lies on top, so that what is given back
last, lowest, leaves room in one piece below the parts that are needed first.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from operator import add

from convc.lazy import dataclass

ALIGNMENT = 64


@dataclass(frozen=True)
class Interval:
    """A need for `bytes` from kernel `first` to kernel `last`, inclusive.

    `part` is where it lies within the block, for what belongs there.
    """

    key: object
    bytes: int
    first: int
    last: int
    part: int | None = None


@dataclass(frozen=True)
class _Packing:
    """An offset for every interval, and what they take together."""

    offsets: tuple[int, ...]
    total: int


_Order = Sequence[int]
_Meetings = Sequence[Sequence[int]]
# How much work is worth it: a try looks at all pairs of intervals that meet in time, some millions per second.
_MOST_PAIRS = 1_500_000
_MOST_REPAIRS = 60
# What is this close to what lives at once is not worth another try. Tries with a block are not repaired.
_CLOSE = 1.005
_CLOSE_WITH_BLOCK = 1.01
# How far above what lives at once a block may end, to leave some room below.
_ROOM_BELOW_BLOCK = (0.0, 0.004)


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def pack_intervals(intervals: Iterable[Interval]) -> tuple[dict[object, int], int]:
    """Offsets such that intervals that overlap in time do not overlap in space; and the total size.

    The order of the intervals does not matter. Where a million pairs of them meet in time they are placed in the order
    in which they begin, which takes time n·log n; fewer are worth more tries.
    """
    items = sorted(
        (Interval(i.key, aligned(i.bytes), i.first, i.last, i.part) for i in intervals),
        key=lambda i: (i.first, i.first - i.last, -i.bytes),
    )
    if not items:
        return {}, 0
    best = _packed(items) if all(item.part is None for item in items) else _packed_with_block(items)
    return {item.key: offset for item, offset in zip(items, best.offsets, strict=True)}, best.total


def _packed_with_block(items: Sequence[Interval]) -> _Packing:
    """What is good enough, or the best of several tries; as little as if the block shared no space in any case."""
    live = _live(items)
    height = max(item.part + item.bytes for item in items if item.part is not None)
    best: _Packing | None = None
    if _count_pairs(items) < _MOST_PAIRS:
        meets = _meetings(items)
        for room in _ROOM_BELOW_BLOCK:
            base = aligned(max(int((1 + room) * max(live)) - height, 0))
            for order in (_by_pressure, _by_area, _by_size, _by_lifetime):
                packing = _best_fit(items, meets, order(items, live), base)
                if packing.total <= _CLOSE_WITH_BLOCK * max(live):
                    return packing
                best = packing if best is None else min(best, packing, key=lambda packing: packing.total)
    others = _packed([item for item in items if item.part is None])
    placed = iter(others.offsets)
    offsets = tuple(next(placed) if item.part is None else others.total + item.part for item in items)
    apart = _Packing(offsets, others.total + height)
    return apart if best is None else min(best, apart, key=lambda packing: packing.total)


def _packed(items: Sequence[Interval]) -> _Packing:
    if not items:
        return _Packing((), 0)
    live = _live(items)
    enough = int(_CLOSE * max(live))
    best = _in_time_order(items)
    tries = _MOST_PAIRS // (_count_pairs(items) + 1)
    if best.total > enough and tries:
        meets = _meetings(items)
        repairs = min(tries // len(_ORDERS), _MOST_REPAIRS)
        for order in _ORDERS[:tries]:
            packing = _repaired(items, meets, order(items, live), enough, repairs)
            best = min(best, packing, key=lambda packing: packing.total)
            if best.total <= enough:
                break
    return best


def _live(items: Sequence[Interval]) -> list[int]:
    """Bytes that are needed at each moment."""
    change = [0] * (max(item.last for item in items) + 2)
    for item in items:
        change[item.first] += item.bytes
        change[item.last + 1] -= item.bytes
    return list(accumulate(change))


def _count_pairs(items: Sequence[Interval]) -> int:
    """How many pairs meet in time; the items are in the order in which they begin."""
    ends = sorted(item.last for item in items)
    return sum(number - bisect_left(ends, item.first) for number, item in enumerate(items))


def _meetings(items: Sequence[Interval]) -> list[list[int]]:
    """For every interval those that it meets in time."""
    found: list[list[int]] = [[] for _ in items]
    active: list[int] = []
    for number, item in enumerate(items):
        active = [other for other in active if items[other].last >= item.first]
        for other in active:
            found[other].append(number)
        found[number] += active
        active.append(number)
    return found


# Orders in which the hard cases come first. Ties keep the order in which intervals begin.


def _by_size(items: Sequence[Interval], live: Sequence[int]) -> _Order:
    """Pisarchyk & Lee 2020."""
    return sorted(range(len(items)), key=lambda i: -items[i].bytes)


def _by_pressure(items: Sequence[Interval], live: Sequence[int]) -> _Order:
    """What lives when most is live, and of that what lives longest: saved activations stack up like their lifetimes."""

    def pressure(i: int) -> int:
        return max(live[items[i].first : items[i].last + 1])

    return sorted(range(len(items)), key=lambda i: (-pressure(i), items[i].first - items[i].last, -items[i].bytes))


def _by_area(items: Sequence[Interval], live: Sequence[int]) -> _Order:
    return sorted(range(len(items)), key=lambda i: -items[i].bytes * (items[i].last - items[i].first + 1))


def _by_lifetime(items: Sequence[Interval], live: Sequence[int]) -> _Order:
    return sorted(range(len(items)), key=lambda i: (items[i].first - items[i].last, -items[i].bytes))


_ORDERS: tuple[Callable[[Sequence[Interval], Sequence[int]], _Order], ...] = (
    _by_size,
    _by_pressure,
    _by_area,
    _by_lifetime,
)


def _repaired(items: Sequence[Interval], meets: _Meetings, order: _Order, enough: int, repairs: int) -> _Packing:
    """The best packing of an order and of those that its failures lead to."""
    best = packing = _best_fit(items, meets, order)
    for _ in range(repairs):
        if best.total <= enough:
            break
        beyond = [i for i in order if packing.offsets[i] + items[i].bytes > enough]
        order = [*beyond, *(i for i in order if packing.offsets[i] + items[i].bytes <= enough)]
        packing = _best_fit(items, meets, order)
        best = min(best, packing, key=lambda packing: packing.total)
    return best


def _best_fit(items: Sequence[Interval], meets: _Meetings, order: _Order, base: int = 0) -> _Packing:
    """Each into the tightest gap among those placed that are needed at the same time; the block begins at `base`."""
    sizes = [item.bytes for item in items]
    offsets = [-1 if item.part is None else base + item.part for item in items]
    for number in order:
        if offsets[number] >= 0:
            continue
        size = sizes[number]
        position, best, tightest = 0, -1, 0
        for offset, end in sorted([(offsets[i], offsets[i] + sizes[i]) for i in meets[number] if offsets[i] >= 0]):
            gap = offset - position
            if gap >= size and (best < 0 or gap < tightest):
                best, tightest = position, gap
            if end > position:
                position = end
        offsets[number] = position if best < 0 else best
    return _Packing(tuple(offsets), max(map(add, offsets, sizes)))


def _in_time_order(items: Sequence[Interval]) -> _Packing:
    """Each, when it begins, into the tightest gap that there is then; gaps grow together as intervals end."""
    ending = sorted(range(len(items)), key=lambda i: items[i].last)
    gaps: list[tuple[int, int]] = []  # offset, size; none of them touch, and none reaches the top
    offsets = [0] * len(items)
    top = total = done = 0
    for number, item in enumerate(items):
        while items[ending[done]].last < item.first:
            over = ending[done]
            top = _release(gaps, offsets[over], items[over].bytes, top)
            done += 1
        fitting = [(size, offset) for offset, size in gaps if size >= item.bytes]
        if fitting:
            size, offsets[number] = min(fitting)
            gaps.remove((offsets[number], size))
            if size > item.bytes:
                insort(gaps, (offsets[number] + item.bytes, size - item.bytes))
        else:
            offsets[number], top = top, top + item.bytes
        total = max(total, top)
    return _Packing(tuple(offsets), total)


def _release(gaps: list[tuple[int, int]], offset: int, size: int, top: int) -> int:
    """Give back a range of memory; returns the end of what is in use."""
    place = bisect_left(gaps, (offset, 0))
    if place < len(gaps) and offset + size == gaps[place][0]:
        size += gaps.pop(place)[1]
    if place and sum(gaps[place - 1]) == offset:
        offset, before = gaps.pop(place - 1)
        size += before
    if offset + size == top:
        return offset
    insort(gaps, (offset, size))
    return top
