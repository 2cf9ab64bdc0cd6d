"""Codelets: straight-line programs as instructions on vectors, along one axis of a tile or along both."""

from __future__ import annotations

from collections.abc import Sequence

from convc.codegen.llvm.vocabulary import Function, V
from convc.passes.algorithms.straight_line import StraightLine, Term


def apply(f: Function, program: StraightLine, values: Sequence[V]) -> list[V]:
    """Write the program; `values` are its inputs, all of one type, and its outputs come back."""
    known = list(values)
    for step in program.steps:
        known.append(_sum(f, known, *step))
    return [known[value] for value in program.outputs]


def apply_to_tile(f: Function, rows: StraightLine, columns: StraightLine, tile: Sequence[Sequence[V]]) -> list[list[V]]:
    """`rows` applied down every column of a tile (lists of rows), then `columns` along every row of what that gives."""
    down = [apply(f, rows, [row[column] for row in tile]) for column in range(len(tile[0]))]
    return [apply(f, columns, [column[row] for column in down]) for row in range(len(rows.outputs))]


def _sum(f: Function, known: list[V], *terms: Term) -> V:
    """One step. The unit term, if there is one, is what a multiply-add adds to."""
    if len(terms) == 1:
        return _multiple(f, known, terms[0])
    one, other = terms if terms[0].unit else (terms[1], terms[0])
    if other.unit:
        if one.scale == other.scale == 1:
            return f.binary("fadd", known[one.value], known[other.value])
        if one.scale != other.scale:
            positive, negative = (one, other) if one.scale == 1 else (other, one)
            return f.binary("fsub", known[positive.value], known[negative.value])
    value = known[other.value]
    return f.fma(f.constant(float(other.scale), value.lanes), value, _multiple(f, known, one))


def _multiple(f: Function, known: list[V], term: Term) -> V:
    value = known[term.value]
    if term.scale == 1:
        return value
    if term.scale == -1:
        return f.negate(value)
    return f.binary("fmul", f.constant(float(term.scale), value.lanes), value)
