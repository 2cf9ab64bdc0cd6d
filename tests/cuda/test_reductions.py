"""Kernels that add up: the same bits in any order of events, any number of rows, means far from zero, 16 bits."""

from __future__ import annotations

import numpy as np
import pytest

from convc.codegen.cuda.nvrtc import RESOURCES, compile_all
from convc.codegen.cuda.program import make_step
from convc.codegen.cuda.resources import parse_resources
from convc.ir.builder import Builder
from convc.ir.diagnostic import CompileError
from convc.ir.graph import Graph, Value
from convc.ir.interpreter import run_reference
from convc.ir.ops import (
    BatchMoments,
    BatchNormBackward,
    BatchNormTraining,
    ChannelSum,
    Conv2d,
    CountCorrect,
    Exp,
    Hinge,
    HingeBackward,
    LocalResponseNorm,
    LocalResponseNormBackward,
    LogSoftmax,
    LogSoftmaxBackward,
    MeanSquaredError,
    MeanSquaredErrorBackward,
    Relayout,
    Relu,
    Softmax,
    SoftmaxBackward,
    SoftmaxCrossEntropy,
    SoftmaxCrossEntropyBackward,
    SpatialSum,
    Sum,
)
from convc.ir.ops.cast import cast
from convc.ir.rounding import rounded
from convc.ir.types import DType, TensorType
from convc.passes.fusion import EPILOGUE_ANCHORS, resolve
from tests.codegen.native_graph import case_arrays, single_op_graph
from tests.codegen.test_halves import EPSILON
from tests.cuda.emulated import EmulatedDevice, run_emulated
from tests.cuda_emulator.nvrtc import MISSING, nvrtc
from tests.cuda_emulator.schedule import SCHEDULES
from tests.op_case import OpCase, Random, labels, normal, positive

pytestmark = pytest.mark.skipif(nvrtc() is None, reason=MISSING)
TOLERANCE = 1e-5

# Enough pixels for several parts, channels that fill no block.
IMAGES = (5, 37, 13, 13)
MAPS = (3, 5, 16, 16)
CLASSES = (5, 50)


def _mean(dy: np.ndarray, x: np.ndarray, gamma: np.ndarray) -> np.ndarray:
    return x.mean((0, 2, 3))


def _variance(dy: np.ndarray, x: np.ndarray, gamma: np.ndarray, mean: np.ndarray) -> np.ndarray:
    return x.var((0, 2, 3))


def _softmax(dy: np.ndarray) -> np.ndarray:
    return Softmax().reference(-2 * dy)


