"""`benchmarks.inference_precisions` on a small net: every precision has a number, and float32 comes first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import inference_precisions
from convc.runtime import precisions


def test_a_row_for_each_net(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("ROUNDS", 2), ("SECONDS", 1e-3), ("WARM_UP", 0.0), ("LISTENING", 1e-3)):
        monkeypatch.setattr(precisions, name, value)
    out = tmp_path / "rounds.json"
    words = ["x", "--nets", "simple", "--precisions", "int8", "bf16", "--out", str(out)]
    monkeypatch.setattr("sys.argv", words)
    inference_precisions.main()
    head, _, row = capsys.readouterr().out.splitlines()
    assert head == "| net (batch) | fp32 | int8 | bf16 |"
    assert row.startswith("| simple (100) | ")
    rounds = json.loads(out.read_text())["simple"]["rounds"]
    assert {name: len(rates) for name, rates in rounds.items()} == {"fp32": 2, "int8": 2, "bf16": 2}
    assert all(rate > 0 for rates in rounds.values() for rate in rates)
