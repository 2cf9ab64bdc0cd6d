"""Whole nets in 16 bits as native code: beside the interpreter that rounds, the same bits for any number of threads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convc.frontend import loads
from convc.ir.graph import Graph
from convc.ir.interpreter import run_reference
from convc.ir.ops.update import SgdUpdate
from convc.passes.base import Mode
from convc.passes.half_precision import HalfPrecision, Precision
from convc.passes.manager import PassManager
from convc.passes.pipeline import Recipe, pipeline
from convc.passes.verify_plan import plan_problems
from tests.codegen.whole_net import arrays_for, assert_same_bits, exactly, executor_for, run_natively, with_batch
from tests.passes.test_half_precision import NET
from tests.strategies import graphs

KINDS: tuple[Precision, ...] = ("bf16", "fp16")
# Half a unit in the last place, relative.
EPSILON = {"fp16": 2.0**-11, "bf16": 2.0**-8}


def half(graph: Graph, mode: Mode, kind: Precision) -> Graph:
    twin = graph.copy()
    PassManager(pipeline(mode, recipe=Recipe(SgdUpdate(momentum=0.9)), types=HalfPrecision(kind))).run(twin)
    return twin


def assert_close(graph: Graph, kind: Precision, rows: int) -> None:
    """No further from exact arithmetic than the interpreter that rounds every value, a few roundings granted."""
    arrays = arrays_for(graph, rows)
    exact, rounded = run_reference(graph, exactly(arrays)), run_reference(graph, arrays)
    native = run_natively(graph, arrays)
    for name, reference in exact.items():
        size = max(1.0, float(np.abs(reference).max(initial=0.0)))
        allowed = 4 * float(np.abs(rounded[name] - reference).max(initial=0.0)) + 4 * EPSILON[kind] * size
        assert float(np.abs(native[name] - reference).max(initial=0.0)) <= allowed, name
    assert_same_bits(native, run_natively(graph, arrays, threads=2))
    assert_same_bits(native, run_natively(graph, arrays, threads=3, guards="after"))


@pytest.mark.parametrize("rows", [4, 1])
@pytest.mark.parametrize("mode", ["infer", "train"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_net_with_everything(kind: Precision, mode: Mode, rows: int) -> None:
    assert_close(half(loads(NET).graph(4), mode, kind), kind, rows)


@pytest.mark.parametrize("mode", ["infer", "train"])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_one_bit(kind: Precision, mode: Mode) -> None:
    layers = "conv 20 k=3 pad=1 bits=1 -> relu -> conv 20 k=3 groups=5 bits=1 -> bn -> relu -> fc 35 bits=1 -> relu"
    net = loads(f"net n {{ input 3x9x7 -> {layers} -> fc 5 -> loss softmax }}")
    assert_close(half(net.graph(3), mode, kind), kind, 3)


@pytest.mark.parametrize("mode", ["infer", "train"])
@pytest.mark.parametrize("algorithm", ["im2col", "winograd_f2x3", "winograd_f4x3", "fft_8", "strassen"])
@pytest.mark.parametrize("kind", KINDS)
def test_algorithms(kind: Precision, algorithm: str, mode: Mode) -> None:
    layers = f"conv 38 k=3 pad=1 algo={algorithm} -> relu -> conv 35 k=3 pad=1 algo={algorithm} -> relu"
    net = loads(f"net n {{ input 33x9x7 -> {layers} -> fc 5 -> loss softmax }}")
    assert_close(half(net.graph(3), mode, kind), kind, 3)


@pytest.mark.slow
@settings(max_examples=40)
@given(graphs(max_layers=7), st.integers(1, 6), st.booleans(), st.sampled_from(KINDS))
def test_any_net(graph: Graph, batch: int, infer: bool, kind: Precision) -> None:
    twin = half(with_batch(graph, batch), "infer" if infer else "train", kind)
    arrays = arrays_for(twin, batch)
    with executor_for(twin, arrays) as executor:
        assert plan_problems(executor.plan) == []
    exact, single = run_reference(twin, exactly(arrays)), run_natively(twin, arrays)
    assert_same_bits(single, run_natively(twin, arrays, threads=2))
    logits, reference = single["logits"], exact["logits"]
    # Gradients may jump where rounding crosses the kink of an activation; what leads to the logits may not.
    rounded = run_reference(twin, arrays)["logits"]
    size = max(1.0, float(np.abs(reference).max(initial=0.0)))
    allowed = 16 * float(np.abs(rounded - reference).max(initial=0.0)) + 16 * EPSILON[kind] * size
    assert float(np.abs(logits - reference).max(initial=0.0)) <= allowed
