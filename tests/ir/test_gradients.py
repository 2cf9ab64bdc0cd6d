"""Every `vjp` against central differences in float64, along random directions and, for small operands, per element."""

from __future__ import annotations

import numpy as np
import pytest

from convc.ir.builder import Builder
from convc.ir.graph import Graph, Value
from convc.ir.interpreter import run_reference
from convc.ir.op import InferError
from convc.ir.ops import OPS
from convc.ir.ops.activation import Step
from convc.ir.ops.binarize import Binarize
from convc.ir.ops.norm import BatchNormTraining
from convc.ir.verify import verify
from tests.op_cases import CASES, OpCase, cases_of, make_operands, operand_types

STEP = 1e-5
TOLERANCE = 1e-6  # constants of gradients are float32, which costs a few digits
DIFFERENTIABLE = [case for case in CASES if case.differentiable]

# Ops whose gradient is nobody's business: gradients of gradients, what `specialize` replaces before differentiation,
# integers and bookkeeping.
WITHOUT_GRADIENT = {
    "batch_norm", "batch_moments", "batch_norm_backward", "lrn_backward", "dropout", "noise", "softmax_backward",
    "log_softmax_backward", "maxout_backward",
    "max_pool_backward", "softmax_cross_entropy_backward", "hinge_backward", "mse_backward", "count_correct",
    "channel_sum", "sum", "sgd_update", "adagrad_update", "rmsprop_update", "adam_update",
    "adamw_update", "accumulate", "gradient_norm", "max_norm", "drop_connect", "constant",
    "unscale", "all_finite", "move_scale", "round_to", "quantize_weights",
}  # fmt: skip
FLAT = {"greater", "sign", "running_average", "step", "binarize", "quantize"}  # None, or not what differences show


def first_result(case: OpCase, operands: list[np.ndarray]) -> np.ndarray:
    result = case.op.reference(*operands)
    return result[0] if isinstance(result, tuple) else result


def analytic(case: OpCase, operands: list[np.ndarray], dy: np.ndarray) -> dict[int, np.ndarray]:
    """Gradients by operand: `vjp` emitted into a graph and run by the interpreter. Only the first result has a
    cotangent."""
    graph = Graph("gradient")
    names = [f"operand{index}" for index in range(len(operands))]
    values = [graph.add_parameter(name, t) for name, t in zip(names, operand_types(case), strict=True)]
    builder = Builder(graph)
    node = builder.add_node(case.op, *values)
    cotangents: list[Value | None] = [None] * len(node.results)
    cotangents[0] = graph.add_parameter("dy", node.results[0].type)
    gradients = case.op.vjp(builder, node, tuple(cotangents))
    assert len(gradients) == len(operands)
    for index, gradient in enumerate(gradients):
        if gradient is not None:
            assert gradient.type == values[index].type
            graph.outputs[f"d{index}"] = gradient
    verify(graph)
    found = run_reference(graph, {**dict(zip(names, operands, strict=True)), "dy": dy})
    return {index: found[f"d{index}"] for index in case.differentiable}


def difference(case: OpCase, operands: list[np.ndarray], dy: np.ndarray, index: int, direction: np.ndarray) -> float:
    """d/dh of Σ dy·y at operand + h·direction."""
    ends: list[float] = []
    for sign in (1, -1):
        moved = list(operands)
        moved[index] = operands[index] + sign * STEP * direction
        ends.append(float((first_result(case, moved) * dy).sum()))
    return (ends[0] - ends[1]) / (2 * STEP)


