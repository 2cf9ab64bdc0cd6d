"""`convc bench`, end to end on a tiny net and very short rounds: no times are asserted, only that they are there."""

from __future__ import annotations

import json
import os
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from convc.cli import main
from convc.runtime.benchmark import benchmark, machine, peers, rounds
from convc.runtime.benchmark.peers import PEERS, Peer
from convc.runtime.machine_probe import Ceilings

NET = """net n {
  input 1x6x6
  conv 3 k=3 -> relu
  fc 3
  loss softmax
}
train {
  batch 4
  optim sgd lr=0.1 momentum=0.9
}
"""
# Peers that run convc's own program, and one thing wrong with each.
FAKES = '''
import numpy as np
from dataclasses import replace
from convc.ir.diagnostic import fail
from convc.runtime.benchmark import ours


def right(task):
    return replace(ours.prepare(task), version="1.0")


def shifted(task):
    found = ours.prepare(task)
    return replace(found, numbers=lambda result: found.numbers(result) + 0.5)


def lazy(task):
    """A trainer that never learns."""
    found = ours.prepare(task)
    first = found.step()
    return replace(found, step=lambda: first)


def broken(task):
    raise ValueError("no such layer")


def lacking(task):
    fail("unavailable-peer", "conv1: there is no convolution")


def told(task):
    raise RuntimeError(f"asked for {task.precision}")


def dying(task):
    import os, sys
    print("out of luck", file=sys.stderr, flush=True)
    os._exit(7)
'''
KNOWN = dict(PEERS)
CEILINGS = Ceilings(fma_gflops=100.0, read_gbps=20.0, copy_gbps=10.0)
QUICK = ("--rounds", "2", "--seconds", "0.02", "--warm-up", "0.01", "--threads", "1")
Capture = pytest.CaptureFixture[str]
pytestmark = pytest.mark.slow  # contestants are processes


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A net in the working folder, no peers, no pauses, and ceilings that nobody had to measure."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "fakes.py").write_text(FAKES)
    existing = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "modules"), existing]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rounds, "Pace", partial(rounds.Pace, spinning=0.0, listening=0.01))
    monkeypatch.setattr(benchmark, "measure_ceilings", lambda threads: CEILINGS)
    monkeypatch.setattr(peers, "PEERS", {})
    (path := tmp_path / "n.cnn").write_text(NET)
    return path


def fake(monkeypatch: pytest.MonkeyPatch, **entries: str) -> None:
    """`torch` has these contestants."""
    contestants = {name: f"fakes:{entry}" for name, entry in entries.items()}
    monkeypatch.setitem(peers.PEERS, "torch", Peer((), ("torch",), ("train", "infer"), contestants))


def answer(capsys: Capture, *words: str, code: int = 0) -> dict[str, Any]:
    assert main(["bench", "n.cnn", *QUICK, "--json", *words]) == code
    text = capsys.readouterr().out
    assert text.count("\n") == 1
    return json.loads(text)


