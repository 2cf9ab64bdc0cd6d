"""Tiles of images as vectors of channels: where they lie, and what they read beyond the borders."""

from __future__ import annotations

from collections.abc import Iterator

from convc.codegen.llvm.algorithms.transform import Rows
from convc.codegen.llvm.channels import channel_vectors
from convc.codegen.llvm.vocabulary import Function, Index, V, ref
from convc.ir.window import Pair
from convc.lazy import dataclass
from convc.passes.algorithms.transform_plan import TileAxis
from convc.passes.layout import ImageLayout


@dataclass(frozen=True)
class TilePlace:
    """A tile in the code: its row of V and M, its image, its row and column in the grid."""

    slot: Index
    image: Index
    row: Index
    column: Index


@dataclass(frozen=True)
class Slots:
    """Places `start` … `stop` − 1 of V and M: tile number slot + `shift`, of all images, lies in a slot."""

    start: Index
    stop: Index
    shift: Index


@dataclass(frozen=True)
class TileView:
    """Tiles on the images of one layout."""

    rows: TileAxis
    columns: TileAxis
    layout: ImageLayout

    @property
    def extent(self) -> Pair:
        return self.rows.extent, self.columns.extent

    def corner(self, f: Function, axis: TileAxis, tile: Index) -> Index:
        """The row or column of the image at which a tile begins: possibly before the first."""
        return f.add(f.multiply(tile, axis.step), -axis.before)

    def offset(self, f: Function, place: TilePlace) -> Index:
        """Elements from the first of all images to the first of the tile's."""
        row, column = self.corner(f, self.rows, place.row), self.corner(f, self.columns, place.column)
        pixel = f.add(f.multiply(row, self.layout.width), column)
        return f.add(f.multiply(place.image, self.layout.size), f.multiply(pixel, self.layout.stored))

    def beyond(self, row: int, column: int) -> int:
        """Elements from a tile's first pixel to another one of it."""
        return (row * self.layout.width + column) * self.layout.stored

    def line(self, f: Function, first: V, row: Index) -> tuple[V, int]:
        """The address of the first pixel of a row, given that of the tile's: a part to compute, and a constant."""
        if isinstance(row, int):
            return first, self.beyond(row, 0)
        return f.address(first, f.multiply(row, self.beyond(1, 0))), 0

    def cases(self, f: Function, place: TilePlace) -> Iterator[bool]:
        """True in code for tiles all of whose pixels exist, then False in code for the others, if there are any."""
        everyone = all(len(axis.inside) == axis.count for axis in (self.rows, self.columns))
        nobody = not all(axis.inside for axis in (self.rows, self.columns))
        if everyone or nobody:
            yield everyone
            return
        bounds = [*_bounds(f, self.rows, place.row), *_bounds(f, self.columns, place.column)]
        inside = bounds[0]
        for bound in bounds[1:]:
            inside = f.binary("and", inside, bound)
        with f.when(inside):
            yield True
        with f.when(f.binary("xor", inside, V("true", "i1"))):
            yield False


def _bounds(f: Function, axis: TileAxis, tile: Index) -> Iterator[V]:
    if axis.inside.start > 0:
        yield f.less(axis.inside.start - 1, tile)
    if axis.inside.stop < axis.count:
        yield f.less(tile, axis.inside.stop)


def each_tile(f: Function, grid: Pair, slots: Slots) -> Iterator[TilePlace]:
    """The tiles, of all images, that lie in `slots`."""
    with f.loop(slots.start, slots.stop) as slot:
        number = f.add(slot.index, slots.shift)
        image, inside = f.divide(number, grid[0] * grid[1]), f.remainder(number, grid[0] * grid[1])
        yield TilePlace(slot.index, image, f.divide(inside, grid[1]), f.remainder(inside, grid[1]))


def read_tile(
    f: Function, view: TileView, place: TilePlace, images: V, zeros: V, channels: ImageLayout, lanes: int,
    in_registers: bool,
) -> Iterator[tuple[Rows, Index, int]]:  # fmt: skip
    """(rows of the tile, channel, lanes) for every vector of channels (those of `channels`) of a tile.

    `images` is the address of the first channel of all images, `zeros` that of as many zeros as a pixel has channels:
    there tiles read what lies beyond the borders. `in_registers` as in `Transform`.
    """
    corner = f.address(images, view.offset(f, place))
    for whole in view.cases(f, place):
        pixels = _Inside(f, view, corner) if whole else _Border(f, view, place, corner, zeros, in_registers)
        for channel, width, _ in channel_vectors(f, channels, lanes):
            yield pixels.vectors(channel, width), channel, width


class _Inside:
    """A tile all of whose pixels exist: constants tell them apart."""

    def __init__(self, f: Function, view: TileView, corner: V) -> None:
        self.f, self.view, self.corner = f, view, corner

    def vectors(self, channel: Index, lanes: int) -> Rows:
        f, view = self.f, self.view
        first = f.address(self.corner, channel)

        def row(i: Index) -> list[V]:
            line, offset = view.line(f, first, i)
            return [f.load(f.address(line, offset + view.beyond(0, j)), lanes) for j in range(view.columns.extent)]

        return row


class _Border:
    """A tile that reaches beyond the image: each of its pixels has an address of its own."""

    def __init__(
        self, f: Function, view: TileView, place: TilePlace, corner: V, zeros: V, in_registers: bool
    ) -> None:  # fmt: skip
        self.f, self.view, self.corner, self.zeros = f, view, corner, zeros
        self.top = view.corner(f, view.rows, place.row)
        left = view.corner(f, view.columns, place.column)
        self.across = [self._exists(f.add(left, j), view.columns.size) for j in range(view.columns.extent)]
        # The same addresses serve all channels.
        self.known = {i: self._pixels(i) for i in range(view.rows.extent)} if in_registers else {}

    def _exists(self, position: Index, size: int) -> V:
        # Unsigned, so that positions before the first are beyond the last.
        return self.f.emit("i1", f"icmp ult i64 {ref(position)}, {size}")

    def _pixels(self, i: Index) -> list[V]:
        """The addresses of the pixels of a row, or of zeros where there are none."""
        f, view = self.f, self.view
        line, offset = view.line(f, self.corner, i)
        down = self._exists(f.add(self.top, i), view.rows.size)
        return [
            f.select(f.binary("and", down, across), f.address(line, offset + view.beyond(0, j)), self.zeros)
            for j, across in enumerate(self.across)
        ]

    def vectors(self, channel: Index, lanes: int) -> Rows:
        def row(i: Index) -> list[V]:
            pixels = self.known[i] if isinstance(i, int) and self.known else self._pixels(i)
            return [self.f.load(self.f.address(pixel, channel), lanes) for pixel in pixels]

        return row
