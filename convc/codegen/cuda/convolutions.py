"""Convolutions and fully connected layers: which kernels compute them, in all three directions.

`algorithm` of the op says which: `direct` is the product of matrices that are never stored (implicit GEMM), on tensor
cores where operands have 16 bits and the GPU has them for the type, else on CUDA cores; the others transform tiles. A
fully connected layer is a convolution of images of one pixel.
"""

from __future__ import annotations

from convc.codegen.cuda import fourier, simt, tensor_core, winograd
from convc.codegen.cuda.architectures import architecture
from convc.codegen.cuda.convolution_plan import ConvolutionPlan
from convc.codegen.cuda.convolution_problem import ConvolutionProblem
from convc.codegen.cuda.kernel import KernelBuilder
from convc.ir.graph import Value
from convc.ir.ops import (
    Conv2d,
    Conv2dBackwardData,
    Conv2dBackwardWeights,
    Linear,
    LinearBackwardData,
    LinearBackwardWeights,
)
from convc.lazy import dataclass
from convc.passes.algorithms.problem import CONVOLUTIONS, Direction, Problem
from convc.passes.layout import WeightLayout

# Tensor cores multiply these from these compute capabilities on.
_TENSOR_CORES = {"f16": 75, "bf16": 80}
PLAIN = "direct"


@dataclass(frozen=True)
class _Operands:
    """The tensors of one direction: of `x`, `w` and `y` two are read, and the third is the result."""

    direction: Direction
    x: Value
    w: Value
    y: Value

    @classmethod
    def of(cls, k: KernelBuilder) -> _Operands:
        op, operands, result = k.anchor.op, k.anchor.operands, k.anchor.results[0]
        if isinstance(op, (Conv2d, Linear)):
            return cls("forward", operands[0], operands[1], result)
        if isinstance(op, (Conv2dBackwardData, LinearBackwardData)):
            return cls("backward_data", result, operands[1], operands[0])
        assert isinstance(op, (Conv2dBackwardWeights, LinearBackwardWeights))
        return cls("backward_weights", operands[0], result, operands[1])

    @property
    def names(self) -> dict[str, Value]:
        """The operands as kernels call them."""
        if self.direction == "forward":
            return {"X": self.x, "FILTERS": self.w}
        if self.direction == "backward_data":
            return {"DY": self.y, "FILTERS": self.w}
        return {"X": self.x, "DY": self.y, "DFILTERS": self.w}


def problem_of(k: KernelBuilder) -> ConvolutionProblem:
    """What the kernel's anchor has to compute, and how its operands lie."""
    found = _Operands.of(k)
    filters = k.layout(found.w)
    assert isinstance(filters, WeightLayout), f"filters lie as {filters}"
    if isinstance(k.anchor.op, CONVOLUTIONS):
        problem = ConvolutionProblem.of(Problem.of(k.anchor), k.plan.machine.channels)
    else:
        sizes = k.image(found.x).size, filters.outputs, k.image(found.y).size
        problem = ConvolutionProblem.fully_connected(k.plan.batch, *sizes)
    taps = problem.r * problem.s * problem.cg_stored
    assert (filters.columns, filters.rows.size) == (problem.kg_stored, taps), f"filters lie as {filters}"
    return problem


def on_tensor_cores(problem: ConvolutionProblem, element: str, capability: int) -> bool:
    """Whether tensor cores multiply factors of a type, and channels are many enough for it."""
    few = problem.groups > 1 and problem.cg <= simt.FEW_CHANNELS
    return capability >= _TENSOR_CORES.get(element, 1 << 30) and not few


def plan_convolution(
    problem: ConvolutionProblem, direction: Direction, algorithm: str, element: str, capability: int
) -> ConvolutionPlan:
    """The launches of a convolution whose factors are of the type `element`, by an algorithm that applies."""
    if algorithm.startswith("winograd"):
        found = architecture(f"sm_{capability}")
        if direction == "backward_weights":
            return winograd.winograd_gradient(problem, algorithm, found)
        return winograd.winograd(problem, direction, algorithm, found)
    if algorithm.startswith("fft"):
        if direction == "backward_weights":
            return fourier.fft_gradient(problem, algorithm)
        return fourier.fft(problem, direction, algorithm)
    if on_tensor_cores(problem, element, capability):
        if direction == "forward":
            return tensor_core.plan_forward(problem, capability)
        if direction == "backward_data":
            return tensor_core.plan_data(problem, capability)
        return tensor_core.plan_filters(problem, capability)
    if direction == "forward":
        return simt.plan_forward(problem)
    if direction == "backward_data":
        return simt.plan_data(problem)
    return simt.plan_filters(problem)


def _planned(k: KernelBuilder) -> ConvolutionPlan:
    op, found = k.anchor.op, _Operands.of(k)
    algorithm = op.algorithm if isinstance(op, CONVOLUTIONS) and op.algorithm != "auto" else PLAIN
    # Factors of two types meet on CUDA cores, where both are converted as they are read.
    elements = {k.element(value) for name, value in found.names.items() if name != "DFILTERS"}
    element = elements.pop() if len(elements) == 1 else "float"
    return plan_convolution(problem_of(k), found.direction, algorithm, element, k.capability)


def lower_convolution(k: KernelBuilder) -> None:
    found, problem, plan = _Operands.of(k), problem_of(k), _planned(k)
    types = {"Image": k.element(found.x), "Filter": k.element(found.w), "Cotangent": k.element(found.y)}
    bytes = {"x": k.bytes_of(found.x), "w": k.bytes_of(found.w), "y": k.bytes_of(found.y)}
    for launch in plan.launches:
        k.launch(
            launch.files,
            launch.grid,
            threads=launch.threads,
            constants={**problem.constants(), **launch.constants},
            types=types,
            names=found.names,
            text=launch.text,
            finishes=launch.finishes,
            shared_bytes=launch.shared_bytes,
            work=launch.work(bytes),
        )


def scratch_convolution(k: KernelBuilder) -> int:
    return _planned(k).scratch_bytes
