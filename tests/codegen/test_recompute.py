"""Values of the forward pass computed again: less memory, and the same bits in gradients, statistics and updates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convc.codegen.llvm.lowering import scratch_bytes
from convc.codegen.llvm.program import machine_of
from convc.codegen.llvm.target import host_target
from convc.frontend import loads
from convc.ir.diagnostic import CompileError
from convc.ir.graph import Graph
from convc.ir.interpreter import run_reference
from convc.ir.ops.update import SgdUpdate
from convc.ir.verify import verify
from convc.passes.activations import Activations
from convc.passes.base import PassLog
from convc.passes.memory import MemoryPlan
from convc.passes.pipeline import Recipe
from convc.passes.planning import make_plan
from convc.passes.recompute import Recompute, repeat
from tests.codegen.whole_net import Arrays, arrays_for, assert_same_bits, exactly, lowered, run_natively, with_batch
from tests.strategies import graphs

pytestmark = pytest.mark.slow

ROWS = 4
NETS: dict[str, str] = {
    "residual": """input 3x8x8 -> conv 8 k=3 pad=1 bias=no -> bn -> relu
        repeat 3 { residual { conv in k=3 pad=1 bias=no -> bn -> relu -> conv in k=3 pad=1 bias=no -> bn } -> relu }
        pool avg global -> fc 4""",
    "dropout": """input 3x8x8 -> conv 16 k=3 pad=1 -> tanh -> dropout 0.25 -> conv 16 k=3 pad=1 -> sigmoid
        dropout 0.5 -> conv 8 k=1 -> relu -> pool max 2 -> conv 64 k=1 -> relu -> fc 32 dropconnect=0.5 -> relu
        dropout 0.5 -> fc 4""",
    "branches": """input 3x9x9 -> conv 8 k=3 pad=1 -> relu -> lrn 5
        repeat 2 {
          concat { branch { conv 6 k=1 -> relu }
                   branch { conv 4 k=1 -> relu -> conv 6 k=3 pad=1 -> relu }
                   branch { pool max 3 s=1 pad=1 -> conv 4 k=1 -> relu } }
        }
        pool avg global -> fc 4""",
}


def net(body: str, rows: int = ROWS) -> Graph:
    return loads(f"net n {{\n  {body}\n  loss softmax\n}}\n", file="n.cnn").graph(rows)


def plan(graph: Graph) -> MemoryPlan:
    return make_plan(graph, machine_of(host_target()), scratch_bytes).memory


def measure(graph: Graph) -> int:
    return plan(graph).total_bytes


def assert_out_of_memory(error: CompileError) -> None:
    assert error.diagnostics[0].code == "budget-memory"


def tightest(graph: Graph) -> Graph:
    """The graph for the smallest budget that can be met."""
    before = plan(graph.copy())
    best = graph
    for percent in (90, 70, 50, 35, 20):
        trial = graph.copy()
        budget = before.persistent_bytes + before.arena_bytes * percent // 100
        try:
            Recompute(memory=budget, measure=measure).run(trial, PassLog())
        except CompileError as error:
            assert_out_of_memory(error)
            break
        verify(trial)
        assert measure(trial.copy()) <= budget
        best = trial
    assert len(best.nodes) > len(graph.nodes)
    return best


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("residual", Recipe(SgdUpdate(momentum=0.9))),
        ("dropout", Recipe(SgdUpdate(), clip=0.5, accumulate=2)),
        ("branches", Recipe(SgdUpdate())),
    ],
)
def test_same_bits_in_less_memory(name: str, recipe: Recipe) -> None:
    graph = lowered(net(NETS[name]), "train", recipe)
    smaller = tightest(graph)
    arrays = arrays_for(graph, ROWS)
    expected = run_natively(graph, arrays)
    for threads in (1, 2):
        assert_same_bits(run_natively(smaller, arrays, threads), expected)
    assert_means_the_same(smaller, graph, arrays)


def assert_means_the_same(left: Graph, right: Graph, arrays: Arrays) -> None:
    """The interpreter's sums depend on where numpy's arrays lie in memory."""
    expected = run_reference(right, exactly(arrays))
    for name, array in run_reference(left, exactly(arrays)).items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-9, atol=1e-12, err_msg=name)


@settings(max_examples=10)
@given(graphs(max_layers=7), st.integers(0, 2**30))
def test_any_values_of_any_net(graph: Graph, mask: int) -> None:
    training = lowered(with_batch(graph, ROWS), "train", SgdUpdate(momentum=0.5))
    activations = Activations(training)
    wanted = activations.lives(()).wanted
    drawn = [value for number, value in enumerate(wanted) if mask >> number % 30 & 1]
    chosen = [value for value in drawn if activations.can_repeat(value)]
    places = {
        activations.birth[value]: place for value, place in activations.lives(chosen).wanted.items() if value in chosen
    }
    twin = training.copy()
    repeat(twin, activations.start, places)
    verify(twin)
    assert len(twin.nodes) >= len(training.nodes)
    arrays = arrays_for(training, ROWS)
    assert_means_the_same(twin, training, arrays)
    assert_same_bits(run_natively(twin, arrays), run_natively(training, arrays))
