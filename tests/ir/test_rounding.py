"""Rounding to 16 bits against the definition: no other number of the type is nearer, and ties go to the even one."""

from __future__ import annotations

import numpy as np
import pytest

from convc.ir.builder import Builder
from convc.ir.graph import Graph
from convc.ir.interpreter import run_reference
from convc.ir.op import InferError
from convc.ir.ops.cast import Cast
from convc.ir.ops.elementwise import Add, Multiply
from convc.ir.rounding import rounded
from convc.ir.types import DType, TensorType, f32
from tests.halves import all_numbers, awkward_floats

HALVES = (DType.F16, DType.BF16)


@pytest.mark.parametrize("dtype", HALVES)
def test_numbers_of_a_type_stay(dtype: DType) -> None:
    numbers = all_numbers(dtype)
    np.testing.assert_array_equal(rounded(numbers, dtype), numbers)


@pytest.mark.parametrize("dtype", HALVES)
def test_nearest_and_ties_to_even(dtype: DType) -> None:
    numbers = all_numbers(dtype)
    line = np.unique(numbers[np.isfinite(numbers)].astype(np.float64))
    # Where infinity would be, were it a number: what lies beyond half the way there is rounded to it.
    line = np.concatenate([[2 * line[0] - line[1]], line, [2 * line[-1] - line[-2]]])
    floats = awkward_floats(dtype)
    floats = floats[np.isfinite(floats)]
    given = floats.astype(np.float64)
    above = np.clip(np.searchsorted(line, given), 1, len(line) - 1)
    low, high = line[above - 1], line[above]
    # The last bit of the pattern tells which of two neighbours is even; so does the place on the line, from zero on.
    zero = int(np.searchsorted(line, 0.0))
    even_is_high = (above - zero) % 2 == 0
    middle = given - low == high - given
    expected = np.where(middle, np.where(even_is_high, high, low), np.where(given - low < high - given, low, high))
    expected = np.clip(expected, -np.inf, np.inf)
    largest = line[-2]
    expected = np.where(np.abs(expected) > largest, np.copysign(np.inf, expected), expected)
    far = np.abs(given) > line[-1]
    expected[far] = np.copysign(np.inf, given[far])
    np.testing.assert_array_equal(rounded(floats, dtype).astype(np.float64), expected)


@pytest.mark.parametrize("dtype", HALVES)
def test_what_is_no_number_stays_so(dtype: DType) -> None:
    quiet, loud, infinite = np.array([0x7FC00000, 0x7F800001, 0x7F800000], np.uint32).view(np.float32)
    given = np.array([quiet, -quiet, loud, infinite, -infinite], np.float32)
    np.testing.assert_array_equal(rounded(given, dtype), given)
    assert rounded(np.float32(1.0001) * np.ones((), np.float32), dtype).shape == ()


def test_other_types_and_float64_are_left_alone() -> None:
    array = np.array([1.0001, 1e-30])
    assert rounded(array, DType.F16) is array
    single = array.astype(np.float32)
    assert rounded(single, DType.F32) is single


# In graphs


def test_the_interpreter_rounds_what_has_16_bits() -> None:
    graph = Graph("g")
    b = Builder(graph)
    x = graph.add_input("x", f32(1, 3))
    half = b.add(Cast("bf16"), x)
    graph.outputs = {"sum": b.add(Cast("f32"), b.add(Add(), half, half)), "logits": half}
    x_array = np.array([[1.0, 1.0 + 2**-9, 3.14159]], np.float32)
    result = run_reference(graph, {"x": x_array})
    np.testing.assert_array_equal(result["logits"], rounded(x_array, DType.BF16))
    np.testing.assert_array_equal(result["sum"], 2 * rounded(x_array, DType.BF16))
    exact = run_reference(graph, {"x": x_array.astype(np.float64)})
    np.testing.assert_array_equal(exact["logits"], x_array.astype(np.float64))


def test_element_types_do_not_mix() -> None:
    half, single = TensorType(DType.F16, (2, 3, 4, 4)), f32(2, 3, 4, 4)
    with pytest.raises(InferError, match="element types differ"):
        Add().infer(half, single)
    assert Multiply().infer(half, f32(3)).dtype is DType.F16  # a vector spreads, and is float32
    with pytest.raises(InferError, match="no cast to i32"):
        Cast("i32").infer(single)