def entries(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in result["contestants"]}


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_in_half_precision(mode: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours runs in it, is compared within its rounding, and a peer is told of it."""
    fake(monkeypatch, other="told")
    content = answer(capsys, "--precision", "bf16", "--kernels", "--mode", mode, code=1)
    assert content["precision"] == "bf16"
    (result,) = content["results"]
    assert result["precision"] == "bf16"
    ours, other = entries(result)["convc"], entries(result)["other"]
    assert ours["error"] is None
    assert other["error"] == "RuntimeError: asked for bf16"
    assert any("cast" in kernel["ops"] for kernel in result["kernels"])


def test_files_of_several_precisions(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "half.cnn").write_text(NET.replace("train {", "train {\n  precision bf16"))
    assert main(["bench", "n.cnn", "half.cnn", *QUICK]) == 1
    assert "these nets are of several precisions: n.cnn fp32, half.cnn bf16" in capsys.readouterr().err


def test_the_object(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, other="right")
    content = answer(capsys, "--kernels")
    assert content["schema"] == 1
    assert content["mode"] == "infer"
    assert content["precision"] == "fp32"
    assert content["settings"]["rounds"] == 2
    assert content["machine"]["tier"]
    assert content["machine"]["versions"]["convc"]
    assert not content["interrupted"]
    assert content["ceilings"] == [{"threads": 1, "fma_gflops": 100.0, "read_gbps": 20.0, "copy_gbps": 10.0}]
    for result in content["results"]:
        assert result["batch"] == 4
        assert (result["net"], result["threads"], result["parameters"]) == ("n", 1, 3 * 9 + 3 + 48 * 3 + 3)
        assert result["parameter_bytes"] == 4 * result["parameters"]
        assert result["mflop_per_image"] == pytest.approx(2e-6 * (16 * 27 + 48 * 3))
        ours, other = entries(result)["convc"], entries(result)["other"]
        assert list(entries(result)) == ["convc", "other"]
        for entry in (ours, other):
            assert entry["error"] is None
            assert len(entry["rounds"]) == 2
            assert entry["lowest"] <= entry["images_per_second"] <= entry["highest"]
            assert entry["first_call_seconds"] > 0
            assert entry["peak_rss_bytes"] > 10 << 20
            milliseconds = 1e3 * result["batch"] / entry["images_per_second"]
            assert entry["milliseconds_per_step"] == pytest.approx(milliseconds, rel=0.5)
        assert (other["version"], other["deviation"], other["ratio"]) == ("1.0", 0.0, 1.0)
        assert ours["deviation"] is None
        assert result["best_peer"] == "other"
        assert result["ratio"] == ours["ratio"] == ours["images_per_second"] / other["images_per_second"]
        assert result["ratio_lowest"] <= result["ratio_highest"]
        assert [kernel["layer"] for kernel in result["kernels"]] == ["conv1", "fc1"]
        for kernel in result["kernels"]:
            floor = max(kernel["flops_floor_seconds"], kernel["bytes_floor_seconds"])
            # On a busy machine so small a kernel may take no longer than an empty launch.
            share = floor / kernel["seconds"] if kernel["seconds"] else 0.0
            assert kernel["fraction_of_floor"] == pytest.approx(share)
            assert kernel["bytes_floor_seconds"] == pytest.approx(kernel["bytes"] / 10e9)
            assert kernel["flops_floor_seconds"] == pytest.approx(kernel["flops"] / 100e9)
    assert content["geometric_mean"] == pytest.approx(content["results"][0]["ratio"])


def test_a_peer_that_computes_something_else_is_not_timed(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, wrong="shifted", right="right", broken="broken", lacking="lacking", dying="dying")
    assert main(["bench", "n.cnn", *QUICK]) == 1
    text = capsys.readouterr().out
    assert "wrong: wrong net: its logits differ from ours by" in text
    assert re.search(r"^wrong( +-){5} ", text, re.MULTILINE)
    assert re.search(r"^right +[\d.,]+ ", text, re.MULTILINE)
    assert "broken: ValueError: no such layer" in text
    assert "lacking: conv1: there is no convolution" in text
    assert "dying: ended with exit code 7: out of luck" in text
    assert "x the best peer, right" in text


def test_training_compares_what_steps_do(capsys: Capture, monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    """With random draws, too: the check is of the net without them."""
    file.write_text(NET.replace("relu", "relu -> dropout 0.5"))
    fake(monkeypatch, right="right", lazy="lazy")
    content = answer(capsys, "--mode", "train", code=1)
    found = entries(content["results"][0])
    assert found["right"]["error"] is None
    assert found["right"]["deviation"] == 0
    assert len(found["right"]["rounds"]) == 2
    assert "wrong step: in a step its loss falls by 0.00e+00" in found["lazy"]["error"]
    assert found["lazy"]["rounds"] == []


def test_onnxruntime_takes_our_export(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    monkeypatch.setitem(peers.PEERS, "onnxruntime", KNOWN["onnxruntime"])
    content = answer(capsys, "--against", "onnxruntime", "--batch", "3")
    found = entries(content["results"][0])
    assert found["onnxruntime"]["error"] is None
    assert found["onnxruntime"]["deviation"] < 1e-5
    assert content["results"][0]["best_peer"] == "onnxruntime"


def test_whole_numbers_beside_a_quantised_model(capsys: Capture, monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    """ONNX Runtime's tool quantises our export, and both come to nearly the same."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    monkeypatch.setitem(peers.PEERS, "onnxruntime", KNOWN["onnxruntime"])
    file.write_text(NET.replace("1x6x6", "3x6x6"))
    content = answer(capsys, "--precision", "int8", "--against", "onnxruntime")
    assert content["precision"] == "int8"
    found = entries(content["results"][0])
    assert found["convc"]["error"] is None
    assert found["onnxruntime"]["error"] is None
    assert 0 < found["onnxruntime"]["deviation"] < 0.1


def test_alone(capsys: Capture) -> None:
    assert main(["bench", "n.cnn", *QUICK, "--against", "none", "--batch", "1,3"]) == 0
    text = capsys.readouterr().out
    assert "n: inference, batch 1, 1 thread; 177 parameters (708 B)" in text
    assert "n: inference, batch 3, 1 thread; 177 parameters (708 B)" in text
    assert "best peer" not in text


def test_command_lines_that_make_no_sense(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Peer(("no_such_module",), ("openvino", "onnx"), ("infer",), {"openvino": "fakes:right"})
    single = Peer((), ("onnxruntime",), ("infer",), {"onnxruntime": "fakes:right"}, precisions=("fp32",))
    monkeypatch.setitem(peers.PEERS, "onnxruntime", single)
    monkeypatch.setitem(peers.PEERS, "openvino", absent)
    assert main(["bench", "n.cnn", "--against", "openvino"]) == 1
    errors = capsys.readouterr().err
    assert "no_such_module cannot be imported" in errors
    assert "pip install openvino onnx" in errors
    assert main(["bench", "n.cnn", "--against", "openvino", "--mode", "train"]) == 1
    assert "compared at inference only" in capsys.readouterr().err
    assert main(["bench", "n.cnn", "--precision", "bf16", "--against", "onnxruntime"]) == 1
    assert "onnxruntime computes in fp32 only" in capsys.readouterr().err
    for words in (["--batch", "1,0"], ["--threads", "1,,2"], ["--against", "tourch"], ["--against", "none,torch"]):
        assert main(["bench", "n.cnn", *words]) == 2
    assert "against nobody" in capsys.readouterr().err
    assert main(["bench", "n.cnn", "--against", "none", "--compile"]) == 2


def test_ctrl_c_shows_what_was_measured(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = 0

    def busy_cores(seconds: float) -> float:
        nonlocal turns
        turns += 1
        if turns == 3:
            raise KeyboardInterrupt
        return 0.0

    monkeypatch.setattr(machine, "busy_cores", busy_cores)
    content = answer(capsys, "--against", "none", "--rounds", "1000", "--batch", "4,8", code=130)
    assert content["interrupted"]
    (result,) = content["results"]
    assert result["batch"] == 4
    assert len(entries(result)["convc"]["rounds"]) == 2
    assert content["counts"]
    assert content["busy_cores"] == 0
