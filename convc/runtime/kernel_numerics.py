"""Whether kernels compute what their graph does: the passes over the plan, and the code made from it.

Those passes (`arrange`, `fuse`, `schedule`, `memory`) leave no graph behind that could be interpreted in place of the
one before, so they are judged together, by the numbers that the kernels of the finished plan give at a random point.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convc.ir.graph import Graph
from convc.ir.interpreter import run_reference
from convc.lazy import dataclass
from convc.passes.base import PlanPass
from convc.passes.sections import Section
from convc.passes.training import GRADIENT
from convc.runtime.build import make_executor
from convc.runtime.compiled_gradients import TOLERANCE, compare_compiled
from convc.runtime.executor import Executor
from convc.runtime.random_point import random_point


@dataclass(frozen=True)
class KernelCheck:
    """The worst of what was compared (the logits, or all gradients): its name, its error relative to its largest
    element, and the error that float32 explains at that point."""

    compared: int
    worst: str
    error: float
    allowed: float

    @property
    def right(self) -> bool:
        return self.error <= self.allowed


def check_kernels(
    graph: Graph, passes: Sequence[PlanPass], *, threads: int | None = None, rounding: float = 0.0, seed: int = 0
) -> KernelCheck:
    """Compile a graph that the passes have prepared, and compare with the interpreter in float64.

    `rounding` is the relative error that the algorithms of its convolutions are known for.
    """
    batch = graph.inputs["x"].shape[0]
    executor = make_executor(graph.copy(), "cpu", batch=batch, threads=threads, passes=passes)
    try:
        if any(name.startswith(GRADIENT) for name in graph.outputs):
            return _gradients(graph, executor, seed, rounding)
        return _logits(graph, executor, seed, rounding)
    finally:
        executor.close()


def _gradients(graph: Graph, executor: Executor, seed: int, rounding: float) -> KernelCheck:
    def point(attempt: int) -> dict[str, np.ndarray]:
        return random_point(graph, (seed, attempt) if attempt else seed)

    found = compare_compiled(graph, executor, point, seed, rounding)
    worst = max(found, key=lambda name: found[name].error / found[name].allowed)
    return KernelCheck(len(found), GRADIENT + worst, found[worst].error, found[worst].allowed)


def _logits(graph: Graph, executor: Executor, seed: int, rounding: float) -> KernelCheck:
    arrays = random_point(graph, seed)
    for name in graph.parameters:
        executor.write(name, np.asarray(arrays[name], np.float32, order="C"))
    x = np.ascontiguousarray(arrays["x"], np.float32)
    actual = executor.run(Section.FORWARD, x, None, lr=0.0, step=1, seed=0).logits
    expected = run_reference(graph, {name: arrays[name] for name in (*graph.inputs, *graph.parameters)})["logits"]
    scale = max(float(np.abs(expected).max(initial=0.0)), float(np.finfo(np.float64).tiny))
    error = float(np.abs(actual - expected).max(initial=0.0)) / scale
    return KernelCheck(1, "logits", error if np.isfinite(error) else float("inf"), max(TOLERANCE, 10 * rounding))
