"""The largest batch whose program fits into a number of bytes, found by making plans; nothing is allocated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from convc.ir.diagnostic import fail
from convc.ir.sizes import format_bytes
from convc.lazy import dataclass
from convc.passes.base import Mode, Pass
from convc.passes.manager import PassManager
from convc.passes.pipeline import Recipe
from convc.runtime.algorithms import AlgorithmOptions
from convc.runtime.build import choose_passes, planner_for
from convc.runtime.configuration import make_recipe, positive

if TYPE_CHECKING:
    from convc.frontend.net import Net
    from convc.frontend.settings import TrainSettings

# Larger batches have no use, and their tensors no place.
LARGEST = 1 << 16


@dataclass(frozen=True)
class FittingBatch:
    """`batch` images take `bytes` of `limit`; one more would take `more` (None where as many as asked for fit)."""

    batch: int
    bytes: int
    limit: int
    more: int | None

    def __str__(self) -> str:
        taken = f"{format_bytes(self.bytes)} of {format_bytes(self.limit)}"
        rest = "more are not asked for" if self.more is None else f"one image more takes {format_bytes(self.more)}"
        return f"the largest whose plan fits: {taken}; {rest}"


def fitting_batch(
    net: Net,
    limit: int,
    *,
    mode: Mode,
    most: int = LARGEST,
    settings: TrainSettings | None = None,
    threads: int | None = None,
    passes: Sequence[str] | None = None,
    algorithms: AlgorithmOptions | None = None,
    types: Pass | None = None,
    target: str = "cpu",
    arch: str | None = None,
) -> FittingBatch:
    """The largest batch of at most `most` images for which a program of the net takes at most `limit` bytes.

    Algorithms are those that are predicted to be fast: measuring them for each batch would take too long. Error:
    `budget-memory` where a single image takes more.
    """
    positive(limit, "fit")
    settings = settings or net.settings
    choose = replace(algorithms or AlgorithmOptions(), tune=None).chooser(target, threads, arch=arch)
    recipe = make_recipe(settings, net.graph(1), types) if mode == "train" else Recipe()
    planner = planner_for(target, arch)
    order = choose_passes(mode, recipe, passes, target, choose, types=types, planner=planner)

    def bytes_of(batch: int) -> int:
        graph = net.graph(batch)
        PassManager(order.graph, check=False).run(graph)
        return planner.make(graph, order.plan).memory.total_bytes

    found = largest_batch(bytes_of, limit, most, settings.batch)
    if found is None:
        message = f"a program of {net.name} takes {format_bytes(bytes_of(1))} for a single image"
        fail("budget-memory", f"{message}; the budget is {format_bytes(limit)}")
    return found


def largest_batch(bytes_of: Callable[[int], int], limit: int, most: int, guess: int = 1) -> FittingBatch | None:
    """The largest batch up to `most` that takes at most `limit` bytes; None if even 1 takes more.

    What a batch takes grows with it about in a straight line, so the next try is where the line through what is known
    meets the limit; now and then it is the middle, in case the line leads astray.
    """
    known = {1: bytes_of(1)}
    if known[1] > limit:
        return None
    fits, too_many = 1, most + 1
    trial = min(max(2, guess), most)
    while too_many - fits > 1:
        known[trial] = bytes_of(trial)
        if known[trial] <= limit:
            fits = max(fits, trial)
        else:
            too_many = min(too_many, trial)
        low, high = (fits, too_many) if too_many in known else (1, max(fits, 2))
        slope = (known.get(high, 0) - known[low]) / (high - low)
        line = fits + int((limit - known[fits]) / slope) if slope > 0 else most
        if len(known) % 4 == 0:
            line = (fits + too_many) // 2
        trial = min(max(line, fits + 1), too_many - 1)
    return FittingBatch(fits, known[fits], limit, known.get(too_many))
