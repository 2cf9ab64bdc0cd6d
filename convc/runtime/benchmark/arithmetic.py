"""The arithmetic that speeds are divided by: what a net asks for, and what each kernel could do at best."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from convc.ir.graph import Graph
from convc.lazy import dataclass
from convc.runtime.benchmark.case import Case
from convc.runtime.benchmark.task import INFER, TRAIN, Task
from convc.runtime.build import build_net
from convc.runtime.machine_probe import Ceilings
from convc.runtime.profile import Profile


def flops_per_image(graph: Graph, batch: int, mode: str) -> float:
    """Arithmetic of convolutions and fully connected layers, counted directly whatever the algorithm.

    Training takes the forward work three times, except that nobody needs the gradient of the images.
    """
    total = 0.0
    images = {graph.inputs["x"]}
    for node in graph.nodes:
        if node.op.name in ("conv2d", "linear"):
            flops = node.op.cost(*(value.type for value in node.operands)).flops
            total += flops * (1 if mode == INFER else 2 if node.operands[0] in images else 3)
        elif node.op.name in ("sub", "div", "flatten") and node.operands[0] in images:
            images.add(node.result)  # still the input, normalised
    return total / batch


@dataclass(frozen=True)
class KernelFloor:
    """A kernel of our program: its time, and the least that its arithmetic and its traffic take at the ceilings.

    Both floors are of the mathematics: every operand is touched once, convolutions are counted directly. So a fast
    algorithm may fall below the first, and a kernel whose operands lie in caches below the second. `algorithm` is that
    of a convolution.
    """

    ops: str
    layer: str
    line: int | None
    seconds: float
    flops: int
    bytes: int
    flops_floor_seconds: float
    bytes_floor_seconds: float
    algorithm: str | None = None

    @property
    def floor_seconds(self) -> float:
        return max(self.flops_floor_seconds, self.bytes_floor_seconds)

    @property
    def bound(self) -> str:
        """Which floor is the higher one: `flops` or `bytes`."""
        return "flops" if self.flops_floor_seconds >= self.bytes_floor_seconds else "bytes"

    @property
    def fraction(self) -> float:
        """Of the floor: 1 is as fast as the ceilings allow."""
        return self.floor_seconds / self.seconds if self.seconds else 0.0

    def as_json(self) -> dict[str, Any]:
        """JSON's types: the fields, and what follows from them."""
        return {**asdict(self), "bound": self.bound, "fraction_of_floor": self.fraction}


def profile_case(case: Case, task: Task) -> Profile:
    """Time our program of a case, kernel by kernel."""
    options = {"batch": case.batch, "mode": case.mode, "precision": case.precision, "threads": case.threads}
    with build_net(case.open(), **options) as program:  # type: ignore[arg-type]
        return program.profile(task.images(), task.targets() if case.mode == TRAIN else None)


def kernel_floors(profile: Profile, ceilings: Ceilings) -> tuple[KernelFloor, ...]:
    """The kernels of a profile in their order, beside the ceilings for as many threads."""
    return tuple(
        KernelFloor(
            kernel.ops,
            kernel.layer,
            kernel.line,
            kernel.seconds,
            kernel.flops,
            kernel.bytes,
            kernel.flops / (ceilings.fma_gflops * 1e9),
            kernel.bytes / (ceilings.copy_gbps * 1e9),
            kernel.algorithm,
        )
        for kernel in profile.kernels
    )
