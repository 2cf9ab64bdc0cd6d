"""Products of matrices, one for each entry of a batch:  C[e] = A[e]·B[e],  or with a running sum  C[e] += A[e]·B[e].

The way of Goto & van de Geijn 2008 ("Anatomy of high-performance matrix multiplication") with what register tiles need
and no more: B is read a block of columns at a time, [depth][block] (better packed so; row-major works, too), while
tiles of rows of A pass by. Threads split (entry, block of columns, tile of rows); nobody adds to a sum of another
thread, so results do not depend on how many there are.

    product = Product(rows=tiles, columns=64, depth=48, batch=36, tile=choose_tile(machine, 128, 64))
    multiply(f, machine, product, Matrices(v, 48, 48 * most), Matrices(u, 64, 48 * 64), Matrices(m, 64, 64 * most))

The number of rows and of entries may be known at run time only, and the depth as well. Rows beyond the last whole tile
are done by tiles of 8, 4, 2 and 1 rows; no column is computed that does not exist.

Complex matrices have the real parts of a row, and beside them its imaginary parts. Four real products of scalars and
vectors make a complex one: with three, operands and results would be half as large again, and memory is what large
products wait for (Zlateski, Jia, Li & Durand 2019, "The anatomy of efficient FFT and Winograd convolutions").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from convc.codegen.llvm.control import maybe
from convc.codegen.llvm.register_tile import Piece, Sums, column_pieces, unroll_factor
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.lazy import dataclass
from convc.passes.machine import Machine
from convc.passes.tiling import Tile

_UNROLL, _TAIL_UNROLL = 4, 2
# Most steps of the depth after which a transposed A starts again with the next tile: each step reads another line of
# memory, and so many of them stay in the caches until the other blocks of columns want them.
_CHUNK = 128
# What a block of B may take of the first-level cache, in which tiles of a chunk find it again.
_SHARE_OF_FIRST_CACHE = 0.5
# Bytes of C that wait for the next chunk.
_WAITING = 512 << 10
_TAIL_ROWS = (8, 4, 2, 1)
_LINE = 16  # floats of a cache line
_COPIED = 128 << 10  # bytes of A that are copied at once
# What rows of A may take of the second-level cache while B passes by.
_SHARE_OF_CACHE = 0.5


@dataclass(frozen=True)
class Matrices:
    """A matrix for each entry of a batch: element (i, j) of entry e lies at pointer + e·entry + i·row + j.

    `packed` (B and C): blocks of columns one after the other, [block][row][column of the block], as in `WeightLayout`.
    Where a block has more rows than those of the product, `row` is how many, and `first` the first that takes part.
    `transposed` (A): element (i, j) lies at pointer + e·entry + j·row + i.

    `imaginary`: how far the imaginary part of a complex number is from the real one; in packed matrices the parts of a
    row of a block are neighbours.
    """

    pointer: V
    row: int
    entry: Index = 0
    packed: bool = False
    transposed: bool = False
    imaginary: int = 0
    first: Index = 0


@dataclass(frozen=True)
class Product:
    """The size of a product: A is rows x depth, B depth x columns, for each entry of the batch.

    `columns` as stored (a multiple of 4 is fast); `real` of them exist, the others are padding that B stores as zeros:
    the block with padding then gets code of its own, where the number of its first column is known. `accumulate`: C
    holds sums to which the product is added (a value i1 where only the run knows). `parts` is 2 for complex numbers.
    """

    rows: Index
    columns: int
    depth: Index
    tile: Tile
    batch: Index = 1
    accumulate: bool | V = False
    real: int | None = None
    parts: Literal[1, 2] = 1

    @property
    def block(self) -> int:
        return min(self.tile.block, self.columns)

    @property
    def blocks(self) -> tuple[int, int]:
        """Full column blocks in a loop, and the width of the last one if it needs code of its own."""
        full, rest = divmod(self.columns, self.block)
        if full and not rest and self.real not in (None, self.columns):
            return full - 1, self.block
        return full, rest

    @property
    def block_count(self) -> int:
        full, rest = self.blocks
        return full + (1 if rest else 0)

    def row_tiles(self, f: Function) -> Index:
        return f.divide(f.add(self.rows, self.tile.rows - 1), self.tile.rows)

    def units(self, f: Function) -> Index:
        """How many units of work there are: (entry, block of columns, tile of rows), the last one innermost."""
        return f.multiply(f.multiply(self.batch, self.block_count), self.row_tiles(f))


@dataclass(frozen=True)
class Place:
    """Which part of the result a register tile holds; `column` is a Python integer in a block with padding.

    The sums of a row of complex numbers are the real parts of all pieces, then the imaginary ones.
    """

    entry: Index
    row: Index
    rows: int
    column: Index
    pieces: tuple[Piece, ...]

    @property
    def width(self) -> int:
        """Columns of the block."""
        return sum(piece.lanes for piece in self.pieces)


Begin = Callable[[Place], Sequence[V]]
"""What the sums of a tile start from, row by row."""
Finish = Callable[[Place, Sums], None]
"""What becomes of the sums of a tile."""


def multiply(
    f: Function, machine: Machine, product: Product, a: Matrices, b: Matrices, c: Matrices,
    units: tuple[Index, Index] | None = None, copied: bool = False,
) -> None:  # fmt: skip
    """Emit the product into memory. `units` is the range of units to do (default: this thread's share).

    With a transposed A a great depth is added up in chunks, which meet in C. `copied`: of each chunk A and a block of B
    are copied first. Rows of images are often a power of two apart, so that a column of them falls into few sets of the
    first-level cache, which would hold a fraction of the chunk.
    """

    def address(place: Place) -> V:
        if not c.packed:
            return f.address(
                c.pointer, f.sum(f.multiply(place.entry, c.entry), f.multiply(place.row, c.row), place.column)
            )
        before = f.multiply(f.multiply(place.column, product.parts), c.row or product.rows)
        row = f.multiply(f.add(place.row, c.first), place.width * product.parts)
        return f.address(c.pointer, f.sum(f.multiply(place.entry, c.entry), before, row))

    def vectors(place: Place) -> list[tuple[V, int]]:
        """(address, lanes) of the tile's vectors, row by row."""
        base, row = address(place), place.width * product.parts if c.packed else c.row
        pieces = _all_parts(place.pieces, product.parts, place.width if c.packed else c.imaginary)
        return [(f.address(base, m * row + p.offset), p.lanes) for m in range(place.rows) for p in pieces]

    def begin(place: Place) -> Sequence[V]:
        held = [f.load(*vector) for vector in vectors(place)]
        if product.accumulate is True:
            return held
        # The first chunk starts from zero, whatever the memory holds.
        later = f.less(0, emitter.first_step)
        if isinstance(product.accumulate, V):
            later = f.binary("or", later, product.accumulate)
        return [f.select(later, value, f.constant(0.0, value.lanes)) for value in held]

    def finish(place: Place, sums: Sums) -> None:
        for (vector, _), value in zip(vectors(place), sums.flat, strict=True):
            f.store(value, vector)

    chunk = _chunk_of(machine, product) if a.transposed else None
    if chunk is not None and isinstance(product.depth, int) and product.depth <= chunk:
        chunk = None
    kind = _CopyingEmitter if copied and chunk else _Emitter
    emitter = kind(f, machine, product, a, b, finish, begin if product.accumulate is not False or chunk else None)
    emitter.emit(*(units or f.share(product.units(f))), chunk)


def _chunk_of(machine: Machine, product: Product) -> int:
    """Steps of the depth to add up at a time."""
    row = 4 * product.block * product.parts
    fitting = int(_SHARE_OF_FIRST_CACHE * machine.l1_bytes) // row
    return max(_UNROLL, min(_CHUNK, fitting // _UNROLL * _UNROLL))


def multiply_with(
    f: Function, machine: Machine, product: Product, a: Matrices, b: Matrices, finish: Finish,
    begin: Begin | None = None, units: tuple[Index, Index] | None = None, cached: bool = False,
) -> None:  # fmt: skip
    """Emit the product; each tile starts from `begin` (default: zeros) and is handed to `finish` in registers.

    `cached`: A is larger than the caches. So many of its rows as the second-level cache holds are multiplied by all of
    B before the next rows are read.
    """
    emitter = _Emitter(f, machine, product, a, b, finish, begin)
    strip = max(1, int(_SHARE_OF_CACHE * machine.l2_bytes) // (4 * a.row * product.tile.rows)) if cached else None
    emitter.emit(*(units or f.share(product.units(f))), strip=strip)


def _all_parts(pieces: tuple[Piece, ...], parts: int, apart: int) -> tuple[Piece, ...]:
    return pieces if parts == 1 else (*pieces, *(Piece(piece.offset + apart, piece.lanes) for piece in pieces))


class _Emitter:
    def __init__(
        self, f: Function, machine: Machine, product: Product, a: Matrices, b: Matrices, finish: Finish,
        begin: Begin | None,
    ) -> None:  # fmt: skip
        self.f, self.machine, self.p = f, machine, product
        self.a, self.b, self.finish, self.begin = a, b, finish, begin
        self.steps: tuple[Index, Index] = 0, product.depth  # of the depth, that tiles are added up over
        self.first_step: Index = 0  # of the chunk
        self.a_row, self.first_row = (
            a.row,
            0,
        )  # of A as tiles read it: from one row of memory to the next, and what is first

    def emit(self, start: Index, stop: Index, chunk: int | None = None, strip: int | None = None) -> None:
        """The units of a range; with `strip`, so many tiles of rows at a time, with `chunk`, so many steps of the depth
        at a time for a strip of rows that fits it."""
        f, p = self.f, self.p
        tiles = p.row_tiles(f)
        # Without rows there is nothing to do, and nothing to divide by.
        with maybe(f, None if isinstance(tiles, int) and tiles > 0 else f.less(0, tiles)):
            units = f.multiply(p.block_count, tiles)
            first, last = f.divide(start, units), f.divide(f.add(stop, f.subtract(units, 1)), units)
            with f.loop(first, last) as entry:
                before = f.multiply(entry.index, units)
                share = f.subtract(start, before), f.subtract(stop, before)
                if strip is not None:
                    with f.loop(0, tiles, strip) as tile:
                        count = f.minimum(f.subtract(tiles, tile.index), strip)
                        self._strip(entry.index, share, tile.index, count)
                elif chunk is None:
                    self._strip(entry.index, share, 0, tiles)
                else:
                    self._in_chunks(entry.index, share, tiles, chunk)

    def _in_chunks(self, entry: Index, share: tuple[Index, Index], tiles: Index, chunk: int) -> None:
        f, p = self.f, self.p
        strip = self._strip_of(chunk)
        with f.loop(0, tiles, strip) as tile, f.loop(0, f.maximum(p.depth, 1), chunk) as step:
            self.first_step = step.index
            last = f.minimum(f.add(step.index, chunk), p.depth)
            self._chunk(entry, share, tile.index, f.minimum(f.subtract(tiles, tile.index), strip), last)

    def _strip_of(self, chunk: int) -> int:
        """How many tiles of rows a chunk is added to before the next one comes."""
        p = self.p
        return max(1, _WAITING // (4 * p.columns * p.parts * p.tile.rows))

    def _chunk(self, entry: Index, share: tuple[Index, Index], first: Index, tiles: Index, last: Index) -> None:
        """The steps of the depth from `first_step` to `last`."""
        self.steps = self.first_step, last
        self._strip(entry, share, first, tiles)

    def _strip(self, entry: Index, share: tuple[Index, Index], first: Index, tiles: Index) -> None:
        """What the share has of an entry's tiles of rows from `first` on, panel by panel (block of columns).

        The share is a range of the entry's units, possibly beyond either end of it.
        """
        f, p = self.f, self.p
        full, rest = p.blocks
        shift, most = f.multiply(first, p.block_count), f.multiply(tiles, p.block_count)
        start, stop = (f.minimum(f.maximum(f.subtract(bound, shift), 0), most) for bound in share)
        panels = f.divide(start, tiles), f.divide(f.add(stop, f.subtract(tiles, 1)), tiles)
        with f.loop(*panels) as panel:
            before = f.multiply(panel.index, tiles)
            low = f.add(f.maximum(f.subtract(start, before), 0), first)
            high = f.add(f.minimum(f.subtract(stop, before), tiles), first)
            if full:
                with maybe(f, f.less(panel.index, full) if rest else None):
                    self._panel(entry, f.multiply(panel.index, p.block), p.block, low, high)
            if rest:
                with maybe(f, f.equal(panel.index, full) if full else None):
                    self._panel(entry, full * p.block, rest, low, high)

    def _panel(self, entry: Index, column: Index, width: int, low: Index, high: Index) -> None:
        f, p, b = self.f, self.p, self.b
        offset = column
        if b.packed:
            before = f.multiply(f.multiply(column, p.parts), b.row or p.depth)
            offset = f.add(before, f.multiply(b.first, width * p.parts))
        pieces = column_pieces(width, self.machine.lanes)
        columns = f.address(b.pointer, f.add(f.multiply(entry, b.entry), offset))
        columns, b_row = self._block(columns, width * p.parts if b.packed else b.row, pieces, (low, high))
        rows = self._rows(entry)

        def tile(row: Index, count: int, unroll: int) -> None:
            self._tile(Place(entry, row, count, column, pieces), rows, columns, b_row, unroll)

        size = p.tile.rows
        whole = f.divide(p.rows, size)
        with f.loop(low, f.minimum(high, whole)) as number:
            tile(f.multiply(number.index, size), size, _UNROLL)
        if isinstance(p.rows, int) and p.rows % size == 0:
            return
        with f.when(f.less(whole, high)):
            left = f.subtract(p.rows, f.multiply(whole, size))
            for first, count in self._tail(f.multiply(whole, size), left):
                tile(first, count, _TAIL_UNROLL)

    def _rows(self, entry: Index) -> V:
        """Where the rows of A begin from which tiles are computed."""
        return self.f.address(self.a.pointer, self.f.multiply(entry, self.a.entry))

    def _block(self, columns: V, row: int, pieces: tuple[Piece, ...], tiles: tuple[Index, Index]) -> tuple[V, int]:
        """Where a range of tiles finds a block of B that lies at `columns`, and how far it is to the next row."""
        return columns, row

    def _tail(self, first: Index, left: Index) -> Iterator[tuple[Index, int]]:
        """(first row, rows) of the tiles of what is left after the whole tiles; one tile where that is known."""
        f, size = self.f, self.p.tile.rows
        if isinstance(left, int):
            yield first, left
            return
        for count in _TAIL_ROWS:
            if count < size:
                has = f.emit("i64", f"and i64 {left.ref}, {count}")
                with f.when(f.less(0, has)):
                    yield first, count
                first = f.add(first, has)

    def _tile(self, place: Place, a: V, b: V, b_row: int, unroll: int) -> None:
        f, row = self.f, self.a_row
        pieces = _all_parts(place.pieces, self.p.parts, place.width if self.b.packed else self.b.imaginary)
        sums = Sums.zeros(f, place.rows, pieces)
        if self.begin is not None:
            sums.flat = list(self.begin(place))
        first_row = f.subtract(place.row, self.first_row)
        corner = f.address(a, first_row if self.a.transposed else f.multiply(first_row, row))
        along, across = (row, 1) if self.a.transposed else (1, row)

        def steps(start: Index, stop: Index, unroll: int) -> None:
            with f.loop(start, stop, unroll, carried=sums.flat) as step:
                sums.flat = step.carried
                scalars = f.address(corner, f.multiply(step.index, along))
                vectors = f.address(b, f.multiply(step.index, b_row))
                for number in range(unroll):
                    sums.multiply_add(
                        f, vectors, number * b_row,
                        lambda m, number=number: (scalars, m * across + number * along), range(place.rows),
                        None if self.p.parts == 1 else self.a.imaginary,
                    )  # fmt: skip
                step.carried = sums.flat
            sums.flat = step.carried

        first, last = self.steps
        if isinstance(first, int) and isinstance(last, int):
            steps(first, last, unroll_factor(last - first, unroll))
        else:
            whole = f.add(first, f.multiply(f.divide(f.subtract(last, first), unroll), unroll))
            if unroll > 1:
                steps(first, whole, unroll)
            steps(whole if unroll > 1 else first, last, 1)
        self.finish(place, sums)


class _CopyingEmitter(_Emitter):
    """Copies what the tiles of a chunk read: a strip of rows of a transposed A, and each block of columns of B.

    In the copies, rows of A's memory are an odd number of cache lines apart, and those of a block of B are adjacent.
    """

    def _strip_of(self, chunk: int) -> int:
        p = self.p
        assert p.parts == 1, "real matrices are copied"
        strip = min(super()._strip_of(chunk), max(1, _COPIED // (4 * chunk * p.tile.rows)))
        if isinstance(p.rows, int):
            strip = min(strip, -(-p.rows // p.tile.rows))
        self.rows_of_strip = strip * p.tile.rows
        self.a_row = _LINE * (-(-self.rows_of_strip // _LINE) | 1)
        self.rows, self.block = self.f.local("rows", chunk * self.a_row), self.f.local("block", chunk * p.block)
        return strip

    def _chunk(self, entry: Index, share: tuple[Index, Index], first: Index, tiles: Index, last: Index) -> None:
        f, p = self.f, self.p
        self.steps, self.first_row = (0, f.subtract(last, self.first_step)), f.multiply(first, p.tile.rows)
        before, behind = f.multiply(first, p.block_count), f.multiply(f.add(first, tiles), p.block_count)
        with f.when(f.less(before, share[1])), f.when(f.less(share[0], behind)):
            self._copy_rows(entry)
            self._strip(entry, share, first, tiles)

    def _copy_rows(self, entry: Index) -> None:
        f, lanes = self.f, self.machine.lanes
        source = f.address(super()._rows(entry), self.first_row)
        count = f.minimum(f.subtract(self.p.rows, self.first_row), self.rows_of_strip)
        vectors = f.multiply(f.divide(count, lanes), lanes)
        with f.loop(*self.steps) as step:
            given = f.address(source, f.multiply(f.add(self.first_step, step.index), self.a.row))
            copy = f.address(self.rows, f.multiply(step.index, self.a_row))
            with f.loop(0, vectors, lanes) as place:
                f.store(f.load(f.address(given, place.index), lanes), f.address(copy, place.index))
            with f.loop(vectors, count) as place:
                f.store(f.load(f.address(given, place.index)), f.address(copy, place.index))

    def _rows(self, entry: Index) -> V:
        return self.rows

    def _block(self, columns: V, row: int, pieces: tuple[Piece, ...], tiles: tuple[Index, Index]) -> tuple[V, int]:
        f, width = self.f, sum(piece.lanes for piece in pieces)
        with f.when(f.less(*tiles)), f.loop(*self.steps) as step:
            given = f.address(columns, f.multiply(f.add(self.first_step, step.index), row))
            copy = f.address(self.block, f.multiply(step.index, width))
            for piece in pieces:
                f.store(f.load(f.address(given, piece.offset), piece.lanes), f.address(copy, piece.offset))
        return self.block, width
