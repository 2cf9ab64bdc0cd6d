"""Numbers of 16 bits in memory, float32 in registers: every pattern, and every op that may meet them, at every tier."""

from __future__ import annotations

import numpy as np
import pytest

from convc.codegen.llvm.target import host_target
from convc.codegen.llvm.vocabulary import Function, V
from convc.ir.builder import Builder
from convc.ir.graph import Graph
from convc.ir.interpreter import run_reference
from convc.ir.op import InferError
from convc.ir.ops.cast import Cast
from convc.ir.ops.loss import SoftmaxCrossEntropy, SoftmaxCrossEntropyBackward
from convc.ir.ops.sweep import GradientNorm, MaxNorm, Sweep
from convc.ir.rounding import rounded
from convc.ir.types import DType
from tests.codegen.native_graph import case_arrays, run_natively, single_op_graph
from tests.codegen.single_phase import SinglePhase
from tests.codegen.test_ops import NATIVE, available_tiers
from tests.halves import PATTERNS, all_numbers, awkward_floats
from tests.op_cases import OpCase

POINTEES = {"half": DType.F16, "bfloat": DType.BF16}
LANES = (1, 4, 8)
# Half a unit in the last place of the largest number, once for the operands and once for the result.
EPSILON = {DType.F16: 2.0**-11, DType.BF16: 2.0**-8}


def copier(kind: str, lanes: int, widen: bool, tier: str, instructions: bool) -> SinglePhase:
    """Copies what its first pointer points to behind the second, `lanes` at a time; the third says how many."""

    def body(f: Function) -> None:
        f.converts_half = instructions
        source, target = f.pointers
        narrow = source if widen else target
        typed = V(narrow.ref, narrow.type, kind)
        source, target = (typed, target) if widen else (source, typed)
        count = f.load(f.address(f.context, 0, "i64"), 1, "i64")
        with f.loop(0, count, lanes) as place:
            f.store(f.load(f.address(source, place.index), lanes), f.address(target, place.index))

    return SinglePhase(host_target(tier), 2, body)


WAYS = [
    (tier, lanes, instructions)
    for tier in available_tiers()
    for lanes in LANES
    for instructions in (False, True)
    if tier != "baseline" or not instructions
]


@pytest.mark.parametrize(("tier", "lanes", "instructions"), WAYS)
@pytest.mark.parametrize("kind", POINTEES)
def test_every_pattern_is_widened_exactly(kind: str, tier: str, lanes: int, instructions: bool) -> None:
    result = np.zeros(len(PATTERNS), np.float32)
    copier(kind, lanes, True, tier, instructions).run([PATTERNS.astype(np.uint16), result], [len(PATTERNS)])
    expected = all_numbers(POINTEES[kind])
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(np.signbit(result), np.signbit(expected))


@pytest.mark.parametrize(("tier", "lanes", "instructions"), WAYS)
@pytest.mark.parametrize("kind", POINTEES)
def test_floats_are_rounded_as_the_interpreter_rounds(kind: str, tier: str, lanes: int, instructions: bool) -> None:
    dtype = POINTEES[kind]
    floats = np.concatenate(
        [awkward_floats(dtype), np.array([np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0], np.float32)]
    )
    floats = np.resize(floats, -(-len(floats) // 8) * 8)
    stored = np.zeros(len(floats), np.uint16)
    copier(kind, lanes, False, tier, instructions).run([floats, stored], [len(floats)])
    result, expected = all_numbers(dtype)[stored], rounded(floats, dtype)
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(np.signbit(result), np.signbit(expected))


# Ops


# These take parameters, or logits and targets: `half-precision` leaves them float32.
SINGLE = (Sweep, MaxNorm, GradientNorm, Cast, SoftmaxCrossEntropy, SoftmaxCrossEntropyBackward)


def halved(graph: Graph, case: OpCase, dtype: DType) -> bool:
    """Cast the operands of the op of a case to 16 bits, and its results back; whether it takes them."""
    node = next(node for node in graph.nodes if node.op == case.op)
    builder = Builder(graph, before=node)
    tensors = [o for o in node.operands if o.type.dtype is DType.F32 and o.type.rank >= 2]
    if not tensors or isinstance(node.op, SINGLE):
        return False
    casts = {operand: builder.add(Cast(dtype.value), operand) for operand in dict.fromkeys(tensors)}
    for index, operand in enumerate(node.operands):
        if operand in casts:
            graph.set_operand(node, index, casts[operand])
    try:
        types = node.op.result_types(*(operand.type for operand in node.operands))
    except InferError:
        return False
    for result, type in zip(node.results, types, strict=True):
        result.type = type
    back = Builder(graph)
    for name, value in graph.outputs.items():
        if value.type.dtype.is_half:
            graph.outputs[name] = back.add(Cast("f32"), value)
    return True


@pytest.mark.parametrize(
    "tier", [pytest.param(t, marks=[] if n == 0 else pytest.mark.slow) for n, t in enumerate(available_tiers())]
)
@pytest.mark.parametrize("dtype", POINTEES.values())
@pytest.mark.parametrize("case", NATIVE, ids=str)
def test_ops_on_halves(case: OpCase, dtype: DType, tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = case_arrays(case)
    graph, named = single_op_graph(case, arrays)
    if not halved(graph, case, dtype):
        pytest.skip("no tensors of numbers, or none that may have 16 bits")
    monkeypatch.setenv("CONVC_CPU", tier)
    given = {name: rounded(array, dtype) if array.dtype == np.float32 else array for name, array in named.items()}
    expected = run_reference(graph.copy(), given)
    results, again = run_natively(graph.copy(), given, threads=1), run_natively(graph, given, threads=2)
    for name, reference in expected.items():
        scale = max(float(np.abs(reference).max(initial=0.0)), 0.1)
        error = float(np.abs(results[name] - reference).max(initial=0.0)) / scale
        assert error <= 2 * EPSILON[dtype], f"{name}: relative error {error:.2e}"
        np.testing.assert_array_equal(results[name], again[name])
