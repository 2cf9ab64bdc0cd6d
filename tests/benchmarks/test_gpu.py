"""benchmarks.gpu as far as it goes without a GPU: what it says then, how it measures, what it writes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gpu
from benchmarks.gpu import COMPILED, EAGER, OURS, Row, difference, measure, page, ratios
from convc.runtime import cuda_driver
from convc.runtime.benchmark.case import Case
from convc.runtime.cuda_driver import FoundGpu
from tests.cuda.fake_cupy import Machine, install
from tests.cuda_emulator.nvrtc import MISSING, nvrtc

FOUND = FoundGpu("Emulated GPU", 90, "sm_90", 80 << 30, (13, 0))


def test_without_a_gpu_there_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(cuda_driver, "load", lambda: None)
    out = tmp_path / "page.md"
    assert gpu.main(["--out", str(out)]) == 1
    assert capsys.readouterr().err.startswith("error[missing-driver]: there is no NVIDIA driver here")
    assert not out.exists()


def test_without_cuda_in_pytorch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; `make bench` brings it")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    install(monkeypatch)
    assert gpu.main([]) == 1
    assert "finds no GPU" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(nvrtc() is None, reason=MISSING)
@pytest.mark.parametrize("mode", ["train", "infer"])
def test_both_compute_the_same_and_are_timed(monkeypatch: pytest.MonkeyPatch, tiny: Path, mode: str) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed; `make bench` brings it")
    install(monkeypatch, Machine())
    makers = {OURS: gpu.ours, EAGER: partial(gpu.pytorch, compiled=False, device="cpu")}
    rows = measure(Case(tiny, mode, 4, 1), "tiny", makers, rounds=2)
    assert [(row.contestant, row.problem) for row in rows] == [(OURS, ""), (EAGER, "")]
    for row in rows:
        assert (row.device_ms or 0) > 0
        assert (row.whole_ms or 0) > 0
    assert rows[0].difference == 0
    assert rows[1].difference is not None
    assert rows[1].difference < 1e-4


def test_who_computes_something_else_is_not_timed(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    class Wrong:
        def __init__(self, result: float) -> None:
            self.contestant = gpu.Contestant(lambda rounds: 1.0, lambda: result)

        def __enter__(self) -> gpu.Contestant:
            return self.contestant

        def __exit__(self, *error: object) -> None:
            pass

    makers = {OURS: lambda task: Wrong(1.0), EAGER: lambda task: Wrong(1.0005), COMPILED: lambda task: Wrong(1.1)}
    first, second, third = measure(Case(tiny, "train", 4, 1), "tiny", makers, rounds=1)
    assert (first.device_ms, second.device_ms, third.device_ms) == (1000.0, 1000.0, None)
    assert "differs by 0.1" in third.problem


def test_the_page() -> None:
    rows = [
        Row("lenet", 64, "train", "fp32", OURS, 1.0, 1.5, 0.0),
        Row("lenet", 64, "train", "fp32", EAGER, 3.0, 3.5, 1e-6),
        Row("lenet", 64, "train", "fp32", COMPILED, 2.0, 2.5, 1e-6),
        Row("vgg16", 32, "train", "fp32", OURS, 8.0, 9.0, 0.0),
        Row("vgg16", 32, "train", "fp32", EAGER, 4.0, 5.0, 2e-6),
        Row("vgg16", 32, "train", "fp32", COMPILED, problem="CUDA out of memory"),
        Row("lenet", 64, "infer", "fp16", OURS, problem="no"),
    ]
    assert ratios(rows) == {("lenet", "train", "fp32"): 2.0, ("vgg16", "train", "fp32"): 0.5}
    text = page(rows, FOUND, {"convc": "1", "PyTorch": "2"}, "python -m benchmarks.gpu", "2026-01-02")
    assert "Emulated GPU (compute capability 9.0, 80 GiB), driver for CUDA 13.0; convc 1, PyTorch 2." in text
    assert "| lenet (64) | convc | 1.000 | 1.500 | 0.0e+00 | 2.00 |" in text
    assert "| vgg16 (32) | torch.compile | CUDA out of memory |  |  |  |" in text
    assert "over 2 nets: **1.00**" in text
    assert text.count("## ") == 2


def test_differences_are_relative_to_the_largest_number() -> None:
    assert difference(np.array([1.0, 4.0]), np.array([1.0, 5.0])) == pytest.approx(0.2)
    assert difference(np.zeros(2), np.zeros(2)) == 0.0
