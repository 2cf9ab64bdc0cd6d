"""Speed over batch, depth, resolution and threads: which points there are, the tables, and a run on a tiny net."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import scaling
from benchmarks.run import net_path
from benchmarks.scaling import Point, batches, points, tables
from convc.runtime.benchmark import benchmark, machine
from convc.runtime.benchmark.case import Case
from convc.runtime.benchmark.results import CaseResult, Entry
from convc.runtime.machine_probe import Ceilings

OPTIONS = Namespace(mode="train", threads=[1, 2], depths=[20, 32], sizes=[96, 160])
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def known_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "measure_ceilings", lambda threads: Ceilings(100.0, 20.0, 10.0))


def test_the_points_of_each_axis() -> None:
    lenet, resnet = net_path("lenet"), net_path("resnet18")
    assert batches(1) == [1]
    assert batches(64) == [1, 2, 4, 8, 16, 32, 64]
    assert batches(100)[-2:] == [64, 100]
    found = points("batch", [lenet, resnet], [], OPTIONS)
    assert [(p.series, p.case.batch) for p in found][-5:] == [
        ("lenet", 64), ("resnet18", 1), ("resnet18", 2), ("resnet18", 4), ("resnet18", 8)
    ]  # fmt: skip
    assert {p.case.threads for p in found} == {2}
    assert [(p.value, p.case.threads, p.case.batch) for p in points("threads", [lenet], [], OPTIONS)] == [
        (1, 1, 64), (2, 2, 64)
    ]  # fmt: skip
    deep, deeper = points("depth", [lenet], [resnet], OPTIONS)
    layers = [len([p for p in one.case.open().graph(1).parameters if p.endswith("weight")]) for one in (deep, deeper)]
    assert layers[1] - layers[0] == 12, "two more blocks for each of three sizes"
    small, large = points("resolution", [lenet], [resnet], OPTIONS)
    assert [one.case.open().graph(1).inputs["x"].shape for one in (small, large)] == [(1, 3, 96, 96), (1, 3, 160, 160)]


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "googlenet"])
def test_resolutions_change_no_parameter(name: str) -> None:
    def shapes(**given: str) -> dict[str, tuple[int, ...]]:
        graph = Case(net_path(name), "infer", 1, 1, set=given).open().graph(1)
        return {parameter: found.value.shape for parameter, found in graph.parameters.items()}

    assert shapes() == shapes(size="224") == shapes(size="96")


def entry(name: str, rate: float | None) -> Entry:
    rates = (rate,) if rate is not None else ()
    peak = rate / 1000 if rate is not None else None
    error = None if rate is not None else "out of memory"
    return Entry(name, "1", rate, rate, rate, rates, None, None, peak, 0.1, 1, None, error)


def test_cells_compare_arithmetic_with_the_first_row() -> None:
    case = Case(Path("net.cnn"), "infer", 4, 2)
    result = CaseResult(
        "net.cnn", "n", "infer", "fp32", 4, 2, 1, 4, 10.0, (entry("convc", 100.0), entry("torch", None)),
        None, None, None, None,
    )  # fmt: skip
    wider = replace(
        result,
        mflop_per_image=40.0,
        contestants=(entry("convc", 50.0), entry("torch", 25.0)),
        best_peer="torch",
        ratio=2.0,
        ratio_lowest=1.5,
        ratio_highest=2.5,
    )
    measured = [(Point("resolution", "net", size, case), found) for size, found in ((96, result), (192, wider))]
    assert tables(measured).splitlines() == [
        "## net over resolution: inference, batch 4, threads 2",
        "",
        "| resolution | convc | torch | convc, of FMA peak | best peer | x best peer |",
        "|---:|---:|---:|---:|---:|---:|",
        "| 96 | 100 (1.00) | out of memory | 10% |  |  |",
        "| 192 | 50 (2.00) | 25 (1.00) | 5% | torch | **2.00** (1.50 to 2.50) |",
    ]


def quick(file: Path, out: Path, *axes: str) -> list[str]:
    words = ["--nets", str(file), "--against", "none", "--threads", "1", "--sizes", "5,9"]
    return [*axes, *words, "--rounds", "2", "--seconds", "0.01", "--json", str(out)]


@pytest.mark.slow
def test_end_to_end(tiny: Path, tmp_path: Path, capsys: Capture, quiet: None) -> None:
    out = tmp_path / "out.json"
    assert scaling.main(quick(tiny, out, "batch", "resolution")) == 0
    text = capsys.readouterr().out
    assert "## tiny over batch: training, threads 1" in text
    assert "## tiny over resolution: training, batch 4, threads 1" in text
    results = json.loads(out.read_text())["results"]
    assert [(one["axis"], one["value"], one["batch"]) for one in results] == [
        ("batch", 1, 1), ("batch", 2, 2), ("batch", 4, 4), ("resolution", 5, 4), ("resolution", 9, 4)
    ]  # fmt: skip
    assert results[4]["mflop_per_image"] > 3 * results[3]["mflop_per_image"]
    assert all(one["contestants"][0]["images_per_second"] > 0 for one in results)


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_measured(
    tiny: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = 0

    def busy_cores(seconds: float) -> float:
        nonlocal turns
        turns += 1
        if turns == 4:  # the second round of the second point
            raise KeyboardInterrupt
        return 0.0

    monkeypatch.setattr(machine, "busy_cores", busy_cores)
    out = tmp_path / "out.json"
    assert scaling.main(quick(tiny, out, "batch")) == 130
    assert "| 2 | " in capsys.readouterr().out
    content = json.loads(out.read_text())
    assert content["interrupted"]
    assert [one["value"] for one in content["results"]] == [1, 2]


def test_no_such_axis(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        scaling.main(["width"])
    assert "no axis width; there are batch, depth, resolution, threads" in capsys.readouterr().err
