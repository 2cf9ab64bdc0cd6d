"""Products of whole numbers of 8 bits: natively what the interpreter computes, the same bits with any instructions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convc.codegen.llvm.program import plan_step
from convc.codegen.llvm.target import DOT_INT8, WITHOUT_VARIABLE, host_target
from convc.ir.builder import Builder
from convc.ir.graph import Graph, Value
from convc.ir.interpreter import run_reference
from convc.ir.ops import (
    Add,
    AvgPool,
    Concat,
    Conv2d,
    Flatten,
    Linear,
    MaxPool,
    Quantize,
    QuantizeWeights,
    Relu,
)
from convc.ir.types import DType, TensorType, f32
from convc.passes.quantized_layout import QuantizedLayout
from tests.codegen.native_graph import run_natively
from tests.codegen.test_ops import available_tiers

# What each tier multiplies whole numbers with: an instruction for four products, and ways without it.
WAYS = [(tier, "") for tier in available_tiers()]
if host_target().has(DOT_INT8):
    WAYS.append((available_tiers()[0], DOT_INT8))
Arrays = dict[str, np.ndarray]


def product(op: Conv2d | Linear, x: tuple[int, ...], w: tuple[int, ...], zero: int, bias: bool, seed: int = 0):
    """A graph of one product with a chain behind it, and arrays for it."""
    graph, random = Graph("product"), np.random.default_rng(seed)
    b = Builder(graph)
    arrays: Arrays = {"x": 4 * random.standard_normal(x).astype(np.float32)}
    images = graph.add_input("x", f32(*x))
    arrays["w"] = random.standard_normal(w).astype(np.float32)
    weights = graph.add_parameter("w", f32(*w), role="weight")
    added = None
    if bias:
        arrays["b"] = random.standard_normal(w[0]).astype(np.float32)
        added = graph.add_parameter("b", f32(w[0]), role="bias")
    whole = b.add(Quantize(0.05, zero), images)
    if isinstance(op, Linear) and len(x) == 4:
        whole = b.add(Flatten(), whole)
    y = b.add(op, whole, b.add(QuantizeWeights(zero), weights), added)
    graph.outputs["logits"] = b.add(Relu(), y)
    return graph, arrays


def sums_of(graph: Graph, arrays: Arrays) -> float:
    """The largest sum of magnitudes of products: what an error in float32 is relative to."""
    (node,) = graph.nodes_of(Conv2d, Linear)
    x, w = (np.abs(array) for array in _operands(graph, arrays))
    return float(np.max(node.op.reference(x.astype(np.float64), w.astype(np.float64)), initial=1e-9))


def _operands(graph: Graph, arrays: Arrays) -> list[np.ndarray]:
    part = graph.copy()
    (twin,) = part.nodes_of(Conv2d, Linear)
    part.outputs = {"x": twin.operands[0], "w": twin.operands[1]}
    found = run_reference(part, arrays)
    return [found["x"], found["w"]]


def check(graph: Graph, arrays: Arrays) -> None:
    """Native results are those of the interpreter up to its rounding of sums, and the same bits in all ways; nothing
    outside of the operands is touched."""
    expected = run_reference(graph.copy(), arrays)["logits"]
    allowed = 2e-6 * sums_of(graph, arrays) + 1e-6
    found: dict[bool, np.ndarray] = {}
    for tier, without in WAYS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CONVC_CPU", tier)
            patch.setenv(WITHOUT_VARIABLE, without)
            one = run_natively(graph.copy(), arrays, threads=1, side="after")["logits"]
            two = run_natively(graph.copy(), arrays, threads=2, side="before")["logits"]
        np.testing.assert_array_equal(one, two)
        np.testing.assert_allclose(one, expected, atol=allowed, rtol=0)
        # Sums are exact; behind them come a multiplication and an addition, which some tiers do in one.
        fused = host_target(tier).has_fma
        np.testing.assert_array_equal(found.setdefault(fused, one), one)


CONVOLUTIONS = [
    ("3x3", Conv2d(padding=(1, 1, 1, 1)), (2, 16, 7, 9), (24, 16, 3, 3)),
    ("rgb", Conv2d((2, 2), (3, 3, 3, 3)), (2, 3, 13, 11), (20, 3, 7, 7)),
    ("1x1", Conv2d(), (3, 40, 5, 4), (70, 40, 1, 1)),
    ("strided", Conv2d((2, 3)), (1, 5, 9, 9), (6, 5, 3, 2)),
    ("dilated", Conv2d(padding=(2, 0, 1, 3), dilation=(2, 2)), (2, 6, 8, 9), (5, 6, 3, 3)),
    ("wide", Conv2d(padding=(1, 1, 1, 1)), (1, 33, 6, 40), (130, 33, 3, 3)),
    ("two_outputs", Conv2d(padding=(1, 1, 1, 1)), (1, 2, 4, 4), (2, 2, 3, 3)),
]


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "plain"])
@pytest.mark.parametrize("zero", [0, 128, 255])
@pytest.mark.parametrize(("op", "x", "w"), [case[1:] for case in CONVOLUTIONS], ids=[case[0] for case in CONVOLUTIONS])
def test_convolutions(op: Conv2d, x: tuple[int, ...], w: tuple[int, ...], zero: int, bias: bool) -> None:
    check(*product(op, x, w, zero, bias))


@pytest.mark.parametrize("zero", [0, 77])
@pytest.mark.parametrize(
    ("x", "w"),
    [
        ((5, 33), (17, 33)),
        ((1, 512), (100, 512)),
        ((20, 12), (2, 12)),
        ((3, 5, 4, 3), (20, 60)),
        ((2, 1, 4, 6), (9, 24)),
    ],
    ids=str,
)
def test_fully_connected_layers(x: tuple[int, ...], w: tuple[int, ...], zero: int) -> None:
    check(*product(Linear(), x, w, zero, bias=True))


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 3),
    channels=st.tuples(st.integers(2, 40), st.integers(2, 40)),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(*(st.integers(0, 2) for _ in range(4))),
    zero=st.sampled_from([0, 1, 128, 255]),
    seed=st.integers(0, 99),
)
def test_any_convolution(n, channels, size, kernel, stride, padding, zero, seed) -> None:  # type: ignore[no-untyped-def]
    op = Conv2d(stride, padding)
    inside = (size[0] + padding[0] + padding[2] >= kernel[0], size[1] + padding[1] + padding[3] >= kernel[1])
    if all(inside):
        check(*product(op, (n, channels[0], *size), (channels[1], channels[0], *kernel), zero, seed % 2 == 0, seed))


@pytest.mark.parametrize("tier", available_tiers())
def test_results_are_what_is_defined(tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends of the range, ties, and numbers beyond: the interpreter's, bit for bit."""
    monkeypatch.setenv("CONVC_CPU", tier)
    numbers = np.array(
        [0, 0.5, 1.5, 2.5, -0.5, -1.5, 254.5, 255.4, 255.6, 1e9, -1e9, np.inf, -np.inf, np.nan], np.float32
    )
    for op in (Quantize(1.0), Quantize(1.0, 128), Quantize(0.3, 7), Quantize(3.0, 255)):
        graph = Graph("quantize")
        b = Builder(graph)
        x = graph.add_input("x", f32(2, len(numbers)))
        # Two operations apart, so that what is between them is stored.
        whole = b.add(Quantize(op.step, op.zero), x)
        graph.outputs["logits"] = b.add(Add(), b.add(Relu(), whole), b.constant(0.0))
        graph.outputs["q"] = whole_as_float(b, whole)
        arrays = {"x": np.stack([numbers, -numbers])}
        expected = run_reference(graph.copy(), arrays)
        found = run_natively(graph, arrays)
        np.testing.assert_array_equal(found["q"], expected["q"])


