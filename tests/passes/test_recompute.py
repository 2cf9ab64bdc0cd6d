"""Recomputation does as little as a budget asks for."""

from __future__ import annotations

from itertools import pairwise

from convc.frontend import loads
from convc.ir.ops.update import SgdUpdate
from convc.passes.base import PassLog
from convc.passes.recompute import Recompute, estimate
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
