"""Layers of random shapes natively, by every algorithm that applies, against their definition in the interpreter.

Each run has inaccessible pages behind its buffers (`tests/codegen/guarded.py`), and 1 and 3 threads give equal bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convc.ir.interpreter import run_reference
from convc.ir.ops.linear import Linear, LinearBackwardData, LinearBackwardWeights
from convc.ir.ops.pool import AvgPool, AvgPoolBackward, MaxPool, MaxPoolBackward
from convc.ir.types import DType, TensorType
from convc.passes.algorithms.problem import Direction
from convc.passes.algorithms.table import ALGORITHMS
from tests.codegen.algorithms.convolutions import DIRECTIONS, Geometry, check, problem_of
from tests.codegen.native_graph import case_arrays, run_natively, single_op_graph
from tests.op_case import OpCase, make_operands, normal

pytestmark = pytest.mark.slow
_TOLERANCE = 1e-5

# Odd, even, prime; less than a vector, one, and a bit more.
CHANNELS = st.sampled_from([1, 2, 3, 5, 8, 13, 16, 17, 31, 33, 40])


_COMMON_KERNELS = [(3, 3), (3, 3), (5, 5), (1, 3), (5, 1), (1, 7)]


def _sides(most: int) -> st.SearchStrategy[tuple[int, int, int, int]]:
    side = st.integers(0, most)
    return st.tuples(side, side, side, side)


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Any convolution whose window fits. One in two steps by 1 with a kernel that most algorithms are made for."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    channels, filters = (groups * draw(CHANNELS) for _ in range(2))
    if draw(st.booleans()):
        kernel, stride, dilation = draw(st.sampled_from(_COMMON_KERNELS)), (1, 1), (1, 1)
    else:
        small = st.integers(1, 3)
        kernel = draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
        stride, dilation = draw(st.tuples(small, small)), draw(st.tuples(small, small))
    padding = draw(_sides(3))
    size = [draw(st.integers(1, 20)) for _ in range(2)]
    for axis in range(2):
        covered = dilation[axis] * (kernel[axis] - 1) + 1
        size[axis] = max(size[axis], covered - padding[axis] - padding[axis + 2])
    images = (draw(st.integers(1, 4)), channels, size[0], size[1])
    return Geometry(images, (filters, channels // groups, *kernel), padding, groups, stride, dilation)


@pytest.mark.parametrize("direction", DIRECTIONS)
@settings(max_examples=6)
@given(geometry=geometries(), bias=st.booleans(), data=st.data())
def test_convolutions(direction: Direction, geometry: Geometry, bias: bool, data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, geometry.images[0]), "rows")
    for algorithm in ALGORITHMS:
        case = geometry.case(direction, algorithm.name, bias)
        graph, _ = single_op_graph(case, make_operands(case, np.float32))
        if algorithm.obstacle(problem_of(graph)) is None:
            check(case, algorithm, rows, threads=(3,))


def assert_right(case: OpCase) -> None:
    graph, named = single_op_graph(case, case_arrays(case))
    exact = {name: a.astype(np.float64) if a.dtype == np.float32 else a for name, a in named.items()}
    expected, found = run_reference(graph.copy(), exact), run_natively(graph.copy(), named)
    again = run_natively(graph, named, threads=3)
    for name, reference in expected.items():
        scale = max(float(np.abs(reference).max(initial=0.0)), 0.1)
        assert float(np.abs(found[name] - reference).max(initial=0.0)) <= _TOLERANCE * scale, name
        np.testing.assert_array_equal(found[name], again[name])


@st.composite
def pools(draw: st.DrawFn) -> tuple[dict[str, Any], tuple[int, int, int, int]]:
    """Attributes of any pool, and the shape of images that it fits."""
    pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))
    kernel, stride, dilation = draw(pairs), draw(pairs), draw(pairs)
    padding = tuple(draw(st.integers(0, kernel[side % 2] - 1)) for side in range(4))
    covered = [dilation[axis] * (kernel[axis] - 1) + 1 - padding[axis] - padding[axis + 2] for axis in range(2)]
    # Images at least as large as the dilation: a window on smaller ones may read no pixel, which is refused.
    height, width = (max(draw(st.integers(1, 15)), *sizes) for sizes in zip(covered, dilation, strict=True))
    attributes = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    return attributes | {"ceil": draw(st.booleans())}, (draw(st.integers(1, 3)), draw(CHANNELS), height, width)


@settings(max_examples=25)
@given(pools(), st.booleans())
def test_pools(pool: tuple[dict[str, Any], tuple[int, int, int, int]], count_padding: bool) -> None:
    attributes, images = pool
    largest, average = MaxPool(**attributes), AvgPool(**attributes, count_padding=count_padding)
    x, dy = normal(*images), normal(*largest.infer(TensorType(DType.F32, images)).shape)
    back = AvgPoolBackward(**attributes, count_padding=count_padding, size=images[2:])
    assert_right(OpCase("max_pool", largest, (x,)))
    assert_right(OpCase("max_pool_backward", MaxPoolBackward(**attributes), (dy, x, lambda _, x: largest.reference(x))))
    assert_right(OpCase("avg_pool", average, (x,)))
    assert_right(OpCase("avg_pool_backward", back, (dy,)))


@settings(max_examples=25)
@given(st.integers(1, 9), st.integers(1, 140), st.integers(1, 70))
def test_fully_connected(rows: int, features: int, units: int) -> None:
    x, w, dy = normal(rows, features), normal(units, features), normal(rows, units)
    assert_right(OpCase("fc", Linear(), (x, w, normal(units))))
    assert_right(OpCase("fc_data", LinearBackwardData(), (dy, w)))
    assert_right(OpCase("fc_weights", LinearBackwardWeights(), (x, dy)))
