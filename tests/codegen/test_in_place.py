"""Results written over operands that die: the same bits as with a place for each, for every kernel that may do it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convc.codegen.llvm.algorithms.table import TABLE
from convc.frontend import loads
from convc.ir.graph import Graph
from convc.ir.ops import (
    BatchNormBackward,
    Concat,
    Conv2d,
    Conv2dBackwardData,
    LocalResponseNorm,
    LocalResponseNormBackward,
    MaxPoolBackward,
    ScaleMaps,
)
from convc.ir.ops.update import SgdUpdate
from convc.passes.algorithms.problem import CONVOLUTIONS, Problem
from convc.passes.algorithms.table import BY_NAME
from convc.passes.base import Mode
from convc.passes.memory import PlanMemory
from convc.passes.plan import Plan
from convc.passes.planning import PLANNING
from convc.runtime.native import NativeExecutor
from tests.codegen.whole_net import Arrays, arrays_for, assert_same_bits, lowered, results, run, with_batch
from tests.strategies import graphs

ROWS = 3
APART = tuple(PlanMemory(in_place=False) if step.name == "memory" else step for step in PLANNING)


def net(body: str) -> Graph:
    text = f"net n {{\n  {body} -> fc 4\n  loss softmax\n}}\n"
    return loads(text, file="n.cnn").graph(ROWS)


def run_both(graph: Graph, threads: int = 1) -> tuple[Plan, Arrays, Arrays]:
    """The plan, and results in place and apart, memory filled with NaN first."""
    arrays = arrays_for(graph, ROWS)
    found: list[Arrays] = []
    plans: list[Plan] = []
    for passes in (PLANNING, APART):
        executor = NativeExecutor(graph.copy(), batch=graph.inputs["x"].shape[0], threads=threads, passes=passes)
        try:
            executor.poison()
            for name in graph.parameters:
                executor.write(name, arrays[name])
            run(executor, arrays)
            found.append(results(executor, ROWS))
            plans.append(executor.plan)
        finally:
            executor.close()
    together, apart = plans
    assert all(len(buffer.values) == 1 for buffer in apart.memory.buffers)
    assert together.memory.bound_bytes <= apart.memory.bound_bytes
    return together, found[0], found[1]


def in_place_kernels(plan: Plan) -> list[tuple[type, bool]]:
    """Of each kernel that writes over an operand: the op of its anchor, and whether the anchor reads that operand."""
    found: list[tuple[type, bool]] = []
    for buffer in plan.memory.buffers:
        for before, start in zip(buffer.values, buffer.starts[1:], strict=False):
            anchor = plan.kernels[start].anchor
            found.append((type(anchor.op), before in anchor.operands))
    return found


# What is to happen, and a net where it does: the anchor's op, whether its own operand is overwritten, mode.
CASES: dict[str, tuple[type, bool, Mode, str]] = {
    "sum after a convolution": (
        Conv2d,
        False,
        "infer",
        "input 3x7x9 -> conv 5 k=3 -> residual { conv 6 k=1 -> conv 5 k=1 }",
    ),
    "sum after joined channels": (
        Concat,
        False,
        "infer",
        "input 3x7x9 -> conv 7 k=3 -> residual { conv 6 k=1 -> concat { branch { conv 2 k=1 } branch { conv 5 k=1 } }}",
    ),
    "sum before a mask": (
        Conv2dBackwardData,
        False,
        "train",
        "input 3x7x9 -> conv 5 k=3 pad=1 -> relu -> residual { conv in k=3 pad=1 -> tanh } -> relu",
    ),
    "batch norm backward": (
        BatchNormBackward,
        True,
        "train",
        "input 3x7x9 -> conv 5 k=3 pad=1 -> bn -> relu -> conv 6 k=3 s=2 -> bn",
    ),
    "pooling backward, windows apart": (
        MaxPoolBackward,
        True,
        "train",
        "input 3x8x12 -> conv 20 k=3 pad=1 -> relu -> pool max 2 -> conv 5 k=1",
    ),
    "pooling backward, windows overlap": (
        MaxPoolBackward,
        True,
        "train",
        "input 3x9x9 -> conv 20 k=3 pad=1 -> relu -> pool max 3 s=2 -> conv 5 k=1",
    ),
    "pooling backward, as many windows as pixels": (
        MaxPoolBackward,
        True,
        "train",
        "input 3x9x9 -> conv 20 k=3 pad=1 -> relu -> pool max 3 s=1 pad=1 -> conv 5 k=1",
    ),
    "response normalisation": (LocalResponseNorm, True, "infer", "input 3x7x9 -> conv 21 k=3 -> relu -> lrn 5"),
    "response normalisation backward": (
        LocalResponseNormBackward,
        True,
        "train",
        "input 3x7x9 -> conv 21 k=3 -> lrn 5 -> tanh",
    ),
    "scaled maps": (
        ScaleMaps,
        True,
        "infer",
        "input 3x7x9 -> conv 21 k=3 as y -> pool avg global -> conv 21 k=1 -> sigmoid as g\n  from y -> mul g -> relu",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("threads", [1, 2])
def test_same_bits(case: str, threads: int) -> None:
    kind, own, mode, body = CASES[case]
    plan, together, apart = run_both(lowered(net(body), mode, SgdUpdate(momentum=0.9)), threads)
    assert (kind, own) in in_place_kernels(plan)
    assert_same_bits(together, apart)


@settings(max_examples=15)
@given(graphs(max_layers=6), st.booleans())
def test_same_bits_in_any_net(graph: Graph, infer: bool) -> None:
    _, together, apart = run_both(lowered(with_batch(graph, ROWS), "infer" if infer else "train"))
    assert_same_bits(together, apart)


RESIDUAL = (
    "input 4x9x13 -> conv 8 k=3 pad=1 -> relu -> residual { conv in k=3 pad=1 -> tanh -> conv in k=3 pad=1 } -> relu"
)


@pytest.mark.parametrize("algorithm", TABLE)
def test_every_algorithm_finishes_elements_once(algorithm: str) -> None:
    """Whatever computes a convolution may have its result, after the chain, in the place of what the chain reads."""
    graph = lowered(net(RESIDUAL), "train", SgdUpdate())
    for node in graph.nodes_of(*CONVOLUTIONS):
        if algorithm == "auto" or BY_NAME[algorithm].obstacle(Problem.of(node)) is None:
            graph.set_op(node, replace(node.op, algorithm=algorithm))
    plan, together, apart = run_both(graph, threads=2)
    assert {Conv2dBackwardData} <= {kind for kind, _ in in_place_kernels(plan)}
    assert_same_bits(together, apart)


def test_what_a_run_leaves_is_not_overwritten() -> None:
    """Logits that the rest of the step could do without."""
    body = "input 3x7x9 -> conv 5 k=3 -> relu"
    graph = lowered(net(body), "train", SgdUpdate())
    plan, together, apart = run_both(graph)
    assert_same_bits(together, apart)
    logits = plan.graph.outputs["logits"]
    (buffer,) = (buffer for buffer in plan.memory.buffers if logits in buffer.values)
    assert buffer.values[-1] is logits
    assert buffer.last == len(plan.kernels)
