"""In which order an emulated launch does what CUDA leaves open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LANES = ("converged", "ascending", "descending", "random")
ORDERS = ("forward", "backward", "shuffled")
LANDINGS = ("at wait", "at issue", "either")


@dataclass(frozen=True)
class Schedule:
    """A deterministic order of everything.

    `lanes`: those of a warp run as one and join again as soon as they can (`converged`), or each alone, as far as it
    gets (`ascending`, `descending`), or in groups that part and meet at random.
    `warps`: their priority in a block. `quantum`: after how many instructions it is another warp's turn; None for when
    it has to wait. `jitter` draws both the next warp and its quantum.
    `blocks`: their order in the grid; `resident` of them run at once, which matters with a quantum only.
    `copies`: when the bytes of a cp.async arrive: as late or as early as they may, or either, drawn by `seed`.
    """

    name: str
    lanes: Literal["converged", "ascending", "descending", "random"] = "converged"
    warps: Literal["forward", "backward", "shuffled"] = "forward"
    quantum: int | None = 64
    jitter: bool = False
    blocks: Literal["forward", "backward", "shuffled"] = "forward"
    resident: int = 1
    copies: Literal["at wait", "at issue", "either"] = "at wait"
    seed: int = 0

    def __str__(self) -> str:
        return self.name


EVEN = Schedule("even")
# Each is hostile to another assumption; together they are the matrix that kernels are run under.
SCHEDULES: tuple[Schedule, ...] = (
    EVEN,
    # The first warp runs ahead as far as barriers let it, copies come before they are waited for.
    Schedule("first-warp-ahead", quantum=None, copies="at issue"),
    # The last warp runs ahead, blocks come in the opposite order.
    Schedule("last-warp-ahead", quantum=None, warps="backward", blocks="backward"),
    # Warps step by step, four blocks at once.
    Schedule("interleaved", quantum=1, warps="shuffled", blocks="shuffled", resident=4, copies="either", seed=1),
    # Everything drawn.
    Schedule("random", lanes="random", quantum=48, jitter=True, warps="shuffled", resident=2, copies="either", seed=2),
    # One lane at a time: nothing is in step that no instruction brings in step.
    Schedule("lane-by-lane", lanes="ascending", quantum=None),
    Schedule("lanes-backward", lanes="descending", quantum=None, warps="backward", copies="at issue"),
)
