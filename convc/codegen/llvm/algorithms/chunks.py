"""Chunks of tiles: which thread transforms which tiles, which products it does, and where they lie."""

from __future__ import annotations

from collections.abc import Iterator

from convc.codegen.llvm.algorithms.tiles import Slots
from convc.codegen.llvm.algorithms.workspace import Workspace
from convc.codegen.llvm.gemm import Product
from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.lazy import dataclass
from convc.passes.algorithms.transform_plan import TransformPlan


@dataclass(frozen=True)
class Chunk:
    """Tiles that are transformed and multiplied before the next ones are.

    They lie in `count` rows of V and M from row `first` on, in the workspace that begins at `space`; this thread
    transforms those in `slots`. `apart`: they are this thread's alone, and so are their products; otherwise threads
    share them and have to wait for each other. `later` (i1): it is not the first.
    """

    slots: Slots
    space: Index
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
        workspace = workspace_of(f, plan)
        yield from own_chunks(f, plan, workspace, workspace.share(f, total))
        return
    with f.loop(0, total, plan.chunk) as chunk:
        count = f.minimum(f.subtract(total, chunk.index), plan.chunk)
        start, stop = f.share(count)
        yield Chunk(Slots(start, stop, chunk.index), 0, 0, count, apart=False, later=f.less(0, chunk.index))


def workspace_of(f: Function, plan: TransformPlan) -> Workspace:
    """This thread's place for V and M."""
    return Workspace.of_thread(f, plan.workspaces)


def own_chunks(
    f: Function, plan: TransformPlan, workspace: Workspace, tiles: tuple[Index, Index], at_least: int = 0
) -> Iterator[Chunk]:
    """The chunks of a range of tiles that this thread has for itself; with `at_least` 1 an empty one if it has none."""
    space, first = f.multiply(workspace.number, plan.places.space), workspace.first
    for own in workspace.chunks(f, tiles, at_least):
        slots = Slots(first, f.add(first, own.count), f.subtract(own.start, first))
        yield Chunk(slots, space, first, own.count, apart=True, later=own.later)
