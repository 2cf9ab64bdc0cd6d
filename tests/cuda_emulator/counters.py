"""What a launch has executed, and how well its accesses to memory were formed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tests.cuda_emulator.ptx import Place


@dataclass(frozen=True)
class Executed:
    """One instruction of the PTX over the whole launch.

    `warps` have executed it, for `lanes` that were active. An access to memory took `transactions`: wavefronts of
    shared memory, sectors of 32 bytes of global memory; `fewest` is what well-formed accesses would have taken: one
    wavefront for every 128 bytes, the sectors that the bytes fill. Both are 0 unless the launch counts them.
    """

    place: Place
    opcode: str
    warps: int
    lanes: int
    transactions: int
    fewest: int

    @property
    def space(self) -> str:
        """`shared`, `global` or neither. Of a cp.async, what is counted is its reading."""
        parts = self.opcode.split(".")
        if parts[0] in ("ldmatrix", "stmatrix") or ("shared" in parts and parts[0] != "cp"):
            return "shared"
        return "global" if self.transactions else ""


class Counters:
    """Sums over `instructions`, and the instructions themselves, for reports by line.

    A PTX instruction may be several of the runtime's, which follow one another and have the same place; `executions`
    has their four counters, in the order of the fields of `Executed`.
    """

    def __init__(self, places: Sequence[Place], opcodes: Sequence[str], executions: np.ndarray) -> None:
        self._places, self._opcodes, self._executions = places, opcodes, executions

    @cached_property
    def instructions(self) -> tuple[Executed, ...]:
        """In the order of the text."""
        found: list[Executed] = []
        rows = self._executions.tolist()
        for place, opcode, (warps, lanes, transactions, fewest) in zip(self._places, self._opcodes, rows, strict=True):
            if found and found[-1].place is place:
                warps, lanes = found[-1].warps, found[-1].lanes
                transactions, fewest = transactions + found[-1].transactions, fewest + found[-1].fewest
                found.pop()
            found.append(Executed(place, opcode, warps, lanes, transactions, fewest))
        return tuple(found)

    def mix(self) -> Counter[str]:
        """How often warps have executed each opcode."""
        found: Counter[str] = Counter()
        for executed in self.instructions:
            if executed.warps:
                found[executed.opcode] += executed.warps
        return found

    def _sum(self, space: str, name: str) -> int:
        return sum(getattr(executed, name) for executed in self.instructions if executed.space == space)

    @property
    def executed(self) -> int:
        """Instructions of warps."""
        return sum(executed.warps for executed in self.instructions)

    @property
    def shared_wavefronts(self) -> int:
        return self._sum("shared", "transactions")

    @property
    def bank_conflicts(self) -> int:
        """Wavefronts of shared memory beyond those that are needed."""
        return self.shared_wavefronts - self._sum("shared", "fewest")

    @property
    def sectors(self) -> int:
        return self._sum("global", "transactions")

    @property
    def wasted_sectors(self) -> int:
        """Sectors of global memory beyond those that the bytes asked for would fill."""
        return self.sectors - self._sum("global", "fewest")

    def worst(self, number: int = 5) -> list[Executed]:
        """The instructions with the most transactions beyond the fewest."""
        wasteful = [executed for executed in self.instructions if executed.transactions > executed.fewest]
        return sorted(wasteful, key=lambda executed: executed.fewest - executed.transactions)[:number]
