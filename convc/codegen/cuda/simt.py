"""Convolutions on CUDA cores: tiles, parts and launches for a problem.

Three kernels are matrix products (`conv_simt*.cu`), three more are for few channels in a group (`conv_depthwise*.cu`).
What is chosen here depends on shapes only, never on the rows of a run or the GPU, so that sums are added in the same
order everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from math import gcd

from convc.codegen.cuda.architectures import SHARED_PER_BLOCK
from convc.codegen.cuda.convolution_plan import (
    ConvolutionLaunch,
    ConvolutionPlan,
    divide_up,
    plan_of_filters,
    plan_of_images,
    touched,
)
from convc.codegen.cuda.convolution_problem import ConvolutionProblem
from convc.lazy import dataclass
from convc.passes.algorithms.problem import Direction


@dataclass(frozen=True)
class Tile:
    """Sums of a block and of a thread, and how much of a multiprocessor's arithmetic such a thread can use: it reads
    `sums_m + sums_n` numbers from shared memory for `sums_m * sums_n` products."""

    m: int
    n: int
    sums_m: int
    sums_n: int
    efficiency: float

    @property
    def threads(self) -> int:
        return self.m // self.sums_m * (self.n // self.sums_n)


TILES = (
    Tile(128, 128, 8, 8, 1.0),
    Tile(128, 64, 8, 4, 0.85),
    Tile(128, 32, 8, 4, 0.8),
    Tile(64, 64, 4, 4, 0.7),
    Tile(64, 32, 4, 4, 0.65),
    Tile(32, 64, 4, 4, 0.65),
    Tile(32, 32, 4, 4, 0.6),
)
PARTS = (1, 2, 4, 8, 16, 32, 64)
# Multiprocessors of a large GPU, and threads that keep one busy: two warps for each of its four parts.
_MULTIPROCESSORS = 128
_BUSY_THREADS = 256
# Steps that a part should have at least, for its prologue and epilogue to be worth it.
_FEWEST_STEPS = 4
# What a sum's way through scratch space and a second launch cost, in multiply-adds of the whole GPU: they are 8 bytes
# at 10 operations per byte, and 2 microseconds at 20 * 10^12 operations per second.
_SCRATCH_COST = 40
_LAUNCH_COST = 20_000_000
_TILE_FILE = "simt_tile.cuh"
_TAPS_FILE = "window_taps.cuh"


@dataclass(frozen=True)
class _Product:
    """A direction as `count` products of matrices of the extents `m` and `n`, with `depth` terms in each sum.

    `vector` terms of a line are read at once; 0 if memory has neighbouring lines instead.
    """

    m: int
    n: int
    depth: int
    count: int
    vector: int

    def tile_k(self, tile: Tile) -> int:
        """Terms of a step: 32 bytes of floats of a line, or twice that where a tile has more threads than vectors."""
        return 8 if self.vector == 1 or tile.sums_n == 8 else 16

    def steps(self, tile: Tile) -> int:
        return divide_up(self.depth, self.tile_k(tile))

    def cost(self, tile: Tile, parts: int) -> float:
        """Multiply-adds that a whole large GPU could do in the time."""
        blocks = divide_up(self.m, tile.m) * divide_up(self.n, tile.n) * self.count * parts
        depth = divide_up(self.steps(tile), parts) * self.tile_k(tile)
        # A multiprocessor has one block at least, and works as far as its threads have something to do.
        spread = max(blocks, _MULTIPROCESSORS)
        busy = min(1.0, spread / _MULTIPROCESSORS * tile.threads / _BUSY_THREADS)
        cost = spread * tile.m * tile.n * depth / (tile.efficiency * busy)
        return cost + (_LAUNCH_COST + _SCRATCH_COST * self.m * self.n * self.count * parts if parts > 1 else 0)

    def choose(self) -> tuple[Tile, int]:
        """The tile and the number of parts that should take the least time.

        Terms read one by one have more places than a thread of the largest tile has registers for.
        """
        choices = [
            (tile, parts)
            for tile, parts in product(TILES, PARTS)
            if (parts == 1 or self.steps(tile) >= parts * _FEWEST_STEPS) and (tile is not TILES[0] or self.vector != 1)
        ]
        return min(choices, key=lambda choice: self.cost(*choice))


def _vector(problem: ConvolutionProblem, stored: int, of_group: int) -> int:
    """How many neighbouring channels a thread reads at once: as `vector_of` in the kernels."""
    return 4 if (stored if problem.groups == 1 else of_group) % 4 == 0 else 1


def _tile_constants(shape: _Product, tile: Tile, parts: int) -> dict[str, int | str]:
    return {
        "TILE_M": tile.m,
        "TILE_N": tile.n,
        "TILE_K": shape.tile_k(tile),
        "SUMS_M": tile.sums_m,
        "SUMS_N": tile.sums_n,
        "PARTS": parts,
        "SPLIT": str(int(parts > 1)),
        # Half of a multiprocessor's registers are for one block of the largest tile.
        "BLOCKS": 2 if tile.threads == 256 else 4,
    }


def plan_forward(
    problem: ConvolutionProblem,
    choice: tuple[Tile, int] | None = None,
) -> ConvolutionPlan:
    """Convolution: X and FILTERS to `finish`. `choice` fixes the tile and the parts."""
    if choice is None and few_channels(problem, problem.cg):
        return _plan_depthwise(problem)
    p, pixels = problem, problem.oh * problem.ow
    vector = _vector(p, p.c_stored, p.cg)
    last = p.k_stored - (p.groups - 1) * p.kg
    shape = _Product(p.batch * pixels, last, p.r * p.s * divide_up(p.cg, vector) * vector, p.groups, vector)
    tile, parts = choice or shape.choose()
    tiles_n = divide_up(last, tile.n)
    main = ConvolutionLaunch(
        (_TILE_FILE, "conv_simt.cu"),
        _tile_constants(shape, tile, parts),
        lambda rows: (divide_up(rows * pixels, tile.m) * tiles_n, 1, p.groups * parts),
        tile.threads,
        finishes=parts == 1,
        flops=p.flops,
        tensors=touched("forward", split=parts > 1),
    )
    return plan_of_images(main, "forward", parts, p.batch, pixels, p.k_stored)


def plan_data(
    problem: ConvolutionProblem,
    choice: tuple[Tile, int] | None = None,
) -> ConvolutionPlan:
    """Gradient by the images: DY and FILTERS to `finish`. `choice` fixes the tile and the parts."""
    if choice is None and few_channels(problem, problem.kg):
        return _plan_depthwise_data(problem)
    p = problem
    vector = _vector(p, p.k_stored, p.kg)
    last = p.c_stored - (p.groups - 1) * p.cg
    phase_pixels, phases = divide_up(p.h, p.stride_h) * divide_up(p.w, p.stride_w), p.stride_h * p.stride_w
    period_h, period_w = _period(p.stride_h, p.dilation_h), _period(p.stride_w, p.dilation_w)
    taps = divide_up(p.r, period_h) * divide_up(p.s, period_w)
    depth = taps * divide_up(p.kg, vector) * vector
    shape = _Product(p.batch * phase_pixels, last, depth, p.groups * phases, vector)
    tile, parts = choice or shape.choose()
    tiles_n = divide_up(last, tile.n)
    main = ConvolutionLaunch(
        (_TAPS_FILE, _TILE_FILE, "conv_simt_data.cu"),
        _tile_constants(shape, tile, parts),
        lambda rows: (divide_up(rows * phase_pixels, tile.m) * tiles_n, 1, p.groups * parts * phases),
        tile.threads,
        finishes=parts == 1,
        flops=p.flops,
        tensors=touched("backward_data", split=parts > 1),
    )
    return plan_of_images(main, "backward_data", parts, p.batch, p.h * p.w, p.c_stored)


def plan_filters(
    problem: ConvolutionProblem,
    choice: tuple[Tile, int] | None = None,
) -> ConvolutionPlan:
    """Gradient by the filters: X and DY to DFILTERS. `choice` fixes the tile and the parts."""
    if choice is None and problem.groups > 1 and problem.cg <= FEW_CHANNELS and problem.s <= _MOST_TAPS:
        return _plan_depthwise_filters(problem)
    p, pixels = problem, problem.oh * problem.ow
    channels = 4 * divide_up(p.cg, 4) if _vector(p, p.c_stored, p.cg) == 4 else p.cg
    shape = _Product(p.kg_stored, p.r * p.s * channels, p.batch * pixels, p.groups, 0)
    tile, parts = choice or shape.choose()
    blocks = divide_up(shape.m, tile.m) * divide_up(shape.n, tile.n)
    main = ConvolutionLaunch(
        (_TILE_FILE, "conv_simt_filters.cu"),
        _tile_constants(shape, tile, parts),
        lambda rows: (blocks, 1, p.groups * parts),
        tile.threads,
        flops=p.flops,
        tensors=touched("backward_weights", split=parts > 1),
    )
    return plan_of_filters(main, parts, p.filter_elements)


def _period(stride: int, dilation: int) -> int:
    """Every which tap meets a pixel at all."""
    return stride // gcd(stride, dilation)


# Few channels in a group

FEW_CHANNELS = 4
_DEPTHWISE_THREADS = 128
_MOST_VECTORS = 32  # channel vectors of a block: a warp reads whole lines of memory
_MOST_TAPS = 16  # in a row of a filter: its weights or sums are in registers
# Pixels of a thread, next to each other, and how many times it takes so many with the same filters.
_SPAN = 4
_REPEATS = 4
_MOST_PARTS = 64
# Threads of a multiprocessor that keep its memory busy.
_MEMORY_THREADS = 1024


def _shared_filters(problem: ConvolutionProblem, source_group: int, channels: int) -> int:
    """Bytes of the filters of so many channels in shared memory."""
    return 4 * problem.r * problem.s * source_group * channels


def few_channels(problem: ConvolutionProblem, source_group: int) -> bool:
    """Whether the kernels for few channels in a group are right for images or their gradient; `source_group` is how
    many channels of what is read a group has."""
    fits = _shared_filters(problem, source_group, 4) <= SHARED_PER_BLOCK and problem.s <= _MOST_TAPS
    return problem.groups > 1 and problem.cg <= FEW_CHANNELS and fits


def _channel_vector(problem: ConvolutionProblem, stored: int, of_group: int) -> int:
    """V of `depthwise.cuh`."""
    apart = problem.groups > 1 and of_group % 4 and 4 % of_group
    return 1 if stored % 4 or apart else 4


def _block_vectors(vectors: int, most: int = _MOST_VECTORS) -> int:
    """Channel vectors of a block: all blocks get about as many, and few threads are idle."""
    return divide_up(vectors, divide_up(vectors, max(1, min(most, _MOST_VECTORS))))


def _depthwise_constants(problem: ConvolutionProblem, source_group: int, vector: int, stored: int) -> dict[str, int]:
    """How a block's threads divide `stored` channels. Its filters take half of what it may have of shared memory."""
    fitting = SHARED_PER_BLOCK // 2 // _shared_filters(problem, source_group, vector)
    return {"BLOCK_VECTORS": _block_vectors(divide_up(stored, vector), fitting), "SPAN": _SPAN, "REPEATS": _REPEATS}


