"""im2col: convolution as a product of patches of the images and filters. When it applies, what it costs."""

from __future__ import annotations

import math

from convc.passes.algorithms.algorithm import Algorithm, Stage
from convc.passes.algorithms.direct import tile_efficiency
from convc.passes.algorithms.patches import (
    TILE_ROWS,
    PatchMatrix,
    in_place,
    multiplies_tiles,
    part_bytes,
    patch_bytes,
    patch_matrices,
)
from convc.passes.algorithms.problem import Problem
from convc.passes.layout import padded
from convc.passes.machine import Machine

# How many times faster than products of float32 those in tile registers are: a prototype's marks are 3.1 TFLOP/s
# against 210 GFLOP/s, of which its kernels reached 50 to 57 % (docs/performance-log.md).
_TILES_GAIN = 8.0
# Steps of the depth that it takes to finish the sums of tiles, which tile registers wait for.
_FINISH_STEPS = 64


class Im2col(Algorithm):
    """The definition's products, in the order of a product of matrices, with the borders multiplied as zeros.

    An error of 1e-7·√(16 + n) for sums of n terms: twice the largest of random normal problems with up to 4608 terms
    forward and 25,088 in a gradient by the filters (see docs/algorithms.md).
    """

    name = "im2col"
    family = "im2col"

    def obstacle(self, problem: Problem) -> str | None:
        return None

    def stages(self, problem: Problem, machine: Machine) -> tuple[Stage, ...]:
        tiled = multiplies_tiles(problem, machine)
        matrices = patch_matrices(problem, tiled)
        stages = [] if in_place(problem) else [gather_stage(problem, machine, matrices)]
        if problem.direction == "backward_data":
            stages.insert(0, Stage("turn filters", "copy", 0, 2 * problem.weight_bytes))
        multiply = _multiply_tiles if tiled else _multiply
        stages += [multiply(problem, machine, matrix) for matrix in matrices if matrix.columns]
        if problem.direction == "backward_weights" and matrices[0].parts > 1:
            stages.append(Stage("add parts", "copy", 0, (matrices[0].parts + 1) * problem.weight_bytes, resident=True))
        return tuple(stages)

    def scratch_bytes(self, problem: Problem, machine: Machine) -> int:
        if problem.direction == "backward_weights":
            return patch_bytes(problem) + part_bytes(problem)
        if multiplies_tiles(problem, machine):
            return patch_bytes(problem, tiled=True) + turned_bytes(problem) // 2
        return patch_bytes(problem) + turned_bytes(problem)

    def max_rel_error(self, problem: Problem) -> float:
        return 1e-7 * math.sqrt(16 + terms(problem))


def terms(problem: Problem) -> int:
    """How many products an element of the result is the sum of."""
    if problem.direction == "forward":
        return problem.taps * problem.channels // problem.groups
    if problem.direction == "backward_data":
        return problem.taps * problem.filters // problem.groups
    return problem.batch * problem.output[0] * problem.output[1]


def gather_stage(problem: Problem, machine: Machine, matrices: tuple[PatchMatrix, ...]) -> Stage:
    """Copying patches: vectors moved, and memory written and read again while it is in the cache."""
    moves = written = 0
    for matrix in matrices:
        rows, columns = matrix.shape
        step = matrix.across.taps[1][1] - matrix.across.taps[0][1] if matrix.taps[1] > 1 else 1
        width = machine.lanes * 4 // matrix.bytes
        if matrix.channels == matrix.stored and step == 1:
            of_row = matrix.taps[0] * -(-matrix.filter_row // width)
        else:
            of_row = matrix.taps[0] * matrix.taps[1] * -(-(matrix.channels + matrix.spill) // width)
        moves += rows * matrix.groups * of_row
        written += matrix.bytes * rows * columns * matrix.groups
    return Stage("gather patches", "copy", 2 * moves * machine.lanes, 2 * written, resident=True)


def _multiply(problem: Problem, machine: Machine, matrix: PatchMatrix) -> Stage:
    rows, columns = matrix.shape
    own = problem.filters // problem.groups
    if problem.direction == "backward_data":
        own = problem.channels // problem.groups
    flops = 2 * rows * columns * own * matrix.groups
    filters = 4 * matrix.groups * columns * own
    # Every chunk passes over the filters, or over the gradient twice.
    passes = -(-rows // matrix.chunk)
    if problem.direction == "backward_weights":
        efficiency = tile_efficiency(machine, matrix.columns, own, matrix.chunk)
        passes *= 2
    else:
        efficiency = tile_efficiency(machine, matrix.chunk, own, columns)
    result = 0 if problem.direction == "backward_weights" else 4 * rows * own * matrix.groups
    # Filters that the cache holds are no traffic beside results; sums of a gradient come and go with every chunk.
    if filters > machine.l2_bytes:
        return Stage("multiply", "product", flops, passes * filters + result, efficiency=efficiency)
    if result:
        return Stage("multiply", "product", flops, result, efficiency=efficiency)
    return Stage("multiply", "product", flops, passes * filters, resident=True, efficiency=efficiency)


def _multiply_tiles(problem: Problem, machine: Machine, matrix: PatchMatrix) -> Stage:
    """In tiles of 32 rows by 32 columns; images are read from memory where they are the matrix, else when gathered."""
    rows, depth = matrix.shape
    own = matrix.filters
    tiles = -(-rows // TILE_ROWS) * -(-own // TILE_ROWS)
    gain = 2 * _TILES_GAIN // matrix.bytes
    efficiency = gain * rows * own / (tiles * TILE_ROWS**2) * depth / (depth + 2 * _FINISH_STEPS // matrix.bytes)
    traffic = matrix.bytes * rows * (own + (depth if in_place(problem) else 0))
    filters = matrix.bytes * depth * own
    if filters > machine.l2_bytes:
        traffic += -(-rows // matrix.chunk) * filters
    return Stage("multiply tiles", "product", 2 * rows * depth * own, traffic, efficiency=efficiency)


def turned_bytes(problem: Problem) -> int:
    """Scratch space for the filters that gradients by the data are multiplied with."""
    if problem.direction != "backward_data":
        return 0
    stored = padded(problem.channels) if problem.groups == 1 else problem.channels
    return problem.weight_bytes // problem.channels * stored
