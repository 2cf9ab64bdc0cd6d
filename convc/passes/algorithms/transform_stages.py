"""What transform convolutions have to do, stage by stage, given what their transforms cost."""

from __future__ import annotations

from convc.lazy import dataclass
from convc.passes.algorithms.algorithm import Stage
from convc.passes.algorithms.direct import tile_efficiency
from convc.passes.algorithms.transform_plan import TransformPlan

# The values of a filter lie on as many pages. Where these are more than a processor has at hand, transforms of filters
# move memory slower by this factor (docs/performance-log.md).
_MOST_PAGES = 64
_SCATTERED = 1.5
# What products of complex numbers reach of the speed of real ones: measured (docs/performance-log.md).
_COMPLEX = 0.7


@dataclass(frozen=True)
class TransformFlops:
    """Of the transforms of one tile, or one filter, of one channel; two for a multiply-add. `efficiency` is the share
    of the usual speed that they reach."""

    image: int
    filter: int
    output: int
    cotangent: int
    filter_gradient: int
    efficiency: float = 1.0

    def stage(self, name: str, flops: int, traffic: int, resident: bool = False) -> Stage:
        return Stage(name, "transform", flops, traffic, resident, self.efficiency)


def transform_stages(plan: TransformPlan, flops: TransformFlops) -> tuple[Stage, ...]:
    """The stages of `codegen/llvm/algorithms/transform_convolution.py` and `transform_weight_gradient.py`."""
    problem, machine, form = plan.problem, plan.machine, plan.form
    tiles = problem.batch * plan.tiles * problem.groups
    chunks = -(-problem.batch * plan.tiles // plan.chunk)
    filters = 4 * problem.groups * plan.filter_floats
    matrices = problem.groups * plan.inner * plan.columns
    products = 2 * sum(p.entries * p.parts**2 for p in form.products) * tiles * plan.inner * plan.columns
    resident = filters <= machine.l2_bytes
    speed = _COMPLEX if any(p.parts > 1 for p in form.products) else 1.0
    scattered = int(filters * (1 if resident or form.values <= _MOST_PAGES else _SCATTERED))
    read, written = problem.image_bytes, problem.result_bytes
    if problem.direction == "backward_data":
        read, written = written, read
    # V, and M or P, are written to a cache and read from it.
    values = Stage("store values", "copy", 0, 8 * form.values * tiles * (plan.inner_stored + plan.columns), True)
    images = flops.stage("transform images", tiles * plan.inner_stored * flops.image, read)
    if problem.direction == "backward_weights":
        efficiency = speed * tile_efficiency(machine, plan.inner, plan.outputs, plan.chunk)
        gradients = matrices * flops.filter_gradient
        return (
            images,
            flops.stage("transform cotangents", tiles * plan.columns * flops.cotangent, written),
            values,
            Stage("multiply", "product", products, 2 * chunks * filters, resident, efficiency),
            flops.stage("transform sums", gradients, plan.parts * scattered + problem.weight_bytes, resident),
        )
    efficiency = speed * tile_efficiency(machine, plan.chunk, plan.outputs, plan.inner)
    if problem.prepared:
        # In no near cache when they are read for the first time.
        ready = Stage("fetch filters", "copy", 0, filters if resident else 0)
    else:
        # Memory that is written is read first.
        traffic = 2 * scattered + problem.weight_bytes
        ready = flops.stage("transform filters", matrices * flops.filter, traffic, resident)
    stages = (
        ready,
        images,
        values,
        # Filters are fetched ahead of the products of the chunk that they pass by.
        Stage("multiply", "product", products, chunks * filters, resident, efficiency),
        flops.stage("transform outputs", tiles * plan.columns * flops.output, written),
    )
    if problem.direction == "backward_data":
        return Stage("transpose filters", "copy", 0, 2 * problem.weight_bytes), *stages
    return stages