@pytest.mark.parametrize("case", DIFFERENTIABLE, ids=str)
def test_gradient_is_the_limit_of_differences(case: OpCase) -> None:
    operands = list(make_operands(case, np.float64))
    generator = np.random.default_rng(1)
    dy = np.asarray(generator.standard_normal(first_result(case, operands).shape))
    for index, gradient in analytic(case, operands, dy).items():
        scale = np.linalg.norm(gradient) + 1.0
        for _ in range(2):
            direction = np.asarray(generator.standard_normal(operands[index].shape))
            numeric = difference(case, operands, dy, index, direction)
            assert float((gradient * direction).sum()) == pytest.approx(numeric, rel=TOLERANCE, abs=TOLERANCE * scale)
        if operands[index].size <= 48 and not case.wide:
            for position in np.ndindex(operands[index].shape):
                unit = np.zeros_like(operands[index])
                unit[position] = 1.0
                numeric = difference(case, operands, dy, index, unit)
                assert gradient[position] == pytest.approx(numeric, rel=TOLERANCE, abs=TOLERANCE * scale)


def test_every_op_has_a_checked_gradient_or_none() -> None:
    checked = {case.op.name for case in DIFFERENTIABLE}
    assert checked.isdisjoint(WITHOUT_GRADIENT | FLAT)
    assert checked | WITHOUT_GRADIENT | FLAT == set(OPS)


@pytest.mark.parametrize("name", sorted(WITHOUT_GRADIENT - {"constant"}))
def test_ops_without_a_gradient_say_so(name: str) -> None:
    case = cases_of(OPS[name])[0]
    operands = list(make_operands(case, np.float64))
    dy = np.ones(first_result(case, operands).shape)
    with pytest.raises(InferError, match=f"{name} is not differentiable"):
        analytic(case, operands, dy)


@pytest.mark.parametrize("name", ["greater", "sign", "running_average"])
def test_flat_ops_pass_nothing_back(name: str) -> None:
    graph = Graph("flat")
    case = cases_of(OPS[name])[0]
    builder = Builder(graph)
    values = [graph.add_parameter(str(i), t) for i, t in enumerate(operand_types(case))]
    node = builder.add_node(case.op, *values)
    assert node.op.vjp(builder, node, (node.result,)) == (None,) * len(values)


def test_step_has_the_straight_through_gradient() -> None:
    x = np.array([-1.5, -1.0, -0.25, 0.0, 0.25, 1.0, 1.5], np.float32)
    case = OpCase("step/straight_through", Step(), (x,), (0,))
    dy = np.arange(1.0, 8.0)
    gradient = analytic(case, list(make_operands(case, np.float64)), dy)[0]
    np.testing.assert_array_equal(gradient, np.where(np.abs(x) <= 1, dy, 0))


def test_binarize_has_the_straight_through_gradient() -> None:
    """What comes back goes on as it is, with no factor, where |w| <= 1."""
    w = np.array([[-1.5, -1.0, -0.25, 0.0], [0.25, 1.0, 1.0 + 2.0**-20, -3.0]])
    case = OpCase("binarize/straight_through", Binarize(), (w,), (0,))
    dy = np.arange(1.0, 9.0).reshape(2, 4)
    expected = [[0, 2, 3, 4], [5, 6, 0, 0]]
    np.testing.assert_array_equal(analytic(case, [w], dy)[0], expected)
    np.testing.assert_array_equal(analytic(case, [w.astype(np.float32)], dy.astype(np.float32))[0], expected)


@pytest.mark.parametrize("name", ["max", "min"])
def test_ties_of_maximum_and_minimum_go_to_the_first(name: str) -> None:
    x = np.array([1.0, 2.0, 3.0], np.float32)
    case = OpCase(f"{name}/equal", OPS[name](), (x, x), (0, 1))
    gradients = analytic(case, [x, x], np.ones(3, np.float32))
    np.testing.assert_array_equal(gradients[0], 1)
    np.testing.assert_array_equal(gradients[1], 0)


def test_statistics_of_batch_norm_are_not_differentiable() -> None:
    case = cases_of(BatchNormTraining)[0]
    graph = Graph("statistics")
    builder = Builder(graph)
    node = builder.add_node(case.op, *(graph.add_parameter(str(i), t) for i, t in enumerate(operand_types(case))))
    with pytest.raises(InferError, match="statistics of batch_norm_training"):
        case.op.vjp(builder, node, (None, node.results[1], None, None))
