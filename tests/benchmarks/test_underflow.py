"""Gradients by their exponents: what is counted, the tables, and a run on a tiny net."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import convc
from benchmarks.underflow import bins_table, cotangents, histogram, main, shares_table
from convc.frontend import loads
from convc.runtime.diagnose import inputs_of

NET = """net tiny {
  input 1x28x28
  conv 3 k=5 s=2 -> tanh -> pool avg global -> fc 10
  loss softmax weight=1e-4
}
train { batch 16 -> epochs 1 -> optim sgd lr=0.1 -> precision fp16 loss_scale=1 }
"""


def test_bins_and_shares() -> None:
    magnitudes = 2.0 ** np.asarray([-60.0, -42.0, -25.0, -24.0, -20.0, -3.0, 1.0, 20.0])
    found = histogram("now", magnitudes)
    assert found.numbers == 8
    assert {k: n for k, n in found.bins.items() if n} == {-48: 1, -44: 1, -28: 1, -24: 1, -20: 1, -4: 1, 0: 1, 16: 1}
    assert found.zero == (3 / 8, 2 / 8)
    assert found.below == (3 / 8, 2 / 8)
    assert found.subnormal == (2 / 8, 0.0)
    assert found.infinite == (1 / 8, 2 / 8)
    table = bins_table([found, found])
    assert "| 2^-28 … 2^-24 | 12.5% | 12.5% | zero | kept |" in table
    assert "| 0 … 2^-44 | 12.5% | 12.5% | zero | zero |" in table
    assert "| 2^16 … inf | 12.5% | 12.5% | infinite | infinite |" in table
    assert "| now | times 2^16 | 8 | 25.0% | 25.0% | 0.0% | 25.0% |" in shares_table([found])


def test_gradients_are_counted_and_nothing_else() -> None:
    """Those of what has 16 bits; they grow with the loss, and what tanh makes of activations on the way does not."""
    random = np.random.default_rng(0)
    images, labels = random.random((16, 1, 28, 28), np.float32), random.integers(0, 10, 16).astype(np.int32)
    sizes: list[np.ndarray] = []
    for weight in ("1e-4", "2e-4"):
        net = loads(NET.replace("1e-4", weight))
        with convc.compile(net, mode="train", target="reference") as program:
            arrays = {**program.state_dict(), **inputs_of(program, images, labels, 0.0, 1)}
            sizes.append(cotangents(program.graph, arrays))
    assert sizes[0].size > 16 * 3 * 12 * 12
    assert sizes[0].max() < 1e-4
    np.testing.assert_allclose(sizes[1], 2 * sizes[0], rtol=1e-6)


def test_a_run_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tiny.cnn"
    path.write_text(NET)
    files = tmp_path / "p.png", tmp_path / "p.json"
    words = ["--net", str(path), "--data", "mnist train=48 test=20", "--plot", str(files[0]), "--json", str(files[1])]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "| before the training | times 2^16 |" in printed
    assert "| fp16 | dynamic |" in printed
    content = json.loads(files[1].read_text())
    assert [(run["precision"], run["loss_scale"]) for run in content["trainings"]] == [
        ("fp32", "none"), ("fp16", "none"), ("fp16", "dynamic")
    ]  # fmt: skip
    assert [found["when"] for found in content["histograms"]] == ["before the training", "after it"]
    assert content["histograms"][0]["zero"][0] > content["histograms"][0]["zero"][1]
    assert files[0].stat().st_size > 1000
