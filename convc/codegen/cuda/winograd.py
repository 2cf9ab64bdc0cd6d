"""Convolutions by Winograd's algorithms: when they apply, and the launches they consist of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal

from convc.codegen.cuda.architectures import WARP, Architecture
from convc.codegen.cuda.codelet import function_of_tile
from convc.codegen.cuda.convolution_plan import ConvolutionLaunch, ConvolutionPlan, divide_up, plan_of_filters, touched
from convc.codegen.cuda.transform import BLOCKS, FLOAT, MOST_PART_BYTES, Constants, Sides, in_a_row, source_of
from convc.ir.window import Pair
from convc.lazy import dataclass
from convc.passes.algorithms.straight_line import StraightLine
from convc.passes.algorithms.toom_cook import ToomCook, toom_cook
from convc.passes.algorithms.winograd import WINOGRAD

if TYPE_CHECKING:
    from convc.codegen.cuda.convolution_problem import ConvolutionProblem

# A part of a gradient by filters has so many chunks of tiles at least.
_FEWEST_CHUNKS = 8
# Algorithms with more products than this have more sums than a thread has registers.
_MOST_POINTS = 36
_MOST_NUMBERS = (1 << 31) - 1


def winograd_algorithms(p: ConvolutionProblem) -> tuple[str, ...]:
    """The names of Winograd's algorithms that apply, in any direction: `winograd_f4x3` and so on."""
    if (p.stride_h, p.stride_w, p.dilation_h, p.dilation_w, p.groups) != (1, 1, 1, 1, 1):
        return ()
    # Kernels count numbers of images with 32 bits.
    if max(p.batch * p.h * p.w * p.c_stored, p.batch * p.oh * p.ow * p.k_stored) > _MOST_NUMBERS:
        return ()
    names = (each.name for each in WINOGRAD if (p.r, p.s) in each.errors)
    return tuple(name for name in names if _Tile.of(p, name).points <= _MOST_POINTS)


@dataclass(frozen=True)
class _Tile:
    """The form of a two-dimensional algorithm: F(outputs, kernel) along each axis, from `extent` pixels."""

    outputs: Pair
    kernel: Pair

    @classmethod
    def of(cls, p: ConvolutionProblem, name: str) -> _Tile:
        (outputs,) = (each.outputs for each in WINOGRAD if each.name == name)
        return cls((outputs if p.r > 1 else 1, outputs if p.s > 1 else 1), (p.r, p.s))

    @property
    def extent(self) -> Pair:
        return self.outputs[0] + self.kernel[0] - 1, self.outputs[1] + self.kernel[1] - 1

    @property
    def points(self) -> int:
        return self.extent[0] * self.extent[1]

    @property
    def constants(self) -> Constants:
        (down, across), (height, width) = self.outputs, self.extent
        return {"OUTPUTS_H": down, "OUTPUTS_W": across, "EXTENT_H": height, "EXTENT_W": width}

    def codelet(self, name: str, part: Callable[[ToomCook], StraightLine]) -> str:
        """The function that does a part of the algorithms along both axes."""
        down, across = (toom_cook(*axis) for axis in zip(self.outputs, self.kernel, strict=True))
        return function_of_tile(name, part(down), part(across))


@dataclass(frozen=True)
class WinogradBlock:
    """What a block of threads computes: `rows` x `columns` sums for each point, from chunks of `depth` products, of
    which `stages` are in shared memory. Outputs are made in `rounds`, by threads that take `vector` of them."""

    points: int
    rows: int
    columns: int
    threads: int
    depth: int
    stages: int
    rounds: int
    vector: int
    shared_bytes: int


def _sums_of(points: int, columns: int) -> tuple[int, int, int]:
    """Rows and columns of a block, and points of a warp, where there are `columns` of them in all.

    A thread has 96 or 128 sums. So most registers are sums, and there is one block on an SM: that is the most that is
    made of a number in shared memory.
    """
    if points > 16:
        return 32, 32, 3
    if points > 8:
        return (32, 64, 2) if columns > 32 else (64, 32, 2)
    return (64, 64, 1) if columns > 32 else (128, 32, 1)


