"""Numbers of 16 bits in memory, float32 in registers: every pattern, and every op that may meet them, at every tier."""

from __future__ import annotations

import numpy as np
import pytest

from convc.codegen.llvm.target import host_target
from convc.codegen.llvm.vocabulary import Function, V
from convc.ir.builder import Builder
from convc.ir.graph import Graph, Value
from convc.ir.interpreter import run_reference
from convc.ir.op import InferError
from convc.ir.ops.binarize import Binarize
from convc.ir.ops.cast import Cast, cast
from convc.ir.ops.loss import SoftmaxCrossEntropy, SoftmaxCrossEntropyBackward
from convc.ir.ops.loss_scaling import AllFinite
from convc.ir.ops.sweep import GradientNorm, MaxNorm, Sweep
from convc.ir.rounding import rounded
from convc.ir.types import DType, TensorType
from tests.codegen.native_graph import case_arrays, run_natively, single_op_graph
from tests.codegen.single_phase import SinglePhase
from tests.codegen.test_ops import NATIVE, available_tiers
from tests.halves import PATTERNS, all_numbers, awkward_floats
from tests.op_case import operand_types
from tests.op_cases import OpCase

POINTEES = {"half": DType.F16, "bfloat": DType.BF16}
LANES = (1, 4, 8)
# Half a unit in the last place, relative: native code and the interpreter may each round once.
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
SINGLE = (
    Sweep, MaxNorm, AllFinite, GradientNorm, Binarize, Cast, SoftmaxCrossEntropy, SoftmaxCrossEntropyBackward,
)  # fmt: skip


def halves_of(case: OpCase, dtype: DType) -> list[TensorType]:
    """The types of the operands with the tensors of numbers among them in 16 bits."""
    return [t.with_dtype(dtype) if t.dtype is DType.F32 and t.rank >= 2 else t for t in operand_types(case)]


def takes_halves(case: OpCase) -> bool:
    """Whether the op of a case takes 16 bits, and has operands that may have them."""
    types = halves_of(case, DType.F16)
    if isinstance(case.op, SINGLE) or not any(t.dtype.is_half for t in types):
        return False
    try:
        case.op.result_types(*types)
    except InferError:
        return False
    return True


def halved(graph: Graph, case: OpCase, dtype: DType) -> None:
    """Cast the operands of the op of a case to 16 bits, and its results back."""
    node = next(node for node in graph.nodes if node.op == case.op)
    builder, back = Builder(graph, before=node), Builder(graph)
    casts: dict[Value, Value] = {}
    for index, (operand, wanted) in enumerate(zip(node.operands, halves_of(case, dtype), strict=True)):
        if wanted.dtype.is_half:
            if operand not in casts:
                casts[operand] = cast(builder, operand, dtype)
            graph.set_operand(node, index, casts[operand])
    types = node.op.result_types(*(operand.type for operand in node.operands))
    for result, type in zip(node.results, types, strict=True):
        result.type = type
    for name, value in graph.outputs.items():
        graph.outputs[name] = cast(back, value, DType.F32) if value.type.dtype.is_half else value


@pytest.mark.parametrize(
    "tier", [pytest.param(t, marks=[] if n == 0 else pytest.mark.slow) for n, t in enumerate(available_tiers())]
)
@pytest.mark.parametrize("dtype", POINTEES.values())
@pytest.mark.parametrize("case", [case for case in NATIVE if takes_halves(case)], ids=str)
def test_ops_on_halves(case: OpCase, dtype: DType, tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = case_arrays(case)
    graph, named = single_op_graph(case, arrays)
    halved(graph, case, dtype)
    monkeypatch.setenv("CONVC_CPU", tier)
    given = {name: rounded(array, dtype) if array.dtype == np.float32 else array for name, array in named.items()}
    expected = run_reference(graph.copy(), given)
    results, again = run_natively(graph.copy(), given, threads=1), run_natively(graph, given, threads=2)
    for name, reference in expected.items():
        scale = max(float(np.abs(reference).max(initial=0.0)), 0.1)
        error = float(np.abs(results[name] - reference).max(initial=0.0)) / scale
        assert error <= 2 * EPSILON[dtype], f"{name}: relative error {error:.2e}"
        np.testing.assert_array_equal(results[name], again[name])
