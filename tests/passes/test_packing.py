"""Packing: what meets in time lies apart in space, and hardly more is taken than what lives at once."""

from __future__ import annotations

import random
from collections import Counter
from itertools import accumulate, combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convc.passes.packing import ALIGNMENT, Interval, _best_fit, _meetings, aligned, pack_intervals


def interval_lists(most: int = 14) -> st.SearchStrategy[list[Interval]]:
    spans = st.tuples(st.integers(1, 2000), st.integers(0, 12), st.integers(0, 6))
    return st.lists(spans, max_size=most).map(
        lambda drawn: [Interval(key, size, first, first + rest) for key, (size, first, rest) in enumerate(drawn)]
    )


def bound_of(intervals: list[Interval]) -> int:
    """The most bytes that are needed at once."""
    change: Counter[int] = Counter()
    for interval in intervals:
        change[interval.first] += aligned(interval.bytes)
        change[interval.last + 1] -= aligned(interval.bytes)
    return max(accumulate(change[moment] for moment in sorted(change)), default=0)


def assert_sound(intervals: list[Interval], offsets: dict[object, int], total: int) -> None:
    assert offsets.keys() == {interval.key for interval in intervals}
    for left, right in combinations(intervals, 2):
        if left.first <= right.last and right.first <= left.last:
            low, high = sorted((left, right), key=lambda interval: offsets[interval.key])
            assert offsets[low.key] + low.bytes <= offsets[high.key]
    assert all(offset >= 0 and offset % ALIGNMENT == 0 for offset in offsets.values())
    assert total == max((offsets[i.key] + aligned(i.bytes) for i in intervals), default=0)


@given(interval_lists())
def test_intervals_that_meet_in_time_do_not_meet_in_space(intervals: list[Interval]) -> None:
    offsets, total = pack_intervals(intervals)
    assert_sound(intervals, offsets, total)
    assert bound_of(intervals) <= total <= 1.5 * bound_of(intervals)


@given(interval_lists(), st.randoms(use_true_random=False))
def test_the_order_given_does_not_matter(intervals: list[Interval], generator: random.Random) -> None:
    shuffled = generator.sample(intervals, len(intervals))
    assert pack_intervals(intervals)[1] == pack_intervals(shuffled)[1]


def drawn(count: int, seed: int) -> list[Interval]:
    generator = random.Random(seed)
    firsts = [generator.randint(0, 12) for _ in range(count)]
    return [
        Interval(key, generator.randint(1, 2000), first, first + generator.randint(0, 6))
        for key, first in enumerate(firsts)
    ]


@pytest.mark.parametrize(("count", "most"), [(6, 1.01), (14, 1.01), (30, 1.02)])
def test_little_is_lost_on_average(count: int, most: float) -> None:
    """Against what lives at once, which not every set can reach."""
    sets = [drawn(count, seed) for seed in range(60)]
    ratios = [pack_intervals(intervals)[1] / bound_of(intervals) for intervals in sets]
    assert sum(ratios) / len(ratios) <= most


def test_best_fit_takes_the_tightest_gap() -> None:
    """Gaps of 640 and 512 bytes between what stays: 320 bytes go into the smaller one, 600 into the other."""
    items = [
        Interval("low", 1024, 0, 9),
        Interval("wide gap", 640, 0, 4),
        Interval("middle", 576, 0, 9),
        Interval("narrow gap", 512, 0, 4),
        Interval("top", 448, 0, 9),
        Interval("late", 320, 5, 9),
        Interval("later", 640, 5, 9),
    ]
    packing = _best_fit(items, _meetings(items), range(len(items)))
    places = dict(zip((item.key for item in items), packing.offsets, strict=True))
    assert places["late"] == places["narrow gap"]
    assert places["later"] == places["wide gap"]
    assert packing.total == 1024 + 640 + 576 + 512 + 448


def test_intervals_that_follow_each_other_share_space() -> None:
    intervals = [Interval(number, 100 - number, number, number) for number in range(5)]
    assert pack_intervals(intervals) == (dict.fromkeys(range(5), 0), 128)


def test_nothing_takes_nothing() -> None:
    assert pack_intervals([]) == ({}, 0)


def stacked(depth: int) -> list[Interval]:
    """A training: activations are freed in the reverse order, and each kernel has something of its own."""
    saved = [Interval(("saved", i), 64 * (1 + i % 3), i, 2 * depth - i) for i in range(depth)]
    return saved + [Interval(("own", i), 64 * (1 + i % 4), i, min(i + 1, 2 * depth)) for i in range(2 * depth + 1)]


@pytest.mark.parametrize("depth", [3, 40, 1500])
def test_activations_stack_up(depth: int) -> None:
    intervals = stacked(depth)
    offsets, total = pack_intervals(intervals)
    assert offsets.keys() == {interval.key for interval in intervals}
    assert total <= 1.02 * bound_of(intervals)


def blocks() -> st.SearchStrategy[list[Interval]]:
    """Parts of a block, beside each other, each needed from some moment to the end."""

    def build(drawn: list[tuple[int, int]]) -> list[Interval]:
        starts = [0, *accumulate(aligned(size) for size, _ in drawn)]
        return [
            Interval(("part", number), size, first, 18, starts[number]) for number, (size, first) in enumerate(drawn)
        ]

    return st.lists(st.tuples(st.integers(1, 2000), st.integers(0, 18)), min_size=1, max_size=5).map(build)


@given(interval_lists(), blocks())
def test_parts_of_a_block_stay_together(intervals: list[Interval], block: list[Interval]) -> None:
    offsets, total = pack_intervals([*intervals, *block])
    assert_sound([*intervals, *block], offsets, total)
    assert len({offsets[part.key] - (part.part or 0) for part in block}) == 1
    # At most what it takes to share nothing.
    assert total <= pack_intervals(intervals)[1] + sum(aligned(part.bytes) for part in block)


def test_what_is_needed_before_a_block_lies_in_its_place() -> None:
    stack = [Interval(i, 64, i, 20 - i) for i in range(10)]
    block = [Interval(("part", i), 64, 21 - i, 21, 64 * i) for i in range(10)]
    assert pack_intervals([*stack, *block])[1] == bound_of([*stack, *block]) == 640


@pytest.mark.parametrize("depth", [40, 1500])
def test_a_block_beside_activations(depth: int) -> None:
    """As gradients: what is computed last belongs to what was saved first."""
    block = [Interval(("part", i), 64, 2 * depth - i, 2 * depth, 64 * i) for i in range(depth)]
    intervals = [*stacked(depth), *block]
    offsets, total = pack_intervals(intervals)
    assert len({offsets["part", i] - 64 * i for i in range(depth)}) == 1
    apart = bound_of(stacked(depth)) + 64 * depth
    assert total <= (1.02 * bound_of(intervals) if depth < 100 else 1.02 * apart)
