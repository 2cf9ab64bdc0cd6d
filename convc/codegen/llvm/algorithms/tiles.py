"""Tiles of images as vectors of channels: where they lie, and what they read beyond the borders."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from convc.codegen.llvm.channels import channel_vectors
from convc.codegen.llvm.vocabulary import Function, Index, V, ref
from convc.ir.window import Pair
from convc.passes.algorithms.transform_plan import TileAxis
from convc.passes.layout import ImageLayout


@dataclass(frozen=True)
class TilePlace:
    """A tile in the code: its number within the chunk, its image, its row and column in the grid."""

    slot: Index
    image: Index
    row: Index
    column: Index


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


def each_tile(f: Function, grid: Pair, first: Index, count: Index) -> Iterator[TilePlace]:
    """This thread's share of the tiles `first` … first + count − 1 of all images."""
    start, stop = f.share(count)
    with f.loop(start, stop) as slot:
        number = f.add(slot.index, first)
        image, inside = f.divide(number, grid[0] * grid[1]), f.remainder(number, grid[0] * grid[1])
        yield TilePlace(slot.index, image, f.divide(inside, grid[1]), f.remainder(inside, grid[1]))


def read_tile(
    f: Function, view: TileView, place: TilePlace, images: V, zeros: V, channels: ImageLayout, lanes: int
) -> Iterator[tuple[list[list[V]], Index]]:
    """(tile, channel) for every vector of channels (those of `channels`) of a tile.

    `images` is the address of the first channel of all images, `zeros` that of as many zeros as a pixel has channels:
    there tiles read what lies beyond the borders.
    """
    corner = f.address(images, view.offset(f, place))
    for whole in view.cases(f, place):
        pixels = None if whole else _pixels(f, view, place, corner, zeros)
        for channel, width, _ in channel_vectors(f, channels, lanes):
            # Away from the borders constants tell pixels apart; near them, each has an address of its own.
            base = f.address(corner, channel)
            tile = [
                [
                    f.load(
                        f.address(base, view.beyond(i, j)) if pixels is None else f.address(pixels[i][j], channel),
                        width,
                    )
                    for j in range(view.extent[1])
                ]
                for i in range(view.extent[0])
            ]
            yield tile, channel


def _pixels(f: Function, view: TileView, place: TilePlace, corner: V, zeros: V) -> list[list[V]]:
    """The addresses of a tile's pixels, or of zeros where there are none."""
    exists: list[list[V]] = []
    for axis, tile in ((view.rows, place.row), (view.columns, place.column)):
        first = view.corner(f, axis, tile)
        positions = [f.add(first, offset) for offset in range(axis.extent)]
        # Unsigned, so that positions before the first are beyond the last.
        exists.append([f.emit("i1", f"icmp ult i64 {ref(position)}, {axis.size}") for position in positions])
    return [
        [
            f.select(f.binary("and", down, across), f.address(corner, view.beyond(i, j)), zeros)
            for j, across in enumerate(exists[1])
        ]
        for i, down in enumerate(exists[0])
    ]
