"""Memory in which threads work on chunks of their own, from what they gather to what they store."""

from __future__ import annotations

from convc.lazy import dataclass

_MOST = 8
# A thread that shares a workspace has no fewer rows of it than so many.
_FEWEST_ROWS = 8


@dataclass(frozen=True)
class Workspaces:
    """`count` places, each for a chunk of `rows` rows of a matrix.

    Threads have one each; more threads than there are share them, each with rows of its own. So scratch space does not
    depend on the threads.
    """

    count: int
    rows: int

    @classmethod
    def of(cls, total: int, rows: int, fitting: int = _MOST) -> Workspaces:
        """As many as `total` rows fill, but no more than are `fitting`."""
        return cls(max(1, min(_MOST, fitting, -(-total // rows))), rows)

    @property
    def threads(self) -> int:
        """How many can work at the same time."""
        return self.count * max(1, self.rows // _FEWEST_ROWS)
