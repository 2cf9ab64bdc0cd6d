"""When each value of a step is needed, and which values follow each other in one place.

A value lives from the kernel that writes it to the last one that reads it, an output to the end. A kernel may write a
value over an operand that dies in it (`in_place.py` says which): then both are one buffer, which lives from the first
of its values to the last.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate

from convc.ir.graph import Value
from convc.lazy import dataclass


@dataclass(frozen=True)
class Needs:
    """What one kernel does to the arena: the values that it reads and writes there, `scratch` bytes of its own, and the
    pairs (written, read) that may share a place if the operand dies."""

    reads: tuple[Value, ...]
    writes: tuple[Value, ...]
    over: tuple[tuple[Value, Value], ...] = ()
    scratch: int = 0


@dataclass(frozen=True)
class Buffer:
    """A place of `bytes` bytes and the values that it holds one after the other, each from the kernel of `starts` on;
    the last one dies in kernel `last`."""

    values: tuple[Value, ...]
    starts: tuple[int, ...]
    bytes: int
    last: int

    @property
    def first(self) -> int:
        return self.starts[0]

    def at(self, moment: int) -> Value:
        """What it holds when kernel `moment` is done."""
        return self.values[bisect_right(self.starts, moment) - 1]


def last_uses(needs: Sequence[Needs], kept: Collection[Value]) -> dict[Value, int]:
    """The last kernel that touches each value; for those that are `kept` the number of kernels."""
    last = {value: index for index, kernel in enumerate(needs) for value in (*kernel.writes, *kernel.reads)}
    return {value: len(needs) if value in kept else index for value, index in last.items()}


def find_buffers(needs: Sequence[Needs], sizes: Mapping[Value, int], kept: Collection[Value]) -> list[Buffer]:
    """The buffers of kernels that run in the order given, in the order in which they begin."""
    last = last_uses(needs, kept)
    members: list[list[Value]] = []
    starts: list[list[int]] = []
    holder: dict[Value, int] = {}
    for index, kernel in enumerate(needs):
        taken: set[Value] = set()
        for value in kernel.writes:
            dying = [read for written, read in kernel.over if written is value and last[read] == index]
            free = [read for read in dying if read not in taken]
            if free:
                # The youngest buffer: what was saved long ago lies below what was saved later, and should be given back
                # in the reverse order.
                source = max(free, key=lambda read: (starts[holder[read]][0], holder[read]))
                taken.add(source)
                holder[value] = holder[source]
                members[holder[value]].append(value)
                starts[holder[value]].append(index)
            else:
                holder[value] = len(members)
                members.append([value])
                starts.append([index])
    return [
        Buffer(tuple(values), tuple(times), sizes[values[0]], last[values[-1]])
        for values, times in zip(members, starts, strict=True)
    ]


def live_bytes(needs: Sequence[Needs], buffers: Sequence[Buffer]) -> list[int]:
    """Bytes of the arena that are in use during each kernel, its scratch space included."""
    change = [0] * (len(needs) + 1)
    for buffer in buffers:
        change[buffer.first] += buffer.bytes
        change[min(buffer.last, len(needs) - 1) + 1] -= buffer.bytes
    lasting = accumulate(change[: len(needs)])
    return [bytes + kernel.scratch for bytes, kernel in zip(lasting, needs, strict=True)]
