"""What is known of a way to compute a convolution: when it applies, what it has to do, how exact it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

from convc.lazy import dataclass
from convc.passes.algorithms.problem import Problem
from convc.passes.algorithms.transform_plan import TransformPlan
from convc.passes.machine import Machine

# What bounds a stage: products in register tiles, straight-line arithmetic on vectors, or moving memory.
Kind = Literal["product", "transform", "copy"]


@dataclass(frozen=True)
class Stage:
    """A part of the work that runs as a whole before the next: `flops` as executed, `bytes` moved.

    `bytes` counts what is read and written once per stage; `resident` says that it comes from a cache, because an
    earlier stage has just written it there. `efficiency` (0 to 1) is what shapes leave of a product's full speed: lanes
    that stay empty, tiles that are not full. Up to 2 or 4 where each instruction adds as many products to a sum,
    and more in tile registers.
    """

    name: str
    kind: Kind
    flops: int
    bytes: int
    resident: bool = False
    efficiency: float = 1.0


class Algorithm(ABC):
    """A way to compute convolutions. `name` is unique, `family` is what a file asks for (`algo=winograd`)."""

    name: str
    family: str

    @abstractmethod
    def obstacle(self, problem: Problem) -> str | None:
        """Why it cannot compute this, in words that follow "not used: "; None where it can."""

    @abstractmethod
    def stages(self, problem: Problem, machine: Machine) -> tuple[Stage, ...]:
        """What it has to do, in order, for a problem that it can compute."""

    def transform_plan(self, problem: Problem, machine: Machine) -> TransformPlan | None:
        """The plan of an algorithm that transforms filters; None for others."""
        return None

    @abstractmethod
    def scratch_bytes(self, problem: Problem, machine: Machine) -> int:
        """Memory that it needs beside operands and result; at most what this says is what the kernel takes."""

    @abstractmethod
    def max_rel_error(self, problem: Problem) -> float:
        """A bound on the largest error, divided by the largest magnitude of the exact result, for normal data.

        Measured against float64 on random images and filters (tests hold the kernels to it), so that algorithms can be
        compared with an error budget.
        """
