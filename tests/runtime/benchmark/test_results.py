"""What a report of a benchmark says."""

from __future__ import annotations

from pathlib import Path

import pytest

from convc.runtime.benchmark.results import CaseResult, Report
from convc.runtime.benchmark.rounds import Pace


@pytest.mark.parametrize(("file", "shown"), [("nets/a.cnn", "nets/a.cnn"), ("{here}/nets/a.cnn", "nets/a.cnn")])
def test_files_below_the_working_directory_are_named_from_there(
    file: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert named(file.format(here=tmp_path)) == shown


def test_files_elsewhere_keep_their_names(tmp_path: Path) -> None:
    assert named(str(tmp_path / "a.cnn")) == str(tmp_path / "a.cnn")


def named(file: str) -> str:
    result = CaseResult(file, "a", "infer", "fp32", 1, 1, 0, 0, 0.0, (), None, None, None, None)
    report = Report("now", "infer", "fp32", Pace(), {}, (), results=[result])
    return report.as_json()["results"][0]["file"]
