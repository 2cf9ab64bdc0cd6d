"""What memory holds while the kernels of a plan run, worked out kernel by kernel.

    kernel 0 writes %1 @arena+0          arena+0: %1
    kernel 1 reads %1 @arena+0           is there
    kernel 1 writes %2 @arena+0          arena+0: %2, and %1 is gone: who reads it now reads something else

Nothing is taken from the planner but the places themselves: not when a value dies, and not what may share a place.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict

from convc.ir.graph import Value
from convc.passes.memory import Region, Slot


class MemoryModel:
    """The values that are whole, each at its place. A value is gone as soon as a byte of it is overwritten."""

    def __init__(self) -> None:
        self._starts: dict[Region, list[int]] = defaultdict(list)
        self._held: dict[Region, dict[int, tuple[int, Value]]] = defaultdict(dict)

    def write(self, slot: Slot, value: Value) -> None:
        """`value` lies in `slot` from now on, and nothing else does."""
        self.erase(slot)
        insort(self._starts[slot.region], slot.offset)
        self._held[slot.region][slot.offset] = slot.offset + slot.bytes, value

    def erase(self, slot: Slot) -> None:
        """Whatever has a byte in `slot` is gone."""
        starts, held = self._starts[slot.region], self._held[slot.region]
        first = self._first(slot)
        last = bisect_left(starts, slot.offset + slot.bytes)
        for start in starts[first:last]:
            del held[start]
        del starts[first:last]

    def holds(self, slot: Slot, value: Value) -> bool:
        """Whether all of `value` is in `slot`."""
        return self._held[slot.region].get(slot.offset) == (slot.offset + slot.bytes, value)

    def instead(self, slot: Slot) -> Value | None:
        """What has bytes in `slot`, if anything is known of it."""
        starts, first = self._starts[slot.region], self._first(slot)
        if first < len(starts) and starts[first] < slot.offset + slot.bytes:
            return self._held[slot.region][starts[first]][1]
        return None

    def clear(self, region: Region) -> None:
        self._starts.pop(region, None)
        self._held.pop(region, None)

    def _first(self, slot: Slot) -> int:
        """The index of the first place that reaches beyond the beginning of `slot`."""
        starts, held = self._starts[slot.region], self._held[slot.region]
        first = bisect_left(starts, slot.offset)
        return first - 1 if first and held[starts[first - 1]][0] > slot.offset else first
