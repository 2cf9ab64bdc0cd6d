"""Codelets as machine code against the exact evaluation of their programs."""

from __future__ import annotations

import ctypes
from fractions import Fraction

import numpy as np
import pytest

from convc.codegen.llvm.algorithms.codelet import apply, apply_to_tile
from convc.codegen.llvm.link import link
from convc.codegen.llvm.target import compile_object, host_target
from convc.codegen.llvm.vocabulary import Function
from convc.passes.algorithms.straight_line import StraightLine, of_matrix
from convc.passes.algorithms.toom_cook import toom_cook

LANES = 8


def run(f: Function, source: np.ndarray, count: int) -> np.ndarray:
    """What the function, which reads its first pointer, writes behind its second: `count` vectors."""
    text = "\n".join([*f.declarations.values(), f.text()])
    library = link(compile_object(text, host_target()), [f.name])
    result = np.full((count, LANES), np.nan, np.float32)
    pointer, word = ctypes.c_void_p, ctypes.c_int64
    call = ctypes.CFUNCTYPE(None, pointer, word, word, pointer, pointer)(library[f.name])
    call(None, 0, 1, source.ctypes.data, result.ctypes.data)
    library.close()
    return result


# Every form that a step may take: additions, differences, negatives, multiples, one and two multiplications.
FORMS = of_matrix(
    [
        [Fraction(a), Fraction(b)]
        for a, b in ((1, 1), (1, -1), (-1, 1), (-1, -1), (1, 3), (-1, 5), (2, -3), (0, -1), (7, 0))
    ]
)


@pytest.mark.parametrize(
    "program",
    [FORMS, *(toom_cook(*form).image for form in ((1, 1), (2, 3), (4, 3), (6, 3)))],
    ids=["forms", "F(1,1)", "F(2,3)", "F(4,3)", "F(6,3)"],
)
def test_a_codelet_is_its_program(program: StraightLine) -> None:
    source = np.random.default_rng(1).standard_normal((program.inputs, LANES)).astype(np.float32)
    f = Function("codelet", 2)
    values = [f.load(f.address(f.pointers[0], LANES * number), LANES) for number in range(program.inputs)]
    for number, value in enumerate(apply(f, program, values)):
        f.store(value, f.address(f.pointers[1], LANES * number))
    units = [[Fraction(row == column) for row in range(program.inputs)] for column in range(program.inputs)]
    matrix = np.array([[float(x) for x in program.evaluate(unit)] for unit in units]).T
    np.testing.assert_allclose(run(f, source, len(matrix)), matrix @ source, rtol=0, atol=1e-5)


def test_a_tile_is_transformed_along_both_axes() -> None:
    rows, columns = toom_cook(2, 3).filter, toom_cook(4, 3).filter
    source = np.random.default_rng(2).standard_normal((3, 3, LANES)).astype(np.float32)
    f = Function("codelet", 2)
    tile = [[f.load(f.address(f.pointers[0], LANES * (3 * r + s)), LANES) for s in range(3)] for r in range(3)]
    for r, row in enumerate(apply_to_tile(f, rows, columns, tile)):
        for s, value in enumerate(row):
            f.store(value, f.address(f.pointers[1], LANES * (6 * r + s)))
    down, across = (np.array([[float(x) for x in row] for row in toom_cook(m, 3).evaluate_filter]) for m in (2, 4))
    expected = np.einsum("ir,js,rsl->ijl", down, across, source.astype(float))
    np.testing.assert_allclose(run(f, source, 24).reshape(4, 6, LANES), expected, rtol=0, atol=1e-5)
