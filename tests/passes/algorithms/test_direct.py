"""What the chooser is told of direct gradients by the filters, beside what the kernel does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from convc.codegen.llvm.kernel import KernelBuilder
from convc.codegen.llvm.program import plan_step
from convc.codegen.llvm.target import host_target
from convc.codegen.llvm.weight_gradient_shape import Shape
from convc.ir.ops import Conv2dBackwardWeights
from convc.passes.algorithms.decision import decide
from convc.passes.algorithms.direct import Direct
from convc.passes.algorithms.prediction import CONSTANTS
from convc.passes.algorithms.problem import Problem
from convc.passes.machine import MACHINES
from convc.runtime.tuning import graph_of

MACHINE = MACHINES["avx512"]
POINTWISE = Problem("backward_weights", 8, 64, 256, (56, 56), (56, 56), (1, 1))
PROBLEMS = {
    "pointwise": POINTWISE,
    "small pointwise": replace(POINTWISE, size=(14, 14), output=(14, 14), batch=5),
    "pointwise, stride 2": replace(POINTWISE, output=(28, 28), stride=(2, 2)),
    "3x3": replace(POINTWISE, filters=64, kernel=(3, 3), padding=(1, 1, 1, 1)),
    "3x3 of small images": replace(
        POINTWISE, filters=64, size=(7, 7), output=(7, 7), kernel=(3, 3), padding=(1, 1, 1, 1)
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_sums_go_to_memory_as_often_as_the_kernel_writes_them(name: str) -> None:
    """Once for each chunk of images and each band of an image: those of the kernel, which are nearly of equal size."""
    problem = PROBLEMS[name]
    plan = plan_step(graph_of(problem, "direct"), host_target())
    (kernel,) = (k for k in plan.kernels if isinstance(k.anchor.op, Conv2dBackwardWeights))
    shape = Shape.of(KernelBuilder(plan, kernel, "fma"))
    bands = -(-shape.cotangent.height // shape.band)
    passes = bands * -(-problem.batch // shape.chunk)
    (sums,) = (stage for stage in Direct().stages(problem, MACHINE) if stage.name == "add sums up")
    assert sums.bytes / (2 * problem.weight_bytes) == pytest.approx(passes, rel=0.15)


@pytest.mark.parametrize(("channels", "filters", "size"), [(64, 256, 56), (512, 128, 28), (1024, 256, 14)])
def test_pointwise_gradients_are_direct(channels: int, filters: int, size: int) -> None:
    """The product of matrices is predicted to be a little faster, by less than the margin, and is not."""
    problem = replace(POINTWISE, channels=channels, filters=filters, size=(size, size), output=(size, size))
    assert decide(problem, MACHINE, CONSTANTS["avx512"]).chosen == "direct"


def test_a_gradient_larger_than_the_caches_is_not_added_up_in_memory() -> None:
    problem = replace(POINTWISE, channels=1024, filters=2048, size=(7, 7), output=(7, 7))
    assert decide(problem, MACHINE, CONSTANTS["avx512"]).chosen != "direct"
