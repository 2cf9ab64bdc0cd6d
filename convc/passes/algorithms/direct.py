"""Direct convolution: the definition as a loop nest, always possible (codegen/llvm/direct.py, weight_gradient.py).

Groups of few channels have kernels of their own (codegen/llvm/depthwise.py, depthwise_gradient.py).
"""

from __future__ import annotations

import math
from functools import cache

from convc.ir.types import DType
from convc.passes.algorithms.algorithm import Algorithm, Stage
from convc.passes.algorithms.bands import images_at_once, rows_at_once
from convc.passes.algorithms.parts import parts_of
from convc.passes.algorithms.patches import in_place
from convc.passes.algorithms.problem import Problem
from convc.passes.group_lanes import fits_lanes, gradient_efficiency, gradient_tiles, pixels_efficiency
from convc.passes.layout import padded
from convc.passes.machine import Machine, split_lanes
from convc.passes.tiling import choose_tile, column_blocks, most_rows, tile_runs

_MOST_PARTS = 8
_FEW_CHANNELS = 8
_LINE = 64  # bytes
# Products of vectors that a tile does at a position: with so many it does not notice that its operands come from the
# second-level cache (docs/performance-log.md).
_WAITS = 24
# A gradient of so many second-level caches is in a third one while it is added up.
_NEAR = 4
# How many times faster pairs of positions are added up, which have to be interleaved (docs/performance-log.md).
_POSITIONS_GAIN = 1.5


@cache
def tile_efficiency(machine: Machine, width: int, columns: int, reduction: int) -> float:
    """The share of a product's full speed that register tiles reach: rows of `width` pixels by `columns` outputs.

    A tile of m rows by v vectors does m·v multiply-adds for v vector loads and m scalar loads; two of the machine's
    ports multiply, two load. Filling and storing the sums costs once per `reduction` steps.
    """
    tile = choose_tile(machine, width, columns)
    spent = 0.0
    for block, blocks in column_blocks(padded(columns), tile.block):
        vectors = len(split_lanes(block, machine.lanes))
        for run, runs in tile_runs(width, min(most_rows(machine, tile.vectors), 16)):
            multiplies = run * vectors
            loads = run + vectors if not machine.broadcast_operand else max(run, multiplies / 2) + vectors
            step = max(multiplies, loads) / 2
            # Latency: fewer sums than the multipliers' pipelines are deep leave them waiting.
            step = max(step, 4.0)
            spent += blocks * runs * (step * reduction + 1.5 * multiplies)
    wanted = width * columns / machine.lanes / 2 * reduction
    return min(1.0, wanted / spent)


def multiplies_pairs(problem: Problem, machine: Machine) -> bool:
    """Whether the kernel of a problem adds up products of bfloat16 numbers two at a time, of neighbouring channels."""
    if not machine.dot_bf16 or problem.dtype is not DType.BF16 or problem.direction == "backward_weights":
        return False
    # A single channel has no neighbour, and a single output no vector.
    return problem.groups == 1 and min(problem.channels, problem.filters) > 1


def multiplies_positions(problem: Problem, machine: Machine) -> bool:
    """Whether a gradient by the filters, with channels enough for tiles of one tap, adds up products of bfloat16
    numbers two at a time, of neighbouring positions."""
    columns = problem.filters // problem.groups
    columns = padded(columns) if problem.groups == 1 else columns
    wide = columns > machine.lanes and columns % 4 == 0
    return machine.dot_bf16 and problem.dtype is DType.BF16 and problem.direction == "backward_weights" and wide


def products_at_once(problem: Problem, machine: Machine) -> int:
    """How many products of neighbouring channels the kernel of a problem adds to each sum at a time; a quarter of the
    time is needed for whole numbers only where the processor has an instruction for them."""
    if problem.dtype is DType.Q8:
        return 4 if machine.dot_int8 else 1
    return 2 if multiplies_pairs(problem, machine) else 1


