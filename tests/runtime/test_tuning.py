"""What counts when algorithms are measured."""

from __future__ import annotations

import time

import pytest

from convc.passes.algorithms.problem import Direction, Problem
from convc.runtime.native import NativeExecutor
from convc.runtime.profile import KernelTime, Profile
from convc.runtime.tuning import LABEL, measure


@pytest.mark.parametrize("direction", ["forward", "backward_data", "backward_weights"])
def test_only_the_convolution_counts(direction: Direction, monkeypatch: pytest.MonkeyPatch) -> None:
    """Operands come in the order of the interface and are rearranged first, under the layer's name."""
    kinds: list[str] = []
    profile = NativeExecutor.profile

    def counted(self: NativeExecutor, x: object, *others: object) -> Profile:
        found = profile(self, x, *others)  # type: ignore[arg-type]
        kinds.extend(kernel.ops for kernel in found.kernels if kernel.layer == LABEL)
        kernels = [KernelTime(k.ops, k.layer, (), (), 100.0, 0, 0) for k in found.kernels if k.ops == "relayout"]
        return Profile((*kernels, KernelTime("conv2d", LABEL, (), (), 1.0, 0, 0)), 101.0)

    monkeypatch.setattr(NativeExecutor, "profile", counted)
    problem = Problem(direction, 2, 3, 5, (6, 6), (6, 6), (3, 3), padding=(1, 1, 1, 1))
    assert measure(problem, "winograd_f4x3", threads=1, rounds=1, clock=time.thread_time) == 1.0
    assert "relayout" in kinds
