"""`convc rewrite` as a user runs it: text, weights, accuracy, reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convc
from convc.cli import main
from convc.commands import VERBS
from convc.frontend import load
from convc.passes.rewriting.table import RULES
from convc.runtime.checkpoint import read_checkpoint

NET = """\
net small(classes = 4) {
  input 1x8x8
  conv 4 k=5 pad=2 -> relu  # the large one
  conv 4 k=3 -> relu -> pool max 2
  fc classes
  loss softmax
}

train {
  data npz "data.npz" test=16
  batch 8
  optim sgd lr=0.05
  seed 3
}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a net, its weights, and images: the class is the quarter that is bright."""
    random = np.random.default_rng(0)
    labels = np.arange(64) % 4
    images = random.integers(0, 60, (64, 1, 8, 8), np.uint8)
    for image, label in zip(images, labels, strict=True):
        row, column = 4 * (label // 2), 4 * (label % 2)
        image[0, row : row + 4, column : column + 4] += 180
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    (tmp_path / "small.cnn").write_text(NET)
    monkeypatch.chdir(tmp_path)
    with convc.compile(load("small.cnn"), target="reference") as program:
        program.save("w.safetensors")
    return tmp_path


def rewrite(*words: str) -> int:
    return main(["rewrite", "small.cnn", *words])


def run_json(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert rewrite(*words, "--json") == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return json.loads(out)


@pytest.mark.usefixtures("folder")
def test_text_and_weights(capsys: pytest.CaptureFixture[str]) -> None:
    words = "-r factorize:conv1:rank=99 -o new.cnn --weights w.safetensors --out-weights v.safetensors --eval"
    found = run_json(capsys, *words.split())
    assert (
        Path("new.cnn").read_text()
        == found["text"]
        == NET.replace("conv 4 k=5 pad=2", "conv 5 k=1x5 pad=0x2 bias=no -> conv 4 k=5x1 pad=2x0")
    )
    assert found["written"] == ["new.cnn", "v.safetensors"]
    assert found["renamed"] == {"conv2.weight": "conv3.weight", "conv2.bias": "conv3.bias"}
    (layer,) = found["layers"]
    assert (layer["name"], layer["line"], layer["becomes"]) == ("conv1", 3, ["conv1", "conv2"])
    assert (layer["before"]["params"], layer["after"]["params"]) == (104, 25 + 104)
    assert layer["fit"]["ranks"] == [5]
    assert layer["fit"]["kept_energy"] == pytest.approx(1.0)
    assert layer["fit"]["output_error"]["whole"] < 1e-5
    assert found["evaluation"]["data"] == "16 test images of data.npz"
    assert found["evaluation"]["before"] == pytest.approx(found["evaluation"]["after"], rel=1e-4)
    old, new = read_checkpoint("w.safetensors").weights, read_checkpoint("v.safetensors")
    np.testing.assert_array_equal(new.weights["conv3.weight"], old["conv2.weight"])
    assert json.loads(new.metadata["renamed"]) == found["renamed"]
    assert main(["eval", "new.cnn", "--weights", "v.safetensors", "--target", "reference"]) == 0


@pytest.mark.usefixtures("folder")
def test_report(capsys: pytest.CaptureFixture[str]) -> None:
    words = "-r factorize:conv1:rank=2 -r low-rank -o new.cnn --weights w.safetensors --eval --batch 4"
    assert rewrite(*words.split()) == 0
    out = capsys.readouterr().out
    for text in (
        "small: times for batch 4",
        "factorize",
        "low-rank",
        "rank 2 of 5: as asked",
        "edited net small, line 1: its own statements",
        "accuracy on 16 test images of data.npz: ",
        "wrote new.cnn\n",
    ):
        assert text in out


@pytest.mark.usefixtures("folder")
def test_text_on_the_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert rewrite("-r", "low-rank:fc1:rank=2") == 0
    out, err = capsys.readouterr()
    assert out == NET.replace("fc classes", "fc 2 bias=no -> fc classes")
    assert "no weights were given" in err


@pytest.mark.usefixtures("folder")
def test_values_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    text = run_json(capsys, *["-r", "low-rank:fc1:rank=2", "--set", "classes=3", "--set", "train.batch=5"])["text"]
    assert "net small(classes = 3)" in text
    assert "batch 8" in text


@pytest.mark.usefixtures("folder")
def test_what_is_left_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    found = run_json(capsys, "-r", "factorize:conv*,fc*:speedup=1.2")
    assert [(missed["name"], missed["why"]) for missed in found["missed"]] == [("fc1", "it is not a convolution")]


@pytest.mark.usefixtures("folder")
def test_input_is_replaced_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    words = "-r low-rank:fc1:rank=2 -o small.cnn --weights w.safetensors --out-weights w.safetensors"
    assert rewrite(*words.split()) == 2
    assert Path("small.cnn").read_text() == NET
    assert rewrite(*words.split(), "--overwrite") == 0
    assert "fc 2 bias=no" in Path("small.cnn").read_text()
    assert "fc2.bias" in read_checkpoint("w.safetensors").weights
    capsys.readouterr()


@pytest.mark.usefixtures("folder")
def test_an_interrupt_leaves_everything_as_it_was(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    before = sorted(Path().iterdir())
    monkeypatch.setattr("convc.runtime.rewriting.procedure.evaluate", interrupted)
    words = "-r low-rank:fc1:rank=2 -o new.cnn --weights w.safetensors --out-weights v.safetensors --eval"
    assert rewrite(*words.split()) == 130
    assert sorted(Path().iterdir()) == before
    capsys.readouterr()


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_more_training(capsys: pytest.CaptureFixture[str]) -> None:
    words = "-r low-rank:fc1:rank=2 -o new.cnn --weights w.safetensors --out-weights v.safetensors --eval --finetune 2"
    found = run_json(capsys, *words.split(), "--run", "runs/fine")
    assert found["run"] == "runs/fine"
    assert found["evaluation"]["finetuned"]["count"] == 16
    trained = read_checkpoint("runs/fine/best.safetensors").weights
    new = read_checkpoint("v.safetensors").weights
    for name, array in trained.items():
        np.testing.assert_array_equal(new[name], array)


@pytest.mark.usefixtures("folder")
def test_analysis(capsys: pytest.CaptureFixture[str]) -> None:
    found = run_json(capsys, "--analyze", "--batch", "2")
    (layer,) = found["convolutions"]
    assert (layer["name"], layer["line"], found["batch"]) == ("conv1", 3, 2)
    assert layer["current"]["params"] == 104
    assert layer["reason"]
    assert rewrite("--analyze", "-r", "factorize:conv2") == 0
    assert "conv2" in capsys.readouterr().out


def test_help_lists_the_rules() -> None:
    text = VERBS["rewrite"].text
    assert [name for name in RULES if f"\n  {name} " not in text] == []
