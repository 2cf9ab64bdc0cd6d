"""`convc eval`, `predict` and `compile --data` in other precisions than fp32."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convc.cli import main
from convc.runtime import precisions
from convc.runtime.checkpoint import read_checkpoint, write_checkpoint

NET = """\
net tiny {
  input 1x4x4
  conv 3 k=2 s=2 bias=no -> relu
  fc 4
  loss softmax
}

train {
  data npz "data.npz" test=8
  batch 8
  epochs 1
  optim sgd lr=0.1 momentum=0.9
  seed 3
}
"""
KEYS = {
    "precision", "accuracy", "difference", "top5", "loss", "count", "images_per_second", "lowest", "highest",
    "weight_bytes", "arena_bytes", "memory_bytes",
}  # fmt: skip

Json = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("SECONDS", "WARM_UP", "LISTENING"):
        monkeypatch.setattr(precisions, name, 0.001)
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    np.savez("data.npz", images=random.integers(0, 256, (40, 1, 4, 4), np.uint8), labels=np.arange(40) % 4)
    Path("tiny.cnn").write_text(NET)
    weights = {
        name: random.standard_normal(shape).astype(np.float32)
        for name, shape in (("conv1.weight", (3, 1, 2, 2)), ("fc1.weight", (4, 12)), ("fc1.bias", (4,)))
    }
    write_checkpoint(tmp_path / "w.safetensors", weights, {})
    return tmp_path


@pytest.fixture
def content(capfd: pytest.CaptureFixture[str]) -> Json:
    """The object that a command line prints."""

    def read(*words: str) -> dict[str, Any]:
        capfd.readouterr()
        assert main([*words, "--json"]) == 0
        return json.loads(capfd.readouterr().out)

    return read


EVAL = ("eval", "tiny.cnn", "--weights", "w.safetensors", "--threads", "1")


def test_eval_in_one_precision_says_what_it_always_says(content: Json) -> None:
    whole, half = content(*EVAL), content(*EVAL, "--precision", "bf16")
    assert set(whole) == set(half) == {"schema", "accuracy", "top5", "loss", "count"}
    assert whole["loss"] != half["loss"]
    assert half["loss"] == pytest.approx(whole["loss"], rel=0.05)
    assert content(*EVAL, "--set", "train.precision=bf16") == half, "what the file says"
    assert content(*EVAL, "--set", "train.precision=bf16", "--precision", "fp32") == whole
    assert content(*EVAL, "--precision", "bf16", "--fp32", "*") == whole


def test_eval_in_several_precisions(content: Json, capfd: pytest.CaptureFixture[str]) -> None:
    found = content(*EVAL, "--precision", "bf16,fp32,bf16")
    assert set(found) == {"schema", "count", "precisions", "busy_cores", "counts"}
    half, whole = found["precisions"]
    assert (half["precision"], whole["precision"], found["count"]) == ("bf16", "fp32", 8)
    assert set(half) == set(whole) == KEYS
    assert whole["difference"] is None
    assert half["difference"] == pytest.approx(100 * (half["accuracy"] - whole["accuracy"]))
    assert (whole["weight_bytes"], half["weight_bytes"]) == (4 * 64, 2 * 60 + 4 * 4)
    for record in (half, whole):
        single = content(*EVAL, "--precision", record["precision"])
        assert {name: record[name] for name in ("accuracy", "top5", "loss", "count")}.items() <= single.items()
        assert 0 < record["lowest"] <= record["images_per_second"] <= record["highest"]
        assert 0 < record["arena_bytes"] < record["memory_bytes"]
    assert main([*EVAL, "--precision", "fp32,bf16,fp16"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "8 test images of data.npz, weights w.safetensors"
    assert " ".join(lines[1].split()) == "precision accuracy difference top five loss images/s weights arena memory"
    assert [line.split()[0] for line in lines[2:5]] == ["fp32", "bf16", "fp16"]
    assert lines[2].split()[3] == "-"


@pytest.mark.slow
def test_a_run_in_half_precision_is_evaluated_as_it_was_tested(
    content: Json, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "tiny.cnn", "--precision", "bf16", "--fp32", "conv*", "--out", "run", "--threads", "1"]
    assert main([*words, "--json"]) == 0
    events = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    (test,) = [event for event in events if event["event"] == "test"]
    assert "precision bf16" in Path("run/model.cnn").read_text()
    found = content("eval", "run", "--threads", "1")
    assert (found["accuracy"], found["loss"]) == (test["accuracy"], test["loss"])
    assert content("eval", "run", "--threads", "1", "--precision", "fp32")["loss"] != test["loss"]
    assert content("eval", "run", "--threads", "1", "--fp32", "fc1")["loss"] != test["loss"]


def test_predict(content: Json) -> None:
    Image.fromarray(np.arange(0, 160, 10, dtype=np.uint8).reshape(4, 4)).save("a.png")
    words = ("predict", "tiny.cnn", "a.png", "--weights", "w.safetensors", "--target", "reference")
    results = [
        content(*words, *more)["predictions"][0]["classes"][0]["probability"]
        for more in ((), ("--precision", "fp16"), ("--precision", "fp16", "--fp32", "conv1,fc1"))
    ]
    assert results[0] == results[2] != results[1]


COMPILE = ("compile", "tiny.cnn", "-o", "out/net.so", "--header", "out/net.h", "--threads", "1")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_a_library_is_measured_on_test_images(content: Json, capfd: pytest.CaptureFixture[str]) -> None:
    words = (*COMPILE, "--weights", "w.safetensors", "--precision", "bf16")
    silent = content(*words)
    assert "precisions" not in silent
    data = 'npz "data.npz" test=24'
    found = content(*words, "--data", data)
    assert found.keys() - silent.keys() == {"precisions", "busy_cores", "counts"}
    whole, half = found["precisions"]
    assert (whole["precision"], half["precision"], half["count"]) == ("fp32", "bf16", 24)
    assert set(half) == set(whole) == KEYS
    assert (whole["weight_bytes"], half["weight_bytes"]) == (4 * 64, 2 * 60 + 4 * 4)
    assert half["weight_bytes"] == found["weight_bytes"]
    # Nothing is folded here, so the float32 library is the program itself.
    assert whole["loss"] == content(*EVAL, "--data", data)["loss"]
    files = sorted(path.name for path in Path("out").iterdir())
    assert files == ["net.h", "net.so"]
    assert main([*words, "--data", data, "--weights-beside", "out/w.safetensors"]) == 0
    lines = capfd.readouterr().out.splitlines()
    start = lines.index("24 test images of data.npz")
    assert [line.split()[0] for line in lines[start + 1 : start + 4]] == ["precision", "fp32", "bf16"]
    kept = read_checkpoint(Path("out/w.safetensors")).tensors["fc1.weight"]
    assert (kept.view(np.uint32) & 0xFFFF == 0).all(), "numbers of bf16"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compile", "tiny.cnn", "--data", "mnist"], "--data needs --header"),
        ([*COMPILE, "--data", "mnist"], "--data needs --weights"),
        ([*COMPILE, "--weights", "w", "--mode", "train", "--data", "mnist"], "--data measures inference"),
        ([*EVAL, "--precision", "bf16,fp8"], "'fp8' is not one of fp32, fp16, bf16"),
        (["predict", "tiny.cnn", "a.png", "--precision", "fp32,bf16"], "'fp32,bf16' is not one of"),
    ],
)
def test_mistakes(words: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert message in capfd.readouterr().err


def test_wrong_images_are_told_before_a_library_is_made(capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*COMPILE, "--weights", "w.safetensors", "--data", "mnist"]) == 1
    assert "data-shape" in capfd.readouterr().err
    assert not Path("out").exists()
