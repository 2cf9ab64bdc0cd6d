"""What a comparison found, as data: for tables and, by `as_json`, for programs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, field, replace
from pathlib import Path
from typing import Any

from convc.lazy import dataclass
from convc.runtime.benchmark.arithmetic import KernelFloor
from convc.runtime.benchmark.peers import OURS
from convc.runtime.benchmark.rounds import Contestant, Pace
from convc.runtime.machine_probe import Ceilings

BUSY = 0.1  # cores kept busy by others, on average, above which ratios mean nothing


@dataclass(frozen=True)
class Entry:
    """A contestant of a case. Rates are images per second, None where nothing was measured (`error` says why).

    `ratio` is its rate by that of the best peer. `deviation` is how far its first results are from ours, relative to
    the largest. `peak_rss_bytes` is all that its process has had, the library and the preparation included.
    """

    name: str
    version: str
    images_per_second: float | None
    lowest: float | None
    highest: float | None
    rounds: tuple[float, ...]
    milliseconds_per_step: float | None
    ratio: float | None
    fraction_of_peak: float | None
    first_call_seconds: float | None
    peak_rss_bytes: int | None
    deviation: float | None
    error: str | None


@dataclass(frozen=True)
class CaseResult:
    """All contestants of a net, mode, batch and number of threads.

    `ratio` is our median by that of the best peer; `ratio_lowest` and `ratio_highest` are of single rounds, in which
    both took their turns one after the other.
    """

    file: str
    net: str
    mode: str
    precision: str
    batch: int
    threads: int
    parameters: int
    parameter_bytes: int
    mflop_per_image: float
    contestants: tuple[Entry, ...]
    best_peer: str | None
    ratio: float | None
    ratio_lowest: float | None
    ratio_highest: float | None
    kernels: tuple[KernelFloor, ...] | None = None

    @property
    def title(self) -> str:
        return Path(self.file).stem


@dataclass
class Report:
    """A whole run. `left_out` tells of peers that could not take part, `busy_cores` what others did meanwhile."""

    time: str
    mode: str
    precision: str
    pace: Pace
    machine: Mapping[str, Any]
    left_out: tuple[str, ...]
    ceilings: dict[int, Ceilings] = field(default_factory=dict[int, Ceilings])
    results: list[CaseResult] = field(default_factory=list[CaseResult])
    busy: list[float] = field(default_factory=list[float])
    interrupted: bool = False

    @property
    def failed(self) -> bool:
        return any(entry.error for result in self.results for entry in result.contestants)

    @property
    def geometric_mean(self) -> float | None:
        """Of the ratios, one per case; None without any."""
        return geometric_mean([result.ratio for result in self.results if result.ratio is not None])

    @property
    def busy_cores(self) -> float | None:
        """Cores that others kept busy on average in the pauses; None where the system does not tell."""
        return average_busy(self.busy)

    @property
    def counts(self) -> bool:
        return is_quiet(self.busy)

    def as_json(self) -> dict[str, Any]:
        """JSON's types, without the number of the schema."""
        return {
            "time": self.time,
            "mode": self.mode,
            "precision": self.precision,
            "settings": asdict(self.pace),
            "machine": dict(self.machine),
            "ceilings": [{"threads": threads, **asdict(found)} for threads, found in self.ceilings.items()],
            "results": [_case_as_json(result) for result in self.results],
            "left_out": list(self.left_out),
            "geometric_mean": self.geometric_mean,
            "busy_cores": self.busy_cores,
            "counts": self.counts,
            "interrupted": self.interrupted,
        }


def _case_as_json(result: CaseResult) -> dict[str, Any]:
    # Files below the working directory by their path from there: results are shared, machines are not.
    file, here = Path(result.file), Path.cwd()
    content = asdict(replace(result, file=str(file.relative_to(here) if file.is_relative_to(here) else file)))
    if result.kernels is None:
        del content["kernels"]
    else:
        content["kernels"] = [kernel.as_json() for kernel in result.kernels]
    return content


def average_busy(busy: Sequence[float]) -> float | None:
    """Of what `machine.busy_cores` has told (NaN: nothing); None if it never told anything."""
    known = [value for value in busy if math.isfinite(value)]
    return statistics.fmean(known) if known else None


def is_quiet(busy: Sequence[float]) -> bool:
    """Whether others left the machine alone as far as anybody knows, so that measurements count."""
    average = average_busy(busy)
    return average is None or average <= BUSY


def geometric_mean(values: Sequence[float]) -> float | None:
    """None of nothing."""
    return math.exp(statistics.fmean(map(math.log, values))) if values else None


def best_of(contestants: Sequence[Contestant]) -> Contestant | None:
    """The fastest of those that were timed and are not ours."""
    peers = [one for one in contestants if one.name != OURS and one.rates]
    return max(peers, key=median_rate, default=None)


def median_rate(contestant: Contestant) -> float:
    return statistics.median(contestant.rates.values())


def entry_of(contestant: Contestant, best: Contestant | None, flops: float, ceilings: Ceilings) -> Entry:
    """One line of the result; `flops` are those of an image."""
    rates = tuple(contestant.rates.values())
    median = median_rate(contestant) if rates else None
    started = math.isfinite(contestant.first_call)
    return Entry(
        contestant.name,
        contestant.version,
        median,
        min(rates, default=None),
        max(rates, default=None),
        rates,
        1e3 * statistics.median(contestant.step_seconds) if rates else None,
        median / median_rate(best) if median is not None and best is not None else None,
        median * flops / (ceilings.fma_gflops * 1e9) if median is not None else None,
        contestant.first_call if started else None,
        contestant.peak_rss,
        contestant.deviation,
        contestant.error,
    )


def ratio_spread(ours: Contestant | None, best: Contestant | None) -> tuple[float | None, float | None]:
    """The lowest and the highest ratio of ours to the best peer within a round."""
    if ours is None or best is None:
        return None, None
    ratios = [rate / best.rates[index] for index, rate in ours.rates.items() if index in best.rates]
    return min(ratios, default=None), max(ratios, default=None)
