"""Products of bfloat16 numbers by the instruction that adds them up in pairs; what the same kernels do without it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from convc.codegen.llvm.lowering import generate
from convc.codegen.llvm.program import plan_step
from convc.codegen.llvm.target import DOT_BF16, WITHOUT_VARIABLE, host_target
from convc.ir.builder import Builder
from convc.ir.graph import Graph
from convc.ir.interpreter import run_reference
from convc.ir.op import Op
from convc.ir.ops import (
    ChannelSum,
    Conv2d,
    Conv2dBackwardData,
    Conv2dBackwardWeights,
    Linear,
    LinearBackwardData,
    LinearBackwardWeights,
    Negate,
)
from convc.ir.ops.cast import cast
from convc.ir.rounding import rounded
from convc.ir.types import DType, TensorType
from convc.passes.algorithms.direct import Direct
from convc.passes.algorithms.problem import Direction
from convc.passes.base import PassLog
from convc.passes.half_precision import HalfPrecision
from convc.passes.layout import WeightLayout
from convc.passes.plan import Plan
from convc.runtime.environment import cpu_tier
from tests.codegen.algorithms.convolutions import CHAINS, Geometry, assert_close, chained, problem_of
from tests.codegen.native_graph import run_natively, single_op_graph
from tests.codegen.test_assembly import WITH_DOT
from tests.codegen.test_halves import EPSILON, halved
from tests.op_case import Array, OpCase, make_operands, normal

WAYS = [
    pytest.param(
        DOT_BF16, marks=pytest.mark.skipif(not host_target().has(DOT_BF16), reason=f"this processor lacks {DOT_BF16}")
    ),
    "float32",
]
DIRECTIONS: tuple[Direction, ...] = ("forward", "backward_data")

# Whether their filters are read in pairs, and the geometry.
GEOMETRIES: dict[str, tuple[bool, Geometry]] = {
    "3x3": (True, Geometry((2, 32, 9, 14), (48, 32, 3, 3), (1, 1, 1, 1))),
    "pointwise": (True, Geometry((3, 36, 7, 7), (20, 36, 1, 1))),
    "pointwise, long": (True, Geometry((2, 130, 12, 12), (70, 130, 1, 1))),
    "odd": (True, Geometry((2, 5, 9, 11), (7, 5, 3, 3), (1, 1, 1, 1))),
    "odd, beyond a vector": (True, Geometry((2, 33, 6, 10), (37, 33, 3, 3), (1, 0, 2, 1))),
    "three and two": (True, Geometry((2, 3, 8, 8), (2, 3, 3, 3), (1, 1, 1, 1))),
    "strided": (True, Geometry((2, 19, 13, 12), (33, 19, 3, 3), (1, 1, 1, 1), stride=(2, 2))),
    "strided apart": (True, Geometry((2, 10, 13, 12), (12, 10, 1, 1), stride=(3, 2))),
    "dilated": (True, Geometry((2, 11, 12, 13), (21, 11, 3, 3), (2, 2, 2, 2), dilation=(2, 2))),
    "all of it": (True, Geometry((2, 9, 15, 16), (13, 9, 5, 3), (4, 1, 3, 2), stride=(2, 3), dilation=(2, 1))),
    "row": (True, Geometry((2, 24, 3, 24), (17, 24, 1, 7), (0, 3, 0, 3))),
    "groups": (False, Geometry((2, 12, 7, 9), (18, 6, 3, 3), (1, 1, 1, 1), groups=2)),
    "depthwise": (False, Geometry((2, 16, 7, 9), (16, 1, 3, 3), (1, 1, 1, 1), groups=16)),
    "one channel": (False, Geometry((2, 1, 9, 9), (16, 1, 3, 3), (1, 1, 1, 1))),
    "one output": (False, Geometry((2, 16, 9, 9), (1, 16, 3, 3), (1, 1, 1, 1))),
}


def choose(way: str, patch: pytest.MonkeyPatch) -> None:
    if way == "float32":
        patch.setenv(WITHOUT_VARIABLE, DOT_BF16)


def halved_case(case: OpCase) -> tuple[Graph, dict[str, Array], Array]:
    """A graph in bfloat16 with its result in float32, before it is rounded; operands, and the exact result."""
    arrays = make_operands(case, np.float32)
    graph, named = single_op_graph(case, arrays)
    halved(graph, case, DType.BF16)
    arrays = tuple(rounded(a, DType.BF16) if a.ndim > 1 else a for a in arrays)
    return graph, named, np.asarray(case.op.reference(*(a.astype(np.float64) for a in arrays)))


def filters_in_pairs(plan: Plan) -> list[bool]:
    layouts = [plan.layouts[node.operands[1]] for node in plan.graph.nodes_of(Conv2d, Conv2dBackwardData)]
    return [isinstance(layout, WeightLayout) and layout.pairs == 2 for layout in layouts]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_direct_convolutions(name: str, direction: Direction, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of two bfloat16 numbers are exact in float32, so sums are as exact as those of float32 convolutions."""
    choose(way, monkeypatch)
    paired, geometry = GEOMETRIES[name]
    graph, named, exact = halved_case(geometry.case(direction, "direct"))
    single = run_natively(graph.copy(), named, threads=1)["logits"]
    assert_close(single, exact, Direct().max_rel_error(problem_of(graph)), problem_of(graph))
    for threads in (2, 3):
        np.testing.assert_array_equal(single, run_natively(graph.copy(), named, threads=threads)["logits"])
    np.testing.assert_array_equal(single, run_natively(graph.copy(), named, side="before")["logits"])
    assert filters_in_pairs(plan_step(graph)) == [paired and way == DOT_BF16]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("chain", CHAINS)
