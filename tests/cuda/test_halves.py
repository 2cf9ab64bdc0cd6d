"""Numbers of 16 bits on the GPU: every op that may meet them, with and without tensor cores for them."""

from __future__ import annotations

import numpy as np
import pytest

from convc.ir.interpreter import run_reference
from convc.ir.rounding import rounded
from convc.ir.types import DType
from tests.codegen.native_graph import case_arrays, single_op_graph
from tests.codegen.test_halves import EPSILON, halved, takes_halves
from tests.cuda.emulated import EmulatedDevice, run_emulated
from tests.cuda.test_ops import ON_GPU, needs_nvrtc
from tests.op_cases import OpCase


@needs_nvrtc
@pytest.mark.parametrize("capability", [80, pytest.param(75, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", EPSILON, ids=lambda dtype: dtype.value)
@pytest.mark.parametrize("case", [case for case in ON_GPU if takes_halves(case)], ids=str)
def test_ops_on_halves(case: OpCase, dtype: DType, capability: int) -> None:
    arrays = case_arrays(case)
    graph, named = single_op_graph(case, arrays)
    halved(graph, case, dtype)
    given = {name: rounded(array, dtype) if array.dtype == np.float32 else array for name, array in named.items()}
    expected = run_reference(graph.copy(), given)
    results = run_emulated(graph, given, EmulatedDevice(capability))
    for name, reference in expected.items():
        scale = max(float(np.abs(reference).max(initial=0.0)), 0.1)
        error = float(np.abs(results[name] - reference).max(initial=0.0)) / scale
        assert error <= 2 * EPSILON[dtype], f"{name}: relative error {error:.2e}"
