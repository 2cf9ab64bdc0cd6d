"""Which memory is a thread's own where each takes chunks of its own."""

from __future__ import annotations

from dataclasses import dataclass

from convc.codegen.llvm.vocabulary import Function, Index


@dataclass(frozen=True)
class Workspace:
    """`rows` rows from row `first` on of the workspace with the number `number`. `workers` threads have one."""

    workers: Index
    number: Index
    first: Index
    rows: Index

    @classmethod
    def of_thread(cls, f: Function, spaces: int, most_workers: int, chunk: int) -> Workspace:
        """This thread's, of `spaces` that have `chunk` rows each.

        Threads have workspaces far from each other, not neighbouring rows: what a processor fetches ahead of one thread
        would be what another is writing (docs/performance-log.md). Only more threads than workspaces share them.
        """
        workers = f.minimum(f.parties, most_workers)
        sharing = f.divide(f.add(workers, spaces - 1), spaces)
        rows = f.divide(chunk, sharing)
        return cls(workers, f.divide(f.rank, sharing), f.multiply(f.remainder(f.rank, sharing), rows), rows)

    def share(self, f: Function, total: Index) -> tuple[Index, Index]:
        """This thread's part of `total` units of work; the threads without a workspace have none."""
        return f.share(total, self.workers)