def test_chains(chain: str, direction: Direction, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What rides in the epilogue meets the sums in float32, whatever made them."""
    choose(way, monkeypatch)
    graph, named = chained(direction, "direct", chain, Geometry((2, 5, 7, 9), (6, 5, 3, 3), (1, 1, 1, 1)))
    HalfPrecision().run(graph, PassLog())
    assert filters_in_pairs(plan_step(graph.copy())) == [way == DOT_BF16]
    result, again = (run_natively(graph.copy(), named, threads=threads) for threads in (1, 2))
    for name, value in run_reference(graph, named).items():
        error = float(np.abs(result[name] - value).max()) / float(np.abs(value).max())
        # The interpreter rounds after each op of the chain.
        assert error <= len(graph.nodes) * EPSILON[DType.BF16], f"{name}: relative error {error:.2e}"
        np.testing.assert_array_equal(result[name], again[name])


# Whether pairs of positions are added up, and the geometry.
GRADIENTS: dict[str, tuple[bool, Geometry]] = {
    "3x3": (True, Geometry((3, 32, 9, 14), (48, 32, 3, 3), (1, 1, 1, 1))),
    "without padding": (True, Geometry((2, 17, 9, 10), (40, 17, 3, 3))),
    "odd width": (True, Geometry((2, 20, 7, 7), (33, 20, 3, 3), (1, 1, 1, 1))),
    "a column": (True, Geometry((2, 20, 7, 1), (33, 20, 3, 1), (1, 0, 1, 0))),
    "two columns": (True, Geometry((2, 20, 7, 2), (33, 20, 3, 3), (1, 1, 1, 1))),
    "pointwise": (True, Geometry((3, 36, 7, 7), (20, 36, 1, 1))),
    "pointwise, few channels": (True, Geometry((3, 3, 6, 7), (20, 3, 1, 1))),
    "pointwise, in bands": (True, Geometry((2, 130, 40, 40), (70, 130, 1, 1))),
    "in bands": (True, Geometry((2, 24, 70, 60), (40, 24, 3, 3), (1, 1, 1, 1))),
    "strided": (True, Geometry((2, 19, 13, 12), (33, 19, 3, 3), (1, 1, 1, 1), stride=(2, 2))),
    "strided and dilated": (
        True,
        Geometry((2, 9, 15, 16), (23, 9, 5, 3), (4, 1, 3, 2), stride=(2, 3), dilation=(2, 1)),
    ),
    "groups": (True, Geometry((2, 24, 7, 9), (40, 12, 3, 3), (1, 1, 1, 1), groups=2)),
    "groups of an odd size": (False, Geometry((2, 24, 7, 9), (42, 12, 3, 3), (1, 1, 1, 1), groups=2)),
    "one vector": (False, Geometry((2, 24, 7, 9), (16, 24, 3, 3), (1, 1, 1, 1))),
    "few channels": (False, Geometry((2, 3, 8, 8), (24, 3, 3, 3), (1, 1, 1, 1))),
    "one output": (False, Geometry((2, 16, 9, 9), (1, 16, 3, 3), (1, 1, 1, 1))),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_by_the_filters(name: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With that of the bias, which rides along."""
    choose(way, monkeypatch)
    paired, geometry = GRADIENTS[name]
    graph, named, exact = halved_case(geometry.case("backward_weights", "direct"))
    dy = next(graph.nodes_of(Conv2dBackwardWeights)).operands[1]
    builder = Builder(graph)
    # Of the logits' section neither is part.
    graph.outputs |= {"filters": graph.outputs["logits"], "bias": builder.add(ChannelSum(), dy)}
    graph.outputs["logits"] = builder.add(Negate(), graph.inputs["x"])
    problem, rider = problem_of(graph), rounded(named["operand1"], DType.BF16).astype(np.float64).sum((0, 2, 3))
    single = run_natively(graph.copy(), named, threads=1)
    assert_close(single["filters"], exact, Direct().max_rel_error(problem), problem)
    error = float(np.abs(single["bias"] - rider).max())
    assert error <= Direct().max_rel_error(problem) * max(float(np.abs(rider).max()), math.sqrt(dy.type.size))
    for threads in (2, 3):
        again = run_natively(graph.copy(), named, threads=threads)
        for gradient in ("filters", "bias"):
            np.testing.assert_array_equal(single[gradient], again[gradient])
    plan = plan_step(graph)
    assert any("channel_sum" in kernel.name and len(kernel.nodes) == 2 for kernel in plan.kernels)
    assert ("dpbf16ps" in generate(plan, "fma").text) == (paired and way == DOT_BF16)


# Images, features, outputs, and whether products forward and backward are added up in pairs.
MATRICES = [
    (5, 40, 24, (True, True)),
    (17, 33, 7, (True, True)),  # padding on all sides
    (64, 130, 100, (True, True)),
    (3, 6, 2, (True, True)),
    (20, 1, 12, (False, True)),  # a feature alone
    (20, 12, 1, (False, False)),  # an output alone
    (1, 12, 20, (True, False)),  # an image alone
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("op", [Linear(), LinearBackwardData()], ids=lambda op: op.name)
@pytest.mark.parametrize(("images", "features", "outputs", "paired"), MATRICES)
def test_fully_connected_layers(
    images: int,
    features: int,
    outputs: int,
    paired: tuple[bool, bool],
    op: Op,
    way: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choose(way, monkeypatch)
    forward = isinstance(op, Linear)
    operands = (normal(images, features if forward else outputs), normal(outputs, features))
    graph, named, exact = halved_case(OpCase("layer", op, (*operands, normal(outputs)) if forward else operands))
    single = run_natively(graph.copy(), named, threads=1)["logits"]
    terms = features if forward else outputs
    scale = max(float(np.abs(exact).max()), math.sqrt(terms))
    assert float(np.abs(single - exact).max()) <= 9e-8 * math.sqrt(16 + terms) * scale
    for threads in (2, 3):
        np.testing.assert_array_equal(single, run_natively(graph.copy(), named, threads=threads)["logits"])
    fewer = run_natively(graph.copy(), named | {"x": named["x"][:2]}, batch=images)["logits"]
    np.testing.assert_array_equal(single[:2], fewer)
    text = generate(plan_step(graph), "fma").text
    assert ("dpbf16ps" in text) == (way == DOT_BF16 and paired[0 if forward else 1])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("images", "features", "outputs", "paired"),
    [
        (6, 40, 24, True),
        (17, 33, 50, True),
        (1, 12, 20, True),
        (40, 1, 130, True),
        (20, 30, 16, False),
        (20, 12, 1, False),
    ],
)
def test_gradients_of_matrices(
    images: int, features: int, outputs: int, paired: bool, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With that of the bias; of some of the images, too, an odd number of them."""
    choose(way, monkeypatch)
    operands = (normal(images, features), normal(images, outputs))
    graph, named, _ = halved_case(OpCase("gradient", LinearBackwardWeights(), operands))
    dy, builder = next(graph.nodes_of(LinearBackwardWeights)).operands[1], Builder(graph)
    graph.outputs |= {"weights": graph.outputs["logits"], "bias": builder.add(ChannelSum(), dy)}
    graph.outputs["logits"] = builder.add(Negate(), graph.inputs["x"])
    for rows in {images, min(images, 5)}:
        some = {name: array[:rows] for name, array in named.items()}
        x, cotangent = (rounded(array, DType.BF16).astype(np.float64) for array in some.values())
        single = run_natively(graph.copy(), some, threads=1, batch=images)
        for name, exact in (("weights", cotangent.T @ x), ("bias", cotangent.sum(0))):
            scale = max(float(np.abs(exact).max()), math.sqrt(rows))
            assert float(np.abs(single[name] - exact).max()) <= 9e-8 * math.sqrt(16 + rows) * scale
            again = run_natively(graph.copy(), some, threads=3, batch=images)
            np.testing.assert_array_equal(single[name], again[name])
    plan = plan_step(graph)
    assert any("channel_sum" in kernel.name and len(kernel.nodes) == 2 for kernel in plan.kernels)
    assert ("dpbf16ps" in generate(plan, "fma").text) == (paired and way == DOT_BF16)


def both_directions() -> Graph:
    """A convolution and its gradient by the images: two readers of the same cast filters."""
    graph = Graph("both")
    builder = Builder(graph)
    x = graph.add_input("x", TensorType(DType.F32, (2, 6, 8, 8)))
    w = graph.add_parameter("w", TensorType(DType.F32, (6, 6, 3, 3)))
    half = cast(builder, w, DType.BF16)
    padding = (1, 1, 1, 1)
    y = builder.add(Conv2d(padding=padding, algorithm="direct"), cast(builder, x, DType.BF16), half)
    dx = builder.add(Conv2dBackwardData(size=(8, 8), padding=padding, algorithm="direct"), y, half)
    graph.outputs["logits"] = cast(builder, dx, DType.F32)
    graph.updates["w"] = w
    return graph


def test_the_cast_writes_pairs_once_for_all_readers() -> None:
    plan = plan_step(both_directions(), WITH_DOT)
    parameter = plan.graph.parameters["w"].value
    assert [kernel.name for kernel in plan.kernels if parameter in kernel.reads] == ["relayout+cast"]
    assert len(plan.kernels) == 4  # with the cast of the images and two convolutions
    assert filters_in_pairs(plan) == [True, True]


def test_without_the_cast_filters_are_rearranged() -> None:
    """Half weights that are computed, not cast from a parameter of the same shape."""
    graph = both_directions()
    (half,) = {node.operands[1] for node in graph.nodes_of(Conv2d)}
    builder = Builder(graph, before=next(graph.nodes_of(Conv2d)))
    negated = builder.add(Negate(), half)
    for node in list(graph.nodes_of(Conv2d, Conv2dBackwardData)):
        graph.set_operand(node, 1, negated)
    random = np.random.default_rng(3)
    named = {n: random.standard_normal(s).astype(np.float32) for n, s in (("x", (2, 6, 8, 8)), ("w", (6, 6, 3, 3)))}
    bound = 2.0**-7  # the results of the first one are rounded, and may fall to either side
    plain = run_natively(both_directions(), named | {"w": -named["w"]})["logits"]
    other = run_natively(graph, named)["logits"]
    assert float(np.abs(plain - other).max()) <= bound * float(np.abs(plain).max())


@pytest.mark.parametrize("way", WAYS)
def test_what_is_not_a_number_and_what_is_too_small(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Infinities and NaN are kept; numbers and products below the normal ones may count as zero."""
    choose(way, monkeypatch)
    graph, named, _ = halved_case(Geometry((1, 4, 5, 4), (4, 4, 1, 1)).case("forward", "direct", bias=False))
    x = np.full_like(named["x"], 2.0**-130)
    x[0, 1, 0, 0], x[0, 2, 1, 1], x[0, 3, 2, 2] = np.inf, np.nan, -np.inf
    x[0, :, 3, 3] = 2.0**-70
    w = np.full_like(named["operand1"], 2.0**-60)
    y = run_natively(graph, {"x": x, "operand1": w})["logits"][0]
    assert np.all(y[:, 0, 0] == np.inf)
    assert np.all(np.isnan(y[:, 1, 1]))
    assert np.all(y[:, 2, 2] == -np.inf)
    y[:, [0, 1, 2], [0, 1, 2]] = 0
    assert float(np.abs(y).max()) <= 4 * 2.0**-126


def test_a_run_in_bf16_goes_on_where_sums_are_rounded_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WITHOUT_VARIABLE, "amx-bf16")
    tier, dot = host_target().tier, host_target().has(DOT_BF16)
    assert cpu_tier("cpu") == tier
    assert cpu_tier("cpu", "bf16") == (f"{tier}+{DOT_BF16}" if dot else tier)
    monkeypatch.setenv(WITHOUT_VARIABLE, f"{DOT_BF16},amx-bf16")
    assert cpu_tier("cpu", "bf16") == host_target().tier
