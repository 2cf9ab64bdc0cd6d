"""What every op promises: a rule for everything, and results of the types that `infer` announces."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from convc.ir.op import Op
from convc.ir.ops import OPS
from convc.ir.types import DType
from tests.op_cases import CASES, OpCase, make_operands, operand_types

FLOATS = {DType.F32: np.float32, DType.F64: np.float64}


def results_of(case: OpCase, dtype: type) -> tuple[np.ndarray, ...]:
    results = case.op.reference(*make_operands(case, dtype))
    return results if isinstance(results, tuple) else (results,)


def test_every_op_has_several_cases_and_all_rules() -> None:
    count = Counter(case.op.name for case in CASES)
    assert [name for name in OPS if count[name] < 4] == []
    for kind in OPS.values():
        assert kind.infer is not Op.infer, kind.name
        assert kind.reference is not Op.reference, kind.name
    assert len({case.name for case in CASES}) == len(CASES)


def test_names_of_cases_start_with_the_op() -> None:
    assert [case.name for case in CASES if not case.name.startswith(case.op.name + "/")] == []
    assert set(OPS) == {case.op.name for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_results_have_the_inferred_types(case: OpCase) -> None:
    for dtype, numpy in FLOATS.items():
        types = case.op.result_types(*operand_types(case, dtype))
        results = results_of(case, numpy)
        assert len(types) == len(results) == case.op.result_count
        for announced, result in zip(types, results, strict=True):
            assert result.shape == announced.shape
            assert result.dtype == announced.dtype.numpy
            if result.dtype.kind == "f":
                assert np.isfinite(result).all()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_single_precision_is_close_to_double(case: OpCase) -> None:
    for single, double in zip(results_of(case, np.float32), results_of(case, np.float64), strict=True):
        largest = np.abs(double).max(initial=1e-30)
        assert np.abs(single.astype(np.float64) - double).max(initial=0) <= 2e-5 * largest


def test_references_leave_their_operands_alone() -> None:
    for case in CASES:
        operands = make_operands(case)
        before = [operand.copy() for operand in operands]
        case.op.reference(*operands)
        for left, right in zip(before, operands, strict=True):
            np.testing.assert_array_equal(left, right, err_msg=case.name)


def test_costs_are_whole_numbers() -> None:
    for case in CASES:
        cost = case.op.cost(*operand_types(case))
        assert isinstance(cost.flops, int), case.name
        assert isinstance(cost.bytes, int), case.name
        assert min(cost.flops, cost.bytes) >= 0, case.name


def test_cost_of_known_layers() -> None:
    costs = {case.name: case.op.cost(*operand_types(case)) for case in CASES}
    # Two flops per multiply-add: N·K·OH·OW·C·R·S of them, in each direction.
    macs = 7 * 50 * 8 * 8 * 20 * 5 * 5
    for op in ("conv2d", "conv2d_backward_data", "conv2d_backward_weights"):
        assert costs[f"{op}/lenet_2"].flops == 2 * macs
    depthwise = 2 * 50 * 7 * 7 * 1 * 3 * 3
    assert costs["conv2d/depthwise_wide"].flops == 2 * depthwise
    images, filters, bias, results = 7 * 20 * 12 * 12, 50 * 20 * 5 * 5, 50, 7 * 50 * 8 * 8
    assert costs["conv2d/lenet_2"].bytes == 4 * (images + filters + bias + results)
    assert costs["linear/wide"].flops == 2 * 7 * 800 * 50
    assert costs["flatten/image"].flops == costs["flatten/image"].bytes == 0


def test_batched_flags_match_the_number_of_results() -> None:
    for case in CASES:
        flags = case.op.batched((True,) * len(case.operands))
        assert len(flags) == case.op.result_count, case.name
