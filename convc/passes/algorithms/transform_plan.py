"""Transform convolutions: a bilinear algorithm on tiles, its products gathered into large ones; how much of what.

    U = filters, transformed              [value][channel in][channel out]
    V = tiles of the images, transformed  [value][tile][channel in]
    M = V · U, a product of matrices for each value, whose inverse transform are tiles of outputs

Winograd's and FFT's algorithms differ in their transforms and in what a product is: of single numbers, or of complex
ones, which come as two parts beside each other. Tiles are taken in chunks, so that V and M stay in the cache and
scratch space is bounded. Gradients by the images are the same with turned filters; those by the filters sum the
products of tiles, S[value] = Vᵀ·P with P the cotangents transformed, and come out of the inverse transform of S.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import Literal

from convc.ir.window import Pair
from convc.lazy import dataclass
from convc.passes.algorithms.parts import parts_of
from convc.passes.algorithms.problem import Problem
from convc.passes.algorithms.workspaces import Workspaces
from convc.passes.layout import padded
from convc.passes.machine import Machine
from convc.passes.tiling import Tile, choose_tile, even_split, most_rows

_MOST_ROWS = 14
# So many registers of a machine for each vector of outputs, which is two registers wide.
_REGISTERS_OF_COMPLEX = 16
_CHANNELS_OF_LINE = 16  # floats in a cache line
_MOST_CACHES = 16  # bytes of a chunk, in second-level caches
_SHARE_OF_CACHE = 0.25  # beside it lie filters, the images that are read, the results that are written


@dataclass(frozen=True)
class Products:
    """`entries` products of equal form, of numbers that have `parts` parts: 1, or 2 where they are complex."""

    entries: int
    parts: Literal[1, 2] = 1


@dataclass(frozen=True)
class Form:
    """The size of a bilinear algorithm on tiles: (rows, columns) of outputs, `extent` of what they are computed from,
    and its products, by which a transformed tile, or filter, is Σ entries·parts values."""

    outputs: Pair
    extent: Pair
    products: tuple[Products, ...]

    @property
    def values(self) -> int:
        return sum(p.entries * p.parts for p in self.products)


def summed_terms(problem: Problem, form: Form) -> int:
    """How many products are added up: those of channels, or in the gradient by the filters those of all tiles."""
    if problem.direction == "backward_weights":
        rows, columns = (-(-size // step) for size, step in zip(problem.output, form.outputs, strict=True))
        return problem.batch * rows * columns
    return (problem.channels if problem.direction == "forward" else problem.filters) // problem.groups


@dataclass(frozen=True)
class TileAxis:
    """`count` tiles along an axis of an image with `size` pixels: tile t is `extent` pixels from t·step − before on."""

    count: int
    step: int
    extent: int
    before: int
    size: int

    @property
    def inside(self) -> range:
        """The tiles all of whose pixels exist."""
        first = max(0, -(-self.before // self.step))
        last = (self.size + self.before - self.extent) // self.step
        return range(min(first, self.count), max(min(first, self.count), min(last + 1, self.count)))


def _padded_row(floats: int) -> int:
    """Rows that lie below each other must not all fall into the same sets of the first-level cache."""
    return floats + (_CHANNELS_OF_LINE if floats % (2 * _CHANNELS_OF_LINE) == 0 else 0)


@dataclass(frozen=True)
class TransformPlan:
    """What a transform convolution computes, and how it lies in scratch space. All sizes are in floats.

    `inner` channels of a group of the convolution are read, and `columns` of them are written, as stored, of which
    `outputs` exist.
    """

    problem: Problem
    machine: Machine
    form: Form
    inner: int
    outputs: int
    columns: int
    image: Pair
    grid_outputs: Pair
    before: Pair

    @classmethod
    @lru_cache(maxsize=256)
    def of(cls, problem: Problem, machine: Machine, form: Form) -> TransformPlan:
        """The plan of a convolution with stride 1.

        Backward by the data the roles of images and results are exchanged, and the padding is what the other side of
        the filter reaches.
        """
        inner, outputs = problem.channels // problem.groups, problem.filters // problem.groups
        image, grid, before = problem.size, problem.output, (problem.padding[0], problem.padding[1])
        if problem.direction == "backward_data":
            inner, outputs, image, grid = outputs, inner, grid, image
            reach = (form.extent[0] - form.outputs[0], form.extent[1] - form.outputs[1])
            before = (reach[0] - before[0], reach[1] - before[1])
        columns = padded(outputs) if problem.groups == 1 else outputs
        return cls(problem, machine, form, inner, outputs, columns, image, grid, before)

    # Tiles

    def axis(self, number: int) -> TileAxis:
        """Tiles of the image along rows (0) or columns (1)."""
        step, count = self.form.outputs[number], self.grid[number]
        return TileAxis(count, step, self.form.extent[number], self.before[number], self.image[number])

    def output_axis(self, number: int) -> TileAxis:
        """Tiles of outputs along rows or columns."""
        step = self.form.outputs[number]
        return TileAxis(self.grid[number], step, step, 0, self.grid_outputs[number])

    @cached_property
    def grid(self) -> Pair:
        rows, columns = (-(-size // step) for size, step in zip(self.grid_outputs, self.form.outputs, strict=True))
        return rows, columns

    @property
    def tiles(self) -> int:
        """Tiles of one image."""
        return self.grid[0] * self.grid[1]

    # Chunks

    @property
    def block(self) -> int:
        """Outputs that a register tile holds, where no layout of filters says so."""
        tile = choose_tile(self.machine, _MOST_ROWS, self.outputs)
        return min(tile.block, self.columns)

    @cached_property
    def _tile_bytes(self) -> int:
        """Of one tile in V and M."""
        return 4 * sum(p.entries * (self.image_row(p) + self.result_row(p)) for p in self.form.products)

    @property
    def _all_tiles(self) -> int:
        return self.problem.batch * self.tiles

    @cached_property
    def chunk(self) -> int:
        """Tiles that are transformed before the products begin.

        As many as take a share of the second-level cache; where the filters are larger than that as many as are as
        large as they are, within bounds, because all of them pass by once for each chunk (docs/performance-log.md).
        """
        cache = self.machine.l2_bytes
        room = min(max(int(_SHARE_OF_CACHE * cache), 4 * self.filter_floats), _MOST_CACHES * cache)
        count = -(-self._all_tiles // max(_MOST_ROWS, room // self._tile_bytes))
        return -(-self._all_tiles // count)

    @cached_property
    def parts(self) -> int:
        """Parts of the tiles over which a gradient by the filters is summed apart."""
        if self.problem.direction != "backward_weights":
            return 1
        return parts_of(self._tile_bytes * self._all_tiles // 4, self.filter_floats)

    @cached_property
    def apart(self) -> bool:
        """Whether each thread takes chunks of its own, from tiles to results.

        Then what a thread has written is read by no other, and nobody waits; but all threads read all filters. Where
        these are larger than all tiles together, threads divide the products of each chunk instead.
        """
        if self.problem.direction == "backward_weights":
            return self.parts > 1
        return self._tile_bytes * self._all_tiles >= 4 * self.filter_floats

    @cached_property
    def workspaces(self) -> Workspaces:
        """Places for V and M; one where threads share chunks."""
        fitting = max(2, 2 * self.machine.l2_bytes // (self._tile_bytes * self.chunk)) if self.apart else 1
        return Workspaces.of(self._all_tiles, self.chunk, fitting)

    def product_block(self, products: Products, block: int) -> int:
        """Columns of a register tile, given the `block` of the layout of filters. Complex numbers fill registers twice,
        so it is divided."""
        if products.parts == 1:
            return block
        vectors = -(-block // self.machine.lanes)
        most = max(1, self.machine.registers // _REGISTERS_OF_COMPLEX)
        return self.machine.lanes * max(v for v in range(1, most + 1) if vectors % v == 0)

    def product_tile(self, products: Products, block: int, rows: int) -> Tile:
        """The register tile of products with `rows` rows, given the `block` of the layout of filters."""
        vectors = -(-self.product_block(products, block) // self.machine.lanes)
        most = min(most_rows(self.machine, products.parts * vectors), _MOST_ROWS)
        return Tile(max(even_split(rows, most)), vectors, self.machine.lanes)

    # Scratch space

    @property
    def inner_stored(self) -> int:
        return padded(self.inner) if self.problem.groups == 1 else self.inner

    def image_row(self, products: Products) -> int:
        return _padded_row(products.parts * self.inner_stored)

    def result_row(self, products: Products) -> int:
        return _padded_row(products.parts * self.columns)

    def image_entry(self, products: Products) -> int:
        """From one entry of V to the next."""
        return self.chunk * self.image_row(products) + _CHANNELS_OF_LINE

    def result_entry(self, products: Products) -> int:
        """From one entry of M, or of P, to the next."""
        return self.chunk * self.result_row(products) + _CHANNELS_OF_LINE

    def filter_entry(self, products: Products) -> int:
        """From one entry of U, or of S, to the next: a matrix, and a cache line, lest equal places of neighbours fall
        into the same sets of caches."""
        return products.parts * self.inner * self.columns + _CHANNELS_OF_LINE

    @property
    def image_floats(self) -> int:
        return sum(p.entries * self.image_entry(p) for p in self.form.products)

    @property
    def result_floats(self) -> int:
        return sum(p.entries * self.result_entry(p) for p in self.form.products)

    @cached_property
    def filter_floats(self) -> int:
        """U, or a part of S, of one group of the convolution."""
        return sum(p.entries * self.filter_entry(p) for p in self.form.products)

    @property
    def zeros(self) -> int:
        """What tiles read beyond the borders: channels of one pixel that are zero."""
        return max(self.inner_stored, self.columns)

    @property
    def prepared_floats(self) -> int:
        """The zeros and U of all groups, which depend on the filters alone; or the zeros and S."""
        return _aligned(self.zeros) + self.parts * self.part_floats

    @property
    def part_floats(self) -> int:
        """U, or a part of S, of all groups."""
        return _aligned(self.problem.groups * self.filter_floats)

    @property
    def places(self) -> Places:
        turned = 0
        if self.problem.direction == "backward_data":
            turned = self.problem.groups * self.inner * self.problem.taps * self.columns
        filters = _aligned(self.zeros)
        images = 0 if self.problem.prepared else self.prepared_floats
        results = images + _aligned(self.image_floats)
        space = results + _aligned(self.result_floats) - images
        end = images + max(self.workspaces.count * space, _aligned(turned))
        return Places(filters, images, results, space, end)


@dataclass(frozen=True)
class Places:
    """Where things lie in scratch space: zeros first, then U or S, V, M or P. Filters with input and output channels
    exchanged, as gradients by the images read them, lie where V will lie. Where filters are prepared, zeros and U are
    not in scratch space, and `filters` is a place behind those zeros. V and M of the next workspace lie `space` behind
    those of one."""

    filters: int
    images: int
    results: int
    space: int
    end: int


def _aligned(floats: int) -> int:
    return -(-floats // _CHANNELS_OF_LINE) * _CHANNELS_OF_LINE