_FAR = np.add(64.0, np.random.default_rng(1).standard_normal((2, 6, 40, 30)))
CASES = [
    OpCase("batch_norm_training", BatchNormTraining(1e-3), (normal(*IMAGES), positive(37), normal(37))),
    OpCase("batch_norm_training/far", BatchNormTraining(1e-3), (_FAR, positive(6), normal(6))),
    OpCase("batch_moments", BatchMoments(), (normal(*IMAGES),)),
    OpCase(
        "batch_norm_backward",
        BatchNormBackward(1e-3),
        (normal(*IMAGES), normal(*IMAGES), positive(37), _mean, _variance),
    ),
    OpCase("channel_sum", ChannelSum(), (normal(*IMAGES),)),
    OpCase("sum", Sum(), (normal(*IMAGES),)),
    OpCase("spatial_sum", SpatialSum(), (normal(3, 37, 5, 13),)),
    OpCase("softmax", Softmax(), (normal(3, 50, 3, 3),)),
    OpCase("softmax/few", Softmax(), (normal(*MAPS),)),
    OpCase("softmax/blocks", Softmax(), (normal(3, 1030),)),
    OpCase("softmax/streamed", Softmax(), (Random((2, 16500), "large"),)),
    OpCase("log_softmax", LogSoftmax(), (normal(*CLASSES),)),
    OpCase("softmax_backward", SoftmaxBackward(), (normal(*CLASSES), _softmax)),
    OpCase("softmax_backward/blocks", SoftmaxBackward(), (normal(2, 8300), _softmax)),
    OpCase("log_softmax_backward", LogSoftmaxBackward(), (normal(*CLASSES), lambda dy: np.log(_softmax(dy)))),
    OpCase("cross_entropy", SoftmaxCrossEntropy(0.125), (normal(*CLASSES), labels(50, 5))),
    OpCase("cross_entropy/maps", SoftmaxCrossEntropy(0.125), (normal(*MAPS), labels(5, 3, 16, 16), positive(5))),
    OpCase("cross_entropy/blocks", SoftmaxCrossEntropy(), (normal(3, 1030), labels(1030, 3))),
    OpCase("cross_entropy_backward", SoftmaxCrossEntropyBackward(0.125), (normal(), normal(*CLASSES), labels(50, 5))),
    OpCase(
        "cross_entropy_backward/maps",
        SoftmaxCrossEntropyBackward(0.125),
        (normal(), normal(*MAPS), labels(5, 3, 16, 16), positive(5)),
    ),
    OpCase("count_correct", CountCorrect(), (Random(MAPS, "ties"), labels(5, 3, 16, 16))),
    OpCase("count_correct/numbers", CountCorrect(), (Random(CLASSES, "ties"), Random(CLASSES, "ties"))),
    OpCase("count_correct/blocks", CountCorrect(), (Random((3, 1030), "ties"), Random((3, 1030), "ties"))),
    OpCase("hinge", Hinge(1.0), (normal(*MAPS), labels(5, 3, 16, 16))),
    OpCase("hinge_backward", HingeBackward(1.0), (normal(), normal(*CLASSES), labels(50, 5))),
    OpCase("mse", MeanSquaredError(), (normal(*MAPS), normal(*MAPS))),
    OpCase("mse/labels", MeanSquaredError(), (normal(*CLASSES), labels(50, 5))),
    OpCase("mse_backward", MeanSquaredErrorBackward(), (normal(), normal(*MAPS), labels(5, 3, 16, 16))),
    OpCase("lrn", LocalResponseNorm(5, 0.75), (normal(2, 37, 5, 5),)),
    OpCase("lrn/chunks", LocalResponseNorm(5, 0.75), (normal(1, 6200, 1, 1),)),
    OpCase("lrn_backward", LocalResponseNormBackward(5, 0.75), (normal(2, 37, 5, 5), normal(2, 37, 5, 5))),
    OpCase("lrn_backward/chunks", LocalResponseNormBackward(5, 0.75), (normal(1, 3100, 1, 2), normal(1, 3100, 1, 2))),
]
OF_SEVERAL_ROWS = [case for case in CASES if "chunks" not in case.name]


def _exact(named: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: a.astype(np.float64) if a.dtype == np.float32 else a for name, a in named.items()}


def _check(results: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float = TOLERANCE) -> None:
    for name, reference in expected.items():
        scale = max(float(np.abs(reference).max(initial=0.0)), 0.1)
        error = float(np.abs(results[name] - reference).max(initial=0.0)) / scale
        assert error <= tolerance, f"{name}: relative error {error:.2e}"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_same_bits_under_every_schedule(case: OpCase) -> None:
    graph, named = single_op_graph(case, case_arrays(case))
    expected = run_reference(graph.copy(), _exact(named))
    first: dict[str, np.ndarray] | None = None
    for schedule in SCHEDULES:
        results = run_emulated(graph.copy(), named, EmulatedDevice(schedule=schedule))
        first = first or results
        _check(results, expected)
        for name, array in results.items():
            np.testing.assert_array_equal(array, first[name], err_msg=f"{name}, {schedule}")


