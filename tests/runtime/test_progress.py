from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from convc.ir.diagnostic import CompileError
from convc.runtime.progress import LineReporter, Progress, describe, duration, make_reporter, percent

PROGRESS = Progress(2, 5, 10, 40, 50, 0.51234, 0.875, 12345.6, 125.0)


def test_words() -> None:
    assert percent(0.99123) == "99.12 %"
    assert [duration(seconds) for seconds in (0, 7.4, 754, 3723)] == ["0:00", "0:07", "12:34", "1:02:03"]


def test_lines(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    reporter = make_reporter("auto")
    assert isinstance(reporter, LineReporter)
    reporter.emit("folder", "before the log", folder="x")
    reporter.attach(tmp_path / "log.txt")
    reporter.tick(PROGRESS)
    reporter.record("error", "only in the log")
    reporter.close()
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "before the log",
        "epoch 2/5  25 %  loss 0.5123  accuracy 87.50 %  12,346 images/s  2:05 left",
    ]
    log = (tmp_path / "log.txt").read_text().splitlines()
    assert [line.split("  ", 1)[1] for line in log] == ["before the log", "only in the log"]


def test_a_line_has_the_scale_of_the_loss() -> None:
    lines = [
        describe(replace(PROGRESS, loss_scale=scale, skipped=skipped)) for scale, skipped in ((65536.0, 0), (2.0, 3))
    ]
    assert "accuracy 87.50 %  loss scale 65536  12,346 images/s" in lines[0]
    assert "accuracy 87.50 %  loss scale 2  3 skipped  12,346 images/s" in lines[1]
    assert "loss scale" not in describe(PROGRESS)


def test_events(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = make_reporter("json")
    reporter.emit("folder", "text", folder="ü")
    reporter.tick(PROGRESS)
    reporter.record("error", "gone wrong")
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[0] == {"schema": 1, "event": "folder", "folder": "ü"}
    assert events[1]["event"] == "progress"
    assert events[1]["images_per_second"] == 12345.6
    assert events[2] == {"event": "error", "text": "gone wrong"}


def test_an_unknown_style() -> None:
    with pytest.raises(CompileError, match="loud"):
        make_reporter("loud")  # type: ignore[arg-type]


def test_a_reader_that_goes_away_ends_the_output_only() -> None:
    program = """
import sys
from convc.runtime.progress import make_reporter
reporter = make_reporter("lines")
for number in range(20000):
    reporter.emit("epoch", f"epoch {number}")
print("done", file=sys.stderr)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    errors = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), errors) == (0, b"done\n")
