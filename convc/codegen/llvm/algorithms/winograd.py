"""Winograd's convolutions: Toom-Cook algorithms along the rows and the columns of tiles (Lavin & Gray 2016)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from convc.codegen.llvm.algorithms.codelet import apply_to_tile
from convc.codegen.llvm.algorithms.transform import Rows, Values
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.passes.algorithms.straight_line import StraightLine
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

    @property
    def in_registers(self) -> bool:
        return True

    def image(self, f: Function, rows: Rows, values: Values) -> None:
        _transform(f, self.algorithm.image, rows, values)

    def filter(self, f: Function, rows: Rows, values: Values) -> None:
        _transform(f, self.algorithm.filter, rows, values)

    def output(self, f: Function, values: Values) -> Iterator[tuple[Index, list[V]]]:
        return _transform_back(f, self.algorithm.output, values)

    def cotangent(self, f: Function, rows: Rows, values: Values) -> None:
        _transform(f, self.algorithm.cotangent, rows, values)

    def filter_gradient(self, f: Function, values: Values) -> Iterator[tuple[Index, list[V]]]:
        return _transform_back(f, self.algorithm.filter_gradient, values)


def _transform(f: Function, program: StraightLine, rows: Rows, values: Values) -> None:
    tile = apply_to_tile(f, program, program, [rows(i) for i in range(program.inputs)])
    for entry, value in enumerate(value for row in tile for value in row):
        values.store(f, 0, entry, 0, value)


def _transform_back(f: Function, program: StraightLine, values: Values) -> Iterator[tuple[Index, list[V]]]:
    n = program.inputs
    square = [[values.load(f, 0, row * n + column) for column in range(n)] for row in range(n)]
    yield from enumerate(apply_to_tile(f, program, program, square))
