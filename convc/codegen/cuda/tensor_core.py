"""Convolution of 16-bit images on tensor cores: which tile a block computes, in how many parts, and what that needs.

All three directions are products (implicit GEMM): M rows, N columns, sums of K terms.

    forward           M pixels of results, N filters, K taps and channels
    backward data     M pixels of images, N channels, K taps and filters; for each phase of the stride a product
    backward weights  M filters, N taps and channels, K pixels of results

A block computes TILE_M x TILE_N sums. Where tiles are too few for the GPU, the terms are split among PARTS blocks, and
a second kernel adds the parts in their order. Plans depend on sizes and architecture only, so results do, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil, prod

from convc.codegen.cuda.convolution_plan import (
    ConvolutionLaunch,
    ConvolutionPlan,
    plan_of_filters,
    plan_of_images,
    touched,
)
from convc.codegen.cuda.convolution_problem import ConvolutionProblem
from convc.lazy import dataclass
from convc.passes.algorithms.problem import Direction

# A tile and the number of parts.
Choice = tuple["MmaTile", int]

_FILES = ("tensor_core.cuh", "mma_tile.cuh", "conv_mma_pixels.cuh")
# Tiles below each other whose blocks run at the same time, so that what they read stays in the cache.
_BAND = 8
_MOST_PARTS = 64
_MOST_SCRATCH = 64 << 20


@dataclass(frozen=True)
class MmaTile:
    """The sums of a block and of a warp, the terms of a step, and how many steps shared memory holds."""

    tile_m: int
    tile_n: int
    warp_m: int
    warp_n: int
    tile_k: int = 32
    stages: int = 4

    @property
    def warps(self) -> int:
        return self.tile_m // self.warp_m * (self.tile_n // self.warp_n)

    @property
    def threads(self) -> int:
        return 32 * self.warps

    @property
    def shared_bytes(self) -> int:
        """Of operands, whose place the results of 16 rows of each warp take in the end."""
        operands = self.stages * (self.tile_m + self.tile_n) * self.tile_k * 2
        return max(operands, self.warps * 16 * (self.warp_n + 8) * 4)

    @property
    def blocks(self) -> int:
        """How many of them the registers of an SM are for: all 255 that a thread can have, or 170, or 128."""
        sums = self.warp_m * self.warp_n
        return (256 if sums > 64 * 32 else 384 if sums > 32 * 32 else 512) // self.threads

    def constants(self) -> dict[str, int]:
        names = ("tile_m", "tile_n", "tile_k", "warp_m", "warp_n", "stages")
        return {name.upper(): getattr(self, name) for name in names}


# Large tiles need the least data per sum; narrow ones waste little where there are few filters, or few pixels. Small
# ones come with twice as deep steps, too, which are half as many.
_LARGE = (
    MmaTile(256, 128, 64, 64),
    MmaTile(128, 128, 64, 64),
    MmaTile(128, 64, 64, 32),
    MmaTile(64, 128, 32, 64),
)
_SMALL = (
    (64, 64, 32, 32),
    (128, 32, 32, 32),
    (32, 128, 32, 32),
    (128, 16, 32, 16),
    (16, 128, 16, 32),
    (32, 32, 16, 16),
)
TILES = (*_LARGE, *(MmaTile(*sizes, depth) for depth in (32, 64) for sizes in _SMALL))


@dataclass(frozen=True, eq=False)
class MmaPlan(ConvolutionPlan):
    """Launches whose blocks compute a `tile`, with the terms in so many `parts`."""

    tile: MmaTile
    parts: int

    @classmethod
    def of(cls, plan: ConvolutionPlan, tile: MmaTile, parts: int) -> MmaPlan:
        return cls(plan.launches, plan.scratch_bytes, tile, parts)


@dataclass(frozen=True)
class _Device:
    """What the choice of a tile knows about an architecture: a usual product of it.

    Streaming multiprocessors, multiply-adds of tensor cores per cycle and SM, shared memory per SM, and whether shared
    memory is filled by asynchronous copies.
    """

    sms: int
    multiply_adds: int
    shared_per_sm: int
    asynchronous: bool = True


# T4, A100, RTX 3090, RTX 4090, H100 (what mma.sync reaches), B200 (likewise), RTX 5090.
_DEVICES = {
    75: _Device(40, 512, 64 << 10, asynchronous=False),
    80: _Device(108, 1024, 164 << 10),
    86: _Device(82, 256, 100 << 10),
    89: _Device(128, 256, 100 << 10),
    90: _Device(132, 1280, 228 << 10),
    100: _Device(148, 1024, 228 << 10),
    120: _Device(170, 256, 100 << 10),
}
# Assumed, not measured: cycles for a block's first operands and its results, for another launch, and for a read of a
# sum that is to be added; warps that keep an SM busy; bytes per cycle of all memory, and of the L2 cache for an SM.
_BLOCK_CYCLES, _LAUNCH_CYCLES, _READ_CYCLES, _BUSY_WARPS = 1500, 4000, 150, 8
_BYTES_PER_CYCLE, _CACHE_BYTES_PER_CYCLE = 1000, 32
# The share of what does not bound a step, but is not hidden behind what does, either.
_NOT_HIDDEN = 0.25
_SHARED_BYTES_PER_CYCLE, _SCHEDULERS = 128, 4
# From the machine code: instructions of a step for a chunk of 16 bytes, and others that are not for single fragments.
_CHUNK_INSTRUCTIONS, _STEP_INSTRUCTIONS = 18, 60


def plan_forward(problem: ConvolutionProblem, capability: int, choice: Choice | None = None) -> MmaPlan:
    """y from x and filters, both f16 or bf16. `capability` is the compute capability, 80: that of sm_80.

    `choice` is taken instead of what a model of the GPU finds best.
    """
    p = problem
    pixels, columns = p.oh * p.ow, p.k_stored - (p.groups - 1) * p.kg
    whole = p.c_stored % 8 == 0 and p.cg_stored % 8 == 0
    terms = p.r * p.s * p.cg_stored
    product = _Product(p.batch * pixels, columns, terms, p.groups, p.batch * pixels * p.k_stored, whole)
    tile, parts = choice or _choose(product, capability)
    return _plan_images(
        p, "forward", "conv_mma.cu", tile, parts, pixels, p.k_stored, columns, p.groups, lambda rows: rows * pixels
    )


def plan_data(problem: ConvolutionProblem, capability: int, choice: Choice | None = None) -> MmaPlan:
    """dx from dy and filters. Each phase of the stride is a product over its own taps: none is multiplied with 0."""
    p = problem
    phases, columns = p.stride_h * p.stride_w, p.c_stored - (p.groups - 1) * p.cg
    largest = ceil(p.h / p.stride_h) * ceil(p.w / p.stride_w)
    per_tap = p.k_stored if p.groups == 1 else p.kg
    whole = p.k_stored % 8 == 0 and p.cg_stored % 8 == 0 and (p.groups == 1 or p.kg % 8 == 0)
    terms = ceil(p.r / p.stride_h) * ceil(p.s / p.stride_w) * per_tap
    sums = p.batch * p.h * p.w * p.c_stored
    product = _Product(p.batch * largest, columns, terms, p.groups * phases, sums, whole)
    tile, parts = choice or _choose(product, capability)
    pixels = p.h * p.w
    files = ("window_taps.cuh", "conv_mma_data.cu")
    products = p.groups * phases
    return _plan_images(
        p, "backward_data", files, tile, parts, pixels, p.c_stored, columns, products, lambda rows: rows * largest
    )


def plan_filters(problem: ConvolutionProblem, capability: int, choice: Choice | None = None) -> MmaPlan:
    """dw from x and dy, in single precision."""
    p = problem
    columns = p.r * p.s * p.cg_stored
    whole = p.c_stored % 8 == p.k_stored % 8 == p.cg_stored % 8 == 0 and (p.groups == 1 or p.kg % 8 == 0)
    product = _Product(p.kg_stored, columns, p.batch * p.oh * p.ow, p.groups, p.filter_elements, whole)
    tile, parts = choice or _choose(product, capability)
    blocks = ceil(p.kg_stored / tile.tile_m) * ceil(columns / tile.tile_n), 1, p.groups * parts
    files = (*_FILES, "conv_mma_filters.cu")
    constants = _constants(tile, parts)
    main = ConvolutionLaunch(
        files,
        constants,
        lambda rows: blocks,
        tile.threads,
        shared_bytes=tile.shared_bytes,
        flops=p.flops,
        tensors=touched("backward_weights", split=parts > 1),
        tensor_cores=True,
    )
    return MmaPlan.of(plan_of_filters(main, parts, p.filter_elements), tile, parts)


def _plan_images(
    p: ConvolutionProblem,
    direction: Direction,
    files: str | tuple[str, ...],
    tile: MmaTile,
    parts: int,
    pixels: int,
    stored: int,
    columns: int,
    products: int,
    height: Callable[[int], int],
) -> MmaPlan:
    """A plan whose results are images; `height` maps rows to the rows of the (largest) product."""
    names = (files,) if isinstance(files, str) else files
    constants = _constants(tile, parts)
    tiles_n = ceil(columns / tile.tile_n)

    def grid(rows: int) -> tuple[int, int, int]:
        return ceil(height(rows) / tile.tile_m) * tiles_n, 1, products * parts

    main = ConvolutionLaunch(
        (*_FILES, *names),
        constants,
        grid,
        tile.threads,
        finishes=True,
        shared_bytes=tile.shared_bytes,
        flops=p.flops,
        tensors=touched(direction, split=parts > 1),
        tensor_cores=True,
    )
    return MmaPlan.of(plan_of_images(main, direction, parts, p.batch, pixels, stored), tile, parts)


def _constants(tile: MmaTile, parts: int) -> dict[str, int]:
    return {**tile.constants(), "PARTS": parts, "BAND": _BAND, "BLOCKS": tile.blocks}


# The choice


@dataclass(frozen=True)
class _Product:
    """`products` of `m` x `n` sums of `k` terms each; `sums` is how many sums are stored in all.

    `whole`: operands can be copied 16 bytes at a time.
    """

    m: int
    n: int
    k: int
    products: int
    sums: int
    whole: bool


def _choose(product: _Product, capability: int) -> tuple[MmaTile, int]:
    device = _DEVICES[max((known for known in _DEVICES if known <= capability), default=75)]
    staged = not (device.asynchronous and product.whole)
    found = min(
        (_cycles(product, tile, parts, device), -prod((tile.tile_m, tile.tile_n)), parts, number)
        for number, tile in enumerate(_tiles(device, staged))
        for parts in _part_counts(product, tile)
    )
    return tuple(_tiles(device, staged))[found[3]], found[2]


def _tiles(device: _Device, staged: bool) -> Iterator[MmaTile]:
    """The tiles that an architecture has the registers and the shared memory for, with their stages."""
    for tile in TILES:
        if staged and tile.warp_m * tile.warp_n > 64 * 32:
            continue  # what is fetched stays in registers, too
        stages = 2 if staged else 4 if device.shared_per_sm > 128 << 10 and tile.tile_k == 32 else 3
        yield MmaTile(tile.tile_m, tile.tile_n, tile.warp_m, tile.warp_n, tile.tile_k, stages)


def _part_counts(product: _Product, tile: MmaTile) -> Iterator[int]:
    """Into how many parts the terms may be split: each has at least four steps."""
    steps = ceil(product.k / tile.tile_k)
    parts = 1
    while parts == 1 or (parts <= min(_MOST_PARTS, steps // 4) and 4 * parts * product.sums <= _MOST_SCRATCH):
        yield parts
        parts += max(1, parts // 3)


def _cycles(product: _Product, tile: MmaTile, parts: int, device: _Device) -> float:
    """How long it takes, roughly: the SM with the most blocks, and what bounds its steps."""
    steps = ceil(ceil(product.k / tile.tile_k) / parts)
    blocks = ceil(product.m / tile.tile_m) * ceil(product.n / tile.tile_n) * product.products * parts
    fragments = tile.warps * (tile.warp_m + tile.warp_n) * tile.tile_k * 2
    operands = (tile.tile_m + tile.tile_n) * tile.tile_k * 2
    instructions = tile.tile_k // 16 * (tile.warp_m * tile.warp_n // 128 + (tile.warp_m + tile.warp_n) // 16)
    instructions += _CHUNK_INSTRUCTIONS * operands // 16 // tile.threads + _STEP_INSTRUCTIONS
    bounds = (
        tile.tile_m * tile.tile_n * tile.tile_k / device.multiply_adds,
        (fragments + operands) / _SHARED_BYTES_PER_CYCLE,
        operands / _CACHE_BYTES_PER_CYCLE,
        tile.warps * instructions / _SCHEDULERS,
    )
    step = (1 - _NOT_HIDDEN) * max(bounds) + _NOT_HIDDEN * sum(bounds)
    on_one = ceil(blocks / device.sms)
    fitting = max(1, min(device.shared_per_sm // (tile.shared_bytes + 1024), tile.blocks, on_one))
    busy = min(1.0, fitting * tile.warps / _BUSY_WARPS)
    cycles = on_one * (steps * step / busy + _BLOCK_CYCLES / fitting)
    if parts > 1:
        cycles += _LAUNCH_CYCLES + _READ_CYCLES * parts + 8 * parts * product.sums / _BYTES_PER_CYCLE
    return cycles