def whole_as_float(b: Builder, value: Value) -> Value:
    """A q8 value as an average pool of single pixels reads it: from memory."""
    from convc.ir.ops import Unflatten

    images = b.add(Unflatten((value.shape[1], 1, 1)), value)
    return b.add(AvgPool((1, 1), (1, 1)), images)


def test_pools_joins_and_sums_read_whole_numbers() -> None:
    """What hands whole numbers on keeps them exactly; residual sums and means read what they stand for."""
    graph, random = Graph("net"), np.random.default_rng(3)
    b = Builder(graph)
    x = graph.add_input("x", f32(3, 8, 6, 6))
    w = graph.add_parameter("w", f32(8, 16, 3, 3), role="weight")
    whole = b.add(Quantize(0.02, 100), x)
    pooled = b.add(MaxPool((2, 2), (2, 2)), b.add(Concat(), whole, whole))
    assert pooled.type == TensorType(DType.Q8, (3, 16, 3, 3), grid=whole.type.grid)
    y = b.add(Conv2d(padding=(1, 1, 1, 1)), pooled, b.add(QuantizeWeights(100), w))
    small = b.add(MaxPool((2, 2), (2, 2)), whole)
    added = b.add(Add(), y, small)
    graph.outputs["logits"] = b.add(Flatten(), b.add(AvgPool((3, 3), (1, 1)), added))
    graph.outputs["sum"] = added
    arrays = {"x": random.standard_normal((3, 8, 6, 6)), "w": random.standard_normal((8, 16, 3, 3))}
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    expected = run_reference(graph.copy(), arrays)
    for tier, without in WAYS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CONVC_CPU", tier)
            patch.setenv(WITHOUT_VARIABLE, without)
            found = run_natively(graph.copy(), arrays, threads=2)
        for name in ("logits", "sum"):
            np.testing.assert_allclose(found[name], expected[name], atol=2e-5, rtol=0)


