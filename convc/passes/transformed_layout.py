"""Filters as a transform convolution reads them: what its transform makes of them, not their own numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from convc.lazy import dataclass
from convc.passes.algorithms.problem import Problem
from convc.passes.algorithms.table import BY_NAME
from convc.passes.layout import WeightLayout
from convc.passes.machine import Machine


@dataclass(frozen=True)
class TransformedLayout:
    """Zeros, then U of `algorithms/transform_plan.py`, made from filters that lie as `filters`.

    `problem` is the smallest that these filters are used for, so that layers of other image sizes share them.
    """

    algorithm: str
    problem: Problem
    filters: WeightLayout
    size: int

    @classmethod
    def of(cls, algorithm: str, problem: Problem, filters: WeightLayout, machine: Machine) -> TransformedLayout | None:
        """The layout for a convolution whose filters no run changes; None if its algorithm takes them as they are."""
        reach = ((problem.kernel[0] - 1) * problem.dilation[0] + 1, (problem.kernel[1] - 1) * problem.dilation[1] + 1)
        smallest = replace(problem, batch=1, size=reach, output=(1, 1), padding=(0, 0, 0, 0), prepared=True)
        plan = BY_NAME[algorithm].transform_plan(smallest, machine) if algorithm in BY_NAME else None
        return None if plan is None else cls(algorithm, smallest, filters, plan.prepared_floats)

    def index_map(self) -> np.ndarray:
        """None of the numbers is one of the tensor's."""
        return np.full(self.size, -1)

    def __str__(self) -> str:
        height, width = self.problem.dilation
        dilated = f", dilation {height}x{width}" if (height, width) != (1, 1) else ""
        return f"{self.algorithm} of {self.filters}{dilated}"
