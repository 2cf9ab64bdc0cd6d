"""The ways in which a GPU computes convolutions, as `choose-algorithms` compares them.

What an algorithm has to do are its launches, planned for the GPU in question as they will be made; how long each takes
is told by the model of `gpus.py`. So the choice knows waves of blocks, traffic and tensor cores, without a GPU.
"""

from __future__ import annotations

from math import prod

from convc.codegen.cuda import fourier, winograd
from convc.codegen.cuda.architectures import WARP, occupancy
from convc.codegen.cuda.convolution_plan import ConvolutionLaunch
from convc.codegen.cuda.convolution_problem import ConvolutionProblem
from convc.codegen.cuda.convolutions import PLAIN, plan_convolution
from convc.codegen.cuda.gpus import Gpu, predict
from convc.codegen.cuda.kernel import ELEMENTS, Work
from convc.codegen.cuda.program import gpu_machine
from convc.lazy import dataclass
from convc.passes.algorithms.algorithm import Algorithm, Stage
from convc.passes.algorithms.problem import Problem
from convc.passes.algorithms.table import BY_NAME
from convc.passes.layout import CHANNELS
from convc.passes.machine import Machine

# Registers of a thread, where nothing is compiled: what the compiler needed for the larger tiles of each kernel.
_REGISTERS = {"winograd": 208, "winograd_gradient": 208, "conv_mma": 250, "conv_mma_data": 250, "conv_mma_filters": 250}
_USUAL_REGISTERS = 128


@dataclass(frozen=True)
class Launched(Stage):
    """A stage that is one launch: `blocks` of `threads` with `shared_bytes` each, on tensor cores or not."""

    blocks: int = 1
    threads: int = WARP
    shared_bytes: int = 0
    tensor_cores: bool = False


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
        return predict(self.gpu, stage.flops, stage.bytes, stage.tensor_cores, stage.blocks, fitting)


def _stage(launch: ConvolutionLaunch, work: Work, rows: int) -> Launched:
    return Launched(
        launch.files[-1].removesuffix(".cu"),
        "product" if work.flops else "copy",
        work.flops,
        work.bytes,
        blocks=prod(launch.grid(rows)),
        threads=launch.threads,
        shared_bytes=launch.shared_bytes,
        tensor_cores=work.tensor_cores,
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
        if self.name not in known(ConvolutionProblem.of(problem, CHANNELS)):
            return "its tiles do not fit into the registers of a GPU's threads"
        return None

    def _plan(self, problem: Problem, machine: Machine) -> tuple[ConvolutionProblem, str, int]:
        channels = gpu_machine(machine.capability, problem.dtype.is_half).channels
        return ConvolutionProblem.of(problem, channels), ELEMENTS[problem.dtype], machine.capability

    def stages(self, problem: Problem, machine: Machine) -> tuple[Stage, ...]:
        p, element, capability = self._plan(problem, machine)
        plan = plan_convolution(p, problem.direction, self.name, element, capability)
        size = problem.dtype.bytes
        # Gradients by filters are float32.
        of_filter = 4 if problem.direction == "backward_weights" else size
        bytes = {
            "x": size * p.batch * p.h * p.w * p.c_stored,
            "w": of_filter * p.filter_elements,
            "y": size * p.batch * p.oh * p.ow * p.k_stored,
        }
        return tuple(_stage(launch, launch.work(bytes), p.batch) for launch in plan.launches)

    def scratch_bytes(self, problem: Problem, machine: Machine) -> int:
        on_gpu, element, capability = self._plan(problem, machine)
        return plan_convolution(on_gpu, problem.direction, self.name, element, capability).scratch_bytes

    def max_rel_error(self, problem: Problem) -> float:
        return BY_NAME[self.name].max_rel_error(problem)


GPU_ALGORITHMS: tuple[OnGpu, ...] = tuple(OnGpu(name) for name in BY_NAME)
