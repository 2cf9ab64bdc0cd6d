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

from dataclasses import dataclass
from functools import cached_property

from convc.ir.window import Pair
from convc.passes.algorithms.problem import Problem
from convc.passes.layout import padded
from convc.passes.machine import Machine
from convc.passes.tiling import Tile, choose_tile, even_split, most_rows

_MOST_ROWS = 14
_CHANNELS_OF_LINE = 16  # floats in a cache line


@dataclass(frozen=True)
class Products:
    """`entries` products of equal form. Each operand of one has `parts` numbers: 1, or 2 where they are complex."""

    entries: int
    parts: int = 1


@dataclass(frozen=True)
class Form:
    """The size of a bilinear algorithm on tiles: (rows, columns) of outputs and of filter taps, and its products.

    The transform of a tile of the image has Σ entries·parts values. That of a filter has Σ entries·parts²: the matrices
    by which operands, as rows of parts, are multiplied.
    """

    outputs: Pair
    taps: Pair
    products: tuple[Products, ...]

    @property
    def extent(self) -> Pair:
        """Rows and columns of the image that a tile reads."""
        return self.outputs[0] + self.taps[0] - 1, self.outputs[1] + self.taps[1] - 1

    @property
    def values(self) -> int:
        return sum(p.entries * p.parts for p in self.products)

    @property
    def filter_values(self) -> int:
        return sum(p.entries * p.parts**2 for p in self.products)


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
    def of(cls, problem: Problem, machine: Machine, form: Form) -> TransformPlan:
        """The plan of a convolution with stride and dilation 1.

        Backward by the data the roles of images and results are exchanged, and the padding is what the other side of
        the filter reaches.
        """
        inner, outputs = problem.channels // problem.groups, problem.filters // problem.groups
        image, grid, before = problem.size, problem.output, (problem.padding[0], problem.padding[1])
        if problem.direction == "backward_data":
            inner, outputs, image, grid = outputs, inner, grid, image
            before = (form.taps[0] - 1 - before[0], form.taps[1] - 1 - before[1])
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

    @property
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
    def chunk(self) -> int:
        """Tiles that are transformed before the products begin.

        As many as the second-level caches of a few cores hold; more where the filters are large, because all of them
        pass by once for each chunk.
        """
        cache = self.machine.l2_bytes
        room = min(max(4 * cache, 2 * self.filter_floats), 16 * cache)
        tile = 4 * (self.form.values * self.result_row + sum(p.entries * self.image_row(p) for p in self.form.products))
        total = self.problem.batch * self.tiles
        count = -(-total // max(_MOST_ROWS, room // tile))
        return -(-total // count)

    def product_tile(self, block: int, rows: int) -> Tile:
        """The register tile of products with `rows` rows and blocks of `block` columns."""
        vectors = -(-block // self.machine.lanes)
        most = min(most_rows(self.machine, vectors), _MOST_ROWS)
        return Tile(max(even_split(rows, most)), vectors, self.machine.lanes)

    # Scratch space

    @property
    def inner_stored(self) -> int:
        return padded(self.inner) if self.problem.groups == 1 else self.inner

    def depth(self, products: Products) -> int:
        """Numbers that a product sums over: with several parts the padding between them counts, too."""
        return self.inner if products.parts == 1 else products.parts * self.inner_stored

    def image_row(self, products: Products) -> int:
        return _padded_row(products.parts * self.inner_stored)

    @property
    def result_row(self) -> int:
        return _padded_row(self.columns)

    def image_entry(self, products: Products) -> int:
        """From one entry of V to the next."""
        return self.chunk * self.image_row(products) + _CHANNELS_OF_LINE

    @property
    def result_entry(self) -> int:
        """From one value of M, or of P, to the next."""
        return self.chunk * self.result_row + _CHANNELS_OF_LINE

    def filter_entry(self, products: Products) -> int:
        """From one entry of U, or of S, to the next: a matrix for each part of the results."""
        return products.parts * self.depth(products) * self.columns

    @property
    def image_floats(self) -> int:
        return sum(p.entries * self.image_entry(p) for p in self.form.products)

    @property
    def result_floats(self) -> int:
        return self.form.values * self.result_entry

    @property
    def filter_floats(self) -> int:
        """U, or S, of one group of the convolution."""
        return sum(p.entries * self.filter_entry(p) for p in self.form.products)

    @property
    def zeros(self) -> int:
        """What tiles read beyond the borders: channels of one pixel that are zero."""
        return max(self.inner_stored, self.columns)

    @property
    def places(self) -> Places:
        turned = 0
        if self.problem.direction == "backward_data":
            turned = self.problem.groups * self.inner * self.problem.taps * self.columns
        filters = _aligned(self.zeros)
        images = filters + _aligned(self.problem.groups * self.filter_floats)
        results = images + _aligned(self.image_floats)
        return Places(filters, images, results, max(results + _aligned(self.result_floats), images + _aligned(turned)))


@dataclass(frozen=True)
class Places:
    """Where things lie in scratch space: zeros first, then U or S, V, M or P. Filters with input and output channels
    exchanged, as gradients by the images read them, lie where V will lie."""

    filters: int
    images: int
    results: int
    end: int


def _aligned(floats: int) -> int:
    return -(-floats // _CHANNELS_OF_LINE) * _CHANNELS_OF_LINE
