"""Convolutions by Fourier transforms of tiles of 8x8, 16x16 and 32x32: when they apply, what they cost, how exact."""

from __future__ import annotations

import math
from functools import lru_cache

from convc.passes.algorithms.algorithm import Algorithm, Stage
from convc.passes.algorithms.fourier import Positions, complex_transform, real_transform
from convc.passes.algorithms.operation_counts import FOURIER_COUNTS
from convc.passes.algorithms.problem import Problem
from convc.passes.algorithms.transform_plan import Form, Products, TransformPlan, summed_terms
from convc.passes.algorithms.transform_stages import TransformFlops, transform_stages
from convc.passes.machine import Machine


def taps_of(problem: Problem) -> tuple[Positions, Positions]:
    """The rows and columns, from the first tap on, where a kernel has taps."""
    rows, columns = (
        tuple(tap * dilation for tap in range(taps))
        for taps, dilation in zip(problem.kernel, problem.dilation, strict=True)
    )
    return rows, columns


def fourier_form(size: int, rows: Positions, columns: Positions) -> Form:
    """Tiles of `size` x `size` for a kernel with taps at these rows and columns.

    A spectrum of real numbers has 4 that are real and size²/2 − 2 complex ones, whose conjugates are the others.
    """
    outputs = (size - rows[-1], size - columns[-1])
    return Form(outputs, (size, size), (Products(4), Products(size * size // 2 - 2, parts=2)))


# Times √(16 + n) it bounds the relative error where products sum n terms (see docs/algorithms.md).
_ERROR = 2e-7
# Programs of 16 and 32 numbers have more values than there are registers.
_EFFICIENCY = {8: 1.0, 16: 0.8, 32: 0.6}


def operations(size: int, down: Positions, across: Positions) -> int:
    """Of a transform of numbers at these rows and columns."""
    written = FOURIER_COUNTS[size].get(len(down)) if down == across == tuple(range(len(down))) else None
    return derived_operations(size, down, across) if written is None else written


@lru_cache
def derived_operations(size: int, down: Positions, across: Positions) -> int:
    """`operations`, counted: along rows, then along the two real columns and the others.

    The transposed programs are taken for as long; in fact they have a few additions more where less is asked for.
    """
    real, others = real_transform(size, down), complex_transform(size, down)
    along_rows = len(down) * real_transform(size, across).operations
    return along_rows + 2 * real.operations + (size // 2 - 1) * others.operations


class Fft(Algorithm):
    """Overlap-save with tiles of size x size: about 4·size² multiply-adds for (size − R + 1)·(size − S + 1) outputs."""

    family = "fft"

    def __init__(self, size: int) -> None:
        self.size = size
        self.name = f"fft_{size}"

    def obstacle(self, problem: Problem) -> str | None:
        if problem.stride != (1, 1):
            return "the stride is {}x{}, and products of spectra give the outputs of all pixels".format(*problem.stride)
        rows, columns = (positions[-1] + 1 for positions in taps_of(problem))
        if max(rows, columns) > self.size:
            return f"the kernel reaches over {rows}x{columns} pixels, and the tiles have {self.size}x{self.size}"
        return None

    def form(self, problem: Problem) -> Form:
        return fourier_form(self.size, *taps_of(problem))

    def stages(self, problem: Problem, machine: Machine) -> tuple[Stage, ...]:
        form = self.form(problem)
        everything = tuple(range(self.size))
        image, filter, output = (
            2 * operations(self.size, *positions)
            for positions in (
                (everything, everything),
                taps_of(problem),
                (everything[: form.outputs[0]], everything[: form.outputs[1]]),
            )
        )
        flops = TransformFlops(image, filter, output, output, filter, _EFFICIENCY[self.size])
        return transform_stages(self.transform_plan(problem, machine), flops)

    def transform_plan(self, problem: Problem, machine: Machine) -> TransformPlan:
        return TransformPlan.of(problem, machine, self.form(problem))

    def scratch_bytes(self, problem: Problem, machine: Machine) -> int:
        return 4 * self.transform_plan(problem, machine).places.end

    def max_rel_error(self, problem: Problem) -> float:
        return _ERROR * math.sqrt(16 + summed_terms(problem, self.form(problem)))


FFT: tuple[Fft, ...] = (Fft(8), Fft(16), Fft(32))
