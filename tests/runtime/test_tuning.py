"""What counts when algorithms are measured."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from convc.ir.ops.conv import Conv2d
from convc.passes.algorithms.problem import Direction, Problem
from convc.passes.sections import fixed_values
from convc.runtime.native import NativeExecutor
from convc.runtime.profile import KernelTime, Profile
from convc.runtime.tuning import LABEL, graph_of, measure


@pytest.mark.parametrize("direction", ["forward", "backward_data", "backward_weights"])
def test_only_the_convolution_counts(direction: Direction, monkeypatch: pytest.MonkeyPatch) -> None:
    """Operands come in the order of the interface and are rearranged first, as those of a layer within a net were."""
    kinds: list[str] = []
    profile = NativeExecutor.profile

    def counted(self: NativeExecutor, x: object, *others: object) -> Profile:
        found = profile(self, x, *others)  # type: ignore[arg-type]
        kinds.extend(kernel.ops for kernel in found.kernels if kernel.layer == LABEL)
        others = [kernel for kernel in found.kernels if kernel.layer != LABEL]
        assert others
        kernels = [KernelTime(kernel.ops, kernel.layer, (), (), 100.0, 0, 0) for kernel in others]
        return Profile((*kernels, KernelTime("conv2d", LABEL, (), (), 1.0, 0, 0)), 101.0)

    monkeypatch.setattr(NativeExecutor, "profile", counted)
    problem = Problem(direction, 2, 3, 5, (6, 6), (6, 6), (3, 3), padding=(1, 1, 1, 1))
    assert measure(problem, "winograd_f4x3", threads=1, rounds=1, clock=time.thread_time) == 1.0
    assert kinds == ["conv2d" if direction == "forward" else f"conv2d_{direction}"]


def test_filters_that_runs_may_change_are_transformed_in_every_run() -> None:
    problem = Problem("forward", 2, 3, 5, (6, 6), (6, 6), (3, 3), padding=(1, 1, 1, 1))
    for prepared in (False, True):
        graph = graph_of(replace(problem, prepared=prepared), "winograd_f4x3")
        (node,) = graph.nodes_of(Conv2d)
        assert Problem.of(node, fixed_values(graph)).prepared == prepared