def test_sums_of_one_part_and_of_several() -> None:
    """The cases have both: launches beside those that rearrange the operands."""
    counts: dict[str, int] = {}
    for case in CASES:
        launches = make_step(single_op_graph(case, case_arrays(case))[0], 80).launches
        counts[case.name] = sum(not isinstance(launch.kernel.anchor.op, Relayout) for launch in launches)
    several = {"batch_norm_training": 3, "batch_norm_backward": 3, "batch_moments": 2, "channel_sum": 2, "sum": 2}
    one = {"batch_norm_training/far": 2, "cross_entropy": 1, "mse/labels": 1}
    maps = {"cross_entropy/maps": 2, "count_correct": 2, "hinge": 2, "mse": 2}
    expected = {**several, **one, **maps}
    assert {name: counts[name] for name in expected} == expected


@pytest.mark.parametrize("case", OF_SEVERAL_ROWS, ids=str)
def test_fewer_rows_than_the_batch(case: OpCase) -> None:
    """What lies behind the rows, which is NaN here, matters to no result."""
    graph, named = single_op_graph(case, case_arrays(case))
    batch = len(named["x"])
    few = {
        name: array[: batch - 1] if name in graph.inputs and array.ndim > 0 else array for name, array in named.items()
    }
    expected = run_reference(graph.copy(), _exact(few))
    _check(run_emulated(graph, few, batch=batch), expected)


@pytest.mark.parametrize("case", [case for case in CASES if isinstance(case.op, EPILOGUE_ANCHORS)], ids=str)
def test_a_chain_follows(case: OpCase) -> None:
    graph, named = single_op_graph(case, case_arrays(case))
    graph.outputs["logits"] = Builder(graph).add(Relu(), graph.outputs["logits"])
    expected = run_reference(graph.copy(), _exact(named))
    assert any(kernel.chain for kernel in make_step(graph.copy(), 80).plan.kernels)
    _check(run_emulated(graph, named), expected)


@pytest.mark.parametrize("name", ["batch_norm_training", "batch_norm_backward"])
def test_results_in_the_place_of_operands(name: str) -> None:
    case = next(case for case in CASES if case.name == name)
    graph, named = single_op_graph(case, case_arrays(case))
    plan = make_step(graph.copy(), 80).plan
    node = next(node for node in plan.graph.nodes if node.op == case.op)
    places = [plan.memory.slots[resolve(operand)] for operand in node.operands]
    assert plan.memory.slots[node.results[0]] in places
    results, apart = run_emulated(graph.copy(), named, spread=False), run_emulated(graph, named)
    for output, array in apart.items():
        np.testing.assert_array_equal(results[output], array)


