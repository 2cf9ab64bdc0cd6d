"""Winograd's algorithms F(m, r) along one axis or both: when they apply, what they cost, how exact they are."""

from __future__ import annotations

import math
from collections.abc import Mapping

from convc.ir.window import Pair
from convc.passes.algorithms.algorithm import Algorithm, Stage
from convc.passes.algorithms.problem import Problem
from convc.passes.algorithms.straight_line import StraightLine
from convc.passes.algorithms.toom_cook import ToomCook, toom_cook
from convc.passes.algorithms.transform_plan import Form, Products, TransformPlan, summed_terms
from convc.passes.algorithms.transform_stages import TransformFlops, transform_stages
from convc.passes.machine import Machine

Axes = tuple[ToomCook, ToomCook]
"""The algorithms down the columns of a tile, from row to row, and along its rows."""

_NOTHING = toom_cook(1, 1)


def form_of(axes: Axes) -> Form:
    """The two-dimensional algorithm made of two one-dimensional ones."""
    rows, columns = axes
    outputs, extent = (rows.outputs, columns.outputs), (rows.points, columns.points)
    return Form(outputs, extent, (Products(rows.points * columns.points),))


def _flops(rows: StraightLine, columns: StraightLine) -> int:
    """Down every column of a tile, then along every row of what that gives."""
    return 2 * (rows.operations * columns.inputs + columns.operations * len(rows.outputs))


class Winograd(Algorithm):
    """F(m, r) along each axis along which the kernel has r taps; there m + r − 1 products do for m·r of the definition.

    Along an axis with one tap nothing is transformed, and a tile has one pixel. `errors` is keyed by the number of axes
    that it may be applied along, 1 or 2; times √(16 + n) they bound the relative error where products sum n terms (see
    docs/algorithms.md).
    """

    family = "winograd"

    def __init__(self, outputs: int, taps: int, errors: Mapping[int, float]) -> None:
        self.algorithm = toom_cook(outputs, taps)
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

    def axes(self, problem: Problem) -> Axes:
        rows, columns = (_NOTHING if taps == 1 else self.algorithm for taps in problem.kernel)
        return rows, columns

    def form(self, problem: Problem) -> Form:
        return form_of(self.axes(problem))

    def stages(self, problem: Problem, machine: Machine) -> tuple[Stage, ...]:
        rows, columns = self.axes(problem)
        flops = TransformFlops(
            image=_flops(rows.image, columns.image),
            filter=_flops(rows.filter, columns.filter),
            output=_flops(rows.output, columns.output),
            cotangent=_flops(rows.cotangent, columns.cotangent),
            filter_gradient=_flops(rows.filter_gradient, columns.filter_gradient),
            # A tile is held in registers as a whole; what they do not hold is stored and loaded again.
            efficiency=min(1.0, machine.registers / (rows.points * columns.points)),
        )
        return transform_stages(self.transform_plan(problem, machine), flops)

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
