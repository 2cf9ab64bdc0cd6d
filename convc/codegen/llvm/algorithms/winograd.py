"""Winograd's convolutions: Toom-Cook algorithms along the rows and the columns of tiles (Lavin & Gray 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convc.codegen.llvm.algorithms.codelet import apply_to_tile
from convc.codegen.llvm.algorithms.transform import Tile
from convc.codegen.llvm.vocabulary import Function, V
from convc.passes.algorithms.toom_cook import ToomCook
from convc.passes.algorithms.transform_plan import Form
from convc.passes.algorithms.winograd import form_of


@dataclass(frozen=True)
class WinogradTransform:
    """F(m x m, r x r) from the one-dimensional F(m, r)."""

    algorithm: ToomCook

    @property
    def form(self) -> Form:
        return form_of(self.algorithm)

    def image(self, f: Function, tile: Tile) -> list[V]:
        return _flat(apply_to_tile(f, self.algorithm.image, self.algorithm.image, tile))

    def filter(self, f: Function, taps: Tile) -> list[V]:
        return _flat(apply_to_tile(f, self.algorithm.filter, self.algorithm.filter, taps))

    def output(self, f: Function, values: Sequence[V]) -> list[list[V]]:
        return apply_to_tile(f, self.algorithm.output, self.algorithm.output, self._square(values))

    def cotangent(self, f: Function, tile: Tile) -> list[V]:
        return _flat(apply_to_tile(f, self.algorithm.cotangent, self.algorithm.cotangent, tile))

    def filter_gradient(self, f: Function, values: Sequence[V]) -> list[list[V]]:
        gradient = self.algorithm.filter_gradient
        return apply_to_tile(f, gradient, gradient, self._square(values))

    def _square(self, values: Sequence[V]) -> Tile:
        n = self.algorithm.points
        return [values[row * n : row * n + n] for row in range(n)]


def _flat(tile: Tile) -> list[V]:
    return [value for row in tile for value in row]
