"""Products of matrices in the tile registers of AMX, 32 rows by 32 columns at a time.

    C[row, column]  =  Σ A[row, t] · B[t, column]     A row by row, B in blocks

Of bfloat16 numbers a tile of A is 16 rows by 32 steps of the depth, one of B 16 pairs of steps by 16 columns
(`WeightLayout.pairs`); of whole numbers of 8 bits it is 64 steps, and 16 fours of them (`QuantizedLayout`). Both come
straight from memory. 2 x 2 tiles of sums take a product each for two loads. Sums go through memory of the thread to who
finishes them, since only vectors can be computed with. The shape of the tiles is set anew for fewer than 16 rows, so
that nothing is touched that is no operand. Tiles are a state of the thread: they are set up where a product begins, and
given back at its end.
"""

from __future__ import annotations

from collections.abc import Sequence

from convc.codegen.llvm.amx_tiles import ROWS, WORDS, Tiles, tile_shape
from convc.codegen.llvm.gemm import Begin, Finish, Place
from convc.codegen.llvm.register_tile import Sums, column_pieces
from convc.codegen.llvm.units import column_blocks
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.codegen.llvm.whole_numbers import Whole
from convc.lazy import dataclass
from convc.passes.algorithms.patches import TILE_ROWS
from convc.passes.layout import WeightLayout
from convc.passes.machine import Machine
from convc.passes.quantized_layout import TOGETHER

_PANEL = 2 * WORDS  # columns of two tiles
# What rows of A may take of the second-level cache while B passes by.
_SHARE_OF_CACHE = 0.5
_FINISHED = 4  # rows whose sums are in registers at once

# Numbers of tiles, as `tile_shape` knows them: 2 x 2 of sums, two of rows of A, two of columns of B.
_SUMS, _LEFT, _RIGHT = 0, 4, 6


@dataclass(frozen=True)
class Section:
    """Panels of columns that the same code multiplies: `count` blocks, `width` columns wide, from column `column` on;
    `each` panels of each block, `panel` columns wide, from its column `offset` on."""

    column: int
    count: int
    width: int
    each: int
    panel: int
    offset: int

    @property
    def panels(self) -> int:
        return self.count * self.each


def sections(filters: WeightLayout) -> list[Section]:
    """Panels of two tiles, and those of one that are left over in blocks."""
    found: list[Section] = []
    for first, count, width in column_blocks(filters):
        pairs, column = width // _PANEL, first * filters.block
        if pairs:
            found.append(Section(column, count, width, pairs, _PANEL, 0))
        if width % _PANEL:
            found.append(Section(column, count, width, 1, width % _PANEL, pairs * _PANEL))
    return found


