"""Passes look at each node a bounded number of times: for four times the layers they execute four times the lines.

Lines are counted, not seconds, function by function, so that a small quadratic part does not hide behind the rest.
`benchmarks/pass_time.py` measures the time, which includes what no line shows (copies and searches of long lists).
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from convc.codegen.llvm.lowering import scratch_bytes
from convc.frontend import loads
from convc.ir.graph import Graph
from convc.ir.ops.update import SgdUpdate
from convc.ir.verify import verify
from convc.passes.base import Pass, PassLog
from convc.passes.canonicalize import Canonicalize
from convc.passes.choose_algorithms import ChooseAlgorithms
from convc.passes.common_subexpressions import CommonSubexpressions
from convc.passes.fold_batch_norm import FoldBatchNorm
from convc.passes.fold_constants import FoldConstants
from convc.passes.machine import Machine
from convc.passes.memory import PlanMemory
from convc.passes.pipeline import pipeline
from convc.passes.plan import Plan
from convc.passes.planning import PLANNING

SMALL, LARGE = 5, 20
# Lines of a function per block may grow by this much.
GROWTH = 1.1
# Functions that run fewer lines than this on the large net are not worth a look.
FEW = 1000

NET = """
block basic(c) {
  residual { conv c k=3 pad=1 bias=no -> bn -> relu -> conv c k=3 pad=1 bias=no -> bn } skip auto -> relu
}
net n(blocks = 1) {
  input 3x8x8
  conv 4 k=3 pad=1 bias=no -> bn -> relu
  repeat blocks { basic(4) }
  pool avg global -> fc 3
  loss softmax
}
"""
Work = list[tuple[str, Callable[[], object]]]


def net(blocks: int) -> Graph:
    return loads(NET, set={"blocks": blocks}).graph(2)


def training(graph: Graph) -> Work:
    """A training step with the clean-ups, then its plan."""
    plan = Plan(graph, Machine("test", 16, 32), scratch_bytes)
    clean_ups = (Canonicalize(), FoldConstants(), CommonSubexpressions())
    specialize, *others = pipeline("train", SgdUpdate(momentum=0.9))
    over_graph = (specialize, *clean_ups, *others, *clean_ups)
    work: Work = [
        (f"{n} {step.name}", lambda step=step: step.run(graph, PassLog())) for n, step in enumerate(over_graph)
    ]
    work.append(("verify", lambda: verify(graph)))
    # Packing spends a budget of its own on trying orders, whatever the size.
    planning = [step for step in PLANNING if not isinstance(step, PlanMemory)]
    return work + [(step.name, lambda step=step: step.run(plan, PassLog())) for step in planning]


def inference(graph: Graph) -> Work:
    usual = pipeline("infer", choose=ChooseAlgorithms())
    return over_graph(graph, (FoldBatchNorm(), *usual, Canonicalize(), FoldConstants()))


def over_graph(graph: Graph, passes: tuple[Pass, ...]) -> Work:
    return [(f"{n} {step.name}", lambda step=step: step.run(graph, PassLog())) for n, step in enumerate(passes)]


def lines(work: Work) -> Counter[str]:
    """How many lines of each function were executed, by step and function."""
    found: Counter[str] = Counter()
    for name, call in work:

        def count(frame: FrameType, event: str, argument: Any, name: str = name) -> Any:
            if event == "line":
                code = frame.f_code
                found[f"{name}: {code.co_filename.rpartition('/')[2]}:{code.co_firstlineno} {code.co_name}"] += 1
            return count

        previous = sys.gettrace()
        sys.settrace(count)
        try:
            call()
        finally:
            sys.settrace(previous)
    return found


@pytest.mark.parametrize("work", [training, inference])
def test_lines_grow_like_nodes(work: Callable[[Graph], Work]) -> None:
    before, after = lines(work(net(SMALL))), lines(work(net(LARGE)))
    assert len(after) > 50
    most = GROWTH * LARGE / SMALL
    worse = {
        name: f"{before[name]} -> {count}"
        for name, count in after.items()
        if count > FEW and count > most * before[name]
    }
    assert not worse