@pytest.mark.parametrize("place", [0, 1200, 2400, 4799])
@pytest.mark.parametrize("outlier", [None, 0.0, 1e5])
def test_means_far_from_zero(outlier: float | None, place: int) -> None:
    """Two passes over float32 would leave as much of the variance; a pixel may be unlike all others."""
    x = (1000 + np.random.default_rng(3).standard_normal((4, 6, 40, 30))).astype(np.float32)
    if outlier is not None:
        x[place // 1200, :, place // 30 % 40, place % 30] = outlier
    case = OpCase("far", BatchNormTraining(1e-3), (x, np.ones(6, np.float32), np.zeros(6, np.float32)))
    graph, named = single_op_graph(case, case_arrays(case))
    results = run_emulated(graph, named)
    exact = x.astype(np.float64)
    mean, variance = exact.mean((0, 2, 3)), exact.var((0, 2, 3))
    # No better than to the nearest number.
    assert np.abs(results["result1"] / mean - 1).max() <= 2.0**-23
    assert np.abs(results["result2"] / variance - 1).max() <= 1e-6
    count = x.size // 6
    assert np.abs(results["result3"] / variance * ((count - 1) / count) - 1).max() <= 1e-6
    # Results are off by what the mean is.
    y = (exact - mean[:, None, None]) / np.sqrt(variance + 1e-3)[:, None, None]
    assert np.abs(results["logits"] - y).max() <= 1e-6 * np.abs(y).max() + 1000 * 2.0**-23


def test_padding_of_weights_counts_for_nothing() -> None:
    """What is computed of padding, here exponentials of zeros, is no part of a sum."""
    graph = Graph("weights")
    builder = Builder(graph)
    x = graph.add_input("x", TensorType(DType.F32, (2, 3, 5, 5)))
    w = graph.add_parameter("w", TensorType(DType.F32, (5, 3, 3, 3)))
    graph.outputs["logits"] = builder.add(Conv2d(), x, w)
    graph.outputs["total"] = builder.add(Sum(), builder.add(Exp(), w))
    draw = np.random.default_rng(5)
    named = {name: draw.standard_normal(v.shape).astype(np.float32) for name, v in (("x", x), ("w", w))}
    _check(run_emulated(graph.copy(), named), run_reference(graph, _exact(named)))


def test_windows_that_fit_no_shared_memory() -> None:
    case = OpCase("lrn", LocalResponseNorm(13000), (normal(1, 13000),))
    graph, _ = single_op_graph(case, case_arrays(case))
    with pytest.raises(CompileError, match=r"unavailable-op.*13000 channels"):
        make_step(graph, 80)


HALVES = [
    OpCase("batch_norm_training", BatchNormTraining(1e-3), (normal(*IMAGES), positive(37), normal(37))),
    OpCase(
        "batch_norm_backward",
        BatchNormBackward(1e-3),
        (normal(*IMAGES), normal(*IMAGES), positive(37), _mean, _variance),
    ),
    *(case for case in CASES if case.name.partition("/")[0] in ("channel_sum", "sum", "spatial_sum", "lrn", "softmax")),
    *(case for case in CASES if case.name.startswith(("cross_entropy", "mse", "lrn_backward", "softmax_backward"))),
]


def _in_halves(case: OpCase, dtype: DType) -> tuple[Graph, dict[str, np.ndarray]]:
    """A case whose images are cast to 16 bits before the op, and those of its results back."""
    graph, named = single_op_graph(case, case_arrays(case))
    node = next(node for node in graph.nodes if node.op == case.op)
    before, after = Builder(graph, before=node), Builder(graph)
    casts: dict[Value, Value] = {}
    for index, operand in enumerate(node.operands):
        if operand.type.dtype is DType.F32 and operand.type.rank >= 2:
            if operand not in casts:
                casts[operand] = cast(before, operand, dtype)
            graph.set_operand(node, index, casts[operand])
    types = node.op.result_types(*(operand.type for operand in node.operands))
    for result, kind in zip(node.results, types, strict=True):
        result.type = kind
    for name, value in graph.outputs.items():
        if value.type.dtype.is_half and value.shape:
            graph.outputs[name] = cast(after, value, DType.F32)
    return graph, {name: rounded(a, dtype) if a.dtype == np.float32 else a for name, a in named.items()}


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16], ids=str)
@pytest.mark.parametrize("case", HALVES, ids=str)
def test_images_of_16_bits(case: OpCase, dtype: DType) -> None:
    graph, named = _in_halves(case, dtype)
    expected = run_reference(graph.copy(), named)
    sources = make_step(graph.copy(), 80).sources
    assert any("{ V = 8 }" in source or "{ WIDTH = 8 }" in source for source in sources), "16 bytes at a time"
    _check(run_emulated(graph, named), expected, 2 * EPSILON[dtype])


@pytest.mark.parametrize("architecture", [75, 80, 90])
def test_nothing_is_spilled(architecture: int) -> None:
    graphs = [single_op_graph(case, case_arrays(case))[0] for case in CASES]
    graphs += [_in_halves(case, DType.F16)[0] for case in HALVES]
    others = ("convc_relayout", "convc_cast")
    launches = [launch for graph in graphs for launch in make_step(graph, architecture).launches]
    sources = {launch.source for launch in launches if launch.name not in others}
    for compiled in compile_all(sorted(sources), f"sm_{architecture}", [RESOURCES], threads=2):
        for name, taken in parse_resources(compiled.log).items():
            assert taken.spill_stores == taken.spill_loads == taken.stack == 0, f"{name}: {taken}"
            assert taken.registers <= 128, f"{name}: {taken}"
