"""Winograd's algorithms F(2x2,3x3), F(4x4,3x3), F(6x6,3x3): when they apply, what they cost, how exact they are."""

from __future__ import annotations

import math

from convc.passes.algorithms.algorithm import Algorithm, Stage
from convc.passes.algorithms.problem import Problem
from convc.passes.algorithms.straight_line import StraightLine
from convc.passes.algorithms.toom_cook import ToomCook, toom_cook
from convc.passes.algorithms.transform_plan import Form, Products, TransformPlan, summed_terms
from convc.passes.algorithms.transform_stages import TransformFlops, transform_stages
from convc.passes.machine import Machine


def form_of(algorithm: ToomCook) -> Form:
    """The two-dimensional algorithm made of a one-dimensional one, along rows and along columns."""
    m, n = algorithm.outputs, algorithm.points
    return Form((m, m), (n, n), (Products(n * n),))


def _flops(program: StraightLine) -> int:
    """Down every column of a tile, then along every row of what that gives."""
    return 2 * program.operations * (program.inputs + len(program.outputs))


class Winograd(Algorithm):
    """F(m x m, 3 x 3): (m + 2)² products for m² outputs, which the definition needs 9·m² for.

    `error` times √(16 + n) bounds the relative error where products sum n terms (see docs/algorithms.md).
    """

    family = "winograd"

    def __init__(self, outputs: int, error: float) -> None:
        self.algorithm = toom_cook(outputs, 3)
        self.name = f"winograd_f{outputs}x3"
        self.form = form_of(self.algorithm)
        self._error = error

    def obstacle(self, problem: Problem) -> str | None:
        if problem.kernel != (self.algorithm.taps, self.algorithm.taps):
            return "the kernel is {}x{}, and its tiles are made for 3x3".format(*problem.kernel)
        if problem.stride != (1, 1):
            return "the stride is {}x{}, and its tiles overlap by the stride of 1 only".format(*problem.stride)
        if problem.dilation != (1, 1):
            return "the dilation is {}x{}, and its tiles hold neighbouring pixels".format(*problem.dilation)
        return None

    def stages(self, problem: Problem, machine: Machine) -> tuple[Stage, ...]:
        one = self.algorithm
        programs = one.image, one.filter, one.output, one.cotangent, one.filter_gradient
        # A tile is held in registers as a whole; what they do not hold is stored and loaded again.
        efficiency = min(1.0, machine.registers / one.points**2)
        flops = TransformFlops(*(_flops(program) for program in programs), efficiency=efficiency)
        return transform_stages(self.transform_plan(problem, machine), flops)

    def transform_plan(self, problem: Problem, machine: Machine) -> TransformPlan:
        return TransformPlan.of(problem, machine, self.form)

    def scratch_bytes(self, problem: Problem, machine: Machine) -> int:
        return 4 * self.transform_plan(problem, machine).places.end

    def max_rel_error(self, problem: Problem) -> float:
        return self._error * math.sqrt(16 + summed_terms(problem, self.form))


WINOGRAD: tuple[Winograd, ...] = (Winograd(2, 1.25e-7), Winograd(4, 6e-7), Winograd(6, 2.5e-6))
