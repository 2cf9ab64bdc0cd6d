"""benchmarks.barrier: what it measures is what it says."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import barrier


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_all_threads_pass_all_barriers(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A barrier that not everybody reaches would never end."""
    monkeypatch.setattr(barrier, "_ROUNDS", 3)
    monkeypatch.setattr(barrier, "_BARRIERS", 7)
    monkeypatch.setattr(barrier, "_LAUNCHES", 5)
    for times in barrier.measure(threads).values():
        assert 0 < times["fastest"] <= times["median"]


def test_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["barrier", "--threads", "1"])
    monkeypatch.setattr(barrier, "measure", lambda threads: {"barrier": {"median": 2.0, "fastest": float(threads)}})
    barrier.main()
    assert json.loads(capsys.readouterr().out) == {
        "threads": 1,
        "microseconds": {"barrier": {"median": 2.0, "fastest": 1.0}},
    }