@dataclass(frozen=True)
class TileProduct:
    """`rows` rows of A, `row` elements apart, times the filters of a convolution without groups at `right`.

    Rows of their depth are multiples of 64 bytes, their outputs of 16. `finish` gets the sums as `gemm.multiply_with`
    hands them on; `begin` gives what is added to those of a row. Those of `whole` numbers become float before, and a
    `bias` is added then.
    """

    rows: Index
    left: V
    row: int
    right: V
    filters: WeightLayout
    finish: Finish
    begin: Begin | None = None
    whole: Whole | None = None
    bias: V | None = None

    @property
    def together(self) -> int:
        """Steps of the depth in 32 bits."""
        return 2 if self.whole is None else TOGETHER

    @property
    def depth(self) -> int:
        return self.filters.rows.size

    def emit(self, f: Function, machine: Machine, alone: bool, cached: bool) -> None:
        """`alone`: this thread does it all, else its share. `cached`: A is larger than the caches, and B passes by for
        each part of its rows that the second-level cache holds."""
        tiles = f.divide(f.add(self.rows, TILE_ROWS - 1), TILE_ROWS)
        emitter = _Emitter(f, machine, self)
        emitter.configure(ROWS)
        if not alone:
            panels = sum(section.panels for section in sections(self.filters))
            emitter.panels((0, tiles), f.share(f.multiply(tiles, panels)))
        elif cached:
            strip = max(1, int(_SHARE_OF_CACHE * machine.l2_bytes) // (4 // self.together * self.row * TILE_ROWS))
            with f.loop(0, tiles, strip) as first:
                emitter.panels((first.index, f.minimum(f.add(first.index, strip), tiles)))
        else:
            emitter.panels((0, tiles))
        emitter.tiles.release()


class _Emitter:
    def __init__(self, f: Function, machine: Machine, product: TileProduct) -> None:
        self.f, self.p, self.lanes = f, product, machine.lanes
        self.tiles = Tiles.of(f, machine)
        self.sums = f.local("tile_sums", TILE_ROWS * _PANEL)

    def configure(self, rows: Index) -> None:
        self.tiles.configure(tile_shape(self.f, rows))

    def panels(self, tiles: tuple[Index, Index], units: tuple[Index, Index] | None = None) -> None:
        """Panel by panel the tiles of rows in a range; of these only `units`, counted panel by panel."""
        f, before = self.f, 0
        count = f.subtract(tiles[1], tiles[0])
        for section in sections(self.p.filters):
            first, last = f.multiply(before, count), f.multiply(section.panels, count)
            before += section.panels
            if units is None:
                with f.loop(0, section.panels) as panel:
                    self._panel(section, panel.index, *tiles)
                continue
            start, stop = (f.minimum(f.maximum(f.subtract(bound, first), 0), last) for bound in units)
            end = f.divide(f.add(stop, f.subtract(count, 1)), count)
            with f.loop(f.divide(start, count), end) as panel:
                passed = f.multiply(panel.index, count)
                low = f.maximum(f.subtract(start, passed), 0)
                self._panel(section, panel.index, low, f.minimum(f.subtract(stop, passed), count))

    def _panel(self, section: Section, panel: Index, low: Index, high: Index) -> None:
        f, p = self.f, self.p
        block = f.add(f.multiply(f.divide(panel, section.each), section.width), section.column)
        inside = f.add(f.multiply(f.remainder(panel, section.each), _PANEL), section.offset)
        right = f.address(p.right, f.add(f.multiply(block, p.depth), f.multiply(inside, p.together)))
        column = f.add(block, inside)
        whole = f.divide(p.rows, TILE_ROWS)
        with f.loop(low, f.minimum(high, whole)) as tile:
            self._tile(section, right, column, f.multiply(tile.index, TILE_ROWS), TILE_ROWS)
        if isinstance(p.rows, int) and p.rows % TILE_ROWS == 0:
            return
        with f.when(f.less(whole, high)):
            with f.loop(f.multiply(whole, TILE_ROWS), p.rows, ROWS) as row:
                rows = f.minimum(f.subtract(p.rows, row.index), ROWS)
                self.configure(rows)
                self._tile(section, right, column, row.index, rows)
            self.configure(ROWS)

    def _tile(self, section: Section, right: V, column: Index, row: Index, rows: Index) -> None:
        """32 rows, or up to 16 of which tiles have the shape."""
        f, p, tiles = self.f, self.p, self.tiles
        high, wide = 2 if rows == TILE_ROWS else 1, section.panel // WORDS
        pairs = [(m, n, _SUMS + 2 * m + n) for m in range(high) for n in range(wide)]
        for _, _, sums in pairs:
            tiles.zero(sums)
        left, steps = f.address(p.left, f.multiply(row, p.row)), WORDS * p.together
        multiply = tiles.multiply if p.whole is None else tiles.multiply_whole
        with f.loop(0, p.depth // steps) as step:
            a = f.address(left, f.multiply(step.index, steps))
            b = f.address(right, f.multiply(step.index, steps * section.width))
            for m in range(high):
                tiles.load(_LEFT + m, f.address(a, m * ROWS * p.row), 4 // p.together * p.row)
            for n in range(wide):
                tiles.load(_RIGHT + n, f.address(b, n * steps), 4 * section.width)
            for m, n, sums in pairs:
                multiply(sums, _LEFT + m, _RIGHT + n)
        for m, n, sums in pairs:
            tiles.store(sums, f.address(self.sums, m * ROWS * _PANEL + n * WORDS), 4 * _PANEL)
        self._finish(section, column, row, rows)

    def _finish(self, section: Section, column: Index, row: Index, rows: Index) -> None:
        f, pieces, whole = self.f, column_pieces(section.panel, self.lanes), self.p.whole
        together = _FINISHED if rows == TILE_ROWS else 1
        start: Sequence[V] | None = None
        if whole is not None:
            start = whole.begin(f, pieces, column)
        elif self.p.begin is not None:
            start = self.p.begin(Place(0, row, 1, column, pieces))
        with f.loop(0, rows, together) as done:
            place = Place(0, f.add(row, done.index), together, column, pieces)
            given = f.address(self.sums, f.multiply(done.index, _PANEL))
            kind, add = ("float", "fadd") if whole is None else ("i32", "add")
            places = [(f.address(given, m * _PANEL + p.offset), p.lanes) for m in range(together) for p in pieces]
            sums = Sums(together, pieces, [f.load(*each, kind) for each in places])
            if start is not None:
                sums.flat = [f.binary(add, value, start[n % len(pieces)]) for n, value in enumerate(sums.flat)]
            if whole is not None:
                sums.flat = whole.results(f, sums, column, self.p.bias)
            self.p.finish(place, sums)
