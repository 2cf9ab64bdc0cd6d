"""Geometry of the gradient of a convolution by its filters: tiles, parts, and what of the images is taken at once."""

from __future__ import annotations

from convc.codegen.llvm.ahead import Stream
from convc.codegen.llvm.bands import equal_rows
from convc.codegen.llvm.kernel import KernelBuilder
from convc.codegen.llvm.register_tile import column_pieces, unroll_factor
from convc.codegen.llvm.vocabulary import V
from convc.ir.ops.conv import Conv2dBackwardWeights
from convc.ir.types import DType
from convc.lazy import dataclass
from convc.passes.algorithms.bands import images_at_once, rows_at_once
from convc.passes.algorithms.parts import parts_of
from convc.passes.arrange import pixels_collapse
from convc.passes.layout import ImageLayout, WeightLayout
from convc.passes.tiling import even_split, most_rows

_ENOUGH_UNITS = 8
_MOST_PARTS = 8
_MOST_ROWS = 14
_FEW_CHANNELS = 8
_MOST_IDLE = 16  # tiles for each that fetches ahead
_LINE = 16  # floats of a cache line

Row = tuple[int, int, int]  # (r, s, c) of the gradient, relative to the tile's run-time tap and channel


@dataclass(frozen=True)
class Shape:
    """One convolution's geometry, as seen by this kernel."""

    op: Conv2dBackwardWeights
    kernel: tuple[int, int]
    source: ImageLayout
    cotangent: ImageLayout
    weights: WeightLayout
    vectors: int
    most: int  # rows of a tile
    in_pairs: bool = False  # products of bfloat16 numbers are added up two by two

    @classmethod
    def of(cls, k: KernelBuilder) -> Shape:
        op = k.op(Conv2dBackwardWeights)
        x, dy = k.kernel.anchor.operands
        source, cotangent = k.image(x), k.image(dy)
        if pixels_collapse(op, op.kernel):
            # One long row, or several that are bands.
            height = equal_rows(cotangent.pixels, 4 * (source.stored + cotangent.stored))
            width = cotangent.pixels // height
            source = ImageLayout(source.channels, height, width, source.stored)
            cotangent = ImageLayout(cotangent.channels, height, width, cotangent.stored)
        weights = k.layout(k.kernel.anchor.result)
        assert isinstance(weights, WeightLayout)
        vectors = len(column_pieces(min(weights.block, weights.columns), k.machine.lanes))
        # One row less than fits: the bias gradient may join.
        most = max(1, min(most_rows(k.machine, vectors) - (1 if k.kernel.riders else 0), _MOST_ROWS))
        halves = x.type.dtype is dy.type.dtype is DType.BF16
        # A single vector of columns has few sums for as much to interleave, and these wait for each other.
        wide = weights.columns > k.machine.lanes and weights.columns % 4 == 0
        in_pairs = k.machine.dot_bf16 and halves and wide
        return cls(op, op.kernel, source, cotangent, weights, vectors, most, in_pairs)

    @property
    def channels(self) -> int:
        return self.weights.rows.channels

    def offset(self, axis: int, tap: int) -> int:
        return tap * self.op.dilation[axis] - self.op.padding[axis]

    def reach(self, axis: int, tap: int) -> tuple[int, int]:
        """The positions along an axis (a range) whose tap lies inside the image."""
        size, count = ((self.source.height, self.cotangent.height), (self.source.width, self.cotangent.width))[axis]
        inside = [i for i in range(count) if 0 <= i * self.op.stride[axis] + self.offset(axis, tap) < size]
        return (inside[0], inside[-1] + 1) if inside else (0, 0)

    def tap_everywhere(self) -> tuple[int, int] | None:
        """A tap that lies inside the image at every position."""
        everywhere = [
            [t for t in range(self.kernel[axis]) if self.reach(axis, t) == (0, count)]
            for axis, count in ((0, self.cotangent.height), (1, self.cotangent.width))
        ]
        return (everywhere[0][0], everywhere[1][0]) if all(everywhere) else None

    @property
    def merged(self) -> bool:
        return self.channels < _FEW_CHANNELS and self.kernel != (1, 1)

    @property
    def positions_at_once(self) -> int:
        """Whose products a step adds up: two where a tile's channels lie side by side."""
        return 2 if self.in_pairs and not self.merged else 1

    @property
    def all_rows_merged(self) -> bool:
        """Whether one list of rows may span the filter rows as well: every filter row reaches every position."""
        everywhere = all(self.reach(0, r) == (0, self.cotangent.height) for r in range(self.kernel[0]))
        return self.merged and everywhere and self.channels * self.kernel[0] * self.kernel[1] <= 8 * self.most

    def merged_tiles(self) -> list[tuple[Row, ...]]:
        """The tiles of a filter row (or of the whole filter), each a list of rows."""
        filter_rows = self.kernel[0] if self.all_rows_merged else 1
        rows = [(r, s, c) for r in range(filter_rows) for s in range(self.kernel[1]) for c in range(self.channels)]
        tiles: list[tuple[Row, ...]] = []
        for count in even_split(len(rows), self.most):
            start = sum(map(len, tiles))
            tiles.append(tuple(rows[start : start + count]))
        return tiles

    @property
    def units(self) -> int:
        """Independent pieces of work in one part."""
        blocks = len(self.weights.blocks) * self.op.groups
        if self.merged:
            return blocks * len(self.merged_tiles()) * (1 if self.all_rows_merged else self.kernel[0])
        return blocks * self.kernel[0] * self.kernel[1] * len(even_split(self.channels, self.most))

    def parts(self, batch: int) -> int:
        """As many as make enough work, and as let each thread have images of its own where that is worth it."""
        enough = 1 if self.units >= _ENOUGH_UNITS else min(_MOST_PARTS, -(-_ENOUGH_UNITS // self.units))
        worth = parts_of(batch * (self.source.size + self.cotangent.size), self.weights.size)
        return min(max(enough, worth), batch)

    @property
    def chunk(self) -> int:
        """Images whose data stay in the cache while all tiles pass over them."""
        return images_at_once(4 * (self.source.size + self.cotangent.size))

    @property
    def band(self) -> int:
        """Rows of an image whose data stay in the cache while all tiles pass over them: of a small one all rows."""
        height, width = self.cotangent.height, self.cotangent.width
        read = self.op.stride[0] * self.source.width * self.source.stored // width
        return rows_at_once(height, width, 4 * (read + self.cotangent.stored))

    @property
    def round(self) -> int:
        """Positions that a tile of one tap takes in a round of its innermost loop."""
        width = self.cotangent.width
        known = all(self.reach(1, tap) == (0, width) for tap in range(self.kernel[1]))
        if self.positions_at_once == 2:
            return 2 * unroll_factor(width // 2, 2) if known else 2
        return unroll_factor(width) if known else 1

    @property
    def fetches(self) -> bool:
        """Whether tiles are to fetch ahead: where many of them have nothing to fetch, it costs more than it gains."""
        floats = self.round * (self.source.stored + self.cotangent.stored)
        return not self.merged and 1 < self.units <= _MOST_IDLE * floats // _LINE

    def streams(self, x: V, dy: V) -> tuple[Stream, Stream]:
        """How tiles pass over the images; the next band or chunk is what to fetch."""
        down, across = self.op.stride
        found: list[Stream] = []
        for pointer, images, rows, pixels in ((x, self.source, down, across), (dy, self.cotangent, 1, 1)):
            row = rows * images.width * images.stored
            far = self.band * row if self.band < self.cotangent.height else self.chunk * images.size
            found.append(Stream(pointer, images.size, row, pixels * images.stored, images.stored, far))
        return found[0], found[1]
