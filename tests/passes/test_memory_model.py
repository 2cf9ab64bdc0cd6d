"""The model of memory against one that keeps every byte."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from convc.ir.graph import Value
from convc.ir.types import f32
from convc.passes.memory import Region, Slot
from convc.passes.memory_model import MemoryModel

REGIONS: tuple[Region, ...] = ("arena", "persistent")
SLOTS = st.builds(Slot, st.sampled_from(REGIONS), st.integers(0, 12), st.integers(1, 6))
# What is done, where, and with which of the values.
STEPS = st.lists(
    st.tuples(st.sampled_from(["write", "write", "erase", "clear"]), SLOTS, st.integers(0, 4)), max_size=20
)
VALUES = [Value(f32(1), str(number)) for number in range(5)]


@given(STEPS, SLOTS)
def test_a_value_is_there_until_a_byte_of_it_is_not(steps: list[tuple[str, Slot, int]], asked: Slot) -> None:
    model = MemoryModel()
    # Of every byte the number of the write that it comes from; of every write its place and its value.
    bytes_: dict[tuple[Region, int], int] = {}
    writes: list[tuple[Slot, Value]] = []
    for what, slot, number in steps:
        if what == "clear":
            model.clear(slot.region)
            bytes_ = {key: write for key, write in bytes_.items() if key[0] != slot.region}
            continue
        touched = [(slot.region, place) for place in range(slot.offset, slot.offset + slot.bytes)]
        for key in touched:
            bytes_.pop(key, None)
        if what == "erase":
            model.erase(slot)
        else:
            model.write(slot, VALUES[number])
            bytes_ |= dict.fromkeys(touched, len(writes))
            writes.append((slot, VALUES[number]))
    whole = {
        (slot, value)
        for number, (slot, value) in enumerate(writes)
        if all(bytes_.get((slot.region, p)) == number for p in range(slot.offset, slot.offset + slot.bytes))
    }
    for slot in {asked, *(slot for slot, _ in writes)}:
        for value in VALUES:
            assert model.holds(slot, value) == ((slot, value) in whole)
        there = {v for s, v in whole if s.region == slot.region and _meet(s, slot)}
        assert model.instead(slot) in (there or {None})


def _meet(one: Slot, other: Slot) -> bool:
    return one.offset < other.offset + other.bytes and other.offset < one.offset + one.bytes
