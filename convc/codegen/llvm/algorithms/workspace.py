"""Which memory is a thread's own where each takes chunks of its own, and the loop over them."""

from __future__ import annotations

from collections.abc import Iterator

from convc.codegen.llvm.vocabulary import Function, Index, V
from convc.lazy import dataclass
from convc.passes.algorithms.workspaces import Workspaces


@dataclass(frozen=True)
class OwnChunk:
    """`count` units of work from unit `start` on; `later` (i1): not the first ones of their range."""

    start: Index
    count: Index
    later: V


@dataclass(frozen=True)
class Workspace:
    """`rows` rows from row `first` on of the workspace with the number `number`. `workers` threads have one."""

    workers: Index
    number: Index
    first: Index
    rows: Index

    @classmethod
    def of_thread(cls, f: Function, spaces: Workspaces) -> Workspace:
        """This thread's.

        Threads have workspaces far from each other, not neighbouring rows: what a processor fetches ahead of one thread
        would be what another is writing (docs/performance-log.md). Only more threads than workspaces share them.
        """
        workers = f.minimum(f.parties, spaces.threads)
        sharing = f.divide(f.add(workers, spaces.count - 1), spaces.count)
        rows = f.divide(spaces.rows, sharing)
        return cls(workers, f.divide(f.rank, sharing), f.multiply(f.remainder(f.rank, sharing), rows), rows)

    def share(self, f: Function, total: Index) -> tuple[Index, Index]:
        """This thread's part of `total` units of work; the threads without a workspace have none."""
        return f.share(total, self.workers)

    def chunks(self, f: Function, units: tuple[Index, Index], at_least: int = 0) -> Iterator[OwnChunk]:
        """A range of units, as many at a time as the workspace has rows; with `at_least` 1 none of them at once where
        there are none."""
        start, stop = units
        end = f.maximum(stop, f.add(start, at_least)) if at_least else stop
        with f.loop(start, end, self.rows) as unit:
            count = f.minimum(f.subtract(stop, unit.index), self.rows)
            yield OwnChunk(unit.index, count, f.less(start, unit.index))
