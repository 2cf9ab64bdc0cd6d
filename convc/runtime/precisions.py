"""The same net in several precisions on the same images: how accurate each is, how fast, and what it takes.

    fp32: accuracy 98.71 %           98,000 images/s, weights 1.64 MiB
    bf16: accuracy 98.70 % (-0.01)  110,000 images/s, weights 0.83 MiB

A *contestant* is a name and a function that makes what computes, so it need not be a program of this process, nor know
of precisions. All are open at once and take turns, so that whatever else slows the machine down slows all of them.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convc.ir.graph import Value
from convc.lazy import dataclass
from convc.passes.memory import MemoryPlan
from convc.runtime.benchmark.contestant import work
from convc.runtime.benchmark.machine import busy_cores
from convc.runtime.benchmark.results import average_busy, is_quiet
from convc.runtime.build import main_loss
from convc.runtime.data import Split
from convc.runtime.evaluate import Classifier, evaluate
from convc.runtime.loaded_library import LoadedLibrary, runnable_tier
from convc.runtime.program import Program
from convc.runtime.standalone import Standalone, stored_bytes, stored_types
from convc.runtime.trained import Trained

if TYPE_CHECKING:
    from convc.frontend.net import Net
    from convc.passes.quantization import Ranges

# What the others are compared with, where it is among them; else that is the first.
BASE = "fp32"
ROUNDS = 7
SECONDS = 0.15  # of a turn that is timed, one batch at least
WARM_UP = 0.02  # seconds before it: threads of others poll for a quarter of that
LISTENING = 0.1  # seconds of each round in which nobody works, to hear what others do on the machine


@dataclass(frozen=True)
class Contestant:
    """What computes, the bytes that a library keeps its weights in, and its memory (None: it is not native, and is not
    timed)."""

    program: Classifier
    weight_bytes: int
    memory: MemoryPlan | None


@dataclass(frozen=True)
class PrecisionRecord:
    """A precision on `count` images. Fractions are in 0…1; `difference` is how many points (hundredths) the accuracy is
    above the base's (None: this is the base).

    Images per second are medians of turns in which batches follow one another, `lowest` and `highest` those of single
    turns. `weight_bytes` is what a library keeps the weights in, `arena_bytes` what lives within a run, `memory_bytes`
    all that a program takes.
    """

    precision: str
    accuracy: float
    difference: float | None
    top5: float
    loss: float | None
    count: int
    images_per_second: float | None
    lowest: float | None
    highest: float | None
    weight_bytes: int
    arena_bytes: int | None
    memory_bytes: int | None


@dataclass(frozen=True)
class Comparison:
    """All precisions, in the order asked for. `busy_cores` is how many cores others kept busy on average (None: nobody
    knows, or nothing was timed)."""

    records: tuple[PrecisionRecord, ...]
    busy_cores: float | None

    @property
    def counts(self) -> bool:
        """Whether others left the machine alone as far as anybody knows, so that the speeds count."""
        return self.busy_cores is None or is_quiet([self.busy_cores])


def compare_trained(
    trained: Trained,
    split: Split,
    precisions: Sequence[str],
    *,
    batch: int | None = None,
    target: str = "cpu",
    threads: int | None = None,
    fp32: Sequence[str] = (),
    ranges: Ranges | None = None,
) -> Comparison:
    """A trained net in each of `precisions` (int8 with these `ranges`), by programs of `Trained.program`, which compute
    from the float32 weights.

    Errors: those of `Trained.program` and `evaluate`.
    """

    def make(precision: str) -> Contestant:
        return contestant(
            trained.program(batch=batch, target=target, threads=threads, precision=precision, fp32=fp32, ranges=ranges),
            trained.checkpoint.weights,
        )

    return compare({precision: partial(make, precision) for precision in precisions}, split)


def contestant(program: Program, weights: Mapping[str, np.ndarray]) -> Contestant:
    """A program of this process with weights that it has been given."""
    types = stored_types([program.graph], weights)
    return Contestant(program, stored_bytes(weights, types), None if program.plan is None else program.plan.memory)


def compare_library(
    net: Net,
    made: Standalone,
    split: Split,
    write: Callable[..., Standalone],
    *,
    precision: str | None = None,
    fp32: Sequence[str] = (),
    threads: int | None = None,
) -> Comparison:
    """A library that was written with `precision` and `fp32`, beside one that computes all in float32, if it does not
    itself; both run as their users run them, with the weights that they hold.

    The second is written by `write(library, header, precision=, fp32=, cpu=, beside=)` into a folder that goes away.
    The first is called `mixed` where only layers have other precisions. Errors: those of `write` and `evaluate`,
    `value-cpu-tier`.
    """
    chosen = precision or net.settings.precision.kind
    narrow = any(value.type.dtype.is_half or value.type.dtype.is_whole for value in _values(made))
    name = "mixed" if narrow and chosen == BASE else chosen
    loss, tier = main_loss(net.graph(1)), made.plans[runnable_tier(made.plans)].machine.name

    def load(library: Standalone) -> Contestant:
        memory = library.plans[runnable_tier(library.plans)].memory
        return Contestant(LoadedLibrary(library, loss, threads), library.weight_bytes, memory)

    with tempfile.TemporaryDirectory(prefix="convc-") as folder:
        whole, header = Path(folder) / "whole.so", Path(folder) / "whole.h"
        beside = None if made.interface.inside else Path(folder) / "whole.safetensors"
        others = ("*",) if net.layers else ()
        makers = {name: partial(load, made)}
        if narrow:
            write_whole = partial(write, whole, header, precision=BASE, fp32=others, cpu=[tier], beside=beside)
            makers = {BASE: lambda: load(write_whole()), **makers}
        return compare(makers, split)


def _values(made: Standalone) -> Iterator[Value]:
    """What the nodes of a library compute."""
    return (value for plan in made.plans.values() for node in plan.graph.nodes for value in node.results)


def compare(makers: Mapping[str, Callable[[], Contestant]], split: Split) -> Comparison:
    """Make all contestants, evaluate them on `split`, let them take turns with batches of its images, and close them.

    Errors: those of the makers and of `evaluate`.
    """
    with ExitStack() as stack:
        contestants: dict[str, Contestant] = {}
        for name, make in makers.items():
            contestants[name] = make()
            stack.enter_context(closing(contestants[name].program))
        found = {name: evaluate(one.program, split) for name, one in contestants.items()}
        timed = {name: one.program for name, one in contestants.items() if one.memory is not None}
        rates, busy = take_turns(timed, split) if timed else ({}, [])
        base = BASE if BASE in found else next(iter(found))
        records = tuple(
            PrecisionRecord(
                precision=name,
                **result,
                difference=None if name == base else 100 * (result["accuracy"] - found[base]["accuracy"]),
                images_per_second=statistics.median(rates[name]) if name in rates else None,
                lowest=min(rates[name]) if name in rates else None,
                highest=max(rates[name]) if name in rates else None,
                weight_bytes=contestants[name].weight_bytes,
                arena_bytes=None if (memory := contestants[name].memory) is None else memory.arena_bytes,
                memory_bytes=None if memory is None else memory.total_bytes,
            )
            for name, result in found.items()
        )
        return Comparison(records, average_busy(busy))


def take_turns(programs: Mapping[str, Classifier], split: Split) -> tuple[dict[str, list[float]], list[float]]:
    """Images per second in each round, in whole batches, and what others kept busy in its pause; who begins rotates."""
    rates: dict[str, list[float]] = {name: [] for name in programs}
    busy: list[float] = []
    steps: list[tuple[str, int, Callable[[], object]]] = []
    for name, program in programs.items():
        images, _ = split.batch(np.arange(program.batch) % len(split))
        steps.append((name, program.batch, partial(program, images)))
    for index in range(ROUNDS):
        time.sleep(WARM_UP)
        busy.append(busy_cores(LISTENING))
        for offset in range(len(steps)):
            name, batch, step = steps[(index + offset) % len(steps)]
            work(step, WARM_UP)
            count, seconds = work(step, SECONDS)
            rates[name].append(count * batch / seconds)
    return rates, busy
