"""Recomputation does as little as a budget asks for."""

from __future__ import annotations

from itertools import pairwise

from convc.frontend import loads
from convc.ir.graph import total_cost
from convc.ir.ops.update import SgdUpdate
from convc.ir.verify import verify
from convc.passes.algorithms.problem import CONVOLUTIONS
from convc.passes.base import PassLog
from convc.passes.pipeline import Recipe
from convc.passes.recompute import Recompute, estimate
from convc.passes.sections import backward_start
from convc.runtime.build import choose_passes
from tests.codegen.whole_net import lowered

NET = """net n {
  input 3x16x16 -> conv 8 k=3 pad=1
  repeat 12 { bn -> relu -> conv 8 k=3 pad=1 }
  pool avg global -> fc 10
  loss softmax
}
"""


def test_no_more_than_needed() -> None:
    """Every tenth less takes some more values, and fewer than all that help."""
    graph = lowered(loads(NET).graph(8), "train", SgdUpdate())
    before = estimate(graph.copy())
    counts: list[float] = []
    for part in (0.999, 0.9, 0.85, 0.7):
        log, trial = PassLog(), graph.copy()
        Recompute(memory=int(part * before)).run(trial, log)
        assert log.metrics["bytes_before"] == before
        assert estimate(trial) == log.metrics["bytes"] <= part * before
        assert len(log.of("changed")) == log.metrics["values"]
        counts.append(log.metrics["values"])
    assert counts[0] <= 2
    assert all(fewer < more for fewer, more in pairwise(counts))


def test_what_is_cheap_in_large_steps() -> None:
    """Without a budget a share of the work of convolutions is spent, and nothing in small steps."""
    graph = lowered(loads(NET).graph(8), "train", SgdUpdate())
    before = estimate(graph.copy())
    counts: list[float] = []
    for share in (0.1, 0.3, 0.5):
        log, trial = PassLog(), graph.copy()
        Recompute(spare=share, large=1).run(trial, log)
        verify(trial)
        assert estimate(trial) < before
        assert log.metrics["values"] == len(log.findings) == len(log.of("changed")) > 0
        products = total_cost(graph.nodes_of(*CONVOLUTIONS))
        assert log.metrics["flops"] <= share * (products.flops + 7 * products.bytes)
        assert not any(node.op.name == "conv2d" for node in trial.nodes[backward_start(graph) :])
        counts.append(log.metrics["values"])
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]
    for idle in (Recompute(spare=0.5), Recompute(large=1), Recompute(spare=1e-9, large=1)):
        log, trial = PassLog(), graph.copy()
        idle.run(trial, log)
        assert not log.of("changed")
        assert len(trial.nodes) == len(graph.nodes)


def test_training_programs_do_what_is_cheap() -> None:
    for mode, target, memory, expected in (
        ("train", "cpu", None, (0, True)),
        ("train", "cpu", 1 << 20, (1 << 20, False)),
        ("train", "reference", None, None),
        ("infer", "cpu", None, None),
    ):
        order = choose_passes(mode, Recipe(), None, target, memory=memory).graph
        found = [(step.memory, step.spare > 0) for step in order if isinstance(step, Recompute)]
        assert found == ([] if expected is None else [expected])
    named = choose_passes("train", Recipe(), ["specialize", "training"]).graph
    assert not any(isinstance(step, Recompute) for step in named)
