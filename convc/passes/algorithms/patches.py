"""The matrix of patches: what im2col makes of images, so that a convolution is a product of matrices.

    y[n,i,j, k]  =  Σ_{r,s,c} patches[(n,i,j), (r,s,c)] · w[(r,s,c), k]

One row for each output, in it what the output is summed over: taps (r, s) and channels (c), zeros where a tap falls
outside the image. It is R·S times as large as the images, so it is never made as a whole but in chunks of rows. Where
filters are smaller than the matrix, each thread gathers and multiplies chunks of its own. Otherwise threads share each
chunk and divide the filters; chunks then pass through two buffers in turn, of which one is read while the next is
written.

Backward by the data the images are the cotangents: outputs whose taps are the same are a phase (axes.py), each with a
matrix of its own, whose taps are those that meet the phase. No product with a zero between the cotangents of a strided
convolution is ever computed, and outputs are written once, in any order, without adding up overlaps.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from convc.ir.types import DType
from convc.ir.window import Pair
from convc.lazy import dataclass
from convc.passes.algorithms.axes import Axis, backward_axes, forward_axis
from convc.passes.algorithms.parts import parts_of
from convc.passes.algorithms.problem import Problem
from convc.passes.algorithms.workspaces import Workspaces
from convc.passes.layout import padded
from convc.passes.machine import Machine
from convc.passes.tiling import choose_tile

LINE = 16  # floats in a cache line

# Tile registers take two times 16 rows of patches, 64 bytes of these at a time, and filters by 16 outputs.
TILE_ROWS = 32
_TILE_BYTES = 64
_TILE_OUTPUTS = 16

# Rows of a chunk are a multiple of this: of whole register tiles, or nearly so, whatever their size is.
CHUNK_ROWS = 112
_CHUNK_ROWS_OF_TILES = 128
# What a buffer may take, unless these are the least rows: half of a second-level cache.
_BUFFER_BYTES = 256 << 10
# A gradient by the filters is added up in memory: with this many rows at a time that costs little.
_GRADIENT_ROWS = 4 * CHUNK_ROWS
# Up to so many columns the patches for such a gradient are made as a whole, beyond that one filter row at a time.
_GRADIENT_COLUMNS = 1024


@dataclass(frozen=True)
class PatchMatrix:
    """The patches of `images` images (or of one phase of outputs), for each of `groups` groups of the convolution.

    `down` and `across` say which pixels an output reads; `channels` are those of a group, `stored` those of a pixel in
    memory; `filters` are the columns of what the matrix of a group is multiplied with. `columns` and `chunk` are the
    columns and the rows that are gathered at a time. `apart`: each thread takes chunks of its own. `parts`: into how
    many a gradient by the filters is cut (parts.py). Elements take `bytes`: patches are float32, but of the
    images' type for tiles.
    """

    down: Axis
    across: Axis
    images: int
    channels: int
    groups: int
    stored: int
    filters: int
    columns: int
    chunk: int
    apart: bool = False
    parts: int = 1
    bytes: int = 4

    @property
    def outputs(self) -> int:
        """Rows that an image has."""
        return self.down.count * self.across.count

    @property
    def taps(self) -> Pair:
        return len(self.down.taps), len(self.across.taps)

    @property
    def shape(self) -> Pair:
        """Rows and columns of the whole matrix of a group, as the literature counts them."""
        return self.images * self.outputs, self.taps[0] * self.taps[1] * self.channels

    @property
    def filter_row(self) -> int:
        """Columns of one filter row."""
        return self.taps[1] * self.channels

    @property
    def spill(self) -> int:
        """Channels that are copied beyond those of a tap, to be overwritten by the next: vectors need no tail then."""
        return self.stored - self.channels if self.groups == 1 else 0

    @property
    def row(self) -> int:
        """Elements from row to row in a buffer.

        The 16 rows of a tile are read together: an odd number of cache lines apart, they fall into different sets.
        """
        line = 4 * LINE // self.bytes
        lines = -(-(self.columns + self.spill) // line)
        return (lines if self.bytes == 4 else lines | 1) * line

    @property
    def workspaces(self) -> Workspaces:
        """Buffers for threads that have chunks of their own."""
        return Workspaces.of(self.shape[0], self.chunk)

    @property
    def entry(self) -> int:
        """Elements from group to group."""
        return self.chunk * self.row

    @property
    def buffer(self) -> int:
        """Elements of one buffer."""
        return self.groups * self.entry

    @property
    def elements(self) -> int:
        """Elements of all buffers: where threads share chunks both, or one for a matrix that fits it."""
        if self.apart:
            return self.buffer * self.workspaces.count
        whole = self.chunk >= self.shape[0] and self.columns >= self.shape[1]
        return self.buffer if whole else 2 * self.buffer


def in_place(problem: Problem) -> bool:
    """Whether the images are their own patches: each output reads one pixel, its own."""
    return problem.kernel == (1, 1) and problem.stride == (1, 1) and problem.padding == (0, 0, 0, 0)


def multiplies_tiles(problem: Problem, machine: Machine) -> bool:
    """Whether patches and filters are of numbers that tile registers multiply."""
    able = {DType.BF16: machine.amx_bf16, DType.Q8: machine.amx_int8}
    if not able.get(problem.dtype, False) or problem.groups > 1:
        return False
    if problem.direction == "backward_weights":
        return False
    channels, outputs = problem.channels, problem.filters
    if problem.direction == "backward_data":
        channels, outputs = outputs, channels
    return channels * problem.dtype.bytes % _TILE_BYTES == 0 and outputs % _TILE_OUTPUTS == 0


@lru_cache(maxsize=256)
def patch_matrices(problem: Problem, tiled: bool = False) -> tuple[PatchMatrix, ...]:
    """The matrices that a problem multiplies, one after the other: several only backward by the data."""
    top, left = problem.padding[:2]
    sizes = [
        (problem.size[axis], problem.output[axis], problem.kernel[axis], problem.stride[axis], before,
         problem.dilation[axis])
        for axis, before in ((0, top), (1, left))
    ]  # fmt: skip
    if problem.direction != "backward_data":
        return (_matrix(problem, forward_axis(*sizes[0]), forward_axis(*sizes[1]), tiled),)
    down, across = ([_ascending(axis) for axis in backward_axes(*size)] for size in sizes)
    return tuple(_matrix(problem, rows, columns, tiled) for rows in down for columns in across)


def _ascending(axis: Axis) -> Axis:
    """The taps in the order of what they read: neighbours in a patch are then neighbours in memory."""
    return replace(axis, taps=tuple(sorted(axis.taps, key=lambda tap: tap[1])))


def _matrix(problem: Problem, down: Axis, across: Axis, tiled: bool) -> PatchMatrix:
    of_image = problem.filters if problem.direction == "backward_data" else problem.channels
    channels = of_image // problem.groups
    columns, least = len(down.taps) * len(across.taps) * channels, _CHUNK_ROWS_OF_TILES if tiled else CHUNK_ROWS
    step, bytes = least, problem.dtype.bytes if tiled else 4
    if problem.direction == "backward_weights":
        least = _GRADIENT_ROWS
        if problem.groups * columns > _GRADIENT_COLUMNS:
            columns //= len(down.taps)
    filters = (problem.channels if problem.direction == "backward_data" else problem.filters) // problem.groups
    stored = padded(of_image)
    matrix = PatchMatrix(
        down, across, problem.batch, channels, problem.groups, stored, filters, columns, 1, bytes=bytes
    )
    budget = _BUFFER_BYTES // (bytes * matrix.buffer) if matrix.buffer else 0
    chunk = max(least, budget // step * step)
    rows, depth = matrix.shape
    parts, apart = 1, rows >= filters
    if problem.direction == "backward_weights":
        parts = parts_of(rows * (depth + filters), depth * filters)
        apart = parts > 1
    return replace(matrix, chunk=max(1, min(chunk, rows)), apart=apart, parts=parts)


def patch_bytes(problem: Problem, tiled: bool = False) -> int:
    """Scratch space for patches: that of the largest matrix, since one is done before the next begins."""
    return 0 if in_place(problem) else max(m.bytes * m.elements for m in patch_matrices(problem, tiled))


def part_bytes(problem: Problem) -> int:
    """Scratch space for the parts of a gradient by the filters."""
    (matrix,) = patch_matrices(problem)
    stored = padded(problem.filters) if problem.groups == 1 else problem.filters
    return 4 * matrix.parts * matrix.shape[1] * stored if matrix.parts > 1 else 0


def turned_block(problem: Problem, machine: Machine) -> int:
    """Columns of a block of the filters that gradients by the data are multiplied with."""
    own = problem.channels // problem.groups
    return min(choose_tile(machine, CHUNK_ROWS, own).block, padded(own))
