"""Every op as a CUDA kernel, executed by the emulator, against the float64 reference."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from convc.codegen.cuda.lowering import DECOMPOSED, LOWERINGS, UNAVAILABLE
from convc.ir.graph import Graph
from convc.ir.interpreter import run_reference
from convc.ir.ops import OPS
from convc.ir.ops.elementwise import Elementwise
from convc.ir.ops.random import Draw
from tests.codegen.native_graph import case_arrays, single_op_graph
from tests.cuda.emulated import run_emulated
from tests.cuda_emulator.nvrtc import MISSING, nvrtc
from tests.op_cases import CASES, OpCase

TOLERANCE = 1e-5
ON_GPU = [case for case in CASES if type(case.op) not in DECOMPOSED | UNAVAILABLE]
needs_nvrtc = pytest.mark.skipif(nvrtc() is None, reason=MISSING)


def test_every_op_has_a_lowering_or_is_declared() -> None:
    for name, op in OPS.items():
        fused = issubclass(op, (Elementwise, Draw)) and op not in UNAVAILABLE
        assert (op in LOWERINGS) + (op in DECOMPOSED) + (op in UNAVAILABLE) + fused == 1, name


@needs_nvrtc
@pytest.mark.parametrize("case", ON_GPU, ids=str)
def test_emulated_matches_reference(case: OpCase) -> None:
    compare_with_reference(case, run_emulated)


def compare_with_reference(
    case: OpCase, run: Callable[[Graph, dict[str, np.ndarray]], dict[str, np.ndarray]], tolerance: float = TOLERANCE
) -> None:
    """Run the graph of a case on its arrays; the results are those of the float64 reference."""
    arrays = case_arrays(case)
    graph, named = single_op_graph(case, arrays)
    exact = {name: a.astype(np.float64) if a.dtype == np.float32 else a for name, a in named.items()}
    expected = run_reference(graph.copy(), exact)
    results = run(graph, named)
    for name, reference in expected.items():
        # Operands are around 1: what is exactly 0 by cancellation may come out as a rounding error.
        scale = max(float(np.abs(reference).max(initial=0.0)), 0.1)
        error = float(np.abs(results[name] - reference).max(initial=0.0)) / scale
        assert error <= tolerance, f"{name}: relative error {error:.2e}"