def _block(
    points: int, columns: int, vector: int, choices: Iterable[Pair], padding: Callable[[int], int], limit: int
) -> WinogradBlock:
    """The block for `columns` columns with the first of the `choices` of depth and stages that fits into `limit` bytes
    of shared memory. Rows of sums' operands there are `padding(depth)` numbers longer."""
    rows, of_block, of_warp = _sums_of(points, columns)
    threads = points // of_warp * WARP
    # As many rounds as leave each thread one set of outputs.
    of_thread = rows // 4
    fitting = (n for n in range(1, of_thread) if of_thread % n == 0 and rows // n * of_block <= threads * vector)
    rounds = next(fitting, of_thread)
    for depth, stages in choices:
        floats = max(stages * depth * (rows + padding(depth) + of_block), rows // rounds * of_block)
        if FLOAT * points * floats <= limit:
            bytes = FLOAT * points * floats
            return WinogradBlock(points, rows, of_block, threads, depth, stages, rounds, vector, bytes)
    raise ValueError(f"{points} points do not fit into {limit} bytes of shared memory")


def winograd(
    p: ConvolutionProblem, direction: Literal["forward", "backward_data"], name: str, architecture: Architecture
) -> ConvolutionPlan:
    """A convolution, or its gradient by the images, by the algorithm `name`, one of `winograd_algorithms`."""
    tile, sides = _Tile.of(p, name), Sides.of(p, direction)
    # Of large tiles a thread can hold one.
    vector = 1 if sides.results_stored == 1 or tile.points > 16 else 4
    # Without asynchronous copies filters wait in registers, which do not do for two stages.
    depths = (4,) if sides.stored <= 4 else (8, 4)
    choices = [(depth, stages) for stages in ((2, 1) if architecture.cp_async else (1,)) for depth in depths]
    # Neighbouring lanes store `depth` rows of neighbouring tiles: rows are so long that these take all banks.
    block = _block(
        tile.points, sides.results_stored, vector, choices, lambda depth: WARP // depth, architecture.shared_opt_in
    )
    chunks = divide_up(sides.stored, block.depth)
    filter_blocks = divide_up(sides.results_stored, block.columns)
    constants: Constants = {
        **tile.constants,
        "INNER_STORED": sides.stored,
        "IMAGE_H": sides.image[0],
        "IMAGE_W": sides.image[1],
        "RESULT_STORED": sides.results_stored,
        "RESULT_H": sides.result[0],
        "RESULT_W": sides.result[1],
        "BEFORE_H": sides.before[0],
        "BEFORE_W": sides.before[1],
        "BLOCK_TILES": block.rows,
        "BLOCK_FILTERS": block.columns,
        "FILTER_BLOCKS": filter_blocks,
        "DEPTH": block.depth,
        "CHUNKS": chunks,
        "STAGES": block.stages,
        "ROUNDS": block.rounds,
        "VECTOR": block.vector,
        "ASYNCHRONOUS": "1" if block.stages == 2 else "0",
        "TURNED": int(direction == "backward_data"),
    }
    filter_threads = block.columns * min(block.depth, 256 // block.columns)
    tiles = sides.tiles(tile.outputs)
    scratch = FLOAT * filter_blocks * chunks * block.points * block.depth * block.columns
    filters = ConvolutionLaunch(
        files=("winograd_filters.cu",),
        constants=constants,
        write=lambda: tile.codelet("transform_filters", lambda axis: axis.filter),
        grid=lambda rows: (filter_blocks * chunks, divide_up(block.depth * block.columns, filter_threads), 1),
        threads=filter_threads,
        tensors={"w": 1.0},
        scratch_moved=scratch,
    )
    convolution = ConvolutionLaunch(
        files=("point_products.cuh", "winograd.cu"),
        constants=constants,
        write=lambda: "\n".join(
            [
                source_of(direction),
                tile.codelet("transform_images", lambda axis: axis.image),
                tile.codelet("transform_outputs", lambda axis: axis.output),
            ]
        ),
        grid=lambda rows: in_a_row(divide_up(rows * tiles, block.rows) * filter_blocks),
        threads=block.threads,
        finishes=True,
        shared_bytes=block.shared_bytes,
        flops=_flops(p, tile, tiles),
        tensors={"x": 1.0, "y": 1.0},
        scratch_moved=scratch,
    )
    return ConvolutionPlan((filters, convolution), scratch)


def _flops(p: ConvolutionProblem, tile: _Tile, tiles: int) -> int:
    """Of the products of all points of the tiles of all images."""
    return 2 * p.batch * tiles * tile.points * p.c * p.k


def winograd_gradient(p: ConvolutionProblem, name: str, architecture: Architecture) -> ConvolutionPlan:
    """The gradient by the filters, by the algorithm `name`, one of `winograd_algorithms`."""
    tile, sides = _Tile.of(p, name), Sides.of(p, "backward_weights")
    # A thread holds one tile, of pixels or of cotangents, where the tiles are large.
    depths = (4,) if tile.points > 16 else (8, 4)
    choices = [(depth, stages) for stages in (2, 1) for depth in depths]
    block = _block(tile.points, p.cg_stored, 1, choices, lambda depth: 0, architecture.shared_opt_in)
    filter_blocks, channel_blocks = divide_up(p.kg_stored, block.rows), divide_up(p.cg_stored, block.columns)
    tiles = sides.tiles(tile.outputs)
    chunks = divide_up(p.batch * tiles, block.depth)
    parts = _parts_of(p, filter_blocks * channel_blocks, chunks)
    gradient = ConvolutionLaunch(
        files=("point_products.cuh", "winograd_gradient.cu"),
        constants={
            **tile.constants,
            "BLOCK_FILTERS": block.rows,
            "BLOCK_CHANNELS": block.columns,
            "FILTER_BLOCKS": filter_blocks,
            "CHANNEL_BLOCKS": channel_blocks,
            "DEPTH": block.depth,
            "STAGES": block.stages,
            "ROUNDS": block.rounds,
            "PARTS": parts,
        },
        write=lambda: "\n".join(
            [
                tile.codelet("transform_images", lambda axis: axis.image),
                tile.codelet("transform_cotangents", lambda axis: axis.cotangent),
                tile.codelet("transform_filter_gradients", lambda axis: axis.filter_gradient),
                *(["#define SCRATCH DFILTERS  // there are no parts"] if parts == 1 else []),
            ]
        ),
        grid=lambda rows: in_a_row(parts * filter_blocks * channel_blocks),
        threads=block.threads,
        shared_bytes=block.shared_bytes,
        flops=_flops(p, tile, tiles),
        tensors=touched("backward_weights", split=parts > 1),
    )
    return plan_of_filters(gradient, parts, p.filter_elements)


def _parts_of(p: ConvolutionProblem, blocks: int, chunks: int) -> int:
    """Parts of a gradient by filters which takes `blocks` blocks, each with `chunks` chunks of tiles."""
    return max(1, min(BLOCKS // blocks, chunks // _FEWEST_CHUNKS, MOST_PART_BYTES // (FLOAT * p.filter_elements)))
