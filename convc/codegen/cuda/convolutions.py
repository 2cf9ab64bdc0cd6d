"""Convolutions and fully connected layers: which kernels compute them, in all three directions.

`algorithm` of the op says which: `direct` is the product of matrices that are never stored (implicit GEMM), on tensor
cores where operands have 16 bits and the GPU has them for the type, else on CUDA cores; the others transform tiles. A
fully connected layer is a convolution of images of one pixel.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

from convc.codegen.cuda import fourier, simt, tensor_core, winograd
from convc.codegen.cuda.architectures import architecture
from convc.codegen.cuda.convolution_plan import ConvolutionLaunch, ConvolutionPlan
from convc.codegen.cuda.convolution_problem import ConvolutionProblem
from convc.codegen.cuda.kernel import KernelBuilder, Work
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
from convc.passes.algorithms.problem import CONVOLUTIONS, Direction
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
    """What the kernel's anchor has to compute."""
    op, found = k.anchor.op, _Operands.of(k)
    filters, results = k.layout(found.w), k.image(found.y)
    assert isinstance(filters, WeightLayout), f"filters lie as {filters}"
    if not isinstance(op, CONVOLUTIONS):
        size = k.image(found.x).size
        return ConvolutionProblem(
            batch=k.plan.batch,
            c=size,
            h=1,
            w=1,
            c_stored=size,
            k=filters.outputs,
            oh=1,
            ow=1,
            k_stored=results.size,
            r=1,
            s=1,
            cg_stored=size,
            kg_stored=filters.columns,
        )
    images = k.image(found.x)
    return ConvolutionProblem(
        batch=k.plan.batch,
        c=images.channels,
        h=images.height,
        w=images.width,
        c_stored=images.stored,
        k=filters.outputs,
        k_stored=results.stored,
        oh=results.height,
        ow=results.width,
        r=filters.rows.height,
        s=filters.rows.width,
        cg_stored=filters.rows.stored,
        kg_stored=filters.columns,
        stride_h=op.stride[0],
        stride_w=op.stride[1],
        top=op.padding[0],
        left=op.padding[1],
        dilation_h=op.dilation[0],
        dilation_w=op.dilation[1],
        groups=op.groups,
    )


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


# What a launch of each file reads and writes beside what it only looks up: of x, w and y, and shares of the scratch
# space. Every other file multiplies: both factors, and the result or, where parts are added later, their sums.
_TOUCHES: dict[str, tuple[str, float]] = {
    "sum_image_parts.cu": ("r", 1.0),
    "sum_filter_parts.cu": ("r", 1.0),
    "winograd_filters.cu": ("w", 1.0),
    "winograd.cu": ("sr", 1.0),
    "fft_filters.cu": ("w", 0.2),
    "fft_spectra.cu": ("s", 0.4),
    "fft_product.cu": ("", 1.0),
    "fft_results.cu": ("r", 0.4),
    "fft_filter_gradients.cu": ("w", 0.2),
}


def _transformed_flops(p: ConvolutionProblem, direction: Direction, algorithm: str) -> float:
    """Of the products between transforms: of all points of all tiles, complex ones (of half the points) for Fourier."""
    size = (p.h, p.w) if direction == "backward_data" else (p.oh, p.ow)
    pairs = zip(size, (p.r, p.s), (p.dilation_h, p.dilation_w), strict=True)
    products, fourier = 2.0 * p.batch * p.c * p.k, algorithm.startswith("fft")
    for pixels, taps, dilation in pairs:
        if fourier:
            points = int(algorithm.removeprefix("fft_"))
            outputs = points - (taps - 1) * dilation
        else:
            outputs = int(algorithm.removeprefix("winograd_f").partition("x")[0]) if taps > 1 else 1
            points = outputs + taps - 1
        products *= ceil(pixels / outputs) * points
    return 2 * products if fourier else products


def work_of(
    problem: ConvolutionProblem,
    direction: Direction,
    algorithm: str,
    plan: ConvolutionPlan,
    launch: ConvolutionLaunch,
    bytes: Mapping[str, int],
    tensor_cores: bool,
) -> Work:
    """What one launch of a plan does with all rows. `bytes` are those of x, w and y."""
    source, result = {"forward": "xy", "backward_data": "yx", "backward_weights": "xw"}[direction]
    p, file = problem, launch.files[-1]
    alike = sum(other.files[-1] == file for other in plan.launches)
    if file in _TOUCHES:
        tensors, share = _TOUCHES[file]
        places = {"s": bytes[source], "r": bytes[result], "w": bytes["w"]}
        moved = sum(places[tensor] for tensor in tensors) + share * plan.scratch_bytes
    else:
        factors = sum(bytes[tensor] for tensor in "xwy" if tensor != result)
        moved = factors + (bytes[result] if len(plan.launches) == 1 else plan.scratch_bytes)
    flops = 0.0
    if file == "fft_product.cu" or (file.startswith("winograd") and file != "winograd_filters.cu"):
        flops = _transformed_flops(p, direction, algorithm)
    elif file not in _TOUCHES:
        flops = 2.0 * p.batch * p.oh * p.ow * p.k * p.r * p.s * p.cg
    return Work(int(flops / alike), int(moved / alike), tensor_cores and file not in _TOUCHES)


def _planned(k: KernelBuilder) -> tuple[ConvolutionPlan, str, bool]:
    """The launches of the kernel, its algorithm, and whether it multiplies on tensor cores."""
    op, found, problem = k.anchor.op, _Operands.of(k), problem_of(k)
    algorithm = op.algorithm if isinstance(op, CONVOLUTIONS) and op.algorithm != "auto" else PLAIN
    # Factors of two types meet on CUDA cores, where both are converted as they are read.
    elements = {k.element(value) for name, value in found.names.items() if name != "DFILTERS"}
    element = elements.pop() if len(elements) == 1 else "float"
    tensor_cores = algorithm == PLAIN and on_tensor_cores(problem, element, k.capability)
    plan = plan_convolution(problem, found.direction, algorithm, element, k.capability)
    return plan, algorithm, tensor_cores


def lower_convolution(k: KernelBuilder) -> None:
    found, problem = _Operands.of(k), problem_of(k)
    plan, algorithm, tensor_cores = _planned(k)
    types = {"Image": k.element(found.x), "Filter": k.element(found.w), "Cotangent": k.element(found.y)}
    source = types["Cotangent" if found.direction == "backward_data" else "Image"]
    bytes = {"x": k.bytes_of(found.x), "w": k.bytes_of(found.w), "y": k.bytes_of(found.y)}
    for launch in plan.launches:
        k.launch(
            launch.files,
            launch.grid,
            threads=launch.threads,
            constants={**problem.constants(), **launch.constants},
            types=types if tensor_cores else {**types, "Source": source},
            names=found.names,
            text=launch.text,
            finishes=launch.finishes,
            shared_bytes=launch.shared_bytes,
            work=work_of(problem, found.direction, algorithm, plan, launch, bytes, tensor_cores),
        )


def scratch_convolution(k: KernelBuilder) -> int:
    return _planned(k)[0].scratch_bytes
