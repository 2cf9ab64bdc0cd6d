"""Statistics of batch norm in the kernel of the convolution before it: the same numbers, whatever rides with them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import convc
from convc.frontend import loads
from convc.ir.graph import Graph
from convc.ir.ops.conv import Conv2d
from convc.ir.ops.norm import BatchMoments, BatchNorm, BatchNormTraining
from convc.ir.ops.update import SgdUpdate
from convc.passes.manager import PassManager
from convc.passes.separate_moments import SeparateMoments
from tests.codegen.test_ops import available_tiers
from tests.codegen.whole_net import (
    arrays_for,
    assert_agrees,
    assert_same_bits,
    executor_for,
    lowered,
    run_natively,
    with_batch,
)
from tests.strategies import graphs

ROWS = 3
# Odd channels and sizes, strides, no bias, pixels that are computed one by one, a second reader, a chain in between.
BODIES = {
    "plain": "input 3x9x11\n  conv 5 k=3 -> bn -> relu",
    "strided": "input 6x12x10\n  conv 18 k=3 s=2 -> bn -> relu",
    "one by one": "input 7x13x13\n  conv 33 k=1 -> bn",
    "one pixel": "input 4x3x3\n  conv 9 k=3 -> bn -> relu",
    "twice": "input 2x8x8\n  conv 8 k=3 pad=same -> bn -> relu -> conv 20 k=3 pad=same -> bn -> relu -> pool max 2",
    "residual": "input 8x7x7\n  residual { conv 8 k=3 pad=same -> bn -> relu -> conv 8 k=3 pad=same -> bn } -> relu",
    "wide": "input 1x40x70\n  conv 4 k=5 -> bn -> tanh",
}


def step(body: str, rows: int = ROWS) -> Graph:
    text = f"net n {{\n  {body} -> fc 4\n  loss softmax\n}}\n"
    return separated(lowered(loads(text, file="n.cnn").graph(rows), "train", SgdUpdate(momentum=0.5)))


def separated(graph: Graph) -> Graph:
    PassManager([SeparateMoments()]).run(graph)
    return graph


@pytest.mark.parametrize("tier", available_tiers())
@pytest.mark.parametrize("name", BODIES)
def test_agrees_with_the_interpreter(name: str, tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVC_CPU", tier)
    graph = step(BODIES[name])
    arrays = arrays_for(graph, ROWS)
    with executor_for(graph, arrays, threads=2) as executor:
        kernels = [kernel for kernel in executor.plan.kernels if isinstance(kernel.anchor.op, Conv2d)]
        assert kernels
        assert all(isinstance(kernel.riders[0].op, BatchMoments) for kernel in kernels)
    assert_agrees(graph, arrays, run_natively(graph, arrays, threads=2, guards="after"))


@pytest.mark.parametrize("name", BODIES)
def test_threads_do_not_change_a_bit(name: str) -> None:
    graph = step(BODIES[name])
    arrays = arrays_for(graph, ROWS)
    alone = run_natively(graph, arrays)
    for threads in (2, 5):
        assert_same_bits(run_natively(graph, arrays, threads=threads), alone)


def test_fewer_rows_than_the_batch() -> None:
    graph = step(BODIES["twice"], rows=6)
    arrays = arrays_for(graph, 2)
    actual = run_natively(graph, arrays, threads=2)
    assert_agrees(step(BODIES["twice"], rows=2), arrays, actual)


def test_far_from_zero() -> None:
    """The variance does not drown in the square of the mean."""
    graph = step("input 1x16x16\n  conv 6 k=1 -> bn")
    arrays = arrays_for(graph, ROWS)
    bias = next(name for name in arrays if name.endswith("conv1.bias"))
    arrays[bias] = arrays[bias] + np.float32(4096)
    assert_agrees(graph, arrays, run_natively(graph, arrays, threads=2))


@settings(max_examples=25, deadline=None)
@given(graph=graphs(), rows=st.integers(1, 4))
def test_any_net(graph: Graph, rows: int) -> None:
    bare = lowered(with_batch(graph, rows), "train", SgdUpdate())
    split = separated(bare.copy())
    arrays = arrays_for(bare, rows)
    assert_agrees(bare, arrays, run_natively(split, arrays, threads=2))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_programs_of_the_usual_order_do_so(precision: str) -> None:
    text = "net n {\n  input 3x12x12\n  conv 8 k=3 s=2 -> bn -> relu -> fc 4\n  loss softmax\n}\n"
    text += "train {\n  optim sgd lr=0.01\n}\n"
    options = {"batch": 4, "mode": "train", "precision": precision}
    program = convc.compile(loads(text), **options)  # type: ignore[arg-type]
    reference = convc.compile(loads(text), target="reference", **options)  # type: ignore[arg-type]
    assert list(program.graph.nodes_of(BatchMoments))
    assert list(program.graph.nodes_of(BatchNorm))
    assert not list(program.graph.nodes_of(BatchNormTraining))
    assert list(reference.graph.nodes_of(BatchNormTraining))
    generator = np.random.default_rng(0)
    x, labels = generator.standard_normal((4, 3, 12, 12)).astype(np.float32), np.arange(4)
    losses = [[each.step(x, labels) for _ in range(3)] for each in (program, reference)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4 if precision == "fp32" else 2e-2)
