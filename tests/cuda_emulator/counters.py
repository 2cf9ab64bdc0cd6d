"""What a launch has executed, and how well its accesses to memory were formed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Counters:
    """Sums over `instructions`, and the instructions themselves, for reports by line."""

    instructions: tuple[Executed, ...]

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
