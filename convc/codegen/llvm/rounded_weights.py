"""Weights in float32 that products take in 16 bits: rounded a stretch at a time, on the stack, ahead of their use.

A kernel whose prologue casts its weights reads them as parameters lie in memory. Each tile rounds what it is about to
multiply; from there on the kernel is the one for weights of 16 bits, and results have the bits that a stored copy
gives.
"""

from __future__ import annotations

from convc.codegen.llvm.register_tile import column_pieces
from convc.codegen.llvm.vocabulary import Function, V

_VECTORS = 4  # that are rounded in a round of the loop


class RoundedWeights:
    """Room on the stack for up to `most` numbers of the type `kind` (half, bfloat).

    `by_instruction`: the processor has one that rounds to bfloat16. It takes denormal numbers for zero, as the one that
    multiplies them does.
    """

    def __init__(self, f: Function, lanes: int, kind: str, most: int, by_instruction: bool) -> None:
        self.f, self.lanes, self.kind = f, lanes, kind
        self.by_instruction = by_instruction and kind == "bfloat"
        place = f.local("rounded", -(-most // 2))
        self.place = V(place.ref, place.type, kind)

    def take(self, source: V, count: int) -> V:
        """Round the `count` numbers from `source` on; where they then lie."""
        f, step = self.f, _VECTORS * self.lanes
        whole = count - count % step
        if whole:
            with f.loop(0, whole, step) as loop:
                given, rounded = f.address(source, loop.index), f.address(self.place, loop.index)
                for offset in range(0, step, self.lanes):
                    self._move(given, rounded, offset, self.lanes)
        for piece in column_pieces(count - whole, self.lanes):
            self._move(source, self.place, whole + piece.offset, piece.lanes)
        return self.place

    def _move(self, source: V, target: V, offset: int, lanes: int) -> None:
        f = self.f
        value = f.load(f.address(source, offset), lanes)
        if self.by_instruction and lanes >= 4:
            value = f.bits(f.convert("fptrunc", value, "bfloat"), "i16")
        f.store(value, f.address(target, offset))
