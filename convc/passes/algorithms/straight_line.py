"""Straight-line programs: linear maps of few numbers as additions and multiplications by constants, without branches.

    (1  1  1)             t0 = x0 + x2
    (1 -1  1)      →      y0 = t0 + x1         what rows, or columns, have in common up to a sign is computed once
    (0  0  2)             y1 = t0 - x1
                          y2 = 2·x2

Transforms of tiles are such programs: derived from a matrix (`of_matrix`) or built step by step (`Builder`). `evaluate`
runs one on numbers of any kind, exact ones included; `codegen/llvm/algorithms/codelet.py` writes it as instructions on
vectors. Coefficients are numbers of any kind that multiply, divide, negate and turn into floats.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property
from itertools import combinations
from typing import Any, NamedTuple, Protocol

from convc.lazy import dataclass


class Number(Protocol):
    """What coefficients have to know: `Fraction`, `Root2`, `float`, …"""

    def __add__(self, other: Any, /) -> Any: ...
    def __mul__(self, other: Any, /) -> Any: ...
    def __truediv__(self, other: Any, /) -> Any: ...
    def __neg__(self) -> Any: ...
    def __float__(self) -> float: ...


ONE: Number = Fraction(1)


class Term(NamedTuple):
    """`scale` times value number `value`."""

    scale: Number
    value: int

    def times(self, factor: Number) -> Term:
        return Term(self.scale * factor, self.value)

    def __neg__(self) -> Term:
        return Term(-self.scale, self.value)

    @property
    def unit(self) -> bool:
        """Whether it costs no multiplication: the value itself, or its negative."""
        return self.scale in (1, -1)


@dataclass(frozen=True)
class StraightLine:
    """Values 0 … inputs−1 are given; step i makes value inputs + i, the sum of its one or two terms."""

    inputs: int
    steps: tuple[tuple[Term, ...], ...]
    outputs: tuple[int, ...]

    @cached_property
    def operations(self) -> int:
        """Instructions: one for a step, be it an addition, a multiplication or a multiply-add; two where no term is
        unit, and for −x − y; none for a copy."""
        return sum(_operations(step) for step in self.steps)

    def evaluate(self, values: Sequence[Any]) -> list[Any]:
        """The outputs for `inputs` numbers (or arrays) of a kind that the coefficients multiply."""
        known = list(values)
        for first, *rest in self.steps:
            total = first.scale * known[first.value]
            for term in rest:
                total = total + term.scale * known[term.value]
            known.append(total)
        return [known[value] for value in self.outputs]


def _operations(step: tuple[Term, ...]) -> int:
    scales = [term.scale for term in step]
    if len(step) == 1:
        return 0 if scales == [1] else 1
    return 1 if 1 in scales or scales.count(-1) == 1 else 2


class Builder:
    """A program under construction. A sum that has been made before, or a multiple of it, is not made again.

    `one` is the number 1 of the kind that the coefficients are of: arithmetic with floats takes a tenth of the time of
    exact fractions.
    """

    def __init__(self, inputs: int, one: Number = ONE) -> None:
        self.one = one
        self.inputs = [Term(one, number) for number in range(inputs)]
        self._steps: list[tuple[Term, ...]] = []
        self._made: dict[tuple[Term, ...], int] = {}

    def _step(self, *terms: Term) -> Term:
        if terms not in self._made:
            self._made[terms] = len(self.inputs) + len(self._steps)
            self._steps.append(terms)
        return Term(self.one, self._made[terms])

    def add(self, left: Term, right: Term) -> Term:
        """left + right. One of the two, the first with scale ±1 if any, gives its scale to the sum."""
        if left.value == right.value:
            return Term(left.scale + right.scale, left.value)
        if right.scale == 1 or (right.unit and not left.unit):
            left, right = right, left
        # What both have in common stays outside: x + 2y and 3x + 6y are one sum.
        for one, other in ((left, right), (right, left)):
            ratio = other.scale / one.scale
            if (made := (Term(self.one, one.value), Term(ratio, other.value))) in self._made:
                return Term(one.scale, self._made[made])
        return self._step(Term(self.one, left.value), Term(right.scale / left.scale, right.value)).times(left.scale)

    def subtract(self, left: Term, right: Term) -> Term:
        return self.add(left, -right)

    def total(self, terms: Sequence[Term]) -> Term:
        """The sum of one or more terms, which starts with what costs no multiplication."""
        first, *others = sorted(terms, key=lambda term: (term.scale != 1, not term.unit))
        for term in others:
            first = self.add(first, term)
        return first

    def single(self, term: Term) -> Term:
        """The term as a value of its own, multiplied out."""
        return term if term.scale == 1 else self._step(term)

    def build(self, outputs: Sequence[Term]) -> StraightLine:
        """The program that gives these outputs."""
        values = tuple(self.single(term).value for term in outputs)
        return _without_negatives(StraightLine(len(self.inputs), tuple(self._steps), values))


def _without_negatives(program: StraightLine) -> StraightLine:
    """The program with differences taken the other way round where only their negatives are given out."""
    for step in program.steps:
        first, *others = step
        if others or first.scale != -1 or first.value < program.inputs or first.value in program.outputs:
            continue
        turned = _turned(program, first.value)
        program = turned if turned.operations < program.operations else program
    return _without_copies(program)


def _without_copies(program: StraightLine) -> StraightLine:
    """The program without steps that are values again, and without those that nothing uses."""
    used = set(program.outputs)
    for number, step in reversed(list(enumerate(program.steps, program.inputs))):
        if number in used:
            used |= {term.value for term in step}
    numbers, steps = {value: value for value in range(program.inputs)}, list[tuple[Term, ...]]()
    for number, step in enumerate(program.steps, program.inputs):
        if number not in used:
            continue
        if len(step) == 1 and step[0].scale == 1:
            numbers[number] = numbers[step[0].value]
        else:
            numbers[number] = program.inputs + len(steps)
            moved = any(numbers[term.value] != term.value for term in step)
            steps.append(tuple(Term(term.scale, numbers[term.value]) for term in step) if moved else step)
    return StraightLine(program.inputs, tuple(steps), tuple(numbers[value] for value in program.outputs))


def _turned(program: StraightLine, value: int) -> StraightLine:
    """The program with the negative of a value in its place."""
    steps = [tuple(-term if term.value == value else term for term in step) for step in program.steps]
    steps[value - program.inputs] = tuple(-term for term in program.steps[value - program.inputs])
    return StraightLine(program.inputs, tuple(steps), program.outputs)


def transposed(program: StraightLine) -> StraightLine:
    """The program of the transposed map: what flows from inputs to outputs flows back.

    Multiplications stay, and there are as many more additions as there are more outputs than inputs.
    """
    builder = Builder(len(program.outputs))
    flows: list[list[Term]] = [[] for _ in range(program.inputs + len(program.steps))]
    for term, value in zip(builder.inputs, program.outputs, strict=True):
        flows[value].append(term)
    for number, step in reversed(list(enumerate(program.steps, program.inputs))):
        if flows[number]:
            flow = builder.total(flows[number])
            for term in step:
                if term.scale != 0:
                    flows[term.value].append(flow.times(term.scale))
    return builder.build([builder.total(flows[number]) for number in range(program.inputs)])


def of_matrix(matrix: Sequence[Sequence[Number]]) -> StraightLine:
    """The program that multiplies a vector by the matrix (rows of coefficients, none of them all zero)."""
    builder = Builder(len(matrix[0]))
    rows = [{column: value for column, value in enumerate(row) if value != 0} for row in matrix]
    return builder.build(_products(builder, builder.inputs, rows))


# A row of a matrix: its non-zero coefficients by column.
_Row = dict[int, Any]


def _products(builder: Builder, columns: list[Term], rows: list[_Row]) -> list[Term]:
    """Rows times columns; pairs of columns, then pairs of rows, that agree up to signs are folded first."""
    for left, right in combinations(range(len(columns)), 2):
        folded = _fold_columns(builder, columns, rows, left, right)
        if folded is not None:
            return _products(builder, *folded)
    for left, right in combinations(range(len(rows)), 2):
        even, odd = _fold_rows(rows[left], rows[right])
        if even and odd and len(even) + len(odd) > 2:
            others = [row for number, row in enumerate(rows) if number not in (left, right)]
            *results, common, differing = _products(builder, columns, [*others, even, odd])
            if not common.unit:
                common = builder.single(common)
            results.insert(left, builder.add(common, differing))
            results.insert(right, builder.subtract(common, differing))
            return results
    return [_chain(builder, columns, row) for row in rows]


def _fold_columns(
    builder: Builder, columns: list[Term], rows: list[_Row], left: int, right: int
) -> tuple[list[Term], list[_Row]] | None:
    """Sum and difference of two columns whose coefficients are equal, or opposite, in every row; None where not."""
    found = [row for row in rows if left in row or right in row]
    if not all(left in row and right in row and row[left] in (row[right], -row[right]) for row in found):
        return None
    parts = [part for part in (1, -1) if any(row[left] == row[right] * part for row in found)]
    if len(found) <= len(parts):
        return None
    columns, rows = list(columns), [dict(row) for row in rows]
    for part in parts:
        number = len(columns)
        columns.append(builder.add(columns[left], columns[right].times(Fraction(part))))
        for row in rows:
            if left in row and row[left] == row[right] * part:
                row[number] = row.pop(left)
                del row[right]
    return columns, rows


def _fold_rows(left: _Row, right: _Row) -> tuple[_Row, _Row]:
    """(even, odd) with left = even + odd and right = even − odd, where the rows agree up to signs; else nothing."""
    if left.keys() != right.keys() or any(
        value not in (right[column], -right[column]) for column, value in left.items()
    ):
        return {}, {}
    even = {column: value for column, value in left.items() if value == right[column]}
    return even, {column: value for column, value in left.items() if column not in even}


def _chain(builder: Builder, columns: list[Term], row: _Row) -> Term:
    """The sum of a row, which starts with what costs no multiplication."""
    return builder.total([columns[column].times(value) for column, value in row.items()])