def _depthwise_plan(
    p: ConvolutionProblem,
    direction: Direction,
    files: tuple[str, ...],
    constants: Mapping[str, int | str],
    vector: int,
    stored: int,
    items: int,
) -> ConvolutionPlan:
    """`items` are the groups of pixels of an image that a thread takes at once."""
    block_vectors, repeats = constants["BLOCK_VECTORS"], constants["REPEATS"]
    assert isinstance(block_vectors, int)
    assert isinstance(repeats, int)
    lanes = max(1, _DEPTHWISE_THREADS // block_vectors)
    blocks_y = divide_up(stored, vector * block_vectors)
    main = ConvolutionLaunch(
        files,
        constants,
        lambda rows: (divide_up(rows * items, lanes * repeats), blocks_y, 1),
        lanes * block_vectors,
        finishes=True,
        write=lambda: f"typedef {'Cotangent' if direction == 'backward_data' else 'Image'} Source;",
        flops=p.flops,
        tensors=touched(direction, split=False),
    )
    return ConvolutionPlan((main,), 0)


def _forward_window(problem: ConvolutionProblem) -> dict[str, int | str]:
    """How results meet images: the constants of `depthwise.cuh`."""
    p = problem
    return {
        "RESULT_GROUP": p.kg,
        "RESULT_STORED": p.k_stored,
        "SOURCE_GROUP": p.cg,
        "SOURCE_STORED": p.c_stored,
        "SOURCE_H": p.h,
        "SOURCE_W": p.w,
        "MOVE_W": p.stride_w,
        "STEP_H": p.dilation_h,
        "STEP_W": p.dilation_w,
        "MOST_W": p.s,
    }


def _plan_depthwise(problem: ConvolutionProblem) -> ConvolutionPlan:
    p = problem
    vector = _channel_vector(p, p.k_stored, p.kg)
    constants = {**_forward_window(p), **_depthwise_constants(p, p.cg, vector, p.k_stored)}
    items = p.oh * divide_up(p.ow, _SPAN)
    files = ("depthwise.cuh", "conv_depthwise.cu")
    return _depthwise_plan(p, "forward", files, constants, vector, p.k_stored, items)


def _plan_depthwise_data(problem: ConvolutionProblem) -> ConvolutionPlan:
    p = problem
    vector = _channel_vector(p, p.c_stored, p.cg)
    period_h, period_w = _period(p.stride_h, p.dilation_h), _period(p.stride_w, p.dilation_w)
    constants = {
        "RESULT_GROUP": p.cg,
        "RESULT_STORED": p.c_stored,
        "SOURCE_GROUP": p.kg,
        "SOURCE_STORED": p.k_stored,
        "SOURCE_H": p.oh,
        "SOURCE_W": p.ow,
        "MOVE_W": 1,
        "STEP_H": -(period_h * p.dilation_h // p.stride_h),
        "STEP_W": -(period_w * p.dilation_w // p.stride_w),
        "MOST_W": divide_up(p.s, period_w),
        **_depthwise_constants(p, p.kg, vector, p.c_stored),
    }
    items = p.h * p.stride_w * divide_up(divide_up(p.w, p.stride_w), _SPAN)
    files = (_TAPS_FILE, "depthwise.cuh", "conv_depthwise_data.cu")
    return _depthwise_plan(p, "backward_data", files, constants, vector, p.c_stored, items)


def _plan_depthwise_filters(problem: ConvolutionProblem, parts: int | None = None) -> ConvolutionPlan:
    p = problem
    vector = _channel_vector(p, p.k_stored, p.kg)
    vectors = divide_up(p.k_stored, vector)
    block_vectors = _block_vectors(vectors)
    lanes = max(1, _DEPTHWISE_THREADS // block_vectors)
    blocks_y, blocks_z = divide_up(vectors, block_vectors), p.r * p.cg_stored
    if parts is None:
        # Enough blocks for a large GPU, each with a few groups of pixels for every thread.
        busy = _MULTIPROCESSORS * _MEMORY_THREADS
        wanted = divide_up(busy, blocks_y * blocks_z * lanes * block_vectors)
        most = divide_up(p.batch * p.oh * divide_up(p.ow, _SPAN), lanes * _REPEATS)
        parts = max(1, min(wanted, most, _MOST_PARTS))
    constants: dict[str, int | str] = {
        **_forward_window(p),
        "BLOCK_VECTORS": block_vectors,
        "SPAN": _SPAN,
        "PARTS": parts,
        "SPLIT": str(int(parts > 1)),
        # Lanes are added as a tree, whose first step this is.
        "HALF_LANES": 1 << (lanes - 1).bit_length() >> 1,
    }
    main = ConvolutionLaunch(
        ("depthwise.cuh", "conv_depthwise_filters.cu"),
        constants,
        lambda rows: (parts, blocks_y, blocks_z),
        lanes * block_vectors,
        write=lambda: "typedef Image Source;",
        flops=p.flops,
        tensors=touched("backward_weights", split=parts > 1),
    )
    return plan_of_filters(main, parts, p.filter_elements)
