"""Compile times: the table, the goals, and a run on a tiny net."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import compile_time
from benchmarks.compile_time import Compilation, Measurement, Parts, goals, table
from benchmarks.first_step import FirstStep


def measurement(net: str, mode: str, compiling: float, warm: float) -> Measurement:
    """Three repetitions, whose middle one is what is asked for."""
    compilations = tuple(
        Compilation(20, 15, 2_500_000, 9, Parts(0.25, 0.25, 0.25, 0.25, llvm, 0.0)) for llvm in (9.0, 1.0, 0.5)
    )
    cold = tuple(FirstStep(compiling + 1, seconds) for seconds in (compiling, 0.0, 99.0))
    return Measurement(net, mode, 8, compilations, cold, tuple(FirstStep(value, 0.0) for value in (0.0, warm, 99.0)))


def test_the_table_has_medians() -> None:
    lines = table([measurement("resnet50", "train", 3.0, 0.5)]).splitlines()
    assert lines[0].startswith("| net (batch) | mode | kernels | functions | text, MB | load | passes | plan |")
    assert lines[2] == (
        "| resnet50 (8) | train | 20 | 15 | 2.50 "
        "| 0.25 | 0.25 | 0.25 | 0.25 | 1.00 | 0.00 | 2.00 | 3.00 | 4.00 | 0.50 |"
    )
    assert len({line.count("|") for line in lines}) == 1


def test_goals_are_of_training() -> None:
    found = [
        measurement("lenet", "train", 0.75, 0.75),
        measurement("lenet", "infer", 9.0, 9.0),
        measurement("vgg16", "train", 9.0, 9.0),
    ]
    assert goals(found) == [
        "lenet, cold compile: 0.75 s (accepted 1 s, aimed at 0.5 s: met)",
        "lenet, warm first step: 0.75 s (accepted 0.5 s, aimed at 0.3 s: missed)",
    ]


@pytest.mark.slow
def test_end_to_end(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], quiet: None) -> None:
    out = tmp_path / "out.json"
    assert compile_time.main(["--nets", str(tiny), "--repeats", "1", "--json", str(out)]) == 0
    text = capsys.readouterr().out
    assert "| tiny (4) | train |" in text
    assert "| tiny (4) | infer |" in text
    train, infer = json.loads(out.read_text())["nets"]
    assert train["compilations"][0]["kernels"] > infer["compilations"][0]["kernels"] >= 2
    for one in (train, infer):
        (compilation,) = one["compilations"]
        assert compilation["text_bytes"] > 1000
        assert compilation["object_bytes"] > 1000
        assert one["medians"]["parts"] == compilation["parts"]
        assert 0 < one["cold"][0]["compile"] < one["cold"][0]["whole"]
