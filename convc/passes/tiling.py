"""Register tiles: how many pixels and how many vectors of outputs a kernel keeps in registers.

A tile of m pixels by v vectors does m·v multiply-adds per step of the reduction for v vector loads and m scalar loads.
Large tiles load less; a tile must fit the registers, and should divide the image's width and the channels evenly.
"""

from __future__ import annotations

from functools import cache

from convc.lazy import dataclass
from convc.passes.layout import padded
from convc.passes.machine import Machine, split_lanes


@dataclass(frozen=True)
class Tile:
    """`rows` scalars (pixels, or rows of a weight gradient) by `vectors` vectors, so `block` columns."""

    rows: int
    vectors: int
    lanes: int

    @property
    def block(self) -> int:
        return self.vectors * self.lanes


def most_rows(machine: Machine, vectors: int) -> int:
    """The largest number of rows whose accumulators fit beside the operands."""
    # Where scalars need no register of their own, LLVM loads the vectors of the next step while it uses those of this
    # one; with less room than that it keeps all accumulators of a loop in memory.
    spare = vectors if machine.broadcast_operand else 2
    return max(1, (machine.registers - spare - vectors) // vectors)


def even_split(count: int, most: int) -> tuple[int, ...]:
    """`count` positions in as few runs of at most `most` as possible, as even as possible: 24 by 14 is (12, 12)."""
    runs = -(-count // most)
    small, larger = divmod(count, runs)
    return (small + 1,) * larger + (small,) * (runs - larger)


def tile_runs(count: int, most: int) -> tuple[tuple[int, int], ...]:
    """`even_split` as (length, how many runs have it): at most two lengths, so that costs need no loop over runs."""
    runs = -(-count // most)
    small, larger = divmod(count, runs)
    return tuple((length, times) for length, times in ((small + 1, larger), (small, runs - larger)) if times)


def column_blocks(columns: int, block: int) -> tuple[tuple[int, int], ...]:
    """`columns` cut into blocks of `block` and a rest, as (width, how many blocks have it)."""
    full, rest = divmod(columns, block)
    return tuple((width, times) for width, times in ((block, full), (rest, 1)) if width and times)


# Costs in tenths of one multiply-add of a full vector: whole numbers, so that equal costs compare equal. Rough: weights
# up to 2.5 per vector load were tried, and LeNet's tiles then chosen (8 pixels by 2 vectors instead of 4 by 4) are a
# little slower (docs/performance-log.md).
_MULTIPLY, _VECTOR_LOAD, _SCALAR_LOAD, _STEP = 10, 5, 3, 10


@cache
def choose_tile(machine: Machine, width: int, columns: int) -> Tile:
    """The cheapest tile for rows of `width` pixels and `columns` outputs."""
    columns = padded(columns)
    best: tuple[float, Tile] | None = None
    for vectors in range(1, 5):
        rows = min(most_rows(machine, vectors), width, 16)
        if rows < 1 or (vectors - 1) * machine.lanes >= columns:
            continue
        cost = 0.0
        runs = tile_runs(width, rows)
        for block, blocks in column_blocks(columns, vectors * machine.lanes):
            pieces = split_lanes(block, machine.lanes)
            # A narrow vector saves less than its lanes promise.
            work = sum(max(piece / machine.lanes, 0.5) for piece in pieces)
            for run, times in runs:
                step = _MULTIPLY * run * work + _VECTOR_LOAD * len(pieces) + _SCALAR_LOAD * run + _STEP
                cost += blocks * times * step
        if best is None or cost < best[0]:
            best = cost, Tile(runs[0][0], vectors, machine.lanes)
    assert best is not None
    return best[1]
