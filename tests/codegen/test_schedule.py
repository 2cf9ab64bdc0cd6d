"""Kernels in another order: the same bits."""

from __future__ import annotations

from hypothesis import given, settings

from convc.ir.graph import Graph
from convc.ir.ops.update import SgdUpdate
from convc.passes.planning import PLANNING
from convc.passes.sections import BATCH, EVERYTHING, Section
from convc.runtime.native import NativeExecutor
from tests.codegen.whole_net import Arrays, arrays_for, assert_same_bits, lowered, results, run, with_batch
from tests.passes.test_schedule import UNORDERED, WIDE_END, net
from tests.strategies import graphs

ROWS = 3


def outcome(graph: Graph, ordered: bool, sections: Section = EVERYTHING, threads: int = 1) -> Arrays:
    arrays = arrays_for(graph, ROWS)
    passes = PLANNING if ordered else UNORDERED
    executor = NativeExecutor(graph.copy(), batch=graph.inputs["x"].shape[0], threads=threads, passes=passes)
    try:
        executor.poison()
        for name in graph.parameters:
            executor.write(name, arrays[name])
        run(executor, arrays, sections)
        if sections & Section.GRADIENT:
            return results(executor, ROWS)
        return {"logits": executor.output("logits", ROWS)}
    finally:
        executor.close()


def test_a_net_whose_kernels_move() -> None:
    graph = lowered(net(WIDE_END), "train", SgdUpdate(momentum=0.9))
    for sections in (EVERYTHING, BATCH, Section.FORWARD):
        expected = outcome(graph, False, sections)
        for threads in (1, 2):
            assert_same_bits(outcome(graph, True, sections, threads), expected)


@settings(max_examples=10)
@given(graphs(max_layers=6))
def test_any_net(graph: Graph) -> None:
    training = lowered(with_batch(graph, ROWS), "train", SgdUpdate(momentum=0.5))
    assert_same_bits(outcome(training, True), outcome(training, False))
