"""A kernel's launches that are given a few of its tensors: those that stand for all others, which lie behind them."""

from __future__ import annotations

from collections.abc import Sequence

from convc.codegen.cuda.kernel import KernelBuilder
from convc.ir.graph import Value
from convc.passes.fusion import resolve


class NarrowBuilder(KernelBuilder):
    """Adds launches to those of another builder; their parameters are the places of some stored values only.

    A sweep over all parameters of a net would else have hundreds of parameters, and a text of its own.
    """

    def __init__(self, k: KernelBuilder, values: Sequence[Value]) -> None:
        super().__init__(k.plan, k.kernel)
        self.launches = k.launches
        wanted = {resolve(value) for value in values}
        self._stored = {place: found for place, found in self._stored.items() if wanted.intersection(found)}
        self._names = {value: f"t{n}" for n, found in enumerate(self._stored.values()) for value in found}
