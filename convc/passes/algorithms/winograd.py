"""Winograd's algorithms F(m, r) along one axis or both: when they apply, what they cost, how exact they are."""

from __future__ import annotations

import math
from collections.abc import Mapping

from convc.ir.window import Pair
from convc.passes.algorithms.algorithm import Algorithm, Stage
from convc.passes.algorithms.operation_counts import WINOGRAD_COUNTS
from convc.passes.algorithms.problem import Problem
from convc.passes.algorithms.toom_cook import ToomCook, toom_cook
from convc.passes.algorithms.transform_plan import Form, Products, TransformPlan, summed_terms
from convc.passes.algorithms.transform_stages import TransformFlops, transform_stages
from convc.passes.machine import Machine

Axes = tuple[ToomCook, ToomCook]
"""The algorithms down the columns of a tile, from row to row, and along its rows."""


def form_of(axes: Axes) -> Form:
    """The two-dimensional algorithm made of two one-dimensional ones."""
    rows, columns = axes
    return _form((rows.outputs, columns.outputs), (rows.points, columns.points))


def _form(outputs: Pair, extent: Pair) -> Form:
    return Form(outputs, extent, (Products(extent[0] * extent[1]),))


class Winograd(Algorithm):
    """F(m, r) along each axis along which the kernel has r taps; there m + r − 1 products do for m·r of the definition.

    Along an axis with one tap nothing is transformed, and a tile has one pixel. `errors` is keyed by the number of axes
    that it may be applied along, 1 or 2; times √(16 + n) they bound the relative error where products sum n terms (see
    docs/algorithms.md).
    """

    family = "winograd"

    def __init__(self, outputs: int, taps: int, errors: Mapping[int, float]) -> None:
        self.outputs, self.taps = outputs, taps
        self.name = f"winograd_f{outputs}x{taps}"
        kernels = {2: [(taps, taps)], 1: [(1, taps), (taps, 1)]}
        self.errors: dict[Pair, float] = {kernel: errors[axes] for axes in errors for kernel in kernels[axes]}

    def obstacle(self, problem: Problem) -> str | None:
        if problem.kernel not in self.errors:
            kernels = " or ".join("{}x{}".format(*kernel) for kernel in self.errors)
            return "the kernel is {}x{}, and its tiles are made for {}".format(*problem.kernel, kernels)
        if problem.stride != (1, 1):
            return "the stride is {}x{}, and its tiles overlap by the stride of 1 only".format(*problem.stride)
        if problem.dilation != (1, 1):
            return "the dilation is {}x{}, and its tiles hold neighbouring pixels".format(*problem.dilation)
        return None

    @property
    def algorithm(self) -> ToomCook:
        """That along an axis with taps."""
        return toom_cook(self.outputs, self.taps)

    def axes(self, problem: Problem) -> Axes:
        rows, columns = (toom_cook(1, 1) if taps == 1 else self.algorithm for taps in problem.kernel)
        return rows, columns

    def _outputs(self, problem: Problem) -> Pair:
        rows, columns = (1 if taps == 1 else self.outputs for taps in problem.kernel)
        return rows, columns

    def form(self, problem: Problem) -> Form:
        outputs = self._outputs(problem)
        return _form(outputs, (outputs[0] + problem.kernel[0] - 1, outputs[1] + problem.kernel[1] - 1))

    def stages(self, problem: Problem, machine: Machine) -> tuple[Stage, ...]:
        plan = self.transform_plan(problem, machine)
        outputs, points, taps = plan.form.outputs, plan.form.extent, problem.kernel
        rows, columns = (WINOGRAD_COUNTS[form] for form in zip(outputs, taps, strict=True))
        # Down every column of a tile, then along every row of what that gives.
        flops = TransformFlops(
            image=2 * (rows.image * points[1] + columns.image * points[0]),
            filter=2 * (rows.filter * taps[1] + columns.filter * points[0]),
            output=2 * (rows.output * points[1] + columns.output * outputs[0]),
            cotangent=2 * (rows.cotangent * outputs[1] + columns.cotangent * points[0]),
            filter_gradient=2 * (rows.filter_gradient * points[1] + columns.filter_gradient * taps[0]),
            # A tile is held in registers as a whole; what they do not hold is stored and loaded again.
            efficiency=min(1.0, machine.registers / (points[0] * points[1])),
        )
        return transform_stages(plan, flops)

    def transform_plan(self, problem: Problem, machine: Machine) -> TransformPlan:
        return TransformPlan.of(problem, machine, self.form(problem))

    def scratch_bytes(self, problem: Problem, machine: Machine) -> int:
        return 4 * self.transform_plan(problem, machine).places.end

    def max_rel_error(self, problem: Problem) -> float:
        return self.errors[problem.kernel] * math.sqrt(16 + summed_terms(problem, self.form(problem)))


# Fourier transforms of 16x16 tiles compute 7x7 kernels with half the products of F(2x2,7x7).
WINOGRAD: tuple[Winograd, ...] = (
    Winograd(2, 3, {2: 1.25e-7, 1: 1e-7}),
    Winograd(4, 3, {2: 6e-7, 1: 2e-7}),
    Winograd(6, 3, {2: 2.5e-6, 1: 5e-7}),
    Winograd(2, 5, {2: 6e-7, 1: 2.5e-7}),
    Winograd(4, 5, {2: 2.5e-6, 1: 5e-7}),
    Winograd(2, 7, {1: 6e-7}),
)
