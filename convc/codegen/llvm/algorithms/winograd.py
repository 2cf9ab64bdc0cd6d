"""Winograd's convolutions: a Toom-Cook algorithm along each axis of tiles (Lavin & Gray 2016)."""

from __future__ import annotations

from collections.abc import Iterator

from convc.codegen.llvm.algorithms.codelet import apply_to_tile
from convc.codegen.llvm.algorithms.transform import Rows, Values
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.lazy import dataclass
from convc.passes.algorithms.straight_line import StraightLine
from convc.passes.algorithms.transform_plan import Form
from convc.passes.algorithms.winograd import Axes, form_of


@dataclass(frozen=True)
class WinogradTransform:
    """The two-dimensional algorithm made of one for each axis."""

    axes: Axes

    @property
    def form(self) -> Form:
        return form_of(self.axes)

    @property
    def in_registers(self) -> bool:
        return True

    def image(self, f: Function, rows: Rows, values: Values) -> None:
        down, across = self.axes
        _transform(f, down.image, across.image, rows, values)

    def filter(self, f: Function, rows: Rows, values: Values) -> None:
        down, across = self.axes
        _transform(f, down.filter, across.filter, rows, values)

    def output(self, f: Function, values: Values) -> Iterator[tuple[Index, list[V]]]:
        down, across = self.axes
        return _transform_back(f, down.output, across.output, values)

    def cotangent(self, f: Function, rows: Rows, values: Values) -> None:
        down, across = self.axes
        _transform(f, down.cotangent, across.cotangent, rows, values)

    def filter_gradient(self, f: Function, values: Values) -> Iterator[tuple[Index, list[V]]]:
        down, across = self.axes
        return _transform_back(f, down.filter_gradient, across.filter_gradient, values)


def _transform(f: Function, down: StraightLine, across: StraightLine, rows: Rows, values: Values) -> None:
    tile = apply_to_tile(f, down, across, [rows(i) for i in range(down.inputs)])
    for entry, value in enumerate(value for row in tile for value in row):
        values.store(f, 0, entry, 0, value)


def _transform_back(
    f: Function, down: StraightLine, across: StraightLine, values: Values
) -> Iterator[tuple[Index, list[V]]]:
    tile = [[values.load(f, 0, i * across.inputs + j) for j in range(across.inputs)] for i in range(down.inputs)]
    yield from enumerate(apply_to_tile(f, down, across, tile))