class Direct(Algorithm):
    """No transform, no copy of the images, no multiplication by padding."""

    name = "direct"
    family = "direct"

    def obstacle(self, problem: Problem) -> str | None:
        return None

    def stages(self, problem: Problem, machine: Machine) -> tuple[Stage, ...]:
        per_filter = problem.channels // problem.groups
        per_channel = problem.filters // problem.groups
        if fits_lanes(machine, problem.groups, per_filter, per_channel):
            return self._across_groups(problem, machine)
        traffic = problem.image_bytes + problem.result_bytes + problem.weight_bytes
        if problem.direction == "backward_weights":
            # Where channels are few, a tile takes the taps of a filter row together, without padding those of all rows.
            merged = per_filter < _FEW_CHANNELS and problem.kernel != (1, 1)
            taps = problem.taps if merged and not any(problem.padding) else problem.kernel[1] if merged else 1
            passes = self._passes(problem)
            # Images of which each pixel is looked at alone are one long row.
            positions = problem.batch * problem.output[0] * problem.output[1] // passes
            run = positions if in_place(problem) else problem.output[1]
            efficiency = tile_efficiency(machine, per_filter * taps, per_channel, run)
            if not merged and multiplies_positions(problem, machine):
                efficiency *= _POSITIONS_GAIN
            product = Stage("convolve", "product", problem.flops, traffic, efficiency=efficiency)
            near = problem.weight_bytes <= _NEAR * machine.l2_bytes
            sums = Stage("add sums up", "copy", 0, 2 * passes * problem.weight_bytes, resident=near)
            return (product, *self._again(problem, machine), sums)
        at_once = products_at_once(problem, machine)
        if problem.direction == "forward":
            steps = -(-per_filter // at_once) * problem.taps
            efficiency = at_once * tile_efficiency(machine, problem.output[1], per_channel, steps)
        else:
            taps = max(1, problem.taps // (problem.stride[0] * problem.stride[1]))
            width = -(-problem.size[1] // problem.stride[1])
            efficiency = at_once * tile_efficiency(machine, width, per_filter, -(-per_channel // at_once) * taps)
        product = Stage("convolve", "product", problem.flops, traffic, efficiency=efficiency)
        if problem.direction == "backward_data":
            return Stage("transpose filters", "copy", 0, 2 * problem.weight_bytes), product
        return (product,)

    def _across_groups(self, problem: Problem, machine: Machine) -> tuple[Stage, ...]:
        """Few channels in a group: vectors span groups, and nothing is read twice but what lies in the cache."""
        groups, stride, kernel = problem.groups, problem.stride, problem.kernel
        channels, outputs = problem.channels // groups, problem.filters // groups
        traffic = problem.image_bytes + problem.result_bytes + problem.weight_bytes
        if problem.direction == "backward_weights":
            efficiency = gradient_efficiency(machine, kernel, stride[1], channels, outputs, groups)
            product = Stage("convolve", "product", problem.flops, traffic, efficiency=efficiency)
            rows, columns, own = gradient_tiles(machine, kernel, channels)
            passes = -(-kernel[0] // rows) * -(-kernel[1] // columns) * -(-channels // own)
            again = (passes - 1) * (problem.image_bytes + problem.result_bytes)
            return (product, Stage("read images again", "copy", 0, again, resident=True)) if again else (product,)
        if problem.direction == "forward":
            taps = float(kernel[0]), float(kernel[1])
            efficiency = pixels_efficiency(machine, problem.output[1], taps, stride[1], channels, outputs, groups)
        else:
            taps = kernel[0] / stride[0], kernel[1] / stride[1]
            width = -(-problem.size[1] // stride[1])
            efficiency = pixels_efficiency(machine, width, taps, 1, outputs, channels, groups)
        product = Stage("convolve", "product", problem.flops, traffic, efficiency=efficiency)
        if problem.direction == "backward_data" and channels * outputs > 1:
            return Stage("transpose filters", "copy", 0, 2 * problem.weight_bytes), product
        return (product,)

    def _passes(self, problem: Problem) -> int:
        """How many times the sums of a gradient by the filters come from memory and go back to it: once for each chunk
        of images or band of an image, which the tiles take one after the other."""
        pixel = problem.image_bytes // problem.batch // (problem.output[0] * problem.output[1])
        position = pixel + 4 * problem.filters
        height, width = problem.output
        bands = -(-height // rows_at_once(height, width, position))
        return bands * -(-problem.batch // images_at_once(height * width * position))

    def _again(self, problem: Problem, machine: Machine) -> tuple[Stage, ...]:
        """What a gradient by the filters reads again: a tile passes over all positions, and reads lines of both images
        there. A large tile has the time to wait for them, a small one only for images that are near."""
        per_filter, per_channel = problem.channels // problem.groups, problem.filters // problem.groups
        tile = choose_tile(machine, per_filter * problem.taps, per_channel)
        near = 2 * (problem.image_bytes + problem.result_bytes) <= problem.batch * machine.l2_bytes
        if near or tile.rows * tile.vectors >= _WAITS:
            return ()
        tiles = problem.groups * -(-per_filter * problem.taps // tile.rows) * -(-per_channel // tile.block)
        positions = problem.batch * problem.output[0] * problem.output[1]
        lines = 1 + -(-problem.dtype.bytes * tile.block // _LINE)
        return (Stage("read images again", "copy", 0, tiles * positions * lines * _LINE, resident=True),)

    def scratch_bytes(self, problem: Problem, machine: Machine) -> int:
        stored = 4 * problem.taps * padded(problem.channels) * padded(problem.filters)
        if problem.direction == "forward":
            return 0
        if problem.direction == "backward_data":
            return stored
        images = problem.size[0] * problem.size[1] * padded(problem.channels)
        images += problem.output[0] * problem.output[1] * padded(problem.filters)
        parts = max(_MOST_PARTS, parts_of(problem.batch * images, problem.weight_bytes // 4))
        return parts * (stored + 4 * padded(problem.filters))

    def max_rel_error(self, problem: Problem) -> float:
        """Rounding errors of a sum grow with the root of its length."""
        if problem.direction == "backward_weights":
            terms = problem.batch * problem.output[0] * problem.output[1]
        else:
            own = problem.channels if problem.direction == "forward" else problem.filters
            terms = problem.taps * own // problem.groups
        return 9e-8 * math.sqrt(16 + terms)
