"""What reports of benchmarks have in common."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from benchmarks.report import Run, markdown, not_counting, verdict, write_json
from convc.runtime.benchmark import machine
from convc.runtime.benchmark.results import average_busy, geometric_mean


def test_markdown() -> None:
    assert markdown(("net", "mode", "s"), [("a", "train", "1")], left=2) == (
        "| net | mode | s |\n|---|---|---:|\n| a | train | 1 |"
    )


def test_small_or_large_is_good() -> None:
    assert verdict(2.4, 2.4) == verdict(0.5, 0.5, at_most=True) == "met"
    assert verdict(2.3, 2.4) == verdict(0.6, 0.5, at_most=True) == "missed"


def test_means() -> None:
    assert geometric_mean([2.0, 8.0]) == pytest.approx(4.0)
    assert geometric_mean([]) is None
    assert average_busy([math.nan, 0.5, 0.1]) == pytest.approx(0.3)
    assert average_busy([math.nan]) is None


def test_a_run_on_a_busy_machine_does_not_count(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run()
    monkeypatch.setattr(machine, "busy_cores", lambda seconds: 0.5)
    run.pause()
    assert not run.as_json()["counts"]
    assert run.end() == 0
    assert "THIS RUN DOES NOT COUNT: other work kept 0.50 cores busy." in capsys.readouterr().out
    assert not_counting([0.0, math.nan]) is None


def test_ctrl_c_keeps_what_was_measured() -> None:
    run, measured = Run(), list[int]()
    with run.kept():
        measured.append(1)
        raise KeyboardInterrupt
    assert measured == [1]
    assert run.as_json()["interrupted"]
    assert run.end() == 130


def test_json_has_a_schema_and_no_infinities(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "out.json", {"value": math.inf, "list": (1, 2)})
    assert json.loads((tmp_path / "new" / "out.json").read_text()) == {"schema": 1, "value": None, "list": [1, 2]}
