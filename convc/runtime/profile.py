"""Where the time of a compiled step goes, kernel by kernel."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from convc.ir.op import Cost
from convc.ir.span import Location
from convc.lazy import dataclass
from convc.passes.algorithms.problem import CONVOLUTIONS
from convc.passes.fusion import Kernel
from convc.passes.sections import EVERYTHING


@dataclass(frozen=True)
class KernelTime:
    """One kernel: the ops that it fuses, the layer and lines they stem from, its phases, and its median time.

    `flops` and `bytes` are what the mathematics asks for (every operand touched once), not what was executed.
    `algorithm` names the way in which a convolution is computed.
    """

    ops: str
    layer: str
    location: Location
    phases: tuple[str, ...]
    seconds: float
    flops: int
    bytes: int
    algorithm: str | None = None

    @property
    def gflops(self) -> float:
        """GFLOP/s."""
        return self.flops / self.seconds / 1e9 if self.seconds else 0.0

    @property
    def line(self) -> int | None:
        return self.location[0].line if self.location else None


@dataclass(frozen=True)
class Profile:
    """All kernels of a step in order, and how long the whole step takes when nothing is timed inside it."""

    kernels: tuple[KernelTime, ...]
    wall_seconds: float

    @property
    def total_seconds(self) -> float:
        return sum(kernel.seconds for kernel in self.kernels)

    def __str__(self) -> str:
        lines = [f"{'µs':>9} {'%':>5} {'GFLOP/s':>8} {'MB':>8} {'line':>5}  kernel"]
        for kernel in self.kernels:
            share = 100 * kernel.seconds / self.total_seconds if self.total_seconds else 0.0
            lines.append(
                f"{kernel.seconds * 1e6:9.1f} {share:5.1f} {kernel.gflops:8.1f} {kernel.bytes / 1e6:8.2f} "
                f"{kernel.line or '':>5}  {kernel.layer + ': ' if kernel.layer else ''}{kernel.ops}"
            )
        lines.append(f"{self.total_seconds * 1e6:9.1f} in kernels, {self.wall_seconds * 1e6:.1f} the whole step")
        return "\n".join(lines)


def cost_of(kernel: Kernel) -> Cost:
    """What the ops of a kernel cost together in a whole step; only tensors that it reads or writes move bytes."""
    flops = sum(node.cost.flops for node in kernel.nodes)
    return Cost(flops, sum(value.type.bytes for value in (*kernel.reads, *kernel.writes_in(EVERYTHING))))


def make_profile(
    phases: list[tuple[int, Kernel, str]], rounds: int, run: Callable[[int, int], float], everything: int
) -> Profile:
    """Time the phases of a step (number, kernel, function) one by one, in order, `rounds` times: each finds the caches
    as in a step.

    `run(first, last)` runs a range of phases and gives its seconds; an empty range gives what a launch costs, which is
    not the kernels' time. It is the second of two in a row, since kernels, too, come shortly after another launch: the
    first after a whole step finds caches and threads as that left them, and takes many times as long.
    """
    launches: list[float] = []
    walls: list[float] = []
    samples: list[list[float]] = [[] for _ in phases]
    for _ in range(rounds):
        walls.append(run(0, everything))
        run(0, 0)
        launches.append(run(0, 0))
        for (number, _, _), sample in zip(phases, samples, strict=True):
            sample.append(run(number, number + 1))
    launch, wall = median(launches), median(walls)
    times = [median(sample) - launch for sample in samples]
    kernels: list[KernelTime] = []
    for kernel in dict.fromkeys(kernel for _, kernel, _ in phases):
        own = [index for index, (_, other, _) in enumerate(phases) if other is kernel]
        cost = cost_of(kernel)
        names = tuple(phases[index][2] for index in own)
        seconds = max(0.0, sum(times[index] for index in own))
        op = kernel.anchor.op
        kernels.append(
            KernelTime(
                kernel.name,
                kernel.label,
                kernel.location,
                names,
                seconds,
                cost.flops,
                cost.bytes,
                op.algorithm if isinstance(op, CONVOLUTIONS) else None,
            )
        )
    return Profile(tuple(kernels), wall)
