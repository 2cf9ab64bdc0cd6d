"""The nine nets beside the goals: the sentences and the table that `benchmarks.run` prints."""

from __future__ import annotations

import pytest

from benchmarks.run import GOALS, NETS, net_batch, table, verdict
from convc.runtime.benchmark.results import CaseResult, Entry, Report
from convc.runtime.benchmark.rounds import Pace


def entry(name: str, rate: float | None, error: str | None = None) -> Entry:
    known = rate is not None
    rates = (rate, rate) if rate is not None else ()
    return Entry(
        name, "1", rate, rate, rate, rates, 1.0 if known else None, None, 0.5 if known else None, 0.25, 2_000_000, None,
        error,
    )  # fmt: skip


def report(ratios: dict[str, float | None]) -> Report:
    made = Report("2026-01-01T00:00:00Z", "infer", "fp32", Pace(), {}, ())
    for name, ratio in ratios.items():
        entries = (
            entry("convc", None if ratio is None else 1000 * ratio, None if ratio else "out of memory"),
            entry("torch", 1000),
        )
        made.results.append(
            CaseResult(f"nets/{name}.cnn", "n", "infer", "fp32", 8, 2, 1, 4, 1.0, entries, "torch", ratio, ratio, ratio)
        )
    return made


def test_the_verdict() -> None:
    goal = GOALS["infer", "fp32"]
    fine = report(dict.fromkeys(NETS, 1.6) | {"vgg16": 2.4})
    mean = (1.6**8 * 2.4) ** (1 / 9)
    assert fine.geometric_mean == pytest.approx(mean)
    assert verdict(fine, goal) == (
        f"geometric mean over 9 nets: {mean:.2f} x the best peer; accepted are 1.5, aimed at 1.8: met\n"
        "no net is below its floor"
    )
    poor = verdict(report({"lenet": 1.0, "vgg16": 2.0}), goal).splitlines()
    assert poor[0].endswith("missed (the goal is over all 9 nets)")
    assert poor[1:] == ["lenet: 1.00, and 1.05 are asked for: missed", "vgg16: 2.00, and 2.2 are asked for: missed"]
    assert verdict(report({"lenet": None}), goal) == "nothing was compared"


def test_the_table() -> None:
    lines = table(report({"lenet": 2.5, "deep": None})).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2] == (
        "| lenet (8) | convc | 2,500 | 2,500 to 2,500 | 50% | 0.25 s | 2 MB | **2.50** (2.50 to 2.50) |"
    )
    assert lines[4].startswith("| deep (8) | convc | out of memory |")


def test_batches_are_those_of_the_files() -> None:
    assert {name: net_batch(name) for name in ("lenet", "vgg16")} == {"lenet": 64, "vgg16": 4}
