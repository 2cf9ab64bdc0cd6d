"""The tile registers of AMX, and the same in memory for processors without.

Eight registers of 16 rows of 64 bytes; products of them are added to one. Emulated they are for tests of kernels
(`Machine.emulates_amx`), and slow.
"""

from __future__ import annotations

from collections.abc import Callable

from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.passes.machine import Machine

ROWS = 16  # of a tile
_BYTES = 64  # of a row of a tile
WORDS = 16  # numbers of 32 bits in a row of a tile, or pairs of 16, or fours of 8
_TILES = 8

_DECLARATIONS = {
    "ldtilecfg": "ptr",
    "tilerelease": "",
    "tilezero": "i8",
    "tileloadd64": "i8, ptr, i64",
    "tilestored64": "i8, ptr, i64",
    "tdpbf16ps": "i8, i8, i8",
    "tdpbusd": "i8, i8, i8",
}


class Tiles:
    """The tile registers of a thread, by number."""

    def __init__(self, f: Function) -> None:
        self.f = f

    @classmethod
    def of(cls, f: Function, machine: Machine) -> Tiles:
        return EmulatedTiles(f) if machine.emulates_amx else cls(f)

    def _call(self, name: str, arguments: str = "") -> None:
        self.f.declarations[f"llvm.x86.{name}"] = f"declare void @llvm.x86.{name}({_DECLARATIONS[name]})"
        self.f.do(f"call void @llvm.x86.{name}({arguments})")

    def configure(self, shape: V) -> None:
        """Rows and bytes of all tiles, as `tile_shape` writes them; all tiles become zero."""
        self._call("ldtilecfg", f"ptr {shape.ref}")

    def zero(self, tile: int) -> None:
        self._call("tilezero", f"i8 {tile}")

    def load(self, tile: int, place: V, stride: int) -> None:
        """Rows that lie `stride` bytes apart."""
        self._call("tileloadd64", f"i8 {tile}, ptr {place.ref}, i64 {stride}")

    def multiply(self, sums: int, left: int, right: int) -> None:
        """sums[m, n] += Σ left[m, k]·right[k/2, n][k%2]"""
        self._call("tdpbf16ps", f"i8 {sums}, i8 {left}, i8 {right}")

    def multiply_whole(self, sums: int, left: int, right: int) -> None:
        """sums[m, n] += Σ left[m, k]·right[k/4, n][k%4], without and with a sign"""
        self._call("tdpbusd", f"i8 {sums}, i8 {left}, i8 {right}")

    def store(self, tile: int, place: V, stride: int) -> None:
        self._call("tilestored64", f"i8 {tile}, ptr {place.ref}, i64 {stride}")

    def release(self) -> None:
        self._call("tilerelease")


class EmulatedTiles(Tiles):
    """Tiles in memory of the thread; what they hold is not a number where no instruction has set it."""

    def __init__(self, f: Function) -> None:
        super().__init__(f)
        self.memory = f.local("tiles", _TILES * ROWS * WORDS)
        self.state = f.local("tile_state", _BYTES // 4)

    def configure(self, shape: V) -> None:
        self._copy(shape, self.state)
        self._fill(0)

    def zero(self, tile: int) -> None:
        with self.f.loop(0, ROWS) as row:
            self._set(self._row(tile, row.index), 0)

    def load(self, tile: int, place: V, stride: int) -> None:
        self.zero(tile)
        self._each_row(tile, place, stride, lambda own, given: self._copy(given, own))

    def store(self, tile: int, place: V, stride: int) -> None:
        self._each_row(tile, place, stride, self._copy)

    def multiply(self, sums: int, left: int, right: int) -> None:
        f = self.f
        with f.loop(0, self._rows(sums)) as m:
            target, factors = self._row(sums, m.index), self._row(left, m.index)
            even = odd = f.constant(0.0, WORDS)
            with f.loop(0, self._rows(right), carried=(even, odd)) as k:
                scalars = f.splat(f.load(f.address(factors, k.index), 1, "i32"), WORDS)
                vectors = f.load(self._row(right, k.index), WORDS, "i32")
                halves = zip(self._halves(scalars), self._halves(vectors), k.carried, strict=True)
                k.carried = [f.fma(*half) for half in halves]
            total = f.binary("fadd", *k.carried)
            f.store(f.binary("fadd", f.load(target, WORDS), total), target)

    def multiply_whole(self, sums: int, left: int, right: int) -> None:
        f = self.f
        with f.loop(0, self._rows(sums)) as m:
            target, factors = self._row(sums, m.index), self._row(left, m.index)
            total = f.load(target, WORDS, "i32")
            with f.loop(0, self._rows(right), carried=[total]) as k:
                scalars = f.splat(f.load(f.address(factors, k.index), 1, "i32"), WORDS)
                vectors = f.load(self._row(right, k.index), WORDS, "i32")
                k.carried = [f.dot_quads(scalars, vectors, k.carried[0])]
            f.store(k.carried[0], target)

    def release(self) -> None:
        self._fill(-1)
        self._set(self.state, 0)

    def _halves(self, pairs: V) -> tuple[V, V]:
        """The first and the second numbers of pairs of bfloat16 numbers, as float."""
        f = self.f
        first = f.binary("shl", pairs, f.integers([16] * WORDS))
        second = f.binary("and", pairs, f.integers([-0x10000] * WORDS))
        return f.bits(first, "float"), f.bits(second, "float")

    def _rows(self, tile: int) -> V:
        rows = self.f.load(self.f.address(self.state, 48 + tile, "i8"), 1, "i8")
        return self.f.convert("zext", rows, "i64")

    def _row(self, tile: int, row: Index) -> V:
        return self.f.address(self.memory, self.f.multiply(self.f.add(row, tile * ROWS), WORDS))

    def _each_row(self, tile: int, place: V, stride: int, visit: Callable[[V, V], None]) -> None:
        with self.f.loop(0, self._rows(tile)) as row:
            there = self.f.address(place, self.f.multiply(row.index, stride), "i8")
            visit(self._row(tile, row.index), there)

    def _copy(self, source: V, target: V) -> None:
        self.f.store(self.f.load(source, _BYTES, "i8"), target)

    def _set(self, row: V, value: int) -> None:
        self.f.store(self.f.integers([value] * _BYTES, "i8"), row)

    def _fill(self, value: int) -> None:
        with self.f.loop(0, _TILES * ROWS) as row:
            self._set(self._row(0, row.index), value)


def tile_shape(f: Function, rows: Index) -> V:
    """The block of 64 bytes that says how large tiles are: all of 64 bytes a row; the first six, for sums
    and what stands left in products, of `rows` rows."""
    shape, wide = f.local("tile_shape", _BYTES // 4), _BYTES * 0x0001_0001_0001_0001
    f.store(f.integers([1, 0, wide, wide, 0, 0, 0, 0], "i64"), shape)
    count = f.add(f.multiply(rows, 0x0101_0101_0101), ROWS * 0x0101_0000_0000_0000)
    f.store(V(str(count), "i64") if isinstance(count, int) else count, f.address(shape, 6, "i64"))
    return shape
