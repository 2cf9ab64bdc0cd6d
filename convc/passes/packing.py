"""Offsets for what is needed for a time only: intervals that meet in time lie apart in space.

To find the smallest memory is NP-hard (dynamic storage allocation). Greedy orders come close, and which of them does
best depends on the net, so several are tried until one takes hardly more than what lives at once. An order that fails
is repaired: the intervals that came to lie beyond that move to the front (squeaky wheel optimisation, Joslin &
Clements 1999).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

ALIGNMENT = 64


@dataclass(frozen=True)
class Interval:
    """A need for `bytes` from kernel `first` to kernel `last`, inclusive."""

    key: object
    bytes: int
    first: int
    last: int


@dataclass(frozen=True)
class _Packing:
    """An offset for every interval, and what they take together."""

    offsets: tuple[int, ...]
    total: int


_Order = Sequence[int]
# How often orders are tried: with n intervals a try compares up to n²/2 pairs, at some ten million per second.
_MOST_COMPARISONS = 3_000_000
_MOST_REPAIRS = 60
# What is this close to what lives at once is not worth another try.
_CLOSE = 1.001


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def pack_intervals(intervals: Iterable[Interval]) -> tuple[dict[object, int], int]:
    """Offsets such that intervals that overlap in time do not overlap in space; and the total size.

    The order of the intervals does not matter. Thousands of them are placed in the order in which they begin, which
    takes time n·log n; fewer are worth more tries (0.3 s at most).
    """
    items = sorted(
        (Interval(i.key, aligned(i.bytes), i.first, i.last) for i in intervals),
        key=lambda i: (i.first, i.first - i.last, -i.bytes),
    )
    if not items:
        return {}, 0
    live = _live(items)
    enough = int(_CLOSE * max(live))
    best = _in_time_order(items)
    tries = _MOST_COMPARISONS // (len(items) ** 2 // 2 + 1)
    repairs = min(tries // len(_ORDERS), _MOST_REPAIRS)
    for order in _ORDERS[:tries]:
        if best.total > enough:
            best = min(best, _repaired(items, order(items, live), enough, repairs), key=lambda packing: packing.total)
    return {item.key: offset for item, offset in zip(items, best.offsets, strict=True)}, best.total


def _live(items: Sequence[Interval]) -> list[int]:
    """Bytes that are needed at each moment."""
    change = [0] * (max(item.last for item in items) + 2)
    for item in items:
        change[item.first] += item.bytes
        change[item.last + 1] -= item.bytes
    return list(accumulate(change))


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


def _repaired(items: Sequence[Interval], order: _Order, enough: int, repairs: int) -> _Packing:
    """The best packing of an order and of those that its failures lead to."""
    best = packing = _best_fit(items, order)
    for _ in range(repairs):
        if best.total <= enough:
            break
        beyond = [i for i in order if packing.offsets[i] + items[i].bytes > enough]
        order = [*beyond, *(i for i in order if packing.offsets[i] + items[i].bytes <= enough)]
        packing = _best_fit(items, order)
        best = min(best, packing, key=lambda packing: packing.total)
    return best


def _best_fit(items: Sequence[Interval], order: _Order) -> _Packing:
    """Each into the tightest gap among those placed that are needed at the same time."""
    placed: list[tuple[int, int, int, int]] = []  # offset, end, first, last
    offsets = [0] * len(items)
    total = 0
    for number in order:
        item = items[number]
        position, best, tightest = 0, None, None
        for offset, end, first, last in placed:
            if last < item.first or item.last < first:
                continue
            gap = offset - position
            if gap >= item.bytes and (tightest is None or gap < tightest):
                best, tightest = position, gap
            if end > position:
                position = end
        chosen = position if best is None else best
        offsets[number] = chosen
        total = max(total, chosen + item.bytes)
        insort(placed, (chosen, chosen + item.bytes, item.first, item.last))
    return _Packing(tuple(offsets), total)


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
