"""Chunks of tiles: which thread transforms which tiles, which products it does, and where they lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from convc.codegen.llvm.algorithms.tiles import Slots
from convc.codegen.llvm.gemm import Product
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.passes.algorithms.transform_plan import TransformPlan


@dataclass(frozen=True)
class Chunk:
    """Tiles that are transformed and multiplied before the next ones are.

    They lie in `count` rows of V and M from row `first` on; this thread transforms those in `slots`. `apart`: they are
    this thread's alone, and so are their products; otherwise threads share them and have to wait for each other.
    `later` (i1): it is not the first.
    """

    slots: Slots
    first: Index
    count: Index
    apart: bool
    later: V

    def units(self, f: Function, product: Product) -> tuple[Index, Index]:
        """The units of a product of the chunk's rows that are this thread's."""
        units = product.units(f)
        return (0, units) if self.apart else f.share(units)


def chunks(f: Function, plan: TransformPlan, total: Index) -> Iterator[Chunk]:
    """All chunks in turn of the tiles 0 … total − 1: those of this thread, or those that all threads share."""
    if plan.apart:
        yield from own_chunks(f, plan, f.share(total, _workers(f, plan)))
        return
    with f.loop(0, total, plan.chunk) as chunk:
        count = f.minimum(f.subtract(total, chunk.index), plan.chunk)
        start, stop = f.share(count)
        yield Chunk(Slots(start, stop, chunk.index), 0, count, apart=False, later=f.less(0, chunk.index))


def own_parts(f: Function, plan: TransformPlan) -> tuple[Index, Index]:
    """The parts of a gradient by the filters that are this thread's."""
    return f.share(plan.parts, _workers(f, plan))


def own_chunks(f: Function, plan: TransformPlan, tiles: tuple[Index, Index]) -> Iterator[Chunk]:
    """The chunks of a range of tiles that this thread has for itself, in rows of V and M that are its own."""
    start, stop = tiles
    rows = f.minimum(f.divide(plan.held, _workers(f, plan)), plan.chunk)
    first = f.multiply(f.rank, rows)
    with f.loop(start, stop, rows) as chunk:
        count = f.minimum(f.subtract(stop, chunk.index), rows)
        slots = Slots(first, f.add(first, count), f.subtract(chunk.index, first))
        yield Chunk(slots, first, count, apart=True, later=f.less(start, chunk.index))


def _workers(f: Function, plan: TransformPlan) -> Index:
    return f.minimum(f.parties, plan.most_workers)