def test_sums_at_the_ends_of_32_bits() -> None:
    """As many products as are allowed, all as large as can be, of either sign."""
    terms = 66_304
    for zero, number in ((0, 255.0), (255, -255.0)):
        graph = Graph("sums")
        b = Builder(graph)
        x = graph.add_input("x", f32(1, terms))
        w = graph.add_parameter("w", f32(4, terms), role="weight")
        y = b.add(Linear(), b.add(Quantize(1.0, zero), x), b.add(QuantizeWeights(zero), w))
        graph.outputs["logits"] = y
        weights = np.full((4, terms), 1.0, np.float32)
        weights[1] = -1
        weights[2, ::2] = -1
        found = run_natively(graph, {"x": np.full((1, terms), number, np.float32), "w": weights})["logits"][0]
        exact = number * terms
        np.testing.assert_allclose(found, [exact, -exact, 0, exact], rtol=1e-6)


def test_weights_are_quantised_once() -> None:
    graph, _ = product(Conv2d(), (2, 16, 4, 4), (8, 16, 1, 1), 0, bias=True)
    plan = plan_step(graph)
    kernels = [kernel for kernel in plan.kernels if isinstance(kernel.anchor.op, QuantizeWeights)]
    assert [kernel.section.name for kernel in kernels] == ["PREPARE"]
    layout = plan.layouts[kernels[0].anchor.result]
    assert isinstance(layout, QuantizedLayout)
    assert plan.bytes_of(kernels[0].anchor.result) == layout.size == 8 * 16 + 4 * 8


def test_zeros_and_tiny_weights_have_no_step() -> None:
    graph, arrays = product(Conv2d(), (1, 4, 3, 3), (4, 4, 1, 1), 0, bias=False)
    arrays["w"][1] = 0
    arrays["w"][2] = 1e-35
    check(graph, arrays)
    assert (run_reference(graph, arrays)["logits"][:, 1:3] == 0).all()


@pytest.mark.skipif(not host_target().has(DOT_INT8), reason="the processor has no such instruction")
def test_the_instruction_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from convc.codegen.llvm.program import compile_step

    monkeypatch.delenv(WITHOUT_VARIABLE, raising=False)
    graph, _ = product(Conv2d(), (2, 64, 8, 8), (64, 64, 1, 1), 0, bias=True)
    assert "vpdpbusd" in compile_step(graph.copy()).assembly()
    monkeypatch.setenv(WITHOUT_VARIABLE, DOT_INT8)
    text = compile_step(graph.copy()).assembly()
    assert "vpdpbusd" not in text
    assert "vpmaddwd" in text
