"""The ways in which a GPU computes convolutions, as `choose-algorithms` compares them.

What an algorithm has to do are its launches, planned for the GPU in question as they will be made; how long each takes
is told by the model of `gpus.py`. So the choice knows waves of blocks, traffic and tensor cores, without a GPU.
"""

from __future__ import annotations

from math import ceil

from convc.codegen.cuda import fourier, winograd
from convc.codegen.cuda.architectures import WARP, occupancy
from convc.codegen.cuda.convolution_problem import ConvolutionProblem
from convc.codegen.cuda.convolutions import PLAIN, on_tensor_cores, plan_convolution, work_of
from convc.codegen.cuda.gpus import GPUS, Gpu, predict
from convc.codegen.cuda.kernel import ELEMENTS, Work
from convc.codegen.cuda.program import gpu_machine
from convc.lazy import dataclass
from convc.passes.algorithms.algorithm import Algorithm, Stage
from convc.passes.algorithms.problem import Problem
from convc.passes.algorithms.table import BY_NAME
from convc.passes.layout import padded
from convc.passes.machine import Machine

# Registers of a thread, where nothing is compiled: what the compiler needed for the larger tiles of each kernel.
_REGISTERS = {"winograd": 208, "winograd_gradient": 208, "conv_mma": 250, "conv_mma_data": 250, "conv_mma_filters": 250}
_USUAL_REGISTERS = 128


@dataclass(frozen=True)
class Launched(Stage):
    """A stage that is one launch: `blocks` of `threads` with `shared_bytes` each; `work` on tensor cores or not."""

    blocks: int = 1
    threads: int = WARP
    shared_bytes: int = 0
    work: Work = Work()


@dataclass(frozen=True)
class GpuConstants:
    """What a GPU takes for a stage. Stands where `Constants` stands for processors."""

    gpu: Gpu

    def seconds(self, stage: Stage) -> float:
        assert isinstance(stage, Launched)
        architecture = self.gpu.architecture
        fitting = occupancy(
            architecture, stage.threads, _REGISTERS.get(stage.name, _USUAL_REGISTERS), stage.shared_bytes
        )
        return predict(self.gpu, stage.flops, stage.bytes, stage.work.tensor_cores, stage.blocks, fitting)


def problem_on_gpu(problem: Problem, channels: int) -> ConvolutionProblem:
    """A problem as kernels see it, where channels are padded to a multiple of `channels`."""
    p = problem
    of_group = p.channels // p.groups
    return ConvolutionProblem(
        batch=p.batch,
        c=p.channels,
        h=p.size[0],
        w=p.size[1],
        c_stored=padded(p.channels, channels),
        k=p.filters,
        oh=p.output[0],
        ow=p.output[1],
        k_stored=padded(p.filters, channels),
        r=p.kernel[0],
        s=p.kernel[1],
        cg_stored=padded(of_group, channels) if p.groups == 1 else of_group,
        kg_stored=padded(p.filters) if p.groups == 1 else p.filters // p.groups,
        stride_h=p.stride[0],
        stride_w=p.stride[1],
        top=p.padding[0],
        left=p.padding[1],
        dilation_h=p.dilation[0],
        dilation_w=p.dilation[1],
        groups=p.groups,
    )


class OnGpu(Algorithm):
    """One of the algorithms of `table.py`, as launches."""

    def __init__(self, name: str) -> None:
        self.name, self.family = name, BY_NAME[name].family

    def obstacle(self, problem: Problem) -> str | None:
        if self.name in ("im2col", "strassen"):
            return "it has no form on a GPU, where `direct` is a product of matrices"
        why = BY_NAME[self.name].obstacle(problem)
        if why is not None or self.name == PLAIN:
            return why
        known = winograd.winograd_algorithms if self.family == "winograd" else fourier.fft_algorithms
        if self.name not in known(problem_on_gpu(problem, 4)):
            return "its tiles do not fit into the registers of a GPU's threads"
        return None

    def _plan(self, problem: Problem, machine: Machine) -> tuple[ConvolutionProblem, str, int]:
        channels = gpu_machine(machine.capability, problem.dtype.is_half).channels
        return problem_on_gpu(problem, channels), ELEMENTS[problem.dtype], machine.capability

    def stages(self, problem: Problem, machine: Machine) -> tuple[Stage, ...]:
        on_gpu, element, capability = self._plan(problem, machine)
        plan = plan_convolution(on_gpu, problem.direction, self.name, element, capability)
        tensor_cores = self.name == PLAIN and on_tensor_cores(on_gpu, element, capability)
        size = 4 if element == "float" else 2
        p = on_gpu
        bytes = {
            "x": size * p.batch * p.h * p.w * p.c_stored,
            "w": (4 if problem.direction == "backward_weights" else size) * p.k * p.r * p.s * p.cg_stored,
            "y": size * p.batch * p.oh * p.ow * p.k_stored,
        }
        made: list[Stage] = []
        for launch in plan.launches:
            work = work_of(p, problem.direction, self.name, plan, launch, bytes, tensor_cores)
            x, y, z = launch.grid(p.batch)
            made.append(
                Launched(
                    launch.files[-1].removesuffix(".cu"),
                    "product" if work.flops else "copy",
                    ceil(work.flops),
                    work.bytes,
                    blocks=x * y * z,
                    threads=launch.threads,
                    shared_bytes=launch.shared_bytes,
                    work=work,
                )
            )
        return tuple(made)

    def scratch_bytes(self, problem: Problem, machine: Machine) -> int:
        on_gpu, element, capability = self._plan(problem, machine)
        return plan_convolution(on_gpu, problem.direction, self.name, element, capability).scratch_bytes

    def max_rel_error(self, problem: Problem) -> float:
        return BY_NAME[self.name].max_rel_error(problem)


GPU_ALGORITHMS: tuple[OnGpu, ...] = tuple(OnGpu(name) for name in BY_NAME)


def typical_gpu(capability: int) -> Gpu:
    """The GPU that stands for its architecture where no other is named: the fastest of the table."""
    alike = [gpu for gpu in GPUS.values() if gpu.architecture.name == f"sm_{capability}"]
    return max(alike or GPUS.values(), key=lambda gpu: gpu.bandwidth_gbps)
