"""Winograd's algorithms F(2x2,3x3), F(4x4,3x3), F(6x6,3x3): when they apply, what they cost, how exact they are."""

from __future__ import annotations

import math

from convc.passes.algorithms.algorithm import Algorithm, Stage
from convc.passes.algorithms.direct import tile_efficiency
from convc.passes.algorithms.problem import Problem
from convc.passes.algorithms.straight_line import StraightLine
from convc.passes.algorithms.toom_cook import ToomCook, toom_cook
from convc.passes.algorithms.transform_plan import Form, Products, TransformPlan
from convc.passes.machine import Machine


def form_of(algorithm: ToomCook) -> Form:
    """The two-dimensional algorithm made of a one-dimensional one, along rows and along columns."""
    m, r, n = algorithm.outputs, algorithm.taps, algorithm.points
    return Form((m, m), (r, r), (Products(n * n),))


def _flops(rows: StraightLine, columns: StraightLine) -> int:
    """Of a transform of one tile of one channel: down every column, then along every row; two for a multiply-add."""
    return 2 * (rows.operations * columns.inputs + columns.operations * len(rows.outputs))


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
        if problem.kernel != self.form.taps:
            return "the kernel is {}x{}, and its tiles are made for 3x3".format(*problem.kernel)
        if problem.stride != (1, 1):
            return "the stride is {}x{}, and its tiles overlap by the stride of 1 only".format(*problem.stride)
        if problem.dilation != (1, 1):
            return "the dilation is {}x{}, and its tiles hold neighbouring pixels".format(*problem.dilation)
        return None

    def stages(self, problem: Problem, machine: Machine) -> tuple[Stage, ...]:
        plan, one = TransformPlan.of(problem, machine, self.form), self.algorithm
        tiles = problem.batch * plan.tiles * problem.groups
        chunks = -(-problem.batch * plan.tiles // plan.chunk)
        values = 4 * problem.groups * plan.filter_floats
        matrices = problem.groups * plan.inner * plan.columns
        products = 2 * self.form.values * tiles * plan.inner * plan.columns
        resident = values <= machine.l2_bytes
        read, written = problem.image_bytes, problem.result_bytes
        if problem.direction == "backward_data":
            read, written = written, read
        images = Stage("transform images", "transform", tiles * plan.inner_stored * _flops(one.image, one.image), read)
        if problem.direction == "backward_weights":
            cotangents = tiles * plan.columns * _flops(one.cotangent, one.cotangent)
            efficiency = tile_efficiency(machine, plan.inner, plan.outputs, plan.chunk)
            gradient = matrices * _flops(one.filter_gradient, one.filter_gradient)
            return (
                images,
                Stage("transform cotangents", "transform", cotangents, written),
                Stage("multiply", "product", products, 2 * chunks * values, resident, efficiency),
                Stage("transform sums", "transform", gradient, values + problem.weight_bytes, resident),
            )
        filters = matrices * _flops(one.filter, one.filter)
        efficiency = tile_efficiency(machine, plan.chunk, plan.outputs, plan.inner)
        outputs = tiles * plan.columns * _flops(one.output, one.output)
        stages = (
            Stage("transform filters", "transform", filters, values + problem.weight_bytes, resident),
            images,
            Stage("multiply", "product", products, chunks * values, resident, efficiency),
            Stage("transform outputs", "transform", outputs, written),
        )
        if problem.direction == "backward_data":
            return Stage("transpose filters", "copy", 0, 2 * problem.weight_bytes), *stages
        return stages

    def scratch_bytes(self, problem: Problem, machine: Machine) -> int:
        return 4 * TransformPlan.of(problem, machine, self.form).places.end

    def max_rel_error(self, problem: Problem) -> float:
        m = self.algorithm.outputs
        terms = {
            "forward": problem.channels // problem.groups,
            "backward_data": problem.filters // problem.groups,
            "backward_weights": problem.batch * -(-problem.output[0] // m) * -(-problem.output[1] // m),
        }
        return self._error * math.sqrt(16 + terms[problem.direction])


WINOGRAD: tuple[Winograd, ...] = (Winograd(2, 1.25e-7), Winograd(4, 6e-7), Winograd(6, 2.5e-6))
