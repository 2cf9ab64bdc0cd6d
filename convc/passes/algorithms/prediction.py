"""How long an algorithm will take: a roofline for each stage of its work, from constants of the processor.

The constants of a tier stand in a committed table, so that choices are the same everywhere; `convc doctor --measure`
measures those of a machine. Times are predicted for one core and divided by the threads: choices never depend on how
many there are.
"""

from __future__ import annotations

from typing import Protocol

from convc.lazy import dataclass
from convc.passes.algorithms.algorithm import Algorithm, Stage
from convc.passes.algorithms.problem import Problem
from convc.passes.machine import Machine, Tier


class Predictor(Protocol):
    """Knows how long a stage takes."""

    def seconds(self, stage: Stage) -> float: ...


@dataclass(frozen=True)
class Constants:
    """What one core does: products and straight-line vector arithmetic in GFLOP/s, traffic in GB/s (read plus written).

    `product_gflops` is what register tiles reach whose operands lie in the cache, `stage_us` what it costs to begin a
    stage: a barrier, cold loops.
    """

    product_gflops: float
    transform_gflops: float
    cache_gbps: float
    memory_gbps: float
    stage_us: float

    def seconds(self, stage: Stage) -> float:
        """The slower of arithmetic and traffic."""
        if stage.kind == "product":
            arithmetic = stage.flops / (self.product_gflops * 1e9 * max(stage.efficiency, 1e-3))
        else:
            arithmetic = stage.flops / (self.transform_gflops * 1e9 * max(stage.efficiency, 1e-3))
        traffic = stage.bytes / ((self.cache_gbps if stage.resident else self.memory_gbps) * 1e9)
        return max(arithmetic, traffic) + self.stage_us * 1e-6


# Measured by `convc doctor --measure` (the median of several machines of the kind); see docs/algorithms.md.
CONSTANTS: dict[Tier, Constants] = {
    "avx512": Constants(200.0, 100.0, 180.0, 20.0, 1.0),
    "avx2": Constants(110.0, 100.0, 80.0, 20.0, 1.0),
    "baseline": Constants(35.0, 40.0, 80.0, 20.0, 1.0),
}


def predict(algorithm: Algorithm, problem: Problem, machine: Machine, constants: Predictor, threads: int = 1) -> float:
    """Seconds of a problem that the algorithm can compute."""
    return sum(constants.seconds(stage) for stage in algorithm.stages(problem, machine)) / threads
