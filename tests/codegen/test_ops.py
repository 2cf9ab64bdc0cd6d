"""Every op as native code against the float64 reference: odd shapes, every tier, 1 and 2 threads bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from convc.codegen.llvm.lowering import DECOMPOSED, LOWERINGS
from convc.codegen.llvm.target import TIERS, host_target
from convc.ir.diagnostic import CompileError
from convc.ir.interpreter import run_reference
from convc.ir.ops import OPS, Constant
from convc.ir.ops.elementwise import Elementwise
from convc.ir.ops.quantize import QuantizeWeights
from convc.ir.ops.random import Draw
from tests.codegen.native_graph import case_arrays, run_natively, single_op_graph
from tests.op_cases import CASES, OpCase

TOLERANCE = 1e-5
# Quantised weights are for products alone: tests/codegen/test_whole_numbers.py.
NATIVE = [case for case in CASES if type(case.op) not in DECOMPOSED and not isinstance(case.op, QuantizeWeights)]


def available_tiers() -> list[str]:
    found: list[str] = []
    for tier in TIERS:
        try:
            host_target(tier)
        except CompileError:
            continue
        found.append(tier)
    return found


def test_every_op_has_a_lowering_or_is_declared_decomposed() -> None:
    for name, op in OPS.items():
        fused = issubclass(op, (Elementwise, Draw))
        assert (op in LOWERINGS) + (op in DECOMPOSED) + fused == 1, name


def test_constants_are_data() -> None:
    assert Constant in DECOMPOSED


@pytest.mark.parametrize(
    "tier", [pytest.param(t, marks=[] if n == 0 else pytest.mark.slow) for n, t in enumerate(available_tiers())]
)
@pytest.mark.parametrize("case", NATIVE, ids=str)
def test_native_matches_reference(case: OpCase, tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVC_CPU", tier)
    arrays = case_arrays(case)
    graph, named = single_op_graph(case, arrays)
    exact = {name: a.astype(np.float64) if a.dtype == np.float32 else a for name, a in named.items()}
    expected = run_reference(graph.copy(), exact)
    results = run_natively(graph.copy(), named, threads=1)
    again = run_natively(graph, named, threads=2)
    for name, reference in expected.items():
        # Operands are around 1: what is exactly 0 by cancellation may come out as a rounding error.
        scale = max(float(np.abs(reference).max(initial=0.0)), 0.1)
        error = float(np.abs(results[name] - reference).max(initial=0.0)) / scale
        assert error <= TOLERANCE, f"{name}: relative error {error:.2e}"
        np.testing.assert_array_equal(results[name], again[name])
